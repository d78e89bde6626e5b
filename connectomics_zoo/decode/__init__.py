"""From predictions to labels: voxel by voxel where a task says so, and to objects, each with a label of its own."""

from connectomics_zoo.decode.run import DecodeReport, decode

__all__ = ["DecodeReport", "decode"]
