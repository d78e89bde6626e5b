"""The scores, as functions of a table of label pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.evaluate.contingency import Contingency


def overlap_scores(*, true_positive: int, false_positive: int, false_negative: int) -> dict[str, float]:
    """Return Dice, IoU, precision and recall of a foreground, from voxels.

    Where truth and prediction are both empty, all four are 1; where one of them alone is, all four are 0.
    """
    predicted = true_positive + false_positive
    true = true_positive + false_negative
    if predicted == 0 and true == 0:
        return {"dice": 1.0, "iou": 1.0, "precision": 1.0, "recall": 1.0}
    return {
        "dice": 2 * true_positive / (predicted + true),
        "iou": true_positive / (predicted + true - true_positive),
        "precision": true_positive / predicted if predicted else 0.0,
        "recall": true_positive / true if true else 0.0,
    }


def foreground_scores(table: Contingency, *, above: float) -> dict[str, float]:
    """Return the scores of prediction > `above` against truth > 0, with the numbers of voxels."""
    predicted, true = table.prediction > above, table.truth > 0
    voxels = {
        "true_positive": int(table.counts[predicted & true].sum()),
        "false_positive": int(table.counts[predicted & ~true].sum()),
        "false_negative": int(table.counts[~predicted & true].sum()),
    }
    return {**overlap_scores(**voxels), **voxels}


def class_scores(table: Contingency) -> dict[int, dict[str, float]]:
    """Return the scores of every class but 0 that occurs in prediction or truth."""
    classes = sorted({int(label) for labels in (table.prediction, table.truth) for label in np.unique(labels)} - {0})
    scores = {}
    for label in classes:
        predicted, true = table.prediction == label, table.truth == label
        scores[label] = overlap_scores(
            true_positive=int(table.counts[predicted & true].sum()),
            false_positive=int(table.counts[predicted & ~true].sum()),
            false_negative=int(table.counts[~predicted & true].sum()),
        )
    return scores


def instance_scores(table: Contingency) -> dict[str, float]:
    """Return adapted Rand error and variation of information of two segmentations, for at least one voxel.

    `rand_precision` is the fraction of voxel pairs within a predicted object that are within a true one, so merges
    lower it; `rand_recall` the fraction of pairs within a true object that stay together, so splits lower it; the
    adapted Rand error is 1 - their harmonic mean (Arganda-Carreras et al. 2015; scikit-image gives the same error,
    and the other two in the opposite order). `voi_split` is H(prediction | truth) and `voi_merge`
    H(truth | prediction), in bits (Meila 2007).
    """
    counts = table.counts.astype(np.float64)
    predicted, predicted_sizes = _sizes(table.prediction, counts)
    true, true_sizes = _sizes(table.truth, counts)
    together = _pairs(counts)
    in_prediction, in_truth = _pairs(predicted_sizes), _pairs(true_sizes)
    total = counts.sum()
    split = float((counts * np.log2(true_sizes[true] / counts)).sum() / total)
    merge = float((counts * np.log2(predicted_sizes[predicted] / counts)).sum() / total)
    # Without a single pair of voxels on a side, there is nothing that could be wrong on it.
    return {
        "adapted_rand_error": 1 - 2 * together / (in_prediction + in_truth) if in_prediction + in_truth else 0.0,
        "rand_precision": together / in_prediction if in_prediction else 1.0,
        "rand_recall": together / in_truth if in_truth else 1.0,
        "voi": split + merge,
        "voi_split": split,
        "voi_merge": merge,
        "objects_predicted": len(predicted_sizes),
        "objects_true": len(true_sizes),
    }


def _sizes(labels: NDArray[Any], counts: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return for each pair the number of its object, and the voxels of each object."""
    _, objects = np.unique(labels, return_inverse=True)
    return objects, np.bincount(objects, weights=counts).astype(np.float64)


def _pairs(sizes: NDArray[np.float64]) -> float:
    """Twice the number of pairs of different voxels in the same object."""
    return float((sizes * (sizes - 1)).sum())


def balanced_accuracy(*, true_positive: int, false_positive: int, false_negative: int, true_negative: int) -> float:
    """Return the mean of the rates at which yes and no are found, of those that occur; 1 where none does."""
    rates = []
    for right, wrong in ((true_positive, false_negative), (true_negative, false_positive)):
        if right + wrong:
            rates.append(right / (right + wrong))
    return sum(rates) / len(rates) if rates else 1.0
