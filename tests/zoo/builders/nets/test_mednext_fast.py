"""The fast MedNeXt equals the plain one: values, gradients, every option and every part left alone where it must be."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from connectomics_zoo import fastpath
from connectomics_zoo.network.seeding import seed_parameters, seeded_input
from connectomics_zoo.weights.load import load
from zoo.builders import mednext
from zoo.builders.nets import channels_last as cl
from zoo.builders.nets import mednext_block, mednext_fast
from zoo.builders.nets.mednext import MedNeXt

SMALL = {"base_channels": 4, "kernel_size": 3, "expansion_ratios": [2, 3, 4, 4, 4, 4, 4, 3, 2], "block_counts": [1] * 9}

VARIANTS: dict[str, dict[str, Any]] = {
    "kernel 3": {},
    "kernel 5": {"kernel_size": 5},
    "kernel 7": {"kernel_size": 7},
    "kernels 3 and 5": {"kernel_size": None, "encoder_kernel_size": 3, "decoder_kernel_size": 5},
    "no residuals": {"residual": False, "resample_residual": False},
    "no block residuals": {"residual": False},
    "no resampling residuals": {"resample_residual": False},
    "two blocks": {"block_counts": [2] * 9},
}


@pytest.fixture
def fast_passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails where no pass took the fast path: the plain network, compared with itself, is equal to it, too."""
    passes = []
    run = mednext_fast.forward

    def counted(*args: Any, **options: Any) -> Any:
        passes.append(args)
        return run(*args, **options)

    monkeypatch.setattr(mednext_fast, "forward", counted)
    yield
    assert passes


@pytest.fixture(autouse=True)
def few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks of these tests are small."""
    monkeypatch.setattr(mednext_fast, "MINIMUM_CHANNELS", 1)


def make(changes: dict[str, Any] | None = None, *, deep_supervision: bool = True) -> Any:
    config = mednext.Config.model_validate(SMALL | (changes or {}))
    network = mednext.build(config, in_channels=2, out_channels=3, deep_supervision=deep_supervision)
    seed_parameters(network)
    return network


def make_input(*size: int, batch: int = 2) -> Tensor:
    return seeded_input((batch, 2, *(size or (16, 32, 48))))


def error(value: Tensor, reference: Tensor) -> float:
    """Relative L2."""
    return ((value.double() - reference.double()).norm() / reference.double().norm()).item()


@pytest.fixture(params=["whole volumes", "thin slabs"])
def slabs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Volumes of a test are too small for several slabs and chunks, unless those are smaller, too."""
    if request.param == "thin slabs":
        monkeypatch.setattr(cl, "SLAB_ROWS", 1000)
        monkeypatch.setattr(cl, "HIDDEN_VALUES", 3000)


@pytest.mark.usefixtures("slabs")
@pytest.mark.parametrize("name", VARIANTS)
def test_evaluation_equals_the_plain_network(name: str) -> None:
    network, x = make(VARIANTS[name]).eval(), make_input()
    assert network.obstacle(x) is None
    kept = x.clone()
    with torch.no_grad():
        fast, again = network(x), network(x)
        with fastpath.plain_only():
            plain = network(x)
    assert error(fast, plain) < 2e-6
    assert not torch.equal(fast, plain), "both ran the same code"
    assert torch.equal(fast, again)
    assert torch.equal(x, kept)
    assert fast.is_contiguous()
    assert fast.dtype == plain.dtype


@pytest.mark.usefixtures("fast_passes")
@pytest.mark.parametrize("name", ["mednext-S", "mednext-S-k5", "mednext-B"])
def test_published_sizes_equal_the_plain_network(name: str) -> None:
    network = load(name)
    seed_parameters(network)
    x = seeded_input((1, 1, 32, 32, 32))
    with torch.inference_mode():
        fast = network(x)
        with fastpath.plain_only():
            assert error(fast, network(x)) < 2e-6


@pytest.mark.usefixtures("fast_passes")
def test_large_offsets_cost_no_digits() -> None:
    """A volume that is not zero-centred, such as raw grey values."""
    network, x = make().eval(), 1000 + make_input()
    with torch.no_grad():
        fast = network(x)
        with fastpath.plain_only():
            plain = network(x)
        exact = network.double()(x.double())
    assert error(fast, exact) < 2 * error(plain, exact) + 2e-6


