"""Three slices: the middle of the volume, the prediction where it lies in it."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from connectomics_zoo.errors import OutputError, VolumeError
from connectomics_zoo.pictures import slices
from connectomics_zoo.pictures.slices import draw_slices
from connectomics_zoo.volumes import Box, Placement, StoredPrediction, create_volume, open_volume

SHAPE = (12, 30, 40)


def write(path, array, *, stored=None):
    options = {} if stored is None else {"stored": stored}
    with create_volume(
        path, shape=array.shape[-3:], dtype=array.dtype, channels=None, voxel_size_nm=(30.0, 8.0, 8.0), **options
    ) as volume:
        volume.write(volume.whole, array)
    return path


@pytest.fixture
def image(tmp_path):
    return write(tmp_path / "image.h5", np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8))


def planes_of(path):
    """The two pictures of each plane."""
    drawn = []

    def keep(pairs, size, *, name):
        drawn.append((pairs, size, name))
        return figure(pairs, size, name=name)

    return drawn, keep


figure = slices._figure


def test_the_prediction_lies_over_the_voxels_that_it_is_of(image, tmp_path, monkeypatch):
    box = Box((4, 10, 20), (10, 26, 36))
    values = np.zeros(box.shape, np.uint8)
    values[3, :, 8:] = 255
    stored = StoredPrediction("probability", placement=Placement(box, SHAPE))
    made = write(tmp_path / "made.zarr", values, stored=stored)
    drawn, keep = planes_of(tmp_path)
    monkeypatch.setattr(slices, "_figure", keep)
    draw_slices(tmp_path / "a.png", image=image, made=made)
    ((section, cut, _), size, name) = drawn[0]
    assert size == (30.0, 8.0, 8.0)
    assert "z=4:10,y=10:26,x=20:36" in name
    grey, over = section
    assert grey.shape == (16, 16, 3)
    assert np.array_equal(grey[:, :8], over[:, :8])
    assert (over[:, 8:, 0] > over[:, 8:, 2]).all()
    assert cut[0].shape == (6, 16, 3)
    raw = open_volume(image)
    expected = raw.read(Box((7, 10, 20), (8, 26, 36)))[0]
    assert np.corrcoef(expected.ravel(), grey[..., 0].ravel())[0, 1] > 0.99
    assert imread(tmp_path / "a.png").shape[2] == 4


def test_objects_have_colours_of_their_own(image, tmp_path, monkeypatch):
    labels = np.zeros(SHAPE, np.uint32)
    labels[:, :10], labels[:, 20:] = 1, 2
    made = write(tmp_path / "made.h5", labels, stored=StoredPrediction("instances"))
    drawn, keep = planes_of(tmp_path)
    monkeypatch.setattr(slices, "_figure", keep)
    draw_slices(tmp_path / "a.png", image=image, made=made)
    grey, over = drawn[0][0][0]
    assert np.array_equal(grey[10:20], over[10:20])
    tints = [(over - grey / 2)[part].reshape(-1, 3).mean(axis=0) for part in (slice(0, 10), slice(20, 30))]
    assert np.abs(tints[0] - tints[1]).max() > 0.05


def test_of_large_volumes_the_middle_is_drawn(image, tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "MOST_VOXELS", 10)
    drawn, keep = planes_of(tmp_path)
    monkeypatch.setattr(slices, "_figure", keep)
    draw_slices(tmp_path / "a.png", image=image, made=image)
    assert drawn[0][0][0][0].shape == (10, 10, 3)
    assert "z=1:11,y=10:20,x=15:25" in drawn[0][2]


def test_what_was_made_of_another_volume_is_refused(image, tmp_path):
    made = write(tmp_path / "made.h5", np.zeros((12, 30, 41), np.uint8))
    with pytest.raises(VolumeError, match="the second must be made of the first"):
        draw_slices(tmp_path / "a.png", image=image, made=made)
    with pytest.raises(OutputError, match=r"pictures are PNG files, give a name that ends in \.png"):
        draw_slices(tmp_path / "a.jpg", image=image, made=image)
