"""What a spec declares, held against what was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from connectomics_zoo.schema.model import Expectation, Probe

Level = Literal["schema", "build", "forward", "weights"]


@dataclass(frozen=True)
class Check:
    """One declaration, and what was found."""

    path: str
    """The declaration: the path of a field in the spec (`outputs[1].stride`), or what else was checked."""
    ok: bool
    """Whether it holds."""
    declared: Any = None
    """The declared value, as plain data."""
    measured: Any = None
    """The value that was found, as plain data."""
    note: str = ""
    """What the values alone do not say: how it was measured, or the text of an error."""
    level: Level = "schema"
    """The level that made the check."""
    is_score: bool = False
    """Whether a score on data is declared."""
    skipped: bool = False
    """Whether it could not be checked, for the reason in `note`."""

    def describe(self) -> str:
        """The check in one line."""
        values = [
            f"{label} {_short(value)}"
            for label, value in (("declared", self.declared), ("measured", self.measured))
            if value is not None
        ]
        parts = [part for part in (", ".join(values), self.note) if part]
        return f"{self.path}: {'; '.join(parts) or 'ok'}"


def equal(path: str, declared: Any, measured: Any, note: str = "") -> Check:
    """Return the check that `declared` is exactly what was `measured`; `note` is kept where it is not."""
    ok = declared == measured
    return Check(path, ok, declared, measured, "" if ok else note)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else text[:157] + "..."


def compare_counts(declared: Expectation, measured: Expectation) -> Iterator[Check]:
    """Yield the comparison of counts and fingerprints."""
    for name in ("training", "inference"):
        yield equal(f"expect.parameters.{name}", getattr(declared.parameters, name), getattr(measured.parameters, name))
    yield equal("expect.buffers", declared.buffers, measured.buffers)
    yield equal("expect.fingerprint", declared.fingerprint, measured.fingerprint)


RELATIVE_TOLERANCE = 1e-3
"""Of a probe's numbers, relative to the declared one: what different machines' arithmetic needs."""


ABSOLUTE_TOLERANCE = 1e-5
"""Of a probe's elements, relative to the output's root mean square: for elements near zero."""


def compare_probe(declared: Probe, measured: Probe) -> Iterator[Check]:
    """Yield the comparison of two probes at the same input, number by number."""
    for name, output in measured.outputs.items():
        path = f"expect.probe.outputs.{name}"
        if name not in declared.outputs:
            yield Check(path, ok=False, measured=output.model_dump(mode="json"), note="not declared")
            continue
        given = declared.outputs[name]
        yield _close(f"{path}.rms", given.rms, output.rms, scale=0.0)
        yield equal(f"{path}.values", len(given.values), len(output.values), "number of values")
        for index, (value, found) in enumerate(zip(given.values, output.values, strict=False)):
            yield _close(f"{path}.values[{index}]", value, found, scale=output.rms)
    for name in declared.outputs.keys() - measured.outputs.keys():
        yield Check(f"expect.probe.outputs.{name}", ok=False, note="the network has no such output")


def _close(path: str, declared: float, measured: float, *, scale: float) -> Check:
    allowed = RELATIVE_TOLERANCE * abs(declared) + ABSOLUTE_TOLERANCE * scale
    ok = math.isfinite(measured) and abs(measured - declared) <= allowed
    return Check(path, ok, declared, measured, "" if ok else f"allowed difference {allowed:.2g}")
