"""`decode` and `zoo decode`: from a prediction on disk to objects on disk, tuned on truth, and what is refused."""

from __future__ import annotations

import json
import re
import shlex

import h5py
import numpy as np
import pytest
from scipy import ndimage
from support.object_volumes import (
    affinity_task,
    noisy_values,
    scores,
    true_values,
    voronoi_labels,
    write_labels,
    write_prediction,
)
from support.tiny_training import make_run

import zoo
from connectomics_zoo.cli import decode as decode_cli
from connectomics_zoo.decode import memory, methods, settings
from connectomics_zoo.decode.tune import grid_of
from connectomics_zoo.errors import OutputError, SpecError, VolumeError
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.schema.task import DECODE_FIELDS, DECODE_STARTS, OBJECT_METHODS
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.volumes import create_volume, open_volume
from connectomics_zoo.volumes.prediction import StoredPrediction, read_task, to_attributes
from connectomics_zoo.volumes.values import read_values, store_values

LABELS = voronoi_labels((12, 24, 24), objects=8)


def read_all(location):
    with open_volume(location) as volume:
        return volume.read(volume.whole)


@pytest.fixture
def prediction(tmp_path):
    """A prediction of clean affinities that carries its task."""
    task = affinity_task()
    return write_prediction(tmp_path / "p.h5", true_values(LABELS, task), task)


def run_folder(folder, task):
    """A run folder without weights, which decoding does not need."""
    folder.mkdir()
    run = make_run({}, task="mito").model_copy(update={"task": task})
    (folder / "spec.yaml").write_text(dump_yaml(run.model_dump(mode="json")))
    return folder


# Values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "highest"), [(LABELS % 2, 1), (np.where(LABELS > 4, 0, LABELS), 4), (LABELS, 9), (LABELS + 191, 200)]
)
def test_labels_in_uint8_are_not_taken_for_probabilities(tmp_path, labels, highest):
    """Which would find nothing in ids up to 127, and cut the objects beyond."""
    place = tmp_path / "p.h5"
    with h5py.File(place, "w") as file:
        file["main"] = labels.astype("u1")
    text = f"holds uint8 up to {highest} with hard edges, as labels have, and objects are made of probabilities"
    with pytest.raises(VolumeError, match=re.escape(text)):
        zoo.decode(place, tmp_path / "o.h5", task="mito", method="components")
    assert not (tmp_path / "o.h5").exists()
    zoo.decode(place, tmp_path / "o.h5", task="mito", method="components", overrides={"threshold": 0.5})


