"""`Provenance`: how a prediction on disk came to be, and the labels or objects that were made of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from connectomics_zoo.schema.base import Name, Node
from connectomics_zoo.schema.experiment import PredictionSpec
from connectomics_zoo.schema.task import DecodeSpec
from connectomics_zoo.schema.weights_lock import Digest


class UsedWeights(Node):
    """The weights that something was predicted with."""

    reference: str
    """`name@1.0.0.tag`, `hf://org/repo@<commit>`, or the run folder as it was given."""
    model: str
    """The model that they are of, and its version: `name@1.0.0`."""
    sha256: Digest
    """Digest of their file."""


class Decoding(Node):
    """How labels or objects were made of channels."""

    task: Name
    """The task that the channels are of."""
    decode: DecodeSpec
    """Method and settings."""
    program: str
    """What decoded, and its version."""


class Provenance(Node):
    """How a prediction came to be; what is None is not known."""

    program: str | None = None
    """What predicted, and its version: `connectomics-zoo 0.1.0`."""
    weights: UsedWeights | None = None
    """The trained weights."""
    others: tuple[UsedWeights, ...] | None = Field(default=None, strict=False)
    """Of an ensemble, those of its other members: what is stored is the mean over all."""
    quantity: Literal["spread"] | None = None
    """What is stored where it is not the prediction itself: its `spread`, a standard deviation."""
    prediction: PredictionSpec | None = None
    """Window, overlap, views and how they were merged."""
    precision: Name | None = None
    """In which arithmetic the network computed."""
    job: str | None = None
    """Digest of all that it follows from: two predictions with the same one are the same."""
    decoding: Decoding | None = None
    """Of labels and objects, how they were made of the prediction."""
