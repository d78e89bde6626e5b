"""Objects from channels: right in every convention of affinities, by every method, and by another library too."""

from __future__ import annotations

import builtins
import functools
import itertools

import h5py
import numpy as np
import pytest
from scipy import ndimage
from support.object_volumes import affinity_task, noisy_values, one_piece_each, scores, true_values, voronoi_labels
from support.paths import SHARED

from connectomics_zoo.decode.channels import Channels, mean_attraction, read_channels
from connectomics_zoo.decode.methods import keep_large, segment
from connectomics_zoo.errors import MissingPackageError, SpecError
from connectomics_zoo.schema.task import DecodeSpec
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.tasks.affinities import convention_of
from connectomics_zoo.volumes.values import read_values, store_values

FIB25 = SHARED / "data/fib25/fib25_sample2_z000-199.h5"

CONVENTIONS = [
    {"stored": stored, "signs": signs, "axes": axes, "activation": activation}
    for stored, signs, axes, activation in itertools.product(
        ["source", "destination"],
        [(1, 1, 1), (-1, -1, -1), (1, -1, 1)],
        ["zyx", "xyz"],
        ["sigmoid", "scaled_sigmoid"],
    )
]
AFFINITY_METHODS = ["components", "mutex", "agglomeration"]


@functools.cache
def known_labels(source):
    """Labels by name: made ones, or neurons of FIB-25 where that is here."""
    if source == "voronoi":
        return voronoi_labels()
    if not FIB25.is_file():
        pytest.skip("the FIB-25 sample is not in ../shared/data")
    with h5py.File(FIB25) as file:
        return one_piece_each(file["neurons"][136:200, 100:196, 100:196])


def decoded(values, task):
    """Through the uint8 of a file and back, then to objects."""
    stored = store_values(values, task=task, dtype=np.dtype("uint8"))
    return segment(read_channels(read_values(stored, task=task, location="p.h5"), task=task), decode=task.decode)


@pytest.mark.parametrize("method", AFFINITY_METHODS)
@pytest.mark.parametrize("convention", CONVENTIONS, ids=lambda convention: "-".join(map(str, convention.values())))
def test_true_affinities_become_the_true_objects_in_every_convention(convention, method):
    labels = known_labels("voronoi")
    task = affinity_task(**convention, method=method)
    assert scores(decoded(true_values(labels, task), task), labels)["adapted_rand_error"] < 0.001


@pytest.mark.parametrize("method", AFFINITY_METHODS)
@pytest.mark.parametrize(
    "convention",
    [CONVENTIONS[0], {"stored": "destination", "signs": (1, -1, 1), "axes": "xyz", "activation": "scaled_sigmoid"}],
    ids=["plain", "turned"],
)
def test_true_affinities_of_real_neurons_become_these_neurons(convention, method):
    labels = known_labels("fib25")
    task = affinity_task(**convention, method=method)
    assert scores(decoded(true_values(labels, task), task), labels)["adapted_rand_error"] < 0.001


@pytest.mark.parametrize("method", AFFINITY_METHODS)
@pytest.mark.parametrize(
    "mistake", [{"edge_stored_at": "destination"}, {"axes": "xyz"}], ids=lambda mistake: next(iter(mistake))
)
def test_affinities_read_in_a_wrong_convention_become_garbage(mistake, method):
    labels = known_labels("voronoi")
    made = affinity_task(method=method)
    read = made.model_copy(update={"affinities": made.affinities.model_copy(update=mistake)})
    assert scores(decoded(true_values(labels, made), read), labels)["adapted_rand_error"] > 0.1


@pytest.mark.parametrize("method", AFFINITY_METHODS)
def test_what_no_affinity_joins_is_background(method):
    labels = voronoi_labels(objects=5)
    labels[:, :, 15:18] = 0
    labels = one_piece_each(labels)
    task = affinity_task(method=method, min_size=2)
    found = decoded(true_values(labels, task), task)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found == 0, labels == 0)
    assert sorted(np.unique(found)) == list(range(found.max() + 1))


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 3, 2)])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_the_mutex_watershed_is_that_of_another_library(threshold, stride):
    mwatershed = pytest.importorskip("mwatershed", reason="mwatershed, an extra of the tests, is not installed")
    task = affinity_task(method="mutex", threshold=threshold, stride=list(stride), stored="destination")
    values = noisy_values(voronoi_labels(), task)
    channels = read_channels(values, task=task)
    found = segment(channels, decode=task.decode)
    # There, edges attract above 0 and repel below, and only the first three may attract here.
    weights = (channels.affinities - np.float32(threshold)).astype(np.float64)
    weights[3:] = np.minimum(weights[3:], 0)
    other = mwatershed.agglom(weights, channels.offsets, strides=[(1, 1, 1)] * 3 + [stride] * 3)
    foreground = found > 0
    assert foreground.mean() > 0.9
    pairs = np.unique(np.stack([found[foreground], other[foreground].astype(found.dtype)]), axis=1)
    assert pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1])) > 3


def test_a_threshold_decides_what_is_joined():
    labels = voronoi_labels()
    values = noisy_values(labels, affinity_task())
    counts = []
    for threshold in (0.5, 0.7, 0.8):
        task = affinity_task(threshold=threshold, min_size=1)
        counts.append(segment(read_channels(values, task=task), decode=task.decode).max())
    assert counts[0] < counts[1] < counts[2]


