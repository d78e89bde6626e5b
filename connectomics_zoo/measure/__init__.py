"""Sizes, shapes, intensities and contacts of the objects in a label volume."""

from connectomics_zoo.measure.report import MeasureReport
from connectomics_zoo.measure.run import measure

__all__ = ["MeasureReport", "measure"]
