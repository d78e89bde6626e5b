"""From a reference and overrides to a complete `RunSpec`, with every file looked at before anything is made."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from connectomics_zoo.catalog import names_of
from connectomics_zoo.errors import SpecError, UnknownNameError, nearest
from connectomics_zoo.runs.folder import SPEC_FILE, get_run
from connectomics_zoo.schema.builder import encoder_modules
from connectomics_zoo.schema.experiment import REQUIRED, DataSpec, ExperimentSpec, RunSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.training import TrainingSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.lookup import Resolved, get_spec, get_task, resolve, resolve_any
from connectomics_zoo.specs.overrides import merge
from connectomics_zoo.specs.reference import Reference, parse_reference
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.tasks.affinities import affinity_channels, convention_of
from connectomics_zoo.train.added import with_added
from connectomics_zoo.train.classes import check_balance, check_classes
from connectomics_zoo.train.fine_tuning import check_fine_tuning
from connectomics_zoo.train.hold_out import with_held_out
from connectomics_zoo.train.inspection import inspect_volumes
from connectomics_zoo.train.recipe import Recipe, find_recipe
from connectomics_zoo.train.replaced import without_replaced

_log = logging.getLogger(__name__)


def resolve_run(
    ref: str | Path,
    overrides: Mapping[str, Any],
    *,
    add: Sequence[str] = (),
    notify: Callable[[str], None] | None = None,
) -> RunSpec:
    """Return the complete run of an experiment, of trained weights, or of a model with overrides that make it one.

    Every volume is opened and compared with its labels.

    Args:
        ref: an experiment or a model (a name, or a path to a YAML file), or weights, whose recipe is taken then.
        overrides: nested fields to change, as `overrides.parse_overrides` gives them.
        add: volumes to train on beside the others, see `with_added`.
        notify: is told what is taken from weights.

    Raises:
        ZooError: a name, key, value, file, or volume is wrong; nothing has been written.
    """
    reference = _reference_of(ref)
    recipe = None if reference is None else find_recipe(reference)
    if recipe is not None:
        run = _resolve_recipe(recipe, overrides, add=add)
        if notify is not None:
            notify(recipe.describe(run))
        return run
    base = _find_base(ref, reference)
    document, dropped = without_replaced(_document_of(base), overrides)
    document = with_added(document, add, overrides) if add else document
    if dropped:
        _log.warning("%s does not apply to other volumes and is left out, give what does", ", ".join(dropped))
    experiment = validate(ExperimentSpec, merge(document, overrides), source=str(ref))
    # The model that the base is of has been read, unless an override names another one.
    is_own = not isinstance(base.spec, ExperimentSpec) and experiment.model == base.reference.text
    return complete(experiment, model=base.model if is_own else get_spec(experiment.model), source=str(ref))


def _resolve_recipe(recipe: Recipe, overrides: Mapping[str, Any], *, add: Sequence[str]) -> RunSpec:
    """Return the complete run that starts from weights, with their recipe."""
    document = _with_parts(recipe.document(overrides, has_others=bool(add)))
    document = with_added(document, add, overrides) if add else document
    experiment = validate(ExperimentSpec, merge(document, overrides), source=recipe.ref)
    own = recipe.run
    model = own.model if experiment.model == recipe.ref else get_spec(experiment.model)
    task = own.task if experiment.task == own.task.name else get_task(experiment.task)
    return complete(experiment, model=model, task=task, source=recipe.ref)


def continue_run(folder: str | Path, overrides: Mapping[str, Any]) -> RunSpec:
    """Return the run in `folder` with overrides of its `training` (more steps) and `data`.

    Raises:
        SpecError: an override would change the network or the task.
    """
    run = get_run(folder)
    fixed = sorted(overrides.keys() - {"training", "data", "prediction"})
    if fixed:
        raise SpecError(f"{fixed[0]!r} cannot change when a run is resumed, only training, data and prediction can.")
    source = str(Path(folder) / SPEC_FILE)
    resumed = validate(RunSpec, merge(_with_parts(run.model_dump(mode="json")), overrides), source=source)
    if resumed.data.hold_out is not None:
        raise SpecError("data.hold_out divides the volumes when a run begins, leave it out when it is resumed.")
    for name, before, after in (
        ("accumulate", run.training.accumulate, resumed.training.accumulate),
        ("freeze", run.training.freeze, resumed.training.freeze),
        ("loaded_learning_rate", run.training.loaded_learning_rate, resumed.training.loaded_learning_rate),
    ):
        if before != after:
            raise SpecError(f"training.{name} is {before} and cannot change when a run is resumed, leave out {after}.")
    _check_patch(resumed.model, resumed.training.patch_size, what="training.patch_size")
    _check_recipe(resumed.training, resumed.data, model=resumed.model, task=resumed.task, source=source)
    check_fine_tuning(resumed.training, resumed.data, init_from=resumed.init_from, source=source)
    if resumed.prediction.window is not None:
        _check_patch(resumed.model, resumed.prediction.window, what="prediction.window")
    channels, _ = inspect_volumes(resumed.data, task=resumed.task)
    if channels != run.model.input.channels:
        raise SpecError(
            f"{source}: the images have {channels} channels, and the network that is resumed takes "
            f"{run.model.input.channels}."
        )
    return resumed


def _reference_of(ref: str | Path) -> Reference | None:
    """Return the model or the weights that `ref` names, None of a YAML file and of an experiment."""
    path = Path(ref)
    is_file = path.suffix in (".yaml", ".yml") and path.is_file()
    return None if is_file or str(ref).rpartition(":")[2] in names_of("experiment") else parse_reference(ref)


def _find_base(ref: str | Path, reference: Reference | None) -> Resolved:
    """Return the experiment or the model that a run is made of."""
    if reference is None and Path(ref).suffix in (".yaml", ".yml"):
        found = resolve_any(str(ref))
        if isinstance(found.spec, TaskSpec):
            raise SpecError(f"{ref} is a task, train an experiment or a model, with task={ref}.")
        return found
    if reference is None:
        return resolve_any(str(ref), kind="experiment")
    known = names_of("experiment", "model")
    if reference.path is None and reference.name not in known:
        raise UnknownNameError(f"unknown experiment or model {reference.name!r}: {nearest(reference.name, known)}")
    return resolve(reference)


def _document_of(base: Resolved) -> dict[str, Any]:
    """Return an experiment's document, or the one that a model alone makes."""
    if isinstance(base.spec, ExperimentSpec):
        return _with_parts(base.spec.model_dump(mode="json", exclude_unset=True))
    return {
        "schema_version": 1,
        "name": base.model.name,
        "summary": f"{base.reference.text} on the user's volumes.",
        "model": base.reference.text,
        "task": REQUIRED,
        "data": {},
    }