@pytest.mark.usefixtures("fast_passes")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_outputs_have_the_names_and_shapes_of_the_plain_network(training: bool, deep_supervision: bool) -> None:
    network, x = make(deep_supervision=deep_supervision).train(training), make_input()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            fast = network(x)
            with fastpath.plain_only():
                plain = network(x)
        if training and deep_supervision:
            assert list(fast) == list(plain)
        else:
            fast, plain = {"output": fast}, {"output": plain}
        for key in plain:
            assert error(fast[key], plain[key]) < 2e-6
            assert fast[key].requires_grad == plain[key].requires_grad == grad


@pytest.mark.usefixtures("fast_passes")
def test_bfloat16_is_no_less_accurate_than_the_plain_network() -> None:
    network = make({"block_counts": [2] * 9, "base_channels": 16}).eval()
    x = make_input(16, 32, 64, batch=1)
    with torch.inference_mode():
        with fastpath.plain_only():
            exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            fast = network(x)
            with fastpath.plain_only():
                plain = network(x)
    assert fast.dtype == plain.dtype == torch.bfloat16
    assert 1e-4 < error(fast, exact) <= error(plain, exact)


@pytest.mark.usefixtures("fast_passes")
def test_without_onednn_the_same_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = make().train(), make_input()
    with_it = gradients(network, x, path=contextlib.nullcontext)
    monkeypatch.setattr(cl, "_has_onednn", lambda dtype: False)
    for key, gradient in gradients(network, x, path=contextlib.nullcontext).items():
        assert error(gradient, with_it[key]) < 1e-4 or with_it[key].norm() == 0


def weighted_sum(outputs: dict[str, Tensor] | Tensor) -> Tensor:
    """A loss that reaches each output of each voxel with another weight."""
    outputs = outputs if isinstance(outputs, dict) else {"output": outputs}
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64)
    for output in outputs.values():
        factor = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        total = total + (output.double() * factor).sum()
    return total


def gradients(network: nn.Module, x: Tensor, *, path: Any) -> dict[str, Tensor]:
    network.zero_grad()
    x = x.clone().requires_grad_()
    with path():
        weighted_sum(network(x)).backward()
    assert x.grad is not None
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return {**found, "input": x.grad}


@pytest.mark.usefixtures("slabs")
@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_in_float64_equal_autograds_to_ten_digits(name: str) -> None:
    # Float64 is slow: one small volume, which thin slabs part all the same.
    assert_same_gradients(make(VARIANTS[name]).double().train(), make_input(16, 16, 32, batch=1).double())


