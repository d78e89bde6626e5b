"""Prediction of whole volumes: a sliding window on one global grid, in bounded memory."""

from connectomics_zoo.predict.run import PredictReport, predict

__all__ = ["PredictReport", "predict"]
