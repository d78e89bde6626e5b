"""Prediction in several views: directions come back to the channel and voxel that they belong to, and are merged."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from support.prediction import grey, make_run, write
from support.tiny_training import request, write_volume
from support.volume_files import read_all

from connectomics_zoo.errors import SpecError
from connectomics_zoo.predict import network as predict_network
from connectomics_zoo.predict import plan, predict
from connectomics_zoo.predict import views as predict_views
from connectomics_zoo.predict.views import DESCRIPTOR_AXES, merge_views, plan_views
from connectomics_zoo.runs.folder import get_run
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.tasks.affinities import affinity_channels, compute_affinities, convention_of
from connectomics_zoo.train.resolve import resolve_run

UNKNOWN = 0.75
"""What the oracle says of an edge that leaves its window."""

OFFSETS = [
    (1, 0, 0),
    (0, -1, 0),
    (0, 0, 1),
    (-2, 0, 0),
    (0, 3, 0),
    (0, 0, -3),
    (1, 2, 0),
    (1, 0, 2),
    (1, -2, 0),
    (-1, 0, 2),
    (0, 9, 0),
    (0, 0, 9),
]
"""Steps of both signs, diagonal ones with their partners, and one as long as a window is wide."""


def affinity_task(offsets, *, axes="zyx", stored_at="source") -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "schema_version": 1,
            "name": "directions",
            "summary": "Affinities, and a foreground that has no direction.",
            "affinities": {"axes": axes, "edge_stored_at": stored_at},
            "channels": [
                {
                    "name": "inside",
                    "activation": "sigmoid",
                    "target": {"kind": "foreground"},
                    "losses": [{"kind": "bce"}],
                },
                *(
                    {
                        "name": f"edge-{index}",
                        "activation": "sigmoid",
                        "target": {
                            "kind": "affinity",
                            "offset": list(offset if axes == "zyx" else offset[::-1]),
                            "attractive": sum(map(abs, offset)) == 1,
                        },
                    }
                    for index, offset in enumerate(offsets)
                ),
            ],
            "decode": {"method": "agglomeration", "threshold": 0.5, "min_size": 1},
            "metrics": ["dice"],
        }
    )


def descriptor_task(components) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "schema_version": 1,
            "name": "shapes",
            "summary": "Shape descriptors.",
            "channels": [
                {
                    "name": component,
                    "activation": "none",
                    "target": {"kind": "lsd", "component": component, "sigma_nm": 80.0},
                    "losses": [{"kind": "mse"}],
                }
                for component in components
            ]
            + [{"name": "inside", "activation": "none", "target": {"kind": "foreground"}}],  # something to be scored
            "decode": {"method": "threshold", "threshold": 0.5},
            "metrics": ["dice"],
        }
    )


def blobs(shape, seed=0):
    """Labels in blocks of uneven size, with background between some of them."""
    random = np.random.default_rng(seed)
    ids = np.ones(shape, dtype=int)
    for axis, size in enumerate(shape):
        steps = np.cumsum(random.random(size) < 0.3)
        ids = ids * 31 + np.expand_dims(steps, tuple(other for other in range(3) if other != axis))
    return ((ids % 7) * 30).astype(np.uint8)


def true_affinities(windows, task):
    """What a perfect network says of windows of labels (B, 1, Z, Y, X), each with only itself in sight."""
    result = np.empty((len(windows), len(task.channels), *windows.shape[2:]), dtype=np.float32)
    for one, window in zip(result, windows.numpy(), strict=True):
        one[0] = window[0] > 0
        values, known = compute_affinities(window[0], convention_of(task))
        one[list(affinity_channels(task))] = np.where(known, values, UNKNOWN)
    return torch.from_numpy(result)


def merged(forward, windows, task, *, views, merge="mean"):
    axes = "yx" if windows.shape[2] == 1 else "zyx"
    return merge_views(forward, views=plan_views(views, task=task, axes=axes), merge=merge, task=task)(windows)


# Directions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored_at", ["source", "destination"])
@pytest.mark.parametrize("axes", ["zyx", "xyz"])
@pytest.mark.parametrize("views", ["flips", "flips_and_turns"])
@pytest.mark.parametrize("merge", ["mean", "min"])
def test_affinities_of_any_convention_are_the_same_in_all_views(stored_at, axes, views, merge):
    task = affinity_task(OFFSETS, axes=axes, stored_at=stored_at)
    windows = torch.from_numpy(np.stack([blobs((6, 9, 9), seed) for seed in (0, 1)])[:, None].astype(np.float32))
    plain = true_affinities(windows, task)
    assert {0.0, 1.0, UNKNOWN} == set(plain.unique().tolist())
    found = merged(lambda seen: true_affinities(seen, task), windows, task, views=views, merge=merge)
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize("stored_at", ["source", "destination"])
def test_affinities_that_are_not_moved_to_their_holder_are_wrong(stored_at, monkeypatch):
    task = affinity_task(OFFSETS, stored_at=stored_at)
    windows = torch.from_numpy(blobs((6, 9, 9))[None, None].astype(np.float32))
    monkeypatch.setattr(predict_views, "overlap_slices", lambda shape, offset: ((slice(None),) * 3,) * 2)
    found = merged(lambda seen: true_affinities(seen, task), windows, task, views="flips")
    assert (found != true_affinities(windows, task)).float().mean() > 0.05


def test_a_section_has_its_flips_and_turns_alone():
    task = affinity_task([(0, 1, 0), (0, 0, -1)])
    windows = torch.from_numpy(blobs((1, 12, 12))[None, None].astype(np.float32))
    seen = []

    def forward(view):
        seen.append(view.numpy().tobytes())
        return true_affinities(view, task)

    found = merged(forward, windows, task, views="flips_and_turns")
    np.testing.assert_array_equal(found, true_affinities(windows, task))
    assert len(seen) == len(set(seen)) == 8
    assert len(plan_views("flips", task=task, axes="yx")) == 4


@pytest.mark.parametrize("views", ["flips", "flips_and_turns"])
def test_shape_descriptors_are_the_same_in_all_views_and_background_stays_zero(views):
    task = descriptor_task(DESCRIPTOR_AXES)

    def forward(windows):
        """Numbers with the directions of a descriptor's: slopes, their squares and their products."""
        slopes = dict(zip("zyx", torch.gradient(windows[:, 0] / 255, dim=(1, 2, 3)), strict=True))
        values = []
        for component in DESCRIPTOR_AXES:
            kind, _, axes = component.partition("_")
            of = [slopes[axis] for axis in axes]
            if kind == "size":
                values.append(windows[:, 0] / 255)
            elif kind == "variance":
                values.append(of[0] ** 2)
            else:
                values.append(0.5 + 0.4 * (of[0] if kind == "offset" else of[0] * of[1]))
        return torch.stack([*values, windows[:, 0] / 255], dim=1) * (windows > 0)

    image = np.where(blobs((6, 9, 9)) > 0, grey((6, 9, 9)), 0)
    windows = torch.from_numpy(image[None, None].astype(np.float32))
    plain = forward(windows)
    assert all(channel.unique().numel() > 50 for channel in plain[0])
    found = merged(forward, windows, task, views=views)
    np.testing.assert_allclose(found, plain, atol=1e-6)
    np.testing.assert_array_equal(found[:, :, windows[0, 0] == 0], 0)


