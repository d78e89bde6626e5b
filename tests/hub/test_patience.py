"""A busy Hub: how often it is asked, how long it is waited for, and what eight loads at once make of one failure."""

from __future__ import annotations

import re
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub.utils
import pytest
from huggingface_hub import HfApi, get_session
from huggingface_hub.errors import HfHubHTTPError
from support.hub_fetch import CONTENT, FILE, LIMIT, get, start_fetch

from connectomics_zoo.errors import HubError
from connectomics_zoo.hub import fetch, find_commit

GET_FILE = "GET /cdn/"


@pytest.fixture
def revision(hub_server, hub_env):
    return hub_server.add_repo("org/name", {FILE: CONTENT})


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited, none of which pass."""
    seconds = []
    monkeypatch.setattr("connectomics_zoo.hub.patience.time", types.SimpleNamespace(sleep=seconds.append))
    monkeypatch.setattr("connectomics_zoo.hub.patience._WAITS", (1, 2, 4))
    return seconds


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_a_fault_in_a_download_is_asked_for_again_ever_later(hub_server, revision, waits, status):
    hub_server.fail(GET_FILE, status=status, times=3)
    assert get(revision).read_bytes() == CONTENT
    assert waits == [1, 2, 4]


def test_a_fault_that_stays_is_one_sentence_after_four_times(hub_server, revision, waits):
    hub_server.fail(GET_FILE, status=502, times=99)
    sentence = r"fault of its own \(status 502, asked 4 times in 7 s; a load waits 30 s at most\): try again later\.$"
    with pytest.raises(HubError, match=sentence):
        get(revision)
    assert (waits, hub_server.count(GET_FILE)) == ([1, 2, 4], 4)


LIMITS = {
    "Retry-After": {"Retry-After": "9"},
    "ratelimit": {"ratelimit": '"api";r=0;t=9'},
}


@pytest.mark.parametrize("header", LIMITS)
@pytest.mark.parametrize("where", ["HEAD .*resolve", GET_FILE, "GET /api/models"])
def test_what_the_hub_asks_for_is_waited_once(hub_server, revision, waits, where, header):
    ask = (lambda: find_commit("org/name", "main")) if where == "GET /api/models" else (lambda: get(revision))
    hub_server.fail(where, status=429, headers=LIMITS[header], times=1)
    ask()
    assert waits == [9]


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {"ratelimit": '"api";r=7;t=9', "Retry-After": "5"}, 5),
        (503, {"ratelimit": '"api";r=0;t=9'}, 1),
        (503, {"ratelimit": '"api";r=0;t=9', "Retry-After": "5"}, 5),
    ],
)
def test_limits_that_are_not_the_reason_are_not_waited_for(hub_server, revision, waits, status, headers, seconds):
    hub_server.fail(GET_FILE, status=status, headers=headers, times=1)
    get(revision)
    assert waits == [seconds]


@pytest.mark.parametrize("where", ["HEAD .*resolve", GET_FILE, "GET /api/models"])
def test_a_hub_that_stays_busy_is_not_waited_for_again(hub_server, revision, waits, where):
    ask = (lambda: find_commit("org/name", "main")) if where == "GET /api/models" else (lambda: get(revision))
    hub_server.fail(where, status=429, headers={"Retry-After": "9"}, times=99)
    with pytest.raises(HubError, match=r"asked 2 times in 9 s; a load waits 30 s at most\): try again in 9 s\.$"):
        ask()
    assert (waits, hub_server.count(where)) == ([9], 2)


def test_all_waits_of_a_load_together_have_a_limit(hub_server, revision, waits):
    hub_server.fail("HEAD .*resolve", status=503, headers={"Retry-After": "20"}, times=1)
    hub_server.fail(GET_FILE, status=503, headers={"Retry-After": "11"}, times=99)
    with pytest.raises(HubError, match=r"status 503, asked once; a load waits 30 s at most"):
        get(revision)
    assert waits == [20]


@pytest.mark.parametrize("told", ["Wed, 21 Oct 2026 07:28:00 GMT", "-5", "", "٣"])
def test_a_time_that_is_no_number_is_no_time(hub_server, revision, waits, told):
    hub_server.fail(GET_FILE, status=429, headers={"Retry-After": told.encode().decode("latin-1")}, times=1)
    assert get(revision).read_bytes() == CONTENT
    assert waits == [1]


def test_what_others_ask_the_client_has_the_clients_own_patience(hub_server, revision, waits):
    assert get(revision).read_bytes() == CONTENT
    url = f"{hub_server.address}/org/name/resolve/{revision}/{FILE}"
    hub_server.fail("HEAD .*resolve", status=503, times=1)
    assert get_session().head(url).status_code == 503  # the hook is there, and raises for our questions alone
    hub_server.fail("GET /api/models", status=404, times=1)
    with pytest.raises(HfHubHTTPError):
        HfApi().model_info("org/name")


@pytest.fixture
def all_wait(monkeypatch):
    """Let the first of `count` loads sleep until the others wait for it, whatever the machine does."""

    def arrange(count):
        arrived = threading.Semaphore(0)
        lock = huggingface_hub.utils.WeakFileLock

        def counted(path, **options):
            arrived.release()
            return lock(path, **options)

        def sleep(seconds):
            waits.append(seconds)
            for _ in range(count):
                assert arrived.acquire(timeout=60)

        waits = []
        monkeypatch.setattr(huggingface_hub.utils, "WeakFileLock", counted)
        monkeypatch.setattr("connectomics_zoo.hub.patience.time", types.SimpleNamespace(sleep=sleep))
        return waits

    return arrange


def outcome(load):
    try:
        return len(load().read_bytes())
    except HubError as error:
        return str(error)


def test_eight_threads_under_a_busy_hub_wait_once_and_share_its_answer(hub_server, revision, all_wait):
    waits = all_wait(8)
    hub_server.fail(GET_FILE, status=429, headers={"Retry-After": "20"}, times=2)
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(outcome, [lambda: get(revision)] * 8))
    assert (waits, hub_server.count(GET_FILE)) == ([20], 2)
    first, second = sorted(set(told), key=len)
    assert told.count(first) == 1
    answer = "the Hub answers no more requests for now (status 429, asked 2 times in 20 s; a load waits 30 s at most)"
    assert re.fullmatch(rf"hf://org/name@{revision}/{FILE}: {re.escape(answer)}: try again in 20 s\.", first)
    assert second == first.replace(FILE + ": ", FILE + ": the load that this one waited for failed: ")
    assert get(revision).read_bytes() == CONTENT  # what begins later asks anew


def test_eight_threads_share_a_download_that_came_after_a_wait(hub_server, revision, all_wait):
    waits = all_wait(8)
    hub_server.fail(GET_FILE, status=429, headers={"Retry-After": "20"}, times=1)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, [lambda: get(revision)] * 8)) == [len(CONTENT)] * 8
    assert (waits, hub_server.count(GET_FILE)) == ([20], 2)


EIGHT_UNDER_429 = f"""
import os, sys, time, types
import huggingface_hub.file_download
import huggingface_hub.utils
from connectomics_zoo.errors import HubError
from connectomics_zoo.hub import fetch, patience

