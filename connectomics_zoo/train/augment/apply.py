"""Applies every transform in turn: first what moves image and labels, then what changes the image alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.schema.augmentation import AugmentationSpec
from connectomics_zoo.train.augment.chance import Sample
from connectomics_zoo.train.augment.deform import deform
from connectomics_zoo.train.augment.intensity import vary_intensity, vary_sections
from connectomics_zoo.train.augment.sections import blur, cut_out, lose, misalign, section_view, slip
from connectomics_zoo.train.augment.symmetry import flip_and_turn


def augment(
    image: NDArray[np.float32],
    labels: NDArray[Any],
    annotated: NDArray[np.bool_],
    *,
    spec: AugmentationSpec,
    voxel_size_nm: tuple[float, ...] | None,
    generator: np.random.Generator,
) -> Sample:
    """Return an augmented copy of a patch, of the same shapes, contiguous.

    It is labels that are augmented, and targets are made of them afterwards: a flipped affinity is another affinity.

    Args:
        image: (C, Z, Y, X), intensities scaled to 0..1.
        labels: (Z, Y, X), or of several label volumes (V, Z, Y, X).
        annotated: of the same shape, False where the labels say nothing; it moves with them.
        spec: what is done.
        voxel_size_nm: edge lengths (z, y, x) of a voxel, None where unknown; it decides what is isotropic.
        generator: source of randomness; the same state gives the same patch.
    """
    sample = Sample(image, labels, annotated)
    sample = flip_and_turn(sample, spec=spec, voxel_size_nm=voxel_size_nm, generator=generator)
    sample = deform(sample, spec=spec, voxel_size_nm=voxel_size_nm, generator=generator)
    has_defects = max(spec.misalignment, spec.shift, spec.missing, spec.blur, spec.section_intensity) > 0
    sections = section_view(sample, voxel_size_nm=voxel_size_nm, generator=generator) if has_defects else sample
    misalign(sections, spec=spec, generator=generator)
    slip(sections.image, spec=spec, generator=generator)
    blur(sections.image, spec=spec, generator=generator)
    vary_intensity(sample.image, spec=spec, generator=generator)
    vary_sections(sections.image, spec=spec, generator=generator)
    # Last, since what is lost has no noise.
    lose(sections.image, spec=spec, generator=generator)
    cut_out(sample.image, spec=spec, generator=generator)
    return sample
