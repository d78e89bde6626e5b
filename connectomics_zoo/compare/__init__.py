"""Networks under one budget, on one split of the data, over several seeds: one table and one plot."""

from connectomics_zoo.compare.report import CompareReport, Row
from connectomics_zoo.compare.run import compare

__all__ = ["CompareReport", "Row", "compare"]
