"""`zoo show`: what is declared about a model, task, experiment or run, on a screen or all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from connectomics_zoo.cli._console import print_json, print_line, print_text, print_yaml
from connectomics_zoo.cli._references import complete_reference

if TYPE_CHECKING:
    from connectomics_zoo.cli._sections import Section, Shown, Table
    from connectomics_zoo.schema.experiment import Spec

_EPILOG = """\b
Examples:
  zoo show mednext-S
  zoo show mednext-S --all
  zoo show mednext-S.vnc-mito
  zoo show mednext-S arch.kernel_size=5 input.channels=2
  zoo show mednext-S --yaml > my-model.yaml
  zoo show mito
  zoo show runs/my-run --json
"""


@click.command(epilog=_EPILOG)
@click.argument("ref", shell_complete=complete_reference)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--kind",
    type=click.Choice(["model", "task", "experiment", "run"]),
    help="What REF is, where the name alone does not say it; of a run, `model` is its model.",
)
@click.option("--all", "output", flag_value="all", help="Show all that is declared, and the complete spec below it.")
@click.option("--yaml", "output", flag_value="yaml", help="Print the complete spec alone, as YAML.")
@click.option("--json", "output", flag_value="json", help="Print the complete spec alone, as JSON.")
def command(ref: str, overrides: tuple[str, ...], kind: Any, output: str | None) -> None:
    """Show what is declared about REF: what fits a screen, or with --all everything, with every default stated.

    REF is a name, name@1.0.0, name.tag, catalog:name, a YAML file, or a run folder. Overrides address fields of the
    spec; in a model these are arch.*, input.channels, outputs.channels, training.* and the words about it.
    """
    from connectomics_zoo.specs.lookup import resolve_any
    from connectomics_zoo.specs.overrides import parse_overrides

    found = resolve_any(ref, kind=kind)
    changed = parse_overrides(overrides)
    spec = _change(found.spec, changed, source=ref) if changed else found.spec
    document = spec_document(spec)
    if output == "json":
        print_json(document)
        return
    if output != "yaml":
        from connectomics_zoo.cli._sections import Shown, print_sections

        shown = Shown(found=found, spec=spec, all=output == "all")
        print_sections(shown, _sections_of(shown))
        print_line()
    if output is None:
        print_text("Everything, with the complete spec: --all.", dim=True)
        return
    from connectomics_zoo.files.yaml import dump_yaml

    print_yaml(dump_yaml(document))


def spec_document(spec: Spec) -> dict[str, Any]:
    """Return the complete spec as data; an experiment leaves out what it does not change of its model's recipe."""
    from connectomics_zoo.schema.experiment import ExperimentSpec
    from connectomics_zoo.schema.task import TaskSpec

    return spec.model_dump(mode="json", exclude_none=isinstance(spec, ExperimentSpec | TaskSpec))


def _change(spec: Spec, changes: Mapping[str, Any], *, source: str) -> Spec:
    from connectomics_zoo.errors import SpecError
    from connectomics_zoo.schema.experiment import ExperimentSpec, RunSpec
    from connectomics_zoo.schema.model import ModelSpec
    from connectomics_zoo.schema.validation import validate
    from connectomics_zoo.specs.overrides import merge, override_model
    from connectomics_zoo.specs.resolve import check_arch

    if isinstance(spec, RunSpec):
        raise SpecError(f"{source} is a run, which is what it was: leave the overrides out, or show its model.")
    if isinstance(spec, ModelSpec):
        return override_model(spec, changes)
    changed = validate(type(spec), merge(spec_document(spec), changes), source=source)
    if isinstance(changed, ExperimentSpec):
        check_arch(changed)
    return changed


def _sections_of(shown: Shown) -> Sequence[Section]:
    """What a page shows, in this order: a new part of it is a line here, and a function beside those of its kind."""
    from connectomics_zoo.cli import _show_model, _show_run, _show_task
    from connectomics_zoo.schema.experiment import ExperimentSpec, RunSpec
    from connectomics_zoo.schema.model import ModelSpec

    weights = (_show_model.weights_title, _show_model.weights_facts)
    model = (
        _show_model.model_title,
        _show_model.model_facts,
        _show_model.model_weights,
        _show_model.model_outputs,
    )
    if isinstance(shown.spec, ModelSpec):
        if shown.found.reference.tag is None or shown.is_changed:  # what is changed has no weights
            return (*model, changes)
        return (*weights, *model) if shown.all else weights
    if isinstance(shown.spec, RunSpec):
        return (
            _show_run.run_title,
            _show_run.run_facts,
            _show_run.run_volumes,
        )
    if isinstance(shown.spec, ExperimentSpec):
        return (_show_run.experiment_title, _show_run.experiment_facts, _show_run.experiment_volumes, changes)
    return (_show_task.task_title, _show_task.task_facts, _show_task.task_channels, changes)


def changes(shown: Shown) -> Table | None:
    """List what differs from what is declared."""
    from connectomics_zoo.cli._sections import Table

    if not shown.is_changed:
        return None
    from connectomics_zoo.specs.diff import diff_specs

    differences = diff_specs(shown.found.spec, second=shown.spec).differences
    rows = [
        (item.path, _value(item.before), _value(item.after))
        for item in differences
        if not item.path.startswith("expect.")
    ]
    return Table(("changed field", "declared", "here"), rows)


def _value(value: Any) -> str:
    return "-" if value is None else str(value)
