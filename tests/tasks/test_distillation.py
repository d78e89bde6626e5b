"""How far a network is from its teacher, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny_training import make_run

from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.tasks.activations import activate
from connectomics_zoo.tasks.distillation import distillation_loss

SHAPE = (2, 3, 4, 5)


def logits_of(task, seed):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.normal(0, 3, (SHAPE[0], len(task.channels), *SHAPE[1:])))


def somewhere(task, seed=7):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.random((SHAPE[0], len(task.channels), *SHAPE[1:])) < 0.4)


def softmax_task():
    task = get_task("mito").model_dump(mode="json", exclude_none=True)
    losses = [{"kind": "cross_entropy"}]
    kinds = ("background", "presynapse", "postsynapse")
    task["channels"] = [
        {"name": kind, "activation": "softmax", "target": {"kind": kind}, "losses": losses} for kind in kinds
    ]
    task["decode"] = {"method": "argmax"}
    return type(get_task("mito")).model_validate(task)


def kullback_leibler(taught, said):
    return (taught * (np.log(taught) - np.log(said))).sum(axis=0)


def test_a_probability_costs_its_divergence_from_the_teacher_s_where_it_is_asked():
    task = get_task("affinities-6")
    student, teacher, where = logits_of(task, 1), logits_of(task, 2), somewhere(task)
    found = distillation_loss(student, activate(teacher, task=task), where, task=task)
    expected = 0.0
    for index, channel in enumerate(task.channels):
        assert channel.activation == "scaled_sigmoid"
        here = where[:, index].numpy()
        said, taught = (1 / (1 + np.exp(-0.2 * part[:, index].numpy()[here])) for part in (student, teacher))
        expected += kullback_leibler(np.stack([taught, 1 - taught]), np.stack([said, 1 - said])).mean()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_classes_cost_their_divergence_among_those_of_which_nothing_is_known():
    task = softmax_task()
    student, teacher, where = logits_of(task, 1), logits_of(task, 2), somewhere(task)
    found = distillation_loss(student, activate(teacher, task=task), where, task=task)
    costs = []
    for place in np.argwhere(where.any(dim=1).numpy()):
        batch, *voxel = place
        spot = (batch, slice(None), *voxel)
        asked = where.numpy()[spot]
        said, taught = (np.exp(part.numpy()[spot])[asked] for part in (student, teacher))
        costs.append(kullback_leibler(taught / taught.sum(), said / said.sum()))
    assert 0 < len(costs) < where[:, 0].numel()
    assert float(found) == pytest.approx(np.mean(costs), rel=1e-5)


@pytest.mark.parametrize("name", ["mito", "affinities-6", "lsd", "mito-instance"])
def test_who_says_the_same_has_no_loss_and_no_gradient_and_nobody_is_asked_costs_nothing(name):
    task = get_task(name)
    teacher = logits_of(task, 3)
    for student, where in ((teacher, somewhere(task)), (logits_of(task, 4), torch.zeros_like(somewhere(task)))):
        given = student.clone().requires_grad_()
        loss = distillation_loss(given, activate(teacher, task=task), where, task=task)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
        assert float(given.grad.abs().max()) == pytest.approx(0, abs=1e-6)


def test_channels_that_are_no_probabilities_cost_their_squared_error():
    task = make_run({}, task="lsd").task
    index = next(number for number, channel in enumerate(task.channels) if channel.activation == "sigmoid")
    assert index == 0  # the descriptors are numbers in 0..1 behind a sigmoid
    channel = task.channels[0].model_copy(update={"activation": "none"})
    task = task.model_copy(update={"channels": (channel,)})
    student, teacher = logits_of(task, 1), logits_of(task, 2)
    where = somewhere(task)
    found = distillation_loss(student, teacher, where, task=task)
    assert float(found) == pytest.approx(float(((student - teacher)[where] ** 2).mean()), rel=1e-5)
