"""What a benchmark found: plain data, with its units in the names or beside them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from connectomics_zoo.bench.machine import Machine
from connectomics_zoo.bench.timing import Timing
from connectomics_zoo.bench.variants import BASELINE, BenchPrecision, Implementation, Mode, Variant

TRAINING_FLOPS = 3
"""Operations of a training step per operation of a forward pass: the backward pass has two for each of them."""


@dataclass(frozen=True)
class Measurement:
    """One way to run one network."""

    mode: Mode
    """What was timed: a forward pass, or a training step without the optimiser's."""
    implementation: Implementation
    """The network's plain implementation, or the one that is used by default."""
    precision: BenchPrecision
    """Arithmetic; `bfloat16` is autocast."""
    seconds: float
    """Median of the rounds."""
    seconds_shortest: float
    """Shortest round."""
    seconds_longest: float
    """Longest round."""
    rounds: int
    """Timed rounds, after one to warm up."""
    voxels_per_second: float
    """Input voxels."""
    gflops_per_second: float
    """10⁹ operations of the plain network a second (a multiply-add is two); a training step counts as three forward
    passes."""
    speed_up: float
    """Median of plain float32 in the same run over this median."""
    relative_error: float
    """Relative L2 distance to plain float32, with the same random weights: of the output in inference, of all
    parameters' gradients together in training."""
    peak_memory_bytes: int | None
    """Growth of a fresh process that has network and input, over the step; None where it was not measured."""
    seconds_busy: float | None = None
    """Median of as many rounds beside `BenchReport.busy` other processes; None where it was not measured."""

    @property
    def variant(self) -> Variant:
        """Implementation and precision."""
        return Variant(self.implementation, self.precision)


@dataclass(frozen=True)
class ModelBench:
    """The measurements of one network."""

    model: str
    """Name of the model."""
    parameters_training: int
    """Parameters with the heads at all scales."""
    parameters_inference: int
    """Parameters with the head at full resolution alone."""
    input_shape: tuple[int, ...]
    """(B, C, Z, Y, X)."""
    flops: int
    """Operations of a forward pass of the plain network at this input."""
    measurements: tuple[Measurement, ...]
    """In the order in which they took turns, inference first."""


@dataclass(frozen=True)
class BenchReport:
    """A whole run of the benchmark."""

    machine: Machine
    """Where, when, and with which versions."""
    models: tuple[ModelBench, ...]
    """In the order of the request."""
    busy: int = 0
    """Processes that computed without a pause beside `Measurement.seconds_busy`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BenchReport:
        """Return the report that `to_dict` gave, also after a detour through JSON."""
        machine = {**data["machine"], "instructions": tuple(data["machine"]["instructions"])}
        models = [
            {
                **model,
                "input_shape": tuple(model["input_shape"]),
                "measurements": tuple(Measurement(**item) for item in model["measurements"]),
            }
            for model in data["models"]
        ]
        return cls(Machine(**machine), tuple(ModelBench(**model) for model in models), busy=data.get("busy", 0))


def make_measurements(
    mode: Mode,
    timings: dict[Variant, Timing],
    *,
    busy: dict[Variant, Timing] | None = None,
    errors: dict[Variant, float],
    memory: dict[Variant, int | None],
    voxels: int,
    flops: int,
) -> tuple[Measurement, ...]:
    """Return the measurements of one network in one mode.

    Args:
        mode: what was timed.
        timings: of every variant, `BASELINE` among them.
        busy: of every variant beside other work, where that was measured.
        errors: relative errors of every variant.
        memory: peaks in bytes, of those variants that have one.
        voxels: of the input.
        flops: of a forward pass.
    """
    work = flops * (TRAINING_FLOPS if mode == "training" else 1)
    return tuple(
        Measurement(
            mode=mode,
            implementation=variant.implementation,
            precision=variant.precision,
            seconds=timing.median,
            seconds_shortest=timing.shortest,
            seconds_longest=timing.longest,
            rounds=len(timing.rounds),
            voxels_per_second=voxels / timing.median,
            gflops_per_second=work / timing.median / 1e9,
            speed_up=timings[BASELINE].median / timing.median,
            relative_error=errors[variant],
            peak_memory_bytes=memory.get(variant),
            seconds_busy=None if not busy else busy[variant].median,
        )
        for variant, timing in timings.items()
    )
