"""Prediction with a run: what its network gives, in every format, and whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.naive_window import naive, naive_means
from support.prediction import grey, make_run, write
from support.volume_files import read_all

from connectomics_zoo.cli import predict as predict_cli
from connectomics_zoo.errors import (
    CheckFailedError,
    InputSizeError,
    MissingPackageError,
    OutputError,
    SpecError,
    UnknownNameError,
    VolumeError,
    WeightsError,
)
from connectomics_zoo.evaluate import evaluate
from connectomics_zoo.network.device import prediction_precision
from connectomics_zoo.predict import predict
from connectomics_zoo.predict.network import make_forward
from connectomics_zoo.runs.folder import WEIGHTS_FILE, get_run
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.volumes import open_volume


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", data={"voxel_size_nm": (30.0, 8.0, 8.0)})


def channels_task(*activations: str, method: str = "threshold") -> TaskSpec:
    classes = ("background", "presynapse", "postsynapse")
    loss = {"sigmoid": "bce", "softmax": "cross_entropy", "none": "mse"}
    return TaskSpec.model_validate(
        {
            "schema_version": 1,
            "name": "several",
            "summary": "Several channels.",
            "channels": [
                {
                    "name": f"c{index}",
                    "activation": kind,
                    "target": {"kind": classes[index] if kind == "softmax" else "foreground"},
                    "losses": [{"kind": loss[kind]}],
                }
                for index, kind in enumerate(activations)
            ],
            "decode": {"method": method, **({"threshold": 0.5} if method == "threshold" else {})},
            "metrics": ["dice"],
        }
    )


def test_a_run_predicts_what_its_network_gives_in_the_naive_way(run, tmp_path):
    from connectomics_zoo.weights.load import load

    array = grey((20, 50, 40))
    report = predict(run, write(tmp_path / "image.h5", array), tmp_path / "out.h5", dtype="float32", device="cpu")
    network = load(run)

    def forward(windows):
        with torch.no_grad():
            return network(windows).sigmoid().expand(-1, 2, -1, -1, -1)

    expected = naive(
        array.astype(np.float32) / 255, factors=(1, 1, 1), window=(16, 32, 32), overlap=0.5, forward=forward
    )
    found = read_all(tmp_path / "out.h5")
    np.testing.assert_allclose(found, expected[0], atol=1e-6)
    assert found.max() - found.min() > 0.2
    assert report.windows == 2 * 3 * 2
    assert (report.device, report.engine, report.precision) == ("cpu", "torch", "float32")
    assert report.shape == (20, 50, 40)


def test_batches_change_nothing(run, tmp_path):
    image = write(tmp_path / "image.h5", grey((16, 60, 40)))
    predict(run, image, tmp_path / "one.h5", dtype="float32")
    predict(run, image, tmp_path / "four.h5", dtype="float32", batch_size=4)
    np.testing.assert_allclose(read_all(tmp_path / "one.h5"), read_all(tmp_path / "four.h5"), atol=1e-6)


@pytest.mark.parametrize("name", ["out.h5", "out.h5:group/mito", "out.tif", "out.zarr"])
def test_voxel_size_and_axes_are_kept_in_every_format(run, tmp_path, name):
    image = write(tmp_path / "image.tif", grey((16, 32, 40)), voxel_size_nm=(30.0, 8.2, 8.0))
    predict(run, image, tmp_path / name)
    with open_volume(tmp_path / name) as volume:
        assert volume.shape == (16, 32, 40)
        assert volume.channels is None
        assert volume.dtype == np.uint8
        assert volume.voxel_size_nm == pytest.approx((30.0, 8.2, 8.0))


def test_the_runs_voxel_size_is_written_where_the_volume_has_none_and_said(run, tmp_path, caplog):
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    report = predict(run, image, tmp_path / "out.h5")
    assert report.voxel_size_nm == (30, 8, 8)
    assert "does not say its voxel size, took the run's, 30 x 8 x 8 nm" in caplog.text


def test_uint8_stores_255_times_the_probability(run, tmp_path):
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    predict(run, image, tmp_path / "exact.h5", dtype="float32")
    predict(run, image, tmp_path / "bytes.h5")
    exact = read_all(tmp_path / "exact.h5")
    np.testing.assert_array_equal(read_all(tmp_path / "bytes.h5"), np.rint(exact * np.float32(255)).astype(np.uint8))


def test_labels_are_what_the_task_decodes(run, tmp_path):
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    predict(run, image, tmp_path / "exact.h5", dtype="float32")
    predict(run, image, tmp_path / "labels.h5", output="label")
    labels = read_all(tmp_path / "labels.h5")
    np.testing.assert_array_equal(labels, read_all(tmp_path / "exact.h5") > 0.5)
    assert 0 < labels.mean() < 1


def test_several_channels_make_a_volume_with_channels_and_softmax_adds_up_to_one(tmp_path):
    folder = make_run(tmp_path / "run", task=channels_task("softmax", "softmax", "softmax", method="argmax"))
    image = write(tmp_path / "image.h5", grey((16, 40, 32)))
    predict(folder, image, tmp_path / "values.h5", dtype="float32")
    predict(folder, image, tmp_path / "labels.h5", output="label")
    values = read_all(tmp_path / "values.h5")
    assert values.shape == (3, 16, 40, 32)
    np.testing.assert_allclose(values.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(read_all(tmp_path / "labels.h5"), values.argmax(axis=0))


def test_a_downsampling_run_predicts_at_full_resolution(tmp_path):
    folder = make_run(tmp_path / "run", data={"downsample": (1, 2, 2)})
    array = grey((16, 75, 80))
    predict(folder, write(tmp_path / "image.h5", array), tmp_path / "out.h5", dtype="float32")
    predict(
        make_run(tmp_path / "fine"),
        write(tmp_path / "small.h5", naive_means(array / np.float32(255), (1, 2, 2)).astype(np.float32)),
        tmp_path / "small_out.h5",
        dtype="float32",
    )
    small, full = read_all(tmp_path / "small_out.h5"), read_all(tmp_path / "out.h5")
    assert full.shape == (16, 75, 80)
    # Voxel 3 lies a quarter of the way from the centre of network voxel 1 to that of 2.
    between = 0.75 * small[:, 1] + 0.25 * small[:, 2]
    np.testing.assert_allclose(full[:, 3, 0], between[:, 0], atol=1e-5)


def test_a_2d_network_goes_section_by_section(tmp_path):
    folder = make_run(tmp_path / "run", arch={"spatial_dims": 2}, window=(32, 32))
    array = grey((5, 40, 32))
    predict(folder, write(tmp_path / "image.h5", array), tmp_path / "all.h5", dtype="float32", batch_size=2)
    predict(folder, write(tmp_path / "one.h5", array[2:3]), tmp_path / "third.h5", dtype="float32")
    np.testing.assert_allclose(read_all(tmp_path / "all.h5")[2:3], read_all(tmp_path / "third.h5"), atol=1e-6)


def test_image_channels_go_to_the_network(tmp_path):
    folder = make_run(tmp_path / "run", in_channels=2)
    array = grey((2, 16, 32, 32))
    predict(folder, write(tmp_path / "image.h5", array), tmp_path / "out.h5", dtype="float32")
    predict(folder, write(tmp_path / "swapped.h5", array[::-1].copy()), tmp_path / "out2.h5", dtype="float32")
    assert not np.allclose(read_all(tmp_path / "out.h5"), read_all(tmp_path / "out2.h5"))


def test_a_given_window_and_overlap_replace_the_runs(run, tmp_path, caplog):
    image = write(tmp_path / "image.h5", grey((16, 64, 64)))
    report = predict(run, image, tmp_path / "out.h5", window=(16, 48, 48), overlap=0.25)
    assert (report.window, report.overlap, report.windows) == ((16, 48, 48), 0.25, 4)
    assert "window (16, 48, 48) instead of the run's (16, 32, 32)" in caplog.text


# What goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window": (16, 40, 32)}, InputSizeError, r"does not accept the window \[16, 40, 32\].*give \[16, 48, 32\]"),
        ({"window": (32, 32)}, InputSizeError, "has 2 axes, mednext-S has z, y, x: give 3 numbers"),
        ({"overlap": 0.95}, SpecError, r"prediction: overlap: .*0\.9 \(got 0\.95\)"),
        ({"batch_size": 0}, SpecError, "batch_size 0 is not possible"),
        ({"device": "quantum"}, UnknownNameError, "unknown device 'quantum', give auto, cpu"),
        ({"output": "label", "dtype": "float32"}, OutputError, "labels are uint8, not float32"),
        ({"engine": "onnx"}, SpecError, "engine 'onnx' is not known, give torch or openvino"),
        (
            {"precision": "int8"},
            SpecError,
            "precision 'int8' is not known, give auto or float32 or bfloat16",
        ),
        (
            {"precision": "float16", "device": "cpu"},
            SpecError,
            "precision float16 is not possible on cpu, give auto or float32 or bfloat16",
        ),
        (
            {"engine": "openvino", "device": "cuda"},
            SpecError,
            "the engine openvino computes on the CPU, not on cuda: give device cpu, or engine torch",
        ),
        ({"output": "labels"}, SpecError, "output 'labels' is not known, give probability or label"),
        ({"dtype": "uint16"}, SpecError, "dtype 'uint16' is not known, give uint8 or float16 or float32"),
        ({"region": "z=3"}, VolumeError, "the region 'z=3' is not understood, write it as z=13:16"),
        ({"region": "z=5:5"}, VolumeError, "empty along z"),
        ({"region": "z=1:99"}, VolumeError, r"the region z=1:99 is not inside .*, which has z=0:16"),
        ({"region": "z=1:2,z=3:4"}, VolumeError, "is not understood"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_nothing_is_written(run, tmp_path, options, error, message):
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    with pytest.raises(error, match=message):
        predict(run, image, tmp_path / "out.h5", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["image.h5"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_here_is_an_error(run, tmp_path):
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    with pytest.raises(MissingPackageError, match="the device 'cuda' is not available here, give auto or cpu"):
        predict(run, image, tmp_path / "out.h5", device="cuda")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match=r"is a folder without spec\.yaml, a run folder has one"):
        predict(tmp_path, tmp_path / "image.h5", tmp_path / "out.h5")


def test_weights_that_are_replaced_while_they_are_read_are_refused(run, tmp_path, monkeypatch):
    folder = shutil.copytree(run, tmp_path / "run")

    def load_the_next(*args, **options):
        shutil.copy(run / WEIGHTS_FILE, tmp_path / "next")
        (tmp_path / "next").replace(folder / WEIGHTS_FILE)
        return make_forward(*args, **options)

    monkeypatch.setattr("connectomics_zoo.predict.job.make_forward", load_the_next)
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    with pytest.raises(WeightsError, match=rf"{WEIGHTS_FILE}: was replaced while it was read, as by a training"):
        predict(folder, image, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_other_channels_than_the_networks_are_refused(run, tmp_path):
    image = write(tmp_path / "image.h5", grey((2, 16, 32, 32)))
    with pytest.raises(VolumeError, match=r"has 2 channel\(s\), and tiny was trained on 1"):
        predict(run, image, tmp_path / "out.h5")


def test_floats_outside_0_to_1_need_a_range(run, tmp_path):
    image = write(tmp_path / "image.h5", grey((16, 32, 32), dtype=np.float32))
    with pytest.raises(VolumeError, match=r"image\.h5:main: the image is float32 with values from 0 to 255.*\[low,hi"):
        predict(run, image, tmp_path / "out.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["image.h5"]


def test_values_without_activation_are_not_squeezed_into_uint8(tmp_path):
    folder = make_run(tmp_path / "run", task=channels_task("none"))
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    with pytest.raises(OutputError, match=r"the channel 'c0' has no activation.*give dtype float16 or float32"):
        predict(folder, image, tmp_path / "out.h5")
    predict(folder, image, tmp_path / "out.h5", dtype="float32")
    assert read_all(tmp_path / "out.h5").min() < 0


def test_a_network_that_returns_nan_is_an_error(run, tmp_path):
    folder = make_run(tmp_path / "run")
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS_FILE)
    save_file({key: value * float("nan") for key, value in weights.items()}, folder / WEIGHTS_FILE)
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    with pytest.raises(CheckFailedError, match="returned values that are NaN or infinite, its training has diverged"):
        predict(folder, image, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_the_image_is_never_overwritten_by_its_prediction(run, tmp_path):
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    with pytest.raises(OutputError, match="is the input itself, which would be lost"):
        predict(run, image, tmp_path / "image.h5:main", overwrite=True)
    np.testing.assert_array_equal(read_all(image), grey((16, 32, 32)))


def test_an_existing_output_stays_unless_overwriting_is_asked_for(run, tmp_path):
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    (tmp_path / "out.tif").write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        predict(run, image, tmp_path / "out.tif")
    assert (tmp_path / "out.tif").read_bytes() == b"precious"
    predict(run, image, tmp_path / "out.tif", overwrite=True)
    assert read_all(tmp_path / "out.tif").shape == (16, 32, 32)


@pytest.mark.parametrize("name", ["out.h5", "out.tif", "out.zarr"])
def test_control_c_leaves_nothing_behind(run, tmp_path, name):
    image = write(tmp_path / "image.h5", grey((40, 32, 64)))

    def interrupt(progress):
        if progress.done > progress.total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(run, image, tmp_path / name, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["image.h5"]


def test_progress_counts_voxels_up_to_all_of_them(run, tmp_path):
    calls = []
    image = write(tmp_path / "image.h5", grey((16, 64, 64)))
    predict(run, image, tmp_path / "out.h5", progress=calls.append)
    done = [progress.done for progress in calls]
    assert done == sorted(done)
    assert len(calls) == 10
    assert calls[0] == Progress(0, 16 * 64 * 64, unit="voxels")
    assert calls[-1] == Progress(16 * 64 * 64, 16 * 64 * 64, unit="voxels")


@pytest.mark.parametrize("name", ["out.h5", "out.tif", "out.zarr"])
def test_an_output_that_appears_meanwhile_stays_and_the_prediction_is_not_lost(run, tmp_path, name):
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    predict(run, image, tmp_path / f"undisturbed{Path(name).suffix}")

    def occupy(progress):
        (tmp_path / name).write_bytes(b"precious")

    with pytest.raises(OutputError, match=rf"{name}: appeared while .* repeat the command, which finishes what is in"):
        predict(run, image, tmp_path / name, progress=occupy)
    assert (tmp_path / name).read_bytes() == b"precious"
    (tmp_path / name).unlink()
    report = predict(run, image, tmp_path / name)
    assert report.resumed == report.blocks == 1
    np.testing.assert_array_equal(read_all(tmp_path / name), read_all(tmp_path / f"undisturbed{Path(name).suffix}"))
    assert not list(tmp_path.glob("*.job"))


# Precision ------------------------------------------------------------------------------------------------------


def with_precision(run, precision):
    spec = get_run(run)
    return spec.model_copy(update={"training": spec.training.model_copy(update={"precision": precision})})


@pytest.mark.parametrize("known", [{"avx2": True}, {"avx512_bf16": True, "amx_bf16": True}])
@pytest.mark.parametrize("own", ["32-true", "bf16-mixed", "16-mixed"])
def test_the_cpu_computes_in_float32_unless_bfloat16_is_asked_for(run, monkeypatch, own, known):
    """Also where it has bfloat16: scores of objects then differ, and from one CPU to the next."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    spec, cpu = with_precision(run, own), torch.device("cpu")
    assert prediction_precision("auto", run=spec, device=cpu) == "float32"
    assert prediction_precision("bfloat16", run=spec, device=cpu) == "bfloat16"


