"""Which boxes of a volume to annotate next."""

from connectomics_zoo.suggest.report import Suggestion, SuggestReport
from connectomics_zoo.suggest.run import suggest

__all__ = ["SuggestReport", "Suggestion", "suggest"]
