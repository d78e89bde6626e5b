"""Pushing a run: what is given away, what is refused, and what lies in the repository and in the spec afterwards."""

from __future__ import annotations

import getpass
import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from support.pushing import CREDIT, LICENSE, quiet

from connectomics_zoo.errors import CheckFailedError, HubError, OutputError, SpecError, UnknownNameError, WeightsError
from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.files.safetensors import read_header
from connectomics_zoo.files.yaml import dump_yaml, read_yaml
from connectomics_zoo.pictures import comparison
from connectomics_zoo.push import PushRequest, measured, preview, ship
from connectomics_zoo.runs.folder import get_run
from connectomics_zoo.runs.portable import check_portable
from connectomics_zoo.runs.tuned import read_tuned
from connectomics_zoo.schema.model import WeightsEntry
from connectomics_zoo.weights.load import load


@pytest.fixture(scope="module")
def previewed(home):
    """The report of a preview, its folder, and what was told; no test may change them."""
    told: list[str] = []
    report = preview(PushRequest(home / "run"), "org/name", output=home / "out", notify=told.append)
    return report, home / "out", told


def change_spec(run, **data):
    document = read_yaml(run / "spec.yaml")
    document["data"] |= data
    (run / "spec.yaml").write_text(dump_yaml({**document, "data": {k: v for k, v in document["data"].items() if v}}))


# What is given away.


