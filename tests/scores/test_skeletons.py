"""Expected run lengths: equal to walking along the skeletons, read block by block, and never off by a unit."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from connectomics_zoo.cli import evaluate as evaluate_cli
from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.evaluate import evaluate
from connectomics_zoo.evaluate import run as evaluate_run
from connectomics_zoo.scores.run_length import run_length_scores, skeletons_in
from connectomics_zoo.scores.skeletons import Skeletons, read_skeletons
from connectomics_zoo.volumes import Box, Volume

SIZE = (30.0, 10.0, 8.0)
"""Of the voxels (z, y, x), in nm."""

TRUTH = np.zeros((4, 6, 21), dtype=np.uint16)
TRUTH[:, :3], TRUTH[:, 3:] = 1, 2


def save(path, array, *, size=SIZE):
    with h5py.File(path, "w") as file:
        file["main"] = array
        if size is not None:
            file["main"].attrs["voxel_size_nm"] = size
    return f"{path}:main"


def swc(path, voxels, *, parents=None):
    """Write a skeleton through voxels (z, y, x), each the child of the one before."""
    lines = ["# a neuron", ""]
    for number, voxel in enumerate(voxels, start=1):
        z, y, x = (index * length for index, length in zip(voxel, SIZE, strict=True))
        parent = (number - 1 or -1) if parents is None else parents[number - 1]
        lines.append(f"{number} 0 {x:.2f} {y:.2f} {z:.2f} 1.0 {parent}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Two straight skeletons along x, one in each neuron, of 20 edges of 8 nm."""
    place = tmp_path / "skeletons"
    place.mkdir()
    for name, y in (("a", 1), ("b", 4)):
        swc(place / f"{name}.swc", [(2, y, x) for x in range(21)])
    return place


def lengths(report):
    return [report.scores[name] for name in ("erl_nm", "erl_of_truth_nm", "nerl")]


# The score --------------------------------------------------------------------------------------------------------


def test_the_truth_has_a_normalised_run_length_of_one(tmp_path, folder):
    truth = save(tmp_path / "truth.h5", TRUTH)
    report = evaluate(truth, truth, skeletons=folder)
    assert lengths(report) == pytest.approx([160, 160, 1])
    assert report.skeletons == str(folder)
    assert report.kind == "instances"
    assert report.scores["adapted_rand_error"] == 0


def test_a_split_leaves_two_pieces_and_an_omission_none(tmp_path, folder):
    found = TRUTH.copy()
    found[:, :3, 11:] = 3  # the edge 10-11 is lost, and 10 and 9 of its 20 are left
    found[:, 3:, 5] = 0  # the edges 4-5 and 5-6 are lost, and 4 + 14 are left of the same label
    report = evaluate(save(tmp_path / "found.h5", found), save(tmp_path / "truth.h5", TRUTH), skeletons=folder)
    erl = (80**2 + 72**2 + (18 * 8) ** 2) / 320
    assert lengths(report) == pytest.approx([erl, 160, erl / 160])
    edges = [report.scores[f"edges{name}"] for name in ("", "_split", "_merged", "_omitted")]
    assert edges == [40, 1, 0, 2]
    found[:, :, 5] = 0  # in both neurons: the background merges nothing
    report = evaluate(save(tmp_path / "empty.h5", found), skeletons=folder)
    assert report.scores["segments_merging"] == 0


def test_a_merger_of_more_nodes_than_tolerated_counts_nothing(tmp_path, folder):
    found = TRUTH.copy()
    found[:, :3, 18:] = 2  # three nodes of the first neuron are in the second's segment
    locations = save(tmp_path / "found.h5", found), save(tmp_path / "truth.h5", TRUTH)
    strict = evaluate(*locations, skeletons=folder)
    assert strict.scores["erl_nm"] == pytest.approx((17 * 8) ** 2 / 320)
    assert (strict.scores["segments_merging"], strict.scores["edges_merged"]) == (1, 22)
    assert evaluate(*locations, skeletons=folder, merge_nodes=2).scores == strict.scores
    mild = evaluate(*locations, skeletons=folder, merge_nodes=3)
    assert mild.scores["erl_nm"] == pytest.approx(((17 * 8) ** 2 + (2 * 8) ** 2 + 160**2) / 320)
    assert mild.scores["segments_merging"] == 0


def walked(positions, neurons, edges, labels, merge_nodes):
    """The expected run length, edge by edge."""
    inside = {}
    for neuron, label in zip(neurons, labels, strict=True):
        inside.setdefault(label, []).append(neuron)
    mergers = {
        label for label, all_ in inside.items() if sum(all_.count(neuron) > merge_nodes for neuron in set(all_)) > 1
    }
    runs, total = {}, 0
    for first, second in edges:
        length = np.linalg.norm(positions[first] - positions[second])
        total += length
        if labels[first] == labels[second] != 0 and labels[first] not in mergers:
            key = (neurons[first], labels[first])
            runs[key] = runs.get(key, 0) + length
    return sum(run**2 for run in runs.values()) / total


