"""Draws the patches that a run would be trained on: image, labels and targets, as the network gets them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from connectomics_zoo.pictures.classes import legend_of, paint
from connectomics_zoo.pictures.drawing import RGB, blend, coloured, save_figure
from connectomics_zoo.pictures.palette import VERMILLION
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.train.augment import Sample
from connectomics_zoo.train.patches import Patch, TrainingPatches
from connectomics_zoo.volumes.truth import Truth

PATCHES = 6
"""Patches that are drawn, the first ones of the run."""

MOST_TARGETS = 4
"""Channels whose targets are drawn; of more, the first ones."""

PANEL_INCHES = 2.4
DOTS_PER_INCH = 110


def draw_preview(run: RunSpec, path: Path) -> None:
    """Write a PNG with a row for each of the first patches: its middle section, and a cut along z.

    Where the middle is not annotated, the section or the cut with most annotation is drawn. Grey values are drawn from
    0, black, to 1, as the network gets them; what is not annotated is red.

    Args:
        run: a complete run whose volumes have been looked at.
        path: a file ending in .png; an existing one is replaced.

    Raises:
        OutputError: `path` cannot be written.
    """
    drawn = list(itertools.islice(TrainingPatches(run).samples(), PATCHES))
    names = [channel.name for channel in run.task.channels][:MOST_TARGETS]
    classes = run.task.scored if run.task.has_classes else ()
    edges = run.training.patch_size
    size = run.data.network_voxel_nm or (1.0, 1.0, 1.0)
    aspects = (size[1] / size[2], size[0] / size[2])
    titles = ["image (y, x)", "labels (y, x)", *names, "image (z, x)", "labels (z, x)"]
    height = PANEL_INCHES * aspects[0] * edges[1] / edges[2]
    figure = Figure(
        figsize=(len(titles) * PANEL_INCHES + 0.5, len(drawn) * height + 0.9), dpi=DOTS_PER_INCH, layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels: list[list[Axes]] = figure.subplots(len(drawn), len(titles), squeeze=False).tolist()
    for number, (axes, (sample, patch)) in enumerate(zip(panels, drawn, strict=True)):
        axes[0].set_ylabel(f"patch {number}")
        pictures = _pictures(sample, patch, count=len(names), classes=classes)
        for column, (panel, picture) in enumerate(zip(axes, pictures, strict=True)):
            panel.imshow(picture, aspect=aspects[column >= len(pictures) - 2], interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(title)
    channels = len(run.task.channels)
    some = f", the first {len(names)} of {channels} targets" if channels > len(names) else ""
    figure.suptitle(f"{run.name}: augmentation {run.training.augmentation.described}{some}")
    if classes:
        handles = legend_of([run.task.channels[index].name for index in classes])
        figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), frameon=False)
    save_figure(figure, path)


def _pictures(sample: Sample, patch: Patch, *, count: int, classes: tuple[int, ...] = ()) -> list[RGB]:
    """Return image, labels and `count` targets of a section, and image and labels of a cut through the same row.

    Of a task of several classes, labels are drawn as the targets of these channels.
    """
    annotated = Truth(sample.labels, sample.annotated).anywhere
    section, rows = _shown(annotated, axis=0), _shown(annotated, axis=1)
    targets = patch.targets.numpy()
    known = np.broadcast_to(patch.mask.numpy() > 0, targets.shape)

    def image_and_labels(cut: tuple[int | slice, ...]) -> list[RGB]:
        grey = _grey(sample.image[0][cut])
        if classes:
            masks = [(targets[index][cut] > 0.5) & known[index][cut] for index in classes]
            return [grey, _marked(paint(grey, masks), ~np.logical_or.reduce(known[list(classes)])[cut])]
        truth = Truth(sample.labels, sample.annotated)
        return [grey, _marked(coloured(grey, truth.largest[cut]), ~truth.anywhere[cut])]

    pictures = image_and_labels((section, slice(None), slice(None)))
    for values, mask in zip(targets[:count, section], known[:count, section], strict=True):
        low = min(float(values.min()), 0.0)  # some targets lie in -1..1
        pictures.append(_marked(_grey((values - low) / (1 - low)), ~mask))
    return pictures + image_and_labels((slice(None), rows, slice(None)))


def _shown(annotated: NDArray[np.bool_], *, axis: int) -> int:
    """Return the middle of an axis, or where nothing is annotated there, the place with most annotation."""
    counts = annotated.sum(axis=tuple(other for other in range(3) if other != axis))
    middle = len(counts) // 2
    return middle if counts[middle] else int(counts.argmax())


def _grey(values: NDArray[np.float32]) -> RGB:
    # Below 1, since matplotlib's resampling would round beyond it and then complain.
    return np.repeat(np.clip(values, 0, 0.999).astype(np.float32)[..., np.newaxis], 3, axis=2)


def _marked(picture: RGB, unknown: NDArray[Any]) -> RGB:
    return blend(picture, VERMILLION, 0.5 * unknown)