def test_a_preview_holds_all_that_is_pushed_and_loads_as_a_run(previewed, run):
    report, folder, told = previewed
    names = {"model.safetensors", "spec.yaml", "metrics.json", "provenance.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == names | {"prediction.png", "curve.png"} == set(report.files)
    assert all((folder / name).stat().st_size == size for name, size in report.files.items())
    assert told == [f"scoring again on {get_run(run).data.validation[0].image}"]
    pushed, own = load(folder), load(run)
    assert all(torch.equal(pushed.state_dict()[key], tensor) for key, tensor in own.state_dict().items())
    assert json.loads((folder / "metrics.json").read_text()) == json.loads((run / "metrics.json").read_text())


def test_the_weights_file_holds_the_spec_so_that_one_digest_covers_both(previewed):
    report, folder, _ = previewed
    metadata = read_header(folder / "model.safetensors").metadata
    assert metadata == {"format": "pt", "spec": (folder / "spec.yaml").read_text()}
    check_portable(get_run(folder), source="the preview")
    assert report.entry["sha256"] == file_sha256(folder / "model.safetensors")
    assert report.entry["size"] == (folder / "model.safetensors").stat().st_size


def test_the_same_run_gives_the_same_bytes(previewed, run, tmp_path):
    preview(PushRequest(run), "org/name", output=tmp_path / "again", notify=quiet)
    for path in previewed[1].iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_nothing_of_the_machine_is_in_any_byte_that_is_given_away(previewed, home, tmp_path):
    _, folder, _ = previewed
    secrets = [str(home), str(tmp_path), "secretuser", str(Path.home()) + "/", "/tmp", str(Path.cwd())]
    secrets += [getpass.getuser()] if len(getpass.getuser()) > 4 else []
    assert str(home) in (home / "run" / "spec.yaml").read_text()  # so there is something to find
    for path in folder.iterdir():
        for secret in secrets:
            assert secret.encode() not in path.read_bytes(), (path.name, secret)


def test_half_precision_halves_the_file_and_its_probe_is_of_what_is_stored(run, tmp_path, previewed):
    whole, _, _ = previewed
    half = preview(PushRequest(run, half=True), "org/name", output=tmp_path / "half", pictures=False, notify=quiet)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    tensors = sum(2 * tensor.numel() for tensor in stored.values())
    assert half.entry["size"] - tensors < 64 * 1024
    assert half.entry["probe"] != whole.entry["probe"]
    assert half.entry["probe"]["outputs"]["output"]["rms"] == pytest.approx(
        whole.entry["probe"]["outputs"]["output"]["rms"], rel=1e-2
    )
    assert json.loads((tmp_path / "half" / "provenance.json").read_text())["weights"]["dtype"] == "float16"


def test_values_that_float16_cannot_hold_are_refused(run, tmp_path):
    weights = load_file(run / "model.safetensors")
    key = next(iter(weights))
    weights[key].flatten()[0] = 1e6
    save_file(weights, run / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"{key} holds values too large for float16, leave out --half"):
        preview(PushRequest(run, half=True), "org/name", output=tmp_path / "out", notify=quiet)


def test_the_provenance_says_data_split_recipe_seed_and_versions(previewed, run):
    story = json.loads((previewed[1] / "provenance.json").read_text())
    trained = get_run(run)
    assert story["model"] == "tiny@1.0.0"
    assert story["data"]["train"] == [{"image": "volume.h5:raw", "label": "volume.h5:mito", "region": {"z": [0, 16]}}]
    assert story["data"]["validation"][0]["region"] == {"z": [16, 20]}
    assert (story["seed"], story["steps"]) == (trained.training.seed, 4)
    assert story["trained_with"] == trained.versions
    assert story["trained_on"] == trained.trained_on == "cpu, 32-true"
    assert story["weights"]["sha256"] == previewed[0].entry["sha256"]
    assert re.fullmatch(r"[0-9a-f]{40}", story["pushed_with"].get("commit", "0" * 40))


def test_the_entry_states_channels_split_recipe_seed_scores_and_licence(previewed):
    entry = WeightsEntry.model_validate({**previewed[0].entry, "revision": "0" * 40})
    assert (entry.source, entry.repo, entry.file) == ("hub", "org/name", "model.safetensors")
    assert (entry.input_channels, entry.output_channels, entry.task, entry.license) == (1, 1, "mito", LICENSE)
    assert entry.dataset == CREDIT
    assert entry.split == "trained on volume.h5:raw z=0:16; scored on volume.h5:raw z=16:20"
    assert "4 steps" in entry.recipe
    assert "16 x 32 x 32" in entry.recipe
    assert set(entry.metrics) == {"val/dice", "val/iou"}
    assert "revision" not in previewed[0].entry


# The card.


def test_the_metadata_of_the_card_are_what_the_hub_reads(previewed):
    card = ModelCard.load(previewed[1] / "README.md")
    assert card.data.license == "cc-by-nc-sa-3.0"
    assert card.data.library_name == "connectomics-zoo"
    assert {"connectomics", "electron-microscopy", "mito"} <= set(card.data.tags)
    scores = json.loads((previewed[1] / "metrics.json").read_text())
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {name: pytest.approx(scores[f"val/{name}"], rel=1e-3, abs=1e-9) for name in ("dice", "iou")}
    assert {result.dataset_name for result in card.data.eval_results} == {CREDIT}
    assert {result.dataset_split for result in card.data.eval_results} == {"volume.h5:raw z=16:20"}


def test_the_card_sets_what_was_declared_beside_what_is_measured(previewed, run):
    text = (previewed[1] / "README.md").read_text()
    expect = get_run(run).model.expect
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]* \| [^|]*) \|$", text, re.M))
    counts = expect.parameters
    assert rows["parameters in training"] == f"{counts.training:,} | {counts.training:,}"
    assert rows["parameters in inference"] == f"{counts.inference:,} | {counts.inference:,}"
    digest = f"`{expect.fingerprint[:19]}…`"
    assert rows["fingerprint of the state dict"] == f"{digest} | {digest}"
    declared, measured = map(float, rows["`val/dice`"].split(" | "))
    assert declared == pytest.approx(measured, abs=2e-4)
    for part in (CREDIT, "no commercial use", "by-nc-sa/3.0", "50 x 4.6 x 4.6 nm", "@inproceedings{roy2023mednext"):
        assert part in text


