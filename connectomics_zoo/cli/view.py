"""`zoo view VOLUME…`: volumes, labels and probabilities in a viewer."""

from __future__ import annotations

import json

import click

from connectomics_zoo.cli._axes import axis_numbers
from connectomics_zoo.cli._console import note, print_line

_EPILOG = """\b
Examples:
  zoo view vol.h5:raw --labels vol.h5:neurons
  zoo view raw.zarr --probability mito.zarr --labels objects.zarr --at 40,512,512
  zoo view raw.zarr --boxes next/neuroglancer.json     # what zoo suggest suggests
  zoo view s3://bucket/raw.zarr --link                 # a link for others
"""


_LOCAL = ("127.0.0.1", "localhost", "::1")
"""Addresses that nobody else reaches."""


@click.command("view", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("volumes", metavar="VOLUME...", nargs=-1, required=True)
@click.option("--labels", metavar="LABELS", multiple=True, help="Labels or objects, on top; may be repeated.")
@click.option(
    "--probability",
    metavar="PREDICTION",
    multiple=True,
    help="A prediction, whose channels get a colour each; may be repeated.",
)
@click.option("--boxes", metavar="FILE", multiple=True, help="neuroglancer.json of zoo suggest; may be repeated.")
@click.option(
    "--at",
    metavar="Z,Y,X",
    callback=axis_numbers(int, example="40,512,512"),
    help="The voxel of the first VOLUME that is looked at [default: its middle].",
)
@click.option(
    "--voxel-size-nm",
    "--voxel-size",
    "voxel_size_nm",
    metavar="Z,Y,X",
    callback=axis_numbers(float, example="30,8,8"),
    help="Voxel size in nm of volumes that do not say it.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 lets others in.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on [default: any free one].")
@click.option("--no-browser", is_flag=True, help="Print the URL alone.")
@click.option("--napari", "in_napari", is_flag=True, help="Open a window of napari instead, where it is installed.")
@click.option(
    "--link", "as_link", is_flag=True, help="Print a link to Neuroglancer on the web, for stores behind URIs."
)
@click.option("--json", "as_json", is_flag=True, help="Print the URL and the names of the layers as JSON, in a line.")
def command(
    volumes: tuple[str, ...],
    labels: tuple[str, ...],
    probability: tuple[str, ...],
    boxes: tuple[str, ...],
    at: tuple[int, int, int] | None,
    voxel_size_nm: tuple[float, float, float] | None,
    host: str,
    port: int,
    no_browser: bool,
    in_napari: bool,
    as_link: bool,
    as_json: bool,
) -> None:
    """Look at VOLUMEs in Neuroglancer: images, over them probabilities, on top labels, all in nm.

    Every format that is read can be looked at, whatever its size: what is on the screen is read, in the levels of
    detail that a store has, or in coarser ones that are made. The page comes with the package neuroglancer and is
    served from this machine until Ctrl-C; nothing leaves it. The URL goes to stdout; who knows it, and reaches HOST,
    can look.

    What says of itself that it is labels or a prediction is shown so. Volumes of several voxel sizes lie over each
    other as they say; one that does not say where lies as the part of the first VOLUME that it was predicted from, or
    where that begins.
    """
    if in_napari and as_link:
        raise click.UsageError("--napari opens a window and --link prints a link, give one of them.")
    if boxes and (in_napari or as_link):
        raise click.UsageError("--boxes are shown by zoo view itself, leave --napari and --link out.")
    from connectomics_zoo.view import link, open_napari, view

    if in_napari:
        open_napari(volumes, labels=labels, probability=probability, at=at, voxel_size_nm=voxel_size_nm)
        return
    if as_link:
        print_line(link(volumes, labels=labels, probability=probability, at=at, voxel_size_nm=voxel_size_nm))
        return
    shown = view(
        volumes,
        labels=labels,
        probability=probability,
        boxes=boxes,
        at=at,
        voxel_size_nm=voxel_size_nm,
        host=host,
        port=port,
    )
    with shown:
        print_line(json.dumps({"url": shown.url, "layers": shown.layers}) if as_json else shown.url)
        note(f"{', '.join(shown.layers)}: shown until Ctrl-C")
        if host not in _LOCAL:
            note(f"{host} lets others in who have the URL, in which the name of this machine may stand for it")
        if not no_browser:
            _open_browser(shown.url)
        try:
            shown.wait()
        except KeyboardInterrupt:
            note("stopped")


def _open_browser(url: str) -> None:
    """Open a window of a browser where there is a screen."""
    import os
    import sys
    import webbrowser

    if sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)
