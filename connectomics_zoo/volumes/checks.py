"""Checks that reading and writing share: data types, grey values, and errors of the file libraries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError, ZooError, reason

GREY = 0.5
"""Labels of which a larger fraction differs from the next one along x are taken for grey values."""

DTYPES = "bool, whole numbers of 8 to 64 bits, or floats of 16 to 64 bits"


def is_supported(dtype: np.dtype[Any]) -> bool:
    """Whether a volume may have this data type."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def count_changes(labels: NDArray[Any], known: NDArray[np.bool_] | None = None) -> tuple[int, int]:
    """Return how many voxels of (Z, Y, X) differ from the next one along x, and how many have a next one.

    Of both voxels, the label must be `known`; None: all are.
    """
    different = labels[..., 1:] != labels[..., :-1]
    if known is None:
        return int(np.count_nonzero(different)), different.size
    both = known[..., 1:] & known[..., :-1]
    return int(np.count_nonzero(different & both)), int(np.count_nonzero(both))


def grey_problem(different: int, compared: int) -> str | None:
    """Return what is wrong with labels that look like a grey image, or None; from the sums of `count_changes`."""
    if different <= GREY * compared:
        return None
    return (
        f"looks like a grey image, not like labels ({round(100 * different / compared)} % of its voxels differ from "
        "the next one along x): give a label volume"
    )


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
