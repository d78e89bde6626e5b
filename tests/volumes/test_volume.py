"""Volumes round-trip, read only what they must, work in workers, and bad files get one sentence."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import re

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from support.volume_files import ZARR_3, example, fails, h5, make_array, peak_bytes, read_all, write

from connectomics_zoo.errors import LimitError, MissingPackageError, VolumeError
from connectomics_zoo.volumes import Box, StoredPrediction, create_volume, open_volume

DTYPES = "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64".split()  # noqa: SIM905
VOXEL_SIZE_NM = (40.0, 4.5, 4.25)

# Round trips


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 6, 7), (3, 5, 6, 7), (1, 5, 6, 7), (3, 1, 6, 7)])
@pytest.mark.parametrize("name", ["a.h5", "a.hdf5:group/raw", "a.tif", "a.zarr", "a.zarr:labels/mito"])
def test_a_written_volume_reads_back_the_same(tmp_path, name, shape, dtype):
    array = example(*shape, dtype=dtype)
    location = write(f"{tmp_path}/{name}", array, voxel_size_nm=VOXEL_SIZE_NM)
    with open_volume(location) as volume:
        assert volume.dtype == np.dtype(dtype)
        assert volume.shape == shape[-3:]
        assert volume.channels == (shape[0] if len(shape) == 4 else None)
        assert volume.voxel_size_nm == pytest.approx(VOXEL_SIZE_NM)
        block = volume.read(volume.whole)
    assert block.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(block, array)


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_an_unknown_voxel_size_stays_unknown(tmp_path, name):
    assert open_volume(write(f"{tmp_path}/{name}", example(3, 4, 5))).voxel_size_nm is None


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr", "a.zarr:group"])
@pytest.mark.parametrize(
    ("content", "dtype"),
    [
        ("probability", "uint8"),
        ("probability", "float16"),
        ("label", "uint8"),
        ("label", "bool"),
        ("instances", "uint32"),
        (None, "uint8"),
    ],
)
def test_a_volume_says_what_it_holds(tmp_path, name, content, dtype):
    array = example(3, 4, 5, dtype=dtype)
    place = write(f"{tmp_path}/{name}", array, stored=StoredPrediction(content), voxel_size_nm=VOXEL_SIZE_NM)
    with open_volume(place) as volume:
        assert volume.content == content
        assert volume.voxel_size_nm == pytest.approx(VOXEL_SIZE_NM)
        np.testing.assert_array_equal(volume.read(volume.whole), array)


@pytest.mark.parametrize("content", ["anything", "label", 7, [1.0, 2.0]])
def test_a_content_that_is_unknown_or_impossible_stays_unknown(tmp_path, content):
    h5(tmp_path / "a.h5", main=example(3, 4, 5, dtype="float32"))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["main"].attrs["content"] = content
    assert open_volume(tmp_path / "a.h5").content is None


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_blocks_may_be_written_in_any_order(tmp_path, name):
    array = example(2, 9, 10, 11, dtype="float32")
    location = f"{tmp_path}/{name}"
    with create_volume(
        location, shape=(9, 10, 11), dtype="float32", channels=2, voxel_size_nm=None,
        chunks=None if name == "a.tif" else (4, 4, 4),
    ) as volume:  # fmt: skip
        for z in (6, 0, 3):
            for y in (5, 0):
                volume.write(Box.of_shape((3, 5, 11), start=(z, y, 0)), array[:, z : z + 3, y : y + 5])
    np.testing.assert_array_equal(read_all(location), array)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["h5", "tif", "deflate", "tiles", "slices", "zarr"])
def test_any_region_is_what_numpy_slicing_gives(tmp_path_factory, kind, data):
    array = example(7, 19, 23, dtype="uint16")
    folder = tmp_path_factory.getbasetemp() / f"regions_{kind}"
    location = folder / {"h5": "a.h5", "zarr": "a.zarr", "slices": ""}.get(kind, "a.tif")
    if not folder.exists():
        folder.mkdir()
        if kind == "slices":
            for number, section in enumerate(array):
                tifffile.imwrite(folder / f"s{number}.tif", section, compression="zlib", rowsperstrip=4)
        elif kind == "deflate":
            tifffile.imwrite(location, array, compression="zlib", predictor=True, rowsperstrip=4)
        elif kind == "tiles":
            tifffile.imwrite(location, array, tile=(16, 16), byteorder=">")
        else:
            write(location, array, **({} if kind == "tif" else {"chunks": (3, 8, 8)}))
    ranges = []
    for size in array.shape:
        start = data.draw(st.integers(0, size - 1))
        ranges.append((start, data.draw(st.integers(start + 1, size))))
    box = Box.of_ranges(ranges)
    with open_volume(location) as volume:
        np.testing.assert_array_equal(volume.read(box), array[box.slices])


# Only the region is read


def corrupt(path, *, offset, count):
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xff" * count)


def test_hdf5_reads_no_other_chunk(tmp_path):
    array = example(8, 16, 16)
    location = write(tmp_path / "a.h5", array, chunks=(4, 16, 16))
    with h5py.File(location) as file:
        chunk = next(
            file["main"].id.get_chunk_info(number)
            for number in range(2)
            if file["main"].id.get_chunk_info(number).chunk_offset == (4, 0, 0)
        )
    corrupt(location, offset=chunk.byte_offset, count=chunk.size)
    with open_volume(location) as volume:
        np.testing.assert_array_equal(volume.read(volume.whole.replace(z=(0, 4))), array[:4])
        with fails("a.h5:main: cannot be read as HDF5"):
            volume.read(volume.whole.replace(z=(3, 5)))


def test_zarr_reads_no_other_chunk(tmp_path):
    array = example(8, 16, 16)
    location = write(tmp_path / "a.zarr", array, chunks=(4, 16, 16))
    second = next(path for path in location.rglob("1/0/0") if path.is_file())
    corrupt(second, offset=0, count=second.stat().st_size)
    with open_volume(location) as volume:
        np.testing.assert_array_equal(volume.read(volume.whole.replace(z=(0, 4))), array[:4])
        with fails("a.zarr: cannot be read as Zarr"):
            volume.read(volume.whole.replace(z=(3, 5)))


def test_compressed_tiff_reads_no_other_page_and_no_other_strip(tmp_path):
    array = example(8, 16, 16)
    tifffile.imwrite(tmp_path / "a.tif", array, compression="zlib", rowsperstrip=8)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        strips = [(file.pages[7], 0), (file.pages[0], 1)]
        spans = [(page.dataoffsets[strip], page.databytecounts[strip]) for page, strip in strips]
    for offset, count in spans:
        corrupt(tmp_path / "a.tif", offset=offset, count=count)
    with open_volume(tmp_path / "a.tif") as volume:
        np.testing.assert_array_equal(volume.read(volume.whole.replace(z=(1, 7))), array[1:7])
        np.testing.assert_array_equal(volume.read(volume.whole.replace(z=(0, 7), y=(0, 8))), array[:7, :8])
        for rows in [(7, 8), (0, 1)]:
            with fails("a.tif: cannot be read as TIFF"):
                volume.read(volume.whole.replace(z=rows))


def test_a_folder_reads_no_other_file(tmp_path):
    for number in range(3):
        tifffile.imwrite(tmp_path / f"{number}.tif", example(4, 5) + np.uint8(number))
    volume = open_volume(tmp_path)
    (tmp_path / "2.tif").write_bytes(b"no TIFF")
    np.testing.assert_array_equal(volume.read(volume.whole.replace(z=(1, 2)))[0], example(4, 5) + 1)
    with fails("2.tif: is no TIFF file, or its beginning is damaged"):
        volume.read(volume.whole)


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_writing_and_reading_a_region_never_holds_the_volume(tmp_path, name):
    location = tmp_path / name
    box = Box.of_shape((8, 64, 64))

    def work():
        options = {} if name == "a.tif" else {"chunks": (8, 64, 64)}
        with create_volume(
            location, shape=(128, 512, 512), dtype="uint8", channels=None, voxel_size_nm=None, **options
        ) as volume:
            volume.write(box, np.ones((8, 64, 64), np.uint8))
        with open_volume(location) as volume:
            assert volume.read(box).all()

    assert peak_bytes(work) < 128 * 512 * 512 / 8


def test_a_memory_mapped_tiff_is_not_loaded(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", example(64, 256, 256))
    with open_volume(tmp_path / "a.tif") as volume:
        assert peak_bytes(lambda: volume.read(Box.of_shape((2, 9, 9)))) < 100_000


# Processes


def read_in_process(volume, queue):
    queue.put(volume.read(volume.whole.replace(z=(1, 3))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_a_volume_in_use_works_in_another_process(tmp_path, name, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    array = example(4, 5, 6)
    volume = open_volume(write(tmp_path / name, array))
    volume.read(volume.whole)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=read_in_process, args=(volume, queue))
    process.start()
    block = queue.get(timeout=60)
    process.join(timeout=60)
    assert process.exitcode == 0
    np.testing.assert_array_equal(block, array[1:3])
    np.testing.assert_array_equal(volume.read(volume.whole), array)


def test_a_process_never_reads_through_the_handle_of_another_one(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", example(5, 50, 60), compression="zlib")
    volume = open_volume(tmp_path / "a.tif")
    inherited = volume._array
    monkeypatch.setattr(os, "getpid", lambda: -1)
    np.testing.assert_array_equal(volume.read(volume.whole), example(5, 50, 60))
    assert volume._array is not inherited


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_a_pickled_volume_holds_no_data_and_no_handle(tmp_path, name):
    volume = open_volume(write(tmp_path / name, example(4, 50, 60), voxel_size_nm=VOXEL_SIZE_NM))
    content = pickle.dumps(volume)
    volume.close()
    assert len(content) < 2000
    copy = pickle.loads(content)
    assert (copy.location, copy.shape, copy.voxel_size_nm) == (
        volume.location, volume.shape, volume.voxel_size_nm
    )  # fmt: skip
    np.testing.assert_array_equal(copy.read(copy.whole), example(4, 50, 60))


def test_a_closed_volume_opens_again_when_it_is_read(tmp_path):
    with open_volume(write(tmp_path / "a.h5", example(4, 5, 6))) as volume:
        pass
    assert volume.read(volume.whole).shape == (4, 5, 6)


# Bad input


def test_a_missing_file_gets_the_nearest_names(tmp_path):
    h5(tmp_path / "volume_a.h5")
    with fails("volume_b.h5: there is no such file or folder (did you mean 'volume_a.h5'?), check the path."):
        open_volume(f"{tmp_path}/volume_b.h5:raw")
    with fails("there is no such file or folder, and no folder"):
        open_volume(f"{tmp_path}/no/volume_b.h5:raw")


def test_an_unknown_suffix_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with fails("a.png: volumes with the suffix '.png' are not known, give file.h5:dataset"):
        open_volume(tmp_path / "a.png")


def test_a_packed_zarr_is_refused(tmp_path):
    (tmp_path / "a.zarr").write_bytes(b"")
    with fails("a.zarr: is a file, and a Zarr volume is a folder, so unpack it first."):
        open_volume(tmp_path / "a.zarr")


@pytest.mark.parametrize("shape", [(5,), (4, 5), (1, 2, 3, 4, 5)])
def test_a_wrong_rank_is_refused(tmp_path, shape):
    h5(tmp_path / "a.h5", raw=example(*shape))
    make_array(zarr.open_group(str(tmp_path / "a.zarr"), mode="w"), "raw", example(*shape))
    names = ["a.h5", "a.zarr"]
    if len(shape) > 1:
        tifffile.imwrite(tmp_path / "a.tif", example(*shape), photometric="minisblack")
        names.append("a.tif")
    for name in names:
        with fails(f"has {len(shape)} dimensions (shape"):
            open_volume(tmp_path / name)


def test_axes_without_z_are_refused(tmp_path):
    with h5py.File(h5(tmp_path / "a.h5", raw=example(3, 4, 5)), "a") as file:
        file["raw"].attrs["axes"] = "cyx"
    with fails("a.h5:raw: has the axes 'cyx' (shape (3, 4, 5)), a volume needs z, y and x."):
        open_volume(tmp_path / "a.h5")


def test_more_than_one_time_point_is_refused(tmp_path):
    with h5py.File(h5(tmp_path / "a.h5", raw=example(2, 3, 4, 5)), "a") as file:
        file["raw"].attrs["axes"] = "tzyx"
    with fails("a.h5:raw: is a time series (axes 'tzyx', shape (2, 3, 4, 5)), save one time point alone."):
        open_volume(tmp_path / "a.h5")


def test_an_empty_array_is_refused(tmp_path):
    with fails("a.h5:raw: is empty (shape (0, 4, 5))"):
        open_volume(h5(tmp_path / "a.h5", raw=np.zeros((0, 4, 5))))


@pytest.mark.parametrize("dtype", ["complex64", "S3", [("a", "u1"), ("b", "u2")]])
def test_an_unsupported_data_type_is_refused(tmp_path, dtype):
    with fails("a volume may have bool, whole numbers of 8 to 64 bits, or floats of 16 to 64 bits."):
        open_volume(h5(tmp_path / "a.h5", raw=np.zeros((3, 4, 5), dtype)))
    if dtype == "complex64":
        make_array(zarr.open_group(str(tmp_path / "a.zarr"), mode="w"), "raw", np.zeros((3, 4, 5), dtype))
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6, 7), dtype))
        for name in ("a.zarr", "a.tif"):
            with fails("has the data type complex64"):
                open_volume(tmp_path / name)


@pytest.mark.parametrize("name", ["a.h5", "a.tif"])
def test_a_file_that_is_something_else_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"garbage" * 50)
    with fails(f"{name}: is no {'HDF5' if name == 'a.h5' else 'TIFF'} file, or its beginning is damaged, check what"):
        open_volume(tmp_path / name)


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "folder/0.tif", "a.zarr/zarr.json", "a.zarr/.zarray"])
def test_an_empty_file_says_so(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with fails(f"{path}: is empty (0 bytes), copy or write it again."):
        open_volume(path if path.parent == tmp_path else path.parent)


@pytest.mark.skipif(not ZARR_3, reason="shards are of Zarr format 3")
def test_an_empty_chunk_or_shard_is_not_taken_for_zeros(tmp_path):
    for shards in [None, (4, 4, 4)]:
        store = tmp_path / f"{shards is None}.zarr"
        zarr.create_array(str(store), shape=(4, 4, 4), dtype="u1", chunks=(2, 2, 2), shards=shards)[...] = 1
        chunk = store / "c" / "0" / "0" / "0"
        chunk.write_bytes(b"")
        with fails(f"{chunk}: is empty (0 bytes), copy or write it again."):
            read_all(store)


def test_a_disk_that_fails_is_not_a_damaged_file(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "the library's words")

    h5(tmp_path / "a.h5", raw=example(3, 4, 5))
    monkeypatch.setattr(h5py, "File", fail)
    with fails(
        f"a.h5: lies on a disk that fails to read it, check the disk, or read a copy ({os.strerror(errno.EIO)})."
    ):
        open_volume(tmp_path / "a.h5")


def refusal(location, array):
    """Return what is said of a volume but for the words in brackets, "copy" where it reads as it was, None if not."""
    try:
        return "copy" if np.array_equal(read_all(location), array) else None
    except (VolumeError, LimitError, MissingPackageError) as error:
        return re.sub(r"\(.*\)", "", str(error))


DAMAGES = [("cut", part) for part in (0.001, 0.01, 0.2, 0.5, 0.8, 0.99)] + [("flip", seed) for seed in range(8)]


@pytest.mark.parametrize(("kind", "which"), DAMAGES)
@pytest.mark.parametrize("name", ["a.h5", "a.tif", "tiles.tif", "a.zarr"])
def test_damage_is_one_sentence_of_ours_with_the_words_of_a_library_behind_it_at_most(tmp_path, name, kind, which):
    array = np.random.default_rng(0).integers(0, 255, (8, 32, 32)).astype("uint8")
    if name == "tiles.tif":
        tifffile.imwrite(tmp_path / name, array, tile=(16, 16), compression="zlib")
    else:
        write(tmp_path / name, array, **({} if name == "a.tif" else {"chunks": (4, 16, 16)}))
    for path in [item for item in (tmp_path, *tmp_path.rglob("*")) if item.is_file()]:
        whole = path.read_bytes()
        if kind == "cut":
            path.write_bytes(whole[: max(1, int(which * len(whole)))])
        else:
            damaged, generator = bytearray(whole), np.random.default_rng(which)
            for at in generator.integers(0, min(len(whole), 2000), 16):
                damaged[at] ^= 1 << int(generator.integers(8))
            path.write_bytes(damaged)
        said = refusal(tmp_path / name, array)
        # No format here has sums to check all bytes with.
        assert (kind == "flip" and said is None) or re.search(r"copy|check|save|correct|remove|install", said)
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["a.h5", "a.tif"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path, name, kept):
    location = write(tmp_path / name, np.random.default_rng(0).integers(0, 255, (16, 64, 64)).astype("uint8"))
    os.truncate(location, int(location.stat().st_size * kept))
    with pytest.raises(
        VolumeError, match=r"cannot be read as|is cut off|no .* file|in the middle of the next one, copy it again"
    ):
        read_all(location)


@pytest.mark.parametrize("options", [{"metadata": None}, {"compression": "zlib"}, {"bigtiff": True, "tile": (16, 16)}])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_tiff_is_never_a_shorter_stack(tmp_path, options, kept):
    array = np.random.default_rng(0).integers(0, 255, (16, 64, 64)).astype("uint8")
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff="bigtiff" in options) as writer:
        for section in array:
            writer.write(section, **{key: value for key, value in options.items() if key != "bigtiff"})
    np.testing.assert_array_equal(read_all(tmp_path / "a.tif"), array)
    os.truncate(tmp_path / "a.tif", int((tmp_path / "a.tif").stat().st_size * kept))
    with pytest.raises(VolumeError, match=r"copy it again"):
        read_all(tmp_path / "a.tif")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"node_type": "array", "zarr_format": 3}'])
def test_damaged_zarr_metadata_are_refused(tmp_path, content):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text(content)
    with pytest.raises((VolumeError, MissingPackageError), match=r"cannot be read as Zarr|zarr>=3"):
        open_volume(tmp_path / "a.zarr")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.zarr"])
def test_nan_and_infinity_are_refused_where_they_are_read(tmp_path, name, value):
    array = np.zeros((4, 5, 6), np.float32)
    array[2, 3, 4] = array[3, 0, 0] = value
    with open_volume(write(tmp_path / name, array)) as volume:
        assert not volume.read(volume.whole.replace(z=(0, 2))).any()
        with fails(f"holds {value} at (z, y, x) = (2, 3, 4), replace it by a finite value first."):
            volume.read(Box((1, 2, 1), (4, 5, 6)))


def test_nan_in_a_channel_is_found_there(tmp_path):
    array = np.zeros((2, 4, 5, 6), np.float16)
    array[1, 2, 3, 4] = np.nan
    with fails("holds nan at (c, z, y, x) = (1, 2, 3, 4)"):
        open_volume(write(tmp_path / "a.h5", array)).read(Box((1, 0, 0), (4, 5, 6)))


@pytest.mark.parametrize(
    ("rows", "problem"),
    [((0, 6), "not inside"), ((5, 6), "not inside"), ((2, 2), "empty in"), ((-1, 2), "not inside")],
)
def test_a_box_outside_of_the_volume_is_refused(tmp_path, rows, problem):
    first, stop = rows
    with (
        open_volume(write(tmp_path / "a.h5", example(5, 6, 7))) as volume,
        fails(f"z={first}:{stop} is {problem} {tmp_path}/a.h5:main, which has z=0:5: give first:stop with 0 <= first"),
    ):
        volume.read(volume.whole.replace(z=rows))
