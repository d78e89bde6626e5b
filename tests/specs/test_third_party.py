"""Packages of others that are broken: each is a sentence that names it, and everything else works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from connectomics_zoo import catalog
from connectomics_zoo.files.yaml import dump_yaml, read_yaml

RSUNET = (Path(zoo.__file__).parent / "builders" / "rsunet.py").read_text(encoding="utf-8").replace("PYTC = ", "OLD = ")

NAMELESS = "(config, *, in_channels, out_channels, deep_supervision)"

BUILDERS = {
    "raises": "raise RuntimeError('boom')",
    "lacks": "import no_such_package",
    "syntax": "def (",
    "exits": "raise SystemExit(3)",
    "empty": "",
    "config": f"class Config: ...\ndef interface(config): ...\ndef build{NAMELESS}: ...",
    "schema": f"{RSUNET}\nConfig.model_json_schema = None",
    "interface": f"{RSUNET}\ndef interface(config): raise KeyError('i')",
    "build": f"{RSUNET}\ndef build{NAMELESS}: raise KeyError('b')",
    "pytc": f"{RSUNET}\nPYTC = 5",
    "good": RSUNET,
}
"""What is in the builder of a package, by what is wrong with it."""

SAYS = {
    "raises": "the builder 'raises_net' of the package 'raises-zoo 1.0' cannot be imported (RuntimeError: boom)",
    "lacks": "the builder 'lacks_net' of the package 'lacks-zoo 1.0' cannot be imported (ModuleNotFoundError: No",
    "syntax": "the builder 'syntax_net' of the package 'syntax-zoo 1.0' cannot be imported (SyntaxError: ",
    "exits": "the builder 'exits_net' of the package 'exits-zoo 1.0' cannot be imported (SystemExit: 3)",
    "empty": "the builder 'empty_net' (empty_zoo.builders.empty_net) has no 'Config', a builder needs it.",
    "config": "the builder 'config_net' (config_zoo.builders.config_net): 'Config' is no BuilderConfig, make it one.",
    "schema": "the builder 'schema_net' of the package 'schema-zoo 1.0' has a 'Config' without a schema (TypeError: ",
    "pytc": "the builder 'pytc_zoo.builders.pytc_net': 'PYTC' is no list of PytcArchitecture, make it one.",
}

SHOWN = ("raises", "lacks", "syntax", "exits", "empty", "config")

BUILT = ("raises", "interface", "build", "good")

RUN = """
import contextlib, io, json, sys
from connectomics_zoo.cli.main import main
answers = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["zoo", *arguments]
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    answers.append((code, out.getvalue(), err.getvalue()))
import zoo
config = {"model": {"architecture": "rsunet", "in_channels": 1, "out_channels": 1, "input_size": [16, 64, 64]}}
err = io.StringIO()
with contextlib.redirect_stderr(err):
    tensors = len(zoo.build_model(config).state_dict())
