"""What Neuroglancer is told to show: checked by its own Python package, which knows the states that there are."""

from __future__ import annotations

import json
import re
import socket

import h5py
import neuroglancer
import numpy as np
import pytest
from support.stores import file_server, forget_credentials
from support.volume_files import fails, h5, write

import zoo
from connectomics_zoo.errors import MissingPackageError, ZooError
from connectomics_zoo.suggest import Suggestion
from connectomics_zoo.suggest.files import neuroglancer_layer
from connectomics_zoo.view import View, link
from connectomics_zoo.volumes.prediction import StoredPrediction


@pytest.fixture
def image(tmp_path, ramp):
    return write(tmp_path / "raw.zarr", ramp(10, 40, 50, dtype="uint8"), voxel_size_nm=(30.0, 8.0, 4.0))


def known_to_neuroglancer(state):
    """Return the state as Neuroglancer's package understands it, which must be all that there is."""
    understood = neuroglancer.ViewerState(state)
    assert json.loads(json.dumps(understood.to_json())) == json.loads(json.dumps(state))
    return understood


def test_images_lie_below_probabilities_and_these_below_labels(tmp_path, image, shown, ramp):
    h5(tmp_path / "a.h5", mito=ramp(10, 40, 50), p=ramp(10, 40, 50).astype("float32") / 20000)
    view = shown(image, labels=f"{tmp_path / 'a.h5'}:mito", probability=f"{tmp_path / 'a.h5'}:p", at=(2, 10, 20))
    state = known_to_neuroglancer(view.state())
    assert [(layer.name, layer.type) for layer in state.layers] == [
        ("raw.zarr", "image"),
        ("p", "image"),
        ("mito", "segmentation"),
    ]
    assert state.position.tolist() == [20.5, 10.5, 2.5]
    assert state.dimensions.names == ("x", "y", "z")
    assert state.dimensions.scales.tolist() == [4e-9, 8e-9, 3e-8]


def test_the_contrast_leaves_out_the_darkest_and_the_brightest_voxels(tmp_path, shown):
    array = np.random.default_rng(0).normal(1000, 10, (20, 60, 60)).astype("uint16")
    array[0, 0, :30], array[0, 1, :30] = 0, 65535
    low, high = shown(f"{h5(tmp_path / 'a.h5', raw=array)}:raw").state()["layers"][0]["shaderControls"]["normalized"][
        "range"
    ]
    assert 960 < low < 985
    assert 1015 < high < 1040


def predicted(path, task, *, content="probability", channels=None):
    shape = (10, 40, 50) if channels is None else (channels, 10, 40, 50)
    return write(path, np.zeros(shape, "uint8"), stored=StoredPrediction(content, task=task))


def test_channels_have_the_names_of_the_task_and_a_colour_each(tmp_path, image, shown):
    task = zoo.get_task("organelles")
    state = shown(image, predicted(tmp_path / "p.zarr", task, channels=5)).state()
    layers = state["layers"][1:]
    assert [layer["name"] for layer in layers] == [f"p.zarr: {channel.name}" for channel in task.channels]
    assert len({layer["shaderControls"]["colour"] for layer in layers}) == 5
    assert [layer["shaderControls"]["normalized"]["range"] for layer in layers] == [[0, 255]] * 5
    assert all(f"normalized(channel={number})" in layer["shader"] for number, layer in enumerate(layers))
    known_to_neuroglancer(state)


def test_affinities_are_shown_where_they_are_low_and_those_that_keep_apart_not_at_first(tmp_path, image, shown):
    task = zoo.get_task("affinities-6")
    layers = shown(image, predicted(tmp_path / "p.zarr", task, channels=6)).state()["layers"][1:]
    assert [layer["shaderControls"]["normalized"]["range"] for layer in layers] == [[255, 0]] * 6
    attractive = [channel.target.attractive for channel in task.channels]
    assert {True, False} == set(attractive)
    assert [layer.get("visible", True) for layer in layers] == attractive


def test_labels_have_the_names_of_their_classes_and_masks_are_a_layer_each(tmp_path, image, shown):
    polarity, organelles = zoo.get_task("synapse-polarity"), zoo.get_task("organelles")
    classes = predicted(tmp_path / "c.zarr", polarity, content="label")
    masks = predicted(tmp_path / "m.zarr", organelles, content="label", channels=5)
    with h5py.File(tmp_path / "o.h5", "w") as file:
        file["labels"] = np.zeros((10, 40, 50), "uint32")
        file["labels"].attrs["class_names"] = json.dumps({"0": "nothing", "70": "nucleus"})
    view = shown(image, classes, masks, labels=f"{tmp_path / 'o.h5'}:labels")
    names = [channel.name for channel in polarity.channels]
    properties = [source.properties()["inline"] for source in view._server.sources]
    assert properties[1] == {
        "ids": [str(value) for value in range(1, len(names))],
        "properties": [{"id": "label", "type": "label", "values": names[1:]}],
    }
    assert properties[-1]["ids"] == ["70"]
    assert properties[-1]["properties"][0]["values"] == ["nucleus"]
    assert view.layers[2:7] == [f"m.zarr: {channel.name}" for channel in organelles.channels]


