"""The prediction that is decoded, as a process opens it that works on a block."""

from __future__ import annotations

from dataclasses import dataclass

from connectomics_zoo.decode.channels import Channels, reach_of, read_channels
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.volumes import Box, open_volume
from connectomics_zoo.volumes.values import read_prediction


@dataclass(frozen=True)
class Source:
    """What is decoded; it can be pickled."""

    location: str
    """The prediction."""
    task: TaskSpec
    """How it is decoded."""
    start: tuple[int, int, int]
    """First voxel (z, y, x) of the prediction that is decoded, which boxes are counted from."""

    def read(self, box: Box) -> Channels:
        """Return the channels of a box.

        Raises:
            VolumeError: it cannot be read.
        """
        with open_volume(self.location) as volume:
            return read_channels(read_prediction(volume, box.moved(self.start), task=self.task), task=self.task)

    @property
    def reach(self) -> tuple[int, int, int]:
        """How far the longest affinity reaches along z, y and x, in voxels."""
        return reach_of(self.task)
