"""What is measured of each voxel to score boxes, and to tell which look alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.suggest.candidates import Measure
from connectomics_zoo.volumes import Box, Volume
from connectomics_zoo.volumes.prediction import scale_of
from connectomics_zoo.volumes.values import read_prediction

SCORE, ANNOTATED, LOOKS = 0, 1, 2
"""Where the measures of `measure_of` are: the score, whether it is annotated, and from there on what it looks like."""


def measure_of(
    source: Volume,
    made: Volume,
    spread: Volume | None,
    mask: Volume | None,
    *,
    task: TaskSpec,
    first: tuple[int, int, int],
) -> Measure:
    """Return the function from boxes to measures: `SCORE`, `ANNOTATED`, and grey value and channels and their squares.

    Args:
        source: the image.
        made: its prediction, from the voxel `first` of the image on.
        spread: the spread of that; without one, the score is the doubt.
        mask: is not 0 where something is annotated.
        task: what is predicted.
        first: a voxel (z, y, x) of the image.
    """

    def measure(box: Box) -> NDArray[np.floating]:
        inside = box.relative_to(first)
        values = read_prediction(made, inside, task=task).astype(np.float64)
        grey = _with_channels(source.read(box)).mean(axis=0, dtype=np.float64)
        looks = np.stack([grey, *values])
        if spread is None:
            score = doubt(values, task)
        else:
            apart = _with_channels(spread.read(inside))
            score = apart.mean(axis=0, dtype=np.float64) / (255 if apart.dtype == np.uint8 else 1)
        annotated = np.zeros(box.shape) if mask is None else mask.read_plain(box) != 0
        return np.concatenate([[score, annotated], looks, looks**2])

    return measure


def _with_channels(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.ndim == 4 else array[np.newaxis]


def doubt(values: NDArray[np.float64], task: TaskSpec) -> NDArray[np.float64]:
    """Return 1 where values (C, Z, Y, X) are at the threshold, 0 where they are as far from it as can be.

    It is the mean over the channels.
    """
    cut = task.decode.cut
    doubts = []
    for value, (low, high) in zip(values, scale_of(task), strict=True):
        room = np.where(value < cut, cut - low, high - cut)
        doubts.append(np.clip(1 - np.abs(value - cut) / room, 0, 1))
    mean: NDArray[np.float64] = np.mean(doubts, axis=0)
    return mean


def looks_of(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return mean and standard deviation of grey value and channels, of the mean measures (N, M) of boxes."""
    first, second = np.split(means[:, LOOKS:], 2, axis=1)
    return np.concatenate([first, np.sqrt(np.maximum(0, second - first**2))], axis=1)
