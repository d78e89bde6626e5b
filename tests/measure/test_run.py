"""Measured objects: equal to scikit-image and plain numpy, however the volume is cut, and never of what holds none."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from skimage.measure import marching_cubes, mesh_surface_area, regionprops
from support.object_volumes import voronoi_labels
from support.paths import SHARED
from support.volume_files import h5, write

from connectomics_zoo.errors import MissingPackageError, OutputError, VolumeError
from connectomics_zoo.measure import measure, run
from connectomics_zoo.measure.surface import DIRECTIONS, crossing_areas
from connectomics_zoo.volumes import Box, Placement
from connectomics_zoo.volumes.prediction import StoredPrediction

FIB25 = SHARED / "data/fib25/fib25_sample2_z000-199.h5"

SIZE = (40.0, 8.0, 6.0)
"""Of anisotropic voxels (z, y, x), in nm."""

LARGE = 2**63 + 11
"""An id that neither floats nor signed numbers hold."""


def save(path, array, *, voxel_size_nm=SIZE):
    with h5py.File(path, "w") as file:
        file["main"] = array
        if voxel_size_nm is not None:
            file["main"].attrs["voxel_size_nm"] = voxel_size_nm
    return f"{path}:main"


def rows_of(path):
    return list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))


@pytest.fixture
def cells(tmp_path):
    """Cells without gaps, some of them background, and an image."""
    labels = voronoi_labels((12, 20, 24), objects=25).astype(np.uint64)
    labels[labels == 3] = 0
    labels[labels == 4] = LARGE
    labels[labels == 5] = 2**64 - 1  # background, as in CREMI
    image = np.random.default_rng(1).integers(0, 2**16, labels.shape).astype(np.uint16)
    true = np.where(labels == 2**64 - 1, 0, labels)
    return save(tmp_path / "labels.h5", labels), save(tmp_path / "image.h5", image), true, image


# Against others -------------------------------------------------------------------------------------------------------


def check_against_regionprops(columns, labels, image, size):
    """Compare all that scikit-image measures, too; it cannot hold ids beyond 2^63."""
    ids = np.unique(labels[labels != 0])
    assert columns["id"].tolist() == ids.tolist()
    numbers = np.searchsorted(ids, labels) * (labels != 0) + (labels != 0)
    for index, true in enumerate(regionprops(numbers.astype(np.int64), image.astype(np.float64), spacing=size)):
        own = {name: column[index] for name, column in columns.items()}
        assert own["voxels"] == true.num_pixels
        assert own["volume_nm3"] == pytest.approx(true.area)
        assert [own[f"centre_{axis}_nm"] for axis in "zyx"] == pytest.approx(true.centroid)
        assert (*(own[f"first_{axis}"] for axis in "zyx"), *(own[f"stop_{axis}"] for axis in "zyx")) == true.bbox
        values = image[true.slice][labels[true.slice] == ids[index]].astype(np.float64)
        assert own["mean_intensity"] == pytest.approx(values.mean(), rel=1e-12)
        assert own["sd_intensity"] == pytest.approx(values.std(), rel=1e-9)


def test_sizes_places_and_intensities_equal_scikit_image(cells, tmp_path):
    location, image_at, labels, image = cells
    report = measure(location, tmp_path / "out.csv", intensity=image_at)
    check_against_regionprops(report.object_table, labels, image, SIZE)
    rows = rows_of(tmp_path / "out.csv")
    assert [int(row["id"]) for row in rows] == report.object_table["id"].tolist()
    assert LARGE in report.object_table["id"]
    for name in ("volume_nm3", "surface_nm2", "mean_intensity"):
        assert [float(row[name]) for row in rows] == pytest.approx(report.object_table[name], rel=1e-9)


def test_neurons_of_real_data_equal_scikit_image(tmp_path):
    if not FIB25.is_file():
        pytest.skip("the FIB-25 volume is not here (../shared/data/fib25)")
    with h5py.File(FIB25) as file:
        labels, image = (file[name][40:100, :150] for name in ("neurons", "raw"))
    locations = [save(tmp_path / f"{number}.h5", array) for number, array in enumerate((labels, image))]
    report = measure(locations[0], intensity=locations[1])
    assert report.objects > 100
    check_against_regionprops(report.object_table, labels, image, SIZE)


@pytest.mark.parametrize(
    ("dtype", "block"),
    [(np.uint8, (5, 7, 9)), (np.int16, (12, 20, 1)), (np.float32, (1, 20, 11)), (np.int64, (6, 9, 24))],
)
def test_results_do_not_depend_on_the_blocks(cells, tmp_path, monkeypatch, dtype, block):
    location, _, labels, _ = cells
    random = np.random.default_rng(2)
    high = random.normal(0, 1e4, labels.shape) * (2**30 if dtype == np.int64 else 1)
    image = save(tmp_path / "raw.h5", (high % 251 if dtype == np.uint8 else high).astype(dtype))
    texts = []
    for name, edges in (("whole", (64, 64, 64)), ("blocks", block)):
        monkeypatch.setattr(run, "BLOCK", edges)
        measure(location, tmp_path / f"{name}.csv", intensity=image, contacts=location)
        texts.append([(tmp_path / f"{name}{end}.csv").read_text() for end in ("", "_contacts")])
    assert texts[0] == texts[1]
    assert min(map(len, texts[0])) > 1000


def test_floats_are_as_near_as_their_range_allows(tmp_path):
    labels = np.zeros((4, 6, 8), np.uint8)
    labels[1:3, 1:5, 1:7] = 7
    image = np.random.default_rng(0).normal(0.4, 0.2, labels.shape).astype(np.float32)
    report = measure(save(tmp_path / "a.h5", labels), intensity=save(tmp_path / "b.h5", image))
    values = image[labels == 7].astype(np.float64)
    spread = float(image.max() - image.min())
    assert report.object_table["mean_intensity"][0] == pytest.approx(values.mean(), abs=spread / 2**24)
    assert report.object_table["sd_intensity"][0] == pytest.approx(values.std(), abs=spread / 2**24)


# Surfaces -------------------------------------------------------------------------------------------------------------


def distances(shape, size, centre, radii):
    """How far each voxel is from an ellipsoid's centre, 1 on its surface."""
    grid = np.ogrid[tuple(map(slice, shape))]
    axes = zip(grid, size, centre, radii, strict=True)
    return np.sqrt(sum(((at * edge - middle) / radius) ** 2 for at, edge, middle, radius in axes))


