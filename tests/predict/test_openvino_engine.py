"""Prediction by OpenVINO: the same numbers as torch's, and one sentence where it cannot."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.prediction import grey, make_run, write
from support.volume_files import read_all

from connectomics_zoo.errors import MissingPackageError, SpecError, ZooError
from connectomics_zoo.predict import network as predict_network
from connectomics_zoo.predict import openvino_engine, predict


@pytest.fixture
def image(tmp_path):
    return write(tmp_path / "image.h5", grey((16, 32, 48)))


@pytest.mark.parametrize(
    ("options", "shape", "batch_size"),
    [
        ({"in_channels": 2}, (2, 16, 40, 56), 3),
        ({"arch": {"spatial_dims": 2}, "window": (32, 32)}, (3, 40, 56), 1),
    ],
    ids=["3-D, two channels, several windows at a time", "2-D"],
)
def test_openvino_gives_what_torch_gives(openvino, tmp_path, options, shape, batch_size):
    run, image = make_run(tmp_path / "run", **options), write(tmp_path / "image.h5", grey(shape))
    predict(run, image, tmp_path / "torch.h5", dtype="float32", device="cpu")
    report = predict(run, image, tmp_path / "ov.h5", dtype="float32", engine="openvino", batch_size=batch_size)
    assert (report.device, report.engine, report.precision) == ("cpu", "openvino", "float32")
    expected, found = read_all(tmp_path / "torch.h5"), read_all(tmp_path / "ov.h5")
    assert np.ptp(expected) > 0.2
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_openvino_computes_in_bfloat16_and_the_command_says_so(openvino, run_zoo, tmp_path, image):
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("OpenVINO has no bfloat16 on this CPU")
    run, low = make_run(tmp_path / "run"), tmp_path / "low.h5"
    predict(run, image, tmp_path / "exact.h5", dtype="float32", device="cpu")
    options = ["--engine", "openvino", "--precision", "bfloat16", "--dtype", "float32"]
    code, out, err = run_zoo("predict", run, image, low, *options)
    assert code == 0, err
    assert "windows on cpu in bfloat16 by OpenVINO" in out
    assert 1e-5 < np.abs(read_all(low) - read_all(tmp_path / "exact.h5")).max() < 0.03


def test_a_precision_that_the_cpu_lacks_is_refused(openvino, tmp_path, image, monkeypatch):
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32"])
    with pytest.raises(SpecError, match=r"does not compute in bfloat16 on this CPU, give precision float32\.$"):
        predict(make_run(tmp_path / "run"), image, tmp_path / "out.h5", engine="openvino", precision="bfloat16")


def test_openvino_uses_as_many_threads_as_torch(openvino, monkeypatch):
    compiled = []
    compile_model = openvino.Core.compile_model

    def remember(*args):
        compiled.append(compile_model(*args))
        return compiled[-1]

    monkeypatch.setattr(openvino.Core, "compile_model", remember)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    openvino_engine.convert_network(torch.nn.Conv2d(1, 1, 1), shape=(1, 1, 4, 4), precision="float32", name="one")
    assert compiled[0].get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled[0].get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32


@pytest.mark.parametrize(("engine", "times"), [("torch", 1), ("openvino", 0)])
def test_only_torch_gets_the_network_prepared_for_torch(openvino, tmp_path, image, monkeypatch, engine, times):
    prepared = []

    def prepare(network, *, device):
        prepared.append(device.type)
        return network

    monkeypatch.setattr(predict_network, "prepare_inference", prepare)
    monkeypatch.setattr(predict_network, "load_file", lambda *_, **__: torch.nn.Conv3d(1, 1, 3, padding=1))
    predict(make_run(tmp_path / "run"), image, tmp_path / "out.h5", device="cpu", engine=engine)
    assert prepared == ["cpu"] * times


class Branching(torch.nn.Module):
    """What it computes depends on the values."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


class Bessel(torch.nn.Module):
    """Has an operation that OpenVINO does not know."""

    def forward(self, x):
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize("kind", [Branching, Bessel])
def test_a_network_that_cannot_be_converted_is_refused_in_one_sentence(openvino, tmp_path, image, monkeypatch, kind):
    monkeypatch.setattr(predict_network, "load_file", lambda *_, **__: kind())
    with pytest.raises(
        ZooError, match=r"mednext-S cannot be converted for OpenVINO \(.+\), predict it with engine"
    ) as e:
        predict(make_run(tmp_path / "run"), image, tmp_path / "out.h5", engine="openvino")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "out.h5").exists()


def test_a_refused_conversion_leaves_the_level_of_logging_as_it_was(openvino):
    level = logging.root.level
    with pytest.raises(ZooError, match="cannot be converted"):
        openvino_engine.convert_network(Bessel(), shape=(1, 1, 4, 4, 4), precision="float32", name="bessel")
    assert logging.root.level == level


def test_without_openvino_the_error_says_how_to_install_it(run_zoo, tmp_path, image, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    run = make_run(tmp_path / "run")
    message = r"the engine openvino is not installed, run `pip install 'connectomics-zoo\[openvino\]'`\.$"
    with pytest.raises(MissingPackageError, match=message):
        predict(run, image, tmp_path / "out.h5", engine="openvino")
    code, _, err = run_zoo("predict", run, image, tmp_path / "out.h5", "--engine", "openvino")
    assert code == 2
    assert "connectomics-zoo[openvino]" in err


def test_nothing_is_reported_over_the_network(openvino, forked_python):
    code = (
        "import sys, torch\n"
        "from connectomics_zoo.predict import openvino_engine\n"
        "one = torch.nn.Conv2d(1, 1, 1)\n"
        "openvino_engine.convert_network(one, shape=(1, 1, 4, 4), precision='float32', name='one')\n"
        "assert 'openvino' in sys.modules and 'openvino_telemetry' not in sys.modules\n"
    )
    subprocess.run([*forked_python, "-c", code], check=True)
