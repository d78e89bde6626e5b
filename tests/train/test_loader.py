"""The loader: the same batches from any number of processes, volumes that stay on disk, foreground that is found."""

from __future__ import annotations

import ctypes
import itertools
from math import prod
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorstore
import torch
import zarr
from support.patches import data_of
from support.stores import file_server
from support.tiny_training import make_run, write_volume
from support.volume_files import ZARR_3, peak_bytes, write

from connectomics_zoo.network.threads import usable_cores
from connectomics_zoo.train import sampling
from connectomics_zoo.train.data import training_loader, validation_loader
from connectomics_zoo.train.inspection import ENOUGH_BLOCKS, warn_of_labels
from connectomics_zoo.train.patches import Patch, TrainingPatches, ValidationPatches
from connectomics_zoo.train.sampling import FOREGROUND_TRIES, ForegroundFinder
from connectomics_zoo.train.trainer import warn_of_waiting
from connectomics_zoo.volumes import Volume
from connectomics_zoo.volumes.pair_reader import PairReader
from connectomics_zoo.volumes.sampling import BLOCK

PATCH = (16, 32, 32)


def batches(run, count, *, skip=0):
    return list(itertools.islice(training_loader(run, skip=skip), count))


def all_equal(some, others):
    pairs = zip(some, others, strict=True)
    return all((one.image == two.image).all() and (one.targets == two.targets).all() for one, two in pairs)


@pytest.fixture(params=["hdf5", "zarr", "n5", "zarr behind a URI"])
def data(request, tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(24, 64, 64))
    with h5py.File(path) as file, file_server(tmp_path) as address:
        if request.param == "hdf5":
            yield data_of(path)
            return
        suffix, root = request.param[:4].strip(), address if "URI" in request.param else tmp_path
        for name in ("raw", "mito"):
            (write if suffix == "zarr" else write_n5)(tmp_path / f"{name}.{suffix}", file[name][...])
        yield {"train": [{"image": f"{root}/raw.{suffix}", "label": f"{root}/mito.{suffix}"}]}


