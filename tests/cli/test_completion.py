"""Shell completion: verbs, options and references, in every shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from connectomics_zoo.cli.main import VERBS


def _complete(*words, shell="bash"):
    environment = {**os.environ, "_ZOO_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(words)}
    environment["COMP_CWORD"] = str(len(words) - 1) if shell != "fish" else words[-1]
    result = subprocess.run(
        [sys.executable, "-c", "from connectomics_zoo.cli.main import main; main()"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.split()


def test_verbs_are_completed():
    assert _complete("zoo", "") == [f"plain,{verb}" for verb in VERBS]
    assert _complete("zoo", "ve") == ["plain,verify"]
    assert "plain,--version" in _complete("zoo", "--v")


def test_references_are_completed_in_any_case():
    assert "plain,mednext-S-k5" in _complete("zoo", "show", "MEDNEXT-s")
    assert {"plain,mito", "plain,mito-instance"} <= set(_complete("zoo", "show", "mit"))
    assert _complete("zoo", "new", "x", "--from", "mednext-S-k") == ["plain,mednext-S-k5"]
    assert _complete("zoo", "show", "mednext-S@") == ["plain,mednext-S@1.0.0"]
    assert _complete("zoo", "show", "runs/") == ["file,runs/"]
    assert "plain,--json" in _complete("zoo", "list", "--j")
    assert set(_complete("zoo", "list", "--kind", "task", "mi")) == {"plain,mito", "plain,mito-instance"}
    experiments = _complete("zoo", "list", "--kind", "experiment", "vnc-mito")
    assert set(experiments) == {"plain,vnc-mito", "plain,vnc-mito-attention-unet", "plain,vnc-mito-instance"}
    assert _complete("zoo", "list", "--kind", "t") == ["plain,task"]


@pytest.mark.parametrize(
    ("shell", "mark"), [("bash", "complete -o"), ("zsh", "#compdef zoo"), ("fish", "--command zoo")]
)
def test_the_completion_script_is_for_the_shell(run_zoo, shell, mark):
    code, out, _ = run_zoo("completion", shell)
    assert code == 0
    assert mark in out
    assert "_ZOO_COMPLETE" in out


def test_the_bash_script_works_in_bash(run_zoo, tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    zoo = tmp_path / "zoo"
    zoo.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from connectomics_zoo.cli.main import main; main()' \"$@\"\n")
    zoo.chmod(0o755)
    script = run_zoo("completion", "bash")[1]
    test = 'COMP_WORDS=(zoo sh); COMP_CWORD=1; _zoo_completion zoo; echo "${COMPREPLY[@]}"'
    result = subprocess.run(
        ["bash", "-c", f"{script}\n{test}"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "show"
