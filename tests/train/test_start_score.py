"""What weights score before the first step, and whether training made them better; the curve while it trains."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from support.tiny_training import request, write_volume

from connectomics_zoo.cli._curve import describe_curve, sparkline
from connectomics_zoo.runs.folder import CHECKPOINT_FILE, CURVE_FILE, METRICS_FILE, get_run
from connectomics_zoo.runs.logs import read_scores
from connectomics_zoo.runs.metrics import read_metrics
from connectomics_zoo.train import train
from connectomics_zoo.train.module import SegmentationModule
from connectomics_zoo.train.start_score import ScoreStart
from connectomics_zoo.train.validation import validation_voxel_scores
from connectomics_zoo.weights.storage import read_weights

LOW = 0.1
"""A threshold that even weights of two steps exceed, so that scores say something."""


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    return write_volume(tmp_path_factory.mktemp("volume") / "v.h5")


@pytest.fixture(scope="module")
def first(volume):
    """The folder of a run of the task `mito`, of two steps."""
    changes = request(volume, max_steps=2) | {"threshold": LOW}
    return train("mednext-S", changes, output=volume.parent / "first", device="cpu").folder


@pytest.fixture(scope="module")
def whole(volume, first):
    """The report of a run from these weights that was not stopped."""
    return fine_tune(volume, first, volume.parent / "whole", ema_decay=0.5)


def fine_tune(volume, first, folder, *, task="mito", **more):
    recipe = {name: more.pop(name) for name in list(more) if name not in ("notify", "progress")}
    changes = request(volume, **recipe) | {"task": task, "init_from": str(first), "threshold": LOW}
    return train("mednext-S", changes, output=folder, device="cpu", **more)


def trained(folder):
    return torch.load(folder / CHECKPOINT_FILE, weights_only=True)["state_dict"]


def equal(some, others):
    return some.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in some.items())


@pytest.fixture
def scores(monkeypatch):
    """Let the validations of a run have these scores, and the last one from then on."""
    given = []
    monkeypatch.setattr(
        SegmentationModule, "scores", lambda self: {"dice": given.pop(0) if len(given) > 1 else given[0], "iou": 0.1}
    )
    return given


def test_the_score_before_the_first_step_is_that_of_the_weights(volume, first, tmp_path):
    told = []
    report = fine_tune(volume, first, tmp_path / "run", notify=told.append, max_steps=1, validate_every=1)
    expected = validation_voxel_scores(first, get_run(first))
    assert report.start == pytest.approx(expected, abs=1e-6)
    assert 0 < expected["val/dice"] < 1
    (said,) = [text for text in told if text.startswith("before the first step: ")]
    assert said == f"before the first step: val/dice {expected['val/dice']:.4f}, val/iou {expected['val/iou']:.4f}"
    logged = read_scores(report.folder, "dice")
    assert [step for step, _ in logged] == [0, 1]
    assert logged[0][1] == report.start["val/dice"]
    assert json.loads((report.folder / METRICS_FILE).read_text())["start"] == report.start
    assert "start" not in read_metrics(report.folder)[0]


def test_it_changes_nothing_of_the_training(volume, first, tmp_path, monkeypatch):
    def forward(self, x):
        return self.network(torch.nn.functional.dropout(x, 0.3, training=self.training))

    monkeypatch.setattr(SegmentationModule, "forward", forward)
    scored = fine_tune(volume, first, tmp_path / "scored", ema_decay=0.5).folder
    monkeypatch.setattr(ScoreStart, "on_train_start", lambda *_: None)
    assert equal(trained(scored), trained(fine_tune(volume, first, tmp_path / "plain", ema_decay=0.5).folder))


def test_weights_that_no_step_makes_better_are_kept(volume, first, tmp_path, scores):
    told = []
    scores += [0.8, 0.7, 0.75]
    report = fine_tune(volume, first, tmp_path / "run", notify=told.append, early_stopping=2, max_steps=8)
    assert (report.metrics["step"], report.metrics["val/dice"], report.steps) == (0, 0.8, 4)
    kept, before = (read_weights(folder / "model.safetensors") for folder in (report.folder, first))
    assert equal(kept, before)
    assert any("better than the weights that it started from, which are kept (step 0)" in text for text in told)


def test_new_heads_are_scored_and_do_not_count(volume, first, tmp_path, scores):
    scores += [0.8, 0.7, 0.75]
    report = fine_tune(volume, first, tmp_path / "run", task="membrane")
    assert (report.metrics["step"], report.start["val/dice"]) == (4, 0.8)


@pytest.mark.parametrize("step", [0, 1])
def test_a_run_stopped_around_its_first_step_goes_on_as_if_it_had_not_been(volume, first, whole, tmp_path, step):
    def stop(state):
        if state.done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(volume, first, tmp_path / "run", ema_decay=0.5, progress=stop)
    report = train(tmp_path / "run", resume=True, device="cpu")
    assert equal(trained(report.folder), trained(whole.folder))
    assert (report.start, report.metrics) == (whole.start, whole.metrics)
    assert read_scores(report.folder, "dice") == read_scores(whole.folder, "dice")


def test_the_curve_is_there_after_the_first_validation(volume, tmp_path, monkeypatch):
    monkeypatch.setattr("connectomics_zoo.train.callbacks.SECONDS_OF_A_CURVE", 0)
    seen = []

    def look(state):
        seen.append((state.done, "val/dice" in state.numbers, (tmp_path / "run" / CURVE_FILE).is_file()))

    train("mednext-S", request(volume, max_steps=3), output=tmp_path / "run", device="cpu", progress=look)
    assert (2, True, True) in seen
    assert (1, False, False) in seen


@pytest.mark.parametrize(
    ("values", "bars"),
    [([0.0, 0.5, 1.0], "▁▅█"), ([0.3, 0.3], "▅▅"), ([1.0], "▅"), ([float(x) for x in range(80)][::-1], None)],
)
def test_a_curve_is_a_line_of_bars(values, bars):
    line = sparkline(values)
    if bars is not None:
        assert line == bars
    assert len(line) <= 40
    assert line == "".join(sorted(line, reverse=values[0] > values[-1]))


def test_a_run_shows_where_it_began_and_what_it_came_to(run_zoo, volume, first, tmp_path, scores, caplog):
    scores += [0.5, 0.75, 0.625]
    with caplog.at_level(logging.ERROR):
        fine_tune(volume, first, tmp_path / "run")
    code, out, _ = run_zoo("show", str(tmp_path / "run"))
    assert code == 0
    text = " ".join(out.split())
    assert "dice first 0.5000 (step 0), best 0.7500 (step 2), last 0.6250 (step 4)" in text
    assert "▁█▅ 0.500 to 0.750" in text


def test_of_equal_scores_the_best_is_the_one_whose_weights_were_kept(tmp_path):
    (tmp_path / "logs").mkdir()
    rows = "".join(f"{step},0,0.0\n" for step in (4, 9))
    (tmp_path / "logs" / "metrics.csv").write_text(f"step,epoch,val/dice\n{rows}")
    run = SimpleNamespace(task=SimpleNamespace(metrics=("dice",)))
    assert "best 0.0000 (step 10)" in describe_curve(run, tmp_path)["scores"]
