"""The card of what is pushed: code that works when pasted, and what was not usual."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support.tiny_training import make_run

import zoo
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.push.card import card_text
from connectomics_zoo.push.measured import Measured
from connectomics_zoo.push.trained import Trained
from connectomics_zoo.schema.model import Probe
from connectomics_zoo.specs.lookup import get_spec, get_task
from connectomics_zoo.tasks.activations import activate

MIXED = {
    "schema_version": 1,
    "name": "mixed",
    "summary": "One channel of each activation, and two that share one.",
    "channels": [
        {"name": name, "activation": activation, "target": {"kind": kind}, "losses": [{"kind": "mse"}]}
        for name, activation, kind in (
            ("first", "softmax", "foreground"),
            ("second", "scaled_sigmoid", "foreground"),
            ("third", "softmax", "background"),
            ("fourth", "tanh", "distance"),
            ("fifth", "none", "foreground"),
            ("sixth", "sigmoid", "boundary"),
        )
    ],
    "decode": {"method": "threshold", "threshold": 0.5},
    "metrics": ["dice"],
}


def card_of(task, **changes):
    """The card of a run for `task` that was never trained."""
    run = make_run({"license": "CC-BY-4.0"}, task=task)
    expect = get_spec("mednext-S").expect  # any will do
    run = run.model_copy(update={"model": run.model.model_copy(update={"expect": expect}), **changes})
    measured = Measured(
        expect.parameters,
        expect.fingerprint,
        Probe(input_shape=(1, 1, 16, 16, 16), outputs={}),
        scores={},
        has_picture=False,
    )
    trained = Trained(Path("run"), run, run, "tag", False, "CC-BY-4.0", metrics={}, steps=4, kept_step=4)
    return card_text(trained, measured, repo="org/name", revision="0" * 40, size=1, has_curve=False)


@pytest.mark.parametrize(
    "name", ["mixed", "tanh", "mito", "binary", "affinities-6", "mito-instance", "synapse-polarity"]
)
def test_the_code_of_the_card_gives_the_values_of_every_activation(name, tmp_path, monkeypatch):
    if name in ("mixed", "tanh"):
        alike = [{**channel, "activation": "tanh"} for channel in MIXED["channels"]]
        document = MIXED if name == "mixed" else {**MIXED, "channels": alike}
        (tmp_path / "task.yaml").write_text(dump_yaml(document))
    path = tmp_path / "task.yaml" if name in ("mixed", "tanh") else name
    task = get_task(path)
    logits = torch.linspace(-3, 3, len(task.channels) * 64).reshape(1, 8, 4, -1, 2).movedim(3, 1)
    monkeypatch.setattr(zoo, "load", lambda reference: lambda volume: logits)
    (code,) = re.findall(r"```python\n(.*?)```", card_of(path), re.DOTALL)
    namespace: dict[str, object] = {}
    exec(code, namespace)
    values = namespace["values"] if "values" in namespace else namespace["probabilities"]
    torch.testing.assert_close(values, activate(logits, task=task), rtol=1e-6, atol=1e-7)
    activations = {channel.activation for channel in task.channels}
    assert ("values" in namespace) == bool(activations & {"tanh", "none"})
    assert code.partition("logits = ")[2].count("\n") == 1 + len(activations) + (len(activations) > 1)


def test_the_card_says_what_is_not_usual_of_the_training_and_of_the_prediction():
    run = make_run({"license": "CC-BY-4.0"})
    usual = card_of("mito")
    assert not re.search(r"^- (started from|weights|views): ", usual, re.M)
    card = card_of(
        "mito",
        init_from="hf://org/other@" + "1" * 40,
        training=run.training.model_copy(update={"ema_decay": 0.999}),
        prediction=run.prediction.model_copy(update={"views": "flips", "merge": "min"}),
    )
    assert f"- started from: the weights `hf://org/other@{'1' * 40}`\n" in card
    assert "- weights: their running average over the steps, with a decay of 0.999\n" in card
    assert "- views: `zoo predict` merges the flips of each window by their min; the Python code above does not" in card
