"""`TaskSpec`: what is predicted, how its targets are made from labels, and how it is scored."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from connectomics_zoo.schema.base import Name, Node, Sentence
from connectomics_zoo.schema.report import Page
from connectomics_zoo.schema.shown import task_page
from connectomics_zoo.schema.target import CONTINUOUS_TARGETS, LATER_FIELDS, TargetSpec, check_fields

ObjectMethod = Literal["components", "watershed", "mutex", "agglomeration"]

OBJECT_METHODS: tuple[ObjectMethod, ...] = get_args(ObjectMethod)
"""The methods of decoding that make objects, each with a label of its own."""

DECODE_FIELDS: dict[str, tuple[str, ...]] = {
    "threshold": ("threshold",),
    "argmax": (),
    "components": ("threshold", "min_size"),
    "watershed": ("threshold", "seed_threshold", "boundary_threshold", "min_seed", "min_size"),
    "mutex": ("threshold", "stride", "min_size"),
    "agglomeration": ("threshold", "min_size"),
}
"""The fields that each method of decoding needs, and that no other has."""

DECODE_STARTS: dict[str, Any] = {
    "threshold": 0.5,
    "seed_threshold": 0.85,
    "boundary_threshold": 0.8,
    "min_seed": 32,
    "min_size": 128,
    "stride": [2, 2, 2],
}
"""What a field is where another method than the task's is asked for: a threshold, or what the task does not have."""


LOSS_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "cross_entropy": ("softmax",),
    "bce": ("sigmoid", "scaled_sigmoid"),
    "balanced_bce": ("sigmoid", "scaled_sigmoid"),
    "dice": ("sigmoid", "scaled_sigmoid", "softmax"),
}
"""The activations that a loss is defined for; one that is not here is for any."""


class LossSpec(Node):
    """One term of a channel's loss, over the voxels that are annotated."""

    kind: Literal["bce", "balanced_bce", "dice", "cross_entropy", "mse", "smooth_l1"]
    """`bce`: binary cross-entropy; `balanced_bce`: the same with the rarer of the two classes weighted up, by at most
    10; `dice`: 1 - soft Dice over the batch; `cross_entropy`: this channel's share of the cross-entropy over the
    softmax channels; `mse` and `smooth_l1`: squared and Huber's error after the activation."""
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Factor of this term."""


class ChannelSpec(Node):
    """One output channel."""

    name: Name
    """What the channel shows."""
    activation: Literal["sigmoid", "scaled_sigmoid", "softmax", "tanh", "none"]
    """From logits to values; `scaled_sigmoid` is the sigmoid of a fifth of the logit, as BANIS has it; `softmax` runs
    over all the channels that say so."""
    target: TargetSpec
    """Its target."""
    losses: Annotated[tuple[LossSpec, ...], Field(strict=False, max_length=8)] = ()
    """The terms of its loss."""


class LabelSpec(Node):
    """What is done to a patch of labels before targets are made of it."""

    relabel: bool = False
    """Give the parts that an object has in the patch labels of their own, since it cannot know that they are one."""
    erosion: Annotated[int, Field(ge=0, le=16)] = 0
    """Voxels taken from the edge of every object, which become background (within a section where the volume is
    anisotropic): labels that touch have no boundary otherwise."""


class AffinitySpec(Node):
    """The convention of the task's affinities; what reads them converts from it, once."""

    axes: Literal["zyx", "xyz"]
    """The order in which offsets are written; the arrays themselves are always (z, y, x)."""
    edge_stored_at: Literal["source", "destination"]
    """The voxel that holds the affinity of voxel `p` and `p + offset`: `p`, or `p + offset`."""


