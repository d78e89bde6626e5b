"""`zoo export`: what is written computes what torch computes, says where it comes from, and appears whole or not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.exporting import make_small_run

from connectomics_zoo.export.formats import FORMATS
from connectomics_zoo.export.run import export_network
from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.runs.folder import WEIGHTS_FILE
from connectomics_zoo.weights.load import load

EXTRA = {
    "torch-export": (),
    "torchscript": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a tiny network, with a licence, an attribution and a voxel size."""
    data = {
        "voxel_size_nm": (50, 4.6, 4.6),
        "license": "CC-BY-4.0",
        "attribution": "Somebody's neurons",
        "intensity_range": (10, 250),
    }
    return make_small_run(tmp_path_factory.mktemp("run") / "small", data=data)


@pytest.fixture(scope="module")
def image():
    """An input of a legal size that no export looks at, in a batch of three."""
    return torch.randn(3, 1, 6, 12, 4, generator=torch.Generator().manual_seed(1))


def _run_torch_export(path):
    extra = {"zoo.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    return lambda x: program(torch.from_numpy(x)).detach().numpy(), json.loads(extra["zoo.json"])


def _run_torchscript(path):
    extra = {"zoo.json": ""}
    script = torch.jit.load(path, _extra_files=extra)
    return lambda x: script(torch.from_numpy(x)).detach().numpy(), json.loads(extra["zoo.json"])


def _run_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["image"]
    told = session.get_modelmeta().custom_metadata_map
    return lambda x: session.run(["values"], {"image": x})[0], {
        key.removeprefix("zoo."): value for key, value in told.items() if key.startswith("zoo.")
    }


def _run_openvino(path):
    import openvino

    model = openvino.Core().read_model(path / "model.xml")
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = model.get_rt_info("zoo").astype(dict)
    return lambda x: compiled({"image": x})["values"], {key: value.astype(str) for key, value in told.items()}


RUNNERS = {
    "torch-export": _run_torch_export,
    "torchscript": _run_torchscript,
    "onnx": _run_onnx,
    "openvino": _run_openvino,
}


@pytest.mark.parametrize("form", RUNNERS)
def test_what_is_exported_gives_probabilities_of_torch_at_other_sizes_and_says_whose_they_are(
    form, run, image, tmp_path
):
    for package in FORMATS[form].packages:
        pytest.importorskip(package, reason=f"the extra export, with {package}, is not installed")
    out = tmp_path / f"net{FORMATS[form].suffix or ''}"
    report = export_network(run, out, format=form, activation="task")
    compute, told = RUNNERS[form](out)
    with torch.no_grad():
        expected = load(run)(image).sigmoid().numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(compute(image.numpy()), expected, atol=2e-5)
    assert (report.dynamic, report.any_batch, report.sizes) == (True, True, "2 + n*2, 2 + n*2, 4 + n*2")
    assert told == report.provenance
    assert told["weights_sha256"] == file_sha256(run / WEIGHTS_FILE)
    assert (told["data_license"], told["data_attribution"]) == ("CC-BY-4.0", "Somebody's neurons")
    assert (told["task"], told["channels"]) == ("mito", "mitochondria (sigmoid)")
    assert told["voxel_size_nm"] == "50, 4.6, 4.6"
    assert told["intensity"] == "(grey value - 10) / 240, clipped to 0 to 1"
    assert str(run.parent) not in str(told)