@pytest.mark.parametrize("size", [(8, 8, 8), (30, 8, 8), (50, 4.6, 4.6)])
@pytest.mark.parametrize("radii", [(200, 200, 200), (400, 200, 250)])
def test_surfaces_are_near_those_of_smooth_shapes(tmp_path, size, radii):
    shape = [round(1000 / edge) for edge in size]
    depth = distances(shape, size, (490.0, 505.0, 500.0), radii)
    report = measure(save(tmp_path / "a.h5", (depth <= 1).astype(np.uint8), voxel_size_nm=size))
    # The mesh through the depth, and not around voxels, is that of the smooth shape.
    corners, faces, *_ = marching_cubes(depth, 1.0, spacing=size)
    true = mesh_surface_area(corners, faces)
    if len(set(radii)) == 1:
        assert true == pytest.approx(4 * math.pi * radii[0] ** 2, rel=0.01)
        assert report.object_table["surface_nm2"][0] == pytest.approx(4 * math.pi * radii[0] ** 2, rel=0.02)
        assert report.object_table["sphericity"][0] == pytest.approx(1, abs=0.03)
    assert report.object_table["surface_nm2"][0] == pytest.approx(true, rel=0.05)
    around_voxels = marching_cubes((depth <= 1).astype(np.float32), 0.5, spacing=size)
    steps = {8: 1.09, 30: 1.18, 50: 1.27}[size[0]]  # which is why it is not used
    assert mesh_surface_area(*around_voxels[:2]) == pytest.approx(steps * true, rel=0.07)


