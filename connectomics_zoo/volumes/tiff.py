"""Reads and writes TIFF volumes: one file with all sections, or a folder with one file a section.

Letters in this file are tifffile's: Z Y X, C channels, T time, S samples of a pixel (colour), I and Q
axes that the file does not name.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from connectomics_zoo.errors import MissingPackageError, VolumeError
from connectomics_zoo.volumes.checks import readable, refuse_empty
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.metadata import (
    StatedVoxelSize,
    VoxelSize,
    as_voxel_size,
    attributes_from_ome,
    description_of,
    voxel_size_from_imagej,
    voxel_size_from_ome,
)
from connectomics_zoo.volumes.tiff_meaning import (
    apply_meaning,
    check_ome,
    meaning_of,
    ome_files,
    refuse_huge_segments,
    refuse_missing_pages,
)

# OME-XML has no name for the other types.
_OME_DTYPES = frozenset({"int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"})

_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Of TIFF and BigTIFF, in either byte order."""


class TiffArray:
    """An open TIFF stack; `read` maps it into memory, or decodes only the strips and tiles it needs."""

    dataset: str | None = None
    offset_nm: Offset | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _open_file(path)
        try:
            with readable(path, kind="TIFF"):
                self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        _refuse_cut_off(self._file, path=self._path)
        check_ome(self._file, path=self._path)
        series = _only_series(self._file, path=self._path)
        if not isinstance(series, list):
            refuse_missing_pages(series, path=self._path)
        self._pages = series if isinstance(series, list) else series.pages
        first = self._pages[0]
        _refuse_undecodable(first.keyframe, path=self._path)
        header = _shaped_header(self._file)
        self.axes: str
        self.shape: tuple[int, ...]
        if isinstance(series, list):
            self.axes, self.shape = "zyx", (len(series), *first.shape)
        else:
            self.axes, self.shape = _axes_and_shape(series, path=self._path)
        self.voxel_size_nm = _voxel_size(self._file, header=header, page=first)
        self.attributes: Mapping[str, Any] = (
            attributes_from_ome(self._file.ome_metadata or "") if self._file.is_ome else header
        )
        self._is_bool = header.get("dtype") == "bool"
        self._meaning = meaning_of(self._file, first, path=self._path)
        stored = np.dtype(first.dtype)
        self.dtype: np.dtype[Any] = np.dtype(bool) if self._is_bool else self._meaning.dtype
        self._memory_map: npt.NDArray[Any] | None = None
        offset = None if isinstance(series, list) else series.dataoffset
        if offset is not None:
            self._memory_map = np.memmap(
                self._path, dtype=stored.newbyteorder(self._file.byteorder), mode="r", offset=offset, shape=self.shape
            )

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the block of voxels at `index`, one slice for each axis of the file."""
        with readable(self._path, kind="TIFF"):
            mapped = self._memory_map
            block = self._read_pages(index) if mapped is None else np.array(mapped[index])
        return block != 0 if self._is_bool else apply_meaning(block, self._meaning)

    def _read_pages(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        *leading, rows, columns = index
        page_numbers = np.arange(math.prod(self.shape[:-2])).reshape(self.shape[:-2])[tuple(leading)]
        size = (rows.stop - rows.start, columns.stop - columns.start)
        block = np.empty((page_numbers.size, *size), dtype=self._pages[0].dtype)
        for position, number in enumerate(page_numbers.flat):
            block[position] = _read_plane(self._pages[int(number)], rows=rows, columns=columns)
        return block.reshape(*page_numbers.shape, *size)

    def close(self) -> None:
        """Close the file."""
        self._memory_map = None
        self._file.close()


class TiffFolder:
    """TIFFs of one section each, in order; `read` opens only those that it needs."""

    dataset: str | None = None
    axes: str = "zyx"
    offset_nm: Offset | None = None
    attributes: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, sections: list[Path]) -> None:
        self._paths = sections
        with readable(self._paths[0], kind="TIFF"), _open_file(self._paths[0]) as file:
            page = _only_plane(file, path=self._paths[0])
            _refuse_undecodable(page.keyframe, path=self._paths[0])
            self._stored = np.dtype(page.dtype)
            self.shape: tuple[int, ...] = (len(self._paths), *page.shape)
            self.dtype: np.dtype[Any] = meaning_of(file, page, path=self._paths[0]).dtype
            self.voxel_size_nm: StatedVoxelSize = _voxel_size(file, header=_shaped_header(file), page=page)

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the block of voxels at `index`, slices along z, y and x."""
        sections, rows, columns = index
        size = (rows.stop - rows.start, columns.stop - columns.start)
        paths = self._paths[sections]
        block = np.empty((len(paths), *size), dtype=self.dtype)
        for position, path in enumerate(paths):
            with readable(path, kind="TIFF"), _open_file(path) as file:
                page = _only_plane(file, path=path)
                meaning = meaning_of(file, page, path=path)
                if (page.shape, page.dtype, meaning.dtype) != (self.shape[1:], self._stored, self.dtype):
                    raise VolumeError(
                        f"{path}: is {meaning.dtype} of shape {page.shape}, and {self._paths[0].name} is {self.dtype} "
                        f"of shape {self.shape[1:]}, but all sections of a volume must agree."
                    )
                block[position] = apply_meaning(_read_plane(page, rows=rows, columns=columns), meaning)
        return block

    def close(self) -> None:
        """Nothing stays open between two reads."""


