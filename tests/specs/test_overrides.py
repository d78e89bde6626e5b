"""Overrides: `key=value` to nested data, merged into documents and models, refused where no such field exists."""

from __future__ import annotations

import contextlib
import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectomics_zoo.errors import SpecError, UnknownNameError, ZooError
from connectomics_zoo.schema.experiment import ExperimentSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.overrides import MODEL_KEYS, merge, override_model, parse_overrides


def test_dotted_keys_nest():
    assert parse_overrides(["a.b.c=1", "a.b.d=2", "e=3"]) == {"a": {"b": {"c": 1, "d": 2}}, "e": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5", 5),
        (" 5 ", 5),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("{b: 1}", {"b": 1}),
        ("'5'", "5"),
        ("''", ""),
        ("vol.h5:raw", "vol.h5:raw"),
        ("/data/a=b.h5:x", "/data/a=b.h5:x"),
        ("no", "no"),
        ("???", "???"),
        ("Note: a text", "Note: a text"),
        ("volume #1.tif", "volume #1.tif"),
        ("- x", "- x"),
        ("*.h5", "*.h5"),
        ("&x", "&x"),
        ("!tag x", "!tag x"),
        ("a, b", "a, b"),
    ],
)
def test_a_value_is_a_number_a_list_or_the_text_itself(text, value):
    result = parse_overrides([f"key={text}"])["key"]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["fast"], r"'fast' is no override, write key=value"),
        (["=1"], r"'=1' has an empty key"),
        (["a..b=1"], r"'a..b=1' has an empty key"),
        ([".a=1"], r"has an empty key"),
        (["a="], r"a= has no value, write a=null for nothing or a='' for an empty text"),
        (["a.b=1", "a.b=2"], r"'a.b' is given twice, keep one"),
        (["a=1", "a.b=2"], r"'a' and 'a.b' are both given, and one is a part of the other: keep one"),
        (["a.b=2", "a=1"], r"'a' and 'a.b' are both given"),
        (["a={b: 1}", "a.c=2"], r"'a' and 'a.c' are both given"),
        (["a.b.c.d=2", "a.b=1"], r"'a.b' and 'a.b.c.d' are both given"),
        (["size=[1, 2"], r"size=\[1, 2: .*not valid YAML"),
        (["rate=.nan"], r"rate=.nan: .*not a finite number"),
        (["n=010"], r"'010' starts with 0"),
    ],
)
def test_a_wrong_override_is_named(items, message):
    with pytest.raises(SpecError, match=message):
        parse_overrides(items)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet="ab.=01 [{:'", max_size=8), max_size=4))
def test_any_texts_are_a_mapping_or_a_typed_error(items):
    with contextlib.suppress(ZooError):
        assert isinstance(parse_overrides(items), dict)


def test_merging_is_deep_replaces_lists_and_modifies_nothing():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    before = copy.deepcopy(base)
    assert merge(base, {"a": {"c": [3]}, "e": {"f": 5}}) == {"a": {"b": 1, "c": [3]}, "d": 4, "e": {"f": 5}}
    assert base == before


_VOLUMES = {
    "data": {"train": [{"image": "a", "label": "b"}], "validation": [], "both": [{"image": "a"}, {"image": "b"}]}
}


def _merged(*items):
    return merge(_VOLUMES, parse_overrides(items))["data"]


def test_an_index_addresses_an_element_and_the_next_one_appends():
    assert _merged("data.both.1.image=x")["both"] == [{"image": "a"}, {"image": "x"}]
    assert _merged("data.train.1.image=x", "data.train.1.label=y")["train"][1] == {"image": "x", "label": "y"}
    assert _merged("data.validation.0.image=x")["validation"] == [{"image": "x"}]
    assert merge({}, parse_overrides(["train.0.image=x"])) == {"train": [{"image": "x"}]}
    assert merge({"counts": [1, 2, 3]}, parse_overrides(["counts.1=9"])) == {"counts": [1, 9, 3]}


def test_an_index_of_more_digits_than_a_number_can_be_read_from_is_no_index():
    with pytest.raises(SpecError, match=r"data.train has 2 elements, say which: data.train.0.9{7}"):
        merge({"data": {"train": [{}, {}]}}, {"data": {"train": {"9" * 7: {"image": "x"}}}})
    with pytest.raises(SpecError, match=r"data\.train\.9{99}"):
        merge({"data": {"train": [{}, {}]}}, {"data": {"train": {"9" * 5000: {"image": "x"}}}})


def test_the_only_volume_needs_no_index():
    assert _merged("data.train.image=x")["train"] == [{"image": "x", "label": "b"}]
    assert _merged("data.validation.image=x", "data.validation.label=y")["validation"] == [{"image": "x", "label": "y"}]


