"""The suggested boxes as files: a table, layers for Neuroglancer and napari, and the regions of a spec."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.schema.experiment import REQUIRED
from connectomics_zoo.suggest.report import Suggestion, SuggestReport

TABLE, NEUROGLANCER, NAPARI, REGIONS = "suggested.csv", "neuroglancer.json", "napari.csv", "regions.yaml"


def write_files(
    folder: Path,
    report: SuggestReport,
    *,
    voxel_size_nm: tuple[float, float, float] | None,
    offset_nm: tuple[float, float, float] | None,
) -> None:
    """Write the boxes into a folder, in place of earlier ones.

    Args:
        folder: is there.
        report: has the boxes.
        voxel_size_nm: of the volume (z, y, x), if it is known.
        offset_nm: where the volume's first voxel lies in its world, if it says so.

    Raises:
        OutputError: they cannot be written.
    """
    boxes = report.suggestions
    write_text(folder / TABLE, _table(boxes))
    layer = neuroglancer_layer(boxes, voxel_size_nm=voxel_size_nm, offset_nm=offset_nm)
    write_text(folder / NEUROGLANCER, json.dumps(layer, indent=2) + "\n")
    write_text(folder / NAPARI, _napari_shapes(boxes))
    write_text(folder / REGIONS, _regions(report))


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _table(boxes: Sequence[Suggestion]) -> str:
    head = ["rank", *(f"{axis}_{end}" for axis in "zyx" for end in ("first", "stop"))]
    centres = [f"centre_{axis}_nm" for axis in "zyx"]
    rows = ((box.rank, *box.z, *box.y, *box.x, *(box.centre_nm or ("", "", "")), box.score) for box in boxes)
    return _csv([[*head, *centres, "score"], *rows])


def neuroglancer_layer(
    boxes: Sequence[Suggestion],
    *,
    voxel_size_nm: tuple[float, float, float] | None,
    offset_nm: tuple[float, float, float] | None,
) -> dict[str, object]:
    """Return a layer of Neuroglancer's state with local annotations, in voxels (x, y, z) of the volume's world."""
    offset = [0.0, 0.0, 0.0]
    if voxel_size_nm is not None and offset_nm is not None:
        offset = [place / edge for place, edge in zip(offset_nm, voxel_size_nm, strict=True)]
    sizes = {
        axis: [1, ""] if voxel_size_nm is None else [float(f"{voxel_size_nm['zyx'.index(axis)] * 1e-9:.9g}"), "m"]
        for axis in "xyz"
    }

    def corner(box: Suggestion, end: int) -> list[float]:
        return [ranges[end] + more for ranges, more in zip((box.z, box.y, box.x), offset, strict=True)][::-1]

    return {
        "type": "annotation",
        "name": "suggested",
        "source": {"url": "local://annotations", "transform": {"outputDimensions": sizes}},
        "tab": "annotations",
        "annotations": [
            {
                "type": "axis_aligned_bounding_box",
                "id": str(box.rank),
                "pointA": corner(box, 0),
                "pointB": corner(box, 1),
                "description": f"{box.rank}: score {box.score:.3g}",
            }
            for box in boxes
        ],
    }


def _napari_shapes(boxes: Sequence[Suggestion]) -> str:
    """Return a rectangle in each section of each box, as napari reads them from CSV; voxels are counted from 0."""
    rows: list[tuple[object, ...]] = []
    sections = ((box, z) for box in boxes for z in range(*box.z))
    for index, (box, z) in enumerate(sections):
        # A voxel reaches from half before its number to half behind it.
        (top, bottom), (left, right) = ((first - 0.5, stop - 0.5) for first, stop in (box.y, box.x))
        corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
        rows += [(index, "rectangle", number, z, y, x) for number, (y, x) in enumerate(corners)]
    return _csv([["index", "shape-type", "vertex-index", "axis-0", "axis-1", "axis-2"], *rows])


def _regions(report: SuggestReport) -> str:
    """Return the part of an experiment that trains on the boxes alone, once their labels are there."""
    boxes = [{"z": list(box.z), "y": list(box.y), "x": list(box.x)} for box in report.suggestions]
    pair = {"image": report.volume, "label": REQUIRED, "regions": boxes}
    return dump_yaml({"data": {"train": [pair]}})
