"""The sections of the page, in their order."""

from __future__ import annotations

from performance import alternatives, busy, networks, patches, peers, precision, startup
from performance.common import Section

SECTIONS = {
    "inference": Section("Inference", networks.measure_inference, networks.render_inference),
    "training": Section("Training step", networks.measure_training, networks.render_training),
    "precision": Section("bfloat16 in prediction", precision.measure, precision.render),
    "busy": Section("Beside other work", busy.measure, busy.render),
    "peers": Section("Beside others", peers.measure, peers.render),
    "families": Section("Other families", networks.measure_families, networks.render_families),
    "alternatives": Section("What generic means give other families", alternatives.measure, alternatives.render),
    "loading": Section("Loading weights", startup.measure_loading, startup.render_loading),
    "startup": Section("Starting", startup.measure_startup, startup.render_startup),
    "verify": Section("Verifying the zoo", startup.measure_verify, startup.render_verify),
    "loader": Section("Input pipeline", patches.measure, patches.render),
}
"""By the name that `--only` takes."""

ON_DATA = ("precision",)
"""Sections that need the volumes on which the shipped weights are scored."""