def test_crossings_are_those_of_plain_numpy(cells):
    location, _, labels, _ = cells
    report = measure(location)
    padded = np.pad(labels, 1, constant_values=1)  # shifts need a frame, which counts for nothing
    inside = np.pad(np.ones(labels.shape, bool), 1)
    true = np.zeros(len(report.object_table["id"]))
    for step, area in zip(DIRECTIONS, crossing_areas(SIZE), strict=True):
        there, there_inside = (np.roll(array, [-part for part in step], (0, 1, 2)) for array in (padded, inside))
        crossed = inside & there_inside & (padded != there)
        for index, one in enumerate(report.object_table["id"]):
            true[index] += area * ((padded[crossed] == one).sum() + (there[crossed] == one).sum())
    assert report.object_table["surface_nm2"] == pytest.approx(true)


@pytest.mark.parametrize("size", [(8, 8, 8), (40, 8, 6), (6, 40, 8)])
def test_each_direction_counts_as_much_as_there_are_points_near_it(size):
    """By chance: of many points of the sphere, which direction is nearest."""
    points = np.random.default_rng(0).normal(size=(400_000, 3))
    lines = np.array(DIRECTIONS) * size
    lengths = np.linalg.norm(lines, axis=1)
    nearest = np.abs(points @ (lines / lengths[:, None]).T).argmax(axis=1)
    shares = np.bincount(nearest, minlength=13) / len(points)
    assert crossing_areas(size) * lengths / np.prod(size) / 2 == pytest.approx(shares, abs=0.003)


