"""What makes two networks the same, for versions, locks, conversion and comparison alike."""

from __future__ import annotations

import pytest
from pydantic import Field
from support.networks import gains

from connectomics_zoo.files.yaml import dump_yaml, parse_yaml
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.identity import (
    is_same_function,
    is_same_network,
    may_change_function,
    network_changes,
    network_of,
)
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.overrides import override_model
from connectomics_zoo.specs.resolve import resolve_model

SPEC = get_spec("mednext-S")
RECIPE = override_model(SPEC, {"training": {"learning_rate": 0.5}, "summary": "Another."})


def with_loss_weight(value):
    outputs = (*SPEC.outputs[:-1], SPEC.outputs[-1].model_copy(update={"loss_weight": value}))
    return SPEC.model_copy(update={"outputs": outputs})


OTHERS = {
    "arch": resolve_model(SPEC, arch={"residual": False}),
    "input": resolve_model(SPEC, in_channels=2),
    "outputs": resolve_model(SPEC, out_channels=3),
    "a loss weight": with_loss_weight(0.9),
    "builder": SPEC.model_copy(update={"builder": "rsunet"}),
}


def test_recipe_measurements_and_texts_are_no_part_of_the_network():
    unmeasured = RECIPE.model_copy(update={"expect": None, "name": "other", "version": "2.0.0", "weights": {}})
    assert is_same_network(SPEC, unmeasured)
    assert network_of(SPEC) == network_of(unmeasured)
    assert network_changes(unmeasured, network_of(SPEC)) == []


@pytest.mark.parametrize("what", OTHERS)
def test_each_field_of_the_network_makes_another_one(what):
    assert not is_same_network(SPEC, OTHERS[what])
    assert network_changes(OTHERS[what], network_of(SPEC))


def test_a_change_is_named_with_both_values():
    (change,) = network_changes(OTHERS["arch"], network_of(SPEC))
    assert change == ("arch.residual", False, True)


def test_what_is_kept_as_yaml_is_what_it_was():
    kept = parse_yaml(dump_yaml(network_of(SPEC)))
    assert kept == network_of(SPEC)
    assert kept["arch"]["encoder_kernel_size"] is None, "a default of None is kept, too"


def test_a_field_that_the_builder_gained_is_no_change_while_it_has_its_default(monkeypatch):
    kept = network_of(SPEC)
    gains(monkeypatch, arch={"stem_kernel": (int, 1)})
    assert network_changes(get_spec("mednext-S"), kept) == []
    changed = resolve_model("mednext-S", arch={"stem_kernel": 3})
    assert network_changes(changed, kept) == [("arch.stem_kernel", 3, None)]


def test_a_default_that_has_changed_makes_another_network(monkeypatch):
    kept = network_of(SPEC)
    gains(monkeypatch, arch={"residual": (bool, Field(default=False))})
    assert network_changes(get_spec("mednext-S"), kept) == [("arch.residual", False, True)]


def test_weights_do_the_same_whatever_the_loss_weighs():
    assert is_same_function(SPEC, OTHERS["a loss weight"])
    assert not may_change_function(["outputs", "ds_4", "loss_weight"])
    assert may_change_function(["outputs", "ds_4", "stride"])


@pytest.mark.parametrize("what", ["arch", "input", "outputs", "builder"])
def test_without_measurements_only_an_equal_network_does_the_same(what):
    one, other = (spec.model_copy(update={"expect": None}) for spec in (SPEC, OTHERS[what]))
    assert is_same_function(one, one)
    assert not is_same_function(one, other)


def test_without_probes_another_architecture_does_something_else():
    def unprobed(spec: ModelSpec) -> ModelSpec:
        return spec.model_copy(update={"expect": SPEC.expect.model_copy(update={"probe": None})})

    assert is_same_function(unprobed(SPEC), unprobed(RECIPE))
    assert not is_same_function(unprobed(SPEC), unprobed(OTHERS["arch"]))