@pytest.mark.parametrize("name", ["affinities-3", "affinities-6", "affinities-12", "lsd", "mito-instance", "binary"])
def test_every_view_suits_the_tasks_of_the_catalogue(name):
    task = get_task(name)
    for views, count in (("one", 1), ("flips", 8), ("flips_and_turns", 16)):
        planned = plan_views(views, task=task, axes="zyx")
        assert len({(view.exchanged, view.flipped) for view in planned}) == len(planned) == count
        assert [part.channel for part in planned[0].parts] == list(range(len(task.channels)))


@pytest.mark.parametrize(
    ("task", "views", "message"),
    [
        (
            affinity_task([(1, 0, 0), (0, 3, 0), (0, 0, 9)]),
            "flips_and_turns",
            r"views flips_and_turns show the channel 'edge-1' with the offset \[0, 0, 3\] \(z, y, x\), and directions "
            r"has none like it there: give views flips or one\.$",
        ),
        (
            affinity_task([(1, 0, 0), (0, 1, 2)]),
            "flips",
            r"views flips show the channel 'edge-1' with the offset \[0, 1, -2\] .*: give views one\.$",
        ),
        (
            descriptor_task(["offset_z", "variance_x"]),
            "flips_and_turns",
            r"show the channel 'variance_x' as the component variance_y, and shapes has none like it there: give",
        ),
    ],
)
def test_a_direction_without_a_channel_is_refused_with_the_channels_name(task, views, message):
    with pytest.raises(SpecError, match=message):
        plan_views(views, task=task, axes="zyx")


