"""Several trained networks of one task as one network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.tasks.activations import mean_logits
from connectomics_zoo.tasks.meaning import channels_difference
from connectomics_zoo.weights.pretrained import Frozen, Pretrained, find_run


class Ensemble(nn.Module):
    """The logits of which `activate` makes the mean of what it makes of those of each member.

    Args:
        members: networks of one output, for the same images.
        task: what they predict.
    """

    def __init__(self, members: Sequence[nn.Module], *, task: TaskSpec) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.task = task

    @property
    def spec(self) -> ModelSpec:
        """The spec of the first member."""
        spec = self.members[0].spec
        assert isinstance(spec, ModelSpec)
        return spec

    def forward(self, windows: Tensor) -> Tensor:
        """Return logits (B, K, Z, Y, X) of windows (B, C, Z, Y, X)."""
        return mean_logits([member(windows) for member in self.members], task=self.task)


def find_alike(references: Sequence[str | Path], *, frozen: Frozen = False) -> list[tuple[RunSpec, Pretrained]]:
    """Return the trained weights of all members of an ensemble, with how they were trained.

    Raises:
        SpecError: there is none, or they do not predict the same of the same images.
        ZooError: see `find_run`.
    """
    if not references:
        raise SpecError("the list of references is empty, give one or more: run folders, or names of weights.")
    found = [find_run(reference, frozen=frozen) for reference in references]
    first, trained = found[0]
    for other, its in found[1:]:
        difference = channels_difference(first.task, other.task)
        if difference is not None:
            raise SpecError(
                f"{trained.name} and {its.name} do not predict the same ({difference}): give networks of one task."
            )
        if (first.model.input.channels, first.model.input.axes) != (other.model.input.channels, other.model.input.axes):
            raise SpecError(f"{trained.name} and {its.name} take other images: give networks of the same images.")
    return found
