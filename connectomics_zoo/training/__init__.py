"""Training: a run folder from an experiment."""

from connectomics_zoo.training.callbacks import Progress
from connectomics_zoo.training.run import TrainReport, train

__all__ = ["Progress", "TrainReport", "train"]
