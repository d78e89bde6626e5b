"""A whole comparison: the same data and seeds for all, scores of data that chose nothing, and one that goes on."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from support.prediction import make_run
from support.tiny_training import TINY, write_volume

import zoo
from connectomics_zoo.compare import CompareReport, compare
from connectomics_zoo.compare import rows as work
from connectomics_zoo.compare import training as trained
from connectomics_zoo.compare.data import scored_pairs
from connectomics_zoo.errors import LimitError, OutputError, SpecError, UnknownNameError, VolumeError
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.runs.folder import CHECKPOINT_FILE, get_run
from connectomics_zoo.runs.metrics import read_metrics
from connectomics_zoo.schema.experiment import DataSpec
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.weights.storage import read_weights

REFS = ("narrow.yaml", "wide.yaml")
STEPS = 4
TEST = {"region": "z=16:20"}


def write_experiment(folder, name, *, channels=2, **fields):
    """Write an experiment without data of a MedNeXt with so many channels."""
    recipe = {"patch_size": [16, 32, 32], "batch_size": 1, "augmentation": "flips", "learning_rate": 0.01}
    document = {
        "schema_version": 1,
        "name": name,
        "summary": "A small MedNeXt.",
        "model": "mednext-S",
        "task": "mito",
        "arch": {**TINY, "base_channels": channels},
        "data": {},
        "training": recipe,
        **fields,
    }
    (folder / f"{name}.yaml").write_text(dump_yaml(document))
    return f"{name}.yaml"


def request(volume="v.h5"):
    """Overrides with data that leave the last sections for a test."""
    pair = {"image": f"{volume}:raw", "label": f"{volume}:mito"}
    return {
        "data": {
            "train": [{**pair, "region": {"z": [0, 12]}}],
            "validation": [{**pair, "region": {"z": [12, 16]}}],
        },
    }


def run(**changes):
    """Compare both references in the current folder."""
    given = {"refs": REFS, "overrides": request(), "test": TEST, "steps": STEPS, "seeds": 2, "memory": "skip"}
    return compare(**{**given, "device": "cpu", **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a volume, two experiments, and their finished comparison of two seeds."""
    folder = tmp_path_factory.mktemp("compare")
    write_volume(folder / "v.h5", shape=(20, 32, 32))
    write_experiment(folder, "narrow")
    write_experiment(folder, "wide", channels=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, run()


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of that folder, which is the current one."""
    shutil.copytree(made[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def refuse_to_train(*_args, **_kwargs):
    raise AssertionError("something was trained again")


def dice(folder, region):
    """The Dice of a run folder on some sections, by numpy."""
    out = f"{folder.parent.name}-{folder.name}-{region[0]}.h5"
    zoo.predict(folder, "v.h5:raw", out, region=f"z={region[0]}:{region[1]}", dtype="float32", device="cpu")
    with h5py.File(out) as prediction, h5py.File("v.h5") as volume:
        found, truth = prediction["main"][()] > 0.5, volume["mito"][slice(*region)] > 0
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def test_scores_are_those_of_the_test_and_the_table_has_their_mean_and_standard_deviation(made, here):
    _, report = made
    for row in report.rows:
        scores = [dice(here / "comparison" / row.ref / f"seed-{seed}", (16, 20)) for seed in (0, 1)]
        assert row.scores["dice"] == pytest.approx(scores)
        cells = dict(zip(report.table().headers, next(r for r in report.table().rows if r[0] == row.ref), strict=True))
        assert cells["Dice, test"] == f"{np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f}"
        chosen = [read_metrics(here / "comparison" / row.ref / f"seed-{seed}")[0]["val/dice"] for seed in (0, 1)]
        assert row.chosen == {"dice": tuple(chosen)}
        text = f"{np.mean(chosen):.4f} ± {np.std(chosen, ddof=1):.4f}"
        assert cells["Dice, validation (chose the weights)"] == text
    assert report.notes()[0] == "Scores are of the test data (v.h5:raw z=16:20), which chose nothing."


def test_runs_differ_in_their_seed_and_their_network_alone(here):
    runs = {
        (ref, seed): get_run(here / "comparison" / ref / f"seed-{seed}").model_dump(exclude={"name", "model"})
        for ref in REFS
        for seed in (0, 1)
    }
    assert [run["training"].pop("seed") for run in runs.values()] == [0, 1, 0, 1]
    first = runs["narrow.yaml", 0]
    assert all(run == first for run in runs.values())
    assert (first["training"]["max_steps"], first["training"]["validate_every"]) == (STEPS, 1)
    states = [read_weights(here / f"comparison/narrow.yaml/seed-{seed}/model.safetensors") for seed in (0, 1)]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_all_is_written_as_json_markdown_csv_and_a_picture(made, here):
    _, report = made
    written = json.loads((here / "comparison/comparison.json").read_text())
    assert CompareReport.from_dict(written) == report
    lines = (here / "comparison/comparison.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == list(report.table().rows[0])
    head, *body = (line.split(",") for line in (here / "comparison/comparison.csv").read_text().splitlines())
    for line, row in zip(body, report.rows, strict=True):
        numbers = dict(zip(head, line, strict=True))
        assert float(numbers["dice_test"]) == pytest.approx(np.mean(row.scores["dice"]))
        assert float(numbers["dice_sd"]) == pytest.approx(np.std(row.scores["dice"], ddof=1))
    assert (here / "comparison/comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_call_trains_and_scores_nothing_again(made, here, monkeypatch):
    monkeypatch.setattr(trained, "train", refuse_to_train)
    monkeypatch.setattr(work, "score", refuse_to_train)
    assert run() == made[1]


def test_a_comparison_that_was_stopped_goes_on_and_gives_the_same_table(made, here):
    seen = []

    def stop(progress):
        seen.append(progress)
        if progress.done == STEPS + 2:  # in the second reference
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^again: stopped, the same command goes on\.$"):
        run(output="again", seeds=1, progress=stop)
    assert seen[-1].total == 2 * STEPS
    assert (here / "again/narrow.yaml/seed-0.json").exists()
    assert not (here / "again/wide.yaml/seed-0/metrics.json").exists()
    assert not (here / "again/.lock").exists()
    partial = json.loads((here / "again/comparison.json").read_text())
    assert [len(row["seeds"]) for row in partial["rows"]] == [1, 0]

    later = []
    report = run(output="again", seeds=1, progress=later.append)
    assert min(state.done for state in later if state.label == "wide.yaml, seed 0") == STEPS + 2
    for before, now in zip(made[1].rows, report.rows, strict=True):
        assert now.scores == {name: values[:1] for name, values in before.scores.items()}
        assert now.chosen == {"dice": before.chosen["dice"][:1]}


def test_a_prediction_that_a_kill_left_is_made_again(made, here, monkeypatch):
    result = here / "comparison/narrow.yaml/seed-0.json"
    result.unlink()
    scratch = here / "comparison/narrow.yaml/seed-0.scratch"
    scratch.mkdir()
    zoo.predict("comparison/wide.yaml/seed-1", "v.h5:raw", scratch / "prediction-0.h5", region="z=16:20", device="cpu")
    monkeypatch.setattr(trained, "train", refuse_to_train)
    assert run().rows[0].scores == made[1].rows[0].scores
    assert not scratch.exists()


def test_more_seeds_are_added_to_those_that_are_there(made, here, monkeypatch):
    labels = set()
    report = run(refs=REFS[:1], seeds=3, progress=lambda state: labels.add(state.label))
    assert report.rows[0].seeds == (0, 1, 2)
    assert report.rows[0].scores["dice"][:2] == made[1].rows[0].scores["dice"]
    assert "scores narrow.yaml, seed 2" in labels
    assert "scores narrow.yaml, seed 1" not in labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 5}, "comparison: was begun with the budget 4 steps, and not 5 steps: give the same, or choose"),
        ({"steps": None, "minutes": 2}, "was begun with the budget 4 steps, and not 2 minutes"),
        ({"test": {"region": "z=17:20"}}, "with the data that are scored test: v.h5:raw z=16:20, and not test: v.h5:"),
        ({"test": None}, "with the data that are scored test: v.h5:raw z=16:20, and not validation: v.h5:raw z=12:16"),
        ({"overrides": {**request(), "training": {"learning_rate": 0.02}}},
         r"narrow.yaml/seed-0: was trained with training.learning_rate 0.01, and not 0.02: give the same, or choose"),
    ],
)  # fmt: skip
def test_another_budget_other_data_or_another_recipe_is_refused(here, monkeypatch, changes, message):
    before = (here / "comparison/comparison.json").read_text()
    monkeypatch.setattr(trained, "train", refuse_to_train)
    with pytest.raises(OutputError, match=message):
        run(**changes)
    assert (here / "comparison/comparison.json").read_text() == before


def test_a_folder_with_something_else_in_it_is_refused(here):
    (here / "other").mkdir()
    (here / "other/mine.txt").touch()
    with pytest.raises(OutputError, match="other exists and is no comparison, choose another folder with --output"):
        run(output="other")


def test_what_the_scored_data_were_for_trained_weights_is_said(here, monkeypatch):
    monkeypatch.setattr(trained, "train", refuse_to_train)
    runs = {}
    for name, train, validation in (
        ("saw", [0, 18], [18, 20]),
        ("chose", [0, 12], [12, 18]),
        ("fresh", [0, 8], [8, 12]),
    ):
        pair = {"image": "v.h5:raw", "label": "v.h5:mito"}
        data = {"train": [{**pair, "region": {"z": train}}], "validation": [{**pair, "region": {"z": validation}}]}
        runs[name] = make_run(here / name, data=data)
    spec = get_run(runs["fresh"]).model_copy(update={"init_from": str(runs["chose"]), "name": "child"})
    make_run(here / "child")
    (here / "child/spec.yaml").write_text(dump_yaml(spec.model_dump(mode="json")))
    report = run(refs=(*REFS, "./saw", "./chose", "./fresh", "./child"))
    assert [row.seen for row in report.rows] == ["nothing", "nothing", "trained", "chose", "nothing", "chose"]
    cells = [row[1] for row in report.table().rows]
    assert [cell.split()[-1] for cell in cells[2:4]] == ["**", "*"]
    assert report.rows[4].scores["dice"] == pytest.approx((dice(here / "fresh", (16, 20)),))
    assert (report.rows[4].seeds, report.rows[4].steps) == ((), None)
    notes = "\n".join(report.notes())
    assert "* of data that chose the weights, or those that they started from, so that the score is too good" in notes
    assert "too good: ./chose, ./child." in notes
    assert "were trained on, so that the score is too good: ./saw." in notes


def test_weights_that_are_replaced_are_scored_again(here):
    make_run(here / "one")
    first = compare(["./one"], request(), test=TEST, output="of-one", memory="skip", device="cpu")
    assert first.budget == ""
    assert not [line for line in first.notes() if "seed" in line]
    shutil.copy("comparison/wide.yaml/seed-0/model.safetensors", here / "other.safetensors")
    shutil.copytree("comparison/narrow.yaml/seed-1", here / "two")
    (here / "two/spec.yaml").replace(here / "one/spec.yaml")
    (here / "two/model.safetensors").replace(here / "one/model.safetensors")
    again = compare(["./one"], request(), test=TEST, output="of-one", memory="skip", device="cpu")
    assert again.rows[0].scores["dice"] == pytest.approx((dice(here / "comparison/narrow.yaml/seed-1", (16, 20)),))
    assert again.rows[0].scores != first.rows[0].scores


def test_without_a_test_the_last_weights_are_scored_on_validation_data(here):
    report = run(refs=REFS[:1], test=None, seeds=1, output="plain")
    folder = here / "plain/narrow.yaml/seed-0"
    state = torch.load(folder / CHECKPOINT_FILE, weights_only=True)["state_dict"]
    network = zoo.load(folder)
    assert all(torch.equal(value, state[f"network.{name}"]) for name, value in network.state_dict().items())
    (row,) = report.rows
    assert row.scores["dice"] == pytest.approx((dice(folder, (12, 16)),))
    assert (row.chosen, row.seen) == ({}, "nothing")
    assert report.table().headers[1] == "Dice, validation"
    assert "by the last weights of each run: it chose nothing" in report.notes()[0]
    assert "One seed says nothing of the spread" in report.notes()[1]


def test_a_reference_that_cannot_be_trained_is_a_row_and_the_others_go_on(here, monkeypatch):
    write_experiment(here, "odd", training={"patch_size": [15, 32, 32]})
    write_experiment(here, "membrane", task="membrane")
    write_experiment(here, "large", channels=4)
    really = trained.train

    def train(ref, *args, **kwargs):
        if ref == "large.yaml":
            raise LimitError("the CPU has not enough memory, lower training.batch_size.")
        return really(ref, *args, **kwargs)

    monkeypatch.setattr(trained, "train", train)
    report = run(refs=("odd.yaml", *REFS, "membrane.yaml", "large.yaml"))
    assert [row.error is None for row in report.rows] == [False, True, True, False, False]
    assert "training.patch_size [15, 32, 32] is not legal for mednext-S" in report.rows[0].error
    assert "membrane.yaml is of the task membrane, and what is compared is mito" in report.rows[3].error
    assert report.has_failed
    assert report.notes()[2] == "large.yaml: the CPU has not enough memory, lower training.batch_size."
    assert report.table().rows[0][1] == "failed"
    assert len(report.rows[1].scores["dice"]) == 2


def test_what_is_wrong_for_all_is_refused_before_anything_is_made(here):
    for changes, kind, message in (
        ({"refs": ()}, SpecError, "there is nothing to compare"),
        ({"refs": ("narow.yaml", "wide.yaml")}, UnknownNameError, "'narow.yaml' does not exist"),
        ({"refs": ("mednext-Q", "wide.yaml")}, UnknownNameError, "'mednext-Q'.*did you mean 'mednext-S'"),
        ({"refs": ("wide.yaml", "wide.yaml")}, SpecError, "'wide.yaml' is there twice, leave one out"),
        ({"steps": None}, SpecError, "give one budget for each run: steps .* or minutes"),
        ({"minutes": 3}, SpecError, "give one budget for each run"),
        ({"seeds": 0}, SpecError, "seeds is 0, give 1 to 100"),
        ({"overrides": {**request(), "training": {"seed": 4}}}, SpecError, "training.seed is not possible here, seeds"),
        ({"overrides": {**request(), "training": {"max_step": 4}}}, SpecError, "max_step"),
        ({"overrides": {}}, SpecError, "there is no volume to train on"),
        ({"test": {"image": "v.h5:raw"}}, SpecError, "the test has no label, give it"),
        ({"test": {"image": "v.h5:raw", "label": "v.h5:no"}}, VolumeError, "there is no array 'no'"),
        ({"test": {"region": "z=16:40"}}, VolumeError, "40"),
        ({"data": {"image": "v.h5:raw"}}, SpecError, "data has an image and a label"),
    ):
        with pytest.raises(kind, match=message):
            run(**{"output": "new", **changes})
        assert not (here / "new").exists()
    make_run(here / "one")
    with pytest.raises(SpecError, match="all references are trained already, leave out the budget"):
        run(refs=("./one",), output="new")


def test_a_test_on_what_was_trained_on_is_marked(here):
    report = run(refs=REFS[:1], seeds=1, steps=1, test={"region": "z=8:12"}, output="seen")
    assert report.rows[0].seen == "trained"
    assert report.table().rows[0][1].endswith(" **")


def test_one_volume_is_split_into_training_validation_and_test(here):
    volume = {"image": "v.h5:raw", "label": "v.h5:mito"}
    report = run(refs=REFS[:1], overrides={}, data=volume, test=None, steps=1, seeds=1, output="split")
    data = get_run(here / "split/narrow.yaml/seed-0").data
    assert [pair.region.z for pair in (*data.train, *data.validation)] == [(0, 12), (12, 16)]
    assert (report.scored, report.scored_as) == (("v.h5:raw z=16:20",), "test")
    with pytest.raises(VolumeError, match=r"has 2 section.*too few to be split"):
        run(data={**volume, "region": "z=0:2"}, overrides={}, test=None, output="thin")


def test_an_experiment_gives_its_task_and_data_to_all_and_its_recipe_to_models(here):
    recipe = {"patch_size": [16, 32, 32], "batch_size": 2, "augmentation": "none"}
    write_experiment(here, "home", **request(), training=recipe, task="binary")
    changes = {"arch": dict(TINY)}
    report = run(refs=("mednext-S", "narrow.yaml"), overrides=changes, data="home.yaml", steps=1, seeds=1, output="of")
    runs = [get_run(here / "of" / ref / "seed-0") for ref in ("mednext-S", "narrow.yaml")]
    assert runs[0].data == runs[1].data
    assert [run.task.name for run in runs] == ["binary", "binary"]
    assert [run.training.batch_size for run in runs] == [2, 1]
    assert any(line.startswith("A step is not the same for all") for line in report.notes())


def test_objects_are_scored_where_the_task_makes_some(here):
    task = zoo.get_task("mito-instance")
    make_run(here / "objects", task=task)
    report = compare(["./objects"], request(), test=TEST, output="of-objects", memory="skip", device="cpu")
    scores = report.rows[0].scores
    assert set(scores) == {*task.metrics, "adapted_rand_error", "voi_split", "voi_merge", "ap_50"}
    zoo.predict(here / "objects", "v.h5:raw", "p.h5", region="z=16:20", device="cpu")
    zoo.decode("p.h5", "o.h5")
    again = zoo.evaluate("o.h5", "v.h5:mito", kind="instances", region="z=16:20", relabel=True)
    assert scores["adapted_rand_error"] == (again.scores["adapted_rand_error"],)


def test_each_class_is_scored_where_the_task_has_several_and_the_volume_annotates_it(here):
    with h5py.File("v.h5", "a") as volume:
        volume["cell"] = np.where(volume["mito"][()] > 0, 50, 0).astype(np.uint8)
        volume["cell"][:, :4] = 51
    make_run(here / "classes", task=zoo.get_task("organelles"))
    volume = {"image": "v.h5:raw", "label": "v.h5:cell", "annotated": ["mito", "er"]}
    data = {"data": {"validation": [{**volume, "region": {"z": [16, 20]}}]}}
    report = compare(["./classes"], data, output="of-classes", memory="skip", device="cpu")
    zoo.predict(here / "classes", "v.h5:raw", "p.h5", region="z=16:20", dtype="float32", device="cpu")
    with h5py.File("p.h5") as prediction, h5py.File("v.h5") as file:
        found, truth = prediction["main"][1] > 0.5, file["cell"][16:20] == 51
    er = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    scores = report.rows[0].scores
    assert {name for name in scores if name.startswith("dice")} == {"dice", "dice_mito", "dice_er"}
    assert scores["dice"] == pytest.approx((np.mean([scores["dice_mito"], scores["dice_er"]]),))
    assert scores["dice_er"] == pytest.approx((er,))
    assert "Dice er, validation" in report.table().headers


def test_a_test_that_is_a_region_annotates_what_the_volume_does():
    pair = {"image": "v.h5:raw", "label": "v.h5:cell", "annotated": ["mito"]}
    data = DataSpec.model_validate({"train": [pair]})
    (scored,) = scored_pairs([{"region": "z=16:20"}], data)
    assert scored.annotated == ("mito",)
    with_others = DataSpec.model_validate({"train": [pair], "validation": [{**pair, "annotated": ["er"]}]})
    with pytest.raises(SpecError, match="the test has no image"):
        scored_pairs([{"region": "z=16:20"}], with_others)


def test_minutes_become_steps_by_the_speed_that_was_measured_once(here, monkeypatch, caplog):
    asked = []

    def steps_in(minutes, member, folder, *, device):
        asked.append((minutes, member.ref))
        return {"narrow.yaml": 3, "wide.yaml": 2}[member.ref]

    monkeypatch.setattr(work, "steps_in", steps_in)
    report = run(steps=None, minutes=2.5, seeds=1, output="timed")
    assert caplog.messages.count("training on the cpu in 32-true instead of 16-mixed") == 1
    assert (report.budget, [row.steps for row in report.rows]) == ("2.5 minutes", [3, 2])
    assert run(steps=None, minutes=2.5, seeds=1, output="timed") == report
    assert asked == [(2.5, "narrow.yaml"), (2.5, "wide.yaml")]


def test_speed_is_measured_on_steps_that_are_thrown_away(here, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(trained, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    report = run(refs=REFS[:1], steps=None, minutes=0.05, seeds=1, output="timed")
    # The clock goes on by a second at each look, so that every step takes one: 0.05 minutes are 3 steps.
    assert report.rows[0].steps == 3
    assert report.rows[0].minutes == pytest.approx((3 / 60,))
    assert not (here / "timed/narrow.yaml/speed").exists()


def test_a_clock_counts_steps_and_not_what_is_between_them(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(trained, "time", SimpleNamespace(monotonic=lambda: now))
    clock = trained.StepClock(skip=1, file=tmp_path / "t.json")
    for done, at in ((0, 0), (1, 100), (2, 103), (2, 150), (3, 152), (3, 160), (4, 164)):
        now = float(at)
        clock(Progress(done, 4, unit="steps"))
    assert (clock.seconds, clock.steps) == (3 + 2 + 4, 3)
    assert trained.StepClock(file=tmp_path / "t.json").seconds_per_step == 3.0


def test_memory_is_measured_once_for_each_reference(here, monkeypatch):
    asked = []

    def step_memory(spec, shape, mode, *, device):
        asked.append((shape, mode))
        return 10**6 * len(asked)

    monkeypatch.setattr(work, "step_memory", step_memory)
    monkeypatch.setattr(trained, "train", refuse_to_train)
    report = run(memory="measure")
    assert asked == [((1, 1, 16, 32, 32), mode) for mode in ("inference", "training")] * 2
    cells = dict(zip(report.table().headers, report.table().rows[1], strict=True))
    assert (cells["predict MB"], cells["train MB"]) == ("3", "4")
    assert run(memory="measure") == report
    assert len(asked) == 4
