"""A task's targets, made from labels."""

from connectomics_zoo.tasks.targets.make import Targets, check_voxel_size, is_continuous, make_targets

__all__ = ["Targets", "check_voxel_size", "is_continuous", "make_targets"]
