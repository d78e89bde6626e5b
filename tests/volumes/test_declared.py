"""What a file says of itself is used or refused: axes, units, calibration, links, filters, codecs."""

from __future__ import annotations

import json
import os
import threading
import time

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from support.volume_files import ZARR_3, example, fails, h5, make_array, read_all, write

from connectomics_zoo.errors import LimitError, MissingPackageError
from connectomics_zoo.volumes import check_mask, check_pair, open_volume
from connectomics_zoo.volumes import tiff_meaning as meaning
from connectomics_zoo.volumes.truth import read_truth

ARRAY = example(3, 4, 5)


def with_attributes(path, array=ARRAY, **attributes):
    with h5py.File(h5(path, raw=array), "a") as file:
        file["raw"].attrs.update(attributes)
    return path


# Axes


@pytest.mark.parametrize(
    "attributes",
    [
        {"axis_names": ["x", "y", "z"]},
        {"axes": "x, y, z"},
        {"axes": "['X', 'Y', 'Z']"},
        {"_ARRAY_DIMENSIONS": ["column", "row", "section"]},
        {"axis_order": "xyz"},
        {"dimension_names": ["width", "height", "depth"]},
    ],
    ids=str,
)
def test_axes_are_known_by_letters_and_words_under_many_attributes(tmp_path, attributes):
    path = with_attributes(tmp_path / "a.h5", ARRAY.T, **attributes, voxel_size=[8, 9, 50], units=["nm"] * 3)
    with open_volume(path) as volume:
        assert volume.voxel_size_nm == (50, 9, 8)
        np.testing.assert_array_equal(volume.read(volume.whole), ARRAY)


def test_funlib_axis_names_of_a_zarr_are_used(tmp_path):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    names = {"axis_names": ["x", "y", "z"], "units": ["nm"] * 3, "voxel_size": [8, 8, 50]}
    make_array(group, "raw", ARRAY.T.copy(), **names)
    assert open_volume(tmp_path / "a.zarr").voxel_size_nm == (50, 8, 8)
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr"), ARRAY)


@pytest.mark.skipif(not ZARR_3, reason="dimension names are of Zarr format 3")
def test_dimension_names_of_zarr_3_are_words_too(tmp_path):
    stored = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(1, 5, 4, 3), dtype="u1", dimension_names=["channel", "x", "y", "z"]
    )
    stored[...] = ARRAY.T[None]
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr")[0], ARRAY)


def test_dimension_labels_of_hdf5_are_used(tmp_path):
    with h5py.File(h5(tmp_path / "a.h5", raw=ARRAY.T), "a") as file:
        for dimension, label in zip(file["raw"].dims, "xyz", strict=True):
            dimension.label = label
    np.testing.assert_array_equal(read_all(tmp_path / "a.h5"), ARRAY)


def test_dimension_scales_of_netcdf_name_the_axes(tmp_path):
    with h5py.File(h5(tmp_path / "a.h5", **{"group/raw": ARRAY.T}), "a") as file:
        for dimension, (name, size) in zip(file["group/raw"].dims, (("x", 5), ("y", 4), ("z", 3)), strict=True):
            file[f"group/{name}"] = np.arange(size)
            file[f"group/{name}"].make_scale(name)
            dimension.attach_scale(file[f"group/{name}"])
    np.testing.assert_array_equal(read_all(f"{tmp_path}/a.h5:group/raw"), ARRAY)


@pytest.mark.parametrize("names", [["q", "y", "x"], ["z", "y", "y"], ["z", "y"], ["", "y", "x"], "zxq"], ids=str)
@pytest.mark.parametrize("attribute", ["axes", "axis_names", "_ARRAY_DIMENSIONS"])
def test_names_of_axes_that_are_not_understood_are_refused(tmp_path, attribute, names):
    with fails(f"a.h5:raw: {attribute} names its 3 axes"):
        open_volume(with_attributes(tmp_path / "a.h5", **{attribute: names}))


@pytest.mark.parametrize("names", [["d0", "d1", "d2"], ["dim_0", "dim_1", "dim_2"], ["", "", ""], []], ids=str)
def test_axes_that_are_merely_numbered_are_not_named(tmp_path, names):
    np.testing.assert_array_equal(read_all(with_attributes(tmp_path / "a.h5", axis_names=names)), ARRAY)


