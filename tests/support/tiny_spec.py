"""A spec to verify that is complete and fast, and what a report says of it."""

from __future__ import annotations

from connectomics_zoo.network import build
from connectomics_zoo.specs import releases
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.resolve import resolve_model


def tiny_document():
    """A complete, measured spec of a MedNeXt that runs in a fraction of a second."""
    spec = resolve_model("mednext-S", arch={"base_channels": 2, "block_counts": [1] * 9})
    spec = spec.model_copy(update={"name": "tiny"})
    return spec.model_copy(update={"expect": build.measure_expectation(spec)}).model_dump(mode="json")


TINY = tiny_document()


def release(tmp_path, *references):
    path = tmp_path / "other_zoo" / releases.RELEASES_FILE
    path.write_text(releases.lock_text({reference: releases.content(get_spec(reference)) for reference in references}))


def failures(report):
    """The first failed check of each declaration, by path."""
    (model,) = report.models
    return {check.path: check for check in reversed(model.failures)}
