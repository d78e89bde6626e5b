"""JSON of unknown origin is plain data, or refused in one sentence."""

from __future__ import annotations

import json

import pytest

from connectomics_zoo.errors import SpecError
from connectomics_zoo.files.json_text import parse_json
from connectomics_zoo.files.yaml import MAX_BYTES, MAX_DEPTH


def nested(levels):
    return '{"a":' * levels + "1" + "}" * levels


def test_a_mapping_is_read_as_it_was_written():
    document = {"text": "\N{GRINNING FACE} <é>", "numbers": [1, 2.5, None, True], "inner": {"a": {}}}
    assert parse_json(json.dumps(document), source="x") == document
    assert parse_json(nested(MAX_DEPTH), source="x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "x: not valid JSON"),
        ("[]", "x: holds list, and must be a mapping of keys to values."),
        ('{"a": 1, "a": 1}', "x: not valid JSON (a key stands twice), mend it there."),
        ('{"a": "\\udc00"}', "x: not valid JSON"),
        (nested(MAX_DEPTH + 1), f"x: nested deeper than {MAX_DEPTH} levels"),
        (nested(100_000 // 6), "x: not valid JSON"),
        (" " * MAX_BYTES + "{}", f"x: longer than the {MAX_BYTES} characters"),
    ],
)
def test_anything_else_is_refused(text, words):
    with pytest.raises(SpecError) as error:
        parse_json(text, source="x")
    assert words in str(error.value)