def _with_parts(document: dict[str, Any]) -> dict[str, Any]:
    """Write a preset of augmentation as a mapping, so that overrides may change a part of it."""
    recipe = document.get("training", {})
    if isinstance(recipe.get("augmentation"), str):
        recipe["augmentation"] = {"preset": recipe["augmentation"]}
    return document


def complete(experiment: ExperimentSpec, *, model: ModelSpec, source: str, task: TaskSpec | None = None) -> RunSpec:
    """Return `experiment` of `model` with its recipe resolved, and its task where none is given; see `resolve_run`."""
    if experiment.task == REQUIRED:
        names = ", ".join(sorted(names_of("task")))
        raise SpecError(
            f"{source}: no task is given, add task=NAME with one of {names}, or train weights (name.tag), "
            "which have one."
        )
    task = _with_threshold(task or get_task(experiment.task), experiment.threshold)
    data = experiment.data
    if data.root == REQUIRED:
        raise SpecError(f"{source}: the folder of the volumes is not given, add data.root=FOLDER.")
    if not data.train:
        raise SpecError(
            f"{source}: there is no volume to train on, "
            "add data.train.image=FILE:DATASET data.train.label=FILE:DATASET."
        )
    for part, pairs in (("train", data.train), ("validation", data.validation)):
        for index, pair in enumerate(pairs):
            labels = {f"label.{name}" if name else "label": place for name, place in pair.label_places.items()}
            for what, location in {"image": pair.image, **labels, "mask": pair.mask}.items():
                if location == REQUIRED:
                    key = f"data.{part}.{what}" if len(pairs) == 1 else f"data.{part}.{index}.{what}"
                    raise SpecError(f"{source}: a volume is not given, add {key}=FILE:DATASET.")
    # Looking through the volumes takes longest, so it comes last.
    model = resolve_model(model, out_channels=len(task.channels), arch=experiment.arch)
    recipe = model.training.model_dump(mode="json") | experiment.training.model_dump(mode="json", exclude_none=True)
    training = validate(TrainingSpec, recipe, source=f"training of {source}")
    _check_patch(model, training.patch_size, what="training.patch_size")
    _check_recipe(training, data, model=model, task=task, source=source)
    check_fine_tuning(training, data, init_from=experiment.init_from, source=source)
    window = experiment.prediction.window or training.patch_size
    _check_patch(model, window, what="prediction.window")
    in_channels, voxel_size_nm = inspect_volumes(data, task=task)
    data = with_held_out(data)
    return RunSpec(
        schema_version=1,
        kind="run",
        name=experiment.name,
        # The weights of the catalogue's model are not those of the run.
        model=resolve_model(model, in_channels=in_channels).model_copy(update={"weights": {}}),
        task=task,
        init_from=experiment.init_from,
        data=data.model_copy(update={"voxel_size_nm": data.voxel_size_nm or voxel_size_nm}),
        training=training,
        prediction=experiment.prediction.model_copy(update={"window": window}),
        versions={
            "python": platform.python_version(),
            "torch": version("torch"),
            "monai": version("monai"),
            "connectomics-zoo": version("connectomics-zoo"),
        },
    )


