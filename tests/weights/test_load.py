"""`load`: from every kind of reference to a network, with trained weights checked and every tensor reported."""

from __future__ import annotations

import copy
import json
import math
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from support import valid_network
from support.nnunet import RESIDUAL
from support.record_primus import CASES as PRIMUS_CASES
from torch import Tensor, nn

from connectomics_zoo import catalog
from connectomics_zoo.errors import InputSizeError, SpecError, UnknownNameError, WeightsError, ZooError
from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.network import build as build_module
from connectomics_zoo.network.build import build, count_parameters, probe_shape
from connectomics_zoo.runs.folder import WEIGHTS_FILE
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.lookup import get_spec, get_task
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.load import load, load_file
from connectomics_zoo.weights.pretrained import find_pretrained
from connectomics_zoo.weights.storage import write_weights

TINY = {"base_channels": 2, "kernel_size": 3, "expansion_ratios": 1, "block_counts": [1] * 9}

STRIDES = [[1, 2, 2], [2, 2, 2]]
SMALL: dict[str, dict[str, Any]] = {
    "cellmap": valid_network.ARCH,
    "mednext": {"base_channels": 2, "expansion_ratios": 1, "block_counts": [1] * 9},
    "monai_attention_unet": {"channels": [4, 4, 8], "strides": STRIDES},
    "lsd_unet": {"channels": [2, 4], "strides": STRIDES[:1], "kernel_sizes": [[1, 3, 3], [3, 3, 3]]},
    "monai_basic_unet": {"channels": [4] * 6},
    "monai_basic_unet_plusplus": {"channels": [4] * 6},
    "monai_dynunet": {
        "channels": [4, 4, 8, 8],
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 2, 2], [2, 2, 2], [2, 2, 2]],
        "supervised_levels": 2,
    },
    "monai_segresnet": {
        "base_channels": 4,
        "num_groups": 2,
        "encoder_block_counts": [1, 1],
        "decoder_block_counts": [1],
    },
    "monai_segresnet_ds": {
        "base_channels": 4,
        "num_groups": 2,
        "encoder_block_counts": [1, 1, 1],
        "supervised_levels": 1,
    },
    "monai_swin_unetr": {"feature_size": 12, "depths": [1] * 4, "num_heads": [1] * 4},
    "monai_unet": {"channels": [4, 4, 8], "strides": STRIDES},
    "monai_unetr": {"img_size": [16, 16, 32], "hidden_size": 24, "mlp_dim": 32, "num_heads": 2, "feature_size": 4},
    "monai_vnet": {},
    "nnunet_primus": PRIMUS_CASES["cubes"],
    "nnunet_unet": RESIDUAL,
    "omniem": {"hidden_size": 8, "depth": 4, "num_heads": 2, "grid_edge": 2, "adapter_channels": 2, "feature_size": 2},
    "pytorch3dunet": {"channels": [2, 4], "num_groups": 1},
    "rsunet": {"channels": [4, 6, 8], "strides": STRIDES, "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]]},
}
"""A small architecture for each builder of the catalogue."""

MODELS = sorted({get_spec(entry.path).builder: entry.name for entry in catalog.entries("model")}.values())
"""One model of each builder."""

PLAIN_BUILDER = '''
"""A batch norm and a convolution: stem and head in one, without deep supervision."""

from __future__ import annotations

from connectomics_zoo.schema.builder import BuilderConfig, Interface, OutputGeometry


class Config(BuilderConfig):
    """Nothing to choose."""


def interface(config):
    return Interface("zyx", (1, 1, 2), (1, 1, 1), (OutputGeometry("output", (1, 1, 1), 1.0),))


def build(config, *, in_channels, out_channels, deep_supervision):
    from torch import nn

    return nn.Sequential(nn.BatchNorm3d(in_channels), nn.Conv3d(in_channels, out_channels, 1))
'''


def tiny_document(name: str = "tiny", **arch: Any) -> dict[str, Any]:
    spec = resolve_model("mednext-S", arch=TINY | arch)
    return spec.model_dump(mode="json") | {"name": name, "weights": {}}


