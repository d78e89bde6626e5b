"""What the client, its Xet transfer and the system raise, in one sentence; names of repositories; progress bars."""

from __future__ import annotations

import errno
import os

import jsonschema
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from pydantic import TypeAdapter, ValidationError
from support.hub_fetch import CONTENT, FILE, LIMIT, get, start_fetch

from connectomics_zoo.errors import HubError, UnknownNameError
from connectomics_zoo.hub import HubReference, bars_on_terminals_only, explained, fetch, fetch_spec
from connectomics_zoo.schema.base import RepoId
from connectomics_zoo.specs.reference import parse_reference


@pytest.fixture
def revision(hub_server, hub_env):
    return hub_server.add_repo("org/name", {FILE: CONTENT})


RAISED = {
    "xet without network": (
        RuntimeError("CAS Client Error: Request middleware error: error sending request for url (http://x)\nmore"),
        r"the transfer failed \(CAS Client Error: .* for url \(http://x\)\): check the network, and try again\.$",
    ),
    "xet on a full disk": (
        RuntimeError("Task error: IO Error: No space left on device (os error 28)"),
        r"the disk is full: free some space",
    ),
    "xet on a full disk, in words": (OSError("write: No space left on device"), r"the disk is full: free some space"),
    "xet over a quota": (RuntimeError("Disk quota exceeded (os error 122)"), r"the disk is full"),
    "xet in a closed folder": (
        RuntimeError("Permission denied (os error 13)"),
        r"does not let us read or write \(Permission denied \(os error 13\)\): change the rights of that place",
    ),
    "xet without a word": (RuntimeError(), r"the transfer failed \(RuntimeError\)"),
    "another error of the system": (OSError(errno.EIO, "Input/output error"), r"the transfer failed \(\[Errno 5\]"),
    "a name": (HFValidationError("Repo_id cannot end by '.git'."), r"refuses this name \(Repo_id .*git'\): check it"),
}


@pytest.mark.parametrize("name", RAISED)
def test_what_the_client_raises_is_one_sentence(name):
    error, message = RAISED[name]
    with pytest.raises(HubError, match=message) as found, explained("hf://org/name"):
        raise error
    assert str(found.value).startswith("hf://org/name: ")
    assert "\n" not in str(found.value)


def test_why_a_file_is_not_in_the_cache_is_what_is_said():
    missing = LocalEntryNotFoundError("not found locally, and the Hub cannot be asked")
    with (
        pytest.raises(HubError, match=r"^x: not in the cache: pull it \(zoo pull\) where there is network\.$"),
        explained("x"),
    ):
        raise missing
    missing.__cause__ = ConnectionError("refused")
    with pytest.raises(HubError, match=r"^x: no answer from http.* \(refused\): check the network"), explained("x"):
        raise missing


@pytest.mark.parametrize(
    "error", [NotImplementedError("x"), RecursionError("x"), TypeError("x"), KeyError("x"), HubError("ours: x.")]
)
def test_what_is_wrong_with_a_program_is_raised_as_it_is(error):
    with pytest.raises(type(error)) as found, explained("hf://org/name"):
        raise error
    assert found.value is error


def test_a_xet_transfer_without_network_is_one_sentence(hub_server, revision, tmp_path):
    pytest.importorskip("hf_xet", reason="the client's Xet transfer is not installed")
    hub_server.xet = "http://127.0.0.1:9"
    retries = {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1", "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms"}
    process = start_fetch(hub_server, revision, tmp_path / "home", HF_HUB_DISABLE_XET="0", **retries)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("connectomics_zoo.errors.HubError: hf://org/name@")
    # With older clients the transfer raises an error of its own for the network.
    assert "the transfer failed (" in err.splitlines()[-1] or "no answer from http" in err.splitlines()[-1]
    assert hub_server.count("xet-read-token") == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_cache_that_cannot_be_written_is_one_sentence(revision, monkeypatch, number):
    def closed(path, *args, **options):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "mkdir", closed)
    with pytest.raises(
        HubError,
        match=r"does not let us read or write \(.*hf-home.*\): change the rights .* move the cache \(HF_HOME\)",
    ):
        get(revision)


def test_a_file_in_the_cache_that_cannot_be_read_is_one_sentence(revision, monkeypatch):
    get(revision)

    def closed(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("connectomics_zoo.hub.download.file_sha256", closed)
    with pytest.raises(HubError, match=r"does not let us read or write \(.*Permission denied"):
        get(revision)


# Names of repositories

NAMES = {
    "org/name": True,
    "org/x.y_z-1": True,
    "o/" + "a" * 96: True,
    "a" * 96 + "/n": True,
    "org/git": True,
    "org/x.gits": True,
    "org.git/x": True,
    "org/x.git": False,
    "org/a.b.git": False,
    "o/" + "a" * 97: False,
    "a" * 97 + "/n": False,
    "o/" + "a-" * 60 + "a": False,
    "org/a--b": False,
    "org/a..b": False,
    "org/-a": False,
    "org/a-": False,
    "org/a.": False,
    "org/é": False,
    "org/a b": False,
    "org/a/b": False,
    "org/": False,
    "org/name\n": False,
    "name": False,
}


def is_taken(check, name):
    try:
        check(name)
    except (HFValidationError, ValidationError, jsonschema.ValidationError):
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_a_repository_is_one_that_the_client_takes(name):
    adapter = TypeAdapter(RepoId)
    assert is_taken(adapter.validate_python, name) == NAMES[name]
    assert is_taken(validate_repo_id, name) or not NAMES[name]
    if not name.endswith("\n"):  # before which a `$` of Python's, with which this checks a schema, matches too
        assert is_taken(lambda value: jsonschema.validate(value, adapter.json_schema()), name) == NAMES[name]


def test_a_repository_whose_name_ends_in_git_is_no_reference():
    with pytest.raises(UnknownNameError, match=r"'hf://org/x\.git@a{40}' is no reference to the Hub"):
        parse_reference(f"hf://org/x.git@{'a' * 40}")
    with pytest.raises(ValidationError, match=r"must not end in \.git, nor have a part of more than 96 characters"):
        TypeAdapter(RepoId).validate_python("org/x.git")


def test_a_name_that_the_client_refuses_is_one_sentence(hub_env):
    with pytest.raises(HubError, match=r"the client refuses this name \(Repo_id cannot end by"):
        fetch("org/x.git", "a" * 40, FILE, max_bytes=LIMIT)
    with pytest.raises(HubError, match=r"the client refuses this name \(Repo_id cannot end by"):
        fetch_spec(HubReference("org/x.git", "a" * 40, None))


# Progress bars


def test_without_a_terminal_an_upload_has_no_progress_bars(revision, capsys, tmp_path):
    def upload(content):
        (tmp_path / FILE).write_bytes(content)
        HfApi().create_commit("org/name", [CommitOperationAdd(FILE, tmp_path / FILE)], commit_message="a file")
        return capsys.readouterr().err

    assert "%" in upload(CONTENT + b"1")
    with bars_on_terminals_only():
        assert upload(CONTENT + b"2") == ""
    assert "%" in upload(CONTENT + b"3")
