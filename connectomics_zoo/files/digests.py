"""Digests of files: SHA-256, and what git calls a file of that content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from connectomics_zoo.errors import WeightsError


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of the file at `path`."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_git_sha1(path: Path) -> str:
    """Return the hexadecimal SHA-1 under which git keeps the content of the (small) file at `path`."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


SUMS_FILE = "SHA256SUMS"
"""Name of the digests of a folder's files, in the form that `sha256sum --check` reads."""


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write `SHA256SUMS` into `folder`, for the files of these names in it."""
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path) -> dict[str, str]:
    """Return the digests in the `SHA256SUMS` of a folder by file name, checked; none where it has no such file.

    Raises:
        WeightsError: a file is missing or differs, or `SHA256SUMS` cannot be read.
    """
    path = folder / SUMS_FILE
    if not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        raise WeightsError(f"{path}: cannot be read, get the folder again.") from None
    digests = {}
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)", line)
        if match is None:
            raise WeightsError(f"{path}: {line[:80]!r} is no line of digests, get the folder again.")
        file = folder / match[2]
        if not file.is_file() or file_sha256(file) != match[1]:
            raise WeightsError(f"{file}: not the file that {SUMS_FILE} beside it has (damaged?), get the folder again.")
        digests[match[2]] = match[1]
    return digests
