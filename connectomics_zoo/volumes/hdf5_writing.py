"""Writes HDF5 files on disks that may fill up.

HDF5 crashes the process, be it at its end, if it cannot write what it holds when a file is closed. So it writes to a
`_Disk` that takes everything, and the error of the real one is raised when HDF5 is done.
"""

from __future__ import annotations

import io
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from connectomics_zoo.volumes.metadata import VoxelSize

# Writing a block that is not aligned to chunks reads, changes and writes each chunk again; the default
# cache of 1 MiB would do that on disk.
_CACHE_BYTES = 64 * 2**20

_Result = TypeVar("_Result")


class _Disk(io.RawIOBase):
    """A file that never fails: from its first error on it keeps in memory what it is given, and gives it back."""

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        self._file = path.open("w+b", buffering=0)
        self._at = self._end = 0
        self._kept: list[tuple[int, bytes]] = []

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset if whence == io.SEEK_SET else self._end + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if self.error is None:
            try:
                self._file.seek(self._at)
                written = 0
                while written < len(view):  # a disk that is nearly full takes a part first
                    written += self._file.write(view[written:])
            except OSError as error:
                self.error = error
        if self.error is not None:
            self._kept.append((self._at, bytes(view)))
        self._end = max(self._end, self._at + len(view))
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        found = 0
        try:
            self._file.seek(self._at)
            while count := self._file.readinto(view[found:]):
                found += count
        except OSError as error:
            self.error = self.error or error
        view[found:] = bytes(len(view) - found)
        for start, data in self._kept:
            first, stop = max(start, self._at), min(start + len(data), self._at + len(view))
            if first < stop:
                view[first - self._at : stop - self._at] = data[first - start : stop - start]
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        assert size is not None
        try:
            self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
        self._end = size
        return size

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error
        super().close()


class Hdf5Output:
    """A new HDF5 file that is being written."""

    def __init__(self, path: Path) -> None:
        """Create it.

        Raises:
            OSError: it cannot be written.
        """
        self._disk = _Disk(path)
        self._turn = threading.Lock()
        self._is_closing = False
        self._file = _undisturbed(lambda: h5py.File(self._disk, "w", rdcc_nbytes=_CACHE_BYTES))
        # A file that is still open when Python ends would call what is gone by then.
        self._close = weakref.finalize(self, _close, self._file, self._disk)
        self._raise_error()

    def add(self, name: str, *, voxel_size_nm: VoxelSize | None, attributes: Mapping[str, Any], **options: Any) -> Any:
        """Return a new dataset, made with the `options` of h5py.

        Raises:
            OSError: the disk does not take it.
        """

        def create() -> Any:
            array = self._file.create_dataset(name, **options)
            array.attrs["axes"] = "zyx" if len(array.shape) == 3 else "czyx"
            if voxel_size_nm is not None:
                array.attrs["voxel_size_nm"] = voxel_size_nm
                array.attrs["resolution"] = voxel_size_nm  # CREMI's readers
                array.attrs["element_size_um"] = [length / 1000 for length in voxel_size_nm]  # Fiji, ilastik
            array.attrs.update(attributes)
            return array

        return self._do(create)

    def write(self, array: Any, index: tuple[slice, ...], block: npt.NDArray[Any]) -> None:
        """Write `block` at `index` of the dataset `array`, one layer of chunks after the other.

        Raises:
            OSError: the disk does not take it.
        """
        for part, inside in _layers(index, chunks=array.chunks):
            self._do(partial(array.__setitem__, part, block[inside]))

    def close(self) -> None:
        """Flush and close the file.

        Raises:
            OSError: the disk does not take what was written.
        """
        self._is_closing = True
        _undisturbed(self._closed)
        self._raise_error()

    def _closed(self) -> None:
        with self._turn:
            self._close()

    def _do(self, work: Callable[[], _Result]) -> _Result:
        def in_turn() -> _Result:
            with self._turn:
                assert not self._is_closing
                return work()

        result = _undisturbed(in_turn)
        self._raise_error()
        return result

    def _raise_error(self) -> None:
        if self._disk.error is not None:
            raise self._disk.error


def _close(file: Any, disk: _Disk) -> None:
    try:
        file.close()
    finally:
        disk.close()


def _undisturbed(work: Callable[[], _Result]) -> _Result:
    """Return what `work` returns, done in a thread of its own.

    Ctrl-C, which only the main thread hears, would be an error of `_Disk` otherwise.
    """
    done: Future[_Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="hdf5").start()
    return done.result()


def _layers(
    index: tuple[slice, ...], *, chunks: tuple[int, ...]
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield parts of `index` of one layer of chunks each, and where they are in a block at `index`."""
    leading = [_cut(axis, edge) for axis, edge in zip(index[:-2], chunks, strict=False)]
    for part in itertools.product(*leading):
        inside = (
            slice(layer.start - axis.start, layer.stop - axis.start) for layer, axis in zip(part, index, strict=False)
        )
        yield (*part, *index[-2:]), tuple(inside)


def _cut(axis: slice, edge: int) -> list[slice]:
    """Return `axis` cut where a chunk begins."""
    corners = [axis.start, *range(axis.start - axis.start % edge + edge, axis.stop, edge), axis.stop]
    return [slice(first, stop) for first, stop in itertools.pairwise(corners)]


class Hdf5Sink:
    """A new HDF5 file with one dataset."""

    def __init__(
        self,
        path: Path,
        *,
        dataset: str | None,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        voxel_size_nm: VoxelSize | None,
        attributes: Mapping[str, Any],
        chunks: tuple[int, ...],
    ) -> None:
        assert dataset is not None
        self._output = Hdf5Output(path)
        try:
            self._array = self._output.add(
                dataset,
                voxel_size_nm=voxel_size_nm,
                attributes=attributes,
                shape=shape,
                dtype=dtype,
                chunks=chunks,
                compression="gzip",
                compression_opts=1,
                shuffle=True,
            )
        except BaseException:
            with suppress(OSError):
                self._output.close()
            raise

    def write(self, index: tuple[slice, ...], block: npt.NDArray[Any]) -> None:
        """Write `block` at `index`."""
        self._output.write(self._array, index, block)

    def close(self) -> None:
        """Flush and close the file."""
        self._output.close()
