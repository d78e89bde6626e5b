"""What a verification found: declaration by declaration, as data or JUnit XML."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from connectomics_zoo.schema.report import Report, Table
from connectomics_zoo.specs.expectation import Check, Level

LEVELS: tuple[Level, ...] = ("schema", "build", "forward", "weights")
"""Each level includes the ones before it."""


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
class VerifyReport(Report):
    """The reports of all verified specs."""

    level: Level
    """The level that was asked for."""
    models: tuple[ModelReport, ...]
    """One report for each spec, in the order of the catalogues."""

    @property
    def passed(self) -> bool:
        """Whether every check of every model holds, and there was a model."""
        return bool(self.models) and all(model.passed for model in self.models)

    def table(self) -> Table:
        """Return a row for each spec."""
        rows = [
            (
                model.name,
                model.version or "-",
                self.level,
                str(len(model.checks)),
                f"{model.seconds:.1f}",
                _result(model, self.level),
            )
            for model in self.models
        ]
        return Table(("model", "version", "level", "checks", "seconds", "result"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as data: `passed`, `level`, and for each model its checks."""
        return {
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


def _result(model: ModelReport, level: Level) -> str:
    if not model.passed:
        return f"{len(model.failures)} failed"
    return "passed, has no weights" if level == "weights" and not _has_weights(model) else "passed"


def _has_weights(model: ModelReport) -> bool:
    return any(check.level == "weights" and not check.skipped for check in model.checks)
