"""From a PyTorch Connectomics (PyTC) request to a model of the catalogue and what changes of its `arch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from connectomics_zoo.compat.layouts import FLAT
from connectomics_zoo.compat.request import Request, whole_numbers
from connectomics_zoo.errors import SpecError

BASIC_UNET_LEVELS = 6
"""Entries of BasicUNet's channels."""

FLAT_UNET_LEVELS = 5
"""Levels that the flat generation's `monai_unet` takes from `filters`."""

Translation = tuple[str, dict[str, Any]]
"""Reference of the model, and the fields of its architecture that differ."""

MODELS: dict[str, tuple[str, ...]] = {
    "mednext": tuple(f"mednext-{size}{kernel}" for size in "SBML" for kernel in ("", "-k5")),
    "mednext_custom": ("mednext_custom",),
    "monai_basic_unet3d": ("monai_basic_unet3d",),
    "monai_unet": ("monai_unet",),
    "monai_unetr": ("monai_unetr",),
    "monai_swin_unetr": ("monai_swin_unetr",),
    "rsunet": ("rsunet-aniso",),
    "rsunet_iso": ("rsunet",),
}
"""The models of the catalogue that each architecture becomes."""


def translate(request: Request) -> Translation:
    """Return the model that `request` asks for and the fields of its `arch` that differ from its spec.

    Raises:
        SpecError: a value is not allowed.
    """
    return _TRANSLATORS[request.architecture](request)


def _mednext(request: Request) -> Translation:
    settings = request.settings
    size, kernel_size = settings["size"], settings["kernel_size"]
    if size not in ("S", "B", "M", "L"):
        raise request.refuse("size", "it must be 'S', 'B', 'M' or 'L', or choose the architecture 'mednext_custom'")
    arch = {"kernel_size": kernel_size, **_mednext_options(request)}
    # 5, and not 5.0: what is no whole number is for the builder to refuse.
    suffix = "-k5" if type(kernel_size) is int and kernel_size == 5 else ""
    return f"mednext-{size}{suffix}", arch


def _mednext_custom(request: Request) -> Translation:
    settings = request.settings
    arch = {
        "base_channels": settings["base_channels"],
        "kernel_size": settings["kernel_size"],
        "expansion_ratios": settings["exp_r"],
        "block_counts": settings["block_counts"],
        "residual": settings["do_res"],
        "resample_residual": settings["do_res_up_down"],
        "norm": settings["norm"],
        "grn": settings["grn"],
        "checkpointing": False,
        **_mednext_options(request),
    }
    return "mednext_custom", arch


def _mednext_options(request: Request) -> dict[str, Any]:
    """What `mednext` has too: PyTC ignores both there, and builds a 3-D network for `dim: 2d`."""
    dim, style = request.settings["dim"], request.settings["checkpoint_style"]
    if dim not in ("2d", "3d"):
        raise request.refuse("dim", "it must be '2d' or '3d'")
    if style not in (None, "outside_block"):
        raise request.refuse("checkpoint_style", "it must be null or 'outside_block'")
    size = request.input_size
    dims = int(dim[0])
    if size is not None and len(size) != dims and list(size) != request.layout.defaults["input_size"]:
        raise request.refuse("dim", f"but input_size {list(size)} has {len(size)} axes: make them agree")
    return {"spatial_dims": dims} | ({"checkpointing": True} if style else {})


def _basic_unet(request: Request) -> Translation:
    settings = request.settings
    channels = list(whole_numbers(f"model.{request.keys['filters']}", settings["filters"]))
    if len(channels) > BASIC_UNET_LEVELS:
        raise request.refuse("filters", f"this network has {BASIC_UNET_LEVELS}: leave out what is more")
    while len(channels) < BASIC_UNET_LEVELS:  # the generations differ in what they fill in
        channels.append(channels[-1] * 2 if request.layout is FLAT else channels[-1])
    arch = {
        "channels": channels,
        "activation": settings["activation"],
        "upsampling": settings["upsample_mode"],
        "dropout": settings["dropout"],
        "spatial_dims": _monai_dims(request),
        **_norm(request),
    }
    return "monai_basic_unet3d", arch


def _unet(request: Request) -> Translation:
    settings, dims = request.settings, _monai_dims(request)
    channels = whole_numbers(f"model.{request.keys['filters']}", settings["filters"])
    if request.layout is FLAT and len(channels) > FLAT_UNET_LEVELS:
        raise request.refuse("filters", f"PyTC takes the first {FLAT_UNET_LEVELS}: leave out what is more")
    strides = [2] * (len(channels) - 1)
    if settings["strides"] not in (None, strides):
        raise request.refuse("strides", f"PyTC builds {strides} whatever it says: write that, or null")
    arch = {
        "channels": channels,
        "strides": [[stride] * dims for stride in strides],
        "kernel_size": [settings["kernel_size"]] * dims,
        "up_kernel_size": [3] * dims,  # whatever kernel_size says
        "num_res_units": settings["num_res_units"],
        "dropout": settings["dropout"],
        "spatial_dims": dims,
        **_norm(request),
    }
    return "monai_unet", arch


