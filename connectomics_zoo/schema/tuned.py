"""`TunedDecoding`: how the predictions of a run are decoded best, as found on validation data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from connectomics_zoo.schema.base import Node
from connectomics_zoo.schema.task import DecodeSpec


class TunedDecoding(Node):
    """`decode.yaml` in a run folder; `zoo decode --tune` writes it, and `zoo decode --run` reads it."""

    schema_version: Literal[1]
    """Version of this format."""
    kind: Literal["decode"]
    """Tells it from other specs."""
    decode: DecodeSpec
    """The best settings that were tried."""
    adapted_rand_error: Annotated[float, Field(ge=0, le=1)]
    """Their error."""
    voi: Annotated[float, Field(ge=0)]
    """Their variation of information, in bits."""
    prediction: str
    """What was decoded."""
    truth: str
    """What it was compared with."""
    region: str | None = None
    """The part of the truth, None for all of it."""
