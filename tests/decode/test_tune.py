"""Tuning a decoder: what counts in the truth, what can be the best, and which truth is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from support.object_volumes import affinity_task, true_values, voronoi_labels, write_labels, write_prediction
from support.tiny_training import make_run

import zoo
from connectomics_zoo.decode import settings
from connectomics_zoo.errors import CheckFailedError, OutputError, SpecError, VolumeError
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.specs.lookup import get_task

LABELS = voronoi_labels((12, 24, 24), objects=8)
UNLABELLED = 99


def run_folder(folder, task, **data):
    """A run folder without weights, which decoding does not need."""
    folder.mkdir()
    run = make_run(data, task="mito").model_copy(update={"task": task})
    (folder / "spec.yaml").write_text(dump_yaml(run.model_dump(mode="json")))
    return folder


@pytest.fixture
def prediction(tmp_path):
    """Affinities of `LABELS` that a threshold of 0.5 and more parts, and that a lower one joins to a single object."""
    task = affinity_task(threshold=0.1)
    return write_prediction(tmp_path / "p.h5", np.where(true_values(LABELS, task) > 0, 0.75, 0.45), task)


# What counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["the run says it", "it is asked for"])
def test_voxels_that_are_not_annotated_do_not_choose_the_setting(tmp_path, prediction, run_zoo, way):
    truth = LABELS.copy()
    truth[2:] = UNLABELLED
    write_labels(tmp_path / "truth.h5", truth)
    arguments = ["decode", prediction, tmp_path / "out.h5", "--tune", tmp_path / "truth.h5", "--overwrite"]
    code, out, err = run_zoo(*arguments)
    assert code == 0, err
    assert "threshold=0.1" in out, "if all of it were one object, joining would be best"
    if way == "the run says it":
        arguments += ["--run", run_folder(tmp_path / "run", affinity_task(), unlabelled=UNLABELLED)]
    else:
        arguments += ["--ignore-label", UNLABELLED]
    code, out, err = run_zoo(*arguments)
    assert code == 0, err
    assert "best: --method components threshold=0.5" in out
    assert [line.split()[1] for line in out.splitlines() if line.endswith("best")] == ["0.0000"]


def test_a_truth_of_ignored_labels_alone_has_no_object(tmp_path, prediction, run_zoo):
    write_labels(tmp_path / "truth.h5", np.where(LABELS == 1, UNLABELLED, 0))
    arguments = ["decode", prediction, tmp_path / "out.h5", "--tune", tmp_path / "truth.h5"]
    code, _, err = run_zoo(*arguments, "--ignore-label", UNLABELLED)
    assert code == 2
    assert "has no object in this part, so nothing can be tuned on it" in err


def test_a_label_to_ignore_needs_a_truth(tmp_path, prediction):
    with pytest.raises(SpecError, match="ignore_labels have no effect without a truth to tune on"):
        zoo.decode(prediction, tmp_path / "out.h5", ignore_labels=[0])


# What can be the best ---------------------------------------------------------------------------------------------


def test_no_object_at_all_is_never_the_best(tmp_path):
    truth = np.zeros((4, 20, 20), dtype=int)
    truth[0, 0, 0] = 1
    values = np.where(truth > 0, 0, np.full(truth.shape, 0.05))[np.newaxis].astype(np.float32)
    values[0, :, 5:15, 5:15] = 0.85
    path = write_prediction(tmp_path / "p.h5", values, get_task("mito"))
    write_labels(tmp_path / "truth.h5", truth)
    report = zoo.decode(
        path, tmp_path / "out.h5", method="components", overrides={"min_size": 0}, tune_on=tmp_path / "truth.h5"
    )
    best = min(report.trials, key=lambda trial: trial.adapted_rand_error)
    assert (best.settings["threshold"], best.objects) == (0.9, 0), "an empty volume is nearest to this truth"
    assert report.objects == 1
    assert report.settings["threshold"] < 0.9


def test_settings_that_all_find_nothing_are_a_failed_check_and_write_nothing(tmp_path, prediction, run_zoo):
    run = run_folder(tmp_path / "run", affinity_task())
    truth = write_labels(tmp_path / "truth.h5", LABELS)
    code, _, err = run_zoo("decode", prediction, tmp_path / "out.h5", "--run", run, "--tune", truth, "min_size=10000")
    assert code == CheckFailedError.exit_code == 1
    assert "none of the 11 settings of components finds an object: look at the prediction, or give a smaller" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.h5").exists()
    assert not (run / "decode.yaml").exists()


# The truth --------------------------------------------------------------------------------------------------------


def test_a_grey_image_is_no_truth(tmp_path, prediction, run_zoo):
    grey = np.random.default_rng(0).integers(0, 200, LABELS.shape)
    truth = write_labels(tmp_path / "grey.h5", grey)
    code, _, err = run_zoo("decode", prediction, tmp_path / "out.h5", "--tune", truth)
    assert code == 2
    assert f"{truth}:main: looks like a grey image, not like labels (100 % of its voxels differ from the next" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.h5").exists()


def test_the_truth_is_never_overwritten(tmp_path, prediction, run_zoo):
    truth = write_labels(tmp_path / "truth.h5", LABELS)
    before = truth.read_bytes()
    code, _, err = run_zoo("decode", prediction, truth, "--tune", truth, "--overwrite")
    assert code == 2
    assert "truth.h5: is the input itself, which would be lost" in err
    assert truth.read_bytes() == before


# The command line -------------------------------------------------------------------------------------------------


def test_tuning_says_on_stderr_how_far_it_is_and_decoding_alone_does_not(tmp_path, prediction, run_zoo, monkeypatch):
    monkeypatch.setattr("connectomics_zoo.cli._progress.plain_interval", lambda _: 0.0)
    truth = write_labels(tmp_path / "truth.h5", LABELS)
    code, _, err = run_zoo("decode", prediction, tmp_path / "out.h5", "--tune", truth)
    assert code == 0
    lines = [line for line in err.splitlines() if line.startswith("tune: ")]
    assert len(lines) == 11
    assert lines[-1].startswith("tune: 11/11 settings, ")
    assert run_zoo("decode", prediction, tmp_path / "again.h5")[2] == ""


# Settings of a tuned run ------------------------------------------------------------------------------------------


def test_what_was_tuned_for_another_method_does_not_hide_the_settings_of_the_task():
    task = get_task("mito-instance")
    saved = settings.with_settings(task, saved=None, method="components", overrides={"min_size": 5}).decode
    asked = settings.with_settings(task, saved=saved, method="watershed", overrides={"min_seed": 7}).decode
    assert asked == task.decode.model_copy(update={"min_seed": 7})
    for method in (None, "components"):
        assert settings.with_settings(task, saved=saved, method=method, overrides={}).decode == saved


# Runs on larger voxels --------------------------------------------------------------------------------------------


def test_affinities_of_network_voxels_are_not_decoded_as_those_of_the_volume(tmp_path, prediction, run_zoo):
    run = run_folder(tmp_path / "run", affinity_task(), downsample=[1, 2, 2])
    code, _, err = run_zoo("decode", prediction, tmp_path / "out.h5", "--run", run)
    assert code == 2
    assert "the run tiny has data.downsample [1, 2, 2], so the offsets of its affinities are in network voxels" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.h5").exists()


def test_a_foreground_of_network_voxels_is_decoded(tmp_path):
    values = np.zeros((1, 4, 8, 8), dtype=np.float32)
    values[0, :, 2:6, 2:6] = 0.9
    path = write_prediction(tmp_path / "p.h5", values, get_task("mito"))
    run = run_folder(tmp_path / "run", get_task("mito"), downsample=[1, 2, 2])
    report = zoo.decode(path, tmp_path / "out.h5", run=run, method="components", overrides={"min_size": 0})
    assert report.objects == 1


@pytest.mark.parametrize("unlabelled", [None, 255, 2])
def test_the_components_of_a_mask_are_what_is_tuned_for(tmp_path, unlabelled):
    task = get_task("mito-instance")
    truth = np.zeros((8, 24, 24), np.uint8)
    truth[:, 2:10, 2:10] = truth[:, 14:22, 14:22] = 1
    values = np.stack([np.where(truth > 0, 0.95, 0.05), np.full(truth.shape, 0.05), np.where(truth > 0, 0.6, -0.9)])
    write_prediction(tmp_path / "p.h5", values, task)
    ignored = [] if unlabelled is None else [unlabelled]
    if unlabelled is not None:
        truth[:, :, 12] = unlabelled
    write_labels(tmp_path / "truth.h5", truth)
    report = zoo.decode(tmp_path / "p.h5", tmp_path / "out.h5", tune_on=tmp_path / "truth.h5", ignore_labels=ignored)
    assert report.objects == 2
    best = next(trial for trial in report.trials if trial.settings == report.settings)
    assert best.adapted_rand_error == pytest.approx(0, abs=1e-6)


def test_the_best_threshold_may_lie_between_those_of_the_grid(tmp_path):
    task = affinity_task(threshold=0.1)
    # Around one object alone, a threshold of 0.6 does not part what one of 0.65 does.
    apart = np.where(binary_dilation(LABELS == 1, iterations=2), 0.62, 0.55)
    path = write_prediction(tmp_path / "p.h5", np.where(true_values(LABELS, task) > 0, 0.68, apart), task)
    report = zoo.decode(path, tmp_path / "out.h5", tune_on=write_labels(tmp_path / "truth.h5", LABELS))
    assert report.settings["threshold"] == 0.65
    assert report.objects == 8
    tried = [trial.settings["threshold"] for trial in report.trials]
    assert len(tried) == len(set(tried)) == 11


@pytest.mark.parametrize("way", ["it is asked for", "the run has it"])
def test_voxels_outside_of_the_mask_do_not_choose_the_setting(tmp_path, prediction, run_zoo, way):
    truth = LABELS.copy()
    truth[2:] = 99
    write_labels(tmp_path / "truth.h5", truth)
    mask = write_labels(tmp_path / "mask.h5", truth != 99)
    arguments = ["decode", prediction, tmp_path / "out.h5", "--tune", f"{tmp_path}/truth.h5:main"]
    if way == "it is asked for":
        arguments += ["--mask", mask]
    else:
        pair = {"image": "raw.h5:main", "label": "truth.h5:main", "mask": "mask.h5:main"}
        data = {"root": str(tmp_path), "train": [pair]}
        arguments += ["--run", run_folder(tmp_path / "run", affinity_task(), **data)]
    code, out, err = run_zoo(*arguments)
    assert code == 0, err
    assert "best: --method components threshold=0.5" in out
    assert [line.split()[1] for line in out.splitlines() if line.endswith("best")] == ["0.0000"]


@pytest.mark.parametrize("part", ["train", "validation"])
def test_voxels_outside_of_the_regions_of_a_run_do_not_choose_the_setting(tmp_path, prediction, run_zoo, part):
    truth = LABELS.copy()
    truth[2:] = 99
    write_labels(tmp_path / "truth.h5", truth)
    held_out = {"image": "raw.h5:main", "label": "truth.h5:main", "regions": [{"z": [0, 2]}]}
    other = {**held_out, "regions": [{"z": [5, 7]}]}
    data = {"root": str(tmp_path), "train": [other], part: [held_out]}
    arguments = ["decode", prediction, tmp_path / "out.h5", "--tune", f"{tmp_path}/truth.h5:main"]
    run = run_folder(tmp_path / "run", affinity_task(), **data)
    code, out, err = run_zoo(*arguments, "--run", run)
    assert code == 0, err
    assert [line.split()[1] for line in out.splitlines() if line.endswith("best")] == ["0.0000"]
    code, _, err = run_zoo(*arguments[:2], tmp_path / "other.h5", *arguments[3:], "--run", run, "--region", "z=3:5")
    assert code == 2
    assert "truth.h5:main: is not annotated in any of this part, so nothing can be tuned: give another one." in err


def test_the_background_of_a_run_is_that_of_the_truth(tmp_path, prediction, run_zoo):
    truth = LABELS + 1
    truth[2:] = 0
    write_labels(tmp_path / "truth.h5", truth)
    data = {"root": str(tmp_path), "unlabelled": 0, "background": 1}
    run = run_folder(tmp_path / "run", affinity_task(), **data)
    code, out, err = run_zoo(
        "decode", prediction, tmp_path / "out.h5", "--tune", f"{tmp_path}/truth.h5:main", "--run", run
    )
    assert code == 0, err
    assert [line.split()[1] for line in out.splitlines() if line.endswith("best")] == ["0.0000"]


def test_a_mask_needs_a_truth_to_tune_on(tmp_path, prediction):
    with pytest.raises(SpecError, match="the mask has no effect without a truth to tune on"):
        zoo.decode(prediction, tmp_path / "out.h5", mask="mask.h5")


def test_another_task_tells_of_the_settings_that_it_leaves_aside(tmp_path, caplog):
    tuned = get_task("affinities-3")
    tuned = tuned.model_copy(update={"decode": tuned.decode.model_copy(update={"threshold": 0.123})})
    path = write_prediction(tmp_path / "p.h5", true_values(LABELS, tuned), tuned)
    zoo.decode(path, tmp_path / "a.h5")
    assert not caplog.text
    report = zoo.decode(path, tmp_path / "b.h5", task="affinities-3")
    assert report.settings["threshold"] != 0.123
    assert "carries settings of its own, which are left aside: agglomeration threshold=0.123" in caplog.text


def test_the_mask_lies_where_the_truth_does_and_is_never_replaced(tmp_path):
    task = affinity_task(threshold=0.1)
    part = LABELS[3:9]
    values = np.where(true_values(part, task) > 0, 0.75, 0.45)
    prediction = write_prediction(tmp_path / "p.h5", values, task)
    wrong = LABELS.copy()
    wrong[5:] = 99
    truth = write_labels(tmp_path / "truth.h5", wrong)
    mask = write_labels(tmp_path / "mask.h5", np.arange(12)[:, None, None] < np.full(LABELS.shape, 5))
    report = zoo.decode(prediction, tmp_path / "out.h5", tune_on=truth, mask=mask, region="z=3:9")
    assert (report.settings["threshold"], report.mask) == (0.5, str(mask))
    with pytest.raises(OutputError, match="is the input itself, which would be lost"):
        zoo.decode(prediction, tmp_path / "mask.h5", tune_on=truth, mask=mask, region="z=3:9", overwrite=True)


def test_what_is_found_outside_of_the_mask_is_no_object(tmp_path):
    truth = np.zeros((4, 20, 20), dtype=int)
    truth[:, 2:6, 2:6] = 1
    values = np.full((1, 4, 20, 20), 0.05, dtype=np.float32)
    values[0][truth > 0] = 0.55
    values[0, :, 12:18, 12:18] = 0.97
    prediction = write_prediction(tmp_path / "p.h5", values, get_task("mito"))
    mask = write_labels(tmp_path / "mask.h5", np.arange(20) < np.full(truth.shape, 10))
    given = {"method": "components", "overrides": {"min_size": 1}, "mask": mask}
    report = zoo.decode(prediction, tmp_path / "out.h5", tune_on=write_labels(tmp_path / "t.h5", truth), **given)
    assert {trial.settings["threshold"]: trial.objects for trial in report.trials}[0.9] == 0
    assert report.settings["threshold"] < 0.6


def test_several_masks_of_a_run_for_one_truth_are_not_chosen_from(tmp_path, prediction):
    truth = write_labels(tmp_path / "truth.h5", LABELS)
    pairs = [{"image": "raw.h5", "label": "truth.h5", "mask": f"{name}.h5"} for name in "ab"]
    folder = run_folder(tmp_path / "run", affinity_task(), root=str(tmp_path), train=pairs[:1], validation=pairs[1:])
    with pytest.raises(SpecError, match=r"several masks for .*truth.h5.* \(a.h5, b.h5\): give the one that is meant"):
        zoo.decode(prediction, tmp_path / "out.h5", tune_on=truth, run=folder)


def test_a_mask_of_nothing_is_what_is_wrong(tmp_path, prediction):
    truth = write_labels(tmp_path / "truth.h5", LABELS)
    mask = write_labels(tmp_path / "mask.h5", LABELS < 0)
    with pytest.raises(VolumeError, match=r"mask\.h5.*: is 0 in all of this part, so nothing can be tuned"):
        zoo.decode(prediction, tmp_path / "out.h5", tune_on=truth, mask=mask)
