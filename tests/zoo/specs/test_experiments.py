"""The shipped tasks and experiments: valid by both schemas, and one sentence away from running."""

from __future__ import annotations

import itertools
import re

import h5py
import numpy as np
import pytest
from support.paths import SHARED
from support.tiny_training import write_volume

from connectomics_zoo import catalog
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema.experiment import DataSpec
from connectomics_zoo.schema.json_schema import violations
from connectomics_zoo.specs.lookup import get_experiment, get_spec, get_task
from connectomics_zoo.train.inspection import warn_of_overlap
from connectomics_zoo.train.resolve import resolve_run

TASKS = sorted(entry.name for entry in catalog.entries("task"))
EXPERIMENTS = sorted(entry.name for entry in catalog.entries("experiment"))
DATA = SHARED / "data"


def test_every_task_and_experiment_is_there():
    assert TASKS == [
        "affinities-12",
        "affinities-3",
        "affinities-6",
        "binary",
        "boundary",
        "lsd",
        "membrane",
        "mito",
        "mito-instance",
        "organelles",
        "synapse-cleft",
        "synapse-polarity",
        "vnc-classes",
    ]
    assert EXPERIMENTS == [
        "fib25-affinities",
        "fib25-affinities-attention-unet",
        "fib25-boundary",
        "mednext-custom",
        "mednext-lucchi",
        "vnc-membrane",
        "vnc-membrane-coarse",
        "vnc-mito",
        "vnc-mito-attention-unet",
        "vnc-mito-instance",
        "vnc-three-classes",
    ]


@pytest.mark.parametrize(
    ("kind", "name"), [("task", name) for name in TASKS] + [("experiment", name) for name in EXPERIMENTS]
)
def test_a_spec_passes_both_schemas_and_names_its_own(kind, name):
    path = catalog.find(kind, name).path
    assert (get_task if kind == "task" else get_experiment)(path).name == name
    assert list(violations(kind, read_yaml(path))) == []
    assert path.read_text().startswith(f"# yaml-language-server: $schema=../schema/{kind}.schema.json\n")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_s_patch_is_legal_and_its_references_exist(name):
    experiment = get_experiment(name)
    assert get_spec(experiment.model).input.size.allows(experiment.training.patch_size)
    assert get_task(experiment.task).name in TASKS


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("fib25-boundary", "data.root=FOLDER"),
        ("vnc-mito", "data.root=FOLDER"),
        ("mednext-lucchi", "data.root=FOLDER"),
        ("mednext-custom", "data.train.image=FILE:DATASET"),
    ],
)
def test_what_an_experiment_lacks_is_said_in_one_sentence(run_zoo, name, missing):
    code, out, err = run_zoo("train", name, "--dry-run")
    assert (code, out) == (2, "")
    assert re.fullmatch(f"zoo: {name}: .* not given, add {missing}\\.\n", err)


def test_a_missing_lucchi_file_is_named(run_zoo, tmp_path):
    code, out, err = run_zoo("train", "mednext-lucchi", f"data.root={tmp_path}", "--dry-run")
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"zoo: {tmp_path}/training\.tif: there is no such file or folder.*\n", err)


def test_the_lucchi_experiment_takes_files_of_other_names(run_zoo, tmp_path):
    write_volume(tmp_path / "a.h5")
    changes = [f"data.{part}.{what}=a.h5:{key}" for part in ("train", "validation") for what, key in PAIR]
    code, out, err = run_zoo("train", "mednext-lucchi", f"data.root={tmp_path}", *changes, "--dry-run")
    assert (code, err) == (0, "")
    assert "batch_size: 4" in out
    assert "patch_size: [112, 112, 112]" in out


PAIR = (("image", "raw"), ("label", "mito"))


def test_the_custom_experiment_opens_the_network(tmp_path):
    write_volume(tmp_path / "a.h5")
    volumes = {what: f"{tmp_path}/a.h5:{key}" for what, key in PAIR}
    changes = {"data": {"train": volumes, "validation": volumes}, "arch": {"base_channels": 24, "kernel_size": 5}}
    run = resolve_run("mednext-custom", changes)
    assert (run.model.arch.base_channels, run.model.arch.kernel_size) == (24, 5)
    assert run.model.outputs[0].channels == 1
    without = changes | {"data": {"train": volumes, "validation": []}}
    assert resolve_run("mednext-custom", without).data.validation == ()


@pytest.mark.parametrize(
    ("train", "validation", "warned"),
    [({}, {}, True), ({"z": [0, 13]}, {"z": [13, 16]}, False), ({"z": [0, 13]}, {"z": [12, 16]}, True)],
)
def test_validation_where_it_is_trained_is_warned_of(caplog, train, validation, warned):
    pair = {"image": "a.h5:raw", "label": "a.h5:mito"}
    data = DataSpec.model_validate({"train": {**pair, "region": train}, "validation": {**pair, "region": validation}})
    warn_of_overlap(data)
    assert ("a.h5:raw is validated on where it is trained on" in caplog.text) == warned


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith(("fib25-", "vnc-"))])
def test_the_shared_volumes_fit_their_experiments(name):
    folder = name.partition("-")[0]
    if not (DATA / folder).is_dir():
        pytest.skip(f"needs the volume in ../shared/data/{folder}")
    run = resolve_run(name, {"data": {"root": str(DATA / folder)}})
    assert run.data.license is not None
    assert run.data.attribution is not None
    pairs = (*run.data.train, *run.data.validation)
    ranges = [pair.region.z for pair in pairs]
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(ranges))


def test_boundary_targets_are_a_part_of_dense_labels(tmp_path):
    write_volume(tmp_path / "a.h5", bodies=np.arange(20 * 40 * 40).reshape(20, 40, 40) // 3200)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["bodies"].shape == (20, 40, 40)
    volumes = {"image": f"{tmp_path}/a.h5:raw", "label": f"{tmp_path}/a.h5:bodies"}
    run = resolve_run("mednext-S", {"task": "boundary", "data": {"train": volumes}})
    assert run.task.channels[0].target.kind == "boundary"
