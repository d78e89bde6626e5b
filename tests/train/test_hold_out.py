"""Annotated regions are held out to validate on: about a fifth, or the one that is asked for, and nothing leaks."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from support.tiny_training import request, write_volume

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.experiment import DataSpec
from connectomics_zoo.train import train
from connectomics_zoo.train.hold_out import with_held_out
from connectomics_zoo.train.inspection import warn_of_overlap
from connectomics_zoo.train.patches import TrainingPatches, ValidationPatches
from connectomics_zoo.train.resolve import resolve_run
from connectomics_zoo.volumes.pair_reader import PairReader

SHAPE = (20, 40, 40)


def volume(path, *, shape=SHAPE, mask=None, labels=None):
    write_volume(path, shape=shape)
    with h5py.File(path, "r+") as file:
        if mask is not None:
            file["mask"] = mask.astype(np.uint8)
        if labels is not None:
            file["mito"][...] = labels
    return path


def divided(*paths, mask=False, hold_out="auto", regions=None, **fields):
    pairs = [{"image": f"{path}:raw", "label": f"{path}:mito", "regions": regions} for path in paths]
    if mask:
        pairs = [{**pair, "mask": f"{path}:mask"} for path, pair in zip(paths, pairs, strict=True)]
    return with_held_out(DataSpec.model_validate({"train": pairs, "hold_out": hold_out, **fields}))


def annotated(data, part):
    """Where the first volume is annotated for a use, by the readers of training."""
    found = np.zeros(SHAPE, bool)
    for pair in getattr(data, part):
        reader = PairReader(pair, data)
        box = reader.whole.intersection(reader.box)
        found[box.slices] |= reader.read_truth(box, within=reader.whole).annotated
    return found


def of_sections(*sections, rows=slice(None)):
    mask = np.zeros(SHAPE, bool)
    for section in sections:
        mask[section, rows] = True
    return mask


SECTIONS = [{"z": [row, row + 1]} for row in (1, 4, 7, 10, 13, 16)]


def test_of_several_regions_whole_ones_are_held_out_and_nothing_is_lost(tmp_path):
    path = volume(tmp_path / "v.h5")
    data = divided(path, regions=SECTIONS)
    assert len(data.validation[0].regions) == 1
    assert {*data.train[0].regions, *data.validation[0].regions} == {
        *DataSpec.model_validate({"train": {"image": "a", "label": "b", "regions": SECTIONS}}).train[0].regions
    }
    assert data == divided(path, regions=SECTIONS)
    assert data.hold_out is None
    more = divided(path, regions=[{"z": [row, row + 1]} for row in range(20)])
    assert len(more.validation[0].regions) == 4


def test_a_dense_volume_loses_a_slab_along_its_longest_axis_whose_image_is_not_seen_either(tmp_path, caplog):
    path = volume(tmp_path / "v.h5")
    data = divided(path, voxel_size_nm=[50, 8, 8])
    assert [pair.region.model_dump(exclude_none=True) for pair in (*data.train, *data.validation)] == [
        {"z": (0, 16)},
        {"z": (16, 20)},
    ]
    warn_of_overlap(data)
    assert caplog.messages == []
    data = divided(path, voxel_size_nm=[8, 8, 8], downsample=[1, 3, 3])
    assert data.train[0].region.y == (0, 33)
    assert data.validation[0].region.y == (33, 40)


@pytest.mark.parametrize(
    "mask",
    [
        of_sections(2, 9, 17),
        of_sections(2, 3, 4, 9, 10, 17, 18, rows=slice(3, 30)),
        of_sections(*range(20), rows=slice(5, 25)),
        of_sections(2, 9) | of_sections(*range(11, 20), rows=slice(30, 40)),
        np.random.default_rng(0).random(SHAPE) < 0.02,
        np.ones(SHAPE, bool),
    ],
    ids=["sections", "thick sections", "slab", "sections and a box", "grains", "all"],
)
@pytest.mark.parametrize("downsample", [[1, 1, 1], [1, 2, 2]])
def test_a_mask_is_divided_where_it_is_annotated(tmp_path, mask, downsample):
    path = volume(tmp_path / "v.h5", mask=mask)
    data = divided(path, mask=True, downsample=downsample)
    plain = data.model_copy(update={"downsample": (1, 1, 1)})
    trained, held = annotated(plain, "train"), annotated(plain, "validation")
    assert not (trained & held).any()
    assert np.array_equal(trained | held, mask)
    assert 0.1 <= held.sum() / mask.sum() <= 0.4


def test_scribbles_are_divided_by_section(tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    for section in (2, 8, 14, 19):
        labels[section, 4, 3:30], labels[section, 20:22, 8:30] = 1, 2
    path = volume(tmp_path / "v.h5", labels=labels)
    data = divided(path, unlabelled=0, background=1)
    (held,) = data.validation[0].regions
    assert held.z[0] in (2, 8, 14, 19)
    assert len(data.train[0].regions) == 3
    trained, held = annotated(data, "train"), annotated(data, "validation")
    assert np.array_equal(trained | held, labels > 0)
    assert not (trained & held).any()


def test_each_region_can_be_held_out_over_all_volumes(tmp_path):
    first, second = volume(tmp_path / "a.h5"), volume(tmp_path / "b.h5")
    regions = [{"z": [2, 3]}, {"y": [7, 9]}]
    folds = [divided(first, second, regions=regions, hold_out=number) for number in range(4)]
    assert [(len(fold.train), len(fold.validation)) for fold in folds] == [(2, 1)] * 4
    assert [fold.validation[0].image.split("/")[-1] for fold in folds] == ["a.h5:raw"] * 2 + ["b.h5:raw"] * 2
    for fold in folds[:2]:  # the regions cross, and what is held out is not trained on
        one = fold.model_copy(update={"train": fold.train[:1]})
        trained, held = annotated(one, "train"), annotated(one, "validation")
        assert not (trained & held).any()
        assert np.array_equal(trained | held, of_sections(2) | of_sections(*range(20), rows=slice(7, 9)))
    volumes = divided(first, second, hold_out=1)
    assert [pair.image.split("/")[-1] for pair in (*volumes.train, *volumes.validation)] == ["a.h5:raw", "b.h5:raw"]


@pytest.mark.parametrize("regions", [({"z": [0, 12]}, {"z": [8, 20]}), ({"z": [0, 12]}, {"z": [3, 6]})])
def test_what_is_held_out_of_a_volume_is_no_longer_trained_on_by_another_entry_of_it(tmp_path, caplog, regions):
    path = volume(tmp_path / "v.h5")
    pairs = [{"image": f"{path}:raw", "label": f"{path}:mito", "region": region} for region in regions]
    data = with_held_out(DataSpec.model_validate({"train": pairs, "hold_out": 1}))
    trained, held = annotated(data, "train"), annotated(data, "validation")
    both = [of_sections(*range(*region["z"])) for region in regions]
    assert np.array_equal(held, both[1])
    assert np.array_equal(trained, both[0] & ~both[1])
    warn_of_overlap(data)
    assert caplog.messages == []


def test_a_volume_that_is_resampled_loses_no_network_voxel(tmp_path):
    path = volume(tmp_path / "v.h5")
    data = divided(path, voxel_size_nm=[60, 10, 10], network_voxel_size_nm=[180, 20, 20])
    assert [pair.region.z for pair in (*data.train, *data.validation)] == [(0, 15), (15, 20)]
    thin = {"train": {"image": f"{path}:raw", "label": f"{path}:mito", "region": {"y": [0, 4], "x": [0, 4]}}}
    fields = {"voxel_size_nm": [60, 10, 10], "network_voxel_size_nm": [350, 10, 10], "hold_out": "auto"}
    data = with_held_out(DataSpec.model_validate({**thin, **fields}))
    for pair in (*data.train, *data.validation):
        assert PairReader(pair, data).box.voxels


def test_what_cannot_be_held_out_is_said(tmp_path):
    path = volume(tmp_path / "v.h5", mask=of_sections(3, rows=slice(4, 5)) & (np.arange(40) == 7))
    with pytest.raises(
        SpecError, match=r"data\.hold_out=6 is the number of no annotated region, of which .* has 6, cou"
    ):
        divided(path, regions=SECTIONS, hold_out=6)
    with pytest.raises(SpecError, match=r"data\.hold_out=0 is the only annotated region and leaves none to train on"):
        divided(path, hold_out=0)
    with pytest.raises(SpecError, match=r"the annotation of .*v\.h5:mito cannot be divided along z, so that nothing"):
        divided(path, mask=True)
    with pytest.raises(
        SpecError, match=r"data\.train is annotated nowhere, check data\.unlabelled, the masks and the reg"
    ):
        divided(path, unlabelled=0, regions=[{"y": [0, 2]}])


def held_out_request(path, **data):
    changes = request(path, validate_every=4)
    pair = {"image": f"{path}:raw", "label": f"{path}:mito", "regions": SECTIONS}
    changes["data"] = {"train": [pair], "validation": "auto", **data}
    return changes


def test_training_does_not_see_the_labels_that_are_held_out(tmp_path):
    weights = []
    for poison in (False, True):
        path = volume(tmp_path / f"{poison}.h5")
        run = resolve_run("mednext-S", held_out_request(path))
        (held,) = run.data.validation[0].regions
        if poison:
            before = ValidationPatches(run)[0].targets
            with h5py.File(path, "r+") as file:
                file["mito"][slice(*held.z)] = 1 - file["mito"][slice(*held.z)]
            assert (ValidationPatches(run)[0].targets != before).any()
        report = train("mednext-S", held_out_request(path), output=tmp_path / f"run-{poison}", device="cpu")
        weights.append(load_file(report.folder / "model.safetensors"))
        known = [patch.mask for patch in itertools.islice(TrainingPatches(run), 4)]
        assert all(mask.any() for mask in known)
    assert all((tensor == weights[1][name]).all() for name, tensor in weights[0].items())


def test_the_spec_of_a_run_names_what_is_held_out_and_a_resumed_run_keeps_it(tmp_path):
    path = volume(tmp_path / "v.h5")
    report = train("mednext-S", held_out_request(path), output=tmp_path / "run", device="cpu")
    data = yaml.safe_load((report.folder / "spec.yaml").read_text())["data"]
    assert "hold_out" not in data
    (held,) = data["validation"][0]["regions"]
    assert held in SECTIONS
    assert [region for region in SECTIONS if region != held] == data["train"][0]["regions"]
    with pytest.raises(
        SpecError, match=r"data\.hold_out divides the volumes when a run begins, leave it out when it is"
    ):
        train(report.folder, {"data": {"validation": "auto"}}, resume=True)
    train(report.folder, {"training": {"max_steps": 5}}, resume=True, device="cpu")
    assert yaml.safe_load((report.folder / "spec.yaml").read_text())["data"] == data


def test_auto_replaces_the_validation_of_an_experiment_and_volumes_beside_it_are_refused(tmp_path, caplog):
    path = volume(tmp_path / "v.h5")
    experiment = held_out_request(path) | {
        "schema_version": 1,
        "name": "mine",
        "summary": "Mine.",
        "model": "mednext-S",
    }
    experiment["data"]["validation"] = [{"image": f"{path}:raw", "label": f"{path}:mito"}]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(experiment))
    run = resolve_run(tmp_path / "mine.yaml", {"data": {"validation": "auto"}})
    assert len(run.data.validation[0].regions) == 1
    assert caplog.messages == []
    with pytest.raises(
        SpecError, match="hold_out 2 takes regions of the training volumes and validation names volumes"
    ):
        resolve_run(tmp_path / "mine.yaml", {"data": {"hold_out": 2}})
    with pytest.raises(SpecError, match=r"validation is auto and hold_out 2, and both say which regions are held out"):
        resolve_run(tmp_path / "mine.yaml", {"data": {"validation": "auto", "hold_out": 2}})
