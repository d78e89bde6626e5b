"""A link that shows stores in Neuroglancer on the web: anybody's browser reads them by their URIs, this machine not."""

from __future__ import annotations

import os
from typing import Any

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.view.scene import Layer, Scene
from connectomics_zoo.view.source import Source
from connectomics_zoo.view.state import fragment_of, state_of, stored_source
from connectomics_zoo.volumes.location import Location
from connectomics_zoo.volumes.uri import Uri

PAGE = "https://neuroglancer-demo.appspot.com/"


def link_of(scene: Scene) -> str:
    """Return the link that shows a scene.

    Raises:
        VolumeError: a layer is a local file, or is not shown by Neuroglancer as it is stored.
    """
    sources = {id(layer.source): _source(layer) for layer in scene.layers}
    state = state_of(scene, sources)
    # Neuroglancer counts from the corner of a voxel, and of OME-Zarr from its centre: this is in the voxel by both.
    state["position"] = [place - 0.25 for place in state["position"]]
    return f"{PAGE}#{fragment_of(state)}"


def refuse_local(where: Location) -> None:
    """Refuse what others do not reach.

    Raises:
        VolumeError: it is a local file, or a signed link.
    """
    if not isinstance(where.place, Uri):
        raise VolumeError(
            f"{where}: lies on this machine, and a link shows what others reach by s3://, gs:// or https://: leave "
            "--link out to look at it here."
        )
    if where.place.query:
        raise VolumeError(
            f"{where}: is a signed link, which whoever gets a link to it could use: leave --link out to look at it "
            "here."
        )


def _source(layer: Layer) -> dict[str, Any]:
    where, source = layer.where, layer.source
    assert isinstance(where.place, Uri)
    _refuse_other_labels(source)
    place = where.place / (where.dataset or "")
    if where.level is not None:
        raise VolumeError(
            f"{where}: a link shows an image with all of its levels, leave '#{where.level}' out, or leave --link out."
        )
    if where.format == "n5" and source.channels > 1:
        raise VolumeError(
            f"{source.volume.location}: has {source.channels} channels in N5, of which a link shows none by its name: "
            "leave --link out to look at it here."
        )
    if source.channel is not None:
        raise VolumeError(
            f"{source.volume.location}: has masks in {source.volume.channels} channels, which Neuroglancer shows as "
            "labels only from here: leave --link out."
        )
    url = f"{where.format}://{_reached(place)}"
    # The others say what their axes are.
    return stored_source(source, url, axes=source.volume.axes) if where.format == "zarr" else {"url": url}


def _refuse_other_labels(source: Source) -> None:
    if source.volume.dtype.name in ("float64", "float16", "int64") and not source.is_label:
        raise VolumeError(
            f"{source.volume.location}: holds {source.volume.dtype}, which Neuroglancer does not read: leave --link "
            "out to look at it here."
        )


def _reached(place: Uri) -> str:
    """Return the URI, of another server of S3 than Amazon's with that server."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if place.scheme == "s3" and endpoint:
        return f"s3+{endpoint.rstrip('/')}/{place.authority}/{place.path}"
    return str(place)
