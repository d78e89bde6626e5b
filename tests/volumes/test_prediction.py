"""A prediction says the same of itself in every format, old files are read as before, and damage gives one sentence."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import pickle
from functools import partial

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fuzzing import mutated, refusal
from support.object_volumes import affinity_task, true_values, voronoi_labels
from support.prediction import grey, make_run
from support.volume_files import ZARR_3, example, make_array, write

import zoo
from connectomics_zoo.decode import decode
from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.evaluate import evaluate
from connectomics_zoo.pictures import comparison
from connectomics_zoo.predict import predict
from connectomics_zoo.predict.ensemble import Member
from connectomics_zoo.predict.stored import make_provenance
from connectomics_zoo.schema.experiment import PredictionSpec
from connectomics_zoo.schema.provenance import Decoding, Provenance, UsedWeights
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.volumes import Box, Placement, StoredPrediction, open_volume
from connectomics_zoo.volumes.prediction import read_stored, scale_of, to_attributes
from connectomics_zoo.volumes.values import as_byte, read_prediction, read_values, store_values
from connectomics_zoo.weights.pretrained import find_run

PROGRAM = f"connectomics-zoo {importlib.metadata.version('connectomics-zoo')}"
FORMATS = ["p.h5:group/values", "p.zarr", "p.tif"]
OBJECTS = get_task("mito-instance")
SAID = StoredPrediction(
    content=None,
    task=OBJECTS.model_copy(update={"summary": 'A task of <cells> & "more", 100 % \N{GRINNING FACE}.'}),
    placement=Placement(Box((1, 0, 2), (4, 4, 7)), (9, 20, 30)),
    scale=scale_of(OBJECTS),
    provenance=Provenance(
        program=PROGRAM,
        weights=UsedWeights(reference="run: <æ> \N{GRINNING FACE}", model="mednext-S@1.0.0", sha256="0" * 64),
        prediction=PredictionSpec(window=(16, 32, 32), overlap=0.25, views="flips", merge="min"),
        precision="bfloat16",
        decoding=Decoding(task="mito-instance", decode=OBJECTS.decode, program=PROGRAM),
    ),
)


imwrite = partial(tifffile.imwrite, photometric="minisblack")


def said_by(location):
    with open_volume(location) as volume:
        return volume.stored()


# In every format --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])  # TIFF has another header for float16
@pytest.mark.parametrize("channels", [3, 1])
def test_everything_that_is_said_is_read_back(tmp_path, name, dtype, channels):
    array = example(channels, 3, 4, 5, dtype=dtype)
    assert said_by(write(f"{tmp_path}/{name}", array, stored=SAID, voxel_size_nm=(8.0, 4.0, 4.0))) == SAID
    with open_volume(f"{tmp_path}/{name}") as volume:
        assert volume.voxel_size_nm == pytest.approx((8, 4, 4))
        np.testing.assert_array_equal(volume.read(volume.whole), array)


@pytest.mark.parametrize("name", FORMATS)
def test_a_volume_that_nothing_is_said_of_says_nothing(tmp_path, name):
    assert said_by(write(f"{tmp_path}/{name}", example(3, 4, 5))) == StoredPrediction()


@pytest.mark.skipif(not ZARR_3, reason="zarr 2 writes format 2 in the other tests")
def test_zarr_format_2_is_read_too(tmp_path):
    group = zarr.open_group(str(tmp_path / "p.zarr"), mode="w", zarr_format=2)
    make_array(group, "main", example(3, 3, 4, 5), **to_attributes(SAID))
    assert (tmp_path / "p.zarr" / "main" / ".zattrs").is_file()
    assert said_by(tmp_path / "p.zarr") == SAID


def test_volumes_that_say_something_may_be_sent_to_workers(tmp_path):
    with open_volume(write(tmp_path / "p.h5", example(3, 4, 5), stored=SAID)) as volume:
        assert pickle.loads(pickle.dumps(volume)).stored() == SAID


# Files of before, and of others -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["probability", None])
def test_attributes_of_version_0_1_0_are_read(tmp_path, content):
    task = get_task("mito")
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["main"] = example(3, 4, 5)
        old = {"task": json.dumps(task.model_dump(mode="json")), "first_voxel": [1, 0, 2], "whole_shape": [9, 20, 30]}
        file["main"].attrs.update(old if content is None else {"content": content, **old})
    assert said_by(tmp_path / "p.h5") == StoredPrediction(content, task, SAID.placement)


def test_tiffs_of_version_0_1_0_are_read(tmp_path):
    array = example(3, 4, 5)
    imwrite(tmp_path / "ome.tif", array, ome=True, metadata={"axes": "ZYX", "Description": "content=label"})
    imwrite(tmp_path / "json.tif", array, metadata={"axes": "ZYX", "dtype": "uint8", "content": "label"})
    for name in ("ome.tif", "json.tif"):
        assert said_by(tmp_path / name) == StoredPrediction("label")


@pytest.mark.parametrize("description", ["A stack of mitochondria.", "{", "[1]", '{"content": 7, "task": ["x"]}'])
@pytest.mark.parametrize("is_ome", [True, False])
def test_descriptions_of_others_say_nothing(tmp_path, description, is_ome):
    options = {"ome": True, "metadata": {"axes": "ZYX", "Description": description}}
    plain = {"metadata": None, "description": description}
    imwrite(tmp_path / "a.tif", example(3, 4, 5), **(options if is_ome else plain))
    assert said_by(tmp_path / "a.tif") == StoredPrediction()


def test_a_task_that_another_program_wrote_as_an_attribute_is_enough(tmp_path):
    task = affinity_task()
    labels = voronoi_labels((8, 16, 16), objects=4)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["values"] = np.rint(255 * true_values(labels, task)).astype(np.uint8)
        file["values"].attrs["task"] = task.model_dump_json()
    assert decode(tmp_path / "p.h5", tmp_path / "o.h5").objects == 4


# Scale ------------------------------------------------------------------------------------------------------------


def test_the_scale_in_the_file_is_obeyed(tmp_path):
    task = get_task("mito")
    stored = np.full((2, 3, 4), 51, np.uint8)
    said = StoredPrediction("probability", task, scale=((0.2, 1.2),))
    found = write(tmp_path / "p.h5", stored, stored=said)
    with open_volume(found) as volume:
        values = read_prediction(volume, volume.whole, task=task)
    np.testing.assert_allclose(values, 0.4, rtol=1e-6)
    truth = write(tmp_path / "truth.h5", np.ones_like(stored))
    report = evaluate(found, truth, threshold=0.39)
    assert (report.scores["dice"], report.read_as) == (
        1,
        "probabilities in uint8, as the file says, foreground above 0.39 (48.45 of 255)",
    )
    assert evaluate(found, truth, threshold=0.41).scores["dice"] == 0


def test_the_picture_shows_values_in_the_scale_of_the_file(tmp_path, monkeypatch):
    stored = np.full((2, 8, 8), 51, np.uint8)
    found = write(tmp_path / "p.h5", stored, stored=StoredPrediction("probability", scale=((0.2, 1.2),)))
    drawn = {}
    monkeypatch.setattr(comparison, "draw_comparison", lambda path, **given: drawn.update(given))
    truth = write(tmp_path / "truth.h5", np.ones_like(stored))
    comparison.draw_volumes(tmp_path / "a.png", image=truth, truth=truth, prediction=found)
    np.testing.assert_allclose(drawn["prediction"], 0.4, rtol=1e-6)


def test_bytes_of_a_tanh_of_0_1_0_that_state_no_scale_are_read_as_its_values(tmp_path, monkeypatch):
    """0 is 127.5 of 255, as `read_values` has it."""
    task = OBJECTS.model_copy(update={"channels": OBJECTS.channels[::-1]})
    stored = np.full((2, 8, 8), 140, np.uint8)
    found = write(tmp_path / "p.h5", stored, stored=StoredPrediction(task=task))
    truth = write(tmp_path / "truth.h5", np.ones_like(stored))
    assert evaluate(found, truth, threshold=0.05).read_as.endswith("foreground above 0.05 (133.875 of 255)")
    drawn = {}
    monkeypatch.setattr(comparison, "draw_comparison", lambda path, **given: drawn.update(given))
    comparison.draw_volumes(tmp_path / "a.png", image=truth, truth=truth, prediction=found, threshold=0.05)
    np.testing.assert_allclose(drawn["prediction"], 2 * 140 / 255 - 1, rtol=1e-6)


def test_bytes_are_what_values_of_every_scale_are_stored_as():
    values = np.linspace(0, 1, 1001, dtype=np.float32).reshape(1, 1, 1, -1).repeat(3, axis=0)
    values[2] = 2 * values[2] - 1
    stored = store_values(values, task=OBJECTS, dtype=np.dtype("uint8"))
    for channel, bytes_, scale in zip(values, stored, scale_of(OBJECTS), strict=True):
        expected = [as_byte(float(value), scale=scale) for value in channel.flat]
        np.testing.assert_allclose(bytes_.ravel(), expected, atol=0.5 + 1e-4)


def test_a_scale_of_other_channels_is_refused():
    with pytest.raises(VolumeError, match=r"p.h5: says the scale of 1 channel\(s\), and has 3: predict it again."):
        read_values(example(3, 2, 2, 2), task=OBJECTS, location="p.h5", scale=((0, 1),))


# What predict and decode write ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", task=OBJECTS)


@pytest.mark.parametrize("name", ["p.h5", "p.zarr", "p.tif"])
def test_a_prediction_says_how_it_came_to_be_and_its_objects_pass_it_on(run, tmp_path, name):
    image = write(tmp_path / "image.h5", grey((20, 40, 40)))
    predict(run, image, tmp_path / name, region="z=2:18", views="flips", overlap=0.25, window=(16, 32, 32))
    said = said_by(tmp_path / name)
    assert said.task == OBJECTS
    assert said.placement == Placement(Box((2, 0, 0), (18, 40, 40)), (20, 40, 40))
    assert said.scale == ((0, 1), (0, 1), (-1, 1))
    made = said.provenance
    assert made.program == PROGRAM
    assert made.weights.sha256 == hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    assert (made.weights.reference, made.weights.model) == (str(run), "mednext-S@1.0.0")
    assert made.prediction == PredictionSpec(window=(16, 32, 32), overlap=0.25, views="flips", merge="mean")
    assert (made.precision, made.decoding) == ("float32", None)

    report = decode(tmp_path / name, tmp_path / f"objects-{name}", overrides={"min_size": 7, "threshold": 0.3})
    objects = said_by(tmp_path / f"objects-{name}")
    assert (objects.content, objects.task, objects.placement, objects.scale) == (
        "instances",
        None,
        said.placement,
        None,
    )
    decoding = objects.provenance.decoding
    assert objects.provenance == made.model_copy(update={"decoding": decoding})
    assert (decoding.task, decoding.program) == ("mito-instance", PROGRAM)
    assert decoding.decode.model_dump(exclude_none=True, exclude={"method"}, mode="json") == report.settings
    assert (decoding.decode.min_size, decoding.decode.threshold) == (7, 0.3)


def test_labels_say_how_they_were_made(tmp_path):
    run = make_run(tmp_path / "run")
    predict(run, write(tmp_path / "image.h5", grey((16, 32, 32))), tmp_path / "label.tif", output="label")
    made = said_by(tmp_path / "label.tif").provenance
    assert made.decoding == Decoding(task="mito", decode=get_task("mito").decode, program=PROGRAM)
    assert made.weights.reference == str(run)


def test_floats_state_no_scale(tmp_path):
    run = make_run(tmp_path / "run")
    predict(run, write(tmp_path / "image.h5", grey((16, 32, 32))), tmp_path / "p.h5", dtype="float16")
    assert said_by(tmp_path / "p.h5").scale is None


def test_tuned_objects_say_the_settings_that_were_found(tmp_path):
    task = affinity_task(threshold=0.1)
    labels = voronoi_labels((8, 16, 16), objects=4)
    values = 0.2 + 0.6 * true_values(labels, task)
    stored = store_values(values.astype(np.float32), task=task, dtype=np.dtype("uint8"))
    found = write(tmp_path / "p.tif", stored, stored=StoredPrediction(task=task))
    truth = write(tmp_path / "truth.h5", labels.astype(np.uint32))
    best = decode(found, tmp_path / "o.tif", tune_on=truth).settings["threshold"]
    assert best >= 0.2
    assert said_by(tmp_path / "o.tif").provenance.decoding.decode.threshold == best


def test_the_weights_of_the_package_are_named_with_version_and_tag(tmp_path):
    run, trained = find_run("mednext-S.vnc-mito")
    made = make_provenance([Member(run, trained)], chosen=run.prediction, precision="float32", output="probability")
    entry = zoo.get_spec("mednext-S").weights["vnc-mito"]
    assert made.weights.reference == "mednext-S@1.0.0.vnc-mito"
    assert made.weights.sha256 == entry.sha256 == hashlib.sha256(trained.path.read_bytes()).hexdigest()


def test_a_run_folder_of_any_name_can_be_written_down(tmp_path):
    folder = make_run(tmp_path / "run-\udcff")
    run, trained = find_run(folder)
    made = make_provenance([Member(run, trained)], chosen=run.prediction, precision="float32", output="probability")
    said = said_by(write(tmp_path / "p.tif", example(3, 4, 5), stored=StoredPrediction(provenance=made)))
    assert said.provenance.weights.reference == f"{tmp_path}/run-\\udcff"


# Damage -----------------------------------------------------------------------------------------------------------


def marked(path, **attributes):
    with h5py.File(path, "w") as file:
        file["main"] = example(3, 4, 5)
        file["main"].attrs.update(attributes)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[" * 5000, "not valid JSON"),
        ("[1]", "holds list, and must be a mapping"),
        ("{}", "has schema_version None, and this version reads 1"),
        ('{"schema_version": 2}', "has schema_version 2, and this version reads 1"),
        ('{"schema_version": 1, "schema_version": 1}', "not valid JSON (a key stands twice)"),
        ('{"schema_version": 1, "x": "\\ud800"}', "not valid JSON"),
        ('{"schema_version": 1, "x": ' + "[" * 50 + "]" * 50 + "}", "nested deeper than 32 levels"),
        ('{"schema_version": 1, "x": ' + "9" * 5000 + "}", "not valid JSON"),
        *(
            (f'{{"schema_version": 1, "scale": {scale}}}', "scale must be [low, high] for each channel")
            for scale in (
                "[]",
                "7",
                '"a"',
                "[0, 1]",
                "[[1, 0]]",
                "[[0, 1], [NaN, 1]]",
                "[[0, Infinity]]",
                "[[0, 1e999]]",
            )
        ),
        ('{"schema_version": 1, "scale": [[0, ' + "9" * 400 + "]]}", "scale must be [low, high] for each channel"),
    ],
)
@pytest.mark.parametrize("name", ["p.h5", "p.tif"])
def test_a_record_that_is_not_understood_is_refused_in_one_sentence(tmp_path, run_zoo, name, text, words):
    place = tmp_path / name
    if name == "p.h5":
        marked(place, zoo_prediction=text)
    else:
        description = json.dumps({"zoo_prediction": text})
        imwrite(place, example(3, 4, 5), ome=True, metadata={"axes": "ZYX", "Description": description})
    with pytest.raises(SpecError) as error:
        said_by(place)
    assert words in str(error.value)
    code, _, err = run_zoo("decode", place, tmp_path / "out.h5", "--task", "mito", "--method", "components")
    assert (code, err.count("\n")) == (2, 1)
    assert f"the attribute zoo_prediction of {place}" in err


@pytest.mark.parametrize(
    "provenance",
    [7, [], {"from": "a later version"}, {"weights": {"reference": "x"}}, {"prediction": {"window": [1e9]}}],
)
def test_a_provenance_that_is_not_understood_is_unknown(tmp_path, provenance):
    text = json.dumps({"schema_version": 1, "scale": [[0, 1]], "provenance": provenance, "news": 1})
    assert said_by(marked(tmp_path / "p.h5", zoo_prediction=text)) == StoredPrediction(scale=((0, 1),))


@pytest.mark.parametrize(
    "value",
    [7, [1.0, 2.0], np.array(["a"], dtype="S1"), h5py.Empty("f"), "", b"", np.int64(3), [[1, 2, 3]], [1, 2, -3]],
)
@pytest.mark.parametrize("name", ["task", "zoo_prediction", "first_voxel", "content"])
def test_attributes_of_another_type_say_nothing(tmp_path, name, value):
    assert said_by(marked(tmp_path / "p.h5", **{name: value})) == StoredPrediction()


def test_a_text_that_is_too_long_says_nothing(tmp_path):
    attributes = {"task": "x" * 300_000, "content": "x" * 300_000}
    imwrite(tmp_path / "p.tif", example(3, 4, 5), metadata=attributes)
    assert said_by(tmp_path / "p.tif") == StoredPrediction()
    description = json.dumps({"content": "label", "task": "x" * 300_000})
    imwrite(tmp_path / "o.tif", example(3, 4, 5), ome=True, metadata={"axes": "ZYX", "Description": description})
    assert said_by(tmp_path / "o.tif") == StoredPrediction()


def test_a_record_that_is_too_long_is_refused_where_it_is_asked_for(tmp_path):
    place = marked(tmp_path / "p.h5")
    with h5py.File(place, "a") as file:
        text = json.dumps({"schema_version": 1, "scale": [[0, 2]]}).ljust(300_000)
        file["main"].attrs.create("zoo_prediction", text, dtype=h5py.string_dtype())
    with open_volume(place) as volume:
        assert volume.read(volume.whole).shape == (3, 4, 5)
        with pytest.raises(SpecError, match=r"zoo_prediction of .*p\.h5:main: longer than the \d+ characters"):
            volume.stored()


@pytest.mark.parametrize("first", [[1, 2], [1, 2, -3], [1.5, 2.0, 3.0], "1, 2, 3", 7])
def test_a_place_that_is_none_is_refused_where_it_is_asked_for(tmp_path, first, run_zoo):
    place = marked(tmp_path / "p.h5", first_voxel=first, whole_shape=[9, 20, 30])
    with open_volume(place) as volume:
        assert volume.read(volume.whole).shape == (3, 4, 5)
        with pytest.raises(SpecError, match=r"p\.h5:main: says that it begins at first_voxel .* of whole_shape \[9"):
            _ = volume.placement
    code, _, err = run_zoo("decode", place, tmp_path / "out.h5", "--task", "mito", "--method", "components")
    assert (code, err.count("\n")) == (2, 1)
    assert "each must be three whole numbers (z, y, x): predict it again" in err


SAID_TEXTS = {name: json.loads(text) for name, text in to_attributes(SAID).items() if isinstance(text, str)}


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(SAID_TEXTS)), data=st.data())
def test_whatever_a_file_says_is_read_or_refused_in_one_sentence(name, data):
    text = data.draw(mutated(SAID_TEXTS[name]).map(json.dumps) | st.text(max_size=80))
    refusal(lambda: read_stored({name: text}, content=None, placement=None, location="p.h5"))
