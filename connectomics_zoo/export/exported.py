"""`Exported`: what a writer of a format gets, a network with everything that is known about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from torch import nn
from torch.export import ExportedProgram

from connectomics_zoo.errors import ZooError, reason
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.schema.model import ModelSpec, SizeRule
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.weights.pretrained import Pretrained

Activation = Literal["none", "task"]
"""What the exported network returns: logits, or the values of the task's channels."""


class NotExportableError(ZooError):
    """A format cannot have a network at the sizes that were asked for; with others it may."""


@dataclass(frozen=True)
class Exported:
    """A network on its way into a format."""

    reference: str
    """What the user wrote for it."""
    network: nn.Module
    """In evaluation mode on the CPU, one float32 tensor (B, C, …) in and one out, activated where that was asked for.
    Run and trace it within `fastpath.plain_only()`."""
    spec: ModelSpec
    """Its spec, with the channels that it has."""
    sizes: SizeRule
    """The spatial sizes that the format's network must take: `minimum` alone on an axis whose step leads over MAX_EDGE
    (`is_fixed`)."""
    any_batch: bool
    """Whether it must take batches of any size, else of one."""
    activation: Activation
    """What it returns."""
    provenance: Mapping[str, str]
    """What the format's metadata must say: which network and weights, whose, for what, and how it was checked."""
    usual_size: tuple[int, ...]
    """The size to have alone where the format cannot have several."""
    trained: Pretrained | None = None
    """The weights, with their file, digest and entry; None where they are initial ones."""
    run: RunSpec | None = None
    """How the weights were trained, where they say so."""
    task: TaskSpec | None = None
    """The task that the weights solve, where it is known."""
    suffix: str = ""
    """The ending of the output's name, where a format is written in several ways; the path to write at has another."""
    programs: dict[tuple[SizeRule, bool], ExportedProgram | Exception] = field(default_factory=dict)
    """Programs of torch.export that were traced already, or why not, by sizes and whether any batch is taken."""

    @property
    def output_name(self) -> str:
        """What the output is called where a format has names; the input is always `image`."""
        return "logits" if self.activation == "none" else "values"

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape (B, C, …) to trace the network at: no edge is a special case where there is a choice."""
        sizes = (
            low if is_fixed(low, step) else low + step
            for low, step in zip(self.sizes.minimum, self.sizes.step, strict=True)
        )
        return (2 if self.any_batch else 1, self.spec.input.channels, *sizes)


def is_fixed(minimum: int, step: int) -> bool:
    """Whether an axis of a size rule has one size."""
    return minimum + step > MAX_EDGE


def fixed_sizes(size: tuple[int, ...]) -> SizeRule:
    """Return the rule that allows `size` (voxels per axis) alone."""
    return SizeRule(minimum=size, step=(MAX_EDGE,) * len(size))


def is_dynamic(sizes: SizeRule) -> bool:
    """Whether a rule allows several sizes."""
    return not all(is_fixed(low, step) for low, step in zip(sizes.minimum, sizes.step, strict=True))


@contextmanager
def not_exportable(exported: Exported, name: str) -> Iterator[None]:
    """Say in one sentence that the format `name` cannot have the network, whatever the block raises.

    Raises:
        NotExportableError: the block raises anything that is not told to the user already.
    """
    try:
        yield
    except ZooError:
        raise
    except Exception as error:  # exporters raise many types
        raise NotExportableError(
            f"{exported.reference} cannot be exported as {name} ({reason(error)[:300]}), choose another format."
        ) from error
