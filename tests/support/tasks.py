"""Tasks that several tests are about."""

from __future__ import annotations

import numpy as np

from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.tasks.targets import make_targets


def make_task(*channels, method="threshold"):
    return TaskSpec.model_validate(
        {
            "schema_version": 1,
            "name": "made",
            "summary": "Made here.",
            "channels": [
                {
                    "name": f"c{index}",
                    "activation": activation,
                    "target": {"kind": target},
                    "losses": [{"kind": kind, "weight": weight} for kind, weight in losses.items()],
                }
                for index, (activation, target, losses) in enumerate(channels)
            ],
            "decode": {"method": method} | ({"threshold": 0.5} if method == "threshold" else {}),
            "metrics": ["dice"],
        }
    )


def make_task_targets(labels, *, task, annotated=None):
    """Targets of a task from one label volume, which stands for each that the task names."""
    names = task.volumes or (None,)
    stack = labels if not task.volumes else np.stack([labels] * len(names))
    if annotated is not None and task.volumes:
        annotated = np.stack([annotated] * len(names))
    return make_targets(stack, task=task, voxel_size_nm=(8, 8, 8), annotated=annotated, volumes=names)


def class_task(*classes, softmax=False, losses=None, **fields):
    """A task of classes, each a name and its target."""
    if losses is None:
        losses = [{"kind": "cross_entropy"}, {"kind": "dice"}] if softmax else [{"kind": "bce"}, {"kind": "dice"}]
    return TaskSpec.model_validate(
        {
            "schema_version": 1,
            "name": "classes",
            "summary": "Classes made here.",
            "channels": [
                {"name": name, "activation": "softmax" if softmax else "sigmoid", "target": target, "losses": losses}
                for name, target in classes
            ],
            "decode": {"method": "argmax"} if softmax else {"method": "threshold", "threshold": 0.5},
            "metrics": ["dice", "iou", "precision", "recall"],
            **fields,
        }
    )
