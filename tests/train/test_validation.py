"""The score that chooses the weights, and that of predict and evaluate for the same weights."""

from __future__ import annotations

import pytest
from support.tiny_training import request, write_volume

from connectomics_zoo.evaluate import evaluate
from connectomics_zoo.predict import predict
from connectomics_zoo.specs.overrides import merge
from connectomics_zoo.train import train


def test_validation_scores_windows_side_by_side_and_predict_blends_those_that_overlap(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(16, 64, 64))
    pair = {"image": f"{path}:raw", "label": f"{path}:mito"}
    data = {"train": [pair], "validation": [pair]}
    changes = merge(request(path), {"data": data, "threshold": 0.31})  # in the middle of what four steps give
    report = train("mednext-S", changes, output=tmp_path / "run", device="cpu")

    def score(overlap):
        out = f"{tmp_path / 'out.zarr'}"
        predict(tmp_path / "run", pair["image"], out, overlap=overlap, dtype="float32", device="cpu", overwrite=True)
        return evaluate(out, pair["label"]).scores["dice"]

    assert 0.05 < report.metrics["val/dice"] < 0.95
    assert score(0) == pytest.approx(report.metrics["val/dice"], abs=1e-6)
    assert abs(score(0.5) - report.metrics["val/dice"]) > 1e-3
