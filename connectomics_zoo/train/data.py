"""The loaders of training and validation, and how their worker processes are started."""

from __future__ import annotations

import multiprocessing
import signal

from torch.utils.data import DataLoader

from connectomics_zoo.network.threads import keep_blas_to_one_thread
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.train.patches import Patch, TrainingPatches, ValidationPatches
from connectomics_zoo.volumes.location import survives_fork


def training_loader(run: RunSpec, *, skip: int = 0, pin_memory: bool = False) -> DataLoader[Patch]:
    """Return the endless batches that `run` is trained on, read ahead by its `training.workers` processes.

    Args:
        run: the complete run.
        skip: batches that a resumed run has behind it.
        pin_memory: where batches are copied to a GPU, which is faster from pinned memory.
    """
    workers = run.training.workers
    patches = TrainingPatches(run, skip=skip)
    if workers:
        patches.look_for_annotation()
    return DataLoader(
        patches,
        batch_size=run.training.batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        multiprocessing_context=_start_method(run) if workers else None,
        worker_init_fn=_begin_worker,
    )


def validation_loader(run: RunSpec, *, pin_memory: bool = False) -> DataLoader[Patch] | None:
    """Return the patches that `run` is validated on, each a batch of its own, or None if it is not validated."""
    if not run.data.validation:
        return None
    patches = ValidationPatches(run)
    workers = min(run.training.workers, len(patches))
    return DataLoader(
        patches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        multiprocessing_context=_start_method(run) if workers else None,
        worker_init_fn=_begin_worker,
    )


def _start_method(run: RunSpec) -> str | None:
    """Return how workers are started, None for as usual: some volumes cannot be read in forks of this process."""
    places = {place for pair in (*run.data.train, *run.data.validation) for place in pair.places}
    is_usual = multiprocessing.get_start_method() != "fork"
    if is_usual or all(survives_fork(place, root=run.data.folder) for place in places):
        return None
    multiprocessing.set_forkserver_preload([__name__])  # once, and not in each worker
    return "forkserver"


def _begin_worker(worker: int) -> None:
    """Let a worker have one thread, as torch does, and live on when its whole process group is signalled.

    The step in work needs its patches.
    """
    keep_blas_to_one_thread()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
