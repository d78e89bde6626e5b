"""The layers: imports point down, the catalogue and the list stay light, and only the command line prints."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import REPOSITORY

import connectomics_zoo
import zoo
from connectomics_zoo.schema.builder import channel_vectors

ENGINE = Path(connectomics_zoo.__file__).parent
CATALOG = Path(zoo.__file__).parent

MAP = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```layers\n")[1].split("```")[0]


def _rooms(line: str) -> list[str]:
    """The names before the first gap of two spaces."""
    return line.split("  ")[0].split()


LAYERS = [_rooms(line) for line in reversed(MAP.splitlines())]
"""The folders and loose modules of the engine, the lowest layer first, as CONTRIBUTING.md has them."""

LAYER_OF = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms}

VERBS = {path.parent.name for path in ENGINE.glob("*/run.py")} | {"authoring"}
"""Folders of one job each, which other folders enter by `run.py` or the package's face; `zoo new` and `zoo record` are
the two files of `authoring`."""

LONGEST = 400
"""Lines of a file."""

LIGHT = ("errors", "catalog", "fastpath", "files", "schema", "runs", "hub", "specs", "cli")
"""Where nothing heavy is imported at the top."""

HEAVY = {"torch", "lightning", "monai", "numpy", "huggingface_hub"}


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("*.py"))
    assert len(files) >= 3
    return files


def _engine_files() -> list[Path]:
    return [path for path in _files(ENGINE) if path != ENGINE / "__init__.py"]


def _part(path: Path) -> str:
    """The part of the engine that a file belongs to: `schema` for schema/base.py."""
    return path.relative_to(ENGINE).parts[0].removesuffix(".py")


def _imports(nodes: Iterator[ast.AST] | list[ast.stmt]) -> set[str]:
    """The dotted names that import statements among `nodes` name; of `from a import b`, both `a` and `a.b`."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _all_imports(path: Path) -> set[str]:
    return _imports(ast.walk(_tree(path)))


def _top_imports(path: Path) -> set[str]:
    """The first part of what is imported when the file is: not in functions, not for type checkers alone."""
    statements: list[ast.stmt] = []
    for node in _tree(path).body:
        if isinstance(node, ast.If):
            statements += node.orelse if "TYPE_CHECKING" in ast.dump(node.test) else node.body + node.orelse
        else:
            statements.append(node)
    return {name.partition(".")[0] for name in _imports(statements)}


def _parts_imported(path: Path) -> set[str]:
    prefix = "connectomics_zoo."
    parts = {name.removeprefix(prefix).partition(".")[0] for name in _all_imports(path) if name.startswith(prefix)}
    return parts & LAYER_OF.keys()


def test_every_part_of_the_engine_has_a_layer_and_every_layer_its_parts():
    assert {_part(path) for path in _engine_files()} == set(LAYER_OF)


@pytest.mark.parametrize("path", _engine_files(), ids=lambda path: str(path.relative_to(ENGINE)))
def test_imports_point_down_the_layers(path):
    part = _part(path)
    others = _parts_imported(path) - {part}
    wrong = {name for name in others if LAYER_OF[name] >= LAYER_OF[part]}
    assert not wrong, f"{part} imports {wrong}, which CONTRIBUTING.md does not have below it"


def _verbs_entered(path: Path) -> set[str]:
    """The modules of verbs that a file elsewhere imports from, but for their `run.py`; their face hands on that."""
    entered = set()
    for name in _all_imports(path):
        parts = name.split(".")
        if parts[0] == ENGINE.name and len(parts) >= 3 and parts[1] in VERBS and parts[1] != _part(path):
            place = ENGINE.parent / Path(*parts)
            is_module = place.with_suffix(".py").is_file() or place.is_dir()
            entered |= {name} if is_module and parts[2] != "run" else set()
    return entered


