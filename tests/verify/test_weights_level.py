"""Level weights: those beside a spec, of a run and of a repository are whole and the declared ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_spec import TINY, failures

from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.network import build
from connectomics_zoo.runs.folder import SPEC_FILE, WEIGHTS_FILE
from connectomics_zoo.schema.experiment import DataSpec, PredictionSpec, RunSpec
from connectomics_zoo.specs.lookup import get_spec, get_task
from connectomics_zoo.verify import verify
from connectomics_zoo.weights.storage import write_weights


def with_weights(folder, spec, *, deep_supervision=True):
    file = folder / "tiny.safetensors"
    write_weights(build.build(spec, deep_supervision=deep_supervision), file)
    words = {"task": "mito", "dataset": "A volume.", "license": "MIT"}
    return {"mito": {"file": file.name, "sha256": file_sha256(file), **words}}


def test_declared_weights_that_fit_pass_with_and_without_the_heads(tiny, tmp_path):
    spec = get_spec(tiny())
    for deep_supervision in (True, False):
        weights = with_weights(tmp_path, spec, deep_supervision=deep_supervision)
        (model,) = verify([tiny(weights=weights)], level="weights").models
        assert model.passed
        assert [check.path for check in model.checks if check.level == "weights"] == [
            "weights.mito.sha256",
            "weights.mito",
        ]


def test_weights_that_are_missing_damaged_or_foreign_fail(tiny, tmp_path):
    foreign = get_spec(tiny(arch=TINY["arch"] | {"grn": True}, expect=None))
    found = failures(verify([tiny(weights=with_weights(tmp_path, foreign))], level="weights"))
    differing = found["weights.mito: bottleneck.0.grn_beta"]
    assert (differing.declared, differing.measured) == (None, ([1, 64, 1, 1, 1], "F32"))
    assert found["weights.mito"].note == "32 tensors differ"
    weights = with_weights(tmp_path, get_spec(tiny()))
    weights["mito"]["sha256"] = "0" * 64
    found = failures(verify([tiny(weights=weights)], level="weights"))
    assert "sha256 differs" in found["weights.mito"].note
    (tmp_path / "tiny.safetensors").unlink()
    found = failures(verify([tiny(weights=weights)], level="weights"))
    assert "there is no such weights file" in found["weights.mito"].note


def test_the_declared_weights_of_a_model_are_verified_whatever_its_file_is_called(tiny, tmp_path):
    weights = with_weights(tmp_path, get_spec(tiny()))
    weights["mito"]["sha256"] = "0" * 64
    spec = Path(tiny(weights=weights)).rename(tmp_path / SPEC_FILE)
    assert list(failures(verify([str(spec)], level="weights"))) == ["weights.mito"]


def test_a_folder_of_a_model_is_verified_with_its_weights(tiny, tmp_path):
    model = get_spec(tiny())
    spec = Path(tiny(weights={})).rename(tmp_path / SPEC_FILE)
    assert verify([str(spec)], level="weights").passed, "a spec without weights"
    assert list(failures(verify([str(tmp_path)], level="weights"))) == [WEIGHTS_FILE]
    write_weights(build.build(model, deep_supervision=True), tmp_path / WEIGHTS_FILE)
    for reference in (tmp_path, spec):
        (found,) = verify([str(reference)], level="weights").models
        assert found.passed
        assert [check.path for check in found.checks if check.level == "weights"] == [WEIGHTS_FILE]


def test_a_run_folder_is_verified_with_its_weights(tiny, tmp_path):
    model = get_spec(tiny())
    run = RunSpec(
        schema_version=1,
        kind="run",
        name="my-run",
        model=model,
        task=get_task("mito"),
        data=DataSpec(),
        training=model.training,
        prediction=PredictionSpec(window=model.training.patch_size),
    )
    folder = tmp_path / "runs" / "my-run"
    folder.mkdir(parents=True)
    (folder / SPEC_FILE).write_text(dump_yaml(run.model_dump(mode="json")))
    missing = failures(verify([str(folder)], level="weights"))
    assert list(missing) == [WEIGHTS_FILE]
    write_weights(build.build(model, deep_supervision=True), folder / WEIGHTS_FILE)
    assert verify([str(folder)], level="weights").passed


@pytest.mark.parametrize("names", [("spec.yaml", WEIGHTS_FILE), ("net.yaml", "ema.safetensors")])
def test_a_repository_is_verified_with_its_weights_and_their_digest(tiny, tmp_path, hub_server, hub_env, names):
    path = tiny()
    write_weights(build.build(get_spec(path), deep_supervision=True), tmp_path / WEIGHTS_FILE)
    content = (tmp_path / WEIGHTS_FILE).read_bytes()
    files = {names[0]: (tmp_path / "tiny.yaml").read_bytes(), names[1]: content}
    pinned = f"hf://org/name@{hub_server.add_repo('org/name', files)}"
    report = verify([pinned, pinned], level="weights")
    (model,) = report.models
    assert model.passed, [check.describe() for check in model.failures]
    assert model.source == pinned
    assert {check.path for check in model.checks if check.level == "weights"} == {names[1], f"{names[1]}: digest"}
    (held,) = hub_env.rglob(f"snapshots/*/{names[1]}")
    held.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # a number of a tensor, the header is right
    assert verify([pinned], level="weights").passed
    assert held.read_bytes() == content
    assert hub_server.count("GET /cdn/") == 2


def test_weights_of_a_repository_that_are_missing_or_foreign_fail(tiny, tmp_path, hub_server, hub_env):
    foreign = get_spec(tiny(arch=TINY["arch"] | {"grn": True}, expect=None))
    write_weights(build.build(foreign, deep_supervision=True), tmp_path / WEIGHTS_FILE)
    files = {"spec.yaml": Path(tiny()).read_bytes(), WEIGHTS_FILE: (tmp_path / WEIGHTS_FILE).read_bytes()}
    pinned = f"hf://org/name@{hub_server.add_repo('org/name', files)}"
    assert failures(verify([pinned], level="weights"))[WEIGHTS_FILE].note == "32 tensors differ"
    del files[WEIGHTS_FILE]
    pinned = f"hf://org/none@{hub_server.add_repo('org/none', files)}"
    assert "has no weights file" in failures(verify([pinned], level="weights"))[WEIGHTS_FILE].note
