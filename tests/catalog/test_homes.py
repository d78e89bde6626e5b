"""Folders in `ZOO_PATH`, builders that run on use alone, and names that two plug-ins share."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from support.faulty_zoo import BUILDER, write_faulty_zoo

import zoo
from connectomics_zoo import catalog
from connectomics_zoo.catalog import PATH_VARIABLE
from connectomics_zoo.catalog.examine import find_problems
from connectomics_zoo.errors import SpecError, UnknownNameError
from connectomics_zoo.schema.builder import builder_module
from connectomics_zoo.specs.lookup import every_model, get_spec


@pytest.fixture
def use(monkeypatch):
    """Put folders into `ZOO_PATH`; what is imported from them is forgotten afterwards."""

    def put(*folders):
        monkeypatch.setenv(PATH_VARIABLE, os.pathsep.join(map(str, folders)))
        catalog.forget()

    yield put
    monkeypatch.undo()
    catalog.forget()
    for module in [name for name in sys.modules if name.startswith(catalog.FOLDER_PACKAGE)]:
        del sys.modules[module]


@pytest.fixture
def folder(tmp_path):
    write_faulty_zoo(tmp_path / "mine")
    return tmp_path / "mine"


def test_a_folder_is_a_catalogue_whose_builder_reaches_its_other_files(use, folder):
    use(folder)
    assert get_spec("mine:net-none").builder == "faulty"
    assert sum(value.numel() for value in zoo.load("net-none", deep_supervision=False).parameters()) == 11
    assert "mine" not in sys.modules


def test_what_is_listed_or_beside_what_is_used_does_not_run(use, folder, run_zoo):
    ran = folder.parent / "ran"
    (folder / "__init__.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    (folder / "builders" / "faulty.py").write_text(f"{BUILDER}\nopen({str(ran)!r}, 'w').close()\n")
    use(folder)
    for words in (
        ["list"],
        ["list", "--kind", "catalog"],
        ["show", "mednext-S"],
        ["verify", "mednext-S", "--level", "schema"],
    ):
        assert run_zoo(*words)[0] == 0
    assert not ran.exists()
    assert run_zoo("show", "net-none")[0] == 0
    assert ran.exists()


def test_a_folder_that_is_not_there_is_one_sentence_and_the_others_are_used(use, folder, run_zoo, caplog):
    use("", folder.parent / "gone", folder, folder)
    code, out, err = run_zoo("list", "mine:net-none")
    assert (code, "net-none" in out) == (0, True)
    gone = str(folder.parent / "gone")
    assert caplog.messages == [
        f"ZOO_PATH names the folder {gone!r}, which does not exist or may not be read: make it or take it out."
    ]
    assert err == ""


def test_a_folder_that_may_not_be_looked_into_is_left_out_and_breaks_nothing_else(use, folder, run_zoo, monkeypatch):
    is_dir = Path.is_dir

    def refused(path: Path) -> bool:
        if path.name == "locked":  # as the system does where a parent may not be searched; root may do anything
            raise PermissionError(13, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refused)
    use(folder.parent / "locked", folder)
    code, out, _ = run_zoo("list", "mine:net-none")
    assert (code, "net-none" in out) == (0, True)


def test_a_folder_with_the_name_of_another_catalogue_is_left_out_with_both_named(use, folder, run_zoo, caplog):
    other = folder.parent / "other" / "mine"
    write_faulty_zoo(other)
    taken = folder.parent / "zoo"
    taken.mkdir()
    use(folder, other, taken)
    code, out, _ = run_zoo("list", "--kind", "catalog", "--json")
    assert code == 0
    assert (
        f"two catalogues are called 'mine', that of the folder {str(other)!r} in ZOO_PATH is left out for that of the "
        f"folder {str(folder)!r} in ZOO_PATH: rename the folder." in caplog.messages
    )
    assert f"'zoo', that of the folder {str(taken)!r} in ZOO_PATH is left out for that of the package 'connect" in (
        caplog.text
    )
    assert sorted((row["name"], bool(row["problems"])) for row in json.loads(out)) == [
        ("mine", False),
        ("mine", True),
        ("zoo", False),
        ("zoo", True),
    ]


def test_a_folder_whose_name_no_reference_could_have_is_left_out(use, tmp_path, run_zoo, caplog):
    (tmp_path / "my models" / "specs").mkdir(parents=True)
    use(tmp_path / "my models")
    assert run_zoo("list", "rsunet")[0] == 0
    assert "the catalogue 'my models' of the folder" in caplog.text
    assert "a catalogue's name is a letter and then at most 63 letters, digits, _ or -, rename it." in caplog.text


def test_of_two_plug_ins_with_one_builder_neither_is_run_and_both_are_named(use, folder, run_zoo):
    other = folder.parent / "theirs"
    (other / "builders").mkdir(parents=True)
    (other / "specs").mkdir()
    (other / "builders" / "faulty.py").write_text("raise RuntimeError('not to be run')")
    use(folder, other)
    sentence = (
        f"several builders are called 'faulty', of the folder {str(folder)!r} in ZOO_PATH and the folder "
        f"{str(other)!r} in ZOO_PATH, and none is run: remove or rename one."
    )
    with pytest.raises(SpecError) as error:
        builder_module("faulty")
    assert str(error.value) == sentence
    code, _, err = run_zoo("list", "net-none")
    assert code == 0
    assert err.count(sentence) == 1


@pytest.mark.parametrize("name", ["os.path", "../nets", "zoo_path_mine.nets", "nets", "_hidden", "faulty.build", "os"])
def test_a_spec_names_no_code_but_a_builder_of_the_index(use, folder, name):
    (folder / "builders" / "_hidden.py").write_text(BUILDER)
    path = folder / "specs" / "models" / "tiny" / "net-none.yaml"
    path.write_text(path.read_text().replace("builder: faulty", f"builder: {name!r}"))
    use(folder)
    with pytest.raises((SpecError, UnknownNameError), match=r"unknown builder '|builder: String should match pattern"):
        get_spec(path)
    assert not [module for module in sys.modules if module.startswith(catalog.FOLDER_PACKAGE)]


FAULTY = {
    "import no_such_package\n" + BUILDER: "cannot be imported (the package 'no_such_package' is not installed)",
    "raise RuntimeError('boom')\n" + BUILDER: "cannot be imported (it raises in line 1: raise RuntimeError('boom'))",
    "def (": "cannot be imported (SyntaxError: ",
    BUILDER.replace("def build(", "def built("): "has no 'build', which a builder needs",
    "\0": "cannot be imported (",
}


@pytest.mark.parametrize("text", FAULTY, ids=range(len(FAULTY)))
def test_a_broken_builder_is_listed_without_being_run(use, folder, text):
    (folder / "builders" / "faulty.py").write_text(text)
    use(folder)
    (problem,) = find_problems(catalog.catalog_named("mine"))
    assert problem.startswith(f"the builder 'faulty' of the folder {str(folder)!r} in ZOO_PATH {FAULTY[text]}")
    assert problem.endswith(", mend, update or remove it.")


def test_broken_costs_a_broken_builder_and_an_unknown_one_break_nothing_else(use, folder, run_zoo, caplog):
    (folder / "specs" / "costs.json").write_text("{")
    (folder / "builders" / "faulty.py").write_text("raise RuntimeError('boom')")
    spec = folder / "specs" / "models" / "tiny" / "net-none.yaml"
    spec.write_text(spec.read_text().replace("builder: faulty", "builder: of_nobody"))
    use(folder)
    code, out, err = run_zoo("list")
    assert (code, "mednext-S" in out) == (0, True)
    assert f"{folder / 'specs' / 'costs.json'}: no recorded costs" in err
    assert "the model 'net-none' of the folder" in err
    assert "cannot be built: unknown builder 'of_nobody'" in err
    known = every_model()
    assert "mednext-S" in known
    assert not [name for name in known if name.startswith("net-")]
    assert "left out: " in caplog.text
