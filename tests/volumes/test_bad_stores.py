"""Metadata of stores that is damaged in any way, and any text for a location, end in one sentence of ours."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fuzzing import mutated, refusal
from support.volume_files import ZARR_3, example, make_array

from connectomics_zoo.volumes import Box, open_volume
from connectomics_zoo.volumes.location import split_place

ARRAY = example(4, 6, 8)
VOXEL = Box.of_shape((1, 1, 1))
LEVEL = {
    "path": "s0",
    "coordinateTransformations": [
        {"type": "scale", "scale": [40, 8, 4]},
        {"type": "translation", "translation": [4, 5, 6]},
    ],
}
AXES = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]


def inputs(count):
    return settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )


def zarr_image(folder, *, zarr_format):
    group = zarr.open_group(str(folder), mode="w", **({"zarr_format": zarr_format} if ZARR_3 else {}))
    make_array(group, "s0", ARRAY, resolution=[40, 8, 4], axes="zyx")
    entry = {"version": "0.4", "axes": AXES, "datasets": [LEVEL]}
    group.attrs.update({"ome": {"multiscales": [entry]}} if zarr_format == 3 else {"multiscales": [entry]})


def n5_group(folder):
    tensorstore.open(
        {"driver": "n5", "kvstore": {"driver": "file", "path": f"{folder}/s0/"}, "metadata": {"blockSize": [8, 6, 4]}},
        create=True, dtype=tensorstore.uint8, shape=ARRAY.shape[::-1],
    ).result()[...] = ARRAY.transpose()  # fmt: skip
    transform = {"axes": ["z", "y", "x"], "scale": [40, 8, 4], "translate": [4, 5, 6], "units": ["nm"] * 3}
    document = {"n5": "2.5.0", "pixelResolution": {"dimensions": [4, 8, 40], "unit": "nm"},
                "multiscales": [{"datasets": [{"path": "s0", "transform": transform}]}]}  # fmt: skip
    (folder / "attributes.json").write_text(json.dumps(document))


def precomputed(folder):
    tensorstore.open(
        {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{folder}/"},
         "scale_metadata": {"resolution": [4, 8, 40], "encoding": "raw", "voxel_offset": [1, 2, 3],
                            "size": ARRAY.shape[::-1]},
         "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1}},
        create=True,
    ).result()[...] = ARRAY.transpose()[..., None]  # fmt: skip


STORES = {
    ("a.zarr", ".zattrs"): lambda folder: zarr_image(folder, zarr_format=2),
    ("a.zarr", "s0/.zarray"): lambda folder: zarr_image(folder, zarr_format=2),
    ("a.zarr", "s0/.zattrs"): lambda folder: zarr_image(folder, zarr_format=2),
    ("b.zarr", "zarr.json"): lambda folder: zarr_image(folder, zarr_format=3),
    ("b.zarr", "s0/zarr.json"): lambda folder: zarr_image(folder, zarr_format=3),
    ("a.n5", "attributes.json"): n5_group,
    ("a.n5", "s0/attributes.json"): n5_group,
    ("seg", "info"): precomputed,
}


@pytest.mark.parametrize(("name", "file"), STORES, ids=map("/".join, STORES))
def test_damaged_metadata_is_read_or_refused(tmp_path, name, file):
    if name == "b.zarr" and not ZARR_3:
        pytest.skip("zarr-python 2 writes format 2 only")
    STORES[name, file](tmp_path / name)
    path = tmp_path / name / file
    document = json.loads(path.read_text())
    with open_volume(tmp_path / name) as volume:
        np.testing.assert_array_equal(volume.read(volume.whole), ARRAY)
        assert volume.voxel_size_nm == (40, 8, 4)

    def attempt():
        with open_volume(tmp_path / name) as volume:
            assert isinstance(volume.location, str)
            volume.read(VOXEL)

    @inputs(40)
    @given(mutated(document))
    def check(changed):
        path.write_text(json.dumps(changed))
        refusal(attempt)

    check()


@inputs(300)
@given(text=st.text(max_size=12) | st.text(alphabet="s3gh:/.#zarn5@?[]%\\ ", max_size=24) | st.from_regex(r"s3://.*"))
def test_any_text_is_a_location_or_refused(text):
    refusal(lambda: split_place(text))
