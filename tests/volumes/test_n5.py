"""N5 stores of Java and of Python are volumes, with the axes, sizes and levels that their files name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorstore
from support.volume_files import example, fails, read_all

from connectomics_zoo.volumes import open_volume

ARRAY = example(4, 5, 6, dtype="uint16")
VOXEL_SIZE_NM = (40.0, 8.0, 4.0)
XYZ_NM = [4.0, 8.0, 40.0]


def made(folder, array=ARRAY, *, compression=None, **attributes):
    """Write `array` (z, y, x) as N5 stores it, x first, and add attributes."""
    metadata = {"blockSize": [2, 3, 4, 2][: array.ndim], "compression": compression or {"type": "gzip"}}
    store = tensorstore.open(
        {"driver": "n5", "kvstore": {"driver": "file", "path": f"{folder}/"}, "metadata": metadata},
        create=True, dtype=tensorstore.dtype(array.dtype), shape=array.shape[::-1],
    ).result()  # fmt: skip
    store[...] = array.transpose()
    say(folder, **attributes)
    return folder


def say(folder, **attributes):
    path = folder / "attributes.json"
    folder.mkdir(exist_ok=True)
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**document, **attributes}))


@pytest.mark.parametrize("place", ["a.n5", "a.n5:raw", "a.n5/raw", "plain", "plain/raw"])
def test_an_n5_store_is_recognised(tmp_path, place):
    for store in ("a.n5", "plain"):
        say(tmp_path / store, n5="2.5.0")
        made(tmp_path / store / "raw")
    with open_volume(tmp_path / place) as volume:
        assert volume.location.endswith("plain/raw" if place == "plain/raw" else ":raw")
        np.testing.assert_array_equal(volume.read(volume.whole), ARRAY)


@pytest.mark.parametrize("dtype", "uint8 int8 uint16 int16 uint32 int32 uint64 int64 float32 float64".split())  # noqa: SIM905
def test_every_data_type_is_read(tmp_path, dtype):
    array = ARRAY.astype(dtype)
    loaded = read_all(made(tmp_path / "a.n5", array))
    assert loaded.dtype == array.dtype
    np.testing.assert_array_equal(loaded, array)


@pytest.mark.parametrize("kind", ["raw", "gzip", "bzip2", "blosc", "xz", "zstd"])
def test_every_compression_is_read_with_what_others_write_of_it(tmp_path, kind):
    given = {"type": kind} | ({"cname": "lz4", "clevel": 5, "shuffle": 1} if kind == "blosc" else {})
    path = made(tmp_path / "a.n5", compression=given)
    document = json.loads((path / "attributes.json").read_text())
    say(path, compression={**document["compression"], "nthreads": 1, "nbWorkers": 0})
    np.testing.assert_array_equal(read_all(path), ARRAY)


def test_another_compression_is_refused(tmp_path):
    path = made(tmp_path / "a.n5")
    say(path, compression={"type": "lz4", "blockSize": 65536})
    with fails("a.n5: is compressed by 'lz4', which is not read (those that are: raw, gzip, bzip2, blosc, xz, zstd): "):
        open_volume(path)


@pytest.mark.parametrize(
    "attributes",
    [
        {"resolution": XYZ_NM},
        {"resolution": [0.004, 0.008, 0.04], "units": "um"},
        {"resolution": [2.0, 4.0, 20.0], "downsamplingFactors": [2, 2, 2]},
        {"pixelResolution": {"dimensions": XYZ_NM, "unit": "nm"}},
        {"pixelResolution": {"dimensions": [1, 2, 10], "unit": "nm"}, "downsamplingFactors": [4, 4, 4]},
        {"axes": ["x", "y", "z"], "resolution": XYZ_NM},
        {"axis_names": ["z", "y", "x"], "resolution": XYZ_NM},
        {"transform": {"axes": ["z", "y", "x"], "scale": [40, 8, 4], "translate": [400, 80, 40], "units": ["nm"] * 3}},
        {"transform": {"axes": ["x", "y", "z"], "ordering": "F", "scale": XYZ_NM, "translate": [40, 80, 400],
                       "units": ["nm"] * 3}},
        {"transform": {"axes": ["z", "y", "x"], "scale": [0.04, 0.008, 0.004], "translate": [0.4, 0.08, 0.04],
                       "units": ["um"] * 3}},
    ],
    ids=str,
)  # fmt: skip
def test_x_is_first_and_sizes_are_in_that_order(tmp_path, attributes):
    with open_volume(made(tmp_path / "a.n5", **attributes)) as volume:
        assert volume.voxel_size_nm == pytest.approx(VOXEL_SIZE_NM)
        np.testing.assert_array_equal(volume.read(volume.whole), ARRAY)
        assert volume.offset_nm == (pytest.approx((400, 80, 40)) if "transform" in attributes else None)


def test_axes_that_are_named_win(tmp_path):
    path = made(tmp_path / "a.n5", ARRAY.transpose(), axes=["z", "y", "x"], resolution=VOXEL_SIZE_NM)
    with open_volume(path) as volume:
        assert volume.voxel_size_nm == VOXEL_SIZE_NM
        np.testing.assert_array_equal(volume.read(volume.whole), ARRAY)
    say(path, axes=["a", "b", "c"])
    with fails("a.n5: axes names its 3 axes ['a', 'b', 'c'], which are understood as z, y, x, c"):
        open_volume(path)
    say(path, axes=["x", "y", "z"], transform={"axes": ["x", "y", "z"]})
    with fails("names its axes twice and not the same (axes 'xyz' and transform 'zyx'), correct one."):
        open_volume(path)


def test_channels_come_last(tmp_path):
    array = example(3, 4, 5, 6)
    np.testing.assert_array_equal(read_all(made(tmp_path / "a.n5", array)), array)


def levels(store, *, group_attributes, level_attributes=({}, {})):
    group = store / "em"
    for number, attributes in enumerate(level_attributes):
        step = 2**number
        made(group / f"s{number}", ARRAY[::step, ::step, ::step], **attributes)
    say(group, **group_attributes)
    return store


COSEM = {
    "multiscales": [
        {
            "datasets": [
                {"path": f"s{n}", "transform": {"axes": ["z", "y", "x"], "scale": [40 * 2**n, 8 * 2**n, 4 * 2**n],
                                                "translate": [20 * n, 4 * n, 2 * n], "units": ["nm"] * 3}}
                for n in range(2)
            ]
        }
    ]
}  # fmt: skip


@pytest.mark.parametrize(
    "attributes",
    [
        {"group_attributes": COSEM},
        {"group_attributes": {"pixelResolution": {"dimensions": XYZ_NM, "unit": "nm"}, "multiScale": True},
         "level_attributes": ({}, {"downsamplingFactors": [2, 2, 2]})},
        {"group_attributes": {"resolution": XYZ_NM, "axes": ["x", "y", "z"]},
         "level_attributes": ({"downsamplingFactors": [1, 1, 1]}, {"downsamplingFactors": [2, 2, 2]})},
    ],
    ids=["cosem", "n5-viewer", "paintera"],
)  # fmt: skip
@pytest.mark.parametrize(("text", "number"), [("", 0), ("#s1", 1), ("#1", 1), ("#80x16x8nm", 1), ("#40x8x4nm", 0)])
def test_levels_are_chosen_by_name_number_or_size(tmp_path, attributes, text, number):
    store = levels(tmp_path / "a.n5", **attributes)
    with open_volume(f"{store}:em{text}") as volume:
        assert volume.location == f"{store}:em/s{number}"
        assert volume.voxel_size_nm == tuple(edge * 2**number for edge in VOXEL_SIZE_NM)
        step = 2**number
        np.testing.assert_array_equal(volume.read(volume.whole), ARRAY[::step, ::step, ::step])
        assert volume.offset_nm == ((20.0 * number, 4.0 * number, 2.0 * number) if "multiscales" in str(attributes)
                                    else None)  # fmt: skip


def test_a_level_that_is_not_there_is_said(tmp_path):
    store = levels(tmp_path / "a.n5", group_attributes=COSEM)
    with fails("a.n5:em: has no level '2' but s0 (40x8x4 nm), s1 (80x16x8 nm): give a name, a number from 0 up, or a"):
        open_volume(f"{store}:em#2")
    with fails("a.n5:em: has no level '99nm' but s0"):
        open_volume(f"{store}:em#99nm")
    made(tmp_path / "b.n5")
    with fails("b.n5: is no image of several levels, leave '#0' out."):
        open_volume(tmp_path / "b.n5#0")


def test_damage_is_one_sentence(tmp_path):
    path = made(tmp_path / "a.n5")
    block = next(item for item in path.rglob("0") if item.is_file())
    block.write_bytes(block.read_bytes()[:20])
    with fails("a.n5: cannot be read as N5, so it is damaged"), open_volume(path) as volume:
        volume.read(volume.whole)
    (path / "attributes.json").write_text("{")
    with fails("a.n5: cannot be read as N5, so it is damaged"):
        open_volume(path)


def test_what_z5py_writes_is_read(tmp_path):
    z5py = pytest.importorskip("z5py", reason="z5py, another writer of N5, is not installed")
    with z5py.File(str(tmp_path / "a.n5"), "a") as file:
        for compression in ("raw", "gzip", "bzip2", "blosc", "xz", "zstd"):
            file.create_dataset(f"group/{compression}", data=ARRAY, chunks=(2, 3, 4), compression=compression)
    for compression in ("raw", "gzip", "bzip2", "blosc", "xz", "zstd"):
        np.testing.assert_array_equal(read_all(f"{tmp_path}/a.n5:group/{compression}"), ARRAY)
