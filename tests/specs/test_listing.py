"""The list: rows from YAML alone, chosen by pattern and expression, in natural order; broken files never break it."""

from __future__ import annotations

import dataclasses
import logging
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectomics_zoo.errors import LimitError, UnknownNameError, ZooError
from connectomics_zoo.specs.choosing import filter_rows, sort_rows
from connectomics_zoo.specs.listing import list_models, read_experiment_rows, read_rows, read_task_rows
from connectomics_zoo.specs.lookup import get_experiment, get_spec, get_task
from connectomics_zoo.specs.rows import FIELDS, ExperimentRow, ModelRow, TaskRow
from connectomics_zoo.specs.where import compile_where


@pytest.fixture(scope="module")
def example():
    return next(row for row in read_rows().rows if row.reference == "mednext-S")


def _rows(example, **values):
    """One row a value: `name=["a", "b"]`."""
    (field, column), *_ = values.items()
    names = {} if field == "name" else {"name": [f"n{index}" for index in range(len(column))]}
    columns = names | values
    rows = zip(*columns.values(), strict=True)
    return [dataclasses.replace(example, **dict(zip(columns, row, strict=True))) for row in rows]


def test_a_row_says_what_the_spec_declares(example):
    spec = get_spec("mednext-S")
    assert (example.name, example.version, example.family) == (spec.name, spec.version, spec.family)
    assert example.parameters == spec.expect.parameters.training == 5_552_843
    assert example.parameters_inference == spec.expect.parameters.inference == 5_550_915
    assert example.gflops == spec.expect.flops.total / 1e9
    assert example.flops_input == list(spec.expect.flops.input_shape)
    assert example.scales == len(spec.outputs) == 5
    assert example.deep_supervision
    assert (example.minimum, example.step) == ([16, 32, 32], [16, 16, 16])
    assert (example.input_channels, example.output_channels, example.axes) == (1, 2, "zyx")
    assert example.weights == list(spec.weights)
    assert example.license == spec.source.license


def test_every_builtin_model_is_listed_and_none_is_broken():
    listing = read_rows()
    assert not [broken for broken in listing.broken if "/zoo/specs/" in str(broken.path)]
    assert {"mednext-S", "mednext-B", "mednext-M", "mednext-L", "mednext-S-k5"} <= {row.name for row in listing.rows}


@pytest.mark.parametrize(("kind", "row"), [("model", ModelRow), ("task", TaskRow), ("experiment", ExperimentRow)])
def test_every_field_has_a_description(kind, row):
    assert list(FIELDS[kind]) == [field.name for field in dataclasses.fields(row)]
    assert all(len(text) > 5 for text in FIELDS[kind].values())


def test_the_rows_of_tasks_say_what_their_specs_declare():
    listing = read_task_rows()
    assert {"mito", "binary"} <= {row.name for row in listing.rows}
    assert not listing.broken
    for row in listing.rows:
        task = get_task(row.reference)
        assert (row.name, row.summary, row.decoding) == (task.name, task.summary, task.decode.method)
        assert row.channels == [channel.name for channel in task.channels]
        assert row.targets == [channel.target.kind for channel in task.channels]
        assert row.metrics == list(task.metrics)


def test_the_rows_of_experiments_say_what_their_specs_declare():
    listing = read_experiment_rows()
    assert "vnc-mito" in {row.name for row in listing.rows}
    assert not listing.broken
    for row in listing.rows:
        experiment = get_experiment(row.reference)
        declared = (experiment.name, experiment.summary, experiment.model, experiment.task)
        assert (row.name, row.summary, row.model, row.task) == declared


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{summary: x}", "channels is missing, every spec of this kind has it"),
        ("{summary: x, channels: [5], decode: {method: x}, metrics: []}", "channels.0.name is missing"),
        ("{summary: x, channels: [], decode: {method: x}, metrics: [1]}", "metrics.0 is 1, it must be of the type str"),
    ],
)
def test_a_broken_task_is_named_and_the_others_are_listed(add_spec, text, message):
    names = [row.name for row in read_task_rows().rows]
    path = add_spec("broken", kind="task", text=text)
    listing = read_task_rows()
    assert [row.name for row in listing.rows] == names
    ((where, reason),) = listing.broken
    assert where == path
    assert message in reason


