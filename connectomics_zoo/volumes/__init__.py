"""Lazy reading and writing of volumes in HDF5, TIFF and Zarr."""

from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.metadata import VoxelSize
from connectomics_zoo.volumes.placement import Placement
from connectomics_zoo.volumes.prediction import Content, StoredPrediction
from connectomics_zoo.volumes.volume import Volume, check_mask, check_pair, open_volume
from connectomics_zoo.volumes.writing import WritableVolume, create_volume

__all__ = [
    "Box",
    "Content",
    "Placement",
    "StoredPrediction",
    "Volume",
    "VoxelSize",
    "WritableVolume",
    "check_mask",
    "check_pair",
    "create_volume",
    "open_volume",
]
