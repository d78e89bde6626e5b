"""MedNeXt: the original's keys, shapes, counts and numbers, its options, its kernels, and its original as a backend."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.builder_checks import forbid_modules
from support.fuzzing import refusal
from support.paths import SHARED
from torch.nn import functional as F

from connectomics_zoo import fastpath
from connectomics_zoo.errors import MissingPackageError, SpecError, UnknownNameError
from connectomics_zoo.network.build import build_meta, count_parameters
from connectomics_zoo.network.seeding import seed_parameters, seeded_input
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.load import load
from zoo.builders import mednext
from zoo.builders.nets.mednext import Block, ChannelNorm, MedNeXt

REFERENCE = SHARED / "reference" / "mednext"
CASES: dict[str, Any] = (
    json.loads((REFERENCE / "cases.json").read_text()) if (REFERENCE / "cases.json").is_file() else {}
)
SCALES = ("output", "ds_1", "ds_2", "ds_3", "ds_4")

PATHS = [
    pytest.param(contextlib.nullcontext, id="the path that applies"),
    pytest.param(fastpath.plain_only, id="plain"),
]

needs_reference = pytest.mark.skipif(not CASES, reason="../shared/reference/mednext is not here")
needs_original = pytest.mark.skipif(
    importlib.util.find_spec("nnunet_mednext") is None, reason="the original (package nnunet_mednext) is not installed"
)

# Numbers of the original (https://github.com/MIC-DKFZ/MedNeXt, commit 0b78ed8, torch 2.13 on a CPU) for name-seeded
# weights and input: parameters with all heads, then root mean square, first, middle and last element of an output.
# Two input and three output channels, 4 base channels, one block a stage, ratio 2, where a case does not say more.
GOLDEN: dict[str, tuple[dict[str, Any], int, tuple[float, ...], tuple[float, ...]]] = {
    "layer norm": (
        {"norm": "layer"},
        69776,
        (2.20169, -3.5753, -2.03356, 0.849537),
        (9.99694, 7.93251, 4.98009, 15.0229),
    ),
    "no residuals": (
        {"residual": False, "resample_residual": False},
        64156,
        (0.761076, -1.22228, -0.421904, 0.534103),
        (2.84441, -7.59812, -3.25312, 0.663097),
    ),
    "no resampling residuals": (
        {"resample_residual": False},
        64156,
        (2.09386, -4.06393, -1.05517, 0.0331173),
        (3.63994, 3.14307, 1.758, 0.887039),
    ),
    "kernels 3 and 5": (
        {"kernel_size": None, "encoder_kernel_size": 3, "decoder_kernel_size": 5},
        93688,
        (2.34224, -2.62705, -1.1172, -21.5041),
        (9.30307, 1.90495, -4.19614, 24.7154),
    ),
    "kernels 5 and 3": (
        {"kernel_size": None, "encoder_kernel_size": 5, "decoder_kernel_size": 3},
        81536,
        (2.37847, -3.18145, -1.06066, 10.8642),
        (10.7768, 2.1622, 3.56533, 29.9713),
    ),
    "2-D, GRN, no block residuals": (
        {"spatial_dims": 2, "grn": True, "residual": False},
        64664,
        (1.32748, -0.981471, -0.93137, 0.476158),
        (2.63448, 0.509758, 4.87239, -0.886201),
    ),
    "layer norm, GRN, checkpointing": (
        {"norm": "layer", "grn": True, "checkpointing": True},
        71216,
        (2.6215, -4.30835, -2.58383, 0.760037),
        (9.45176, 7.87361, 2.0484, 11.4391),
    ),
    "uneven ratios and blocks": (
        {"expansion_ratios": [1, 2, 3, 4, 5, 4, 3, 2, 1], "block_counts": [1, 2, 1, 3, 1, 1, 2, 1, 1]},
        150032,
        (1.78895, -1.8744, -0.212457, -7.89328),
        (8.06305, 0.347728, -3.84827, 9.46947),
    ),
}

SMALL = {"base_channels": 4, "kernel_size": 3, "expansion_ratios": 2, "block_counts": [1] * 9}
B_RATIOS = [2, 3, 4, 4, 4, 4, 4, 3, 2]
SIZES: dict[str, dict[str, Any]] = {
    "S": {"expansion_ratios": 2, "block_counts": [2] * 9},
    "B": {"expansion_ratios": B_RATIOS, "block_counts": [2] * 9},
    "M": {"expansion_ratios": B_RATIOS, "block_counts": [3, 4, 4, 4, 4, 4, 4, 4, 3]},
    "L": {"expansion_ratios": [3, 4, 8, 8, 8, 8, 8, 4, 3], "block_counts": [3, 4, 8, 8, 8, 8, 8, 4, 3]},
}
PUBLISHED = {
    ("S", 3): 5_552_843,
    ("B", 3): 10_528_235,
    ("M", 3): 17_550_891,
    ("L", 3): 61_781_195,
    ("S", 5): 5_982_475,
    ("B", 5): 10_957_867,
    ("M", 5): 18_262_763,
    ("L", 5): 62_994_827,
}


def make(
    changes: dict[str, Any] | None = None,
    *,
    in_channels: int = 2,
    out_channels: int = 3,
    deep_supervision: bool = True,
) -> Any:
    config = mednext.Config.model_validate(SMALL | (changes or {}))
    return mednext.build(
        config, in_channels=in_channels, out_channels=out_channels, deep_supervision=deep_supervision
    ).train()


def small_input(dims: int = 3) -> torch.Tensor:
    return seeded_input((2, 2, *(32, 48, 32)[3 - dims :]))


def make_case(arguments: dict[str, Any]) -> Any:
    changes = {
        "base_channels": arguments["n_channels"],
        "kernel_size": arguments["kernel_size"],
        "expansion_ratios": arguments["exp_r"],
        "block_counts": arguments["block_counts"],
        "residual": arguments["do_res"],
        "resample_residual": arguments["do_res_up_down"],
        "norm": arguments["norm_type"],
        "spatial_dims": int(arguments["dim"][0]),
        "grn": arguments["grn"],
    }
    return make(
        changes,
        in_channels=arguments["in_channels"],
        out_channels=arguments["n_classes"],
        deep_supervision=arguments["deep_supervision"],
    )


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max()).item()


@needs_reference
@pytest.mark.parametrize("name", CASES)
def test_reference_case_has_the_keys_in_order_shapes_and_count(name: str) -> None:
    case = CASES[name]
    with torch.device("meta"):
        network = make_case(case["arguments"])
    shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert list(shapes.items()) == list(case["state_dict"].items())
    assert count_parameters(network) == case["parameters"]


@needs_reference
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CASES)
def test_reference_case_computes_the_reference_outputs(name: str, path: Any) -> None:
    network = make_case(CASES[name]["arguments"])
    seed_parameters(network, channel_vectors=mednext.CHANNEL_VECTORS)
    with torch.no_grad(), path():
        result = network(seeded_input(tuple(CASES[name]["input_shape"])))
    outputs = result if isinstance(result, dict) else {"output": result}
    reference = np.load(REFERENCE / f"{name}.npz")
    assert list(outputs) == list(reference)
    assert [list(output.shape) for output in outputs.values()] == CASES[name]["output_shapes"]
    for key, output in outputs.items():
        assert relative_error(output, torch.from_numpy(reference[key])) < 1e-5


def test_all_reference_cases_are_checked_where_the_folder_is() -> None:
    if not CASES:
        pytest.skip("../shared/reference/mednext is not here")
    assert len(CASES) >= 5


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", GOLDEN)
def test_options_compute_the_numbers_of_the_original(name: str, path: Any) -> None:
    changes, parameters, first, last = GOLDEN[name]
    network = make(changes)
    seed_parameters(network, channel_vectors=mednext.CHANNEL_VECTORS)
    with torch.no_grad(), path():
        outputs = network(small_input(changes.get("spatial_dims", 3)))
    assert count_parameters(network) == parameters
    for output, expected in ((outputs["output"], first), (outputs["ds_4"], last)):
        flat = output.double().flatten()
        summary = [flat.square().mean().sqrt(), flat[0], flat[flat.numel() // 2], flat[-1]]
        torch.testing.assert_close(torch.stack(summary), torch.tensor(expected).double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "kernel_size"), PUBLISHED)
def test_published_sizes_have_the_published_parameter_counts(size: str, kernel_size: int) -> None:
    changes = {"base_channels": 32, "kernel_size": kernel_size, **SIZES[size]}
    with torch.device("meta"):
        full = make(changes, in_channels=1, out_channels=2)
        single = make(changes, in_channels=1, out_channels=2, deep_supervision=False)
    assert count_parameters(full) == PUBLISHED[size, kernel_size]
    # The heads of the four lower resolutions: 64, 128, 256, 512 channels to 2, with a bias each.
    assert count_parameters(full) - count_parameters(single) == 2 * (64 + 128 + 256 + 512 + 4)


def test_training_with_deep_supervision_returns_all_scales_in_order() -> None:
    outputs = make()(small_input())
    assert tuple(outputs) == SCALES
    shapes = [tuple(output.shape) for output in outputs.values()]
    assert shapes == [(2, 3, 32 >> level, 48 >> level, 32 >> level) for level in range(5)]


def test_evaluation_returns_the_full_resolution_tensor_alone() -> None:
    network = make()
    with torch.no_grad():
        training, evaluation = network(small_input()), network.eval()(small_input())
    assert isinstance(evaluation, torch.Tensor)
    torch.testing.assert_close(evaluation, training["output"], rtol=0, atol=0)


def test_without_deep_supervision_training_returns_the_same_tensor_from_the_same_weights() -> None:
    full, single = make(), make(deep_supervision=False)
    shared = {key: value for key, value in full.state_dict().items() if key in single.state_dict()}
    assert {key.split(".")[0] for key in full.state_dict().keys() - shared.keys()} == {
        "out_1",
        "out_2",
        "out_3",
        "out_4",
    }
    single.load_state_dict(shared)
    with torch.no_grad():
        torch.testing.assert_close(single(small_input()), full(small_input())["output"], rtol=0, atol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_layer_norm_normalises_the_channels_of_each_voxel(dims: int) -> None:
    norm = ChannelNorm(6)
    seed_parameters(norm)
    x = seeded_input((2, 6, *[4] * dims))
    shape = (1, 6, *[1] * dims)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    expected = (x - mean) / (variance + 1e-5).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_layer_norm_gives_what_each_image_alone_would(dims: int) -> None:
    network = make({"norm": "layer", "spatial_dims": dims}).eval()
    x = small_input(dims)
    with torch.no_grad():
        torch.testing.assert_close(network(x)[1:], network(x[1:]), rtol=1e-4, atol=1e-5)


def test_norm_kinds_share_keys_and_shapes() -> None:
    group, layer = make({"norm": "group"}).state_dict(), make({"norm": "layer"}).state_dict()
    assert {key: value.shape for key, value in group.items()} == {key: value.shape for key, value in layer.items()}


def test_bottleneck_has_the_kernel_of_the_decoder() -> None:
    network = make({"kernel_size": None, "encoder_kernel_size": 3, "decoder_kernel_size": 7})
    edges = {name: block.conv1.kernel_size[0] for name, block in network.named_modules() if isinstance(block, Block)}
    encoder = {name: edge for name, edge in edges.items() if name.startswith(("enc_", "down_"))}
    assert set(encoder.values()) == {3}
    assert set(edges.values()) == {3, 7}
    assert all(edge == 7 for name, edge in edges.items() if name not in encoder)
    assert edges["bottleneck.0"] == 7


def test_residuals_are_projections_only_where_the_resolution_changes() -> None:
    def projections(network: Any) -> set[str]:
        return {key.partition(".res_conv")[0] for key in network.state_dict() if ".res_conv" in key}

    resampling = {f"{direction}_{level}" for direction in ("down", "up") for level in range(4)}
    assert projections(make()) == resampling
    assert projections(make({"residual": False})) == resampling
    assert projections(make({"resample_residual": False})) == set()


def test_checkpointing_changes_neither_outputs_nor_gradients() -> None:
    plain, recomputing = make(), make({"checkpointing": True})
    recomputing.load_state_dict(plain.state_dict())
    runs = []
    for network in (plain, recomputing):
        outputs = network(small_input())
        sum(output.square().mean() for output in outputs.values()).backward()
        runs.append((outputs, {name: parameter.grad for name, parameter in network.named_parameters()}))
    (first, first_gradients), (second, second_gradients) = runs
    for key in SCALES:
        assert torch.equal(first[key], second[key])
    assert first_gradients.keys() == second_gradients.keys()
    for name, gradient in first_gradients.items():
        if gradient is not None:
            assert torch.equal(gradient, second_gradients[name]), name


def test_checkpointing_keeps_fewer_activations() -> None:
    def saved_elements(network: Any) -> int:
        count = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(small_input())
        return count

    with fastpath.plain_only():
        assert saved_elements(make({"checkpointing": True})) < 0.5 * saved_elements(make())


def test_dummy_tensor_is_saved_and_counted_and_has_no_gradient() -> None:
    network = make()
    assert next(iter(network.state_dict())) == "dummy_tensor"
    assert "dummy_tensor" in dict(network.named_parameters())
    sum(output.mean() for output in network(small_input()).values()).backward()
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert without == {"dummy_tensor"}
    assert not network.dummy_tensor.requires_grad


def test_dummy_tensor_changes_nothing() -> None:
    network = make().eval()
    with torch.no_grad():
        before = network(small_input())
        network.dummy_tensor.fill_(7.0)
        assert torch.equal(network(small_input()), before)


def test_response_normalisation_starts_as_the_identity() -> None:
    plain, grn = make(), make({"grn": True})
    missing, unexpected = grn.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert {key.rpartition(".")[2] for key in missing} == {"grn_beta", "grn_gamma"}
    with torch.no_grad(), fastpath.plain_only():
        assert torch.equal(grn(small_input())["output"], plain(small_input())["output"])


def test_response_normalisation_is_in_every_block_but_the_first_downsampling() -> None:
    network = make({"grn": True})
    blocks = {name for name, module in network.named_modules() if isinstance(module, Block)}
    having = {key.partition(".grn_beta")[0] for key in network.state_dict() if key.endswith("grn_beta")}
    assert blocks - having == {"down_0"}


def test_response_normalisation_scales_a_channel_by_its_share_of_the_energy() -> None:
    block = Block(2, 2, expansion_ratio=1, kernel_size=1, norm="group", spatial_dims=3, grn=True, residual=False)
    seed_parameters(block, channel_vectors=mednext.CHANNEL_VECTORS)
    x = seeded_input((2, 2, 3, 4, 5))
    hidden = F.gelu(block.conv2(block.norm(block.conv1(x))))
    energy = hidden.square().sum(dim=(2, 3, 4), keepdim=True).sqrt()
    share = energy / (energy.mean(dim=1, keepdim=True) + 1e-6)
    expected = block.conv3(hidden + block.grn_gamma * hidden * share + block.grn_beta)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_every_parameter_but_the_dummy_gets_a_finite_gradient_at_the_smallest_legal_size(dims: int) -> None:
    config = mednext.Config.model_validate(SMALL | {"spatial_dims": dims, "grn": True})
    interface = mednext.interface(config)
    network = make({"spatial_dims": dims, "grn": True})
    outputs = network(seeded_input((1, 2, *interface.minimum)))
    assert [output.name for output in interface.outputs] == list(outputs)
    for geometry in interface.outputs:
        expected = tuple(edge // stride for edge, stride in zip(interface.minimum, geometry.stride, strict=True))
        assert tuple(outputs[geometry.name].shape[2:]) == expected
    sum(output.square().mean() for output in outputs.values()).backward()
    for name, parameter in network.named_parameters():
        if name != "dummy_tensor":
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_size": 4}, "kernel_size 4 is even, a depthwise kernel needs a centre: give an odd number"),
        ({"kernel_size": None}, "give kernel_size, or encoder_kernel_size and decoder_kernel_size"),
        ({"kernel_size": None, "encoder_kernel_size": 3}, "give kernel_size, or encoder_kernel_size and decoder"),
        ({"encoder_kernel_size": 3, "decoder_kernel_size": 5}, "kernel_size has no effect beside encoder_kernel_size"),
        ({"expansion_ratios": [2, 2]}, "expansion_ratios"),
        ({"block_counts": [2] * 8}, "block_counts"),
        ({"block_counts": [0] + [1] * 8}, r"block_counts\[0\]: Input should be greater than or equal to 1"),
        ({"norm": "batch"}, "norm: Input should be 'group' or 'layer'"),
        ({"spatial_dims": 4}, "spatial_dims: Input should be 2 or 3"),
        ({"residual": 1}, "residual: Input should be a valid boolean"),
        ({"filters": 3}, "filters: unknown key"),
        (
            {"backend": "nnunet_mednext", "norm": "layer", "spatial_dims": 2},
            "computes layer norm wrongly in 2-D, use backend 'native'",
        ),
        (
            {"base_channels": 1024, "expansion_ratios": 64, "block_counts": [64] * 9},
            r"asks for about \d\.\de\+12 parameters, at most 1e\+09 are allowed",
        ),
    ],
)
def test_impossible_configurations_are_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    from connectomics_zoo.specs.resolve import validate_arch

    with pytest.raises(SpecError, match=message):
        validate_arch("mednext", SMALL | changes, source="arch")


@pytest.mark.parametrize(
    ("arch", "kernels"),
    [
        ({"kernel_size": 5}, (5, 5)),
        ({"encoder_kernel_size": 5}, (5, 3)),
        ({"decoder_kernel_size": 7}, (3, 7)),
        ({"encoder_kernel_size": 1, "decoder_kernel_size": 9}, (1, 9)),
        ({"kernel_size": 3, "decoder_kernel_size": 5}, (3, 5)),
    ],
)
def test_kernel_overrides_replace_what_they_name(arch: dict[str, Any], kernels: tuple[int, int]) -> None:
    spec = resolve_model("mednext-S", arch=arch)
    assert spec.arch.kernels == kernels
    again = resolve_model(spec, arch={"kernel_size": 3})
    assert again.arch.kernels == (3, 3)


def test_unknown_arch_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown key arch\.kernel_sizes for mednext-S: did you mean 'kernel_size'"
    ):
        load("mednext-S", arch={"kernel_sizes": 3})


def test_a_spec_of_a_trillion_parameters_is_refused_before_any_of_them_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from connectomics_zoo.files.yaml import dump_yaml
    from connectomics_zoo.specs.lookup import get_spec

    document = get_spec("mednext-S").model_dump(mode="json")
    document["arch"] |= {"base_channels": 1024, "expansion_ratios": 64, "block_counts": [32] * 9}
    path = tmp_path / "huge.yaml"
    path.write_text(dump_yaml(document))
    forbid_modules(monkeypatch)
    error = refusal(lambda: load(str(path)))
    assert "asks for about 1.8e+12 parameters, at most 1e+09 are allowed" in str(error)
    assert str(path) in str(error)


def test_original_backend_is_refused_with_the_install_line_where_it_is_missing() -> None:
    if importlib.util.find_spec("nnunet_mednext") is not None:
        pytest.skip("the original is installed")
    with pytest.raises(
        MissingPackageError,
        match=r"pip install git\+https://github.com/MIC-DKFZ/MedNeXt, or use backend 'native' \(the same network\)",
    ):
        load("mednext-S", arch={"backend": "nnunet_mednext"})


@needs_original
@pytest.mark.parametrize("name", ["default", *GOLDEN])
def test_both_backends_compute_the_same_outputs_and_gradients(name: str) -> None:
    changes = GOLDEN[name][0] if name in GOLDEN else {}
    networks = [make(changes), make(changes | {"backend": "nnunet_mednext"})]
    own, original = networks
    assert isinstance(own, MedNeXt)
    assert not isinstance(original, MedNeXt)
    shapes = [[(key, value.shape) for key, value in network.state_dict().items()] for network in networks]
    assert shapes[0] == shapes[1]
    runs = []
    for network in networks:
        seed_parameters(network, channel_vectors=mednext.CHANNEL_VECTORS)
        x = small_input(changes.get("spatial_dims", 3)).requires_grad_()
        outputs = network(x)
        sum(output.square().mean() for output in outputs.values()).backward()
        runs.append({**outputs, "gradient of the input": x.grad, "evaluation": network.eval()(x)})
    assert list(runs[0]) == list(runs[1])
    for key, output in runs[0].items():
        assert relative_error(output, runs[1][key]) < 1e-5, key


@needs_original
@pytest.mark.parametrize(("size", "kernel_size"), PUBLISHED)
def test_both_backends_have_the_same_keys_and_counts_at_the_published_sizes(size: str, kernel_size: int) -> None:
    arch = {"kernel_size": kernel_size, **SIZES[size]}
    shapes = []
    for backend in ("native", "nnunet_mednext"):
        network = build_meta(resolve_model("mednext-S", arch=arch | {"backend": backend}), deep_supervision=True)
        assert count_parameters(network) == PUBLISHED[size, kernel_size]
        shapes.append([(key, value.shape) for key, value in network.state_dict().items()])
    assert shapes[0] == shapes[1]
