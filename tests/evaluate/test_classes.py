"""Scores of predictions that say which classes they have: each class by its name, against one truth or several."""

from __future__ import annotations

import html
import json

import h5py
import numpy as np
import pytest
from matplotlib.image import imread
from support.prediction import grey, make_run
from support.tasks import class_task

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.evaluate import evaluate
from connectomics_zoo.predict import predict
from connectomics_zoo.volumes import create_volume, open_volume
from connectomics_zoo.volumes.prediction import StoredPrediction

SHAPE = (6, 20, 24)

SOFTMAX = class_task(
    ("background", {"kind": "background"}),
    ("mito", {"kind": "class", "labels": [1, 7]}),
    ("er", {"kind": "class", "labels": [2]}),
    softmax=True,
)
SIGMOID = class_task(
    ("membrane", {"kind": "foreground", "volume": "a"}),
    ("mito", {"kind": "foreground", "volume": "b"}),
    ("rare", {"kind": "class", "labels": [9], "volume": "b"}),
)


def write(location, array, stored=None):
    channels = len(array) if array.ndim == 4 else None
    fields = {} if stored is None else {"stored": stored}
    with create_volume(
        location, shape=array.shape[-3:], dtype=array.dtype, channels=channels, voxel_size_nm=None, **fields
    ) as volume:
        volume.write(volume.whole, array)
    return str(location)


def random_labels(seed, choices):
    blocks = np.random.default_rng(seed).choice(choices, (3, 5, 6))
    return np.kron(blocks, np.ones((2, 4, 4), int)).astype(np.uint16)


def expected(found, true):
    """Dice, IoU, precision and recall of two masks, by their definition."""
    both, one, other = (np.count_nonzero(mask) for mask in (found & true, found, true))
    return {
        "dice": 2 * both / (one + other),
        "iou": both / (one + other - both),
        "precision": both / one,
        "recall": both / other,
        "voxels": other,
    }


def mean(classes, name):
    return pytest.approx(np.mean([scores[name] for scores in classes.values()]))


@pytest.fixture
def exclusive(tmp_path):
    """Truth, class numbers that were predicted, and their places."""
    truth, found = random_labels(0, [0, 1, 7, 2]), random_labels(1, [0, 1, 2]).astype(np.uint8)
    return (
        truth,
        found,
        write(tmp_path / "truth.h5:x", truth),
        write(tmp_path / "found.h5:x", found, StoredPrediction("label", SOFTMAX)),
    )


@pytest.fixture
def overlapping(tmp_path):
    """Truths by name, probabilities (C, Z, Y, X), and their places."""
    truths = {"a": random_labels(0, [0, 1]), "b": random_labels(1, [0, 0, 1, 2])}
    values = np.random.default_rng(2).random((3, *SHAPE)).astype(np.float32)
    places = {name: write(tmp_path / f"{name}.h5:x", labels) for name, labels in truths.items()}
    return truths, values, places, write(tmp_path / "p.h5:x", values, StoredPrediction("probability", SIGMOID))


@pytest.mark.parametrize("suffix", ["h5:x", "zarr", "tif"])
def test_exclusive_classes_are_scored_each_by_its_name(tmp_path, exclusive, suffix):
    truth, found, place, _ = exclusive
    prediction = write(tmp_path / f"again.{suffix}", found, StoredPrediction("label", SOFTMAX))
    report = evaluate(prediction, place)
    classes = {"mito": expected(found == 1, (truth == 1) | (truth == 7)), "er": expected(found == 2, truth == 2)}
    assert list(report.classes) == ["mito", "er"]
    for name, scores in classes.items():
        assert report.classes[name] == pytest.approx(scores)
    assert report.scores == {name: mean(classes, name) for name in ("dice", "iou", "precision", "recall")}
    assert report.table().headers == ("class", "Dice", "IoU", "precision", "recall", "voxels")
    assert [row[0] for row in report.table().rows] == ["mito", "er", "mean"]


