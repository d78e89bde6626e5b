"""`zoo export`: what is written computes what torch computes, says where it comes from, and appears whole or not."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import types

import numpy as np
import pytest
import torch
from support.exporting import make_small_run, small_model
from support.paths import REPOSITORY

from connectomics_zoo.errors import MissingPackageError, ZooError
from connectomics_zoo.export import run as export_run
from connectomics_zoo.export import source
from connectomics_zoo.export.exported import NotExportableError
from connectomics_zoo.export.formats import FORMATS
from connectomics_zoo.export.networks import torchscript
from connectomics_zoo.export.run import export_network
from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.runs.folder import WEIGHTS_FILE
from connectomics_zoo.weights.load import load

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


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
    form, run, image, tmp_path, monkeypatch
):
    for package in FORMATS[form].packages:
        pytest.importorskip(package, reason=f"the extra export, with {package}, is not installed")
    torch.manual_seed(0)
    convolution = torch.nn.Conv3d(1, 1, 3, padding=1)  # tracing more takes seconds; docs/export.md exports a U-Net
    monkeypatch.setattr(source, "load_file", lambda *_, **__: convolution)
    out = tmp_path / f"net{FORMATS[form].suffix or ''}"
    report = export_network(run, out, format=form, activation="task")
    compute, told = RUNNERS[form](out)
    with torch.no_grad():
        expected = convolution(image).sigmoid().numpy()
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


def test_a_size_that_is_asked_for_is_the_only_one_of_the_program(run, tmp_path):
    report = export_network(run, tmp_path / "net.pt2", format="torch-export", size=(4, 6, 8))
    program = torch.export.load(tmp_path / "net.pt2").module()
    image = torch.randn(3, 1, 4, 6, 8)
    torch.testing.assert_close(program(image), load(run)(image), rtol=0, atol=1e-6)
    with pytest.raises(AssertionError, match="Guard failed"):
        program(torch.randn(3, 1, 6, 6, 8))
    assert (report.dynamic, report.any_batch, report.sizes) == (False, True, "4, 6, 8")


class OneDepth(torch.nn.Module):
    """Adds a ramp along z, which a trace keeps as it was."""

    def forward(self, x):
        return x + torch.arange(int(x.shape[2]), dtype=x.dtype).view(-1, 1, 1)


def test_what_cannot_have_every_size_is_written_for_the_window_of_the_weights_and_says_so(
    run, tmp_path, monkeypatch, run_zoo
):
    monkeypatch.setattr(source, "load_file", lambda *_, **__: OneDepth())
    code, out, err = run_zoo("export", run, tmp_path / "net.pt", "--format", "torchscript")
    assert code == 0, err
    assert "takes 4, 8, 8 voxels, any batch; returns logits" in out
    assert "cannot have every legal size of this network (2 + n*2, 2 + n*2, 4 + n*2), it takes 4, 8, 8" in err
    script = torch.jit.load(tmp_path / "net.pt")
    assert script(torch.zeros(2, 1, 4, 8, 8))[1, 0, :, 0, 0].tolist() == [0, 1, 2, 3]


class Branching(torch.nn.Module):
    """Computes something else where there are many sections."""

    def forward(self, x):
        return x if x.shape[2] < 10 else -x


def test_a_program_that_holds_for_a_few_sizes_only_is_not_given_out_for_all(run, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "load_file", lambda *_, **__: Branching())
    report = export_network(run, tmp_path / "net.pt2", format="torch-export")
    assert (report.dynamic, report.sizes) == (False, "4, 8, 8")


def _failing(*, writes=None, runs=None):
    """A format whose writer refuses a rule of sizes, or whose program refuses a shape."""

    def write(exported, output):
        output.write_text("x")
        if writes is not None and writes(exported.sizes):
            raise NotExportableError("cannot be written")
        made.append(exported)

    def reader(output):
        def compute(image):
            if runs is not None and runs(tuple(image.shape)):
                raise RuntimeError("cannot be run")
            return made[-1].network(image)

        return compute

    made = []
    return types.SimpleNamespace(write=write, reader=reader)


@pytest.mark.parametrize(
    ("writer", "sizes", "any_batch"),
    [
        (_failing(), "2 + n*2, 2 + n*2, 4 + n*2", True),
        (_failing(writes=lambda rule: rule.step[0] < 16), "2 + n*16, 2 + n*16, 4 + n*16", True),
        (_failing(runs=lambda shape: shape[2] % 16 not in (2, 4)), "2 + n*16, 2 + n*16, 4 + n*16", True),
        (_failing(runs=lambda shape: shape[2:] == (2, 2, 4)), "4 + n*2, 4 + n*2, 6 + n*2", True),
        (_failing(runs=lambda shape: shape[2:] in ((6, 2, 6), (18, 18, 20))), "4, 8, 8", True),
        (_failing(runs=lambda shape: shape != (1, 1, 4, 8, 8)), "4, 8, 8", False),
    ],
    ids=[
        "every size",
        "multiples of 16",
        "multiples of 16, by running",
        "all but the smallest",
        "one size",
        "one size, one sample",
    ],
)
def test_a_network_is_exported_for_as_many_sizes_as_the_format_can(
    run, tmp_path, monkeypatch, writer, sizes, any_batch
):
    monkeypatch.setattr(export_run, "network_writer", lambda _: writer)
    report = export_network(run, tmp_path / "net.pt", format="torchscript")
    assert (report.sizes, report.any_batch) == (sizes, any_batch)
    assert any("cannot have every legal size" in note for note in report.notes) == (
        sizes != "2 + n*2, 2 + n*2, 4 + n*2"
    )
    assert any("one sample" in note for note in report.notes) != any_batch


def _wrong(output):
    return lambda image: torch.full((len(image), 1, *image.shape[2:]), 3.0)


def _nan(output):
    return lambda image: torch.full((len(image), 1, *image.shape[2:]), torch.nan)


def _cropped(output):
    return lambda image: image[..., 1:]


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (_wrong, r"computes other values as torchscript than in torch at \(1, 1, 4, 8, 8\) \(off by "),
        (_nan, "computes other values as torchscript than in torch"),
        (_cropped, r"returns \(1, 1, 4, 8, 7\) as torchscript for an input of \(1, 1, 4, 8, 8\), and torch"),
    ],
)
def test_what_computes_something_else_than_torch_does_not_appear(run, tmp_path, monkeypatch, reader, message):
    monkeypatch.setattr(torchscript, "reader", reader)
    with pytest.raises(ZooError, match=message):
        export_network(run, tmp_path / "net.pt", format="torchscript")
    assert not list(tmp_path.iterdir())


def test_a_network_that_computes_nan_is_not_exported(run, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "load_file", lambda *_, **__: torch.nn.Threshold(1e9, float("nan")))
    with pytest.raises(ZooError, match="returns values that are NaN or infinite, nothing is exported"):
        export_network(run, tmp_path / "net.pt", format="torchscript")
    assert not list(tmp_path.iterdir())


def test_a_model_without_weights_is_exported_the_same_each_time_and_says_that_it_is_not_trained(run_zoo, tmp_path):
    spec = small_model().model_copy(update={"expect": None})
    (tmp_path / "small.yaml").write_text(spec.model_dump_json())
    image, found = torch.randn(1, 1, 4, 4, 4), []
    for name in ("one.pt", "two.pt"):
        code, out, err = run_zoo(
            "export", tmp_path / "small.yaml", tmp_path / name, "--format", "torchscript", "--json"
        )
        assert code == 0, err
        assert "the weights are initial values, not trained ones" in err
        assert json.loads(out)["provenance"]["weights"] == "none: initial values, not trained"
        found.append(torch.jit.load(tmp_path / name)(image))
    assert torch.equal(*found)


REFUSED = {
    "no format": ([], "say what to write: --format onnx, "),
    "an unknown format": (["--format", "onx"], "--format 'onx' is unknown: did you mean 'onnx'"),
    "another ending": (["--format", "onnx"], "a file of the format onnx has a name that ends in .onnx, write "),
    "an illegal size": (
        ["--format", "torchscript", "--size", "4,5,8"],
        "does not accept the spatial size 4, 5, 8, legal are 2 + n*2, 2 + n*2, 4 + n*2 voxels along z, y, x, such as "
        "4, 6, 8.",
    ),
    "no size": (["--format", "torchscript", "--size", "four"], "is not two or three whole numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_sentence_and_nothing_is_written(case, run, tmp_path, run_zoo):
    options, message = REFUSED[case]
    code, out, err = run_zoo("export", run, tmp_path / "net.pt", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_nothing_that_exists_is_replaced(run, tmp_path, run_zoo):
    (tmp_path / "net.pt").write_text("mine")
    code, _, err = run_zoo("export", run, tmp_path / "net.pt", "--format", "torchscript")
    assert code == 2
    assert "net.pt exists and is not overwritten, choose another name or place." in err
    assert (tmp_path / "net.pt").read_text() == "mine"


def test_without_trained_weights_there_is_no_activation(run_zoo, tmp_path):
    options = ["--format", "torchscript", "--activation", "task"]
    code, _, err = run_zoo("export", "monai_unet", tmp_path / "net.pt", *options)
    assert code == 2
    assert "monai_unet: nothing says which task its channels solve, so that there is no activation: give a ref" in err
    assert not list(tmp_path.iterdir())


def test_without_a_package_the_error_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(packages=("no_such_package",)))
    message = r"onnx needs the package no_such_package, .*run `pip install 'connectomics-zoo\[export\]'`\.$"
    with pytest.raises(MissingPackageError, match=message):
        export_network(run, tmp_path / "net.onnx", format="onnx")


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_has_its_module_and_its_packages_an_extra(form):
    known = FORMATS[form]
    assert importlib.util.find_spec(f"connectomics_zoo.export.{known.module}") is not None
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    declared = {re.match(r"[\w.-]+", line)[0].replace("-", "_") for line in extras.get(known.extra, [])}
    assert {package.partition(".")[0] for package in known.packages} <= {name.partition(".")[0] for name in declared}
