"""What the catalogues hold, as rows: read from YAML and what is recorded beside it, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple

from connectomics_zoo import catalog
from connectomics_zoo.catalog import SpecKind
from connectomics_zoo.errors import LimitError, SpecError, ZooError
from connectomics_zoo.files.safetensors import read_header
from connectomics_zoo.files.yaml import parse_yaml, read_yaml
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.schema.report import Table
from connectomics_zoo.specs.choosing import filter_rows, sort_rows
from connectomics_zoo.specs.costs import Cost, costs_path, read_costs
from connectomics_zoo.specs.exports import Outcome, exports_path, read_exports
from connectomics_zoo.specs.rows import ExperimentRow, ModelRow, Row, TaskRow, WeightsRow

_log = logging.getLogger(__name__)

STATED_PATCH = (128,)
"""Edge of the patch, in voxels or the next legal size, that the memory of training is stated at."""


class Broken(NamedTuple):
    """A file of a catalogue that cannot be listed."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Listing(Generic[Row]):
    """What the catalogues hold of one kind."""

    rows: list[Row]
    broken: list[Broken]


def read_rows(*, all_versions: bool = False, patch: Sequence[int] = STATED_PATCH) -> Listing[ModelRow]:
    """Return a row for every model of every catalogue, sorted by name, and the files that could not be read.

    Args:
        all_versions: also the older versions that lie beside the current ones.
        patch: what the memory of training is stated at, raised to the next legal size: one number, or one an axis.
    """
    costs: dict[str, dict[str, Cost]] = {}
    exports: dict[str, dict[str, dict[str, Outcome]]] = {}
    broken: list[Broken] = []
    for home in catalog.catalogs():
        costs[home.name], exports[home.name] = {}, {}
        try:
            costs[home.name] = read_costs(home)
        except SpecError as error:
            broken.append(Broken(costs_path(home), str(error)))
        try:
            exports[home.name] = read_exports(home)
        except SpecError as error:
            broken.append(Broken(exports_path(home), str(error)))

    def row(entry: catalog.Entry, reference: str, document: dict[str, Any]) -> ModelRow:
        listed = _model_row(entry, reference, document, costs=costs[entry.catalog.name], patch=tuple(patch))
        tried = exports[entry.catalog.name].get(f"{listed.name}@{listed.version}", {})
        return replace(listed, exports={form: outcome.describe() for form, outcome in tried.items()})

    listing = _read("model", lambda *item: [row(*item)], all_versions=all_versions)
    return Listing(listing.rows, [*broken, *listing.broken])


def read_task_rows() -> Listing[TaskRow]:
    """Return a row for every task of every catalogue, sorted by name, and the files that could not be read."""
    return _read("task", lambda *item: [_task_row(*item)], all_versions=False)


def read_experiment_rows() -> Listing[ExperimentRow]:
    """Return a row for every experiment of every catalogue, sorted by name, and the files that could not be read."""
    return _read("experiment", lambda *item: [_experiment_row(*item)], all_versions=False)


def read_weights_rows() -> Listing[WeightsRow]:
    """Return a row for all trained weights of the current models, sorted by name, and the files that were not read."""
    tasks = {row.name: row.summary for row in read_task_rows().rows}
    return _read("model", lambda *item: _weights_rows(*item, tasks=tasks), all_versions=False)


def _read(
    kind: SpecKind, rows_of: Callable[[catalog.Entry, str, dict[str, Any]], list[Row]], *, all_versions: bool
) -> Listing[Row]:
    rows: list[Row] = []
    broken = []
    entries = catalog.entries(kind)
    homes: dict[str, set[str]] = {}
    for entry in entries:
        homes.setdefault(entry.name, set()).add(entry.catalog.name)
    for entry in entries:
        if entry.version is not None and not all_versions:
            continue
        home = f"{entry.catalog.name}:" if len(homes[entry.name]) > 1 else ""
        reference = f"{home}{entry.name}" + (f"@{entry.version}" if entry.version else "")
        try:
            rows += rows_of(entry, reference, read_yaml(entry.path))
        except (SpecError, LimitError) as error:
            broken.append(Broken(entry.path, str(error)))
    return Listing(sort_rows(rows), broken)