def test_what_is_none_of_the_exclusive_classes_counts_for_nothing(tmp_path, exclusive):
    truth, found, _, prediction = exclusive
    other = np.where(truth == 7, 5, truth).astype(np.uint16)
    report = evaluate(prediction, write(tmp_path / "other.h5:x", other))
    known = other != 5
    assert report.ignored_voxels == np.count_nonzero(~known)
    assert report.classes["er"] == pytest.approx(expected((found == 2) & known, other == 2))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_overlapping_classes_are_scored_against_the_label_volume_of_each(tmp_path, overlapping, dtype):
    truths, values, places, prediction = overlapping
    if dtype == np.uint8:
        values = np.rint(255 * values).astype(np.uint8)
        prediction = write(tmp_path / "bytes.h5:x", values, StoredPrediction("probability", SIGMOID))
    report = evaluate(prediction, places, threshold=0.7)
    found = values > (0.7 * 255 if dtype == np.uint8 else 0.7)
    assert report.classes["membrane"] == pytest.approx(expected(found[0], truths["a"] > 0))
    assert report.classes["mito"] == pytest.approx(expected(found[1], truths["b"] > 0))
    assert report.threshold == 0.7


def test_a_class_without_a_voxel_in_the_truth_is_listed_and_not_in_the_mean(overlapping):
    *_, places, prediction = overlapping
    report = evaluate(prediction, places)
    there = {name: scores for name, scores in report.classes.items() if name != "rare"}
    assert report.classes["rare"] == {"dice": 0, "iou": 0, "precision": 0, "recall": 0, "voxels": 0}
    assert report.scores["dice"] == mean(there, "dice")
    assert report.table().rows[-1][0] == "mean of 2"


def test_a_class_that_is_not_annotated_has_no_score_and_needs_no_truth(overlapping):
    truths, values, places, prediction = overlapping
    report = evaluate(prediction, {"a": places["a"]}, annotated=["membrane"])
    assert list(report.classes) == ["membrane"]
    assert report.classes["membrane"] == pytest.approx(expected(values[0] > 0.5, truths["a"] > 0))


def test_masks_in_channels_are_scored_as_probabilities_are(tmp_path, overlapping):
    _, values, places, prediction = overlapping
    masks = write(tmp_path / "m.h5:x", (values > 0.5).astype(np.uint8), StoredPrediction("label", SIGMOID))
    assert evaluate(masks, places).classes == evaluate(prediction, places).classes


def test_a_threshold_for_masks_in_channels_is_refused(tmp_path, overlapping):
    _, values, places, _ = overlapping
    masks = write(tmp_path / "m.h5:x", (values > 0.5).astype(np.uint8), StoredPrediction("label", SIGMOID))
    with pytest.raises(
        VolumeError, match=r"m\.h5:x: holds labels, as the file says, and a threshold is for probabilities"
    ):
        evaluate(masks, places, threshold=0.7)


def test_a_grey_image_in_place_of_the_truth_is_refused(tmp_path, overlapping):
    *_, places, prediction = overlapping
    grey_image = write(tmp_path / "raw.h5:x", np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8))
    with pytest.raises(VolumeError, match=r"raw\.h5:x: looks like a grey image, not like labels"):
        evaluate(prediction, {**places, "a": grey_image})


def test_unlabelled_ignored_and_masked_voxels_count_for_no_class(tmp_path, exclusive):
    truth, found, place, prediction = exclusive
    mask = np.ones(SHAPE, np.uint8)
    mask[:, :4] = 0
    report = evaluate(prediction, place, unlabelled=7, ignore_labels=[2], mask=write(tmp_path / "mask.h5:x", mask))
    known = (mask > 0) & (truth != 7) & (truth != 2)
    assert report.voxels == np.count_nonzero(known)
    assert report.classes["mito"] == pytest.approx(expected((found == 1) & known, (truth == 1) & known))


def test_a_region_of_the_truth_is_scored_alone(exclusive):
    truth, found, place, prediction = exclusive
    report = evaluate(prediction, place, region="z=2:5,x=4:24")
    part = (slice(2, 5), slice(None), slice(4, 24))
    assert report.classes["er"] == pytest.approx(expected(found[part] == 2, truth[part] == 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotated": ["mitos"]}, r"no class 'mitos' that could be annotated: did you mean 'mito'"),
        ({"truth": "a"}, r"made of several label volumes \(a, b\), and the truth is one: give each, as a=FILE"),
        ({"truth": {"a": "a"}}, r"lacks the label volume b of the class 'mito': give it, or say what is annotated"),
        ({"truth": {"a": "a", "c": "a"}}, r"no classes that are made of a label volume 'c': known are a, b\."),
    ],
)
def test_truths_that_are_not_those_of_the_classes_are_refused(overlapping, change, message):
    *_, places, prediction = overlapping
    truth = change.pop("truth", {"a": "a", "b": "b"}) if "truth" in change else {"a": "a", "b": "b"}
    truth = {name: places[key] for name, key in truth.items()} if isinstance(truth, dict) else places[truth]
    with pytest.raises(SpecError, match=message):
        evaluate(prediction, truth, **change)


