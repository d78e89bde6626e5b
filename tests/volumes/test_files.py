"""Files that only some labs have: NIfTI, MRC, folders of PNG sections, HDF5 with filters of others."""

from __future__ import annotations

import gzip
import subprocess
import sys

import mrcfile
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from support.volume_files import example, fails, h5, peak_bytes, read_all

from connectomics_zoo.errors import MissingPackageError
from connectomics_zoo.volumes import Box, open_volume

ARRAY = example(4, 5, 6, dtype="uint16")
VOXEL_SIZE_NM = (40.0, 8.0, 4.0)

# NIfTI


def nifti(path, array=ARRAY, *, edges=(4.0, 8.0, 40.0), unit=None):
    """Write `array` (z, y, x) as nnU-Net does: x first."""
    image = nibabel.Nifti1Image(array.transpose(), np.diag([*edges, 1.0]), dtype=array.dtype)
    if unit is not None:
        image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint64", "float32", "float64"])
def test_a_nifti_is_read_with_x_first(tmp_path, name, dtype):
    array = ARRAY.astype(dtype)
    path = tmp_path / name
    nifti(tmp_path / name.lower(), array).rename(path)
    with open_volume(path) as volume:
        assert (volume.location, volume.shape, volume.dtype) == (str(path), array.shape, array.dtype)
        np.testing.assert_array_equal(volume.read(volume.whole), array)
        box = Box((1, 2, 3), (4, 5, 5))
        np.testing.assert_array_equal(volume.read(box), array[box.slices])


@pytest.mark.parametrize(
    ("unit", "edges", "voxel_size_nm"),
    [
        ("micron", (0.004, 0.008, 0.04), VOXEL_SIZE_NM),
        ("mm", (4e-6, 8e-6, 40e-6), VOXEL_SIZE_NM),
        ("mm", (4.0, 8.0, 40.0), None),  # as ITK writes nanometres
        (None, (4.0, 8.0, 40.0), None),
    ],
)
def test_the_voxel_size_of_a_nifti_has_a_unit(tmp_path, unit, edges, voxel_size_nm):
    with open_volume(nifti(tmp_path / "a.nii", edges=edges, unit=unit)) as volume:
        assert volume.voxel_size_nm == voxel_size_nm


def test_axes_of_length_1_beyond_the_third_mean_nothing(tmp_path):
    path = nifti(tmp_path / "a.nii", ARRAY[None])
    np.testing.assert_array_equal(read_all(path), ARRAY)
    with fails("a.nii: is a time series (axes 'xyzt', shape (6, 5, 4, 2)), save one time point alone."):
        open_volume(nifti(tmp_path / "a.nii", np.stack([ARRAY, ARRAY])))


def test_channels_of_a_nifti_are_its_fifth_axis(tmp_path):
    array = np.stack([ARRAY, ARRAY + 1])
    np.testing.assert_array_equal(read_all(nifti(tmp_path / "a.nii", array[:, None])), array)


def test_a_slope_and_an_intercept_are_applied(tmp_path):
    image = nibabel.Nifti1Image(ARRAY.transpose().astype("float64") * 0.5 + 3, np.eye(4))
    image.header.set_data_dtype("int16")
    nibabel.save(image, tmp_path / "a.nii")
    assert nibabel.load(tmp_path / "a.nii").dataobj.slope != 1
    np.testing.assert_allclose(read_all(tmp_path / "a.nii"), ARRAY * 0.5 + 3, atol=1e-3)


def test_of_a_plain_nifti_only_the_region_is_read(tmp_path):
    path = nifti(tmp_path / "a.nii", np.zeros((64, 128, 128), np.uint16))
    with open_volume(path) as volume:
        assert peak_bytes(lambda: volume.read(Box.of_shape((2, 9, 9)))) < 200_000


def test_a_damaged_nifti_is_one_sentence(tmp_path):
    path = nifti(tmp_path / "a.nii")
    (tmp_path / "b.nii").write_bytes(path.read_bytes()[:370])
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(path.read_bytes())[:60])
    (tmp_path / "d.nii.gz").write_bytes(b"no gzip")
    for name in ("b.nii", "c.nii.gz", "d.nii.gz"):
        with fails(f"{name}: cannot be read as NIfTI, so it is damaged"):
            read_all(tmp_path / name)