def test_names_that_contradict_each_other_are_refused(tmp_path):
    tags = json.dumps({"axes": [{"key": key} for key in "xyz"]})
    with fails("a.h5:raw: names its axes twice and not the same (axes 'zyx' and axistags 'xyz'), correct one."):
        open_volume(with_attributes(tmp_path / "a.h5", axes="zyx", axistags=tags))


# Units and calibration


@pytest.mark.parametrize("unit", ["um", "µm", "micrometer", "microns"])
@pytest.mark.parametrize("key", ["unit", "units", "resolution_unit"])
def test_the_unit_of_a_resolution_is_used_under_any_of_its_names(tmp_path, key, unit):
    path = with_attributes(tmp_path / "a.h5", resolution=[0.05, 0.008, 0.008], **{key: unit})
    assert open_volume(path).voxel_size_nm == pytest.approx((50, 8, 8))


def test_units_of_channels_are_passed_over(tmp_path):
    path = with_attributes(
        tmp_path / "a.h5", example(2, 3, 4, 5), resolution=[1, 0.05, 0.008, 0.008], units=["", "um", "um", "um"]
    )
    assert open_volume(path).voxel_size_nm == pytest.approx((50, 8, 8))


def test_voxels_smaller_than_an_atom_are_refused(tmp_path):
    path = with_attributes(tmp_path / "a.h5", resolution=[0.05, 0.008, 0.008])
    with fails("a.h5:raw: would have voxels of (0.05, 0.008, 0.008) nm, and none is smaller than 0.1 nm: say the unit"):
        open_volume(path)
    with fails("and none is smaller than 0.1 nm"):
        open_volume(h5(tmp_path / "b.h5", raw=ARRAY), voxel_size_nm=(0.05, 0.008, 0.008))


@pytest.mark.parametrize("edge", [float("nan"), float("inf")])
def test_a_voxel_size_that_is_no_length_is_refused(tmp_path, edge):
    with fails(f"a.h5:raw: would have voxels of (50, {edge:g}, 8) nm, give three lengths in nanometres."):
        open_volume(h5(tmp_path / "a.h5", raw=ARRAY), voxel_size_nm=(50.0, edge, 8.0))


@pytest.mark.parametrize("attributes", [{"scale_factor": 0.1}, {"add_offset": [3]}, {"_Unsigned": "true"}], ids=str)
def test_values_that_an_attribute_changes_are_refused(tmp_path, attributes):
    with fails(f"a.h5:raw: has values that its attribute {next(iter(attributes))} = "):
        open_volume(with_attributes(tmp_path / "a.h5", **attributes))
    neutral = {"scale_factor": 1.0, "add_offset": 0, "_Unsigned": "false"}
    assert open_volume(with_attributes(tmp_path / "b.h5", **neutral)).shape == (3, 4, 5)


# TIFF