def test_what_rounding_leaves_of_a_mean_is_carried_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 a mean is rounded to three digits; in float64, rounded as coarsely, the numbers must be exact."""
    monkeypatch.setattr(mednext_block, "_round", lambda mean, dtype: mean.to(torch.bfloat16).to(dtype))
    assert_same_gradients(make().double().train(), make_input().double())


def assert_same_gradients(network: Any, x: Tensor) -> None:
    plain = gradients(network, x, path=contextlib.nullcontext)  # float64 takes the plain path
    network.zero_grad()
    x.requires_grad_()
    weighted_sum(mednext_fast.forward(network, x, supervise=True)).backward()
    fast = {name: p.grad for name, p in network.named_parameters() if p.grad is not None} | {"input": x.grad}
    assert fast.keys() == plain.keys()
    scale = max(gradient.norm() for gradient in plain.values())
    for key, gradient in plain.items():
        if key.endswith("conv1.bias"):  # without effect before the norm: zero, but for rounding
            assert torch.count_nonzero(fast[key]) == 0
            assert gradient.norm() < 1e-10 * scale
        else:
            assert error(fast[key], gradient) < 1e-10, key


@pytest.mark.usefixtures("fast_passes")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_in_float32_equal_the_plain_networks(checkpointing: bool) -> None:
    network, x = make({"checkpointing": checkpointing}).train(), make_input()
    plain = gradients(network, x, path=fastpath.plain_only)
    fast = gradients(network, x, path=contextlib.nullcontext)
    assert fast.keys() == plain.keys()
    for key, gradient in plain.items():
        if not key.endswith("conv1.bias"):
            assert error(fast[key], gradient) < 1e-4, key


@pytest.mark.usefixtures("fast_passes")
def test_gradients_under_autocast_are_as_close_as_the_plain_networks() -> None:
    network, x = make({"base_channels": 8}).train(), make_input()
    exact = gradients(network, x, path=fastpath.plain_only)

    @contextlib.contextmanager
    def autocast(plain: bool) -> Iterator[None]:  # the backward pass runs inside, too
        with torch.autocast("cpu", torch.bfloat16), fastpath.plain_only() if plain else contextlib.nullcontext():
            yield

    def distance(found: dict[str, Tensor]) -> float:
        kept = [key for key in exact if not key.endswith("conv1.bias")]
        return error(
            torch.cat([found[key].flatten() for key in kept]), torch.cat([exact[key].flatten() for key in kept])
        )

    fast = gradients(network, x, path=lambda: autocast(plain=False))
    assert all(gradient.dtype == torch.float32 for gradient in fast.values())
    assert 1e-4 < distance(fast) <= 1.2 * distance(gradients(network, x, path=lambda: autocast(plain=True)))


@pytest.mark.usefixtures("fast_passes")
def test_gradients_accumulate_over_samples() -> None:
    network, x = make().train(), make_input()
    together = gradients(network, x, path=contextlib.nullcontext)
    network.zero_grad()
    generator = torch.Generator().manual_seed(0)
    factors = {
        key: torch.randn(value.shape, generator=generator, dtype=torch.float64) for key, value in network(x).items()
    }
    for i in range(2):
        outputs = network(x[i : i + 1])
        sum((outputs[key].double() * factors[key][i : i + 1]).sum() for key in outputs).backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not name.endswith("conv1.bias"):
            assert error(parameter.grad, together[name]) < 1e-5


@pytest.mark.usefixtures("fast_passes")
def test_frozen_parts_get_no_gradient_and_the_others_the_same() -> None:
    network, x = make().train(), make_input()
    free = gradients(network, x, path=contextlib.nullcontext)
    for name, parameter in network.named_parameters():
        if name.startswith(("stem", "enc_block", "down", "bottleneck.0.conv1")):
            parameter.requires_grad_(False)
    network.zero_grad()
    weighted_sum(network(x)).backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.grad is not None:
            assert torch.equal(parameter.grad, free[name]), name


@pytest.mark.usefixtures("fast_passes")
def test_a_frozen_network_passes_the_gradient_on_to_its_input() -> None:
    network, x = make().eval(), make_input()
    free = gradients(network, x, path=contextlib.nullcontext)["input"]
    frozen = gradients(network.requires_grad_(False), x, path=contextlib.nullcontext)
    assert list(frozen) == ["input"]
    assert torch.equal(frozen["input"], free)


def test_second_derivatives_are_refused_with_the_way_out() -> None:
    network, x = make().eval(), make_input().requires_grad_()
    with pytest.raises(NotImplementedError, match=r"second derivative.*plain_only"):
        torch.autograd.grad(network(x).sum(), x, create_graph=True)
    with fastpath.plain_only():
        (first,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
        first.square().sum().backward()
    assert torch.count_nonzero(x.grad) > 0


def test_the_backward_pass_keeps_a_third_of_the_memory_at_most() -> None:
    def saved_bytes(path: Any) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        network, x = make({"block_counts": [2] * 9}).train(), make_input()
        own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), path():
            outputs = network(x)
        assert outputs
        return sum(size for place, size in kept.items() if place not in own)

    assert saved_bytes(contextlib.nullcontext) < saved_bytes(fastpath.plain_only) / 5


@pytest.mark.usefixtures("fast_passes")
def test_ddp_finds_a_gradient_for_every_parameter(tmp_path: Any) -> None:
    # In a process of its own: beside the threads of a long test run, the process group has waited for ever.
    make()(make_input())  # the fast path must be at work here, too
    child = multiprocessing.get_context("spawn").Process(target=_check_ddp, args=(str(tmp_path / "store"),))
    child.start()
    child.join(timeout=120)
    child.kill()
    assert child.exitcode == 0


def _check_ddp(place: str) -> None:
    store = torch.distributed.FileStore(place, 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        network, x = make().train(), make_input()
        alone = gradients(network, x, path=contextlib.nullcontext)
        parallel = nn.parallel.DistributedDataParallel(network)
        for _ in range(2):  # the second pass fails where the first left a parameter without gradient
            network.zero_grad()
            weighted_sum(parallel(x)).backward()
    finally:
        torch.distributed.destroy_process_group()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, alone[name]), name


class Tagged(Tensor):
    """A subclass, as MONAI's images are."""


def _with_hook(network: Any) -> Any:
    network.bottleneck[0].conv1.register_forward_hook(lambda *_: None)
    return network


def _with_other_head(network: Any) -> Any:
    network.out_0.conv_out = nn.Sequential(nn.Conv3d(4, 5, 1))
    network.out_0.conv_out.append(nn.ReLU())
    return network


def _with_wide_groups(network: Any) -> Any:
    network.enc_block_0[0].norm = nn.GroupNorm(2, 4)
    return network


def _with_parametrisation(network: Any) -> Any:
    nn.utils.parametrizations.weight_norm(network.enc_block_0[0].conv2)
    return network


