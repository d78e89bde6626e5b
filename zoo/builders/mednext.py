"""Builder of MedNeXt: every parameter of the network, its legal sizes and its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from connectomics_zoo.errors import MissingPackageError
from connectomics_zoo.schema.builder import BuilderConfig, Interface, OutputGeometry, refuse_too_many
from connectomics_zoo.schema.pytc import INPUT_SIZE, Generation, PytcArchitecture, PytcKeys, PytcRequest, prefixed

if TYPE_CHECKING:
    from torch import nn

CHANNEL_VECTORS = ("grn_beta", "grn_gamma")
"""Parameters of global response normalisation, which scale and shift channels."""

STAGES = 9
"""Four encoder stages, the bottleneck and four decoder stages."""

LEVELS = 4
"""Halvings."""

INERT = ("dummy_tensor",)
"""The original's work-around for checkpointing, which MONAI's MedNeXt does not have."""

Kernel = Annotated[int, Field(ge=1, le=15, json_schema_extra={"not": {"multipleOf": 2}})]
Ratio = Annotated[int, Field(ge=1, le=64)]
Blocks = Annotated[int, Field(ge=1, le=64)]

_KERNELS_GIVEN: JsonDict = {
    "anyOf": [
        {"properties": {"kernel_size": {"type": "integer"}}, "required": ["kernel_size"]},
        {
            "properties": {"encoder_kernel_size": {"type": "integer"}, "decoder_kernel_size": {"type": "integer"}},
            "required": ["encoder_kernel_size", "decoder_kernel_size"],
        },
    ]
}
"""What `Config` demands of the kernel sizes, for JSON Schema."""


class Config(BuilderConfig):
    """MedNeXt (Roy et al., 2023)."""

    model_config = ConfigDict(json_schema_extra=_KERNELS_GIVEN)

    base_channels: Annotated[int, Field(ge=1, le=1024)] = 32
    """Channels at full resolution; each of the four downsamplings doubles them."""
    kernel_size: Kernel | None = None
    """Edge of the depthwise kernels (odd), of encoder and decoder alike."""
    encoder_kernel_size: Kernel | None = None
    """Edge of the encoder's kernels, where they differ from the decoder's."""
    decoder_kernel_size: Kernel | None = None
    """Edge of the kernels of bottleneck and decoder, where they differ from the encoder's."""
    expansion_ratios: (
        Ratio | Annotated[tuple[Ratio, ...], Field(strict=False, min_length=STAGES, max_length=STAGES)]
    ) = 2
    """Hidden channels of a block per input channel: one number, or one for each of the nine stages."""
    block_counts: Annotated[tuple[Blocks, ...], Field(strict=False, min_length=STAGES, max_length=STAGES)] = (
        2,
    ) * STAGES
    """Blocks in each of the nine stages."""
    residual: bool = True
    """Residual connection around each block."""
    resample_residual: bool = True
    """Residual connection (1x1x1 convolution) around each down- and upsampling block."""
    norm: Literal["group", "layer"] = "group"
    """`group`: one group a channel, statistics over space; `layer`: statistics over channels, voxel by voxel."""
    spatial_dims: Literal[2, 3] = 3
    """2 for images, 3 for volumes."""
    sections: Annotated[int, Field(ge=1, le=15, json_schema_extra={"not": {"multipleOf": 2}})] = 1
    """Sections that a 2-D network sees as channels to predict the one in the middle (2.5-D), an odd number: with more
    than one it takes volumes (Z, Y, X), of which the first and the last sections // 2 are context."""
    down_expansion: Literal["next", "own"] = "next"
    """Whose expansion ratio a downsampling block has: that of the stage it leads to, as in the original, or that of the
    stage it comes from, as in MONAI. An upsampling block has that of the stage it leads to in both."""
    grn: bool = False
    """Global response normalisation of the hidden channels (ConvNeXt V2), but for the first downsampling block,
    which has none in the original."""
    checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, about a third more time."""
    backend: Literal["native", "nnunet_mednext"] = "native"
    """`nnunet_mednext` uses the original package, which must be installed."""

    @model_validator(mode="before")
    @classmethod
    def _kernels(cls, value: object) -> object:
        """`kernel_size` fills in for the one of the separate sizes that is not given."""
        if not isinstance(value, dict):
            return value
        encoder = value.get("encoder_kernel_size")
        decoder = value.get("decoder_kernel_size")
        both = value.get("kernel_size")
        if both is None and (encoder is None or decoder is None):
            raise ValueError("give kernel_size, or encoder_kernel_size and decoder_kernel_size")
        if encoder is None and decoder is None:
            return value
        if None not in (both, encoder, decoder):
            raise ValueError(
                "kernel_size has no effect beside encoder_kernel_size and decoder_kernel_size, leave it out"
            )
        return {
            **value,
            "kernel_size": None,
            "encoder_kernel_size": both if encoder is None else encoder,
            "decoder_kernel_size": both if decoder is None else decoder,
        }

    def override(self, changes: Mapping[str, object]) -> dict[str, object]:
        """As everywhere, but a new `kernel_size` replaces both separate sizes, and a separate one replaces its half."""
        merged = super().override(changes)
        separate = ("encoder_kernel_size", "decoder_kernel_size")
        given = [name for name in separate if changes.get(name) is not None]
        if given and changes.get("kernel_size") is None:
            for name, kernel in zip(separate, self.kernels, strict=True):
                merged[name] = changes.get(name) or kernel
            merged["kernel_size"] = None
        elif changes.get("kernel_size") is not None and not given:
            merged |= dict.fromkeys(separate)
        return merged

    @model_validator(mode="after")
    def _possible(self) -> Config:
        for name in ("kernel_size", "encoder_kernel_size", "decoder_kernel_size"):
            kernel = getattr(self, name)
            if kernel is not None and kernel % 2 == 0:
                raise ValueError(f"{name} {kernel} is even, a depthwise kernel needs a centre: give an odd number")
        if self.sections % 2 == 0:
            raise ValueError(f"sections {self.sections} is even, none of them is in the middle: give an odd number")
        if self.sections > 1 and self.spatial_dims == 3:
            raise ValueError(f"sections {self.sections} are the channels of a 2-D network: give spatial_dims 2, too")
        if self.sections > 1 and self.backend == "nnunet_mednext":
            raise ValueError("backend 'nnunet_mednext' sees one section, use backend 'native'")
        if self.backend == "nnunet_mednext" and self.norm == "layer" and self.spatial_dims == 2:
            raise ValueError("backend 'nnunet_mednext' computes layer norm wrongly in 2-D, use backend 'native'")
        if self.backend == "nnunet_mednext" and self.down_expansion == "own":
            raise ValueError("backend 'nnunet_mednext' has no down_expansion 'own', use backend 'native'")
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def ratios(self) -> tuple[int, ...]:
        """The nine expansion ratios."""
        ratios = self.expansion_ratios
        return (ratios,) * STAGES if isinstance(ratios, int) else ratios

    @property
    def down_ratios(self) -> tuple[int, ...]:
        """The expansion ratios of the four downsampling blocks."""
        return self.ratios[1 : LEVELS + 1] if self.down_expansion == "next" else self.ratios[:LEVELS]

    @property
    def kernels(self) -> tuple[int, int]:
        """The kernel sizes of encoder and decoder."""
        encoder = self.encoder_kernel_size or self.kernel_size
        decoder = self.decoder_kernel_size or self.kernel_size
        assert encoder is not None
        assert decoder is not None
        return encoder, decoder

    @property
    def approximate_parameters(self) -> int:
        """Parameters of the blocks alone, to a few per cent: for the limit, before anything is built."""
        total = 0
        for stage, (ratio, count) in enumerate(zip(self.ratios, self.block_counts, strict=True)):
            channels = self.base_channels * 2 ** (4 - abs(4 - stage))
            kernel = self.kernels[stage >= 4]
            total += count * (2 * ratio * channels**2 + channels * kernel**self.spatial_dims)
        return total


def interface(config: Config) -> Interface:
    """Four halvings: legal sizes are multiples of 16, of which at most the first axis (sections) may be 16 alone.

    At 16 on every axis the bottleneck is one voxel, and a norm over one voxel is undefined.
    """
    dims = config.spatial_dims
    seen = (config.sections,) if config.sections > 1 else ()
    whole = (1,) * len(seen)  # any number of sections beyond those that are seen to predict one
    outputs = [OutputGeometry(f"ds_{level}", whole + (2**level,) * dims, 0.5**level) for level in range(1, 5)]
    return Interface(
        axes="zyx"[3 - dims - len(whole) :],
        minimum=seen + (16, 32, 32)[3 - dims :],
        step=whole + (16,) * dims,
        outputs=(OutputGeometry("output", whole + (1,) * dims, 1.0), *outputs),
        context=(config.sections // 2, 0, 0) if seen else None,
    )


def faster_in_bfloat16(config: Config) -> bool:
    """Whether the network trains faster in bfloat16 on a CPU that has it: if it has a fast path there."""
    return (
        config.backend == "native"
        and config.spatial_dims == 3
        and config.norm == "group"
        and not config.grn
        and config.base_channels >= 16
    )


def kept_on_cpu(config: Config) -> Config | None:
    """The fast path of a CPU keeps the inputs of the blocks alone, as the plain network with checkpointing does."""
    return config.model_copy(update={"checkpointing": True}) if faster_in_bfloat16(config) else None


def encoder_modules(config: Config) -> tuple[str, ...]:
    """Stem, four stages with their downsamplings, and the bottleneck."""
    levels = [name for level in range(4) for name in (f"enc_block_{level}", f"down_{level}")]
    return ("stem", *levels, "bottleneck")


def untold(config: Config) -> tuple[str, ...]:
    """Both norms have a weight and a bias a channel, and a residual connection around a block has no tensors."""
    return ("norm", "residual")


def other_key(key: str) -> str:
    """Return what MONAI's MedNeXt calls the tensor `key`: it has lists of stages, the decoder's coarsest first."""
    name, _, rest = key.partition(".")
    part, _, number = name.rpartition("_")
    if not number.isdigit() or name == "out_0":
        return key
    level = int(number)
    lists = {
        "enc_block": f"enc_stages.{level}",
        "down": f"down_blocks.{level}",
        "up": f"up_blocks.{LEVELS - 1 - level}",
        "dec_block": f"dec_stages.{LEVELS - 1 - level}",
        "out": f"out_blocks.{LEVELS - level}",
    }
    return f"{lists[part]}.{rest}".replace("grn_", "global_resp_")


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return the network, our own or the original's."""
    if config.backend == "nnunet_mednext":
        return _build_original(
            config, in_channels=in_channels, out_channels=out_channels, deep_supervision=deep_supervision
        )
    from zoo.builders.nets.mednext import MedNeXt

    encoder_kernel, decoder_kernel = config.kernels
    return MedNeXt(
        in_channels=in_channels,
        out_channels=out_channels,
        base_channels=config.base_channels,
        encoder_kernel_size=encoder_kernel,
        decoder_kernel_size=decoder_kernel,
        expansion_ratios=config.ratios,
        down_expansion_ratios=config.down_ratios,
        block_counts=config.block_counts,
        residual=config.residual,
        resample_residual=config.resample_residual,
        norm=config.norm,
        spatial_dims=config.spatial_dims,
        sections=config.sections,
        grn=config.grn,
        checkpointing=config.checkpointing,
        deep_supervision=deep_supervision,
    )


