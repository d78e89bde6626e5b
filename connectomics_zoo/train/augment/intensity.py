"""Gamma, gain, offset and noise of a patch, and of its sections."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from connectomics_zoo.schema.augmentation import AugmentationSpec
from connectomics_zoo.train.augment.chance import happens

QUANTILES = 2**16
"""Values that the noise takes: as many as a uint16 can choose from, several times faster than exact ones."""

Array = NDArray[np.float32]


def vary_intensity(image: Array, *, spec: AugmentationSpec, generator: np.random.Generator) -> None:
    """Change gamma, gain, offset and noise of `image` (C, Z, Y, X) in place."""
    if not happens(spec.intensity, generator):
        return
    if spec.gamma > 0:
        exponent = (1 + spec.gamma) ** generator.uniform(-1, 1)
        np.power(np.clip(image, 0, 1, out=image), np.float32(exponent), out=image)
    mean = float(image.mean())
    gain = generator.uniform(1 - spec.gain, 1 + spec.gain)
    offset = generator.uniform(-spec.offset, spec.offset)
    sigma = generator.uniform(0, spec.noise)
    values = sigma * _normal_quantiles() + np.float32(mean - gain * mean + offset)
    image *= np.float32(gain)
    for section in image.reshape(-1, *image.shape[2:]):
        section += values.take(generator.integers(QUANTILES, size=section.shape, dtype=np.uint16))


def vary_sections(image: Array, *, spec: AugmentationSpec, generator: np.random.Generator) -> None:
    """Change gain and offset of each section of `image` (C, S, …) in place, by half of what a patch's may."""
    if not happens(spec.section_intensity, generator):
        return
    shape = (1, image.shape[1], 1, 1)
    gain = generator.uniform(1 - spec.gain / 2, 1 + spec.gain / 2, shape).astype(np.float32)
    offset = generator.uniform(-spec.offset / 2, spec.offset / 2, shape).astype(np.float32)
    mean = image.mean(axis=(2, 3), keepdims=True)
    image *= gain
    image += mean - gain * mean + offset


@cache
def _normal_quantiles() -> Array:
    """The quantiles of the standard normal distribution at the middles of `QUANTILES` equal parts."""
    shares = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    quantiles: Array = torch.special.ndtri(shares).float().numpy()
    return quantiles
