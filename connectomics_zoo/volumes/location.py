"""Parses where a volume is: `file.h5:dataset`, `file.tif`, `folder_of_tiffs/` or `volume.zarr:array`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from connectomics_zoo.errors import VolumeError, nearest
from connectomics_zoo.volumes.uri import Place

Format = Literal["hdf5", "tiff", "slices", "zarr"]

FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".zarr": "zarr",
}
FORMS = "file.h5:dataset, file.tif, a folder of .tif slices, or volume.zarr:array"
ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup")

_AFTER_SUFFIX = re.compile(
    "(?:" + "|".join(re.escape(suffix) for suffix in FORMAT_OF_SUFFIX) + r")(?=[:/\\])", re.IGNORECASE
)

JOB_SUFFIX = ".job"
"""Ends the name of the folder, beside an output, of the job that makes it."""


@dataclass(frozen=True)
class Location:
    """A path, and the dataset in it where one was named."""

    path: Path
    dataset: str | None
    format: Format

    def __str__(self) -> str:
        return str(self.path) if self.dataset is None else f"{self.path}:{self.dataset}"


def split_location(text: str, *, root: Path | None = None) -> tuple[Path, str | None]:
    """Split `text` into a path (below `root` if it is relative) and a dataset.

    The dataset begins after a colon that follows a known suffix, so that drive letters and colons in folder
    names are left alone; where several splits are possible, the first whose path exists is meant.

    Raises:
        VolumeError: `text` is empty, a URL, or its dataset is not a plain path.
    """
    if not text.strip():
        raise VolumeError(f"the location of a volume is empty, give {FORMS}.")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise VolumeError(f"{text}: is a URL, and volumes are read from local files, so download it first.")
    splits = [((root or Path()) / Path(path).expanduser(), dataset) for path, dataset in _possible_splits(text)]
    path, dataset = next((split for split in splits if split[0].exists()), splits[0])
    if dataset is None:
        return path, None
    parts = dataset.replace("\\", "/").strip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise VolumeError(f"{text}: {dataset!r} is not the path of a dataset, write group/dataset.")
    return path, "/".join(parts)


def _possible_splits(text: str) -> Iterator[tuple[str, str | None]]:
    for match in _AFTER_SUFFIX.finditer(text):
        path, rest = text[: match.end()], text[match.end() :]
        if rest[0] == ":":
            yield path, rest[1:]
        elif match.group().lower() == ".zarr" and rest.strip("/\\"):
            # volume.zarr/group/array, as many tools write it
            yield path, rest[1:].replace(":", "/")
    yield text, None


def find_volume(location: str | Path, *, root: Path | None = None) -> Location:
    """Return where the volume `location` is; relative ones are below `root`.

    Raises:
        VolumeError: nothing is there, or its kind is unknown.
    """
    path, dataset = split_location(str(location), root=root)
    _refuse_foreign(path)
    if not path.exists():
        if path.with_name(path.name + JOB_SUFFIX).exists():
            raise VolumeError(
                f"{path}: is not finished: repeat the command that makes it, which goes on where it stopped, or see "
                f"zoo status {path}."
            )
        raise VolumeError(f"{path}: there is no such file or folder{_siblings_hint(path)}")
    kind: Format
    if path.is_dir():
        is_zarr = path.suffix.lower() == ".zarr" or any((path / name).exists() for name in ZARR_METADATA)
        kind = "zarr" if is_zarr else "slices"
    else:
        kind = _format_of_file(path)
    if dataset is not None and kind in ("tiff", "slices"):
        raise VolumeError(f"{path}: a TIFF has no datasets, leave ':{dataset}' out.")
    return Location(path, dataset, kind)


def job_place(out: Place) -> Place:
    """Return the folder of the job that makes the output at `out`."""
    return out.parent / f"{out.name}{JOB_SUFFIX}"


def _refuse_foreign(path: Path) -> None:
    """Refuse a store that is recognised and not read."""
    for place in (path, *path.parents):
        # What lies in it may be named after a colon, as in a Zarr store.
        store = place.with_name(place.name.rpartition(":")[0]) if ".n5:" in place.name.lower() else place
        is_named = store.suffix.lower() == ".n5"
        if store.is_dir() and (is_named or (place == path and _has_n5_metadata(store))):
            raise VolumeError(f"{store}: is an N5 store, which is not read: convert it to Zarr or HDF5 first.")
    if (path / "info").is_file():
        raise VolumeError(
            f"{path}: looks like a volume of Neuroglancer (precomputed), which is not read: convert it to Zarr or HDF5 "
            "first."
        )


def _has_n5_metadata(folder: Path) -> bool:
    """Whether a folder is an array or a group of N5, which a Zarr group beside it overrides."""
    if any((folder / name).exists() for name in ZARR_METADATA) or not (folder / "attributes.json").is_file():
        return False
    text = (folder / "attributes.json").read_text(encoding="utf-8", errors="replace")
    return '"blockSize"' in text or '"n5"' in text


def _format_of_file(path: Path) -> Format:
    if not path.is_file():
        raise VolumeError(f"{path}: is no regular file but a pipe or a device, save the volume in a file first.")
    suffix = path.suffix.lower()
    if suffix not in FORMAT_OF_SUFFIX:
        raise VolumeError(f"{path}: volumes with the suffix {suffix!r} are not known, give {FORMS}.")
    if FORMAT_OF_SUFFIX[suffix] == "zarr":
        raise VolumeError(f"{path}: is a file, and a Zarr volume is a folder, so unpack it first.")
    return FORMAT_OF_SUFFIX[suffix]


def _siblings_hint(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f", and no folder {folder} either, check the path."
    siblings = [item.name for item in folder.iterdir() if not item.name.startswith(".")]
    return f" ({nearest(path.name, siblings).rstrip('.')}), check the path."


def dataset_error(location: str, *, dataset: str | None, known: list[str]) -> VolumeError:
    """Return the error for a missing or unstated `dataset` where the file holds the arrays `known`."""
    if not known:
        return VolumeError(f"{location}: holds no array, check that it is the right file.")
    if dataset is not None:
        return VolumeError(f"{location}: there is no array {dataset!r}, {nearest(dataset, known)}")
    listed = ", ".join(sorted(known)[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return VolumeError(
        f"{location}: holds {len(known)} arrays ({listed}), say which one, as in "
        f"{PurePosixPath(location).name}:{sorted(known)[0]}."
    )
