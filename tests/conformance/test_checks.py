"""Each check of `pytest --zoo` on a network that keeps the promise, and on one that breaks it."""

from __future__ import annotations

import os
import sys

import pytest
from support.faulty_zoo import write_faulty_zoo

from connectomics_zoo import catalog
from connectomics_zoo.authoring.record import plan
from connectomics_zoo.catalog import PATH_VARIABLE
from connectomics_zoo.conformance import spec_checks
from connectomics_zoo.conformance.run import cases
from connectomics_zoo.errors import SpecError
from connectomics_zoo.files.changes import write_changes
from connectomics_zoo.network.build import InputGuard

BREAKS = {
    "unused": ("gradients", "net-unused: 1 parameter(s) get no finite gradient: unused."),
    "order": (
        "deep-supervision",
        "net-order: in training it returns ['ds_1', 'output'], declared are ['output', 'ds_1'] in this order.",
    ),
    "hidden": ("safetensors", "net-hidden: read back from safetensors it computes something else, so some"),
    "dropout": ("determinism", "net-dropout: the same input and weights give other numbers the second time."),
    "batch": ("evaluation", "net-batch: in evaluation the output of a volume depends on the others of its batch."),
    "large": ("legal-sizes", "net-large: for [6, 2, 2] it returns {'output': [1, 1, 5, 2, 2], "),
    "dict": ("evaluation", "net-dict: in evaluation it returns a dict, it must be one tensor."),
    "counter": ("evaluation", "net-counter: in evaluation it changes its state: calls."),
    "keeps": ("deep-supervision", "net-keeps: built without deep supervision, it still returns several outputs"),
}
"""By fault: the check that finds it, and what it says first."""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """The folder of the models, in a catalogue `tiny_zoo` that is recorded as far as its networks can be."""
    folder = tmp_path_factory.mktemp("faulty") / "tiny_zoo"
    models = write_faulty_zoo(folder)
    patch = pytest.MonkeyPatch()
    patch.setenv(PATH_VARIABLE, str(folder))
    catalog.forget()
    write_changes(plan(["tiny_zoo:net-none"]).changes)
    yield models
    patch.undo()
    catalog.forget()
    for module in [name for name in sys.modules if name.startswith(f"{catalog.FOLDER_PACKAGE}tiny_zoo")]:
        del sys.modules[module]


def found(subject):
    """What each check of a subject finds."""
    return {case.check: case.problems() for case in cases("tiny_zoo") if case.subject == subject}


def test_a_network_that_is_as_it_should_be_passes_every_check(faulty):
    problems = found("net-none")
    assert len(problems) == 14
    assert not any(problems.values()), problems
    assert found("catalogue") == {"files": []}


@pytest.mark.parametrize("fault", BREAKS)
def test_each_fault_is_found_and_said_in_a_sentence(faulty, fault):
    check, sentence = BREAKS[fault]
    case = next(case for case in cases("tiny_zoo") if (case.subject, case.check) == (f"net-{fault}", check))
    problems = case.problems()
    assert problems
    assert problems[0].startswith(sentence), problems
    assert "\n" not in problems[0]


def test_a_network_that_accepts_every_size_is_found(faulty, monkeypatch):
    refuse = InputGuard.__call__
    monkeypatch.setattr(InputGuard, "__call__", lambda *given: None if given[2][0].shape[1] == 1 else refuse(*given))
    (case,) = (case for case in cases("tiny_zoo") if (case.subject, case.check) == ("net-none", "illegal-sizes"))
    assert "net-none: an input of the shape [1, 1, 3, 2, 2] is not legal, but was not refused." in case.problems()


def test_another_network_under_the_name_of_a_release_is_found_by_what_was_recorded(faulty):
    path = faulty / "net-none.yaml"
    before = path.read_text()
    try:
        path.write_text(before.replace("arch: {fault: none}", "arch: {fault: none, wide: true}"))
        problems = found("net-none")
    finally:
        path.write_text(before)
    wrong = {check for check, sentences in problems.items() if sentences}
    assert wrong == {"lock", "counts", "fingerprint", "probe"}
    assert problems["lock"][0].startswith("net-none: arch.wide is True and was released as False; ")
    assert problems["counts"][0].startswith("net-none: expect.parameters.training: declared 14, measured 20")


