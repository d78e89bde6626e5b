"""What other repositories use of this one: the GitHub Action and the hooks of pre-commit, run as those would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.forkserver import SETTINGS
from support.paths import REPOSITORY
from support.tiny_spec import TINY

from connectomics_zoo.files.yaml import dump_yaml

ACTION = REPOSITORY / ".github" / "actions" / "verify" / "action.yml"
HOOKS = yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text())

ZOO = "from connectomics_zoo.cli.main import main; main()"

STUB = """#!/bin/sh
if [ "$1 $2" = "-m pip" ]; then shift 2; printf '%s|' "$@" >> pip.log; echo >> pip.log; exit 0; fi
exec {python} "$@"
"""
"""A `python` whose pip only writes down what it was asked for: installing needs a network."""


@pytest.fixture
def repository(tmp_path, monkeypatch, forked_python):
    """A repository with a folder of specs in `ZOO_PATH`, and commands as an action or a hook finds them."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "zoo").write_text(f'#!/bin/sh\nexec {shlex.join([*forked_python, "-c", ZOO])} "$@"\n')
    (programs / "python").write_text(STUB.format(python=shlex.quote(sys.executable)))
    for program in programs.iterdir():
        program.chmod(0o755)
    work = tmp_path / "work"
    folder = work / "mine" / "specs" / "models" / "mednext"
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text(dump_yaml(TINY))
    monkeypatch.chdir(work)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ZOO_PATH", "mine")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), os.environ["PATH"]]))
    return work


def inputs_of(action, **given):
    declared = {name: str(item.get("default", "")) for name, item in action["inputs"].items()}
    assert {name for name, item in action["inputs"].items() if item.get("required")} <= given.keys()
    assert given.keys() <= declared.keys()
    return declared | given


def is_due(step, inputs):
    """Whether a step runs, by the one form of condition that the action has."""
    if "if" not in step:
        return True
    name, how, value = re.fullmatch(r"inputs\.([\w-]+) (==|!=) '(.*)'", step["if"]).groups()
    return (inputs[name] == value) == (how == "==")


def run_step(step, inputs):
    """Run a step as GitHub does, which puts inputs into the values of `env`."""
    environment = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: inputs[match[1]], value)
        for name, value in step.get("env", {}).items()
    }
    assert not [value for value in environment.values() if "${{" in value]
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        env={**os.environ, "GITHUB_ACTION_PATH": str(ACTION.parent), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def run_action(**given):
    action = yaml.safe_load(ACTION.read_text())
    inputs = inputs_of(action, **given)
    done = [(step["name"], run_step(step, inputs)) for step in action["runs"]["steps"] if is_due(step, inputs)]
    return {name: (result.returncode, result.stdout + result.stderr) for name, result in done}


def test_the_action_is_composite_and_no_input_becomes_part_of_a_script():
    action = yaml.safe_load(ACTION.read_text())
    assert action["runs"]["using"] == "composite"
    steps = action["runs"]["steps"]
    assert len(steps) == 5
    assert {step["shell"] for step in steps} == {"bash"}
    assert not [step["name"] for step in steps if "${{" in step["run"]]
    assert all(item["description"] for item in action["inputs"].values())


def test_the_action_installs_its_own_zoo_and_verifies_what_it_is_told(repository):
    done = run_action(patterns="mednext-S\nmine:* tiny\n", level="schema", install=".[test]\n--no-deps")
    installs = (repository / "pip.log").read_text().splitlines()
    assert installs[0] == "install|torch|--index-url|https://download.pytorch.org/whl/cpu|"
    assert (Path(installs[1].split("|")[1]) / "pyproject.toml").samefile(REPOSITORY / "pyproject.toml")
    assert installs[2:] == ["install|.[test]|--no-deps|"]
    code, said = done["Verify"]
    assert code == 1  # nothing of this folder is locked yet
    assert "not in " in said
    assert "lock.json, add it with: zoo record tiny@1.0.0" in said
    assert 'classname="tiny"' in (repository / "zoo-verify.xml").read_text()
    code, said = done["Check that everything is recorded"]
    assert code == 1
    assert "tiny@1.0.0: released" in said


def test_what_is_not_wanted_of_the_action_does_not_run(repository):
    done = run_action(patterns="mednext-S", level="schema", install="", **{"torch-index": "", "record-check": "false"})
    assert {name: code for name, (code, _) in done.items()} == {
        "Install the connectomics-zoo that this action is part of": 0,
        "Verify": 0,
    }


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_fails_for_a_spec_that_is_not_recorded_and_takes_the_specs_of_catalogues_alone(repository, hook):
    assert hook["language"] == "system"
    files = ["mine/specs/models/mednext/tiny.yaml", "mine/specs/tasks/x.yaml", "README.md", "models/x.yaml"]
    chosen = [file for file in files if re.search(hook["files"], file)]
    assert chosen == files[:1]
    words = [*shlex.split(hook["entry"]), *hook.get("args", []), *chosen]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "tiny@1.0.0" in done.stdout + done.stderr