@pytest.mark.parametrize(("size", "lowest"), [((8, 8, 8), 0.92), ((50, 5, 5), 0.69)])
def test_a_plane_is_at_most_so_much_too_small_and_right_in_the_mean(size, lowest):
    normals = np.random.default_rng(0).normal(size=(20_000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    # Of a plane, a line of a direction crosses this often for each nm².
    crossings = np.abs(normals @ (np.array(DIRECTIONS) * size).T) / np.prod(size)
    found = crossings @ crossing_areas(size)
    assert lowest <= found.min() < lowest + 0.02
    assert found.max() < 1.1
    assert found.mean() == pytest.approx(1, abs=0.005)


def test_what_the_volume_cuts_is_no_surface_and_said(tmp_path):
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[0:3, 2:5, 2:5] = 1
    labels[2:4, 5:7, 6:8] = 2
    report = measure(save(tmp_path / "a.h5", labels))
    assert report.object_table["at_border"].tolist() == [True, False]
    assert np.isnan(report.object_table["sphericity"]).tolist() == [True, False]
    within = np.zeros((8, 8, 10), np.uint8)
    within[2:5, 2:5, 2:5] = 1
    (whole,) = measure(save(tmp_path / "b.h5", within)).object_table["surface_nm2"]
    assert report.object_table["surface_nm2"][0] < whole


# Contacts -------------------------------------------------------------------------------------------------------------


def true_contacts(labels, other, size):
    """Areas of pairs, step by step, and voxels that both have."""
    areas, overlap = {}, {}
    weights = dict(zip(DIRECTIONS, crossing_areas(size), strict=True))
    for at in np.ndindex(labels.shape):
        if labels[at] and other[at]:
            pair = int(labels[at]), int(other[at])
            overlap[pair] = overlap.get(pair, 0) + 1
        for step in itertools.product((-1, 0, 1), repeat=3):
            beyond = tuple(a + b for a, b in zip(at, step, strict=True))
            if any(not 0 <= a < edge for a, edge in zip(beyond, labels.shape, strict=True)) or not labels[at]:
                continue
            if labels[beyond] != labels[at] and other[beyond]:
                pair = int(labels[at]), int(other[beyond])
                weight = weights.get(step) or weights[tuple(-part for part in step)]
                total, faces = areas.get(pair, (0.0, 0))
                areas[pair] = total + weight, faces + (sum(map(abs, step)) == 1)
    return areas, overlap


@pytest.mark.parametrize("what", ["another", "itself"])
def test_contacts_are_those_of_plain_loops(tmp_path, monkeypatch, what):
    monkeypatch.setattr(run, "BLOCK", (3, 4, 5))
    labels = voronoi_labels((6, 9, 11), objects=6).astype(np.uint64)
    labels[labels == 2] = 0
    labels[labels == 1] = LARGE
    other = voronoi_labels((6, 9, 11), objects=5, seed=4).astype(np.uint32) if what == "another" else labels
    location = save(tmp_path / "a.h5", labels)
    beside = save(tmp_path / "b.h5", other) if what == "another" else location
    report = measure(location, tmp_path / "out.csv", contacts=beside)
    areas, overlap = true_contacts(labels, other, SIZE)
    pairs = {pair for pair, (_, faces) in areas.items() if faces} | overlap.keys()
    if what == "itself":
        pairs = {(one, two) for one, two in pairs if one != two}
    table = report.contact_table
    assert list(zip(table["id"].tolist(), table["other_id"].tolist(), strict=True)) == sorted(pairs)
    assert table["contact_nm2"] == pytest.approx([areas.get(pair, (0.0, 0))[0] for pair in sorted(pairs)])
    assert table["overlap_voxels"].tolist() == [overlap.get(pair, 0) for pair in sorted(pairs)]
    assert table["overlap_nm3"] == pytest.approx(table["overlap_voxels"] * math.prod(SIZE))
    rows = rows_of(tmp_path / "out_contacts.csv")
    assert [(int(row["id"]), int(row["other_id"])) for row in rows] == sorted(pairs)


def test_an_organelle_borders_on_the_cell_around_it_with_all_of_its_surface(tmp_path):
    cell = np.ones((8, 20, 20), np.uint8)
    mito = np.zeros_like(cell)
    mito[2:6, 5:12, 5:12] = 9
    locations = [save(tmp_path / f"{name}.h5", array) for name, array in (("mito", mito), ("cell", cell))]
    report = measure(locations[0], contacts=locations[1])
    assert report.contact_table["contact_nm2"] == pytest.approx(report.object_table["surface_nm2"])
    assert report.contact_table["overlap_voxels"].tolist() == report.object_table["voxels"].tolist()


# Places ---------------------------------------------------------------------------------------------------------------


def test_centres_are_where_a_store_says_that_it_lies(tmp_path):
    labels = np.zeros((4, 5, 6), np.uint32)
    labels[1:3, 2, 3:5] = 8
    write(tmp_path / "a.zarr", labels, voxel_size_nm=SIZE, offset=(400.0, -80.0, 12.0))
    columns = measure(tmp_path / "a.zarr").object_table
    centre = [columns[f"centre_{axis}_nm"][0] for axis in "zyx"]
    assert centre == pytest.approx([400 + 1.5 * 40, -80 + 2 * 8, 12 + 3.5 * 6])
    assert [columns[f"first_{axis}"][0] for axis in "zyx"] == [1, 2, 3]


def test_labels_of_a_region_lie_in_the_volume_that_they_are_of(tmp_path):
    whole = np.random.default_rng(0).integers(0, 255, (6, 9, 10)).astype(np.uint8)
    box = Box((2, 3, 4), (6, 8, 10))
    labels = np.zeros(box.shape, np.uint32)
    labels[1:3, 1:3, 1:4] = 5
    stored = StoredPrediction("instances", placement=Placement(box, whole.shape))
    for name in ("a.h5:main", "a.zarr"):
        location = write(f"{tmp_path}/{name}", labels, voxel_size_nm=SIZE, stored=stored, offset=(80.0, 24.0, 24.0))
        columns = measure(location, intensity=save(tmp_path / "raw.h5", whole)).object_table
        assert columns["mean_intensity"][0] == pytest.approx(whole[box.slices][labels == 5].mean())
        centre = [columns[f"centre_{axis}_nm"][0] for axis in "zyx"]
        assert centre == pytest.approx([(2 + 1.5) * 40, (3 + 1.5) * 8, (4 + 2) * 6])


# Tables ---------------------------------------------------------------------------------------------------------------


def test_a_parquet_table_has_the_same_values_with_their_types(cells, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (the extra parquet)")
    location, image, *_ = cells
    report = measure(location, tmp_path / "out.parquet", intensity=image, contacts=location)
    for path, columns in ((report.out, report.object_table), (report.contacts_out, report.contact_table)):
        table = parquet.read_table(path)
        assert table.column_names == list(columns)
        for name, column in columns.items():
            found = table[name].to_pylist()
            expected = [None if value != value else value for value in column.tolist()]
            assert found == expected
            assert str(table[name].type) == {"float64": "double"}.get(str(column.dtype), str(column.dtype))


def test_parquet_without_its_package_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        MissingPackageError, match=re.escape("pip install 'connectomics-zoo[parquet]'`, or write a .csv")
    ):
        measure(tmp_path / "missing.h5", tmp_path / "out.parquet")


def test_a_volume_without_an_object_gives_an_empty_table(run_zoo, tmp_path):
    location = save(tmp_path / "a.h5", np.zeros((3, 4, 5), np.uint64))
    code, out, err = run_zoo("measure", location, tmp_path / "a.csv", "--contacts", location)
    assert (code, err) == (0, "zoo: there is no object, only background\n")
    assert out.startswith(f"{tmp_path / 'a.csv'}: 0 objects of")
    assert rows_of(tmp_path / "a.csv") == rows_of(tmp_path / "a_contacts.csv") == []


def test_the_report_is_json_without_the_tables(cells, run_zoo, tmp_path):
    location, image, labels, _ = cells
    args = ["--intensity", image, "--contacts", location, "--json"]
    code, out, _ = run_zoo("measure", location, tmp_path / "a.csv", *args)
    report = json.loads(out)
    assert code == 0
    assert report["objects"] == len(np.unique(labels)) - 1 == len(rows_of(report["out"]))
    assert report["pairs"] == len(rows_of(report["contacts_out"]))
    assert report["voxel_size_nm"] == list(SIZE)


def test_it_says_how_far_it_is(cells):
    told = []
    measure(cells[0], progress=told.append)
    assert [(step.done, step.total) for step in (told[0], told[-1])] == [(0, 12 * 20 * 24), (12 * 20 * 24,) * 2]


def test_in_a_notebook_it_is_a_table_of_objects(cells):
    html = measure(cells[0])._repr_html_()
    assert html.count("<tr>") == 21
    assert "surface_nm2" in html


# Refused --------------------------------------------------------------------------------------------------------------


def grey():
    return np.random.default_rng(0).integers(0, 250, (16, 32, 34)).astype(np.uint8)


def soft():
    ramp = np.clip(np.abs(np.arange(-40, 40)) * 16 - 200, 0, 240).astype(np.uint8)
    return np.broadcast_to(ramp, (6, 12, 80)).copy()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.ones((3, 4, 5), np.float32), "holds floats (float32), and objects are measured in labels, which are whole"),
        (np.ones((2, 3, 4, 5), np.uint8), "has 2 channels, and objects are measured in a label volume, which has one"),
        (np.full((3, 4, 5), -2, np.int32), "holds the negative label -2, and objects have positive ones: save voxels"),
        (grey(), "looks like a grey image, not like labels"),
        (soft(), "looks like probabilities or a soft mask, not like labels (its edges are ramps from 0 to 240)"),
    ],
    ids=["floats", "channels", "negative", "grey", "soft"],
)
def test_what_holds_no_labels_is_refused_in_one_sentence(run_zoo, tmp_path, labels, message):
    location = save(tmp_path / "a.h5", labels)
    code, _, err = run_zoo("measure", location, tmp_path / "out.csv")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_prediction_is_refused_as_contacts_and_as_labels(tmp_path):
    probabilities = write(f"{tmp_path}/p.h5:main", np.ones((3, 4, 5), np.uint8), stored=StoredPrediction("probability"))
    labels = save(tmp_path / "a.h5", np.ones((3, 4, 5), np.uint8))
    for one, contacts in ((probabilities, None), (labels, probabilities)):
        with pytest.raises(VolumeError, match=r"holds probabilities \(uint8\).* \(zoo decode\)"):
            measure(one, contacts=contacts)