@pytest.mark.parametrize("values", ["mask of 255", "soft", "declared", "task", "empty"])
def test_uint8_that_can_be_probabilities_is_decoded(tmp_path, values):
    mask = np.where(LABELS % 2, 255, 0).astype("u1")
    soft = ndimage.gaussian_filter(mask, (0, 2, 2))
    stored = {
        "declared": StoredPrediction("probability"),
        "task": StoredPrediction(task=get_task("mito")),
    }.get(values, StoredPrediction())
    array = {"mask of 255": mask, "soft": soft, "empty": mask * 0}.get(values, mask // 255 * 3)
    with create_volume(
        tmp_path / "p.h5", shape=array.shape, dtype="uint8", channels=None, voxel_size_nm=None, stored=stored
    ) as volume:
        volume.write(volume.whole, array)
    found = zoo.decode(
        tmp_path / "p.h5", tmp_path / "o.h5", task="mito", method="components", overrides={"min_size": 1}
    )
    assert (found.objects > 0) == (values in ("mask of 255", "soft"))


# Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p.h5:values", "p.zarr", "p.tif"])
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_a_prediction_carries_its_task_and_becomes_objects(tmp_path, name, dtype):
    task = affinity_task()
    write_prediction(tmp_path / name, true_values(LABELS, task), task, dtype=dtype)
    report = zoo.decode(tmp_path / name, tmp_path / "out.h5:neurons")
    with open_volume(tmp_path / "out.h5:neurons") as volume:
        found = volume.read(volume.whole)
        assert (volume.content, volume.voxel_size_nm, volume.dtype) == ("instances", (30.0, 8.0, 8.0), np.uint32)
    assert scores(found, LABELS)["adapted_rand_error"] == pytest.approx(0)
    assert report.objects == found.max() == 8
    assert (report.task, report.method, report.settings) == (
        "affinities",
        "components",
        {"threshold": 0.5, "min_size": 0},
    )


def test_a_prediction_that_does_not_say_its_task_is_decoded_with_one(tmp_path, run_zoo):
    task = affinity_task()
    (tmp_path / "affinities.yaml").write_text(dump_yaml(task.model_dump(mode="json", exclude_none=True)))
    write_prediction(tmp_path / "p.tif", true_values(LABELS, task), task, carries_task=False)
    code, _, err = run_zoo("decode", tmp_path / "p.tif", tmp_path / "out.tif")
    assert code == 2
    assert "does not say for which task it was predicted: give --task NAME or --run FOLDER" in err
    code, out, _ = run_zoo("decode", tmp_path / "p.tif", tmp_path / "out.tif", "--task", tmp_path / "affinities.yaml")
    assert code == 0
    assert "12 x 24 x 24 uint32, 8 objects" in out
    assert scores(read_all(tmp_path / "out.tif"), LABELS)["adapted_rand_error"] == pytest.approx(0)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_values_of_every_activation_survive_the_file(dtype):
    task = get_task("mito-instance")
    values = np.random.default_rng(0).random((3, 4, 5, 6), dtype=np.float32)
    values[2] = 2 * values[2] - 1
    values[:, 0, 0, 0], values[:, 0, 0, 1] = (0, 0, -1), 1
    stored = store_values(values, task=task, dtype=np.dtype(dtype))
    assert stored.dtype == dtype
    if dtype == "uint8":
        assert [list(stored[:, 0, 0, x]) for x in (0, 1)] == [[0, 0, 0], [255, 255, 255]]
        np.testing.assert_array_equal(stored[2], np.rint(127.5 * (values[2] + 1)))
    found = read_values(stored, task=task, location="p.h5")
    np.testing.assert_allclose(found, values, atol={"uint8": 1 / 255 + 1e-6, "float16": 1e-3, "float32": 0}[dtype])


def test_a_task_survives_as_text():
    for name in ("mito-instance", "affinities-12", "lsd"):
        text = to_attributes(StoredPrediction(task=get_task(name)))["task"]
        assert read_task(text, source="p.h5") == get_task(name)


def test_objects_of_a_foreground(tmp_path):
    mask = np.zeros((1, 6, 20, 20), dtype=np.float32)
    mask[0, 1:4, 2:8, 2:8] = mask[0, 1:4, 12:18, 2:18] = 0.9
    mask[0, 5, 0, 0] = 0.9
    path = write_prediction(tmp_path / "p.h5", mask, get_task("mito"))
    report = zoo.decode(path, tmp_path / "out.h5", method="components", overrides={"min_size": 2})
    assert report.objects == 2
    np.testing.assert_array_equal(read_all(tmp_path / "out.h5") > 0, (mask[0] > 0) & (np.arange(6) < 5)[:, None, None])


def test_a_region_alone_is_decoded(tmp_path, prediction):
    report = zoo.decode(prediction, tmp_path / "out.h5", region="z=2:7,x=4:20")
    assert report.shape == (5, 24, 16)
    part = LABELS[2:7, :, 4:20]
    assert scores(read_all(tmp_path / "out.h5"), part)["adapted_rand_error"] < 0.1


# Settings ---------------------------------------------------------------------------------------------------------


def test_settings_come_from_the_task_then_the_run_then_the_command(tmp_path):
    task = get_task("affinities-6")
    plain = settings.with_settings(task, saved=None, method=None, overrides={})
    assert plain.decode == task.decode
    saved = task.decode.model_copy(update={"threshold": 0.7, "min_size": 5})
    changed = settings.with_settings(task, saved=saved, method=None, overrides={"min_size": 9}).decode
    assert (changed.method, changed.threshold, changed.min_size) == ("mutex", 0.7, 9)
    other = settings.with_settings(task, saved=saved, method="watershed", overrides={"seed_threshold": 0.6}).decode
    assert (other.threshold, other.seed_threshold, other.boundary_threshold, other.min_size) == (0.5, 0.6, 1.0, 600)


def test_every_setting_has_a_start_for_a_task_of_another_method():
    assert set(DECODE_STARTS) == {name for method in OBJECT_METHODS for name in DECODE_FIELDS[method]}
    for method in OBJECT_METHODS:
        plain = affinity_task().model_copy(update={"decode": get_task("binary").decode})
        assert settings.with_settings(plain, saved=None, method=method, overrides={}).decode.method == method


def test_there_is_one_list_of_the_methods_that_make_objects():
    (choice,) = (option.type for option in decode_cli.command.params if option.name == "method")
    assert tuple(choice.choices) == tuple(methods._METHODS) == tuple(memory.METHOD_BYTES) == OBJECT_METHODS
    assert set(DECODE_FIELDS) - set(OBJECT_METHODS) == {"threshold", "argmax"}


# Tuning -----------------------------------------------------------------------------------------------------------


def tuning_files(tmp_path, *, threshold=0.1):
    """Affinities that only a high threshold parts, their truth, and a run with a bad setting."""
    task = affinity_task(threshold=threshold, min_size=2)
    values = np.where(true_values(LABELS, task) > 0, 0.75, 0.45)
    write_prediction(tmp_path / "p.h5", values, task)
    write_labels(tmp_path / "truth.h5", LABELS)
    return run_folder(tmp_path / "run", task)


def test_tuning_finds_the_threshold_and_the_run_keeps_it(tmp_path, run_zoo):
    run = tuning_files(tmp_path)
    p, truth = tmp_path / "p.h5", tmp_path / "truth.h5"
    assert zoo.decode(p, tmp_path / "before.h5", run=run).objects == 1
    code, out, err = run_zoo("decode", p, tmp_path / "out.h5", "--run", run, "--tune", truth)
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if line.endswith("best")]
    assert rows == [["0.5", "0.0000", "0.000", "0.000", "8", "best"]]
    assert "best: --method components threshold=0.5 min_size=2" in out
    assert f"wrote {run}/decode.yaml" in err
    after = zoo.decode(p, tmp_path / "after.h5", run=run)
    assert (after.objects, after.settings["threshold"], after.trials) == (8, 0.5, ())
    assert zoo.decode(p, tmp_path / "task.h5").objects == 1


