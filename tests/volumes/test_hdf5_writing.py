"""A disk that fills up, or Ctrl-C, ends the writing of an HDF5 file in one sentence, and never the process."""

from __future__ import annotations

import errno
import importlib.util
import random
import subprocess
import sys

import h5py
import numpy as np
import pytest
from support.volume_files import read_all

from connectomics_zoo.volumes import Box, create_volume
from connectomics_zoo.volumes.hdf5_writing import _Disk

NEEDS_LIMITS = pytest.mark.skipif(importlib.util.find_spec("resource") is None, reason="needs limits of file sizes")

WRITE = """
import sys
from pathlib import Path
import numpy as np
from connectomics_zoo.phantom import make_phantom, write_phantom
from connectomics_zoo.volumes import create_volume, hdf5_writing

noise = np.random.default_rng(0).integers(0, 256, (64, 64, 64), dtype=np.uint8)
path = Path(sys.argv[1])
if path.stem == "layers":  # which reach the disk before the file is closed
    hdf5_writing._CACHE_BYTES = 2**14

def write():
    if path.stem == "phantom":
        write_phantom(path, make_phantom(shape=(32, 32, 32), seed=0))
        return
    with create_volume(
        path, shape=noise.shape, dtype="uint8", channels=None, voxel_size_nm=None, chunks=(4, 16, 16)
    ) as volume:
        volume.write(volume.whole, noise)
"""

FULL = """
import resource
from connectomics_zoo.errors import OutputError

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), most))
for _ in range(2):
    try:
        write()
    except OutputError as error:
        print(error)
print([item.name for item in path.parent.iterdir()])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
write()
"""

INTERRUPTED = """
import os, signal, threading, time

for delay in range(20):
    try:
        threading.Timer(delay / 200, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:
            write()
            path.unlink()
    except KeyboardInterrupt:
        path.unlink(missing_ok=True)
write()
"""


def run(script, *arguments):
    done = subprocess.run([sys.executable, "-c", WRITE + script, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@NEEDS_LIMITS
@pytest.mark.parametrize("limit", [0, 1000, 30_000])
@pytest.mark.parametrize("name", ["volume", "layers", "phantom"])
def test_a_file_that_cannot_grow_is_one_sentence_and_the_process_goes_on(tmp_path, name, limit):
    """As on a full disk or beyond a quota; HDF5 would crash when the file is closed, or at the end of the process."""
    path = tmp_path / f"{name}.h5"
    *sentences, left = run(FULL, path, limit)
    place = f"{path}:main" if name == "layers" else path
    assert sentences == [f"{place}: cannot be written (File too large), give a writable place."] * 2
    assert left == "[]"
    with h5py.File(path) as file:
        assert list(file) == (["main"] if name != "phantom" else ["membranes", "mitochondria", "neurons", "raw"])


@pytest.mark.parametrize("name", ["volume", "layers"])
def test_ctrl_c_at_any_moment_is_no_crash_and_the_next_file_is_whole(tmp_path, name):
    run(INTERRUPTED, tmp_path / f"{name}.h5")
    assert read_all(tmp_path / f"{name}.h5").mean() == pytest.approx(127.5, abs=1)


def test_a_file_that_is_never_closed_does_no_harm_at_the_end_of_the_process(tmp_path):
    forgotten = "volume = create_volume(path, shape=(8, 8, 8), dtype='uint8', channels=None, voxel_size_nm=None)"
    assert run(forgotten, tmp_path / "a.h5") == []


@pytest.mark.parametrize("room", [0, 1, 500, 5000, 10**6])
def test_what_hdf5_reads_is_what_it_wrote_also_when_the_disk_is_full(tmp_path, monkeypatch, room):
    generator = random.Random(room)
    disk, expected = _Disk(tmp_path / "a.h5"), bytearray()
    file = disk._file

    class Nearly:
        """The file on a disk with room for so many bytes."""

        readinto, close, truncate = file.readinto, file.close, file.truncate

        def seek(self, offset):
            self.room = room - offset
            file.seek(offset)

        def write(self, data):
            if self.room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = file.write(data[: self.room])
            self.room -= written
            return written

    monkeypatch.setattr(disk, "_file", Nearly())
    for _ in range(300):
        start, data = generator.randrange(8000), generator.randbytes(generator.randrange(1, 400))
        disk.seek(start)
        assert disk.write(data) == len(data)
        expected.extend(bytes(max(0, start + len(data) - len(expected))))
        expected[start : start + len(data)] = data
        first, found = generator.randrange(8500), bytearray(b"x" * 300)
        disk.seek(first)
        disk.readinto(found)
        assert found == bytes(expected[first : first + 300]).ljust(300, b"\0")
        assert disk.seek(0, 2) == len(expected)
    assert (disk.error is None) == (room == 10**6)
    disk.close()


@pytest.mark.parametrize("chunks", [(4, 8, 8), (64, 64, 64), (3, 5, 7)])
@pytest.mark.parametrize("channels", [None, 3])
def test_blocks_that_do_not_follow_the_chunks_are_written_where_they_belong(tmp_path, chunks, channels):
    shape = (17, 20, 23)
    full = shape if channels is None else (channels, *shape)
    expected, generator = np.zeros(full, np.uint16), np.random.default_rng(0)
    with create_volume(
        tmp_path / "a.h5", shape=shape, dtype="uint16", channels=channels, voxel_size_nm=None, chunks=chunks
    ) as volume:
        for _ in range(20):
            start = tuple(int(generator.integers(size)) for size in shape)
            box = Box.of_shape((9, 7, 11), start=start).intersection(volume.whole)
            lead = () if channels is None else (channels,)
            block = generator.integers(0, 60_000, (*lead, *box.shape)).astype(np.uint16)
            volume.write(box, block)
            expected[(..., *box.slices)] = block
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["main"][...], expected)
