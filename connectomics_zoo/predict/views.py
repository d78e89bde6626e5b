"""Test-time augmentation: a window is predicted in several views, brought back and merged.

A view shows the window flipped, or turned within its section; what the network says of it is turned back. Two kinds
of channels do not come back to where they belong by that alone:

- An affinity joins two voxels, and the view shows them in another direction. Turned back, it belongs to the channel
  whose offset has that direction; where only the opposite offset exists, the edge is read from its other end, which
  the task's convention stores at the other voxel. A view of the latter kind does not cover the edges that leave the
  window.
- The components of a shape descriptor change places with their axes. A view that would change a component's sign is
  left out for that channel: 0 is the background there and not the opposite of 1.

Every other channel (foreground, boundary, distance, …) is the same from all sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.experiment import Merge, Views
from connectomics_zoo.schema.task import ChannelSpec, TaskSpec
from connectomics_zoo.tasks.affinities import affinity_channels, convention_of, overlap_slices

DESCRIPTOR_AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "offset_z": ("offset_z", (0,)),
    "offset_y": ("offset_x", (1,)),
    "offset_x": ("offset_y", (2,)),
    "variance_z": ("variance_z", ()),
    "variance_y": ("variance_x", ()),
    "variance_x": ("variance_y", ()),
    "pearson_zy": ("pearson_zx", (0, 1)),
    "pearson_zx": ("pearson_zy", (0, 2)),
    "pearson_yx": ("pearson_yx", (1, 2)),
    "size": ("size", ()),
}
"""For each component of a shape descriptor: which one it is after y and x are exchanged, and the axes (z, y, x) of
which each flip changes its sign."""


class ViewPart(NamedTuple):
    """Where a view has the values of a channel."""

    channel: int
    """The view's channel that holds them."""
    is_reversed: bool
    """Whether they are of the same edges read from their other ends, and so lie at the other voxels."""


@dataclass(frozen=True)
class View:
    """One way to look at a window: y and x exchanged or not, and then axes flipped."""

    exchanged: bool
    """Whether y and x are exchanged; with the flips, that makes all turns by 90 degrees within a section."""
    flipped: tuple[int, ...]
    """The axes (0 for z, 1 for y, 2 for x) that are flipped after that."""
    parts: tuple[ViewPart | None, ...]
    """One for each channel of the task, None where the view says nothing of it."""

    def show(self, windows: Tensor) -> Tensor:
        """Return what the view shows of windows (B, C, Z, Y, X), in memory of its own."""
        seen = windows.transpose(-2, -1) if self.exchanged else windows
        return seen.flip([axis - 3 for axis in self.flipped]).contiguous()

    def bring_back(self, values: Tensor) -> Tensor:
        """Return values (…, Z, Y, X) of the view at the voxels that it took them from."""
        back = values.flip([axis - 3 for axis in self.flipped])
        return back.transpose(-2, -1) if self.exchanged else back


def plan_views(views: Views, *, task: TaskSpec, axes: str) -> tuple[View, ...]:
    """Return the views, the window as it is first.

    Args:
        views: which ones.
        task: what is predicted.
        axes: of the network, `zyx` or `yx`; one of two dimensions has no flip along z.

    Raises:
        SpecError: a view shows a channel in a direction that the task has no channel for.
    """
    flips = [
        tuple(axis for axis, chosen in enumerate(choice) if chosen)
        for choice in product(*([False] if views == "one" or name not in axes else [False, True] for name in "zyx"))
    ]
    exchanges = (False, True) if views == "flips_and_turns" else (False,)
    return tuple(
        View(exchanged, flipped, tuple(_parts(task, exchanged=exchanged, flipped=flipped, views=views)))
        for exchanged in exchanges
        for flipped in flips
    )


