"""From a spec to a network and to the numbers that a spec declares; and the name-seeded weights behind the probe."""

from __future__ import annotations

import importlib.util
import math
import threading
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from support.paths import SHARED
from torch import nn

from connectomics_zoo.errors import InputSizeError, ZooError
from connectomics_zoo.network import build as build_module
from connectomics_zoo.network.build import (
    InputGuard,
    build,
    build_meta,
    count_buffers,
    count_flops,
    count_parameters,
    fingerprint,
    flops_shape,
    measure_expectation,
    measure_static_expectation,
    probe_shape,
    run_probe,
)
from connectomics_zoo.network.seeding import seed_parameters, seeded_array, seeded_input
from connectomics_zoo.schema.builder import channel_vectors
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.schema.model import ModelSpec, SizeRule
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.resolve import resolve_model

TINY = {"base_channels": 2, "kernel_size": 3, "expansion_ratios": 1, "block_counts": [1] * 9}
STRIDE = {"strides": [[2, 2, 2]]}
RECIPE = SHARED / "reference" / "seeded_weights.py"


def tiny(**changes: Any) -> ModelSpec:
    return resolve_model("mednext-S", arch=TINY | changes)


# Building


def test_a_built_network_is_in_training_mode_and_guarded() -> None:
    network = build(tiny(), deep_supervision=True)
    assert network.training
    with pytest.raises(InputSizeError):
        network(torch.zeros(1, 1, 17, 32, 32))


def test_building_without_initialising_draws_no_numbers_and_is_otherwise_the_same() -> None:
    for spec in (tiny(), resolve_model("rsunet", arch={"channels": [2, 4], "kernel_sizes": [[3, 3, 3]] * 2, **STRIDE})):
        before = torch.get_rng_state()
        bare = build(spec, deep_supervision=True, initialise=False)
        assert torch.equal(torch.get_rng_state(), before)
        whole = build(spec, deep_supervision=True)
        assert not torch.equal(torch.get_rng_state(), before)
        for first, second in zip(bare.named_parameters(), whole.named_parameters(), strict=True):
            assert first[0] == second[0]
            assert (first[1].shape, first[1].requires_grad) == (second[1].shape, second[1].requires_grad)
        for one, two in zip(bare.named_buffers(), whole.named_buffers(), strict=True):
            assert one[0] == two[0]
            assert torch.equal(one[1], two[1])


class Busy(nn.Module):
    """Starts a thread that builds, and fills what is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(100, 10))
        nn.init.kaiming_normal_(self.weight)
        self.register_buffer("scale", torch.empty(1000), persistent=False)
        nn.init.uniform_(self.get_buffer("scale"))
        others: list[nn.Module] = []
        thread = threading.Thread(target=lambda: others.append(nn.Linear(100, 100)))
        thread.start()
        thread.join()
        self.other = others[0]


class Choosy(nn.Module):
    """Draws its parameters until the numbers suit it."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn, self.cut = nn.Parameter(torch.zeros(1000)), nn.Parameter(torch.full((1000,), 9.0))
        for _ in range(100):
            if self.drawn.max() > 1:
                break
            nn.init.normal_(self.drawn)
        else:
            raise AssertionError("no numbers after 100 draws")
        nn.init.trunc_normal_(self.cut)


def build_bare(monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module]) -> nn.Module:
    """Build a `kind`, as if it were a spec's network, without initialising."""

    class Builder:
        @staticmethod
        def build(*args: Any, **kwargs: Any) -> nn.Module:
            return kind()

    spec = tiny()
    monkeypatch.setattr("connectomics_zoo.schema.builder.builder_module", lambda name: Builder)
    return build(spec, deep_supervision=True, initialise=False)


