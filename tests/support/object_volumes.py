"""Labels that fill space, tasks of every convention of affinities, and scores, which the tests of decoding share."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.scores.contingency import count_pairs
from connectomics_zoo.scores.scores import partition_scores
from connectomics_zoo.tasks.affinities import compute_affinities, convention_of
from connectomics_zoo.volumes import create_volume
from connectomics_zoo.volumes.prediction import StoredPrediction
from connectomics_zoo.volumes.values import store_values

STEPS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 0, 0), (0, 7, 0), (0, 0, 7))
"""The offsets (z, y, x) of the tests; the first three attract."""


def voronoi_labels(shape=(16, 32, 32), *, objects=12, seed=0):
    """Cells around random points, 1..N, each of one piece."""
    random = np.random.default_rng(seed)
    points = np.ones(shape, dtype=bool)
    points.ravel()[random.choice(points.size, objects, replace=False)] = False
    nearest = ndimage.distance_transform_edt(points, return_distances=False, return_indices=True)
    return one_piece_each(np.ravel_multi_index(nearest, shape))


def one_piece_each(labels):
    """Give each connected part of a label, 0 aside, a label of its own from 1 up."""
    from skimage.measure import label

    return label(labels, background=0, connectivity=1)


def affinity_task(*, stored="source", signs=(1, 1, 1), axes="zyx", activation="sigmoid", method="components", **fields):
    """A task with the affinities `STEPS`, written in a convention."""
    channels = []
    for index, step in enumerate(STEPS):
        z, y, x = (sign * part for sign, part in zip(signs, step, strict=True))
        target = {"kind": "affinity", "offset": [z, y, x] if axes == "zyx" else [x, y, z], "attractive": index < 3}
        loss = [{"kind": "bce"}]
        channels.append({"name": f"c{index}", "activation": activation, "target": target, "losses": loss})
    defaults = {"threshold": 0.5, "min_size": 0, **({"stride": [1, 1, 1]} if method == "mutex" else {})}
    return TaskSpec.model_validate(
        {
            "schema_version": 1,
            "name": "affinities",
            "summary": "Affinities in some convention.",
            "affinities": {"axes": axes, "edge_stored_at": stored},
            "channels": channels,
            "decode": {"method": method, **defaults, **fields},
            "metrics": ["balanced_accuracy"],
        }
    )


def true_values(labels, task):
    """The affinities (C, Z, Y, X) of labels as float32."""
    return compute_affinities(labels, convention_of(task))[0].astype(np.float32)


def noisy_values(labels, task, *, seed=0):
    """The same with noise, without two equal values."""
    random = np.random.default_rng(seed)
    true = true_values(labels, task)
    return np.where(true > 0, random.beta(5, 2, true.shape), random.beta(2, 5, true.shape)).astype(np.float32)


def scores(found, truth):
    """Scores of objects, where the truth has one."""
    table = count_pairs(np.asarray(found).astype(np.int64), np.asarray(truth).astype(np.int64))
    return partition_scores(table.select(table.truth != 0))


def write_prediction(location, values, task, *, dtype="uint8", carries_task=True):
    """Write channel values as `zoo predict` does."""
    stored = store_values(values, task=task, dtype=np.dtype(dtype))
    with create_volume(
        location,
        shape=stored.shape[1:],
        dtype=stored.dtype,
        channels=None if len(stored) == 1 else len(stored),
        voxel_size_nm=(30.0, 8.0, 8.0),
        stored=StoredPrediction(task=task if carries_task else None),
    ) as volume:
        volume.write(volume.whole, stored[0] if len(stored) == 1 else stored)
    return location


LABEL = StoredPrediction("label")


def write_labels(location, labels):
    with create_volume(
        location, shape=labels.shape, dtype="uint32", channels=None, voxel_size_nm=(30.0, 8.0, 8.0), stored=LABEL
    ) as volume:
        volume.write(volume.whole, labels.astype(np.uint32))
    return location
