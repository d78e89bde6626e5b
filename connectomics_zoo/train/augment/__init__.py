"""Augmentation: a patch and its labels, varied as an `AugmentationSpec` says."""

from connectomics_zoo.train.augment.apply import augment
from connectomics_zoo.train.augment.chance import Sample
from connectomics_zoo.train.augment.symmetry import rotation_planes

__all__ = ["Sample", "augment", "rotation_planes"]
