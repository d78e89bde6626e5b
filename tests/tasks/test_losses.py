"""Losses: the numbers of torch and of hand, the sum over the scales, and targets at every scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tasks import make_task, make_task_targets
from torch.nn import functional as F

from connectomics_zoo.specs.listing import read_task_rows
from connectomics_zoo.specs.lookup import get_spec, get_task
from connectomics_zoo.tasks.activations import activate
from connectomics_zoo.tasks.losses import DICE_EPSILON, resize_targets, supervised_losses, task_loss


def logits_and_targets(channels, *, size=(4, 6, 6)):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, *size, generator=generator)
    targets = (torch.rand(2, channels, *size, generator=generator) > 0.6).float()
    return logits, targets


def softmax_of(*kinds):
    return [("softmax", kind, {"cross_entropy": 1.0}) for kind in kinds]


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
    task = make_task(
        *softmax_of("background", "presynapse", "postsynapse"),
        method="argmax",
    )
    assert torch.isclose(task_loss(logits, targets, task=task), F.cross_entropy(logits, classes))


def test_cross_entropy_has_a_gradient_where_the_probability_underflows():
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1, 1).requires_grad_()
    targets = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1)
    task = make_task(*softmax_of("background", "foreground"), method="argmax")
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


TASKS = [row.name for row in read_task_rows().rows]


def some_targets(task):
    """Targets of real labels (1, C, Z, Y, X), where they are known, and logits that predict them perfectly."""
    grid = np.indices((12, 32, 32))
    labels = (grid[0] // 6 + 2 * (grid[1] // 11) + 6 * (grid[2] // 11)) * (grid[1] % 11 > 1)
    if ids := [label for channel in task.channels for label in channel.target.labels or ()]:
        labels = np.array([0, *ids])[labels * 7 % (len(ids) + 1)]
    values, known = (torch.from_numpy(array)[None] for array in make_task_targets(labels, task=task))
    inverse = {"sigmoid": torch.logit, "scaled_sigmoid": lambda p: 5 * torch.logit(p), "softmax": torch.log}
    logits = [
        torch.atanh(values[:, index].clamp(-1 + 1e-6, 1 - 1e-6))
        if channel.activation == "tanh"
        else inverse[channel.activation](values[:, index].clamp(1e-6, 1 - 1e-6))
        for index, channel in enumerate(task.channels)
    ]
    return values, known, torch.stack(logits, dim=1)


@pytest.mark.parametrize("name", TASKS)
def test_a_perfect_prediction_costs_nearly_nothing_and_a_wrong_one_much(name):
    assert len(TASKS) >= 11
    task = get_task(name)
    targets, known, logits = some_targets(task)
    assert task_loss(logits, targets, known, task=task) < 1e-3
    wrong = logits.flip(1) if name == "binary" else -logits
    assert task_loss(wrong, targets, known, task=task) > 5


@pytest.mark.parametrize("name", TASKS)
def test_every_scale_ignores_what_is_not_known(name):
    task, model = get_task(name), get_spec("mednext-S")
    targets, known, _ = some_targets(task)
    known[:, :, :6, 4:20] = False
    generator = torch.Generator().manual_seed(0)
    poisoned = torch.where(known, targets, torch.tensor(float("nan")))
    shapes = {"output": (12, 32, 32), "ds_1": (6, 16, 16), "ds_2": (3, 8, 8)}
    outputs = {
        scale: torch.randn(1, len(task.channels), *shape, generator=generator).requires_grad_()
        for scale, shape in shapes.items()
    }
    one, other = (supervised_losses(outputs, values, known, model=model, task=task) for values in (targets, poisoned))
    assert one == other
    assert all(torch.isfinite(loss) and loss > 0 for loss in one.values())
    other["loss"].backward()
    assert (outputs["output"].grad[~known] == 0).all()
    assert all(torch.isfinite(logits.grad).all() and logits.grad.any() for logits in outputs.values())


@pytest.mark.parametrize("name", TASKS)
def test_where_nothing_is_known_the_loss_and_its_gradient_are_0(name):
    task = get_task(name)
    logits = torch.randn(1, len(task.channels), 2, 4, 4, requires_grad=True)
    loss = task_loss(logits, torch.full_like(logits, torch.nan), torch.zeros_like(logits).bool(), task=task)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_a_scaled_sigmoid_is_that_of_a_fifth_of_the_logit_in_values_and_loss():
    logits, targets = logits_and_targets(1)
    task = make_task(("scaled_sigmoid", "foreground", {"bce": 1.0}))
    assert torch.equal(activate(logits, task=task), (0.2 * logits).sigmoid())
    expected = F.binary_cross_entropy_with_logits(0.2 * logits, targets)
    assert torch.isclose(task_loss(logits, targets, task=task), expected)


def test_tanh_and_no_activation():
    logits, targets = logits_and_targets(2)
    task = make_task(("tanh", "value", {"smooth_l1": 1.0}), ("none", "value", {"mse": 1.0}))
    values = activate(logits, task=task)
    assert torch.equal(values[:, 0], logits[:, 0].tanh())
    assert torch.equal(values[:, 1], logits[:, 1])
    expected = F.smooth_l1_loss(values[:, 0], targets[:, 0]) + F.mse_loss(values[:, 1], targets[:, 1])
    assert torch.isclose(task_loss(logits, targets, task=task), expected)


@pytest.mark.parametrize(
    ("yes", "no", "weight_yes", "weight_no"),
    [(2, 6, 3, 1), (6, 2, 1, 3), (1, 31, 10, 1), (31, 1, 1, 10), (4, 4, 1, 1), (0, 8, 10, 1), (8, 0, 1, 10)],
)
def test_balanced_cross_entropy_weights_the_rarer_class_by_at_most_10(yes, no, weight_yes, weight_no):
    targets = torch.tensor([1.0] * yes + [0.0] * no + [1.0] * 5).view(1, 1, 1, 1, -1)
    known = torch.tensor([True] * (yes + no) + [False] * 5).view(1, 1, 1, 1, -1)
    logits = torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))
    costs = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten()
    expected = (weight_yes * costs[:yes].sum() + weight_no * costs[yes : yes + no].sum()) / (yes + no)
    task = make_task(("sigmoid", "foreground", {"balanced_bce": 1.0}))
    assert torch.isclose(task_loss(logits, targets, known, task=task), expected)


def test_dice_and_cross_entropy_are_over_what_is_known():
    logits, targets = logits_and_targets(2)
    targets[:, 1] = 1 - targets[:, 0]
    known = torch.zeros_like(targets, dtype=torch.bool)
    known[..., :3] = True
    for task in (
        make_task(("sigmoid", "foreground", {"dice": 1.0}), ("sigmoid", "foreground", {"dice": 1.0})),
        make_task(*softmax_of("background", "foreground"), method="argmax"),
    ):
        part = task_loss(logits[..., :3], targets[..., :3], task=task)
        assert torch.isclose(task_loss(logits, targets, known, task=task), part)


def test_large_logits_of_a_balanced_cross_entropy_have_finite_gradients():
    logits = torch.tensor([-500.0, 500.0, 500.0, -500.0]).view(1, 1, 1, 2, 2).requires_grad_()
    targets = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 1, 1, 2, 2)
    loss = task_loss(logits, targets, task=make_task(("sigmoid", "foreground", {"balanced_bce": 1.0})))
    loss.backward()
    assert loss.item() == 250
    assert logits.grad.flatten().tolist() == [-0.25, 0.25, 0, 0]


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


def test_continuous_targets_are_interpolated_between_what_is_known_alone():
    task = make_task(("sigmoid", "foreground", {"bce": 1.0}), ("sigmoid", "value", {"mse": 1.0}))
    ramp = torch.arange(8.0).div(8).view(1, 1, 8, 1, 1).expand(1, 2, 8, 2, 2).clone()
    known = torch.ones_like(ramp, dtype=torch.bool)
    known[:, :, [2, 4, 5]] = False
    ramp[~known] = torch.nan
    resized, resized_known = resize_targets(ramp, known, size=(4, 1, 1), task=task)
    assert resized_known[0, 1].flatten().tolist() == [True, True, False, True]
    assert torch.allclose(resized[0, 1].flatten()[[0, 1, 3]], torch.tensor([0.5, 3, 6.5]) / 8)


# Classes that are annotated in part --------------------------------------------------------------------------------


def three_classes(**weights):
    return make_task(
        *[
            ("softmax", kind, {"cross_entropy": weights.get(kind, 1.0)})
            for kind in ("background", "presynapse", "postsynapse")
        ],
        method="argmax",
    )


def open_voxels():
    """Voxels of class 1, and voxels that are not of class 1 but of one of the others, all in turn."""
    logits, _ = logits_and_targets(3)
    targets, known = torch.zeros_like(logits), torch.ones_like(logits, dtype=torch.bool)
    targets[:, 1, ::2] = 1
    known[:, 0, 1::2] = known[:, 2, 1::2] = False
    return logits, targets, known


def test_a_voxel_that_may_be_of_several_classes_costs_the_log_of_their_summed_probability():
    logits, targets, known = open_voxels()
    probabilities = logits.softmax(dim=1)
    expected = torch.cat(
        [
            -probabilities[:, 1, ::2].log().flatten(),
            -(probabilities[:, 0, 1::2] + probabilities[:, 2, 1::2]).log().flatten(),
        ]
    ).mean()
    assert torch.isclose(task_loss(logits, targets, known, task=three_classes()), expected)


def test_the_weight_of_a_voxel_that_may_be_of_several_classes_is_their_mean():
    logits, targets, known = open_voxels()
    one = task_loss(logits, targets, known, task=three_classes())
    weighted = task_loss(logits, targets, known, task=three_classes(background=2.0, postsynapse=6.0))
    inside = -logits.log_softmax(dim=1)[:, 1, ::2].sum() / logits[:, 0].numel()
    assert torch.isclose(weighted, inside + 4 * (one - inside))


def test_the_marginal_loss_moves_probability_between_no_two_classes_that_a_voxel_may_be():
    logits, targets, known = open_voxels()
    logits.requires_grad_()
    task_loss(logits, targets, known, task=three_classes()).backward()
    gradient = logits.grad[:, :, 1::2]
    shares = logits.detach()[:, [0, 2], 1::2].softmax(dim=1)
    # Away from class 1, and to the others in proportion to what they have.
    assert (gradient[:, 1] > 0).all()
    assert torch.allclose(gradient[:, [0, 2]], -gradient[:, 1:2] * shares, atol=1e-6)


def test_a_voxel_of_which_no_class_is_known_costs_nothing_beside_others():
    logits, targets, known = open_voxels()
    part = task_loss(logits[..., :3], targets[..., :3], known[..., :3], task=three_classes())
    known[..., 3:] = False
    assert torch.isclose(task_loss(logits, targets, known, task=three_classes()), part)


def test_large_logits_of_a_marginal_loss_have_finite_gradients():
    logits = torch.tensor([-300.0, 300.0, -300.0]).view(1, 3, 1, 1, 1).requires_grad_()
    known = torch.tensor([False, True, False]).view(1, 3, 1, 1, 1)
    loss = task_loss(logits, torch.zeros_like(logits), known, task=three_classes())
    loss.backward()
    assert loss.item() == pytest.approx(600 - np.log(2), rel=1e-6)
    assert torch.allclose(logits.grad.flatten(), torch.tensor([-0.5, 1.0, -0.5]), atol=1e-5)
