"""Draws image, truth, prediction and errors side by side, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.pictures.drawing import (
    DOTS_PER_INCH,
    GREY,
    RGB,
    _unit,
    blend,
    check_picture,
    coloured,
    save_figure,
)
from connectomics_zoo.pictures.palette import BLUE, VERMILLION, YELLOW
from connectomics_zoo.scores.contingency import count_pairs
from connectomics_zoo.tasks.targets.labels import connected_objects
from connectomics_zoo.volumes import Box, VoxelSize, check_mask, open_volume
from connectomics_zoo.volumes.alignment import aligned_box
from connectomics_zoo.volumes.box import AnyRegion
from connectomics_zoo.volumes.label_look import LabelLook
from connectomics_zoo.volumes.truth import swapped_background
from connectomics_zoo.volumes.values import read_bytes

PANEL_INCHES = 4.0
MAX_SECTIONS = 8
MAX_EDGE = 1024
"""Pixels of a section that are drawn along each axis; of a larger one, the middle."""


def draw_comparison(
    path: str | Path,
    *,
    raw: NDArray[Any],
    truth: NDArray[Any],
    prediction: NDArray[Any],
    known: NDArray[np.bool_] | None = None,
    objects: bool = False,
    threshold: float = 0.5,
    voxel_size_nm: VoxelSize | None = None,
    section_names: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Write a PNG with a row for each section: image, truth, prediction, errors.

    Where truth or prediction is a mask (or a probability), the errors are false and missed voxels and the Dice of
    the section; where both hold several objects, or any with `objects`, they are the boundaries that only one of them
    has.

    Args:
        path: a file ending in .png; an existing one is replaced, whole or not at all.
        raw: grey values (N, Y, X), N = 1..8 sections.
        truth: labels of the same shape.
        prediction: labels, or floats that are probabilities, of the same shape.
        known: of the same shape, False where the truth is not known: grey, no error, not in the Dice; None: all is.
        objects: labels are objects, even where there is a single one.
        threshold: the foreground of probabilities is above this.
        voxel_size_nm: (z, y, x), for the scale bar; without it there is none.
        section_names: what to write beside each row, such as `z = 14`.
        title: a line above everything.

    Raises:
        OutputError: `path` cannot be written.
        VolumeError: the shapes differ.
    """
    known = np.ones(truth.shape, dtype=bool) if known is None else known
    _check_shapes(raw, truth, prediction)
    assert known.shape == truth.shape
    target = Path(path)
    check_picture(target)
    pixel = (1.0, 1.0) if voxel_size_nm is None else (voxel_size_nm[1], voxel_size_nm[2])
    aspect = pixel[0] / pixel[1]
    several = min(len(np.unique(truth)), len(np.unique(prediction))) > 2
    are_masks = prediction.dtype.kind == "f" or not (several or objects)
    draw: Callable[..., None] = partial(_draw_masks, threshold=threshold) if are_masks else _draw_objects
    if not are_masks:
        truth, prediction = _numbered_alike(truth, prediction)
    figure, panels = _make_figure(len(raw), height=PANEL_INCHES * aspect * raw.shape[1] / raw.shape[2])
    for column, name in enumerate(("image", "truth", "prediction", "errors")):
        panels[0][column].set_title(name, fontsize=13)
    low, high = np.percentile(raw, (0.5, 99.5))
    for row, axes in enumerate(panels):
        # Below 1, since matplotlib's resampling would round beyond it and then complain.
        grey = np.clip((raw[row].astype(np.float32) - low) / max(high - low, 1e-6), 0, 0.999)
        shown = np.repeat(grey[..., np.newaxis], 3, axis=2)
        draw(axes, shown, truth[row], prediction[row], known[row], aspect=aspect)
        if section_names is not None:
            axes[0].set_ylabel(section_names[row], fontsize=13)
        if voxel_size_nm is not None:
            _draw_scale_bar(axes[0], shape=raw.shape[1:], pixel_nm=pixel)
    _draw_legend(figure, are_masks=are_masks, all_known=bool(known.all()))
    if title:
        figure.suptitle(title, fontsize=14)
    save_figure(figure, target)


