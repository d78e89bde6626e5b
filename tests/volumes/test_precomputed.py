"""Volumes in Neuroglancer's precomputed format, with their scales, sizes and places."""

from __future__ import annotations

import gzip
import json
import subprocess

import numpy as np
import pytest
import tensorstore
from support.stores import file_server
from support.volume_files import example, fails, read_all

from connectomics_zoo.volumes import Box, open_volume

ARRAY = example(5, 6, 7, dtype="uint64")
VOXEL_SIZE_NM = (40.0, 8.0, 4.0)
OFFSET = (10, 20, 30)
"""Of its first voxel (z, y, x)."""


def add_scale(folder, array=ARRAY, *, step=1, encoding="raw", offset=OFFSET, **scale):
    """Write `array`, (z, y, x) or (c, z, y, x), as a scale."""
    channels = array if array.ndim == 4 else array[None]
    store = tensorstore.open(
        {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{folder}/"},
         "multiscale_metadata": {"type": "segmentation" if array.dtype == np.uint64 else "image",
                                 "data_type": array.dtype.name, "num_channels": len(channels)},
         "scale_metadata": {"size": array.shape[:-4:-1], "resolution": [edge * step for edge in VOXEL_SIZE_NM[::-1]],
                            "voxel_offset": offset[::-1], "encoding": encoding, "chunk_size": [4, 3, 2], **scale}},
        create=True, open=True,
    ).result()  # fmt: skip
    store[...] = channels.transpose()
    return folder


SHARDING = {
    "sharding": {
        "@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 1, "hash": "identity", "minishard_bits": 1,
        "shard_bits": 1, "minishard_index_encoding": "gzip", "data_encoding": "gzip",
    }
}  # fmt: skip
SEGMENTATION = {"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8]}


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("uint8", {}),
        ("uint8", {"encoding": "png", "png_level": 6}),
        ("uint16", {"encoding": "png", "png_level": 6}),
        ("float32", {}),
        ("uint64", {}),
        ("uint64", SEGMENTATION),
        ("uint32", SEGMENTATION),
        ("uint64", SHARDING),
        ("uint64", {**SEGMENTATION, **SHARDING}),
    ],
    ids=str,
)
def test_voxels_are_those_that_were_written(tmp_path, dtype, scale):
    array = ARRAY.astype(dtype)
    with open_volume(add_scale(tmp_path / "seg", array, **scale)) as volume:
        assert (volume.shape, volume.channels, volume.dtype) == (array.shape, None, array.dtype)
        assert volume.voxel_size_nm == VOXEL_SIZE_NM
        assert volume.offset_nm == (10 * 40, 20 * 8, 30 * 4)
        np.testing.assert_array_equal(volume.read(volume.whole), array)
        box = Box((1, 2, 3), (4, 6, 5))
        np.testing.assert_array_equal(volume.read(box), array[box.slices])


def test_channels_are_read(tmp_path):
    array = example(3, 5, 6, 7)
    np.testing.assert_array_equal(read_all(add_scale(tmp_path / "affinities", array)), array)


@pytest.mark.parametrize(
    ("text", "number"), [("", 0), ("#4_8_40", 0), ("#1", 1), ("#8_16_80", 1), ("#80x16x8nm", 1), ("#0", 0)]
)
def test_scales_are_chosen_by_key_number_or_size(tmp_path, text, number):
    coarse = ARRAY[::2, ::2, ::2]
    folder = add_scale(tmp_path / "seg")
    add_scale(folder, coarse, step=2, offset=(5, 10, 15))
    for location in (f"{folder}{text}", open_volume(f"{folder}{text}").location):
        with open_volume(location) as volume:
            assert volume.voxel_size_nm == tuple(edge * 2**number for edge in VOXEL_SIZE_NM)
            assert volume.offset_nm == (400, 160, 120)
            np.testing.assert_array_equal(volume.read(volume.whole), coarse if number else ARRAY)


def test_what_is_not_read_is_said(tmp_path):
    folder = add_scale(tmp_path / "seg")
    with fails("seg: has no level '3' but 4_8_40 (40x8x4 nm): give a name, a number from 0 up, or a size."):
        open_volume(f"{folder}#3")
    with file_server(tmp_path) as address, fails("seg:raw: there is no Zarr, N5 or precomputed store"):
        open_volume(f"{address}/seg:raw")
    info = json.loads((folder / "info").read_text())
    info["scales"][0]["encoding"] = "compresso"
    (folder / "info").write_text(json.dumps(info))
    with fails("seg: is stored as 'compresso', which is not read (what is: raw, jpeg, png, compressed_segmentation): "):
        open_volume(folder)


@pytest.mark.parametrize("content", ['{"scales": []}', '{"scales": [{}]}', '{"scales": 7}', '{"scales": '])
def test_a_damaged_info_is_one_sentence(tmp_path, content):
    (tmp_path / "seg").mkdir()
    (tmp_path / "seg" / "info").write_text(content)
    with fails("seg: cannot be read as precomputed, so it is damaged"):
        open_volume(tmp_path / "seg")


def test_a_damaged_chunk_is_one_sentence(tmp_path):
    folder = add_scale(tmp_path / "seg", **SEGMENTATION)
    for path in (folder / "4_8_40").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    with fails("seg: cannot be read as precomputed, so it is damaged"), open_volume(folder) as volume:
        volume.read(volume.whole)


def test_a_link_of_neuroglancer_is_a_location(tmp_path):
    add_scale(tmp_path / "seg")
    with file_server(tmp_path) as address:
        np.testing.assert_array_equal(read_all(f"precomputed://{address}/seg"), ARRAY)
        np.testing.assert_array_equal(read_all(f"precomputed://{address}/seg#4_8_40"), ARRAY)


def test_packed_chunks_are_not_taken_for_missing_ones(tmp_path):
    folder = add_scale(tmp_path / "seg")
    for path in (folder / "4_8_40").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    with fails("4_8_40: holds packed chunks (as "):
        open_volume(folder)
    subprocess.run(["gunzip", "-r", str(folder / "4_8_40")], check=True)
    np.testing.assert_array_equal(read_all(folder), ARRAY)


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
def test_what_cloud_volume_writes_is_read(tmp_path, encoding):
    cloudvolume = pytest.importorskip("cloudvolume", reason="cloud-volume, another writer, is not installed")
    written = cloudvolume.CloudVolume.from_numpy(
        np.asfortranarray(ARRAY.transpose()), vol_path=f"file://{tmp_path}/seg", resolution=VOXEL_SIZE_NM[::-1],
        voxel_offset=OFFSET[::-1], chunk_size=(4, 3, 2), layer_type="segmentation", encoding=encoding, compress=False,
    )  # fmt: skip
    assert written.shape == (7, 6, 5, 1)
    with open_volume(tmp_path / "seg") as volume:
        assert (volume.voxel_size_nm, volume.offset_nm) == (VOXEL_SIZE_NM, (400, 160, 120))
        np.testing.assert_array_equal(volume.read(volume.whole), ARRAY)
