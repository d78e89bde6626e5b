"""What is counted of a step: against what autograd really keeps, and against arithmetic by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from connectomics_zoo.fastpath import plain_only
from connectomics_zoo.fit.counting import FusedAttention, GpuAutocast, LiveBytes, run_backward
from connectomics_zoo.fit.memory import prediction_bytes, training_bytes
from connectomics_zoo.network.build import build
from connectomics_zoo.specs.lookup import get_spec, get_task
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.tasks.losses import supervised_losses

SMALL_MEDNEXT = {"base_channels": 16, "block_counts": [1] * 9}


def really_kept(spec, size, task):
    """The bytes that autograd keeps of a real step on the CPU, each storage once, with the batch."""
    network = build(spec, deep_supervision=True).train()
    image = torch.rand(2, spec.input.channels, *size)
    targets = torch.zeros(2, spec.outputs[0].channels, *size)
    known = torch.ones_like(targets, dtype=torch.bool)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = supervised_losses(network(image), targets, known, model=spec, task=task)["loss"]
    for tensor in (*network.parameters(), *network.buffers(), image, targets, known):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    loss.backward()
    return sum(kept.values()) + sum(value.untyped_storage().nbytes() for value in (image, targets, known))


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("mednext-S", {"base_channels": 2, "block_counts": [1] * 9}),
        ("rsunet", {"channels": [4, 6, 8, 10, 12]}),
        ("monai_segresnet_ds", {"base_channels": 8}),
    ],
)
def test_what_is_kept_for_the_backward_pass_is_what_autograd_keeps(name, arch):
    task = get_task("mito")
    spec = resolve_model(name, arch=arch, out_channels=1)
    counted = training_bytes(spec, (32, 32, 32), batch=2, precision="32-true", where="cuda", task=task)
    assert counted.kept == pytest.approx(really_kept(spec, (32, 32, 32), task), rel=0.03)


def test_on_a_cpu_mednext_is_counted_as_it_is_computed_there():
    task = get_task("mito")
    spec = resolve_model("mednext-S", arch=SMALL_MEDNEXT, out_channels=1)
    on_cpu, on_gpu = (
        training_bytes(spec, (32, 32, 32), batch=2, precision="32-true", where=where, task=task)
        for where in ("cpu", "cuda")
    )
    assert on_cpu.kept == pytest.approx(really_kept(spec, (32, 32, 32), task), rel=0.05)
    with plain_only():
        assert on_gpu.kept == pytest.approx(really_kept(spec, (32, 32, 32), task), rel=0.05)
    assert on_gpu.kept > 4 * on_cpu.kept


def test_weights_gradients_and_averages_are_four_times_the_weights():
    spec = get_spec("monai_unet")
    size = (16, 16, 32)
    weights = 4 * spec.expect.parameters.training
    trained = training_bytes(spec, size, batch=1, precision="32-true", where="cuda")
    buffers = trained.weights - 4 * weights
    assert 0 <= buffers < weights / 100
    averaged = training_bytes(spec, size, batch=1, precision="32-true", where="cuda", average=True)
    assert averaged.weights == trained.weights + weights
    assert prediction_bytes(spec, size, batch=1, precision="32-true", where="cuda").weights == weights + buffers


def test_what_is_frozen_has_no_gradients_and_keeps_less():
    spec = resolve_model("mednext-S", arch=SMALL_MEDNEXT)
    names = [name for name, _ in build(spec, deep_supervision=True).named_parameters()]
    frozen = [name for name in names if name.startswith(("stem", "enc_block", "down", "bottleneck"))]
    whole, part = (
        training_bytes(spec, (32, 32, 32), batch=1, precision="32-true", where="cuda", frozen=chosen)
        for chosen in ((), frozen)
    )
    assert part.weights < whole.weights
    assert part.kept < whole.kept / 1.3


def test_half_precision_and_checkpointing_keep_less():
    spec = resolve_model("mednext-S", arch=SMALL_MEDNEXT)
    recomputed = resolve_model(spec, arch={"checkpointing": True})
    kept = {
        (precision, model.arch.checkpointing): training_bytes(
            model, (32, 32, 32), batch=1, precision=precision, where="cuda"
        ).kept
        for precision in ("32-true", "16-mixed")
        for model in (spec, recomputed)
    }
    # The norms stay in float32, and so does what their gradients need.
    assert 0.5 < kept["16-mixed", False] / kept["32-true", False] < 0.75
    assert kept["32-true", True] < kept["32-true", False] / 3
    assert kept["16-mixed", True] < kept["32-true", True]


def test_what_was_measured_is_what_is_counted_to_15_percent():
    steps = json.loads((Path(__file__).parents[2] / "docs" / "fit.json").read_text(encoding="utf-8"))["steps"]
    assert steps
    for step in steps:
        assert step["counted_bytes"] == pytest.approx(step["measured_bytes"], rel=0.15), step
    first = steps[0]
    counted = training_bytes(
        get_spec(first["model"]).with_channels(outputs=1),
        tuple(first["patch"]),
        batch=1,
        precision="32-true",
        where="cpu",
        task=get_task("mito"),
    )
    assert first["implementation"] == "default"
    assert counted.total == pytest.approx(first["measured_bytes"], rel=0.15)


def test_views_count_once_and_what_is_freed_no_more():
    live = LiveBytes()
    with live:
        x = torch.empty(1000, device="meta")
        views = [x.view(10, 100), x[5:], x.t()]
        assert live.now == 4000
        y = x.exp()
        assert (live.now, live.largest) == (8000, 4000)
        del y
        assert live.now == 4000
        del x, views
    assert (live.now, live.peak) == (0, 8000)


def test_autocast_casts_as_it_does_on_a_gpu():
    convolution = nn.Conv3d(2, 4, 3, device="meta")
    with GpuAutocast(torch.bfloat16):
        x = torch.empty(1, 2, 8, 8, 8, device="meta")
        y = convolution(x)
        assert y.dtype == torch.bfloat16
        assert F.batch_norm(y, None, None, training=True).dtype == torch.bfloat16
        assert F.group_norm(y, 2).dtype == torch.float32
        assert (y + x[:, :1, :6, :6, :6]).dtype == torch.float32
        assert (y.flatten(2) @ y.flatten(2).transpose(1, 2)).dtype == torch.bfloat16
        run_backward(y.float().sum())
    assert convolution.weight.grad.dtype == torch.float32


def test_attention_keeps_what_its_kernel_on_the_cpu_keeps():
    shape, saved = (2, 3, 40, 8), {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    query, key, value = (torch.rand(shape, requires_grad=True) for _ in range(3))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = F.scaled_dot_product_attention(query, key, value)
    live = LiveBytes()
    with live, FusedAttention():
        given = [torch.empty(shape, device="meta", requires_grad=True) for _ in range(3)]
        counted = F.scaled_dot_product_attention(*given)
        assert counted.shape == result.shape
        assert live.now == pytest.approx(sum(saved.values()), rel=0.1)
        run_backward(counted.sum())
    assert all(tensor.grad.shape == shape for tensor in given)
