"""Labels as a precomputed volume: voxels, scales, meshes, skeletons and properties, as other programs read them."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import tensorstore
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from support.neuroglancer_files import (
    area_and_volume,
    decode_segmentation,
    is_watertight,
    points_on,
    read_mesh,
    read_skeleton,
)
from support.volume_files import write

from connectomics_zoo.export.labels import precomputed
from connectomics_zoo.export.labels.run import export_labels

VOXEL = np.array((20.0, 10.0, 10.0))
OFFSET = (3, 5, 1)
"""Of the first voxel in the world (z, y, x)."""

SHAPE = (44, 72, 72)

BALL, BOX, TUBE, NOISE = 2**40 + 5, 7, 300, 11
RADIUS = 260.0
CENTRE = np.array((20, 36, 36)) * VOXEL
FIRST, STOP = np.array((2, 0, 0)), np.array((12, 12, 60))
LEG = 38
"""Voxels of each leg of the tube, from its end to the corner."""

ERROR_NM = 20.0


def _labels():
    labels = np.zeros(SHAPE, np.uint64)
    grid = np.indices(SHAPE)
    labels[np.linalg.norm(grid.T * VOXEL - CENTRE, axis=-1).T < RADIUS] = BALL
    labels[tuple(map(slice, FIRST, STOP))] = BOX
    z, y, x = grid
    along_x = ((z - 38) * 2.0) ** 2 + (y - 20) ** 2 <= 9
    along_y = ((z - 38) * 2.0) ** 2 + (x - 20 - LEG) ** 2 <= 9
    tube = (along_x & (x >= 20) & (x <= 20 + LEG)) | (along_y & (y >= 20) & (y <= 20 + LEG))
    labels[tube] = TUBE
    noise = np.random.default_rng(0).random((8, 12, 12)) < 0.5
    labels[28:36, 58:70, 26:38][noise] = NOISE  # across three borders of blocks
    return labels


LABELS = _labels()


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("labels") / "labels.zarr")
    offset = tuple(float(first) for first in OFFSET * VOXEL)
    return write(place, LABELS, voxel_size_nm=tuple(VOXEL), offset=offset)


@pytest.fixture(scope="module")
def exported(volume, tmp_path_factory):
    """The folder, and the report."""
    out = tmp_path_factory.mktemp("out") / "labels"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precomputed, "SMALLEST", 30)
        report = export_labels(volume, out, meshes=True, skeletons=True, mesh_error_nm=ERROR_NM, block=(32, 32, 32))
    return out, report


def _open(out, scale):
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{out}/"}}
    return tensorstore.open({**spec, "scale_index": scale}, open=True, read=True).result()[..., 0]


def test_tensorstore_reads_the_same_labels_in_the_same_place(exported):
    store = _open(exported[0], 0)
    assert store.domain.inclusive_min == OFFSET[::-1]
    assert store.dtype.name == "uint64"
    np.testing.assert_array_equal(store.read().result().T, LABELS)


def test_chunks_are_compressed_segmentation_as_it_is_described(exported):
    out = exported[0]
    z, y, x = OFFSET
    content = (out / "10_10_20" / f"{x + 32}-{x + 64}_{y + 32}-{y + 64}_{z}-{z + 32}").read_bytes()
    np.testing.assert_array_equal(decode_segmentation(content, (32, 32, 32)), LABELS[:32, 32:64, 32:64])


def test_each_scale_has_the_most_frequent_label_of_what_lies_in_its_voxels(exported):
    out, report = exported
    assert len(report.levels) == 3
    fine = _open(out, 0)
    for scale in range(1, 3):
        coarse = _open(out, scale)
        names = json.loads((out / "info").read_text())["scales"]
        sizes = [np.array(entry["resolution"]) for entry in names[scale - 1 : scale + 1]]
        step = np.rint(sizes[1] / sizes[0]).astype(int)
        assert (step == ((2, 2, 1) if scale == 1 else (2, 2, 2))).all()
        labels, made = fine.read().result(), coarse.read().result()
        start, coarse_start = np.array(fine.domain.inclusive_min), np.array(coarse.domain.inclusive_min)
        random = np.random.default_rng(0)
        inside = random.permutation(np.argwhere(made))[:150]
        first = random.integers(0, made.shape, (150, 3)) * (random.random((150, 3)) < 0.5)  # where voxels are missing
        for index in [*inside, *first, np.array(made.shape) - 1]:
            low = (coarse_start + index) * step - start
            part = labels[tuple(slice(max(0, begin), begin + width) for begin, width in zip(low, step, strict=True))]
            ids, counts = np.unique(part, return_counts=True)
            assert made[tuple(index)] == ids[counts.argmax()]
        fine = coarse


def test_meshes_are_closed_across_blocks_and_have_no_vertex_twice(exported):
    for one in (BALL, BOX, TUBE, NOISE):
        vertices, faces = read_mesh(exported[0], one)
        assert is_watertight(faces)
        assert len(np.unique(vertices, axis=0)) == len(vertices)
        assert set(np.unique(faces)) == set(range(len(vertices)))


def _place(points):
    """Where points (z, y, x) in nm, from the centre of the first voxel, lie in the world (x, y, z)."""
    return (points + (np.array(OFFSET) + 0.5) * VOXEL)[..., ::-1]


def test_the_mesh_of_a_ball_has_its_area_and_volume_and_lies_where_it_is(exported):
    vertices, faces = read_mesh(exported[0], BALL)
    area, volume = area_and_volume(vertices, faces)
    assert volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.02)
    assert area == pytest.approx(4 * np.pi * RADIUS**2, rel=0.1)  # of stairs, which are less flat than a ball
    away = np.linalg.norm(vertices - _place(CENTRE), axis=1) - RADIUS
    assert np.abs(away).max() < ERROR_NM + VOXEL.max() / 2


def test_the_mesh_of_a_box_has_its_area_and_volume(exported):
    vertices, faces = read_mesh(exported[0], BOX)
    area, volume = area_and_volume(vertices, faces)
    a, b, c = (STOP - FIRST) * VOXEL
    assert volume == pytest.approx(a * b * c, rel=0.03)
    assert area == pytest.approx(2 * (a * b + b * c + c * a), rel=0.05)
    np.testing.assert_allclose(vertices.min(axis=0), _place((FIRST - 0.5) * VOXEL), atol=ERROR_NM)
    np.testing.assert_allclose(vertices.max(axis=0), _place((STOP - 0.5) * VOXEL), atol=ERROR_NM)


def test_simplified_meshes_have_fewer_triangles_and_stay_within_the_error(exported, volume, tmp_path):
    whole = export_labels(volume, tmp_path / "all", meshes=True, mesh_error_nm=0, ids=[BALL, TUBE], block=(32, 32, 32))
    assert whole.triangles > 3 * sum(len(read_mesh(exported[0], one)[1]) for one in (BALL, TUBE))
    for one in (BALL, TUBE):
        vertices, faces = read_mesh(tmp_path / "all", one)
        assert is_watertight(faces)
        # Each vertex lies half way between two voxels, of which one is of the object.
        lattice = vertices[:, ::-1] / VOXEL - 0.5 - OFFSET
        low, high = np.floor(lattice + 1e-3).astype(int), np.ceil(lattice - 1e-3).astype(int)
        assert (np.abs(high - low).sum(axis=1) == 1).all()
        assert ((LABELS[tuple(low.T)] == one) != (LABELS[tuple(high.T)] == one)).all()
        small = points_on(*read_mesh(exported[0], one), parts=24)
        assert cKDTree(small).query(vertices)[0].max() < ERROR_NM + 3
        corners = read_mesh(exported[0], one)[0]
        assert cKDTree(points_on(vertices, faces, parts=4)).query(corners)[0].max() < ERROR_NM + 3


def test_the_skeleton_of_a_bent_tube_is_one_path_along_its_middle(exported):
    points, links, radii = read_skeleton(exported[0], TUBE)
    length = np.linalg.norm(points[links[:, 0]] - points[links[:, 1]], axis=1).sum()
    assert length == pytest.approx(2 * LEG * VOXEL[1], rel=0.1)
    assert len(links) == len(points) - 1
    graph = coo_matrix((np.ones(len(links)), tuple(links.T)), (len(points),) * 2)
    assert connected_components(graph, directed=False)[0] == 1
    assert np.bincount(links.ravel()).max() == 2
    voxels = np.rint(points[:, ::-1] / VOXEL - 0.5 - OFFSET).astype(int)
    assert (LABELS[tuple(voxels.T)] == TUBE).all()
    assert np.median(radii) == pytest.approx(30, abs=11)
    middle = np.abs(voxels - [38, 20, 20]).min(axis=1)
    assert np.median(middle) <= 1


def test_properties_and_table_list_the_objects_with_their_sizes(exported):
    out, report = exported
    ids, counts = np.unique(LABELS[LABELS > 0], return_counts=True)
    inline = json.loads((out / "properties" / "info").read_text())["inline"]
    values = {entry["id"]: entry["values"] for entry in inline["properties"]}
    assert inline["ids"] == [str(one) for one in ids]
    assert values["voxels"] == counts.tolist()
    np.testing.assert_allclose(values["volume_nm3"], counts * VOXEL.prod(), rtol=1e-6)
    rows = list(csv.DictReader((out / "objects.csv").open()))
    assert [(int(row["id"]), int(row["voxels"])) for row in rows] == list(zip(ids.tolist(), counts, strict=True))
    points, links, _ = read_skeleton(out, BOX)
    length = np.linalg.norm(points[links[:, 0]] - points[links[:, 1]], axis=1).sum()
    assert float(rows[0]["skeleton_length_nm"]) == pytest.approx(length, rel=1e-4)
    assert (report.objects, report.meshes) == (4, 4)
    info = json.loads((out / "info").read_text())
    assert (info["mesh"], info["skeletons"], info["segment_properties"]) == ("mesh", "skeletons", "properties")


def test_classes_keep_the_names_that_their_volume_gives_them(tmp_path):
    labels = np.zeros((4, 20, 20), "uint8")
    labels[1:3, 2:9], labels[1:3, 11:18] = 1, 2
    place = write(tmp_path / "classes.zarr", labels, voxel_size_nm=(30, 8, 8))
    metadata = tmp_path / "classes.zarr" / "0" / "zarr.json"
    document = json.loads(metadata.read_text())
    document.setdefault("attributes", {})["class_names"] = json.dumps({"0": "rest", "1": "mitochondria", "2": "nuclei"})
    metadata.write_text(json.dumps(document))
    export_labels(place, tmp_path / "out")
    properties = json.loads((tmp_path / "out" / "properties" / "info").read_text())["inline"]["properties"]
    assert properties[0] == {"id": "label", "type": "label", "values": ["mitochondria", "nuclei"]}
