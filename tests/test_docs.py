"""Runs every block of README.md and docs/*.md, as a reader would, in a folder of its own.

The blocks of a page run in order. What a fence says after its language decides:

- ``python``: runs, in one namespace for the page.
- ``console``: each line with ``$ `` runs in bash (a line that ends in ``\\`` goes on in the next one) and must exit
  with 0, or with N where the fence says ``exit=N``. Lines below it must occur in what it printed, in that order; ``…``
  stands for whatever is between.
- a first line ``# file: PATH``: the block is written to PATH instead; a YAML file must then be a valid spec, a
  cluster file, or a map of tensors.
- ``no-run="REASON"``: the block does not run. ``install=FOLDER`` beside it puts the package in FOLDER on the path, as
  ``pip install --editable FOLDER`` would.

The command `zoo` is forked from a process that has imported torch already (`support.forkserver`), but on the README's
page, where it is the one that is installed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from support.announced import announce, read_project

from connectomics_zoo import catalog
from connectomics_zoo.blocks.where import read_cluster
from connectomics_zoo.cli.main import VERBS
from connectomics_zoo.convert.tensor_map import read_tensor_map
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.specs.lookup import get_experiment, get_spec, get_task

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = ROOT / "docs" / "results.md"
"""A record of runs that take hours and real data: how many of its blocks do not run is no news."""

NOT_RUN = {
    "README.md": 3,
    "annotate-next.md": 0,
    "compare.md": 1,
    "convert.md": 4,
    "export-labels.md": 0,
    "export.md": 1,
    "from-nnunet.md": 0,
    "from-pytorch-connectomics.md": 0,
    "in-your-own-code.md": 0,
    "instances.md": 0,
    "packages.md": 1,
    "performance.md": 0,
    "plug-ins.md": 3,
    "quick-start.md": 1,
    "scale.md": 2,
    "specs.md": 1,
    "training.md": 2,
    "verify-in-ci.md": 3,
    "view.md": 4,
    "volumes.md": 1,
    "weights.md": 4,
    "which-model.md": 0,
}
"""Blocks that do not run, by page: one more is a decision, not an accident."""

FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# file: (?P<path>\S+)")
ATTRIBUTES = {"exit", "no-run", "install"}
TIMEOUT_SECONDS = 300

INSTALLED = Path(sys.executable).parent
"""Where the commands `python` and `zoo` are."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    attributes: dict[str, str]
    body: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        match = FILE.match(self.body)
        return None if match is None else match["path"]


