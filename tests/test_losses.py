"""Losses: the numbers of torch and of hand, the sum over the scales, and targets at every scale."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from connectomics_zoo.losses import DICE_EPSILON, activate, resize_targets, supervised_losses, task_loss
from connectomics_zoo.registry import get_spec, get_task
from connectomics_zoo.schema.task import TaskSpec


def make_task(*channels, method="threshold"):
    return TaskSpec.model_validate(
        {
            "schema_version": 1,
            "name": "made",
            "summary": "Made here.",
            "channels": [
                {
                    "name": f"c{index}",
                    "activation": activation,
                    "target": {"kind": target},
                    "losses": [{"kind": kind, "weight": weight} for kind, weight in losses.items()],
                }
                for index, (activation, target, losses) in enumerate(channels)
            ],
            "decode": {"method": method} | ({"threshold": 0.5} if method == "threshold" else {}),
            "metrics": ["dice"],
        }
    )


def logits_and_targets(channels, *, size=(4, 6, 6)):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, *size, generator=generator)
    targets = (torch.rand(2, channels, *size, generator=generator) > 0.6).float()
    return logits, targets


def test_bce_is_torch_s():
    logits, targets = logits_and_targets(1)
    loss = task_loss(logits, targets, task=make_task(("sigmoid", "foreground", {"bce": 1.0})))
    assert torch.isclose(loss, F.binary_cross_entropy_with_logits(logits, targets))


def test_dice_is_one_minus_twice_the_overlap_over_the_sum():
    logits = torch.logit(torch.tensor([0.5, 0.25, 0.75, 0.5])).view(1, 1, 1, 2, 2)
    targets = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 1, 1, 2, 2)
    loss = task_loss(logits, targets, task=make_task(("sigmoid", "foreground", {"dice": 1.0})))
    assert torch.isclose(loss, torch.tensor(1 - (2 * 1.25 + DICE_EPSILON) / (2.0 + 2.0 + DICE_EPSILON)))


def test_the_cross_entropy_terms_of_all_channels_sum_to_torch_s():
    logits, _ = logits_and_targets(3)
    classes = torch.randint(0, 3, (2, 4, 6, 6), generator=torch.Generator().manual_seed(1))
    targets = F.one_hot(classes, 3).movedim(-1, 1).float()
    task = make_task(*[("softmax", "foreground", {"cross_entropy": 1.0})] * 3, method="argmax")
    assert torch.isclose(task_loss(logits, targets, task=task), F.cross_entropy(logits, classes))


def test_cross_entropy_has_a_gradient_where_the_probability_underflows():
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1, 1).requires_grad_()
    targets = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1)
    task = make_task(*[("softmax", "foreground", {"cross_entropy": 1.0})] * 2, method="argmax")
    loss = task_loss(logits, targets, task=task)
    loss.backward()
    assert loss.item() == 400.0
    assert logits.grad.flatten().tolist() == [1.0, -1.0]


def test_mse_is_of_the_activated_values():
    logits, targets = logits_and_targets(1)
    loss = task_loss(logits, targets, task=make_task(("sigmoid", "value", {"mse": 1.0})))
    assert torch.isclose(loss, F.mse_loss(logits.sigmoid(), targets))


def test_terms_are_weighted_and_softmax_runs_over_its_own_channels_only():
    logits, targets = logits_and_targets(3)
    task = make_task(
        ("softmax", "background", {"mse": 2.0}), ("sigmoid", "foreground", {"bce": 3.0}), ("softmax", "foreground", {})
    )
    pair = logits[:, [0, 2]].softmax(1)
    expected = 2 * F.mse_loss(pair[:, 0], targets[:, 0])
    expected += 3 * F.binary_cross_entropy_with_logits(logits[:, 1], targets[:, 1])
    assert torch.isclose(task_loss(logits, targets, task=task), expected)
    assert torch.equal(activate(logits, task=task)[:, [0, 2]], pair)


@pytest.mark.parametrize("name", ["mito", "membrane", "synapse-cleft", "binary", "boundary"])
def test_a_perfect_prediction_costs_nearly_nothing_and_a_wrong_one_much(name):
    task = get_task(name)
    foreground = (torch.rand(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    targets = torch.cat([1 - foreground, foreground], dim=1)[:, -len(task.channels) :]
    logits = 40 * (targets - 0.5)
    assert task_loss(logits, targets, task=task) < 1e-3
    assert task_loss(-logits, targets, task=task) > 5


def test_half_precision_logits_are_scored_in_float32():
    logits, targets = logits_and_targets(1)
    assert task_loss(logits.half(), targets, task=get_task("mito")).dtype == torch.float32


def test_deep_supervision_is_the_sum_of_declared_weights_times_scale_losses():
    model, task = get_spec("mednext-S"), get_task("mito")
    _, targets = logits_and_targets(1, size=(16, 32, 32))
    outputs = {
        output.name: torch.randn(2, 1, *(size // step for size, step in zip((16, 32, 32), output.stride, strict=True)))
        for output in model.outputs
    }
    losses = supervised_losses(outputs, targets, model=model, task=task)
    expected = sum(
        weight * task_loss(logits, resize_targets(targets, size=tuple(logits.shape[2:]), task=task)[0], task=task)
        for weight, logits in zip((1, 0.5, 0.25, 0.125, 0.0625), outputs.values(), strict=True)
    )
    assert list(losses) == ["loss", "output", "ds_1", "ds_2", "ds_3", "ds_4"]
    assert torch.isclose(losses["loss"], expected)


def test_a_single_tensor_is_scored_at_full_resolution_alone():
    logits, targets = logits_and_targets(1)
    losses = supervised_losses(logits, targets, model=get_spec("mednext-S"), task=get_task("mito"))
    assert torch.equal(losses["loss"], losses["output"])


def test_labels_are_resized_by_nearest_and_continuous_targets_by_interpolation():
    task = make_task(("sigmoid", "foreground", {"bce": 1.0}), ("sigmoid", "value", {"mse": 1.0}))
    ramp = torch.arange(8.0).div(8).view(1, 1, 8, 1, 1).expand(1, 1, 8, 4, 4)
    labels = (ramp > 0.3).float()
    resized, _ = resize_targets(torch.cat([labels, ramp], dim=1), size=(4, 2, 2), task=task)
    assert resized.shape == (1, 2, 4, 2, 2)
    assert torch.equal(resized[0, 0, :, 0, 0], labels[0, 0, 1::2, 0, 0])
    assert torch.allclose(resized[0, 1, :, 0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]) / 8)
