"""Verification: what holds passes, each thing that does not is named, and a failing check stops no other."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import torch
from support.fuzzing import little_memory
from support.tiny_spec import TINY, failures
from torch import nn

from connectomics_zoo import catalog
from connectomics_zoo.errors import UnknownNameError, ZooError
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.network import build
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.selection import select_specs
from connectomics_zoo.verify import LEVELS, forward_level, verify

S_FILE = catalog.find("model", "mednext-S").path

PUBLISHED = {  # Roy et al. 2023: one input channel, two outputs, with deep supervision
    "mednext-S": 5_552_843,
    "mednext-B": 10_528_235,
    "mednext-M": 17_550_891,
    "mednext-L": 61_781_195,
    "mednext-S-k5": 5_982_475,
    "mednext-B-k5": 10_957_867,
    "mednext-M-k5": 18_262_763,
    "mednext-L-k5": 62_994_827,
}


def test_every_spec_of_every_catalogue_passes_at_level_build():
    entries = catalog.entries("model")
    report = verify(level="build")
    assert [(model.source, [check.describe() for check in model.failures]) for model in report.models] == [
        (f"{entry.catalog.name}:{entry.path.stem}", []) for entry in entries
    ]
    assert report.passed
    assert len(report.models) == len(entries) >= 9


def test_a_spec_of_the_catalogue_passes_at_every_level():
    report = verify(["mednext-S"], level="weights")
    (model,) = report.models
    assert [check.describe() for check in model.failures] == []
    assert {check.level for check in model.checks} >= {"schema", "build", "forward"}
    assert {check.path for check in model.checks if check.level == "forward"} >= {
        "expect.probe.outputs.ds_4.values[4]",
        "outputs[4].stride",
        "gradients",
        "finite ds_1",
        "input.size.minimum",
        "input.size.step",
        "input.channels",
        "deep supervision",
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_mednext_has_the_published_number_of_parameters(name):
    spec = get_spec(name)
    assert spec.expect.parameters.training == PUBLISHED[name]
    assert build.measure_static_expectation(spec).parameters.training == PUBLISHED[name]


def test_mednext_custom_states_every_parameter_of_the_network():
    spec = get_spec("mednext_custom")
    stated = read_yaml(catalog.find("model", "mednext_custom").path)["arch"]
    assert list(stated) == list(type(spec.arch).model_fields)


def test_level_schema_imports_no_torch():
    code = (
        "import sys; from connectomics_zoo.verify import verify; assert verify(level='schema').models;"
        "print([name for name in ('torch', 'lightning', 'monai', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Which specs


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["mednext-S"], ["mednext-S"]),
        (["mednext-S@1.0.0", "zoo:mednext-S", str(S_FILE), os.path.relpath(S_FILE)], ["mednext-S"]),
        (["mednext-[SB]"], ["mednext-B", "mednext-S"]),
        (["MEDNEXT-?"], ["mednext-B", "mednext-L", "mednext-M", "mednext-S"]),
        (["zoo:*-k5"], ["mednext-B-k5", "mednext-L-k5", "mednext-M-k5", "mednext-S-k5"]),
        (["mednext-S", "mednext-B"], ["mednext-B", "mednext-S"]),
    ],
)
def test_patterns_are_wildcards_references_or_paths_and_mean_each_spec_once(patterns, expected):
    assert [target.path.stem for target in select_specs(patterns)] == expected


def test_a_wildcard_that_means_no_model_means_weights():
    every = [f"zoo:mednext-S.{tag}" for tag in get_spec("mednext-S").weights]
    assert [target.label for target in select_specs(["mednext-s.*"])] == every
    named = ["zoo:mednext-S.vnc-mito", "zoo:monai_attention_unet.vnc-mito"]
    assert [target.label for target in select_specs(["*.vnc-mito"])] == named
    with pytest.raises(
        UnknownNameError, match=r"no weights match 'mednext-S.vcn\*': did you mean .*'mednext-S.vnc-mito'"
    ):
        select_specs(["mednext-S.vcn*"])


def test_the_name_of_a_family_means_all_of_it():
    assert [target.path.stem for target in select_specs(["mednext"])] == [
        entry.path.stem for entry in catalog.entries("model") if entry.family == "mednext"
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("mednext-s*x", "no model and no weights match 'mednext-s\\*x': did you mean 'mednext-S"),
        ("mednxt-S", "unknown model 'mednxt-S': did you mean 'mednext-S'"),
        ("other:mednext-S", "unknown catalogue 'other'"),
        ("mednext-S@9.0.0", "model 'mednext-S' has no version '9.0.0'"),
        ("missing/tiny.yaml", "'missing/tiny.yaml' does not exist, give a YAML file"),
    ],
)
def test_a_pattern_that_means_nothing_is_an_error(pattern, message):
    with pytest.raises(UnknownNameError, match=message):
        verify([pattern], level="schema")


def test_an_unknown_level_is_an_error():
    with pytest.raises(ZooError, match="unknown level 'deep', choose one of schema, build, forward, weights"):
        verify(["mednext-S"], level="deep")


def test_progress_is_told_before_each_spec_and_at_the_end():
    told = []
    verify(["mednext-[SB]"], level="schema", progress=told.append)
    assert told == [
        Progress(0, 2, unit="specs", label="zoo:mednext-B"),
        Progress(1, 2, unit="specs", label="zoo:mednext-S"),
        Progress(2, 2, unit="specs"),
    ]


# Levels build and forward


def broken_build(monkeypatch, break_it, *, only_single=False):
    """Let every network that the level builds be changed by `break_it`."""
    original = build.build

    def patched(spec, *, deep_supervision):
        network = original(spec, deep_supervision=deep_supervision)
        if not (only_single and deep_supervision):
            network = break_it(network) or network
        return network

    monkeypatch.setattr(forward_level, "build", patched)


def test_the_tiny_spec_passes_at_level_forward(tiny):
    assert failures(verify([tiny()], level="forward")) == {}


def add_parameter(network):
    network.register_parameter("idle", nn.Parameter(torch.ones(1)))


def poison(network):
    network.get_submodule("out_2").register_forward_hook(lambda module, args, output: output * float("nan"))


def list_in_evaluation(network):
    network.register_forward_hook(lambda module, args, output: output if module.training else [output])


def swap_outputs(network):
    def swap(module, args, output):
        return dict(reversed(output.items())) if isinstance(output, dict) else output

    network.register_forward_hook(swap)


def coarsen(network):
    network.get_submodule("out_1").register_forward_hook(lambda module, args, output: output[..., ::2])


def forget_guard(network):
    network._forward_pre_hooks.clear()


@pytest.mark.parametrize(
    ("break_it", "path", "note"),
    [
        (add_parameter, "gradients", "none, or not finite, on 1 parameter(s): idle"),
        (poison, "finite ds_2", "NaN or infinite in training"),
        (list_in_evaluation, "input.size.minimum", "evaluation returns list, it must be one tensor"),
        (swap_outputs, "outputs", "the keys that the network returns in training, in order"),
        (coarsen, "outputs[1].stride", "input [16, 32, 32]"),
        (forget_guard, "input", "RuntimeError: "),
    ],
)
def test_a_network_that_breaks_its_contract_fails(tiny, monkeypatch, break_it, path, note):
    broken_build(monkeypatch, break_it)
    found = failures(verify([tiny()], level="forward"))[path]
    assert found.note.startswith(note)
    assert found.level == "forward"


def test_a_network_that_accepts_what_is_not_legal_fails():
    check = forward_level._refused("input.channels", nn.Identity(), (2, 16, 32, 32), "2 channels")
    assert check.describe() == "input.channels: 2 channels is not legal, but was accepted"
    assert not check.ok


@pytest.mark.parametrize(
    ("changes", "path", "shape"),
    [
        (
            {"expect": TINY["expect"] | {"probe": TINY["expect"]["probe"] | {"input_shape": [1, 1, 4096, 4096, 4096]}}},
            "expect.probe",
            "[1, 1, 4096, 4096, 4096]",
        ),
        (
            {
                "input": TINY["input"] | {"size": {"minimum": [4096] * 3, "step": [16] * 3}},
                "training": {"patch_size": [4096] * 3},
                "expect": None,
            },
            "input.size.minimum",
            "[1, 1, 4096, 4096, 4096]",
        ),
    ],
    ids=["probe", "size"],
)
def test_an_enormous_input_is_refused_before_memory_is_taken(tiny, changes, path, shape):
    with little_memory():
        (model,) = verify([tiny(**changes)], level="forward").models
    notes = [check.note for check in model.failures if check.path == path and check.level == "forward"]
    assert notes == [f"LimitError: an input of shape {shape} is not run, at most 16777216 elements are."]


def test_other_numbers_without_deep_supervision_fail(tiny, monkeypatch):
    def add_one(network):
        network.register_forward_hook(lambda module, args, output: output + 1)

    broken_build(monkeypatch, add_one, only_single=True)
    found = failures(verify([tiny()], level="forward"))
    assert {path: check.note for path, check in found.items()} == {
        "deep supervision": "on or off gives other numbers at full resolution"
    }


def test_an_exception_in_one_check_is_its_failure_and_the_others_go_on(tiny, monkeypatch):
    def explode(*args):
        raise RuntimeError("out of luck\nand more")

    monkeypatch.setattr(forward_level, "run_probe", explode)
    (model,) = verify([tiny()], level="forward").models
    assert [check.describe() for check in model.failures] == ["expect.probe: RuntimeError: out of luck"]
    assert {"gradients", "deep supervision"} <= {check.path for check in model.checks}


def test_a_network_that_cannot_be_built_fails_once_a_level(tiny, monkeypatch):
    from zoo.builders import mednext

    def explode(config, **channels):
        raise RuntimeError("no such network")

    monkeypatch.setattr(mednext, "build", explode)
    (model,) = verify([tiny(expect=None)], level="forward").models
    assert [(check.level, check.describe()) for check in model.failures] == [
        ("build", "arch: RuntimeError: no such network"),
        ("forward", "arch: RuntimeError: no such network"),
    ]


def test_verifying_leaves_random_state_and_threads_as_they_were(tiny):
    path = tiny()
    torch.manual_seed(1)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        verify([path], level="forward")
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


# Reports and the command line


def test_the_report_is_json_and_junit_xml(tiny):
    report = verify([tiny(outputs=[TINY["outputs"][0], *TINY["outputs"][2:]])], level="schema")
    document = json.loads(json.dumps(report.to_dict()))
    assert document["passed"] is False
    failed = [check for check in document["models"][0]["checks"] if not check["ok"]]
    assert failed[0]["path"] == "outputs"
    assert failed[0]["measured"] == ["output", "ds_1", "ds_2", "ds_3", "ds_4"]
    root = ElementTree.fromstring(report.to_junit())
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert int(suite.get("tests")) == len(report.models[0].checks) == len(list(suite))
    cases = {case.get("name"): case for case in suite if case.find("failure") is not None}
    assert int(suite.get("failures")) == len(report.models[0].failures)
    assert "declared" in cases["schema: outputs"].find("failure").get("message")


def test_junit_xml_survives_control_characters(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text('{"a\\u0001\\u001b": 1}')
    report = verify([str(file)], level="schema")
    assert not report.passed
    assert len(ElementTree.fromstring(report.to_junit())) == 1


def test_the_command_prints_a_table_and_exits_with_0(run_zoo):
    code, out, err = run_zoo("verify", "mednext-S", "--level", "schema")
    assert code == 0
    header, _, row = out.splitlines()[:3]
    assert header.split() == ["model", "version", "level", "checks", "seconds", "result"]
    assert row.split()[:3] == ["mednext-S", "1.0.0", "schema"]
    assert row.split()[-1] == "passed"
    assert err == ""


def test_the_command_names_each_failing_declaration_with_both_values_and_exits_with_1(run_zoo, tiny):
    outputs = [*TINY["outputs"][:4], TINY["outputs"][4] | {"stride": [8, 8, 8]}]
    code, out, err = run_zoo("verify", tiny(outputs=outputs), "--level", "build")
    assert code == 1
    line = (
        "  schema: outputs[4].stride: declared [8, 8, 8], measured [16, 16, 16]; "
        "builder 'mednext' with this arch (and at level build)"
    )
    assert line in out.splitlines()
    assert "zoo: 2 check(s) failed in" in err


def test_the_command_prints_json_alone_on_stdout(run_zoo):
    code, out, err = run_zoo("verify", "mednext-[SB]", "--level", "build", "--json")
    assert code == 0
    assert [model["name"] for model in json.loads(out)["models"]] == ["mednext-B", "mednext-S"]
    assert err == ""


def test_the_command_writes_junit_also_when_checks_fail(run_zoo, tiny, tmp_path):
    file = tmp_path / "report.xml"
    code, *_ = run_zoo("verify", tiny(schema_version=3), "--level", "schema", "--junit", str(file))
    assert code == 1
    assert ElementTree.parse(file).getroot().get("failures") == "2"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["report.xml", "tiny.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense-net"], "zoo: unknown model 'nonsense-net'"),
        (["--level", "deep"], "'deep' is not one of 'schema', 'build', 'forward', 'weights'"),
        (["--junit", "missing/report.xml"], "zoo: missing: there is no such folder, make it first."),
    ],
)
def test_wrong_usage_exits_with_2_before_anything_runs(run_zoo, arguments, message):
    code, out, err = run_zoo("verify", *arguments)
    assert code == 2
    assert message in err
    assert out == ""


def test_the_levels_are_in_order():
    assert LEVELS == ("schema", "build", "forward", "weights")


@pytest.mark.parametrize("name", ["mednext-S", "no-such-model"])
def test_the_garbage_collector_is_as_it_was_after_the_level_build(name):
    seen = []
    assert gc.isenabled()
    with contextlib.suppress(UnknownNameError):
        verify([name], level="build", progress=lambda *_: seen.append(gc.isenabled()))
    assert seen == ([False, True] if name == "mednext-S" else [])
    assert gc.isenabled()
    gc.disable()
    try:
        verify(["mednext-S"], level="build")
        assert not gc.isenabled()
    finally:
        gc.enable()