def test_a_verb_enters_another_by_its_run_alone():
    assert len(VERBS) >= 12
    for path in [path for path in _engine_files() if _part(path) != "cli"]:
        assert not _verbs_entered(path), path


def test_no_file_is_longer_than_can_be_read_at_once():
    for path in [*_files(ENGINE), *_files(CATALOG)]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST, path


def test_the_engine_knows_no_catalogue():
    for path in _engine_files():
        assert not [name for name in _all_imports(path) if name.partition(".")[0] == "zoo"], path


PROJECTS = {"nnunet", "monai"}
"""Families that are called after a project whose files the engine reads or writes, by that name."""

KNOWN_NAMES = {
    "cli/bench.py": {"mednext-S"},  # what `zoo bench` without a reference measures is part of the command line
}
"""The names of the catalogue that the engine's code has all the same, and why."""


def _catalogue_names() -> re.Pattern[str]:
    """What matches the families, models and builders of the catalogue, builders without their family too.

    In one word or in several: `swin_unetr`, `SwinUNETR`.
    """
    families = {path.name for path in (CATALOG / "specs" / "models").iterdir() if path.is_dir()}
    builders = {path.stem for path in (CATALOG / "builders").glob("[a-z]*.py")}
    models = {path.stem.partition("@")[0] for path in (CATALOG / "specs" / "models").glob("*/*.yaml")}
    parts = {name.removeprefix(f"{family}_") for name in builders for family in families}
    vectors = {name.partition("_")[0] for builder in builders for name in channel_vectors(builder)}
    names = (families - PROJECTS) | models | builders | parts | vectors
    assert len(families) >= 3
    assert len(names) > 20
    words = "|".join(re.escape(name.lower()).replace("_", "[ _-]?") for name in sorted(names))
    return re.compile(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])")


def _words_of_the_code(path: Path) -> Iterator[str]:
    """Identifiers and texts in the code of a file, but for docstrings, and help with its examples."""
    tree = _tree(path)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_help = isinstance(node, ast.keyword) and node.arg == "help"
        is_epilog = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_EPILOG"
        if is_help or is_epilog:
            prose |= {id(part) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in prose:
            continue
        for _, value in ast.iter_fields(node):
            if isinstance(value, str):
                yield value


def test_the_engine_knows_no_model():
    pattern = _catalogue_names()
    found: dict[str, set[str]] = {}
    for path in _engine_files():
        for word in _words_of_the_code(path):
            if pattern.search(word.lower()):
                found.setdefault(str(path.relative_to(ENGINE)), set()).add(word)
    assert found == KNOWN_NAMES


def test_the_catalogue_uses_of_the_engine_only_errors_schema_and_the_switch():
    for path in _files(CATALOG / "builders"):
        names = [name for name in _all_imports(path) if name.startswith("connectomics_zoo.")]
        parts = {name.split(".")[1] for name in names}
        assert parts <= {"errors", "schema", "fastpath"}, path


def test_nothing_heavy_is_imported_at_the_top_of_a_builder_or_where_specs_are_read():
    builders = sorted((CATALOG / "builders").glob("*.py"))
    light = [path for path in _engine_files() if _part(path) in LIGHT]
    assert len(builders) >= 2
    assert len(light) > 15
    for path in [*builders, *light]:
        assert not _top_imports(path) & HEAVY, path


def test_the_list_and_the_catalogue_need_no_pydantic():
    for part in ("errors", "files/yaml", "catalog/__init__", "catalog/homes", "specs/listing", "specs/where"):
        assert "pydantic" not in _top_imports(ENGINE / f"{part}.py")


def test_only_the_command_line_prints():
    for path in [path for path in [*_engine_files(), *_files(CATALOG)] if ENGINE / "cli" not in path.parents]:
        nodes = list(ast.walk(_tree(path)))
        # What a function called print_… does is in its name.
        named = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("print_")]
        inside = {id(node) for function in named for node in ast.walk(function)}
        calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call) and id(node) not in inside}
        assert not calls & {"print", "sys.stdout.write", "sys.stderr.write", "click.echo"}, path
        assert not {"rich", "click"} & {name.partition(".")[0] for name in _all_imports(path)}, path