@pytest.mark.parametrize("field", ["activation", "attractive"])
def test_affinities_of_other_kinds_do_not_stand_in_for_each_other(field):
    document = affinity_task([(1, 0, 0), (0, 1, 0), (0, 0, 1)]).model_dump(exclude_none=True)
    assert len(plan_views("flips_and_turns", task=TaskSpec.model_validate(document), axes="zyx")) == 16
    channel = document["channels"][-1]
    if field == "activation":
        channel["activation"] = "scaled_sigmoid"
    else:
        channel["target"]["attractive"] = False
    with pytest.raises(SpecError, match=r"views flips_and_turns show the channel 'edge-1' .* none like it there"):
        plan_views("flips_and_turns", task=TaskSpec.model_validate(document), axes="zyx")


def test_a_descriptor_of_two_axes_is_seen_by_the_views_that_flip_both_or_neither():
    task = descriptor_task(["pearson_zy", "offset_x"])
    planned = plan_views("flips", task=task, axes="zyx")
    channels = {channel.target.component: index for index, channel in enumerate(task.channels)}
    for component, axes in (("pearson_zy", {0, 1}), ("offset_x", {2})):
        seen = {view.flipped for view in planned if view.parts[channels[component]] is not None}
        assert seen == {view.flipped for view in planned if len(axes & set(view.flipped)) % 2 == 0}
        assert len(seen) == 4


# Merging --------------------------------------------------------------------------------------------------------


def crooked(windows):
    """Something that depends on the direction it is seen from."""
    ramp = torch.linspace(0, 1, windows.shape[-1]) * torch.linspace(1, 3, windows.shape[-2])[:, None]
    return torch.cat([windows * ramp, windows.cumsum(dim=2) + ramp], dim=1)


def all_views(window, *, turns):
    """Yield every view of an array (…, Z, Y, X), by flips and turns, and the function that brings it back."""
    for count, turn in itertools.product((0, 1, 2, 3), range(turns)):
        flipped = ((-3, -2), (-2,), (-3,), ())[count]
        for mirrored in ([], [-1]):
            axes = [*flipped, *mirrored]
            yield (
                np.rot90(np.flip(window, axes), turn, (-2, -1)),
                lambda array, axes=axes, turn=turn: np.flip(np.rot90(array, -turn, (-2, -1)), axes),
            )


