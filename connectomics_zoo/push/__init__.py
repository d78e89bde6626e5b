"""Gives a trained run away: to the Hugging Face Hub, or as weights beside a spec."""

from connectomics_zoo.push.run import PushReport, preview, push, ship
from connectomics_zoo.push.trained import PushRequest
from connectomics_zoo.runs.folder import PREVIEW

__all__ = ["PREVIEW", "PushReport", "PushRequest", "preview", "push", "ship"]
