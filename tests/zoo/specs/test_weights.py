"""The weights in the package: small, licensed, the result of an experiment in the catalogue, and what they declare."""

from __future__ import annotations

import h5py
import pytest
from support.paths import SHARED

import zoo
from connectomics_zoo import catalog
from connectomics_zoo.files.safetensors import read_header
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.train.resolve import resolve_run
from connectomics_zoo.verify import verify
from connectomics_zoo.weights.pretrained import find_run

SHIPPED = {
    f"{entry.name}.{tag}": weights
    for entry in catalog.entries("model")
    for tag, weights in get_spec(entry.path).weights.items()
    if weights.source == "package"
}

LICENCES = {"vnc_stack1_z00-15.h5": "CC-BY-NC-SA-3.0", "fib25_sample2_z000-199.h5": "CC-BY-SA"}

DATA = SHARED / "data"


def test_there_are_weights():
    assert next(iter(get_spec("mednext-S").weights)) == "vnc-mito", "the default of mednext-S"
    assert "mednext-S.vnc-mito" in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_small_and_in_half_precision(name):
    _, found = find_run(name)
    assert found.path.stat().st_size == SHIPPED[name].size < 12e6
    dtypes = {tensor.dtype for tensor in read_header(found.path).tensors.values()}
    assert dtypes <= {"F16", "I64"}, dtypes


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_say_all_that_there_is_to_say(name):
    entry, (run, _) = SHIPPED[name], find_run(name)
    assert entry.license == run.data.license == LICENCES[run.data.train[0].image.partition(":")[0]]
    assert entry.dataset == run.data.attribution
    assert entry.seed == run.training.seed
    assert entry.recipe
    assert entry.split
    assert entry.probe is not None
    assert entry.task == run.task.name
    wanted = {f"val/{metric}" for metric in run.task.metrics}
    if run.task.decode.is_instances:
        wanted |= {"val/adapted_rand_error", "val/voi_split", "val/voi_merge", "val/ap_50"}
    assert entry.metrics.keys() == wanted


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_the_result_of_an_experiment_in_the_catalogue(name, tmp_path):
    run, _ = find_run(name)
    for file, shape in (("vnc_stack1_z00-15.h5", (16, 1024, 1024)), ("fib25_sample2_z000-199.h5", (200, 250, 250))):
        with h5py.File(tmp_path / file, "w") as volumes:  # what is never written takes no room
            for dataset in ("raw", "mitochondria", "membranes", "neurons"):
                volumes.create_dataset(dataset, shape=shape, dtype="uint8", chunks=True)
    again = resolve_run(run.name, {"data": {"root": str(tmp_path)}})
    assert again.training == run.training
    assert again.data.model_copy(update={"root": run.data.root}) == run.data
    assert again.init_from == run.init_from
    assert again.prediction == run.prediction
    assert (again.task.channels, again.task.labels) == (run.task.channels, run.task.labels)
    assert run.task.decode.is_instances or again.task.decode == run.task.decode  # objects: as tuned
    assert (again.model.name, again.model.arch) == (run.model.name, run.model.arch)


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_kept_for_evaluation_was_trained_or_scored_on(name):
    run, _ = find_run(name)
    parts = [pair.region.z for pair in (*run.data.train, *run.data.validation)]
    assert parts in ([(0, 13), (13, 16)], [(0, 160), (160, 200)])


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_the_declared_file_and_compute_the_recorded_numbers(name):
    (model,) = verify([name], level="weights").models
    assert model.passed, [check.describe() for check in model.failures]
    tag = name.partition(".")[2]
    assert any(check.path.startswith(f"weights.{tag}.probe") for check in model.checks)


@pytest.mark.parametrize("name", SHIPPED)
def test_show_tells_what_the_weights_are_for(name, run_zoo):
    run, _ = find_run(name)
    code, out, err = run_zoo("show", name)
    assert code == 0, err
    edges = " × ".join(f"{edge:g}" for edge in run.data.network_voxel_nm)
    shown = {line.partition("  ")[0]: line.partition("  ")[2].strip() for line in out.splitlines()}
    assert shown["network voxels"].startswith(f"{edges} nm")
    assert shown["decoding"].startswith(run.task.decode.method)
    assert f"threshold {run.task.decode.threshold:g}" in shown["decoding"]
    assert shown.get("starts from") == run.init_from


def test_the_default_finds_mitochondria_in_real_data(tmp_path):
    volume = DATA / "vnc" / "vnc_stack1_z00-15.h5"
    if not volume.is_file():
        pytest.skip("the VNC volume is not here (../shared/data/vnc)")
    region = "z=13:16,y=256:640,x=256:640"
    zoo.predict("mednext-S", f"{volume}:raw", tmp_path / "mito.h5", region=region)
    assert zoo.evaluate(tmp_path / "mito.h5", f"{volume}:mitochondria").scores["dice"] > 0.8
