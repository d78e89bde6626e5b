"""Scores of predictions: overlap of foregrounds and classes, splits and merges of objects."""

from connectomics_zoo.evaluate.run import Report, evaluate

__all__ = ["Report", "evaluate"]