def open_tiff_folder(sections: list[Path]) -> TiffArray | TiffFolder:
    """Open the sections of a folder, in the order that they have, or in that of the OME header that they share."""
    folder = TiffFolder(sections)
    with _open_file(sections[0]) as file:
        is_one_image = len(ome_files(file)) > 1
    return TiffArray(sections[0]) if is_one_image else folder


def _open_file(path: Path) -> Any:
    """Open a file for reading.

    Raises:
        VolumeError: it is no TIFF, or is damaged.
    """
    with readable(path, kind="TIFF"):
        refuse_empty(path)
        with path.open("rb") as file:
            if file.read(4) not in _BEGINNINGS:
                raise VolumeError(f"{path}: is no TIFF file, or its beginning is damaged, check what it is.")
        return tifffile.TiffFile(path)


def _refuse_cut_off(file: Any, *, path: Path) -> None:
    """Refuse a file whose chain of pages leads nowhere: tifffile takes the pages before that for all."""
    layout, handle = file.tiff, file.filehandle
    last = file.pages[len(file.pages) - 1].offset
    handle.seek(last)
    (tags,) = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))
    handle.seek(last + layout.tagnosize + tags * layout.tagsize)
    (following,) = struct.unpack(layout.offsetformat, handle.read(layout.offsetsize))
    if following != 0:
        raise VolumeError(f"{path}: ends after {len(file.pages)} pages in the middle of the next one, copy it again.")


def _only_series(file: Any, *, path: Path) -> Any:
    """Return the one image series in the file, or the list of pages if it is many equal planes."""
    if len(file.series) == 1:
        return file.series[0]
    kinds = {(series.axes, series.shape, series.dtype) for series in file.series}
    if len(kinds) == 1 and file.series[0].axes == "YX":
        # One section after the other was appended, each as an image of its own.
        return [series.pages[0] for series in file.series]
    shapes = ", ".join(str(series.shape) for series in file.series[:5])
    raise VolumeError(f"{path}: holds {len(file.series)} images (shapes {shapes}), save the volume alone.")


def _only_plane(file: Any, *, path: Path) -> Any:
    if len(file.pages) != 1 or file.pages[0].axes != "YX":
        raise VolumeError(
            f"{path}: holds {len(file.pages)} pages with axes {file.pages[0].axes!r}, but in a folder of slices "
            "each file must be one grey section."
        )
    return file.pages[0]


def _axes_and_shape(series: Any, *, path: Path) -> tuple[str, tuple[int, ...]]:
    """Return axes and shape, without the axes of length 1 that OME and ImageJ always have."""
    axes, shape = str(series.axes), tuple(int(size) for size in series.shape)
    if series.kind == "ome" and axes == "YX":
        axes, shape = "ZYX", (1, *shape)  # OME declares the number of sections even if it is one
    if "S" in axes or series.keyframe.axes != "YX" or not axes.endswith("YX"):
        raise VolumeError(
            f"{path}: is a colour or blocked TIFF with axes {axes!r}, save it as grey sections, one on a page."
        )
    leading = axes[:-2]
    if "T" in leading and len(leading) > 1:
        raise VolumeError(f"{path}: is a time series (axes {axes!r}, shape {shape}), save one time point alone.")
    # Whatever a program calls the only leading axis of a stack, it counts the sections.
    names = {1: "z", 2: "zc" if leading[-1:] == "C" else "cz"}.get(len(leading))
    return ("" if names is None else names + "yx"), shape


def _refuse_undecodable(keyframe: Any, *, path: Path) -> None:
    """Raise now what tifffile would raise at the first strip: a codec it lacks, or a strip too large to decode."""
    refuse_huge_segments(keyframe, path=path)
    try:
        keyframe.decode(None, 0)
    except ValueError as error:
        name = getattr(keyframe.compression, "name", keyframe.compression)
        if keyframe.compression == 1 and keyframe.bitspersample % 8 == 0:
            raise VolumeError(f"{path}: its pages are described in a way that cannot be, copy it again.") from error
        if importlib.util.find_spec("imagecodecs") is None:
            raise MissingPackageError(
                f"{path}: decoding its {name} compression needs another package, run `pip install imagecodecs`."
            ) from error
        raise VolumeError(f"{path}: its {name} compression cannot be decoded, save it uncompressed.") from error