@pytest.mark.parametrize(("views", "turns"), [("flips", 1), ("flips_and_turns", 2)])
@pytest.mark.parametrize("merge", ["mean", "min"])
def test_channels_without_direction_are_the_mean_or_minimum_of_all_views(views, turns, merge):
    windows = torch.from_numpy(grey((2, 1, 4, 6, 6)).astype(np.float32))
    task = get_task("binary")
    each = np.stack(
        [back(crooked(torch.from_numpy(view.copy())).numpy()) for view, back in all_views(windows.numpy(), turns=turns)]
    )
    assert len(each) == 8 * turns
    expected = each.mean(axis=0) if merge == "mean" else each.min(axis=0)
    if merge == "min":
        assert task.channels[0].target.kind == "background"
        expected[:, 0] = each.max(axis=0)[:, 0]
    found = merged(crooked, windows, task, views=views, merge=merge)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(found - crooked(windows)).max() > 1


def test_the_minimum_never_opens_a_boundary():
    """What keeps objects apart is merged by its maximum where all else is by its minimum."""
    task = get_task("mito-instance")
    windows = torch.from_numpy(grey((1, 1, 4, 6, 6)).astype(np.float32))

    def forward(seen):
        ramp = torch.linspace(0, 1, seen.shape[-1]).expand(seen.shape)
        return torch.cat([ramp, ramp, ramp], dim=1)

    found = merged(forward, windows, task, views="flips", merge="min")
    both = np.stack([np.linspace(0, 1, 6), np.linspace(1, 0, 6)])
    kinds = [channel.target.kind for channel in task.channels]
    assert kinds == ["foreground", "boundary", "distance"]
    for index, expected in enumerate((both.min(axis=0), both.max(axis=0), both.min(axis=0))):
        np.testing.assert_allclose(found[0, index], np.broadcast_to(expected, (4, 6, 6)), rtol=1e-6)


def test_a_network_that_is_the_same_from_all_sides_gives_the_same_in_all_views():
    kernel = torch.ones(1, 1, 3, 3, 3) / 27

    def forward(windows):
        mean = torch.nn.functional.conv3d(windows, kernel, padding=1)
        return torch.cat([mean, windows - mean], dim=1)

    windows = torch.from_numpy(grey((1, 1, 6, 8, 8)).astype(np.float32))
    for views in ("flips", "flips_and_turns"):
        found = merged(forward, windows, get_task("binary"), views=views)
        np.testing.assert_allclose(found, forward(windows), atol=1e-3)


def test_one_view_is_the_network_itself():
    task = affinity_task(OFFSETS)
    assert merge_views(crooked, views=plan_views("one", task=task, axes="zyx"), merge="mean", task=task) is crooked


# Whole volumes --------------------------------------------------------------------------------------------------


class Oracle(torch.nn.Module):
    """A network that computes the true affinities of the labels in its window, and remembers what it was given."""

    def __init__(self, spec, task):
        super().__init__()
        self.spec, self.task = spec, task
        self.batches = []

    def forward(self, windows):
        self.batches.append(len(windows))
        values = true_affinities((windows * 255).round(), self.task)
        return torch.where(values == UNKNOWN, np.log(3), 400 * (values - 0.5))  # the sigmoid gives them back


@pytest.fixture
def oracle(tmp_path, monkeypatch):
    """A run of an oracle, and the oracle."""
    task = affinity_task(OFFSETS, axes="xyz", stored_at="destination")
    run = make_run(tmp_path / "run", task=task, window=(16, 32, 32))
    network = Oracle(get_run(run).model, task)
    monkeypatch.setattr(predict_network, "load_file", lambda *_, **__: network)
    return run, network


@pytest.mark.parametrize("views", ["flips", "flips_and_turns"])
def test_a_volume_of_true_affinities_is_the_same_in_all_views(oracle, tmp_path, views):
    run, network = oracle
    image = write(tmp_path / "image.h5", blobs((20, 40, 50)))
    plain = predict(run, image, tmp_path / "one.h5", dtype="float32", device="cpu")
    assert (plain.views, plain.merge) == ("one", "mean")
    network.batches.clear()
    report = predict(run, image, tmp_path / "all.h5", dtype="float32", device="cpu", views=views, batch_size=3)
    assert (report.views, report.merge, report.windows) == (views, "mean", plain.windows)
    assert max(network.batches) == 3
    assert sum(network.batches) == {"flips": 8, "flips_and_turns": 16}[views] * plain.windows
    np.testing.assert_allclose(read_all(tmp_path / "all.h5"), read_all(tmp_path / "one.h5"), atol=1e-6)