class DecodeSpec(Node):
    """From channels to the labels that are scored."""

    method: Literal["threshold", "argmax", ObjectMethod]
    """`threshold`: for each channel 1 where it exceeds `threshold`; `argmax`: index of the largest softmax channel;
    and for objects, each a label of its own: `components`: connected parts; `watershed`: grown from seeds; `mutex`:
    mutex watershed of affinities; `agglomeration`: fragments of affinities, merged by their mean affinity."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Value, in 0..1, above which a voxel is foreground (`threshold`, `watershed`), voxels are joined (`components` of
    affinities, `agglomeration`), or an edge attracts (`mutex`)."""
    seed_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Value, in 0..1, above which foreground (or the mean of the attractive affinities) can be a seed."""
    boundary_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """Value, in 0..1, below which the boundary channel must be in a seed; 1 where there is no such channel."""
    min_seed: Annotated[int, Field(ge=0, le=10**9)] | None = None
    """Voxels of the smallest seed."""
    min_size: Annotated[int, Field(ge=0, le=10**12)] | None = None
    """Voxels of the smallest object; smaller ones become background."""
    stride: (
        Annotated[
            tuple[
                Annotated[int, Field(ge=1, le=64)],
                Annotated[int, Field(ge=1, le=64)],
                Annotated[int, Field(ge=1, le=64)],
            ],
            Field(strict=False),
        ]
        | None
    ) = None
    """Of `mutex`: each how many voxels (z, y, x) the repulsive edges are looked at."""

    @model_validator(mode="after")
    def _fields_of_method(self) -> DecodeSpec:
        check_fields(self, "method", self.method, DECODE_FIELDS)
        return self

    def settings(self) -> dict[str, Any]:
        """Return the fields of the method by name, as plain data."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"method"})

    @property
    def is_instances(self) -> bool:
        """Whether it makes objects, each with a label of its own."""
        return self.method in OBJECT_METHODS

    @property
    def cut(self) -> float:
        """Value above which a channel says yes, where channels are scored one by one."""
        return self.threshold if self.method == "threshold" and self.threshold is not None else 0.5


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
    labels: LabelSpec = LabelSpec()
    """What is done to labels before targets are made of them."""
    affinities: AffinitySpec | None = None
    """The convention of the affinities, where there are any."""
    decode: DecodeSpec
    """How predictions become labels."""
    metrics: Annotated[
        tuple[Literal["dice", "iou", "precision", "recall", "balanced_accuracy"], ...],
        Field(strict=False, min_length=1),
    ]
    """What validation reports, the mean over the channels that are `scored`; the first one chooses the best
    checkpoint."""

    def _page(self) -> Page:
        return task_page(self)

    @property
    def scored(self) -> tuple[int, ...]:
        """The channels that the metrics are of: all that are yes or no but background, or without any, `value`s.

        A value is a yes where it is more than a half.
        """
        targets = [channel.target for channel in self.channels]
        yes_or_no = tuple(
            index
            for index, target in enumerate(targets)
            if not target.is_background and target.kind not in CONTINUOUS_TARGETS
        )
        return yes_or_no or tuple(index for index, target in enumerate(targets) if target.kind == "value")

    @property
    def volumes(self) -> tuple[str, ...]:
        """The names of the label volumes that its targets are made of; none where a pair has one alone."""
        named = (channel.target.volume for channel in self.channels)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def has_classes(self) -> bool:
        """Whether it is scored class by class: it has several yes or no, and makes no objects of them."""
        return len(self.scored) > 1 and not self.decode.is_instances

    def identity(self, *, exclude: set[str] | None = None) -> dict[str, Any]:
        """Return all of it but what to `exclude`, as what a job is told apart from another one by.

        Fields that targets got later are in it where they are said, so that jobs begun before go on.
        """
        document = self.model_dump(mode="json", exclude=exclude)
        for channel in document["channels"]:
            for name in LATER_FIELDS:
                if channel["target"][name] is None:
                    del channel["target"][name]
        return document

    @property
    def softmax(self) -> tuple[int, ...]:
        """The channels of which a voxel is one alone."""
        return tuple(index for index, channel in enumerate(self.channels) if channel.activation == "softmax")

    @model_validator(mode="after")
    def _consistent(self) -> TaskSpec:
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            raise ValueError(f"channels have the names {names}, each must be different")
        if not any(channel.losses for channel in self.channels):
            raise ValueError("no channel has a loss, give at least one")
        if not self.scored:
            raise ValueError(
                "no channel's target is yes or no, so that nothing can be scored, give one (not only background, "
                "distance and lsd)"
            )
        self._check_values()
        self._check_volumes()
        softmax = [channel.activation == "softmax" for channel in self.channels]
        if sum(softmax) == 1:
            raise ValueError("one channel alone has the activation 'softmax', use 'sigmoid' or give at least two")
        self._check_softmax()
        for channel in self.channels:
            self._check_losses(channel)
        affinities = [channel for channel in self.channels if channel.target.kind == "affinity"]
        if bool(affinities) != (self.affinities is not None):
            raise ValueError("affinities (their convention) and channels with the target 'affinity' need each other")
        self._check_decoding(has_affinities=any(channel.target.attractive for channel in affinities))
        if self.decode.method == "argmax" and not all(softmax):
            raise ValueError("decode.method 'argmax' needs every channel's activation to be 'softmax'")
        return self

    def _check_values(self) -> None:
        """Refuse what makes no sense of labels that are numbers in 0..1."""
        kinds = {channel.target.kind for channel in self.channels}
        of_objects = sorted(kinds & {"presynapse", "postsynapse", "distance", "affinity", "lsd"})
        if "value" in kinds and of_objects:
            raise ValueError(f"the targets 'value' and {of_objects[0]!r} need labels of different kinds, leave one out")
        if self.labels.relabel and kinds & {"presynapse", "postsynapse"}:
            raise ValueError(
                "labels.relabel gives new numbers to labels whose parity presynapse and postsynapse read, leave it out"
            )
        if "value" in kinds and self.labels != LabelSpec():
            raise ValueError("labels.relabel and labels.erosion have no meaning for the target 'value', leave them out")

    def _check_volumes(self) -> None:
        """Refuse targets of which some say their label volume and others do not, and labels that lose their meaning."""
        without = [channel.name for channel in self.channels if channel.target.volume is None]
        if self.volumes and without:
            raise ValueError(
                f"the target of {without[0]!r} names no volume and others do ({', '.join(self.volumes)}): give all one"
            )
        classes = [channel.name for channel in self.channels if channel.target.kind == "class"]
        if self.labels.relabel and classes:
            raise ValueError(
                f"labels.relabel gives new numbers to labels that the class {classes[0]!r} is made of, leave it out"
            )

    def _check_softmax(self) -> None:
        """Refuse classes of which a voxel can be two."""
        classes = [channel for channel in self.channels if channel.activation == "softmax"]
        for first, second in itertools.combinations(classes, 2):
            if not first.target.excludes(second.target):
                raise ValueError(
                    f"a voxel can be both {first.name!r} ({first.target.kind}) and {second.name!r} "
                    f"({second.target.kind}), and softmax makes it one of them: give these channels the activation "
                    "'sigmoid', or targets that exclude each other (background and foreground, background, presynapse "
                    "and postsynapse, or classes of different labels of one volume)"
                )

    def _check_losses(self, channel: ChannelSpec) -> None:
        for loss in channel.losses:
            allowed = LOSS_ACTIVATIONS.get(loss.kind)
            if allowed is not None and channel.activation not in allowed:
                raise ValueError(
                    f"channel {channel.name!r}: {loss.kind} needs the activation {' or '.join(map(repr, allowed))}"
                )

    def _check_decoding(self, *, has_affinities: bool) -> None:
        method = self.decode.method
        if method in ("mutex", "agglomeration") and not has_affinities:
            raise ValueError(f"decode.method {method!r} needs channels with attractive affinities")
        kinds = {channel.target.kind for channel in self.channels}
        if method in ("components", "watershed") and not (has_affinities or "foreground" in kinds):
            raise ValueError(f"decode.method {method!r} needs a channel with the target 'foreground', or affinities")
