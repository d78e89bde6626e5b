"""TIFF stacks of any dialect and folders of slices are read."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import tifffile
from support.volume_files import example, fails, read_all

from connectomics_zoo.errors import MissingPackageError
from connectomics_zoo.volumes import Box, open_volume

# TIFF dialects


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metadata": None},
        {"imagej": True},
        {"bigtiff": True, "byteorder": ">"},
        {"compression": "zlib", "predictor": True},
        {"compression": "zlib", "tile": (16, 16)},
        {"tile": (16, 16)},
        {"rowsperstrip": 3},
        {"ome": True},
        {"metadata": {"axes": "TYX"}},
        {"truncate": True},
    ],
    ids=str,
)
def test_tiff_stacks_of_any_dialect_are_read(tmp_path, options):
    array = example(5, 20, 21, dtype="uint16")
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    with open_volume(tmp_path / "a.tif") as volume:
        assert (volume.shape, volume.channels, volume.dtype) == ((5, 20, 21), None, np.dtype("uint16"))
        np.testing.assert_array_equal(volume.read(Box((1, 5, 2), (4, 19, 18))), array[1:4, 5:19, 2:18])


def test_bits_are_read_as_bool(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", example(5, 20, 21, dtype="bool"))
    with open_volume(tmp_path / "a.tif") as volume:
        assert volume.dtype == np.dtype(bool)
        np.testing.assert_array_equal(volume.read(volume.whole), example(5, 20, 21, dtype="bool"))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_channels_of_an_imagej_hyperstack_come_first(tmp_path, compression):
    array = example(2, 3, 4, 5)
    tifffile.imwrite(
        tmp_path / "a.tif", array.swapaxes(0, 1), imagej=True, metadata={"axes": "ZCYX"}, compression=compression
    )
    with open_volume(tmp_path / "a.tif") as volume:
        assert (volume.shape, volume.channels) == ((3, 4, 5), 2)
        np.testing.assert_array_equal(volume.read(Box((1, 1, 2), (3, 4, 4))), array[:, 1:3, 1:4, 2:4])


def test_sections_appended_one_by_one_are_a_stack(tmp_path):
    array = example(3, 4, 5)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for section in array:
            writer.write(section)
    np.testing.assert_array_equal(read_all(tmp_path / "a.tif"), array)


def test_image_data_that_end_early_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", example(5, 32, 32), tile=(16, 16))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        page = file.pages[0]
        counts = list(page.databytecounts)
        page.tags["TileByteCounts"].overwrite([*counts[:-1], 60_000])
    with fails("a.tif: ends in the middle of an image, copy it again."):
        read_all(tmp_path / "a.tif")


def test_a_tiff_with_several_images_is_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(example(3, 4, 5))
        writer.write(example(3, 6, 7))
    with fails("a.tif: holds 2 images (shapes (3, 4, 5), (3, 6, 7)), save the volume alone."):
        open_volume(tmp_path / "a.tif")


def test_a_colour_tiff_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", example(2, 4, 5, 3), photometric="rgb")
    with fails("a.tif: is a colour or blocked TIFF with axes 'QYXS'"):
        open_volume(tmp_path / "a.tif")


def test_a_time_series_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", example(2, 5, 6, 7), metadata={"axes": "TZYX"})
    with fails("a.tif: is a time series (axes 'TZYX', shape (2, 5, 6, 7)), save one time point alone."):
        open_volume(tmp_path / "a.tif")


def test_a_tiff_has_no_datasets(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", example(3, 4, 5))
    with fails("a.tif: a TIFF has no datasets, leave ':raw' out."):
        open_volume(f"{tmp_path}/a.tif:raw")


@pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is not None, reason="imagecodecs decodes it")
def test_a_codec_that_is_not_installed_is_named_when_opening(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", example(3, 4, 5), metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        for page in file.pages:
            page.aspage().tags["Compression"].overwrite(5)
    with pytest.raises(MissingPackageError, match=r"its LZW compression needs another package, run `pip install"):
        open_volume(tmp_path / "a.tif")


# Folders of slices


def test_slices_are_in_natural_order(tmp_path):
    for number in (10, 2, 1):
        tifffile.imwrite(tmp_path / f"slice_{number}.tif", np.full((4, 5), number, np.uint8))
    (tmp_path / "notes.txt").write_text("not a slice")
    (tmp_path / "._slice_1.tif").write_text("macOS leaves these")
    with open_volume(f"{tmp_path}/") as volume:
        assert volume.shape == (3, 4, 5)
        assert volume.read(volume.whole)[:, 0, 0].tolist() == [1, 2, 10]


def test_a_folder_without_slices_is_refused(tmp_path):
    with fails("the folder holds no .tif or .png file"):
        open_volume(tmp_path)


def test_slices_must_agree(tmp_path):
    tifffile.imwrite(tmp_path / "1.tif", example(4, 5))
    tifffile.imwrite(tmp_path / "2.tif", example(4, 6))
    with fails("2.tif: is uint8 of shape (4, 6), and 1.tif is uint8 of shape (4, 5)"):
        read_all(tmp_path)


def test_each_slice_must_be_one_section(tmp_path):
    tifffile.imwrite(tmp_path / "1.tif", example(5, 6, 7))
    with fails("1.tif: holds 5 pages with axes 'YX', but in a folder of slices each file must be one grey"):
        open_volume(tmp_path)