def test_scores_that_are_not_those_of_the_weights_show(run, tmp_path):
    scores = {"steps": 4, "val/dice": 0.987, "val/iou": 0.9, "step": 4.0}
    (run / "metrics.json").write_text(json.dumps(scores))
    preview(PushRequest(run), "org/name", output=tmp_path / "out", pictures=False, notify=quiet)
    row = re.search(r"`val/dice` \| 0\.9870 \| ([\d.]+)", (tmp_path / "out" / "README.md").read_text())
    assert float(row[1]) != pytest.approx(0.987, abs=0.01)


def test_the_picture_is_small_and_drawn_from_a_prediction(previewed):
    with Image.open(previewed[1] / "prediction.png") as comparison:
        assert comparison.width <= 1600
        assert len(comparison.convert("RGB").getcolors(maxcolors=2**24)) > 50


def test_the_picture_leaves_out_what_is_not_annotated(run, tmp_path, monkeypatch):
    mask = np.ones((20, 40, 40), np.uint8)
    mask[:18], mask[:, :5] = 0, 0
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        file["mask"] = mask
    (validation,) = read_yaml(run / "spec.yaml")["data"]["validation"]
    change_spec(run, validation=[{**validation, "mask": f"{tmp_path}/mask.h5:mask"}], unlabelled=1)
    drawn = {}

    def draw(path, **given):
        drawn.update(given)
        comparison.draw_comparison(path, **given)

    monkeypatch.setattr(measured, "draw_comparison", draw)
    preview(PushRequest(run), "org/name", output=tmp_path / "out", notify=quiet)
    assert drawn["section_names"] == ["z = 18", "z = 19"]
    known = np.ones((2, 40, 40), bool)
    known[:, :5], known[:, 10:20, 10:20] = False, False
    np.testing.assert_array_equal(drawn["known"], known)


def test_the_picture_leaves_out_edges_that_reach_out_of_it(run, tmp_path, monkeypatch):
    document = read_yaml(run / "spec.yaml")
    target = {"kind": "affinity", "offset": [0, 6, 0], "attractive": True}
    document["task"]["channels"][0]["target"] = target
    document["task"]["affinities"] = {"axes": "zyx", "edge_stored_at": "source"}
    (run / "spec.yaml").write_text(dump_yaml(document))
    known = []

    def draw(path, **given):
        known.append(given["known"])
        comparison.draw_comparison(path, **given)

    monkeypatch.setattr(measured, "draw_comparison", draw)
    preview(PushRequest(run), "org/name", output=tmp_path / "out", notify=quiet)
    assert known[0][:, :34].all()
    assert not known[0][:, 34:].any()


def test_without_the_data_there_is_neither_picture_nor_second_score(run, tmp_path):
    change_spec(run, root=str(tmp_path / "gone"), validation=[{"image": "a.h5:raw", "label": "a.h5:mito"}])
    told: list[str] = []
    report = preview(PushRequest(run), "org/name", output=tmp_path / "out", notify=told.append)
    assert "the validation data is not at hand" in told[0]
    assert report.notes == tuple(told)
    assert "prediction.png" not in report.files
    assert "not measured again" in (tmp_path / "out" / "README.md").read_text()


def test_without_pictures_there_are_none(previewed, run, tmp_path):
    shutil.copytree(previewed[1], tmp_path / "out")
    report = preview(PushRequest(run), "org/name", output=tmp_path / "out", pictures=False, notify=quiet)
    assert not [name for name in report.files if name.endswith(".png")]
    assert not list((tmp_path / "out").glob("*.png"))
    assert ".png" not in (tmp_path / "out" / "README.md").read_text()


