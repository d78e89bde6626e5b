"""Every number that a spec declares is proved: changing any one of them makes `verify` fail and name it."""

from __future__ import annotations

import copy
import functools
import json
import re

import pytest

from connectomics_zoo import catalog
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.network.build import run_probe
from connectomics_zoo.schema.model import Probe
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.verify import forward_level, verify

ENTRIES = catalog.entries("model")
PROVED = ("schema_version", "arch", "input", "outputs", "expect", "training")


def unlocked_models():
    """mednext-S, and the cheapest MONAI model that has deep supervision: both are measured without their lock."""
    monai = [get_spec(entry.path) for entry in ENTRIES if entry.family == "monai" and entry.version is None]
    supervised = [spec for spec in monai if len(spec.outputs) > 1 and spec.expect is not None]
    return ["mednext-S", *(spec.name for spec in sorted(supervised, key=lambda spec: spec.expect.flops.total)[:1])]


def leaves(value, path=()):
    """The paths of all numbers in plain data."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, item in items for leaf in leaves(item, (*path, key))]
    return [path] if isinstance(value, int | float) and not isinstance(value, bool) else []


def text_of(path):
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def mutated(document, path):
    """A copy of `document` with another number at `path`, of the same type."""
    result = copy.deepcopy(document)
    *parents, last = path
    parent = functools.reduce(lambda value, key: value[key], parents, result)
    parent[last] = parent[last] + 1 if isinstance(parent[last], int) else parent[last] * 1.25 + 0.01
    return result


def names(checks, path):
    """Whether one of the failed checks is about the number at `path`, or the list or mapping right around it."""
    field = re.sub(r"(\[\d+\])+$", "", text_of(path))
    return any(check.path in (text_of(path), field) for check in checks)


def verify_document(folder, document, level):
    file = folder / "mutant.yaml"
    file.write_text(json.dumps(document))  # JSON is YAML, and faster to write
    (model,) = verify([str(file)], level=level).models
    return model


def proved_leaves(document):
    return [leaf for leaf in leaves(document) if leaf[0] in PROVED]


def some_of_each_section(document, *, every):
    """The first and the last number of each section of a spec, or all."""
    found = proved_leaves(document)
    if every:
        return found
    sections = {leaf[0]: [other for other in found if other[0] == leaf[0]] for leaf in found}
    return [leaf for leaves_of in sections.values() for leaf in dict.fromkeys((leaves_of[0], leaves_of[-1]))]


def test_the_mutations_cover_what_they_should():
    assert len(ENTRIES) >= 9
    numbers = [text_of(leaf) for leaf in proved_leaves(read_yaml(catalog.find("model", "mednext-S").path))]
    assert len(numbers) > 80
    assert {
        "schema_version",
        "arch.kernel_size",
        "arch.block_counts[8]",
        "input.channels",
        "input.size.minimum[0]",
        "outputs[4].loss_weight",
        "expect.parameters.inference",
        "expect.buffers",
        "expect.flops.total",
        "expect.probe.outputs.ds_4.values[4]",
        "training.learning_rate",
        "training.patch_size[2]",
    } <= set(numbers)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.catalog.name}:{entry.path.stem}")
def test_no_number_of_a_released_spec_can_change(entry, tmp_path):
    document = read_yaml(entry.path)
    assert verify_document(tmp_path, document, "schema").passed
    unnoticed = []
    for leaf in some_of_each_section(document, every=entry.name in unlocked_models()):
        model = verify_document(tmp_path, mutated(document, leaf), "schema")
        if model.passed or not names(model.failures, leaf):
            unnoticed.append((text_of(leaf), [check.describe() for check in model.failures]))
    assert unnoticed == []


@pytest.mark.parametrize("name", unlocked_models())
def test_every_number_about_the_network_is_found_wrong_by_measuring_it(name, tmp_path):
    document = read_yaml(catalog.find("model", name).path) | {"name": "mutant"}
    assert verify_document(tmp_path, document, "build").passed
    unnoticed = []
    for leaf in leaves(document):
        if leaf[0] in ("input", "outputs", "expect") and leaf[:3] != ("expect", "probe", "outputs"):
            if leaf[:3] == ("expect", "probe", "input_shape") and leaf[3] == 0:
                continue  # another batch is legal: the next test
            model = verify_document(tmp_path, mutated(document, leaf), "build")
            if model.passed or not names(model.failures, leaf):
                unnoticed.append((text_of(leaf), [check.describe() for check in model.failures]))
            assert not any("was released as" in check.note for check in model.failures)
    assert unnoticed == []


@pytest.mark.parametrize("name", unlocked_models())
def test_every_number_of_the_probe_is_found_wrong_by_computing_it(name):
    spec = get_spec(name)
    declared = spec.expect.probe.model_dump(mode="json")
    measured = run_probe(spec, spec.expect.probe.input_shape)
    assert all(check.ok for check in forward_level.compare_probe(spec.expect.probe, measured))
    found = leaves(declared["outputs"], ("outputs",))
    assert len(found) == 6 * len(spec.outputs)
    for leaf in found:
        probe = Probe.model_validate(mutated(declared, leaf))
        failed = [check for check in forward_level.compare_probe(probe, measured) if not check.ok]
        assert [check.path for check in failed] == [f"expect.probe.{text_of(leaf)}"]


@pytest.mark.parametrize("path", ["outputs.output.rms", "input_shape[0]"])
def test_a_wrong_probe_fails_level_forward(path, tmp_path):
    document = read_yaml(catalog.find("model", "mednext-S").path) | {"name": "mutant"}
    (leaf,) = (leaf for leaf in leaves(document) if text_of(leaf) == f"expect.probe.{path}")
    model = verify_document(tmp_path, mutated(document, leaf), "forward")
    assert [(check.level, check.path) for check in model.failures] == [
        ("forward", re.sub(r"\[\d\]$", "", f"expect.probe.{path}"))
    ]


@pytest.mark.parametrize("change", [{"base_channels": 33}, {"kernel_size": 5}, {"block_counts": [2] * 8 + [3]}])
def test_another_architecture_is_found_by_what_was_recorded(change, tmp_path):
    document = read_yaml(catalog.find("model", "mednext-S").path) | {"name": "mutant"}
    document["arch"] |= change
    paths = {check.path for check in verify_document(tmp_path, document, "build").failures}
    assert {"expect.parameters.training", "expect.fingerprint", "expect.flops.total"} <= paths
