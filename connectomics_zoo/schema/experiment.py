"""`ExperimentSpec`: model + task + data + training; and `RunSpec`, the same with every reference resolved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

from pydantic import Field, create_model, field_validator, model_validator

from connectomics_zoo.schema.base import Name, Node, Sentence, Size
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.training import TrainingSpec

REQUIRED = "???"
"""Stands in an experiment, or in a run that was given away, for what the user must give."""

Range = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]], Field(strict=False)]
"""Half-open range of voxel indices, [first, last + 1]."""

DeclaredVoxelSize = Annotated[
    tuple[
        Annotated[float, Field(gt=0, le=1e6)],
        Annotated[float, Field(gt=0, le=1e6)],
        Annotated[float, Field(gt=0, le=1e6)],
    ],
    Field(strict=False),
]
"""Edge lengths of a voxel in nanometres, (z, y, x)."""

LabelPlace = Annotated[str, Field(min_length=1)]
LabelPlaces = Annotated[dict[Name, LabelPlace], Field(min_length=1)]
"""Places of label volumes, by the names that the task has for them."""

Views = Literal["one", "flips", "flips_and_turns"]
Merge = Literal["mean", "min"]


class Region(Node):
    """A box in a volume, in the volume's own voxels; an axis left out is taken whole."""

    z: Range | None = None
    """Sections, [first, last + 1]."""
    y: Range | None = None
    """Rows, [first, last + 1]."""
    x: Range | None = None
    """Columns, [first, last + 1]."""


