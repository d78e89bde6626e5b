"""Triangle meshes with fewer triangles, which stay within a stated distance of what they are made of.

Edges are collapsed as Garland and Heckbert do it (Surface simplification using quadric error metrics, SIGGRAPH 1997),
many at once: all that are the cheapest of their neighbourhood, so that NumPy does the work. bioimage-cpp's
`simplify_mesh` takes no bound and moves the vertices at the border of a block, at which meshes would part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

Points = NDArray[np.float64]
Faces = NDArray[np.int64]

_ROUNDS = 200
"""Of collapses, at most; fewer than 60 have been seen."""

_WORTHWHILE = 0.99
"""A round that leaves more of the triangles is the last one."""

_PASSES = 3
"""How often collapses that do not touch are looked for in one round."""

_FLATTEST = 0.2
"""Cosine of the angle by which the normal of a triangle may turn in one collapse, at least."""

_NARROWEST = 1e-3
"""Height of a triangle over its longest side, at least: a line has no plane."""

_ANY_DIRECTION, _ANY_LARGE = np.array((12.9898, 78.233, 37.719)), 43758.5453
"""Make of a place a number that says nothing of it."""

_ATTEMPTS = 5
"""How often an object is simplified, with more vertices that stay where they are."""

_MEAN_OF_LARGEST = 0.3
"""The root mean square of distances at which the largest one is seldom too large."""

_MOST_PARTS = 12
"""Parts that a side of a triangle is cut into for that."""

_NEAREST = 4
"""Triangles among which the nearest one to a point is looked for."""


@dataclass(frozen=True)
class Mesh:
    """Triangles in space."""

    vertices: Points
    """(V, 3)."""
    faces: Faces
    """(F, 3), rows of `vertices`."""
    fixed: NDArray[np.bool_]
    """(V,), vertices that stay where they are, as those at the border of a block."""
    of: NDArray[np.int64]
    """(V,), the object that a vertex is of: 0, 1, …; no triangle is of two."""

    def select(self, objects: NDArray[np.bool_]) -> Mesh:
        """Return the triangles of the objects where it is true, which keep their numbers."""
        used, faces = np.unique(self.faces[objects[self.of[self.faces[:, 0]]]], return_inverse=True)
        return Mesh(self.vertices[used], faces.reshape(-1, 3), self.fixed[used], self.of[used])


def simplify(mesh: Mesh, *, error: float) -> tuple[Mesh, float]:
    """Return a mesh of fewer triangles, and how far a vertex of either is from the other at most.

    Every object stays as manifold as it is, and the fixed vertices and the edges between them stay. An object of which
    a vertex is too far off is simplified again around that, and at last left as it is.

    Args:
        mesh: oriented, each edge in one triangle or two, and of those in one both ends fixed; each vertex in one.
        error: how far the two may be apart, in the unit of the vertices.
    """
    if error <= 0:
        return mesh, 0.0
    sides = mesh.vertices[mesh.faces[:, 0]] - mesh.vertices[mesh.faces[:, 1]]
    step = float(np.median(np.linalg.norm(sides, axis=1)))
    kept, farthest, left, stays = list[Mesh](), 0.0, mesh, mesh.fixed.copy()
    for _ in range(_ATTEMPTS):
        small, used = _collapsed(left, stays, bound=error * _MEAN_OF_LARGEST)
        off = _distances_from(small, left, step=step)
        off[used] = np.maximum(off[used], _distances_from(left, small, step=step))
        found = np.zeros(int(left.of.max()) + 1)
        np.maximum.at(found, left.of, off)
        is_near = found <= error
        kept.append(small.select(is_near))
        farthest = max(farthest, float(found[is_near].max(initial=0.0)))
        if is_near.all():
            return joined(kept), farthest
        stays[left.faces[(off > error)[left.faces].any(axis=1)]] = True
        stays = stays[~is_near[left.of]]
        left = left.select(~is_near)
    return joined([*kept, left]), farthest


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """Return the triangles of several meshes as one."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]),
        np.concatenate([mesh.fixed for mesh in meshes]),
        np.concatenate([mesh.of for mesh in meshes]),
    )