def test_what_was_not_recorded_is_found(faulty):
    problems = found("net-unused")
    for check in ("counts", "fingerprint", "probe"):
        assert problems[check] == [
            f"net-unused: {check} cannot be checked (SpecError: expect was not measured, record it with: zoo record "
            "net-unused@1.0.0)."
        ]
    assert "not in " in problems["lock"][0]
    assert "add it with: zoo record net-unused@1.0.0" in problems["lock"][0]


def test_missing_licences_and_names_of_others_are_found(faulty):
    path = faulty / "rsunet.yaml"
    text = (faulty / "net-none.yaml").read_text().replace("name: net-none", "name: rsunet")
    path.write_text(text.replace("license: MIT", "license: TODO").replace("  bibtex: ", "  bibtex: null  # "))
    catalog.entries.cache_clear()
    try:
        problems = found("rsunet")
    finally:
        path.unlink()
        catalog.entries.cache_clear()
    assert problems["licence-and-citation"] == [
        "rsunet: source.license is 'TODO', name the licence of the network's code.",
        "rsunet: source.bibtex is missing, say how the network is cited.",
    ]
    (sentence,) = problems["name"]
    assert "has the name of one of the package 'connectomics-zoo 0.1.0': rename it, or users must write" in sentence


def test_a_builder_that_loads_something_heavy_is_found(faulty, monkeypatch):
    monkeypatch.setattr(spec_checks, "HEAVY", ("torch", "pydantic"))  # which every builder loads
    assert spec_checks.light_builder("faulty") == [
        "importing the builder 'faulty' loads pydantic: import it within build(), as specs are read without."
    ]


def test_tasks_and_experiments_that_lead_nowhere_are_found(faulty):
    folder = faulty.parents[1]
    (folder / "experiments").mkdir()
    (folder / "tasks").mkdir()
    (folder / "experiments" / "lost.yaml").write_text(
        "schema_version: 1\nname: lost\nsummary: S.\nmodel: net-none\ntask: no-task\n"
        "data: {train: {image: 'a.h5:x', label: 'a.h5:y'}}\n"
    )
    (folder / "tasks" / "empty.yaml").write_text("schema_version: 1\nname: empty\n")
    catalog.entries.cache_clear()
    try:
        lost, empty = found("experiment:lost"), found("task:empty")
    finally:
        for kind in ("tasks", "experiments"):
            for path in (folder / kind).iterdir():
                path.unlink()
            (folder / kind).rmdir()
        catalog.entries.cache_clear()
    assert lost["schema"][0].startswith("lost: unknown task 'no-task'")
    assert "Field required" in empty["schema"][0]


def test_a_catalogue_that_is_left_out_says_why(monkeypatch, tmp_path):
    monkeypatch.setenv(PATH_VARIABLE, str(tmp_path / "gone"))
    catalog.forget()
    try:
        with pytest.raises(SpecError, match="which does not exist or may not be read: make it or take it out"):
            cases("gone")
    finally:
        monkeypatch.undo()
        catalog.forget()


def test_pytest_says_in_a_sentence_that_there_is_no_such_catalogue(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    words = ["--zoo", "zooo", "--rootdir", tmp_path, "-c", os.devnull, "-p", "no:cacheprovider"]
    code = pytest.main([*map(str, words), "-p", "connectomics_zoo.conformance.plugin", str(tmp_path)])
    assert code == pytest.ExitCode.INTERRUPTED
    (said,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("--zoo zooo: "))
    assert said.startswith("--zoo zooo: unknown catalogue 'zooo': did you mean 'zoo'")
    assert said.endswith("? Is its package installed, or its folder in ZOO_PATH?")