# MRC


def mrc(path, array=ARRAY, *, edges=VOXEL_SIZE_NM, stack=False):
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(array)
        if not stack and array.ndim == 3:
            file.set_volume()
        file.voxel_size = tuple(edge * 10 for edge in edges[::-1])
    return path


@pytest.mark.parametrize("name", ["a.mrc", "a.rec", "a.MAP"])
@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
def test_an_mrc_is_read_in_angstrom(tmp_path, name, dtype):
    array = ARRAY.astype(dtype)
    with open_volume(mrc(tmp_path / name, array)) as volume:
        assert (volume.shape, volume.dtype) == (array.shape, array.dtype)
        assert volume.voxel_size_nm == VOXEL_SIZE_NM
        np.testing.assert_array_equal(volume.read(volume.whole), array)
        box = Box((1, 2, 3), (4, 5, 5))
        np.testing.assert_array_equal(volume.read(box), array[box.slices])


def test_an_mrc_without_a_size_has_none(tmp_path):
    assert open_volume(mrc(tmp_path / "a.mrc", edges=(0, 0, 0))).voxel_size_nm is None


def test_the_axes_of_an_mrc_are_those_that_it_names(tmp_path):
    path = mrc(tmp_path / "a.mrc", ARRAY.transpose())
    with mrcfile.open(path, mode="r+") as file:
        file.header.mapc, file.header.mapr, file.header.maps = 3, 2, 1
    np.testing.assert_array_equal(read_all(path), ARRAY)
    with mrcfile.open(path, mode="r+", permissive=True) as file:
        file.header.mapc = 7
    with fails("a.mrc: says that its axes are [1, 2, 7], which must be 1, 2 and 3, correct it."):
        open_volume(path)


@pytest.mark.parametrize(("flags", "dtype"), [(0, "uint8"), (1, "int8"), (None, "int8")])
def test_bytes_of_imod_are_unsigned_unless_it_says_otherwise(tmp_path, flags, dtype):
    array = np.arange(-60, 60, dtype="int8").reshape(4, 5, 6)
    path = mrc(tmp_path / "a.mrc", array)
    if flags is not None:
        content = bytearray(path.read_bytes())
        content[152:160] = np.array([1146047817, flags], "<i4").tobytes()
        path.write_bytes(content)
    loaded = read_all(path)
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(loaded, array.view(dtype))


def test_an_mrc_that_is_no_volume_is_refused(tmp_path):
    with fails("a.mrc: has 4 dimensions (shape (2, 4, 5, 6)), a volume has three"):
        open_volume(mrc(tmp_path / "a.mrc", np.stack([ARRAY, ARRAY])))
    with fails("a.mrc: has the data type complex64, a volume may have"):
        open_volume(mrc(tmp_path / "a.mrc", ARRAY.astype("complex64")))


def test_one_section_is_a_volume(tmp_path):
    np.testing.assert_array_equal(read_all(mrc(tmp_path / "a.mrc", ARRAY[0])), ARRAY[:1])


def test_a_damaged_mrc_is_one_sentence(tmp_path):
    content = mrc(tmp_path / "a.mrc").read_bytes()
    (tmp_path / "b.mrc").write_bytes(content[:1100])
    (tmp_path / "c.mrc").write_bytes(b"x" * 2000)
    (tmp_path / "d.mrc").write_bytes(content[:100])
    for name in ("b.mrc", "c.mrc", "d.mrc"):
        with fails(f"{name}: cannot be read as MRC, so it is damaged"):
            open_volume(tmp_path / name)


# PNG


def sections(folder, array=ARRAY):
    folder.mkdir(exist_ok=True)
    for number, section in enumerate(array):
        Image.fromarray(section).save(folder / f"s{number + 8}.png")
    return folder


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16"])
def test_a_folder_of_png_sections_is_a_volume_in_natural_order(tmp_path, dtype):
    array = example(4, 5, 6, dtype=dtype)
    with open_volume(sections(tmp_path / "png", array)) as volume:
        assert (volume.shape, volume.dtype, volume.voxel_size_nm) == (array.shape, array.dtype, None)
        np.testing.assert_array_equal(volume.read(volume.whole), array)
        box = Box((1, 2, 3), (3, 5, 5))
        np.testing.assert_array_equal(volume.read(box), array[box.slices])


