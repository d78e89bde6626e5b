"""The original MedNeXt (package `nnunet_mednext`) under the zoo's contract for outputs."""

from __future__ import annotations

from nnunet_mednext.network_architecture.mednextv1.MedNextV1 import MedNeXt
from torch import Tensor


class OriginalMedNeXt(MedNeXt):  # type: ignore[misc]
    """The original network; only what it returns differs: one tensor in evaluation, one dict in training."""

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """(B, C, Z, Y, X) -> logits at full resolution, or a dict of all scales in training."""
        result: Tensor | list[Tensor] = super().forward(x)
        outputs = [result] if isinstance(result, Tensor) else result
        if not self.do_ds or not self.training:
            return outputs[0]
        names = ["output", *(f"ds_{level}" for level in range(1, len(outputs)))]
        return dict(zip(names, outputs, strict=True))