class VolumePair(Node):
    """An image volume and its labels."""

    image: Annotated[str, Field(min_length=1)]
    """`file.h5:dataset`, `file.tif`, `volume.zarr:array`, or as docs/volumes.md has it; below `data.root`, if given."""
    label: LabelPlace | LabelPlaces
    """The label volume, of the same shape; or where the task names several, the place of each by its name."""
    annotated: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)] | None = None
    """The channels of the task that its labels annotate; without it, all. What is not annotated counts in no loss and
    no score, nor do voxels labelled as such a class; in a softmax, what is none of the annotated classes is one of the
    others, or background unless that is annotated."""
    mask: Annotated[str, Field(min_length=1)] | None = None
    """A volume that is 0 where the labels are not annotated; these voxels count in no loss and no score."""
    region: Region = Region()
    """The part that is used."""
    regions: Annotated[tuple[Region, ...], Field(strict=False, min_length=1)] | None = None
    """The annotated boxes of that part, where not all of it is: labels outside count in no loss and no score, and are
    not read; the image around is context."""
    weight: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Its share of the training patches, relative to the others'; without one, the voxels of its part, or those
    that are annotated where few are."""

    @field_validator("label", mode="before")
    @classmethod
    def _is_one_place_or_several(cls, value: Any) -> Any:
        places = value.values() if isinstance(value, dict) else [value]
        if not places or not all(isinstance(place, str) and place for place in places):
            raise ValueError("must be a place, FILE:DATASET, or where a task names several, the place of each by name")
        return value

    @property
    def label_places(self) -> dict[str | None, str]:
        """The places of its label volumes by name, None for one alone."""
        return {None: self.label} if isinstance(self.label, str) else dict(self.label.items())

    @property
    def label_text(self) -> str:
        """Its label volumes, for people."""
        return ", ".join(self.label_places.values())

    @property
    def places(self) -> tuple[str, ...]:
        """The places of its volumes."""
        return (self.image, *self.label_places.values(), *(() if self.mask is None else (self.mask,)))


class DataSpec(Node):
    """The volumes of an experiment."""

    root: str | None = None
    """Folder of the volumes; `???` marks one that must be given (`data.root=FOLDER`)."""
    train: Annotated[tuple[VolumePair, ...], Field(strict=False)] = ()
    """Volumes to train on."""
    validation: Annotated[tuple[VolumePair, ...], Field(strict=False)] = ()
    """Volumes to validate on; `auto` stands for `hold_out: auto`."""
    hold_out: Annotated[int, Field(ge=0, le=1_000_000)] | Literal["auto"] | None = None
    """Which annotated region of `train` is validated on instead, counted from 0 over all its volumes (a volume without
    regions is one); `auto`: about a fifth of the annotated voxels, in whole regions or as a slab. In a run,
    `validation` has it."""
    voxel_size_nm: DeclaredVoxelSize | None = None
    """Voxel size (z, y, x) in nanometres, where the files do not say it."""
    downsample: Annotated[
        tuple[
            Annotated[int, Field(ge=1, le=64)],
            Annotated[int, Field(ge=1, le=64)],
            Annotated[int, Field(ge=1, le=64)],
        ],
        Field(strict=False),
    ] = (1, 1, 1)
    """Volume voxels per network voxel (z, y, x): images are averaged, labels decided by majority, and
    predictions interpolated back."""
    network_voxel_size_nm: DeclaredVoxelSize | None = None
    """Voxel size (z, y, x) in nanometres that the network sees, in place of `downsample`: volumes of any voxel size are
    resampled to it as they are read, and predictions come back on their own grid."""
    unlabelled: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = None
    """The label of voxels that are not annotated; these count in no loss and no score."""
    background: Annotated[int, Field(ge=1, le=2**64 - 1)] | None = None
    """The label that is background, beside 0, as 1 in scribbles whose 0 means that nobody looked (`unlabelled: 0`)."""
    intensity_range: Annotated[tuple[float, float], Field(strict=False)] | None = None
    """Grey values that become 0 and 1; without it, the range of the integer type, or 0 to 1 for floats."""
    license: Sentence | None = None
    """Licence of the data."""
    attribution: Sentence | None = None
    """Whom to credit for the data."""

    @property
    def folder(self) -> Path | None:
        """The folder of the volumes, `root` with `~` resolved; None where none is given."""
        return None if self.root is None else Path(self.root).expanduser()

    @property
    def network_voxel_nm(self) -> tuple[float, float, float] | None:
        """Edges (z, y, x) of a network voxel in nanometres, None where the voxel size is not known."""
        if self.network_voxel_size_nm is not None:
            return self.network_voxel_size_nm
        if self.voxel_size_nm is None:
            return None
        z, y, x = (edge * factor for edge, factor in zip(self.voxel_size_nm, self.downsample, strict=True))
        return z, y, x

    @model_validator(mode="before")
    @classmethod
    def _one_volume_may_stand_for_a_list(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if isinstance(value.get("validation"), str):
                if value["validation"] != "auto":
                    raise ValueError(f"validation is {value['validation']!r}, give volumes or auto")
                if value.get("hold_out") not in (None, "auto"):
                    raise ValueError(
                        f"validation is auto and hold_out {value['hold_out']}, and both say which regions are held "
                        "out: leave one of them out (hold_out: null or validation: [])"
                    )
                value = {key: item for key, item in value.items() if key != "validation"} | {"hold_out": "auto"}
            value = {
                key: [item] if key in ("train", "validation") and isinstance(item, dict) else item
                for key, item in value.items()
            }
        return value

    @model_validator(mode="after")
    def _validated_on_one(self) -> DataSpec:
        if self.hold_out is not None and self.validation:
            raise ValueError(
                f"hold_out {self.hold_out} takes regions of the training volumes and validation names volumes, leave "
                "one of them out (hold_out: null or validation: [])"
            )
        return self

    @model_validator(mode="after")
    def _background_is_annotated(self) -> DataSpec:
        if self.background is not None and self.background == self.unlabelled:
            raise ValueError(f"background and unlabelled are both {self.background}, and a voxel is one of them")
        return self

    @model_validator(mode="after")
    def _ordered_range(self) -> DataSpec:
        if self.intensity_range is not None and not self.intensity_range[0] < self.intensity_range[1]:
            raise ValueError(f"intensity_range {list(self.intensity_range)} is empty, give [low, high] with low < high")
        return self

    @model_validator(mode="after")
    def _said_once(self) -> DataSpec:
        if self.network_voxel_size_nm is not None and max(self.downsample) > 1:
            raise ValueError(
                f"network_voxel_size_nm {list(self.network_voxel_size_nm)} and downsample {list(self.downsample)} both "
                "say what a network voxel is: leave one of them out (downsample: [1, 1, 1])"
            )
        return self


class PredictionSpec(Node):
    """How a volume is predicted: MedNeXt normalises per window, so a run pins its window."""

    window: Size | None = None
    """Window in network voxels (z, y, x); without it, the training patch."""
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.5
    """Fraction of a window that it shares with the next one along each axis."""
    views: Views = "one"
    """Views of each window that are predicted and merged: as it is, its flips, or these and the turns by 90 degrees
    within a section."""
    merge: Merge = "mean"
    """How the views are merged."""


if TYPE_CHECKING:

    class TrainingChanges(Node):
        """What the experiment changes of its model's training recipe."""
