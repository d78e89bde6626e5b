"""A bundle of MONAI: metadata, a configuration of inference, the weights, documentation and licence.

Where the network is one of MONAI's own, the configuration names its class and `models/model.pt` is its state dict; any
other one is TorchScript in `models/model.ts`. Neither needs code of ours.
Source: MONAI 1.6.1, monai/bundle/scripts.py, and the MONAI Bundle Specification (docs/source/mb_specification.rst).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from connectomics_zoo.errors import OutputError, SpecError
from connectomics_zoo.export.exported import Exported, not_exportable
from connectomics_zoo.export.networks import torchscript
from connectomics_zoo.export.packages.facts import facts_of
from connectomics_zoo.export.packages.monai_config import inference, metadata
from connectomics_zoo.export.packages.readme import licence_text, readme
from connectomics_zoo.schema.builder import monai_definition
from connectomics_zoo.schema.model import ModelSpec

METADATA_FILE = "configs/metadata.json"
INFERENCE_FILE = "configs/inference.json"
STATE_FILE = "models/model.pt"
TORCHSCRIPT_FILE = "models/model.ts"
README_FILE = "docs/README.md"
LICENSE_FILE = "LICENSE"


def write(exported: Exported, output: Path) -> None:
    """Write the bundle; see `NetworkWriter`.

    Raises:
        WeightsError: the network is not trained.
        OutputError: the name is that of a file.
        SpecError: its outputs are smaller than its inputs.
    """
    if exported.suffix:
        raise OutputError(
            f"a MONAI bundle is a folder, and a name in {exported.suffix} is that of a file: leave it out."
        )
    if exported.spec.input.context is not None:
        raise SpecError(
            f"{exported.reference}: returns less than it takes (context {list(exported.spec.input.context)}), which "
            "MONAI's sliding window does not know, export it as bioimageio or onnx."
        )
    facts = facts_of(exported, format="monai-bundle")
    definition = _definition(exported)
    for folder in ("configs", "models", "docs"):
        (output / folder).mkdir(parents=True)
    with not_exportable(exported, "monai-bundle"):
        torch.save(_plain_state(exported.network), output / STATE_FILE)
        if definition is None:
            torchscript.write(exported, output / TORCHSCRIPT_FILE)
    for name, document in (
        (METADATA_FILE, metadata(exported, facts)),
        (INFERENCE_FILE, inference(exported, facts, definition, torchscript_file=TORCHSCRIPT_FILE)),
    ):
        (output / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    axes = ", ".join(exported.spec.input.axes)
    (output / README_FILE).write_text(readme(exported, facts) + _USE.replace("AXES", axes), encoding="utf-8")
    (output / LICENSE_FILE).write_text(licence_text(facts), encoding="utf-8")


def reader(output: Path) -> Callable[[Tensor], Tensor]:
    """Return the network as MONAI makes it of the bundle; see `NetworkWriter`."""
    from monai.bundle.config_parser import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(output / INFERENCE_FILE))
    parser["bundle_root"] = str(output)
    parser["device"] = "$torch.device('cpu')"
    network: nn.Module = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(output / STATE_FILE, weights_only=True))
    return cast("Callable[[Tensor], Tensor]", network.eval())


def _definition(exported: Exported) -> dict[str, Any] | None:
    """Return MONAI's own class of the network with its arguments, None where it has no such or something is behind it.

    It must have the tensors of the network, whatever the builder says.
    """
    spec: ModelSpec = exported.spec
    if exported.activation != "none":
        return None
    found = monai_definition(
        spec.builder, spec.arch, in_channels=spec.input.channels, out_channels=spec.outputs[0].channels
    )
    if found is None:
        return None
    from monai.networks import nets

    name, arguments = found
    plain: dict[str, Any] = json.loads(json.dumps(arguments))
    keys = getattr(nets, name)(**plain).state_dict().keys()
    return {"_target_": name, **plain} if keys == exported.network.state_dict().keys() else None


def _plain_state(network: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in network.state_dict().items()}


_USE = """
## Use

```python
from monai.bundle import ConfigParser
import torch

parser = ConfigParser()
parser.read_config("configs/inference.json")  # in the folder of the bundle
network = parser.get_parsed_content("network_def")
network.load_state_dict(torch.load("models/model.pt", weights_only=True))
```

`python -m monai.bundle run --config_file configs/inference.json` predicts every array (AXES) in `data/*.npy`; it
needs `pytorch-ignite`, `nibabel` and `fire`. Where windows share voxels, their logits are averaged, before activations.
"""