@given(data=st.data(), merge_nodes=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_run_lengths_equal_walking_along_the_edges(data, merge_nodes):
    count = 12
    neurons = np.arange(count) // 4
    edges = [
        (node, data.draw(st.integers(node // 4 * 4, node - 1), label="parent")) for node in range(count) if node % 4
    ]
    labels = np.array(data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 2**63 + 5]), min_size=count, max_size=count)))
    positions = np.random.default_rng(0).random((count, 3)) * 100
    skeletons = Skeletons(positions, neurons, np.array(edges))
    scores = run_length_scores(skeletons, labels.astype(np.uint64), merge_nodes=merge_nodes)
    expected = walked(positions, neurons.tolist(), edges, labels.astype(np.uint64).tolist(), merge_nodes)
    assert scores["erl_nm"] == pytest.approx(expected)
    perfect = walked(positions, neurons.tolist(), edges, (neurons + 1).tolist(), 0)
    assert scores["nerl"] == pytest.approx(expected / perfect)


# What is read -----------------------------------------------------------------------------------------------------


def test_nodes_are_read_block_by_block(tmp_path, folder, monkeypatch):
    labels = np.random.default_rng(1).integers(0, 3, TRUTH.shape).repeat(2, axis=2)[..., :21].astype(np.uint8)
    found, whole = save(tmp_path / "found.h5", labels[np.newaxis]), evaluate_run.BLOCK
    expected = evaluate(found, skeletons=folder, merge_nodes=21).scores
    assert whole > TRUTH.shape
    assert 0 < expected["nerl"] < 1
    monkeypatch.setattr(evaluate_run, "BLOCK", (3, 2, 5))
    reads = []
    read = Volume.read
    monkeypatch.setattr(Volume, "read", lambda self, box: reads.append(box) or read(self, box))
    assert evaluate(found, skeletons=folder, merge_nodes=21).scores == expected
    assert len(reads) == 2 * 5
    assert all(box.shape[2] <= 5 for box in reads)
    swc(folder / "a.swc", [(2, 1, x) for x in (0, 9, 1, 8, 2, 7)])  # to and fro between two blocks
    reads.clear()
    evaluate(found, skeletons=folder / "a.swc")
    assert len(reads) == 2


def test_a_node_at_the_first_corner_of_a_voxel_is_in_it_however_its_file_rounds():
    size = (30.0, 4.6, 1.1)
    corners = np.array([(z, y, z + y) for z in range(4) for y in range(40)], dtype=float)
    chain = np.stack([np.arange(159), np.arange(1, 160)], axis=1)
    box = Box.of_shape((4, 40, 43))
    for shift in (-5e-4, 0.0, 5e-4, 0.5, 0.99):
        nodes = Skeletons((corners + shift) * size, np.zeros(160, np.intp), chain)
        part, voxels = skeletons_in(nodes, box=box, voxel_size_nm=size)
        assert len(part.edges) == 159
        np.testing.assert_array_equal(voxels, corners)


def test_what_is_outside_the_region_does_not_count_and_is_said(tmp_path, folder, caplog):
    truth = save(tmp_path / "truth.h5", TRUTH)
    part = save(tmp_path / "part.h5", TRUTH[:, :, 4:15])
    for found in (truth, part):
        caplog.clear()
        report = evaluate(found, truth, region="x=4:15", skeletons=folder)
        assert lengths(report) == pytest.approx([80, 80, 1])
        assert "20 of 42 nodes of the skeletons are outside and do not count." in caplog.text
    swc(folder / "a.swc", [(2, 1, 7 + x) for x in (0, 1, 2)])
    wrong = TRUTH[:, :, 4:15].copy()
    wrong[2, 1, 4] = 0  # x = 8 of the truth
    report = evaluate(save(tmp_path / "wrong.h5", wrong), truth, region="x=4:15", skeletons=folder / "a.swc")
    assert report.scores["edges_omitted"] == report.scores["edges"] == 2


def test_skeletons_need_no_truth(tmp_path, folder):
    found = save(tmp_path / "found.h5", TRUTH)
    report = evaluate(found, skeletons=folder)
    assert (report.truth, report.kind, report.voxels) == (None, "instances", TRUTH.size)
    assert lengths(report) == pytest.approx([160, 160, 1])
    assert "adapted_rand_error" not in report.scores


def test_the_voxel_size_is_given_where_the_volumes_do_not_say_it(tmp_path, folder):
    found = save(tmp_path / "found.h5", TRUTH, size=None)
    with pytest.raises(VolumeError, match="neither it nor the truth says how large its voxels are"):
        evaluate(found, skeletons=folder)
    assert lengths(evaluate(found, skeletons=folder, voxel_size_nm=SIZE)) == pytest.approx([160, 160, 1])
    truth = save(tmp_path / "truth.h5", TRUTH)
    assert evaluate(found, truth, skeletons=folder).scores["nerl"] == 1


