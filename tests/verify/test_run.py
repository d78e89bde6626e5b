"""Verification: what holds passes, each thing that does not is named, and a failing check stops no other."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from support.fuzzing import little_memory
from torch import nn
from torch.nn import functional as F

from connectomics_zoo import catalog
from connectomics_zoo.errors import UnknownNameError, ZooError
from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.files.yaml import dump_yaml, read_yaml
from connectomics_zoo.network import build
from connectomics_zoo.runs.folder import SPEC_FILE, WEIGHTS_FILE
from connectomics_zoo.schema.experiment import DataSpec, PredictionSpec, RunSpec
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.specs import releases
from connectomics_zoo.specs.lookup import get_spec, get_task
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.specs.selection import select_specs
from connectomics_zoo.verify import LEVELS, forward_level, verify
from connectomics_zoo.verify.meta_pass import MetaPass
from connectomics_zoo.weights.storage import write_weights

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


def tiny_document():
    """A complete, measured spec of a MedNeXt that runs in a fraction of a second."""
    spec = resolve_model("mednext-S", arch={"base_channels": 2, "block_counts": [1] * 9})
    spec = spec.model_copy(update={"name": "tiny"})
    return spec.model_copy(update={"expect": build.measure_expectation(spec)}).model_dump(mode="json")


TINY = tiny_document()


@pytest.fixture
def tiny(tmp_path):
    """Write the tiny spec, with top-level changes, to a file of the user's."""

    def write(**changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(dump_yaml(TINY | changes))
        return str(path)

    return write


def release(tmp_path, *references):
    path = tmp_path / "other_zoo" / releases.RELEASES_FILE
    path.write_text(releases.lock_text({reference: releases.content(get_spec(reference)) for reference in references}))


def failures(report):
    """The first failed check of each declaration, by path."""
    (model,) = report.models
    return {check.path: check for check in reversed(model.failures)}


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


# Level schema


@pytest.mark.parametrize(
    ("text", "path", "note"),
    [
        ("a: 1\na: 2\n", "file", "the key 'a' stands twice"),
        ("#" * 300_000, "file", "larger than the 262144 bytes that a spec may have"),
        (dump_yaml(TINY | {"schema_version": 2}), "schema_version", "Input should be 1"),
        (dump_yaml(TINY | {"builder": "nonsense"}), "builder", "JSON Schema: 'nonsense' is not one of"),
        (dump_yaml(TINY | {"arch": {"kernel_size": 3, "wide": 1}}), "arch.wide", "unknown key"),
    ],
)
def test_a_file_that_is_no_spec_fails_and_says_why(tmp_path, text, path, note):
    file = tmp_path / "tiny.yaml"
    file.write_text(text)
    report = verify([str(file)], level="build")
    assert not report.passed
    assert note in failures(report)[path].note
    assert report.models[0].name == str(file)


@pytest.mark.parametrize(
    ("stem", "changes", "path", "declared", "measured"),
    [
        ("mine", {"name": "yours"}, "name", "yours", "mine"),
        ("mine", {"family": "unet"}, "family", "unet", "mednext"),
        ("mine@2.0.0", {}, "version", "1.0.0", "2.0.0"),
    ],
)
def test_a_file_in_a_catalogue_is_called_and_placed_as_its_spec_says(
    add_spec, tmp_path, stem, changes, path, declared, measured
):
    found = failures(verify([str(add_spec(stem, changes))], level="schema"))[path]
    assert (found.declared, found.measured) == (declared, measured)


def test_two_files_of_one_version_fail(add_spec, tmp_path):
    add_spec("mine")
    add_spec("mine@1.0.0")
    release(tmp_path, "other:mine")
    found = failures(verify(["other:mine"], level="schema"))
    assert found["version"].note == "mine@1.0.0.yaml has the same version, remove it"


def test_a_spec_of_a_catalogue_must_be_in_its_lock_and_measured(add_spec):
    found = failures(verify([str(add_spec("mine", {"expect": None}))], level="schema"))
    assert found["version"].note.endswith("specs/lock.json, add it with: zoo record mine@1.0.0")
    assert found["expect"].note == "was not measured, record it with: zoo record mine@1.0.0"


@pytest.mark.parametrize("part", ["flops", "probe"])
def test_a_spec_of_a_catalogue_must_have_every_measurement(add_spec, part):
    expect = {key: value for key, value in read_yaml(S_FILE)["expect"].items() if key != part}
    found = failures(verify([str(add_spec("mine", {"expect": expect}))], level="schema"))
    assert found[f"expect.{part}"].note == "was not measured, record it with: zoo record mine@1.0.0"


def test_a_file_of_the_users_may_be_unmeasured_and_is_in_no_lock(tiny):
    assert verify([tiny(expect=None)], level="build").passed


def test_a_release_whose_file_is_gone_fails(add_spec, tmp_path):
    path = add_spec("mine", {"version": "2.0.0", "changes": {"1.0.0": "First.", "2.0.0": "Second."}})
    old = add_spec("mine@1.0.0")
    release(tmp_path, "mine@1.0.0", "mine@2.0.0")
    assert verify(["mine"], level="schema").passed
    assert verify(["other:mine*"], level="schema").passed
    old.unlink()
    catalog.entries.cache_clear()
    report = verify([str(path)], level="schema")
    assert [model.passed for model in report.models] == [True, False]
    assert report.models[1].source == "other:mine@1.0.0"
    assert report.models[1].checks[0].note == "was released and has no file any more, put it back as mine@1.0.0.yaml"


def test_a_damaged_lock_fails_its_specs_and_no_others(add_spec, tmp_path):
    add_spec("mine")
    (tmp_path / "other_zoo" / releases.RELEASES_FILE).write_text("{")
    report = verify(["other:mine", "mednext-B"], level="schema")
    assert {model.source: model.passed for model in report.models} == {"other:mine": False, "zoo:mednext-B": True}
    assert "not a lock" in report.models[1].failures[0].note


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


# Level weights


def with_weights(folder, spec, *, deep_supervision=True):
    file = folder / "tiny.safetensors"
    write_weights(build.build(spec, deep_supervision=deep_supervision), file)
    words = {"task": "mito", "dataset": "A volume.", "license": "MIT"}
    return {"mito": {"file": file.name, "sha256": file_sha256(file), **words}}


def test_declared_weights_that_fit_pass_with_and_without_the_heads(tiny, tmp_path):
    spec = get_spec(tiny())
    for deep_supervision in (True, False):
        weights = with_weights(tmp_path, spec, deep_supervision=deep_supervision)
        (model,) = verify([tiny(weights=weights)], level="weights").models
        assert model.passed
        assert [check.path for check in model.checks if check.level == "weights"] == [
            "weights.mito.sha256",
            "weights.mito",
        ]


def test_weights_that_are_missing_damaged_or_foreign_fail(tiny, tmp_path):
    foreign = get_spec(tiny(arch=TINY["arch"] | {"grn": True}, expect=None))
    found = failures(verify([tiny(weights=with_weights(tmp_path, foreign))], level="weights"))
    differing = found["weights.mito: bottleneck.0.grn_beta"]
    assert (differing.declared, differing.measured) == (None, ([1, 64, 1, 1, 1], "F32"))
    assert found["weights.mito"].note == "32 tensors differ"
    weights = with_weights(tmp_path, get_spec(tiny()))
    weights["mito"]["sha256"] = "0" * 64
    found = failures(verify([tiny(weights=weights)], level="weights"))
    assert "sha256 differs" in found["weights.mito"].note
    (tmp_path / "tiny.safetensors").unlink()
    found = failures(verify([tiny(weights=weights)], level="weights"))
    assert "there is no such weights file" in found["weights.mito"].note


def test_a_run_folder_is_verified_with_its_weights(tiny, tmp_path):
    model = get_spec(tiny())
    run = RunSpec(
        schema_version=1,
        kind="run",
        name="my-run",
        model=model,
        task=get_task("mito"),
        data=DataSpec(),
        training=model.training,
        prediction=PredictionSpec(window=model.training.patch_size),
    )
    folder = tmp_path / "runs" / "my-run"
    folder.mkdir(parents=True)
    (folder / SPEC_FILE).write_text(dump_yaml(run.model_dump(mode="json")))
    missing = failures(verify([str(folder)], level="weights"))
    assert list(missing) == [WEIGHTS_FILE]
    write_weights(build.build(model, deep_supervision=True), folder / WEIGHTS_FILE)
    assert verify([str(folder)], level="weights").passed


@pytest.mark.parametrize("names", [("spec.yaml", WEIGHTS_FILE), ("net.yaml", "ema.safetensors")])
def test_a_repository_is_verified_with_its_weights_and_their_digest(tiny, tmp_path, hub_server, hub_env, names):
    path = tiny()
    write_weights(build.build(get_spec(path), deep_supervision=True), tmp_path / WEIGHTS_FILE)
    content = (tmp_path / WEIGHTS_FILE).read_bytes()
    files = {names[0]: (tmp_path / "tiny.yaml").read_bytes(), names[1]: content}
    pinned = f"hf://org/name@{hub_server.add_repo('org/name', files)}"
    report = verify([pinned, pinned], level="weights")
    (model,) = report.models
    assert model.passed, [check.describe() for check in model.failures]
    assert model.source == pinned
    assert {check.path for check in model.checks if check.level == "weights"} == {names[1], f"{names[1]}: digest"}
    (held,) = hub_env.rglob(f"snapshots/*/{names[1]}")
    held.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # a number of a tensor, the header is right
    assert verify([pinned], level="weights").passed
    assert held.read_bytes() == content
    assert hub_server.count("GET /cdn/") == 2


def test_weights_of_a_repository_that_are_missing_or_foreign_fail(tiny, tmp_path, hub_server, hub_env):
    foreign = get_spec(tiny(arch=TINY["arch"] | {"grn": True}, expect=None))
    write_weights(build.build(foreign, deep_supervision=True), tmp_path / WEIGHTS_FILE)
    files = {"spec.yaml": Path(tiny()).read_bytes(), WEIGHTS_FILE: (tmp_path / WEIGHTS_FILE).read_bytes()}
    pinned = f"hf://org/name@{hub_server.add_repo('org/name', files)}"
    assert failures(verify([pinned], level="weights"))[WEIGHTS_FILE].note == "32 tensors differ"
    del files[WEIGHTS_FILE]
    pinned = f"hf://org/none@{hub_server.add_repo('org/none', files)}"
    assert "has no weights file" in failures(verify([pinned], level="weights"))[WEIGHTS_FILE].note


# Reports and the command line


def test_the_report_is_json_and_junit_xml(tiny):
    report = verify([tiny(outputs=[TINY["outputs"][0], *TINY["outputs"][2:]])], level="schema")
    document = json.loads(report.to_json())
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


META = torch.device("meta")


def _channels(*shape):
    return torch.empty(shape, device=META)


SHORT_CUTS = {
    "batch norm in training": lambda x: F.batch_norm(x, _channels(4), _channels(4), _channels(4), _channels(4), True),
    "batch norm in evaluation": lambda x: F.batch_norm(x, _channels(4), _channels(4)),
    "instance norm": lambda x: F.instance_norm(x, weight=_channels(4), bias=_channels(4)),
    "group norm": lambda x: F.group_norm(x, 2, _channels(4), _channels(4)),
    "group norm without weights": lambda x: F.group_norm(x, 4),
    "elu": F.elu,
    "elu in place": lambda x: F.elu(x, inplace=True),
    "gelu": F.gelu,
    "leaky relu": F.leaky_relu,
    "leaky relu in place": lambda x: F.leaky_relu(x, inplace=True),
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x, inplace=True),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in SHORT_CUTS]
    + [(name, torch.bfloat16) for name in SHORT_CUTS if "norm" not in name],
)
def test_a_pass_without_data_returns_what_torch_returns_without_data(name, dtype):
    x = torch.empty(3, 4, 5, 6, 7, device=META, dtype=dtype)
    with torch.no_grad():
        plain = SHORT_CUTS[name](x)
        with MetaPass():
            quick = SHORT_CUTS[name](x)
    assert (quick.shape, quick.dtype, quick.device) == (plain.shape, plain.dtype, plain.device)
    assert (quick is x) == (plain is x) == ("in place" in name)


