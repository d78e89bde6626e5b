"""The lock file of a project: what it takes, what it refuses, and that it is written whole."""

from __future__ import annotations

import pytest

from connectomics_zoo.errors import OutputError, SpecError, WeightsError
from connectomics_zoo.schema.weights_lock import WeightsLock
from connectomics_zoo.weights.lock_file import locked, read_weights_lock, write_weights_lock

FILE = {"file": "model.safetensors", "size": 12, "sha256": "ab" * 32, "network": "sha256:" + "cd" * 32}
HUB = {"source": "hub", "repo": "org/name", "revision": "0" * 40, **FILE}
PACKAGE = {"source": "package", **FILE}


def lock_of(**weights):
    return WeightsLock.model_validate({"lock_version": 1, "weights": weights})


def test_a_lock_is_what_was_written_and_is_sorted(tmp_path):
    path = tmp_path / "zoo.lock"
    lock = lock_of(**{"hf://org/name": HUB, "a@1.0.0.mito": PACKAGE})
    write_weights_lock(lock, path)
    assert read_weights_lock(path) == lock
    assert list(read_weights_lock(path).weights) == ["a@1.0.0.mito", "hf://org/name"]
    assert locked(path, "hf://org/name") == lock.weights["hf://org/name"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["zoo.lock"]


def test_weights_that_are_not_in_the_lock_are_refused_with_the_nearest(tmp_path):
    path = tmp_path / "zoo.lock"
    write_weights_lock(lock_of(**{"mednext-S@1.0.0.mito": PACKAGE}), path)
    with pytest.raises(
        WeightsError, match=r"not in .*zoo\.lock, so not loaded.*did you mean 'mednext-S@1\.0\.0\.mito'"
    ):
        locked(path, "mednext-S@1.1.0.mito")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lock_version: 2\nweights: {}", "lock_version"),
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
