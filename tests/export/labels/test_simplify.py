"""Meshes with fewer triangles: the same away from what stays, and without lines for triangles."""

from __future__ import annotations

import dataclasses

import numpy as np

from connectomics_zoo.export.labels.simplify import _State, simplify
from connectomics_zoo.export.labels.surfaces import surfaces


def test_where_more_vertices_stay_the_rest_of_the_mesh_does_not_change():
    ball = (np.square(np.indices((28, 28, 28)) - 13.5).sum(axis=0) < 144).astype(np.uint8)
    ((_, mesh),) = surfaces(ball, np.array((10.0, 10.0, 10.0)), lambda fraction: None)
    small, _ = simplify(mesh, error=8.0)
    fixed = np.zeros(len(mesh.vertices), bool)
    fixed[mesh.vertices[:, 0].argmax()] = True
    other, _ = simplify(dataclasses.replace(mesh, fixed=fixed), error=8.0)
    assert (mesh.vertices[fixed] == other.vertices).all(axis=1).any()
    there, here = ({tuple(point) for point in one.vertices if point[0] < 100} for one in (small, other))
    assert len(here) > 20
    assert len(here & there) > 0.9 * len(here)


def test_an_edge_is_not_collapsed_where_a_triangle_would_become_a_line():
    vertices = np.array([(0.0, 0, 0), (0, 10, 0), (0, 5, 5), (0, 5, 8)])
    faces = np.array([(0, 1, 2), (0, 2, 3), (2, 1, 3)])
    state = _State(vertices, faces, np.array((True, True, False, False)), np.zeros((4, 11)))
    one, other = np.array([2]), np.array([3])
    assert state._keeps_sides(one, other, np.array([(0, 5, 4.0)])).all()
    assert not state._keeps_sides(one, other, np.array([(0, 5, 1e-9)])).any()
