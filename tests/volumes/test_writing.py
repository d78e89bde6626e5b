"""Volumes appear complete or not at all, pairs must fit, and impossible requests are refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr
from support.volume_files import example, fails, h5, make_array, read_all, refuses, write

from connectomics_zoo.errors import OutputError
from connectomics_zoo.volumes import Box, StoredPrediction, check_pair, create_volume, open_volume, zarr_writing

# Pairs


def pair(tmp_path, image, label, *, image_nm=None, label_nm=None):
    write(tmp_path / "image.h5", image, voxel_size_nm=image_nm)
    write(tmp_path / "label.h5", label, voxel_size_nm=label_nm)
    return open_volume(tmp_path / "image.h5"), open_volume(tmp_path / "label.h5")


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64"])
@pytest.mark.parametrize("label_nm", [None, (40.2, 4.0, 4.0)])
def test_integer_and_bool_labels_fit_an_image(tmp_path, dtype, label_nm):
    image, label = example(3, 4, 5, dtype="float32"), example(3, 4, 5, dtype=dtype)
    check_pair(*pair(tmp_path, image, label, image_nm=(40, 4, 4), label_nm=label_nm))


def test_labels_of_another_shape_are_refused(tmp_path):
    with fails("image and label have the shapes (3, 4, 5) and (3, 4, 6), and they must be equal."):
        check_pair(*pair(tmp_path, example(3, 4, 5), example(3, 4, 6)))


def test_labels_of_another_voxel_size_are_refused(tmp_path):
    volumes = pair(tmp_path, example(3, 4, 5), example(3, 4, 5), image_nm=(40, 4, 4), label_nm=(41, 4, 4))
    with fails("image and label say that their voxels are (40, 4, 4) and (41, 4, 4) nm, and they must be equal"):
        check_pair(*volumes)


def test_float_labels_are_refused_unless_they_are_continuous(tmp_path):
    volumes = pair(tmp_path, example(3, 4, 5), example(3, 4, 5, dtype="float32"))
    with fails("label.h5:main: the label is float32, and must hold whole numbers or bool, convert it."):
        check_pair(*volumes)
    check_pair(*volumes, continuous=True)


def test_a_label_with_channels_is_refused(tmp_path):
    with fails("the label has 2 channels, and must have none, save one of them alone as (z, y, x)."):
        check_pair(*pair(tmp_path, example(3, 4, 5), example(2, 3, 4, 5)))


def test_a_bool_image_is_refused(tmp_path):
    with fails("image.h5:main: the image is bool, and must hold grey values, are the two swapped?"):
        check_pair(*pair(tmp_path, example(3, 4, 5, dtype="bool"), example(3, 4, 5)))


# Writing


def create(location, **changes):
    request = {"shape": (3, 4, 5), "dtype": "uint8", "channels": None, "voxel_size_nm": None}
    return create_volume(location, **{**request, **changes})


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_a_volume_appears_only_when_it_is_complete(tmp_path, name):
    with create(tmp_path / name) as volume:
        volume.write(volume.whole, example(3, 4, 5))
        assert not (tmp_path / name).exists()
        (partial,) = tmp_path.iterdir()
        assert partial.name.startswith(f".{name}.partial-{os.getpid()}-")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("content", "dtype"), [("label", "float32"), ("instances", "float32"), ("probability", "uint16"), ("mask", "uint8")]
)
def test_a_content_that_the_data_type_cannot_hold_is_refused(tmp_path, content, dtype):
    with refuses(f"a.h5: content '{content}' is not possible in {dtype}, give 'probability' for uint8 or floats"):
        create(tmp_path / "a.h5", stored=StoredPrediction(content), dtype=dtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_an_error_leaves_nothing_behind(tmp_path, name, error):
    def interrupted():
        with create(tmp_path / name) as volume:
            volume.write(volume.whole, example(3, 4, 5))
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_an_error_while_overwriting_keeps_the_old_volume(tmp_path, name):
    write(tmp_path / name, example(3, 4, 5))

    def interrupted():
        with create(tmp_path / name, overwrite=True):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    np.testing.assert_array_equal(read_all(tmp_path / name), example(3, 4, 5))


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_an_existing_volume_is_replaced_only_when_asked(tmp_path, name):
    write(tmp_path / name, example(3, 4, 5))
    with refuses(f"{name}: exists already, choose another name or overwrite it (--overwrite, overwrite=True)."):
        create(tmp_path / name)
    write(tmp_path / name, example(2, 2, 2), overwrite=True)
    assert open_volume(tmp_path / name).shape == (2, 2, 2)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_a_target_that_appears_meanwhile_is_not_overwritten_and_the_finished_volume_is_kept(tmp_path, name):
    path = tmp_path / name
    (tmp_path / f"{path.stem}.finished-1{path.suffix}").write_text("of the last time")
    kept = tmp_path / f"{path.stem}.finished-2{path.suffix}"
    message = f"{name}: appeared while it was being written and stays as it is, the finished one is {kept}: rename"
    with refuses(message), create(path) as volume:
        volume.write(volume.whole, example(3, 4, 5))
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"
    np.testing.assert_array_equal(read_all(kept), example(3, 4, 5))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_zarr_that_a_killed_process_was_replacing_is_there_again_and_guarded(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    write(tmp_path / "a.zarr:raw", example(3, 4, 5))
    (tmp_path / "a.zarr").rename(tmp_path / f".a.zarr.old-{process.pid}")
    with refuses("a.zarr: holds raw/0, which would be lost"):
        create(tmp_path / "a.zarr", overwrite=True)
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr:raw"), example(3, 4, 5))


def test_a_dataset_is_never_added_to_an_existing_file(tmp_path):
    h5(tmp_path / "a.h5", raw=example(3, 4, 5))
    with refuses("a.h5: exists already"):
        create(f"{tmp_path}/a.h5:prediction")


@pytest.mark.parametrize("name", ["a.h5", "a.zarr"])
def test_overwriting_never_loses_another_array(tmp_path, name):
    if name == "a.h5":
        h5(tmp_path / name, main=example(3, 4, 5), raw=example(3, 4, 5))
    else:
        group = zarr.open_group(str(tmp_path / name), mode="w")
        make_array(group, "0", example(3, 4, 5))
        make_array(group, "raw", example(3, 4, 5))
    with refuses(", raw, which would be lost, choose another name."):
        create(tmp_path / name, overwrite=True)
    assert open_volume(f"{tmp_path}/{name}:raw").shape == (3, 4, 5)


def test_overwriting_refuses_a_folder_that_is_no_volume(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.txt").write_text("years")
    with refuses("a.zarr: holds no volume, which would be lost"):
        create(tmp_path / "a.zarr", overwrite=True)
    (tmp_path / "a.tif").mkdir()
    with refuses("a.tif: is a folder, choose another name."):
        create(tmp_path / "a.tif", overwrite=True)


def test_a_missing_folder_is_refused(tmp_path):
    with refuses("there is no folder"):
        create(tmp_path / "no" / "a.h5")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_a_read_only_folder_is_refused(tmp_path, name):
    tmp_path.chmod(0o500)
    try:
        with refuses("cannot be written, choose another one."):
            create(tmp_path / name)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux's /proc, where nobody may write")
@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_a_folder_that_takes_no_file_is_refused(name):
    with refuses("cannot be written"):
        create(f"/proc/self/{name}")


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("a.png", {}, "the suffix '.png' cannot be written, use .h5, .hdf5, .hdf, .tif, .tiff, .zarr."),
        ("a", {}, "the suffix '' cannot be written"),
        ("a.tif:raw", {}, "a TIFF has no datasets, leave ':raw' out."),
        ("a.tif", {"chunks": (1, 4, 5)}, "a TIFF is written without chunks, leave (1, 4, 5) out."),
        ("a.h5", {"dtype": "complex64"}, "the data type complex64 cannot be written"),
        ("a.h5", {"shape": (0, 4, 5)}, "shape (0, 4, 5) is not possible, give three whole numbers from 1 up."),
        ("a.h5", {"shape": (4, 5)}, "shape (4, 5) is not possible"),
        ("a.h5", {"chunks": (0, 1, 1)}, "chunks (0, 1, 1) is not possible"),
        ("a.h5", {"channels": 0}, "channels 0 is not possible, give None or a number from 1 up."),
        ("a.h5", {"voxel_size_nm": (4, 4, 0)}, "voxel_size_nm (4, 4, 0) is not possible, give three positive"),
    ],
)
def test_an_impossible_request_is_refused_before_anything_is_written(tmp_path, name, changes, text):
    with refuses(text):
        create(f"{tmp_path}/{name}", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_a_block_must_fit_shape_and_data_type(tmp_path, name):
    with pytest.raises(OutputError, match=r"has shape \(3, 4, 4\), the region \(3, 4, 5\)"), \
            create(tmp_path / name) as volume:  # fmt: skip
        volume.write(volume.whole, example(3, 4, 4))
    with pytest.raises(OutputError, match="the block is float32, which uint8 cannot hold, convert it first"), \
            create(tmp_path / name) as volume:  # fmt: skip
        volume.write(volume.whole, example(3, 4, 5, dtype="float32"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_an_error_before_any_work(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with refuses("a.tif: cannot be written (No space left on device), give a writable place."):
        create(tmp_path / "a.tif")
    assert list(tmp_path.iterdir()) == []


def test_discarding_leaves_nothing(tmp_path):
    volume = create(tmp_path / "a.h5")
    volume.discard()
    volume.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("../shared/data/vnc").is_dir(), reason="needs the VNC volume in ../shared/data")
def test_the_vnc_volume_opens():
    with open_volume("vnc_stack1_z00-15.h5:raw", root=Path("../shared/data/vnc")) as volume:
        assert volume.shape == (16, 1024, 1024)
        assert volume.voxel_size_nm == pytest.approx((50, 4.6, 4.6))
        assert volume.read(Box.of_shape((1, 8, 8))).shape == (1, 8, 8)


def test_what_lies_in_a_chunk_already_is_not_lost_where_the_rest_is_not_taken_at_once(tmp_path, monkeypatch):
    store_errors, left = zarr_writing.store_errors, [1]

    @contextmanager
    def fail_once(place):
        with store_errors(place):
            if left[0]:
                left[0] -= 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield

    with create_volume(
        tmp_path / "v.zarr", shape=(4, 8, 8), dtype="uint8", channels=None, voxel_size_nm=None
    ) as volume:
        volume.write(Box((0, 0, 0), (2, 8, 8)), np.full((2, 8, 8), 9, np.uint8))
        with monkeypatch.context() as failing:
            failing.setattr(zarr_writing, "store_errors", fail_once)
            with pytest.raises(OutputError, match="No space left on device"):
                volume.write(Box((2, 0, 0), (4, 8, 8)), np.full((2, 8, 8), 5, np.uint8))
    np.testing.assert_array_equal(np.unique(read_all(tmp_path / "v.zarr")[:2]), 9)