def test_swc_is_read_with_branches_comments_and_nodes_in_any_order(tmp_path):
    file = tmp_path / "neuron.swc"
    file.write_text("# x y z\n7 0 8 10 30 1 9 # the end\n9 1 0 0 0 1.5 -1\n3 0 0.0 20.0 0 1 9\n", encoding="utf-8")
    skeletons = read_skeletons(file)
    np.testing.assert_array_equal(skeletons.positions, [[30, 10, 8], [0, 0, 0], [0, 20, 0]])
    assert {frozenset(edge) for edge in skeletons.edges.tolist()} == {frozenset({0, 1}), frozenset({1, 2})}


# What goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0 0 0 0 1\n", "line 1 has 6 columns, SWC has 7"),
        ("# nothing\n", "has no node"),
        ("1 0 0 0 zero 1 -1\n", "holds what is no number .*zero"),
        ("1 0 0 0 nan 1 -1\n", "position that is not finite"),
        ("1 0 0 0 0 1 -1\n1 0 0 0 8 1 1\n", "the node 1 is there twice"),
        ("1 0 0 0 0 1 -1\n2 0 8 0 0 1 5\n", "the parent 5 is no node of the file"),
        ("1 0 0 0 0 1 nan\n", "the parent nan is no node"),
        ("nan 0 0 0 0 1 -1\n2 0 8 0 0 1 nan\n", "the parent nan is no node"),
        ("1 0 0 0 0 1 -1\n", "no edge of the skeletons is inside z=0:4,y=0:6,x=0:21 with voxels .* of 30,10,8 nm"),
        ("1 0 1e300 0 0 1 -1\n2 0 8 0 0 1 1\n", "no edge of the skeletons is inside"),
    ],
)
def test_a_bad_swc_file_is_refused_in_one_sentence(tmp_path, text, message):
    file = tmp_path / "neuron.swc"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(VolumeError, match=message) as caught:
        evaluate(save(tmp_path / "found.h5", TRUTH), skeletons=file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path):
    found = save(tmp_path / "found.h5", TRUTH)
    with pytest.raises(VolumeError, match=r"none\.swc: cannot be read \(No such file or directory\), give an SWC"):
        evaluate(found, skeletons=tmp_path / "none.swc")
    with pytest.raises(VolumeError, match=r"no file in this folder ends in \.swc"):
        evaluate(found, skeletons=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skeletons": "a.swc", "kind": "semantic"}, "skeletons score instances and not a foreground"),
        ({"skeletons": "a.swc", "threshold": 0.5}, "skeletons score instances and not a foreground"),
        ({}, "there is nothing to score against, give the truth, skeletons or both"),
        ({"truth": "t.h5", "merge_nodes": 3}, "merge_nodes 3 is not possible, give 0 or more of them, and skeletons"),
        ({"skeletons": "a.swc", "merge_nodes": -1}, "merge_nodes -1 is not possible"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(SpecError, match=message):
        evaluate("p.h5", **options)


def test_probabilities_have_no_run_length(tmp_path, folder):
    found = save(tmp_path / "found.h5", TRUTH / 2)
    for options in ({}, {"truth": save(tmp_path / "truth.h5", TRUTH)}):
        with pytest.raises(VolumeError, match=r"holds (probabilities \()?float64.*(segment it|make objects) first"):
            evaluate(found, skeletons=folder, **options)


# The command line -------------------------------------------------------------------------------------------------


def test_the_command_scores_skeletons_with_and_without_a_truth(tmp_path, folder):
    found = save(tmp_path / "found.h5", TRUTH, size=None)
    options = ["--skeletons", str(folder), "--voxel-size", "30,10,8", "--merge-nodes", "2"]
    result = CliRunner().invoke(evaluate_cli.command, [found, *options])
    assert result.exit_code == 0, result.output
    assert f"{found} against {folder}" in result.stdout
    assert "normalised expected run length" in result.stdout
    result = CliRunner().invoke(evaluate_cli.command, [found, found, *options, "--json"])
    report = json.loads(result.stdout)
    assert report["scores"]["erl_nm"] == pytest.approx(160)
    assert report["scores"]["ap_50"] == 1


def test_a_picture_without_a_truth_is_refused(tmp_path, folder):
    found = save(tmp_path / "found.h5", TRUTH)
    options = ["--skeletons", str(folder), "--picture", str(tmp_path / "look.png"), "--image", found]
    result = CliRunner().invoke(evaluate_cli.command, [found, *options])
    assert isinstance(result.exception, SpecError)
    assert "--picture draws the truth, give it or leave --picture out" in str(result.exception)
