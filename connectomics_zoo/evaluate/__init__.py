"""Scores of predictions: overlap of foregrounds and classes, splits and merges of objects."""

from connectomics_zoo.evaluate.report import EvaluateReport
from connectomics_zoo.evaluate.run import evaluate

__all__ = ["EvaluateReport", "evaluate"]
