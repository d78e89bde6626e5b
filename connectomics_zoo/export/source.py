"""From a reference to the network that is exported, with what is known of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from connectomics_zoo.errors import SpecError
from connectomics_zoo.export.exported import Activation
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.specs.identity import is_same_network
from connectomics_zoo.specs.lookup import get_spec, get_task
from connectomics_zoo.specs.reference import Reference, parse_reference
from connectomics_zoo.tasks.activations import activate
from connectomics_zoo.weights.load import load, load_file
from connectomics_zoo.weights.pretrained import Pretrained, digested, embedded_run, find_pretrained

_SEED = 0
"""Of initial weights, so that a network without trained ones is exported the same each time."""


class Source(NamedTuple):
    """A network with its weights."""

    network: nn.Module
    """In evaluation mode on the CPU, without heads of deep supervision; it returns logits."""
    spec: ModelSpec
    """Its spec."""
    trained: Pretrained | None
    """Its weights, with their digest; None for initial ones."""
    run: RunSpec | None
    """How they were trained, where they say so."""
    task: TaskSpec | None
    """The task that they solve, where it is known."""


def find_source(ref: str | Path) -> Source:
    """Return the network of a reference: with its weights, or initial ones where it means a spec alone.

    Raises:
        ZooError: see `find_pretrained`, `load`.
    """
    reference = parse_reference(ref)
    if not _brings_weights(reference):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            network = load(reference, deep_supervision=False)  # type: ignore[arg-type]
        return Source(network, get_spec(reference), None, None, None)
    with digested(find_pretrained(reference)) as trained:
        network = load_file(trained.spec, trained.path, deep_supervision=False, same_shapes=True, name=trained.source)
        run = embedded_run(trained)
    if run is not None and not is_same_network(run.model, trained.spec):
        run = None  # zoo verify says what is wrong with it
    task = run.task if run is not None else None if trained.entry is None else get_task(trained.entry.task)
    return Source(network, trained.spec, trained, run, task)


def _brings_weights(reference: Reference) -> bool:
    is_folder = reference.path is not None and reference.path.is_dir()
    return reference.tag is not None or reference.hub is not None or is_folder


def activated(source: Source, activation: Activation, *, name: str) -> nn.Module:
    """Return the network as it is exported: with the task's activations where that is asked for.

    Raises:
        SpecError: there is no task, or it has other channels than the network.
    """
    if activation == "none":
        return source.network
    if source.task is None:
        raise SpecError(
            f"{name}: nothing says which task its channels solve, so that there is no activation: give a reference "
            "with trained weights, such as name.tag or a run folder, or export the logits (activation none)."
        )
    channels = source.spec.outputs[0].channels
    if len(source.task.channels) != channels:
        raise SpecError(
            f"{name}: the task {source.task.name} has {len(source.task.channels)} channel(s) and the network "
            f"{channels}, export the logits (activation none)."
        )
    return Activated(source.network, source.task).eval()


class Activated(nn.Module):
    """A network with the activations of a task behind it."""

    def __init__(self, network: nn.Module, task: TaskSpec) -> None:
        super().__init__()
        self.network = network
        self.task = task

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> the values (B, K, Z, Y, X) of the task's channels."""
        logits = self.network(image)
        # One operator behind the logits, where all channels have the same, which other programs know for what it is.
        kinds = {channel.activation for channel in self.task.channels}
        if kinds == {"sigmoid"}:
            return torch.sigmoid(logits.float())
        if kinds == {"softmax"}:
            return torch.softmax(logits.float(), dim=1)
        return activate(logits, task=self.task)