def test_volumes_that_do_not_belong_together_are_refused(tmp_path):
    labels = save(tmp_path / "a.h5", np.ones((3, 4, 5), np.uint8))
    larger = save(tmp_path / "b.h5", np.ones((3, 4, 6), np.uint8))
    with pytest.raises(VolumeError, match=re.escape("have the shapes (3, 4, 5) and (3, 4, 6), and they must be equal")):
        measure(labels, intensity=larger)
    other = save(tmp_path / "c.h5", np.ones((3, 4, 5), np.uint8), voxel_size_nm=(8.0, 8.0, 8.0))
    with pytest.raises(VolumeError, match="say that their voxels are 40 x 8 x 6 and 8 x 8 x 8 nm"):
        measure(labels, contacts=other)
    places = [Placement(Box((z, 0, 0), (z + 3, 4, 5)), (9, 4, 5)) for z in (0, 4)]
    parts = [
        write(
            f"{tmp_path}/{n}.h5:main", np.ones((3, 4, 5), np.uint8), stored=StoredPrediction("label", placement=place)
        )
        for n, place in enumerate(places)
    ]
    with pytest.raises(VolumeError, match="are of the parts z=0:3,y=0:4,x=0:5 and z=4:7"):
        measure(parts[0], contacts=parts[1], voxel_size_nm=SIZE)
    channels = save(tmp_path / "d.h5", np.ones((2, 3, 4, 5), np.uint8))
    with pytest.raises(VolumeError, match="has 2 channels, and the intensity of one is measured"):
        measure(labels, intensity=channels)


