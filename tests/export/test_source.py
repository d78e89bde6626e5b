"""The activations that are exported behind a network are those of `zoo predict`."""

from __future__ import annotations

import pytest
import torch
from support.exporting import task_of_activations
from torch import nn

from connectomics_zoo.export.source import Activated
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.tasks.activations import activate


@pytest.mark.parametrize(
    "task",
    [
        get_task("mito"),
        get_task("affinities-3"),
        get_task("binary"),
        task_of_activations("sigmoid", "tanh", "softmax", "softmax"),
    ],
    ids=["one sigmoid", "sigmoids", "softmax", "mixed"],
)
def test_a_network_with_its_activations_gives_what_is_predicted(task):
    logits = 4 * torch.randn(2, len(task.channels), 3, 4, 5, generator=torch.Generator().manual_seed(0))
    given = Activated(nn.Identity(), task)(logits)
    torch.testing.assert_close(given, activate(logits, task=task), rtol=1e-6, atol=1e-7)
    assert not torch.equal(given, logits)
