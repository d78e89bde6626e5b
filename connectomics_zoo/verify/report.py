"""What a verification found: declaration by declaration, as data, JSON or JUnit XML."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

Level = Literal["schema", "build", "forward", "weights"]

LEVELS: tuple[Level, ...] = ("schema", "build", "forward", "weights")
"""Each level includes the ones before it."""


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


def collect(level: Level, path: str, checks: Iterable[Check]) -> Iterator[Check]:
    """Yield what the generator `checks` finds; an exception in it ends it alone, as a failed check of `path`."""
    try:
        for check in checks:
            yield dataclasses.replace(check, level=level)
    except Exception as error:
        text = str(error).strip().split("\n")[0]
        yield Check(path, ok=False, note=f"{type(error).__name__}: {text}", level=level)


@dataclass(frozen=True)
class ModelReport:
    """The checks of one spec."""

    name: str
    """The model's name, or the path of the file that could not be read."""
    version: str
    """The spec's version, empty where it could not be read."""
    source: str
    """Where the spec comes from: `catalogue:name@version`, or the path of a file."""
    checks: tuple[Check, ...]
    """Everything that was checked, in order."""
    seconds: float
    """How long it took."""

    @property
    def passed(self) -> bool:
        """Whether every check holds, and there was one."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.ok)

    @property
    def unmeasured(self) -> tuple[Check, ...]:
        """Declared scores that were to be measured again, and could not."""
        return tuple(check for check in self.checks if check.skipped)

    @property
    def measured(self) -> tuple[Check, ...]:
        """Declared scores that were measured again."""
        return tuple(check for check in self.checks if check.is_score and not check.skipped)


@dataclass(frozen=True)
class VerifyReport:
    """The reports of all verified specs."""

    level: Level
    """The level that was asked for."""
    models: tuple[ModelReport, ...]
    """One report for each spec, in the order of the catalogues."""

    @property
    def passed(self) -> bool:
        """Whether every check of every model holds, and there was a model."""
        return bool(self.models) and all(model.passed for model in self.models)

    def to_json(self) -> str:
        """Return the report as JSON: `passed`, `level`, and for each model its checks."""
        document = {
            "passed": self.passed,
            "level": self.level,
            "models": [
                {
                    "name": model.name,
                    "version": model.version,
                    "source": model.source,
                    "passed": model.passed,
                    "seconds": round(model.seconds, 3),
                    "checks": [dataclasses.asdict(check) for check in model.checks],
                }
                for model in self.models
            ],
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def to_junit(self) -> str:
        """Return the report as JUnit XML: one suite for each model, one case for each check."""
        counts = {
            "tests": str(sum(len(model.checks) for model in self.models)),
            "failures": str(sum(len(model.failures) for model in self.models)),
            "skipped": str(sum(check.ok for model in self.models for check in model.unmeasured)),
        }
        root = ElementTree.Element("testsuites", {"name": f"zoo verify --level {self.level}", **counts})
        for model in self.models:
            suite = ElementTree.SubElement(
                root,
                "testsuite",
                {
                    "name": model.source,
                    "tests": str(len(model.checks)),
                    "failures": str(len(model.failures)),
                    "errors": "0",
                    "skipped": str(sum(check.ok for check in model.unmeasured)),
                    "time": f"{model.seconds:.3f}",
                },
            )
            for check in model.checks:
                name = _xml_safe(f"{check.level}: {check.path}")
                case = ElementTree.SubElement(suite, "testcase", {"classname": model.name, "name": name})
                if check.ok and check.skipped:
                    ElementTree.SubElement(case, "skipped", {"message": _xml_safe(check.describe())})
                if not check.ok:
                    text = _xml_safe(check.describe())
                    ElementTree.SubElement(case, "failure", {"message": text}).text = text
        ElementTree.indent(root)
        document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
        return document.decode() + "\n"


def _xml_safe(text: str) -> str:
    """Leave out the control characters that XML cannot hold."""
    return "".join(character for character in text if character in "\t\n" or character.isprintable())


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else text[:157] + "..."
