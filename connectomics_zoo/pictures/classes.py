"""Draws image, truth, prediction and errors of several classes, each in a colour of its own, with a legend."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.pictures.drawing import (
    DOTS_PER_INCH,
    GREY,
    RGB,
    _unit,
    blend,
    save_figure,
)
from connectomics_zoo.pictures.palette import VERMILLION, colour_of
from connectomics_zoo.scores.classes import check_truths, classes_of, found_classes, true_classes
from connectomics_zoo.volumes import Box, Volume, open_volume
from connectomics_zoo.volumes.alignment import aligned_box
from connectomics_zoo.volumes.box import AnyRegion

STRENGTH = 0.5
"""Of a class's colour over the image."""

_INCHES = 4.0
_MOST_PIXELS = 1024


def paint(grey: RGB, masks: Sequence[NDArray[Any]]) -> RGB:
    """Return a picture (Y, X, 3) with the colour of each class over it, those of several mixed."""
    for index, mask in enumerate(masks):
        grey = blend(grey, colour_of(index), STRENGTH * mask)
    return grey


def legend_of(names: Sequence[str]) -> list[Patch]:
    """Return a patch of colour for each class."""
    return [
        Patch(facecolor=_unit(colour_of(index)), edgecolor="black", linewidth=0.5, label=name)
        for index, name in enumerate(names)
    ]


def draw_classes(
    path: str | Path,
    *,
    image: str | Path,
    truth: str | Path | Mapping[str, str],
    prediction: str | Path,
    threshold: float | None = None,
    region: AnyRegion = None,
    mask: str | Path | None = None,
    unlabelled: int | None = None,
    background: int | None = None,
    annotated: Collection[str] | None = None,
    sections: int = 3,
) -> None:
    """Write a PNG with up to `sections` sections: image, true classes, found ones, and the voxels that are wrong.

    What is known of no class is grey. Of sections larger than 1024 pixels the middle is drawn.

    Args:
        path: a file ending in .png; an existing one is replaced.
        image: the raw volume.
        truth: labels, or the label volumes by name.
        prediction: what says that it has several classes.
        threshold: of probabilities; by default that of the task.
        region: the part of the truth that the prediction is of.
        mask: 0 where the truth is not annotated.
        unlabelled: the label that says the same.
        background: the label that is background beside 0.
        annotated: the classes that the truth annotates; by default all.
        sections: of the volume, evenly spaced.

    Raises:
        OutputError: `path` cannot be written.
        VolumeError: a volume cannot be read, or they do not belong together.
    """
    with ExitStack() as opened:
        raw, predicted = (opened.enter_context(open_volume(place)) for place in (image, prediction))
        places = dict(truth.items()) if isinstance(truth, Mapping) else {"": truth}
        truths = {name or None: opened.enter_context(open_volume(place)) for name, place in places.items()}
        known = None if mask is None else opened.enter_context(open_volume(mask))
        task = classes_of(predicted)
        assert task is not None
        check_truths(truths, task=task, annotated=annotated)
        first = next(iter(truths.values()))
        for other in (raw, *truths.values(), *(() if known is None else (known,))):
            if other.shape != first.shape:
                raise VolumeError(
                    f"{other.location} and {first.location} have the shapes {other.shape} and {first.shape}, and they "
                    "must be equal: give the volumes that belong together."
                )
        if threshold is not None:
            task = task.model_copy(update={"decode": task.decode.model_copy(update={"threshold": threshold})})
        box, offset = aligned_box(predicted, shape=first.shape, region=region, truth=first.location)
        depth, count = box.shape[0], min(sections, box.shape[0])
        rows = [box.start[0] + int((index + 0.5) * depth / count) for index in range(count)]
        middle = box.middle((depth, _MOST_PIXELS, _MOST_PIXELS))
        pictures = []
        for row in rows:
            section = middle.replace(z=(row, row + 1))
            targets = true_classes(
                truths,
                known,
                section,
                task=task,
                unlabelled=unlabelled,
                background=background,
                annotated=annotated,
            )
            found = found_classes(predicted, section.relative_to(offset), task=task)
            chosen = list(task.scored)
            true, sure = targets.values[chosen, 0] > 0.5, targets.known[chosen, 0]
            pictures.append(_row(_grey(raw, section), true, sure, found[chosen, 0]))
        names = [task.channels[index].name for index in task.scored]
        size = raw.voxel_size_nm or (1.0, 1.0, 1.0)
    _draw(Path(path), pictures, rows=rows, names=names, aspect=size[1] / size[2])


def _grey(raw: Volume, section: Box) -> RGB:
    values = raw.read(section)
    flat = values.reshape(-1, *values.shape[-2:])[0]
    low, high = np.percentile(flat, (0.5, 99.5))
    scaled = np.clip((flat.astype(np.float32) - low) / max(float(high - low), 1e-6), 0, 0.999)
    return np.repeat(scaled[..., np.newaxis].astype(np.float32), 3, axis=2)


def _row(grey: RGB, true: NDArray[np.bool_], known: NDArray[np.bool_], found: NDArray[np.bool_]) -> tuple[RGB, ...]:
    """Return image, truth, prediction and errors of a section, of classes (C, Y, X)."""
    dark = blend(grey, GREY, 0.9 * ~np.logical_or.reduce(known))
    missed = [one & ~other & sure for one, other, sure in zip(true, found, known, strict=True)]
    false = np.logical_or.reduce(found & ~true & known) & ~np.logical_or.reduce(missed)
    errors = blend(paint(dark, missed), VERMILLION, 0.75 * false)
    return grey, paint(dark, list(true & known)), paint(grey, list(found)), errors


def _draw(path: Path, pictures: list[tuple[RGB, ...]], *, rows: list[int], names: list[str], aspect: float) -> None:
    height, width = pictures[0][0].shape[:2]
    figure = Figure(
        figsize=(4 * _INCHES + 0.5, len(rows) * _INCHES * aspect * height / width + 1.3),
        dpi=DOTS_PER_INCH,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), 4, squeeze=False)
    for axes, row, pictured in zip(panels, rows, pictures, strict=True):
        for panel, picture in zip(axes, pictured, strict=True):
            panel.imshow(picture, aspect=aspect)
            panel.set_xticks([])
            panel.set_yticks([])
        axes[0].set_ylabel(f"z = {row}", fontsize=13)
    for panel, title in zip(panels[0], ("image", "truth", "prediction", "errors"), strict=True):
        panel.set_title(title, fontsize=13)
    handles = [
        *legend_of(names),
        Patch(
            facecolor=_unit(VERMILLION),
            edgecolor="black",
            linewidth=0.5,
            label="errors: false (what is missed has the colour of its class)",
        ),
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), fontsize=12, frameon=False)
    save_figure(figure, path)
