"""The Hub through its real client: what comes is what was meant, or one sentence; drops, lies, kills and crowds."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download
from support.hub_fetch import CONTENT, EIGHT_FETCHES, FILE, LIMIT, get, start_fetch

from connectomics_zoo.errors import HubError, WeightsError
from connectomics_zoo.hub import HubReference, fetch_spec, fetch_weights, find_commit, pin, weights_name

DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def revision(hub_server, hub_env):
    return hub_server.add_repo("org/name", {FILE: CONTENT, "spec.yaml": b"a: 1\n", "README.md": b"#"})


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_file_comes_once_and_then_from_the_cache(hub_server, revision, monkeypatch):
    path = get(revision, sha256=DIGEST, size=len(CONTENT))
    assert path.read_bytes() == CONTENT
    before = len(hub_server.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert get(revision, sha256=DIGEST) == path == get(revision)
    assert len(hub_server.requests) == before


def test_a_file_without_a_declared_digest_is_checked_against_that_of_the_commit(hub_server, revision):
    assert get(revision).read_bytes() == CONTENT
    assert get(revision, file="spec.yaml").read_bytes() == b"a: 1\n"


@pytest.mark.parametrize("file", [FILE, "spec.yaml"])
def test_a_bit_that_flips_in_the_cache_is_found_and_mended(hub_server, revision, caplog, file):
    path = get(revision, file=file)
    right = path.read_bytes()
    blob = path.resolve()
    blob.write_bytes(bytes([right[0] ^ 1]) + right[1:])
    assert get(revision, file=file).read_bytes() == right
    assert "the file in the cache is damaged and is not used, the Hub is asked for it again" in caplog.text


def test_a_bit_that_flips_in_the_cache_is_an_error_without_network(revision, monkeypatch, caplog):
    path = get(revision)
    path.resolve().write_bytes(b"x" + CONTENT[1:])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"may not be asked \(HF_HUB_OFFLINE=1\)"):
        get(revision)


def test_a_copy_in_the_cache_that_nothing_can_check_is_downloaded_again(hub_server, revision):
    path = get(revision)
    path.unlink()
    path.write_bytes(b"no link, but a file")  # as on systems without links
    assert get(revision).read_bytes() == CONTENT


def test_wrong_bytes_are_asked_for_again(hub_server, revision):
    hub_server.fail("GET /cdn/", flip=True, times=1)
    assert get(revision).read_bytes() == CONTENT
    assert hub_server.count("GET /cdn/") == 2


def test_wrong_bytes_twice_are_an_error_and_leave_nothing(hub_server, revision, hub_env):
    hub_server.fail("GET /cdn/", flip=True, times=9)
    with pytest.raises(
        HubError, match=r"not the file that the commit has \(its digest differs, twice\): it was removed"
    ):
        get(revision)
    assert not [path for path in files_in(hub_env) if path.stat().st_size == len(CONTENT)]
    hub_server.faults.clear()
    assert get(revision).read_bytes() == CONTENT


def test_another_digest_or_size_than_the_declared_is_refused_before_the_download(hub_server, revision):
    with pytest.raises(HubError, match=r"its sha256 is .{12}…, but 000000000000… is declared"):
        get(revision, sha256="0" * 64)
    with pytest.raises(HubError, match=r"307200 bytes, but 5 are declared"):
        get(revision, size=5)
    with pytest.raises(HubError, match=r"307200 bytes, at most 1000 are expected here: it was not downloaded"):
        get(revision, max_bytes=1000)
    assert hub_server.count("GET") == 0


def test_a_file_whose_size_the_server_does_not_state_is_not_downloaded(hub_server, revision, monkeypatch):
    ask = huggingface_hub.get_hf_file_metadata
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: replace(ask(url), size=None))
    with pytest.raises(HubError, match=r"None bytes, at most 1000000 are expected here: it was not downloaded"):
        get(revision)
    assert hub_server.count("GET") == 0


def test_a_server_that_lies_about_the_digest_gets_nothing_in(hub_server, revision, hub_env):
    hub_server.fail("HEAD .*resolve", etag="1" * 64, times=9)
    with pytest.raises(HubError, match=r"digest differs, twice"):
        get(revision)
    assert not [path for path in files_in(hub_env) if path.stat().st_size == len(CONTENT)]


def test_a_server_that_answers_with_another_commit_is_refused(hub_server, revision):
    old = revision
    hub_server.add_repo("org/name", {FILE: b"new"})
    hub_server.repos["org/name"].tags[old] = hub_server.repos["org/name"].head.revision
    with pytest.raises(HubError, match=r"answers with the commit [0-9a-f]{40}, it is not to be trusted"):
        get(old)


def test_a_connection_that_drops_is_resumed_where_it_was(hub_server, revision, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub_server.fail("GET /cdn/", drop_after=100_000)
    assert get(revision, sha256=DIGEST).read_bytes() == CONTENT
    ranges = [request.range for request in hub_server.requests if request.path.startswith("/cdn/")]
    assert ranges == [None, "bytes=100000-"]


def test_a_connection_that_always_drops_is_one_sentence(hub_server, revision, hub_env):
    hub_server.fail("GET /cdn/", drop_after=0, times=99)
    with pytest.raises(HubError, match=r"no answer from http://127.* check the network"):
        get(revision)
    assert not [path for path in files_in(hub_env) if path.stat().st_size > 1000]


STATUS = {
    401: r"no such repository, or it is private and your token does not open it|the token is not valid",
    403: r"your token is not allowed to do this",
    404: r"there is no such",
    429: r"answers no more requests for now \(status 429, asked once; a load waits 30 s at most\): try again in 77 s",
    500: r"the Hub has a fault of its own \(status 500, asked once; a load waits 30 s at most\): try again later",
    503: r"the Hub has a fault of its own \(status 503, asked once; a load waits 30 s at most\): try again later",
}


@pytest.mark.parametrize("status", STATUS)
@pytest.mark.parametrize("where", ["HEAD .*resolve", "GET /cdn", "GET /api/models"])
def test_each_status_is_one_sentence(hub_server, revision, status, where):
    hub_server.fail(where, status=status, headers={"Retry-After": "77"}, times=99)
    asked = (lambda: find_commit("org/name", "main")) if where == "GET /api/models" else (lambda: get(revision))
    with pytest.raises(HubError, match=STATUS[status]) as error:
        asked()
    assert str(error.value).startswith("hf://org/name@")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("status", [429, 500])
def test_a_fault_that_passes_is_waited_for(hub_server, revision, status):
    hub_server.fail("HEAD .*resolve", status=status, headers={"Retry-After": "0"}, times=1)
    hub_server.fail("GET /cdn", status=429, headers={"Retry-After": "0"}, times=1)
    assert get(revision).read_bytes() == CONTENT


def test_what_does_not_exist_is_named(hub_server, revision):
    with pytest.raises(HubError, match=r"hf://org/none@.*there is no such repository, or it is private"):
        get(revision, repo="org/none")
    with pytest.raises(HubError, match=r"there is no such revision"):
        get("0" * 40)
    with pytest.raises(HubError, match=r"none\.safetensors: there is no such file at that revision"):
        get(revision, file="none.safetensors")


def test_a_private_repository_needs_the_right_token(hub_server, hub_env, monkeypatch):
    revision = hub_server.add_repo("org/secret", {FILE: CONTENT}, private=True)
    assert get(revision, repo="org/secret").read_bytes() == CONTENT
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub_env / "other"))
    with pytest.raises(HubError, match=r"private and your token does not open it: check the name, or log in"):
        get(revision, repo="org/secret")


def test_a_gated_repository_says_where_to_ask(hub_server, hub_env):
    revision = hub_server.add_repo("org/gated", {FILE: CONTENT}, gated=True)
    with pytest.raises(
        HubError, match=rf"access to this repository must be granted: ask for it at {hub_server.address}"
    ):
        get(revision, repo="org/gated")


def test_no_network_is_one_sentence(hub_server, revision, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(HubError, match=r"no answer from http://127\.0\.0\.1:1 \(.*\): check the network"):
        get(revision)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(hub_server, revision, hub_env, monkeypatch, number):
    def full(url, temp_file, **_):
        temp_file.write(CONTENT[:1000])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(HubError, match=r"the disk is full: free some space, or move the cache \(HF_HOME\)"):
        get(revision)
    assert not [path for path in files_in(hub_env) if path.stat().st_size == 1000]


def test_a_link_out_of_the_cache_is_refused(revision, tmp_path):
    path = get(revision)
    (tmp_path / "secret").write_bytes(CONTENT)
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(HubError, match=r"the cache has a link to .*secret, outside of it"):
        get(revision, sha256=DIGEST)


def test_a_link_out_of_the_cache_behind_one_that_stays_in_it_is_refused(revision, tmp_path):
    blob = first_link(get(revision))
    (tmp_path / "secret").write_bytes(CONTENT)
    blob.unlink()
    blob.symlink_to(tmp_path / "secret")
    with pytest.raises(HubError, match=r"the cache has a link to .*secret, outside of it"):
        get(revision)


def first_link(path):
    """What the file of a commit is a link to, which may be a link itself."""
    return Path(os.path.normpath(path.parent / path.readlink()))


@pytest.fixture
def shared(revision):
    """The file as the client keeps it after a Xet transfer: a link to a link into the store of all repositories."""
    store = pytest.importorskip("huggingface_hub.utils._shared_blobs", reason="this client has no shared store")
    path = get(revision)
    blob = first_link(path)
    assert store.publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash="ab" * 32, cache_dir=constants.HF_HUB_CACHE, expected_size=len(CONTENT)
    )
    assert path.resolve() == (Path(constants.HF_HUB_CACHE) / "blobs" / "ab" / ("ab" * 32)).resolve()
    return path


def test_a_file_in_the_store_that_all_repositories_share_is_right(hub_server, revision, shared, monkeypatch):
    assert get(revision) == shared
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert get(revision).read_bytes() == CONTENT
    assert hub_server.count("GET /cdn/") == 1


def test_a_bit_that_flips_in_the_store_that_all_repositories_share_is_found_and_mended(hub_server, revision, shared):
    stored = shared.resolve()
    stored.chmod(0o600)
    stored.write_bytes(b"x" + CONTENT[1:])
    assert get(revision).read_bytes() == CONTENT
    assert hub_server.count("GET /cdn/") == 2


def test_eight_processes_download_once_and_all_succeed(hub_server, revision, tmp_path):
    hub_server.fail("GET /cdn/", bytes_per_second=len(CONTENT), times=1)
    process = start_fetch(hub_server, revision, tmp_path / "shared", code=EIGHT_FETCHES)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out.split()) == (0, [str(len(CONTENT))] * 8), err
    assert hub_server.count("GET /cdn/") == 1


def test_eight_processes_mend_a_damaged_file_with_one_download(hub_server, revision, tmp_path):
    home = tmp_path / "shared"
    first = start_fetch(hub_server, revision, home)
    assert first.wait(timeout=60) == 0
    (path,) = (home / "hub").glob("models--*/snapshots/*/*")
    path.resolve().write_bytes(b"x" + CONTENT[1:])
    hub_server.fail("GET /cdn/", bytes_per_second=len(CONTENT) // 2, times=1)
    process = start_fetch(hub_server, revision, home, code=EIGHT_FETCHES)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out.split()) == (0, [str(len(CONTENT))] * 8), err
    assert hub_server.count("GET /cdn/") == 2
    assert path.read_bytes() == CONTENT


def test_a_kill_in_the_middle_leaves_nothing_that_is_trusted(hub_server, revision, tmp_path):
    home = tmp_path / "home"
    hub_server.fail("GET /cdn/", bytes_per_second=len(CONTENT) // 20, times=1)
    process = start_fetch(hub_server, revision, home)
    deadline = time.monotonic() + 60
    while not hub_server.count("GET /cdn/") and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not list((home / "hub").glob("models--*/snapshots/*/*"))
    again = start_fetch(hub_server, revision, home)
    out, err = again.communicate(timeout=60)
    assert (again.returncode, out.strip()) == (0, str(len(CONTENT))), err


def test_without_a_terminal_there_are_no_progress_bars(hub_server, revision, tmp_path):
    process = start_fetch(hub_server, revision, tmp_path / "home")
    _, err = process.communicate(timeout=60)
    assert err == ""


# Repositories


def reference(revision, file=None):
    return HubReference("org/name", revision, file)


def test_a_repository_has_a_spec_and_weights(revision):
    assert fetch_spec(reference(revision)).read_bytes() == b"a: 1\n"
    assert fetch_weights(reference(revision), max_bytes=LIMIT).read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["main", None, "v1"])
def test_what_moves_is_refused_with_the_commit_that_it_is_now(hub_server, revision, name):
    hub_server.repos["org/name"].tags["v1"] = revision
    moving = reference(name)
    with pytest.raises(
        HubError, match=rf"moves, and weights are pinned: write hf://org/name@{revision}, which it is now"
    ):
        fetch_weights(moving, max_bytes=LIMIT)
    assert pin(moving) == reference(revision)


def test_files_of_other_names_are_found_where_they_are_the_only_ones(hub_server, hub_env):
    revision = hub_server.add_repo("org/name", {"ema.safetensors": CONTENT, "net.yaml": b"b: 2\n", "a/b.yaml": b""})
    assert fetch_spec(reference(revision)).read_bytes() == b"b: 2\n"
    assert fetch_weights(reference(revision), max_bytes=LIMIT).read_bytes() == CONTENT


def test_files_of_other_names_are_found_again_without_network(hub_server, hub_env, monkeypatch):
    revision = hub_server.add_repo("org/name", {"ema.safetensors": CONTENT, "net.yaml": b"b: 2\n"})
    for _ in range(2):
        fetch_spec(reference(revision))
        fetch_weights(reference(revision), max_bytes=LIMIT)
        assert hub_server.count("GET /api/models") == 2  # a commit is asked for once a file, it never changes
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_spec(reference(revision)).read_bytes() == b"b: 2\n"
    assert fetch_weights(reference(revision), max_bytes=LIMIT).read_bytes() == CONTENT


def test_no_choice_is_kept_of_what_moves(hub_server, hub_env):
    hub_server.add_repo("org/name", {"ema.safetensors": CONTENT, "net.yaml": b"b: 2\n"})
    assert weights_name(reference("main")) == "ema.safetensors"
    assert not list(hub_env.rglob(f".zoo/*/{FILE}"))


@pytest.mark.parametrize("other", ["b.safetensors", FILE])
def test_the_only_weights_in_the_cache_are_not_taken_for_the_only_ones_there_are(
    hub_server, hub_env, monkeypatch, other
):
    revision = hub_server.add_repo("org/name", {"a.safetensors": CONTENT, other: CONTENT[:99], "spec.yaml": b""})
    fetch_weights(reference(revision, "a.safetensors"), max_bytes=LIMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"may not be asked \(HF_HUB_OFFLINE=1\)"):
        fetch_weights(reference(revision), max_bytes=LIMIT)


@pytest.mark.parametrize("text", ["", "../x.safetensors", "net.pt", "\xff", "none.safetensors.partial"])
def test_a_damaged_note_of_a_choice_is_no_choice(hub_server, hub_env, text):
    revision = hub_server.add_repo("org/name", {"ema.safetensors": CONTENT, "spec.yaml": b""})
    fetch_weights(reference(revision), max_bytes=LIMIT)
    (note,) = hub_env.rglob(f".zoo/{revision}/{FILE}")
    note.write_text(text, encoding="utf-8")
    assert fetch_weights(reference(revision), max_bytes=LIMIT).read_bytes() == CONTENT
    assert note.read_text() == "ema.safetensors"


def test_several_weights_must_be_told_apart(hub_server, hub_env):
    revision = hub_server.add_repo("org/name", {"a.safetensors": CONTENT, "b.safetensors": CONTENT[:99], "s.yaml": b""})
    with pytest.raises(
        WeightsError, match=r"several files that could be the weights file .*name one: .*/a\.safetensors"
    ):
        fetch_weights(reference(revision), max_bytes=LIMIT)
    assert fetch_weights(reference(revision, "b.safetensors"), max_bytes=LIMIT).read_bytes() == CONTENT[:99]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "net.pth", "last.ckpt"])
def test_pickles_are_refused_before_a_byte_of_them_is_asked_for(hub_server, hub_env, name):
    revision = hub_server.add_repo("org/name", {name: CONTENT, "spec.yaml": b"a: 1"})
    with pytest.raises(WeightsError, match=rf"{name} is a pickle, which can run code when it is read"):
        fetch_weights(reference(revision), max_bytes=LIMIT)
    with pytest.raises(WeightsError, match=r"only \.safetensors is loaded, a pickle can run code"):
        fetch_weights(reference(revision, name), max_bytes=LIMIT)
    assert hub_server.count("resolve") == 0


def test_a_repository_without_a_spec_is_refused(hub_server, hub_env):
    revision = hub_server.add_repo("org/name", {FILE: CONTENT})
    with pytest.raises(WeightsError, match=r"has no spec \(spec\.yaml\), only repositories with a spec and weights"):
        fetch_spec(reference(revision))


def test_a_spec_that_is_too_large_is_not_downloaded(hub_server, hub_env):
    revision = hub_server.add_repo("org/name", {"spec.yaml": b"a: 1\n" * 60_000})
    with pytest.raises(HubError, match=r"300000 bytes, at most 262144 are expected"):
        fetch_spec(reference(revision))
    assert hub_server.count("GET /cdn") == 0
