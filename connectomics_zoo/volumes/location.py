"""Parses where a volume is: `file.h5:dataset`, `file.tif`, a folder, `volume.zarr:array#level`, or a URI of a store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from connectomics_zoo.errors import VolumeError, nearest
from connectomics_zoo.volumes.checks import readable
from connectomics_zoo.volumes.store_files import find_files, read_files, refuse_missing_bucket
from connectomics_zoo.volumes.uri import Place, Uri, is_uri, parse_place

Format = Literal["hdf5", "tiff", "slices", "zarr", "n5", "precomputed", "nifti", "mrc"]

FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".zarr": "zarr",
}
"""Of the formats that are written."""

_READ_SUFFIXES: dict[str, Format] = {
    **FORMAT_OF_SUFFIX,
    ".n5": "n5",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".mrc": "mrc",
    ".rec": "mrc",
    ".map": "mrc",
}
_STORES: dict[Format, str] = {"zarr": "Zarr", "n5": "N5", "precomputed": "precomputed"}
"""Formats that are folders of chunks: they may lie behind URIs, and have levels."""

_WITHOUT_DATASETS: dict[Format, str] = {
    "tiff": "a TIFF",
    "slices": "a folder of sections",
    "nifti": "a NIfTI file",
    "mrc": "an MRC file",
    "precomputed": "a precomputed volume",
}
FORMS = (
    "file.h5:dataset, file.tif, file.nii.gz, file.mrc, a folder of .tif or .png sections, volume.zarr:array, "
    "volume.n5:array, a folder of precomputed chunks, or the s3://, gs:// or https:// URI of one of the last three"
)
ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup")
_N5_METADATA = "attributes.json"
_PRECOMPUTED_METADATA = "info"

_SUFFIXES = "|".join(re.escape(suffix) for suffix in sorted(_READ_SUFFIXES, key=len, reverse=True))
_AFTER_SUFFIX = re.compile(rf"(?:{_SUFFIXES})(?=[:/\\#])", re.IGNORECASE)
_LEVEL = re.compile(r"(.+?)[/\\]?#([^#/\\:]+)", re.DOTALL)

JOB_SUFFIX = ".job"
"""Ends the name of the folder, beside an output, of the job that makes it."""


@dataclass(frozen=True)
class Location:
    """A file, folder or store, and the dataset in it and the level of that where one was named."""

    place: Place
    dataset: str | None
    format: Format
    level: str | None = None

    def __str__(self) -> str:
        dataset = "" if self.dataset is None else f":{self.dataset}"
        return f"{self.place}{dataset}" + ("" if self.level is None else f"#{self.level}")


def split_place(text: str, *, root: Path | None = None) -> tuple[Place, str | None]:
    """Split `text` into a local path (below `root` if it is relative) or a URI, and a dataset.

    The dataset begins after a colon that follows a known suffix, so that drive letters and colons in folder
    names are left alone; where several splits are possible, the first whose path exists is meant.

    Raises:
        VolumeError: `text` is empty, a URI that is not read, or its dataset is not a plain path.
    """
    if not text.strip():
        raise VolumeError(f"the location of a volume is empty, give {FORMS}.")
    base = _place_of_root(root)
    if is_uri(text):
        place, dataset = _split_uri(parse_place(text))
    elif isinstance(base, Uri) and not Path(text).expanduser().is_absolute():
        place, dataset = _split_uri(parse_place(f"{base}/{text}"))
    else:
        folder = base if isinstance(base, Path) else Path()
        splits = [(folder / Path(path).expanduser(), dataset) for path, dataset in _possible_splits(text)]
        place, dataset = next((split for split in splits if split[0].exists()), splits[0])
    if dataset is None:
        return place, None
    parts = dataset.replace("\\", "/").strip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise VolumeError(f"{text}: {dataset!r} is not the path of a dataset, write group/dataset.")
    return place, "/".join(parts)


def _place_of_root(root: Path | None) -> Place:
    """Return the place that `root` is; as a `Path`, the URI of a folder has lost one of its slashes."""
    text = "" if root is None else root.as_posix()
    found = re.match(r"(s3|gs|https?):/(?=[^/])", text)
    return (root or Path()) if found is None else parse_place(f"{found[1]}://{text[found.end() :]}")


def _split_uri(place: Place) -> tuple[Place, str | None]:
    if isinstance(place, Path):
        return split_place(str(place))
    path, dataset = next(_possible_splits(place.path))
    return Uri(place.scheme, place.authority, path, place.query), dataset


def _possible_splits(text: str) -> Iterator[tuple[str, str | None]]:
    for match in _AFTER_SUFFIX.finditer(text):
        path, rest = text[: match.end()], text[match.end() :]
        if rest[0] == ":":
            yield path, rest[1:]
        elif match.group().lower() in (".zarr", ".n5") and rest.strip("/\\")[:1] not in ("", "#"):
            # volume.zarr/group/array, as many tools write it
            yield path, rest[1:].replace(":", "/")
    yield text, None


def find_volume(location: str | Path, *, root: Path | None = None) -> Location:
    """Return where the volume `location` is; relative ones are below `root`.

    Raises:
        VolumeError: nothing is there, or its kind is unknown.
    """
    place, dataset = split_place(str(location), root=root)
    level = None
    if dataset is None and (isinstance(place, Uri) or not place.exists()):
        place, level = _without_level(place)
    kind = _kind_of_store(place, dataset=dataset) if isinstance(place, Uri) else _kind_of_path(place)
    if kind in _STORES:
        # Where an array is named so, the hash is no mark.
        if dataset is not None and "#" in dataset and not _is_there(place, dataset):
            dataset, level = _split_level(dataset)
    elif level is not None:
        raise VolumeError(f"{place}: is no store of several levels, leave '#{level}' out.")
    if dataset is not None and kind in _WITHOUT_DATASETS:
        raise VolumeError(f"{place}: {_WITHOUT_DATASETS[kind]} has no datasets, leave ':{dataset}' out.")
    return Location(place, dataset, kind, level)


def survives_fork(location: str | Path, *, root: Path | None = None) -> bool:
    """Whether a volume can be read in a process that was forked from one which has read stores of chunks.

    Raises:
        VolumeError: it is not there.
    """
    place, _ = split_place(str(location), root=root)
    return isinstance(place, Path) and find_volume(location, root=root).format not in ("n5", "precomputed")


def _split_level(text: str) -> tuple[str, str | None]:
    found = _LEVEL.fullmatch(text)
    return (text, None) if found is None else (found[1], found[2])


def _without_level(place: Place) -> tuple[Place, str | None]:
    """Split `folder#level`; a local path that holds the mark has been found not to be there."""
    if isinstance(place, Uri):
        path, level = _split_level(place.path)
        return Uri(place.scheme, place.authority, path, place.query), level
    path, level = _split_level(str(place))
    return (Path(path), level) if level is not None and Path(path).exists() else (place, None)


def _is_there(place: Place, dataset: str) -> bool:
    return isinstance(place, Path) and (place / dataset).exists()


def _kind_of_path(path: Path) -> Format:
    if not path.exists():
        if path.with_name(path.name + JOB_SUFFIX).exists():
            raise VolumeError(
                f"{path}: is not finished: repeat the command that makes it, which goes on where it stopped, or see "
                f"zoo status {path}."
            )
        raise VolumeError(f"{path}: there is no such file or folder{_siblings_hint(path)}")
    if not path.is_dir():
        return _format_of_file(path)
    found = {name: (path / name).read_bytes() for name in _store_metadata() if (path / name).is_file()}
    return _store_format(path, found) or "slices"


def job_place(out: Place) -> Place:
    """Return the folder of the job that makes the output at `out`."""
    return out.parent / f"{out.name}{JOB_SUFFIX}"


def _store_metadata() -> tuple[str, ...]:
    return (*ZARR_METADATA, _N5_METADATA, _PRECOMPUTED_METADATA)


def _store_format(place: Place, found: Mapping[str, bytes]) -> Format | None:
    """Return the format of a store by its name and its files of metadata."""
    by_name = _READ_SUFFIXES.get(place.suffix.lower())
    if by_name in ("zarr", "n5"):
        return by_name
    if any(name in found for name in ZARR_METADATA):
        return "zarr"
    if _N5_METADATA in found and re.search(rb'"(?:blockSize|n5)"', found[_N5_METADATA]):
        return "n5"
    if _PRECOMPUTED_METADATA in found and _is_info(found[_PRECOMPUTED_METADATA]):
        return "precomputed"
    return None


def _is_info(content: bytes) -> bool:
    try:
        document = json.loads(content)
    except ValueError:
        # A damaged one is of that kind, and says so when it is opened.
        return b"scales" in content
    return isinstance(document, dict) and "scales" in document


def _kind_of_store(place: Uri, *, dataset: str | None) -> Format:
    by_name = _format_of_name(place.name)
    if by_name is not None and by_name not in _STORES:
        raise VolumeError(
            f"{place}: is a file behind a URI, and only stores of chunks (Zarr, N5, precomputed) are read from there: "
            "download it first."
        )
    with readable(place, kind="a store"):
        found = find_files(place, _store_metadata())
        kind = _store_format(place, found)
        if not found:
            refuse_missing_bucket(place)
        if kind is not None and (found or dataset is not None):
            return kind
        read_files(place, _store_metadata())  # which says so where they are there and not given
    raise VolumeError(
        f"{place}: there is no Zarr, N5 or precomputed store (none of {', '.join(_store_metadata())}), check the "
        "bucket or host and the path, which must be that of the store's folder."
    )


def _format_of_name(name: str) -> Format | None:
    lower = name.lower()
    return next((kind for suffix, kind in _READ_SUFFIXES.items() if lower.endswith(suffix)), None)


def _format_of_file(path: Path) -> Format:
    if not path.is_file():
        raise VolumeError(f"{path}: is no regular file but a pipe or a device, save the volume in a file first.")
    kind = _format_of_name(path.name)
    if kind is None:
        raise VolumeError(f"{path}: volumes with the suffix {path.suffix!r} are not known, give {FORMS}.")
    if kind in _STORES:
        raise VolumeError(f"{path}: is a file, and a {_STORES[kind]} volume is a folder, so unpack it first.")
    return kind


def _siblings_hint(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f", and no folder {folder} either, check the path."
    siblings = [item.name for item in folder.iterdir() if not item.name.startswith(".")]
    return f" ({nearest(path.name, siblings).rstrip('.')}), check the path."


_IMAGES = ("raw", "image")
"""Names of arrays that are mostly meant."""


def dataset_error(location: str, *, dataset: str | None, known: list[str]) -> VolumeError:
    """Return the error for a missing or unstated `dataset` where the file holds the arrays `known`."""
    if not known:
        return VolumeError(f"{location}: holds no array, check that it is the right file.")
    if dataset is not None:
        return VolumeError(f"{location}: there is no array {dataset!r}, {nearest(dataset, known)}")
    listed = ", ".join(sorted(known)[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    likely = min(known, key=lambda name: (name.rpartition("/")[2] not in _IMAGES, name))
    return VolumeError(
        f"{location}: holds {len(known)} arrays ({listed}), say which one, as in "
        f"{PurePosixPath(location).name}:{likely}."
    )
