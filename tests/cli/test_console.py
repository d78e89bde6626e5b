"""What comes from a file or the Hub is printed without its control characters, which a terminal would obey."""

from __future__ import annotations

import ast
import io
import json
import logging
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import save
from support.tiny_training import make_run

import zoo
from connectomics_zoo import cli
from connectomics_zoo.cli._console import note, print_beside, print_json, print_line, print_text
from connectomics_zoo.cli._progress import show_progress
from connectomics_zoo.cli._references import complete_reference
from connectomics_zoo.cli._table import print_facts, print_table
from connectomics_zoo.errors import printable
from connectomics_zoo.files.yaml import dump_yaml, parse_yaml
from connectomics_zoo.schema.progress import Progress

EVIL = {
    "erases the screen": "a\x1b[2Jb",
    "sets the title": "a\x1b]0;pwned\x07b",
    "begins the line again": "a\rb",
    "rings": "a\x07b",
    "goes back": "a\x08\x08b",
    "deletes": "a\x7fb",
    "is a sequence in one character": "a\x9b2Jb",
    "begins a new line": "a\x85b\u2028c\u2029d",
    "turns the text": "a\u202egpj.exe\u2066b\u200fc\u061cd",
    "marks": "a\ufeffb\ufff9c",
    "is half a character": "a\udc9bb",
}

ALL = "|".join(EVIL.values())


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture(params=["pipe", "terminal"])
def printed(request, monkeypatch):
    """Give the function that returns what was printed, into a pipe or on a terminal without styles."""
    if request.param == "pipe":
        capsys = request.getfixturevalue("capsys")

    def capture(action):
        if request.param == "pipe":
            action()
            return "".join(capsys.readouterr())
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("COLUMNS", "300")
        action()
        return stream.getvalue()

    return capture


def is_clean(text):
    return text != "" and printable(text, keep="\n") == text


