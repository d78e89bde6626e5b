"""What an HDF5 dataset needs beside its file: filters, and other files that hold its voxels."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from connectomics_zoo.errors import MissingPackageError, VolumeError

_FILTERS = {
    4: "szip",
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32018: "fcidecomp",
    32024: "sz3",
    32026: "blosc2",
    32028: "sperr",
}
_PLUGIN = "hdf5plugin"
_MOST_VIRTUAL = 8
"""Virtual datasets of virtual datasets that are looked through."""


def refuse_filters(array: Any, *, location: str) -> None:
    """Refuse a dataset whose compression is not installed.

    Raises:
        MissingPackageError: naming the filter and the package that has it.
    """
    properties = array.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code, _, _, said = properties.get_filter(number)
        if _is_available(code):
            continue
        name = _FILTERS.get(code) or said.decode("utf-8", "replace") or "unknown"
        raise MissingPackageError(
            f"{location}: is compressed by {name} (HDF5 filter {code}), which is not installed, "
            f"run `pip install {_PLUGIN}`, or write it again with gzip."
        )


def _is_available(code: int) -> bool:
    if not h5py.h5z.filter_avail(code) and importlib.util.find_spec(_PLUGIN) is not None:
        importlib.import_module(_PLUGIN)  # which registers its filters
    return bool(h5py.h5z.filter_avail(code))


def check_sources(array: Any, *, path: Path, location: str) -> list[Path]:
    """Check that the voxels of a dataset are all where the file says; HDF5 reads what is missing as 0.

    Args:
        array: the dataset.
        path: the file that was opened.
        location: names the dataset in errors.

    Returns:
        Other files that its voxels lie in.

    Raises:
        VolumeError: a file that holds voxels is missing, or lies where it may not.
        MissingPackageError: its compression is not installed.
    """
    refuse_filters(array, location=location)
    # Through a link it may lie in another file, to which the names of further files are relative.
    own = Path(array.file.filename)
    found = {own.resolve()}
    _check_virtual(array, own=own, location=location, depth=0, found=found)
    found |= {(own.parent / name).resolve() for name, *_ in array.external or ()}
    return sorted(found - {path.resolve()})


def external_voxels(array: Any, *, location: str) -> npt.NDArray[Any] | None:
    """Return the voxels of a dataset that has them in a file of raw data, None where it has none.

    HDF5 would seek that file in the working folder, and read what is missing at its end as 0.

    Raises:
        VolumeError: the file is missing, too short, or not in the folder of the dataset's.
    """
    if not array.external:
        return None
    if len(array.external) > 1:
        raise VolumeError(
            f"{location}: has its voxels in {len(array.external)} files of raw data, and one is read: copy the dataset "
            "into one file."
        )
    (name, offset, _), folder = array.external[0], Path(array.file.filename).parent
    source = folder / name
    if source.resolve().parent != folder.resolve():
        raise VolumeError(
            f"{location}: has its voxels in {source}, outside of the folder of its file, which is not followed: "
            "move the file there, or copy the dataset into one file."
        )
    _require_file(source, location=location)
    if source.stat().st_size < offset + array.nbytes:
        raise VolumeError(f"{location}: its voxels lie in {source}, which ends too early, copy it again.")
    return np.memmap(source, dtype=array.dtype, mode="r", offset=offset, shape=array.shape)


def _check_virtual(array: Any, *, own: Path, location: str, depth: int, found: set[Path]) -> None:
    """Refuse a virtual dataset if a file or a dataset that it is put together from is missing; add those to `found`."""
    if not array.is_virtual:
        return
    if depth == _MOST_VIRTUAL:
        raise VolumeError(f"{location}: is put together from itself or too deeply, save it as one dataset.")
    wanted = {(source.file_name, source.dset_name) for source in array.virtual_sources()}
    for file_name, dataset in sorted(wanted):
        if file_name == ".":
            if not isinstance(array.file.get(dataset), h5py.Dataset):
                raise VolumeError(
                    f"{location}: its voxels lie in {dataset}, which the file does not have, save it again."
                )
            _check_virtual(array.file[dataset], own=own, location=location, depth=depth + 1, found=found)
            continue
        source = _virtual_source(file_name.replace("%b", "0"), folder=own.parent)
        _require_file(source, location=location)
        found.add(source.resolve())
        with h5py.File(source, "r") as opened:
            inside = dataset.replace("%b", "0")
            item = opened.get(inside)
            if not isinstance(item, h5py.Dataset):
                raise VolumeError(
                    f"{location}: its voxels lie in {source}:{inside}, which that file does not have, copy it again."
                )
            refuse_filters(item, location=f"{source}:{inside}")
            _check_virtual(item, own=source, location=location, depth=depth + 1, found=found)


def _virtual_source(name: str, *, folder: Path) -> Path:
    """Return where HDF5 finds the source: as named, else beside the file under the named path, else under its name."""
    named = Path(name)
    tried = (named, folder / named.name) if named.is_absolute() else (folder / named, named)
    return next((path for path in tried if path.exists()), tried[0])


def refuse_broken_link(file: Any, name: str, *, path: Path) -> None:
    """Raise if a link on the way to `name` leads nowhere; HDF5 takes what lies behind for not there.

    Raises:
        VolumeError: naming what is missing.
    """
    parts = name.strip("/").split("/")
    for depth in range(1, len(parts) + 1):
        step = "/".join(parts[:depth])
        link = file.get(step, getlink=True)
        if link is None or file.get(step) is not None:
            continue
        if isinstance(link, h5py.ExternalLink):
            source = path.parent / link.filename
            _require_file(source, location=f"{path}:{step}")
            raise VolumeError(
                f"{path}:{step}: is a link to {source}:{link.path}, which that file does not have, correct the link."
            )
        if isinstance(link, h5py.SoftLink):
            raise VolumeError(f"{path}:{step}: is a link to {link.path}, which is not there, correct the link.")


def _require_file(source: Path, *, location: str) -> None:
    if not source.exists():
        raise VolumeError(f"{location}: its voxels lie in {source}, and there is no such file, put it back.")
    if not source.is_file():
        raise VolumeError(f"{location}: its voxels lie in {source}, which is no regular file, give the file itself.")
