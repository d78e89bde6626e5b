"""Skeletons of neurons, as SWC files hold them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError

_COLUMNS = 7
"""Numbers of a line: node, type, x, y, z, radius, parent."""


@dataclass(frozen=True)
class Skeletons:
    """The nodes of all skeletons one after the other, and the edges between them."""

    positions: NDArray[np.float64]
    """Of each node, (z, y, x) in nm."""
    neurons: NDArray[np.intp]
    """Of each node, the number of its skeleton."""
    edges: NDArray[np.intp]
    """The two nodes of each edge."""

    def select(self, keep: NDArray[np.bool_]) -> Skeletons:
        """Return the nodes where `keep` is true, and the edges between them."""
        numbers = np.cumsum(keep) - 1
        edges = self.edges[keep[self.edges].all(axis=1)]
        return Skeletons(self.positions[keep], self.neurons[keep], numbers[edges])


def read_skeletons(path: str | Path) -> Skeletons:
    """Return the skeleton in an SWC file, or those in the files `*.swc` of a folder: each file is a neuron.

    SWC has no unit: x, y and z are read as nm, from the corner of the first voxel.

    Raises:
        VolumeError: there is no such file, or it is not SWC.
    """
    place = Path(path)
    files = sorted(place.glob("*.swc")) if place.is_dir() else [place]
    if not files:
        raise VolumeError(f"{place}: no file in this folder ends in .swc, give one that has an SWC file a neuron.")
    parts = []
    nodes = 0
    for neuron, file in enumerate(files):
        positions, edges = _read_swc(file)
        parts.append((positions, np.full(len(positions), neuron, dtype=np.intp), edges + nodes))
        nodes += len(positions)
    positions, neurons, edges = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Skeletons(positions, neurons, edges)


def _read_swc(file: Path) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the positions (z, y, x) of the nodes in a file, and its edges."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise VolumeError(f"{file}: cannot be read ({error.strerror}), give an SWC file or a folder of them.") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        numbers = line.partition("#")[0].split()
        if numbers and len(numbers) != _COLUMNS:
            raise VolumeError(
                f"{file}: line {number} has {len(numbers)} columns, SWC has {_COLUMNS} (node, type, x, y, z, radius, "
                "parent): correct it."
            )
        if numbers:
            rows.append(numbers)
    if not rows:
        raise VolumeError(f"{file}: has no node, SWC has a line for each: leave the file out.")
    try:
        table = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise VolumeError(f"{file}: holds what is no number ({error}), correct it.") from None
    positions = table[:, [4, 3, 2]]
    if not np.isfinite(positions).all():
        raise VolumeError(f"{file}: has a position that is not finite, correct it.")
    return positions, _edges(table[:, 0], table[:, 6], file=file)


def _edges(nodes: NDArray[np.float64], parents: NDArray[np.float64], *, file: Path) -> NDArray[np.intp]:
    """Return the rows of each node that has a parent, and of that parent."""
    order = np.argsort(nodes)
    known = nodes[order]
    twice = known[1:][known[1:] == known[:-1]]
    if twice.size:
        raise VolumeError(f"{file}: the node {twice[0]:g} is there twice, give each a number of its own.")
    (children,) = np.nonzero(~(parents < 0))
    places = np.minimum(np.searchsorted(known, parents[children]), len(known) - 1)
    missing = known[places] != parents[children]
    if missing.any():
        raise VolumeError(
            f"{file}: the parent {parents[children][missing][0]:g} is no node of the file, give -1 to the first node."
        )
    return np.stack([children, order[places]], axis=1)
