"""Our networks against their own plain implementation: MedNeXt in inference and training, and the other families."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from connectomics_zoo.bench import BenchReport, Measurement, ModelBench, bench
from connectomics_zoo.bench.memory import peak_memory
from connectomics_zoo.bench.variants import Mode, Variant, input_shape, variants
from performance.common import Settings, aim, megabytes, seconds, shape, table, threads, times
from zoo import get_spec, list_models

AIMS = {
    ("inference", "float32", (64, 64, 64)): 2.7,
    ("inference", "float32", (96, 96, 96)): 3.5,
    ("inference", "bfloat16", (64, 64, 64)): 4.5,
    ("inference", "bfloat16", (96, 96, 96)): 5.5,
    ("training", "float32", (64, 64, 64)): 2.3,
    ("training", "bfloat16", (64, 64, 64)): 2.7,
}
"""Speed-up over plain float32 that MedNeXt-S should reach, by mode, precision and input."""

MEMORY_AIM = 0.35
"""Peak memory over that of plain float32 that MedNeXt-S should stay below."""

PRECISIONS = ("float32", "bfloat16")
COSTLY_GFLOPS = 60
"""Networks of other families that take more than this at 64x64x64 are measured at 32x32x32."""


def measure_inference(settings: Settings) -> dict[str, Any]:
    """MedNeXt of all sizes, and the peak memory of a large window."""
    cases = [("mednext-S", 64), ("mednext-S", 96), *((f"mednext-{name}", 64) for name in ("B", "M", "L", "S-k5"))]
    report = _bench([("mednext-S", 32)] if settings.quick else cases, "inference", settings)
    spec = get_spec("mednext-S")
    window = input_shape(spec, (32,) if settings.quick else (128,))
    with threads(settings.threads) as count:
        peaks = [
            {
                "implementation": variant.implementation,
                "precision": variant.precision,
                "bytes": peak_memory(spec, window, variant, "inference", device=torch.device("cpu"), threads=count),
            }
            for variant in variants(PRECISIONS)
        ]
    return {**report, "memory": {"input_shape": window, "peaks": peaks}}


def measure_training(settings: Settings) -> dict[str, Any]:
    """A training step of MedNeXt-S."""
    sizes = [32] if settings.quick else [64, 96] if settings.large else [64]
    return _bench([("mednext-S", size) for size in sizes], "training", settings, memory=True)


def measure_families(settings: Settings) -> dict[str, Any]:
    """Every other network of the catalogue, once."""
    others = "catalog == 'zoo' and family != 'mednext'"
    costly = set(list_models(where=f"{others} and gflops > {COSTLY_GFLOPS}"))
    names = list_models(where=others)
    cases = [(name, 32 if settings.quick or name in costly else 64) for name in names]
    if settings.quick:
        cases = cases[:2]
    inference = _bench(cases, "inference", settings)
    training = _bench(cases, "training", settings, precisions=("float32",))
    return {**inference, "training": training["models"]}


def _bench(
    cases: Sequence[tuple[str, int]],
    mode: Mode,
    settings: Settings,
    *,
    precisions: Sequence[Any] = PRECISIONS,
    memory: bool = False,
) -> dict[str, Any]:
    """Measure models at sizes, each in a fresh process, as one report.

    In a process that has used much memory before, malloc has pages at hand that the plain networks otherwise pay for.
    """
    jobs = [
        {
            "size": (size,),
            "precisions": precisions,
            "modes": [mode],
            "rounds": settings.rounds,
            "device": "cpu",
            "threads": settings.threads,
            "memory": "measure" if memory else "skip",
        }
        for _, size in cases
    ]
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
        reports = list(pool.map(_bench_one, [name for name, _ in cases], jobs))
    models = tuple(model for report in reports for model in report.models)
    return BenchReport(machine=reports[0].machine, models=models).to_dict()


def _bench_one(name: str, options: dict[str, Any]) -> BenchReport:
    return bench([get_spec(name)], **options)


def render_inference(data: dict[str, Any]) -> str:
    """Write speeds, and the memory of a large window."""
    memory = data["memory"]
    base = next(item["bytes"] for item in memory["peaks"] if item["implementation"] == "plain")
    rows = []
    for item in memory["peaks"]:
        ratio = item["bytes"] / base if base and item["bytes"] else None
        wanted = aim(MEMORY_AIM, sign="≤") if item["implementation"] == "default" else ""
        rows.append([item["implementation"], item["precision"], megabytes(item["bytes"]), times(ratio), wanted])
    return "\n\n".join(
        [
            _speeds(BenchReport.from_dict(_report_of(data))),
            f"Peak memory of mednext-S at {shape(memory['input_shape'][2:])}:",
            table(["implementation", "precision", "peak >", "of plain float32 >", "aim >"], rows),
        ]
    )


def render_training(data: dict[str, Any]) -> str:
    """Write speeds and memory of a training step."""
    report = BenchReport.from_dict(_report_of(data))
    rows = []
    for model in report.models:
        base = model.measurements[0].peak_memory_bytes
        for item in model.measurements:
            peak = item.peak_memory_bytes
            ratio = peak / base if base and peak else None
            wanted = aim(MEMORY_AIM, sign="≤") if item.implementation == "default" else ""
            rows.append(
                [*_name(model), item.implementation, item.precision, megabytes(peak), times(ratio), wanted],
            )
    headers = ["model", "input", "implementation", "precision", "peak >", "of plain float32 >", "aim >"]
    return "\n\n".join([_speeds(report), "Peak memory of the step:", table(headers, rows)])


def render_families(data: dict[str, Any]) -> str:
    """Write what the default implementation gives, in inference and training."""
    report = BenchReport.from_dict(_report_of(data))
    training = BenchReport.from_dict({"machine": data["machine"], "models": data["training"]})
    trained = {model.model: model for model in training.models}
    rows = []
    for model in report.models:
        plain, default, plain_bf16, bf16 = (_find(model, variant) for variant in variants(PRECISIONS))
        step = trained[model.model]
        rows.append(
            [
                *_name(model),
                seconds(plain.seconds),
                times(default.speed_up),
                f"{default.relative_error:.0e}",
                times(plain_bf16.speed_up),
                times(bf16.speed_up),
                f"{bf16.relative_error:.0e}",
                seconds(step.measurements[0].seconds),
                times(_find(step, Variant("default", "float32")).speed_up),
            ]
        )
    headers = [
        "model",
        "input",
        "plain >",
        "default >",
        "error >",
        "plain bf16 >",
        "default bf16 >",
        "error >",
        "plain training >",
        "default training >",
    ]
    return table(headers, rows)


def _report_of(data: dict[str, Any]) -> dict[str, Any]:
    return {"machine": data["machine"], "models": data["models"]}


def _speeds(report: BenchReport) -> str:
    """A row for each network, input and precision: default against plain float32."""
    rows = []
    for model in report.models:
        base = model.measurements[0]
        for precision in PRECISIONS:
            plain, default = (_find(model, Variant(kind, precision)) for kind in ("plain", "default"))
            size = tuple(model.input_shape[2:])
            wanted = AIMS.get((base.mode, precision, size)) if model.model == "mednext-S" else None
            rows.append(
                [
                    *_name(model),
                    precision,
                    _range(plain),
                    times(plain.speed_up),
                    _range(default),
                    f"**{times(default.speed_up)}**",
                    aim(wanted),
                    f"{default.voxels_per_second / 1e3:.0f}",
                    f"{default.gflops_per_second:.0f}",
                    f"{plain.relative_error:.1e}",
                    f"{default.relative_error:.1e}",
                ]
            )
    headers = [
        "model",
        "input",
        "precision",
        "plain >",
        "speed-up >",
        "default >",
        "speed-up >",
        "aim >",
        "kvoxel/s >",
        "GFLOP/s >",
        "error of plain >",
        "error of default >",
    ]
    return table(headers, rows)


def _find(model: ModelBench, variant: Variant) -> Measurement:
    return next(item for item in model.measurements if item.variant == variant)


def _name(model: ModelBench) -> list[str]:
    return [model.model, shape(model.input_shape[2:])]


def _range(item: Measurement) -> str:
    return f"{seconds(item.seconds)} ({seconds(item.seconds_shortest)} to {seconds(item.seconds_longest)})"
