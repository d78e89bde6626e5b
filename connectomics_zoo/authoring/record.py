"""Records what nobody types: `expect` in the spec files, the lock, and the committed JSON Schemas.

Everything is planned first, as the texts that the files will have; `write` then puts them in place. A released
network is never changed in passing: that is refused, unless `relock` asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectomics_zoo.catalog import Catalog
from connectomics_zoo.errors import SpecError
from connectomics_zoo.export.run import try_formats
from connectomics_zoo.files.changes import FileChange
from connectomics_zoo.files.yaml import parse_yaml, read_yaml
from connectomics_zoo.files.yaml_blocks import replace_block
from connectomics_zoo.fit.run import measure_cost
from connectomics_zoo.network.build import measure_expectation
from connectomics_zoo.schema.json_schema import TYPES, schema_text
from connectomics_zoo.schema.model import Expectation, ModelSpec
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs import releases
from connectomics_zoo.specs.content import digest, plain
from connectomics_zoo.specs.costs import costs_path, costs_text, read_costs
from connectomics_zoo.specs.expectation import compare_counts, compare_probe, equal
from connectomics_zoo.specs.exports import exports_path, exports_text, read_exports
from connectomics_zoo.specs.selection import Target, select_specs

SCHEMAS = "specs/schema"
"""Where a catalogue's JSON Schemas lie in its folder."""


@dataclass(frozen=True)
class Plan:
    """What recording would write, and what it refuses to."""

    changes: tuple[FileChange, ...]
    """The files to write."""
    refused: tuple[str, ...]
    """One sentence for each field of a released spec that would change."""


