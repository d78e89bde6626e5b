"""The methods that make objects of channels: connected components, watershed, mutex watershed, agglomeration."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.decode.channels import Channels, joined_voxels, mean_attraction
from connectomics_zoo.errors import MissingPackageError, SpecError
from connectomics_zoo.schema.task import DecodeSpec
from connectomics_zoo.tasks.affinities import overlap_slices

WATERSHED_RANGE = (0.1, 0.999)
"""Of agglomeration's fragments: affinities below the first join nothing, and those above the second join at once."""

NEAREST = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def segment(channels: Channels, *, decode: DecodeSpec) -> NDArray[Any]:
    """Return the objects that `decode` makes of the channels, labels 1..N of (Z, Y, X), 0 for background.

    Labels are uint32 (uint64 from 2**32 objects on), in the order of each object's first voxel for `components`.

    Raises:
        SpecError: the channels are not those that the method needs.
        MissingPackageError: its library is not installed.
    """
    assert decode.min_size is not None
    return keep_large(_METHODS[decode.method](channels, decode), minimum=decode.min_size)


def keep_large(labels: NDArray[Any], *, minimum: int) -> NDArray[Any]:
    """Return labels with the objects of at least `minimum` voxels alone, numbered 1..N without a gap."""
    flat = labels.ravel().astype(np.int64, copy=False)
    sizes = np.bincount(flat)
    keep = sizes >= max(1, minimum)
    keep[0] = False
    count = int(keep.sum())
    numbers = np.zeros(len(sizes), dtype=np.uint32 if count < 2**32 else np.uint64)
    numbers[keep] = np.arange(1, count + 1)
    return numbers[flat].reshape(labels.shape)


def _components(channels: Channels, decode: DecodeSpec) -> NDArray[Any]:
    """Join voxels by attractive affinities above the threshold, as BANIS does, or else touching foreground voxels."""
    assert decode.threshold is not None
    labels = unite(channels, threshold=decode.threshold)
    if channels.affinities is not None:
        labels[~joined_voxels(channels, threshold=decode.threshold)] = 0
    return labels


def unite(channels: Channels, *, threshold: float) -> NDArray[Any]:
    """Return a label for each set of voxels that `_components` joins; of affinities, for voxels that none joins too."""
    from bioimage_cpp.segmentation import label
    from bioimage_cpp.utils import UnionFind

    if channels.affinities is None:
        assert channels.foreground is not None
        return np.asarray(label(channels.foreground > threshold, connectivity=1))
    shape = channels.affinities.shape[1:]
    numbers = np.arange(np.prod(shape), dtype=np.uint64).reshape(shape)
    sets = UnionFind(numbers.size)
    for values, offset in channels.attractions:
        source, destination = overlap_slices(shape, offset)
        # A section at a time, since a pair of numbers takes many times the memory of its affinity.
        for affinity, first, second in zip(values[source], numbers[source], numbers[destination], strict=True):
            above = affinity > threshold
            sets.merge(np.stack([first[above], second[above]], axis=1))
    roots: NDArray[Any] = sets.element_labeling().reshape(shape)
    roots += np.uint64(1)
    return roots


@dataclass(frozen=True)
class Flooding:
    """What a watershed reads, each (Z, Y, X)."""

    foreground: NDArray[np.bool_]
    """Where objects are."""
    seeds: NDArray[np.bool_]
    """Where they can begin; touching voxels are one seed."""
    height: NDArray[np.float32]
    """The lowest voxels are flooded first."""


def flooding(channels: Channels, decode: DecodeSpec) -> Flooding:
    """Return what the watershed reads: the distance to the edge as height, else the boundary, else the foreground."""
    assert decode.threshold is not None
    assert decode.seed_threshold is not None
    assert decode.boundary_threshold is not None
    foreground = mean_attraction(channels) if channels.foreground is None else channels.foreground
    seeds = foreground > decode.seed_threshold
    if channels.boundary is not None:
        seeds &= channels.boundary < decode.boundary_threshold
    if channels.distance is not None:
        height = -channels.distance
    else:
        height = -foreground if channels.boundary is None else channels.boundary
    return Flooding(foreground > decode.threshold, seeds, height)