class Crooked(torch.nn.Module):
    """A network that depends on the whole window and on the direction it is seen from."""

    def __init__(self, spec, channels):
        super().__init__()
        self.spec, self.channels = spec, channels

    def forward(self, windows):
        mean = windows.mean(dim=(1, 2, 3, 4), keepdim=True)
        return torch.cat([crooked(windows - mean)[:, 1:] * factor for factor in range(1, self.channels + 1)], dim=1)


@pytest.mark.parametrize("merge", ["mean", "min"])
def test_regions_blocks_and_batches_do_not_change_what_views_give(tmp_path, monkeypatch, merge):
    task = affinity_task([(1, 0, 0), (0, -2, 0), (0, 0, 2)])
    run = make_run(tmp_path / "run", task=task)
    network = Crooked(get_run(run).model, len(task.channels))
    monkeypatch.setattr(predict_network, "load_file", lambda *_, **__: network)
    image = write(tmp_path / "image.h5", grey((20, 50, 40)))
    options = {"dtype": "float32", "device": "cpu", "views": "flips_and_turns", "merge": merge}
    predict(run, image, tmp_path / "whole.h5", **options)
    whole = read_all(tmp_path / "whole.h5")
    predict(run, image, tmp_path / "one.h5", dtype="float32", device="cpu")
    assert np.abs(whole - read_all(tmp_path / "one.h5")).max() > 0.01
    predict(run, image, tmp_path / "batch.h5", batch_size=4, **options)
    np.testing.assert_allclose(read_all(tmp_path / "batch.h5"), whole, atol=1e-6)
    predict(run, image, tmp_path / "region.h5", region="z=3:7,y=30:50", **options)
    np.testing.assert_array_equal(read_all(tmp_path / "region.h5"), whole[:, 3:7, 30:50])
    monkeypatch.setattr(plan, "MEMORY_BUDGET", 1)
    monkeypatch.setattr(plan, "CHUNK_EDGE", 16)
    assert predict(run, image, tmp_path / "blocks.h5", **options).blocks > 4
    np.testing.assert_array_equal(read_all(tmp_path / "blocks.h5"), whole)


def test_a_run_of_sections_is_predicted_in_its_flips_and_turns(tmp_path):
    run = make_run(tmp_path / "run", arch={"spatial_dims": 2}, window=(32, 32))
    array = grey((2, 32, 32))
    options = {"dtype": "float32", "device": "cpu", "views": "flips_and_turns"}
    predict(run, write(tmp_path / "image.h5", array), tmp_path / "out.h5", **options)
    turned = write(tmp_path / "turned.h5", np.rot90(array, 1, (1, 2)).copy())
    predict(run, turned, tmp_path / "turned_out.h5", **options)
    expected = np.rot90(read_all(tmp_path / "out.h5"), 1, (1, 2))
    np.testing.assert_allclose(read_all(tmp_path / "turned_out.h5"), expected, atol=1e-5)


