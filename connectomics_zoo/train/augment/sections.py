"""Defects of sections: misaligned, slipped, lost and blurred ones; and boxes that are cut out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from connectomics_zoo.schema.augmentation import AugmentationSpec
from connectomics_zoo.train.augment.chance import Sample, chosen_sections, happens
from connectomics_zoo.train.augment.symmetry import is_isotropic

MOST_CUTOUTS = 3
"""Boxes that are cut out of one patch at most."""

SHARP = 0.5
"""Standard deviation, in pixels, of the weakest blur."""

Array = NDArray[np.float32]


def section_view(sample: Sample, *, voxel_size_nm: tuple[float, ...] | None, generator: np.random.Generator) -> Sample:
    """Return views of `sample` whose first axis counts sections: along z, or where voxels are isotropic, any axis."""
    if not is_isotropic(voxel_size_nm):
        return sample
    axis = int(generator.integers(3))
    return Sample(
        np.moveaxis(sample.image, axis + 1, 1),
        np.moveaxis(sample.labels, axis - 3, -3),
        np.moveaxis(sample.annotated, axis - 3, -3),
    )


def misalign(sample: Sample, *, spec: AugmentationSpec, generator: np.random.Generator) -> None:
    """Displace all sections from a random one on, image and labels alike, in place.

    This is the translation of DeepEM's `Misalign`; its slip of a single section is `slip`.
    """
    count = sample.labels.shape[-3]
    if count < 2 or not happens(spec.misalignment, generator):
        return
    first = int(generator.integers(1, count))
    step = _random_step(spec.misalignment_pixels, generator)
    for array in sample:
        array[..., first:, :, :] = _displaced(array[..., first:, :, :], step)


def slip(image: Array, *, spec: AugmentationSpec, generator: np.random.Generator) -> None:
    """Displace single sections of `image` (C, S, …) alone, in place.

    The labels stay, as with DeepEM's `SlipMisalign(interp=True)` and the shifted sections of BANIS.
    """
    for section in chosen_sections(spec.shift, image.shape[1], generator):
        image[:, section] = _displaced(image[:, section], _random_step(spec.shift_pixels, generator))


def lose(image: Array, *, spec: AugmentationSpec, generator: np.random.Generator) -> None:
    """Make sections of `image` (C, S, …), or a corner of them, black or of some grey value, in place."""
    for section in chosen_sections(spec.missing, image.shape[1], generator):
        part = image[:, section]
        value = generator.uniform(0, 1) if generator.random() < 0.5 else 0.0
        if generator.random() < 0.5:
            for axis in (1, 2):
                cut = int(generator.integers(1, part.shape[axis] + 1))
                limits = slice(None, cut) if generator.random() < 0.5 else slice(-cut, None)
                part = part[:, limits] if axis == 1 else part[:, :, limits]
        part[...] = value


def blur(image: Array, *, spec: AugmentationSpec, generator: np.random.Generator) -> None:
    """Blur single sections of `image` (C, S, …) in place."""
    for section in chosen_sections(spec.blur, image.shape[1], generator):
        sigma = generator.uniform(min(SHARP, spec.blur_sigma), spec.blur_sigma)
        for channel in image:
            channel[section] = gaussian_filter(channel[section], sigma, truncate=3.0)


def cut_out(image: Array, *, spec: AugmentationSpec, generator: np.random.Generator) -> None:
    """Fill boxes of `image` (C, Z, Y, X) with one grey value each, in place."""
    if not happens(spec.cutout, generator):
        return
    for _ in range(int(generator.integers(1, MOST_CUTOUTS + 1))):
        box = []
        for length in image.shape[1:]:
            edge = int(generator.integers(1, max(int(spec.cutout_edge * length), 1) + 1))
            first = int(generator.integers(0, length - edge + 1))
            box.append(slice(first, first + edge))
        image[:, box[0], box[1], box[2]] = generator.uniform(0, 1)


def _random_step(most: int, generator: np.random.Generator) -> tuple[int, int]:
    rows, columns = generator.integers(-most, most + 1, size=2).tolist()
    return rows, columns


def _displaced(array: NDArray[Any], step: tuple[int, int]) -> NDArray[Any]:
    """Return `array` moved by `step` along its last two axes, with reflections where nothing comes from."""
    for axis, by in zip((-2, -1), step, strict=True):
        last = array.shape[axis] - 1
        source = last - np.abs(last - np.abs(np.arange(last + 1) - by))
        array = array.take(np.clip(source, 0, last), axis=axis)
    return array