def _collapsed(mesh: Mesh, stays: NDArray[np.bool_], *, bound: float) -> tuple[Mesh, NDArray[np.int64]]:
    """Collapse edges as long as the mean distance to the planes of what they stand for is below a bound.

    Return also which vertex of the mesh each one has been; those that stay are where they were.
    """
    state = _State(mesh.vertices.copy(), mesh.faces, stays, _quadrics(mesh))
    for _ in range(_ROUNDS):
        before = len(state.faces)
        state.collapse(bound)
        if len(state.faces) > _WORTHWHILE * before:
            break
    used, faces = np.unique(state.faces, return_inverse=True)
    return Mesh(state.vertices[used], faces.reshape(-1, 3), mesh.fixed[used], mesh.of[used]), used


def _quadrics(mesh: Mesh) -> Points:
    """Return for each vertex the sums (V, 11) over its triangles: of the plane's products, and of the areas."""
    corners = mesh.vertices[mesh.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double = np.linalg.norm(normal, axis=1, keepdims=True)
    plane = np.concatenate([normal, -np.einsum("ij,ij->i", normal, corners[:, 0])[:, None]], axis=1) / double
    rows, columns = np.triu_indices(4)
    terms = np.concatenate([plane[:, rows] * plane[:, columns], np.ones_like(double)], axis=1) * double
    count = len(mesh.faces)
    at = (np.ones(3 * count), (mesh.faces.T.ravel(), np.tile(np.arange(count), 3)))
    return np.asarray(csr_matrix(at, shape=(len(mesh.vertices), count)) @ terms)


def _mean_error(quadrics: Points, points: Points) -> NDArray[np.float64]:
    """Return the mean squared distance of points to the planes of quadrics."""
    x, y, z = points.T
    xx, xy, xz, xw, yy, yz, yw, zz, zw, ww, weight = quadrics.T
    total = x * (xx * x + 2 * (xy * y + xz * z + xw)) + y * (yy * y + 2 * (yz * z + yw)) + z * (zz * z + 2 * zw) + ww
    return np.asarray(np.maximum(total, 0) / weight, np.float64)


def _best_points(quadrics: Points, middles: Points) -> Points:
    """Return where the error is least; along a plane or a ridge, near the middle."""
    matrix = quadrics[:, [0, 1, 2, 1, 4, 5, 2, 5, 7]].reshape(-1, 3, 3)
    pull = 1e-3 * quadrics[:, 10]
    matrix = matrix + pull[:, None, None] * np.eye(3)
    right = pull[:, None] * middles - quadrics[:, [3, 6, 8]]
    return np.asarray(np.linalg.solve(matrix, right[..., None])[..., 0], np.float64)


def _border_edges(faces: Faces, count: int) -> Faces:
    """Return the edges (E, 2) that are in one triangle and not from the smaller number to the larger."""
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    keys = np.sort(sides.min(axis=1) * count + sides.max(axis=1))
    is_single = np.ones(len(keys), bool)
    is_single[1:] &= keys[1:] != keys[:-1]
    is_single[:-1] &= keys[1:] != keys[:-1]
    upward = sides[sides[:, 0] < sides[:, 1]]
    single = np.setdiff1d(keys[is_single], upward[:, 0] * count + upward[:, 1], assume_unique=True)
    return np.stack(np.divmod(single, count), axis=1)


class _State:
    """A mesh in work; vertices keep their numbers."""

    def __init__(self, vertices: Points, faces: Faces, fixed: NDArray[np.bool_], quadrics: Points) -> None:
        self.vertices = vertices
        self.faces = faces
        self.fixed = fixed
        self._quadrics = quadrics
        self._border = _border_edges(faces, len(vertices))
        self._refused = np.empty(0, np.int64)
        # Random, but of a place: where an object is simplified again, all that is far from what now stays is the same.
        self._shuffled = np.sin(vertices @ _ANY_DIRECTION) * _ANY_LARGE

    def collapse(self, bound: float) -> None:
        """Collapse edges that do not touch each other, the cheapest of each neighbourhood."""
        count = len(self.vertices)
        sides = np.concatenate([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]])
        # A side that two triangles have runs both ways; one at the border may run either way.
        edges = np.concatenate([sides[sides[:, 0] < sides[:, 1]], self._border])
        chosen = np.concatenate(self._chosen(edges, bound))
        if not len(chosen):
            return
        points = self._points(edges[chosen])
        one, other = edges[chosen].T
        one, other = np.where(self.fixed[other], other, one), np.where(self.fixed[other], one, other)
        good = self._keeps_topology(edges, one, other) & self._keeps_sides(one, other, points)
        self._refused = np.concatenate([self._refused, self._key(edges[chosen[~good]])])
        one, other, points = one[good], other[good], points[good]
        self.vertices[one] = points
        self._quadrics[one] += self._quadrics[other]
        target = np.arange(count)
        target[other] = one
        faces = target[self.faces]
        is_left = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
        self.faces = faces[is_left]
        changed = np.zeros(count, bool)
        changed[one] = True
        first, second = np.divmod(self._refused, count)
        self._refused = self._refused[~(changed[first] | changed[second])]

    def _key(self, edges: Faces) -> NDArray[np.int64]:
        return edges[:, 0] * len(self.vertices) + edges[:, 1]

    def _chosen(self, edges: Faces, bound: float) -> list[NDArray[np.intp]]:
        """Return edges, no two of which have neighbours in common that would change."""
        fixed = self.fixed[edges]
        middle = self._middles(edges, fixed)
        error = _mean_error(self._quadrics[edges[:, 0]] + self._quadrics[edges[:, 1]], middle)
        is_open = (error <= bound**2) & ~fixed.all(axis=1) & ~np.isin(self._key(edges), self._refused)
        candidates = np.flatnonzero(is_open)
        # Of equally cheap ones, as they are in planes, any: else the first of a row would keep all others waiting.
        shuffled = self._shuffled[edges[candidates]].sum(axis=1) % 1
        order = np.lexsort((shuffled, error[candidates].astype(np.float32)))
        rank = np.empty(len(candidates), np.int64)
        rank[order] = np.arange(len(candidates))
        found = [np.empty(0, np.intp)]
        blocked = np.zeros(len(self.vertices), bool)
        one, other = edges[:, 0], edges[:, 1]
        for _ in range(_PASSES):
            free = ~blocked[edges[candidates]].any(axis=1)
            candidates, rank = candidates[free], rank[free]
            least = np.full(len(self.vertices), len(order))
            for side in (one, other):
                np.minimum.at(least, side[candidates], rank)
            around = least.copy()
            np.minimum.at(around, one, least[other])
            np.minimum.at(around, other, least[one])
            is_least = (around[edges[candidates]] == rank[:, None]).all(axis=1)
            found.append(candidates[is_least])
            ends = np.zeros(len(self.vertices), bool)
            ends[edges[found[-1]]] = True
            blocked |= ends
            blocked[one[ends[other]]] = True
            blocked[other[ends[one]]] = True
        return found

    def _middles(self, edges: Faces, fixed: NDArray[np.bool_]) -> Points:
        """Return the middles of edges, or their fixed ends."""
        one, other = self.vertices[edges[:, 0]], self.vertices[edges[:, 1]]
        return np.where(fixed[:, :1], one, np.where(fixed[:, 1:], other, (one + other) / 2))

    def _points(self, edges: Faces) -> Points:
        """Return what edges become."""
        fixed = self.fixed[edges]
        middle = self._middles(edges, fixed)
        quadrics = self._quadrics[edges[:, 0]] + self._quadrics[edges[:, 1]]
        best = _best_points(quadrics, middle)
        is_better = ~fixed.any(axis=1) & (_mean_error(quadrics, best) < _mean_error(quadrics, middle))
        return np.where(is_better[:, None], best, middle)

    def _keeps_topology(self, edges: Faces, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether two vertices are the neighbours of both ends, and it is no tetrahedron (the link condition).

        No two fixed vertices become neighbours either: in the next block they might too.
        """
        count = len(self.vertices)
        both = np.concatenate([edges, edges[:, ::-1]])
        near = csr_matrix((np.ones(len(both), np.int32), (both[:, 0], both[:, 1])), shape=(count, count))
        common = near[one].multiply(near[other]).tocsr()
        shared = np.asarray(common.sum(axis=1)).ravel()
        degree = np.diff(near.indptr)
        fixed = self.fixed.astype(np.int32)
        parts_fixed = ~self.fixed[one] | (near[other] @ fixed - 1 == common @ fixed)
        keeps: NDArray[np.bool_] = (shared == 2) & ((degree[one] > 3) | (degree[other] > 3)) & parts_fixed
        return keeps

    def _keeps_sides(self, one: NDArray[np.int64], other: NDArray[np.int64], points: Points) -> NDArray[np.bool_]:
        """Whether no triangle around an edge turns over or becomes a line."""
        number = np.full(len(self.vertices), -1)
        number[one] = number[other] = np.arange(len(one))
        of = number[self.faces]  # the edges do not touch: the corners of a triangle belong to one at most
        edge = of.max(axis=1)
        is_around = (edge >= 0) & ((of >= 0).sum(axis=1) == 1)
        faces, of, edge = self.faces[is_around], of[is_around], edge[is_around]
        before = self.vertices[faces]
        after = np.where(of[:, :, None] >= 0, points[edge][:, None], before)
        old, new = (np.cross(part[:, 1] - part[:, 0], part[:, 2] - part[:, 0]) for part in (before, after))
        sizes = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
        turned = np.einsum("ij,ij->i", old, new) <= _FLATTEST * sizes
        longest = ((after - after[:, [1, 2, 0]]) ** 2).sum(axis=2).max(axis=1, initial=0.0)
        turned |= np.linalg.norm(new, axis=1) < _NARROWEST * longest
        return np.asarray(np.bincount(edge[turned], minlength=len(one)) == 0)


def _distances_from(mesh: Mesh, points: Mesh, *, step: float) -> NDArray[np.float64]:
    """Return how far the vertices of `points` are from the triangles of `mesh`, or a little more.

    Args:
        mesh: whose triangles.
        points: whose vertices.
        step: the nearest of points on the triangles, about so far apart, say which triangles may be nearest.
    """
    corners = mesh.vertices[mesh.faces]
    sides = np.linalg.norm(corners - corners[:, [1, 2, 0]], axis=2).max(axis=1, initial=0.0)
    parts = np.minimum(np.ceil(sides / step), _MOST_PARTS).astype(np.int64)
    samples, numbers = [corners.mean(axis=1)], [np.arange(len(corners))]
    for count in np.unique(parts[parts > 1]):
        one, two = (index.ravel() for index in np.indices((count + 1, count + 1)))
        inside = one + two <= count
        shares = np.stack([one, two, count - one - two], axis=1)[inside] / count
        chosen = np.flatnonzero(parts == count)
        samples.append((shares @ corners[chosen]).reshape(-1, 3))
        numbers.append(np.repeat(chosen, len(shares)))
    triangles = np.concatenate(numbers)
    # Objects touch: a fourth coordinate keeps them apart.
    apart = 4 * float(np.ptp(points.vertices, axis=0).max() + step)
    there = np.column_stack([np.concatenate(samples), apart * mesh.of[mesh.faces[triangles, 0]]])
    here = np.column_stack([points.vertices, apart * points.of])
    _, near = cKDTree(there).query(here, k=min(_NEAREST, len(triangles)))
    columns = triangles[near.reshape(len(here), -1).T]
    return np.asarray(np.minimum.reduce([_distances(points.vertices, corners[column]) for column in columns]))


def _distances(points: Points, triangles: Points) -> NDArray[np.float64]:
    """Return the distance of each point (N, 3) from its triangle (N, corner, 3)."""
    first = triangles[:, 0]
    one, two = triangles[:, 1] - first, triangles[:, 2] - first
    normal = np.cross(one, two)
    size = np.einsum("ij,ij->i", normal, normal)
    to = points - first
    along_two = np.einsum("ij,ij->i", np.cross(one, to), normal) / size
    along_one = np.einsum("ij,ij->i", np.cross(to, two), normal) / size
    is_above = (along_one >= 0) & (along_two >= 0) & (along_one + along_two <= 1)
    height = np.abs(np.einsum("ij,ij->i", to, normal)) / np.sqrt(size)
    beside = [_from_segment(points, triangles[:, corner], triangles[:, (corner + 1) % 3]) for corner in range(3)]
    return np.asarray(np.where(is_above, height, np.minimum.reduce(beside)))


def _from_segment(points: Points, first: Points, last: Points) -> NDArray[np.float64]:
    """Return the distance of each point from the line between its two."""
    along, to = last - first, points - first
    share = np.einsum("ij,ij->i", to, along) / np.einsum("ij,ij->i", along, along)
    distance: NDArray[np.float64] = np.linalg.norm(to - np.clip(share, 0, 1)[:, None] * along, axis=1)
    return distance
