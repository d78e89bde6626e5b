"""Which patch and batch of a model fit into a memory, counted without one."""

from connectomics_zoo.fit.run import Fit, FitReport, fit

__all__ = ["Fit", "FitReport", "fit"]
