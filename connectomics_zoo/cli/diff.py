"""`zoo diff`: what differs between two specs, and what that means for existing weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from connectomics_zoo.cli._console import note, print_json, print_line
from connectomics_zoo.cli._references import complete_reference
from connectomics_zoo.cli._table import print_table

if TYPE_CHECKING:
    from connectomics_zoo.schema.experiment import Spec
    from connectomics_zoo.specs.diff import Comparison

_MEANINGS = {
    "cosmetic": "words only",
    "weights-compatible": "the same network, trained or evaluated otherwise",
    "breaking": "weights of one do not fit the other, or mean something else in it",
}

_PROBE = "expect.probe."

_EPILOG = """\b
Effects, of a field and of the whole (the gravest one):
""" + "\n".join(f"  {effect:<19} {meaning}" for effect, meaning in _MEANINGS.items())


@click.command(epilog=_EPILOG)
@click.argument("first", metavar="A", shell_complete=complete_reference)
@click.argument("second", metavar="B", shell_complete=complete_reference)
@click.option("--kind", type=click.Choice(["model", "task", "experiment", "run"]), help="What A and B are.")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def command(first: str, second: str, kind: Any, as_json: bool) -> None:
    """Compare A and B field by field: models, versions of one, tasks, experiments, runs, or files of them.

    Whether two models are the same network is judged by what was measured of them: fingerprint, probe, input and
    outputs. The exit code is 0 whether they differ or not.
    """
    from connectomics_zoo.specs.diff import diff_specs
    from connectomics_zoo.specs.lookup import find_spec

    specs = find_spec(first, kind=kind), find_spec(second, kind=kind)
    comparison = diff_specs(specs[0], second=specs[1])
    for ref, spec in zip((first, second), specs, strict=True):
        _note_unmeasured(ref, spec)
    if as_json:
        differences = [difference._asdict() for difference in comparison.differences]
        print_json({"a": first, "b": second, "effect": comparison.effect, "differences": differences})
    else:
        _print_comparison(comparison, first, second)


def _note_unmeasured(ref: str, spec: Spec) -> None:
    from connectomics_zoo.schema.model import ModelSpec

    if isinstance(spec, ModelSpec) and spec.expect is None:
        note(f"{ref} declares no measurement, so only an equal architecture counts as the same network.")


def _print_comparison(comparison: Comparison, first: str, second: str) -> None:
    if comparison.effect is None:
        print_line(f"{first} and {second} are equal in every field.")
        return
    rows = [
        (
            item.path,
            "(absent)" if item.change == "added" else _text(item.before),
            "(absent)" if item.change == "removed" else _text(item.after),
            item.effect,
        )
        for item in comparison.differences
        if not item.path.startswith(_PROBE)
    ]
    probe = [item for item in comparison.differences if item.path.startswith(_PROBE)]
    if probe:
        rows.append((_PROBE.rstrip("."), "", f"{len(probe)} entries differ (see --json)", probe[0].effect))
    print_table(("field", first, second, "effect"), rows)
    print_line(f"\n{comparison.effect}: {_MEANINGS[comparison.effect]}.")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
