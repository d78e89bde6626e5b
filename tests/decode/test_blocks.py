"""Decoding in blocks: the objects of the whole volume, files for proofreading, and what goes on after any kill."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from support.object_volumes import (
    affinity_task,
    noisy_values,
    scores,
    true_values,
    voronoi_labels,
    write_labels,
    write_prediction,
)

import zoo
from connectomics_zoo.decode import blockwise, flood, flood_stages, memory, stages
from connectomics_zoo.decode.channels import read_channels
from connectomics_zoo.decode.edges import Edges, merge_edges
from connectomics_zoo.decode.fragments import as_ids, as_nodes
from connectomics_zoo.decode.methods import mutex
from connectomics_zoo.decode.relabel import number_objects
from connectomics_zoo.decode.source import Source
from connectomics_zoo.errors import LimitError, OutputError, SpecError, VolumeError
from connectomics_zoo.schema.experiment import PredictionSpec
from connectomics_zoo.schema.provenance import Provenance, UsedWeights
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.volumes import Box, Placement, StoredPrediction, create_volume, multiscale, open_volume

LABELS = voronoi_labels((12, 26, 27), objects=20)


def read_all(location):
    with open_volume(location) as volume:
        return volume.read(volume.whole)


def are_same(found, wanted):
    """Whether two segmentations are the same up to the names of labels."""
    if not np.array_equal(found > 0, wanted > 0):
        return False
    pairs = np.unique(np.stack([found[found > 0], wanted[wanted > 0]]), axis=1)
    return pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))


def smooth_values(*, seed, channels=3, shape=LABELS.shape):
    """Channels with plateaus, for foreground, boundary and distance."""
    random = np.random.default_rng(seed)
    values = np.stack([ndimage.gaussian_filter(random.random(shape), 1.5) for _ in range(channels)])
    values = np.round(20 * (values - values.min()) / (values.max() - values.min())) / 20
    if channels == 3:
        values[2] = 2 * values[2] - 1
    return values.astype(np.float32)


def with_decode(task, **fields):
    return task.model_copy(update={"decode": task.decode.model_copy(update=fields)})


LONG = {"stored": "destination", "signs": (-1, 1, -1)}
WATERSHED = {"method": "watershed", "boundary_threshold": 1.0, "min_seed": 2, "min_size": 4}

EXACT = {
    "components of affinities": affinity_task(threshold=0.75, min_size=5, **LONG),
    "components of a foreground": with_decode(get_task("mito"), method="components", threshold=0.6, min_size=10),
    "watershed of affinities": affinity_task(threshold=0.5, seed_threshold=0.8, **WATERSHED),
    "watershed with seeds outside": affinity_task(threshold=0.7, seed_threshold=0.65, **WATERSHED, **LONG),
    "watershed of three channels": with_decode(
        get_task("mito-instance"), threshold=0.55, seed_threshold=0.6, boundary_threshold=0.6, min_seed=6, min_size=20
    ),
}


def values_for(task, *, seed):
    if task.affinities is not None:
        return noisy_values(LABELS, task, seed=seed)
    return smooth_values(seed=seed, channels=len(task.channels))


@pytest.mark.parametrize("block", [(6, 13, 14), (5, 26, 9)], ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_blocks_give_the_objects_of_the_whole_volume(tmp_path, name, block):
    task = EXACT[name]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task, dtype="float32")
    whole = zoo.decode(path, tmp_path / "whole.h5")
    report = zoo.decode(path, tmp_path / "out.h5", block=block)
    assert whole.blocks == 1 < report.blocks
    assert whole.objects == report.objects > 2
    found = read_all(tmp_path / "out.h5")
    assert found.dtype == np.uint32
    assert sorted(np.unique(found)) == list(range(report.objects + 1))
    assert are_same(found, read_all(tmp_path / "whole.h5"))
    assert not (tmp_path / "out.h5.job").exists()


def test_attractive_affinities_of_long_range_join_over_blocks(tmp_path):
    task = affinity_task(threshold=0.5)
    far = [channel.target.model_copy(update={"attractive": True}) for channel in task.channels]
    pairs = zip(task.channels, far, strict=True)
    task = task.model_copy(
        update={"channels": tuple(channel.model_copy(update={"target": target}) for channel, target in pairs)}
    )
    values = np.zeros((6, 8, 16, 16), np.float32)
    values[4, 4, 3, 4] = 1  # joins (4, 3, 4) and (4, 10, 4) alone, over a block between them
    path = write_prediction(tmp_path / "p.h5", values, task)
    assert zoo.decode(path, tmp_path / "out.h5", block=(8, 4, 16)).objects == 1
    found = read_all(tmp_path / "out.h5")
    assert np.argwhere(found).tolist() == [[4, 3, 4], [4, 10, 4]]


@pytest.mark.parametrize("method", ["mutex", "agglomeration"])
def test_blocks_give_nearly_the_objects_of_the_whole_volume(tmp_path, method):
    task = affinity_task(method=method, min_size=20)
    labels = voronoi_labels((40, 60, 60), objects=30)
    random = np.random.default_rng(0)
    # As a network's: smooth, and unsure here and there.
    noise = [ndimage.gaussian_filter(random.normal(size=labels.shape), 2) for _ in task.channels]
    values = np.clip(0.8 * true_values(labels, task) + 0.1 + 3 * np.stack(noise), 0, 1).astype(np.float32)
    path = write_prediction(tmp_path / "p.h5", values, task, dtype="float32")
    zoo.decode(path, tmp_path / "whole.h5")
    report = zoo.decode(path, tmp_path / "out.h5", block=(20, 30, 30))
    assert report.blocks == 8
    whole, found = (scores(read_all(tmp_path / name), labels) for name in ("whole.h5", "out.h5"))
    assert abs(whole["adapted_rand_error"] - found["adapted_rand_error"]) < 0.002
    assert scores(read_all(tmp_path / "out.h5"), read_all(tmp_path / "whole.h5"))["adapted_rand_error"] < 0.002


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(1, 8)),
    heights=st.sampled_from([1, 2, 3, 1000]),
    are_close=st.booleans(),
    density=st.floats(0.2, 0.9),
    seeds=st.floats(0.01, 0.4),
)
def test_a_connected_part_is_flooded_alone_as_among_others(seed, shape, heights, are_close, density, seeds):
    from bioimage_cpp.segmentation import label, watershed

    random = np.random.default_rng(seed)
    height = (random.integers(0, heights, shape) / np.float32(heights)).astype(np.float32)
    if are_close:  # so that they are equal beside one that is far
        height = np.where(random.random(shape) < 0.02, np.float32(9), height * np.float32(1e-5))
    mask = random.random(shape) < density
    markers = label(random.random(shape) < seeds, connectivity=1).astype(np.uint32)
    parts = label(mask, connectivity=1)
    found = np.zeros(shape, np.uint32)
    for number in range(1, int(parts.max()) + 1):
        places = np.nonzero(parts == number)
        box = tuple(slice(place.min(), place.max() + 1) for place in places)
        levels = (float(height[mask].min()), float(height[mask].max()))
        found[box] += flood.flood(height[box], markers[box], parts[box] == number, levels)
    np.testing.assert_array_equal(found, watershed(height, markers, mask=mask))


def test_parts_in_one_block_are_flooded_at_once_and_large_ones_alone():
    starts = np.array([[0, 0, 0], [0, 0, 5], [1, 1, 1], [0, 2, 7]])
    stops = np.array([[1, 2, 3], [6, 8, 9], [3, 7, 8], [1, 3, 9]])
    found = flood.batches(flood.Parts(starts, stops), block=Box.of_shape((4, 8, 8)))
    assert [(str(box), parts) for box, parts in found] == [
        ("z=0:3,y=0:7,x=0:8", [0, 2]),
        ("z=0:6,y=0:8,x=5:9", [1, 3]),
    ]


def test_what_is_smaller_than_the_smallest_object_is_counted_over_blocks(tmp_path):
    mask = np.zeros((1, 4, 8, 8), np.float32)
    mask[0, 1, 1, 2:6] = mask[0, 2, 6, 1:3] = 1
    path = write_prediction(tmp_path / "p.h5", mask, get_task("mito"))
    zoo.decode(path, tmp_path / "out.h5", method="components", overrides={"min_size": 4}, block=(4, 4, 4))
    np.testing.assert_array_equal(np.argwhere(read_all(tmp_path / "out.h5")), [[1, 1, x] for x in range(2, 6)])


def test_what_no_other_block_can_join_and_is_too_small_is_no_fragment(tmp_path):
    mask = np.zeros((1, 4, 12, 12), np.float32)
    mask[0, 1, 1, 1:3] = mask[0, 1, 4, 4:6] = mask[0, 1, 9, 2:8] = 1
    path = write_prediction(tmp_path / "p.h5", mask, get_task("mito"))
    zoo.decode(path, tmp_path / "out.h5", method="components", overrides={"min_size": 4}, block=(4, 6, 6))
    fragments = read_all(tmp_path / "out.h5.objects/fragments.zarr")
    assert np.argwhere(fragments).tolist() == [[1, 4, 4], [1, 4, 5], *([1, 9, x] for x in range(2, 8))]
    assert np.argwhere(read_all(tmp_path / "out.h5")).tolist() == [[1, 9, x] for x in range(2, 8)]


def test_a_region_is_decoded_as_if_there_were_nothing_around_it(tmp_path):
    task = EXACT["components of affinities"]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=2), task)
    region = "z=2:11,y=3:25,x=1:20"
    zoo.decode(path, tmp_path / "whole.h5", region=region)
    zoo.decode(path, tmp_path / "out.h5", region=region, block=(4, 11, 10))
    assert are_same(read_all(tmp_path / "out.h5"), read_all(tmp_path / "whole.h5"))
    with open_volume(tmp_path / "out.h5") as volume:
        assert volume.placement.box.start == (2, 3, 1)


@pytest.mark.parametrize("out", ["out.zarr", "out.zarr:objects", "out.tif", "out.h5:neurons"])
def test_objects_of_blocks_are_written_in_every_format(tmp_path, out):
    task = EXACT["components of affinities"]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task)
    zoo.decode(path, tmp_path / "whole.h5")
    zoo.decode(path, f"{tmp_path}/{out}", block=(6, 13, 14))
    assert are_same(read_all(f"{tmp_path}/{out}"), read_all(tmp_path / "whole.h5"))
    with open_volume(f"{tmp_path}/{out}") as volume:
        assert (volume.content, volume.voxel_size_nm) == ("instances", (30.0, 8.0, 8.0))
        assert volume.stored().provenance.decoding.decode == task.decode


# Files for proofreading -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["components", "mutex", "agglomeration"])
def test_fragments_edges_and_table_lie_beside_the_objects(tmp_path, method):
    task = affinity_task(method=method, min_size=5, threshold=0.6)
    path = write_prediction(tmp_path / "p.h5", noisy_values(LABELS, task), task)
    report = zoo.decode(path, tmp_path / "out.zarr", block=(6, 13, 14))
    folder = tmp_path / "out.zarr.objects"
    assert report.files == str(folder)
    assert sorted(item.name for item in folder.iterdir()) == ["edges", "fragments.zarr", "table"]
    fragments = read_all(folder / "fragments.zarr")
    ids, voxels = np.unique(fragments[fragments > 0], return_counts=True)
    table = {name: np.load(folder / f"table/{name}.npy") for name in ("fragment", "object", "voxels")}
    np.testing.assert_array_equal(table["fragment"], ids)
    np.testing.assert_array_equal(table["voxels"], voxels)
    by_id = dict(zip(table["fragment"].tolist(), table["object"].tolist(), strict=True))
    by_id[0] = 0
    found = read_all(tmp_path / "out.zarr")
    np.testing.assert_array_equal(np.vectorize(by_id.get)(fragments), found)
    edges = np.load(folder / "edges/0.npz")
    assert {"u", "v", "count", "mean", "minimum", "maximum"} <= set(edges)
    assert (edges["u"] < edges["v"]).all()
    assert set(edges["u"].tolist()) | set(edges["v"].tolist()) <= set(by_id)
    assert ((edges["minimum"] <= edges["mean"] + 1e-6) & (edges["mean"] <= edges["maximum"] + 1e-6)).all()


def test_edges_of_blocks_add_up_to_those_of_the_whole_volume(tmp_path):
    task = affinity_task(method="agglomeration", min_size=0, **LONG)
    path = write_prediction(tmp_path / "p.h5", noisy_values(LABELS, task), task)
    zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14))
    folder = tmp_path / "out.h5.objects"
    files = [np.load(file) for file in sorted((folder / "edges").iterdir())]
    merged = merge_edges([Edges.of_columns(file) for file in files])
    fragments = read_all(folder / "fragments.zarr")
    sums = {}
    channels = Source(str(path), task, (0, 0, 0)).read(Box.of_shape(LABELS.shape))
    for values, offset in channels.attractions:
        ends = [fragments[tuple(slice(step, None) for step in offset)]]
        ends.append(fragments[tuple(slice(None, size - step) for size, step in zip(LABELS.shape, offset, strict=True))])
        inside = values[tuple(slice(None, size - step) for size, step in zip(LABELS.shape, offset, strict=True))]
        for first, second, value in zip(ends[0].ravel(), ends[1].ravel(), inside.ravel(), strict=True):
            if first and second and first != second:
                sums.setdefault((min(first, second), max(first, second)), []).append(value)
    assert [tuple(pair) for pair in merged.pairs.tolist()] == sorted(sums)
    for pair, count, mean, low, high in zip(
        merged.pairs.tolist(), merged.count, merged.mean, merged.minimum, merged.maximum, strict=True
    ):
        wanted = sums[tuple(pair)]
        assert (count, low, high) == (len(wanted), min(wanted), max(wanted))
        assert mean == pytest.approx(np.mean(wanted, dtype=np.float64))


def test_strides_count_from_the_first_voxel_of_what_is_decoded():
    task = affinity_task(method="mutex", stride=[2, 3, 4])
    channels = read_channels(noisy_values(LABELS, task), task=task)
    unseen = np.ones(LABELS.shape, bool)
    unseen[::2, ::3, ::4] = False
    affinities = channels.affinities.copy()
    affinities[3:, unseen] = 1  # what no stride looks at does not repel
    start = (1, 2, 3)
    part = tuple(slice(first, None) for first in start)
    every = task.decode.model_copy(update={"stride": (1, 1, 1)})
    wanted = mutex(dataclasses.replace(channels, affinities=affinities).crop(part), every)
    assert are_same(mutex(channels.crop(part), task.decode, start=start), wanted)
    assert not are_same(mutex(channels.crop(part), task.decode), wanted)


@pytest.mark.parametrize("name", ["watershed of three channels", "components of affinities"])
def test_the_work_on_blocks_can_be_sent_to_other_processes(tmp_path, name, monkeypatch):
    task = EXACT[name]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task, dtype="float32")
    sent = []

    def run_sent(job, stage, work, *, grid, **_):
        sent.append(stage)
        for index in reversed(range(len(grid))):
            pickle.loads(pickle.dumps(work))(index, lambda fraction: None)
        return True

    zoo.decode(path, tmp_path / "whole.h5")
    monkeypatch.setattr(blockwise, "run_blocks", run_sent)
    zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14))
    assert len(sent) >= 3
    assert are_same(read_all(tmp_path / "out.h5"), read_all(tmp_path / "whole.h5"))


def test_workers_give_the_same_objects(tmp_path):
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    task = EXACT["watershed of three channels"]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task, dtype="float32")
    alone = zoo.decode(path, tmp_path / "alone.zarr", block=(6, 13, 14))
    report = zoo.decode(path, tmp_path / "out.zarr", block=(6, 13, 14), workers=1)
    assert (report.objects, report.blocks) == (alone.objects, 8)
    np.testing.assert_array_equal(read_all(tmp_path / "out.zarr"), read_all(tmp_path / "alone.zarr"))


def test_ids_are_those_of_one_block_alone():
    labels = np.array([0, 1, 3])
    ids = np.stack([as_ids(labels, block) for block in (0, 1, 2**31)])
    assert len(np.unique(ids[ids > 0])) == 6
    assert (ids[:, 0] == 0).all()
    np.testing.assert_array_equal(as_nodes(ids[:2], np.array([0, 3, 6])), [[0, 1, 3], [0, 4, 6]])


def test_objects_are_numbered_without_a_gap_in_the_order_of_their_first_fragments():
    objects, count = number_objects(np.array([9, 5, 2, 5, 7]), np.array([99, 3, 2, 1, 9]), minimum=3)
    assert count == 2
    assert objects.tolist() == [0, 1, 0, 1, 2]


# Where it stops, and where it does not fit -------------------------------------------------------------------------

STOP = """
import os, signal, sys
import zoo
from connectomics_zoo.blocks import runner
marked, left = runner.attempt, [int(sys.argv[3])]
def attempt(*args, **named):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    marked(*args, **named)
runner.attempt = attempt
zoo.decode(sys.argv[1], sys.argv[2], block=(6, 13, 14))
"""


@pytest.mark.parametrize("name", ["watershed of three channels", "components of affinities"])
def test_a_killed_decoding_goes_on_and_gives_the_same(tmp_path, name, forked_python):
    task = EXACT[name]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task, dtype="float32")
    zoo.decode(path, tmp_path / "whole.zarr", block=(6, 13, 14))
    for blocks in (3, 11):
        done = subprocess.run(
            [*forked_python, "-c", STOP, path, tmp_path / "out.zarr", str(blocks)], env=os.environ, check=False
        )
        assert done.returncode == -signal.SIGKILL
        assert not (tmp_path / "out.zarr").exists()
    marks = list((tmp_path / "out.zarr.job/done").glob("*/*"))
    assert len(marks) >= 14  # and the step between, if it came so far
    with pytest.raises(OutputError, match=r"unfinished output of another job \(threshold 0\.\d+ there, 0\.9 here\)"):
        zoo.decode(path, tmp_path / "out.zarr", block=(6, 13, 14), overrides={"threshold": 0.9})
    # Which goes on in blocks, though it would fit into the memory.
    assert zoo.decode(path, tmp_path / "out.zarr").blocks == 8
    np.testing.assert_array_equal(read_all(tmp_path / "out.zarr"), read_all(tmp_path / "whole.zarr"))


def test_an_unfinished_decoding_is_begun_anew_where_that_is_asked_for(tmp_path, monkeypatch):
    task = EXACT["components of affinities"]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task)

    def stopped(files, *, decode):
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(stages, "solve", stopped)
        with pytest.raises(KeyboardInterrupt, match="done in blocks: 8 of 8 fragments, 8 of 8 edges: repeat"):
            zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14))
    report = zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14), overrides={"threshold": 0.9}, overwrite=True)
    assert report.settings["threshold"] == 0.9


def test_what_does_not_fit_into_the_memory_is_decoded_in_blocks(tmp_path, monkeypatch):
    task = EXACT["components of a foreground"]
    path = write_prediction(tmp_path / "p.h5", smooth_values(seed=0, channels=1, shape=(70, 140, 10)), task)
    whole = zoo.decode(path, tmp_path / "whole.h5")
    needed = memory.needed_bytes(task, shape=(70, 140, 10), stored=np.dtype(np.uint8))
    monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
    report = zoo.decode(path, tmp_path / "out.h5")
    assert (whole.blocks, report.blocks) == (1, 3)
    assert are_same(read_all(tmp_path / "out.h5"), read_all(tmp_path / "whole.h5"))


def test_a_block_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    task = EXACT["components of a foreground"]
    path = write_prediction(tmp_path / "p.h5", smooth_values(seed=0, channels=1), task)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(LimitError, match=r"decoding 12 x 26 x 27 voxels by components takes about .* smaller blocks"):
        zoo.decode(path, tmp_path / "out.h5", block=(20, 30, 30))
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_that_the_watershed_cannot_flood_at_once_is_named(tmp_path, monkeypatch):
    task = EXACT["watershed of three channels"]
    values = np.full((3, 12, 26, 27), 0.9, np.float32)
    path = write_prediction(tmp_path / "p.h5", values, task)
    whole = memory.needed_bytes(task, shape=(12, 26, 27), stored=np.dtype(np.uint8))
    monkeypatch.setattr(memory, "available_bytes", lambda: whole - 1)
    with pytest.raises(LimitError, match=r"part of the foreground fills a box of 12 x 26 x 27 voxels.*higher thresh"):
        zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14))


def test_more_seeds_than_their_type_can_number_are_refused(tmp_path, monkeypatch):
    task = EXACT["watershed of three channels"]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task, dtype="float32")
    monkeypatch.setattr(
        flood_stages, "number_objects", lambda *args, **named: (number_objects(*args, **named)[0], 2**32)
    )
    with pytest.raises(
        LimitError, match=r"p\.h5:main: has 4294967296 seeds, and .* at most 4294967295: give a higher m"
    ):
        zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14))
    most = 2**32 - 1
    monkeypatch.setattr(
        flood_stages, "number_objects", lambda *args, **named: (number_objects(*args, **named)[0], most)
    )
    assert zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14)).objects == most


def test_what_is_too_large_to_be_tuned_on_is_refused(tmp_path, monkeypatch):
    task = EXACT["components of affinities"]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task)
    truth = write_labels(tmp_path / "t.h5", LABELS)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(LimitError, match=r"tuning on 12 x 26 x 27 voxels .* free: tune on a part \(--region\)"):
        zoo.decode(path, tmp_path / "out.h5", tune_on=truth)


def test_an_unfinished_decoding_goes_on_in_its_own_blocks_alone(tmp_path, monkeypatch):
    task = EXACT["components of affinities"]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task)

    def stopped(files, *, decode):
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(stages, "solve", stopped)
        with pytest.raises(KeyboardInterrupt):
            zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14))
    with pytest.raises(OutputError, match=r"unfinished in blocks of \(6, 13, 14\), not of \(12, 13, 14\): leave the"):
        zoo.decode(path, tmp_path / "out.h5", block=(20, 13, 14))
    assert zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14)).blocks == 8


def test_where_no_block_can_be_decoded_nothing_is_left_behind(tmp_path):
    task = EXACT["components of affinities"]
    path = tmp_path / "p.zarr"
    write_prediction(path, values_for(task, seed=1), task, dtype="float32")
    values = zarr.open_group(path)["0"]
    values[:] = values[:] * 7
    with pytest.raises(VolumeError, match="after sigmoid they lie in"):
        zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["watershed of three channels", "components of affinities"])
def test_objects_are_written_to_a_bucket(tmp_path, s3_server, bucket, name, monkeypatch):
    task = EXACT[name]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task, dtype="float32")
    zoo.decode(path, tmp_path / "whole.h5")
    out = f"s3://{bucket}/a/out.zarr"

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(stages.RelabelStage, "__call__", stopped)
        changed.setattr(flood_stages.ComposeStage, "__call__", stopped)
        with pytest.raises(KeyboardInterrupt):
            zoo.decode(path, out, block=(6, 13, 14))
    report = zoo.decode(path, out)
    assert (report.out, report.blocks) == (out, 8)
    assert are_same(read_all(out), read_all(tmp_path / "whole.h5"))
    has_files = task.decode.method != "watershed"
    assert report.files == (f"{out}.objects" if has_files else None)
    assert {key.split("/")[1] for key in s3_server.keys(bucket)} == {
        "out.zarr",
        *(["out.zarr.objects"] if has_files else []),
    }
    assert not any("/fragments/" in key for key in s3_server.keys(bucket))
    with pytest.raises(OutputError, match="exists already"):
        zoo.decode(path, out)
    assert zoo.decode(path, out, overwrite=True).objects == report.objects


def test_settings_are_not_tuned_in_blocks(tmp_path):
    with pytest.raises(SpecError, match="tuned in memory, without block, workers"):
        zoo.decode(tmp_path / "p.h5", tmp_path / "out.h5", tune_on=tmp_path / "t.h5", block=(1, 1, 1))


def test_blocks_of_no_size_are_refused(tmp_path):
    with pytest.raises(SpecError, match=r"the block \(0, 4, 4\) is not possible, give three whole numbers"):
        zoo.decode(tmp_path / "p.h5", tmp_path / "out.h5", block=(0, 4, 4))


def test_files_of_an_earlier_decoding_are_not_lost(tmp_path):
    task = EXACT["components of affinities"]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task)
    (tmp_path / "out.h5.objects").mkdir()
    with pytest.raises(OutputError, match=r"out\.h5\.objects: exists already"):
        zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14))
    assert zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14), overwrite=True).objects > 2


@pytest.mark.parametrize("options", [{}, {"block": (6, 13, 14), "method": "watershed"}], ids=["whole", "watershed"])
def test_files_of_objects_that_are_replaced_do_not_stay(tmp_path, options):
    task = EXACT["components of affinities"]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task)
    zoo.decode(path, tmp_path / "out.h5", block=(6, 13, 14))
    assert (tmp_path / "out.h5.objects").is_dir()
    zoo.decode(path, tmp_path / "out.h5", overwrite=True, **options)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out.h5", "p.h5"]


@pytest.mark.parametrize("suffix", ["h5", "zarr"])
def test_files_of_objects_that_were_moved_away_are_not_lost_by_decoding_in_memory(tmp_path, suffix):
    task = EXACT["components of affinities"]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task)
    out, files = tmp_path / f"out.{suffix}", tmp_path / f"out.{suffix}.objects"
    zoo.decode(path, out, block=(6, 13, 14))
    out.rename(tmp_path / f"old.{suffix}")
    table = (files / "table" / "voxels.npy").read_bytes()
    with pytest.raises(OutputError, match=rf"out\.{suffix}\.objects: exists already, choose another name or overwrite"):
        zoo.decode(path, out)
    assert not out.exists()
    assert (files / "table" / "voxels.npy").read_bytes() == table
    assert zoo.decode(path, out, overwrite=True).blocks == 1
    assert not files.exists()


class StopError(Exception):
    """What stops a decoding."""


def test_files_that_were_replaced_do_not_come_back_where_the_job_was_killed_then(tmp_path, monkeypatch):
    task = EXACT["components of affinities"]
    first, second = (
        write_prediction(tmp_path / f"{seed}.h5", values_for(task, seed=seed), task, dtype="float32") for seed in (1, 2)
    )

    def killed(*args, **named):
        raise StopError

    zoo.decode(first, tmp_path / "out.zarr", block=(6, 13, 14))
    with monkeypatch.context() as ending:
        ending.setattr("connectomics_zoo.blocks.output.BlockOutput.finish", killed)
        with pytest.raises(StopError):
            zoo.decode(second, tmp_path / "out.zarr", block=(6, 13, 14), overwrite=True)
    zoo.decode(second, tmp_path / "out.zarr", block=(6, 13, 14), overwrite=True)
    zoo.decode(second, tmp_path / "fresh.zarr", block=(6, 13, 14))
    found, wanted = (np.load(tmp_path / f"{name}.zarr.objects" / "table" / "voxels.npy") for name in ("out", "fresh"))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ["components of affinities", "watershed of three channels"])
@pytest.mark.parametrize("out", ["out.zarr", "out.h5", "out.h5:neurons", "out.zarr levels", "out.zarr part"])
def test_a_decoding_that_was_killed_at_its_very_end_is_cleared_away(tmp_path, monkeypatch, name, out):
    task = EXACT[name]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task, dtype="float32")
    monkeypatch.setattr(multiscale, "SMALLEST", 14)
    out, _, more = out.partition(" ")
    options = {"multiscale": more == "levels", "region": "y=4:26" if more == "part" else None}
    folder = tmp_path / "done"
    folder.mkdir()
    wanted = zoo.decode(path, folder / out, block=(6, 13, 14), **options)

    def killed(job):
        raise StopError

    with monkeypatch.context() as ending:
        ending.setattr("connectomics_zoo.blocks.job.Job.remove", killed)
        with pytest.raises(StopError):
            zoo.decode(path, tmp_path / out, block=(6, 13, 14), **options)
    job = tmp_path / f"{out.partition(':')[0]}.job"
    assert (job / "job.json").exists()
    with pytest.raises(OutputError, match="exists already"):
        zoo.decode(path, tmp_path / out, overrides={"threshold": 0.9}, **options)
    report = zoo.decode(path, tmp_path / out, block=(6, 13, 14), **options)
    for field in ("objects", "blocks", "shape", "dtype", "settings"):
        assert getattr(report, field) == getattr(wanted, field)
    assert report.out == wanted.out.replace(str(folder), str(tmp_path))
    assert report.files == (wanted.files and wanted.files.replace(str(folder), str(tmp_path)))
    np.testing.assert_array_equal(read_all(tmp_path / out), read_all(folder / out))
    assert {item.name for item in tmp_path.iterdir()} == {"p.h5", "done", *(item.name for item in folder.iterdir())}
    with pytest.raises(OutputError, match="exists already"):
        zoo.decode(path, tmp_path / out, block=(6, 13, 14), **options)


KILLS = {
    "in its blocks": "connectomics_zoo.decode.stages.RelabelStage.__call__",
    "before its end": "connectomics_zoo.blocks.output.BlockOutput.finish",
    "while a file is made": "connectomics_zoo.volumes.writing.WritableVolume.write",
}


@pytest.mark.parametrize(
    ("out", "kill"), [*(("out.h5", kill) for kill in KILLS), *(("out.zarr", kill) for kill in list(KILLS)[:2])]
)
def test_objects_that_a_job_is_to_replace_are_not_taken_for_its_own(tmp_path, monkeypatch, out, kill):
    task = EXACT["components of affinities"]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task, dtype="float32")
    zoo.decode(path, tmp_path / out)
    old = read_all(tmp_path / out)

    def killed(*args, **named):
        raise StopError

    with monkeypatch.context() as ending:
        ending.setattr(KILLS[kill], killed)
        with pytest.raises(StopError):
            zoo.decode(path, tmp_path / out, block=(6, 13, 14), overwrite=True)
    with pytest.raises(OutputError, match="exists already"):
        zoo.decode(path, tmp_path / out, block=(6, 13, 14))
    np.testing.assert_array_equal(read_all(tmp_path / out), old)
    assert zoo.decode(path, tmp_path / out, block=(6, 13, 14), overwrite=True).blocks == 8
    assert not np.array_equal(read_all(tmp_path / out), old)
    assert not (tmp_path / f"{out}.job").exists()


def test_a_prediction_of_the_same_name_in_another_folder_is_another_job(tmp_path, monkeypatch):
    task = EXACT["components of affinities"]
    for seed, folder in ((1, "a"), (2, "b")):
        (tmp_path / folder).mkdir()
        write_prediction(tmp_path / folder / "p.h5", values_for(task, seed=seed), task)

    def killed(*args):
        raise StopError

    monkeypatch.chdir(tmp_path / "a")
    with monkeypatch.context() as ending:
        ending.setattr(stages.RelabelStage, "__call__", killed)
        with pytest.raises(StopError):
            zoo.decode("p.h5", tmp_path / "out.zarr", block=(6, 13, 14))
    monkeypatch.chdir(tmp_path / "b")
    with pytest.raises(OutputError, match="is the unfinished output of another job"):
        zoo.decode("p.h5", tmp_path / "out.zarr", block=(6, 13, 14))


@pytest.mark.parametrize("change", ["weights", "window", "scale"])
def test_a_prediction_that_was_made_anew_at_its_place_is_another_job(tmp_path, monkeypatch, change):
    task = EXACT["components of affinities"]
    path = tmp_path / "p.zarr"
    values = np.rint(255 * values_for(task, seed=1)).astype(np.uint8)

    def write(*, changed):
        name = change if changed else None
        weights = UsedWeights(reference="runs/a", model="tiny@1.0.0", sha256=("b" if name == "weights" else "a") * 64)
        window = (8, 8, 16 if name == "window" else 8)
        provenance = Provenance(weights=weights, prediction=PredictionSpec(window=window))
        scale = ((0.0, 0.5 if name == "scale" else 1.0),) * len(values)
        stored = StoredPrediction("probability", task, scale=scale, provenance=provenance)
        with create_volume(
            path,
            shape=values.shape[1:],
            dtype="uint8",
            channels=len(values),
            voxel_size_nm=None,
            stored=stored,
            overwrite=True,
        ) as volume:
            volume.write(volume.whole, values)

    def killed(*args):
        raise StopError

    write(changed=False)
    with monkeypatch.context() as ending:
        ending.setattr(stages.RelabelStage, "__call__", killed)
        with pytest.raises(StopError):
            zoo.decode(path, tmp_path / "out.zarr", block=(6, 13, 14))
    write(changed=True)
    with pytest.raises(
        OutputError, match=r"of another job \(prediction's provenance [0-9a-f]{12} there, [0-9a-f]{12} h"
    ):
        zoo.decode(path, tmp_path / "out.zarr", block=(6, 13, 14))
    write(changed=False)
    assert zoo.decode(path, tmp_path / "out.zarr", block=(6, 13, 14)).blocks == 8


def test_the_command_says_how_many_blocks_there_were_and_where_files_lie(tmp_path, run_zoo):
    task = EXACT["components of affinities"]
    path = write_prediction(tmp_path / "p.h5", values_for(task, seed=1), task)
    code, out, err = run_zoo("decode", path, tmp_path / "out.h5", "--block", "6,13,14")
    assert code == 0
    assert "12 x 26 x 27 uint32" in out
    assert f"decoded in 8 blocks; fragments, edges and table lie in {tmp_path / 'out.h5.objects'}" in err


# Coarser levels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"block": (6, 13, 14)}], ids=["whole", "blocks"])
def test_objects_get_coarser_levels_of_the_most_frequent_label(tmp_path, monkeypatch, options):
    monkeypatch.setattr(multiscale, "SMALLEST", 14)
    task = EXACT["components of affinities"]
    path = write_prediction(tmp_path / "p.zarr", values_for(task, seed=1), task)
    report = zoo.decode(path, tmp_path / "out.zarr", region="y=4:26", multiscale=True, **options)
    assert (report.blocks > 1) is bool(options)
    fine, coarse = (read_all(f"{tmp_path}/out.zarr#{number}") for number in (0, 1))
    # Voxels of 30, 8 and 8 nm: no level halves z yet.
    assert (fine.shape, coarse.shape) == ((12, 22, 27), (12, 11, 14))
    for at in [(0, 0, 0), (5, 6, 7), (11, 10, 13)]:
        labels, counts = np.unique(
            fine[at[0], 2 * at[1] : 2 * at[1] + 2, 2 * at[2] : 2 * at[2] + 2], return_counts=True
        )
        assert coarse[at] == labels[counts.argmax()]
    with open_volume(f"{tmp_path}/out.zarr#1") as level:
        assert (level.content, level.offset_nm) == ("instances", (0.0, 4 * 8.0 + 4.0, 4.0))
    with open_volume(tmp_path / "out.zarr") as finest:
        assert finest.offset_nm == (0.0, 4 * 8.0, 0.0)
    with pytest.raises(OutputError, match=r"out\.h5: has no levels, which only Zarr has"):
        zoo.decode(path, tmp_path / "out.h5", multiscale=True, **options)


@pytest.mark.parametrize("suffix", ["h5", "zarr"])
def test_objects_of_a_part_lie_where_that_is_in_the_raw(tmp_path, suffix):
    task = EXACT["components of affinities"]
    path = tmp_path / f"p.{suffix}"
    values = values_for(task, seed=1)
    stored = StoredPrediction(task=task, placement=Placement(Box((5, 0, 0), (17, 26, 27)), (40, 26, 27)))
    with create_volume(
        path,
        shape=values.shape[1:],
        dtype="float32",
        channels=len(values),
        voxel_size_nm=(30.0, 8.0, 8.0),
        stored=stored,
        offset=(7.0 + 5 * 30.0, 0.0, 0.0),
    ) as volume:
        volume.write(volume.whole, values)
    zoo.decode(path, tmp_path / "out.zarr", region="z=6:17,x=2:27")
    # HDF5 has no place for where the raw itself lies.
    begin = 7.0 if suffix == "zarr" else 0.0
    with open_volume(tmp_path / "out.zarr") as found:
        assert found.offset_nm == (begin + 6 * 30.0, 0.0, 16.0)