def test_tasks_are_chosen_and_sorted_by_their_own_fields():
    rows = read_task_rows().rows
    chosen = filter_rows(rows, kind="task", where="'recall' in metrics")
    assert [row.name for row in chosen] == [row.name for row in rows if "recall" in row.metrics] != []
    assert [row.name for row in filter_rows(rows, kind="task", pattern="zoo:MI*")] == ["mito", "mito-instance"]
    by_summary = sort_rows(rows, kind="task", by="-summary")
    assert [row.summary for row in by_summary] == sorted((row.summary for row in rows), reverse=True)
    with pytest.raises(UnknownNameError, match="unknown field 'parameters'"):
        filter_rows(rows, kind="task", where="parameters < 5")
    with pytest.raises(UnknownNameError, match="unknown field 'scales' to sort by"):
        sort_rows(rows, kind="task", by="scales")


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("*", ["mednext-S", "mednext-S-k5", "monai_unet"]),
        ("mednext*", ["mednext-S", "mednext-S-k5"]),
        ("MEDNEXT-s*", ["mednext-S", "mednext-S-k5"]),
        ("*-k5", ["mednext-S-k5"]),
        ("mednext-S", ["mednext-S"]),
        ("monai", ["monai_unet"]),
        ("zoo:monai*", ["monai_unet"]),
        ("unet", []),
        ("mednext-?", ["mednext-S"]),
    ],
)
def test_a_pattern_is_a_glob_over_names_and_families(example, pattern, chosen):
    names = ["mednext-S", "mednext-S-k5", "monai_unet"]
    rows = _rows(example, name=names, reference=names, family=["mednext", "mednext", "monai"])
    assert [row.name for row in filter_rows(rows, pattern=pattern)] == chosen


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ("parameters < 20e6", ["n0"]),
        ("parameters<20e6 and deep_supervision", ["n0"]),
        ("not deep_supervision", ["n1"]),
        ("5e6 <= parameters <= 3e7", ["n0", "n1"]),
        ("parameters == null", ["n2"]),
        ("parameters != null", ["n0", "n1"]),
        ("not parameters < 20e6", ["n1", "n2"]),
        ("(parameters > 1e9 or name == 'n2') and deep_supervision == true", ["n2"]),
        ("name in ['n1', 'n2']", ["n1", "n2"]),
        ("'mito' in weights", ["n0"]),
        ("'mito' not in weights", ["n1", "n2"]),
        ("minimum == [16, 32, 32]", ["n0", "n1", "n2"]),
        ("scales > -1", ["n0", "n1", "n2"]),
        ("", ["n0", "n1", "n2"]),
        (" \n", ["n0", "n1", "n2"]),
    ],
)
def test_an_expression_chooses_by_fields(example, where, chosen):
    rows = _rows(
        example,
        parameters=[5_552_843, 23_000_000, None],
        deep_supervision=[True, False, True],
        weights=[["mito"], [], []],
    )
    assert [row.name for row in filter_rows(rows, where=where)] == chosen


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("parmeters < 1", r"unknown field 'parmeters': did you mean 'parameters'"),
        ("__class__", r"unknown field '__class__'"),
        ("parameters <", r"is no expression \(invalid syntax\), write fields, numbers"),
        ("parameters = 5", r"is no expression"),
        ("name < 5", r"compares what cannot be compared: '<' not supported between"),
        ("name in 5", r"compares what cannot be compared"),
        ("parameters + 1 > 2", r"'parameters \+ 1' is not allowed, write fields, numbers"),
        ("name.upper() == 'X'", r"'name.upper\(\)' is not allowed"),
        ("print(name)", r"unknown field 'print'"),
        ("len('x')", r"unknown field 'len'"),
        ("name[0] == 'm'", r"'name\[0\]' is not allowed"),
        ("[name for name in weights]", r"is not allowed"),
        ("(lambda: 1)()", r"is not allowed"),
        ("f'{name}'", r"is not allowed"),
        ("name is null", r"is not allowed"),
        ("b'x' == name", r"is not allowed"),
        ("2 ** 9999999", r"is not allowed"),
        ("(name := 'x')", r"is not allowed"),
        ("(" * 400, r"is no expression"),
        ("\0", r"is no expression"),
        ("1" + " or 1" * 200, r"--where has 1001 characters, at most 500 are allowed"),
    ],
)
def test_a_wrong_expression_is_an_error(example, where, message):
    with pytest.raises(ZooError, match=f"(?s){message}"):
        filter_rows([example], where=where)


def test_an_expression_is_checked_even_where_there_is_nothing_to_choose_from():
    with pytest.raises(UnknownNameError, match="unknown field 'x'"):
        filter_rows([], where="x")
    with pytest.raises(LimitError):
        compile_where("1" * 501, fields=[])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "a",
                "1",
                "<",
                "==",
                "and",
                "or",
                "not",
                "(",
                ")",
                "[",
                "]",
                ",",
                "'",
                "in",
                "-",
                ".",
                ":",
                "null",
                "true",
                "+",
                "**",
                "lambda",
                "if",
                "else",
            ]
        )
    )
)
def test_any_expression_is_a_decision_or_a_typed_error(words):
    try:
        decision = compile_where(" ".join(words), fields=["a"])({"a": 1})
    except ZooError:
        return
    assert isinstance(decision, bool)


