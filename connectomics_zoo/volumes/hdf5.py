"""Reads one dataset of an HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.axes import agreed_axes, axes_in_attributes
from connectomics_zoo.volumes.checks import readable, refuse_empty
from connectomics_zoo.volumes.hdf5_sources import check_sources, external_voxels, refuse_broken_link
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.location import dataset_error
from connectomics_zoo.volumes.metadata import as_text, voxel_size_from_attributes


class Hdf5Array:
    """An open dataset; `read` touches only the chunks that the index needs."""

    offset_nm: Offset | None = None

    def __init__(self, path: Path, *, dataset: str | None) -> None:
        self._file = _open_file(path)
        try:
            with readable(path, kind="HDF5"):
                self.dataset: str | None = _choose_dataset(self._file, dataset=dataset, path=path)
                self._array = self._file[self.dataset]
                location = f"{path}:{self.dataset}"
                self.elsewhere: tuple[Path, ...] = tuple(check_sources(self._array, path=path, location=location))
                """Other files that its voxels lie in."""
                self._external = external_voxels(self._array, location=location)
                # Without a type (h5py.Empty) or a shape there is nothing to read; rank 0 says so.
                self.shape: tuple[int, ...] = tuple(self._array.shape or ())
                self.dtype: np.dtype[Any] = self._array.dtype
                self.attributes: Mapping[str, Any] = dict(self._array.attrs)
                rank = len(self.shape)
                said = axes_in_attributes(self.attributes) | {"dimension labels": _dimension_labels(self._array)}
                self.axes = agreed_axes(said, rank=rank, location=location)
                self.voxel_size_nm = voxel_size_from_attributes(self.attributes, axes=self.axes)
        except BaseException:
            self._file.close()
            raise

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the block of voxels at `index`, one slice for each axis of the file."""
        with readable(f"{self._file.filename}:{self.dataset}", kind="HDF5"):
            return np.array(self._array[index] if self._external is None else self._external[index])

    def close(self) -> None:
        """Close the file, and another one where a link leads to it."""
        del self._array, self._external
        self._file.close()


def _open_file(path: Path) -> Any:
    """Open a file for reading.

    Raises:
        VolumeError: it is no HDF5 file, is damaged, or is being written.
    """
    with readable(path, kind="HDF5"):
        refuse_empty(path)
        try:
            return h5py.File(path, "r")
        except OSError as error:
            # HDF5 tells these apart in its text alone.
            if "signature not found" in str(error):
                raise VolumeError(
                    f"{path}: is no HDF5 file, or its beginning is damaged, check what it is or copy it again."
                ) from error
            if "truncated file" in str(error):
                raise VolumeError(
                    f"{path}: is cut off ({path.stat().st_size} bytes are less than it says), copy it again."
                ) from error
            if "lock file" in str(error) or "already open for write" in str(error):
                raise VolumeError(
                    f"{path}: another program has it open for writing, close it there, or read a copy; if none has, it "
                    "was not closed properly: run `h5clear -s` on it."
                ) from error
            raise


def _dimension_labels(array: Any) -> list[str]:
    """Return the labels of a dataset's axes, or the names of the dimension scales attached to them."""
    labels = []
    for dimension in array.dims:
        scale = dimension[0].name if not dimension.label and len(dimension) else None
        labels.append(as_text(dimension.label or (scale or "").rpartition("/")[2]))
    return labels


def _choose_dataset(file: Any, *, dataset: str | None, path: Path) -> str:
    """Return the path of `dataset`, or of the only dataset in the file or group."""
    inside = dataset or "/"
    if isinstance(file.get(inside), h5py.Dataset):
        return inside
    refuse_broken_link(file, inside, path=path)
    known = hdf5_datasets(file)
    below = known if dataset is None else [name for name in known if name.startswith(f"{dataset}/")]
    if len(below) == 1:
        return below[0]
    if not known:
        for name in _links(file):
            refuse_broken_link(file, name, path=path)
    if dataset is not None and below:
        raise dataset_error(f"{path}:{dataset}", dataset=None, known=below)
    raise dataset_error(str(path), dataset=dataset, known=known)


def hdf5_datasets(file: Any) -> list[str]:
    """Return the paths of all datasets in an open HDF5 file or group, and of those in other files that it links to."""
    names = _datasets_below(file)
    for link in _links(file):
        item = file.get(link)
        # What a soft link names in the file has been visited.
        if item is None or item.file.filename == file.filename:
            continue
        if isinstance(item, h5py.Dataset):
            names.append(link)
        elif isinstance(item, h5py.Group):
            # Links there are not followed, which might lead back.
            names += [f"{link}/{name}" for name in _datasets_below(item)]
    return names


def _datasets_below(group: Any) -> list[str]:
    names: list[str] = []

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(name)

    group.visititems(collect)
    return names


def _links(file: Any) -> list[str]:
    """Return the paths of all soft and external links."""
    names: list[str] = []

    def collect(name: str, link: Any) -> None:
        if not isinstance(link, h5py.HardLink):
            names.append(name)

    file.visititems_links(collect)
    return names
