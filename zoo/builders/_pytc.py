"""What the declarations about PyTorch Connectomics (PyTC) share, see `connectomics_zoo.schema.pytc` (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.pytc import INPUT_SIZE, Generation, PytcKeys, PytcRequest, prefixed

# What both generations have under the same names, apart from the sections' own.
_MONAI = {
    "filters": [32, 64, 128, 256, 512],
    "dropout": 0.0,
    "norm": "batch",
    "num_groups": 8,
    "activation": "relu",
    "spatial_dims": 3,
    "num_res_units": 2,
    "kernel_size": 3,
    "strides": None,
    "upsample_mode": "deconv",
}
_TRANSFORMER = {
    "feature_size": 16,
    "hidden_size": 768,
    "mlp_dim": 3072,
    "num_heads": 12,
    # Of the flat generation's, the builders read these four, although the dataclass does not have them.
    "pos_embed": "perceptron",
    "use_checkpoint": False,
    "attn_drop_rate": 0.0,
    "dropout_path_rate": 0.0,
    "dropout": 0.0,
}

MONAI: Mapping[Generation, PytcKeys] = {
    "flat": prefixed("", {**_MONAI, "act": "relu"}, renamed={"upsample_mode": "upsample"}),
    "nested": prefixed("monai.", {**_MONAI, "upsample_interp_mode": "linear", "upsample_align_corners": True}),
}
"""The section of MONAI's convolutional networks."""

TRANSFORMER: Mapping[Generation, PytcKeys] = {
    "flat": prefixed("", {**_TRANSFORMER, "norm": "batch"}),
    "nested": prefixed("transformer.", {**_TRANSFORMER, "norm": "instance"}),
}
"""The section of MONAI's transformers."""

GROUPS = {"num_groups": ("norm", "group")}
"""The number of groups has an effect only with group norm."""


def spatial_dims(request: PytcRequest) -> int:
    """Return the number of axes, which PyTC takes from `input_size` and, where that is absent, from `spatial_dims`.

    Raises:
        SpecError: they disagree, or are not 2 or 3.
    """
    stated, size = request.settings["spatial_dims"], request.input_size
    dims = stated if size is None else len(size)
    if dims not in (2, 3) or stated not in (3, dims):
        raise request.refuse("spatial_dims", f"and input_size {size and list(size)}: make them agree on 2 or 3 axes")
    return int(dims)


def norm(request: PytcRequest) -> dict[str, Any]:
    """Return the fields of the normalisation."""
    chosen = request.settings["norm"]
    return {"norm": chosen} | ({"num_groups": request.settings["num_groups"]} if chosen == "group" else {})


def volume_size(request: PytcRequest) -> tuple[int, ...]:
    """Return the patch of a network that there is in 3-D only.

    Raises:
        SpecError: the patch has another number of axes.
    """
    size = request.input_size or INPUT_SIZE
    if len(size) != 3:
        raise SpecError(
            f"model.input_size is {list(size)}, and {request.architecture!r} is a 3-D network: give three axes, "
            "or choose 'mednext', 'monai_basic_unet3d' or 'monai_unet'."
        )
    return size