def write_n5(path, array):
    tensorstore.open(
        {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"}, "metadata": {"blockSize": [16, 16, 16]}},
        create=True, dtype=tensorstore.dtype(array.dtype), shape=array.shape[::-1],
    ).result()[...] = array.transpose()  # fmt: skip


def test_any_number_of_workers_gives_the_same_batches(data):
    runs = [make_run(data, augmentation="full", batch_size=2, workers=workers) for workers in (0, 1, 2)]
    # The first one also leaves its library's threads and open files to the processes that the others fork.
    alone, one, two = (batches(run, 5) for run in runs)
    assert alone[0].image.shape == (2, 1, *PATCH)
    assert all_equal(alone, one)
    assert all_equal(alone, two)


def test_every_patch_of_every_worker_is_another(tmp_path):
    run = make_run(data_of(write_volume(tmp_path / "v.h5")), augmentation="full", batch_size=2, workers=2)
    images = torch.cat([batch.image for batch in batches(run, 6)])
    assert len({image.numpy().tobytes() for image in images}) == 12


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_gets_the_batches_that_it_would_have_had(tmp_path, workers):
    run = make_run(data_of(write_volume(tmp_path / "v.h5")), augmentation="full", batch_size=2, workers=workers)
    assert all_equal(batches(run, 6)[3:], batches(run, 3, skip=3))


def test_another_seed_gives_other_batches(tmp_path):
    data = data_of(write_volume(tmp_path / "v.h5"))
    one, two = (batches(make_run(data, augmentation="flips", seed=seed), 3) for seed in (0, 1))
    assert not any((first.image == second.image).all() for first, second in zip(one, two, strict=True))


def test_validation_patches_come_in_order_from_workers_too(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(20, 80, 80))
    data = data_of(path, part="validation", region={"z": [16, 20]})
    alone, ahead = (list(validation_loader(make_run(data, workers=workers))) for workers in (0, 2))
    assert len(alone) == 9
    assert all_equal(alone, ahead)
    assert all((one.mask == other.mask).all() for one, other in zip(alone, ahead, strict=True))
    assert validation_loader(make_run({})) is None


def blas_threads():
    """The threads that the OpenBLAS of numpy and scipy have."""
    found = {}
    for path in {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "openblas" in line}:
        library = ctypes.CDLL(path)
        for prefix, ending in itertools.product(("", "scipy_"), ("", "64_")):
            if hasattr(library, name := f"{prefix}openblas_get_num_threads{ending}"):
                found[path] = getattr(library, name)()
    return found


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux for the libraries of a process")
@pytest.mark.parametrize("part", ["train", "validation"])
def test_each_worker_computes_with_one_thread_whatever_the_training_process_has(tmp_path, monkeypatch, part):
    def patch(*_):
        return Patch(torch.tensor([torch.get_num_threads(), *blas_threads().values()]), torch.zeros(1), torch.zeros(1))

    monkeypatch.setattr(TrainingPatches, "_draw", patch)
    monkeypatch.setattr(ValidationPatches, "__getitem__", patch)
    path = write_volume(tmp_path / "v.h5", shape=(20, 40, 40))
    run = make_run({"train": data_of(path)["train"], "validation": data_of(path)["train"]}, workers=2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        loader = {"train": training_loader, "validation": validation_loader}[part](run)
        threads = [batch.image.flatten().tolist() for batch in itertools.islice(loader, 4)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [[1] * (1 + len(blas_threads()))] * 4


# Volumes stay on disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def read_voxels(monkeypatch):
    """How many voxels each read of a volume has asked for, images and labels apart."""
    sizes = {"raw": [], "mito": []}
    original = Volume.read

    def read(volume, region):
        array = original(volume, region)
        sizes["raw" if "raw" in volume.location else "mito"].append(array.size)
        return array

    monkeypatch.setattr(Volume, "read", read)
    return sizes


def write_sparse(folder, kind, *, shape=(4096, 4096, 4096)):
    """A volume of 64 gigavoxels, of which nothing was ever written, so that it takes no room on the disk."""
    names = ("raw", "mito")
    if kind == "hdf5":
        with h5py.File(folder / "v.h5", "w") as file:
            for name in names:
                file.create_dataset(name, shape=shape, dtype=np.uint8, chunks=(64, 64, 64))
        return data_of(folder / "v.h5")
    for name in names:
        if ZARR_3:
            zarr.create_array(str(folder / f"{name}.zarr"), shape=shape, dtype="uint8", chunks=(64, 64, 64))
        else:
            zarr.open(str(folder / f"{name}.zarr"), mode="w", shape=shape, dtype="uint8", chunks=(64, 64, 64))
    return {"train": [{"image": f"{folder}/raw.zarr", "label": f"{folder}/mito.zarr"}]}


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
@pytest.mark.parametrize("downsample", [(1, 1, 1), (1, 2, 2)])
def test_of_a_volume_larger_than_memory_only_patches_are_read(tmp_path, monkeypatch, read_voxels, kind, downsample):
    monkeypatch.setattr(sampling, "FOREGROUND_TRIES", 16)
    data = {**write_sparse(tmp_path, kind), "downsample": list(downsample)}
    run = make_run(data, foreground_probability=1.0, augmentation="full")
    peak = peak_bytes(lambda: batches(run, 3))
    patch = prod(PATCH) * prod(downsample)
    assert read_voxels["raw"] == [patch] * 3
    # Of the labels, the patch, and blocks of an eighth of it in search of foreground.
    assert sum(read_voxels["mito"]) == 3 * (patch + 16 * patch // 8)
    assert peak < 40 * patch


def test_labels_in_order_are_seen_to_be_so_from_a_few_blocks(tmp_path, read_voxels):
    path = write_volume(tmp_path / "v.h5", shape=(10, 640, 640))
    with h5py.File(path, "r+") as file:
        file["mito"][:, ::32] = 2
    warn_of_labels(make_run(data_of(path)))
    assert read_voxels == {"raw": [], "mito": [10 * BLOCK**2] * 2 * ENOUGH_BLOCKS}


# Foreground -------------------------------------------------------------------------------------------------------


def finder_of(tmp_path, *, shape=(20, 40, 41), points=(), region=None, block=(8, 16, 16)):
    path = write_volume(tmp_path / "v.h5", shape=shape)
    with h5py.File(path, "r+") as file:
        file["mito"][...] = 0
        for point in points:
            file["mito"][point] = 7
    run = make_run(data_of(path, region=region))
    return ForegroundFinder(PairReader(run.data.train[0], run.data), block=block)


@pytest.mark.parametrize("point", [(0, 0, 0), (19, 39, 40), (7, 16, 31), (19, 0, 40), (16, 33, 20)])
def test_foreground_is_found_wherever_it_lies(tmp_path, point):
    assert finder_of(tmp_path, points=[point]).find(np.random.default_rng(0)) == point


def test_foreground_is_looked_for_inside_the_region_alone(tmp_path):
    finder = finder_of(tmp_path, points=[(1, 5, 5), (14, 20, 20), (19, 5, 5)], region={"z": [12, 18], "y": [10, 30]})
    assert {finder.find(np.random.default_rng(seed)) for seed in range(5)} == {(14, 20, 20)}


def test_all_labelled_voxels_are_chosen_and_none_else(tmp_path):
    points = [(2, 3, 4), (2, 3, 5), (10, 30, 30), (19, 39, 40)]
    finder = finder_of(tmp_path, points=points)
    assert {finder.find(np.random.default_rng(seed)) for seed in range(60)} == set(points)


def test_a_block_without_foreground_is_read_once_and_changes_no_choice(tmp_path, read_voxels):
    points = [(1, 1, 1), (18, 38, 38)]
    finder = finder_of(tmp_path, points=points)
    chosen = [finder.find(np.random.default_rng(seed)) for seed in range(30)]
    assert prod(finder.counts) == 8
    assert len(read_voxels["mito"]) <= 6 + 30  # the empty blocks once, and one that is not empty for each choice
    fresh = [
        ForegroundFinder(finder.reader, block=finder.block).find(np.random.default_rng(seed)) for seed in range(30)
    ]
    assert chosen == fresh


def test_without_foreground_the_search_ends_and_is_not_repeated(tmp_path, read_voxels):
    finder = finder_of(tmp_path)
    assert [finder.find(np.random.default_rng(seed)) for seed in range(5)] == [None] * 5
    assert len(read_voxels["mito"]) == 8 < FOREGROUND_TRIES


def test_what_is_remembered_is_limited(tmp_path, monkeypatch, read_voxels):
    monkeypatch.setattr(sampling, "REMEMBERED_BLOCKS", 3)
    finder = finder_of(tmp_path)
    assert finder.find(np.random.default_rng(0)) is None
    assert len(finder._empty) == 3


# What is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "accelerator", "said"), [(0, "cuda", True), (2, "cuda", False), (0, "cpu", False)])
def test_a_gpu_that_would_wait_for_patches_is_told_of(caplog, monkeypatch, workers, accelerator, said):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 5, 7}, raising=False)  # of more cores that there are
    warn_of_waiting(workers, accelerator=accelerator)
    advice = f"the GPU waits while patches are read in its own process: training.workers={min(3, usable_cores())} reads"
    assert (advice in caplog.text) == said


def test_a_stream_without_a_loader_is_that_of_the_loader(tmp_path):
    run = make_run(data_of(write_volume(tmp_path / "v.h5")), batch_size=3)
    patches = list(itertools.islice(TrainingPatches(run), 3))
    assert (torch.stack([patch.image for patch in patches]) == batches(run, 1)[0].image).all()
