"""Volumes are looked at before training: grey values that are one grey, and labels that are none."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from support.tiny_training import make_run, request, write_volume

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.train.inspection import warn_of_labels
from connectomics_zoo.train.resolve import resolve_run
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.pair_reader import PairReader


def volume(path, **changed):
    """A volume of which the datasets in `changed` are made of what they were."""
    write_volume(path)
    with h5py.File(path, "r+") as file:
        for name, change in changed.items():
            values = change(file[name][...])
            del file[name]
            file[name] = values
    return path


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_wide_integers_that_fill_next_to_nothing_ask_for_a_range(tmp_path, dtype):
    path = volume(tmp_path / "v.h5", raw=lambda raw: raw.astype(dtype))
    changes = request(path)
    text = rf"v\.h5:raw: holds {dtype} with values from \d+ to \d+, which is less than 1% .* data\.intensity_range="
    with pytest.raises(VolumeError, match=text):
        resolve_run("mednext-S", changes)
    changes["data"]["intensity_range"] = [0, 255]
    data = resolve_run("mednext-S", changes).data
    reader = PairReader(data.train[0], data)
    with h5py.File(path) as file:
        expected = file["raw"][:16] / 255
    box = Box.of_shape((16, 40, 40))
    np.testing.assert_allclose(reader.read_image(box, within=box)[0], expected, atol=1e-6)


def test_wide_integers_that_fill_their_type_need_none(tmp_path):
    resolve_run("mednext-S", request(volume(tmp_path / "v.h5", raw=lambda raw: raw.astype("u2") * 16)))


@pytest.mark.parametrize("limits", [[1000, 2000], [-20, 10]])
def test_a_range_that_holds_no_grey_value_is_refused(tmp_path, limits):
    changes = request(volume(tmp_path / "v.h5"))
    changes["data"]["intensity_range"] = limits
    with pytest.raises(VolumeError, match=r"v\.h5:raw: has values from \d+ to \d+, all outside of the intensity range"):
        resolve_run("mednext-S", changes)


def data_of(path, **options):
    return {"train": [{"image": f"{path}:raw", "label": f"{path}:mito"}], **options}


@pytest.mark.parametrize("task", ["mito", "affinities-12", "mito-instance"])
def test_negative_labels_ask_for_unlabelled(tmp_path, task):
    path = volume(tmp_path / "v.h5", mito=lambda mito: np.where(mito > 0, 1, -1).astype("i4"))
    with pytest.raises(VolumeError, match=r"holds the negative label -1, .* give data\.unlabelled=-1"):
        warn_of_labels(make_run(data_of(path), task=task))


def test_a_background_of_the_largest_id_is_background_in_one_line(tmp_path, caplog):
    path = volume(tmp_path / "v.h5", mito=lambda mito: np.where(mito > 0, 1, np.uint64(2**64 - 1)))
    run = make_run(data_of(path))
    warn_of_labels(run)
    expected = "v.h5:mito has voxels with the largest id, 18446744073709551615, which is taken for background"
    assert [message.endswith(expected) for message in caplog.messages] == [True]
    box = Box.of_shape((20, 40, 40))
    labels = PairReader(run.data.train[0], run.data).read_label(box, within=box)
    assert (labels > 0).mean() == pytest.approx(0.0625)


def test_ids_of_64_bits_may_be_unlabelled(tmp_path):
    path = volume(tmp_path / "v.h5", mito=lambda mito: np.where(mito > 0, 1, np.uint64(2**64 - 1)))
    changes = request(path)
    changes["data"]["unlabelled"] = 2**64 - 1
    run = resolve_run("mednext-S", changes)
    box = Box.of_shape((16, 40, 40))
    truth = PairReader(run.data.train[0], run.data).read_truth(box, within=box)
    assert truth.annotated.mean() == pytest.approx(0.0625)


@pytest.mark.parametrize("is_warned", [True, False])
def test_a_mask_where_objects_are_expected_is_warned_of(tmp_path, caplog, is_warned):
    run = make_run(data_of(volume(tmp_path / "v.h5")), task="affinities-3")
    labels = run.task.labels.model_copy(update={"relabel": not is_warned})
    warn_of_labels(run.model_copy(update={"task": run.task.model_copy(update={"labels": labels})}))
    assert ("v.h5:mito looks like a mask, of which all objects are one: label" in caplog.text) == is_warned


def test_a_soft_mask_is_warned_of(tmp_path, caplog):
    path = volume(tmp_path / "v.h5", mito=lambda mito: (gaussian_filter(mito * 255.0, 2)).astype("u1"))
    warn_of_labels(make_run(data_of(path)))
    assert "v.h5:mito looks like a soft mask, not like labels (its edges are ramps from 0 to" in caplog.text
