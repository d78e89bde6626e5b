"""MONAI's networks with deep supervision, under the zoo's contract for outputs: only what they return differs."""

from __future__ import annotations

from typing import Any

from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet_ds import SegResNetDS
from torch import Tensor, nn


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


class SupervisedBasicUNetPlusPlus(BasicUNetPlusPlus):
    """BasicUNetPlusPlus that returns a dict in training, the output of the deepest nested U-Net first, and one tensor
    in evaluation."""

    def keep_the_last_head(self) -> None:
        """Remove the heads of the nested U-Nets but the deepest, which MONAI builds and computes in any case."""
        for index in range(1, 4):
            self.add_module(f"final_conv_0_{index}", nn.Identity())

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """(B, C, Z, Y, X) -> logits at full resolution, or a dict of the four outputs, all at full resolution."""
        outputs: list[Tensor] = super().forward(x)
        return _named(outputs[::-1]) if self.training and self.deep_supervision else outputs[-1]


def _named(outputs: list[Tensor]) -> dict[str, Tensor]:
    """Return `outputs`, full resolution first, by the names of the contract."""
    names = ["output", *(f"ds_{index}" for index in range(1, len(outputs)))]
    return dict(zip(names, outputs, strict=True))
