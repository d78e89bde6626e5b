"""Reads the checkpoints of other projects: nothing of theirs is imported or run, and what is not expected is refused.

A checkpoint is a pickle, and a pickle names classes and functions that are called while it is read. Here it is read by
PyTorch's `weights_only` unpickler, which calls none but those that rebuild tensors, and not before every other name in
it has been found on the closed list of a key map; what bears such a name becomes an inert object of ours.
"""

from __future__ import annotations

import io
import pickletools
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import serialization

from connectomics_zoo.convert.exported_program import is_exported_program, read_exported_program
from connectomics_zoo.convert.key_map import KeyMap
from connectomics_zoo.errors import LimitError, WeightsError, ZooError
from connectomics_zoo.files.safetensors import PICKLES
from connectomics_zoo.schema.limits import MAX_WEIGHTS_BYTES
from connectomics_zoo.weights.storage import read_weights

MAX_PICKLE_BYTES = 64 * 2**20
"""The largest pickle beside the tensors; what the known formats keep there takes far less."""

EXPORTED_PROGRAMS = "exported_programs"
"""The key under which the tensors of exported programs are told, each by its name."""

_ZIP = b"PK\x03\x04"

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files began before PyTorch 1.6: the pickle of its magic number."""

_LEGACY_PICKLES = 5
"""What they hold before the tensors, each its own pickle: magic number, version, system, object, names of tensors."""

_CONTAINERS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7z",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""How the files of packers begin."""

_TAR = slice(257, 262)
"""Where a tar file says `ustar`."""

_ENDINGS = (".safetensors", ".pt2", *PICKLES)
"""How checkpoints are called."""

_reading = threading.Lock()


class Inert:
    """What a class or function of another project becomes: it takes whatever it is given, and does nothing."""

    def __init__(self, *_: Any) -> None:
        """Forget what was given."""

    def __setstate__(self, _: Any) -> None:
        """Forget what was given."""


class InertMapping:
    """What another project's dictionary becomes: a plain one, since the unpickler puts items into nothing else."""

    def __new__(cls, *_: Any) -> Any:
        """Forget what was given."""
        return OrderedDict()


@dataclass(frozen=True)
class ForeignCheckpoint:
    """What a file holds."""

    content: dict[Any, Any]
    """The top of it; tensors are on the CPU."""
    pickled: tuple[str, ...]
    """The names of other projects in it, all of which have become inert."""


def read_foreign_checkpoint(path: Path, maps: Sequence[KeyMap]) -> ForeignCheckpoint:
    """Return what the checkpoint at `path` holds, if one of `maps` allows every name in its pickle.

    A safetensors file has no pickle, and holds tensors at its top. Of an exported program, only the weights are read.

    Raises:
        WeightsError: it is missing, damaged or no checkpoint, or its pickle names what no map allows: then nothing of
            it has been unpickled.
        LimitError: it is too large.
    """
    _refuse_no_file(path)
    if path.suffix == ".safetensors":
        return ForeignCheckpoint(dict(read_weights(path, max_bytes=MAX_WEIGHTS_BYTES)), ())
    if path.stat().st_size > MAX_WEIGHTS_BYTES:
        raise LimitError(
            f"{path}: larger than the {MAX_WEIGHTS_BYTES} bytes that weights may have, is it a checkpoint?"
        )
    is_zip = _is_zip(path)
    with _reading, _no_permissions(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old PyTorch's storages, which are read all the same
        try:
            if is_zip and is_exported_program(_records(path)):
                return ForeignCheckpoint({EXPORTED_PROGRAMS: read_exported_program(path)}, ())
            names = sorted(_names_in_zip(path) if is_zip else _names_in_legacy(path))
            chosen = _allowing(path, names, maps)
            permitted: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
                (InertMapping if chosen.is_mapping(name) else Inert, name) for name in names
            ]
            with serialization.safe_globals(permitted):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except ZooError:
            raise
        # Whatever a damaged pickle makes torch, zipfile and pickletools raise, down to a KeyError.
        except Exception as error:
            raise WeightsError(f"{path}: not a readable checkpoint ({_reason(error)}), get it again.") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds {type(content).__name__}, a checkpoint is a dictionary with tensors.")
    return ForeignCheckpoint(content, tuple(names))