def test_the_settings_that_tuning_prints_give_the_same_objects(tmp_path, run_zoo):
    tuning_files(tmp_path)
    p, truth = tmp_path / "p.h5", tmp_path / "truth.h5"
    code, out, err = run_zoo("decode", p, tmp_path / "a.h5", "--method", "mutex", "--tune", truth)
    assert code == 0, err
    assert not (tmp_path / "run/decode.yaml").exists()
    best = next(line.removeprefix("best: ") for line in out.splitlines() if line.startswith("best: "))
    code, _, err = run_zoo("decode", p, tmp_path / "b.h5", *shlex.split(best))
    assert code == 0, err
    np.testing.assert_array_equal(read_all(tmp_path / "a.h5"), read_all(tmp_path / "b.h5"))


@pytest.mark.parametrize("whole", [True, False])
def test_tuning_on_a_region_scores_that_part(tmp_path, whole):
    task = affinity_task(threshold=0.9)
    values = noisy_values(LABELS, task)
    if not whole:
        values = values[:, 3:9]
    path = write_prediction(tmp_path / "p.h5", values, task)
    truth = write_labels(tmp_path / "truth.h5", LABELS)
    report = zoo.decode(path, tmp_path / "out.h5", tune_on=truth, region="z=3:9")
    assert report.shape == (6, 24, 24)
    best = min(report.trials, key=lambda trial: trial.adapted_rand_error)
    assert report.settings == best.settings
    found = scores(read_all(tmp_path / "out.h5"), LABELS[3:9])
    assert found["adapted_rand_error"] == pytest.approx(best.adapted_rand_error)