def _with_threshold(task: TaskSpec, threshold: float | None) -> TaskSpec:
    """Return the task with the experiment's threshold, if that has one.

    Raises:
        SpecError: the task is decoded without.
    """
    if threshold is None:
        return task
    if task.decode.threshold is None:
        raise SpecError(
            f"threshold {threshold:g} has no effect: the task {task.name} is decoded by {task.decode.method}, leave it "
            "out."
        )
    return task.model_copy(update={"decode": task.decode.model_copy(update={"threshold": threshold})})


def _check_recipe(training: TrainingSpec, data: DataSpec, *, model: ModelSpec, task: TaskSpec, source: str) -> None:
    """Refuse what the data, the network or the task do not have for the recipe."""
    check_classes(data, task=task, source=source)
    check_balance(training, task=task, source=source)
    _check_affinities(task, training.patch_size, data.downsample, source=source)
    if training.early_stopping and not data.validation and data.hold_out is None:
        raise SpecError(
            f"{source}: training.early_stopping={training.early_stopping} compares validations and there are none, "
            "add data.validation or leave it out."
        )
    if training.freeze == "encoder" and encoder_modules(model.builder, model.arch) is None:
        raise SpecError(
            f"{source}: the builder {model.builder!r} does not say which weights are its encoder (encoder_modules), "
            "so that training.freeze=encoder is not possible: leave it out."
        )
    without = [pair.image for pair in data.train if pair.weight is None]
    if 0 < len(without) < len(data.train):
        raise SpecError(
            f"{source}: {without[0]} has no weight and other volumes have one, which only compare with each other: "
            "give all of data.train a weight, or none."
        )
    weighted = [pair.image for pair in data.validation if pair.weight is not None]
    if weighted:
        raise SpecError(
            f"{source}: {weighted[0]} is validated on, as a whole, and its weight has no effect: leave it out."
        )


def _check_affinities(task: TaskSpec, patch_size: tuple[int, ...], downsample: tuple[int, ...], *, source: str) -> None:
    """Refuse offsets that no patch holds, or that would mean another distance where they are decoded."""
    if task.affinities is None:
        return
    if max(downsample) > 1:
        raise SpecError(
            f"{source}: data.downsample={list(downsample)} and affinities do not go together, since offsets are in "
            "voxels of the volume when they are decoded: downsample the volumes themselves."
        )
    for index, offset in zip(affinity_channels(task), convention_of(task).offsets, strict=True):
        if any(abs(step) >= edge for step, edge in zip(offset, patch_size, strict=True)):
            raise SpecError(
                f"{source}: the channel {task.channels[index].name!r} joins voxels {list(offset)} (z, y, x) apart, "
                f"which no patch of {list(patch_size)} holds: give a larger training.patch_size."
            )


def _check_patch(model: ModelSpec, size: tuple[int, ...], *, what: str) -> None:
    rule = model.input.size
    if len(model.input.axes) != 3:
        raise SpecError(f"{model.name} is a 2-D network, and training works on volumes: choose arch.spatial_dims=3.")
    if not rule.allows(size):
        legal = list(rule.round_up(size)) if len(size) == len(rule.minimum) else list(rule.minimum)
        text = str(legal).replace(" ", "")  # as a shell takes it
        raise SpecError(
            f"{what} {list(size)} is not legal for {model.name} (legal: {rule.describe()} along z, y, x), "
            f"for example {what}={text}."
        )
