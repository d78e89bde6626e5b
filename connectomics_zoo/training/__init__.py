"""Training: a run folder from an experiment; importing it imports no torch."""

from connectomics_zoo.training.report import Progress, TrainReport
from connectomics_zoo.training.start import preview_patches, train

__all__ = ["Progress", "TrainReport", "preview_patches", "train"]