def merge_views(
    forward: Callable[[Tensor], Tensor], *, views: tuple[View, ...], merge: Merge, task: TaskSpec
) -> Callable[[Tensor], Tensor]:
    """Return `forward` over all views, which run one after the other; with one view, `forward` itself.

    Args:
        forward: from windows (B, C, Z, Y, X) to activated values (B, K, Z, Y, X).
        views: from `plan_views`.
        merge: the mean or the minimum, for each value over the views that cover it; of boundaries and background the
            maximum is what the minimum is of the rest.
        task: what is predicted, K channels.
    """
    return forward if len(views) == 1 else _merger(forward, views=views, merge=merge, task=task, has_variance=False)


def merge_with_variance(
    forward: Callable[[Tensor], Tensor], *, views: tuple[View, ...], merge: Merge, task: TaskSpec
) -> Callable[[Tensor], Tensor]:
    """Return what `merge_views` does, to (B, 2K, Z, Y, X): the merged values, and after them the variance of each over
    the views that cover it, which is 0 with one view."""
    return _merger(forward, views=views, merge=merge, task=task, has_variance=True)


def _merger(
    forward: Callable[[Tensor], Tensor], *, views: tuple[View, ...], merge: Merge, task: TaskSpec, has_variance: bool
) -> Callable[[Tensor], Tensor]:
    coverage = [_coverage(views, index) for index in range(len(task.channels))]
    # What keeps things apart is certain where any view sees it.
    merges = [
        "max" if merge == "min" and channel.target.kind in ("boundary", "background") else merge
        for channel in task.channels
    ]

    def merged(windows: Tensor) -> Tensor:
        first = forward(windows)
        result = first.clone()
        ends = _ends(task, shape=tuple(result.shape[2:]))
        deviations = _Deviations(first) if has_variance else None
        for view in views[1:]:
            values = forward(view.show(windows))
            _merge_view(result, values, view=view, merge=merges, ends=ends)
            if deviations is not None:
                deviations.add(values, view=view, ends=ends)
        if merge == "mean":
            for index, (whole, reverse) in enumerate(coverage):
                result[:, index] /= whole
                if reverse:
                    result[:, index][ends[index].holder] *= whole / (whole + reverse)
        return result if deviations is None else torch.cat([result, deviations.variance(coverage, ends)], dim=1)

    return merged


class _Ends(NamedTuple):
    """The edges of an affinity that lie inside a window, as slices (B, Z, Y, X)."""

    holder: tuple[slice, ...]
    """Of the voxels that hold them."""
    other: tuple[slice, ...]
    """Of the voxels at their other ends, in the same order."""


def _ends(task: TaskSpec, *, shape: tuple[int, ...]) -> dict[int, _Ends]:
    """Return the edges of each affinity channel in a window of `shape`."""
    if task.affinities is None:
        return {}
    convention, ends = convention_of(task), {}
    for index, offset in zip(affinity_channels(task), convention.offsets, strict=True):
        holder, other = overlap_slices(shape, offset)
        if convention.edge_stored_at == "destination":
            holder, other = other, holder
        ends[index] = _Ends((slice(None), *holder), (slice(None), *other))
    return ends


def _merge_view(result: Tensor, values: Tensor, *, view: View, merge: list[str], ends: dict[int, _Ends]) -> None:
    """Add what a view says to `result` (B, K, Z, Y, X), or keep the smaller or larger of the two, by channel."""
    for index, where, back in _brought_back(values, view=view, ends=ends):
        into = result[:, index][where]
        if merge[index] == "mean":
            into.add_(back)
        elif merge[index] == "min":
            torch.minimum(into, back, out=into)
        else:
            torch.maximum(into, back, out=into)


def _brought_back(
    values: Tensor, *, view: View, ends: dict[int, _Ends]
) -> Iterator[tuple[int, tuple[slice, ...], Tensor]]:
    """Yield each channel that a view says something of, where in (B, Z, Y, X), and what it says there."""
    for index, part in enumerate(view.parts):
        if part is None:
            continue
        back = view.bring_back(values[:, part.channel])
        if part.is_reversed:
            yield index, ends[index].holder, back[ends[index].other]
        else:
            yield index, (), back


