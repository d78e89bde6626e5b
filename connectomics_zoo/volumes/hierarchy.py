"""Groups and arrays of a Zarr store (formats 2 and 3), read from their JSON files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from connectomics_zoo.volumes.location import ZARR_METADATA
from connectomics_zoo.volumes.store_files import find_files, parse_object
from connectomics_zoo.volumes.uri import Place


@dataclass(frozen=True)
class Node:
    """What the files of a group or an array say."""

    kind: Literal["array", "group"]
    format: Literal[2, 3]
    document: Mapping[str, Any]
    """`zarr.json`, `.zarray` or `.zgroup`."""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The name of the file that `document` is."""
        return "zarr.json" if self.format == 3 else ".zarray" if self.kind == "array" else ".zgroup"


class Hierarchy:
    """The nodes of a store, each read once; their names are paths in it, that of the store itself is empty."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._nodes: dict[str, Node | None] = {}

    def folder(self, name: str) -> Place:
        """Return where a node is."""
        return self.place / name

    def node(self, name: str) -> Node | None:
        """Return a node, None where there is none.

        Raises:
            VolumeError: the server is not reached.
            ValueError, KeyError: its files are damaged.
        """
        if name not in self._nodes:
            self._nodes[name] = _read_node(self.folder(name))
        return self._nodes[name]

    def is_array(self, name: str) -> bool:
        """Whether there is an array of that name."""
        node = self.node(name)
        return node is not None and node.kind == "array"

    def above(self, name: str) -> Iterator[tuple[str, Node]]:
        """Yield the groups that a node is in with their names, the nearest first."""
        while name:
            name = name.rpartition("/")[0]
            node = self.node(name)
            if node is not None:
                yield name, node

    def arrays(self) -> list[str] | None:
        """Return the names of all arrays, None where they cannot be told without looking at every chunk."""
        if isinstance(self.place, Path):
            found = zarr_arrays(self.place)
            return ["" if item == self.place else item.relative_to(self.place).as_posix() for item in found]
        return _consolidated(self.place, self.node(""))


def _read_node(folder: Place) -> Node | None:
    if isinstance(folder, Path) and not folder.is_dir():
        return None
    found = find_files(folder, (*ZARR_METADATA, ".zattrs"))
    documents = {name: parse_object(content, name=name) for name, content in found.items()}
    if "zarr.json" in documents:
        document = documents["zarr.json"]
        return Node(document["node_type"], 3, document, document.get("attributes", {}))
    attributes = documents.get(".zattrs", {})
    if ".zarray" in documents:
        return Node("array", 2, documents[".zarray"], attributes)
    return Node("group", 2, documents[".zgroup"], attributes) if ".zgroup" in documents else None


def _consolidated(place: Place, root: Node | None) -> list[str] | None:
    """Return the names of arrays in the metadata that a store may have in one file."""
    if root is not None and root.format == 3:
        inside = (root.document.get("consolidated_metadata") or {}).get("metadata")
        if isinstance(inside, dict):
            return sorted(name for name, node in inside.items() if node.get("node_type") == "array")
        return None
    found = find_files(place, [".zmetadata"])
    if ".zmetadata" not in found:
        return None
    names = parse_object(found[".zmetadata"], name=".zmetadata").get("metadata", {})
    return sorted(name.rpartition("/")[0] for name in names if name.rpartition("/")[2] == ".zarray")


def zarr_arrays(folder: Path) -> list[Path]:
    """Return the folders of all arrays in and below a local `folder`, without looking into their chunks.

    Each is there once, under its own name rather than a link's, so that links in a circle do no harm.
    """
    found, seen = list[Path](), set[Path]()
    waiting, links = [folder], list[Path]()
    while waiting or links:
        item = waiting.pop() if waiting else links.pop()
        place = item.resolve()
        if place in seen:
            continue
        seen.add(place)
        node = _read_node(item)
        if node is not None and node.kind == "array":
            found.append(item)
            continue
        for below in sorted(item.iterdir(), reverse=True):
            if below.is_dir():
                (links if below.is_symlink() else waiting).append(below)
    return sorted(found)