def _with_dilation(network: Any) -> Any:
    network.enc_block_0[0].conv1.dilation = (2, 2, 2)
    network.enc_block_0[0].conv1.padding = (2, 2, 2)
    return network


def _with_other_stem(network: Any, **options: Any) -> Any:
    network.stem = nn.Conv3d(2, 4, **{"kernel_size": 1, **options})
    return network


def _with_bare_norm(network: Any) -> Any:
    network.enc_block_0[0].norm = nn.GroupNorm(4, 4, affine=False)
    return network


def _with_own_forward(network: Any) -> Any:
    forward = network.bottleneck.forward
    network.bottleneck.forward = lambda x: 2 * forward(x)
    return network


OBSTACLES: dict[str, tuple[Any, Any, str]] = {
    "float64": (lambda: make().double(), lambda x: x.double(), "torch.float64"),
    "layer norm": (lambda: make({"norm": "layer"}), None, "ChannelNorm"),
    "response normalisation": (lambda: make({"grn": True}), None, "global response normalisation"),
    "2-D": (lambda: make({"spatial_dims": 2}), lambda x: x[:, :, 0], "no batch of volumes"),
    "one tap": (lambda: make({"kernel_size": 1}), None, "none of MedNeXt's convolutions"),
    "dilation": (lambda: _with_dilation(make()), None, "conv1 is none of MedNeXt's convolutions"),
    "strided stem": (lambda: _with_other_stem(make(), stride=2), None, "stem is none of MedNeXt's convolutions"),
    "wide stem": (lambda: _with_other_stem(make(), kernel_size=3, padding=1), None, "stem is none"),
    "no bias": (lambda: _with_other_stem(make(), bias=False), None, "stem is none"),
    "norm without weights": (lambda: _with_bare_norm(make()), None, "no weights"),
    "forward of its own": (lambda: _with_own_forward(make()), None, "bottleneck has a forward of its own"),
    "hook": (lambda: _with_hook(make()), None, "has a hook"),
    "another head": (lambda: _with_other_head(make()), None, "ReLU"),
    "wide groups": (lambda: _with_wide_groups(make()), None, "several channels in a group"),
    "parametrisation": (lambda: _with_parametrisation(make()), None, "ParametrizedConv3d"),
    "subclass": (make, lambda x: x.as_subclass(Tagged), "Tagged"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_the_fast_path_cannot_do_goes_the_plain_way(name: str) -> None:
    build, convert, reason = OBSTACLES[name]
    network, x = build().eval(), make_input(32, 64, 64, batch=1)
    x = x if convert is None else convert(x)
    assert reason in network.obstacle(x)
    with torch.no_grad():
        value = network(x)
        with fastpath.plain_only():
            assert torch.equal(value, network(x))


def test_networks_of_few_channels_go_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mednext_fast, "MINIMUM_CHANNELS", 5)
    assert "fewer than 5 channels" in make().obstacle(make_input())
    assert make({"base_channels": 5}).obstacle(make_input()) is None


def test_hooks_inside_are_called() -> None:
    network, seen = make().eval(), []
    network.bottleneck.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    with torch.no_grad():
        network(make_input())
    assert seen == [(2, 64, 1, 2, 3)]


def test_modes_that_watch_operations_see_the_plain_network() -> None:
    network, x = make().eval(), make_input()
    with torch.no_grad(), fastpath.plain_only(), FlopCounterMode(display=False) as plain:
        network(x)
    with torch.no_grad(), FlopCounterMode(display=False) as default:
        network(x)
    assert default.get_total_flops() == plain.get_total_flops() > 0


def test_autocast_to_float16_goes_the_plain_way() -> None:
    network, x = make().eval(), make_input()
    with torch.autocast("cpu", torch.float16):
        assert "torch.float16" in network.obstacle(x)


def test_exported_and_traced_networks_are_the_plain_one() -> None:
    network, x = make().eval(), make_input()
    with fastpath.plain_only(), torch.no_grad():
        plain = network(x)
    exported = torch.export.export(network, (x,))
    names = {str(node.target) for node in exported.graph.nodes}
    assert any("group_norm" in name for name in names)
    assert not any("mkldnn" in name or "batch_norm" in name for name in names)
    assert error(exported.module()(x), plain) < 1e-6
    with torch.no_grad():
        assert error(torch.jit.trace(network, x)(x), plain) < 1e-6


def test_functional_transforms_go_the_plain_way() -> None:
    network, x = make(deep_supervision=False).eval(), make_input()
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    found = torch.func.grad(lambda values: torch.func.functional_call(network, values, (x,)).sum())(parameters)
    plain = torch.autograd.grad(network(x).sum(), network.stem.weight)[0]
    assert error(found["stem.weight"], plain) < 1e-4


def test_a_loaded_model_is_fast_by_default() -> None:
    network, x = load("mednext-S"), seeded_input((1, 1, 16, 32, 32))
    for wide in (network, network.train()):
        assert wide.obstacle(x) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert wide.obstacle(x) is None


def test_a_block_that_occurs_twice_runs_twice() -> None:
    network, x = make().eval(), make_input()
    network.enc_block_0.append(network.enc_block_0[0])
    with torch.no_grad():
        fast = network(x)
        with fastpath.plain_only():
            assert error(fast, network(x)) < 2e-6
    assert network.obstacle(x) is None


def test_a_default_device_elsewhere_changes_nothing() -> None:
    network, x = make(deep_supervision=False).train(), make_input()
    network(x).sum().backward()
    expected = network.stem.weight.grad.clone()
    network.zero_grad()
    with torch.device("meta"):
        assert network.obstacle(x) is None
        network(x).sum().backward()
    assert torch.equal(network.stem.weight.grad, expected)


def test_forward_mode_derivatives_and_empty_batches_go_the_plain_way() -> None:
    network, x = make().eval().requires_grad_(False), make_input()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        assert torch.autograd.forward_ad.unpack_dual(network(dual)).tangent is not None
    assert "no batch of volumes" in network.obstacle(x[:0])
    assert "no batch of volumes" in network.obstacle(x[0])


def test_the_switch_is_back_after_nesting_and_after_an_error() -> None:
    with fastpath.plain_only():
        with fastpath.plain_only():
            assert not fastpath.enabled()
        assert not fastpath.enabled()
    assert fastpath.enabled()
    with contextlib.suppress(ZeroDivisionError), fastpath.plain_only():
        raise ZeroDivisionError
    assert fastpath.enabled()


def test_the_switch_counts_callers_that_overlap() -> None:
    first, second = fastpath.plain_only(), fastpath.plain_only()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not fastpath.enabled()
    second.__exit__(None, None, None)
    assert fastpath.enabled()


@pytest.mark.usefixtures("fast_passes")
def test_state_dict_is_untouched_by_the_fast_path() -> None:
    network = make().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    weighted_sum(network(make_input())).backward()
    assert isinstance(network, MedNeXt)
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 63, 64, 1000, 20000])
def test_moments_are_exact_far_from_zero_and_in_uneven_parts(count: int, dtype: torch.dtype) -> None:
    rows = (torch.randn(count, 3, generator=torch.Generator().manual_seed(1)) + torch.tensor([0.0, 30.0, -200.0])).to(
        dtype
    )
    moments = cl.Moments(3)
    for part in rows.split((count + 2) // 3):
        moments.add(part)
    exact = rows.double()
    torch.testing.assert_close(moments.mean, exact.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        moments.scale(1e-5), (exact.var(0, unbiased=False) + 1e-5).rsqrt(), rtol=2e-4 if count > 1 else 1e-2, atol=0
    )


@pytest.mark.parametrize("edge", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_correlations_and_their_gradients_are_torchs(edge: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cl, "SLAB_ROWS", 40)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 10, 6, 3, generator=generator, dtype=torch.float64)
    kernel = torch.randn(3, 1, edge, edge, edge, generator=generator, dtype=torch.float64, requires_grad=True)
    image = x.permute(3, 0, 1, 2)[None].contiguous().requires_grad_()
    expected = nn.functional.conv3d(image, kernel, None, stride, edge // 2, 1, 3)
    size = tuple(expected.shape[2:])
    taps = cl.Taps(kernel.detach(), (edge // 2,) * 3, stride, size)
    parts = [cl.correlate(x, taps, *part) for part in cl.slabs(size, thickest_halo=edge)]
    assert len(parts) > 1 or size[0] <= edge
    torch.testing.assert_close(torch.cat(parts), expected[0].permute(1, 2, 3, 0).detach())
    if stride == 1:
        outer = torch.randn(*size, 3, generator=generator, dtype=torch.float64)
        expected.backward(outer.permute(3, 0, 1, 2)[None])
        torch.testing.assert_close(cl.kernel_gradient(x, outer, taps), kernel.grad)
        back = cl.adjoint(taps, size)
        parts = [cl.correlate(outer, back, *part) for part in cl.slabs(size, thickest_halo=edge)]
        torch.testing.assert_close(torch.cat(parts), image.grad[0].permute(1, 2, 3, 0))
