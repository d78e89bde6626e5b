"""Targets: what each kind makes of labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.tasks import make_task, make_task_targets

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.schema.task import LabelSpec, TaskSpec
from connectomics_zoo.specs.listing import read_task_rows
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.tasks.targets import is_continuous, make_targets
from connectomics_zoo.tasks.targets.distance import edge_distances
from connectomics_zoo.tasks.targets.labels import prepare_labels
from connectomics_zoo.tasks.targets.shape_descriptors import shape_descriptors


def targets(labels, kind, *, voxel_size_nm=None):
    # Beside a channel that can be scored, which every task has.
    task = make_task(("sigmoid", kind, {"mse": 1.0}), ("sigmoid", "value" if kind == "value" else "foreground", {}))
    return make_targets(np.asarray(labels), task=task, voxel_size_nm=voxel_size_nm).values[0]


LABELS = np.array([[[0, 0, 1, 1], [0, 0, 1, 2]], [[0, 0, 1, 1], [0, 0, 1, 1]]], np.uint16)


def test_foreground_is_every_label_but_zero_and_background_the_rest():
    assert np.array_equal(targets(LABELS, "foreground"), LABELS > 0)
    assert np.array_equal(targets(LABELS, "background"), LABELS == 0)


def test_the_binary_task_s_targets_are_one_hot():
    both = make_targets(LABELS, task=get_task("binary"), voxel_size_nm=None).values
    assert both.dtype == np.float32
    assert np.array_equal(both.sum(axis=0), np.ones(LABELS.shape))
    assert np.array_equal(both[1], LABELS > 0)


def test_boundaries_are_both_voxels_of_a_face_between_two_labels():
    expected = np.array([[[0, 1, 1, 1], [0, 1, 1, 1]], [[0, 1, 1, 0], [0, 1, 1, 1]]])
    for voxel_size_nm in ((8, 8, 8), (7.9, 4, 4)):
        assert np.array_equal(targets(LABELS, "boundary", voxel_size_nm=voxel_size_nm), expected)


@pytest.mark.parametrize("voxel_size_nm", [None, (50, 4.6, 4.6), (8, 4, 4)])
def test_thick_sections_are_not_compared_with_each_other(voxel_size_nm):
    expected = np.array([[[0, 1, 1, 1], [0, 1, 1, 1]], [[0, 1, 1, 0], [0, 1, 1, 0]]])
    assert np.array_equal(targets(LABELS, "boundary", voxel_size_nm=voxel_size_nm), expected)


def test_value_targets_are_the_labels_and_must_lie_in_0_to_1():
    assert np.array_equal(targets([[[0.0, 0.5]]], "value"), np.array([[[0, 0.5]]], np.float32))
    with pytest.raises(VolumeError, match=r"'c0' takes labels as values, which must lie in 0..1 and lie in 0..3\."):
        targets([[[0.0, 3.0]]], "value")


def test_a_value_is_continuous_and_a_foreground_is_not():
    task = make_task(("sigmoid", "foreground", {"bce": 1.0}), ("sigmoid", "value", {"mse": 1.0}))
    assert is_continuous(task) == [False, True]


def test_odd_labels_are_before_a_synapse_and_even_ones_behind_it():
    labels = np.array([[[-1, 0, 1, 2, 3, 256]]])
    assert targets(labels, "presynapse").tolist() == [[[0, 0, 1, 0, 1, 0]]]
    assert targets(labels, "postsynapse").tolist() == [[[0, 0, 0, 1, 0, 1]]]


# Labels first -----------------------------------------------------------------------------------------------------


def prepare(labels, *, axes=(0, 1, 2), annotated=None, **spec):
    labels = np.asarray(labels)
    annotated = np.ones(labels.shape, bool) if annotated is None else annotated
    return prepare_labels(labels, annotated, spec=LabelSpec(**spec), axes=axes)


def naive_erosion(labels, axes):
    """Labels without the voxels that have another label beside them along `axes`."""
    result = labels.copy()
    for place in itertools.product(*map(range, labels.shape)):
        for axis, step in itertools.product(axes, (-1, 1)):
            other = list(place)
            other[axis] += step
            if 0 <= other[axis] < labels.shape[axis] and labels[tuple(other)] != labels[place]:
                result[place] = 0
    return result


def blobs(shape=(6, 9, 10), *, seed=0, count=4):
    """Labels that touch each other, with background: the nearest of some points."""
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    points = generator.random((count, 3)) * shape
    labels = np.linalg.norm(grid[..., np.newaxis, :] - points, axis=-1).argmin(axis=-1)
    return labels.astype(np.uint64) * 2**40


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2)])
def test_erosion_takes_the_voxels_at_a_face_as_often_as_it_says(axes):
    once = naive_erosion(blobs(), axes)
    assert np.array_equal(prepare(blobs(), axes=axes, erosion=1), once)
    assert np.array_equal(prepare(blobs(), axes=axes, erosion=2), naive_erosion(once, axes))
    assert once.any()


def test_relabelling_parts_an_object_and_keeps_apart_what_touches():
    labels = np.array([[[5, 5, 0, 5, 7, 7]], [[0, 0, 5, 0, 0, 7]]])
    relabelled = prepare(labels, relabel=True)
    assert np.array_equal(relabelled == 0, labels == 0)
    one, two, three, four = relabelled[0, 0, 0], relabelled[0, 0, 3], relabelled[0, 0, 4], relabelled[1, 0, 2]
    assert len({one, two, three, four}) == 4
    assert relabelled[0, 0].tolist() == [one, one, 0, two, three, three]
    assert relabelled[1, 0, 5] == three


def test_what_is_not_annotated_is_background_and_no_edge():
    annotated = np.ones((1, 1, 6), bool)
    annotated[..., 3:] = False
    assert prepare([[[4, 4, 4, 9, 9, 9]]], annotated=annotated, erosion=2).tolist() == [[[4, 4, 4, 0, 0, 0]]]


# Distances --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("voxel_size_nm", [None, (40, 4, 5)])
def test_distances_are_those_to_the_nearest_voxel_outside_over_the_largest(voxel_size_nm):
    labels = blobs()
    values, known = edge_distances(labels, np.ones(labels.shape, bool), voxel_size_nm=voxel_size_nm)
    places = np.stack(np.nonzero(np.ones(labels.shape)), axis=1) * np.asarray(voxel_size_nm or (1, 1, 1))
    flat = labels.ravel()
    for label in np.unique(flat):
        inside = flat == label
        if label == 0:
            assert (values.ravel()[inside] == -1).all()
            continue
        gaps = places[inside][:, np.newaxis] - places[~inside]
        distances = np.linalg.norm(gaps, axis=-1).min(axis=1)
        assert np.allclose(values.ravel()[inside], distances / distances.max())
    assert known.all()


def test_the_distance_is_unknown_where_what_is_nearest_is_not_annotated():
    labels, annotated = np.array([[[0, 3, 3, 3, 3, 3, 0]]]), np.ones((1, 1, 7), bool)
    annotated[..., 6] = False
    values, known = edge_distances(labels, annotated, voxel_size_nm=None)
    assert np.allclose(values[0, 0], [-1, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, -1])
    assert known[0, 0, :3].all()
    assert not known[0, 0, 4:].any()


def test_an_object_without_an_edge_in_the_patch_has_no_known_distance():
    values, known = edge_distances(np.ones((2, 3, 3), int), np.ones((2, 3, 3), bool), voxel_size_nm=None)
    assert (values == 1).all()
    assert not known.any()


# Shapes -----------------------------------------------------------------------------------------------------------


def naive_descriptors(labels, place, *, sigma_nm, voxel_size_nm):
    """The moments of the object at `place`, voxel by voxel."""
    size = np.asarray(voxel_size_nm)
    radius = (3 * sigma_nm / size + 0.5).astype(int)
    window = np.stack([axis.ravel() for axis in np.meshgrid(*[np.arange(-r, r + 1) for r in radius])], axis=1)
    weights = np.exp(-0.5 * ((window * size / sigma_nm) ** 2).sum(axis=1))
    weights /= weights.sum()
    places = window + place
    inside = ((places >= 0) & (places < labels.shape)).all(axis=1)
    inside[inside] = labels[tuple(places[inside].T)] == labels[place]
    weights, steps = weights[inside], window[inside] * size
    share = weights.sum()
    mean = (weights[:, np.newaxis] * steps).sum(axis=0) / share
    covariance = (weights * (steps - mean).T) @ (steps - mean) / share
    result = {"size": share}
    for index, axis in enumerate("zyx"):
        result[f"offset_{axis}"] = mean[index] / sigma_nm / 2 + 0.5
        result[f"variance_{axis}"] = covariance[index, index] / sigma_nm**2
    for one, two in ((0, 1), (0, 2), (1, 2)):
        correlation = covariance[one, two] / np.sqrt(covariance[one, one] * covariance[two, two])
        result[f"pearson_{'zyx'[one]}{'zyx'[two]}"] = correlation / 2 + 0.5
    return result


@pytest.mark.parametrize(("sigma_nm", "voxel_size_nm"), [(8, (4, 4, 4)), (20, (25, 6, 9))])
def test_shape_descriptors_are_the_moments_in_a_gaussian_window(sigma_nm, voxel_size_nm):
    labels = blobs()
    shapes = shape_descriptors(labels, sigma_nm=sigma_nm, voxel_size_nm=voxel_size_nm)
    assert len(shapes) == 10
    places = [place for place in itertools.product(*map(range, labels.shape)) if labels[place]]
    for place in places[::7]:
        for name, value in naive_descriptors(labels, place, sigma_nm=sigma_nm, voxel_size_nm=voxel_size_nm).items():
            assert shapes[name][place] == pytest.approx(np.clip(value, 0, 1), abs=2e-4), (name, place)
    assert all((values[labels == 0] == 0).all() for values in shapes.values())


def test_the_middle_of_a_ball_has_no_offset_and_no_correlation():
    grid = np.stack(np.meshgrid(*[np.arange(-7, 8)] * 3))
    shapes = shape_descriptors((grid**2).sum(axis=0) <= 36, sigma_nm=16, voxel_size_nm=(8, 8, 8))
    middle = {name: values[7, 7, 7] for name, values in shapes.items()}
    even = [name for name in middle if "offset" in name or "pearson" in name]
    assert [middle[name] for name in even] == pytest.approx([0.5] * 6, abs=1e-5)
    assert middle["variance_z"] == pytest.approx(middle["variance_x"], abs=1e-5)


def test_a_flat_object_has_finite_descriptors():
    shapes = shape_descriptors(np.ones((1, 8, 8), int), sigma_nm=80, voxel_size_nm=(50, 4, 4))
    assert all(np.isfinite(values).all() for values in shapes.values())


def test_shapes_need_the_voxel_size():
    with pytest.raises(SpecError, match=r"'lsd' measures .* is not known: add data\.voxel_size_nm=\[Z,Y,X\]\."):
        make_targets(LABELS, task=get_task("lsd"), voxel_size_nm=None)


# What is known ----------------------------------------------------------------------------------------------------


TASKS = [row.name for row in read_task_rows().rows]


@pytest.mark.parametrize("name", TASKS)
def test_what_is_not_annotated_changes_no_known_target(name):
    assert len(TASKS) >= 11
    labels = blobs((12, 32, 32)).astype(np.int64) // 2**40
    annotated = np.ones(labels.shape, bool)
    annotated[4:8, 10:20, :15] = False
    poisoned = np.where(annotated, labels, np.random.default_rng(3).integers(-9, 99, labels.shape))
    task = get_task(name)
    one, other = (make_task_targets(array, task=task, annotated=annotated) for array in (labels, poisoned))
    assert np.array_equal(one.known, other.known)
    assert np.array_equal(one.values[one.known], other.values[one.known])
    assert not one.known[:, ~annotated].any()
    assert one.known[:, annotated].mean() > 0.3
    assert one.values.shape == one.known.shape == (len(task.channels), *labels.shape)
    assert (one.values.dtype, one.known.dtype) == (np.float32, bool)


def test_shapes_are_known_in_objects_alone():
    targets = make_targets(blobs(), task=get_task("lsd"), voxel_size_nm=(8, 8, 8))
    inside = prepare_labels(
        blobs(), np.ones(blobs().shape, bool), spec=LabelSpec(relabel=True, erosion=1), axes=(0, 1, 2)
    )
    assert np.array_equal(targets.known[-1], inside != 0)


def test_a_boundary_is_unknown_beside_what_is_not_annotated_unless_there_is_another():
    task = get_task("boundary")
    labels, annotated = np.array([[[1, 1, 1, 1, 2, 5, 5]]]), np.array([[[1, 1, 1, 1, 1, 0, 1]]], bool)
    values, known = make_targets(labels, task=task, voxel_size_nm=None, annotated=annotated)
    assert known[0, 0, 0].tolist() == [True, True, True, True, True, False, False]
    assert values[0, 0, 0, :5].tolist() == [0, 0, 0, 1, 1]


def test_background_and_continuous_targets_are_not_scored():
    assert get_task("binary").scored == (1,)
    assert get_task("mito-instance").scored == (0, 1)
    assert get_task("lsd").scored == (0, 1, 2)
    assert make_task(("sigmoid", "value", {"mse": 1.0})).scored == (0,)
    with pytest.raises(ValueError, match="no channel's target is yes or no, so that nothing can be scored"):
        make_task(("tanh", "distance", {"mse": 1.0}))


def test_values_are_not_mixed_with_objects_or_relabelled():
    with pytest.raises(ValueError, match="'value' and 'distance' need labels of different kinds, leave one out"):
        make_task(("sigmoid", "value", {"mse": 1.0}), ("tanh", "distance", {"mse": 1.0}))
    document = make_task(("sigmoid", "value", {"mse": 1.0})).model_dump() | {"labels": {"erosion": 1}}
    with pytest.raises(ValueError, match="have no meaning for the target 'value', leave them out"):
        TaskSpec.model_validate(document)
