"""What bfloat16 does to predictions: every score of the shipped weights, and the time of a window, in both types."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from connectomics_zoo.bench.timing import alternate
from connectomics_zoo.bench.variants import make_input
from connectomics_zoo.decode import decode
from connectomics_zoo.evaluate import evaluate
from connectomics_zoo.network.device import Precision
from connectomics_zoo.predict import predict
from connectomics_zoo.predict.network import make_forward
from connectomics_zoo.predict.views import plan_views
from connectomics_zoo.runs.folder import WEIGHTS_FILE, write_run
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.train.validation import validation_voxel_scores
from connectomics_zoo.verify.validation_scores import OBJECT_SCORES, place_volumes
from connectomics_zoo.weights.pretrained import Pretrained, find_run
from performance.common import Settings, seconds, shape, table, this_machine, threads, times
from zoo import list_models

PRECISIONS: tuple[Precision, Precision] = ("float32", "bfloat16")
VOXEL_SCORES = ("dice", "iou", "precision", "recall")
LIMIT = 0.001
"""By how much a score may differ before bfloat16 counts as another result."""

CPU = torch.device("cpu")


def measure(settings: Settings) -> dict[str, Any]:
    """Predict, decode and score the validation data of all weights that ship, once in each type."""
    assert settings.data is not None
    folders = [settings.data, *sorted(path for path in settings.data.iterdir() if path.is_dir())]
    names = _shipped()[: 1 if settings.quick else None]
    with threads(settings.threads):
        weights = {name: _measure(name, folders, rounds=settings.rounds) for name in names}
        return {"machine": this_machine(), "weights": weights}


def _shipped() -> list[str]:
    return [
        f"{model}.{tag}"
        for model in list_models()
        for tag, entry in get_spec(model).weights.items()
        if entry.source == "package"
    ]


def _measure(name: str, folders: list[Path], *, rounds: int) -> dict[str, Any]:
    found, trained = find_run(name)
    run = place_volumes(found, folders)
    if run is None:
        raise SystemExit(f"bench: the volumes that {name} is scored on are not in {folders[0]}.")
    forwards = {precision: _forward(trained, run, precision) for precision in PRECISIONS}
    for forward in forwards.values():
        forward()
    timings = alternate(forwards, rounds=rounds)
    return {
        "window": run.window,
        "seconds": {precision: timings[precision].median for precision in PRECISIONS},
        "scores": {precision: _scores(trained, run, precision) for precision in PRECISIONS},
    }


def _forward(trained: Pretrained, run: RunSpec, precision: Precision) -> Callable[[], object]:
    """Return what predicts one window."""
    forward = make_forward(
        trained,
        run,
        window=run.window,
        views=plan_views("one", task=run.task, axes=run.model.input.axes),
        merge="mean",
        engine="torch",
        device=CPU,
        precision=precision,
    )
    x = make_input((1, run.model.input.channels, *run.window), device=CPU)
    return lambda: forward(x)


def _scores(trained: Pretrained, run: RunSpec, precision: Precision) -> dict[str, float]:
    """Return the scores of network voxels (`val/…`), and those of what predict, decode and evaluate make."""
    (pair,) = run.data.validation
    assert run.data.folder is not None
    image, truth = run.data.folder / pair.image, run.data.folder / pair.label
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(run, folder)
        shutil.copyfile(trained.path, folder / WEIGHTS_FILE)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            scores = validation_voxel_scores(folder, run)
        scored = folder / "prediction.h5"
        predict(trained.name, image, scored, region=pair.region, device="cpu", precision=precision)
        if not run.task.decode.is_instances:
            found = evaluate(scored, truth, region=pair.region).scores
            return scores | {name: found[name] for name in VOXEL_SCORES}
        objects = folder / "objects.h5"
        decode(scored, objects)
        found = evaluate(objects, truth, kind="instances", region=pair.region).scores
        return scores | {name: found[name] for name in OBJECT_SCORES}


def render(data: dict[str, Any]) -> str:
    """Write a row for each score, and one for each network's window."""
    rows, speeds, moved = [], [], 0
    for name, found in data["weights"].items():
        exact, low = (found["scores"][precision] for precision in PRECISIONS)
        for score, value in exact.items():
            change = low[score] - value
            is_beyond = abs(change) > LIMIT
            moved += is_beyond
            shown = f"**{change:+.5f}**" if is_beyond else f"{change:+.5f}"
            rows.append([name, score, f"{value:.5f}", f"{low[score]:.5f}", shown])
        slow, fast = (found["seconds"][precision] for precision in PRECISIONS)
        speeds.append([name, shape(found["window"]), seconds(slow), seconds(fast), times(slow / fast)])
    load, cores = data["machine"]["load"], data["machine"]["cores"]
    beside = f", beside other work (a load of {load:.1f} on {cores} cores)" if load and load > cores else ""
    return "\n\n".join(
        [
            "The scores of the shipped weights on their validation data: those that begin with `val/` of network "
            "voxels, as training measures them, the others of what `zoo predict` (in uint8), `zoo decode` and `zoo "
            f"evaluate` make. {moved} of {len(rows)} change by more than {LIMIT:g}, in bold; while any does, "
            "`--precision auto` is float32 on the CPU.",
            table(["weights", "score", "float32 >", "bfloat16 >", "change >"], rows),
            f"One window through the network, medians of rounds in which both types take turns{beside}:",
            table(["weights", "window", "float32 >", "bfloat16 >", "speed-up >"], speeds),
        ]
    )
