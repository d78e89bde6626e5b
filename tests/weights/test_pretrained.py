"""Trained weights by reference: from a catalogue, the Hub or a folder; frozen by a lock file; predicted with alone."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save
from support.networks import gains
from support.tiny_training import TINY, make_run

import zoo
from connectomics_zoo.errors import HubError, OutputError, SpecError, UnknownNameError, WeightsError
from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.files.yaml import dump_yaml, parse_yaml, read_yaml
from connectomics_zoo.network.build import measure_static_expectation
from connectomics_zoo.predict import predict
from connectomics_zoo.pull.run import pull
from connectomics_zoo.runs.folder import get_run
from connectomics_zoo.specs import releases
from connectomics_zoo.specs.content import digest
from connectomics_zoo.specs.lookup import get_spec, resolve_any
from connectomics_zoo.specs.reference import Reference, parse_reference
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.train.resolve import resolve_run
from connectomics_zoo.weights.pretrained import find_pretrained, find_run

PAIR = {"image": "vol.h5:raw", "label": "vol.h5:mito"}


@pytest.fixture(scope="module")
def run():
    return make_run({"root": "???", "train": [PAIR], "license": "CC0-1.0"})


@pytest.fixture(scope="module")
def network(run):
    torch.manual_seed(3)
    return zoo.load(run.model)


@pytest.fixture(scope="module")
def files(run, network):
    """What `zoo push` puts into a repository."""
    text = dump_yaml(run.model_dump(mode="json"))
    weights = save(dict(network.state_dict()), metadata={"format": "pt", "spec": text})
    return {"model.safetensors": weights, "spec.yaml": text.encode(), "README.md": b"# tiny"}


@pytest.fixture
def revision(hub_server, hub_env, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return hub_server.add_repo("org/name", files)


@pytest.fixture
def pinned(revision):
    return f"hf://org/name@{revision}"


@pytest.fixture
def volume(tmp_path):
    with h5py.File(tmp_path / "vol.h5", "w") as file:
        file["raw"] = np.random.default_rng(0).integers(0, 255, (16, 32, 48), np.uint8)
    return tmp_path / "vol.h5"


def go_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def assert_same(loaded, network):
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert not loaded.load_report.reinitialised


def test_a_repository_is_a_reference(pinned, network, monkeypatch):
    loaded = zoo.load(pinned)
    assert_same(loaded, network)
    assert not loaded.training
    assert loaded.spec.outputs[0].channels == 1
    assert pinned in loaded.load_report.source
    assert get_spec(pinned) == loaded.spec.model_copy(update={"expect": None})
    go_offline(monkeypatch)
    assert_same(zoo.load(pinned), network)


def test_a_repository_gives_weights_to_start_from(pinned, network):
    loaded = zoo.load("mednext-S", arch=TINY, out_channels=3, init_from=pinned)
    assert torch.equal(loaded.state_dict()["stem.weight"], network.state_dict()["stem.weight"])
    assert loaded.spec.outputs[0].channels == 3
    assert "out_0.conv_out.weight" in loaded.load_report.reinitialised


def test_a_branch_is_refused_with_the_commit_that_it_is_now(pinned):
    with pytest.raises(
        HubError, match=rf"hf://org/name@main: a branch or tag moves, .*: write {pinned}, which it is now"
    ):
        zoo.load("hf://org/name@main")


def test_a_repository_of_a_bare_model_spec_loads_too(hub_server, revision, files, network, run, volume):
    model = dump_yaml(run.model.model_dump(mode="json")).encode()
    weights = save(dict(network.state_dict()))
    bare = f"hf://org/bare@{hub_server.add_repo('org/bare', {'tiny.yaml': model, 'w.safetensors': weights})}"
    assert_same(zoo.load(bare), network)
    with pytest.raises(WeightsError, match=r"nothing says how these weights were trained"):
        predict(bare, f"{volume}:raw", "out.h5")


def test_a_volume_is_predicted_with_a_repository_as_with_the_run_folder(pinned, files, volume, tmp_path, run_zoo):
    folder = tmp_path / "run"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    expected = predict(folder, f"{volume}:raw", tmp_path / "a.h5")
    code, out, err = run_zoo("predict", pinned, f"{volume}:raw", tmp_path / "b.h5", "--json")
    assert code == 0, err
    assert json.loads(out)["run"] == pinned
    assert expected.run == str(folder)
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(tmp_path / "b.h5") as b:
        (first,), (second,) = a.values(), b.values()
        assert np.ptp(first[:]) > 0
        np.testing.assert_array_equal(first[:], second[:])


def changed(files, edit):
    document = parse_yaml(files["spec.yaml"].decode())
    edit(document)
    return {**files, "spec.yaml": dump_yaml(document).encode()}


BAD_SPECS = {
    "a root": (lambda d: d["data"].update(root="/home/you"), SpecError, r"names the place '/home/you'"),
    "an absolute path": (
        lambda d: d["data"]["train"][0].update(image="/etc/passwd"),
        SpecError,
        r"names the place '/etc/passwd', a spec from elsewhere may name files below data\.root alone",
    ),
    "a way up": (lambda d: d["data"]["train"][0].update(label="../x.h5"), SpecError, r"names the place '\.\./x\.h5'"),
    "code": (lambda d: d["model"].update(builder="os:system"), SpecError, r"model\.builder"),
    "an import path": (lambda d: d["model"].update(builder="torch.nn.Linear"), SpecError, r"model\.builder"),
    "another field": (lambda d: d.update(code="print(1)"), SpecError, r"code: unknown key"),
    "another network": (
        lambda d: d["model"]["arch"].update(base_channels=4),
        WeightsError,
        r"the weights do not fit the network",
    ),
}


@pytest.mark.parametrize("bad", BAD_SPECS)
def test_a_repository_whose_spec_is_not_to_be_trusted_is_refused(hub_server, revision, files, bad):
    edit, kind, message = BAD_SPECS[bad]
    commit = hub_server.add_repo("org/bad", changed(files, edit))
    with pytest.raises(kind, match=message):
        zoo.load(f"hf://org/bad@{commit}")


def test_weights_that_are_larger_than_the_network_are_not_downloaded(hub_server, revision, files):
    commit = hub_server.add_repo("org/bad", {**files, "model.safetensors": bytes(3_000_000)})
    with pytest.raises(HubError, match=r"3000000 bytes, at most \d+ are expected here: it was not downloaded"):
        zoo.load(f"hf://org/bad@{commit}")
    assert hub_server.count("GET /cdn") == 0


def test_a_pickle_under_the_name_of_a_safetensors_file_is_refused(hub_server, revision, files, tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "evil")
    commit = hub_server.add_repo("org/bad", {**files, "model.safetensors": (tmp_path / "evil").read_bytes()})
    with pytest.raises(WeightsError, match=r"a zip file, as torch\.save writes it, which can run code"):
        zoo.load(f"hf://org/bad@{commit}")


# Weights that a spec declares


@pytest.fixture
def spec(revision, files, run, tmp_path):
    """A spec with two outputs, whose weights on the Hub are of a network with one."""
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(files["model.safetensors"])
    entry = {"source": "hub", "repo": "org/name", "revision": revision, "file": "model.safetensors",
             "sha256": file_sha256(weights), "size": weights.stat().st_size, "input_channels": 1, "output_channels": 1,
             "task": "mito", "dataset": "Random numbers.", "license": "CC0-1.0"}  # fmt: skip
    document = resolve_model("mednext-S", arch=TINY).model_dump(mode="json") | {
        "name": "tiny",
        "weights": {"hub": entry},
    }
    (tmp_path / "tiny.yaml").write_text(dump_yaml(document))
    return document


def rewrite(document, **changes):
    document["weights"]["hub"].update(changes)
    Path("tiny.yaml").write_text(dump_yaml(document))


def test_declared_weights_come_from_the_hub_with_the_channels_that_they_have(spec, network, monkeypatch):
    loaded = zoo.load("./tiny.yaml", pretrained=True)
    assert_same(loaded, network)
    assert loaded.spec.outputs[0].channels == 1
    go_offline(monkeypatch)
    assert_same(zoo.load("./tiny.yaml", pretrained="hub"), network)


def test_other_channels_may_be_asked_for_and_are_reported(spec):
    loaded = zoo.load("./tiny.yaml", pretrained=True, in_channels=2, out_channels=5)
    assert loaded.spec.input.channels == 2
    assert loaded.spec.outputs[0].channels == 5
    assert [key for key, _ in loaded.load_report.adapted] == ["stem.weight"]
    assert "out_0.conv_out.weight" in loaded.load_report.reinitialised


def test_weights_with_their_own_spec_predict_without_a_run_folder(spec, volume, run):
    report = predict("./tiny.yaml", f"{volume}:raw", "out.h5")
    assert report.run == "./tiny.yaml.hub"
    assert report.window == run.training.patch_size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, r"its sha256 is .*but 000000000000… is declared"),
        ({"size": 7}, r"\d+ bytes, but 7 are declared"),
        ({"revision": "0" * 40}, r"there is no such revision"),
        ({"file": "other.safetensors"}, r"there is no such file at that revision"),
        ({"repo": "org/none"}, r"there is no such repository"),
    ],
)
def test_weights_that_are_not_the_declared_ones_are_refused(spec, change, message):
    rewrite(spec, **change)
    with pytest.raises(HubError, match=message):
        zoo.load("./tiny.yaml", pretrained=True)


@pytest.mark.parametrize(
    "change",
    [
        {"revision": "main"},
        {"revision": None},
        {"repo": "../org/name"},
        {"repo": "https://evil.example/org"},
        {"file": "../../.ssh/id_rsa"},
        {"file": "model.bin"},
        {"source": "package"},
        {"size": 10**15},
        {"sha256": "abc"},
        {"input_channels": 0},
    ],
    ids=str,
)
def test_an_entry_that_names_something_else_is_refused_by_the_schema(spec, change):
    rewrite(spec, **change)
    with pytest.raises(SpecError, match=r"weights\.hub"):
        get_spec("./tiny.yaml")


def test_weights_of_other_channels_than_declared_do_not_fit(spec):
    rewrite(spec, output_channels=2)
    with pytest.raises(WeightsError, match=r"1\d of another shape or type \(.*out_0\.conv_out\.bias \[1\] for \[2\]"):
        zoo.load("./tiny.yaml", pretrained=True)
    assert zoo.load("./tiny.yaml", pretrained=True, out_channels=2).load_report.reinitialised  # as asked for
    report = zoo.verify(["./tiny.yaml"], level="weights")
    assert any("out_0.conv_out.weight" in check.path for check in report.models[0].failures)


def test_verify_downloads_and_runs_the_probe_of_the_weights(spec, network):
    from connectomics_zoo.network.build import probe_network

    probe = probe_network(network, network.spec, (1, 1, 16, 32, 32)).model_dump(mode="json")
    rewrite(spec, probe=probe)
    report = zoo.verify(["./tiny.yaml"], level="weights")
    checks = {check.path: check.ok for check in report.models[0].checks if check.level == "weights"}
    assert checks["weights.hub.sha256"]
    assert checks["weights.hub.probe.outputs.output.values[3]"]
    assert all(checks.values())
    probe["outputs"]["output"]["values"][3] += 1
    rewrite(spec, probe=probe)
    failures = zoo.verify(["./tiny.yaml"], level="weights").models[0].failures
    assert [check.path for check in failures] == ["weights.hub.probe.outputs.output.values[3]"]


def test_a_probe_that_would_take_much_memory_is_not_run(spec):
    output = {"rms": 1.0, "values": [0.0, 0.0, 0.0]}
    rewrite(spec, probe={"input_shape": [1, 1, 65536, 65536, 65536], "outputs": {"output": output}})
    failures = zoo.verify(["./tiny.yaml"], level="weights").models[0].failures
    assert "LimitError" in failures[0].note


# Frozen


def test_frozen_loads_what_is_locked_and_nothing_else(spec, pinned, revision, network, hub_server, run_zoo, files):
    code, out, err = run_zoo("lock", "hf://org/name@main")
    assert code == 0, err
    assert f"org/name@{revision[:12]}" in out
    hub_server.add_repo("org/name", {**files, "model.safetensors": b"another"})  # main has moved on
    for ref in ("hf://org/name@main", pinned, f"{pinned}/model.safetensors"):
        assert_same(zoo.load(ref, frozen=True), network)
    assert_same(zoo.load("mednext-S", arch=TINY, out_channels=1, init_from=pinned, frozen=True), network)
    for ref in ("hf://org/name", f"hf://org/name@{hub_server.repos['org/name'].head.revision}"):
        with pytest.raises(WeightsError, match=r"not in zoo\.lock, so not loaded"):
            zoo.load(ref, frozen=True)
    with pytest.raises(WeightsError, match=r"\./tiny\.yaml: a spec's file is not in zoo\.lock, leave out either"):
        zoo.load("./tiny.yaml", pretrained=True, frozen=True)


def test_frozen_without_a_lock_file_loads_nothing(pinned):
    with pytest.raises(SpecError, match=r"zoo\.lock: there is no such lock file, write one with zoo lock"):
        zoo.load(pinned, frozen=True)
    with pytest.raises(SpecError, match=r"mine\.lock: there is no such"):
        zoo.load(pinned, frozen="mine.lock")


def test_another_file_of_a_locked_commit_is_not_locked(
    hub_server, hub_env, files, network, run_zoo, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    other = save({key: value + 1 for key, value in network.state_dict().items()})
    commit = hub_server.add_repo("org/name", {**files, "ema.safetensors": other})
    assert run_zoo("lock", f"hf://org/name@{commit}/ema.safetensors")[0] == 0
    assert zoo.load(f"hf://org/name@{commit}/ema.safetensors", frozen=True)
    for ref in (f"hf://org/name@{commit}", f"hf://org/name@{commit}/model.safetensors"):
        with pytest.raises(WeightsError, match=r"not in zoo\.lock, so not loaded"):
            zoo.load(ref, frozen=True)


def test_a_catalogue_s_lock_of_a_file_on_the_hub_locks_no_repository(pinned, run_zoo):
    assert run_zoo("lock", pinned)[0] == 0
    document = read_yaml(Path("zoo.lock"))
    (held,) = document["weights"].values()
    del held["spec_sha256"]
    Path("zoo.lock").write_text(dump_yaml(document | {"weights": {"mednext-S@1.0.0.mine": held}}))
    for ref in (pinned, f"{pinned}/model.safetensors"):
        with pytest.raises(WeightsError, match=rf"{ref}: not in zoo\.lock, so not loaded"):
            zoo.load(ref, frozen=True)


def test_frozen_where_nothing_can_be_checked_is_refused(pinned, files, run, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(files["model.safetensors"])
    with pytest.raises(WeightsError, match=r"x\.safetensors: a file is in no lock file"):
        zoo.load(run.model, init_from="x.safetensors", frozen=True)
    with pytest.raises(WeightsError, match=r"mednext-S: frozen says which weights may be loaded, and none are asked"):
        zoo.load("mednext-S", frozen=True)
    with pytest.raises(WeightsError, match="weights lie beside a spec's file"):
        zoo.load(run.model, pretrained=True, frozen=True)


def test_the_lock_holds_the_network_too(add_spec, files, run_zoo, tmp_path, monkeypatch):
    """The same tensors fit a network without residuals, which computes something else with them."""
    monkeypatch.chdir(tmp_path)
    document = resolve_model("mednext-S", arch=TINY, out_channels=1).model_dump(mode="json")
    entry = {"file": "w.safetensors", "task": "mito", "dataset": "Random numbers.", "license": "CC0-1.0"}

    def declare(*, residual):
        fields = {key: document[key] for key in ("outputs", "input", "training")}
        arch = {**document["arch"], "residual": residual}
        path = add_spec("tinyx", {**fields, "arch": arch, "expect": None})
        (path.parent / "w.safetensors").write_bytes(files["model.safetensors"])
        digest = file_sha256(path.parent / "w.safetensors")
        add_spec("tinyx", {**fields, "arch": arch, "expect": None, "weights": {"t": {**entry, "sha256": digest}}})

    declare(residual=True)
    assert run_zoo("lock", "tinyx.t")[0] == 0
    assert zoo.load("tinyx.t", frozen=True)
    assert find_run("tinyx.t", frozen=True)
    declare(residual=False)
    with pytest.raises(WeightsError, match=r"the spec declares another network than zoo\.lock has"):
        zoo.load("tinyx.t", frozen=True)
    with pytest.raises(WeightsError, match="the spec in the weights file is of another network"):
        find_run("tinyx.t")


def edit_lock(**changes):
    document = read_yaml(Path("zoo.lock"))
    next(iter(document["weights"].values())).update(changes)
    Path("zoo.lock").write_text(dump_yaml(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, r"is declared"),
        ({"size": 3}, r"3 are declared"),
        ({"network": "sha256:" + "0" * 64}, r"the network is not the one that zoo\.lock has"),
        ({"spec_sha256": "0" * 64}, r"the spec in the repository is not the one that zoo\.lock has"),
    ],
)
def test_a_lock_file_that_says_something_else_fails_closed(pinned, run_zoo, change, message):
    assert run_zoo("lock", pinned)[0] == 0
    edit_lock(**change)
    with pytest.raises((WeightsError, HubError), match=message):
        zoo.load(pinned, frozen=True)


def test_a_repository_that_0_1_0_locked_stays_locked(pinned, run, run_zoo, monkeypatch, network):
    assert run_zoo("lock", pinned)[0] == 0
    content = releases.content(run.model)
    for later in ("balance", "distillation", "keep", "loaded_learning_rate"):
        del content["training"][later]
    edit_lock(network=digest(content))  # as 0.1.0 had it
    Path("zoo.lock").write_text(Path("zoo.lock").read_text().replace("lock_version: 2", "lock_version: 1"))
    gains(monkeypatch, arch={"stem_kernel": (int, 1)})
    assert_same(zoo.load(pinned, frozen=True), network)
    assert run_zoo("lock", "--check")[0] == 0


def test_a_flipped_bit_fails_closed_without_network(pinned, run_zoo, monkeypatch):
    assert run_zoo("lock", pinned)[0] == 0
    path = find_pretrained(pinned).path.resolve()
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    go_offline(monkeypatch)
    with pytest.raises(HubError, match=r"may not be asked"):
        zoo.load(pinned, frozen=True)


def test_a_folder_is_not_frozen(pinned, tmp_path, run_zoo):
    assert run_zoo("lock", pinned)[0] == 0
    pull(pinned, to="weights")
    with pytest.raises(WeightsError, match=r"\./weights: a folder is not in zoo\.lock"):
        zoo.load("./weights", frozen=True)


def test_lock_is_written_anew_and_checked(pinned, revision, run_zoo, hub_server, files):
    assert run_zoo("lock", "hf://org/name")[0] == 0
    assert run_zoo("lock", "--check")[0] == 0
    new = hub_server.add_repo("org/name", {**files, "README.md": b"# new"})
    code, _, err = run_zoo("lock", "--check")
    assert (code, "1 of 1 would change (hf://org/name)" in err) == (1, True)
    assert revision in Path("zoo.lock").read_text()
    assert run_zoo("lock")[0] == 0
    assert new in Path("zoo.lock").read_text()
    assert run_zoo("lock", "./none.yaml")[0] == 2


# Once


@pytest.fixture
def count_work(monkeypatch):
    """Count, from now on, how often each text is parsed as a reference and each YAML file is read."""

    def start():
        counts = Counter()

        def counted(function):
            def wrapper(subject, *args, **kwargs):
                if isinstance(subject, str | Path) and not isinstance(subject, Reference):
                    counts[function.__name__, str(subject)] += 1
                return function(subject, *args, **kwargs)

            return wrapper

        for function in (parse_reference, read_yaml):
            for name, module in list(sys.modules.items()):
                if name.startswith("connectomics_zoo") and vars(module).get(function.__name__) is function:
                    monkeypatch.setattr(module, function.__name__, counted(function))
        return counts

    return start


@pytest.fixture
def refs(files, revision, pinned):
    """References by what they are: a model, its weights, a run folder, a repository."""
    Path("run").mkdir()
    for name in ("spec.yaml", "model.safetensors"):
        (Path("run") / name).write_bytes(files[name])
    names = {"a model": "mednext-S", "a version": "mednext-S@1.0.0", "weights": "mednext-S@1.0.0.vnc-mito"}
    return {**names, "a run": "./run", "a repository": pinned}


WAYS = {
    "load": lambda ref: zoo.load(ref, pretrained="." not in ref),
    "use": find_run,
    "pull": pull,
    "show": resolve_any,
    "train": lambda ref: resolve_run(ref, {"task": "???"}),
    "verify": lambda ref: zoo.verify([ref], level="weights"),
}


@pytest.mark.parametrize(
    ("way", "what"),
    [
        *(("load", what) for what in ("a model", "a version", "weights", "a run", "a repository")),
        *(("use", what) for what in ("a model", "weights", "a run", "a repository")),
        *(("pull", what) for what in ("a model", "weights", "a run", "a repository")),
        *(("show", what) for what in ("a model", "a version", "weights", "a run", "a repository")),
        *(("train", what) for what in ("a model", "a version")),
        *(("verify", what) for what in ("a run", "a repository")),
    ],
)
def test_a_reference_is_parsed_once_and_each_file_is_read_once(way, what, refs, count_work):
    counts = count_work()
    with contextlib.suppress(SpecError):  # training goes no further without a task
        WAYS[way](refs[what])
    assert counts["parse_reference", refs[what]] == 1
    assert sum(name == "read_yaml" for name, _ in counts) == 1
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("what", ["weights", "a repository"])
def test_a_lock_file_is_read_once(what, refs, count_work, run_zoo):
    assert run_zoo("lock", refs[what])[0] == 0
    counts = count_work()
    assert zoo.load(refs[what], frozen=True)
    assert counts["read_yaml", "zoo.lock"] == 1
    assert sum(name == "read_yaml" for name, _ in counts) == 2


# Pull


def test_pull_prints_the_pinned_reference_and_then_needs_no_network(pinned, run_zoo, monkeypatch, network):
    code, out, err = run_zoo("pull", "hf://org/name")
    assert code == 0, err
    assert out.splitlines()[0] == pinned
    assert "CC0-1.0" in out
    go_offline(monkeypatch)
    assert_same(zoo.load(pinned), network)


def test_pull_makes_a_folder_that_is_a_reference_of_its_own(
    pinned, run, network, volume, run_zoo, monkeypatch, hub_env
):
    code, _, err = run_zoo("pull", pinned, "--to", "weights")
    assert code == 0, err
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub_env / "empty"))
    go_offline(monkeypatch)
    assert_same(zoo.load("./weights"), network)
    assert get_run("weights") == run
    assert predict("./weights", f"{volume}:raw", "out.h5").windows > 0
    assert zoo.verify(["./weights"], level="weights").passed
    with pytest.raises(OutputError, match=r"weights exists and is not overwritten"):
        pull(pinned, to="weights")


def test_pull_of_declared_weights(spec, run, run_zoo):
    code, out, err = run_zoo("pull", "./tiny.yaml", "--to", "w", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["ref"] == "./tiny.yaml.hub"
    assert get_run("w") == run


def test_pull_frozen_pulls_all_that_is_locked(pinned, run_zoo, hub_env, monkeypatch, network):
    assert run_zoo("lock", "hf://org/name")[0] == 0
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub_env / "node"))
    code, out, err = run_zoo("pull", "--frozen")
    assert code == 0, err
    assert out.startswith(pinned)
    go_offline(monkeypatch)
    assert_same(zoo.load("hf://org/name", frozen=True), network)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "nothing to pull"),
        (("a", "b", "--to", "x"), "--to makes one folder, and there are 2 references"),
        (("--frozen",), "there is no such lock file"),
        (("mednext-B",), "has no trained weights"),
        (("none",), "unknown model 'none'"),
    ],
)
def test_pull_refuses_in_one_sentence(revision, run_zoo, args, message):
    code, _, err = run_zoo("pull", *args)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_show_shows_a_repository(pinned, run_zoo):
    code, out, _ = run_zoo("show", pinned)
    assert code == 0
    assert "A run of mednext-S" in out


def test_a_reference_to_the_hub_that_is_none(run_zoo):
    with pytest.raises(UnknownNameError, match="is no reference to the Hub"):
        zoo.load("hf://nothing")


LOAD = "import sys, zoo; n = zoo.load(sys.argv[1]); print(len(n.load_report.exact), 'lightning' in sys.modules)"


def test_another_process_loads_from_the_cache_without_network(pinned, hub_server, hub_env, network):
    pull(pinned)
    environment = {
        **os.environ,
        **hub_server.environment(hub_env),
        "HF_HUB_OFFLINE": "1",
        "HF_ENDPOINT": "http://127.0.0.1:1",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, pinned], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(len(network.state_dict())), "False"], done.stderr


@pytest.mark.parametrize("verb", ["pull", "lock"])
def test_neither_pull_nor_lock_takes_what_cannot_be_loaded(
    verb, hub_server, hub_env, files, run_zoo, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pickle = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, pickle)
    for content, message in (
        (pickle.getvalue(), "is a zip file, as torch.save writes it"),
        (save({"a": torch.zeros(3)}), "is no weights file of mednext-S"),
    ):
        commit = hub_server.add_repo("org/name", {**files, "model.safetensors": content})
        code, out, err = run_zoo(verb, f"hf://org/name@{commit}", *(["--to", "out"] if verb == "pull" else []))
        assert (code, out) == (2, "")
        assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["hf-home"]


def test_a_link_out_of_a_folder_is_not_followed(files, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "spec.yaml").write_bytes(files["spec.yaml"])
    with pytest.raises(WeightsError, match="there is no such weights file"):
        pull(str(folder), to=tmp_path / "out")
    (tmp_path / "elsewhere.safetensors").write_bytes(files["model.safetensors"])
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(WeightsError, match="is a link out of its folder, which is not followed"):
        pull(str(folder), to=tmp_path / "out")
    (folder / "model.safetensors").unlink()
    (folder / "other.safetensors").write_bytes(files["model.safetensors"])
    (folder / "model.safetensors").symlink_to("other.safetensors")
    assert pull(str(folder), to=tmp_path / "out").path == str(tmp_path / "out")


@pytest.mark.parametrize("text", ["hello", "[1, 2]", "null", ""])
def test_a_spec_in_the_weights_file_that_is_none_is_refused(spec, network, text, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(save(dict(network.state_dict()), metadata={"spec": text}))
    rewrite(spec, source="package", file="w.safetensors", sha256=file_sha256(path), size=path.stat().st_size,
            repo=None, revision=None)  # fmt: skip
    with pytest.raises(SpecError, match=r"the spec in .*w\.safetensors: holds \w+, a spec is a mapping"):
        pull("./tiny.yaml")


def test_what_a_stranger_s_spec_says_of_its_size_does_not_allow_a_larger_download(hub_server, hub_env, run):
    document = run.model.model_dump(mode="json")
    document["expect"] = measure_static_expectation(run.model).model_dump(mode="json") | {
        "parameters": {"training": 10**12, "inference": 10**12}
    }
    large = save({"a": torch.zeros(1_000_000)})
    commit = hub_server.add_repo("org/name", {"model.safetensors": large, "spec.yaml": dump_yaml(document).encode()})
    with pytest.raises(HubError, match=r"at most \d+ are expected here: it was not downloaded"):
        zoo.load(f"hf://org/name@{commit}")


def test_a_damaged_folder_is_refused_by_all_that_read_it(pinned, tmp_path, run_zoo, volume):
    pull(pinned, to="weights")
    sums = Path("weights/SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in sums] == ["spec.yaml", "model.safetensors"]
    code, out, err = run_zoo("verify", "./weights", "--level", "weights")
    assert code == 0, out + err
    path = Path("weights/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 64
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"not the file that SHA256SUMS beside it has"):
        zoo.load("./weights")
    for arguments in (["pull", "./weights"], ["predict", "./weights", f"{volume}:raw", "out.h5"]):
        code, _, err = run_zoo(*arguments)
        assert (code, "not the file that SHA256SUMS beside it has" in err) == (2, True)
    assert run_zoo("verify", "./weights", "--level", "weights")[0] == 1
    Path("weights/SHA256SUMS").write_text("nonsense")
    with pytest.raises(WeightsError, match="is no line of digests"):
        zoo.load("./weights")
