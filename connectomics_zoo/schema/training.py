"""`TrainingSpec`: the recipe of a training run, with the only defaults that there are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from connectomics_zoo.schema.augmentation import AugmentationChanges
from connectomics_zoo.schema.base import Node, Size

TrainingPrecision = Literal["32-true", "16-mixed", "bf16-mixed"]
"""Arithmetic of training, in Lightning's words."""


class DistillationSpec(Node):
    """How much the first weights say where no truth is known."""

    weight: Annotated[float, Field(gt=0, le=1000)]
    """Factor of the divergence from what the first weights say of the same patch, beside the loss."""


class TrainingSpec(Node):
    """How a network is trained."""

    optimizer: Literal["adamw"] = "adamw"
    """Optimiser."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1.0e-3
    """Peak learning rate."""
    loaded_learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """Peak learning rate of the tensors that come from `init_from`; `learning_rate` is then that of new ones, such as
    heads that begin anew. Without it, all have the same."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Decoupled weight decay."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate over the run: constant, or a cosine down to zero."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Optimiser steps over which the rate rises linearly from zero."""
    gradient_clip: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    precision: TrainingPrecision = "bf16-mixed"
    """Arithmetic; where the device lacks it, training says so and uses the nearest safe one."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Weight of the past in the running average of the weights that is validated and kept; 0 keeps none."""
    accumulate: Annotated[int, Field(ge=1, le=4096)] = 1
    """Batches whose gradients are summed for one optimiser step."""
    early_stopping: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Validations in a row without a better score after which training ends; 0 never does."""
    keep: Literal["best", "last"] = "best"
    """Weights that are kept: those of the best validation, which has chosen them then, or the last ones. Without
    validation, the last ones."""
    freeze: Literal["none", "encoder", "all-but-heads"] = "none"
    """Weights that are not trained, and norms whose statistics stay: those before the first upsampling, or all but what
    gives the output channels."""
    distillation: DistillationSpec | None = None
    """Keeps what the network says near to what the weights of `init_from` say of voxels that are not annotated."""
    patch_size: Size
    """Training patch in network voxels, (z, y, x)."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 2
    """Patches per optimiser step."""
    max_steps: Annotated[int, Field(ge=1, le=100_000_000)] = 20_000
    """Optimiser steps of the run."""
    validate_every: Annotated[int, Field(ge=1, le=100_000_000)] = 500
    """Optimiser steps between validations (and checkpoints)."""
    foreground_probability: Annotated[float, Field(ge=0, le=1)] = 0.66
    """Fraction of the patches that are centred on a foreground voxel."""
    foreground_minimum: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of a patch that must be foreground; others are drawn again, up to 50 times."""
    balance: Literal["none", "classes"] = "none"
    """Of a task with several classes, on what such a patch is centred: `none`: a voxel of any; `classes`: one of a
    class that is drawn first, each as often as the others, however rare it is."""
    augmentation: AugmentationChanges = AugmentationChanges(preset="full")
    """A preset, or a mapping of a `preset` and what is changed of it. `flips`: flips and those 90-degree rotations that
    keep the voxel size; `full`: these, gain, offset and noise; `isotropic` and `anisotropic`: these, deformation, and
    the defects of block-face and of section series."""
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that read and augment patches; 0 does it in the training process."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of initialisation, sampling and augmentation."""