def weights_entry(path: Path, *, sha256: str | None = None) -> dict[str, Any]:
    return {
        "file": path.name,
        "sha256": sha256 or file_sha256(path),
        "task": "mito",
        "dataset": "Made up.",
        "license": "CC0-1.0",
    }


def write_model(folder: Path, document: dict[str, Any], *tags: str) -> dict[str, dict[str, Tensor]]:
    """Write the spec, and beside it random weights for each tag; return those weights."""
    folder.mkdir(parents=True, exist_ok=True)
    states = {}
    for tag in tags:
        network = load(validate(ModelSpec, document, source="test"))
        path = folder / f"{document['name']}-{tag}.safetensors"
        write_weights(network, path)
        states[tag] = dict(network.state_dict())
        document["weights"][tag] = weights_entry(path)
    (folder / f"{document['name']}.yaml").write_text(dump_yaml(document))
    return states


def write_run(folder: Path, network: Any) -> Path:
    """Write what `zoo train` leaves: the resolved spec and the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "schema_version": 1,
        "kind": "run",
        "name": "a-run",
        "model": network.spec.model_dump(mode="json"),
        "task": get_task("mito").model_dump(mode="json"),
        "data": {},
        "training": network.spec.training.model_dump(mode="json"),
        "prediction": {},
    }
    (folder / "spec.yaml").write_text(dump_yaml(validate(RunSpec, document, source="test").model_dump(mode="json")))
    write_weights(network, folder / WEIGHTS_FILE)
    return folder


@pytest.fixture
def extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, Tensor]]]:
    """A second catalogue with two models, `tiny` (weights `one`, `two`) and `plain` (no weights); gives the weights."""
    root = tmp_path / "site"
    package = root / "extra_zoo"
    (package / "builders").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "builders" / "__init__.py").touch()
    (package / "builders" / "plain.py").write_text(textwrap.dedent(PLAIN_BUILDER))
    metadata = root / "extra_zoo-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: extra-zoo\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[connectomics_zoo.catalogs]\nextra = extra_zoo\n")
    monkeypatch.syspath_prepend(str(root))
    catalog.forget()
    states = write_model(package / "specs" / "models" / "mednext", tiny_document(), "one", "two")
    write_model(
        package / "specs" / "models" / "plain",
        tiny_document("plain")
        | {
            "builder": "plain",
            "arch": {},
            "input": {"channels": 1, "axes": "zyx", "size": {"minimum": [1, 1, 2], "step": [1, 1, 1]}},
            "outputs": [{"name": "output", "channels": 2, "stride": [1, 1, 1], "loss_weight": 1.0}],
        },
    )
    catalog.forget()
    yield states
    catalog.forget()
    for module in [name for name in sys.modules if name.partition(".")[0] == "extra_zoo"]:
        del sys.modules[module]


def small(name: str) -> ModelSpec:
    spec = get_spec(name)
    return resolve_model(spec, arch=SMALL[spec.builder])


def assert_holds(network: Any, state: dict[str, Tensor]) -> None:
    own = network.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in state)


# The network and what is attached to it


def test_load_gives_a_network_in_evaluation_mode_with_spec_and_report() -> None:
    network: Any = load("mednext-S")
    assert not network.training
    assert not any(module.training for module in network.modules())
    assert network.spec.name == "mednext-S"
    assert network.load_report.source == "initialisation"
    assert set(network.load_report.reinitialised) == set(network.state_dict())
    assert count_parameters(network) == 5_552_843 == network.spec.expect.parameters.training


def test_overrides_change_the_network_and_what_its_spec_declares() -> None:
    network: Any = load("mednext-S", in_channels=3, out_channels=4, arch=TINY)
    assert network.spec.input.channels == 3
    assert [output.channels for output in network.spec.outputs] == [4] * 5
    assert network.spec.arch.base_channels == 2
    assert count_parameters(network) == network.spec.expect.parameters.training
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 16, 32, 32)).shape == (1, 4, 16, 32, 32)


def test_the_same_seed_gives_the_same_network() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(load("mednext-S", arch=TINY).state_dict()["stem.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(("deep_supervision", "heads"), [(None, 5), (True, 5), (False, 1)])
def test_deep_supervision_is_on_where_the_spec_has_scales(deep_supervision: bool | None, heads: int) -> None:
    network: Any = load("mednext-S", arch=TINY, deep_supervision=deep_supervision)
    assert sum(key.endswith("conv_out.weight") for key in network.state_dict()) == heads
    returned = network.train()(torch.zeros(1, 1, 16, 32, 32))
    assert (len(returned) if isinstance(returned, dict) else 1) == heads


def test_the_device_is_the_one_asked_for() -> None:
    assert {parameter.device.type for parameter in load("mednext-S", arch=TINY, device="meta").parameters()} == {"meta"}


def test_a_device_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ZooError, match=r"device 'toaster' cannot be used here \(.*\), give one that is there, such as"):
        load("mednext-S", device="toaster")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (1, 1, 16, 32, 40),
            r"not accept the spatial size \(16, 32, 40\), legal are .*: pad it to \(16, 32, 48\)",
        ),
        ((1, 1, 8, 32, 32), r"pad it to \(16, 32, 32\)"),
        ((1, 2, 16, 32, 32), r"takes 1 input channel\(s\) and got 2 in .*, load it with in_channels=2"),
        ((1, 16, 32, 32), r"takes a tensor \(B, C, Z, Y, X\) and got one of shape \(1, 16, 32, 32\), reshape it"),
    ],
)
def test_inputs_that_are_not_legal_are_refused_before_the_network_runs(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputSizeError, match=message):
        load("mednext-S", arch=TINY)(torch.zeros(shape))


def test_unknown_models_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'MedNeXt_s': did you mean 'mednext-S'"):
        load("MedNeXt_s")


# Fresh networks


def assert_drawn_from(values: Tensor, distribution: Any) -> None:
    """Assert that `values` have the distribution's mean, spread and bounds, and come from it (Kolmogorov-Smirnov)."""
    numbers = values.detach().double()
    count = numbers.numel()
    mean, variance, kurtosis = distribution.stats(moments="mvk")
    assert abs(numbers.mean() - mean) < 5 * math.sqrt(variance / count)
    assert abs(numbers.var() - variance) < 5 * variance * math.sqrt((kurtosis + 2) / count)
    low, high = distribution.support()
    assert low - 1e-6 <= numbers.min() <= numbers.max() <= high + 1e-6
    assert stats.kstest(numbers[:: 1 + count // 5000].numpy(), distribution.cdf).pvalue > 1e-5


def fan_in(convolution: Any) -> int:
    return int(convolution.weight[0].numel())


def assert_norms_are_neutral(network: nn.Module) -> None:
    norms = [
        module for module in network.modules() if isinstance(module, nn.GroupNorm | nn.modules.batchnorm._NormBase)
    ]
    assert len(norms) > 10
    for norm in norms:
        state = norm.state_dict()
        assert state.keys() >= {"weight", "bias"}
        for name, tensor in state.items():
            assert torch.all(tensor == (1 if name in ("weight", "running_var") else 0)), name


@pytest.mark.parametrize("name", ["mednext-S", "monai_basic_unet3d"])
def test_a_fresh_network_is_initialised_as_torch_initialises_its_layers(name: str) -> None:
    torch.manual_seed(1)
    network = load(name)
    assert_norms_are_neutral(network)
    drawn: dict[str, list[Tensor]] = {}
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):  # both are uniform within 1 / sqrt(fan in) in torch
            for kind in ("weight", "bias"):
                values = module.get_parameter(kind).detach().flatten() * math.sqrt(fan_in(module))
                drawn.setdefault(f"{type(module).__name__}.{kind}", []).append(values)
                if len(values) > 200:
                    assert_drawn_from(values, stats.uniform(-1, 2))
    assert drawn.keys() == {f"{kind}.{name}" for kind in ("Conv3d", "ConvTranspose3d") for name in ("weight", "bias")}
    for together in drawn.values():
        assert_drawn_from(torch.cat(together), stats.uniform(-1, 2))


def test_a_fresh_rsunet_is_initialised_after_he() -> None:
    torch.manual_seed(2)
    network = load("rsunet")
    assert_norms_are_neutral(network)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv3d)]
    assert len(convolutions) > 20
    for module in convolutions:
        assert module.bias is None or not module.bias.any()
        assert_drawn_from(module.weight.flatten() * math.sqrt(fan_in(module) / 2), stats.norm())


