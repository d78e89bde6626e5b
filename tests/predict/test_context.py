"""Networks with a context: windows see more than they give, and nothing else about a prediction changes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from predict.test_forecast import request
from predict.test_slide import FakeSource, slide
from support.naive_window import fake_forward
from support.prediction import SMALL, grey, read, write
from support.valid_network import CONTEXT, cropped, make_valid_run, valid_spec

from connectomics_zoo.blocks.where import where_from
from connectomics_zoo.errors import SpecError
from connectomics_zoo.fit.receptive_field import measure_reach
from connectomics_zoo.predict import plan, predict
from connectomics_zoo.predict.forecast import plan_prediction
from connectomics_zoo.predict.plan import make_geometry
from connectomics_zoo.runs.folder import get_run
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.weights.load import load


def middle_of_fake(windows, context):
    return cropped(fake_forward(windows), context)


def naive_with_context(array, *, window, overlap, context):
    """All windows of the volume, which is reflected at its borders as a whole, in float64."""
    given = [edge - 2 * more for edge, more in zip(window, context, strict=True)]
    size = [max(length, edge) for length, edge in zip(array.shape, given, strict=True)]
    around = [(more, more + edge - length) for more, edge, length in zip(context, size, array.shape, strict=True)]
    padded = np.pad(array, around, mode="reflect")
    starts = []
    for length, edge in zip(size, given, strict=True):
        step = max(1, int(edge * (1 - overlap) + 1e-9))
        starts.append(sorted({*range(0, length - edge + 1, step), length - edge}))
    gauss = [np.exp(-0.5 * ((np.arange(edge) - (edge - 1) / 2) / (edge / 8)) ** 2) for edge in given]
    weight = gauss[0][:, None, None] * gauss[1][:, None] * gauss[2]
    total, weights = np.zeros((2, *size)), np.zeros(size)
    for corner in itertools.product(*starts):
        seen = tuple(slice(first, first + edge) for first, edge in zip(corner, window, strict=True))
        part = tuple(slice(first, first + edge) for first, edge in zip(corner, given, strict=True))
        values = middle_of_fake(torch.from_numpy(padded[seen].copy()[None, None]), context)[0].numpy()
        total[(slice(None), *part)] += weight * values
        weights[part] += weight
    return (total / weights)[(slice(None), *map(slice, array.shape))]


CASES = {
    "several windows": ((10, 18, 15), (8, 14, 12), 0.5, (2, 4, 3)),
    "no overlap": ((12, 20, 15), (8, 14, 12), 0.0, (2, 4, 3)),
    "a context along one axis": ((9, 12, 11), (4, 6, 10), 0.5, (0, 0, 4)),
    "smaller than what a window gives": ((3, 5, 30), (10, 20, 20), 0.5, (1, 4, 4)),
    "smaller than a context": ((4, 3, 6), (14, 12, 16), 0.5, (5, 4, 7)),
}


@pytest.mark.parametrize("case", CASES)
def test_windows_see_the_volume_around_them_and_its_reflection_at_its_border_alone(case):
    shape, window, overlap, context = CASES[case]
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    geometry = make_geometry(
        shape=shape, factors=(1, 1, 1), window=window, overlap=overlap, box=Box.of_shape(shape), context=context
    )

    def forward(windows):
        assert tuple(windows.shape[2:]) == window
        return middle_of_fake(windows, context)

    whole, _, _ = slide(FakeSource(array), geometry, forward=forward, batch_size=1)
    expected = naive_with_context(array, window=window, overlap=overlap, context=context)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    parts, many, _ = slide(
        FakeSource(array),
        geometry,
        forward=forward,
        edges=tuple(-(-edge // 2) for edge in shape),
        chunk=2,
        batch_size=1,
    )
    assert many > 1
    assert np.array_equal(whole, parts)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_valid_run(tmp_path_factory.mktemp("runs") / "valid")


def test_a_prediction_is_what_the_network_says_of_the_whole_reflected_volume(run, tmp_path, monkeypatch):
    """The network is equivariant to its strides: windows without overlap, at multiples of them, are one pass."""
    for name, value in SMALL.items():
        monkeypatch.setattr(plan, name, value)
    image = grey((20, 40, 32))
    volume, out = write(tmp_path / "image.h5", image), tmp_path / "out.h5"
    report = predict(run, volume, out, overlap=0.0, dtype="float32")
    assert report.blocks > 1
    around = np.pad(image.astype(np.float32) / 255, [(more, more) for more in CONTEXT], mode="reflect")
    with torch.no_grad():
        expected = load(run)(torch.from_numpy(around)[None, None]).sigmoid()[0, 0]
    np.testing.assert_allclose(read(out), expected, atol=1e-6)
    assert expected.std() > 0.01
    predict(run, volume, tmp_path / "part.h5", overlap=0.0, dtype="float32", region="z=3:9,y=5:30,x=7:20")
    assert np.array_equal(read(tmp_path / "part.h5"), read(out)[3:9, 5:30, 7:20])


def test_views_come_back_to_where_they_belong(run, tmp_path):
    volume = write(tmp_path / "image.h5", grey((9, 20, 24)))
    flipped = write(tmp_path / "flipped.h5", read(volume)[:, ::-1, :].copy())
    for name, path in (("one", volume), ("other", flipped)):
        predict(run, path, tmp_path / f"{name}.h5", views="flips", overlap=0.0, window=(13, 28, 32), dtype="float32")
    one, other = (read(tmp_path / f"{name}.h5") for name in ("one", "other"))
    np.testing.assert_allclose(one, other[:, ::-1, :], atol=1e-6)


def test_a_plan_counts_the_context_that_is_read(run, tmp_path):
    volume = write(tmp_path / "image.h5", grey((20, 40, 40)))
    asked = request(run, volume, region="z=8:12,y=16:24,x=16:24")
    report = plan_prediction(asked, where=where_from(), voxels_per_second=1e6)
    # Windows give 4 x 8 x 8 voxels: those from 6, 8 and 10 on have one of z, those from 12 to 20 one of y and of x.
    assert report.read_bytes == (14 + 2 - (6 - 2)) * (28 + 4 - (12 - 4)) ** 2


def test_networks_of_other_contexts_are_no_ensemble(run, tmp_path):
    wider = valid_spec(up_kernel_sizes=[[[3, 3, 3], [3, 3, 3]]])
    other = make_valid_run(tmp_path / "wider", window=(8, 16, 16), spec=wider)
    with pytest.raises(SpecError, match=r"see \[2, 4, 4\] and \[3, \d, \d\] voxels of context around what they say"):
        predict([str(run), str(other)], write(tmp_path / "i.h5", grey((8, 16, 16))), tmp_path / "o.h5")


def test_views_are_not_turned_where_the_context_is_not_square(tmp_path):
    spec = valid_spec(kernel_sizes=[[[1, 3, 5]], [[3, 3, 3]]])
    y, x = spec.input.context[1:]
    assert y != x
    edge = spec.input.size.round_up((8, 20, 20))
    folder = make_valid_run(tmp_path / "run", window=edge, spec=spec)
    with pytest.raises(SpecError, match="need a network whose context is the same along y and x"):
        predict(folder, write(tmp_path / "i.h5", grey((8, 20, 20))), tmp_path / "o.h5", views="flips_and_turns")


def test_the_receptive_field_of_a_network_with_context_lies_around_its_voxel():
    # An output 2m of y follows from the fine voxels 2m - 1 to 2m + 1, so from the coarse ones m - 1 and m, of which the
    # convolution takes m - 2 to m + 1, pooled from 2m - 4 to 2m + 3, and the first one 2m - 5 to 2m + 4.
    assert measure_reach(valid_spec()) == ((5, 10, 10), (2, 5, 5))


def test_a_run_with_context_says_so(run):
    document = get_run(run).model.model_dump(mode="json")
    assert document["input"]["context"] == list(CONTEXT)
    assert (
        "context"
        not in get_run(run)
        .model.model_copy(update={"input": get_run(run).model.input.model_copy(update={"context": None})})
        .model_dump(mode="json")["input"]
    )
