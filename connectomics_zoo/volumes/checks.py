"""Checks that reading and writing share: data types, and errors of the file libraries."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from connectomics_zoo.errors import VolumeError, ZooError, reason

_OF_DISKS = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ETIMEDOUT)
"""What the system says of a disk or a server that fails, whatever is in the file."""

DTYPES = "bool, whole numbers of 8 to 64 bits, or floats of 16 to 64 bits"


def is_supported(dtype: np.dtype[Any]) -> bool:
    """Whether a volume may have this data type."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8


@contextmanager
def readable(location: object, *, kind: str) -> Iterator[None]:
    """Turn what a file library raises on a damaged or unreadable file into one `VolumeError`."""
    try:
        yield
    except (ZooError, MemoryError):
        raise
    except PermissionError as error:
        raise VolumeError(f"{location}: may not be read by you, ask its owner for the right to read it.") from error
    # h5py, tifffile, zarr and their codecs promise no set of errors for damaged files.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_DISKS:
            raise VolumeError(
                f"{location}: lies on a disk that fails to read it, check the disk, or read a copy ({reason(error)})."
            ) from error
        raise VolumeError(
            f"{location}: cannot be read as {kind}, so it is damaged, incomplete or of another kind, copy it again or "
            f"check what it is ({reason(error)})."
        ) from error


def refuse_empty(path: Path) -> None:
    """Refuse a file without a byte, which a copy that failed or a full disk leaves.

    Raises:
        VolumeError: it is empty.
    """
    if path.stat().st_size == 0:
        raise VolumeError(f"{path}: is empty (0 bytes), copy or write it again.")


def is_regular(path: Path) -> bool:
    """Whether a regular file is there.

    Raises:
        VolumeError: something else is, or a link that leads nowhere or an empty file, which programs take for zeros.
    """
    if path.is_file():
        refuse_empty(path)
        return True
    if os.path.lexists(path):
        raise VolumeError(
            f"{path}: is no regular file but a pipe, a device, a folder or a link that leads nowhere, and each file of "
            "a Zarr volume must be one: copy the volume again."
        )
    return False
