"""The package that `zoo new --package` writes, installed by pip: every verb knows it, and it keeps every promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.announced import announce_own
from support.forkserver import SETTINGS
from support.paths import REPOSITORY

from connectomics_zoo.authoring.package import write_package
from connectomics_zoo.files.yaml import read_yaml

ZOO = "from connectomics_zoo.cli.main import main; main()"

PYTEST = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"


class Installed:
    """The example, as whoever has installed it sees it."""

    def __init__(self, folder: Path, python: list[str]) -> None:
        self.folder, self.site, self.work = folder / "acme-zoo", folder / "site", folder / "work"
        self._python = python
        self.work.mkdir()

    def run(self, code, *args, folder=None, **environment):
        """Run Python code with arguments, and return exit code, stdout and stderr."""
        path = os.pathsep.join([str(self.site), str(REPOSITORY)])
        done = subprocess.run(
            [*self._python, "-c", code, *map(str, args)],
            cwd=folder or self.work,
            env={**os.environ, **SETTINGS, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def zoo(self, *args, **environment):
        """Run `zoo`, which must succeed, and return what it printed on stdout."""
        code, out, err = self.run(ZOO, *args, **environment)
        assert code == 0, err
        return out


@pytest.fixture(scope="module")
def acme(tmp_path_factory, forked_python):
    folder = tmp_path_factory.mktemp("acme")
    write_package("acme", folder / "acme-zoo")
    installed = Installed(folder, forked_python)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--no-compile", "--disable-pip-version-check", "--target", str(installed.site), "./acme-zoo"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    announce_own(installed.site)
    return installed


@pytest.fixture(scope="module")
def trained(acme):
    """A run of the example's experiment, and the volume that it was trained on."""
    acme.zoo("phantom", "phantom.h5", "--shape", "64,32,32")
    small = ["max_steps=2", "validate_every=2", "batch_size=1", "patch_size=[8,8,8]"]
    acme.zoo("train", "acme-phantom", "data.root=.", *(f"training.{item}" for item in small), "--output", "run")
    return acme.work / "run"


def test_it_is_listed_with_its_version_and_nothing_is_wrong(acme):
    (row,) = json.loads(acme.zoo("list", "acme", "--kind", "catalog", "--json"))
    assert (row["owner"], row["problems"]) == ("acme-zoo 0.1.0", [])
    assert (row["models"], row["tasks"], row["experiments"], row["builders"]) == (1, 1, 1, ["acme_net"])
    assert [model["name"] for model in json.loads(acme.zoo("list", "acme:*", "--json"))] == ["acme-net"]


def test_it_is_recorded_already_and_verified(acme):
    code, out, err = acme.run(ZOO, "record", "acme:*", "--check")
    assert (code, out) == (0, ""), err
    report = json.loads(acme.zoo("verify", "acme:*", "--level", "build", "--json"))
    assert report["passed"]
    assert len(report["models"]) == 1


def test_pytest_in_its_folder_runs_every_check_and_its_own_test(acme):
    code, out, err = acme.run(PYTEST, "-q", "-rA", "-p", "no:cacheprovider", "-p", "no:xdist", folder=acme.folder)
    assert code == 0, out + err
    passed = {line.removeprefix("PASSED ") for line in out.splitlines() if line.startswith("PASSED ")}
    own = {name for name in passed if name.startswith("tests/test_network.py")}
    assert len(own) == 1
    checks = {name.removeprefix("zoo:acme::acme-net::") for name in passed if name.startswith("zoo:acme::acme-net::")}
    assert {"schema", "lock", "name", "licence-and-citation", "counts", "fingerprint", "probe", "gradients"} <= checks
    assert {"legal-sizes", "illegal-sizes", "deep-supervision", "evaluation", "safetensors", "determinism"} <= checks
    assert {
        "zoo:acme::catalogue::files",
        "zoo:acme::builder:acme_net::imports-without-torch",
        "zoo:acme::task:acme-membrane::schema",
        "zoo:acme::experiment:acme-phantom::schema",
    } <= passed


def test_its_network_trains_predicts_and_is_given_away(acme, trained):
    acme.zoo("predict", "run", "phantom.h5:raw", "prediction.h5", "--region", "z=0:8")
    assert (acme.work / "prediction.h5").is_file()
    spec = acme.site / "acme_zoo" / "specs" / "models" / "acme" / "acme-net.yaml"
    before = spec.read_text()
    words = ["--license", "CC0-1.0", "--attribution", "Made up by zoo phantom.", "--name", "first"]
    try:
        acme.zoo("push", "run", spec, *words)
        assert list(read_yaml(spec)["weights"]) == ["first"]
        assert json.loads(acme.zoo("list", "--kind", "weights", "acme-net*", "--json"))[0]["task"] == "acme-membrane"
        code = "import zoo; print(zoo.load('acme:acme-net.first').load_report.summary())"
        status, out, err = acme.run(code)
        assert status == 0, err
        assert " exact" in out
    finally:
        spec.write_text(before)


def test_it_is_shown_changed_and_compared_as_any_other(acme):
    assert "AcmeNet" in acme.zoo("show", "acme:acme-net")
    assert "100" in acme.zoo("show", "acme-phantom")
    acme.zoo("new", "acme-tiny", "--from", "acme-net", "arch.width=2")
    assert "arch.width" in acme.zoo("diff", "acme-net", "acme-tiny.yaml")


def test_the_folder_alone_is_a_catalogue_by_zoo_path(acme, tmp_path):
    folder = acme.folder / "acme_zoo"
    code, out, err = acme.run(
        ZOO, "verify", "acme_zoo:*", "--level", "build", PYTHONPATH=str(REPOSITORY), ZOO_PATH=str(folder)
    )
    assert code == 0, err
    assert out.rstrip().endswith("passed")


def test_the_example_is_clean_code_and_its_name_is_gone_under_another(tmp_path):
    write_package("my_lab", tmp_path / "made")
    texts = {path: path.read_text() for path in (tmp_path / "made").rglob("*") if path.is_file()}
    assert len(texts) >= 15
    assert not [path for path, text in texts.items() if "acme" in f"{path}{text}".lower()]
    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        ".github",
        ".gitignore",
        "README.md",
        "my_lab_zoo",
        "pyproject.toml",
        "tests",
    }
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--line-length", "120", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--package", "Acme"], "'Acme' is no legal name for a catalogue with a package, write a small letter"),
        (["--package", "zoo"], "there is a catalogue 'zoo' already, of the package 'connectomics-zoo"),
        (["--package", "acme", "there"], "there: exists already, choose another name or overwrite it"),
        (["--package", "acme", "--from", "mednext-S"], "--package takes a folder alone: leave --from, --output and"),
        (["mine"], "Missing option '--from': give the model to start from."),
        ([], "Missing argument NAME: give the name of the new model, or --package CATALOGUE."),
    ],
)
def test_what_cannot_be_made_is_said_in_a_sentence(run_zoo, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    code, out, err = run_zoo("new", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