def test_other_sections_are_not_looked_at(tmp_path):
    folder = sections(tmp_path / "png")
    with open_volume(folder) as volume:
        (folder / "s11.png").write_bytes(b"no picture")
        np.testing.assert_array_equal(volume.read(volume.whole.replace(z=(0, 3))), ARRAY[:3])
        with fails("s11.png: cannot be read as PNG, so it is damaged"):
            volume.read(volume.whole)


def test_sections_of_another_shape_or_type_are_refused(tmp_path):
    folder = sections(tmp_path / "png")
    Image.fromarray(ARRAY[0, :3]).save(folder / "s9.png")
    with fails("s9.png: is uint16 of shape (3, 6), and s8.png is uint16 of shape (5, 6), but all sections of a volume"):
        read_all(folder)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "in colour or transparent (RGB)"), ("LA", "in colour or transparent (LA)"), ("P", "with a palette")],
)
def test_pictures_in_colour_are_no_sections(tmp_path, mode, kind):
    Image.new(mode, (6, 5)).save(tmp_path / "1.png")
    with fails(f"1.png: is a picture {kind}, save it as grey sections of 1, 8 or 16 bits."):
        open_volume(tmp_path)


def test_sections_may_be_larger_than_pictures_of_others_may(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    np.testing.assert_array_equal(read_all(sections(tmp_path / "png")), ARRAY)


def test_previews_beside_tiffs_are_left_alone(tmp_path):
    folder = sections(tmp_path / "both")
    tifffile.imwrite(folder / "1.tif", ARRAY[0])
    np.testing.assert_array_equal(read_all(folder), ARRAY[:1])


# HDF5


@pytest.mark.parametrize("name", ["Blosc", "Bitshuffle", "LZ4", "Zstd"])
def test_filters_that_hdf5_lacks_are_those_of_hdf5plugin(tmp_path, name):
    # In a process of its own, which registers them when it writes, and this one when it reads.
    code = (
        "import h5py, hdf5plugin as p, sys, numpy as np\n"
        "with h5py.File(sys.argv[1], 'w') as file:\n"
        f"    file.create_dataset('raw', data=np.load(sys.argv[2]), chunks=(2, 3, 4), compression=p.{name}())\n"
    )
    np.save(tmp_path / "a.npy", ARRAY)
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.h5", tmp_path / "a.npy"], check=True)
    np.testing.assert_array_equal(read_all(tmp_path / "a.h5"), ARRAY)


# What each needs


@pytest.mark.parametrize(("name", "package", "extra"), [("a.nii.gz", "nibabel", "nifti"), ("a.mrc", "mrcfile", "mrc")])
def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch, name, package, extra):
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    sentence = rf"{name}: reading it needs the package {package}, which is not installed, run `pip install "
    with pytest.raises(MissingPackageError, match=sentence + rf"'connectomics-zoo\[{extra}\]'`\."):
        open_volume(tmp_path / name)


@pytest.mark.parametrize("name", ["a.h5", "a.tif", "a.nii", "a.mrc", "png"])
def test_a_file_has_no_levels(tmp_path, name):
    if name == "png":
        sections(tmp_path / name)
    else:
        h5(tmp_path / name)
    with fails(f"{name}: is no store of several levels, leave '#2' out."):
        open_volume(f"{tmp_path}/{name}#2")


@pytest.mark.parametrize(("name", "kind"), [("a.nii", "a NIfTI file"), ("a.mrc", "an MRC file"), ("a.tif", "a TIFF")])
def test_a_file_of_one_volume_has_no_datasets(tmp_path, name, kind):
    h5(tmp_path / name)
    with fails(f"{name}: {kind} has no datasets, leave ':raw' out."):
        open_volume(f"{tmp_path}/{name}:raw")
