"""Proves what specs declare, by reading, building and running the models; importing it imports no torch."""

from connectomics_zoo.specs.expectation import Check, Level
from connectomics_zoo.verify.report import LEVELS, ModelReport, VerifyReport
from connectomics_zoo.verify.run import verify

__all__ = ["LEVELS", "Check", "Level", "ModelReport", "VerifyReport", "verify"]
