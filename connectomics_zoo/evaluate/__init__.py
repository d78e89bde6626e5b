"""Scores of predictions: overlap of foregrounds and classes, splits and merges of objects."""

from connectomics_zoo.evaluate.run import EvaluateReport, evaluate

__all__ = ["EvaluateReport", "evaluate"]
