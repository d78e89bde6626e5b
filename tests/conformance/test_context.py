"""`pytest --zoo` on a network with valid padding, whose outputs are smaller than its input."""

from __future__ import annotations

from types import SimpleNamespace

from support.valid_network import valid_spec

from connectomics_zoo.conformance.network_checks import legal_sizes


def test_outputs_are_as_large_as_the_context_leaves():
    spec = valid_spec()
    assert legal_sizes(SimpleNamespace(name="valid", spec=spec)) == []
    without = spec.model_copy(update={"input": spec.input.model_copy(update={"context": None})})
    first, *_ = legal_sizes(SimpleNamespace(name="valid", spec=without))
    assert "for [5, 10, 10] it returns {'output': [1, 1, 1, 2, 2]}" in first