@pytest.mark.parametrize(
    ("own", "has_bfloat16", "chosen"),
    [
        ("32-true", True, "float32"),
        ("16-mixed", True, "float16"),
        ("bf16-mixed", True, "bfloat16"),
        ("bf16-mixed", False, "float32"),
    ],
)
def test_cuda_computes_in_the_runs_precision_where_it_can(run, monkeypatch, own, has_bfloat16, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    spec, cuda = with_precision(run, own), torch.device("cuda")
    assert prediction_precision("auto", run=spec, device=cuda) == chosen
    assert prediction_precision("float16", run=spec, device=cuda) == "float16"


def test_bfloat16_is_refused_where_the_device_lacks_it(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(SpecError, match="precision bfloat16 is not possible on cuda, give auto or float32 or float16"):
        prediction_precision("bfloat16", run=get_run(run), device=torch.device("cuda"))
    with pytest.raises(SpecError, match="precision bfloat16 is not possible on mps, give auto or float32"):
        prediction_precision("bfloat16", run=get_run(run), device=torch.device("mps"))


@pytest.mark.parametrize(
    ("known", "warned"), [({"avx2": True}, True), ({"avx512_bf16": True}, False), ({"amx_bf16": True}, False)]
)
def test_bfloat16_on_a_cpu_without_it_is_warned_of(run, monkeypatch, caplog, known, warned):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    prediction_precision("bfloat16", run=get_run(run), device=torch.device("cpu"))
    assert ("this CPU has no bfloat16 arithmetic (AVX512_BF16, AMX)" in caplog.text) == warned


def test_bfloat16_is_near_float32_and_the_report_says_it(run, tmp_path):
    image = write(tmp_path / "image.h5", grey((16, 48, 32)))
    predict(run, image, tmp_path / "exact.h5", dtype="float32", device="cpu")
    report = predict(run, image, tmp_path / "low.h5", dtype="float32", device="cpu", precision="bfloat16")
    assert report.precision == "bfloat16"
    difference = np.abs(read_all(tmp_path / "low.h5") - read_all(tmp_path / "exact.h5")).max()
    assert 1e-5 < difference < 0.03


# The command line -----------------------------------------------------------------------------------------------


def invoke(*arguments):
    return CliRunner().invoke(predict_cli.command, [str(argument) for argument in arguments])


def test_the_command_prints_the_report_as_json(run, tmp_path):
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    result = invoke(run, image, tmp_path / "out.h5", "--json", "--region", "z=2:5", "--window", "16,32,32")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["shape"] == [3, 32, 32]
    assert report["out"] == f"{tmp_path / 'out.h5'}:main"


def test_the_command_says_what_it_wrote_and_logs_plain_lines(run, tmp_path, monkeypatch):
    monkeypatch.setattr("connectomics_zoo.cli._progress.plain_interval", lambda _: 0.0)
    image = write(tmp_path / "image.h5", grey((16, 32, 64)))
    result = invoke(run, image, tmp_path / "out.h5")
    assert result.exit_code == 0, result.output
    assert "out.h5:main: 16 x 32 x 64 uint8 (probability)" in result.stdout
    assert re.search(
        r"^predict: 32768/32768 voxels, \S+ Mvoxel/s, 0:0\d so far, 0:00 left$", result.stderr, re.MULTILINE
    )


@pytest.mark.parametrize("name", ["out.h5", "out.tif", "out.zarr"])
def test_every_format_keeps_the_threshold_of_the_task(run, tmp_path, caplog, name):
    shutil.copytree(run, tmp_path / "run")
    text = (tmp_path / "run" / "spec.yaml").read_text()
    assert text.count("threshold: 0.5") == 1
    (tmp_path / "run" / "spec.yaml").write_text(text.replace("threshold: 0.5", "threshold: 0.35"))
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    truth = write(tmp_path / "truth.h5", (grey((16, 32, 32)) > 99).astype(np.uint8))
    predict(tmp_path / "run", image, tmp_path / name)
    assert "threshold" not in caplog.text
    assert evaluate(tmp_path / name, truth).threshold == 0.35


@pytest.mark.parametrize("name", ["out.h5", "out.tif", "out.zarr"])
@pytest.mark.parametrize(
    ("options", "read_as"),
    [
        ([], "probabilities in uint8, as the file says, foreground above 0.5 (127.5 of 255)"),
        (["--dtype", "float16"], "probabilities, as the file says, foreground above 0.5"),
        (["--output", "label"], "labels, as the file says, foreground above 0"),
    ],
)
def test_a_prediction_is_evaluated_against_objects_without_an_option(run, tmp_path, run_zoo, name, options, read_as):
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    objects = np.arange(16 * 32 * 32).reshape(16, 32, 32) // 1024 % 7
    truth = write(tmp_path / "truth.h5", objects.astype(np.uint16))
    code, _, err = run_zoo("predict", run, image, tmp_path / name, *options)
    assert code == 0, err
    code, out, err = run_zoo("evaluate", tmp_path / name, truth, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["kind"], report["read_as"]) == ("semantic", read_as)
    found = read_all(tmp_path / name)
    above = found > {"uint8": 127, "float16": 0.5}[str(found.dtype)] if options[:1] != ["--output"] else found > 0
    assert report["scores"]["true_positive"] == (above & (objects > 0)).sum()


def test_values_without_activation_are_not_called_probabilities(tmp_path):
    folder = make_run(tmp_path / "run", task=channels_task("none"))
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    predict(folder, image, tmp_path / "out.h5", dtype="float32")
    assert open_volume(tmp_path / "out.h5").content is None


@pytest.mark.parametrize("window", ["big", "16", "16,32,32,32", "16,32,3.5", ""])
def test_the_command_refuses_a_window_that_is_no_numbers(run, run_zoo, tmp_path, window):
    code, _, err = run_zoo("predict", run, tmp_path / "image.h5", tmp_path / "out.h5", "--window", window)
    assert code == 2
    assert f"'{window}' is not two or three whole numbers (z, y, x), write them like 16,128,128." in err


def test_the_command_takes_two_numbers_for_a_2d_network(tmp_path):
    folder = make_run(tmp_path / "run", arch={"spatial_dims": 2}, window=(32, 32))
    image = write(tmp_path / "image.h5", grey((2, 48, 32)))
    result = invoke(folder, image, tmp_path / "out.h5", "--window", "48,32", "--json")
    assert json.loads(result.stdout)["window"] == [48, 32]


def test_the_command_passes_engine_and_precision_on(run, tmp_path):
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    result = invoke(run, image, tmp_path / "out.h5", "--device", "cpu", "--precision", "bfloat16", "--engine", "torch")
    assert result.exit_code == 0, result.output
    assert "1 windows on cpu in bfloat16\n" in result.stdout


def test_a_wider_integer_type_is_warned_of_and_its_range_can_be_said(tmp_path, caplog, run_zoo):
    run = make_run(tmp_path / "run")
    image = grey((16, 32, 32))
    write(tmp_path / "narrow.h5", image)
    write(tmp_path / "wide.h5", image.astype(np.uint16))
    assert run_zoo("predict", run, tmp_path / "narrow.h5", tmp_path / "one.h5")[0] == 0
    code, _, err = run_zoo("predict", run, tmp_path / "wide.h5", tmp_path / "two.h5", "--intensity-range", "0,255")
    assert code == 0, err
    assert not caplog.text
    np.testing.assert_array_equal(read_all(tmp_path / "one.h5"), read_all(tmp_path / "two.h5"))
    with pytest.raises(VolumeError, match=r"wide.h5:main: holds uint16 with values from .*, which is less than 1%"):
        predict(run, tmp_path / "wide.h5", tmp_path / "three.h5")
    write(tmp_path / "twelve.h5", image.astype(np.uint16) * 16)
    predict(run, tmp_path / "twelve.h5", tmp_path / "three.h5")
    assert "holds uint16, of which the whole range is taken, 0 to 65535: --intensity-range LOW,HIGH" in caplog.text
    for text, message in (("5", "is not two numbers, write them like 0,4095"), ("9,3", "9,3 is empty, give low,high")):
        code, _, err = run_zoo("predict", run, tmp_path / "wide.h5", tmp_path / "x.h5", "--intensity-range", text)
        assert (code, message in err) == (2, True), err
