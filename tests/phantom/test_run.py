"""The phantom looks like electron microscopy, its truth is consistent, and a seed gives one phantom."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import tracemalloc

import h5py
import numpy as np
import pytest
from scipy import ndimage

from connectomics_zoo.errors import LimitError, OutputError, VolumeError
from connectomics_zoo.phantom import make_phantom, write_phantom
from connectomics_zoo.volumes import check_pair, open_volume

ISOTROPIC, SECTIONS = (8.0, 8.0, 8.0), (40.0, 8.0, 8.0)
CASES = [((32, 96, 96), ISOTROPIC), ((12, 96, 96), SECTIONS), ((32, 64, 64), (16.0, 16.0, 16.0))]


@functools.cache
def phantom(shape=(32, 96, 96), seed=0, voxel_size_nm=ISOTROPIC):
    return make_phantom(shape=shape, seed=seed, voxel_size_nm=voxel_size_nm)


def arrays(made):
    return {field.name: getattr(made, field.name) for field in dataclasses.fields(made)[:4]}


def test_a_seed_gives_the_same_phantom_and_another_seed_another_one():
    again = make_phantom(shape=(32, 96, 96), seed=0)
    other = phantom(seed=1)
    for name, array in arrays(phantom()).items():
        np.testing.assert_array_equal(array, arrays(again)[name])
        assert (array != arrays(other)[name]).any()


@pytest.mark.parametrize(("shape", "voxel_size_nm"), CASES)
def test_every_array_has_the_shape_and_its_data_type(shape, voxel_size_nm):
    made = phantom(shape, 0, voxel_size_nm)
    assert {array.shape for array in arrays(made).values()} == {shape}
    dtypes = [str(array.dtype) for array in arrays(made).values()]
    assert dtypes == ["uint8", "uint16", "uint16", "uint8"]
    assert made.voxel_size_nm == voxel_size_nm


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("shape", "voxel_size_nm"), CASES)
def test_mitochondria_take_5_to_12_percent(shape, voxel_size_nm, seed):
    assert 0.05 <= (phantom(shape, seed, voxel_size_nm).mitochondria > 0).mean() <= 0.12


@pytest.mark.parametrize(("shape", "voxel_size_nm"), [*CASES, ((16, 48, 48), (32.0, 32.0, 32.0))])
def test_a_mitochondrion_lies_in_one_neurite_and_crosses_no_membrane(shape, voxel_size_nm):
    made = phantom(shape, 0, voxel_size_nm)
    labels = np.unique(made.mitochondria)[1:]
    assert len(labels) >= 2
    for label in labels:
        owners = np.unique(made.neurons[made.mitochondria == label])
        assert len(owners) == 1
        assert owners[0] > 0


@pytest.mark.parametrize("name", ["neurons", "mitochondria"])
def test_an_instance_is_one_connected_piece(name):
    labels = getattr(phantom(), name)
    assert labels.max() >= 4
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    for label in range(1, labels.max() + 1):
        assert ndimage.label(labels == label)[1] == 1


def test_membranes_are_what_is_no_neurite_and_part_all_neurites():
    made = phantom()
    np.testing.assert_array_equal(made.membranes == 1, made.neurons == 0)
    _, count = ndimage.label(made.neurons > 0)
    assert count == made.neurons.max()
    assert 0.1 < made.membranes.mean() < 0.35


def test_sizes_are_physical():
    def radius_nm(made):
        volumes = np.bincount(made.mitochondria.ravel())[1:] * np.prod(made.voxel_size_nm)
        return float(np.median(volumes) * 3 / (4 * np.pi)) ** (1 / 3)

    fine, coarse = phantom((32, 96, 96), 3), phantom((32, 64, 64), 3, (16.0, 16.0, 16.0))
    for made in (fine, coarse):
        assert 60 < radius_nm(made) < 250


def test_membranes_are_dark_and_mitochondria_darker_than_cytoplasm():
    made = phantom()
    inside = ndimage.binary_erosion(made.mitochondria > 0, iterations=2)
    middle = ndimage.distance_transform_edt(made.membranes) >= 1.5
    cytoplasm = (made.neurons > 0) & (made.mitochondria == 0)
    means = [made.image[mask].mean() for mask in (middle, inside, cytoplasm)]
    assert means[0] + 5 < means[1] < means[2] - 20


def test_no_range_of_grey_values_segments_mitochondria():
    made = phantom((32, 128, 128), 4)
    truth = made.mitochondria > 0
    inside = np.concatenate([[0], np.bincount(made.image[truth], minlength=256).cumsum()])
    outside = np.concatenate([[0], np.bincount(made.image[~truth], minlength=256).cumsum()])
    true, false = (counts[None, :] - counts[:, None] for counts in (inside, outside))
    dice = np.triu(2 * true / np.maximum(true + false + truth.sum(), 1))
    assert 0.1 < dice.max() < 0.5


def test_mitochondria_are_striped_by_cristae():
    made = phantom((32, 128, 128), 0)
    smooth = ndimage.gaussian_filter(made.image.astype(float), 1.0)
    detail = (smooth - ndimage.gaussian_filter(smooth, 3.0)) ** 2
    matrix = ndimage.binary_erosion(made.mitochondria > 0, iterations=4)
    far = ndimage.binary_erosion((made.neurons > 0) & (made.mitochondria == 0), iterations=6)
    assert np.median(detail[matrix]) > 1.5 * np.median(detail[far])


def test_thick_sections_each_have_their_brightness():
    def jitter(sections):
        return np.abs(np.diff(sections.mean(axis=(1, 2)), n=2)).mean()

    every_40_nm = phantom((60, 96, 96)).image[::5]
    assert jitter(phantom((12, 96, 96), 0, SECTIONS).image) > 2.5 * jitter(every_40_nm)


def test_thick_sections_blur_what_is_oblique():
    thin, thick = phantom(), phantom((12, 96, 96), 0, SECTIONS)

    def similarity(made):
        first, second = made.image[:-1].ravel(), made.image[1:].ravel()
        return np.corrcoef(first, second)[0, 1]

    assert similarity(thin) > similarity(thick) + 0.1


# Bad input


@pytest.mark.parametrize("shape", [(4, 64, 64), (64, 64), (16, 64, 0)])
def test_a_phantom_too_small_is_refused(shape):
    with pytest.raises(VolumeError, match=re.escape(f"a phantom of shape {shape} is too small, give three edges")):
        make_phantom(shape=shape, seed=0)


@pytest.mark.parametrize("voxel_size_nm", [(8.0, 8.0, 0.0), (8.0, 8.0, 300.0), (8.0, 8.0), (float("nan"), 8.0, 8.0)])
def test_a_voxel_size_that_shows_no_cells_is_refused(voxel_size_nm):
    message = re.escape(f"voxel_size_nm {voxel_size_nm} would show no cells, give three lengths from (2.0,")
    with pytest.raises(VolumeError, match=message):
        make_phantom(shape=(16, 64, 64), seed=0, voxel_size_nm=voxel_size_nm)


def test_a_phantom_too_large_is_refused_before_memory_is_taken():
    tracemalloc.start()
    with pytest.raises(LimitError, match="needs 1000000000000 voxels, at most 67108864 are made"):
        make_phantom(shape=(10_000, 10_000, 10_000), seed=0)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


# The file


def test_a_written_phantom_opens_as_volumes(tmp_path):
    made = phantom((12, 96, 96), 0, SECTIONS)
    write_phantom(tmp_path / "a.h5", made)
    for name, array in zip(("raw", "neurons", "mitochondria", "membranes"), arrays(made).values(), strict=True):
        with open_volume(f"{tmp_path}/a.h5:{name}") as volume:
            assert volume.voxel_size_nm == SECTIONS
            assert volume.dtype == array.dtype
            np.testing.assert_array_equal(volume.read(volume.whole), array)
    check_pair(open_volume(f"{tmp_path}/a.h5:raw"), open_volume(f"{tmp_path}/a.h5:mitochondria"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_phantom_is_not_written_over_another_file_unless_asked(tmp_path):
    made = phantom((12, 96, 96), 0, SECTIONS)
    (tmp_path / "a.h5").write_text("somebody else's")
    with pytest.raises(OutputError, match=r"a.h5: exists already, choose another name or overwrite it \(--overwrite"):
        write_phantom(tmp_path / "a.h5", made)
    assert (tmp_path / "a.h5").read_text() == "somebody else's"
    write_phantom(tmp_path / "a.h5", made, overwrite=True)
    assert open_volume(f"{tmp_path}/a.h5:raw").shape == (12, 96, 96)


@pytest.mark.parametrize("failure", [OSError(28, "full"), KeyboardInterrupt()], ids=repr)
def test_a_failure_while_writing_leaves_nothing_behind(tmp_path, monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(h5py.File, "create_dataset", fail)
    text = re.escape(f"a.h5: cannot be written ({os.strerror(28)})") if isinstance(failure, Exception) else None
    with pytest.raises((OutputError, KeyboardInterrupt), match=text):
        write_phantom(tmp_path / "a.h5", phantom())
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_another_format_is_refused(tmp_path):
    phantom = make_phantom(shape=(16, 32, 32), seed=0, voxel_size_nm=(8.0, 8.0, 8.0))
    with pytest.raises(OutputError, match=r"a phantom is an HDF5 file, call it .*out\.h5"):
        write_phantom(tmp_path / "out.tif", phantom)
    assert not any(tmp_path.iterdir())
