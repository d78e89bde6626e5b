"""How many bytes a training step, or a forward pass, takes: counted on the meta device, in well under a second."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from connectomics_zoo.fit.counting import FusedAttention, GpuAutocast, LiveBytes, run_backward
from connectomics_zoo.network.build import build_meta
from connectomics_zoo.schema.builder import kept_on_cpu
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.training import TrainingPrecision
from connectomics_zoo.tasks.losses import supervised_losses

Where = Literal["cuda", "cpu"]
"""On a GPU networks are torch's own; on a CPU, MedNeXt keeps less for the backward pass than anywhere else."""

PROGRAM_BYTES: dict[Where, int] = {"cuda": 600 * 10**6, "cpu": 250 * 10**6}
"""What computing takes before the first voxel, code and libraries' own memory. On the CPU: what a process with torch
grows by in a step of the smallest network. On a GPU: the context and the libraries of CUDA 12, as commonly seen."""

_HALF: dict[TrainingPrecision, torch.dtype | None] = {
    "32-true": None,
    "16-mixed": torch.float16,
    "bf16-mixed": torch.bfloat16,
}


@dataclass(frozen=True)
class StepBytes:
    """What a step takes, in bytes."""

    weights: int
    """Parameters and buffers; in training also gradients, AdamW's two averages, and that of `ema_decay`."""
    kept: int
    """What the forward pass leaves for the backward pass, with the batch; in prediction, batch and output."""
    working: int
    """What comes and goes beside that at the worst moment, and the workspaces of convolutions."""
    program: int
    """Code and libraries (`PROGRAM_BYTES`)."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kept + self.working + self.program


def training_bytes(
    spec: ModelSpec,
    size: tuple[int, ...],
    *,
    batch: int,
    precision: TrainingPrecision,
    where: Where,
    task: TaskSpec | None = None,
    average: bool = False,
    frozen: Collection[str] = (),
) -> StepBytes:
    """Return what a training step takes with AdamW.

    Args:
        spec: the network, with the channels of the task.
        size: of the patch, in voxels (z, y, x); a legal one.
        batch: patches of a batch.
        precision: arithmetic, in Lightning's words.
        where: on what it is computed.
        task: gives the loss; without one, binary cross-entropy and Dice on every channel and scale.
        average: a running average of the weights is kept.
        frozen: names of the parameters that are not trained.
    """
    plain = kept_on_cpu(spec.builder, spec.arch) if where == "cpu" else None
    network = build_meta(
        spec if plain is None else spec.model_copy(update={"arch": plain}), deep_supervision=True
    ).train()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    trained = sum(_bytes(parameter) for parameter in network.parameters() if parameter.requires_grad)
    held = _held(network)
    live = LiveBytes()
    live.ignore([*network.parameters(), *network.buffers()])
    half = _HALF[precision]
    # The mode stays on in the backward pass, in which checkpointing runs blocks again.
    with live, FusedAttention(), GpuAutocast(half) if half is not None else nullcontext():
        given = _Batch.empty(spec, size, batch=batch)
        outputs = network(given.image)
        loss = _loss(outputs, given, spec=spec, task=task)
        del outputs
        kept, before = live.now, live.peak
        if plain is None:
            live.restart_peak()
            run_backward(loss)
            # The gradients are counted with the weights already; until here those of the step before were there.
            working = max(before, live.peak - trained) - kept
        else:
            working = 2 * live.largest  # the gradients of a block's output and of its input
    return StepBytes(
        weights=held + 3 * trained + (trained if average else 0),
        kept=kept,
        # The optimiser's step, when nothing is kept any more, works with a copy of an average.
        working=max(0, working, trained - kept),
        program=PROGRAM_BYTES[where],
    )


def prediction_bytes(
    spec: ModelSpec, size: tuple[int, ...], *, batch: int, precision: TrainingPrecision, where: Where
) -> StepBytes:
    """Return what predicting a batch of windows takes, without the block of the volume that it belongs to.

    Args:
        spec: the network.
        size: of the window, in voxels (z, y, x); a legal one.
        batch: windows of a batch.
        precision: arithmetic, in Lightning's words.
        where: on what it is computed.
    """
    network = build_meta(spec, deep_supervision=False).eval()
    live = LiveBytes()
    live.ignore([*network.parameters(), *network.buffers()])
    half = _HALF[precision]
    with live, torch.no_grad():
        image = torch.empty(batch, spec.input.channels, *size, device="meta")
        with FusedAttention(), GpuAutocast(half) if half is not None else nullcontext():
            output = network(image)
        kept, working = live.now, live.peak - live.now
        del output
    return StepBytes(weights=_held(network), kept=kept, working=working, program=PROGRAM_BYTES[where])


def _held(network: nn.Module) -> int:
    return sum(map(_bytes, network.parameters())) + sum(map(_bytes, network.buffers()))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@dataclass(frozen=True)
class _Batch:
    """What a training step is given, on the meta device."""

    image: Tensor
    """(B, C, Z, Y, X)."""
    targets: Tensor
    """(B, K, Z, Y, X), as `known`."""
    known: Tensor

    @classmethod
    def empty(cls, spec: ModelSpec, size: tuple[int, ...], *, batch: int) -> _Batch:
        image = torch.empty(batch, spec.input.channels, *size, device="meta")
        targets = torch.empty(batch, spec.outputs[0].channels, *spec.input.given(size), device="meta")
        return cls(image, targets, torch.empty_like(targets, dtype=torch.bool))


def _loss(outputs: Tensor | dict[str, Tensor], batch: _Batch, *, spec: ModelSpec, task: TaskSpec | None) -> Tensor:
    if task is not None:
        return supervised_losses(outputs, batch.targets, batch.known, model=spec, task=task)["loss"]
    losses = []
    for logits in [outputs] if isinstance(outputs, Tensor) else outputs.values():
        targets = F.interpolate(batch.targets, size=logits.shape[2:])
        values = logits.float().sigmoid()
        overlap, both = (values * targets).sum(), (values + targets).sum()
        losses.append(F.binary_cross_entropy_with_logits(logits.float(), targets) + 1 - 2 * overlap / both)
    return torch.stack(losses).sum()
