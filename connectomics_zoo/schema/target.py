"""`TargetSpec`: how a channel's target is made of labels, and which targets exclude each other."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field, model_validator

from connectomics_zoo.schema.base import Name, Node

Offset = Annotated[
    tuple[
        Annotated[int, Field(ge=-512, le=512)],
        Annotated[int, Field(ge=-512, le=512)],
        Annotated[int, Field(ge=-512, le=512)],
    ],
    Field(strict=False),
]
"""A step from one voxel to another, signed, in voxels along the axes that the task's `affinities` say."""

LabelId = Annotated[int, Field(ge=0, le=2**64 - 1)]
"""A label, 0 for background."""

TARGET_FIELDS: dict[str, tuple[str, ...]] = {
    "foreground": (),
    "background": (),
    "class": ("labels",),
    "boundary": (),
    "value": (),
    "presynapse": (),
    "postsynapse": (),
    "distance": (),
    "affinity": ("offset", "attractive"),
    "lsd": ("component", "sigma_nm"),
}
"""The fields that each kind of target needs, and that no other has."""

LATER_FIELDS = ("labels", "volume")
"""Fields that came after jobs were begun whose identity has the others, null ones as well."""

CONTINUOUS_TARGETS = ("value", "distance", "lsd")
"""The kinds of target that are a number, not yes or no."""

EXCLUSIVE_TARGETS = tuple(
    frozenset(pair)
    for pair in (
        ("background", "foreground"),
        ("background", "presynapse"),
        ("background", "postsynapse"),
        ("presynapse", "postsynapse"),
    )
)
"""The kinds of target of which a voxel is never both; a softmax says that it is one of them alone. A `class` excludes
whatever none of its labels is."""


class TargetSpec(Node):
    """How a channel's target is made from a label volume."""

    kind: Literal[
        "foreground",
        "background",
        "class",
        "boundary",
        "value",
        "presynapse",
        "postsynapse",
        "distance",
        "affinity",
        "lsd",
    ]
    """`foreground`: label > 0; `background`: label = 0; `class`: the label is one of `labels`; `boundary`: voxels at a
    face between two labels (within a section where the volume is anisotropic); `value`: the label itself, a number in
    0..1; `presynapse` and `postsynapse`: odd labels, and even ones but 0; `distance`: in an object, the distance to its
    edge over the largest one in it, outside -1; `affinity`: whether two voxels are of one object; `lsd`: one number
    of the local shape descriptors."""
    labels: Annotated[tuple[LabelId, ...], Field(strict=False, min_length=1, max_length=1024)] | None = None
    """Of a class: the labels that make it; with 0 among them, it is what is left beside the other classes."""
    volume: Name | None = None
    """Which of a pair's label volumes the target is made of (`data.train.label.NAME`), where it has several."""
    offset: Offset | None = None
    """Of an affinity: from its source to its destination."""
    attractive: bool | None = None
    """Of an affinity: whether it joins voxels; one that is not keeps them apart (long ranges, in a mutex watershed)."""
    component: (
        Literal[
            "offset_z",
            "offset_y",
            "offset_x",
            "variance_z",
            "variance_y",
            "variance_x",
            "pearson_zy",
            "pearson_zx",
            "pearson_yx",
            "size",
        ]
        | None
    ) = None
    """Of a shape descriptor: which of its ten numbers, scaled to 0..1 (Sheridan et al. 2023)."""
    sigma_nm: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Of a shape descriptor: width of the Gaussian window, in nanometres."""

    @model_validator(mode="after")
    def _fields_of_kind(self) -> TargetSpec:
        check_fields(self, "kind", self.kind, TARGET_FIELDS)
        if self.offset == (0, 0, 0):
            raise ValueError("offset is [0, 0, 0], a voxel has no affinity with itself")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels {list(self.labels)} has a label twice, leave one out")
        if self.kind == "value" and self.volume is not None:
            raise ValueError("volume has no effect with kind 'value', of which there is one volume: leave it out")
        return self

    @property
    def is_background(self) -> bool:
        """Whether it is what the other targets leave."""
        return self.kind == "background" or (self.labels is not None and 0 in self.labels)

    def excludes(self, other: TargetSpec) -> bool:
        """Whether no voxel can be both."""
        if self.volume != other.volume:
            return False
        if self.labels is not None:
            return not any(other.holds(label) for label in self.labels)
        if other.labels is not None:
            return other.excludes(self)
        return frozenset((self.kind, other.kind)) in EXCLUSIVE_TARGETS

    def holds(self, label: int) -> bool:
        """Whether a voxel with this label may be a yes."""
        if self.labels is not None:
            return label in self.labels
        rules = {
            "background": label == 0,
            "foreground": label > 0,
            "presynapse": label % 2 == 1,
            "postsynapse": label > 0 and label % 2 == 0,
        }
        return rules.get(self.kind, True)


def check_fields(node: Node, what: str, chosen: str, fields: dict[str, tuple[str, ...]]) -> None:
    """Refuse fields that `chosen` does not have, and one that it needs and is missing."""
    own = fields[chosen]
    for name in dict.fromkeys(itertools.chain(*fields.values())):
        given = getattr(node, name) is not None
        if given and name not in own:
            raise ValueError(f"{name} has no effect with {what} {chosen!r}, leave it out")
        if not given and name in own:
            raise ValueError(f"{what} {chosen!r} needs {name}")
