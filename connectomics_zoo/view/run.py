"""Shows volumes, labels and probabilities: in Neuroglancer from this machine, by a link, or in napari."""

from __future__ import annotations

import html
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from connectomics_zoo.view.link import link_of, refuse_local
from connectomics_zoo.view.napari_layers import import_napari, show
from connectomics_zoo.view.scene import open_scene
from connectomics_zoo.view.server import Server, client_folder
from connectomics_zoo.view.state import read_boxes
from connectomics_zoo.volumes import VoxelSize
from connectomics_zoo.volumes.location import find_volume

Volumes = str | Path | Sequence[str | Path]
"""Where one volume is, or several."""


class View:
    """Volumes that are shown at `url` until it is closed; it may be used by `with`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def url(self) -> str:
        """What a browser opens; who has it can look at the volumes."""
        return self._server.url

    @property
    def layers(self) -> list[str]:
        """The names of what is shown, the lowest first."""
        return [layer.name for layer in self._server.scene.layers]

    def state(self) -> dict[str, Any]:
        """Return Neuroglancer's state, as a browser gets it."""
        return self._server.state(self.url.split("/")[2])

    def wait(self) -> None:
        """Return when it is closed, or Ctrl-C is pressed."""
        closing: threading.Event = self._server.closing
        while not closing.wait(1):  # without a limit, Windows does not see Ctrl-C
            pass

    def close(self) -> None:
        """Stop serving, and close the volumes."""
        self._server.close()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"View({self.url!r}, layers={self.layers})"

    def _repr_html_(self) -> str:
        names = ", ".join(map(html.escape, self.layers))
        return f'<a href="{html.escape(self.url)}" target="_blank">Open in Neuroglancer</a>: {names}'


def view(
    volumes: Volumes,
    *,
    labels: Volumes = (),
    probability: Volumes = (),
    boxes: Volumes = (),
    at: Sequence[int] | None = None,
    voxel_size_nm: VoxelSize | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> View:
    """Serve volumes to Neuroglancer on this machine, and return at once; nothing is read but what is looked at.

    Args:
        volumes: images, in any format that is read, which may be several; the first one counts the voxels.
        labels: labels or objects, which lie on top.
        probability: predictions, of which each channel has a colour.
        boxes: `neuroglancer.json` of `zoo suggest`.
        at: the voxel (z, y, x) in the middle; by default that of the volume.
        voxel_size_nm: (z, y, x), of volumes that do not say theirs.
        host: the address that is listened on; others than those of this machine alone let others in who know the URL.
        port: 0 for any that is free.

    Raises:
        MissingPackageError: Neuroglancer, or what a format needs, is not installed.
        VolumeError: a volume cannot be read or shown, or there is no such voxel.
        ZooError: the port is taken.
    """
    client_folder()
    layers = [read_boxes(path) for path in _several(boxes)]
    scene = open_scene(
        _several(volumes),
        labels=_several(labels),
        probability=_several(probability),
        at=at,
        voxel_size_nm=voxel_size_nm,
    )
    try:
        return View(Server(scene, host=host, port=port, boxes=layers))
    except BaseException:
        scene.close()
        raise


def link(
    volumes: Volumes,
    *,
    labels: Volumes = (),
    probability: Volumes = (),
    at: Sequence[int] | None = None,
    voxel_size_nm: VoxelSize | None = None,
) -> str:
    """Return a link that shows stores behind URIs in Neuroglancer on the web; see `view`.

    Raises:
        VolumeError: one lies on this machine, cannot be read, or is not shown as it is stored.
    """
    groups = [_several(group) for group in (volumes, labels, probability)]
    for place in (place for group in groups for place in group):
        refuse_local(find_volume(place))
    scene = open_scene(groups[0], labels=groups[1], probability=groups[2], at=at, voxel_size_nm=voxel_size_nm)
    try:
        return link_of(scene)
    finally:
        scene.close()


def open_napari(
    volumes: Volumes,
    *,
    labels: Volumes = (),
    probability: Volumes = (),
    at: Sequence[int] | None = None,
    voxel_size_nm: VoxelSize | None = None,
) -> None:
    """Show volumes in a window of napari until that is closed; see `view`.

    Raises:
        MissingPackageError: napari is not installed.
        VolumeError: a volume cannot be read or shown.
    """
    import_napari()
    groups = [_several(group) for group in (volumes, labels, probability)]
    scene = open_scene(groups[0], labels=groups[1], probability=groups[2], at=at, voxel_size_nm=voxel_size_nm)
    try:
        show(scene)
    finally:
        scene.close()


def _several(places: Volumes) -> list[str | Path]:
    return [places] if isinstance(places, str | Path) else list(places)