def test_boxes_of_zoo_suggest_are_shown_and_other_files_refused(tmp_path, image, shown):
    box = Suggestion(1, (1, 2), (8, 16), (10, 30), None, 0.5)
    for size, expected in (((30.0, 8.0, 4.0), [4e-9, "m"]), (None, [4e-9, "m"])):
        layer = neuroglancer_layer([box], voxel_size_nm=size, offset_nm=None)
        (tmp_path / "boxes.json").write_text(json.dumps(layer))
        state = shown(image, boxes=tmp_path / "boxes.json").state()
        known_to_neuroglancer(state)
        assert state["layers"][1]["annotations"][0]["pointB"] == [30, 16, 2]
        assert state["layers"][1]["source"]["transform"]["outputDimensions"]["x"] == expected
    (tmp_path / "boxes.json").write_text("[]")
    with fails("boxes.json: is no layer of boxes, give the neuroglancer.json of zoo suggest."):
        shown(image, boxes=tmp_path / "boxes.json")


def test_a_link_shows_stores_behind_uris_and_no_local_file(tmp_path, image, monkeypatch):
    forget_credentials(monkeypatch, tmp_path)
    with file_server(tmp_path) as address:
        store = f"{address}/raw.zarr"
        state = neuroglancer.parse_url(link(store, labels=store, at=(1, 2, 3)))
        assert [layer.source[0].url for layer in state.layers] == [f"zarr://{store}"] * 2
        assert [layer.type for layer in state.layers] == ["image", "segmentation"]
        assert state.position.tolist() == [3.25, 2.25, 1.25]
        predicted(tmp_path / "p.zarr", zoo.get_task("organelles"), channels=5)
        layers = neuroglancer.parse_url(link(store, probability=f"{address}/p.zarr")).layers
        assert layers[0].source[0].transform.output_dimensions.names == ("z", "y", "x")
        assert layers[0].source[0].transform.output_dimensions.scales.tolist() == [3e-8, 8e-9, 4e-9]
        assert layers[-1].source[0].transform.output_dimensions.names == ("c'", "z", "y", "x")
        assert [layer.local_position.tolist() for layer in layers[1:]] == [[0.25], [1.25], [2.25], [3.25], [4.25]]
        with fails("raw.zarr: is a signed link, which whoever gets a link to it could use: leave --link out"):
            link(f"{store}?signature=1")
    with fails(
        "raw.zarr: lies on this machine, and a link shows what others reach by s3://, gs:// or https://: leave "
    ):
        link(image)


def test_what_cannot_be_shown_is_refused_in_a_sentence(tmp_path, image, shown, monkeypatch):
    with fails("raw.zarr:0: has no voxel (10, 0, 0), its shape is (10, 40, 50): give z,y,x with 0 <= z < 10, "):
        shown(image, at=(10, 0, 0))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ZooError, match=rf"port {port} of 127.0.0.1 cannot be listened on \(.*\): give another one "
        ):
            shown(image, port=port)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=re.escape("run `pip install 'connectomics-zoo[view]'`.")):
        shown(image)


def test_zoo_view_prints_the_url_alone_and_ends_well_by_ctrl_c(image, run_zoo, monkeypatch):
    def interrupted(view):
        raise KeyboardInterrupt

    monkeypatch.setattr(View, "wait", interrupted)
    code, out, err = run_zoo("view", image, "--no-browser")
    assert code == 0
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v/[0-9a-f]{32}/\n", out)
    assert "raw.zarr: shown until Ctrl-C" in err
    assert "lets others in" not in err
    code, out, err = run_zoo("view", image, "--no-browser", "--json", "--host", "0.0.0.0")
    assert "zoo: 0.0.0.0 lets others in who have the URL, in which the name of this machine may stand for it" in err
    assert json.loads(out)["layers"] == ["raw.zarr"]


def test_zoo_view_refuses_what_contradicts_itself(image, run_zoo):
    for words, text in (
        (["--napari", "--link"], "--napari opens a window and --link prints a link, give one of them."),
        (["--link"], "raw.zarr: lies on this machine"),
        (["--at", "1,2"], "'1,2' is not three whole numbers (z, y, x), write them like 40,512,512."),
    ):
        code, out, err = run_zoo("view", image, *words)
        assert (code, out) == (2, "")
        assert text in err
