"""The pytest plug-in: `pytest --zoo NAME` adds an item for each promise of a catalogue; else it does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from connectomics_zoo.conformance.run import Case


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the one option."""
    parser.getgroup("connectomics-zoo").addoption(
        "--zoo",
        action="append",
        default=[],
        metavar="CATALOGUE",
        help="check all that this catalogue of connectomics-zoo promises: models, tasks, experiments and builders; "
        "may be repeated.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the items of each catalogue before the others, where -k and the like may still leave some out."""
    names: list[str] = list(dict.fromkeys(config.getoption("--zoo")))
    found: list[pytest.Item] = []
    for name in names:
        collector = _Catalogue.from_parent(session, name=name, nodeid=f"zoo:{name}")
        report = session.ihook.pytest_make_collect_report(collector=collector)
        session.ihook.pytest_collectreport(report=report)
        found += report.result
    items[:0] = found


class _BrokenError(Exception):
    """A promise that does not hold, in sentences."""


class _Promise(pytest.Item):
    """One check of one model, task, experiment or builder."""

    def __init__(self, *, case: Case, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._case = case

    def runtest(self) -> None:
        """Run the check.

        Raises:
            _BrokenError: the promise does not hold.
        """
        problems = self._case.problems()
        if problems:
            raise _BrokenError("\n".join(problems))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the sentences alone; nobody looks for the mistake in the check."""
        return str(excinfo.value) if isinstance(excinfo.value, _BrokenError) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Return where the item comes from, and how it is called."""
        return self.path, None, self.name


class _Catalogue(pytest.Collector):
    """A catalogue, whose items are its promises."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the items.

        Raises:
            CollectError: there is no such catalogue.
        """
        from connectomics_zoo.conformance.run import cases
        from connectomics_zoo.errors import ZooError

        try:
            found = cases(self.name)
        except ZooError as error:
            raise self.CollectError(f"--zoo {self.name}: {error}") from None
        for case in found:
            yield _Promise.from_parent(self, name=f"{case.subject}::{case.check}", case=case)