else:
    # The same fields as TrainingSpec, all optional.
    TrainingChanges = create_model(
        "TrainingChanges",
        __base__=Node,
        __doc__="What the experiment changes of its model's training recipe.",
        **{
            name: (Optional[field.rebuild_annotation()], None)  # noqa: UP045
            for name, field in TrainingSpec.model_fields.items()
        },
    )


class ExperimentSpec(Node):
    """A whole run: model + task + data + training."""

    schema_version: Literal[1]
    """Version of this format."""
    name: Name
    """Name of the experiment; also the stem of its file in a catalogue."""
    summary: Sentence
    """What the experiment is, in one sentence."""
    model: Annotated[str, Field(min_length=1)]
    """Reference of the model (`mednext-S`, `mednext-S@1.0.0`, a path)."""
    task: Annotated[str, Field(min_length=1)]
    """Name or path of the task."""
    arch: dict[str, Any] = {}
    """What the experiment changes of the model's `arch`."""
    init_from: Annotated[str, Field(min_length=1)] | None = None
    """Weights to start from: a reference with weights (`name.tag`, `hf://…`, a run folder) or a safetensors file."""
    data: DataSpec
    """The volumes."""
    training: TrainingChanges = TrainingChanges()
    """What the experiment changes of the model's recipe."""
    prediction: PredictionSpec = PredictionSpec()
    """How volumes are predicted."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """What the experiment takes instead of the task's `decode.threshold`, as chosen on validation data."""


class RunSpec(Node):
    """An experiment with everything resolved: what `zoo train` runs, and what a run folder holds."""

    schema_version: Literal[1]
    """Version of this format."""
    kind: Literal["run"]
    """Tells a run's spec from a model's."""
    name: Name
    """Name of the run: the experiment's, or model and task."""
    model: ModelSpec
    """The complete model, with the channels that the task needs."""
    task: TaskSpec
    """The complete task."""
    init_from: Annotated[str, Field(min_length=1)] | None = None
    """The weights that it started from, None for a fresh initialisation."""
    data: DataSpec
    """The volumes."""
    training: TrainingSpec
    """The complete recipe."""
    prediction: PredictionSpec
    """How volumes are predicted; the window is always stated."""
    versions: dict[str, str] = {}
    """Versions of python, torch and this package that made the run."""
    trained_on: Annotated[str, Field(min_length=1)] | None = None
    """The device, and the arithmetic in it, which may not be what `training.precision` asks for: `cpu, 32-true`."""

    @property
    def window(self) -> tuple[int, ...]:
        """Window of its predictions in network voxels: the one that is stated, else the training patch."""
        return self.prediction.window or self.training.patch_size

    @model_validator(mode="before")
    @classmethod
    def _threshold_of_argmax(cls, value: Any) -> Any:
        """Take runs from before `decode.threshold` was refused where it has no effect."""
        match value:
            case {"task": {"decode": {"method": "argmax", "threshold": _, **others}, **task}}:
                return {**value, "task": {**task, "decode": {"method": "argmax", **others}}}
        return value


Spec = ModelSpec | TaskSpec | ExperimentSpec | RunSpec
"""What a spec file holds, one of these kinds."""