def _shaped_header(file: Any) -> Mapping[str, Any]:
    """Return the JSON header that tifffile writes into TIFFs of no other dialect."""
    description = file.pages[0].description
    if not file.is_shaped or not description.startswith("{"):
        return {}
    header = json.loads(description)
    return header if isinstance(header, dict) else {}


def _voxel_size(file: Any, *, header: Mapping[str, Any], page: Any) -> StatedVoxelSize:
    if file.is_ome:
        return voxel_size_from_ome(file.ome_metadata or "")
    if "voxel_size_nm" in header:
        return as_voxel_size(header["voxel_size_nm"])
    tags = page.keyframe.tags
    return voxel_size_from_imagej(
        file.imagej_metadata or header if file.is_imagej or header else {},
        y_resolution=tags.valueof("YResolution"),
        x_resolution=tags.valueof("XResolution"),
    )


def _read_plane(page: Any, *, rows: slice, columns: slice) -> npt.NDArray[Any]:
    """Return a crop of one page; strips and tiles outside of the crop are neither read nor decoded."""
    crop = np.empty((rows.stop - rows.start, columns.stop - columns.start), dtype=page.dtype)
    handle = page.parent.filehandle
    closed = handle.closed
    if closed:  # another file of the same image, which tifffile closes when it has been looked at
        handle.open()
    try:
        _fill(crop, page, rows=rows, columns=columns)
    finally:
        if closed:
            handle.close()
    return crop


def _fill(crop: npt.NDArray[Any], page: Any, *, rows: slice, columns: slice) -> None:
    """Decode what of a page lies in `rows` and `columns` into `crop`."""
    decode, handle = page.keyframe.decode, page.parent.filehandle
    for number, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        _, (_, _, top, left, _), (_, height, width, _) = decode(None, number)
        y0, y1 = max(top, rows.start), min(top + height, rows.stop)
        x0, x1 = max(left, columns.start), min(left + width, columns.stop)
        if y0 >= y1 or x0 >= x1:
            continue
        target = crop[y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start]
        if count == 0:  # a segment that was never written
            target[...] = page.keyframe.nodata
            continue
        handle.seek(offset)
        data = handle.read(count)
        if len(data) != count:
            raise VolumeError(f"{handle.path}: ends in the middle of an image, copy it again.")
        segment = decode(data, number, jpegtables=page.jpegtables)[0]
        target[...] = segment[0, y0 - top : y1 - top, x0 - left : x1 - left, 0]


class TiffSink:
    """A new uncompressed TIFF, written through a memory map; dataset and chunks mean nothing here."""

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
        axes = "ZYX" if len(shape) == 3 else "CZYX"
        # OME cannot tell one channel from no axis of channels, nor channels of one section from a stack.
        is_ome = dtype.name in _OME_DTYPES and (axes == "ZYX" or min(shape[:2]) > 1)
        stored = np.dtype("uint8") if dtype.kind == "b" else dtype
        self._array: npt.NDArray[Any] = tifffile.memmap(
            path,
            shape=shape,
            dtype=stored,
            ome=is_ome,
            photometric="minisblack",
            metadata={
                "axes": axes,
                **(_ome_header if is_ome else _json_header)(
                    dtype=dtype, voxel_size_nm=voxel_size_nm, attributes=attributes
                ),
            },
        )
        if hasattr(os, "posix_fallocate"):
            # The file is sparse: without room on the disk, a later write into the map would be a bus error.
            with path.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)

    def write(self, index: tuple[slice, ...], block: npt.NDArray[Any]) -> None:
        """Write `block` at `index`."""
        self._array[index] = block

    def close(self) -> None:
        """Flush the map to the file."""
        assert isinstance(self._array, np.memmap)
        self._array.flush()
        del self._array


def _ome_header(
    *, dtype: np.dtype[Any], voxel_size_nm: VoxelSize | None, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    header: dict[str, Any] = {"Description": description_of(attributes)} if attributes else {}
    for axis, length in zip("ZYX", voxel_size_nm or (), strict=False):
        header |= {f"PhysicalSize{axis}": length, f"PhysicalSize{axis}Unit": "nm"}
    return header


def _json_header(
    *, dtype: np.dtype[Any], voxel_size_nm: VoxelSize | None, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    # TIFF packs booleans into bits, which no map can write, so they are bytes that say what they are.
    header = {"dtype": dtype.name, **attributes}
    return header if voxel_size_nm is None else {**header, "voxel_size_nm": list(voxel_size_nm)}
