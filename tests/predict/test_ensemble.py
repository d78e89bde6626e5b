"""Several networks predict their mean, and the spread of views and networks lies beside it."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from support.prediction import StopError, grey, make_run, read, stop_batches, write

from connectomics_zoo.blocks.status import status_of
from connectomics_zoo.decode import decode
from connectomics_zoo.errors import OutputError, SpecError, VolumeError, WorkerRefusedError
from connectomics_zoo.evaluate import evaluate
from connectomics_zoo.predict import plan, predict
from connectomics_zoo.predict import spread as spreading
from connectomics_zoo.predict.views import merge_with_variance, plan_views
from connectomics_zoo.predict.work import PredictBlock, forget
from connectomics_zoo.runs.folder import WEIGHTS_FILE
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.volumes import open_volume
from connectomics_zoo.weights.load import load

VOXELS_NM = (30.0, 8.0, 8.0)
WINDOW = (16, 32, 32)
SHAPE = (20, 32, 32)

SMALL = {"CHUNK_EDGE": 16, "SHARD_EDGES": (8, 16, 16), "BLOCK_WINDOWS": 4}
"""What `predict.plan` has instead, to make twelve blocks of 20 windows of that."""

STOP = 7
"""The window in which a prediction is stopped, in the fourth block."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs of one task, whose networks differ."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        make_run(folder / name, arch={"base_channels": width}, window=WINDOW, data={"voxel_size_nm": VOXELS_NM})
        for name, width in (("a", 2), ("b", 3), ("c", 4))
    ]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return write(tmp_path_factory.mktemp("images") / "image.h5", grey(SHAPE), voxel_size_nm=VOXELS_NM)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An image of one window."""
    return write(tmp_path_factory.mktemp("small") / "image.h5", grey(WINDOW), voxel_size_nm=VOXELS_NM)


@pytest.fixture(scope="module")
def whole(runs, image, tmp_path_factory):
    """What the first two predict in one block, and the spread of that."""
    folder = tmp_path_factory.mktemp("whole")
    assert predict(runs[:2], image, folder / "out.h5", device="cpu", spread=folder / "spread.h5").blocks == 1
    return read(folder / "out.h5"), read(folder / "spread.h5")


@pytest.fixture
def small_blocks(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(plan, name, value)


def predicted(runs, image, out, **options):
    predict(runs, image, out, device="cpu", dtype="float32", overwrite=True, **options)
    return read(out)


def test_an_ensemble_is_the_mean_of_what_its_members_predict_and_its_spread_their_standard_deviation(
    runs, image, tmp_path
):
    each = [predicted(run, image, tmp_path / "one.h5") for run in runs]
    mean = predicted(runs, image, tmp_path / "mean.h5", spread=tmp_path / "spread.h5")
    np.testing.assert_allclose(mean, np.mean(each, axis=0), atol=1e-6)
    # Windows overlap: what is blended is the deviation in each of them, which is no less than that of the blend.
    spread = read(tmp_path / "spread.h5")
    assert (spread >= np.std(each, axis=0) - 1e-5).all()
    assert spread.mean() < 1.5 * np.std(each, axis=0).mean()


def test_the_spread_of_one_window_is_the_standard_deviation_over_members_and_views(runs, tmp_path):
    voxels = grey(WINDOW, seed=3)
    image = write(tmp_path / "image.h5", voxels, voxel_size_nm=VOXELS_NM)
    window = torch.from_numpy(voxels / np.float32(255))[None, None]
    values = []
    for run in runs[:2]:
        network = load(run, deep_supervision=False)
        for axes in [(), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)]:
            with torch.inference_mode():
                values.append(network(window.flip(axes)).sigmoid().flip(axes)[0, 0].numpy())
    both = {"spread": tmp_path / "spread.h5", "views": "flips"}
    np.testing.assert_allclose(
        predicted(runs[:2], image, tmp_path / "out.h5", **both), np.mean(values, axis=0), atol=1e-5
    )
    np.testing.assert_allclose(read(tmp_path / "spread.h5"), np.std(values, axis=0), atol=1e-5)
    # Of one network alone, it is that over its views.
    predicted(runs[0], image, tmp_path / "out.h5", **both)
    np.testing.assert_allclose(read(tmp_path / "spread.h5"), np.std(values[:8], axis=0), atol=1e-5)


def test_the_variance_of_an_affinity_is_that_over_the_views_that_cover_the_edge():
    task = get_task("affinities-3")
    windows = torch.rand(1, 1, 6, 7, 8)
    views = plan_views("flips", task=task, axes="zyx")
    count = len(task.channels)
    calls = iter(range(100))
    # Each view says a number of its own everywhere, and so each edge has some of these.
    both = merge_with_variance(
        lambda seen: torch.full((1, count, *seen.shape[2:]), float(next(calls))), views=views, merge="mean", task=task
    )(windows)
    for index in range(count):
        parts = [view.parts[index] for view in views]
        everywhere = [number for number, part in enumerate(parts) if not part.is_reversed]
        inside = list(range(len(views)))
        found = both[0, count + index].unique().tolist()
        assert found == pytest.approx(sorted({np.var(everywhere), np.var(inside)}), rel=1e-5)


def test_a_prediction_is_the_same_with_and_without_its_spread(runs, small, tmp_path):
    plain = predicted(runs, small, tmp_path / "plain.h5")
    np.testing.assert_array_equal(predicted(runs, small, tmp_path / "both.h5", spread=tmp_path / "s.h5"), plain)
    flips = predicted(runs[0], small, tmp_path / "plain.h5", views="flips")
    with_spread = predicted(runs[0], small, tmp_path / "both.h5", views="flips", spread=tmp_path / "s.h5")
    np.testing.assert_array_equal(with_spread, flips)


def test_a_spread_is_neither_scored_nor_decoded(runs, small, tmp_path):
    predicted(runs[:2], small, tmp_path / "p.h5", spread=tmp_path / "s.h5")
    with pytest.raises(
        VolumeError, match=r"s\.h5\S*: holds the spread of a prediction, as the file says, and not what"
    ):
        evaluate(tmp_path / "s.h5", tmp_path / "p.h5")
    with pytest.raises(VolumeError, match=r"s\.h5\S*: holds the spread of a prediction"):
        decode(tmp_path / "s.h5", tmp_path / "o.h5", task="mito")


def test_a_list_of_one_reference_is_that_reference(runs, small, tmp_path):
    predict(runs[:1], small, tmp_path / "list.zarr", device="cpu")
    predict(runs[0], small, tmp_path / "one.zarr", device="cpu")
    files = {path.relative_to(tmp_path / "one.zarr") for path in (tmp_path / "one.zarr").rglob("*") if path.is_file()}
    assert files
    for name in files:
        assert (tmp_path / "list.zarr" / name).read_bytes() == (tmp_path / "one.zarr" / name).read_bytes()


@pytest.mark.parametrize("names", [("out.zarr", "spread.zarr"), ("out.h5:mito", "spread.tif")])
def test_an_ensemble_with_its_spread_goes_on_where_it_was_stopped(
    runs, image, whole, tmp_path, small_blocks, monkeypatch, names
):
    paths = [tmp_path / name.partition(":")[0] for name in names]
    out, spread = (tmp_path / name for name in names)
    with monkeypatch.context() as stopping:
        stop_batches(stopping, STOP)
        with pytest.raises(StopError):
            predict(runs[:2], image, out, device="cpu", spread=spread)
    assert not any(path.exists() for path in paths)
    assert status_of(spread) == status_of(out)
    assert status_of(spread).stages[0].done > 0
    with pytest.raises(OutputError, match=r"out.*: is the unfinished output of another job \(weights of others"):
        predict([runs[0], runs[2]], image, out, device="cpu", spread=spread)
    with pytest.raises(OutputError, match=r"elsewhere.h5\S*: what was done of the spread is not there, give the place"):
        predict(runs[:2], image, out, device="cpu", spread=tmp_path / "elsewhere.h5")
    report = predict(runs[:2], image, out, device="cpu", spread=spread)
    assert report.resumed > 0
    assert report.members == tuple(map(str, runs[:2]))
    for path, expected in zip((out, spread), whole, strict=True):
        np.testing.assert_array_equal(read(path), expected)
    assert not list(tmp_path.glob("*.job"))


def test_what_was_killed_between_its_two_outputs_is_finished_by_the_same_call(
    runs, image, tmp_path, small_blocks, monkeypatch
):
    out, spread = tmp_path / "out.zarr", tmp_path / "spread.zarr"
    finish_spread = spreading.finish_spread

    def then_stop(*args):
        finish_spread(*args)
        raise StopError

    with monkeypatch.context() as ending:
        ending.setattr("connectomics_zoo.predict.run.finish_spread", then_stop)
        with pytest.raises(StopError):
            predict(runs[:2], image, out, device="cpu", spread=spread)
    assert spread.exists()
    assert not out.exists()
    report = predict(runs[:2], image, out, device="cpu", spread=spread)
    assert report.resumed == report.blocks
    assert {path.name for path in tmp_path.iterdir()} == {"out.zarr", "spread.zarr"}


def test_a_spread_that_is_lost_is_not_gone_on_with(runs, image, tmp_path, small_blocks, monkeypatch):
    out, spread = tmp_path / "out.zarr", tmp_path / "spread.zarr"
    with monkeypatch.context() as stopping:
        stop_batches(stopping, STOP)
        with pytest.raises(StopError):
            predict(runs[:2], image, out, device="cpu", spread=spread)
    with pytest.raises(OutputError, match=r"spread\.zarr: is the unfinished output of another job \(.*spread of"):
        predict(runs[0], image, spread, device="cpu")
    predict(runs[0], image, spread, device="cpu", overwrite=True)
    with pytest.raises(OutputError, match=r"spread\.zarr: exists already"):
        predict(runs[:2], image, out, device="cpu", spread=spread)
    (tmp_path / "spread.zarr").rename(tmp_path / "mine.zarr")
    with pytest.raises(
        OutputError,
        match="what was done of the spread is not there, give the place that it was begun at, or",
    ):
        predict(runs[:2], image, out, device="cpu", spread=spread)


def test_shares_write_both_outputs_and_a_mask_leaves_both_empty(runs, image, whole, tmp_path, small_blocks):
    shown = np.zeros(SHAPE, np.uint8)
    shown[2:10, 3:20, 5:18] = 1
    mask = write(tmp_path / "mask.h5", shown)
    for share in ("1/2", "0/2"):
        predict(
            runs[:2], image, tmp_path / "out.zarr", device="cpu", spread=tmp_path / "s.zarr", shard=share, mask=mask
        )
    np.testing.assert_array_equal(read(tmp_path / "out.zarr"), whole[0] * shown)
    np.testing.assert_array_equal(read(tmp_path / "s.zarr"), whole[1] * shown)


def test_a_worker_with_other_weights_of_a_member_takes_no_part(runs, image, tmp_path, small_blocks, monkeypatch):
    copies = [tmp_path / "a", tmp_path / "b"]
    for copy, run in zip(copies, runs, strict=False):
        copy.mkdir()
        for path in run.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "out.zarr"
    stop_batches(monkeypatch, STOP)
    with pytest.raises(StopError):
        predict(copies, image, out, device="cpu")
    monkeypatch.undo()
    data = {"voxel_size_nm": VOXELS_NM}
    other = make_run(tmp_path / "other", arch={"base_channels": 3, "kernel_size": 5}, data=data)
    for name in ("spec.yaml", WEIGHTS_FILE):
        (copies[1] / name).write_bytes((other / name).read_bytes())
    forget(str(out))
    with pytest.raises(WorkerRefusedError, match=r"and this worker finds [0-9a-f]{12}… at \S*b/\S*: give all the same"):
        PredictBlock(str(out))(0, lambda fraction: None)


def test_what_is_stored_names_all_members_and_what_it_is(runs, small, tmp_path):
    predict(runs[:2], small, tmp_path / "out.h5", device="cpu", spread=tmp_path / "spread.h5")
    with open_volume(tmp_path / "out.h5") as volume:
        stored = volume.stored()
    assert (stored.content, stored.provenance.quantity) == ("probability", None)
    assert [stored.provenance.weights.reference, stored.provenance.others[0].reference] == list(map(str, runs[:2]))
    with open_volume(tmp_path / "spread.h5") as volume:
        stored = volume.stored()
    assert (stored.content, stored.task, stored.scale) == (None, None, ((0.0, 1.0),))
    assert stored.provenance.quantity == "spread"
    with h5py.File(tmp_path / "out.h5") as file:
        assert "quantity" not in json.loads(file["main"].attrs["zoo_prediction"])["provenance"]


def test_members_that_cannot_be_averaged_are_refused_with_what_differs(runs, small, tmp_path):
    def refused(match, *, others=(), **options):
        with pytest.raises(SpecError, match=match):
            predict([runs[0], *others], small, tmp_path / "out.h5", device="cpu", **options)

    def other(name, **options):
        return [make_run(tmp_path / name, **{"data": {"voxel_size_nm": VOXELS_NM}, "window": WINDOW, **options})]

    first = rf"^{runs[0]} and "
    refused(
        first + r"\S*/m do not predict the same \(channels mitochondria against \S+\): give networks of one task\.",
        others=other("m", task=get_task("membrane")),
    )
    window = other("w", window=(16, 32, 64))
    refused(
        first + r"\S*/w predict with window 16,32,32 and 16,32,64: give --window, which holds for both\.", others=window
    )
    predict([runs[0], *window], small, tmp_path / "asked.h5", device="cpu", window=WINDOW)
    refused(
        first + r"\S*/d see voxels of other sizes \(30 x 8 x 8 nm and 30 x 16 x 16 nm\): predict with each by itself\.",
        others=other("d", data={"voxel_size_nm": VOXELS_NM, "downsample": [1, 2, 2]}),
    )
    refused(
        first + r"\S*/u see voxels of other sizes \(30 x 8 x 8 nm and \[1, 1, 1\] of a volume's\): predict with each",
        others=other("u", data={}),
    )
    ranged = other("r", data={"voxel_size_nm": VOXELS_NM, "intensity_range": [0, 200]})
    refused(
        first + r"\S*/r were trained with the intensity ranges of the volume's type and 0,200: give --intensity-range",
        others=ranged,
    )
    refused(first + r"\S*/i take images of 1 and of 2 channels", others=other("i", in_channels=2))
    refused("a spread is that of several views or several networks, and here is one of each", spread=tmp_path / "s.h5")
    refused("a spread is that of probabilities", others=runs[1:], spread=tmp_path / "s.h5", output="label")
    refused(r"out\.h5:b: is where the prediction goes", others=runs[1:], spread=f"{tmp_path}/out.h5:b")
    with pytest.raises(SpecError, match="the list of references is empty"):
        predict([], small, tmp_path / "out.h5")
    with pytest.raises(OutputError, match="is the input itself, which would be lost"):
        predict(runs, small, tmp_path / "out.h5", device="cpu", spread=small)


def test_zoo_predict_takes_further_networks_and_says_what_it_made(runs, small, tmp_path, run_zoo):
    out, spread = tmp_path / "out.h5", tmp_path / "spread.h5"
    code, printed, said = run_zoo(
        "predict", runs[0], small, out, "--with", runs[1], "--with", runs[2], "--spread", spread, "--device", "cpu"
    )
    assert code == 0, said
    assert f"predicted the mean of {runs[0]}, {runs[1]}, {runs[2]}" in said
    assert f"{spread}: its standard deviation over 3 networks" in printed
    code, printed, said = run_zoo(
        "plan", runs[0], small, out, "--with", runs[1], "--with", runs[2], "--script", tmp_path / "job.sbatch"
    )
    assert code == 0, said
    assert f"--with {runs[1]} --with {runs[2]}" in (tmp_path / "job.sbatch").read_text()
