"""What is served: every format voxel for voxel, in levels, where it lies; read back by tensorstore."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request

import nibabel
import numpy as np
import pytest
import tensorstore
from PIL import Image
from support.stores import file_server
from support.volume_files import fails, h5, write

from connectomics_zoo.view import open_napari
from connectomics_zoo.volumes import Placement
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.prediction import StoredPrediction


def read_served(view, number=0, scale=0):
    """Return what tensorstore reads of a source, as (C, Z, Y, X)."""
    store = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"{view.url}data/{number}/",
            "scale_index": scale,
        }
    ).result()
    return store.read().result().transpose(3, 2, 1, 0)


def info_of(view, number=0):
    with urllib.request.urlopen(f"{view.url}data/{number}/info") as answer:
        return json.load(answer)


def write_png(folder, array):
    folder.mkdir()
    for number, section in enumerate(array):
        Image.fromarray(section).save(folder / f"{number:03}.png")
    return folder


def write_nifti(path, array):
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.eye(4)), path)
    return path


def write_chunks(folder, array, driver):
    """Write an array (Z, Y, X) as tensorstore does, in chunks that no level of the view has."""
    if driver == "n5":
        metadata = {"dataType": array.dtype.name, "dimensions": array.shape[::-1], "blockSize": [7, 9, 5],
                    "compression": {"type": "raw"}}  # fmt: skip
        spec = {"driver": driver, "kvstore": f"file://{folder}", "metadata": metadata}
        tensorstore.open(spec, create=True).result().write(array.transpose(2, 1, 0)).result()
        return folder
    spec = {
        "driver": driver,
        "kvstore": f"file://{folder}",
        "multiscale_metadata": {"type": "image", "data_type": array.dtype.name, "num_channels": 1},
        "scale_metadata": {
            "size": array.shape[::-1],
            "resolution": [8, 8, 30],
            "voxel_offset": [3, 0, 0],
            "chunk_size": [7, 9, 5],
            "encoding": "raw",
        },
    }
    tensorstore.open(spec, create=True).result().write(array.transpose(2, 1, 0)[..., np.newaxis]).result()
    return folder


def test_every_format_is_served_voxel_for_voxel(tmp_path, shown, ramp):
    array = ramp(6, 40, 70)
    places = [
        f"{h5(tmp_path / 'a.h5', raw=array)}:raw",
        write(tmp_path / "b.tif", array),
        write(tmp_path / "c.zarr", array),
        write_png(tmp_path / "d", array),
        write_nifti(tmp_path / "e.nii", array),
        write_nifti(tmp_path / "f.nii.gz", array),
        write_chunks(tmp_path / "g.n5", array, "n5"),
        write_chunks(tmp_path / "h", array, "neuroglancer_precomputed"),
    ]
    with file_server(tmp_path) as address:
        places.append(f"{address}/c.zarr")
        _check_served(shown(*places), places, array)


def _check_served(view, places, array):
    assert len(view.layers) == len(places)
    for number in range(len(places)):
        np.testing.assert_array_equal(read_served(view, number)[0], array, err_msg=str(places[number]))


@pytest.mark.parametrize(
    ("dtype", "sent"), [("bool", "uint8"), ("int8", "int8"), ("float64", "float32"), ("int64", "float32")]
)
def test_images_of_any_data_type_are_sent_in_one_that_the_page_knows(tmp_path, shown, ramp, dtype, sent):
    array = ramp(3, 5, 7, dtype=dtype)
    array[0] = -array[0] if array.dtype.kind == "i" else array[0]
    view = shown(f"{h5(tmp_path / 'a.h5', raw=array)}:raw")
    served = read_served(view)
    assert served.dtype == sent
    np.testing.assert_array_equal(served[0], array.astype(sent))


@pytest.mark.parametrize("dtype", ["bool", "int32", "uint64"])
def test_labels_of_any_data_type_are_sent_as_whole_numbers_without_a_sign(tmp_path, shown, ramp, dtype):
    array = ramp(3, 5, 7).astype(dtype)
    place = f"{h5(tmp_path / 'a.h5', labels=array)}:labels"
    view = shown(place, labels=place)
    served = read_served(view, 1)
    assert served.dtype.kind == "u"
    np.testing.assert_array_equal(served[0], array)


def test_all_channels_of_a_prediction_are_served_together_and_each_is_a_layer(tmp_path, shown, ramp):
    array = ramp(3, 4, 20, 30, dtype="uint8")
    view = shown(write(tmp_path / "a.zarr", array))
    np.testing.assert_array_equal(read_served(view), array)
    view = shown(f"{h5(tmp_path / 'a.h5', raw=array[0])}:raw", probability=tmp_path / "a.zarr")
    assert view.layers == ["raw", "a.zarr: channel 0", "a.zarr: channel 1", "a.zarr: channel 2"]


def test_the_levels_of_a_store_are_served_and_where_there_are_none_they_are_made(tmp_path, shown):
    array = np.random.default_rng(0).integers(0, 255, (4, 60, 1100), dtype="uint8")
    means = np.rint(array.reshape(4, 30, 2, 550, 2).astype(np.float32).mean(axis=(2, 4)))
    size = (30.0, 8.0, 8.0)
    made = shown(f"{h5(tmp_path / 'b.h5', raw=array)}:raw", voxel_size_nm=size)
    np.testing.assert_array_equal(read_served(made, scale=1)[0], means)
    place = write(tmp_path / "a.zarr", array, voxel_size_nm=size, multiscale=True)
    level = tensorstore.open({"driver": "zarr3", "kvstore": f"file://{place}/1/"}).result()
    level.write(np.uint8(77)).result()
    stored = shown(place)
    np.testing.assert_array_equal(read_served(stored, scale=0)[0], array)
    np.testing.assert_array_equal(read_served(stored, scale=1)[0], np.full(means.shape, 77))
    for view in (stored, made):
        resolutions = [scale["resolution"] for scale in info_of(view)["scales"]]
        assert resolutions == [[8, 8, 30], [16, 16, 30], [32, 32, 30], [64, 64, 60]][: len(resolutions)]
        assert len(resolutions) >= 3


def test_a_coarser_level_of_labels_has_no_label_that_is_not_there(tmp_path, shown):
    labels = np.random.default_rng(0).choice([0, 7, 1000], (2, 300, 300)).astype("uint16")
    place = f"{h5(tmp_path / 'a.h5', labels=labels)}:labels"
    view = shown(place, labels=place, voxel_size_nm=(8.0, 8.0, 8.0))
    np.testing.assert_array_equal(read_served(view, 1, scale=1)[0], labels[::2, ::2, ::2])


def test_a_prediction_of_a_part_lies_over_that_part(tmp_path, shown, ramp):
    h5(tmp_path / "a.h5", raw=ramp(10, 40, 50))
    part = StoredPrediction("probability", placement=Placement(Box((2, 16, 20), (6, 24, 30)), (10, 40, 50)))
    write(tmp_path / "p.h5", np.zeros((4, 8, 10), "uint8"), stored=part)
    view = shown(f"{tmp_path / 'a.h5'}:raw", probability=tmp_path / "p.h5", voxel_size_nm=(30.0, 4.0, 4.0))
    transform = view.state()["layers"][1]["source"]["transform"]
    assert [row[-1] for row in transform["matrix"]] == [20, 16, 2]
    assert transform["outputDimensions"] == {"x": [4e-9, "m"], "y": [4e-9, "m"], "z": [3e-8, "m"]}


def test_volumes_of_two_voxel_sizes_lie_over_each_other_in_nm(tmp_path, shown, ramp):
    fine = write(tmp_path / "a.zarr", ramp(4, 40, 40), voxel_size_nm=(30.0, 4.0, 4.0))
    coarse = write(tmp_path / "b.zarr", ramp(4, 10, 10), voxel_size_nm=(30.0, 16.0, 16.0), offset=(0.0, 8.0, 64.0))
    layers = shown(fine, coarse).state()["layers"]
    assert layers[0]["source"]["transform"]["outputDimensions"]["x"] == [4e-9, "m"]
    transform = layers[1]["source"]["transform"]
    assert transform["outputDimensions"]["x"] == [1.6e-8, "m"]
    assert [row[-1] for row in transform["matrix"]] == [58 / 16, 2 / 16, 0]  # OME-Zarr states centres


def test_an_unknown_voxel_size_is_said_and_labels_have_that_of_the_image(tmp_path, shown, ramp, caplog):
    plain = f"{h5(tmp_path / 'a.h5', raw=ramp(3, 5, 7))}:raw"
    image = write(tmp_path / "b.zarr", ramp(3, 5, 7), voxel_size_nm=(30.0, 8.0, 8.0))
    with caplog.at_level(logging.WARNING):
        assert shown(plain).state()["dimensions"]["z"] == [1e-9, "m"]
        assert "raw: does not say its voxel size, 1 x 1 x 1 nm is taken: give it by --voxel-size-nm." in caplog.text
        layers = shown(image, labels=plain).state()["layers"]
    assert layers[1]["source"]["transform"]["outputDimensions"]["z"] == [3e-8, "m"]
    assert "raw: does not say its voxel size, that of the first volume is taken: 30 x 8 x 8 nm." in caplog.text


def test_what_no_url_of_the_page_leads_to_is_not_served(tmp_path, shown, ramp):
    view = shown(f"{h5(tmp_path / 'a.h5', raw=ramp(3, 5, 7))}:raw")
    root = view.url.partition("/v/")[0]
    for url in (
        f"{root}/",
        f"{root}/v/{'0' * 32}/data/0/info",
        f"{view.url}data/1/info",
        f"{view.url}data/0/0/0-99_0-5_0-3",
        f"{view.url}data/0/9/0-7_0-5_0-3",
        f"{view.url}view/..%2f..%2f__init__.py",
        f"{view.url}view/../../__init__.py",
    ):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url)


def test_a_voxel_that_cannot_be_shown_is_said_once_and_the_rest_is_served(tmp_path, shown, caplog):
    array = np.zeros((3, 5, 7), "float32")
    array[0, 0, 0] = np.nan
    h5(tmp_path / "a.h5", raw=np.zeros((3, 5, 7), "uint8"), p=array)
    view = shown(f"{tmp_path / 'a.h5'}:raw", probability=f"{tmp_path / 'a.h5'}:p")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with pytest.raises(urllib.error.HTTPError, match="500"):
                urllib.request.urlopen(f"{view.url}data/1/0/0-7_0-5_0-3")
    assert caplog.text.count("holds nan at (z, y, x) = (0, 0, 0)") == 1
    assert read_served(view).shape == (1, 3, 5, 7)


def test_floats_are_no_labels_and_napari_is_named_where_it_is_missing(tmp_path, shown, ramp):
    place = f"{h5(tmp_path / 'a.h5', raw=ramp(3, 5, 7, dtype='float32'))}:raw"
    with fails("a.h5:raw: holds float32, and labels are whole numbers: show it as probabilities (--probability), or "):
        shown(place, labels=place)
    with pytest.raises(
        ImportError, match="--napari needs the package napari, which is not installed, run `pip install"
    ):
        open_napari(place)


def test_what_goes_wrong_within_is_said_once(tmp_path, shown, ramp, monkeypatch, caplog):
    view = shown(write(str(tmp_path / "a.zarr"), ramp(4, 8, 8), voxel_size_nm=(8, 8, 8)))

    def fail(*arguments, **options):
        raise RuntimeError("of ours")

    monkeypatch.setattr("connectomics_zoo.view.source.Source.info", fail)
    for _ in range(2):
        with pytest.raises(OSError, match="closed connection"):
            info_of(view)
    assert [record.getMessage() for record in caplog.records] == [
        "zoo view could not answer a browser: RuntimeError: of ours"
    ]
