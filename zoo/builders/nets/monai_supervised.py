"""MONAI's networks with deep supervision, under the zoo's contract for outputs: only what they return differs."""

from __future__ import annotations

from typing import Any

from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet_ds import SegResNetDS
from torch import Tensor


class SupervisedSegResNetDS(SegResNetDS):
    """SegResNetDS that returns a dict, not a list, of its outputs in training."""

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:  # type: ignore[override]
        """(B, C, Z, Y, X) -> logits at full resolution, or a dict of all scales in training."""
        result: Any = super().forward(x)
        return result if isinstance(result, Tensor) else _named(result)


class SupervisedDynUNet(DynUNet):
    """DynUNet that returns its outputs at their own scales in training, not one stack at full resolution."""

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """(B, C, Z, Y, X) -> logits at full resolution, or a dict of all scales in training."""
        output: Tensor = self.output_block(self.skip_layers(x))
        supervised = list(self.heads)
        # The heads leave their outputs in this list: empty it, or it keeps the graph and a copy of the network fails.
        self.heads[:] = [output.new_empty(0)] * len(supervised)
        if not (self.training and self.deep_supervision):
            return output
        return _named([output, *supervised])


def _named(outputs: list[Tensor]) -> dict[str, Tensor]:
    """Return `outputs`, full resolution first, by the names of the contract."""
    names = ["output", *(f"ds_{index}" for index in range(1, len(outputs)))]
    return dict(zip(names, outputs, strict=True))