def test_the_settings_themselves_come_first_and_are_tried_once():
    decode = affinity_task(threshold=0.3).decode
    tried = grid_of(decode, has_boundary=False)
    assert tried[0] == decode
    assert len(tried) == len({candidate.threshold for candidate in tried}) == 9
    watershed = get_task("mito-instance").decode
    assert len(grid_of(watershed, has_boundary=True)) == 3 * 4 * 4 + 1
    assert len(grid_of(watershed, has_boundary=False)) == 3 * 4 + 1


def test_background_counts_where_there_is_a_foreground(tmp_path):
    truth = np.zeros((4, 20, 20), dtype=int)
    truth[:, 5:12, 5:12] = 1
    values = np.full((1, 4, 20, 20), 0.35, dtype=np.float32)
    values[0][truth > 0] = 0.85
    path = write_prediction(tmp_path / "p.h5", values, get_task("mito"))
    write_labels(tmp_path / "truth.h5", truth)
    report = zoo.decode(
        path, tmp_path / "out.h5", method="components", overrides={"threshold": 0.2}, tune_on=tmp_path / "truth.h5"
    )
    # A threshold of 0.2 makes all one object, and would be as good if the background did not count.
    assert report.settings["threshold"] == 0.4
    assert min(trial.adapted_rand_error for trial in report.trials) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("schema_version: 1\nkind: decode\n", "decode: Field required"),
        ("decode: {method: components", "not valid YAML"),
        (
            "schema_version: 1\nkind: decode\nadapted_rand_error: 0.1\nvoi: 1.0\nprediction: p\ntruth: t\n"
            "decode: {method: components, threshold: 2.0, min_size: 0}\n",
            "decode.threshold: Input should be less than 1",
        ),
        (
            "schema_version: 1\nkind: decode\nadapted_rand_error: 0.1\nvoi: 1.0\nprediction: p\ntruth: t\n"
            "decode: {method: components, threshold: 0.5, min_size: 0, stride: [1, 1, 1]}\n",
            "stride has no effect with method 'components'",
        ),
    ],
)
def test_a_damaged_tuning_file_is_refused(tmp_path, run_zoo, content, words):
    run = tuning_files(tmp_path)
    (run / "decode.yaml").write_text(content)
    code, _, err = run_zoo("decode", tmp_path / "p.h5", tmp_path / "out.h5", "--run", run)
    assert code == 2
    assert "decode.yaml" in err
    assert words in err
    assert err.count("\n") == 1


# What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "affinities-6", "--run", "run"], "task and run are both given"),
        (["--task", "mito"], "whose channels are not those of mito: leave --task and --run out"),
        (["--task", "mitos"], "did you mean 'mito'"),
        (["--run", "nowhere"], "'nowhere' is no run folder"),
        (["--method", "argmax"], "'argmax' is not one of"),
        (["threshold=2"], "decode.threshold: Input should be less than 1"),
        (["treshold=0.2"], "unknown setting treshold of components: did you mean 'threshold'?"),
        (["stride=[1,1,1]"], "unknown setting stride of components"),
        (["threshold"], "'threshold' is no override, write key=value"),
        (["--method", "watershed", "boundary_threshold=0.3"], "the task affinities has no boundary"),
        (["--region", "z=5:99"], "the region z=5:99 is not inside"),
        (["--tune", "small.h5"], "give the volumes that belong together"),
        (["--tune", "floats.h5"], "holds float32, a truth is one volume of whole numbers"),
        (["--tune", "empty.h5"], "has no object in this part, so nothing can be tuned on it"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_decoded_is_one_sentence(tmp_path, prediction, run_zoo, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_labels(tmp_path / "small.h5", LABELS[:3])
    write_labels(tmp_path / "empty.h5", 0 * LABELS)
    with h5py.File("floats.h5", "w") as file:
        file["main"] = LABELS.astype(np.float32)
    code, out, err = run_zoo("decode", "p.h5", "out.h5", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.h5").exists()


def test_a_task_without_objects_is_refused_and_names_the_ways(tmp_path, run_zoo):
    path = write_prediction(tmp_path / "p.h5", np.zeros((1, 4, 8, 8), np.float32), get_task("mito"))
    code, _, err = run_zoo("decode", path, tmp_path / "out.h5")
    assert code == 2
    assert "the task mito is decoded voxel by voxel, and objects are made by components, watershed, mutex" in err
    assert "predict with --output label" in err
    with pytest.raises(SpecError, match="method 'mutex' needs channels with attractive affinities"):
        zoo.decode(path, tmp_path / "out.h5", method="mutex")
    with pytest.raises(SpecError, match="method 'argmax' is none, and objects are made by"):
        zoo.decode(path, tmp_path / "out.h5", method="argmax")


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (np.zeros((2, 4, 4, 4), np.uint8), r"has 2 channel\(s\), and the task mito has 1"),
        (np.zeros((4, 4, 4), np.uint16), "holds uint16, a prediction is uint8"),
        (np.full((4, 4, 4), 3, np.float32), "the channel 'mitochondria' holds values from 3 to 3, after sigmoid they"),
    ],
)
def test_values_that_are_no_prediction_of_the_task_are_refused(tmp_path, stored, words):
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["main"] = stored
    with pytest.raises(VolumeError, match=words):
        zoo.decode(tmp_path / "p.h5", tmp_path / "out.h5", task="mito", method="components")
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"schema_version":1,"name":"x"}'])
def test_a_damaged_task_in_a_file_is_refused(tmp_path, prediction, run_zoo, text):
    with h5py.File(prediction, "a") as file:
        file["main"].attrs["task"] = text
    code, _, err = run_zoo("decode", prediction, tmp_path / "out.h5")
    assert code == 2
    assert f"the task in {prediction}" in err
    assert err.count("\n") == 1


