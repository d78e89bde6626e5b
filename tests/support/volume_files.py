"""Small volumes and expectations that the tests of `connectomics_zoo.volumes` share."""

from __future__ import annotations

import re
import tracemalloc

import h5py
import numpy as np
import pytest
import zarr

from connectomics_zoo.errors import OutputError, VolumeError
from connectomics_zoo.volumes import create_volume, open_volume

ZARR_3 = int(zarr.__version__.split(".")[0]) >= 3


def example(*shape, dtype="uint8"):
    numbers = np.random.default_rng(0).integers(0, 100, shape)
    return (numbers > 50) if dtype == "bool" else numbers.astype(dtype)


def write(location, array, *, voxel_size_nm=None, **options):
    channels = array.shape[0] if array.ndim == 4 else None
    with create_volume(
        location,
        shape=array.shape[-3:],
        dtype=array.dtype,
        channels=channels,
        voxel_size_nm=voxel_size_nm,
        **options,
    ) as volume:
        volume.write(volume.whole, array)
    return location


def read_all(location):
    with open_volume(location) as volume:
        return volume.read(volume.whole)


def h5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file[name] = array
    return path


def fails(text):
    return pytest.raises(VolumeError, match=re.escape(text))


def refuses(text):
    return pytest.raises(OutputError, match=re.escape(text))


def peak_bytes(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def make_array(group, name, array, **attributes):
    if ZARR_3:
        made = group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=array.shape)
    else:
        made = group.create_dataset(name, shape=array.shape, dtype=array.dtype, chunks=array.shape)
    made[...] = array
    made.attrs.update(attributes)
    return made
