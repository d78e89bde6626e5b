"""A model of a catalogue whose promises are checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from connectomics_zoo.catalog import Entry
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.validation import validate

ON_NETWORK = (
    "counts",
    "fingerprint",
    "probe",
    "legal-sizes",
    "illegal-sizes",
    "deep-supervision",
    "evaluation",
    "gradients",
    "safetensors",
    "determinism",
)
"""What is checked of every network, of which collecting must know without importing torch."""


@dataclass(frozen=True, eq=False)
class Model:
    """One version of a model, read when it is first asked for."""

    entry: Entry

    @cached_property
    def spec(self) -> ModelSpec:
        """The complete spec.

        Raises:
            SpecError: the file is none.
        """
        return validate(ModelSpec, read_yaml(self.entry.path), source=self.entry.path.name)

    @property
    def name(self) -> str:
        """Its name, with the version of one that is not current."""
        return self.entry.path.stem