def test_agglomeration_merges_while_the_mean_affinity_exceeds_the_threshold():
    labels = np.ones((4, 8, 8), dtype=int)
    labels[:, :, 4:] = 2
    task = affinity_task(method="agglomeration")
    values = true_values(labels, task) * np.float32(0.995)
    values[2, :, :, 3] = 0.4
    for threshold, objects in ((0.3, 1), (0.5, 2)):
        decode = task.decode.model_copy(update={"threshold": threshold})
        assert segment(read_channels(values, task=task), decode=decode).max() == objects


def test_agglomeration_prints_nothing(capfd):
    task = affinity_task(method="agglomeration")
    decoded(true_values(voronoi_labels(), task), task)
    assert capfd.readouterr() == ("", "")


def test_agglomeration_without_nearest_neighbours_is_refused():
    task = affinity_task(method="agglomeration")
    channels = Channels(None, None, None, np.ones((1, 4, 4, 4), np.float32), ((2, 0, 0),), (True,))
    with pytest.raises(
        SpecError, match=r"nearest neighbours along z, y and x, and the task has those along \(2, 0, 0\)"
    ):
        segment(channels, decode=task.decode)


def test_agglomeration_without_its_library_is_refused(monkeypatch):
    real = builtins.__import__

    def no_waterz(name, *args, **kwargs):
        if name == "waterz":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_waterz)
    task = affinity_task(method="agglomeration")
    with pytest.raises(MissingPackageError, match="pip install waterz"):
        decoded(true_values(voronoi_labels((4, 8, 8), objects=2), task), task)


# Foreground, boundary, distance -----------------------------------------------------------------------------------


def two_balls():
    """Two balls that touch: their labels, their foreground, their contour and the distance to their edge."""
    z, y, x = np.mgrid[:16, :20, :34]
    distances = [5.5 - np.sqrt((z - 8) ** 2 + (y - 10) ** 2 + (x - centre) ** 2) for centre in (11, 21)]
    nearer = np.argmax(distances, axis=0)
    labels = np.where(np.max(distances, axis=0) > 0, nearer + 1, 0)
    contour = (ndimage.maximum_filter(labels, 3) != ndimage.minimum_filter(labels, 3)).astype(np.float32)
    distance = np.where(labels > 0, np.max(distances, axis=0) / 5.5, -1).astype(np.float32)
    return labels, (labels > 0).astype(np.float32) * np.float32(0.95), contour, distance


def watershed_spec(**fields):
    return DecodeSpec(
        **{
            "method": "watershed",
            "threshold": 0.5,
            "seed_threshold": 0.85,
            "boundary_threshold": 0.5,
            "min_seed": 1,
            "min_size": 1,
            **fields,
        }
    )


@pytest.mark.parametrize("with_distance", [True, False])
def test_a_watershed_parts_objects_that_touch(with_distance):
    labels, foreground, contour, distance = two_balls()
    channels = Channels(foreground, contour, distance if with_distance else None, None, (), ())
    found = segment(channels, decode=watershed_spec())
    assert found.max() == 2
    np.testing.assert_array_equal(found > 0, labels > 0)
    assert scores(found, labels)["adapted_rand_error"] < 0.05
    whole = segment(channels, decode=DecodeSpec(method="components", threshold=0.5, min_size=1))
    assert whole.max() == 1


def test_a_seed_that_is_too_small_grows_nothing():
    _, foreground, contour, _ = two_balls()
    foreground[3, 3, 3] = 0.95
    channels = Channels(foreground, contour, None, None, (), ())
    assert segment(channels, decode=watershed_spec()).max() == 3
    assert segment(channels, decode=watershed_spec(min_seed=2)).max() == 2


def test_a_watershed_of_affinities_reads_their_mean():
    labels = voronoi_labels()
    task = affinity_task()
    channels = read_channels(true_values(labels, task), task=task)
    found = segment(channels, decode=watershed_spec(seed_threshold=0.99, boundary_threshold=1.0, min_seed=20))
    assert scores(found, labels)["adapted_rand_error"] < 0.2


def test_the_mean_attraction_of_a_voxel_is_that_of_the_edges_it_has():
    values = np.zeros((2, 1, 1, 4), dtype=np.float32)
    values[0, 0, 0] = (0.2, 0.6, 1.0, 0.0)  # of the edges 0-1, 1-2 and 2-3
    values[1] = 0.9
    channels = Channels(None, None, None, values, ((0, 0, 1), (0, 0, 2)), (True, False))
    np.testing.assert_allclose(mean_attraction(channels)[0, 0], (0.2, 0.4, 0.8, 1.0), rtol=1e-6)


def test_objects_that_are_too_small_go_and_the_others_are_numbered_without_a_gap():
    labels = np.zeros((1, 4, 6), dtype=np.uint64)
    labels[0, 0, 0] = 9
    labels[0, 1:3] = 4
    labels[0, 3, :3] = 7
    expected = np.zeros((1, 4, 6))
    expected[0, 1:3], expected[0, 3, :3] = 1, 2
    np.testing.assert_array_equal(keep_large(labels, minimum=2), expected)
    assert keep_large(labels, minimum=0).max() == 3
    assert keep_large(np.zeros((2, 2, 2), np.uint64), minimum=0).max() == 0


def test_channels_are_found_by_their_target():
    task = get_task("mito-instance")
    values = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 2), np.float32)
    channels = read_channels(values, task=task)
    assert (channels.foreground[0, 0, 0], channels.boundary[0, 0, 0], channels.distance[0, 0, 0]) == (0, 1, 2)
    assert channels.affinities is None
    shapes = get_task("lsd")
    values = np.random.default_rng(0).random((len(shapes.channels), 2, 2, 2), dtype=np.float32)
    assert read_channels(values, task=shapes).offsets == convention_of(shapes).offsets
