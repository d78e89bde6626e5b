"""The network that a run begins with: fresh, or with the weights that it starts from."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from connectomics_zoo.network.build import build
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.tasks.meaning import channels_meaning
from connectomics_zoo.volumes.voxel_size import is_near_trained, lengths
from connectomics_zoo.weights.pretrained import embedded_run, find_start
from connectomics_zoo.weights.storage import largest_start, read_weights
from connectomics_zoo.weights.transfer import LoadReport, build_with_weights, find_roles

_log = logging.getLogger(__name__)


class Start(NamedTuple):
    """What a run begins with."""

    network: nn.Module
    """The network, in training mode."""
    report: LoadReport | None = None
    """What became of the weights that it starts from; None where it starts from none, or goes on."""
    sha256: str | None = None
    """The digest of their file."""
    means_the_same: bool = False
    """Whether they say what their channels mean, and it is what the run's mean."""


def first_network(run: RunSpec, *, resume: bool) -> Start:
    """Return the network of `run` in training mode, and what became of the weights that it starts from, if any.

    A resumed run has its weights in its checkpoint.

    Raises:
        ZooError: there are no such weights, or they do not fit.
    """
    deep_supervision = len(run.model.outputs) > 1
    if run.init_from is None or resume:
        return Start(build(run.model, deep_supervision=deep_supervision))
    found = find_start(run.init_from, run.model)
    weights = read_weights(found.path, max_bytes=largest_start(run.model))
    sha256 = found.sha256()
    network, report = build_with_weights(
        run.model, weights, deep_supervision=deep_supervision, source=run.init_from, resample_kernels=True
    )
    trained = embedded_run(found)
    same = trained is not None and channels_meaning(trained.task) == channels_meaning(run.task)
    # Of another number of channels, they have begun anew already.
    if trained is not None and len(trained.task.channels) == len(run.task.channels) and not same:
        report = _begin_heads_anew(network, report, run)
    _warn_of_voxels(trained, run)
    return Start(network.train(), report, sha256=sha256, means_the_same=same)


def has_heads(reinitialised: Collection[str], run: RunSpec) -> bool:
    """Whether the head at full resolution came with the weights, so that the network can be used before a step.

    Args:
        reinitialised: the keys of the network that keep their fresh initialisation.
        run: the complete run.
    """
    return not reinitialised or set(reinitialised) <= find_roles(run.model).scales


def _begin_heads_anew(network: nn.Module, report: LoadReport, run: RunSpec) -> LoadReport:
    """Give the output channels, which mean something else now, a fresh initialisation, and return the report on it."""
    heads = find_roles(run.model).head
    fresh = build(run.model, deep_supervision=len(run.model.outputs) > 1).state_dict()
    state = network.state_dict()
    with torch.no_grad():
        for key in heads & state.keys():
            state[key].copy_(fresh[key])
    return replace(
        report,
        exact=tuple(key for key in report.exact if key not in heads),
        adapted=tuple(item for item in report.adapted if item[0] not in heads),
        reinitialised=tuple(key for key in state if key in heads or key in report.reinitialised),
    )


def _warn_of_voxels(trained: RunSpec | None, run: RunSpec) -> None:
    """Log that the network has seen larger or smaller voxels: what it knows is the size of things in voxels."""
    before = None if trained is None else trained.data.network_voxel_nm
    now = run.data.network_voxel_nm
    if before is None or now is None:
        return
    if not is_near_trained(now, before):
        _log.warning(
            "%s was trained on network voxels of %s nm (z, y, x) and goes on with %s nm: "
            "data.network_voxel_size_nm=[%s] resamples the volumes to those of before",
            run.init_from,
            lengths(before),
            lengths(now),
            ",".join(f"{edge:g}" for edge in before),
        )