def _model_row(
    entry: catalog.Entry, reference: str, document: dict[str, Any], *, costs: dict[str, Cost], patch: tuple[int, ...]
) -> ModelRow:
    def take(path: str, kind: type) -> Any:
        return _take(document, path, kind, source=entry.path)

    measured = document.get("expect") is not None
    costed = measured and take("expect", dict).get("flops") is not None
    outputs = take("outputs", list)
    row = ModelRow(
        name=entry.name,
        version=take("version", str),
        reference=reference,
        catalog=entry.catalog.name,
        family=take("family", str),
        builder=take("builder", str),
        summary=take("summary", str),
        parameters=take("expect.parameters.training", int) if measured else None,
        training_bytes=None,
        training_patch=None,
        training_precision=None,
        receptive_field=None,
        parameters_inference=take("expect.parameters.inference", int) if measured else None,
        gflops=take("expect.flops.total", int) / 1e9 if costed else None,
        flops_input=_take_sizes(document, "expect.flops.input_shape", source=entry.path) if costed else None,
        scales=len(outputs),
        deep_supervision=len(outputs) > 1,
        axes=take("input.axes", str),
        input_channels=take("input.channels", int),
        output_channels=take("outputs.0.channels", int),
        minimum=_take_sizes(document, "input.size.minimum", source=entry.path),
        step=_take_sizes(document, "input.size.step", source=entry.path),
        weights=list(take("weights", dict)) if document.get("weights") is not None else [],
        tasks=_tasks_of(document),
        exports={},
        license=take("source.license", str),
        path=str(entry.path),
    )
    cost = costs.get(f"{row.name}@{row.version}")
    return row if cost is None else _with_cost(row, cost, patch)


def _with_cost(row: ModelRow, cost: Cost, patch: tuple[int, ...]) -> ModelRow:
    size = _legal(patch, row.minimum, row.step)
    return replace(
        row,
        training_bytes=None if size is None else cost.training_bytes(size),
        training_patch=size,
        training_precision=cost.precision,
        receptive_field=list(cost.receptive_field) or None,
    )


def _tasks_of(document: dict[str, Any]) -> list[str]:
    entries = [item for item in (document.get("weights") or {}).values() if isinstance(item, dict)]
    return sorted({str(item["task"]) for item in entries if "task" in item})


