"""`cases`: what a catalogue promises, as checks that each run on their own and say in sentences what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from connectomics_zoo import catalog
from connectomics_zoo.catalog import Catalog
from connectomics_zoo.conformance import spec_checks
from connectomics_zoo.conformance.subject import ON_NETWORK, Model
from connectomics_zoo.errors import SpecError, UnknownNameError, reason

Check = Callable[[], list[str]]
"""Returns what is wrong, one sentence each; an exception is one, too."""


@dataclass(frozen=True)
class Case:
    """One promise of a catalogue."""

    subject: str
    """What makes it: `catalogue`, `net@1.0.0`, `task:mito`, `experiment:vnc-mito` or `builder:net`."""
    check: str
    """What is promised, in a word or two."""
    run: Check
    """Finds out."""

    def problems(self) -> list[str]:
        """Return what is wrong, one sentence each; nothing where the promise holds."""
        try:
            return self.run()
        except Exception as error:
            return [f"{self.subject}: {self.check} cannot be checked ({type(error).__name__}: {reason(error)})."]


def cases(name: str) -> list[Case]:
    """Return everything that the catalogue called `name` promises; nothing of its code runs before a case does.

    Raises:
        UnknownNameError: there is no such catalogue.
        SpecError: it is left out, or has nothing.
    """
    home = _home(name)
    found = [Case("catalogue", "files", partial(spec_checks.files, home))]
    for file in catalog.builder_files(home):
        builder = file.path.stem
        found += [
            Case(f"builder:{builder}", "imports-without-torch", partial(spec_checks.light_builder, builder)),
            Case(f"builder:{builder}", "describes-its-fields", partial(spec_checks.builder_schema, builder)),
        ]
    for entry in catalog.entries("model"):
        if entry.catalog == home:
            found += _cases_of(Model(entry))
    for kind, check in (("task", spec_checks.task), ("experiment", spec_checks.experiment)):
        found += [
            Case(f"{kind}:{entry.name}", what, partial(run, entry))
            for entry in catalog.entries("task" if kind == "task" else "experiment")
            if entry.catalog == home
            for what, run in (("schema", check), ("name", spec_checks.own_name))
        ]
    return found


def _home(name: str) -> Catalog:
    for item in catalog.find_homes().left_out:
        if item.name == name and name not in {home.name for home in catalog.catalogs()}:
            raise SpecError(item.problem)
    try:
        return catalog.catalog_named(name)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} Is its package installed, or its folder in {catalog.PATH_VARIABLE}?") from None


def _cases_of(model: Model) -> list[Case]:
    """Return the cases of one version of a model."""
    on_spec = {
        "schema": spec_checks.schema,
        "lock": spec_checks.lock,
        "name": lambda subject: spec_checks.own_name(subject.entry),
        "licence-and-citation": spec_checks.licence,
    }
    found = [Case(model.name, what, partial(check, model)) for what, check in on_spec.items()]
    return found + [Case(model.name, what, partial(_on_network, what, model)) for what in ON_NETWORK]


def _on_network(what: str, model: Model) -> list[str]:
    from connectomics_zoo.conformance import network_checks  # imports torch, which collecting must not

    return network_checks.CHECKS[what](model)
