"""`load`: from every kind of reference to a network, with trained weights checked and every tensor reported."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from connectomics_zoo import catalog
from connectomics_zoo.build import count_parameters
from connectomics_zoo.errors import InputSizeError, SpecError, UnknownNameError, WeightsError, ZooError
from connectomics_zoo.load import find_weights, load
from connectomics_zoo.reading import dump_yaml
from connectomics_zoo.registry import get_spec, get_task, resolve_model, validate
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.weights import WEIGHTS_FILE, file_sha256, write_weights

TINY = {"base_channels": 2, "kernel_size": 3, "expansion_ratios": 1, "block_counts": [1] * 9}

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
    caches = (catalog.catalogs, catalog.entries, catalog.builders)
    monkeypatch.syspath_prepend(str(root))
    for cache in caches:
        cache.cache_clear()
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
    for cache in caches:
        cache.cache_clear()
    yield states
    for cache in caches:
        cache.cache_clear()
    for module in [name for name in sys.modules if name.partition(".")[0] == "extra_zoo"]:
        del sys.modules[module]


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


# Starting from other weights


def test_a_larger_kernel_starts_from_a_smaller_one_by_reference_file_and_run(
    extra: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", load("tiny.one"))
    expected = torch.nn.functional.interpolate(
        extra["one"]["bottleneck.0.conv1.weight"], size=(5, 5, 5), mode="trilinear"
    )
    for source in ("tiny.one", find_weights("tiny.one"), run, str(run), run / WEIGHTS_FILE):
        network: Any = load("tiny", arch={"kernel_size": 5}, init_from=source)
        assert len(network.load_report.adapted) == 17
        assert network.load_report.reinitialised == network.load_report.dropped == ()
        assert torch.equal(network.bottleneck[0].conv1.weight, expected)
        assert torch.equal(network.stem.weight, extra["one"]["stem.weight"])


def test_a_pickle_to_start_from_is_refused(tmp_path: Path) -> None:
    torch.save(load("mednext-S", arch=TINY).state_dict(), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"\.pth files are pickles"):
        load("mednext-S", arch=TINY, init_from=tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("missing.safetensors", WeightsError, "there is no such weights file"),
        ("no/such/folder", UnknownNameError, "does not exist"),
        ("mednext-S", WeightsError, "mednext-S has no trained weights"),
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
