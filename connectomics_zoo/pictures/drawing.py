"""What pictures are drawn with: colours that everybody can tell apart, blending, and files that appear whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from connectomics_zoo.errors import OutputError
from connectomics_zoo.files.atomic import check_place, whole_file

GREY = (128, 128, 128)
"""Lies over what is not known, nearly opaque, so that the grey values of the image do not show."""


DOTS_PER_INCH = 160


RGB = NDArray[np.float32]


def check_picture(target: Path) -> None:
    """Refuse a name that does not end in .png, or a place where nothing can be written.

    Raises:
        OutputError: it is one.
    """
    if target.suffix.lower() != ".png":
        raise OutputError(f"{target}: pictures are PNG files, give a name that ends in .png.")
    check_place(target, overwrite=True)


def _unit(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = (value / 255 for value in colour)
    return (red, green, blue)


def blend(picture: RGB, colour: tuple[int, int, int], strength: NDArray[Any]) -> RGB:
    """Mix `colour` into `picture` (Y, X, 3), by a strength (Y, X) of 0 to 1."""
    alpha = strength.astype(np.float32)[..., np.newaxis]
    blended: RGB = picture * (1 - alpha) + np.array(_unit(colour), dtype=np.float32) * alpha
    return blended


def coloured(grey: RGB, labels: NDArray[Any]) -> RGB:
    """Give each label a colour of its own that depends on the label alone; 0 stays grey."""
    values, inverse = np.unique(labels, return_inverse=True)
    hue = (values.astype(np.float64) * 0.6180339887498949) % 1  # the golden ratio spreads neighbours apart
    value = 0.75 + 0.25 * ((values.astype(np.float64) * 0.3819660112501051 * 3) % 1)
    angles = (hue[:, np.newaxis] + np.array([0, 2 / 3, 1 / 3])) * 2 * np.pi
    colours = (value[:, np.newaxis] * (0.55 + 0.45 * np.cos(angles))).astype(np.float32)
    alpha = (0.5 * (labels > 0)).astype(np.float32)[..., np.newaxis]
    mixed: RGB = grey * (1 - alpha) + colours[inverse.reshape(labels.shape)] * alpha
    return mixed


def save_figure(figure: Figure, target: Path) -> None:
    """Write `figure` as PNG, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    check_place(target, overwrite=True)
    with whole_file(target, overwrite=True) as partial:
        figure.savefig(partial, format="png")
