"""Types of another version of the program: a builder or a recipe that has a field more, or another default."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import create_model

import zoo.builders.mednext as builder
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.training import TrainingSpec
from connectomics_zoo.specs import lookup, resolve


def gains(
    monkeypatch: pytest.MonkeyPatch, *, arch: dict[str, Any] | None = None, training: dict[str, Any] | None = None
) -> None:
    """Let specs of MedNeXt have other fields, each given as pydantic's (type, default), from now on."""
    if arch is not None:
        monkeypatch.setattr(builder, "Config", create_model("Config", __base__=builder.Config, **arch))
    if training is not None:
        recipe = create_model("TrainingSpec", __base__=TrainingSpec, **training)
        model = create_model("ModelSpec", __base__=ModelSpec, training=(recipe, ...))
        for module in (lookup, resolve):
            monkeypatch.setattr(module, "ModelSpec", model)
