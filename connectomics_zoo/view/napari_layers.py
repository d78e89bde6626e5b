"""A scene as layers of napari: arrays that are read when they are looked at, with scale and place in nm."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import MissingPackageError
from connectomics_zoo.pictures.palette import colour_of
from connectomics_zoo.view.scene import Layer, Scene
from connectomics_zoo.view.source import Source
from connectomics_zoo.view.state import LABEL_OPACITY, PROBABILITY_OPACITY
from connectomics_zoo.volumes import Box

LayerData = tuple[Any, dict[str, Any], str]
"""Data, what else a layer is made with, and its type, as napari's plug-ins give them."""


class LazyArray:
    """A level of a volume as an array (Z, Y, X) of which an index reads only what it asks for.

    Args:
        source: the volume.
        number: the level.
        channel: the channel.
    """

    ndim = 3

    def __init__(self, source: Source, number: int, *, channel: int) -> None:
        self._source, self._number, self._channel = source, number, channel
        self.shape: tuple[int, int, int] = source.levels[number].shape
        self.dtype: np.dtype[Any] = source.dtype.newbyteorder("=")
        self.size = int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return what numpy's basic indexing would: whole numbers, slices and an ellipsis."""
        parts = list(index) if isinstance(index, tuple) else [index]
        if any(part is Ellipsis for part in parts):
            first = next(place for place, part in enumerate(parts) if part is Ellipsis)
            parts[first : first + 1] = [slice(None)] * (4 - len(parts))
        parts += [slice(None)] * (3 - len(parts))
        ranges, inside = zip(*map(_bounds, parts, self.shape), strict=True)
        if any(first >= stop for first, stop in ranges):
            return np.asarray(np.broadcast_to(np.zeros((), self.dtype), self.shape)[tuple(parts)])
        block = self._source.read(self._number, Box.of_ranges(ranges))[self._channel]
        return np.asarray(block[inside], dtype=self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


def _bounds(part: Any, length: int) -> tuple[tuple[int, int], Any]:
    """Return the voxels [first, stop) that an index along an axis needs, and the index among them."""
    if not isinstance(part, slice):
        number = int(part)
        if not -length <= number < length:
            raise IndexError(f"index {number} is out of bounds for an axis of {length}")
        number %= length
        return (number, number + 1), 0
    chosen = range(length)[part]
    if not chosen:
        return (0, 0), slice(None)
    low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
    step = chosen.step
    return (low, high + 1), slice(None, None, step)


def layers_of(scene: Scene) -> list[LayerData]:
    """Return the layers of a scene, the lowest first."""
    return [_layer(layer) for layer in scene.layers]


def _layer(layer: Layer) -> LayerData:
    source = layer.source
    levels = [LazyArray(source, number, channel=layer.channel) for number in range(len(source.levels))]
    # napari places the centre of the first voxel.
    corners = zip(source.offset_nm, source.voxel_size_nm, strict=True)
    shared: dict[str, Any] = {
        "name": layer.name,
        "scale": source.voxel_size_nm,
        "translate": tuple(start + edge / 2 for start, edge in corners),
        "units": ("nm", "nm", "nm"),
        "visible": layer.visible,
    }
    data: Any = levels if len(levels) > 1 else levels[0]
    shared["multiscale"] = len(levels) > 1
    if layer.kind == "labels":
        return data, shared | {"opacity": LABEL_OPACITY}, "labels"
    shared["contrast_limits"] = layer.contrast
    if layer.kind == "image":
        return data, shared | {"colormap": "gray"}, "image"
    colour = tuple(value / 255 for value in colour_of(layer.number))
    # From black, which adds nothing, to the colour.
    ramp = np.array([(0.0, 0.0, 0.0), colour])
    return data, shared | {"colormap": ramp, "blending": "additive", "opacity": PROBABILITY_OPACITY}, "image"


def show(scene: Scene) -> None:
    """Show a scene in a window of napari until that is closed.

    Raises:
        MissingPackageError: napari is not installed.
    """
    napari: Any = import_napari()
    viewer = napari.Viewer(title="zoo view")
    for data, keywords, kind in layers_of(scene):
        viewer.add_layer(napari.layers.Layer.create(data, keywords, kind))
    viewer.dims.axis_labels = ("z", "y", "x")
    first = scene.first
    triples = zip(first.offset_nm, scene.position, first.voxel_size_nm, strict=True)
    viewer.dims.set_point((0, 1, 2), [start + place * edge for start, place, edge in triples])
    viewer.scale_bar.visible = True
    napari.run()


def import_napari() -> Any:
    """Return napari.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module("napari")
    except ModuleNotFoundError as error:
        if error.name != "napari":
            raise
        raise MissingPackageError(
            "--napari needs the package napari, which is not installed, run `pip install napari` with one of its "
            "windows (`pip install 'napari[all]'`)."
        ) from None
