"""`bench`: times, accuracy and peak memory of networks on this machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from connectomics_zoo.bench.busy import busy_processes
from connectomics_zoo.bench.machine import describe_machine
from connectomics_zoo.bench.memory import peak_memory
from connectomics_zoo.bench.report import BenchReport, Measurement, ModelBench, make_measurements
from connectomics_zoo.bench.timing import Timing, alternate, relative_error
from connectomics_zoo.bench.variants import (
    BASELINE,
    MODES,
    BenchPrecision,
    Implementation,
    Mode,
    Variant,
    check_precisions,
    gradients,
    infer,
    input_shape,
    loss_weights,
    make_input,
    make_network,
    supported_precisions,
    train_step,
    variants,
)
from connectomics_zoo.errors import LimitError
from connectomics_zoo.fastpath import plain_only
from connectomics_zoo.network.build import build_meta, count_flops, count_parameters
from connectomics_zoo.network.device import choose_device
from connectomics_zoo.network.hardware import is_out_of_memory
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.progress import Progress


def bench(
    specs: Sequence[ModelSpec],
    *,
    size: tuple[int, ...] = (64,),
    precisions: Sequence[BenchPrecision] = (),
    modes: Sequence[Mode] = MODES,
    rounds: int = 5,
    device: str = "auto",
    threads: int | None = None,
    memory: Literal["measure", "skip"] = "measure",
    busy: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> BenchReport:
    """Measure networks with random weights: plain and default implementation take turns in this process.

    Args:
        specs: the networks.
        size: of the input in voxels, one number for all axes or one for each; raised to the next legal size.
        precisions: what to measure beside plain float32; by default what the device computes in by itself.
        modes: what to measure.
        rounds: of each, after one to warm up.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        threads: of torch on the CPU; by default as many as it uses anyway.
        memory: also measure peak memory, each in a process of its own.
        busy: also measure times beside so many other processes that compute without a pause.
        progress: is told how many runs are done.

    Raises:
        UnknownNameError: torch knows no such device.
        MissingPackageError: the device, or its bfloat16, is not there.
        InputSizeError: `size` has not as many numbers as a network has axes.
        LimitError: there is not enough memory.
    """
    target = choose_device(device, engine="torch")
    chosen = variants(tuple(precisions) or supported_precisions(target))
    check_precisions(tuple(variant.precision for variant in chosen), target)
    shapes = [input_shape(spec, size) for spec in specs]
    runs = rounds * (2 if busy else 1) + 1 + (memory == "measure")
    counted = _Counter(progress, len(specs) * len(modes) * len(chosen) * runs)
    random_devices = [target] if target.type == "cuda" else []
    with _threads(threads), torch.random.fork_rng(devices=random_devices):
        machine = describe_machine(target)
        models = tuple(
            _bench_model(
                spec, shape, chosen, modes, device=target, rounds=rounds, memory=memory, busy=busy, counted=counted
            )
            for spec, shape in zip(specs, shapes, strict=True)
        )
    return BenchReport(machine=machine, models=models, busy=busy)


def step_memory(
    spec: ModelSpec, shape: tuple[int, ...], mode: Mode, *, precision: BenchPrecision = "float32", device: str = "auto"
) -> int | None:
    """Return the peak memory in bytes of one step of a network as it is used by default, in a process of its own.

    Args:
        spec: the network.
        shape: of the input, (B, C, Z, Y, X).
        mode: a forward pass, or a training step without the optimiser's.
        precision: its arithmetic.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.

    Returns:
        By how much a fresh process that has network and input grows; None where that cannot be measured.
    """
    target = choose_device(device, engine="torch")
    variant = Variant("default", precision)
    return peak_memory(spec, shape, variant, mode, device=target, threads=torch.get_num_threads())


def this_machine(device: str = "auto") -> str:
    """Return in a line what numbers that are measured now are worth nothing without."""
    return describe_machine(choose_device(device, engine="torch")).describe()


def _bench_model(
    spec: ModelSpec,
    shape: tuple[int, ...],
    chosen: tuple[Variant, ...],
    modes: Sequence[Mode],
    *,
    device: torch.device,
    rounds: int,
    memory: Literal["measure", "skip"],
    busy: int,
    counted: _Counter,
) -> ModelBench:
    x = make_input(shape, device=device)
    full, single = (build_meta(spec, deep_supervision=supervised) for supervised in (len(spec.outputs) > 1, False))
    with plain_only():
        flops = count_flops(single, shape)
    measurements: list[Measurement] = []
    for mode in modes:
        counted.begin(f"{spec.name}, {mode}")
        networks: dict[Implementation, nn.Module] = {
            "plain": make_network(spec, "plain", mode, device=device),
            "default": make_network(spec, "default", mode, device=device),
        }
        steps = _steps(spec, networks, x, chosen, mode)
        errors = _warm_up(steps, networks, label=f"{spec.name}, {mode} at {shape}", after_each=counted.tick)
        timings = alternate(steps, rounds=rounds, after_each=counted.tick)
        beside: dict[Variant, Timing] = {}
        if busy:
            counted.begin(f"{spec.name}, {mode} beside {busy} busy process{'es' if busy > 1 else ''}")
            with busy_processes(busy):
                beside = alternate(steps, rounds=rounds, after_each=counted.tick)
        peaks: dict[Variant, int | None] = {}
        if memory == "measure":
            counted.begin(f"{spec.name}, {mode}: peak memory")
            for variant in chosen:
                threads = torch.get_num_threads()
                peaks[variant] = peak_memory(spec, shape, variant, mode, device=device, threads=threads)
                counted.tick()
        measurements += make_measurements(
            mode, timings, busy=beside, errors=errors, memory=peaks, voxels=math.prod(shape[2:]), flops=flops
        )
    return ModelBench(
        model=spec.name,
        parameters_training=count_parameters(full),
        parameters_inference=count_parameters(single),
        input_shape=shape,
        flops=flops,
        measurements=tuple(measurements),
    )


def _steps(
    spec: ModelSpec, networks: dict[Implementation, nn.Module], x: Tensor, chosen: tuple[Variant, ...], mode: Mode
) -> dict[Variant, Callable[[], Tensor | None]]:
    """One step of each variant, which returns the output in inference and leaves gradients in training."""
    weights = loss_weights(spec)

    def make(variant: Variant) -> Callable[[], Tensor | None]:
        network = networks[variant.implementation]
        if mode == "inference":
            return lambda: infer(network, x, variant)
        return lambda: train_step(network, x, variant, weights=weights)

    return {variant: make(variant) for variant in chosen}


def _warm_up(
    steps: dict[Variant, Callable[[], Tensor | None]],
    networks: dict[Implementation, nn.Module],
    *,
    label: str,
    after_each: Callable[[], None],
) -> dict[Variant, float]:
    """Run each step once and return its error against the baseline, which is the first."""
    reference: list[Tensor] = []
    errors = {}
    for variant, step in steps.items():
        torch.manual_seed(0)  # the same units are dropped where a network has dropout
        try:
            output = step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise LimitError(f"the device has not enough memory for {label}, give a smaller size.") from None
        found = gradients(networks[variant.implementation]) if output is None else [output]
        if variant == BASELINE:
            reference = found
        errors[variant] = relative_error(found, reference)
        after_each()
    return errors


class _Counter:
    """Tells of progress, run by run."""

    def __init__(self, progress: Callable[[Progress], None] | None, total: int) -> None:
        self.progress = progress
        self.total = total
        self.done = 0

    def begin(self, label: str) -> None:
        """Say what comes next."""
        self.label = label
        self._report()

    def tick(self) -> None:
        """Count a run."""
        self.done += 1
        self._report()

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(Progress(self.done, self.total, unit="runs", label=self.label))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Within it torch computes with `count` threads, or with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
