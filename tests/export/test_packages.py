"""Packages for BioImage.IO and MONAI: they pass what those projects check, and compute what the network computes."""

from __future__ import annotations

import io
import json
import logging
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.exporting import make_small_run, task_of_activations
from support.valid_network import CONTEXT, make_valid_run

from connectomics_zoo.errors import CheckFailedError, MissingPackageError, OutputError, SpecError, WeightsError
from connectomics_zoo.export import source
from connectomics_zoo.export.packages import bioimageio as bioimageio_writer
from connectomics_zoo.export.run import export_network
from connectomics_zoo.weights.load import load

DATA = {
    "voxel_size_nm": (50, 4.6, 4.6),
    "downsample": (1, 2, 2),
    "license": "CC-BY-4.0",
    "attribution": "Somebody's neurons, doi:10.1000/xyz.123",
}

SCHEMA_REQUIRES = {
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task"),
    *("description", "authors", "copyright", "network_data_format"),
}
"""What https://project-monai.github.io/schema/meta_schema_20240725.json requires of metadata."""

TENSOR_REQUIRES = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"}
"""What it requires of the description of a tensor."""


def works():
    """Whether bioimageio reads models here: version 0.5.12 of its spec cannot with pydantic 2.14."""
    pytest.importorskip("bioimageio.core", reason="the extra bioimageio is not installed")
    try:
        bioimageio_writer.refuse_broken_pair()
    except MissingPackageError:
        return False
    return True


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a tiny network, with a licence, an attribution and a voxel size."""
    return make_small_run(tmp_path_factory.mktemp("run") / "small", data=DATA)


@pytest.fixture(scope="module")
def convolution():
    """What stands for the network of the package, since tracing more takes seconds."""
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, 1, 3, padding=1)


@pytest.fixture(scope="module")
def package(run, convolution, tmp_path_factory):
    """Its package for BioImage.IO as a zip file, written without bioimageio's test, which the tests run."""
    pytest.importorskip("bioimageio.core", reason="the extra bioimageio is not installed")
    out = tmp_path_factory.mktemp("package") / "small.zip"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bioimageio_writer, "_test", lambda *_: None)
        patch.setattr(source, "load_file", lambda *_, **__: convolution)
        export_network(run, out, format="bioimageio")
    return out


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    """Its bundle for MONAI."""
    out = tmp_path_factory.mktemp("bundle") / "small"
    export_network(run, out, format="monai-bundle")
    return out


def test_a_package_passes_bioimageios_own_test(package):
    if not works():
        pytest.skip("this bioimageio.spec cannot write models with this pydantic, which the export says")
    from bioimageio.core import test_description

    state = torch.get_rng_state(), np.random.get_state()
    summary = test_description(package, expected_type="model", devices=["cpu"])
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    assert summary.status == "passed", [error for detail in summary.details for error in detail.errors]
    names = {detail.name for detail in summary.details}
    assert {f"Reproduce test outputs from test inputs ({form})" for form in ("onnx", "torchscript")} <= names
    assert "Run onnx inference for inputs with batch_size: 2 and size parameter n: 2" in names


def test_a_package_says_what_a_stranger_must_know_and_its_numbers_are_those_of_the_network(package, convolution):
    with zipfile.ZipFile(package) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    document = yaml.safe_load(files["rdf.yaml"])
    (given,), (made,) = document["inputs"], document["outputs"]
    space = [axis for axis in given["axes"] if axis["type"] == "space"]
    assert [(axis["id"], axis["size"], axis["scale"], axis["unit"]) for axis in space] == [
        ("z", {"min": 2, "step": 2}, 50.0, "nanometer"),
        ("y", {"min": 2, "step": 2}, 9.2, "nanometer"),
        ("x", {"min": 4, "step": 2}, 9.2, "nanometer"),
    ]
    assert [axis.get("halo", 0) for axis in made["axes"] if axis["type"] == "space"] == [0, 0, 1]
    assert made["axes"][1]["channel_names"] == ["mitochondria"]
    assert [step["id"] for step in made["postprocessing"]] == ["sigmoid"]
    assert (document["license"], document["cite"][1]["doi"]) == ("CC-BY-4.0", "10.1000/xyz.123")
    assert "Credit for the data: Somebody's neurons" in files["README.md"].decode()
    assert document["config"]["connectomics_zoo"]["task"] == "mito"
    assert "https://spdx.org/licenses/CC-BY-4.0.html" in files["LICENSE.md"].decode()
    assert Image.open(io.BytesIO(files["cover.png"])).size == (512, 256)

    raw, expected = (np.load(io.BytesIO(files[f"test-{name}.npy"])) for name in ("input", "output"))
    assert (raw.dtype, raw.shape) == (np.uint8, (1, 1, 4, 8, 8))
    with torch.no_grad():
        logits = convolution(torch.from_numpy(raw.astype(np.float32) / 255)).numpy()
    np.testing.assert_allclose(expected, 1 / (1 + np.exp(-logits)), atol=1e-6)
    script = torch.jit.load(io.BytesIO(files["weights-torchscript.pt"]))
    np.testing.assert_allclose(script(torch.from_numpy(raw / np.float32(255))).detach(), logits, atol=1e-6)


