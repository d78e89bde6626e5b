"""The context that a spec declares is that of the network, by its builder and by real passes."""

from __future__ import annotations

import pytest
from support.tiny_spec import failures
from support.valid_network import CONTEXT, valid_spec
from torch import nn

from connectomics_zoo.errors import SpecError
from connectomics_zoo.network.build import measure_expectation
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.spec_file import write_spec
from connectomics_zoo.verify import build_level, forward_level, verify


@pytest.fixture(scope="module")
def spec():
    found = valid_spec().model_copy(update={"name": "valid", "version": "0.0.0", "changes": {"0.0.0": "A test."}})
    return found.model_copy(update={"expect": measure_expectation(found)})


def changed(spec, **changes):
    document = spec.model_dump(mode="json")
    document["input"] |= changes
    return document


def test_a_network_with_a_context_passes_every_level(spec, tmp_path):
    write_spec(spec, path=tmp_path / "valid.yaml")
    report = verify([str(tmp_path / "valid.yaml")], level="forward")
    assert not failures(report), failures(report)


@pytest.mark.parametrize("context", [[2, 4, 3], None])
def test_a_context_that_is_not_the_network_s_is_found_by_its_builder_and_by_real_passes(spec, context):
    wrong = validate(ModelSpec, changed(spec, context=context), source="wrong")
    for level in (build_level.check_build, forward_level.check_forward):
        found = next(check for check in level(wrong) if not check.ok and check.path == "input.context")
        assert (found.declared, found.measured) == (context, list(CONTEXT))


def test_a_network_that_is_cropped_by_chance_is_found(spec, monkeypatch):
    """One that gives a voxel less at one end than at the other has no context that a spec could declare."""

    class Lopsided(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x)[..., 1:]

    build_meta = build_level.build_meta
    monkeypatch.setattr(build_level, "build_meta", lambda *args, **options: Lopsided(build_meta(*args, **options)))
    assert any(check.path == "outputs[0].stride" and not check.ok for check in build_level.check_build(spec))


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ([2, 4], "context has 2 axes and size 3, give both the same"),
        ([0, 0, 0], "context is 0 along every axis, leave it out"),
        ([2, 5, 4], "leaves nothing of the smallest input"),
    ],
)
def test_a_context_that_cannot_be_is_refused(spec, context, message):
    with pytest.raises(SpecError, match=message):
        validate(ModelSpec, changed(spec, context=context), source="wrong")
