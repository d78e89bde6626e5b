"""Reading: YAML is plain data or an error, and what is written is read back."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectomics_zoo.errors import LimitError, SpecError, ZooError
from connectomics_zoo.files.yaml import MAX_BYTES, MAX_DEPTH, dump_yaml, parse_yaml, parses_to_other_type, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-1.5", -1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("0", 0),
        ("-7", -7),
        ("0x1F", 31),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("Yes", "Yes"),
        ("off", "off"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0o17", "0o17"),
        ("2026-01-01", "2026-01-01"),
        ("1e", "1e"),
        ("1.0.0", "1.0.0"),
        ("vol.h5:raw", "vol.h5:raw"),
        ("'5'", "5"),
        ("<<", "<<"),
        ("=", "="),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(text, value):
    result = parse_yaml(f"key: {text}")["key"]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", r"line 2, column 1: the key 'a' stands twice, keep one"),
        ("a: {b: 1, b: 1}", r"the key 'b' stands twice"),
        ("1: a", r"the key 1 is not a string, put it in quotes"),
        ("true: a", r"the key True is not a string"),
        ("? [a, b]\n: c", r"the key \['a', 'b'\] is not a string"),
        ("a: .nan", r"line 1, column 4: '.nan' is not a finite number"),
        ("a: -.inf", r"'-.inf' is not a finite number"),
        ("a: 1e999", r"'1e999' is not a finite number"),
        ("a: 010", r"'010' starts with 0 \(octal or decimal\?\)"),
        ("a: " + "9" * 41, r"a whole number of 41 digits, at most 40 are allowed"),
        ("a: !!python/object:os.system {}", r"the tag 'tag:yaml.org,2002:python/object:os.system' is not allowed"),
        ("a: !mine x", r"the tag '!mine' is not allowed"),
        ("a: !!binary aGk=", r"the tag '.*binary' is not allowed"),
        ("a: &x 1", r"line 1, column 4: anchors and aliases \(x\) are not allowed"),
        ("a: &x [1]\nb: *x", r"anchors and aliases \(x\) are not allowed"),
        ("a: 1\n---\nb: 2", r"not valid YAML \(but found another document\)"),
        ("a: [1", r"not valid YAML"),
        ("a: b: c", r"not valid YAML \(mapping values are not allowed"),
        ("a: \x00", r"not valid YAML"),
        ("a: \ud800", r"not valid YAML .*surrogates not allowed"),
        ("a: *", r"not valid YAML"),
        ("[" * (MAX_DEPTH + 1), rf"nested deeper than {MAX_DEPTH} levels"),
    ],
)
def test_a_trap_is_an_error_that_says_where(text, message):
    with pytest.raises(SpecError, match=rf"^my.yaml:.*{message}"):
        parse_yaml(text, source="my.yaml")


def test_an_alias_bomb_is_refused_before_it_is_expanded():
    lines = ["a0: &a0 [lol, lol]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 100)]
    with pytest.raises(SpecError, match="anchors and aliases"):
        parse_yaml("\n".join(lines))


def test_an_error_in_a_file_names_the_file_and_the_line(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("a: 1\nb: [1, 2\n")
    with pytest.raises(SpecError, match=r"bad.yaml: line 3, column 1: not valid YAML .*, mend it there"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds NoneType, a spec is a mapping of keys to values"),
        (b"# only a comment\n", "holds NoneType"),
        (b"- 1\n- 2\n", "holds list, a spec is a mapping"),
        (b"just text\n", "holds str, a spec is a mapping"),
        (b"a: \xff\xfe\n", r"not UTF-8 text \(byte 3\), save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_mapping_is_an_error(tmp_path, content, message):
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=message):
        read_yaml(path)


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(SpecError, match=r"none.yaml: cannot be read \(No such file or directory\), check the path"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match=r"cannot be read \(Is a directory\)"):
        read_yaml(tmp_path)


def test_a_file_over_the_limit_is_refused_and_one_at_the_limit_is_read(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text("a: 1\n".ljust(MAX_BYTES, "#"))
    assert read_yaml(path) == {"a": 1}
    path.write_text("a: 1\n".ljust(MAX_BYTES + 1, "#"))
    with pytest.raises(LimitError, match=f"larger than the {MAX_BYTES} bytes that a spec may have"):
        read_yaml(path)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_data_or_a_typed_error(text):
    with contextlib.suppress(ZooError):
        parse_yaml(text)


_PIECES = r"""a|b: |\n| |- |[|]|{|}|,|: |1|1e|.nan|&x |*x|!t |? |>|"|'|#|---\n|%|\t|\|<<: |2026-01-01|0x"""
_YAML_LIKE = st.lists(
    st.sampled_from(["|\n", *(piece.replace("\\n", "\n").replace("\\t", "\t") for piece in _PIECES.split("|"))]),
    max_size=30,
).map("".join)


@settings(max_examples=500, deadline=None)
@given(_YAML_LIKE)
def test_any_yaml_like_text_is_data_or_a_typed_error(text):
    with contextlib.suppress(ZooError):
        parse_yaml(text)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_file_is_a_mapping_or_a_typed_error(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    with contextlib.suppress(ZooError):
        assert isinstance(read_yaml(path), dict)


_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20) | st.sampled_from(
    [
        "1e-3",
        "no",
        "null",
        "0x1f",
        "~",
        "",
        "1.0",
        "010",
        "true",
        "a: b",
        "- x",
        "#",
        ".nan",
        "two\nlines",
        "two\nlines\n",
    ]
)
_DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(_DATA)
def test_what_is_written_is_read_back(data):
    again = parse_yaml(dump_yaml(data))
    assert again == data
    assert repr(again) == repr(data)


def test_short_lists_are_written_in_one_line_and_long_texts_as_blocks():
    assert dump_yaml({"size": [1, 2], "text": "a\nb\n"}) == "size: [1, 2]\ntext: |\n  a\n  b\n"


@pytest.mark.parametrize("text", ["1e-3", "12", "null", "true", "", "-.inf"])
def test_a_text_that_reads_as_something_else_is_found(text):
    assert parses_to_other_type(text)


@pytest.mark.parametrize("text", ["no", "1:30", "a", "1.0.0", "vol.h5:raw"])
def test_a_text_that_reads_as_itself_is_found(text):
    assert not parses_to_other_type(text)


def test_numbers_keep_their_value():
    assert parse_yaml(dump_yaml({"a": 1e-07, "b": 0.1, "c": -0.0}))["a"] == 1e-07
    assert math.copysign(1, parse_yaml(dump_yaml({"c": -0.0}))["c"]) == -1
