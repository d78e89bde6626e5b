"""Few annotated sections, boxes or scribbles: patches find them, and nothing else of the labels is read."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pytest
from support.tiny_training import make_run, request, write_volume

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.evaluate import evaluate
from connectomics_zoo.schema.experiment import DataSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.train.annotated import find_annotated
from connectomics_zoo.train.data import training_loader
from connectomics_zoo.train.inspection import warn_of_labels, warn_of_overlap
from connectomics_zoo.train.patches import TrainingPatches, ValidationPatches
from connectomics_zoo.train.resolve import resolve_run
from connectomics_zoo.train.sampling import ForegroundFinder
from connectomics_zoo.volumes.box import Box, disjoint
from connectomics_zoo.volumes.pair_reader import PairReader

SECTIONS = [{"z": [3, 4]}, {"z": [17, 18]}]
PATCH = (16, 32, 32)


def pair_of(path, **fields):
    return {"image": f"{path}:raw", "label": f"{path}:mito", **fields}


def take(run, count):
    return list(itertools.islice(TrainingPatches(run), count))


def write_scribbles(path, *, shape=(20, 40, 40), strokes):
    """A volume with 0 but in `strokes`, boxes with a label each."""
    write_volume(path, shape=shape)
    labels = np.zeros(shape, np.uint8)
    for where, label in strokes:
        labels[where] = label
    with h5py.File(path, "r+") as file:
        file["mito"][...] = labels
    return path


# Regions ----------------------------------------------------------------------------------------------------------


def test_patches_read_the_image_around_annotated_sections_and_count_these_alone(tmp_path):
    path = write_volume(tmp_path / "v.h5")
    with h5py.File(path, "r+") as file:
        file["raw"][...] = np.arange(20, dtype=np.uint8)[:, None, None]
    run = make_run({"train": [pair_of(path, regions=SECTIONS)]})
    found = set()
    for patch in take(run, 30):
        sections = (patch.image[0, :, 0, 0] * 255).round().long()
        assert len(set(sections.tolist())) == 16
        known = set(sections[patch.mask[0].any(dim=(1, 2))].tolist())
        assert known
        assert known <= {3, 17}
        assert patch.mask[0][patch.mask[0].any(dim=(1, 2))].all()
        found.add(tuple(known))
    assert found == {(3,), (17,)}


def test_an_annotated_section_may_be_anywhere_in_a_patch(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(64, 40, 40))
    run = make_run({"train": [pair_of(path, regions=[{"z": [30, 31]}])]}, foreground_probability=0.0)
    rows = {int(patch.mask[0].any(dim=(1, 2)).nonzero()) for patch in take(run, 120)}
    assert rows == set(range(16))


def test_labels_outside_of_the_regions_are_not_read(tmp_path):
    patches = []
    for poison in (0, -7):
        path = write_volume(tmp_path / f"{poison}.h5")
        with h5py.File(path, "r+") as file:
            labels = file["mito"][...].astype(np.int16)
            hidden = np.ones(labels.shape, bool)
            hidden[3], hidden[17], hidden[:, 20:24, 8:] = False, False, False
            labels[hidden] = poison
            del file["mito"]
            file["mito"] = labels
        regions = [*SECTIONS, {"y": [20, 24], "x": [8, 40]}]
        run = make_run({"train": [pair_of(path, regions=regions)], "validation": [pair_of(path, regions=regions)]})
        warn_of_labels(run)
        validation = ValidationPatches(run)
        patches.append([*take(run, 8), *map(validation.__getitem__, range(len(validation)))])
    for one, other in zip(*patches, strict=True):
        assert all((first == second).all() for first, second in zip(one, other, strict=True))


def test_every_annotated_voxel_of_overlapping_regions_is_validated_once(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(20, 70, 40))
    regions = [{"z": [3, 4]}, {"y": [20, 24]}, {"z": [2, 5], "x": [0, 33]}]
    run = make_run({"validation": [pair_of(path, region={"y": [0, 66]}, regions=regions)]})
    annotated = np.zeros((20, 70, 40), bool)
    annotated[3, :66] = annotated[:, 20:24] = annotated[2:5, :66, :33] = True
    patches = ValidationPatches(run)
    assert sum(int(patches[index].mask.sum()) for index in range(len(patches))) == annotated.sum()


def test_regions_are_drawn_by_their_annotated_voxels(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(64, 40, 40))
    regions = [{"z": [0, 1]}, {"z": [50, 58]}]
    run = make_run({"train": [pair_of(path, regions=regions)]}, foreground_probability=0.0)
    counts = [int(patch.mask.sum()) for patch in take(run, 90)]
    assert 3 <= sum(count <= 32 * 32 for count in counts) <= 25  # a ninth is expected, and there are thin cuts


def test_a_volume_with_few_annotated_voxels_is_drawn_as_often_as_it_has_such(tmp_path):
    full, few = write_volume(tmp_path / "full.h5", shape=(20, 40, 40)), write_volume(tmp_path / "few.h5")
    with h5py.File(few, "r+") as file:
        file["raw"][...] = 7
    run = make_run({"train": [pair_of(full), pair_of(few, regions=SECTIONS)]})
    assert 1 <= sum(bool((patch.image < 0.1).all()) for patch in take(run, 100)) <= 25


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regions": [{"z": [18, 21]}]}, r"the region z=18:21 is not inside .*v\.h5:raw, which has z=0:20"),
        (
            {"region": {"z": [0, 9]}, "regions": [{"z": [8, 12]}]},
            r"the annotated region z=8:12,y=0:40,x=0:40 of .*v\.h5:raw reaches out of the part that is used, z=0:9,",
        ),
    ],
)
def test_regions_that_do_not_fit_are_refused(tmp_path, fields, message):
    changes = request(write_volume(tmp_path / "v.h5"))
    changes["data"]["train"][0] |= {"region": {}} | fields
    with pytest.raises(VolumeError, match=message):
        resolve_run("mednext-S", changes)


def test_a_region_thinner_than_a_network_voxel_is_refused(tmp_path):
    changes = request(write_volume(tmp_path / "v.h5"))
    changes["data"]["train"][0] |= {"region": {}, "regions": [{"z": [3, 4]}]}
    changes["data"]["downsample"] = [2, 1, 1]
    with pytest.raises(VolumeError, match=r"region z: \[3, 4\] holds no whole block of 2 voxels"):
        resolve_run("mednext-S", changes)


@pytest.mark.parametrize(("held_out", "is_warned"), [([5, 6], False), ([4, 6], True)])
def test_regions_that_are_trained_and_validated_on_are_warned_of(tmp_path, caplog, held_out, is_warned):
    data = {
        "train": [{"image": "a", "label": "b", "regions": [{"z": [3, 5]}, {"z": [9, 10]}]}],
        "validation": [{"image": "a", "label": "b", "regions": [{"z": held_out}]}],
    }
    warn_of_overlap(DataSpec.model_validate(data))
    assert ("a is validated on where it is trained on" in caplog.text) == is_warned


def test_boxes_that_overlap_are_cut_into_some_that_do_not():
    random = np.random.default_rng(0)
    for _ in range(50):
        corners = np.sort(random.integers(0, 9, (4, 3, 2)), axis=2)
        boxes = [Box.of_ranges(map(tuple, box.tolist())) for box in corners]
        counts, wanted = np.zeros((9, 9, 9), int), np.zeros((9, 9, 9), bool)
        for box in boxes:
            wanted[box.slices] = True
        for box in disjoint(boxes):
            counts[box.slices] += 1
        assert np.array_equal(counts, wanted)


# Scribbles --------------------------------------------------------------------------------------------------------

STROKES = [(np.s_[5, 4:8, 4:30], 1), (np.s_[14, 10:12, 20:36], 2)]


def test_scribbles_of_background_and_object_are_the_two_classes(tmp_path):
    path = write_scribbles(tmp_path / "v.h5", strokes=STROKES)
    run = make_run({"train": [pair_of(path)], "unlabelled": 0, "background": 1}, task="binary")
    warn_of_labels(run)
    with h5py.File(path) as file:
        labels = file["mito"][...]
    reader = PairReader(run.data.train[0], run.data)
    truth = reader.read_truth(reader.box, within=reader.box)
    assert np.array_equal(truth.annotated, labels != 0)
    assert np.array_equal(truth.labels > 0, labels == 2)
    for patch in take(run, 20):
        assert patch.mask.any()
        assert 0 < patch.mask[0].sum() <= 104 + 32


def test_scribbles_without_a_background_are_refused(tmp_path):
    path = write_scribbles(tmp_path / "v.h5", strokes=STROKES)
    message = r"v\.h5:mito: has no background, since data\.unlabelled=0 takes .* 'mitochondria': say which"
    with pytest.raises(VolumeError, match=message):
        warn_of_labels(make_run({"train": [pair_of(path)], "unlabelled": 0}))


def test_one_label_cannot_be_background_and_not_annotated():
    with pytest.raises(SpecError, match="background and unlabelled are both 3, and a voxel is one of them"):
        validate(DataSpec, {"unlabelled": 3, "background": 3}, source="it")


def test_a_thousandth_of_a_volume_is_found_in_every_patch_without_reading_it_again(tmp_path, monkeypatch):
    shape = (64, 320, 320)
    strokes = [(np.s_[40, 100:180, 100:130], 1), (np.s_[40, 100:180, 130:150], 2), (np.s_[3, 300:310, 300:310], 2)]
    path = write_scribbles(tmp_path / "v.h5", shape=shape, strokes=strokes)
    run = make_run({"train": [pair_of(path)], "unlabelled": 0, "background": 1}, foreground_probability=0.3)
    patches = take(run, 40)
    assert all(patch.mask.any() for patch in patches)
    assert {bool(patch.targets[patch.mask].any()) for patch in patches} == {True, False}
    reader = PairReader(run.data.train[0], run.data)
    blocks = find_annotated(reader, block=(8, 16, 16))
    with h5py.File(path) as file:
        assert blocks.total == np.count_nonzero(file["mito"])
    read, read_truth = [], PairReader.read_truth

    def counted(reader, box, *, within):
        read.append(box)
        return read_truth(reader, box, within=within)

    monkeypatch.setattr(PairReader, "read_truth", counted)
    finder = ForegroundFinder(reader, block=(8, 16, 16), annotated=blocks)
    assert all(finder.find_annotated(np.random.default_rng(seed)) for seed in range(20))
    assert len(read) == 20


def test_validation_has_no_patch_that_scores_nothing(tmp_path):
    path = write_scribbles(tmp_path / "v.h5", shape=(40, 160, 160), strokes=[(np.s_[9, 30:40, 30:40], 2)])
    run = make_run({"validation": [pair_of(path)], "unlabelled": 0, "background": 1})
    patches = ValidationPatches(run)
    assert [int(patches[index].mask.sum()) for index in range(len(patches))] == [4, 16, 16, 64]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_draw_the_same_patches_of_sparse_labels(tmp_path, workers):
    path = write_scribbles(tmp_path / "v.h5", shape=(64, 160, 160), strokes=[(np.s_[9, 30:40, 30:40], 2)])
    run = make_run({"train": [pair_of(path)], "unlabelled": 0, "background": 1}, workers=workers)
    batches = list(itertools.islice(training_loader(run), 3))
    for batch, patch in zip(batches, take(run, 3), strict=True):
        assert (batch.image[0] == patch.image).all()
        assert (batch.mask[0] == patch.mask).all()


def test_a_mask_that_leaves_patches_empty_draws_these_again(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(20, 40, 200))
    with h5py.File(path, "r+") as file:
        file["mask"] = np.broadcast_to(np.arange(200) >= 140, (20, 40, 200)).astype(np.uint8)
    run = make_run({"train": [pair_of(path, mask=f"{path}:mask")]}, foreground_probability=0.0)
    assert all(patch.mask.any() for patch in take(run, 40))


def test_scribbles_are_evaluated_where_they_are(tmp_path):
    path = write_scribbles(tmp_path / "v.h5", strokes=STROKES)
    with h5py.File(path, "r+") as file:
        labels, guess = file["mito"][...], np.random.default_rng(0).random((20, 40, 40)) > 0.4
        file["guess"] = guess.astype(np.uint8)
    scores = evaluate(f"{path}:guess", f"{path}:mito", unlabelled=0, background=1).scores
    both = np.count_nonzero(guess & (labels == 2))
    known = labels > 0
    assert scores["dice"] == pytest.approx(2 * both / (np.count_nonzero(guess & known) + np.count_nonzero(labels == 2)))
    both, found = np.count_nonzero(guess & (labels == 1)), np.count_nonzero(guess)
    scores = evaluate(f"{path}:guess", f"{path}:mito", background=2).scores
    assert scores["dice"] == pytest.approx(2 * both / (found + np.count_nonzero(labels == 1)))
    with pytest.raises(VolumeError, match="the background is the label 300, which labels of uint8 never are: give one"):
        evaluate(f"{path}:guess", f"{path}:mito", unlabelled=0, background=300)
    with pytest.raises(SpecError, match="background 3 is a label of the truth, and its voxels are not unlabelled"):
        evaluate(f"{path}:guess", f"{path}:mito", unlabelled=3, background=3)