def test_openvino_sees_the_same_views(openvino, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", task=affinity_task([(1, 0, 0), (0, -2, 0), (0, 0, 2)]))
    network = torch.nn.Conv3d(1, 4, 3, padding=1)  # OpenVINO takes seconds to convert a larger one
    network.spec = get_run(run).model
    monkeypatch.setattr(predict_network, "load_file", lambda *_, **__: network)
    image = write(tmp_path / "image.h5", grey((16, 32, 40)))
    options = {"dtype": "float32", "device": "cpu", "views": "flips_and_turns", "merge": "min"}
    predict(run, image, tmp_path / "torch.h5", **options)
    predict(run, image, tmp_path / "openvino.h5", engine="openvino", batch_size=2, **options)
    np.testing.assert_allclose(read_all(tmp_path / "openvino.h5"), read_all(tmp_path / "torch.h5"), atol=2e-6)


# Requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"views": "turns"}, {}, r"prediction: views: .*\(got 'turns'\)"),
        ({"views": "flips", "merge": "max"}, {}, r"prediction: merge: .*\(got 'max'\)"),
        ({"merge": "min"}, {}, r"merge min has no effect with views one, leave it out or give views flips\.$"),
        (
            {"views": "flips_and_turns", "window": (16, 32, 48)},
            {},
            r"need a window as high as wide, and \[16, 32, 48\] is not: give such a window, or views flips\.$",
        ),
        (
            {"views": "flips_and_turns"},
            {"voxel_size_nm": (30.0, 8.0, 9.0)},
            r"need voxels as high as wide, and the network's are 8 x 9 nm \(y, x\): give views flips\.$",
        ),
        ({"views": "flips_and_turns"}, {"downsample": (1, 2, 1)}, r"need voxels as high as wide, and the network's"),
    ],
)
def test_views_that_are_not_possible_are_refused_and_nothing_is_written(tmp_path, options, data, message):
    run = make_run(tmp_path / "run", data=data)
    image = write(tmp_path / "image.h5", grey((16, 32, 48)))
    with pytest.raises(SpecError, match=message):
        predict(run, image, tmp_path / "out.h5", **options)
    assert not (tmp_path / "out.h5").exists()


def test_downsampling_can_make_voxels_as_high_as_wide(tmp_path):
    run = make_run(tmp_path / "run", data={"voxel_size_nm": (30.0, 4.0, 8.2), "downsample": (1, 2, 1)})
    image = write(tmp_path / "image.h5", grey((16, 64, 32)))
    assert predict(run, image, tmp_path / "out.h5", views="flips_and_turns").views == "flips_and_turns"


def test_the_command_takes_views_and_says_so(tmp_path, run_zoo):
    run = make_run(tmp_path / "run")
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    code, out, err = run_zoo("predict", run, image, tmp_path / "a.h5", "--views", "flips", "--device", "cpu")
    assert code == 0, err
    assert "1 windows, views flips merged by mean, on cpu in float32\n" in out
    options = ["--views", "flips_and_turns", "--merge", "min", "--json"]
    code, out, err = run_zoo("predict", run, image, tmp_path / "b.h5", *options)
    assert code == 0, err
    report = json.loads(out)
    assert (report["views"], report["merge"]) == ("flips_and_turns", "min")
    code, _, err = run_zoo("predict", run, image, tmp_path / "c.h5", "--merge", "min")
    assert code == 2
    assert err.count("\n") == 1


def test_a_run_pins_its_views_and_predicts_in_them(tmp_path, run_zoo):
    path = write_volume(tmp_path / "vol.h5")
    overrides = {**request(path), "prediction": {"views": "flips", "merge": "min"}}
    pinned = resolve_run("mednext-S", overrides).prediction
    assert (pinned.views, pinned.merge, pinned.window) == ("flips", "min", (16, 32, 32))
    run = make_run(tmp_path / "run")
    spec = run / "spec.yaml"
    spec.write_text(spec.read_text().replace("views: one", "views: flips").replace("merge: mean", "merge: min"))
    image = write(tmp_path / "image.h5", grey((16, 32, 32)))
    report = predict(run, image, tmp_path / "out.h5")
    assert (report.views, report.merge) == ("flips", "min")
    assert predict(run, image, tmp_path / "plain.h5", views="one").views == "one"
    code, out, err = run_zoo("show", run)
    assert code == 0, err
    assert "views flips merged by min" in out
