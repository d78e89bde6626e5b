"""Gives a trained run away: to the Hugging Face Hub, or as weights beside a spec."""

from connectomics_zoo.push.run import PushReport, preview, push, ship
from connectomics_zoo.push.trained import Request

__all__ = ["PushReport", "Request", "preview", "push", "ship"]
