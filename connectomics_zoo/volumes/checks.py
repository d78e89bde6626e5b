"""Checks that reading and writing share: data types, and errors of the file libraries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from connectomics_zoo.errors import VolumeError, ZooError, reason

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
        raise VolumeError(
            f"{location}: cannot be read as {kind} ({reason(error)}), check that it is complete and of that kind."
        ) from error