def _watershed(channels: Channels, decode: DecodeSpec) -> NDArray[Any]:
    """Grow seeds in the foreground."""
    from bioimage_cpp.segmentation import label, watershed

    assert decode.min_seed is not None
    read = flooding(channels, decode)
    markers = keep_large(label(read.seeds, connectivity=1), minimum=decode.min_seed)
    return np.asarray(watershed(read.height, markers, mask=read.foreground))


def mutex(channels: Channels, decode: DecodeSpec, *, start: tuple[int, int, int] = (0, 0, 0)) -> NDArray[Any]:
    """Cluster by the mutex watershed: edges in the order of |affinity - threshold|, of which the sign decides.

    The library joins by every attractive edge that nothing forbids. One below the threshold must forbid instead, so it
    is given as a repulsive edge too, and edges that shall do nothing come last, where all is decided. The channels
    begin at the voxel `start` (z, y, x) of what is decoded, from where strides count.
    """
    from bioimage_cpp.segmentation import mutex_watershed

    assert decode.threshold is not None
    assert decode.stride is not None
    assert channels.affinities is not None
    attractive = [index for index, joins in enumerate(channels.attractive) if joins]
    repulsive = [index for index, joins in enumerate(channels.attractive) if not joins]
    order = [*attractive, *attractive, *repulsive]
    weights = channels.affinities[order] - np.float32(decode.threshold)
    weights[len(attractive) :] *= -1
    weights[weights <= 0] = -1
    looked_at = np.zeros(weights.shape[1:], dtype=bool)
    looked_at[tuple(slice(-first % step, None, step) for first, step in zip(start, decode.stride, strict=True))] = True
    weights[2 * len(attractive) :, ~looked_at] = -1
    return np.asarray(
        mutex_watershed(
            weights,
            [channels.offsets[index] for index in order],
            len(attractive),
            mask=joined_voxels(channels, threshold=decode.threshold),
        )
    )


def _agglomeration(channels: Channels, decode: DecodeSpec) -> NDArray[Any]:
    """Merge watershed fragments while their mean affinity exceeds the threshold."""
    assert decode.threshold is not None
    return agglomerated(channels, 1 - decode.threshold)


def agglomerated(channels: Channels, until: float) -> NDArray[Any]:
    """Return watershed fragments, merged by waterz while 1 - their mean affinity is below `until`; of 0, as they are.

    Raises:
        SpecError: the nearest neighbours have no affinities.
        MissingPackageError: waterz is not installed.
    """
    try:
        import waterz
    except ImportError:
        raise MissingPackageError(
            "agglomeration needs another package, run `pip install waterz` (Python 3.11 or newer), or decode with "
            "--method mutex or components."
        ) from None
    assert channels.affinities is not None
    # It reads the affinity with the voxel before, along z, y and x, at each voxel.
    affinities = np.zeros((3, *channels.affinities.shape[1:]), dtype=np.float32)
    for values, offset in channels.attractions:
        if offset in NEAREST:
            source, destination = overlap_slices(values.shape, offset)
            affinities[NEAREST.index(offset)][destination] = values[source]
    if not set(NEAREST) <= {offset for _, offset in channels.attractions}:
        raise SpecError(
            "agglomeration reads the attractive affinities of nearest neighbours along z, y and x, and the task has "
            f"those along {', '.join(str(offset) for _, offset in channels.attractions)}: decode with --method mutex."
        )
    low, high = WATERSHED_RANGE
    with _silenced():
        results = waterz.agglomerate(affinities, [until], aff_threshold_low=low, aff_threshold_high=high)
        return np.array(next(results))


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep what a library prints, in C++ and in Python, away from stdout, where data goes."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (a device, by its descriptor)
            os.dup2(nowhere.fileno(), 1)
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


_METHODS: dict[str, Callable[[Channels, DecodeSpec], NDArray[Any]]] = {
    "components": _components,
    "watershed": _watershed,
    "mutex": mutex,
    "agglomeration": _agglomeration,
}
