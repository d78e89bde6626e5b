"""The catalogues themselves as rows, and what is wrong with those of others; none of their code runs."""

from __future__ import annotations

from collections.abc import Sequence

from connectomics_zoo import catalog
from connectomics_zoo.catalog import Catalog, SpecKind
from connectomics_zoo.catalog.examine import find_problems
from connectomics_zoo.errors import LimitError, SpecError
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.specs.choosing import sort_rows
from connectomics_zoo.specs.listing import Broken, Listing, read_experiment_rows, read_rows, read_task_rows
from connectomics_zoo.specs.rows import CatalogRow


def read_catalog_rows() -> Listing[CatalogRow]:
    """Return a row for every catalogue, those that are left out among them, sorted by name."""
    unreadable = [*read_rows(all_versions=True).broken, *read_task_rows().broken, *read_experiment_rows().broken]
    rows = [_row(home, unreadable) for home in catalog.catalogs()]
    rows += [
        CatalogRow(item.name, item.name, item.name, item.owner, 0, 0, 0, [], [item.problem], item.place)
        for item in catalog.find_homes().left_out
    ]
    return Listing(sort_rows(rows, kind="catalog"), [])


def _row(home: Catalog, unreadable: Sequence[Broken]) -> CatalogRow:
    def count(kind: SpecKind) -> int:
        return sum(entry.catalog == home and entry.version is None for entry in catalog.entries(kind))

    return CatalogRow(
        name=home.name,
        reference=home.name,
        catalog=home.name,
        owner=home.owner.removeprefix("the package ").strip("'") if home.distribution else home.owner,
        models=count("model"),
        tasks=count("task"),
        experiments=count("experiment"),
        builders=[file.path.stem for file in catalog.builder_files(home)],
        problems=[
            *([] if home.is_builtin else [*find_problems(home), *_without_builder(home)]),
            *(item.reason for item in unreadable if home.folder in item.path.parents),
        ],
        path=str(home.folder),
    )


def plugin_problems() -> list[str]:
    """Return what is wrong with the catalogues of others that are not left out altogether, one sentence each."""
    homes = [home for home in catalog.catalogs() if not home.is_builtin]
    found = [
        problem
        for home in homes
        for problem in [*find_problems(home), *_without_builder(home)]
        if problem != catalog.without_specs(home)  # which is said wherever catalogues are looked for
    ]
    return list(dict.fromkeys(found))


def _without_builder(home: Catalog) -> list[str]:
    """Say of each model whose builder there is not, or that cannot be read, what is wrong with it."""
    problems = []
    for entry in catalog.entries("model"):
        if entry.catalog != home:
            continue
        try:
            name = read_yaml(entry.path).get("builder")
        except (SpecError, LimitError):
            continue  # said by the list of the models
        if isinstance(name, str) and name not in catalog.builders():
            try:
                catalog.find_builder(name)
            except SpecError:
                continue  # said of the builders
            except LookupError as error:
                problems.append(f"the model {entry.name!r} of {home.owner} cannot be built: {error}")
    return problems