def _monai_dims(request: Request) -> int:
    """PyTC takes the number of axes from `input_size` and, where that is absent, from `spatial_dims`."""
    stated, size = request.settings["spatial_dims"], request.input_size
    dims = stated if size is None else len(size)
    if dims not in (2, 3) or stated not in (3, dims):
        raise request.refuse("spatial_dims", f"and input_size {size and list(size)}: make them agree on 2 or 3 axes")
    return int(dims)


def _norm(request: Request) -> dict[str, Any]:
    norm = request.settings["norm"]
    return {"norm": norm} | ({"num_groups": request.settings["num_groups"]} if norm == "group" else {})


def _unetr(request: Request) -> Translation:
    settings = request.settings
    arch = {
        "img_size": _volume(request),
        "projection": settings["pos_embed"],
        **{name: settings[name] for name in ("feature_size", "hidden_size", "mlp_dim", "num_heads", "norm", "dropout")},
    }
    return "monai_unetr", arch


def _swin_unetr(request: Request) -> Translation:
    settings = request.settings
    _volume(request)
    arch = {
        "feature_size": settings["feature_size"],
        "dropout": settings["dropout"],
        "attention_dropout": settings["attn_drop_rate"],
        "path_dropout": settings["dropout_path_rate"],
        "checkpointing": settings["use_checkpoint"],
    }
    return "monai_swin_unetr", arch


def _rsunet(request: Request) -> Translation:
    settings = request.settings
    factors, shallow = settings["down_factors"], settings["depth_2d"]
    kernel = whole_numbers(f"model.{request.keys['kernel_2d']}", settings["kernel_2d"])
    if type(shallow) is not int or shallow < 0:
        raise request.refuse("depth_2d", "it must be a whole number of at least 0")
    if not shallow and list(kernel) != request.layout.defaults[request.keys["kernel_2d"]]:
        raise request.refuse("kernel_2d", "which has no effect with depth_2d 0: remove it")
    levels = len(whole_numbers(f"model.{request.keys['filters']}", settings["filters"]))
    if shallow > levels:
        raise request.refuse("depth_2d", f"but there are {levels} levels: give at most as many")
    arch = {
        "strides": [[1, 2, 2]] * (levels - 1) if factors is None else factors,
        "kernel_sizes": [kernel] * shallow + [[3, 3, 3]] * (levels - shallow),
        "negative_slope": settings["act_negative_slope"],
        "initial_slope": settings["act_init"],
        **_rsunet_options(request),
    }
    return "rsunet-aniso", arch


def _rsunet_iso(request: Request) -> Translation:
    levels = len(whole_numbers(f"model.{request.keys['filters']}", request.settings["filters"]))
    strides = [[2, 2, 2]] * (levels - 1)
    if request.settings["down_factors"] not in (None, strides):
        raise request.refuse("down_factors", f"this architecture has {strides}: remove it, or choose 'rsunet'")
    arch = {"strides": strides, "kernel_sizes": [[3, 3, 3]] * levels, **_rsunet_options(request)}
    return "rsunet", arch


def _rsunet_options(request: Request) -> dict[str, Any]:
    """What both have: PyTC's variant has no convolution of its own for the image, and a 1x1x1 head."""
    _volume(request)
    settings = request.settings
    return {
        "channels": settings["filters"],
        "stem_kernel_size": None,
        "head_kernel_size": [1, 1, 1],
        "norm": settings["norm"],
        "num_groups": settings["num_groups"],
        "activation": settings["activation"],
    }


def _volume(request: Request) -> tuple[int, ...]:
    """Return the patch of a network that there is in 3-D only."""
    size = request.input_size or tuple(request.layout.defaults["input_size"])
    if len(size) != 3:
        raise SpecError(
            f"model.input_size is {list(size)}, and {request.architecture!r} is a 3-D network: give three axes, "
            "or choose 'mednext', 'monai_basic_unet3d' or 'monai_unet'."
        )
    return size


_TRANSLATORS: dict[str, Callable[[Request], Translation]] = {
    "mednext": _mednext,
    "mednext_custom": _mednext_custom,
    "monai_basic_unet3d": _basic_unet,
    "monai_unet": _unet,
    "monai_unetr": _unetr,
    "monai_swin_unetr": _swin_unetr,
    "rsunet": _rsunet,
    "rsunet_iso": _rsunet_iso,
}
