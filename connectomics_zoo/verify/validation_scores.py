"""Scores trained weights on their validation data: voxel by voxel, as training does, and as objects."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from connectomics_zoo.decode import decode
from connectomics_zoo.evaluate import evaluate
from connectomics_zoo.predict import predict
from connectomics_zoo.schema.experiment import Region, RunSpec, VolumePair
from connectomics_zoo.schema.progress import silent
from connectomics_zoo.tasks.targets.labels import is_mask
from connectomics_zoo.volumes import open_volume
from connectomics_zoo.volumes.box import region_box
from connectomics_zoo.volumes.location import split_place
from connectomics_zoo.volumes.truth import read_truth

OBJECT_SCORES = ("adapted_rand_error", "voi_split", "voi_merge", "ap_50")
"""What is measured of objects."""


def place_volumes(run: RunSpec, folders: Sequence[Path]) -> RunSpec | None:
    """Return `run` with its validation volumes in the first of `folders` that has them all, None where none has.

    Args:
        run: a run, which may have been given away without its places.
        folders: where to look; places outside of `data.root` are looked at as they are.
    """
    volumes = validation_files(run)
    for folder in folders:
        if volumes and all((folder / volume).exists() for volume in volumes):
            return run.model_copy(update={"data": run.data.model_copy(update={"root": str(folder)})})
    return None


def validation_files(run: RunSpec) -> list[Path]:
    """Return the local files of the validation volumes, as the spec names them."""
    places = {split_place(volume)[0] for pair in run.data.validation for volume in pair.places}
    return sorted(place for place in places if isinstance(place, Path))


def validation_object_scores(folder: Path, run: RunSpec) -> dict[str, float]:
    """Return `OBJECT_SCORES`, each as `val/<name>`, of what `zoo predict` and `zoo decode` make of the validation data.

    They are the mean over its volumes and their annotated regions; none where the task makes no objects.

    Args:
        folder: a folder with the weights and their spec, which says how predictions are decoded.
        run: that spec, with the places of the data.
    """
    if not run.task.decode.is_instances:
        return {}
    rows = [_object_scores(folder, run, part) for pair in run.data.validation for part in _single_regions(pair)]
    return {f"val/{name}": sum(row[name] for row in rows) / len(rows) for name in OBJECT_SCORES}


def _single_regions(pair: VolumePair) -> list[VolumePair]:
    """Return a pair for each of its annotated regions, or itself where all of its region is annotated."""
    if not pair.regions:
        return [pair]
    limits = pair.region.model_dump(exclude_none=True)
    return [
        pair.model_copy(update={"regions": None, "region": Region(**limits | region.model_dump(exclude_none=True))})
        for region in pair.regions
    ]


def _object_scores(folder: Path, run: RunSpec, pair: VolumePair) -> dict[str, float]:
    """Return the scores of the objects in the region of a validation volume."""
    root = run.data.folder
    place = pair.label_places[run.task.channels[run.task.scored[0]].target.volume]
    with open_volume(pair.image, root=root) as image, open_volume(place, root=root) as label:
        unlabelled = run.data.unlabelled
        box = region_box(pair.region, shape=label.shape, location=label.location)
        with nullcontext() if pair.mask is None else open_volume(pair.mask, root=root) as known:
            labels, _ = read_truth(label, known, box, unlabelled=unlabelled, background=run.data.background)
            mask = None if known is None else known.location
        relabel = run.task.labels.relabel and is_mask(labels)
        places = image.location, label.location
    with tempfile.TemporaryDirectory() as scratch:
        predicted, objects = Path(scratch) / "prediction.h5", Path(scratch) / "objects.h5"
        predict(folder, places[0], predicted, region=pair.region, precision="float32", progress=silent)
        decode(predicted, objects)
        report = evaluate(
            objects,
            places[1],
            kind="instances",
            region=pair.region,
            relabel=relabel,
            unlabelled=unlabelled,
            background=run.data.background,
            mask=mask,
        )
    return report.scores
