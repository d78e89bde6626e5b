"""The scores, as functions of a table of label pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.scores.contingency import Contingency


def overlap_scores(*, true_positive: int, false_positive: int, false_negative: int) -> dict[str, float]:
    """Return Dice, IoU, precision and recall, from voxels of a foreground or from objects.

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


def partition_scores(table: Contingency) -> dict[str, float]:
    """Return adapted Rand error, variation of information and CREMI score of two partitions of at least one voxel.

    `rand_precision` is the fraction of voxel pairs within a predicted object that are within a true one, so merges
    lower it; `rand_recall` the fraction of pairs within a true object that stay together, so splits lower it; the
    adapted Rand error is 1 - their harmonic mean (Arganda-Carreras et al. 2015; scikit-image gives the same error,
    and the other two in the opposite order). `voi_split` is H(prediction | truth) and `voi_merge`
    H(truth | prediction), in bits (Meila 2007). The CREMI score is the geometric mean of the adapted Rand error and
    `voi` (cremi.org). Every label is an object here, 0 too: where CREMI's and SNEMI3D's own script take each voxel
    that a prediction leaves 0 for an object by itself, scikit-image and we take them all for one.
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
    both = in_prediction + in_truth
    error = max(0.0, 1 - 2 * together / both) if both else 0.0  # rounding may lead below 0
    return {
        "adapted_rand_error": error,
        "rand_precision": together / in_prediction if in_prediction else 1.0,
        "rand_recall": together / in_truth if in_truth else 1.0,
        "voi": split + merge,
        "voi_split": split,
        "voi_merge": merge,
        "cremi_score": float(np.sqrt(error * (split + merge))),
    }


def object_scores(table: Contingency) -> dict[str, float]:
    """Return how many objects, which are the labels but 0, were found.

    A predicted and a true object match at a threshold where their IoU is above it. At one half and more no object has
    two matches, so this is one-to-one without a choice (Kirillov et al. 2019). With TP matches, FP predicted and FN
    true objects without one, `ap` is TP / (TP + FP + FN): the accuracy that StarDist and cellpose call average
    precision, since predictions have no scores to rank them by (those two match at an IoU of exactly the threshold as
    well). Precision is TP / (TP + FP), recall TP / (TP + FN), F1 their harmonic mean. Panoptic quality is the sum
    of the IoU of the matches / (TP + FP / 2 + FN / 2), which is segmentation quality, the mean IoU of the matches,
    times recognition quality, which is `f1_50`. Voxels that are 0 on either side count for the unions. Without any
    object on both sides all is 1; with objects on one side alone, or no match, all is 0.
    """
    counts = table.counts.astype(np.float64)
    predicted, predicted_sizes = _sizes(table.prediction, counts)
    true, true_sizes = _sizes(table.truth, counts)
    objects_predicted = len(predicted_sizes) - int((table.prediction == 0).any())
    objects_true = len(true_sizes) - int((table.truth == 0).any())
    both = (table.prediction != 0) & (table.truth != 0)
    unions = predicted_sizes[predicted[both]] + true_sizes[true[both]] - counts[both]
    overlaps = counts[both] / unions
    matched = overlaps[overlaps > 0.5]
    found, found_75 = len(matched), int((overlaps > 0.75).sum())
    quality = float(matched.mean()) if found else 0.0
    at_50 = overlap_scores(
        true_positive=found, false_positive=objects_predicted - found, false_negative=objects_true - found
    )
    at_75 = overlap_scores(
        true_positive=found_75, false_positive=objects_predicted - found_75, false_negative=objects_true - found_75
    )
    nothing = objects_predicted == objects_true == 0
    return {
        "ap_50": at_50["iou"],
        "ap_75": at_75["iou"],
        "precision_50": at_50["precision"],
        "recall_50": at_50["recall"],
        "f1_50": at_50["dice"],
        "panoptic_quality": 1.0 if nothing else quality * at_50["dice"],
        "segmentation_quality": 1.0 if nothing else quality,
        "objects_matched_50": found,
        "objects_predicted": objects_predicted,
        "objects_true": objects_true,
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
