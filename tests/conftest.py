"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import logging
import sys
import tempfile
import time
import types
from pathlib import Path

import pytest
from support.forkserver import fork_server
from support.hub_server import HubServer
from support.second_catalog import second_catalog
from support.stores import S3Server, forget_credentials

from connectomics_zoo.cli.main import main


def pytest_collection_finish():
    """Let the search for garbage leave out what was imported, and come less often: it took a tenth of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(scope="session")
def forked_python():
    """Give the words that stand for `python` in a command, where what the engine needs is imported already."""
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder, fork_server(Path(folder)) as words:
        yield words


@pytest.fixture(scope="session")
def s3_server():
    """Give a server of S3 on loopback."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server, tmp_path, monkeypatch):
    """Give the name of a new bucket, which the environment leads to."""
    forget_credentials(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    return s3_server.new_bucket()


@pytest.fixture
def run_zoo(monkeypatch, capsys):
    """Run `zoo` with arguments as the shell would, and return exit code, stdout and stderr."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["zoo", *map(str, args)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture
def add_spec(tmp_path):
    """Install the catalogue `other` and give the function that adds a spec file to it."""
    with second_catalog(tmp_path / "other_zoo") as add:
        yield add


@pytest.fixture
def hub_server():
    """A Hub of its own on loopback, with nothing in it."""
    with HubServer() as server:
        yield server


@pytest.fixture
def hub_env(hub_server, tmp_path, monkeypatch):
    """Let the client in this process talk to `hub_server`, with an empty cache and the token that may write."""
    import huggingface_hub
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    home = tmp_path / "hf-home"
    settings = {
        "ENDPOINT": hub_server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub_server.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    for name, value in hub_server.environment(home, token="hf_right").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("connectomics_zoo.hub.patience._WAITS", (0, 0, 0))
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    impatient = types.SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", impatient)
    return home