def test_one_volume_on_a_model_without_data_is_a_valid_list_of_one():
    document = merge(
        {"schema_version": 1, "name": "x", "summary": "X.", "model": "m", "task": "t", "data": {}},
        parse_overrides(["data.train.image=a.h5:raw", "data.train.label=a.h5:mito"]),
    )
    data = validate(ExperimentSpec, document, source="x").data
    assert [(pair.image, pair.label) for pair in data.train] == [("a.h5:raw", "a.h5:mito")]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("data.both.image=x", r"data.both.image: data.both has 2 elements, say which: data.both.0.image=value"),
        ("data.train.2.image=x", r"data.train.2: data.train has 1 element\(s\), the next index is 1"),
        ("data.train.image.x=1", r"data.train.image.x: data.train.image is 'a', which has no parts"),
    ],
)
def test_an_address_that_does_not_exist_is_an_error(item, message):
    with pytest.raises(SpecError, match=message):
        _merged(item)


def test_a_model_without_changes_stays_the_same():
    assert override_model("mednext-S", {}) == get_spec("mednext-S")


def test_an_architecture_override_changes_the_interface_and_drops_the_measurement():
    spec = override_model(
        "mednext-S", parse_overrides(["arch.spatial_dims=2", "input.channels=3", "outputs.channels=5"])
    )
    assert spec.input.axes == "yx"
    assert spec.input.channels == 3
    assert {output.channels for output in spec.outputs} == {5}
    assert spec.expect is None


def test_an_element_of_an_architecture_list_can_be_overridden():
    counts = override_model("mednext-S", parse_overrides(["arch.block_counts.4=8"])).arch.model_dump()["block_counts"]
    assert list(counts) == [2, 2, 2, 2, 8, 2, 2, 2, 2]


def test_a_recipe_override_keeps_the_measurement():
    declared = get_spec("mednext-S")
    spec = override_model("mednext-S", parse_overrides(["training.batch_size=7", "summary=Mine."]))
    assert (spec.training.batch_size, spec.summary) == (7, "Mine.")
    assert spec.expect == declared.expect


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ("arch.kernal_size=5", UnknownNameError, r"unknown key arch.kernal_size .*did you mean 'kernel_size'"),
        ("training.batch_sise=2", SpecError, r"training.batch_sise: unknown key, did you mean 'batch_size'"),
        ("trainin.batch_size=2", UnknownNameError, r"unknown key trainin.batch_size .*did you mean 'training'"),
        ("source.papr=x", SpecError, r"source.papr: unknown key, did you mean 'paper'"),
        ("expect.buffers=2", SpecError, r"expect.buffers is fixed in mednext-S, only arch, input.channels"),
        ("input.size=[1, 2, 3]", SpecError, r"input.size is fixed in mednext-S"),
        ("name=x", SpecError, r"name is fixed in mednext-S"),
        ("outputs.0.channels=2", SpecError, r"outputs.0 is fixed"),
        ("arch=5", SpecError, r"arch=5 for mednext-S: it is a mapping, write arch.KEY=value"),
        ("input.channels=null", SpecError, r"input.channels is None, it must be a whole number"),
        ("outputs.channels=many", SpecError, r"outputs.channels is 'many', it must be a whole number"),
        ("input.channels=0", SpecError, r"input.channels is 0, it must be a whole number of at least 1"),
        ("arch.kernel_size=4", SpecError, r"kernel_size 4 is even"),
        ("training.batch_size=2.5", SpecError, r"training.batch_size: Input should be a valid integer"),
        ("training.patch_size=[17, 64, 64]", SpecError, r"patch_size \[17, 64, 64\] is not a legal input size"),
        ("training=5", SpecError, r"training: Input should be .*TrainingSpec"),
    ],
)  # fmt: skip
def test_an_override_of_a_model_that_cannot_be_is_an_error(item, error, message):
    with pytest.raises(error, match=message):
        override_model("mednext-S", parse_overrides([item]))


def test_every_key_that_may_be_overridden_is_a_field():
    assert {key.partition(".")[0] for key in MODEL_KEYS} <= set(ModelSpec.model_fields)


def test_every_unknown_key_is_named_with_its_place():
    document = get_spec("mednext-S").model_dump(mode="json")
    document["outputs"][1]["strides"] = [2, 2, 2]
    document["input"]["size"]["steps"] = [1, 1, 1]
    with pytest.raises(
        SpecError, match=r"input.size.steps: unknown key, .*'step'.*outputs\[1\].strides: unknown key, .*'stride'"
    ):
        validate(ModelSpec, document, source="x")
