"""The preview: a row for each patch, with the targets that fit and what is not annotated marked."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
from support.patches import data_of
from support.tiny_training import make_run, write_volume

from connectomics_zoo.pictures.palette import VERMILLION
from connectomics_zoo.schema.augmentation import AugmentationChanges
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.train import preview
from connectomics_zoo.train.augment import Sample
from connectomics_zoo.train.patches import TrainingPatches


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be saved."""
    figures = []
    monkeypatch.setattr(preview, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def titles_of(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def with_channels(run, count):
    channel = run.task.channels[0]
    channels = tuple(channel.model_copy(update={"name": f"c{index}"}) for index in range(count))
    return run.model_copy(update={"task": TaskSpec.model_construct(**{**dict(run.task), "channels": channels})})


def test_a_preview_is_a_png_with_a_row_for_each_patch(tmp_path, drawn, monkeypatch):
    run = make_run(data_of(write_volume(tmp_path / "v.h5")), augmentation="anisotropic")
    preview.draw_preview(run, tmp_path / "a.png")
    (figure,) = drawn
    assert len(figure.axes) == preview.PATCHES * 5
    assert titles_of(figure) == ["image (y, x)", "labels (y, x)", "mitochondria", "image (z, x)", "labels (z, x)"]
    assert figure.get_suptitle() == "tiny: augmentation anisotropic"
    monkeypatch.undo()
    preview.draw_preview(run, tmp_path / "a.png")
    assert matplotlib.image.imread(tmp_path / "a.png").ndim == 3


def test_of_many_targets_the_first_ones_are_drawn(tmp_path, drawn):
    run = make_run(data_of(write_volume(tmp_path / "v.h5")))
    changes = AugmentationChanges(preset="flips", elastic=0.5)
    run = run.model_copy(update={"training": run.training.model_copy(update={"augmentation": changes})})
    preview.draw_preview(with_channels(run, 7), tmp_path / "a.png")
    assert titles_of(drawn[0])[2:-2] == ["c0", "c1", "c2", "c3"]
    assert drawn[0].get_suptitle() == "tiny: augmentation flips with another elastic, the first 4 of 7 targets"


def test_a_cut_along_z_has_the_voxels_shape(tmp_path, drawn):
    data = data_of(write_volume(tmp_path / "v.h5"), voxel_size_nm=[50, 5, 5], downsample=[1, 2, 2])
    preview.draw_preview(make_run(data, patch_size=[16, 16, 16]), tmp_path / "a.png")
    assert [axes.get_aspect() for axes in drawn[0].axes[:5]] == [1, 1, 1, 5, 5]


def test_what_is_drawn_is_what_is_trained_on(tmp_path):
    patches = TrainingPatches(make_run(data_of(write_volume(tmp_path / "v.h5")), augmentation="anisotropic"))
    for patch, (sample, same), _ in zip(patches, patches.samples(), range(4), strict=False):
        assert np.array_equal(patch.image, same.image)
        assert np.array_equal(patch.targets, same.targets)
        assert np.array_equal(patch.image, sample.image)
        assert np.array_equal(patch.targets[0], sample.labels > 0)


def test_what_is_not_annotated_is_red_in_the_labels_alone(tmp_path):
    patches = TrainingPatches(make_run(data_of(write_volume(tmp_path / "v.h5"))))
    sample, patch = next(patches.samples())
    annotated = np.ones(sample.labels.shape, bool)
    annotated[:, :, 20:] = False
    image, labels, *_ = preview._pictures(Sample(sample.image, sample.labels, annotated), patch, count=1)
    assert (np.ptp(image, axis=2) == 0).all()
    red = labels - preview._pictures(sample, patch, count=1)[1]
    assert not red[:, :20].any()
    assert (red[:, 20:].mean(axis=(0, 1)) @ (np.array(VERMILLION) - np.mean(VERMILLION))) > 0.1


def test_a_section_that_is_annotated_is_drawn_rather_than_the_middle(tmp_path, drawn):
    data = data_of(write_volume(tmp_path / "v.h5"))
    data["train"][0]["regions"] = [{"z": [2, 3], "y": [0, 40]}]
    preview.draw_preview(make_run(data, foreground_probability=0.0), tmp_path / "a.png")
    pairs = list(zip(drawn[0].axes[::5], drawn[0].axes[1::5], strict=True))
    assert len(pairs) == preview.PATCHES
    for grey, labels in pairs:  # neither marked as unknown nor coloured as labels
        same = (grey.images[0].get_array() == labels.images[0].get_array()).all(axis=2)
        assert same.mean() > 0.3