def test_the_provenance_says_from_which_weights_and_how_it_is_predicted(run, tmp_path):
    document = read_yaml(run / "spec.yaml")
    document["prediction"]["views"] = "flips"
    (run / "spec.yaml").write_text(dump_yaml({**document, "init_from": "/elsewhere/first.safetensors"}))
    preview(PushRequest(run), "org/name", output=tmp_path / "out", pictures=False, notify=quiet)
    story = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert story["init_from"] == "first.safetensors"
    assert (story["prediction"]["views"], story["prediction"]["merge"]) == ("flips", "mean")


# Decoding.


TUNED = {
    "schema_version": 1,
    "kind": "decode",
    "decode": {"method": "components", "threshold": 0.25, "min_size": 3},
    "adapted_rand_error": 0.125,
    "voi": 0.5,
    "region": "z=16:20",
}


def write_tuned(run, place, **changes):
    """Write `decode.yaml` into a run, tuned on volumes in the folder `place`."""
    places = {"prediction": f"{place}/predicted.h5:main", "truth": f"{place}/volume.h5:mito"}
    (run / "decode.yaml").write_text(dump_yaml({**TUNED, **places, **changes}))


def test_what_tuning_found_is_given_away_without_places_of_this_machine(run, home, tmp_path):
    write_tuned(run, home)
    report = preview(PushRequest(run), "org/name", output=tmp_path / "out", pictures=False, notify=quiet)
    assert report.files["decode.yaml"] == (tmp_path / "out" / "decode.yaml").stat().st_size
    places = {"prediction": "predicted.h5:main", "truth": "volume.h5:mito"}
    assert read_yaml(tmp_path / "out" / "decode.yaml") == {**TUNED, **places}
    assert read_tuned(tmp_path / "out").decode == read_tuned(run).decode
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["decode"] == {**TUNED, **places}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "$ zoo decode prediction.h5 objects.h5 --method components threshold=0.25 min_size=3\n" in card
    assert "tuned on volume.h5:mito z=16:20: adapted Rand error 0.1250" in card
    for path in (tmp_path / "out").iterdir():
        assert str(home).encode() not in path.read_bytes(), path.name


def test_a_place_of_this_machine_in_the_tuned_settings_is_refused(run, tmp_path):
    write_tuned(run, "/data/secret", region="see /data/secret/notes.txt")
    with pytest.raises(SpecError, match=r"decode\.yaml would tell the place '/data/secret'"):
        preview(PushRequest(run), "org/name", output=tmp_path / "out", pictures=False, notify=quiet)


def test_tuned_settings_of_an_earlier_preview_are_taken_away(run, tmp_path):
    write_tuned(run, "/data")
    preview(PushRequest(run), "org/name", output=tmp_path / "out", pictures=False, notify=quiet)
    (run / "decode.yaml").unlink()
    report = preview(PushRequest(run), "org/name", output=tmp_path / "out", pictures=False, notify=quiet)
    assert "decode.yaml" not in report.files
    assert not (tmp_path / "out" / "decode.yaml").exists()
    assert "zoo decode" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("decode", "words"),
    [
        (
            {"method": "components", "threshold": 2.0, "min_size": 0},
            r"decode\.yaml: decode\.threshold: Input should be",
        ),
        (
            {"method": "agglomeration", "threshold": 0.5, "min_size": 0},
            "decode.yaml, for mito: .*attractive affinities",
        ),
        ({"method": "threshold", "threshold": 0.5}, "decodes by threshold, which makes no objects: tune again"),
    ],
)
def test_tuned_settings_that_are_not_for_the_task_are_refused(run, decode, words):
    write_tuned(run, "/data", decode=decode)
    with pytest.raises(SpecError, match=words):
        preview(PushRequest(run), "org/name", pictures=False, notify=quiet)


def test_weights_beside_a_spec_say_that_tuned_settings_stay_behind(run, spec_file, run_zoo):
    assert ship(PushRequest(run), spec_file).notes == ()
    write_tuned(run, "/data")
    code, _, err = run_zoo("push", run, spec_file)
    assert code == 0, err
    assert "decode.yaml has no place beside a spec, and its settings stay behind" in err


