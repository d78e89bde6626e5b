"""A catalogue in a folder with one tiny network that is as it should be, and others that each break one promise."""

from __future__ import annotations

from pathlib import Path

BUILDER = '''
"""Builder of a network with a fault of choice."""
from __future__ import annotations

from typing import Literal

from connectomics_zoo.schema.builder import BuilderConfig, Interface, OutputGeometry


class Config(BuilderConfig):
    fault: Literal[
        "none", "unused", "order", "hidden", "dropout", "batch", "large", "dict", "counter", "keeps"
    ] = "none"
    wide: bool = False


def interface(config):
    outputs = (OutputGeometry("output", (1, 1, 1), 1.0), OutputGeometry("ds_1", (2, 2, 2), 0.5))
    return Interface("zyx", (2, 2, 2), (2, 2, 2), outputs)


def build(config, *, in_channels, out_channels, deep_supervision):
    from ..nets import Net

    return Net(config.fault, in_channels, out_channels, 3 if config.wide else 2, deep_supervision)
'''

NETS = '''
"""A network with a fault of choice."""
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, fault, in_channels, out_channels, width, deep_supervision):
        super().__init__()
        self.fault = fault
        self.stem = nn.Conv3d(in_channels, width, 1)
        self.norm = nn.BatchNorm3d(width)  # whose averages a pass in training moves
        self.head = nn.Conv3d(width, out_channels, 1)
        self.coarse = nn.Conv3d(width, out_channels, 1) if deep_supervision or fault == "keeps" else None
        if fault == "unused":
            self.unused = nn.Parameter(torch.zeros(2))
        if fault == "hidden":
            self.register_buffer("scale", torch.rand(1), persistent=False)
        if fault == "counter":
            self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        y = self.norm(self.stem(x))
        if self.fault == "dropout":
            y = F.dropout(y, training=True)
        if self.fault == "batch":
            y = y - y.mean(0, keepdim=True)
        if self.fault == "hidden":
            y = y * self.scale
        if self.fault == "counter":
            self.calls += 1
        if self.fault == "large" and x.shape[2] > 4:
            y = y[:, :, 1:]
        output = self.head(y)
        if self.fault == "dict" and not self.training:
            return {"output": output}
        if self.coarse is None or not self.training:
            return output
        scales = {"output": output, "ds_1": self.coarse(F.avg_pool3d(y, 2))}
        return dict(reversed(scales.items())) if self.fault == "order" else scales
'''

FAULTS = ("none", "unused", "order", "hidden", "dropout", "batch", "large", "dict", "counter", "keeps")

SPEC = """\
schema_version: 1
name: {name}
version: 1.0.0
family: tiny
summary: A network whose fault is {fault}.
builder: faulty
arch: {{fault: {fault}}}
input: {{channels: 1, axes: zyx, size: {{minimum: [2, 2, 2], step: [2, 2, 2]}}}}
outputs:
  - {{name: output, channels: 1, stride: [1, 1, 1], loss_weight: 1.0}}
  - {{name: ds_1, channels: 1, stride: [2, 2, 2], loss_weight: 0.5}}
expect: null
training: {{patch_size: [4, 4, 4]}}
source:
  paper: P
  url: https://example.org
  code: nets.py
  license: MIT
  bibtex: "@misc{{none, title = {{None}}}}"
changes: {{1.0.0: First release.}}
"""


def write_faulty_zoo(folder: Path) -> Path:
    """Write the catalogue to `folder`, and return that of its models."""
    models = folder / "specs" / "models" / "tiny"
    models.mkdir(parents=True)
    (folder / "builders").mkdir()
    (folder / "builders" / "faulty.py").write_text(BUILDER)
    (folder / "nets.py").write_text(NETS)
    for fault in FAULTS:
        (models / f"net-{fault}.yaml").write_text(SPEC.format(name=f"net-{fault}", fault=fault))
    return models
