"""The first network of a run, which teaches it what to say where no truth is known."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from connectomics_zoo.errors import SpecError, WeightsError
from connectomics_zoo.runs.load_report import read_load_report
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.tasks.activations import activate
from connectomics_zoo.tasks.distillation import distillation_loss
from connectomics_zoo.train.initial import Start, first_network


class Teacher:
    """A network that is not trained, and is no part of what is; its memory is all that it changes.

    Args:
        network: the network as the run begins with it; it is used up.
        run: the run, with a task and `training.distillation`.
    """

    def __init__(self, network: nn.Module, run: RunSpec) -> None:
        assert run.training.distillation is not None
        self.network = network.eval().requires_grad_(False)
        self.task = run.task
        self.weight = run.training.distillation.weight
        """Factor of the loss."""

    def loss(self, image: Tensor, logits: Tensor, known: Tensor) -> Tensor:
        """Return how far `logits` are from what the teacher says of `image` where nothing is known, unweighted.

        Args:
            image: (B, C, Z, Y, X).
            logits: what the trained network says of it, at full resolution.
            known: the shape of `logits`, True where the truth is known.
        """
        with torch.no_grad():
            taught = activate(self.network(image), task=self.task)
        return distillation_loss(logits, taught, ~known, task=self.task)


def find_teacher(run: RunSpec, start: Start, *, folder: Path | None) -> Teacher | None:
    """Return the teacher of `run`, or None where it has none.

    Args:
        run: the complete run.
        start: what it begins with; of a run that goes on, without weights, which are loaded again.
        folder: the folder of a run that goes on.

    Raises:
        SpecError: the channels of the weights mean something else.
        WeightsError: the run goes on, and the weights that it started from are no longer the same.
    """
    if run.training.distillation is None:
        return None
    if folder is None:
        network = copy.deepcopy(start.network)
    else:
        start = first_network(run, resume=False)
        network = start.network
        before = read_load_report(folder).get("sha256")
        if before != start.sha256:
            raise WeightsError(
                f"{run.init_from}: are no longer the weights that {folder} started from (their sha256 was {before}), "
                "so that they cannot teach it (training.distillation): put these back."
            )
    if not start.means_the_same:
        raise SpecError(
            f"training.distillation needs weights of which it is known that their channels are those of the task "
            f"{run.task.name}, and {run.init_from} has others or does not say it: leave it out."
        )
    return Teacher(network, run)
