"""What a recipe says of the weights that a run starts from, held against the rest of the run."""

from __future__ import annotations

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.experiment import DataSpec
from connectomics_zoo.schema.training import TrainingSpec


def check_fine_tuning(training: TrainingSpec, data: DataSpec, *, init_from: str | None, source: str) -> None:
    """Refuse what has no effect: without first weights, or where every voxel is annotated.

    Args:
        training: the recipe.
        data: the volumes.
        init_from: the weights that the run starts from.
        source: names the run in errors.

    Raises:
        SpecError: something has no effect.
    """
    if init_from is None:
        for name, value in (
            ("loaded_learning_rate", training.loaded_learning_rate),
            ("distillation", training.distillation),
        ):
            if value is not None:
                raise SpecError(
                    f"{source}: training.{name} is about the weights that a run starts from, and this one starts from "
                    "none: give init_from, or leave it out."
                )
    if training.distillation is not None and not _may_be_unknown(data):
        raise SpecError(
            f"{source}: training.distillation is about voxels that are not annotated, and all of data.train are: give "
            "data.unlabelled, regions or a mask, or leave it out."
        )


def _may_be_unknown(data: DataSpec) -> bool:
    """Whether a volume to train on can have voxels that are not annotated."""
    parts = [part for pair in data.train for part in (pair.mask, pair.regions, pair.annotated)]
    return data.unlabelled is not None or any(part is not None for part in parts)