def test_an_unknown_voxel_size_is_asked_for(run_zoo, tmp_path, caplog):
    location = save(tmp_path / "a.h5", np.ones((3, 4, 5), np.uint8), voxel_size_nm=None)
    code, _, err = run_zoo("measure", location, tmp_path / "a.csv")
    assert code == 2
    assert "does not say how large its voxels are, and sizes are measured in nm: give the voxel size" in err
    assert run_zoo("measure", location, tmp_path / "a.csv", "--voxel-size-nm", "40,8,6")[0] == 0
    assert "has a single label, 1, and so a single object; if it is a mask, label its objects first" in caplog.text
    assert float(rows_of(tmp_path / "a.csv")[0]["volume_nm3"]) == 60 * 40 * 8 * 6


def test_tables_are_not_replaced_unless_asked_and_never_half_there(cells, tmp_path):
    location, *_ = cells
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "out_contacts.csv").write_text("mine")
    with pytest.raises(OutputError, match=r"out_contacts\.csv: exists already"):
        measure(location, folder / "out.csv", contacts=location)
    assert [path.name for path in folder.iterdir()] == ["out_contacts.csv"]
    measure(location, folder / "out.csv", contacts=location, overwrite=True)
    assert len(rows_of(folder / "out_contacts.csv")) > 10
    with pytest.raises(OutputError, match=r"out\.txt: is the name of no table, let it end in \.csv or"):
        measure(location, folder / "out.txt")
    damaged = h5(tmp_path / "d.h5", main=np.full((3, 4, 5), -1))
    with pytest.raises(VolumeError, match="negative"):
        measure(f"{damaged}:main", folder / "new.csv", voxel_size_nm=SIZE)
    assert sorted(path.name for path in folder.iterdir()) == ["out.csv", "out_contacts.csv"]