def draw_volumes(
    path: str | Path,
    *,
    image: str | Path,
    truth: str | Path,
    prediction: str | Path,
    threshold: float | None = None,
    region: AnyRegion = None,
    mask: str | Path | None = None,
    unlabelled: int | None = None,
    background: int | None = None,
    relabel: bool = False,
    objects: bool = False,
    sections: int = 3,
    title: str = "",
) -> None:
    """Draw up to `sections` evenly spaced sections of three volumes; see `draw_comparison`.

    Of sections larger than 1024 pixels the middle is drawn. The prediction is of that part of the truth that `evaluate`
    takes; with `relabel`, the truth's objects are its connected components in what is drawn; where `mask` is 0 or the
    truth `unlabelled`, it is not known. In uint8, 255 stands for probability 1, or in a scale of the file's own for
    what that says, where the file says that it holds probabilities (`Volume.content`) or a `threshold` is given, and
    beyond 1 also where the truth is a mask and the file neither says that it holds labels nor looks like them.
    """
    with (
        open_volume(image) as grey,
        open_volume(truth) as true,
        open_volume(prediction) as predicted,
        nullcontext() if mask is None else open_volume(mask) as annotated,
    ):
        if grey.shape != true.shape:
            raise VolumeError(f"{grey.location} and {true.location} have the shapes {grey.shape} and {true.shape}.")
        if annotated is not None:
            check_mask(true, annotated, kind="truth")
        box, offset = aligned_box(predicted, shape=true.shape, region=region, truth=true.location)
        depth = box.shape[0]
        count = min(sections, depth)
        rows = [box.start[0] + int((index + 0.5) * depth / count) for index in range(count)]
        middle = box.middle((depth, MAX_EDGE, MAX_EDGE))
        drawn = [middle.replace(z=(row, row + 1)) for row in rows]
        # Components are those of all that lies between what is drawn.
        looked_at = [middle] if relabel else drawn
        read, unlabelled = swapped_background(true.read, background=background, unlabelled=unlabelled)
        labels = _stack(read, looked_at)
        known = np.ones(labels.shape, dtype=bool) if annotated is None else _stack(annotated.read, looked_at) != 0
        if unlabelled is not None:
            known &= labels != unlabelled
        labels = np.where(known, labels, np.zeros((), labels.dtype))
        if relabel:
            between = [row - box.start[0] for row in rows]
            labels, known = connected_objects(labels)[between], known[between]
        raw = _stack(grey.read, drawn)
        found = _stack(predicted.read, [section.relative_to(offset) for section in drawn])
        stored = predicted.stored()
        guess = not objects and predicted.content is None and len(np.unique(labels)) <= 2
        if guess and predicted.dtype == np.uint8:
            look = LabelLook()
            look.add(found)
            guess = look.bytes_hold() == "probability"
        if predicted.dtype == np.uint8 and (
            predicted.content == "probability" or (found.max() > 1 and (threshold is not None or guess))
        ):
            found = read_bytes(found, scale=stored.first_scale)
        draw_comparison(
            path,
            raw=raw,
            truth=labels,
            prediction=found,
            known=known,
            objects=objects,
            threshold=stored.cut if threshold is None else threshold,
            voxel_size_nm=grey.voxel_size_nm or true.voxel_size_nm,
            section_names=[f"z = {row}" for row in rows],
            title=title,
        )


def _stack(read: Callable[[Box], NDArray[Any]], boxes: Sequence[Box]) -> NDArray[Any]:
    """Read `boxes` of a volume, of the first of its channels, one behind the other."""
    blocks = [read(box) for box in boxes]
    return np.concatenate([block if block.ndim == 3 else block[0] for block in blocks])


def _check_shapes(raw: NDArray[Any], truth: NDArray[Any], prediction: NDArray[Any]) -> None:
    if raw.ndim != 3 or not raw.shape == truth.shape == prediction.shape:
        raise VolumeError(
            f"image, truth and prediction have the shapes {raw.shape}, {truth.shape} and {prediction.shape}, a picture "
            "needs three equal ones (sections, y, x)."
        )
    if not 1 <= len(raw) <= MAX_SECTIONS:
        raise VolumeError(f"a picture has 1 to {MAX_SECTIONS} sections, not {len(raw)}, choose some.")


def _make_figure(rows: int, *, height: float) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(4 * PANEL_INCHES + 0.5, rows * height + 1.3), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[list[Axes]] = figure.subplots(rows, 4, squeeze=False).tolist()
    for axes in panels:
        for panel in axes:
            panel.set_xticks([])
            panel.set_yticks([])
    return figure, panels


def _draw_masks(
    axes: list[Axes],
    grey: RGB,
    truth: NDArray[Any],
    prediction: NDArray[Any],
    known: NDArray[np.bool_],
    *,
    aspect: float,
    threshold: float,
) -> None:
    """Fill truth and probability, outline them, and colour right, false and missed voxels."""
    strength = prediction.astype(np.float32) if prediction.dtype.kind == "f" else (prediction > 0).astype(np.float32)
    true, found = (truth > 0) & known, strength > threshold
    judged = found & known
    background = blend(grey, GREY, 0.9 * ~known)
    errors = blend(background, BLUE, 0.45 * (true & judged))
    errors = blend(errors, VERMILLION, 0.75 * (judged & ~true))
    errors = blend(errors, YELLOW, 0.75 * (true & ~judged))
    images = (grey, blend(background, YELLOW, 0.3 * true), blend(grey, BLUE, 0.6 * np.clip(strength, 0, 1)), errors)
    for panel, picture in zip(axes, images, strict=True):
        panel.imshow(picture, aspect=aspect)
    for panel, mask, colour in ((axes[1], true, YELLOW), (axes[2], found, BLUE)):
        if mask.any() and not mask.all():
            panel.contour(mask, levels=[0.5], colors=[_unit(colour)], linewidths=0.9)
    total = true.sum() + judged.sum()
    dice = 2 * (true & judged).sum() / total if total else 1.0
    score = f"Dice {dice:.3f}" if known.any() else "nothing is known"
    axes[3].text(0.98, 0.02, score, transform=axes[3].transAxes, ha="right", va="bottom", **_label_style(13))