def _legal(patch: tuple[int, ...], minimum: list[int], step: list[int]) -> list[int] | None:
    """Return the smallest legal size from `patch` on, or the only one; None where `patch` has other axes."""
    if len(patch) not in (1, len(minimum)):
        return None
    edges = patch * len(minimum) if len(patch) == 1 else patch
    return [
        low if low + gap > MAX_EDGE else low + max(0, -(-(edge - low) // gap)) * gap
        for edge, low, gap in zip(edges, minimum, step, strict=True)
    ]


def _weights_rows(
    entry: catalog.Entry, reference: str, document: dict[str, Any], *, tasks: dict[str, str]
) -> list[WeightsRow]:
    rows = []
    for tag, item in (document.get("weights") or {}).items():
        task = _take(document, f"weights.{tag}.task", str, source=entry.path)
        rows.append(
            WeightsRow(
                name=f"{entry.name}.{tag}",
                reference=f"{reference}.{tag}",
                catalog=entry.catalog.name,
                model=entry.name,
                task=task,
                finds=tasks.get(task, task),
                voxel_size_nm=_voxel_size(entry.path.parent / str(item.get("file", ""))),
                scores=dict(item.get("metrics") or {}),
                dataset=_take(document, f"weights.{tag}.dataset", str, source=entry.path),
                split=item.get("split"),
                license=_take(document, f"weights.{tag}.license", str, source=entry.path),
                path=str(entry.path),
            )
        )
    return rows


def _voxel_size(file: Path) -> list[float] | None:
    """Return the edges of a network voxel as the spec in a weights file has them; None where it lies elsewhere."""
    if not file.is_file():
        return None
    try:
        text = read_header(file).metadata.get("spec")
        data = {} if text is None else parse_yaml(text, source=str(file)).get("data", {})
    except ZooError:
        return None  # zoo verify says what is wrong with it
    if data.get("network_voxel_size_nm") is not None:
        return list(data["network_voxel_size_nm"])
    edges, factors = data.get("voxel_size_nm"), data.get("downsample", (1, 1, 1))
    return None if edges is None else [edge * factor for edge, factor in zip(edges, factors, strict=True)]


def _task_row(entry: catalog.Entry, reference: str, document: dict[str, Any]) -> TaskRow:
    def take(path: str, kind: type) -> Any:
        return _take(document, path, kind, source=entry.path)

    channels = range(len(take("channels", list)))
    return TaskRow(
        name=entry.name,
        reference=reference,
        catalog=entry.catalog.name,
        summary=take("summary", str),
        channels=[take(f"channels.{index}.name", str) for index in channels],
        targets=[take(f"channels.{index}.target.kind", str) for index in channels],
        decoding=take("decode.method", str),
        metrics=[take(f"metrics.{index}", str) for index in range(len(take("metrics", list)))],
        path=str(entry.path),
    )


def _experiment_row(entry: catalog.Entry, reference: str, document: dict[str, Any]) -> ExperimentRow:
    def take(path: str) -> Any:
        return _take(document, path, str, source=entry.path)

    return ExperimentRow(
        name=entry.name,
        reference=reference,
        catalog=entry.catalog.name,
        summary=take("summary"),
        model=take("model"),
        task=take("task"),
        path=str(entry.path),
    )


def _take(document: dict[str, Any], path: str, kind: type, *, source: Path) -> Any:
    """Return the value at `path` (`outputs.0.channels`); what is missing or mistyped is an error naming the file."""
    value: Any = document
    for part in path.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            raise SpecError(f"{source}: {path} is missing, every spec of this kind has it.")
    if type(value) is not kind:
        raise SpecError(f"{source}: {path} is {value!r}, it must be of the type {kind.__name__}.")
    return value


def _take_sizes(document: dict[str, Any], path: str, *, source: Path) -> list[int]:
    value: list[int] = _take(document, path, list, source=source)
    if not value or any(type(item) is not int for item in value):
        raise SpecError(f"{source}: {path} is {value!r}, it must be a list of whole numbers.")
    return value


class ModelList(list[str]):
    """References of models, which a notebook shows as a table of what they are."""

    def __init__(self, rows: Sequence[ModelRow]) -> None:
        super().__init__(row.reference for row in rows)
        self._rows = tuple(rows)

    def table(self) -> Table:
        """Return a row for each model."""
        return Table(
            ("model", "family", "parameters", "scales", "weights", "licence"),
            [
                (
                    row.reference,
                    row.family,
                    "not measured" if row.parameters is None else f"{row.parameters:,}",
                    str(row.scales),
                    ", ".join(row.weights),
                    row.license,
                )
                for row in self._rows
            ],
        )

    def _repr_html_(self) -> str:
        return self.table().to_html()


def list_models(pattern: str = "*", *, family: str | None = None, where: str = "", sort: str = "name") -> ModelList:
    """Return the references of the models that all arguments select: a list, which a notebook shows as a table.

    A file that cannot be read is left out, with a warning in the log.

    Args:
        pattern: a glob over the name or the family, in any case: `mednext*`, `*-k5`, `monai`.
        family: the family, exactly.
        where: an expression over the fields of `ModelRow`: `parameters < 20e6 and deep_supervision`.
        sort: the field to sort by, `-field` for descending.

    Raises:
        UnknownNameError: `where` or `sort` names a field that there is not.
        ZooError: `where` is no expression.
    """
    listing = read_rows()
    for path, reason in listing.broken:
        _log.warning("%s is left out of the list: %s", path, reason)
    return ModelList(sort_rows(filter_rows(listing.rows, pattern=pattern, family=family, where=where), by=sort))