arrivals = os.path.join(os.environ["HF_HOME"], "arrivals")
lock = huggingface_hub.utils.WeakFileLock

def counted(path, **options):
    with open(arrivals, "ab", buffering=0) as file:
        file.write(b".")
    return lock(path, **options)

def sleep(seconds):
    os.write(1, b"waits %d\\n" % seconds)
    deadline = time.monotonic() + 60
    while os.path.getsize(arrivals) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)

huggingface_hub.utils.WeakFileLock = counted
patience.time = types.SimpleNamespace(sleep=sleep)
os.makedirs(os.environ["HF_HOME"], exist_ok=True)
children = []
for _ in range(8):
    children.append(os.fork())
    if children[-1] == 0:
        try:
            fetch("org/name", sys.argv[1], "{FILE}", max_bytes={LIMIT})
        except HubError as error:
            os.write(1, b"%s\\n" % str(error).encode())
            os._exit(0)
        os._exit(1)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_eight_processes_under_a_busy_hub_wait_once_and_share_its_answer(hub_server, revision, tmp_path):
    hub_server.fail(GET_FILE, status=429, headers={"Retry-After": "20"}, times=99)
    process = start_fetch(hub_server, revision, tmp_path / "shared", code=EIGHT_UNDER_429)
    out, err = process.communicate(timeout=120)
    lines = out.splitlines()
    assert (process.returncode, err) == (0, "")
    assert (lines.count("waits 20"), len(lines), hub_server.count(GET_FILE)) == (1, 9, 2)
    assert sum("the load that this one waited for failed: the Hub answers no more" in line for line in lines) == 7


def test_a_failure_of_the_past_is_nobodys(hub_server, revision, hub_env, waits):
    hub_server.fail(GET_FILE, status=500, times=4)
    with pytest.raises(HubError, match=r"a fault of its own"):
        get(revision)
    (note,) = hub_env.rglob("*.failed")
    assert get(revision).read_bytes() == CONTENT
    assert not note.exists()


def test_a_cache_that_cannot_keep_the_failure_tells_it_all_the_same(hub_server, revision, waits, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("connectomics_zoo.hub.turns.write_text", full)
    hub_server.fail(GET_FILE, status=500, times=4)
    with pytest.raises(HubError, match=r"a fault of its own"):
        fetch("org/name", revision, FILE, max_bytes=LIMIT)
