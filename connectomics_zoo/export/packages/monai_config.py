"""The documents of a MONAI bundle, as plain data: `metadata.json` and `inference.json`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from connectomics_zoo.export.exported import Exported, is_fixed
from connectomics_zoo.export.packages.facts import Facts
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.tasks.activations import SCALE

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
"""What MONAI's `verify_metadata` checks the metadata against, and downloads."""

_ACTIVATIONS = {
    "sigmoid": "torch.sigmoid(x[{}])",
    "scaled_sigmoid": f"torch.sigmoid({SCALE:g} * x[{{}}])",
    "tanh": "torch.tanh(x[{}])",
    "none": "x[{}]",
}
"""The code of each activation but softmax, for one channel of a sample x (C, Z, Y, X)."""


def metadata(exported: Exported, facts: Facts) -> dict[str, Any]:
    """Return what MONAI calls the metadata of a bundle."""
    import monai

    spec, task = exported.spec, exported.task
    shape = [_size(low, step) for low, step in zip(exported.sizes.minimum, exported.sizes.step, strict=True)]
    names = ["raw"] if spec.input.channels == 1 else [f"raw_{index}" for index in range(spec.input.channels)]
    image = {"type": "image", "modality": "EM", "spatial_shape": shape, "dtype": "float32", "is_patch_data": True}
    activated = exported.activation == "task" and task is not None
    kinds = {channel.activation for channel in task.channels} if activated and task is not None else {"none"}
    between = [0, 1] if kinds <= {"sigmoid", "scaled_sigmoid", "softmax"} else []
    return {
        "schema": SCHEMA,
        "version": spec.version,
        "changelog": dict(spec.changes),
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"pytorch-ignite": "0.5.0", "nibabel": "5.0.0", "fire": "0.5.0"},
        "name": facts.name,
        "task": spec.summary if task is None else task.summary,
        "description": facts.summary,
        "authors": ", ".join(facts.authors) or "not stated",
        "copyright": f"Weights: {facts.license or 'licence not stated'}. Credit: {facts.attribution or 'not stated'}.",
        "data_source": facts.attribution or "not stated",
        "data_type": "npy",
        "image_classes": "grey values of electron microscopy, scaled to 0..1",
        "pred_classes": ", ".join(facts.channels),
        "eval_metrics": facts.metrics,
        "intended_use": "Research on volume electron microscopy. Not for diagnosis.",
        "references": [f"{one.text} {one.doi or one.url or ''}".strip() for one in facts.citations],
        "network_data_format": {
            "inputs": {
                "image": {
                    **image,
                    "format": "magnitude",
                    "num_channels": spec.input.channels,
                    "value_range": [0, 1],
                    "channel_def": {str(index): name for index, name in enumerate(names)},
                }
            },
            "outputs": {
                "pred": {
                    **image,
                    "format": "classes",
                    "num_channels": len(facts.channels),
                    "value_range": between,
                    "channel_def": {str(index): name for index, name in enumerate(facts.channels)},
                }
            },
        },
        "connectomics_zoo": dict(exported.provenance),
    }


def _size(low: int, step: int) -> int | str:
    """Return the legal sizes of an axis, as `16*n + 16` for n = 1, 2, …; verified by MONAI for n = 1."""
    if is_fixed(low, step):
        return low
    return f"{step}*n" + (f" + {low - step}" if low > step else f" - {step - low}" if low < step else "")


def inference(
    exported: Exported, facts: Facts, definition: dict[str, Any] | None, *, torchscript_file: str
) -> dict[str, Any]:
    """Return the configuration of inference, with MONAI's usual names.

    Args:
        exported: the network.
        facts: what is known of it.
        definition: MONAI's own class and its arguments; None for TorchScript.
        torchscript_file: where that lies in the bundle.
    """
    low, high = facts.intensity_range or (0, 255)
    run = exported.run
    window = exported.spec.training.patch_size if run is None else run.window
    return {
        "imports": ["$import glob", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.npy'))",
        "network_def": definition or f"$torch.jit.load(@bundle_root + '/{torchscript_file}', map_location=@device)",
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "reader": "NumpyReader"},
                {
                    "_target_": "EnsureChannelFirstd",
                    "keys": "image",
                    "channel_dim": "no_channel" if exported.spec.input.channels == 1 else 0,
                },
                {
                    "_target_": "ScaleIntensityRanged",
                    "keys": "image",
                    "a_min": low,
                    "a_max": high,
                    "b_min": 0.0,
                    "b_max": 1.0,
                    "clip": True,
                },
                {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': name} for name in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(window),
            "sw_batch_size": 1,
            "overlap": 0.5 if run is None else run.prediction.overlap,
            "mode": "gaussian",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                *_activations(exported),
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "resample": False},
            ],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _activations(exported: Exported) -> list[dict[str, Any]]:
    """Return the transform of the task's activations, none where there are none or the network has them."""
    task = exported.task
    if task is None or exported.activation == "task":
        return []
    kinds = {channel.activation for channel in task.channels}
    if kinds == {"none"}:
        return []
    transform: dict[str, Any] = {"_target_": "Activationsd", "keys": "pred"}
    if kinds == {"sigmoid"}:
        return [transform | {"sigmoid": True}]
    if kinds == {"softmax"}:
        return [transform | {"softmax": True}]
    return [transform | {"other": f"$lambda x: {_code(task)}"}]


def _code(task: TaskSpec) -> str:
    """Return the code of the activations of a sample x, channel by channel."""
    softmax = list(task.softmax)
    parts = [
        f"torch.softmax(x[{softmax}], 0)[{softmax.index(index)}]"
        if channel.activation == "softmax"
        else _ACTIVATIONS[channel.activation].format(index)
        for index, channel in enumerate(task.channels)
    ]
    return f"torch.stack([{', '.join(parts)}])"