def test_the_first_line_of_every_file_says_what_it_is_for():
    for path in [*_files(ENGINE), *_files(CATALOG)]:
        docstring = ast.get_docstring(_tree(path))
        assert docstring, path
        assert docstring.splitlines()[0].endswith("."), path


def _loaded(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    report = "\nimport json, sys\nsys.stderr.write('LOADED' + json.dumps(list(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(result.stderr.rpartition("LOADED")[2])}


def _command(*args: str) -> str:
    return f"import sys; sys.argv = {['zoo', *args]!r}; from connectomics_zoo.cli.main import main; main()"


def _completing(*words: str) -> str:
    """What a shell runs to complete the last word."""
    environment = {"_ZOO_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    return f"import os; os.environ |= {environment!r}\ntry: {_command()}\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import zoo", HEAVY | {"pydantic", "click", "rich", "yaml"}),
        ("import zoo; zoo.list_models()", HEAVY | {"pydantic", "click", "rich"}),
        ("import zoo; zoo.get_spec('mednext-S')", HEAVY),
        (_command("list"), HEAVY | {"pydantic", "rich"}),
        (_command("list", "mednext*", "--sort", "-parameters", "--all-versions"), HEAVY | {"pydantic", "rich"}),
        (_command("list", "--json", "--where", "parameters < 1e9"), HEAVY | {"pydantic", "rich"}),
        (_command("list", "--kind", "task"), HEAVY | {"pydantic", "rich"}),
        (_command("list", "--kind", "experiment", "--json"), HEAVY | {"pydantic", "rich"}),
        (_command("show", "mednext-S"), HEAVY | {"rich"}),
        (_command("show", "monai_unet", "--yaml"), HEAVY | {"rich"}),
        (_command("show", "mednext-S", "arch.kernel_size=5"), HEAVY | {"rich"}),
        (_command("show", "rsunet", "input.channels=2", "outputs.channels=3", "training.seed=1"), HEAVY | {"rich"}),
        (_command("show", "mito", "--json"), HEAVY | {"rich"}),
        (_command("show", "vnc-mito"), HEAVY | {"rich"}),
        (_command("show", "vnc-mito", "arch.kernel_size=5", "training.max_steps=7"), HEAVY | {"rich"}),
        (_command("diff", "mednext-S", "mednext-B"), HEAVY | {"rich"}),
        (_command("diff", "vnc-mito", "fib25-boundary", "--json"), HEAVY | {"rich"}),
        (_command("schema", "model"), HEAVY | {"rich"}),
        (_command("completion", "bash"), HEAVY | {"pydantic", "rich", "yaml"}),
        (_command("--help"), HEAVY | {"pydantic", "rich", "yaml"}),
        (_command("--version"), HEAVY | {"pydantic", "rich", "yaml"}),
        (_command("list", "--help"), HEAVY | {"pydantic", "rich"}),
        (_command("verify", "--level", "schema", "mednext-S"), HEAVY),
        (_completing("zoo", "show", "med"), HEAVY | {"pydantic", "rich"}),
    ],
)  # fmt: skip
def test_light_work_loads_nothing_heavy(code, absent):
    loaded = _loaded(code)
    assert "zoo" in loaded or "connectomics_zoo" in loaded
    assert not loaded & absent


def test_the_help_of_every_verb_loads_nothing_heavy():
    code = (
        "from connectomics_zoo.cli.main import VERBS, cli\n"
        "from click.testing import CliRunner\n"
        "for verb in VERBS:\n"
        "    assert CliRunner().invoke(cli, [verb, '--help']).exit_code == 0, verb\n"
    )
    assert not _loaded(code) & (HEAVY | {"rich"})