def _build_original(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    import importlib.util

    if importlib.util.find_spec("nnunet_mednext") is None:
        raise MissingPackageError(
            "backend 'nnunet_mednext' needs the original MedNeXt, which is not installed: "
            "pip install git+https://github.com/MIC-DKFZ/MedNeXt, or use backend 'native' (the same network)."
        )
    from zoo.builders.nets.mednext_original import OriginalMedNeXt

    encoder_kernel, decoder_kernel = config.kernels
    return OriginalMedNeXt(
        in_channels=in_channels,
        n_channels=config.base_channels,
        n_classes=out_channels,
        exp_r=list(config.ratios),
        kernel_size=None,
        enc_kernel_size=encoder_kernel,
        dec_kernel_size=decoder_kernel,
        deep_supervision=deep_supervision,
        do_res=config.residual,
        do_res_up_down=config.resample_residual,
        checkpoint_style="outside_block" if config.checkpointing else None,
        block_counts=list(config.block_counts),
        norm_type=config.norm,
        dim=f"{config.spatial_dims}d",
        grn=config.grn,
    )


# PyTorch Connectomics


def _from_pytc(request: PytcRequest) -> tuple[str, dict[str, Any]]:
    size, kernel_size = request.settings["size"], request.settings["kernel_size"]
    if size not in ("S", "B", "M", "L"):
        raise request.refuse("size", "it must be 'S', 'B', 'M' or 'L', or choose the architecture 'mednext_custom'")
    # 5, and not 5.0: what is no whole number is for `Config` to refuse.
    suffix = "-k5" if type(kernel_size) is int and kernel_size == 5 else ""
    return f"mednext-{size}{suffix}", {"kernel_size": kernel_size, **_pytc_options(request)}


def _custom_from_pytc(request: PytcRequest) -> tuple[str, dict[str, Any]]:
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
        **_pytc_options(request),
    }
    return "mednext_custom", arch


