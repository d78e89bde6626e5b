"""`verify`: runs the levels over the chosen specs and puts the report together."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from connectomics_zoo import catalog
from connectomics_zoo.errors import VolumeError, ZooError
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.notebook import notebook_bar
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.specs import releases
from connectomics_zoo.specs.expectation import Check, Level
from connectomics_zoo.specs.selection import Target, select_specs
from connectomics_zoo.verify.report import LEVELS, ModelReport, VerifyReport
from connectomics_zoo.verify.schema_level import check_file


def verify(
    patterns: Sequence[str] = (),
    *,
    level: Level = "forward",
    data: Sequence[str | Path] | str | Path = (),
    progress: Callable[[Progress], None] | None = None,
) -> VerifyReport:
    """Prove what specs declare, by reading, building and running their networks.

    Args:
        patterns: wildcards over names, references (`name`, `name@1.0.0`, `catalog:name`), YAML files or run
            folders; without any, every version of every model in every catalogue.
        level: how deep, each level with the ones before it: `schema` reads (and imports no torch), `build`
            builds without memory, `forward` runs forward and backward, `weights` loads the declared weights.
        data: folders with the volumes that weights were validated on; at level `weights`, declared scores are measured
            again on them, and must be right to 0.005. If nothing can be measured, that is a failure.
        progress: is told how many specs are done, before each one and at the end.

    Raises:
        UnknownNameError: a pattern means nothing.
        VolumeError: there is no such folder.
        ZooError: there is no such level, or it measures no scores.
    """
    if level not in LEVELS:
        raise ZooError(f"unknown level {level!r}, choose one of {', '.join(LEVELS)}.")
    progress = progress or notebook_bar("verify")
    folders = _folders(data, level=level)
    targets = select_specs([patterns] if isinstance(patterns, str) else patterns)
    reports = []
    with _without_collection() if level == "build" else nullcontext():
        for index, target in enumerate(targets):
            if progress is not None:
                progress(Progress(index, len(targets), unit="specs", label=target.label))
            reports.append(_verify_target(target, level, folders))
    if folders and not any(report.measured for report in reports):
        reports = [_without_measurement(report) for report in reports]
    if progress is not None:
        progress(Progress(len(targets), len(targets), unit="specs"))
    return VerifyReport(level, (*reports, *_withdrawn(patterns, targets)))


def score_objects(folder: Path, run: RunSpec) -> dict[str, float]:
    """Return the scores, each as `val/<name>`, of the objects that predicting and decoding make of validation data.

    There are none where the task makes no objects.

    Args:
        folder: a folder with the weights and their spec, which says how predictions are decoded.
        run: that spec, with the places of the data.
    """
    from connectomics_zoo.verify.validation_scores import validation_object_scores

    return validation_object_scores(folder, run)


def _folders(data: Sequence[str | Path] | str | Path, *, level: Level) -> tuple[Path, ...]:
    """Return the folders of volumes, which must be there."""
    folders = tuple(Path(folder).expanduser() for folder in ([data] if isinstance(data, str | Path) else data))
    if folders and level != "weights":
        raise ZooError(f"scores are measured at level weights, and not at {level}: leave data out, or add the level.")
    for folder in folders:
        if not folder.is_dir():
            raise VolumeError(f"{folder}: there is no such folder, give the one that holds the volumes.")
    return folders


def _without_measurement(report: ModelReport) -> ModelReport:
    """Turn scores that were not measured into failures, or that there are none."""
    checks = [dataclasses.replace(check, ok=False) if check.skipped else check for check in report.checks]
    if not report.unmeasured and report.passed:
        note = "not measured again: no score is declared"
        checks.append(Check("weights", ok=False, note=note, level="weights", is_score=True, skipped=True))
    return dataclasses.replace(report, checks=tuple(checks))


def _verify_target(target: Target, level: Level, data: Sequence[Path]) -> ModelReport:
    start = time.perf_counter()
    spec, checks = check_file(target)
    if spec is not None:
        for deeper in LEVELS[1 : LEVELS.index(level) + 1]:
            checks += _run_level(deeper, spec, target, data)
    return ModelReport(
        name=str(target.path) if spec is None else spec.name,
        version="" if spec is None else spec.version,
        source=target.label,
        checks=tuple(checks),
        seconds=time.perf_counter() - start,
    )


def _run_level(level: Level, spec: ModelSpec, target: Target, data: Sequence[Path]) -> list[Check]:
    # Imported here, because only these levels may import torch.
    if level == "build":
        from connectomics_zoo.verify.build_level import check_build

        return check_build(spec)
    if level == "forward":
        from connectomics_zoo.verify.forward_level import check_forward

        return check_forward(spec)
    from connectomics_zoo.verify.weights_level import check_weights

    return check_weights(spec, target, data)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Pause the garbage collector, which would look through torch and MONAI again and again while they are imported.

    Networks without memory leave it little to collect.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _withdrawn(patterns: Sequence[str], targets: Sequence[Target]) -> list[ModelReport]:
    """Report what was released and has no file any more, of the chosen models (without patterns: of all)."""
    reports = []
    for home in catalog.catalogs():
        chosen = {target.entry.name for target in targets if target.entry is not None and target.entry.catalog == home}
        if not chosen and patterns:
            continue
        try:
            references = releases.withdrawn(home)
        except ZooError:
            continue  # a lock that cannot be read fails the check of each of its specs
        for reference in references:
            name, _, version = reference.partition("@")
            if name in chosen or not patterns:
                note = f"was released and has no file any more, put it back as {reference}.yaml"
                check = Check("file", ok=False, note=note)
                reports.append(ModelReport(name, version, f"{home.name}:{reference}", (check,), seconds=0.0))
    return reports
