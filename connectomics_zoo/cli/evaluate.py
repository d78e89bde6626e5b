"""`zoo evaluate PREDICTION TRUTH`: score a prediction against the truth, which may be skeletons."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import click

from connectomics_zoo.cli._axes import axis_numbers
from connectomics_zoo.cli._console import note, print_json, print_text
from connectomics_zoo.cli._table import print_table
from connectomics_zoo.errors import SpecError

if TYPE_CHECKING:
    from connectomics_zoo.evaluate import EvaluateReport


@click.command("evaluate", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("prediction")
@click.argument("truth", required=False)
@click.option(
    "--truth",
    "truths",
    metavar="NAME=VOLUME",
    multiple=True,
    help="One of several label volumes that the classes of PREDICTION are made of, instead of TRUTH; may be repeated.",
)
@click.option(
    "--annotated",
    metavar="CLASS,…",
    help="The classes that the truth annotates, where PREDICTION says which it has [default: all].",
)
@click.option(
    "--kind",
    type=click.Choice(["semantic", "instances"]),
    help="Score foreground and classes, or objects [default: what the file says, or from the labels].",
)
@click.option(
    "--threshold",
    type=float,
    help="The prediction holds probabilities, the foreground is above this [default, where it does: that of the task "
    "in the file, else 0.5].",
)
@click.option("--region", metavar="z=A:B,…", help="Score this part of the truth alone, as in z=13:16,y=0:512.")
@click.option(
    "--ignore-label",
    "ignore_labels",
    type=int,
    multiple=True,
    help="Voxels with this label in the truth count for no score; may be repeated [default: none, and 0 for Rand "
    "error, VOI and CREMI score of instances].",
)
@click.option(
    "--unlabelled",
    type=int,
    metavar="LABEL",
    help="The label in the truth of voxels that are not annotated: they count for no score.",
)
@click.option(
    "--background",
    type=click.IntRange(min=1),
    metavar="LABEL",
    help="The label in the truth that is background beside 0, as 1 in scribbles with --unlabelled 0.",
)
@click.option(
    "--mask",
    metavar="VOLUME",
    help="Is as large as TRUTH, and 0 where it is not annotated: those voxels count for no score but run lengths.",
)
@click.option(
    "--relabel",
    is_flag=True,
    help="Objects of the truth are the connected components of its labels, as of a mask (in memory as a whole).",
)
@click.option(
    "--skeletons",
    metavar="FILE.swc|FOLDER",
    help="Score run lengths along these skeletons, a file each; x y z in nm from the truth's first voxel.",
)
@click.option(
    "--merge-nodes",
    type=int,
    default=0,
    show_default=True,
    help="A segment with more nodes than this of two skeletons merges them.",
)
@click.option(
    "--voxel-size-nm",
    "--voxel-size",
    "voxel_size_nm",
    metavar="Z,Y,X",
    callback=axis_numbers(float, example="30,8,8"),
    help="Voxel size in nm, where the volumes do not say it (for --skeletons).",
)
@click.option("--picture", metavar="FILE.png", help="Draw image, truth, prediction and errors (needs --image).")
@click.option("--image", metavar="VOLUME", help="The image, for --picture.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    prediction: str,
    truth: str | None,
    truths: tuple[str, ...],
    annotated: str | None,
    kind: Literal["semantic", "instances"] | None,
    threshold: float | None,
    region: str | None,
    ignore_labels: tuple[int, ...],
    unlabelled: int | None,
    background: int | None,
    mask: str | None,
    relabel: bool,
    skeletons: str | None,
    merge_nodes: int,
    voxel_size_nm: tuple[float, float, float] | None,
    picture: str | None,
    image: str | None,
    as_json: bool,
) -> None:
    """Score PREDICTION against TRUTH, block by block, or against skeletons.

    Both are file.h5:dataset, file.tif, a folder of sections, volume.zarr:array or in another format that is read, or
    URIs of stores (s3://, gs://, https://). What zoo predict and zoo decode wrote says itself what it holds; elsewhere
    floats are probabilities, and so is uint8 beyond 1, where 255 stands for 1, unless its edges are hard; other whole
    numbers are labels.

    Of instances, AP is TP / (TP + FP + FN) over objects, matched one-to-one where their IoU is above the threshold,
    and panoptic quality is the mean IoU of the matches times F1. What is predicted where the truth is 0 is a false
    object; Rand error, VOI and CREMI score leave those voxels out. The expected run length (ERL) is the length of
    the right piece of a neuron around a random point of its skeleton, 0 in segments that merge neurons; normalised, it
    is divided by that of the truth.
    """
    if (picture is None) != (image is None):
        raise SpecError("--picture needs --image and --image needs --picture, give both or none.")
    against = _truth_of(truth, truths)
    if picture is not None and against is None:
        raise SpecError("--picture draws the truth, give it or leave --picture out.")
    from connectomics_zoo.evaluate import evaluate

    report = evaluate(
        prediction,
        against,
        annotated=_listed(annotated),
        kind=kind,
        threshold=threshold,
        region=region,
        ignore_labels=ignore_labels or None,
        unlabelled=unlabelled,
        background=background,
        mask=mask,
        relabel=relabel,
        skeletons=skeletons,
        merge_nodes=merge_nodes,
        voxel_size_nm=voxel_size_nm,
    )
    if picture is not None and image is not None and against is not None:
        common: dict[str, Any] = {
            "image": image,
            "prediction": prediction,
            "threshold": threshold,
            "region": region,
            "mask": mask,
            "unlabelled": unlabelled,
            "background": background,
        }
        if report.has_named_classes:
            from connectomics_zoo.pictures.classes import draw_classes

            draw_classes(picture, truth=against, annotated=_listed(annotated), **common)
        else:
            from connectomics_zoo.pictures.comparison import draw_volumes

            assert isinstance(against, str)
            draw_volumes(picture, truth=against, relabel=relabel, objects=report.kind == "instances", **common)
        note(f"drew {picture}")
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        _print_table(report)


def _truth_of(truth: str | None, truths: tuple[str, ...]) -> str | dict[str, str] | None:
    """Return the truth: one volume, or several by name."""
    if not truths:
        return truth
    if truth is not None:
        raise SpecError(f"the truth is {truth}, and --truth names others: give one volume, or all by name.")
    named = {name: place for name, _, place in (item.partition("=") for item in truths)}
    for name, place in named.items():
        if not place or not name:
            raise SpecError(f"--truth {name} is no label volume with a name, write --truth NAME=FILE:DATASET.")
    return named


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _print_table(report: EvaluateReport) -> None:
    where = ", ".join(f"{axis}={first}:{stop}" for axis, (first, stop) in zip("zyx", report.region, strict=True))
    ignored = f", {report.ignored_voxels} ignored" if report.ignored_voxels else ""
    ignored += f" (mask {report.mask})" if report.mask is not None else ""
    against = " and ".join(place for place in (report.truth, report.skeletons) if place is not None)
    print_text(f"{report.prediction} against {against}")
    print_text(f"{report.kind}, prediction read as {report.read_as}")
    print_text(f"{where}: {report.voxels} voxels{ignored}")
    headers, rows = report.table()
    print_table(headers, rows, right=headers[1:])