@pytest.mark.parametrize("name", MODELS)
def test_fresh_networks_differ_and_follow_the_seed(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(load(small(name)).state_dict())
    first, same, other = states
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert all(tensor.isfinite().all() for tensor in first.values())
    weights = [key for key, tensor in first.items() if key.endswith("weight") and tensor.ndim > 1]
    assert weights
    fixed = {key for key in weights if torch.equal(first[key], other[key])}
    known = {key for key in weights if ".up.weight" in key or (key.startswith("adapters.") and "conv" in key)}
    assert fixed <= known, "only RSUNet's upsampling and OmniEM's adapters, which add nothing at first, are not random"


# Weights beside a spec


@pytest.mark.parametrize(
    ("reference", "pretrained", "tag"),
    [
        ("tiny.one", False, "one"),
        ("tiny.two", False, "two"),
        ("extra:tiny.two", False, "two"),
        ("tiny@1.0.0.two", False, "two"),
        ("tiny", True, "one"),
        ("tiny", "two", "two"),
        ("tiny.two", True, "two"),
        ("tiny.two", "two", "two"),
    ],
)
def test_declared_weights_are_loaded(
    extra: dict[str, dict[str, Tensor]], reference: str, pretrained: bool | str, tag: str
) -> None:
    network: Any = load(reference, pretrained=pretrained)
    assert_holds(network, extra[tag])
    assert set(network.load_report.exact) == set(extra[tag])
    assert network.load_report.source.endswith(f"tiny-{tag}.safetensors")


def test_weights_beside_a_yaml_file_are_loaded(tmp_path: Path) -> None:
    states = write_model(tmp_path, tiny_document(), "one")
    assert_holds(load(tmp_path / "tiny.yaml", pretrained=True), states["one"])
    network: Any = load(str(tmp_path / "tiny.yaml"))
    assert network.load_report.source == "initialisation"


def test_weights_adapt_to_other_channels_and_say_so(extra: dict[str, dict[str, Tensor]]) -> None:
    network: Any = load("tiny.one", in_channels=2, out_channels=3, deep_supervision=False)
    report = network.load_report
    assert report.adapted == (("stem.weight", "1 to 2 input channels by their mean, sum kept"),)
    assert set(report.reinitialised) == {"out_0.conv_out.weight", "out_0.conv_out.bias"}
    assert len(report.dropped) == 8
    assert torch.equal(network.stem.weight.sum(1), extra["one"]["stem.weight"].sum(1))


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize(
    ("reference", "arguments", "message"),
    [
        ("tiny.on", {}, r"tiny has no weights 'on': did you mean 'one'\?"),
        ("tiny", {"pretrained": "three"}, r"tiny has no weights 'three': "),
        ("tiny.one", {"pretrained": "two"}, r"tiny\.one means one, leave out pretrained='two'"),
        ("plain", {"pretrained": True}, "plain has no trained weights, load it without pretrained or train it"),
        (
            "tiny.one",
            {"init_from": "tiny.two"},
            r"tiny\.one brings its own weights, leave out either them or init",
        ),
        ("tiny.one", {"arch": {"kernel_size": 5}}, r"do not fit the network: 17 of another shape or type"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(reference: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load(reference, **arguments)


def test_weights_of_a_spec_without_a_file_are_refused() -> None:
    with pytest.raises(WeightsError, match="load it by name or path for pretrained=True"):
        load(get_spec("mednext-S"), pretrained=True)


def test_weights_that_are_not_the_declared_ones_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path, tiny_document(), "one")
    path = tmp_path / "tiny-one.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"not the file that tiny\.one declares \(sha256 differs\), get it again"):
        load(tmp_path / "tiny.yaml", pretrained=True)


def test_weights_that_are_missing_or_a_link_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path, tiny_document(), "one")
    path = tmp_path / "tiny-one.safetensors"
    elsewhere = path.rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(WeightsError, match="there is no such weights file, put it beside the spec"):
        load(tmp_path / "tiny.yaml", pretrained=True)
    path.symlink_to(elsewhere)
    with pytest.raises(WeightsError, match="is a link, weights are read from the spec's own folder only"):
        load(tmp_path / "tiny.yaml", pretrained=True)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "model.pt"])
def test_a_spec_cannot_name_weights_outside_its_folder_or_a_pickle(tmp_path: Path, name: str) -> None:
    document = tiny_document()
    document["weights"]["one"] = weights_entry(Path(name), sha256="0" * 64) | {"file": name}
    (tmp_path / "tiny.yaml").write_text(dump_yaml(document))
    with pytest.raises(SpecError, match=r"weights\.one\.file: String should match pattern"):
        load(tmp_path / "tiny.yaml", pretrained=True)


# The memory of a loaded network


def test_every_builder_of_the_catalogue_has_a_small_network() -> None:
    assert {get_spec(name).builder for name in MODELS} == SMALL.keys()


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_network_is_one_that_was_built_and_filled(name: str, tmp_path: Path) -> None:
    spec = small(name)
    supervised = len(spec.outputs) > 1
    source, filled = (build(spec, deep_supervision=supervised) for _ in range(2))
    with torch.no_grad():
        for buffer in source.buffers():
            buffer += torch.rand_like(buffer) if buffer.is_floating_point() else 0
    path = tmp_path / "model.safetensors"
    write_weights(source, path)
    filled.load_state_dict(source.state_dict())
    loaded: Any = load(spec, init_from=path)
    path.unlink()

    assert loaded.load_report.exact == tuple(filled.state_dict())
    for collect in ("named_parameters", "named_buffers"):
        names: list[dict[int, str]] = [{}, {}]
        pairs = (getattr(network, collect)(remove_duplicate=False) for network in (filled, loaded))
        for (key, one), (same_key, two) in zip(*pairs, strict=True):
            assert key == same_key
            assert torch.equal(one, two), key
            for value in ("dtype", "device", "requires_grad", "is_leaf"):
                assert getattr(one, value) == getattr(two, value), key
            assert one.stride() == two.stride(), key
            # What is one tensor under two names stays so.
            assert names[0].setdefault(id(one), key) == names[1].setdefault(id(two), key)
    x = torch.randn(probe_shape(spec))
    with torch.no_grad():
        expected = filled.eval()(x)
        # A matrix product rounds by where its operands lie in memory, and a file's tensors lie where they lie.
        torch.testing.assert_close(loaded(x), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(copy.deepcopy(loaded)(x), expected)


def test_a_loaded_network_trains_and_its_file_stays_as_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", load("mednext-S", arch=TINY))
    content = (run / WEIGHTS_FILE).read_bytes()
    loaded = load(run).train()
    networks = [loaded, copy.deepcopy(loaded)]
    x = torch.randn(1, 1, 16, 32, 32)
    for network in networks:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            sum(value.square().mean() for value in network(x).values()).backward()
            optimizer.step()
    trained = dict(loaded.state_dict())
    torch.testing.assert_close(trained, dict(networks[1].state_dict()), rtol=1e-4, atol=1e-6)
    assert (run / WEIGHTS_FILE).read_bytes() == content
    assert not torch.equal(trained["stem.weight"], load(run).state_dict()["stem.weight"])
    write_weights(loaded, run / WEIGHTS_FILE)  # over the file that it was loaded from
    assert_holds(loaded, trained)
    assert_holds(load(run), trained)


def test_a_network_that_brings_all_weights_is_neither_initialised_nor_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", load("mednext-S", arch=TINY))
    monkeypatch.delattr(build_module, "measure_static_expectation")
    before = torch.get_rng_state()
    load(run)
    assert torch.equal(torch.get_rng_state(), before)


def test_heads_for_other_channels_are_those_of_a_fresh_network(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", load("mednext-S", arch=TINY))
    torch.manual_seed(4)
    fresh = load("mednext-S", arch=TINY, out_channels=7).state_dict()
    torch.manual_seed(4)
    network: Any = load(run, out_channels=7)
    assert len(network.load_report.reinitialised) == 10
    for key in network.load_report.reinitialised:
        assert torch.equal(network.state_dict()[key], fresh[key])


@pytest.mark.parametrize("place", ["meta", "cpu"])
def test_a_loaded_network_is_wholly_on_the_device_asked_for(place: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", load("mednext-S", arch=TINY))
    network = load(run, device=place)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {place}
    assert network.to(torch.float64).state_dict()["stem.weight"].dtype == torch.float64


# Starting from other weights


def test_a_larger_kernel_starts_from_a_smaller_one_by_reference_file_and_run(
    extra: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", load("tiny.one"))
    expected = torch.nn.functional.interpolate(
        extra["one"]["bottleneck.0.conv1.weight"], size=(5, 5, 5), mode="trilinear"
    )
    for source in ("tiny.one", find_pretrained("tiny.one").path, run, str(run), run / WEIGHTS_FILE):
        network: Any = load("tiny", arch={"kernel_size": 5}, init_from=source)
        assert len(network.load_report.adapted) == 17
        assert network.load_report.reinitialised == network.load_report.dropped == ()
        assert torch.equal(network.bottleneck[0].conv1.weight, expected)
        assert torch.equal(network.stem.weight, extra["one"]["stem.weight"])


def write_bytes(path: Path, count: int) -> Path:
    """Write a file of one tensor of `count` bytes, which take no room on the disk."""
    header = json.dumps({"x": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + count)
    return path


def test_a_file_may_have_eight_bytes_for_each_number_and_one_to_start_from_eight_times_that(tmp_path: Path) -> None:
    spec = get_spec("mednext-S")  # large enough that the room for a header does not matter
    network = build(spec, deep_supervision=True).double()
    write_weights(network, tmp_path / "float64.safetensors")
    assert load_file(spec, tmp_path / "float64.safetensors").state_dict().keys() == network.state_dict().keys()
    room = (tmp_path / "float64.safetensors").stat().st_size
    too_large = r"\d+ bytes, and the network can need \d+ at most: load the model that they are of"
    with pytest.raises(WeightsError, match=too_large):
        load_file(spec, write_bytes(tmp_path / "x.safetensors", room + 2**22))
    with pytest.raises(WeightsError, match=too_large):
        load_file(spec, write_bytes(tmp_path / "y.safetensors", 8 * room + 2**25), resample_kernels=True)
    with pytest.raises(WeightsError, match=f"^(?!.*{too_large})"):  # it is read, and does not fit
        load_file(spec, write_bytes(tmp_path / "z.safetensors", 7 * room), resample_kernels=True)


def test_a_source_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_run(tmp_path / "run", load("mednext-S", arch=TINY))
    for source in ("~/run", f"~/run/{WEIGHTS_FILE}"):
        network: Any = load("mednext-S", arch=TINY, init_from=source)
        assert network.load_report.reinitialised == ()


def test_a_pickle_to_start_from_is_refused(tmp_path: Path) -> None:
    torch.save(load("mednext-S", arch=TINY).state_dict(), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"\.pth files are pickles"):
        load("mednext-S", arch=TINY, init_from=tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("missing.safetensors", WeightsError, "there is no such weights file"),
        ("no/such/folder", UnknownNameError, "does not exist"),
        ("mednext-M", WeightsError, "mednext-M has no trained weights"),
        ("mednext-X.tag", UnknownNameError, "unknown model 'mednext-X'"),
    ],
)
def test_a_source_that_is_not_there_is_refused(source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load("mednext-S", init_from=source)


@pytest.mark.usefixtures("extra")
def test_input_statistics_are_averaged_and_a_head_that_is_also_a_stem_starts_afresh(tmp_path: Path) -> None:
    first: Any = load("plain", in_channels=2)
    with torch.no_grad():
        first[0].weight.copy_(torch.tensor([1.0, 3.0]))
        first[0].running_mean.copy_(torch.tensor([0.0, 8.0]))
    write_weights(first, tmp_path / "plain.safetensors")
    wider: Any = load("plain", in_channels=3, init_from=tmp_path / "plain.safetensors")
    assert wider[0].weight.tolist() == [2.0] * 3
    assert wider[0].running_mean.tolist() == [4.0] * 3
    assert torch.allclose(wider[1].weight.sum(1), first[1].weight.sum(1))
    assert ("0.weight", "2 to 3 input channels by their mean") in wider.load_report.adapted
    for channels in (5, 2):  # 2: as many outputs as inputs
        write_weights(load("plain", in_channels=2, out_channels=3), tmp_path / "other.safetensors")
        other: Any = load("plain", in_channels=2, out_channels=channels, init_from=tmp_path / "other.safetensors")
        assert set(other.load_report.reinitialised) == {"1.weight", "1.bias"}


@pytest.mark.usefixtures("extra")
def test_a_model_with_one_output_has_no_deep_supervision_to_ask_for() -> None:
    network: Any = load("plain")
    assert isinstance(network.train()(torch.zeros(2, 1, 1, 1, 2)), Tensor)
    with pytest.raises(SpecError, match="plain has one output only, load it without deep_supervision=True"):
        load("plain", deep_supervision=True)


# Run folders


def test_a_run_folder_is_a_reference_to_its_trained_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: Any = load("mednext-S", in_channels=2, out_channels=3, arch=TINY)
    write_run(tmp_path / "runs" / "first", trained)
    monkeypatch.chdir(tmp_path)
    x = torch.randn(1, 2, 16, 32, 32)
    for reference in ("runs/first", tmp_path / "runs" / "first"):
        network: Any = load(reference)
        assert network.spec == trained.spec
        assert_holds(network, dict(trained.state_dict()))
        with torch.no_grad():
            assert torch.equal(network(x), trained(x))
    monkeypatch.chdir(tmp_path / "runs")
    assert_holds(load("first"), dict(trained.state_dict()))


def test_a_run_folder_adapts_to_other_channels_and_refuses_a_tag(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", load("mednext-S", arch=TINY))
    network: Any = load(run, out_channels=7, deep_supervision=False)
    assert set(network.load_report.reinitialised) == {"out_0.conv_out.weight", "out_0.conv_out.bias"}
    with pytest.raises(WeightsError, match="means its own weights, leave out pretrained='one'"):
        load(run, pretrained="one")


def test_a_run_folder_without_weights_or_spec_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", load("mednext-S", arch=TINY))
    (run / WEIGHTS_FILE).unlink()
    with pytest.raises(WeightsError, match=r"run/model\.safetensors: there is no such weights file"):
        load(run)
    (run / "spec.yaml").unlink()
    with pytest.raises(UnknownNameError, match=r"is a folder without spec\.yaml, a run folder has one"):
        load(run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"deep_supervision": "false"}, "^deep_supervision is 'false', it must be True, False or None"),
        ({"deep_supervision": 0}, "^deep_supervision is 0, it must be True, False or None"),
        ({"out_channels": 3.0}, "^out_channels is 3.0, it must be a whole number of at least 1"),
        ({"in_channels": True}, "^in_channels is True, it must be a whole number of at least 1"),
        ({"in_channels": "2"}, "^in_channels is '2', it must be a whole number of at least 1"),
        ({"out_channels": 0}, "^out_channels is 0, it must be a whole number of at least 1"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message + r"\.$"):
        load("mednext-S", arch=TINY, **arguments)


def test_numpys_numbers_are_numbers() -> None:
    arch = TINY | {"base_channels": np.int32(4), "block_counts": [np.uint8(1)] * 9}
    network: Any = load("mednext-S", in_channels=np.uint8(2), out_channels=np.int64(3), arch=arch)
    assert network.spec == load("mednext-S", in_channels=2, out_channels=3, arch=TINY | {"base_channels": 4}).spec


def test_within_the_meta_device_a_network_is_refused_unless_its_shapes_are_asked_for() -> None:
    with torch.device("meta"):
        with pytest.raises(ZooError, match="torch's default device is 'meta' here, where tensors have no values: load"):
            load("mednext-S", arch=TINY)
        assert load("mednext-S", arch=TINY, device="meta").state_dict()["stem.weight"].is_meta
    assert not load("mednext-S", arch=TINY).state_dict()["stem.weight"].is_meta