def test_bits_of_a_tiff_in_which_0_is_white_are_turned(tmp_path):
    mask = example(3, 20, 21, dtype="bool")
    pages = [Image.fromarray(section) for section in mask]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], tiffinfo={262: 0})
    np.testing.assert_array_equal(read_all(tmp_path / "a.tif"), mask)
    (tmp_path / "slices").mkdir()
    for number, page in enumerate(pages):
        page.save(tmp_path / "slices" / f"{number}.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(read_all(tmp_path / "slices"), mask)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_grey_values_of_a_tiff_in_which_0_is_white_are_turned(tmp_path, compression):
    options = {"photometric": "miniswhite", "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", ARRAY, **options)
    np.testing.assert_array_equal(read_all(tmp_path / "a.tif"), 255 - ARRAY)
    tifffile.imwrite(tmp_path / "b.tif", ARRAY.astype("f4"), **options)
    with fails("b.tif: says that 0 is white (PhotometricInterpretation 0), and float32 may be meant inverted or not"):
        open_volume(tmp_path / "b.tif")


def test_a_mirrored_tiff_is_refused(tmp_path):
    Image.fromarray(ARRAY[0]).save(tmp_path / "a.tif", tiffinfo={274: 4})
    with fails("a.tif: is stored turned or mirrored (TIFF orientation 4), which is not read"):
        open_volume(tmp_path / "a.tif")


def imagej(path, array, **calibration):
    tifffile.imwrite(path, array, imagej=True, metadata={"axes": "ZYX"[-array.ndim :], **calibration})


def test_signed_values_of_imagej_are_signed(tmp_path):
    values = example(3, 4, 5, dtype="int16") - 50
    stored = (values.astype(int) + 32768).astype("u2")
    imagej(tmp_path / "a.tif", stored, cf=0, c0=-32768.0, c1=1.0)
    assert open_volume(tmp_path / "a.tif").dtype == np.dtype("int16")
    np.testing.assert_array_equal(read_all(tmp_path / "a.tif"), values)
    (tmp_path / "slices").mkdir()
    for number, section in enumerate(stored):
        imagej(tmp_path / "slices" / f"{number}.tif", section, cf=0, c0=-32768.0, c1=1.0)
    np.testing.assert_array_equal(read_all(tmp_path / "slices"), values)


@pytest.mark.parametrize("calibration", [{"cf": 0, "c0": 1.0, "c1": 0.5}, {"cf": 3, "c0": 1.0}], ids=str)
def test_other_calibrations_of_imagej_are_refused(tmp_path, calibration):
    imagej(tmp_path / "a.tif", ARRAY.astype("u2"), **calibration)
    with fails("a.tif: has grey values that ImageJ calibrates (function"):
        open_volume(tmp_path / "a.tif")
    imagej(tmp_path / "b.tif", ARRAY.astype("u2"), cf=0, c0=0.0, c1=1.0)
    np.testing.assert_array_equal(read_all(tmp_path / "b.tif"), ARRAY)


def ome_files(folder, array, *, order=None, depth=None):
    """Write an OME-TIFF of one file a section, of which section order[i] is in file i."""
    order = range(len(array)) if order is None else order
    blocks = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="f{file}.ome.tif">urn:uuid:{file:032x}</UUID>'
        "</TiffData>"
        for file, z in enumerate(order)
    )
    height, width = array.shape[1:]
    for file, z in enumerate(order):
        pixels = (
            f'DimensionOrder="XYZCT" Type="uint8" SizeX="{width}" SizeY="{height}" SizeZ="{depth or len(array)}" '
            'SizeC="1" SizeT="1" '
            + " ".join(
                f'PhysicalSize{axis}="{size}" PhysicalSize{axis}Unit="nm"'
                for axis, size in (("Z", 50), ("Y", 8), ("X", 8))
            )
        )
        header = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{file:032x}"><Image ID="Image:0"><Pixels ID="Pixels:0" {pixels}>'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{blocks}</Pixels></Image></OME>'
        )
        tifffile.imwrite(folder / f"f{file}.ome.tif", array[z], description=header, metadata=None)


@pytest.mark.parametrize("place", ["f1.ome.tif", ""])
def test_an_ome_tiff_of_several_files_is_read_in_its_own_order(tmp_path, place):
    ome_files(tmp_path, ARRAY, order=[2, 0, 1])
    with open_volume(tmp_path / place) as volume:
        assert volume.voxel_size_nm == (50, 8, 8)
        np.testing.assert_array_equal(volume.read(volume.whole), ARRAY)


def test_an_ome_tiff_that_lacks_one_of_its_files_is_refused(tmp_path):
    ome_files(tmp_path, ARRAY)
    (tmp_path / "f2.ome.tif").unlink()
    with fails("f0.ome.tif: has sections in f2.ome.tif, and there is no such file in"):
        open_volume(tmp_path / "f0.ome.tif")


def test_an_ome_tiff_that_lacks_sections_is_refused(tmp_path):
    ome_files(tmp_path, ARRAY, depth=4)
    with fails("f0.ome.tif: declares 4 sections, and number 3 is in none of its files, copy it again."):
        open_volume(tmp_path / "f0.ome.tif")


def test_an_ome_tiff_that_declares_more_sections_than_it_can_hold_is_refused(tmp_path):
    ome_files(tmp_path, ARRAY, depth=10**9)
    with fails("f0.ome.tif: declares 1000000000 sections (OME: SizeZ, SizeC and SizeT 1000000000, 1, 1), and its"):
        open_volume(tmp_path / "f0.ome.tif")


