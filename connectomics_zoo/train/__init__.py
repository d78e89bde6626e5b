"""Training: a run folder from an experiment; importing it imports no torch."""

from connectomics_zoo.train.report import TrainReport
from connectomics_zoo.train.run import complete_spec, preview_patches, train

__all__ = ["TrainReport", "complete_spec", "preview_patches", "train"]