def test_a_norm_in_a_pass_without_data_has_the_statistics_that_torch_returns():
    x, weight = torch.empty(3, 4, 5, 6, 7, device=META), torch.empty(4, device=META)

    def normed():
        return (
            *torch.native_group_norm(x, weight, weight, 3, 4, 5 * 6 * 7, 2, 1e-5),
            *torch.native_batch_norm(x, weight, weight, weight, weight, True, 0.1, 1e-5),
        )

    plain = [tensor.shape for tensor in normed()]
    with MetaPass():
        assert [tensor.shape for tensor in normed()] == plain


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: F.batch_norm(x, _channels(5), _channels(5)),
        lambda x: F.batch_norm(x, _channels(4), _channels(4), weight=_channels(3)),
        lambda x: F.group_norm(x, 3),
        lambda x: F.group_norm(x, 2, _channels(3), _channels(3)),
    ],
)
def test_a_norm_that_does_not_fit_is_refused_in_a_pass_without_data(wrong):
    x = torch.empty(3, 4, 5, 6, 7, device=META)
    with torch.no_grad(), MetaPass(), pytest.raises((RuntimeError, ValueError)):
        wrong(x)


def test_a_pass_without_data_leaves_real_tensors_alone():
    x = torch.linspace(-1, 1, 24).reshape(1, 4, 6)
    with MetaPass():
        assert torch.equal(F.relu(x), x.clamp(min=0))
        assert F.group_norm(x, 2).square().mean().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["mednext-S", "monai_unet", "monai_unetr", "monai_vnet", "rsunet-aniso"])
def test_a_pass_without_data_costs_what_torch_counts_and_has_its_shapes(name):
    spec = get_spec(name)
    network = build.build_meta(spec, deep_supervision=True)
    shape = spec.expect.flops.input_shape

    def measure():
        flops = build.count_flops(network, shape)
        with torch.no_grad():
            returned = network.train()(torch.empty(shape, device=META))
        outputs = returned if isinstance(returned, dict) else {"output": returned}
        return flops, {key: value.shape for key, value in outputs.items()}

    plain = measure()
    with MetaPass():
        assert measure() == plain


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
