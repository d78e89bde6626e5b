"""The network of a run as the function that a sliding window needs: from windows to activated values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from connectomics_zoo.errors import CheckFailedError, LimitError
from connectomics_zoo.network.acceleration import prepare_inference
from connectomics_zoo.network.device import Engine, Precision
from connectomics_zoo.network.hardware import is_out_of_memory
from connectomics_zoo.predict.openvino_engine import convert_network
from connectomics_zoo.predict.views import View, merge_views, merge_with_variance
from connectomics_zoo.schema.experiment import Merge, RunSpec
from connectomics_zoo.tasks.activations import activate
from connectomics_zoo.weights.load import load_file
from connectomics_zoo.weights.pretrained import Pretrained


def make_forward(
    trained: Pretrained,
    run: RunSpec,
    *,
    window: tuple[int, ...],
    views: tuple[View, ...],
    merge: Merge,
    engine: Engine,
    device: torch.device,
    precision: Precision,
    beside: Literal["nothing", "variance"] = "nothing",
) -> Callable[[Tensor], Tensor]:
    """Return the function from windows (B, C, Z, Y, X) to their activated values (B, K, Z, Y, X) on the CPU.

    Views are merged on the device, so that only the result comes to the CPU; with their `variance` beside it, it is
    (B, 2K, Z, Y, X). A 2-D network gets the windows' only section.

    Raises:
        MissingPackageError: the engine is not installed.
        ZooError: the engine cannot run the network.
    """
    network = load_file(run.model, trained.path, same_shapes=True, name=trained.source, device=device)
    is_flat = run.model.input.axes == "yx"
    if engine == "openvino":
        shape = (1, run.model.input.channels, *window)
        compute = convert_network(network, shape=shape, precision=precision, name=run.model.name)
    else:
        network = prepare_inference(network, device=device)
        compute = _torch_compute(network, device=device, precision=precision, name=run.model.name)

    def activated(windows: Tensor) -> Tensor:
        values = activate(compute(windows.squeeze(2) if is_flat else windows), task=run.task)
        return values.unsqueeze(2) if is_flat else values

    merging = merge_views if beside == "nothing" else merge_with_variance
    merged = merging(activated, views=views, merge=merge, task=run.task)

    def forward(windows: Tensor) -> Tensor:
        with torch.inference_mode():
            values = merged(windows).cpu()
        # One pass without a copy, and a NaN anywhere makes both NaN.
        if not all(bound.isfinite() for bound in values.aminmax()):
            raise CheckFailedError(
                f"{trained.name}: the network returned values that are NaN or infinite, its training has diverged: "
                "train it again with a lower learning rate."
            )
        return values

    return forward


def _torch_compute(
    network: nn.Module, *, device: torch.device, precision: Precision, name: str
) -> Callable[[Tensor], Tensor]:
    """Return the function from windows on the CPU to logits on the device."""
    low = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision)

    def compute(windows: Tensor) -> Tensor:
        try:
            with torch.autocast(device.type, dtype=low, enabled=low is not None):
                logits: Tensor = network(windows.to(device))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            way_out = "" if device.type == "cpu" else ", or predict on the CPU"
            raise LimitError(
                f"{device} has not enough memory for {tuple(windows.shape)} with {name}, give a smaller batch_size"
                f"{way_out}."
            ) from None
        return logits

    return compute