def _draw_objects(
    axes: list[Axes],
    grey: RGB,
    truth: NDArray[Any],
    prediction: NDArray[Any],
    known: NDArray[np.bool_],
    *,
    aspect: float,
) -> None:
    """Colour the objects of both, and the boundaries that both, one or the other has."""
    # At the edge of what is known there is a boundary in the truth that no object has.
    judged = ~_grown(~known)
    true, found = _boundaries(truth), _boundaries(prediction)
    near_true, near_found = _grown(true), _grown(found)
    background = blend(grey, GREY, 0.9 * ~known)
    errors = blend(background, BLUE, 0.8 * (judged & true & near_found))
    errors = blend(errors, VERMILLION, 1.0 * (judged & found & ~near_true))
    errors = blend(errors, YELLOW, 1.0 * (judged & true & ~near_found))
    labelled = blend(coloured(grey, truth), GREY, 0.9 * ~known)
    images = (grey, labelled, coloured(grey, prediction), errors)
    for panel, picture in zip(axes, images, strict=True):
        panel.imshow(picture, aspect=aspect)


def _draw_legend(figure: Figure, *, are_masks: bool, all_known: bool) -> None:
    names = (
        ("right", "false (only predicted)", "missed (only true)")
        if are_masks
        else ("boundary of both", "of the prediction alone (split or false)", "of the truth alone (merge or missed)")
    )
    patches = [
        Patch(facecolor=_unit(colour), edgecolor="black", linewidth=0.5, label=name)
        for colour, name in zip((BLUE, VERMILLION, YELLOW, GREY), (*names, "truth not known"), strict=True)
    ]
    patches = patches[:3] if all_known else patches
    figure.legend(handles=patches, loc="outside lower right", ncols=len(patches), fontsize=12, frameon=False)


def _draw_scale_bar(panel: Axes, *, shape: tuple[int, ...], pixel_nm: tuple[float, float]) -> None:
    """Draw a bar of a round length, at most a quarter of the section's width."""
    height, width = shape
    length_nm = _round_length(width * pixel_nm[1] / 4)
    pixels = length_nm / pixel_nm[1]
    left, bottom = 0.03 * width, 0.965 * height
    bar = Rectangle((left, bottom - 0.012 * height), pixels, 0.012 * height, facecolor="white", edgecolor="black")
    bar.set_linewidth(0.6)
    panel.add_patch(bar)
    name = f"{length_nm / 1000:g} µm" if length_nm >= 1000 else f"{length_nm:g} nm"
    panel.text(left, bottom - 0.025 * height, name, ha="left", va="bottom", **_label_style(12))


def _round_length(length: float) -> float:
    """The largest of 1, 2, 5, 10, 20, … that is at most `length`."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(max(step * power for step in (1, 2, 5) if step * power <= length))


def _label_style(size: int) -> dict[str, Any]:
    return {"fontsize": size, "color": "white", "path_effects": [withStroke(linewidth=2.5, foreground="black")]}


def _numbered_alike(truth: NDArray[Any], prediction: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the objects of both anew, so that the largest part of a true object has its number, hence its colour."""
    true_labels, true_numbers = np.unique(truth, return_inverse=True)
    labels, numbers = np.unique(prediction, return_inverse=True)
    table = count_pairs(numbers.reshape(truth.shape), true_numbers.reshape(truth.shape))
    # Number 0 is the background of both; true objects come next, and then what has no true object to itself.
    of_true = np.where(true_labels == 0, 0, np.arange(1, len(true_labels) + 1))
    of_predicted = np.where(labels == 0, 0, np.arange(len(labels)) + len(true_labels) + 1)
    taken = np.zeros(len(true_labels), dtype=bool)
    placed = labels == 0
    for pair in np.argsort(-table.counts, kind="stable"):
        label, true = table.prediction[pair], table.truth[pair]
        if not placed[label] and not taken[true] and true_labels[true] != 0:
            of_predicted[label] = of_true[true]
            taken[true] = True
        placed[label] = True
    return of_true[true_numbers.reshape(truth.shape)], of_predicted[numbers.reshape(truth.shape)]


def _boundaries(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour has another label."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edges


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grow by two pixels, within which two boundaries are the same."""
    for _ in range(2):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask
