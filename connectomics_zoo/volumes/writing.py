"""Creates volumes in HDF5, TIFF or Zarr, so that a file appears complete or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from connectomics_zoo.errors import OutputError
from connectomics_zoo.files.atomic import PartialOutput, check_place, output_errors
from connectomics_zoo.volumes.box import Box, refuse_outside
from connectomics_zoo.volumes.checks import DTYPES, is_supported, readable
from connectomics_zoo.volumes.hdf5 import hdf5_datasets
from connectomics_zoo.volumes.hdf5_writing import Hdf5Sink
from connectomics_zoo.volumes.hierarchy import Hierarchy, zarr_arrays
from connectomics_zoo.volumes.levels import Offset, levels_of_multiscales
from connectomics_zoo.volumes.location import FORMAT_OF_SUFFIX, Format, job_place, split_place
from connectomics_zoo.volumes.metadata import VoxelSize, as_voxel_size, multiscales_entry
from connectomics_zoo.volumes.multiscale import levels_of
from connectomics_zoo.volumes.prediction import StoredPrediction, declared_content, to_attributes
from connectomics_zoo.volumes.store_files import reachable, read_files, refuse_missing_bucket
from connectomics_zoo.volumes.tiff import TiffSink
from connectomics_zoo.volumes.uri import Place, Uri
from connectomics_zoo.volumes.zarr_writing import ArrayLayout, ZarrSink

_CHUNKS = (64, 128, 128)
_NOTHING = StoredPrediction()


class _Sink(Protocol):
    def write(self, index: tuple[slice, ...], block: npt.NDArray[Any]) -> None: ...

    def close(self) -> None: ...


_SINKS: dict[Format, Callable[..., _Sink]] = {"hdf5": Hdf5Sink, "tiff": TiffSink, "zarr": ZarrSink}


class WritableVolume:
    """A volume that is being written; it appears at its location when closed without an error.

    Use it in a `with` block: if that ends with an exception, nothing is left behind.
    """

    def __init__(
        self,
        location: str,
        *,
        output: PartialOutput,
        sink: _Sink,
        shape: tuple[int, int, int],
        channels: int | None,
        dtype: np.dtype[Any],
        voxel_size_nm: VoxelSize | None,
        finish: Callable[[], None] | None = None,
    ) -> None:
        self.location = location
        self.shape = shape
        self.channels = channels
        self.dtype = dtype
        self.voxel_size_nm = voxel_size_nm
        self._output = output
        self._sink: _Sink | None = sink
        self._finish = finish

    @property
    def whole(self) -> Box:
        """All of its voxels."""
        return Box.of_shape(self.shape)

    def write(self, box: Box, array: npt.NDArray[Any]) -> None:
        """Write `array`, (Z, Y, X) or (C, Z, Y, X), at `box`; its data type must fit without loss.

        Raises:
            VolumeError: the box is empty or reaches out of the volume.
            OutputError: shape or data type do not fit, or the disk does not take it.
        """
        assert self._sink is not None, "the volume is closed"
        refuse_outside(box.ranges, shape=self.shape, location=self.location)
        index = box.slices if self.channels is None else (slice(0, self.channels), *box.slices)
        expected = box.shape if self.channels is None else (self.channels, *box.shape)
        if array.shape != expected:
            raise OutputError(f"{self.location}: the block has shape {array.shape}, the region {expected}.")
        if not np.can_cast(array.dtype, self.dtype, casting="safe"):
            raise OutputError(
                f"{self.location}: the block is {array.dtype}, which {self.dtype} cannot hold, convert it first."
            )
        with output_errors(self.location):
            self._sink.write(index, array)

    def close(self) -> None:
        """Finish the volume and move it to its place; no unfinished one is left behind if that fails.

        Raises:
            OutputError: the disk is full, or something else took the place meanwhile and the volume is kept beside it.
        """
        if self._sink is None:
            return
        sink, self._sink = self._sink, None
        with self._output.writing():
            sink.close()
            if self._finish is not None:
                self._finish()

    def discard(self) -> None:
        """Remove what was written so far."""
        if self._sink is None:
            return
        sink, self._sink = self._sink, None
        try:
            # The disk may have no room for the rest, which nobody wants.
            with suppress(OSError):
                sink.close()
        finally:
            self._output.discard()

    def __enter__(self) -> WritableVolume:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()


def create_volume(
    location: str | Path,
    *,
    shape: tuple[int, int, int],
    dtype: npt.DTypeLike,
    channels: int | None,
    voxel_size_nm: VoxelSize | None,
    stored: StoredPrediction = _NOTHING,
    chunks: tuple[int, int, int] | None = None,
    offset: Offset = (0.0, 0.0, 0.0),
    multiscale: bool = False,
    overwrite: bool = False,
) -> WritableVolume:
    """Create `file.h5:dataset` (default `main`), `file.tif`, or `volume.zarr[:group]` for writing.

    A file or store holds the one volume: none is added to an existing file, and `overwrite` replaces a
    file only if it holds nothing else. HDF5 and Zarr are compressed in `chunks` (z, y, x); TIFF is not.
    Zarr is OME-NGFF with the level `0` in the group, and coarser ones beside it where `multiscale` asks for them; it
    also says where its first voxel lies, which is `offset` (z, y, x) in nm, or in voxels without a voxel size. `stored`
    is what the file says of the values.

    Raises:
        OutputError: the target exists, or shape, data type, suffix or folder are not possible.
    """
    data_type = np.dtype(dtype)
    path, dataset = check_volume_place(
        location,
        shape=shape,
        dtype=data_type,
        channels=channels,
        voxel_size_nm=voxel_size_nm,
        stored=stored,
        chunks=chunks,
        multiscale=multiscale,
        overwrite=overwrite,
    )
    if isinstance(path, Uri):
        raise OutputError(f"{path}: is a URI, which zoo predict and zoo decode write, give the path of a file.")
    kind, attributes = FORMAT_OF_SUFFIX[path.suffix.lower()], to_attributes(stored)
    output = PartialOutput(path, overwrite=overwrite)
    edges = tuple(min(edge, size) for edge, size in zip(chunks or _CHUNKS, shape, strict=True))
    layout: dict[str, Any] = {
        "shape": shape if channels is None else (channels, *shape),
        "dtype": data_type,
        "voxel_size_nm": voxel_size_nm,
        "attributes": attributes,
        "chunks": edges if channels is None else (1, *edges),
        **({"offset": offset} if kind == "zarr" else {}),
    }
    try:
        with output_errors(path):
            sink = _SINKS[kind](output.path, dataset=dataset, **layout)
    except BaseException:
        output.discard()
        raise
    finish = None
    if multiscale:
        finest = ArrayLayout(**layout, shards=layout["chunks"])
        finish = levels_of(output.path, dataset=dataset, layout=finest, stored=stored, multiscale=True).make_all
    return WritableVolume(
        str(path) if dataset is None else f"{path}:{dataset}",
        output=output,
        sink=sink,
        shape=shape,
        channels=channels,
        dtype=data_type,
        voxel_size_nm=voxel_size_nm,
        finish=finish,
    )


def check_volume_place(
    location: str | Path,
    *,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    channels: int | None,
    voxel_size_nm: VoxelSize | None,
    stored: StoredPrediction = _NOTHING,
    chunks: tuple[int, int, int] | None = None,
    multiscale: bool = False,
    overwrite: bool = False,
) -> tuple[Place, str | None]:
    """Return path, or URI, and dataset of a volume that could be created; see `create_volume`.

    Raises:
        OutputError: the target exists, or shape, data type, suffix or folder are not possible.
    """
    path, dataset = split_place(str(location))
    _check_request(path, dataset=dataset, dtype=dtype, chunks=chunks, multiscale=multiscale)
    if stored.content is not None and declared_content(to_attributes(stored), dtype=dtype) is None:
        raise OutputError(
            f"{path}: content {stored.content!r} is not possible in {dtype}, give 'probability' for uint8 or "
            "floats, or 'label' or 'instances' for whole numbers or bool."
        )
    _check_numbers(path, shape=shape, channels=channels, chunks=chunks, voxel_size_nm=voxel_size_nm)
    if isinstance(path, Uri):
        _check_uri(path, overwrite=overwrite)
        return path, dataset
    if FORMAT_OF_SUFFIX[path.suffix.lower()] == "hdf5" and dataset is None:
        dataset = "main"
    check_place(path, overwrite=overwrite)
    if path.exists():
        _refuse_losing_other_data(path, dataset=dataset)
    return path, dataset


def _check_uri(place: Uri, *, overwrite: bool) -> None:
    """Refuse a place behind a URI where no store can be written."""
    if place.scheme not in ("s3", "gs"):
        raise OutputError(f"{place}: cannot be written, only read: give a path, or a URI of s3:// or gs://.")
    if FORMAT_OF_SUFFIX[place.suffix.lower()] != "zarr":
        raise OutputError(f"{place}: behind a URI, Zarr alone is written, give a name that ends in .zarr.")
    refuse_missing_bucket(place)
    with reachable(place):
        found = read_files(place, ["zarr.json", ".zgroup", ".zarray"])
        is_begun = bool(read_files(job_place(place), ["job.json"]))
    if found and not overwrite and not is_begun:
        raise OutputError(
            f"{place}: exists already, choose another name or overwrite it (--overwrite, overwrite=True)."
        )


def _check_request(
    path: Place,
    *,
    dataset: str | None,
    dtype: np.dtype[Any],
    chunks: tuple[int, int, int] | None,
    multiscale: bool,
) -> None:
    kind = FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise OutputError(
            f"{path}: volumes with the suffix {path.suffix!r} cannot be written, use {', '.join(FORMAT_OF_SUFFIX)}."
        )
    if kind == "tiff" and dataset is not None:
        raise OutputError(f"{path}: a TIFF has no datasets, leave ':{dataset}' out.")
    if kind == "tiff" and chunks is not None:
        raise OutputError(f"{path}: a TIFF is written without chunks, leave {chunks} out.")
    if kind != "zarr" and multiscale:
        raise OutputError(
            f"{path}: has no levels, which only Zarr has: give a name that ends in .zarr, or leave multiscale out."
        )
    if not is_supported(dtype):
        raise OutputError(f"{path}: the data type {dtype} cannot be written, a volume may have {DTYPES}.")


def _check_numbers(
    path: Place,
    *,
    shape: tuple[int, int, int],
    channels: int | None,
    chunks: tuple[int, int, int] | None,
    voxel_size_nm: VoxelSize | None,
) -> None:
    for name, sizes in (("shape", shape), ("chunks", chunks)):
        if sizes is not None and (len(sizes) != 3 or min(sizes) < 1):
            raise OutputError(f"{path}: {name} {sizes} is not possible, give three whole numbers from 1 up.")
    if channels is not None and channels < 1:
        raise OutputError(f"{path}: channels {channels} is not possible, give None or a number from 1 up.")
    if voxel_size_nm is not None and as_voxel_size(voxel_size_nm) is None:
        raise OutputError(f"{path}: voxel_size_nm {voxel_size_nm} is not possible, give three positive lengths.")


def _refuse_losing_other_data(path: Path, *, dataset: str | None) -> None:
    """Refuse to replace a file or folder that holds more than the volume that will be written."""
    kind = FORMAT_OF_SUFFIX[path.suffix.lower()]
    if path.is_dir() != (kind == "zarr"):
        raise OutputError(f"{path}: is a {'folder' if path.is_dir() else 'file'}, choose another name.")
    if kind == "tiff":
        return
    with readable(path, kind=kind):
        if kind == "hdf5":
            with h5py.File(path, "r") as file:
                held = hdf5_datasets(file)
            own = {dataset or "main"}
        else:
            held = [item.relative_to(path).as_posix() for item in zarr_arrays(path)]
            own = _own_levels(path, dataset)
    if not set(held) <= own or (kind == "zarr" and not held):
        raise OutputError(
            f"{path}: holds {', '.join(sorted(held)) or 'no volume'}, which would be lost, choose another name."
        )


def _own_levels(path: Path, dataset: str | None) -> set[str]:
    """Return the arrays of the image that is written there: its finest level, and those that it says to have."""
    node = Hierarchy(path).node(dataset or "")
    entry = None if node is None else multiscales_entry(node.attributes)
    levels = {"0", *(() if entry is None else levels_of_multiscales(entry))}
    return {f"{dataset}/{level}" if dataset else level for level in levels if level.isdecimal()}


def refuse_own_input(source: str, out: str | Path) -> None:
    """Refuse to write a volume over one that it is made of, at the location `source`.

    Raises:
        OutputError: `out` is in the same file.
    """
    path, place = (split_place(location)[0] for location in (str(out), source))
    if isinstance(path, Uri) or isinstance(place, Uri):
        is_same = path == place
    else:
        is_same = path.exists() and place.exists() and path.samefile(place)
    if is_same:
        raise OutputError(f"{out}: is the input itself, which would be lost: choose another name.")