def plan(
    patterns: Sequence[str] = (),
    *,
    relock: bool = False,
    costs: bool = False,
    exports: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Plan:
    """Measure the networks of the chosen specs and return what has to be written; nothing is.

    Args:
        patterns: as in `verify`; every spec of every catalogue without any. A file of the user's gets its
            `expect`; a catalogue also has a lock and schemas.
        costs: also count what those releases cost in memory, and how far they see, that have no costs yet; with
            `relock`, of all of them.
        exports: also export those releases, in each format in which they were not tried yet; with `relock`, in all.
        relock: let released specs change, and (without patterns) forget those whose file is gone.
        progress: is told how many specs are done, before each one and at the end.

    Raises:
        UnknownNameError: a pattern means nothing.
        SpecError: a spec is not valid, or its `expect` is not a block of its own.
    """
    targets = select_specs(patterns)
    changes: list[FileChange] = []
    refused: list[str] = []
    locks = {target.entry.catalog: releases.read_lock(target.entry.catalog) for target in targets if target.entry}
    counted = {home: read_costs(home) for home in locks}
    tried = {home: read_exports(home) for home in locks}
    for index, target in enumerate(targets):
        if progress is not None:
            progress(Progress(index, len(targets), unit="specs", label=target.label))
        spec, spec_changes = _record_expectation(target)
        if target.entry is not None:
            problems = _lock_spec(spec, locks[target.entry.catalog], relock=relock)
            refused += problems
            if problems:
                continue
            known_costs = counted[target.entry.catalog]
            if costs and (relock or spec.reference not in known_costs):
                known_costs[spec.reference] = measure_cost(spec)
            if exports:
                known_exports = tried[target.entry.catalog]
                known_exports[spec.reference] = try_formats(
                    target.path, {} if relock else known_exports.get(spec.reference, {})
                )
        changes += spec_changes
    if progress is not None:
        progress(Progress(len(targets), len(targets), unit="specs"))
    for home, known in locks.items():
        if relock and not patterns:
            for reference in releases.withdrawn(home):
                known.pop(reference, None)
        changes += _changed(releases.lock_path(home), releases.lock_text(known), tuple(_lock_reasons(home, known)))
        if costs:
            changes += _changed(costs_path(home), costs_text(counted[home]), ("what releases cost in memory",))
        if exports:
            changes += _changed(exports_path(home), exports_text(tried[home]), ("formats that releases exist in",))
        for kind in TYPES:
            path = home.folder / SCHEMAS / f"{kind}.schema.json"
            changes += _changed(path, schema_text(kind, home=home.name), ("generated from the types of the specs",))
    return Plan(tuple(changes), tuple(refused))


def _record_expectation(target: Target) -> tuple[ModelSpec, list[FileChange]]:
    """Return the spec with `expect` as it is measured, and the change of its file where that is something new.

    Numbers that agree within the tolerances of `verify` stay: another machine's rounding is no news.
    """
    if target.is_run:
        raise SpecError(f"{target.path}: a run's spec is written by zoo train, record the model's own.")
    spec = validate(ModelSpec, read_yaml(target.path), source=str(target.path))
    measured = measure_expectation(spec)
    reasons = _news(spec.expect, measured)
    if not reasons:
        return spec, []
    text = replace_block(target.path.read_text(encoding="utf-8"), "expect", expect_block(measured))
    recorded = validate(ModelSpec, parse_yaml(text, source=str(target.path)), source=str(target.path))
    assert recorded == spec.model_copy(update={"expect": measured})
    return recorded, [FileChange(target.path, text, tuple(reasons))]


def _news(declared: Expectation | None, measured: Expectation) -> list[str]:
    """Return what of `measured` is not declared yet, one line each."""
    if declared is None:
        return ["expect: recorded"]
    checks = [*compare_counts(declared, measured)]
    checks.append(equal("expect.flops", plain(declared.flops), plain(measured.flops)))
    assert measured.probe is not None
    if declared.probe is None or declared.probe.input_shape != measured.probe.input_shape:
        stated = None if declared.probe is None else list(declared.probe.input_shape)
        checks.append(equal("expect.probe.input_shape", stated, list(measured.probe.input_shape)))
    else:
        checks += compare_probe(declared.probe, measured.probe)
    return [f"{check.path}: {_short(check.declared)} -> {_short(check.measured)}" for check in checks if not check.ok]


def _lock_spec(spec: ModelSpec, known: releases.Lock, *, relock: bool) -> list[str]:
    """Put `spec` into the lock `known`, where it is new or `relock` allows it; return why not, otherwise."""
    released = known.get(spec.reference)
    findings = [] if released is None else releases.compare_release(spec, released)
    if findings and not relock:
        return [
            f"{spec.reference} is released, and {path} would change from {_short(before)} to {_short(after)}: "
            f"restore it, give the spec a new version, or say --relock if nobody has that release yet."
            for path, after, before, _ in findings
        ]
    if findings or released is None:
        known[spec.reference] = releases.content(spec)
    return []


def _lock_reasons(home: Catalog, known: releases.Lock) -> Iterator[str]:
    before = releases.read_lock(home)
    for reference in sorted(before.keys() | known.keys()):
        if reference not in before:
            yield f"{reference}: released"
        elif reference not in known:
            yield f"{reference}: forgotten, its file is gone"
        elif before[reference] != known[reference]:
            yield f"{reference}: relocked, {digest(before[reference])} -> {digest(known[reference])}"


def _changed(path: Path, text: str, reasons: tuple[str, ...]) -> list[FileChange]:
    current = path.read_text(encoding="utf-8") if path.is_file() else None
    return [] if current == text else [FileChange(path, text, reasons)]


def expect_block(expect: Expectation) -> str:
    """Return `expect` as YAML in the style of the catalogue, with where it comes from."""
    lines = [
        "expect:                           # recorded by zoo record from a real build, never typed",
        f"  parameters: {{training: {expect.parameters.training}, inference: {expect.parameters.inference}}}",
        f"  buffers: {expect.buffers}",
        f"  fingerprint: {expect.fingerprint}",
    ]
    if expect.flops is not None:
        lines.append(f"  flops: {{input_shape: {list(expect.flops.input_shape)}, total: {expect.flops.total}}}")
    if expect.probe is not None:
        lines += ["  probe:", f"    input_shape: {list(expect.probe.input_shape)}", "    outputs:"]
        for name, output in expect.probe.outputs.items():
            values = ", ".join(_number(value) for value in output.values)
            lines.append(f"      {name}: {{rms: {_number(output.rms)}, values: [{values}]}}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """The shortest text that reads back as `value`, with a point, so that YAML 1.1 also reads a number (1.0e-05)."""
    mantissa, separator, exponent = repr(value).partition("e")
    return (mantissa if "." in mantissa else f"{mantissa}.0") + separator + exponent


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."