def test_names_of_classes_ask_for_a_prediction_that_has_them(tmp_path, exclusive):
    _, found, place, prediction = exclusive
    plain = write(tmp_path / "plain.h5:x", (found > 0).astype(np.uint8))
    with pytest.raises(SpecError, match=r"does not say which classes it has, .* leave annotated out"):
        evaluate(plain, place, annotated=["mito"])
    with pytest.raises(SpecError, match=r"classes exclude each other, .*: leave the threshold out"):
        evaluate(prediction, place, threshold=0.4)


# The command, what predict writes, and pictures --------------------------------------------------------------------


def test_the_command_prints_a_row_for_each_class_and_the_same_as_json(run_zoo, tmp_path, overlapping):
    *_, places, prediction = overlapping
    truths = [part for name, place in places.items() for part in ("--truth", f"{name}={place}")]
    code, out, _ = run_zoo("evaluate", prediction, *truths)
    report = evaluate(prediction, places)
    assert code == 0
    for name in ("membrane", "mito", "rare"):
        assert f"{report.classes[name]['dice']:.4f}" in next(line for line in out.splitlines() if line.startswith(name))
    code, out, _ = run_zoo("evaluate", prediction, *truths, "--json", "--annotated", "membrane,mito")
    assert code == 0
    assert json.loads(out)["classes"] == {name: report.classes[name] for name in ("membrane", "mito")}
    code, _, err = run_zoo("evaluate", prediction, places["a"], *truths)
    assert (code, "--truth names others: give one volume" in err) == (2, True)


def test_a_picture_of_classes_has_the_colour_of_each(run_zoo, tmp_path, overlapping):
    *_, places, prediction = overlapping
    image = write(tmp_path / "image.h5:x", grey(SHAPE))
    named = [part for name, place in places.items() for part in ("--truth", f"{name}={place}")]
    picture = tmp_path / "p.png"
    code, _, _ = run_zoo("evaluate", prediction, *named, "--picture", str(picture), "--image", image)
    assert code == 0
    pixels = np.rint(255 * imread(picture)[..., :3]).reshape(-1, 3)
    for colour in ((86, 180, 233), (240, 228, 66), (0, 158, 115)):  # the patches of the legend
        assert (pixels == colour).all(axis=1).sum() > 50


@pytest.mark.parametrize("suffix", ["h5", "zarr", "tif"])
@pytest.mark.parametrize(
    ("task", "names"),
    [
        (SOFTMAX, {"0": "background", "1": "mito", "2": "er"}),
        (SIGMOID, ["membrane", "mito", "rare"]),
    ],
    ids=["softmax", "sigmoid"],
)
def test_labels_that_are_predicted_say_the_names_of_their_classes(tmp_path, task, names, suffix):
    run = make_run(tmp_path / "run", task=task)
    image = write(tmp_path / "image.h5:x", grey((16, 32, 32)))
    out = tmp_path / f"labels.{suffix}"
    predict(run, image, out, output="label")
    with open_volume(out) as volume:
        assert volume.content == "label"
        assert volume.stored().task == task
        labels = volume.read(volume.whole)
        assert volume.channels == (None if task is SOFTMAX else 3)
    if suffix == "h5":
        with h5py.File(out) as file:
            attributes = next(iter(file.values())).attrs
            assert json.loads(attributes["class_names"]) == names
    elif suffix == "zarr":
        found = [json.loads(path.read_text()).get("attributes", {}) for path in out.rglob("zarr.json")]
        assert [json.loads(each["class_names"]) for each in found if "class_names" in each] == [names]
    else:
        import tifffile

        with tifffile.TiffFile(out) as file:
            assert json.dumps(names) in html.unescape(file.pages[0].description).replace('\\"', '"')
    probabilities = tmp_path / "p.h5"
    predict(run, image, probabilities, dtype="float32")
    with open_volume(probabilities) as volume:
        values = volume.read(volume.whole)
    assert np.array_equal(labels, values.argmax(axis=0) if task is SOFTMAX else values > 0.5)
