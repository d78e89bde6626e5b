"""The input that a package is tested with, what the network makes of it, and a picture of both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from connectomics_zoo.errors import ZooError
from connectomics_zoo.export.exported import Exported, is_fixed
from connectomics_zoo.export.packages.facts import Facts
from connectomics_zoo.fastpath import plain_only
from connectomics_zoo.phantom import make_phantom
from connectomics_zoo.tasks.activations import activate
from connectomics_zoo.volumes.intensity import scale_intensity

_SEED = 0

_MOST_VOXELS = 2**20
"""Of the input; a larger window gives way to the smallest legal size, since a package is tested many times."""

_PICTURE = 256
"""Pixels along an edge of each half of the picture."""


class Samples(NamedTuple):
    """An input and what belongs to it."""

    raw: NDArray[np.uint8] | NDArray[np.float32]
    """Grey values (1, C, Z, Y, X) as they are before scaling."""
    scaled: NDArray[np.float32]
    """The same in 0..1, which the network gets."""
    logits: NDArray[np.float32]
    """What the network returns."""
    values: NDArray[np.float32]
    """The same after the activations of the task, where one is known."""


def make_samples(exported: Exported, facts: Facts) -> Samples:
    """Return a phantom of tissue with voxels as in training, and what the network makes of it."""
    spec = exported.spec
    image = _image(sample_size(exported), facts.voxel_size_nm)
    raw = np.ascontiguousarray(np.broadcast_to(image, (1, spec.input.channels, *image.shape)))
    if facts.intensity_range is not None:
        low, high = facts.intensity_range
        raw = (low + raw.astype(np.float64) / 255 * (high - low)).astype(np.float32)
    scaled = scale_intensity(raw, dtype=raw.dtype, intensity_range=facts.intensity_range)
    with plain_only(), torch.no_grad():
        logits = exported.network(torch.from_numpy(scaled))
        known = exported.task is not None and exported.activation == "none"
        values = activate(logits, task=exported.task) if known and exported.task is not None else logits
    return Samples(raw, scaled, logits.numpy(), values.numpy())


def sample_size(exported: Exported) -> tuple[int, ...]:
    """Return the spatial size of the input: the window of predictions, if it is legal here and not large."""
    sizes = exported.sizes
    window = exported.spec.training.patch_size if exported.run is None else exported.run.window
    fits = len(window) == len(sizes.minimum) and math.prod(window) <= _MOST_VOXELS
    return tuple(window) if fits and sizes.allows(tuple(window)) else _smallest(exported)


def _smallest(exported: Exported) -> tuple[int, ...]:
    pairs = zip(exported.sizes.minimum, exported.sizes.step, strict=True)
    return tuple(low if is_fixed(low, step) or low > 1 else low + step for low, step in pairs)


def _image(size: tuple[int, ...], voxel_nm: tuple[float, ...] | None) -> NDArray[np.uint8]:
    """Return a phantom of that size, or noise where there is none of such voxels."""
    shape = (1,) * (3 - len(size)) + size
    edges = tuple(voxel_nm or (8.0, 8.0, 8.0))
    z, y, x = (edges[0],) * (3 - len(edges)) + edges
    try:
        grown = tuple(max(edge, 16) for edge in shape)
        image = make_phantom(shape=grown, seed=_SEED, voxel_size_nm=(z, y, x)).image  # type: ignore[arg-type]
    except ZooError:
        image = np.random.default_rng(_SEED).integers(0, 256, shape, dtype=np.uint8)
    cut = image[tuple(slice(0, edge) for edge in shape)]
    return np.ascontiguousarray(cut.reshape(size))


def write_picture(path: Path, samples: Samples) -> None:
    """Write a PNG of two squares, a section of the input and what the first channel says of it."""
    from PIL import Image

    halves = []
    for array in (samples.scaled[0, 0], samples.values[0, 0]):
        section = array if array.ndim == 2 else array[array.shape[0] // 2]
        low, high = float(section.min()), float(section.max())
        grey = (255 * (section - low) / max(high - low, 1e-6)).astype(np.uint8)
        halves.append(np.asarray(Image.fromarray(grey).resize((_PICTURE, _PICTURE), Image.Resampling.NEAREST)))
    Image.fromarray(np.concatenate(halves, axis=1)).save(path)
