"""Coarser levels of what is written: their steps, values and places, as zarr-python and the own reader see them."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
import zarr

from connectomics_zoo.errors import OutputError
from connectomics_zoo.volumes import Box, StoredPrediction, create_volume, multiscale, open_volume
from connectomics_zoo.volumes.zarr_writing import ArrayLayout

VNC_NM = (50.0, 4.6, 4.6)


@pytest.fixture
def small_screen(monkeypatch):
    monkeypatch.setattr(multiscale, "SMALLEST", 8)


def plan(shape, voxel_size_nm, *, multiscale_=True, **changes):
    layout = ArrayLayout(
        shape=shape,
        dtype=np.dtype(np.uint8),
        chunks=(*(1 for _ in shape[:-3]), 64, 128, 128),
        shards=(*(1 for _ in shape[:-3]), 128, 512, 512),
        voxel_size_nm=voxel_size_nm,
        attributes={},
        **changes,
    )
    return multiscale.levels_of(
        "x.zarr", dataset=None, layout=layout, stored=StoredPrediction(), multiscale=multiscale_
    ).layouts


@pytest.mark.parametrize(
    ("shape", "voxel_size_nm", "factors"),
    [
        ((256, 256, 256), (8.0, 8.0, 8.0), []),
        ((257, 4, 4), None, [(2, 2, 2)]),
        ((1024, 1024, 1024), (8.0, 8.0, 8.0), [(2, 2, 2), (4, 4, 4)]),
        # 50 nm is more than sqrt(2) times 4.6, 9.2 and 18.4 nm, but not 36.8 nm.
        (
            (1024, 8192, 8192),
            VNC_NM,
            [(1, 2, 2), (1, 4, 4), (1, 8, 8), (2, 16, 16), (4, 32, 32)],
        ),
        ((512, 512, 512), (11.3, 8.0, 8.0), [(2, 2, 2)]),  # below sqrt(2)
        ((300, 512, 512), (11.4, 8.0, 8.0), [(1, 2, 2), (2, 4, 4)]),
        ((500, 500, 500), (8.0, 8.0, 40.0), [(2, 2, 1), (4, 4, 1), (8, 8, 2)]),
        # One section is never halved, though its voxels are the finest.
        ((1, 1024, 1024), (4.0, 8.0, 8.0), [(1, 2, 2), (1, 4, 4)]),
        # Nor is what has become one voxel.
        ((2, 1024, 1024), (8.0, 8.0, 8.0), [(2, 2, 2), (2, 4, 4)]),
        ((600, 1, 1), (50.0, 4.0, 4.0), [(2, 1, 1), (4, 1, 1)]),
    ],
)
def test_an_axis_is_halved_while_its_voxels_are_not_much_longer_than_the_shortest(shape, voxel_size_nm, factors):
    levels = plan(shape, voxel_size_nm)
    assert [level.factors for level in levels] == [(1, 1, 1), *factors]
    for level in levels:
        assert level.shape == tuple(math.ceil(size / factor) for size, factor in zip(shape, level.factors, strict=True))
        for chunk, shard in zip(level.chunks, level.shards, strict=True):
            assert shard % chunk == 0
        assert math.prod(level.shards) <= 2**25 or level is levels[0]
    assert max(levels[-1].shape) <= 256
    assert len(plan(shape, voxel_size_nm, multiscale_=False)) == 1


def naive(array, step, *, is_label):
    """The same by counting, voxel by voxel."""
    shape = [math.ceil(size / factor) for size, factor in zip(array.shape, step, strict=True)]
    result = np.empty(shape, array.dtype)
    for at in np.ndindex(*shape):
        block = array[tuple(slice(p * s, (p + 1) * s) for p, s in zip(at, step, strict=True))].ravel()
        if is_label:
            counts = Counter(block.tolist())
            result[at] = min(counts, key=lambda label: (-counts[label], label))
        else:
            mean = block.astype(np.float64).mean()
            result[at] = np.rint(mean) if array.dtype.kind == "u" else mean
    return result


CASES = {
    "probability": ("uint8", "probability", None),
    "channels": ("uint8", "probability", 2),
    "float16": ("float16", "probability", None),
    "unstated": ("float32", None, 2),
    "label": ("uint8", "label", None),
    "instances": ("uint32", "instances", None),
    "instances of 64 bits": ("uint64", "instances", None),
}


def values_of(dtype, channels, shape):
    random = np.random.default_rng(0)
    full = shape if channels is None else (channels, *shape)
    if np.dtype(dtype).kind == "f":
        return random.random(full).astype(dtype)
    high = {"uint8": 256, "uint32": 4, "uint64": 3}[dtype]
    return random.integers(0, high, full).astype(dtype) * (2**40 if dtype == "uint64" else 1)


@pytest.mark.parametrize("name", CASES)
def test_levels_are_means_or_most_frequent_labels_of_the_level_before(tmp_path, small_screen, name):
    dtype, content, channels = CASES[name]
    shape = (5, 21, 18)
    values = values_of(dtype, channels, shape)
    with create_volume(
        tmp_path / "a.zarr:some/group",
        shape=shape,
        dtype=dtype,
        channels=channels,
        voxel_size_nm=(30.0, 8.0, 8.0),
        stored=StoredPrediction(content),
        chunks=(2, 4, 4),
        offset=(300.0, 0.0, 80.0),
        multiscale=True,
    ) as volume:
        volume.write(volume.whole, values)
    group = zarr.open_group(str(tmp_path / "a.zarr" / "some" / "group"), mode="r")
    datasets = group.attrs["ome"]["multiscales"][0]["datasets"]
    assert [item["path"] for item in datasets] == ["0", "1", "2"]
    before = values
    np.testing.assert_array_equal(group["0"][...], values)
    is_label = content in ("label", "instances")
    for number, step in ((1, (1, 2, 2)), (2, (1, 2, 2))):
        parts = [before] if channels is None else list(before)
        wanted = [naive(part, step, is_label=is_label) for part in parts]
        found = group[str(number)]
        assert found.dtype == np.dtype(dtype)
        assert "zoo_unfinished" not in found.attrs
        before = found[...]
        tolerance = 0 if np.dtype(dtype).kind == "u" else 1e-3
        np.testing.assert_allclose(before, wanted[0] if channels is None else np.stack(wanted), rtol=tolerance)
        with open_volume(f"{tmp_path}/a.zarr:some/group#{number}") as level:
            factor = 2**number
            assert level.voxel_size_nm == (30.0, 8.0 * factor, 8.0 * factor)
            assert level.offset_nm == (300.0, 4.0 * (factor - 1), 80.0 + 4.0 * (factor - 1))
            assert level.content == content
            np.testing.assert_array_equal(level.read(level.whole), before)
    with open_volume(f"{tmp_path}/a.zarr:some/group") as finest:
        assert (finest.shape, finest.offset_nm) == (shape, (300.0, 0.0, 80.0))


def test_halves_are_rounded_to_the_even_number(tmp_path, small_screen):
    values = np.zeros((1, 1, 10), np.uint8)
    values[0, 0, :6] = (0, 1, 1, 2, 2, 3)
    with create_volume(
        tmp_path / "a.zarr", shape=(1, 1, 10), dtype="uint8", channels=None, voxel_size_nm=None, multiscale=True
    ) as volume:
        volume.write(volume.whole, values)
    assert zarr.open_group(str(tmp_path / "a.zarr"))["1"][0, 0].tolist() == [0, 2, 2, 0, 0]


def test_without_a_voxel_size_voxels_are_the_unit(tmp_path, small_screen):
    with create_volume(
        tmp_path / "a.zarr",
        shape=(12, 12, 12),
        dtype="uint8",
        channels=2,
        voxel_size_nm=None,
        offset=(3.0, 0.0, 0.0),
        multiscale=True,
    ) as volume:
        volume.write(volume.whole, np.zeros((2, 12, 12, 12), np.uint8))
    (entry,) = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    assert entry["axes"] == [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space"} for axis in "zyx")]
    said = [item["coordinateTransformations"] for item in entry["datasets"]]
    assert said == [
        [{"type": "scale", "scale": [1, 1, 1, 1]}, {"type": "translation", "translation": [0, 3, 0, 0]}],
        [{"type": "scale", "scale": [1, 2, 2, 2]}, {"type": "translation", "translation": [0, 3.5, 0.5, 0.5]}],
    ]
    with open_volume(f"{tmp_path}/a.zarr#1") as level:
        assert (level.voxel_size_nm, level.offset_nm, level.channels) == (None, None, 2)


def test_one_level_says_where_it_lies_too(tmp_path):
    with create_volume(
        tmp_path / "a.zarr",
        shape=(2, 2, 2),
        dtype="uint8",
        channels=None,
        voxel_size_nm=VNC_NM,
        offset=(100.0, 3 * 4.6, 0.0),
    ) as volume:
        volume.write(volume.whole, np.ones((2, 2, 2), np.uint8))
    with open_volume(tmp_path / "a.zarr") as found:
        assert found.offset_nm == (100.0, 13.8, 0.0)


def test_levels_of_an_image_are_replaced_with_it_and_other_arrays_are_not(tmp_path, small_screen):
    def write(value, **changes):
        with create_volume(
            tmp_path / "a.zarr", shape=(12, 12, 12), dtype="uint8", channels=None, voxel_size_nm=None, **changes
        ) as volume:
            volume.write(volume.whole, np.full((12, 12, 12), value, np.uint8))

    write(1, multiscale=True)
    write(2, overwrite=True)
    group = zarr.open_group(str(tmp_path / "a.zarr"))
    assert sorted(group.array_keys()) == ["0"]
    group.create_array("7", shape=(2,), dtype="uint8")
    with pytest.raises(OutputError, match=r"a\.zarr: holds 0, 7, which would be lost, choose another name"):
        write(3, overwrite=True, multiscale=True)


@pytest.mark.parametrize("name", ["a.h5", "a.tif"])
def test_levels_are_refused_where_there_are_none(tmp_path, name):
    with pytest.raises(OutputError, match=rf"{name}: has no levels, which only Zarr has: give a name that ends in"):
        create_volume(
            tmp_path / name, shape=(2, 2, 2), dtype="uint8", channels=None, voxel_size_nm=None, multiscale=True
        )


def test_what_fails_while_levels_are_made_leaves_nothing(tmp_path, small_screen, monkeypatch):
    def full(*args):
        raise OutputError("the disk is full.")

    monkeypatch.setattr(multiscale.Levels, "make", full)
    volume = create_volume(
        tmp_path / "a.zarr", shape=(12, 12, 12), dtype="uint8", channels=None, voxel_size_nm=None, multiscale=True
    )
    volume.write(Box.of_shape((12, 12, 12)), np.zeros((12, 12, 12), np.uint8))
    with pytest.raises(OutputError, match="the disk is full"):
        volume.close()
    assert list(tmp_path.iterdir()) == []