def test_names_sort_naturally_in_any_case(example):
    rows = _rows(example, name=["x10", "X2", "a", "x1", "x2b"])
    assert [row.name for row in sort_rows(rows)] == ["a", "x1", "X2", "x2b", "x10"]
    assert [row.name for row in sort_rows(rows, by="-name")] == ["x10", "x2b", "X2", "x1", "a"]


def test_versions_sort_as_numbers(example):
    rows = _rows(example, version=["1.10.0", "1.2.0", "1.9.9"])
    assert [row.version for row in sort_rows(rows, by="version")] == ["1.2.0", "1.9.9", "1.10.0"]


def test_numbers_sort_up_or_down_and_what_is_unknown_comes_last(example):
    rows = _rows(example, parameters=[5, None, 1, 9])
    assert [row.parameters for row in sort_rows(rows, by="parameters")] == [1, 5, 9, None]
    assert [row.parameters for row in sort_rows(rows, by="-parameters")] == [9, 5, 1, None]


@pytest.mark.parametrize("field", FIELDS["model"])
def test_every_field_can_be_sorted_by_and_asked_for(field):
    rows = read_rows().rows
    assert len(sort_rows(rows, by=f"-{field}")) == len(rows)
    assert filter_rows(rows, where=f"{field} == null or {field} != null") == rows


def test_an_unknown_sort_field_is_an_error():
    with pytest.raises(UnknownNameError, match=r"unknown field 'params' to sort by: did you mean 'parameters'"):
        sort_rows([], by="params")


def test_older_versions_are_listed_only_on_request(add_spec):
    add_spec("mednext-XS", {"version": "2.0.0"})
    add_spec("mednext-XS@1.0.0")
    current = [row.reference for row in filter_rows(read_rows().rows, pattern="mednext-XS")]
    everything = [row.reference for row in filter_rows(read_rows(all_versions=True).rows, pattern="mednext-XS")]
    assert current == ["mednext-XS"]
    assert everything == ["mednext-XS@1.0.0", "mednext-XS"]
    assert list_models("mednext-XS") == ["mednext-XS"]


def test_a_name_in_two_catalogues_is_listed_as_it_must_be_written(add_spec):
    add_spec("mednext-S")
    add_spec("mednext-XS")
    assert list_models("mednext-?S") == ["mednext-XS"]
    assert list_models("mednext-S") == ["other:mednext-S", "zoo:mednext-S"]
    assert list_models("other:*") == ["other:mednext-S", "mednext-XS"]
    assert all(get_spec(reference).name for reference in list_models())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1", "holds list"),
        ("name: x", r"outputs is missing, every spec of this kind has it"),
        ("{expect: 5, outputs: []}", r"expect is 5, it must be of the type dict"),
        ("{outputs: []}", r"version is missing"),
        ("{outputs: [], version: 1.0}", r"version is 1.0, it must be of the type str"),
    ],
)
def test_a_broken_file_is_named_and_never_breaks_the_list(add_spec, caplog, text, message):
    names = list_models()
    path = add_spec("broken", text=text)
    listing = read_rows()
    assert [row.reference for row in listing.rows] == names
    ((where, reason),) = listing.broken
    assert where == path
    assert re.search(message, reason)
    with caplog.at_level(logging.WARNING):
        assert list_models() == names
    assert f"{path} is left out of the list" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": {"channels": 1, "axes": "zyx", "size": {"minimum": 16, "step": [1]}}}, "input.size.minimum is 16"),
        ({"input": {"channels": 1, "axes": "zyx", "size": {"minimum": [], "step": [1]}}}, "input.size.minimum is"),
        ({"input": {"channels": True, "axes": "zyx"}}, "input.channels is True, it must be of the type int"),
        ({"expect": {"parameters": {"training": "many"}}}, "expect.parameters.training is 'many'"),
        ({"outputs": []}, "outputs.0.channels is missing"),
        ({"outputs": [5]}, "outputs.0.channels is missing"),
        ({"weights": [1]}, "weights is .*, it must be of the type dict"),
    ],
)
def test_a_field_of_another_type_makes_a_broken_row_not_a_crash(add_spec, changes, message):
    add_spec("broken", changes)
    ((_, reason),) = read_rows().broken
    assert re.search(message, reason)


def test_a_model_that_was_not_measured_is_listed_without_numbers(add_spec):
    add_spec("fresh", {"expect": None})
    (row,) = filter_rows(read_rows().rows, pattern="fresh")
    assert (row.parameters, row.gflops, row.flops_input) == (None, None, None)


def test_the_list_of_names_takes_every_argument():
    assert list_models("mednext-*-k5", where="parameters < 11e6", sort="-parameters") == [
        "mednext-B-k5",
        "mednext-S-k5",
    ]
    assert list_models(family="no-such-family") == []
    assert set(list_models(family="mednext")) == set(list_models("mednext"))
    assert list_models("nothing*") == []
