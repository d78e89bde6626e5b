"""What zarr-python writes is read the same: codecs, data types, orders, separators and chunks that are not there."""

from __future__ import annotations

import multiprocessing
import os

import numcodecs
import numpy as np
import pytest
import zarr
from support.stores import file_server
from support.volume_files import ZARR_3, example, fails, read_all

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes import open_volume, zarr_array
from connectomics_zoo.volumes.uri import store_context

ARRAY = example(5, 6, 7, dtype="uint16")

DTYPES = "bool int8 uint8 int16 >u2 uint32 >i4 int64 >u8 float16 >f2 float32 >f4 float64".split()  # noqa: SIM905

pytestmark = pytest.mark.skipif(not ZARR_3, reason="zarr-python 2 has other calls, and format 2 only")


def made(path, array=ARRAY, *, zarr_format=2, chunks=(2, 4, 5), **options):
    stored = zarr.create_array(
        str(path), shape=array.shape, dtype=array.dtype, chunks=chunks, zarr_format=zarr_format, **options
    )
    stored[...] = array
    return path


def same(path, array=ARRAY):
    with open_volume(path) as volume:
        assert volume.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(volume.read(volume.whole), array)
        np.testing.assert_array_equal(
            volume.read(volume.whole.replace(z=(1, 4), y=(2, 6), x=(3, 7))), array[1:4, 2:6, 3:7]
        )


COMPRESSORS = {
    "none": None,
    "blosc": numcodecs.Blosc(cname="zstd", shuffle=2),
    "gzip": numcodecs.GZip(),
    "zlib": numcodecs.Zlib(),
    "bz2": numcodecs.BZ2(),
    "zstd": numcodecs.Zstd(),
    "lz4": numcodecs.LZ4(),
    "lzma": numcodecs.LZMA(),
}
FILTERS = {
    "delta": numcodecs.Delta("u2"),
    "fixedscaleoffset": numcodecs.FixedScaleOffset(offset=0, scale=1, dtype="u2"),
    "shuffle": numcodecs.Shuffle(2),
    "fletcher32": numcodecs.Fletcher32(),
}
BY_PYTHON = {"lz4", "lzma", *FILTERS}


@pytest.mark.parametrize("name", [*COMPRESSORS, *FILTERS])
def test_every_codec_of_format_2_is_read(tmp_path, monkeypatch, name):
    options = {"filters": [FILTERS[name]]} if name in FILTERS else {"compressors": COMPRESSORS[name]}
    made(tmp_path / "a.zarr", **options)
    if name not in BY_PYTHON:
        monkeypatch.setattr(zarr, "open_array", None)
    same(tmp_path / "a.zarr")


@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
@pytest.mark.parametrize("name", ["blosc", "gzip", "zstd", "crc32c", "big", "transposed", "sharded", "numcodecs"])
def test_every_codec_of_format_3_is_read(tmp_path, monkeypatch, name):
    from zarr import codecs
    from zarr.codecs import numcodecs as foreign

    options = {
        "blosc": {"compressors": codecs.BloscCodec()},
        "gzip": {"compressors": codecs.GzipCodec()},
        "zstd": {"compressors": codecs.ZstdCodec(checksum=True)},
        "crc32c": {"compressors": [codecs.ZstdCodec(), codecs.Crc32cCodec()]},
        "big": {"serializer": codecs.BytesCodec(endian="big")},
        "transposed": {"filters": [codecs.TransposeCodec(order=(2, 0, 1))]},
        "sharded": {"shards": (4, 8, 10)},
        "numcodecs": {"compressors": foreign.LZMA()},
    }[name]
    made(tmp_path / "a.zarr", zarr_format=3, **options)
    if name != "numcodecs":
        monkeypatch.setattr(zarr, "open_array", None)
    same(tmp_path / "a.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "int8",
        "uint8",
        "int16",
        ">u2",
        "uint32",
        ">i4",
        "int64",
        ">u8",
        "float16",
        ">f2",
        "float32",
        ">f4",
        "float64",
    ],
)
def test_every_data_type_is_read(tmp_path, dtype, zarr_format):
    array = ARRAY.astype(dtype)
    same(made(tmp_path / "a.zarr", array, zarr_format=zarr_format), array)


@pytest.mark.parametrize(
    "options",
    [
        {"order": "F"},
        {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
        {"zarr_format": 3, "chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"zarr_format": 3, "chunk_key_encoding": {"name": "default", "separator": "."}},
    ],
    ids=str,
)
def test_orders_and_names_of_chunks_are_those_of_the_array(tmp_path, options):
    same(made(tmp_path / "a.zarr", **options))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("fill_value", [0, 7, None])
def test_chunks_that_are_not_there_have_the_fill_value(tmp_path, zarr_format, fill_value):
    zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(5, 6, 7), dtype="u2", chunks=(2, 4, 5), zarr_format=zarr_format,
        fill_value=fill_value,
    )[:2] = ARRAY[:2]  # fmt: skip
    expected = np.full_like(ARRAY, fill_value or 0)
    expected[:2] = ARRAY[:2]
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr"), expected)


def test_a_codec_that_only_zarr_python_has_is_read_from_disk_alone(tmp_path):
    made(tmp_path / "a.zarr", compressors=numcodecs.LZMA())
    with (
        file_server(tmp_path) as address,
        fails("a.zarr: is stored by the codec 'lzma', which is read from local files only, download it first."),
    ):
        open_volume(f"{address}/a.zarr")


# Forks


def in_a_fork(location):
    """Open and read a volume in a process that is forked from this one, which has read stores; return what came."""
    store_context()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def work():
        try:
            queue.put(read_all(location))
        except VolumeError as error:
            queue.put(str(error))

    process = context.Process(target=work)
    process.start()
    try:
        return queue.get(timeout=60)
    finally:
        process.join(timeout=60)
        assert process.exitcode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_zarr_on_disk_is_read_in_a_fork_of_a_process_that_has_read_one(tmp_path):
    made(tmp_path / "a.zarr", zarr_format=3, shards=(4, 8, 10))
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr"), ARRAY)
    np.testing.assert_array_equal(in_a_fork(tmp_path / "a.zarr"), ARRAY)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_does_not_die_of_a_store_that_it_cannot_read(tmp_path):
    made(tmp_path / "a.zarr")
    with file_server(tmp_path) as address:
        np.testing.assert_array_equal(read_all(f"{address}/a.zarr"), ARRAY)
        assert "start processes by spawn or forkserver" in in_a_fork(f"{address}/a.zarr")


def test_nothing_but_a_fork_and_its_codecs_needs_zarr_python(tmp_path, monkeypatch):
    made(tmp_path / "a.zarr")
    monkeypatch.setattr(zarr_array, "_PythonChunks", None)
    same(tmp_path / "a.zarr")