class _Deviations:
    """Sums over views of how far they are from the first one, whose values (B, K, Z, Y, X) it begins with.

    What is summed is small where views agree, so that float32 does not lose the variance in it.
    """

    def __init__(self, first: Tensor) -> None:
        self._first = first
        self._sums = torch.zeros_like(first)
        self._squares = torch.zeros_like(first)

    def add(self, values: Tensor, *, view: View, ends: dict[int, _Ends]) -> None:
        for index, where, back in _brought_back(values, view=view, ends=ends):
            deviation = back - self._first[:, index][where]
            self._sums[:, index][where] += deviation
            self._squares[:, index][where] += deviation**2

    def variance(self, coverage: list[tuple[int, int]], ends: dict[int, _Ends]) -> Tensor:
        """Return the variance (B, K, Z, Y, X); for the arguments see `_coverage` and `_ends`."""
        counts = torch.empty_like(self._first)
        for index, (whole, reverse) in enumerate(coverage):
            counts[:, index] = whole
            if reverse:
                counts[:, index][ends[index].holder] = whole + reverse
        return (self._squares / counts - (self._sums / counts) ** 2).clamp_(min=0)


def _coverage(views: tuple[View, ...], index: int) -> tuple[int, int]:
    """Return how many views cover a channel everywhere, and how many its edges inside the window alone."""
    parts = [view.parts[index] for view in views]
    reverse = sum(part is not None and part.is_reversed for part in parts)
    return sum(part is not None for part in parts) - reverse, reverse


def _parts(task: TaskSpec, *, exchanged: bool, flipped: tuple[int, ...], views: Views) -> Iterator[ViewPart | None]:
    """Yield where a view has each channel of the task."""
    for index, channel in enumerate(task.channels):
        if channel.target.kind == "affinity":
            yield _affinity_part(task, index, exchanged=exchanged, flipped=flipped, views=views)
        elif channel.target.kind == "lsd":
            yield _descriptor_part(task, channel, exchanged=exchanged, flipped=flipped, views=views)
        else:
            yield ViewPart(index, is_reversed=False)


def _affinity_part(task: TaskSpec, index: int, *, exchanged: bool, flipped: tuple[int, ...], views: Views) -> ViewPart:
    offsets = dict(zip(affinity_channels(task), convention_of(task).offsets, strict=True))
    own = task.channels[index]
    z, y, x = offsets[index]
    if exchanged:
        y, x = x, y
    seen = tuple(-step if axis in flipped else step for axis, step in enumerate((z, y, x)))
    opposite = tuple(-step for step in seen)
    for wanted, is_reversed in ((seen, False), (opposite, True)):
        for other, offset in offsets.items():
            if offset == wanted and _is_like(task.channels[other], own):
                return ViewPart(other, is_reversed)
    raise SpecError(
        f"views {views} show the channel {own.name!r} with the offset {list(seen)} (z, y, x), and {task.name} has none "
        f"like it there: give views {_fewer(views)}."
    )


def _descriptor_part(
    task: TaskSpec, own: ChannelSpec, *, exchanged: bool, flipped: tuple[int, ...], views: Views
) -> ViewPart | None:
    assert own.target.component is not None
    seen = DESCRIPTOR_AXES[own.target.component][0] if exchanged else own.target.component
    if len(set(DESCRIPTOR_AXES[seen][1]) & set(flipped)) % 2:
        return None
    for index, channel in enumerate(task.channels):
        same_width = channel.target.sigma_nm == own.target.sigma_nm
        if channel.target.component == seen and same_width and channel.activation == own.activation:
            return ViewPart(index, is_reversed=False)
    raise SpecError(
        f"views {views} show the channel {own.name!r} as the component {seen}, and {task.name} has none like "
        f"it there: give views {_fewer(views)}."
    )


def _is_like(one: ChannelSpec, other: ChannelSpec) -> bool:
    """Whether two affinities mean the same but for their direction."""
    return one.activation == other.activation and one.target.attractive == other.target.attractive


def _fewer(views: Views) -> str:
    """The views that a task may still have where it does not have these."""
    return "flips or one" if views == "flips_and_turns" else "one"
