"""The recipe of trained weights: what a run that starts from them takes over without being told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connectomics_zoo.catalog import names_of
from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.experiment import REQUIRED, DataSpec, RunSpec
from connectomics_zoo.schema.training import TrainingSpec
from connectomics_zoo.specs.lookup import resolve
from connectomics_zoo.specs.reference import Reference
from connectomics_zoo.volumes import open_volume
from connectomics_zoo.volumes.voxel_size import lengths

LOADED_RATE = 0.1
"""Share of its own peak learning rate by which a tensor goes on that was trained with it: it is near its best already,
and a full rate, which AdamW makes the first steps of, would undo that before the cosine has brought it down."""

SHARE_OF_STEPS = 0.25
"""Share of the steps of a training from nothing: what a correction adds is learned in fewer, and more of them only fit
the few labels closer."""

VALIDATIONS = 10
"""Validations of a fine-tuning, so that the best moment is found and seen."""


@dataclass(frozen=True)
class Recipe:
    """How weights were trained, and what they are called."""

    ref: str
    """The reference."""
    run: RunSpec
    """How they were trained, and are to be used."""
    is_folder: bool
    """Whether it is a run folder, whose volumes are on this machine."""

    def document(self, overrides: Mapping[str, Any], *, has_others: bool) -> dict[str, Any]:
        """Return the experiment that starts from these weights, before `overrides` are merged in.

        Args:
            overrides: nested fields to change.
            has_others: whether volumes are added, which are enough where its own are not on this machine.

        Raises:
            SpecError: there would be no volumes.
        """
        data = self.run.data.model_dump(mode="json", exclude_unset=True)
        own_are_away = self.run.data.root == REQUIRED and "root" not in _part(overrides, "data")
        if _gives_volumes(overrides) or (own_are_away and has_others):
            kept = ("downsample", "network_voxel_size_nm", "intensity_range")
            data = {name: data[name] for name in kept if name in data}
        elif own_are_away:
            raise SpecError(
                f"{self.ref}: the volumes that it was trained on are not known here, give others by "
                "data.train.image=FILE:DATASET data.train.label=FILE:DATASET, or their folder by data.root=FOLDER."
            )
        elif has_others and _say_their_voxel_size(self.run.data):
            data.pop("voxel_size_nm", None)  # which the others need not have
        size = self.run.data.network_voxel_nm
        if "downsample" in _part(overrides, "data"):
            data.pop("network_voxel_size_nm", None)
        elif size is not None:
            data.pop("downsample", None)
            data["network_voxel_size_nm"] = list(size)
        changes = _part(overrides, "training")
        starts = overrides.get("init_from", self.ref) is not None
        training = _fine_tuning(self.run.training, changes) if starts else self.run.training
        return {
            "schema_version": 1,
            "name": self.run.name if self.is_folder else self.run.model.name,
            "summary": f"{self.ref}, trained on.",
            "model": self.ref,
            "task": self.run.task.name,
            "init_from": self.ref,
            "data": data,
            "training": training.model_dump(mode="json"),
            # The window is the patch, unless it was said.
            "prediction": self.run.prediction.model_dump(
                mode="json", exclude={"window"} if "patch_size" in changes else None
            ),
        }

    def describe(self, run: RunSpec) -> str:
        """Return one line on what `run` has from these weights, and on what is chosen for it."""
        recipe, before = run.training, self.run.training
        threshold = run.task.decode.threshold
        taken = [
            f"task {run.task.name}" + ("" if threshold is None else f" with the threshold {threshold:g}"),
            f"patches of {_edges(recipe.patch_size)}",
            *_describe_voxels(run),
            f"grey values {_describe_range(run)}",
        ]
        steps = f"{recipe.max_steps} steps (its own training had {before.max_steps})"
        rate = f"learning rate {recipe.learning_rate:g}"
        if recipe.loaded_learning_rate is not None:
            rate = f"learning rate {recipe.loaded_learning_rate:g} for what is loaded, {recipe.learning_rate:g} for new"
        said = f"takes the recipe of {self.ref}: {', '.join(taken)}; {steps}, {rate}; key=value changes any of it"
        if run.data.validation:
            return said
        return f"{said}; without data.validation there is no score, =auto holds a part of the labels out for it"


def find_recipe(reference: Reference) -> Recipe | None:
    """Return the recipe of the weights that a reference means; None of something else, as a model is.

    Raises:
        SpecError: it means weights, and nothing says how they were trained.
        ZooError: there are no such weights, or their spec cannot be read.
    """
    if reference.path is not None:
        run = resolve(reference).run
        return None if run is None else Recipe(reference.text, run, is_folder=True)
    if reference.hub is None and (reference.tag is None or reference.name not in names_of("model")):
        return None
    from connectomics_zoo.weights.pretrained import (
        embedded_run,
        find_pretrained,
    )  # torch, which they import, takes long

    found = find_pretrained(reference)
    run = embedded_run(found)
    if run is None:
        raise SpecError(
            f"{reference.text}: nothing says how these weights were trained, so that there is no recipe to take: train "
            f"the model {found.spec.name!r} itself, init_from={reference.text} starts from them."
        )
    return Recipe(reference.text, run, is_folder=False)


def _fine_tuning(recipe: TrainingSpec, changes: Mapping[str, Any]) -> TrainingSpec:
    """Return the recipe of a training that begins where one with `recipe` has ended, and in which `changes` follow.

    Weights that were fine-tuned this way are so again, with the same steps and rates.
    """
    again = recipe.loaded_learning_rate is not None
    steps = recipe.max_steps if again else max(1, round(recipe.max_steps * SHARE_OF_STEPS))
    given = changes.get("max_steps", steps)
    done = given if isinstance(given, int) and given > 0 else steps
    rate = recipe.loaded_learning_rate if again else recipe.learning_rate * LOADED_RATE
    return recipe.model_copy(
        update={
            "max_steps": steps,
            "validate_every": max(1, done // VALIDATIONS),
            "warmup_steps": min(recipe.warmup_steps, done // VALIDATIONS),
            # A rate that is given is meant for all.
            "loaded_learning_rate": None if "learning_rate" in changes else rate,
            "freeze": "none",
            "distillation": None,
        }
    )


def _gives_volumes(overrides: Mapping[str, Any]) -> bool:
    """Whether others take the place of the volumes to train on; an index after the last one, or a region, does not."""
    given = _part(overrides, "data").get("train")
    if not isinstance(given, Mapping):
        return given is not None
    first = given.get("0", given)
    return not isinstance(first, Mapping) or "image" in first


def _say_their_voxel_size(data: DataSpec) -> bool:
    """Whether the files of all volumes say it, so that the spec only repeats them."""
    for pair in (*data.train, *data.validation):
        with open_volume(pair.image, root=data.folder) as image:
            if image.voxel_size_nm is None:
                return False
    return True


def _part(overrides: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = overrides.get(name)
    return part if isinstance(part, Mapping) else {}


def _describe_voxels(run: RunSpec) -> list[str]:
    size, factors = run.data.network_voxel_nm, run.data.downsample
    if size is not None:
        return [f"network voxels of {lengths(size)} nm"]
    return [f"downsample {list(factors)}"] if max(factors) > 1 else []


def _describe_range(run: RunSpec) -> str:
    limits = run.data.intensity_range
    return "of the whole type" if limits is None else f"{limits[0]:g} to {limits[1]:g}"


def _edges(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
