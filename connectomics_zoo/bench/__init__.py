"""Speed and peak memory of networks on this machine, against their plain float32 implementation in the same run."""

from connectomics_zoo.bench.report import BenchReport, Measurement, ModelBench
from connectomics_zoo.bench.run import bench

__all__ = ["BenchReport", "Measurement", "ModelBench", "bench"]
