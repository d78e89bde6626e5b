"""Locations, arrays in a file, axes and voxel sizes are found where files say them, and never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from support.volume_files import ZARR_3, example, fails, h5, make_array, write

from connectomics_zoo.volumes import Box, open_volume
from connectomics_zoo.volumes.axes import declared_axes
from connectomics_zoo.volumes.location import FORMAT_OF_SUFFIX, split_place
from connectomics_zoo.volumes.metadata import as_voxel_size, nanometres

VOXEL_SIZE_NM = (40.0, 4.5, 4.25)

# Locations


SUFFIXES = list(FORMAT_OF_SUFFIX)
WORD = st.text(st.sampled_from("abcXYZ019 _-:é"), min_size=1, max_size=8)


@given(folders=st.lists(WORD, max_size=3), stem=WORD, suffix=st.sampled_from(SUFFIXES), name=WORD)
def test_the_dataset_begins_after_the_suffix_whatever_colons_stand_before(folders, stem, suffix, name):
    path = "/".join(["", "nowhere", *folders, stem + suffix])
    assert split_place(f"{path}:{name}/x") == (Path(path), f"{name}/x")
    assert split_place(path) == (Path(path), None)


@pytest.mark.parametrize(
    ("text", "path", "dataset"),
    [
        (r"C:\data\a.h5:raw", r"C:\data\a.h5", "raw"),
        (r"C:\data\a.H5", r"C:\data\a.H5", None),
        ("A.TIFF.H5:raw", "A.TIFF.H5", "raw"),
        ("C:/data/a.zarr:labels/mito", "C:/data/a.zarr", "labels/mito"),
        ("a.zarr/labels/mito", "a.zarr", "labels/mito"),
        ("a.ome.zarr/", "a.ome.zarr", None),
        ("run 10:30/a.tif", "run 10:30/a.tif", None),
        ("run:3/slices", "run:3/slices", None),
        ("a.h5:/raw", "a.h5", "raw"),
        ("my.h5.backup/a.hdf:x", "my.h5.backup/a.hdf", "x"),
    ],
)
def test_locations_split_into_path_and_dataset(text, path, dataset):
    assert split_place(text) == (Path(path), dataset)


def test_a_path_that_exists_decides_between_two_readings(tmp_path):
    (tmp_path / "odd.zarr:x").mkdir()
    h5(tmp_path / "odd.zarr:x" / "a.h5", raw=example(3, 4, 5))
    assert open_volume(f"{tmp_path}/odd.zarr:x/a.h5:raw").shape == (3, 4, 5)


def test_the_root_is_for_relative_locations_only(tmp_path):
    path = h5(tmp_path / "a.h5", raw=example(3, 4, 5))
    assert open_volume("a.h5:raw", root=tmp_path).location == f"{path}:raw"
    assert open_volume(f"{path}:raw", root=Path("/nowhere")).shape == (3, 4, 5)


@pytest.mark.parametrize("text", ["a.h5:", "a.h5:x//y", "a.zarr:../b", "a.zarr/../b.zarr"])
def test_a_dataset_must_be_a_plain_path(text):
    with fails("is not the path of a dataset, write group/dataset."):
        split_place(text)


@pytest.mark.parametrize("text", ["https://host/a.h5:raw", "s3://bucket/a.tif", "gs://bucket/a.nii.gz"])
def test_a_file_behind_a_uri_is_refused(text):
    with fails("is a file behind a URI, and only stores of chunks (Zarr, N5, precomputed) are read from there"):
        open_volume(text)


def test_an_empty_location_is_refused():
    with fails("the location of a volume is empty, give file.h5:dataset"):
        open_volume(" ")


# Choosing the array


def test_the_only_array_of_a_file_is_taken(tmp_path):
    h5(tmp_path / "a.h5", **{"volumes/raw": example(3, 4, 5)})
    assert open_volume(tmp_path / "a.h5").location.endswith("a.h5:volumes/raw")
    assert open_volume(f"{tmp_path}/a.h5:volumes").location.endswith("a.h5:volumes/raw")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    make_array(group, "volumes/raw", example(3, 4, 5))
    assert open_volume(tmp_path / "a.zarr").location.endswith("a.zarr:volumes/raw")


@pytest.mark.parametrize("name", ["a.h5", "a.zarr"])
def test_among_several_arrays_none_is_guessed(tmp_path, name):
    if name == "a.h5":
        h5(tmp_path / name, raw=example(3, 4, 5), labels=example(3, 4, 5))
    else:
        group = zarr.open_group(str(tmp_path / name), mode="w")
        make_array(group, "raw", example(3, 4, 5))
        make_array(group, "labels", example(3, 4, 5))
    with fails(f"{name}: holds 2 arrays (labels, raw), say which one, as in {name}:raw."):
        open_volume(tmp_path / name)
    with fails(f"{name}: there is no array 'raws', did you mean 'raw'?"):
        open_volume(f"{tmp_path}/{name}:raws")
    with fails(f"{name}: there is no array 'raw/x', did you mean 'raw'?"):
        open_volume(f"{tmp_path}/{name}:raw/x")


def test_a_file_without_arrays_says_so(tmp_path):
    h5(tmp_path / "a.h5")
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    for name in ("a.h5", "a.zarr"):
        with fails(f"{name}: holds no array, check that it is the right file."):
            open_volume(tmp_path / name)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_both_zarr_formats_are_read_from_disk(tmp_path, zarr_format):
    if zarr_format == 3 and not ZARR_3:
        pytest.skip("zarr-python 2 writes format 2 only")
    options = {"zarr_format": zarr_format} if ZARR_3 else {}
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", **options)
    make_array(group, "raw", example(3, 4, 5), resolution=[40, 4, 4])
    assert (tmp_path / "a.zarr" / "raw" / ("zarr.json" if zarr_format == 3 else ".zarray")).exists()
    for location in (f"{tmp_path}/a.zarr:raw", f"{tmp_path}/a.zarr/raw", f"{tmp_path}/a.zarr"):
        with open_volume(location) as volume:
            assert volume.voxel_size_nm == (40.0, 4.0, 4.0)
            np.testing.assert_array_equal(volume.read(volume.whole), example(3, 4, 5))


def test_a_bare_zarr_array_is_a_volume(tmp_path):
    options = {"zarr_format": 2} if ZARR_3 else {}
    array = zarr.open_array(
        str(tmp_path / "a.zarr"), mode="w", shape=(3, 4, 5), dtype=">u2", chunks=(1, 4, 5), **options
    )
    array[...] = 7
    with open_volume(tmp_path / "a.zarr") as volume:
        assert volume.location.endswith("a.zarr")
        assert volume.dtype == np.dtype("uint16")
        assert (volume.read(volume.whole) == 7).all()


def ngff(path, *, version, axes, levels, array, transformations=()):
    """Write an OME-NGFF image whose levels are `array`, `array[..., ::2]`, …"""
    options = {"zarr_format": 3 if version == "0.5" else 2} if ZARR_3 else {}
    group = zarr.open_group(str(path), mode="w", **options)
    datasets = []
    for number, (name, scale) in enumerate(levels):
        make_array(group, name, array[..., :: 2**number].copy())
        datasets.append({"path": name, "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    entry = {"version": version, "axes": axes, "datasets": datasets}
    if transformations:
        entry["coordinateTransformations"] = list(transformations)
    group.attrs.update({"ome": {"multiscales": [entry]}} if version == "0.5" else {"multiscales": [entry]})


MICROMETRES = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_finest_level_of_an_ngff_image_is_taken_with_its_scale(tmp_path, version):
    if version == "0.5" and not ZARR_3:
        pytest.skip("zarr-python 2 writes format 2 only")
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *MICROMETRES]
    levels = [("s0", [1, 1, 0.04, 0.004, 0.004]), ("s1", [1, 1, 0.04, 0.004, 0.008])]
    array = example(1, 2, 3, 4, 6)
    ngff(tmp_path / "a.zarr", version=version, axes=axes, levels=levels, array=array)
    with open_volume(tmp_path / "a.zarr") as volume:
        assert volume.location.endswith("a.zarr:s0")
        assert (volume.shape, volume.channels) == ((3, 4, 6), 2)
        assert volume.voxel_size_nm == pytest.approx((40, 4, 4))
        np.testing.assert_array_equal(volume.read(volume.whole.replace(z=(1, 3))), array[0, :, 1:])
    with open_volume(f"{tmp_path}/a.zarr:s1") as volume:
        assert volume.voxel_size_nm == pytest.approx((40, 4, 8))


def test_ngff_scales_of_level_and_image_multiply(tmp_path):
    whole = {"type": "scale", "scale": [1, 2, 2]}
    ngff(
        tmp_path / "a.zarr", version="0.4", axes=MICROMETRES, levels=[("0", [0.04, 0.004, 0.004])],
        array=example(3, 4, 6), transformations=[whole],
    )  # fmt: skip
    assert open_volume(tmp_path / "a.zarr").voxel_size_nm == pytest.approx((40, 8, 8))


def test_an_ngff_scale_without_unit_is_unknown(tmp_path):
    axes = [{"name": axis, "type": "space"} for axis in "zyx"]
    ngff(tmp_path / "a.zarr", version="0.4", axes=axes, levels=[("0", [4, 4, 4])], array=example(3, 4, 6))
    assert open_volume(tmp_path / "a.zarr").voxel_size_nm is None


@pytest.mark.skipif(not ZARR_3, reason="zarr-python 2 writes OME-NGFF 0.4")
def test_a_written_zarr_is_ngff_that_other_readers_know(tmp_path):
    write(tmp_path / "a.zarr", example(2, 3, 4, 5), voxel_size_nm=VOXEL_SIZE_NM)
    image = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]["ome"]
    assert image["version"] == "0.5"
    (entry,) = image["multiscales"]
    assert [axis["name"] for axis in entry["axes"]] == ["c", "z", "y", "x"]
    assert entry["axes"][1] == {"name": "z", "type": "space", "unit": "nanometer"}
    transformation = {"type": "scale", "scale": [1.0, *VOXEL_SIZE_NM]}
    assert entry["datasets"] == [{"path": "0", "coordinateTransformations": [transformation]}]
    level = json.loads((tmp_path / "a.zarr" / "0" / "zarr.json").read_text())
    assert level["dimension_names"] == ["c", "z", "y", "x"]
    assert [codec["name"] for codec in level["codecs"]] == ["bytes", "zstd"]


# Metadata


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"resolution": (40.0, 4.0, 4.0)}, (40, 4, 4)),
        ({"voxel_size": (40, 4, 4)}, (40, 4, 4)),
        ({"voxel_size": (0.04, 0.004, 0.004), "units": ["um", "um", "um"]}, (40, 4, 4)),
        ({"voxel_size": (40, 4, 4), "units": "pixel"}, None),
        ({"voxel_size_nm": (50.0, 4.6, 4.6), "resolution": (1, 1, 1)}, (50, 4.6, 4.6)),
        ({"element_size_um": (0.04, 0.004, 0.004)}, (40, 4, 4)),
        ({"axes": "xyz", "resolution": (4, 5, 40)}, (40, 5, 4)),
        ({"resolution": (40.0, 4.0)}, None),
        ({"resolution": (40.0, 0.0, 4.0)}, None),
        ({"resolution": "forty"}, None),
        ({}, None),
    ],
)
def test_hdf5_attributes_give_the_voxel_size(tmp_path, attributes, expected):
    with h5py.File(h5(tmp_path / "a.h5", raw=example(3, 4, 5)), "a") as file:
        file["raw"].attrs.update(attributes)
    found = open_volume(tmp_path / "a.h5").voxel_size_nm
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    "attributes",
    [{"axes": "xyzc"}, {"axistags": json.dumps({"axes": [{"key": key} for key in "xyzc"]})}],
)
def test_declared_axes_are_transposed(tmp_path, attributes):
    array = example(2, 3, 4, 5)
    with h5py.File(h5(tmp_path / "a.h5", raw=array.transpose(3, 2, 1, 0)), "a") as file:
        file["raw"].attrs.update(attributes)
    with open_volume(tmp_path / "a.h5") as volume:
        assert (volume.shape, volume.channels) == ((3, 4, 5), 2)
        np.testing.assert_array_equal(volume.read(Box((1, 0, 3), (3, 2, 5))), array[:, 1:3, 0:2, 3:5])


@pytest.mark.parametrize(
    ("unit", "spacing", "pixels", "expected"),
    [
        ("micron", 0.04, 125, (40, 8, 8)),
        ("um", 0.04, 125, (40, 8, 8)),
        ("\\u00B5m", 0.04, 125, (40, 8, 8)),
        ("nm", 40, 0.125, (40, 8, 8)),
        ("pixel", 40, 0.125, None),
        (None, 40, 0.125, None),
        ("nm", None, 0.125, None),
    ],
)
def test_imagej_metadata_give_the_voxel_size(tmp_path, unit, spacing, pixels, expected):
    given_values = {"unit": unit, "spacing": spacing}
    metadata = {"axes": "ZYX"} | {key: value for key, value in given_values.items() if value is not None}
    tifffile.imwrite(tmp_path / "a.tif", example(3, 4, 5), imagej=True, metadata=metadata, resolution=(pixels, pixels))
    found = open_volume(tmp_path / "a.tif").voxel_size_nm
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(("unit", "expected"), [("nm", (40, 8, 4)), ("µm", (40e3, 8e3, 4e3)), ("pixel", None)])
def test_ome_metadata_give_the_voxel_size(tmp_path, unit, expected):
    sizes = {"PhysicalSizeZ": 40, "PhysicalSizeY": 8, "PhysicalSizeX": 4}
    units = {f"{key}Unit": unit for key in sizes}
    tifffile.imwrite(tmp_path / "a.ome.tif", example(3, 4, 5), ome=True, metadata={"axes": "ZYX", **sizes, **units})
    found = open_volume(tmp_path / "a.ome.tif").voxel_size_nm
    assert found == (None if expected is None else pytest.approx(expected))


SIZES = {"PhysicalSizeZ": 40, "PhysicalSizeY": 8, "PhysicalSizeX": 4}


def in_furlongs(path):
    """Write a volume whose voxel size is in a unit that nobody has heard of."""
    array, imagej = example(3, 4, 5), {"axes": "ZYX", "unit": "furlong", "spacing": 40}
    if path.suffix == ".zarr":
        make_array(zarr.open_group(str(path), mode="w"), "0", array)
        level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [40.0, 8.0, 4.0]}]}
        axes = [{"name": axis, "type": "space", "unit": "furlong"} for axis in "zyx"]
        zarr.open_group(str(path)).attrs["multiscales"] = [{"axes": axes, "datasets": [level]}]
    elif path.suffix == ".h5":
        with h5py.File(h5(path, raw=array), "a") as file:
            file["raw"].attrs.update({"resolution": (40.0, 8.0, 4.0), "unit": "furlong"})
    elif ".ome" in path.name:
        units = {f"{key}Unit": "furlong" for key in SIZES}
        tifffile.imwrite(path, array, ome=True, metadata={"axes": "ZYX", **SIZES, **units})
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array, imagej=True, metadata=imagej, resolution=(0.25, 0.125))
    else:
        path.mkdir()
        metadata = {**imagej, "axes": "YX"}
        tifffile.imwrite(path / "0.tif", array[0], imagej=True, metadata=metadata, resolution=(0.25, 0.125))


@pytest.mark.parametrize("name", ["a.h5", "a.zarr", "a.ome.tif", "a.tif", "folder"])
def test_a_unit_that_is_not_known_is_refused_unless_the_voxel_size_is_given(tmp_path, name):
    in_furlongs(tmp_path / name)
    with fails(
        "says its voxel size in 'furlong', which is no unit of length that is known (nm, um, mm, angstrom): correct it "
        "in the file, or give the size in nm as voxel_size_nm (zoo train: data.voxel_size_nm; zoo evaluate: --voxel-"
    ):
        open_volume(tmp_path / name)
    assert open_volume(tmp_path / name, voxel_size_nm=(40, 8, 4)).voxel_size_nm == (40, 8, 4)


def test_a_voxel_size_in_a_known_unit_beside_an_unknown_one_is_taken(tmp_path):
    in_furlongs(tmp_path / "a.zarr")
    zarr.open_group(str(tmp_path / "a.zarr"))["0"].attrs["voxel_size_nm"] = [40, 8, 4]
    assert open_volume(tmp_path / "a.zarr").voxel_size_nm == (40, 8, 4)


@pytest.mark.parametrize("unit", ["", "pixels", "Voxel", "px", "None", "reference frame", "a.u."])
def test_words_for_no_unit_leave_the_voxel_size_unknown(tmp_path, unit):
    with h5py.File(h5(tmp_path / "a.h5", raw=example(3, 4, 5)), "a") as file:
        file["raw"].attrs.update({"resolution": (40.0, 8.0, 4.0), "unit": unit})
    assert open_volume(tmp_path / "a.h5").voxel_size_nm is None


def test_a_given_voxel_size_fills_in_what_the_file_does_not_say(tmp_path):
    path = h5(tmp_path / "a.h5", raw=example(3, 4, 5))
    assert open_volume(path, voxel_size_nm=(40, 4, 4)).voxel_size_nm == (40, 4, 4)
    with h5py.File(path, "a") as file:
        file["raw"].attrs["resolution"] = (40.0, 4.0, 4.0)
    assert open_volume(path, voxel_size_nm=(40.0, 4.01, 4.0)).voxel_size_nm == (40.0, 4.0, 4.0)
    with fails("says that its voxels are (40, 4, 4) nm, and voxel_size_nm is (30, 4, 4), correct one"):
        open_volume(path, voxel_size_nm=(30.0, 4.0, 4.0))


def test_units_are_known_by_many_spellings():
    assert nanometres("Nanometers") == nanometres(b"nm") == 1.0
    assert nanometres("µm") == nanometres("microns") == 1000.0
    assert nanometres("mm") == 1e6
    assert nanometres("m") == 1e9
    assert nanometres("") is nanometres(None) is nanometres("parsec") is None


@given(st.lists(st.floats(), max_size=5))
def test_a_voxel_size_is_three_positive_finite_numbers(values):
    valid = len(values) == 3 and all(np.isfinite(value) and value > 0 for value in values)
    assert as_voxel_size(values) == (tuple(values) if valid else None)


@given(st.text(st.sampled_from("tczyxTCZYXq"), max_size=6), st.integers(0, 6))
def test_axes_are_distinct_known_letters_one_for_each_dimension(names, rank):
    valid = len(names) == rank > 0 and set(names.lower()) <= set("tczyx") and len(set(names.lower())) == rank
    assert bool(declared_axes(names, rank=rank)) == valid
    assert declared_axes(list(names), rank=rank) == declared_axes(names, rank=rank)