def test_what_does_not_fit_into_the_memory_is_refused_before_it_is_read(tmp_path, prediction, run_zoo, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**19)
    monkeypatch.setattr("connectomics_zoo.decode.run.read_prediction", lambda *_, **__: pytest.fail("was read"))
    code, _, err = run_zoo("decode", prediction, tmp_path / "out.h5")
    assert code == 2
    assert "decoding 12 x 24 x 24 voxels by components takes about" in err
    assert "decode a part (--region)" in err
    assert not (tmp_path / "out.h5").exists()


def test_the_free_memory_is_read_where_the_system_says_it(tmp_path):
    path = tmp_path / "meminfo"
    assert memory.available_bytes(path) is None
    path.write_text("MemTotal:       100 kB\nMemAvailable:    7 kB\n")
    assert memory.available_bytes(path) == 7 * 1024
    path.write_text("MemTotal:       100 kB\n")
    assert memory.available_bytes(path) is None


@pytest.mark.parametrize("name", ["out.h5", "out.tif", "out.zarr"])
def test_a_place_that_is_taken_is_refused_before_the_prediction_is_read(tmp_path, prediction, monkeypatch, name):
    zoo.decode(prediction, tmp_path / name)
    monkeypatch.setattr("connectomics_zoo.decode.run.read_prediction", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(OutputError, match="exists already"):
        zoo.decode(prediction, tmp_path / name, tune_on=write_labels(tmp_path / "truth.h5", LABELS))


def test_nothing_is_overwritten_unasked_and_never_the_prediction(tmp_path, prediction, run_zoo):
    out = tmp_path / "out.h5"
    assert run_zoo("decode", prediction, out)[0] == 0
    code, _, err = run_zoo("decode", prediction, out)
    assert code == 2
    assert "exists already" in err
    assert run_zoo("decode", prediction, out, "--overwrite")[0] == 0
    code, _, err = run_zoo("decode", prediction, prediction, "--overwrite")
    assert code == 2
    assert "is the input itself" in err


def test_the_report_is_data_on_request(tmp_path, prediction, run_zoo):
    write_labels(tmp_path / "truth.h5", LABELS)
    code, out, _ = run_zoo(
        "decode",
        prediction,
        tmp_path / "out.h5",
        "--method",
        "agglomeration",
        "--tune",
        tmp_path / "truth.h5",
        "--json",
    )
    report = json.loads(out)
    assert code == 0
    assert (report["objects"], report["method"], len(report["trials"])) == (8, "agglomeration", 11)
    assert report["trials"][0]["settings"] == {"threshold": 0.5, "min_size": 0}