def _pytc_options(request: PytcRequest) -> dict[str, Any]:
    """What both have: of `mednext` PyTC ignores it, and builds a 3-D network for `dim: 2d`."""
    dim, style = request.settings["dim"], request.settings["checkpoint_style"]
    if dim not in ("2d", "3d"):
        raise request.refuse("dim", "it must be '2d' or '3d'")
    if style not in (None, "outside_block"):
        raise request.refuse("checkpoint_style", "it must be null or 'outside_block'")
    size, dims = request.input_size, int(dim[0])
    if size is not None and len(size) != dims and size != INPUT_SIZE:
        raise request.refuse("dim", f"but input_size {list(size)} has {len(size)} axes: make them agree")
    return {"spatial_dims": dims} | ({"checkpointing": True} if style else {})


_PYTC_DEFAULTS = {
    "size": "S",
    "base_channels": 32,
    "exp_r": 4,
    "kernel_size": 3,
    "do_res": True,
    "do_res_up_down": True,
    "block_counts": [2] * STAGES,
    "checkpoint_style": None,
    "norm": "group",
    "dim": "3d",
    "grn": False,
}
_PYTC_SECTION: Mapping[Generation, PytcKeys] = {
    "flat": prefixed("mednext_", _PYTC_DEFAULTS),
    "nested": prefixed("mednext.", _PYTC_DEFAULTS),
}

PYTC = (
    PytcArchitecture(
        name="mednext",
        models=tuple(f"mednext-{size}{kernel}" for size in "SBML" for kernel in ("", "-k5")),
        sections=_PYTC_SECTION,
        settings=("size", "kernel_size", "dim", "checkpoint_style"),
        translate=_from_pytc,
        supervised=True,
        profiles={
            "mednext_s": {"size": "S", "kernel_size": 3},
            "mednext_b": {"size": "B"},
            "mednext_m": {"size": "M"},
            "mednext_l": {"size": "L"},
        },
    ),
    PytcArchitecture(
        name="mednext_custom",
        models=("mednext_custom",),
        sections=_PYTC_SECTION,
        settings=tuple(name for name in _PYTC_DEFAULTS if name != "size"),
        translate=_custom_from_pytc,
        supervised=True,
        fallbacks={"kernel_size": 7},
    ),
)