def test_intensities_of_a_range_and_activations_in_the_network_are_told(tmp_path, monkeypatch):
    pytest.importorskip("bioimageio.core", reason="the extra bioimageio is not installed")
    monkeypatch.setattr(bioimageio_writer, "_test", lambda *_: None)
    monkeypatch.setattr(bioimageio_writer, "_write_onnx", lambda *_: None)
    data = {**DATA, "intensity_range": (100, 900), "license": "Our own terms"}
    run = make_small_run(tmp_path / "run", data=data)
    export_network(run, tmp_path / "out", format="bioimageio", activation="task")
    document = yaml.safe_load((tmp_path / "out" / "rdf.yaml").read_text())
    (given,), (made,) = document["inputs"], document["outputs"]
    assert given["preprocessing"][1] == {"id": "scale_linear", "kwargs": {"gain": 1 / 800, "offset": -100 / 800}}
    assert given["data"] == {"type": "float32", "range": [100, 900]}
    assert (made["postprocessing"], made["data"]["range"]) == ([], [0.0, 1.0])
    assert document["license"]["source"] == "LICENSE.md"
    assert list(document["weights"]) == ["torchscript"]
    values = np.load(tmp_path / "out" / "test-output.npy")
    raw = np.load(tmp_path / "out" / "test-input.npy")
    with torch.no_grad():
        logits = load(run)(torch.from_numpy(np.clip((raw - 100) / 800, 0, 1).astype(np.float32))).numpy()
    np.testing.assert_allclose(values, 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_a_package_that_does_not_pass_is_not_left(run, tmp_path, monkeypatch):
    pytest.importorskip("bioimageio.core", reason="the extra bioimageio is not installed")
    import bioimageio.core

    error = SimpleNamespace(loc=("inputs", 0), msg="no such axis")
    failing = SimpleNamespace(status="failed", details=[SimpleNamespace(errors=[error])])
    monkeypatch.setattr(bioimageio.core, "test_description", lambda *_, **__: failing)
    monkeypatch.setattr(bioimageio_writer, "_write_onnx", lambda *_: None)
    if not works():
        with pytest.raises(MissingPackageError, match=r"does not work with pydantic \S+, run `pip install 'pydantic<2"):
            export_network(run, tmp_path / "out", format="bioimageio")
    else:
        with pytest.raises(CheckFailedError, match=r"does not pass \(inputs.0: no such axis\), nothing is exported"):
            export_network(run, tmp_path / "out", format="bioimageio")
    assert list(tmp_path.iterdir()) == []


def test_what_makes_no_package_is_refused(run, tmp_path):
    pytest.importorskip("bioimageio.core", reason="the extra bioimageio is not installed")
    for form in ("bioimageio", "monai-bundle"):
        with pytest.raises(WeightsError, match=f"has initial weights, and a package of the format {form} is"):
            export_network("mednext-S", tmp_path / "out", format=form)
    mixed = make_small_run(tmp_path / "mixed", task=task_of_activations("sigmoid", "tanh"))
    with pytest.raises(SpecError, match=r"no words for the activations of the task mito \(sigmoid, tanh\), export it"):
        export_network(mixed, tmp_path / "out", format="bioimageio")
    with pytest.raises(OutputError, match=r"a MONAI bundle is a folder, and a name in .zip is that of a file"):
        export_network(run, tmp_path / "out.zip", format="monai-bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["mixed"]


def test_a_network_of_valid_padding_says_how_much_smaller_its_outputs_are(tmp_path, monkeypatch):
    pytest.importorskip("bioimageio.core", reason="the extra bioimageio is not installed")
    monkeypatch.setattr(bioimageio_writer, "_test", lambda *_: None)
    monkeypatch.setattr(bioimageio_writer, "_write_onnx", lambda *_: None)
    run = make_valid_run(tmp_path / "run")
    export_network(run, tmp_path / "out", format="bioimageio")
    (made,) = yaml.safe_load((tmp_path / "out" / "rdf.yaml").read_text())["outputs"]
    space = [axis for axis in made["axes"] if axis["type"] == "space"]
    assert [axis["size"]["offset"] for axis in space] == [-2 * margin for margin in CONTEXT]
    assert not any("halo" in axis for axis in space)
    with pytest.raises(SpecError, match=r"returns less than it takes \(context \[2, 4, 4\]\), which MONAI's sliding"):
        export_network(run, tmp_path / "bundle", format="monai-bundle")


def _verify(bundle, **values):
    from monai.bundle import verify_net_in_out

    logging.getLogger("monai.bundle").setLevel(logging.ERROR)
    verify_net_in_out(
        "network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        device="cpu",
        bundle_root=str(bundle),
        **values,
    )


def _network(bundle):
    from monai.bundle.config_parser import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    return parser.get_parsed_content("network_def"), parser


def test_a_bundle_of_monais_own_network_is_monais_class_and_computes_the_same(bundle, run):
    _verify(bundle, n=3)
    network, parser = _network(bundle)
    assert type(network).__module__ == "monai.networks.nets.unet"
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    image = torch.randn(2, 1, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(network.eval()(image), load(run)(image))
    inferer = parser.get_parsed_content("inferer")
    assert (inferer.roi_size, inferer.overlap) == ([4, 8, 8], 0.5)
    scale = parser.get_parsed_content("preprocessing").transforms[2]
    np.testing.assert_allclose(scale({"image": torch.tensor([0.0, 51, 255])})["image"], [0, 0.2, 1], atol=1e-6)


def test_metadata_of_a_bundle_have_what_monais_schema_requires(bundle):
    from monai.bundle.config_parser import ConfigParser
    from monai.bundle.properties import MetaProperties

    document = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert document.keys() >= SCHEMA_REQUIRES
    assert "averaged, before activations" in (bundle / "docs" / "README.md").read_text()
    assert "every array (z, y, x) in" in (bundle / "docs" / "README.md").read_text()
    tensors = document["network_data_format"]
    assert tensors["inputs"]["image"].keys() >= TENSOR_REQUIRES <= tensors["outputs"]["pred"].keys()
    assert tensors["inputs"]["image"]["spatial_shape"] == ["2*n", "2*n", "2*n + 2"]
    assert (document["copyright"], document["authors"]) == (
        "Weights: CC-BY-4.0. Credit: Somebody's neurons, doi:10.1000/xyz.123.",
        "not stated",
    )
    parser = ConfigParser()
    parser.read_config({})
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    assert len(MetaProperties) >= 5
    for item in MetaProperties.values():
        assert parser.get(item["id"]) is not None, item


def test_metadata_of_a_bundle_pass_monais_verify_metadata(bundle):
    schema = os.environ.get("MONAI_META_SCHEMA")
    if schema is None:
        pytest.skip("MONAI does not ship the schema of metadata: let MONAI_META_SCHEMA be meta_schema_20240725.json")
    from monai.bundle import verify_metadata

    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=Path(schema), hash_val=None)


def test_a_bundle_of_any_other_network_is_torchscript(run, tmp_path):
    export_network(run, tmp_path / "out", format="monai-bundle", activation="task")
    _verify(tmp_path / "out", n=2)
    network, parser = _network(tmp_path / "out")
    assert isinstance(network, torch.jit.ScriptModule)
    image = torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(network(image), load(run)(image).sigmoid())
    network.load_state_dict(torch.load(tmp_path / "out" / "models" / "model.pt", weights_only=True))
    transforms = parser["postprocessing"]["transforms"]
    assert [item["_target_"] for item in transforms] == ["SaveImaged"], "the network has the activation"


def test_activations_of_a_bundle_are_those_of_the_task(tmp_path):
    from monai.bundle.config_parser import ConfigParser

    from connectomics_zoo.tasks.activations import activate

    for kinds in (("sigmoid",), ("softmax", "softmax"), ("scaled_sigmoid", "softmax", "tanh", "softmax", "none")):
        task = task_of_activations(*kinds)
        run = make_small_run(tmp_path / f"run-{len(kinds)}", task=task)
        export_network(run, tmp_path / f"out-{len(kinds)}", format="monai-bundle")
        parser = ConfigParser()
        parser.read_config(str(tmp_path / f"out-{len(kinds)}" / "configs" / "inference.json"))
        transform = parser.get_parsed_content("postprocessing#transforms#0")
        logits = torch.randn(1, len(kinds), 2, 3, 4, generator=torch.Generator().manual_seed(1))
        values = transform({"pred": logits[0]})["pred"]
        torch.testing.assert_close(torch.as_tensor(values), activate(logits, task=task)[0])
