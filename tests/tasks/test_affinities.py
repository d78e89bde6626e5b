"""Affinities: true ones from labels, and the one convention that decoders read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.tasks.affinities import Convention, compute_affinities, convention_of, to_canonical

OFFSETS = [(1, 0, 0), (0, -2, 0), (0, 0, 3), (-1, 2, 0), (0, -1, -1), (9, 0, 0)]


def some_labels():
    return np.random.default_rng(0).integers(0, 3, (5, 6, 7))


@pytest.mark.parametrize("edge_stored_at", ["source", "destination"])
def test_an_affinity_is_that_of_its_two_voxels_and_is_stored_where_it_is_said(edge_stored_at):
    labels = some_labels()
    annotated = np.random.default_rng(1).random(labels.shape) > 0.2
    convention = Convention(tuple(OFFSETS), (True,) * len(OFFSETS), edge_stored_at)
    values, known = compute_affinities(labels, convention, annotated=annotated)
    for channel, offset in enumerate(OFFSETS):
        seen = np.zeros(labels.shape, dtype=bool)
        for first in itertools.product(*map(range, labels.shape)):
            second = tuple(place + step for place, step in zip(first, offset, strict=True))
            if not all(0 <= place < size for place, size in zip(second, labels.shape, strict=True)):
                continue
            holder = first if edge_stored_at == "source" else second
            seen[holder] = True
            assert values[(channel, *holder)] == (labels[first] == labels[second] != 0)
            assert known[(channel, *holder)] == (annotated[first] and annotated[second])
        assert not values[channel][~seen].any()
        assert not known[channel][~seen].any()


@pytest.mark.parametrize("edge_stored_at", ["source", "destination"])
@pytest.mark.parametrize("signs", list(itertools.product([1, -1], repeat=3)))
def test_every_convention_becomes_the_same_canonical_one(edge_stored_at, signs):
    labels = some_labels()
    plain = [(1, 0, 0), (0, 2, 0), (0, 0, 3)]
    wanted, _ = compute_affinities(labels, Convention(tuple(plain), (True,) * 3, "source"))
    offsets = tuple(tuple(sign * step for step in offset) for sign, offset in zip(signs, plain, strict=True))
    convention = Convention(offsets, (True,) * 3, edge_stored_at)
    found, canonical = to_canonical(compute_affinities(labels, convention)[0], convention)
    assert list(canonical) == plain
    np.testing.assert_array_equal(found, wanted)


def test_offsets_are_read_in_the_order_that_the_task_says():
    task = get_task("affinities-6")
    assert convention_of(task).offsets[0] == (1, 0, 0)
    assert convention_of(task).attractive == (True,) * 3 + (False,) * 3
    turned = task.model_copy(update={"affinities": task.affinities.model_copy(update={"axes": "xyz"})})
    assert convention_of(turned).offsets[0] == (0, 0, 1)
