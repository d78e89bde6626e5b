"""What nnU-Net's plans say beside the network: what the spec has of it, and what it cannot say, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from connectomics_zoo.convert.plans import Plans
from connectomics_zoo.schema.model import ModelSpec

_LONGEST = 120


def taken(spec: ModelSpec) -> tuple[str, ...]:
    """Return what of the plans stands in `spec`."""
    patch = "x".join(str(edge) for edge in spec.training.patch_size)
    return (f"patch {patch}", f"batch size {spec.training.batch_size}", "weights of the scales in the loss")


def not_said(plans: Plans, spec: ModelSpec) -> tuple[str, ...]:
    """Return what of the plans `spec` cannot say, and what to do about it."""
    return tuple(sentence for part in (_spacing, _axes, _intensity, _classes, _rest) for sentence in part(plans, spec))


def _spacing(plans: Plans, spec: ModelSpec) -> Iterator[str]:
    spacing = plans.values.get("spacing")
    if isinstance(spacing, list | tuple):
        yield (
            f"spacing {_text(spacing)}, in the unit of the dataset (mostly mm): volumes of another voxel size must be "
            "resampled to it, by data.network_voxel_size_nm in training"
        )


def _axes(plans: Plans, spec: ModelSpec) -> Iterator[str]:
    order = plans.whole.get("transpose_forward")
    if isinstance(order, list | tuple) and list(order) != sorted(order):
        yield f"transpose_forward {_text(order)}: the axes of the network are those of the image in this order"


def _intensity(plans: Plans, spec: ModelSpec) -> Iterator[str]:
    schemes = plans.values.get("normalization_schemes")
    properties = plans.whole.get("foreground_intensity_properties_per_channel")
    first_norm = vars(spec.arch).get("norm")
    for channel, scheme in enumerate(schemes if isinstance(schemes, list | tuple) else ()):
        start = f"{_text(scheme)} of channel {channel}"
        own = properties.get(str(channel)) if isinstance(properties, Mapping) else None
        match scheme:
            case "RGBTo01Normalization":
                continue  # 0 to 255 becomes 0 to 1, as here
            case "NoNormalization":
                yield f"{start}: grey values were left as they are, and here become 0 to 1{_consequence(first_norm)}"
            case "RescaleTo01Normalization":
                yield f"{start}: give the smallest and largest grey value of each volume as --intensity-range"
            case "CTNormalization" if isinstance(own, Mapping):
                low, high = own.get("percentile_00_5"), own.get("percentile_99_5")
                yield (
                    f"{start}: grey values were clipped to {_text(low)} and {_text(high)}, which --intensity-range "
                    f"{_text(low)},{_text(high)} does, then mean {_text(own.get('mean'))} was subtracted and the rest "
                    f"divided by {_text(own.get('std'))}; here they become 0 to 1{_consequence(first_norm)}"
                )
            case "ZScoreNormalization":
                yield (
                    f"{start}: grey values of each volume got mean 0 and deviation 1, and here become 0 to 1"
                    f"{_consequence(first_norm)}"
                )
            case _:
                yield (
                    f"{start}, which is none of those that are known here: grey values become 0 to 1, see in the code "
                    "that the network was trained with whether that is the same"
                )


def _consequence(first_norm: object) -> str:
    """Say what another scale of the grey values does."""
    if first_norm == "instance":
        return ", which the instance norm after the first convolution takes out again, but for the border of a window"
    return ", so fine-tune before use: no norm of this network takes it out"


def _classes(plans: Plans, spec: ModelSpec) -> Iterator[str]:
    labels = plans.dataset.get("labels")
    if not isinstance(labels, Mapping):
        yield "the names of the channels: there is no dataset.json in the checkpoint or beside it"
        return
    names = [str(name) for name in labels if name != "ignore"]
    if any(isinstance(value, list | tuple) and len(value) > 1 for value in labels.values()):
        yield f"channels, each with a sigmoid: {_text([name for name in names if name != 'background'])}"
    else:
        yield f"channels of one softmax: {_text(names)}"


def _rest(plans: Plans, spec: ModelSpec) -> Iterator[str]:
    if plans.mirrored:
        axes = "".join(axis for index, axis in enumerate(spec.input.axes) if index in plans.mirrored)
        yield f"predictions were averaged over flips along {axes}: --views flips flips along all"
    if plans.values.get("previous_stage"):
        yield f"the cascade: its input holds the classes that {_text(plans.values['previous_stage'])} predicted, too"


def _text(value: Any) -> str:
    """Return a value out of plans, which may be anything, as short printable text."""
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)[:_LONGEST]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return "".join(letter for letter in text if letter.isprintable())[:_LONGEST]
