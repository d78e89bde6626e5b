"""The state of Neuroglancer that shows a scene: layers, shaders, colours, place; in JSON, with x first."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from connectomics_zoo.errors import VolumeError, reason
from connectomics_zoo.pictures.palette import colour_of
from connectomics_zoo.view.scene import Layer, Scene
from connectomics_zoo.view.source import Source

_GREY = "#uicontrol invlerp normalized{channel}\nvoid main() {{\n  emitGrayscale(normalized());\n}}\n"

_COLOUR = """\
#uicontrol invlerp normalized{channel}
#uicontrol vec3 colour color
void main() {{
  emitRGBA(vec4(colour, normalized()));
}}
"""

PROBABILITY_OPACITY, LABEL_OPACITY = 0.6, 0.35
"""Where a probability is 1, and of labels."""

SCREEN_PIXELS = 400
"""Pixels that the longest edge of a small volume gets."""


def state_of(
    scene: Scene, sources: Mapping[int, Mapping[str, Any]], *, boxes: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return the state that shows a scene.

    Args:
        scene: the layers.
        sources: where Neuroglancer finds each source, by its identity, as states have it (`served_source`).
        boxes: further layers, as states have them.
    """
    first = scene.first
    position = [
        place + start / edge
        for place, start, edge in zip(scene.position, first.offset_nm, first.voxel_size_nm, strict=True)
    ]
    extents = [length * edge for length, edge in zip(first.volume.shape, first.voxel_size_nm, strict=True)]
    shortest = min(first.voxel_size_nm)
    return {
        "dimensions": _dimensions(first),
        "position": position[::-1],
        "crossSectionScale": min(1.0, max(extents[1:]) / shortest / SCREEN_PIXELS),
        "projectionScale": 1.5 * max(extents) / shortest,
        "layers": [
            *(_layer(layer, sources[id(layer.source)]) for layer in scene.layers),
            *(_in_dimensions(layer, first) for layer in boxes),
        ],
        "layout": "4panel" if first.volume.shape[0] > 1 else "xy",
    }


def fragment_of(state: Mapping[str, Any]) -> str:
    """Return a state as the part of a URL behind `#`."""
    return "!" + urllib.parse.quote(json.dumps(state, separators=(",", ":")), safe="~@$&()*!+=:;,.?/'")


def _dimensions(source: Source, *, channels: bool = False) -> dict[str, list[Any]]:
    """Return the axes, x first, with the length of a voxel in metres."""
    sizes = zip("xyz", source.voxel_size_nm[::-1], strict=True)
    axes: dict[str, list[Any]] = {axis: [float(f"{edge * 1e-9:.9g}"), "m"] for axis, edge in sizes}
    return axes | ({"c^": [1, ""]} if channels else {})


def _layer(layer: Layer, source: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "type": "segmentation" if layer.kind == "labels" else "image",
        "name": layer.name,
        "source": source,
        "tab": "rendering",
    }
    if not layer.visible:
        shown["visible"] = False
    if layer.kind == "labels":
        return shown | {"selectedAlpha": LABEL_OPACITY} | _class_colours(layer)
    axes = source.get("transform", {}).get("outputDimensions", {})
    if "c'" in axes:
        shown |= {"localDimensions": {"c'": [1, ""]}, "localPosition": [layer.channel + 0.25]}
    # A source without channels has no channel 0.
    channel = f"(channel={layer.channel})" if "c^" in axes else ""
    controls: dict[str, Any] = {"normalized": {"range": list(layer.contrast)}}
    if layer.kind == "image":
        return shown | {"opacity": 1, "shader": _GREY.format(channel=channel), "shaderControls": controls}
    controls["colour"] = _hex(layer.number)
    return shown | {
        "opacity": PROBABILITY_OPACITY,
        "shader": _COLOUR.format(channel=channel),
        "shaderControls": controls,
    }


def served_source(source: Source, url: str) -> dict[str, Any]:
    """Return a source that is served, with where it lies: a translation in voxels, whose length is that of the axes."""
    many = source.channels > 1
    starts = [start / edge for start, edge in zip(source.offset_nm, source.voxel_size_nm, strict=True)][::-1]
    starts += [0.0] * many
    rank = len(starts)
    rows = [[float(row == column) for column in range(rank)] + [starts[row]] for row in range(rank)]
    return {"url": url, "transform": {"matrix": rows, "outputDimensions": _dimensions(source, channels=many)}}


def stored_source(source: Source, url: str, *, axes: str) -> dict[str, Any]:
    """Return a source that Neuroglancer reads as it is stored, with its axes named as we understand them, in order.

    Channels are mostly in chunks of their own there, so that a layer shows one by its place (`c'`).
    """
    lengths = {**_dimensions(source), "c": [1, ""], "t": [1, ""]}
    named = {axis if axis in "xyz" else f"{axis}'": lengths[axis] for axis in axes}
    return {"url": url, "transform": {"outputDimensions": named}}


def _class_colours(layer: Layer) -> dict[str, Any]:
    """Return the colours of classes; those of a mask are as of its channel, and objects have Neuroglancer's own."""
    names = layer.source.names
    if layer.source.channel is not None:
        return {"segmentColors": {"1": _hex(layer.number)}, "segmentDefaultColor": _hex(layer.number)}
    return {"segmentColors": {str(value): _hex(value) for value in names}} if names else {}


def _hex(number: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour_of(number))


def read_boxes(path: str | Path) -> dict[str, Any]:
    """Return the layer of boxes in a file that `zoo suggest` has written for Neuroglancer.

    Raises:
        VolumeError: it is none.
    """
    try:
        layer: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VolumeError(
            f"{path}: is no layer of boxes ({reason(error)}), give the neuroglancer.json of zoo suggest."
        ) from None
    source = layer.get("source") if isinstance(layer, dict) else None
    if (
        not isinstance(source, dict)
        or layer.get("type") != "annotation"
        or not isinstance(layer.get("annotations"), list)
    ):
        raise VolumeError(f"{path}: is no layer of boxes, give the neuroglancer.json of zoo suggest.")
    found: dict[str, Any] = layer
    return found


def _in_dimensions(layer: Mapping[str, Any], first: Source) -> dict[str, Any]:
    """Return a layer of boxes whose voxels have a length, where the volume that they are of did not say it."""
    source = dict(layer["source"])
    axes = dict(source.get("transform", {}).get("outputDimensions", {}))
    if all(isinstance(axis, list) and axis[1:] == [""] for axis in axes.values()):
        source["transform"] = {"outputDimensions": _dimensions(first)}
    return {**layer, "source": source}