def test_a_compressed_strip_that_is_too_large_to_decode_is_refused(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", example(2, 64, 64), compression="zlib")
    tifffile.imwrite(tmp_path / "b.tif", example(2, 64, 64), compression="zlib", rowsperstrip=8)
    monkeypatch.setattr(meaning, "MAX_SEGMENT_BYTES", 1000)
    with pytest.raises(LimitError, match=r"a\.tif: one compressed strip takes 0\.0 GiB to decode, at most"):
        open_volume(tmp_path / "a.tif")
    assert open_volume(tmp_path / "b.tif").shape == (2, 64, 64)


# HDF5


def virtual(path, source, dataset="main", array=ARRAY):
    layout = h5py.VirtualLayout(array.shape, array.dtype)
    layout[:] = h5py.VirtualSource(source, dataset, array.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("raw", layout)


def test_a_virtual_dataset_is_read_where_its_sources_are(tmp_path):
    h5(tmp_path / "there.h5", main=ARRAY)
    virtual(tmp_path / "a.h5", "there.h5")
    np.testing.assert_array_equal(read_all(tmp_path / "a.h5"), ARRAY)


def link(path, source):
    with h5py.File(path, "w") as file:
        file["raw"] = h5py.ExternalLink(source, "/main")


def raw_elsewhere(path, source):
    ARRAY.tofile(path.parent / source)
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", ARRAY.shape, ARRAY.dtype, external=[(str(path.parent / source), 0, ARRAY.nbytes)])


@pytest.mark.parametrize("leads", [virtual, link, raw_elsewhere])
def test_where_the_voxels_of_another_file_lie_is_said_once(tmp_path, caplog, leads):
    h5(tmp_path / "there.h5", main=ARRAY)
    leads(tmp_path / "a.h5", "there.h5")
    for _ in range(2):
        np.testing.assert_array_equal(read_all(tmp_path / "a.h5"), ARRAY)
        read_all(f"{tmp_path}/there.h5") if leads != raw_elsewhere else None
    assert caplog.messages == [
        f"{tmp_path}/a.h5:raw: its voxels lie in {tmp_path}/there.h5, where the links of the file lead."
    ]


@pytest.mark.parametrize("is_absolute", [True, False])
def test_a_virtual_dataset_whose_source_is_gone_is_refused(tmp_path, is_absolute):
    virtual(tmp_path / "a.h5", f"{tmp_path}/gone.h5" if is_absolute else "gone.h5")
    with fails(f"a.h5:raw: its voxels lie in {tmp_path}/gone.h5, and there is no such file, put it back."):
        open_volume(tmp_path / "a.h5")


def test_a_virtual_dataset_whose_source_lacks_the_dataset_is_refused(tmp_path):
    h5(tmp_path / "there.h5", other=ARRAY)
    virtual(tmp_path / "a.h5", "there.h5")
    with fails(f"a.h5:raw: its voxels lie in {tmp_path}/there.h5:main, which that file does not have"):
        open_volume(tmp_path / "a.h5")
    virtual(tmp_path / "there.h5", "gone.h5")
    virtual(tmp_path / "a.h5", "there.h5", "raw")
    with fails(f"a.h5:raw: its voxels lie in {tmp_path}/gone.h5, and there is no such file"):
        open_volume(tmp_path / "a.h5")


@pytest.mark.parametrize("dataset", ["", ":raw"])
def test_an_external_link_is_followed_or_names_what_is_missing(tmp_path, dataset):
    h5(tmp_path / "there.h5", main=ARRAY)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = h5py.ExternalLink("there.h5", "/main")
    np.testing.assert_array_equal(read_all(f"{tmp_path}/a.h5{dataset}"), ARRAY)
    h5(tmp_path / "there.h5", other=ARRAY)
    with fails(f"a.h5:raw: is a link to {tmp_path}/there.h5:/main, which that file does not have, correct the link."):
        open_volume(f"{tmp_path}/a.h5{dataset}")
    (tmp_path / "there.h5").unlink()
    with fails(f"a.h5:raw: its voxels lie in {tmp_path}/there.h5, and there is no such file"):
        open_volume(f"{tmp_path}/a.h5{dataset}")


def test_files_that_link_to_each_other_are_looked_through_once(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        with h5py.File(h5(tmp_path / f"{name}.h5", **{f"of_{name}": ARRAY}), "a") as file:
            file["other"] = h5py.ExternalLink(f"{other}.h5", "/")
    with fails("a.h5: holds 2 arrays (of_a, other/of_b), say which one"):
        open_volume(tmp_path / "a.h5")


def test_a_soft_link_to_nothing_is_named(tmp_path):
    with h5py.File(h5(tmp_path / "a.h5", main=ARRAY), "a") as file:
        file["raw"] = h5py.SoftLink("/gone")
    with fails("a.h5:raw: is a link to /gone, which is not there, correct the link."):
        open_volume(f"{tmp_path}/a.h5:raw")


def external(path, name, *, offset=0):
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", ARRAY.shape, ARRAY.dtype, external=[(str(name), offset, ARRAY.nbytes)])


def test_external_storage_is_read_beside_the_file_alone(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "voxels.bin").write_bytes(ARRAY.tobytes())
    external(tmp_path / "here" / "a.h5", "voxels.bin")
    np.testing.assert_array_equal(read_all(tmp_path / "here" / "a.h5"), ARRAY)
    external(tmp_path / "here" / "b.h5", tmp_path / "voxels.bin")
    with fails(f"b.h5:raw: has its voxels in {tmp_path}/voxels.bin, outside of the folder of its file"):
        open_volume(tmp_path / "here" / "b.h5")


def test_external_storage_that_is_missing_or_short_is_refused(tmp_path):
    external(tmp_path / "a.h5", "voxels.bin")
    with fails(f"a.h5:raw: its voxels lie in {tmp_path}/voxels.bin, and there is no such file"):
        open_volume(tmp_path / "a.h5")
    (tmp_path / "voxels.bin").write_bytes(ARRAY.tobytes()[:-1])
    with fails(f"a.h5:raw: its voxels lie in {tmp_path}/voxels.bin, which ends too early"):
        open_volume(tmp_path / "a.h5")


def test_a_filter_that_is_not_installed_is_named_with_its_package(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=ARRAY, compression="gzip")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("connectomics_zoo.volumes.hdf5_sources._FILTERS", {1: "blosc"})
    text = r"a\.h5:raw: is compressed by blosc \(HDF5 filter 1\), which is not installed, run `pip install hdf5plugin`"
    with pytest.raises(MissingPackageError, match=text):
        open_volume(tmp_path / "a.h5")


def test_a_file_that_is_being_written_says_so(tmp_path):
    path = h5(tmp_path / "a.h5", raw=ARRAY)
    writer = os.fork()
    if not writer:  # locks are between processes
        with h5py.File(path, "r+"):
            (tmp_path / "open").touch()
            while not (tmp_path / "done").exists():
                time.sleep(0.01)
        os._exit(0)
    while not (tmp_path / "open").exists():
        time.sleep(0.01)
    try:
        with fails("a.h5: another program has it open for writing, close it there, or read a copy"):
            open_volume(path)
    finally:
        (tmp_path / "done").touch()
        os.waitpid(writer, 0)


# Zarr


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def zarr_2(path):
    options = {"zarr_format": 2} if ZARR_3 else {}
    stored = zarr.open_array(str(path), mode="w", shape=(3, 4, 5), dtype="u1", chunks=(3, 4, 5), **options)
    stored[...] = ARRAY
    return path


@pytest.mark.parametrize("codec", ["pickle", "json2", "msgpack2", "vlen-bytes", "imagecodecs_jpeg", None, 7], ids=str)
@pytest.mark.parametrize("role", ["compressor", "filters"])
def test_a_zarr_codec_off_the_list_is_refused_before_the_store_is_opened(tmp_path, monkeypatch, role, codec):
    item = {"id": codec}
    edit(
        zarr_2(tmp_path / "a.zarr") / ".zarray", lambda node: node.update({role: [item] if role == "filters" else item})
    )
    monkeypatch.setattr(zarr, "open_array", None)
    with fails(f"a.zarr: is stored by the codec {codec!r}, which is not read, since codecs can run code"):
        open_volume(tmp_path / "a.zarr")


@pytest.mark.skipif(not ZARR_3, reason="codecs by name are of Zarr format 3")
@pytest.mark.parametrize("is_inside", [True, False])
def test_a_codec_of_zarr_3_off_the_list_is_refused(tmp_path, is_inside):
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(4, 4, 4), dtype="u1", chunks=(2, 2, 2), shards=(4, 4, 4))

    def change(node):
        codecs = node["codecs"][0]["configuration"]["codecs"] if is_inside else node["codecs"]
        codecs.append({"name": "numcodecs.pickle", "configuration": {}})

    assert open_volume(tmp_path / "a.zarr").shape == (4, 4, 4)
    edit(tmp_path / "a.zarr" / "zarr.json", change)
    with fails("a.zarr: is stored by the codec 'numcodecs.pickle', which is not read"):
        open_volume(tmp_path / "a.zarr")


@pytest.mark.parametrize("links", [["self"], ["a", "b", "c", "d"]], ids=str)
def test_a_zarr_group_that_links_to_itself_is_looked_through_once(tmp_path, links):
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    zarr_2(tmp_path / "a.zarr" / "raw")
    for name in links:
        (tmp_path / "a.zarr" / name).symlink_to(tmp_path / "a.zarr", target_is_directory=True)
    assert open_volume(tmp_path / "a.zarr").location.endswith("a.zarr:raw")


def test_an_array_behind_a_link_is_found(tmp_path):
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    zarr_2(tmp_path / "raw.zarr")
    (tmp_path / "a.zarr" / "raw").symlink_to(tmp_path / "raw.zarr", target_is_directory=True)
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr"), ARRAY)


def release(path):
    """Let who reads a pipe go on, so that a test which hangs fails."""
    with path.open("wb"):
        pass


NO_FILES = {
    "pipe": lambda path: (os.mkfifo(path), threading.Thread(target=release, args=[path], daemon=True).start()),
    "folder": lambda path: path.mkdir(),
    "link": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
@pytest.mark.parametrize("name", ["metadata", "chunk"])
@pytest.mark.parametrize("kind", ["2", "written", "sharded"])
def test_what_is_no_file_in_a_zarr_is_refused_and_no_chunk_of_zeros(tmp_path, kind, name, make):
    if kind == "sharded" and not ZARR_3:
        pytest.skip("shards are of Zarr format 3")
    if kind == "2":
        zarr_2(tmp_path / "a.zarr")
    elif kind == "written":
        write(tmp_path / "a.zarr", ARRAY)
    else:
        made = zarr.create_array(
            str(tmp_path / "a.zarr"), shape=(4, 4, 4), dtype="u1", chunks=(2, 2, 2), shards=(4,) * 3
        )
        made[...] = 1
    files = [path for path in (tmp_path / "a.zarr").rglob("*") if path.is_file()]
    is_metadata = [path.name in ("zarr.json", ".zarray") for path in files]
    path = files[is_metadata.index(name == "metadata")]
    path.unlink()
    make(path)
    with fails(f"{path}: is no regular file but a pipe, a device, a folder or a link that leads nowhere"):
        read_all(tmp_path / "a.zarr")


# Places


@pytest.mark.parametrize("name", ["a.h5", "a.tif"])
def test_a_pipe_in_place_of_a_file_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with fails(f"{name}: is no regular file but a pipe or a device, save the volume in a file first."):
        open_volume(tmp_path / name)


def test_a_pipe_among_sections_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "1.tif", ARRAY[0])
    os.mkfifo(tmp_path / "2.tif")
    with fails("2.tif: is no regular file, and each section must be one, remove it from the folder."):
        open_volume(tmp_path)


def test_a_folder_of_other_pictures_says_what_it_holds(tmp_path):
    Image.fromarray(ARRAY[0]).save(tmp_path / "1.bmp")
    with fails("the folder holds no .tif or .png file (but .bmp), check the path."):
        open_volume(tmp_path)


# Labels


def test_labels_and_masks_with_one_channel_lose_it(tmp_path):
    image = open_volume(h5(tmp_path / "image.h5", raw=ARRAY))
    label = open_volume(with_attributes(tmp_path / "label.h5", ARRAY[..., None], axes="zyxc"))
    check_pair(image, label)
    check_mask(image, label)
    truth = read_truth(label, label, label.whole, unlabelled=None)
    np.testing.assert_array_equal(truth.labels, ARRAY)
    np.testing.assert_array_equal(truth.annotated, ARRAY != 0)