def _refuse_no_file(path: Path) -> None:
    """Refuse what is no regular file: a pipe would be waited for, and a folder is no checkpoint yet."""
    if path.is_dir():
        files = sorted(item.name for item in path.iterdir() if item.suffix in _ENDINGS)
        way = (
            f"give a file in it ({', '.join(files[:3])})"
            if files
            else ("a sharded one (FSDP, DeepSpeed) is made one file by the program that wrote it: give that file")
        )
        raise WeightsError(f"{path}: is a folder, and a checkpoint is one file: {way}.")
    if not path.is_file():
        what = "is no regular file" if path.exists() else "there is no such file"
        raise WeightsError(f"{path}: {what}, check the path.")


def _is_zip(path: Path) -> bool:
    """Whether the file is of today's format or, else, of that before PyTorch 1.6; anything else is refused."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_TAR.stop)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}), check its permissions.") from None
    if head.startswith(_ZIP):
        return True
    if head.startswith(_LEGACY):
        return False
    packer = next((name for start, name in _CONTAINERS.items() if head.startswith(start)), None)
    packer = "tar" if head[_TAR] == b"ustar" else packer
    if packer is not None:
        raise WeightsError(f"{path}: a {packer} file, unpack it and give the checkpoint that is in it.")
    raise WeightsError(
        f"{path}: not a file that torch.save writes, give a checkpoint (.ckpt, .pth, .pt, .model, .pt2, .safetensors) "
        "or an ONNX file (.onnx)."
    )


@contextmanager
def _no_permissions() -> Iterator[None]:
    """Set aside what other code of this process has permitted to be unpickled."""
    permitted = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    try:
        yield
    finally:
        serialization.add_safe_globals(permitted)  # without clearing: what torch imports meanwhile permits its own


def _records(path: Path) -> list[str]:
    """Return the names in the zip file `path`, without the folder that all are in."""
    with zipfile.ZipFile(path) as archive:
        return [name.partition("/")[2] for name in archive.namelist()]


def _names_in_zip(path: Path) -> set[str]:
    """Return the globals in the pickle of the zip file `path` that are not PyTorch's own; nothing is unpickled."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = {item.filename.partition("/")[2] for item in records}
        if "constants.pkl" in names:
            raise WeightsError(f"{path}: a TorchScript program, give the checkpoint that was saved in training.")
        if "data.pkl" not in names:
            raise WeightsError(f"{path}: a zip file that is no checkpoint, unpack it and give the one that is in it.")
        if any(item.file_size > MAX_PICKLE_BYTES for item in records if item.filename.endswith(".pkl")):
            raise LimitError(f"{path}: its pickle is larger than the {MAX_PICKLE_BYTES} bytes that one may have.")
        if any(item.compress_type != zipfile.ZIP_STORED for item in records):
            raise WeightsError(f"{path}: compressed, which torch.save does not do, save it anew.")
        damaged = archive.testzip()
        if damaged is not None:
            raise WeightsError(f"{path}: damaged, its record {damaged!r} fails its checksum, get it again.")
    return set(serialization.get_unsafe_globals_in_checkpoint(path))


def _names_in_legacy(path: Path) -> set[str]:
    """Return the same of a file from before PyTorch 1.6."""
    with path.open("rb") as stream:
        start = io.BytesIO(stream.read(MAX_PICKLE_BYTES))
    names: set[str] = set()
    for _ in range(_LEGACY_PICKLES):
        begin = start.tell()
        for _ in pickletools.genops(start):
            pass
        pickle = start.getbuffer()[begin : start.tell()].tobytes()
        names.update(serialization.get_unsafe_globals_in_checkpoint(_as_zip(pickle)))
    return names


def _as_zip(pickle: bytes) -> io.BytesIO:
    """Return `pickle` in a file of today's format, the only one whose names PyTorch lists."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/version", "3\n")
    stream.seek(0)
    return stream


def _allowing(path: Path, names: Sequence[str], maps: Sequence[KeyMap]) -> KeyMap:
    """Return the first map that allows all `names`."""
    refused = {item.name: [name for name in names if not item.allows(name)] for item in maps}
    chosen = next((item for item in maps if not refused[item.name]), None)
    if chosen is None:
        fewest = min(refused.values(), key=len)
        raise WeightsError(
            f"{path}: its pickle names {fewest[0]!r}, which could run code and is on no format's list, so nothing was "
            "unpickled: where you trust the file, save its state dict alone."
        )
    return chosen


def _reason(error: Exception) -> str:
    """The first line of an error, of PyTorch's the one that says what it is about."""
    text = str(error).strip() or type(error).__name__
    text = text.rpartition("WeightsUnpickler error: ")[2].strip()
    if isinstance(error, zipfile.BadZipFile):
        text = "its end is missing or damaged"
    return text.splitlines()[0].rstrip(".")[:200]
