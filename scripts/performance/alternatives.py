"""What generic means give to other families in evaluation: channels last, folded batch norm, torch.compile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from connectomics_zoo.bench.timing import alternate, relative_error
from connectomics_zoo.network.build import build
from performance.common import Settings, seconds, shape, table, this_machine, threads, times
from zoo import get_spec

MODELS = ("monai_unet", "monai_vnet", "monai_unetr", "rsunet")


def fold_batch_norms(network: nn.Module) -> int:
    """Fold each batch norm that follows a convolution in its module into it; return how many there were."""
    folded = 0
    for parent in network.modules():
        before: tuple[str, nn.Module] | None = None
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.BatchNorm3d) and before is not None and isinstance(before[1], nn.Conv3d):
                conv = before[1]
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight,
                    conv.bias,
                    module.running_mean,
                    module.running_var,
                    module.eps,
                    module.weight,
                    module.bias,
                )
                setattr(parent, name, nn.Identity())
                folded += 1
            before = (name, module)
    return folded


def measure(settings: Settings) -> dict[str, Any]:
    """Let the variants of each network take turns."""
    with threads(settings.threads):
        return {"machine": this_machine(), "rows": [_measure(name, settings) for name in MODELS]}


def _measure(name: str, settings: Settings) -> dict[str, Any]:
    spec = get_spec(name)
    size = spec.input.size.round_up((32, 32, 32))
    x = torch.randn(1, spec.input.channels, *size)

    def make() -> nn.Module:
        torch.manual_seed(0)
        return build(spec, deep_supervision=False).eval()

    variants: dict[str, tuple[nn.Module, torch.Tensor]] = {"plain": (make(), x)}
    variants["channels last"] = (
        make().to(memory_format=torch.channels_last_3d),
        x.to(memory_format=torch.channels_last_3d),
    )
    folded = make()
    if fold_batch_norms(folded):
        variants["batch norm folded"] = (folded, x)
    variants["torch.compile"] = (torch.compile(make()), x)
    runs: dict[str, Callable[[], Any]] = {
        key: (lambda network=network, data=data: network(data)) for key, (network, data) in variants.items()
    }
    with torch.inference_mode():
        begin = time.perf_counter()
        outputs = {"torch.compile": runs["torch.compile"]()}
        compiling = time.perf_counter() - begin
        outputs |= {key: run() for key, run in runs.items() if key not in outputs}
        timings = alternate(runs, rounds=settings.rounds)
    return {
        "model": name,
        "input_shape": list(x.shape),
        "compiling_seconds": compiling,
        "seconds": {key: timing.median for key, timing in timings.items()},
        "errors": {key: relative_error([outputs[key]], [outputs["plain"]]) for key in runs},
    }


def render(data: dict[str, Any]) -> str:
    """Write a row for each network; a dash where it has no batch norm behind a convolution."""
    rows = []
    for row in data["rows"]:
        base = row["seconds"]["plain"]
        cells = [row["model"], shape(row["input_shape"][2:]), seconds(base)]
        for key in ("channels last", "batch norm folded", "torch.compile"):
            found = row["seconds"].get(key)
            cells += [times(base / found), f"{row['errors'][key]:.0e}"] if found else ["-", "-"]
        rows.append([*cells, seconds(row["compiling_seconds"])])
    headers = ["model", "input", "plain >", "channels last >", "error >", "batch norm folded >", "error >"]
    return table([*headers, "torch.compile >", "error >", "first call, with its cache >"], rows)
