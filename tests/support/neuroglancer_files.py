"""Reads what Neuroglancer's precomputed format says its files are, with NumPy alone, and what meshes are worth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def decode_segmentation(content: bytes, shape, *, dtype="uint64", block=8):
    """Return the labels (Z, Y, X) of a chunk in compressed segmentation."""
    words = np.frombuffer(content, "<u4")
    words = words[words[0] :]  # of the one channel
    counts = [-(-edge // block) for edge in shape]
    labels = np.zeros([count * block for count in counts], dtype)
    for number in range(np.prod(counts)):
        x, y, z = number % counts[2], number // counts[2] % counts[1], number // (counts[2] * counts[1])
        table, bits = words[2 * number] & 0xFFFFFF, words[2 * number] >> 24
        values = words[words[2 * number + 1] :]
        at = np.arange(block**3)
        if bits:
            index = values[at * bits // 32] >> (at * bits % 32).astype("u4") & np.uint32((1 << int(bits)) - 1)
        else:
            index = np.zeros(block**3, int)
        wide = np.dtype(dtype).itemsize // 4
        found = words[table : table + wide * (int(index.max()) + 1)].copy().view(dtype)[index]
        place = tuple(slice(first * block, (first + 1) * block) for first in (z, y, x))
        labels[place] = found.reshape(block, block, block)
    return labels[tuple(slice(edge) for edge in shape)]


def read_mesh(folder: Path, one: int):
    """Return vertices (x, y, z) and triangles of an object, of all of its fragments."""
    manifest = json.loads((folder / "mesh" / f"{one}:0").read_text())
    vertices, faces, start = [], [], 0
    for name in manifest["fragments"]:
        content = (folder / "mesh" / name).read_bytes()
        count = int(np.frombuffer(content, "<u4", 1)[0])
        vertices.append(np.frombuffer(content, "<f4", 3 * count, 4).reshape(-1, 3).astype(float))
        faces.append(np.frombuffer(content, "<u4", offset=4 + 12 * count).reshape(-1, 3).astype(int) + start)
        start += count
    return np.concatenate(vertices), np.concatenate(faces)


def read_skeleton(folder: Path, one: int):
    """Return vertices (x, y, z), edges and radii of an object."""
    content = (folder / "skeletons" / str(one)).read_bytes()
    points, links = np.frombuffer(content, "<u4", 2)
    vertices = np.frombuffer(content, "<f4", 3 * points, 8).reshape(-1, 3).astype(float)
    edges = np.frombuffer(content, "<u4", 2 * links, 8 + 12 * points).reshape(-1, 2).astype(int)
    radii = np.frombuffer(content, "<f4", points, 8 + 12 * points + 8 * links)
    assert len(content) == 8 + 16 * points + 8 * links
    return vertices, edges, radii


def area_and_volume(vertices, faces):
    """Return the area of a closed mesh, and the volume within: above 0 where normals point outward."""
    one, two, three = (vertices[corner] for corner in faces.T)
    return np.linalg.norm(np.cross(two - one, three - one), axis=1).sum() / 2, (one * np.cross(two, three)).sum() / 6


def is_watertight(faces):
    """Whether each side of a triangle is that of one other, which has it the other way round."""
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    unique, times = np.unique(sides, axis=0, return_counts=True)
    there = set(map(tuple, unique.tolist()))
    return bool((times == 1).all()) and all((two, one) in there for one, two in there)


def points_on(vertices, faces, parts=6):
    """Return points on all triangles of a mesh."""
    one, two = (index.ravel() for index in np.indices((parts + 1, parts + 1)))
    inside = one + two <= parts
    shares = np.stack([one, two, parts - one - two], axis=1)[inside] / parts
    return (shares @ vertices[faces]).reshape(-1, 3)