WAYS = {
    "a note": note,
    "a line of progress": print_beside,
    "a line": print_line,
    "a sentence": print_text,
    "a bold sentence": lambda text: print_text(text, bold=True),
    "JSON": lambda text: print_json({text: [text]}),
    "a table": lambda text: print_table(("name", text), [(text, text)], right=(text,)),
    "facts": lambda text: print_facts({"licence": text}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", EVIL)
def test_no_way_to_print_lets_a_control_character_through(printed, way, what):
    text = printed(lambda: WAYS[way](EVIL[what]))
    assert is_clean(text)
    assert "\\" in text


def test_json_says_what_it_was_given(capsys):
    print_json({ALL: ALL})
    assert json.loads(capsys.readouterr().out) == {ALL: ALL}


def test_yaml_says_what_it_was_given():
    given = {"summary": ALL.replace("\udc9b", ""), "list": ["\u202ea", "b\x1bc\nd"], "\u202ekey": "plain"}
    text = dump_yaml(given)
    assert is_clean(text)
    assert parse_yaml(text, source="x") == given


def test_columns_stay_in_line_beside_what_was_escaped(capsys):
    print_table(("name", "x"), [("a\x1b[2J", "1"), ("b", "2")])
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert first.rindex("1") == second.index("2")


def test_a_terminals_styles_stay(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    print_text("a\x1b[2J", bold=True)
    print_table(("name",), [("\x1b[31mred",)], bold=[0])
    assert "\x1b[1m" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()
    assert "\x1b[31m" not in stream.getvalue()


def test_a_log_line_and_a_warning_are_clean(run_zoo, monkeypatch):
    def speak(_):
        logging.getLogger("a.library").warning("%s", ALL)
        warnings.warn(ALL, stacklevel=1)

    monkeypatch.setattr("connectomics_zoo.cli.list._print_models", speak)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    _, out, err = run_zoo("list", "*")
    assert err.count("pwned") == 2
    assert is_clean(err + out)


@pytest.mark.parametrize("where", ["pipe", "terminal"])
def test_the_label_of_a_bar_is_clean(monkeypatch, where):
    stream = Terminal() if where == "terminal" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("connectomics_zoo.cli._progress.plain_interval", lambda _: 0)
    with show_progress("predict") as progress:
        for done in range(3):
            progress(Progress(done, 2, unit="steps", label="a\x1b[2Jb\x9b1mc\u202e"))
    text = stream.getvalue()
    assert "a\\x1b[2Jb\\x9b1mc\\u202e" in text
    assert not {"\x9b", "\u202e"} & set(text)
    assert "\x1b[2J" not in text


def test_only_the_console_writes():
    for path in sorted(Path(cli.__file__).parent.glob("*.py")):
        calls = {
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        }
        writes = calls & {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write", "print_styled"}
        assert path.name in {"_console.py", "_table.py"} or not writes, path
        assert path.name != "_table.py" or writes == {"print_styled"}


# The verbs


@pytest.fixture
def evil_zoo(add_spec):
    changes = {"summary": ALL.replace("\udc9b", "")}
    add_spec("evil", changes)
    add_spec("evil_task", changes, kind="task")
    add_spec("broken", text="summary: [\u202e\n")
    add_spec("lacking", {"family": "\x1b[2J\u202e"} | dict.fromkeys(["outputs"], "\x1b[2J\u202e"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("list", "--json"),
        ("list", "--kind", "task"),
        ("list", "--where", "summary == '\x1b[2J\u202e' or name == 'evil'"),
        ("list", "no\x1b[2J\u202e"),
        ("show", "evil"),
        ("show", "evil", "--json"),
        ("show", "evil", "--yaml"),
        ("show", "evil_task"),
        ("show", "other:lacking"),
        ("show", "x\x1b[2J\u202e"),
        ("diff", "evil", "mednext-S"),
        ("diff", "evil", "mednext-S", "--json"),
        ("verify", "evil", "other:lacking", "--level", "schema"),
        ("verify", "other:lacking", "--level", "schema", "--json"),
    ],
)
def test_what_a_catalogue_says_is_printed_clean(evil_zoo, run_zoo, arguments):
    _, out, err = run_zoo(*arguments)
    assert is_clean(out + err)


def test_the_shell_is_offered_no_control_characters(add_spec):
    add_spec("good", {"summary": "a\x1b[2Jb"})
    add_spec("bad\x1b[2J")
    for start, names in (("goo", ["good"]), ("bad", ["bad"])):
        items = complete_reference(None, None, start)
        assert [item.value for item in items] == names
        assert all(is_clean(f"{item.value}{item.help}") for item in items)


def test_what_the_hub_says_of_its_weights_is_printed_clean(hub_server, hub_env, run_zoo):
    pair = {"image": "vol.h5:raw", "label": "vol.h5:mito"}
    run = make_run({"root": "???", "train": [pair], "license": "CC0\x1b[2J\r\u202e"})
    torch.manual_seed(3)
    text = dump_yaml(run.model_dump(mode="json"))
    weights = save(dict(zoo.load(run.model).state_dict()), metadata={"format": "pt", "spec": text})
    hub_server.add_repo("org/name", {"model.safetensors": weights, "spec.yaml": text.encode(), "README.md": b"\x1b[2J"})
    for options in (), ("--json",):
        code, out, err = run_zoo("pull", "hf://org/name", *options)
        assert (code, err) == (0, "")
        assert is_clean(out)
        assert "CC0\\" in out


@pytest.mark.parametrize("name", ["a\x1b[2Jb.h5:raw", "a\u202eb.tif", "\x9b2J.zarr", "a\rb.h5:\x1b[2J"])
def test_the_name_of_a_file_is_printed_clean(run_zoo, tmp_path, name):
    code, out, err = run_zoo("evaluate", f"{tmp_path}/{name}", f"{tmp_path}/{name}")
    assert code == 2
    assert is_clean(out + err)


def test_what_a_volume_says_of_itself_is_printed_clean(run_zoo, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("x", data=np.ones((4, 4, 4), np.uint8))
        data.attrs["units"] = "\x1b[2J\u202e\x9b"
        data.attrs["resolution"] = [1.0, 1.0, 1.0]
    tifffile.imwrite(tmp_path / "b.tif", np.ones((4, 4, 4), np.uint8), description="ImageJ=1\nunit=\x1b[2J\nspacing=1")
    for place in f"{tmp_path}/a.h5:x", f"{tmp_path}/a.h5:\x1b[2J", f"{tmp_path}/b.tif":
        _, out, err = run_zoo("evaluate", place, place)
        assert is_clean(out + err)
