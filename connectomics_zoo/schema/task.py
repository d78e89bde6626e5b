"""`TaskSpec`: what is predicted, how its targets are made from labels, and how it is scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from connectomics_zoo.schema.base import Name, Node, Sentence


class TargetSpec(Node):
    """How a channel's target is made from a label volume."""

    kind: Literal["foreground", "background", "boundary", "value"]
    """`foreground`: label > 0; `background`: label = 0; `boundary`: voxels at a face between two labels
    (within a section where the volume is anisotropic); `value`: the label itself, a number in 0..1."""


class LossSpec(Node):
    """One term of a channel's loss."""

    kind: Literal["bce", "dice", "cross_entropy", "mse"]
    """`bce`: binary cross-entropy; `dice`: 1 - soft Dice over the batch; `cross_entropy`: this channel's
    share of the cross-entropy over the softmax channels; `mse`: squared error after the activation."""
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Factor of this term."""


class ChannelSpec(Node):
    """One output channel."""

    name: Name
    """What the channel shows."""
    activation: Literal["sigmoid", "softmax", "none"]
    """From logits to values; `softmax` runs over all the channels that say so."""
    target: TargetSpec
    """Its target."""
    losses: Annotated[tuple[LossSpec, ...], Field(strict=False, max_length=8)] = ()
    """The terms of its loss."""


class DecodeSpec(Node):
    """From channels to the labels that are scored."""

    method: Literal["threshold", "argmax"]
    """`threshold`: for each channel 1 where it exceeds `threshold`; `argmax`: index of the largest softmax channel."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Value, in 0..1, above which `threshold` makes foreground; `argmax` does not read it."""


class TaskSpec(Node):
    """What is predicted: channels, activations, targets, losses, decoding and metrics."""

    schema_version: Literal[1]
    """Version of this format."""
    name: Name
    """Name of the task; also the stem of its file in a catalogue."""
    summary: Sentence
    """What the task is, in one sentence."""
    channels: Annotated[tuple[ChannelSpec, ...], Field(strict=False, min_length=1, max_length=64)]
    """The output channels; their number is the network's number of output channels."""
    decode: DecodeSpec
    """How predictions become labels."""
    metrics: Annotated[tuple[Literal["dice", "iou", "precision", "recall"], ...], Field(strict=False, min_length=1)]
    """What validation reports; the first one chooses the best checkpoint."""

    @model_validator(mode="after")
    def _consistent(self) -> TaskSpec:
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            raise ValueError(f"channels have the names {names}, each must be different")
        if not any(channel.losses for channel in self.channels):
            raise ValueError("no channel has a loss, give at least one")
        softmax = [channel.activation == "softmax" for channel in self.channels]
        if sum(softmax) == 1:
            raise ValueError("one channel alone has the activation 'softmax', use 'sigmoid' or give at least two")
        for channel in self.channels:
            for loss in channel.losses:
                if loss.kind == "cross_entropy" and channel.activation != "softmax":
                    raise ValueError(f"channel {channel.name!r}: cross_entropy needs the activation 'softmax'")
                if loss.kind == "bce" and channel.activation != "sigmoid":
                    raise ValueError(f"channel {channel.name!r}: bce needs the activation 'sigmoid'")
        if self.decode.method == "argmax" and not all(softmax):
            raise ValueError("decode.method 'argmax' needs every channel's activation to be 'softmax'")
        return self