def test_without_initialising_other_threads_and_plain_tensors_are_initialised(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    network = build_bare(monkeypatch, Busy)
    torch.manual_seed(7)
    assert torch.equal(network.get_buffer("scale"), torch.empty(1000).uniform_())
    assert torch.equal(network.get_parameter("other.weight"), nn.Linear(100, 100).weight)


def test_without_initialising_a_builder_that_waits_for_suitable_numbers_gets_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert build_bare(monkeypatch, Choosy).get_parameter("drawn").max() > 1


def test_building_on_meta_takes_no_memory_and_gives_the_same_shapes() -> None:
    meta, real = (make(tiny(), deep_supervision=True) for make in (build_meta, build))
    assert {tensor.device.type for tensor in meta.state_dict().values()} == {"meta"}
    assert [(key, value.shape) for key, value in meta.state_dict().items()] == [
        (key, value.shape) for key, value in real.state_dict().items()
    ]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_guard_accepts_what_the_rule_allows_and_names_the_next_legal_size(dims: int, deep_supervision: bool) -> None:
    spec = tiny(spatial_dims=dims)
    network = build_meta(spec, deep_supervision=deep_supervision)
    minimum, step = spec.input.size.minimum, spec.input.size.step
    for n in range(3):
        legal = tuple(low + n * distance for low, distance in zip(minimum, step, strict=True))
        network(torch.empty(1, 1, *legal, device="meta"))
        for axis in range(dims):
            illegal = tuple(edge + 1 if index == axis else edge for index, edge in enumerate(legal))
            padded = tuple(edge + step[index] if index == axis else edge for index, edge in enumerate(legal))
            with pytest.raises(InputSizeError) as caught:
                network(torch.empty(1, 1, *illegal, device="meta"))
            assert str(caught.value) == (
                f"mednext-S does not accept the spatial size {illegal}, legal are {spec.input.size.describe()} voxels "
                f"along {', '.join(spec.input.axes)}: pad it to {padded}."
            )


def test_a_step_beyond_the_largest_size_leaves_one_legal_size() -> None:
    rule = SizeRule(minimum=(32, 48, 64), step=(MAX_EDGE, 16, MAX_EDGE))
    assert rule.describe() == "32, 48 + n*16, 64"
    assert rule.round_up((96, 50, 10)) == (32, 64, 64)
    spec = tiny()
    fixed = spec.model_copy(update={"input": spec.input.model_copy(update={"size": rule})})
    with pytest.raises(InputSizeError, match=r"legal are 32, 48 \+ n\*16, 64 voxels .*: resize it to \(32, 64, 64\)"):
        InputGuard(fixed)(nn.Identity(), (torch.zeros(1, 1, 96, 64, 64),), {})


def test_guard_refuses_other_ranks_and_channels_with_what_to_do() -> None:
    guard = InputGuard(tiny(spatial_dims=2))
    with pytest.raises(InputSizeError, match=r"takes a tensor \(B, C, Y, X\) and got one of shape \(1, 1, 1, 32, 32\)"):
        guard(nn.Identity(), (torch.zeros(1, 1, 1, 32, 32),), {})
    with pytest.raises(InputSizeError, match=r"takes 1 input channel\(s\) and got 3 .* load it with in_channels=3"):
        guard(nn.Identity(), (torch.zeros(1, 3, 32, 32),), {})
    guard(nn.Identity(), (torch.zeros(1, 1, 32, 32),), {})


def test_the_guard_sees_an_input_that_is_passed_by_keyword() -> None:
    network = build_meta(tiny(), deep_supervision=False)
    with pytest.raises(InputSizeError, match=r"does not accept the spatial size \(17, 32, 32\)"):
        network(x=torch.empty(1, 1, 17, 32, 32, device="meta"))


# Counting


class Counted(nn.Module):
    """Known counts: 2*3*27 + 3 and 3 + 3 parameters; 3 + 3 + 1 saved and 5 unsaved buffer elements."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 3, 3, padding=1, dtype=dtype)
        self.norm = nn.BatchNorm3d(3, dtype=dtype)
        self.register_buffer("scratch", torch.zeros(5), persistent=False)
        self.conv.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


def test_parameters_are_counted_with_inert_ones_and_buffers_where_they_are_saved() -> None:
    assert count_parameters(Counted()) == 2 * 3 * 27 + 3 + 3 + 3
    assert count_buffers(Counted()) == 3 + 3 + 1


def test_flops_count_a_multiply_add_as_two_on_any_device() -> None:
    with torch.device("meta"):
        network = Counted()
    assert count_flops(network, (1, 2, 4, 5, 6)) == 2 * (4 * 5 * 6) * (2 * 3 * 27)
    assert count_flops(Counted(), (1, 2, 4, 5, 6)) == 2 * (4 * 5 * 6) * (2 * 3 * 27)


def test_flops_are_those_of_the_published_depthwise_formula() -> None:
    spec = tiny()
    total = measure_expectation(spec).flops
    assert total is not None
    assert total.input_shape == (1, 1, 64, 64, 64) == flops_shape(spec)
    expected = 2 * 64**3 * 2  # stem and
    expected += 2 * 64**3 * 2 * 2  # head at full resolution
    for level in range(5):  # one encoder and one decoder block a level, one block in the bottleneck
        voxels, channels = (64 >> level) ** 3, 2 << level
        expected += (1 if level == 4 else 2) * 2 * voxels * (27 * channels + 2 * channels**2)
    for level in range(4):
        fine, coarse = (64 >> level) ** 3, (32 >> level) ** 3
        channels = 2 << level
        # Down: strided depthwise, expansion, compression to twice the channels, and the residual's projection.
        expected += 2 * coarse * (27 * channels + channels**2 + 2 * channels**2 + 2 * channels**2)
        # Up: transposed depthwise (each input voxel is spread once), then the rest on 2n - 1 voxels per axis.
        wide, grown = 2 * channels, (round(fine ** (1 / 3)) - 1) ** 3
        expected += 2 * (coarse * 27 * wide + grown * (wide**2 + wide * channels) + coarse * wide * channels)
    assert total.total == expected


def test_fingerprint_depends_on_keys_shapes_and_types_alone() -> None:
    first, second = Counted(), Counted()
    assert fingerprint(first) == fingerprint(second)
    with torch.device("meta"):
        assert fingerprint(Counted()) == fingerprint(first)
    changed = [Counted(torch.float64), nn.Sequential(Counted()), Counted()]
    changed[2].conv = nn.Conv3d(2, 3, 1)
    assert len({fingerprint(network) for network in (first, *changed)}) == 4
    assert fingerprint(first).startswith("sha256:")


def test_fingerprint_does_not_depend_on_the_order_of_registration() -> None:
    forward, backward = nn.Module(), nn.Module()
    for name in ("a", "b"):
        forward.register_module(name, nn.Linear(1, 2 if name == "a" else 3))
    for name in ("b", "a"):
        backward.register_module(name, nn.Linear(1, 2 if name == "a" else 3))
    assert list(forward.state_dict()) != list(backward.state_dict())
    assert fingerprint(forward) == fingerprint(backward)


def test_static_measurements_are_those_of_the_real_networks() -> None:
    spec = get_spec("mednext-S")
    expect = measure_static_expectation(spec)
    assert (expect.parameters.training, expect.parameters.inference) == (5_552_843, 5_550_915)
    assert expect.buffers == 0
    assert expect.fingerprint == fingerprint(build(spec, deep_supervision=True))


# The probe


def test_probe_states_the_outputs_for_seeded_weights() -> None:
    spec = tiny()
    probe = run_probe(spec, probe_shape(spec))
    network = build(spec, deep_supervision=True)
    seed_parameters(network)
    with torch.no_grad():
        outputs = network(seeded_input((1, 1, *spec.input.size.minimum)))
    assert list(probe.outputs) == [output.name for output in spec.outputs] == list(outputs)
    for name, summary in probe.outputs.items():
        flat = outputs[name].double().flatten()
        assert math.isclose(summary.rms, flat.square().mean().sqrt().item(), rel_tol=1e-5)
        assert len(summary.values) == build_module.PROBE_VALUES
        assert math.isclose(summary.values[0], flat[0].item(), rel_tol=1e-5)
        assert math.isclose(summary.values[-1], flat[-1].item(), rel_tol=1e-5)


def test_probe_depends_on_neither_seed_nor_what_ran_before() -> None:
    probes = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        probes.append(run_probe(tiny(), (1, 1, 16, 32, 48)))
    assert probes[0] == probes[1]


def test_probe_of_a_network_with_dropout_and_running_statistics_is_that_of_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = tiny()
    spec = spec.model_copy(update={"outputs": spec.outputs[:1]})

    def noisy(spec: ModelSpec, *, deep_supervision: bool) -> nn.Module:
        return nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Dropout(0.5))

    monkeypatch.setattr(build_module, "build", noisy)
    network = noisy(spec, deep_supervision=True)
    seed_parameters(network)
    # One voxel: a pass in training would fail in the batch norm.
    output = network.eval()(seeded_input((1, 1, 1, 1, 1))).double()
    probe = run_probe(spec, (1, 1, 1, 1, 1))
    assert math.isclose(probe.outputs["output"].rms, output.square().mean().sqrt().item(), rel_tol=1e-5)
    assert run_probe(spec, (1, 1, 2, 2, 2)) == run_probe(spec, (1, 1, 2, 2, 2))


def test_the_probe_seeds_as_vectors_what_the_builder_declares_as_such() -> None:
    spec = tiny(grn=True)
    network = build(spec, deep_supervision=True).eval()
    results = []
    for vectors in ((), ("grn_beta", "grn_gamma")):
        seed_parameters(network, channel_vectors=vectors)
        with torch.no_grad():
            results.append(network(seeded_input((1, 1, 16, 32, 32))).double().square().mean().sqrt().item())
    rms = run_probe(spec, (1, 1, 16, 32, 32)).outputs["output"].rms
    assert math.isclose(rms, results[1], rel_tol=1e-5)
    assert not math.isclose(rms, results[0], rel_tol=1e-2)


def test_measure_states_everything_that_a_spec_declares() -> None:
    spec = tiny()
    expect = measure_expectation(spec)
    assert expect.model_copy(update={"flops": None, "probe": None}) == measure_static_expectation(spec)
    assert expect.flops is not None
    assert expect.probe is not None
    assert expect.probe == run_probe(spec, (1, 1, 16, 32, 32))


# Name-seeded values


def test_seeded_values_are_those_of_the_published_recipe() -> None:
    # Written down from ../shared/reference/seeded_weights.py: one value for each of its rules.
    first = {
        "stem.bias": [0.00171204, -0.00706598, -0.0826114],
        "stem.weight": [[-0.141155, -0.120191], [-0.639966, 0.361296]],
        "norm.weight": [1.14248, 0.944341],
        "input": [-1.51148, -0.196216],
    }
    for name, values in first.items():
        expected = np.array(values)
        np.testing.assert_allclose(seeded_array(name, expected.shape), expected, rtol=1e-5)


@pytest.mark.skipif(not RECIPE.is_file(), reason="../shared/reference is not here")
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("input", (1, 1, 2, 3, 4)),
        ("input", (5,)),
        ("stem.weight", (4, 2, 1, 1, 1)),
        ("norm.weight", (7,)),
        ("norm.bias", (7,)),
        ("enc_block_0.0.grn_gamma", (1, 6, 1, 1, 1)),
        ("dummy_tensor", (1,)),
        ("a.weight", ()),
    ],
)
def test_seeded_values_equal_the_shared_recipe(name: str, shape: tuple[int, ...]) -> None:
    specification = importlib.util.spec_from_file_location("recipe", RECIPE)
    assert specification is not None
    assert specification.loader is not None
    recipe = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(recipe)
    ours = seeded_array(name, shape, channel_vectors=channel_vectors("mednext"))
    assert ours.dtype == np.float32
    assert ours.shape == shape
    assert np.array_equal(ours, recipe.array(name, shape))


def test_seeding_overwrites_every_parameter_and_keeps_buffers() -> None:
    first, second = Counted(), Counted()
    buffers = {name: buffer.clone() for name, buffer in first.named_buffers()}
    for network in (first, second):
        seed_parameters(network)
    for (name, one), two in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two), name
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in first.named_buffers())


@pytest.mark.parametrize("name", ["mednext-S", "monai_segresnet", "rsunet"])
def test_torchscript_is_refused_in_one_sentence_and_tracing_works(name: str) -> None:
    arch = {"mednext-S": {"base_channels": 2}, "monai_segresnet": {"base_channels": 8}}.get(name)
    spec = resolve_model(name, arch=arch)
    network = build(spec, deep_supervision=False).eval()
    for given in (network, nn.Sequential(network)):
        with pytest.raises(ZooError, match=rf"^{name} cannot be compiled by torch.jit.script: use torch.jit.trace"):
            torch.jit.script(given)
    x = torch.rand(probe_shape(spec))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.allclose(torch.jit.trace(network, x)(x), network(x))