print(json.dumps([answers, tensors, zoo.list_models("rsunet*")]))
"""


def add_package(site, name, *, builder=None, text="", catalog_name=None, spec=True):
    """Lay out a package with a builder and a model, and announce it as an installed distribution does."""
    package, builder = site / f"{name}_zoo", builder or f"{name}_net"
    (package / "builders").mkdir(parents=True)
    for folder in (package, package / "builders"):
        (folder / "__init__.py").write_text("")
    (package / "builders" / f"{builder}.py").write_text(text, encoding="utf-8")
    if spec:
        models = package / "specs" / "models" / name
        models.mkdir(parents=True)
        document = read_yaml(catalog.find("model", "rsunet").path)
        changes = {"name": f"{name}-net", "family": name, "builder": builder}
        (models / f"{name}-net.yaml").write_text(dump_yaml(document | changes))
    information = site / f"{name}_zoo-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-zoo\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{catalog.GROUP}]\n{catalog_name or name} = {name}_zoo\n")
    return package


def run(site, *commands):
    """Return what each command gives: code, stdout and stderr; all in one interpreter that has these packages."""
    path = os.pathsep.join([str(site), str(Path(zoo.__file__).parents[1])])
    result = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers, tensors, names = json.loads(result.stdout)
    assert tensors > 50
    assert {"rsunet", "rsunet-aniso"} <= set(names)
    return answers


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """What `zoo` gives where ten of eleven packages are broken, and one more that has nothing."""
    site = tmp_path_factory.mktemp("site")
    for name, text in BUILDERS.items():
        add_package(site, name, text=text)
    add_package(site, "bare", text=RSUNET, spec=False)
    commands = {
        "list": ["list"],
        "show": ["show", "rsunet"],
        "schema": ["schema", "model"],
        "verify": ["verify", "mednext-S", "--level", "schema"],
        "verify all": ["verify", *(f"{name}-net" for name in BUILT), "rsunet", "--level", "build", "--json"],
        **{f"show {name}": ["show", f"{name}-net"] for name in SHOWN},
    }
    return dict(zip(commands, run(site, *commands.values()), strict=True))


def test_broken_packages_are_listed_and_no_verb_fails_for_them(broken):
    for command in ("list", "show", "schema", "verify"):
        code, out, _ = broken[command]
        assert (code, out != "") == (0, True), command
    assert "raises-net" in broken["list"][1]
    for name, what in (
        ("raises", "cannot be imported (it raises in line 1: raise RuntimeError('boom'))"),
        ("lacks", "cannot be imported (the package 'no_such_package' is not installed)"),
        ("empty", "has no 'Config', which a builder needs"),
    ):
        line = (
            f"zoo: broken: the builder '{name}_net' of the package '{name}-zoo 1.0' {what}, mend, update or remove it."
        )
        assert broken["list"][2].splitlines().count(line) == 1
    assert broken["verify"][1].rstrip().endswith("passed")


@pytest.mark.parametrize("name", SAYS)
def test_a_broken_package_is_named_in_one_sentence(broken, name):
    _, _, notes = broken["schema"]
    assert sum(SAYS[name] in line for line in notes.splitlines()) == 1
    schema = json.loads(broken["schema"][1])
    assert f"{name}_net" not in schema["properties"]["builder"]["enum"]


def test_what_lacks_its_specs_is_named(broken):
    note = "the catalogue 'bare' has no specs: the package 'bare-zoo 1.0' lacks that folder, reinstall or uninstall it."
    assert f"zoo: {note}" in broken["list"][2].splitlines()


@pytest.mark.parametrize("name", SHOWN)
def test_to_show_what_is_broken_is_one_sentence(broken, name):
    code, out, err = broken[f"show {name}"]
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert SAYS[name] in err


def test_each_is_verified_by_itself(broken):
    code, out, _ = broken["verify all"]
    assert code == 1
    models = {model["name"]: model for model in json.loads(out)["models"]}
    assert models["rsunet"]["passed"]
    assert all(check["ok"] for check in models["good-net"]["checks"] if check["path"] != "version")
    for name, what in (
        ("interface", "fails in 'interface' (KeyError: 'i')"),
        ("build", "fails in 'build' (KeyError: 'b')"),
    ):
        notes = [check["note"] for check in models[f"{name}-net"]["checks"] if not check["ok"]]
        assert any(f"the builder '{name}_net' of the package '{name}-zoo 1.0' {what}" in note for note in notes)


def test_names_that_are_taken_take_nothing_from_the_built_in_catalogue(tmp_path):
    add_package(tmp_path, "aaa", text=RSUNET, catalog_name="zoo")
    add_package(tmp_path, "bbb", builder="rsunet", text="raise RuntimeError('not to be imported')")
    lock = add_package(tmp_path, "ccc", text=RSUNET) / "specs" / "lock.json"
    lock.write_text("{")
    unknown = read_yaml(catalog.find("model", "rsunet").path) | {"name": "no-net", "family": "none"}
    (tmp_path / "net.yaml").write_text(dump_yaml(unknown))
    for command in (
        ["verify", "rsunet", "--level", "schema"],
        ["verify", str(tmp_path / "net.yaml"), "--level", "schema"],
    ):
        code, _, err = run(tmp_path, command)[0]
        assert code == 0, err
        assert (
            "zoo: two catalogues are called 'zoo', that of the package 'aaa-zoo 1.0' is left out for that of the "
            "package 'connectomics-zoo 0.1.0': uninstall one.\n" in err
        )
        assert (
            "zoo: the builder 'rsunet' of the package 'bbb-zoo 1.0' is left out: the built-in catalogue has one of "
            "that name, rename it.\n" in err
        )
    assert "the lock of the catalogue 'ccc' of the package 'ccc-zoo 1.0' is left out: " in err
