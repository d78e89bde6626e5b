"""Writes Zarr stores on disk (formats 2 and 3) with OME-NGFF metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from connectomics_zoo.volumes.hierarchy import zarr_arrays
from connectomics_zoo.volumes.metadata import VoxelSize

__all__ = ["ZarrSink", "zarr_arrays"]

_LIBRARY_VERSION = int(zarr.__version__.split(".")[0])


class ZarrSink:
    """A new Zarr store: an OME-NGFF image with the one level "0".

    zarr-python 3 writes Zarr format 3 with OME-NGFF 0.5, and zarr-python 2 format 2 with OME-NGFF 0.4.
    """

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
        image_attributes = _multiscales_attributes(rank=len(shape), voxel_size_nm=voxel_size_nm)
        library: Any = zarr
        if _LIBRARY_VERSION >= 3:
            root = library.open_group(str(path), mode="w", zarr_format=3)
            image = root.require_group(dataset) if dataset else root
            image.attrs.update({"ome": {"version": "0.5", "multiscales": [image_attributes]}})
            self._array: Any = image.create_array(
                "0",
                shape=shape,
                dtype=dtype,
                chunks=chunks,
                compressors=library.codecs.ZstdCodec(level=3),
                fill_value=0,
                dimension_names=list("czyx"[-len(shape) :]),
            )
        else:
            root = library.open_group(str(path), mode="w")
            image = root.require_group(dataset) if dataset else root
            image.attrs.update({"multiscales": [{"version": "0.4", **image_attributes}]})
            self._array = image.create_dataset(
                "0",
                shape=shape,
                dtype=dtype,
                chunks=chunks,
                compressor=library.Zstd(level=3),
                fill_value=0,
                dimension_separator="/",
            )
        self._array.attrs.update(attributes)

    def write(self, index: tuple[slice, ...], block: npt.NDArray[Any]) -> None:
        """Write `block` at `index`."""
        self._array[index] = block

    def close(self) -> None:
        """Nothing is held back between two writes."""


def _multiscales_attributes(*, rank: int, voxel_size_nm: VoxelSize | None) -> dict[str, Any]:
    unit = {} if voxel_size_nm is None else {"unit": "nanometer"}
    axes: list[dict[str, str]] = [{"name": axis, "type": "space", **unit} for axis in "zyx"]
    scale = [1.0, 1.0, 1.0] if voxel_size_nm is None else list(voxel_size_nm)
    if rank == 4:
        axes, scale = [{"name": "c", "type": "channel"}, *axes], [1.0, *scale]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    return {"axes": axes, "datasets": [level]}