def blocks_of(text: str, *, page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    for match in FENCE.finditer(text):
        language, *words = shlex.split(match["info"]) or [""]
        attributes = dict(word.partition("=")[::2] for word in words)
        line = text.count("\n", 0, match.start()) + 1
        assert attributes.keys() <= ATTRIBUTES, f"{page}:{line}: unknown words after {language!r}: {words}"
        yield Block(page, line, language, attributes, match["body"])


class Session:
    """One reader, who works through a page in `folder`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.namespace: dict[str, Any] = {"__name__": "__page__"}
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PATH", os.pathsep.join([str(INSTALLED), os.environ["PATH"]]))
        for name, value in {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "COLUMNS": "200"}.items():
            monkeypatch.setenv(name, value)

    def run(self, block: Block) -> None:
        """Run `block`; what is wrong with it is an AssertionError or its own exception."""
        if "install" in block.attributes:
            self.install(self.folder / block.attributes["install"])
        if "no-run" in block.attributes:
            assert len(block.attributes["no-run"].split()) >= 3, f"{block.place}: no-run must say why"
            if block.language == "yaml":
                yaml.safe_load(block.body)
        elif block.file is not None:
            self.write(block, block.file)
        elif block.language == "python":
            exec(compile(block.body, block.place, "exec"), self.namespace)
        elif block.language == "console":
            for command, expected in commands_of(block.body):
                self.shell(command, expected, exit_code=int(block.attributes.get("exit", 0)), place=block.place)
        else:
            raise AssertionError(f'{block.place}: {block.language!r} cannot run, say no-run="REASON" or # file: PATH')

    def write(self, block: Block, name: str) -> None:
        """Write a block to the file that it names; a spec must be valid."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.body, encoding="utf-8")
        if block.language == "yaml":
            document = read_yaml(path)
            if document.get("kind") == "slurm":
                read_cluster(path)
                return
            if "regex" in document:
                read_tensor_map(path)
                return
            read = get_spec if "builder" in document else get_task if "channels" in document else get_experiment
            assert read(path).name == path.stem, f"{block.place}: the name of the spec is not that of its file"

    def shell(self, command: str, expected: list[str], *, exit_code: int, place: str) -> None:
        """Run one command; its exit code and the output that the page shows must be right."""
        done = subprocess.run(
            ["bash", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        catalog.forget()  # the next Python block sees new files, as a Python that is started now would
        said = f"{place}: $ {command}\n{done.stdout}"
        assert done.returncode == exit_code, f"{said}exit code {done.returncode}, the page says {exit_code}"
        printed = iter(" ".join(line.split()) for line in done.stdout.splitlines())
        for line in expected:
            wanted = [" ".join(part.split()) for part in line.split("…")]
            assert any(_occur(wanted, candidate) for candidate in printed), f"{said}does not show: {line}"

    def install(self, folder: Path) -> None:
        """Do what `pip install --editable FOLDER` does, without pip: the folder and its metadata come on the path."""
        announce(read_project(folder), folder)
        self.monkeypatch.syspath_prepend(folder)
        self.monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        catalog.forget()


def _occur(parts: list[str], line: str) -> bool:
    """Whether `parts` occur in `line`, in this order."""
    place = 0
    for part in parts:
        found = line.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return True


def commands_of(body: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a console block and the output that is shown below it."""
    lines = iter(body.splitlines())
    command: str | None = None
    shown: list[str] = []
    for line in lines:
        if not line.startswith("$ "):
            assert command is not None, f"output without a command: {line!r}"
            shown.append(line)
            continue
        if command is not None:
            yield command, _not_elided(shown)
        command, shown = line[2:], []
        while command.endswith("\\"):
            command = command[:-1] + next(lines).strip()
    assert command is not None, "a console block without a line that starts with '$ '"
    yield command, _not_elided(shown)


def _not_elided(lines: list[str]) -> list[str]:
    return [line for line in lines if line.strip() not in ("", "…")]


@pytest.fixture(scope="module")
def forked_zoo(forked_python: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a command `zoo` that needs not import torch."""
    folder = tmp_path_factory.mktemp("programs")
    program = folder / "zoo"
    program.write_text(f'#!/bin/sh\nexec {shlex.join([*forked_python, str(INSTALLED / "zoo")])} "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A reader in an empty folder; packages that a page brought are forgotten afterwards."""
    before = set(sys.modules)
    yield Session(tmp_path, monkeypatch)
    monkeypatch.undo()
    catalog.forget()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def work_through(text: str, session: Session) -> None:
    for block in blocks_of(text, page="page.md"):
        session.run(block)


def read_page(path: Path) -> list[Block]:
    return list(blocks_of(path.read_text(encoding="utf-8"), page=path.name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs(page, session, forked_zoo):
    if page.name != "README.md":
        session.monkeypatch.setenv("PATH", str(forked_zoo), prepend=os.pathsep)
    for block in read_page(page):
        session.run(block)


def test_there_are_pages_and_each_has_blocks_that_run():
    counts = {
        page.name: sum("no-run" not in block.attributes for block in read_page(page))
        for page in PAGES
        if page != RESULTS
    }
    assert counts.keys() == NOT_RUN.keys()
    assert min(counts.values()) >= 1, counts


def test_the_blocks_that_do_not_run_are_counted():
    counts = {
        page.name: sum("no-run" in block.attributes for block in read_page(page)) for page in PAGES if page != RESULTS
    }
    assert counts == NOT_RUN


BROKEN = {
    "python that raises": ("```python\n1 / 0\n```", "division by zero"),
    "a command that fails": ("```console\n$ false\n```", "exit code 1, the page says 0"),
    "a command that does not fail": ("```console exit=2\n$ true\n```", "exit code 0, the page says 2"),
    "output that is not printed": ("```console\n$ echo one\ntwo\n```", "does not show: two"),
    "output in another order": ("```console\n$ printf '%s\\n' a b\nb\na\n```", "does not show: a"),
    "a spec that is not valid": ("```yaml\n# file: x.yaml\nschema_version: 1\nname: x\n```", "Field required"),
    "yaml without a file": ("```yaml\na: 1\n```", "cannot run"),
    "a block without a language": ("```\ntext\n```", "cannot run"),
    "a word that means nothing": ("```python norun\nx\n```", "unknown words"),
    "no reason": ('```console no-run="slow"\n$ true\n```', "must say why"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_block_fails(broken, session):
    text, message = BROKEN[broken]
    with pytest.raises(Exception, match=re.escape(message)):
        work_through(text + "\n", session)


def test_blocks_of_a_page_share_one_namespace_and_one_folder(session):
    work_through(
        "```python\nx = 1\n```\n\n```console\n$ echo \\\n    two > x.txt\n```\n\n"
        "```python\ntext = open('x.txt').read() * (x + 1)\n```\n",
        session,
    )
    assert session.namespace["text"] == "two\ntwo\n"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page):
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    for link in links:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(_anchor, headings), f"{page.name}: {link}"


def test_the_readme_has_every_verb():
    table = re.findall(r"^\| `zoo ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert table == list(VERBS)


def test_the_changelog_has_the_version_of_the_package():
    version = read_project(ROOT)["version"]
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_licence_is_the_one_that_the_package_declares():
    project = read_project(ROOT)
    assert project["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
