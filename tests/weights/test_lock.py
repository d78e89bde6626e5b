"""The lock file of a project: what it takes, what it refuses, that it is written whole, and that upgrades leave it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.networks import gains

import zoo
from connectomics_zoo import catalog
from connectomics_zoo.errors import OutputError, SpecError, WeightsError
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema.weights_lock import WeightsLock
from connectomics_zoo.specs import releases
from connectomics_zoo.weights.lock_file import locked, read_weights_lock, write_weights_lock
from connectomics_zoo.weights.pretrained import find_pretrained

WEIGHTS = "mednext-S.vnc-mito"

FILE = {"file": "model.safetensors", "size": 12, "sha256": "ab" * 32, "network": "sha256:" + "cd" * 32}
HUB = {"source": "hub", "repo": "org/name", "revision": "0" * 40, **FILE}
PACKAGE = {"source": "package", **FILE}


def lock_of(**weights):
    return WeightsLock.model_validate({"lock_version": 1, "weights": weights}).weights


def test_a_lock_is_what_was_written_and_is_sorted(tmp_path):
    path = tmp_path / "zoo.lock"
    lock = lock_of(**{"hf://org/name": HUB, "a@1.0.0.mito": PACKAGE})
    write_weights_lock(lock, path)
    assert read_weights_lock(path).weights == lock
    assert list(read_weights_lock(path).weights) == ["a@1.0.0.mito", "hf://org/name"]
    assert locked(read_weights_lock(path), "hf://org/name") == lock["hf://org/name"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["zoo.lock"]


def test_weights_that_are_not_in_the_lock_are_refused_with_the_nearest(tmp_path):
    path = tmp_path / "zoo.lock"
    write_weights_lock(lock_of(**{"mednext-S@1.0.0.mito": PACKAGE}), path)
    with pytest.raises(
        WeightsError, match=r"not in .*zoo\.lock, so not loaded.*did you mean 'mednext-S@1\.0\.0\.mito'"
    ):
        locked(read_weights_lock(path), "mednext-S@1.1.0.mito")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lock_version: 3\nweights: {}", "lock_version"),
        ("weights: {}", "lock_version"),
        ("lock_version: 1\nweights: {a: {source: hub, file: m.safetensors, size: 1, sha256: abc}}", "sha256"),
        (f"lock_version: 1\nweights: {{a: {{source: hub, file: m.safetensors, size: 1, sha256: {'a' * 64}, "
         f"network: 'sha256:{'a' * 64}'}}}}", "repo"),
        (f"lock_version: 1\nweights: {{a: {{source: package, file: ../m.safetensors, size: 1, sha256: {'a' * 64}}}}}",
         "file"),
        ("- 1", "a spec is a mapping"),
        ("lock_version: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_lock_that_is_none_is_refused(tmp_path, text, message):
    path = tmp_path / "zoo.lock"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        read_weights_lock(path)


def test_a_lock_that_is_missing_says_how_to_write_one(tmp_path):
    with pytest.raises(SpecError, match=r"there is no such lock file, write one with zoo lock"):
        read_weights_lock(tmp_path / "zoo.lock")


def test_a_lock_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(OutputError, match=r"cannot be written \(No such file or directory\)"):
        write_weights_lock(lock_of(), tmp_path / "none" / "zoo.lock")


# Upgrades


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def old_lock(here):
    """A lock file as 0.1.0 wrote it: lock version 1, with a digest over recipe and measurements, too."""
    shutil.copy(Path(__file__).parent.parent / "support" / "data" / "zoo-0.1.0.lock", "zoo.lock")


@pytest.fixture
def new_lock(here, run_zoo):
    assert run_zoo("lock", WEIGHTS)[0] == 0
    document = read_yaml(Path("zoo.lock"))
    assert document["lock_version"] == 2
    assert document["weights"]["mednext-S@1.0.0.vnc-mito"]["network"]["arch"]["residual"] is True


GAINED = {
    "nothing": {},
    "the recipe": {"training": {"momentum": (float, 0.9)}},
    "the builder": {"arch": {"stem_kernel": (int, 1)}},
    "both": {"training": {"momentum": (float, 0.9)}, "arch": {"stem_kernel": (int, 1)}},
}


@pytest.mark.parametrize("lock", ["old_lock", "new_lock"])
@pytest.mark.parametrize("what", GAINED)
def test_a_lock_holds_when_a_default_is_added(lock, what, request, monkeypatch, run_zoo):
    request.getfixturevalue(lock)
    gains(monkeypatch, **GAINED[what])
    assert find_pretrained(WEIGHTS, frozen=True).name == "mednext-S@1.0.0.vnc-mito"
    code, _, err = run_zoo("lock", "--check")
    assert code == 0, err


def test_an_older_lock_is_loaded_from(old_lock):
    assert zoo.load(WEIGHTS, frozen=True).load_report.reinitialised == ()


@pytest.mark.parametrize(
    ("lock", "reason"),
    [
        ("old_lock", r"\(or another recipe: the lock is of 0\.1\.0, whose digest covers both\)"),
        ("new_lock", r"\(arch\.residual is False, and was True\)"),
    ],
    ids=["old", "new"],
)
def test_a_lock_refuses_another_network(lock, reason, request, monkeypatch, run_zoo):
    """The tensors of a network without residuals are the same ones."""
    request.getfixturevalue(lock)
    gains(monkeypatch, arch={"residual": (bool, False)})
    with pytest.raises(WeightsError, match=rf"the spec declares another network than zoo\.lock has {reason}, so"):
        find_pretrained(WEIGHTS, frozen=True)
    code, _, err = run_zoo("lock", "--check")
    assert (code, "mednext-S@1.0.0.vnc-mito" in err) == (1, True)


@pytest.mark.parametrize("lock", ["old_lock", "new_lock"])
def test_a_field_that_the_builder_gained_counts_where_it_is_used(lock, request, monkeypatch):
    request.getfixturevalue(lock)
    gains(monkeypatch, arch={"stem_kernel": (int, 1)})
    changed = releases.find_released("mednext-S@1.0.0")
    path = find_pretrained(WEIGHTS).path
    document = read_yaml(catalog.find("model", "mednext-S").path) | {"arch": changed["arch"] | {"stem_kernel": 3}}
    monkeypatch.setattr("connectomics_zoo.specs.lookup.read_yaml", lambda _: document)
    assert find_pretrained(WEIGHTS).path == path
    with pytest.raises(WeightsError, match="another network"):
        find_pretrained(WEIGHTS, frozen=True)


def test_another_recipe_is_no_other_network(new_lock, monkeypatch):
    document = read_yaml(catalog.find("model", "mednext-S").path)
    document["training"]["learning_rate"] = 0.5
    document["expect"] = None
    monkeypatch.setattr("connectomics_zoo.specs.lookup.read_yaml", lambda _: document)
    assert find_pretrained(WEIGHTS, frozen=True)


def test_what_is_added_to_an_older_lock_leaves_the_rest_of_it(old_lock, run_zoo):
    before = read_yaml(Path("zoo.lock"))["weights"]
    assert run_zoo("lock", WEIGHTS)[0] == 0
    after = read_yaml(Path("zoo.lock"))["weights"]
    assert after.keys() == before.keys()
    assert after["mednext-S@1.0.0.vnc-membrane"] == before["mednext-S@1.0.0.vnc-membrane"]
    assert after["mednext-S@1.0.0.vnc-mito"]["network"] != before["mednext-S@1.0.0.vnc-mito"]["network"]
    assert find_pretrained("mednext-S.vnc-membrane", frozen=True)
    assert find_pretrained(WEIGHTS, frozen=True)


def test_an_older_lock_is_written_anew_without_news(old_lock, run_zoo):
    _, _, err = run_zoo("lock")
    assert "2 weights, 0 changed" in err
    assert read_yaml(Path("zoo.lock"))["lock_version"] == 2
