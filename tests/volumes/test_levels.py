"""Levels of OME-Zarr images: chosen by name, number or size, with the places that they name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from support.stores import file_server
from support.volume_files import ZARR_3, example, fails, make_array, read_all

from connectomics_zoo.volumes import open_volume

ARRAY = example(4, 6, 8)
VOXEL_SIZE_NM = (40.0, 8.0, 4.0)


def axes(unit="nanometer", names="zyx"):
    kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
    return [{"name": name, **kinds.get(name, {"type": "space", "unit": unit})} for name in names]


def entry(names=("0", "1"), *, factor=1.0, **changes):
    datasets = []
    for number, name in enumerate(names):
        step = 2**number
        scale = [edge * factor * step for edge in VOXEL_SIZE_NM]
        shift = [edge * factor * (step - 1) / 2 for edge in VOXEL_SIZE_NM]
        moved = {"type": "translation", "translation": shift}
        transformations = [{"type": "scale", "scale": scale}, *([moved] if number else [])]
        datasets.append({"path": name, "coordinateTransformations": transformations})
    return {"axes": axes(), "datasets": datasets, **changes}


def image(path, *, version="0.4", group="", names=("0", "1"), **changes):
    """Write an OME-Zarr image whose levels are `ARRAY` and its every second voxel."""
    store = zarr.open_group(str(path), mode="w", **({"zarr_format": 3 if version == "0.5" else 2} if ZARR_3 else {}))
    holder = store.require_group(group) if group else store
    for number, name in enumerate(names):
        make_array(holder, name, ARRAY[:: 2**number, :: 2**number, :: 2**number].copy())
    said = {"version": version, **entry(names, **changes)}
    holder.attrs.update({"ome": {"multiscales": [said]}} if version == "0.5" else {"multiscales": [said]})
    return path


@pytest.fixture(params=["0.4", "0.5"])
def version(request):
    if request.param == "0.5" and not ZARR_3:
        pytest.skip("zarr-python 2 writes format 2 only")
    return request.param


@pytest.mark.parametrize("group", ["", "recon/em"])
@pytest.mark.parametrize(
    ("text", "number"),
    [("", 0), ("#s0", 0), ("#s1", 1), ("#0", 0), ("#1", 1), ("#80x16x8nm", 1), ("#40,8,4nm", 0), ("/#1", 1)],
)
def test_a_level_is_chosen_by_name_number_or_size(tmp_path, version, group, text, number):
    path = image(tmp_path / "a.zarr", version=version, group=group, names=("s0", "s1"))
    step = 2**number
    for location in (f"{path}:{group}{text}", f"{path}/{group}{text}") if group else (f"{path}{text}",):
        with open_volume(location) as volume:
            assert volume.location == f"{path}:{group}/s{number}".replace(":/", ":")
            assert volume.voxel_size_nm == tuple(edge * step for edge in VOXEL_SIZE_NM)
            assert volume.offset_nm == ((20.0, 4.0, 2.0) if number else None)
            np.testing.assert_array_equal(volume.read(volume.whole), ARRAY[::step, ::step, ::step])


def test_isotropic_levels_have_one_length(tmp_path):
    datasets = [
        {"path": name, "coordinateTransformations": [{"type": "scale", "scale": [edge] * 3}]}
        for name, edge in (("0", 0.004), ("1", 0.008))
    ]
    image(tmp_path / "a.zarr", axes=axes("micrometer"), datasets=datasets)
    assert open_volume(f"{tmp_path}/a.zarr#8nm").location.endswith("a.zarr:1")
    assert open_volume(f"{tmp_path}/a.zarr#8.02 nm").location.endswith("a.zarr:1")
    with fails(
        "a.zarr: has no level '16nm' but 0 (4x4x4 nm), 1 (8x8x8 nm): give a name, a number from 0 up, or a size."
    ):
        open_volume(f"{tmp_path}/a.zarr#16nm")


def test_the_places_of_level_and_image_add_up(tmp_path):
    whole = [{"type": "scale", "scale": [1, 2, 2]}, {"type": "translation", "translation": [0.1, 0.2, 0.3]}]
    image(tmp_path / "a.zarr", factor=1e-3, axes=axes("micrometer"), coordinateTransformations=whole)
    with open_volume(f"{tmp_path}/a.zarr#1") as volume:
        assert volume.voxel_size_nm == pytest.approx((80, 32, 16))
        assert volume.offset_nm == pytest.approx((120, 208, 304))


def test_a_place_without_units_is_unknown(tmp_path):
    image(tmp_path / "a.zarr", axes=[{"name": name, "type": "space"} for name in "zyx"])
    assert open_volume(f"{tmp_path}/a.zarr#1").offset_nm is None


def test_a_hash_may_be_in_a_name(tmp_path):
    group = zarr.open_group(str(tmp_path / "a#1.zarr"), mode="w")
    make_array(group, "raw#2", ARRAY)
    assert open_volume(f"{tmp_path}/a#1.zarr:raw#2").location.endswith("a#1.zarr:raw#2")
    np.testing.assert_array_equal(read_all(tmp_path / "a#1.zarr"), ARRAY)


def test_where_there_is_no_level_it_is_said(tmp_path):
    make_array(zarr.open_group(str(tmp_path / "a.zarr"), mode="w"), "raw", ARRAY)
    for location in ("a.zarr#0", "a.zarr:raw#0", "a.zarr/raw#0"):
        with fails("is no image of several levels, leave '#0' out."):
            open_volume(f"{tmp_path}/{location}")
    image(tmp_path / "b.zarr", datasets=[*entry()["datasets"], {"path": "2"}, {"path": "../a.zarr/raw"}])
    for level in ("#2", "#3"):
        with fails("is not there, check that it was copied completely."):
            open_volume(f"{tmp_path}/b.zarr{level}")


def test_levels_behind_a_uri_are_found(tmp_path, version):
    image(tmp_path / "a.zarr", version=version)
    with file_server(tmp_path) as address:
        for text, location in (("a.zarr", "a.zarr:0"), ("a.zarr#1", "a.zarr:1"), ("a.zarr/#1", "a.zarr:1")):
            assert open_volume(f"{address}/{text}").location == f"{address}/{location}"
        with fails("/a.zarr: has no level '2' but 0 (40x8x4 nm), 1 (80x16x8 nm): give a name, a number"):
            open_volume(f"{address}/a.zarr#2")


def test_axes_that_are_not_understood_are_refused(tmp_path):
    image(tmp_path / "a.zarr", axes=axes(names="abc"))
    with fails("a.zarr/0: multiscales names its 3 axes ['a', 'b', 'c'], which are understood as z, y, x, c"):
        open_volume(tmp_path / "a.zarr")


def test_metadata_that_is_no_image_is_no_reason_to_fail(tmp_path):
    image(tmp_path / "a.zarr", names=("0",))
    path = tmp_path / "a.zarr" / ".zattrs"
    for said in ({"multiscales": []}, {"multiscales": [{"datasets": [{"path": "0", "coordinateTransformations": 7}]}]}):
        path.write_text(json.dumps(said))
        with open_volume(tmp_path / "a.zarr") as volume:
            assert (volume.voxel_size_nm, volume.offset_nm) == (None, None)
