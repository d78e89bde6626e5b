"""`zoo export LABELS OUT`: the options for labels, and what is said of what was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from connectomics_zoo.cli._axes import axis_numbers
from connectomics_zoo.cli._console import print_json, print_text

if TYPE_CHECKING:
    from connectomics_zoo.export.labels.request import LabelExport, LabelFormat


def _read_ids(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} are no ids, write them like 1,2,3.", ctx, param) from None


_OPTIONS = (
    click.option("--meshes", is_flag=True, default=None, help="Of labels: add the surface of each object."),
    click.option("--skeletons", is_flag=True, default=None, help="Of labels: add the centre lines of each object."),
    click.option("--ids", metavar="N,N,…", callback=_read_ids, help="Of labels: write these objects alone."),
    click.option("--min-voxels", type=int, metavar="N", help="Of labels: leave out objects of fewer voxels."),
    click.option(
        "--mesh-error-nm",
        type=float,
        metavar="NM",
        help="How far meshes may be from the surface of the voxels [default: two edges of a cube like a voxel].",
    ),
    click.option(
        "--voxel-size-nm",
        metavar="Z,Y,X",
        callback=axis_numbers(float, example="30,8,8"),
        help="Of labels: voxel size in nm, where the volume does not say it.",
    ),
    click.option(
        "--block",
        metavar="Z,Y,X",
        callback=axis_numbers(int, example="128,256,256"),
        help="Of labels: work in blocks of these edges, multiples of 16 [default: of 8 million voxels].",
    ),
    click.option("--overwrite", is_flag=True, default=None, help="Of labels: replace OUT if it exists."),
)

_NAMES = ("meshes", "skeletons", "ids", "min_voxels", "mesh_error_nm", "voxel_size_nm", "block", "overwrite")


def label_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that labels have."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def refuse_others(given: dict[str, Any], *, form: str, kind: str) -> None:
    """Refuse options that a kind of format does not have.

    Raises:
        UsageError: one is given.
    """
    wrong = [name for name, value in given.items() if value is not None and (name in _NAMES) == (kind == "network")]
    if wrong:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in wrong)
        other = "labels" if kind == "network" else "networks"
        own = "networks" if kind == "network" else "labels"
        raise click.UsageError(f"{options}: of {other} alone, and the format {form} is one of {own}, leave it out.")


def export(source: str, out: Path, *, form: str, given: dict[str, Any], as_json: bool) -> None:
    """Export labels, and say what was written."""
    from connectomics_zoo.cli._progress import show_progress
    from connectomics_zoo.export.labels.run import export_labels

    chosen = {name: value for name, value in given.items() if value is not None and name in _NAMES}
    with show_progress("export") as progress:
        report = export_labels(source, str(out), format=cast("LabelFormat", form), **chosen, progress=progress)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        _print(report)


def _print(report: LabelExport) -> None:
    shape = " x ".join(map(str, report.levels[0]))
    size = " x ".join(f"{edge:g}" for edge in report.voxel_size_nm)
    print_text(
        f"{report.out}: {report.objects} objects, {shape} {report.dtype} of {size} nm at {len(report.levels)} scales"
    )
    if report.meshes is not None:
        print_text(f"{report.meshes} meshes of {report.triangles} triangles, {report.mesh_error_nm:.3g} nm off at most")
    if report.skeletons is not None:
        print_text(f"{report.skeletons} skeletons, {(report.skeleton_length_nm or 0) / 1000:.4g} µm long in all")
    if report.csv is not None:
        print_text(f"{report.csv}: sizes of the objects")
