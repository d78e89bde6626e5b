"""Licences: named as the Hub names them, and what they ask of users."""

from __future__ import annotations

import pytest

from connectomics_zoo.push.licences import hub_licence, licence_meaning


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("CC-BY-NC-SA-3.0", ("cc-by-nc-sa-3.0", None)),
        ("CC BY 4.0", ("cc-by-4.0", None)),
        ("Apache-2.0", ("apache-2.0", None)),
        ("ask Jane", ("other", "ask-jane")),
    ],
)
def test_licences_are_called_as_the_hub_calls_them(text, known):
    assert hub_licence(text) == known


def test_what_a_licence_asks_is_said():
    assert "no commercial use" in licence_meaning("CC-BY-NC-4.0")
    assert "no commercial use" not in licence_meaning("CC-BY-SA-4.0")
    assert "same licence" in licence_meaning("CC-BY-SA-4.0")
    assert "may not be shared" in licence_meaning("CC-BY-ND-4.0")
    assert "read that" in licence_meaning("my own")
