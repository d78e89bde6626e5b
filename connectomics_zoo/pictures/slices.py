"""Draws three orthogonal slices of a volume with what was predicted of it lying over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.pictures.classes import legend_of, paint
from connectomics_zoo.pictures.drawing import (
    DOTS_PER_INCH,
    RGB,
    blend,
    check_picture,
    coloured,
    save_figure,
)
from connectomics_zoo.pictures.palette import VERMILLION
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.scores.classes import classes_of, found_classes
from connectomics_zoo.volumes import Box, Volume, open_volume

MOST_VOXELS = 1024
"""Edge of the part in the middle that is drawn, in voxels."""

STRENGTH = 0.6
"""Of a colour where the prediction is certain."""

_INCHES = 4.0
_PLANES = ("section (y, x)", "cut (z, x)", "cut (z, y)")


def draw_slices(path: str | Path, *, image: str | Path, made: str | Path) -> None:
    """Write a PNG with the middle section, and the middle cuts along y and x, of an image and what was made of it.

    Of what has channels, the first one is drawn, and of what says its classes, each in a colour of its own. Of large
    volumes, the middle is drawn.

    Args:
        path: a file ending in .png; an existing one is replaced.
        image: the raw volume.
        made: a prediction, labels or objects, as large as the image or with its place in it.

    Raises:
        OutputError: `path` cannot be written.
        VolumeError: a volume cannot be read, or the two do not belong together.
    """
    target = Path(path)
    check_picture(target)
    with open_volume(image) as raw, open_volume(made) as prediction:
        place = prediction.placement
        origin = (0, 0, 0) if place is None else place.box.start
        if (prediction.shape if place is None else place.whole_shape) != raw.shape:
            raise VolumeError(
                f"{raw.location} and {prediction.location}: have the shapes {raw.shape} and {prediction.shape}, and "
                "the second must be made of the first."
            )
        box = prediction.whole.middle((MOST_VOXELS,) * 3)
        task = classes_of(prediction)
        pairs = [_pair(raw, prediction, plane, origin=origin, task=task) for plane in _planes(box)]
        size = prediction.voxel_size_nm or (1.0, 1.0, 1.0)
        name = f"{prediction.location}, voxels {box.moved(origin)}"
    figure = _figure(pairs, size, name=name)
    if task is not None:
        names = [task.channels[index].name for index in task.scored]
        figure.legend(handles=legend_of(names), loc="outside lower right", ncols=len(names), frameon=False)
    save_figure(figure, target)


def _planes(box: Box) -> list[Box]:
    """The middle planes of a box, across z, y and x."""
    z, y, x = ((first + stop) // 2 for first, stop in box.ranges)
    return [box.replace(z=(z, z + 1)), box.replace(y=(y, y + 1)), box.replace(x=(x, x + 1))]


def _pair(
    raw: Volume, prediction: Volume, plane: Box, *, origin: tuple[int, int, int], task: TaskSpec | None
) -> tuple[RGB, RGB]:
    """Return the image in a plane, and the same with the prediction over it."""
    grey = _grey(_flat(raw.read(plane.moved(origin))))
    if task is not None:
        found = found_classes(prediction, plane, task=task)
        return grey, paint(grey, [_flat(found[index]) for index in task.scored])
    values = _flat(prediction.read(plane))
    if prediction.content in ("label", "instances") or (values.dtype.kind in "iu" and values.dtype.itemsize > 1):
        return grey, coloured(grey, values)
    low, high = (
        (0.0, 255.0) if values.dtype == np.uint8 else (min(0.0, float(values.min())), float(values.max()) or 1.0)
    )
    return grey, blend(grey, VERMILLION, STRENGTH * (values.astype(np.float32) - low) / (high - low))


def _flat(block: NDArray[Any]) -> NDArray[Any]:
    """Return a plane of the first channel as (rows, columns)."""
    plane = block[0] if block.ndim == 4 else block
    (axis,) = [axis for axis, edge in enumerate(plane.shape) if edge == 1][:1]
    return np.asarray(plane.take(0, axis=axis))


def _grey(values: NDArray[Any]) -> RGB:
    low, high = np.percentile(values, (0.5, 99.5))
    scaled = np.clip((values.astype(np.float32) - low) / max(float(high - low), 1e-6), 0, 0.999)
    return np.repeat(scaled[..., np.newaxis].astype(np.float32), 3, axis=2)


def _figure(pairs: list[tuple[RGB, RGB]], size: tuple[float, float, float], *, name: str) -> Figure:
    z, y, x = size
    aspects = (y / x, z / x, z / y)
    figure = Figure(figsize=(3 * _INCHES, 2 * _INCHES + 0.5), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 3)
    for column, (pair, aspect, title) in enumerate(zip(pairs, aspects, _PLANES, strict=True)):
        for panel, picture in zip(panels[:, column], pair, strict=True):
            panel.imshow(picture, aspect=aspect, interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
        panels[0, column].set_title(title)
    panels[0, 0].set_ylabel("image")
    panels[1, 0].set_ylabel("prediction over it")
    figure.suptitle(name, fontsize="medium")
    return figure