# What is refused.


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="is no run folder"):
        preview(PushRequest(tmp_path), "org/name", notify=quiet)


def test_a_run_without_a_licence_is_refused_until_one_is_given(run, tmp_path):
    change_spec(run, license=None)
    with pytest.raises(SpecError, match=r"licence of the data is not stated .*--license CC-BY-4\.0"):
        preview(PushRequest(run), "org/name", output=tmp_path / "out", pictures=False, notify=quiet)
    request = PushRequest(run, license="CC-BY-4.0")
    report = preview(request, "org/name", output=tmp_path / "out", pictures=False, notify=quiet)
    assert report.entry["license"] == get_run(tmp_path / "out").data.license == "CC-BY-4.0"


def test_a_licence_of_the_weights_leaves_that_of_the_data_as_it_is(run, tmp_path):
    request = PushRequest(run, license="CC-BY-4.0")
    report = preview(request, "org/name", output=tmp_path / "out", pictures=False, notify=quiet)
    assert report.entry["license"] == "CC-BY-4.0"
    assert get_run(tmp_path / "out").data.license == LICENSE
    assert f"The data has the licence {LICENSE}." in (tmp_path / "out" / "README.md").read_text()


def test_a_run_whose_weights_do_not_fit_is_refused(run, tmp_path):
    weights = load_file(run / "model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, run / "model.safetensors")
    with pytest.raises(CheckFailedError, match=r"does not pass zoo verify --level weights .*given away: model"):
        preview(PushRequest(run), "org/name", output=tmp_path / "out", notify=quiet)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_refused(run, tmp_path):
    weights = load_file(run / "model.safetensors")
    next(iter(weights.values())).flatten()[0] = float("nan")
    save_file(weights, run / "model.safetensors")
    with pytest.raises(WeightsError, match="not finite, the training has diverged"):
        preview(PushRequest(run), "org/name", output=tmp_path / "out", notify=quiet)


def test_a_training_that_has_not_ended_is_refused(run):
    (run / "metrics.json").unlink()
    with pytest.raises(WeightsError, match=r"its training has not ended: .*--resume"):
        preview(PushRequest(run), "org/name", notify=quiet)
    (run / "metrics.json").write_text("[]")
    with pytest.raises(WeightsError, match="is not what zoo train writes"):
        preview(PushRequest(run), "org/name", notify=quiet)


@pytest.mark.parametrize("repo", ["name", "org/", "a/b/c", "org/na me", "../name", "org/a--b"])
def test_what_can_be_no_repository_is_refused_first(run, repo):
    with pytest.raises(HubError, match="is no repository, write org/name"):
        preview(PushRequest(run), repo, notify=quiet)


def test_a_folder_with_something_else_is_left_as_it_is(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'thesis\.tex'"):
        preview(PushRequest(run), "org/name", output=tmp_path / "out", notify=quiet)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_place_of_this_machine_in_a_sentence_is_refused(run, home, tmp_path):
    change_spec(run, attribution=f"see {home}/notes.txt")
    with pytest.raises(SpecError, match=r"spec\.yaml would tell the place .* of this machine"):
        preview(PushRequest(run), "org/name", output=tmp_path / "out", pictures=False, notify=quiet)


def test_weights_that_no_preview_made_are_not_replaced_by_one(run, tmp_path):
    folder = tmp_path / "pulled"
    folder.mkdir()
    for name in ("spec.yaml", "model.safetensors"):
        shutil.copy(run / name, folder / name)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(OutputError, match=r"holds 'model\.safetensors', which is no part of a preview"):
        preview(PushRequest(run), "org/name", output=folder, pictures=False, notify=quiet)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("licence", ["", "  "])
def test_an_empty_licence_is_none(run, licence):
    with pytest.raises(SpecError, match="the licence '' is not legal in a spec"):
        preview(PushRequest(run, license=licence), "org/name", notify=quiet)
