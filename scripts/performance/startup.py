"""What waits before any work: loading weights, starting the command line, and verifying the zoo."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from connectomics_zoo.bench.timing import alternate
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.network.build import build
from connectomics_zoo.runs.folder import SPEC_FILE, WEIGHTS_FILE
from connectomics_zoo.weights.storage import write_weights
from performance.children import PICKLE
from performance.common import Settings, aim, megabytes, seconds, table, this_machine, times
from zoo import get_spec

LOAD_AIM, LOAD_MEMORY_AIM = 6, 0.5
COMMAND_AIM = 0.18
"""Time of `zoo list` and `zoo show` over that of importing torch."""
IMPORT_AIM_SECONDS = 0.030
VERIFY_AIMS_SECONDS = {"build": 10, "forward": 180}

_CHILD = Path(__file__).with_name("children.py")
_IMPORT_ZOO = "import time; begin = time.perf_counter(); import zoo; print(time.perf_counter() - begin)"


def measure_loading(settings: Settings) -> dict[str, Any]:
    """Load the largest MedNeXt in fresh processes, ours and build + torch.load + load_state_dict in turn."""
    model = "mednext-S" if settings.quick else "mednext-L-k5"
    answers: dict[str, list[dict[str, float]]] = {"plain": [], "zoo": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_run(model, folder)
        for turn in range(settings.rounds + 1):
            for how, found in answers.items():
                answer = json.loads(_output([sys.executable, str(_CHILD), how, name]))
                if turn > 0:  # the first one warms the cache of the file system
                    found.append(answer)
        size = (folder / WEIGHTS_FILE).stat().st_size
    medians = {
        how: {key: statistics.median(answer[key] for answer in found) for key in found[0]}
        for how, found in answers.items()
    }
    return {"machine": this_machine("safetensors"), "model": model, "file_bytes": size, "medians": medians}


def _write_run(model: str, folder: Path) -> None:
    spec = get_spec(model)
    network = build(spec, deep_supervision=True)
    (folder / SPEC_FILE).write_text(dump_yaml(spec.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    write_weights(network, folder / WEIGHTS_FILE)
    torch.save(network.state_dict(), folder / PICKLE)


def render_loading(data: dict[str, Any]) -> str:
    """Write times and memory of both ways."""
    plain, ours = data["medians"]["plain"], data["medians"]["zoo"]
    rows = []
    for label, key in (("load", "seconds"), ("load, then read every weight", "touched_seconds")):
        wanted = aim(LOAD_AIM) if key == "seconds" else ""
        rows.append([label, seconds(plain[key]), seconds(ours[key]), times(plain[key] / ours[key]), wanted])
    cold = [found["import_seconds"] + found["seconds"] for found in (plain, ours)]
    rows.append(["import this package, then load", *map(seconds, cold), times(cold[0] / cold[1]), ""])
    for label, key in (("peak memory", "peak_bytes"), ("peak memory with every weight read", "touched_peak_bytes")):
        wanted = aim(LOAD_MEMORY_AIM, sign="≤") if key == "peak_bytes" else ""
        rows.append([label, megabytes(plain[key]), megabytes(ours[key]), times(ours[key] / plain[key]), wanted])
    headers = ["", "build + torch.load + load_state_dict >", "zoo.load >", "ratio >", "aim >"]
    return "\n\n".join(
        [
            f"{data['model']}, {megabytes(data['file_bytes'])} of weights in a local file, each in a fresh process "
            "that has imported torch:",
            table(headers, rows),
        ]
    )


def measure_startup(settings: Settings) -> dict[str, Any]:
    """Whole cold processes, in turn; the files are in the system's cache."""
    commands = {
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        "zoo list": [*zoo_command(), "list"],
        "zoo show mednext-S": [*zoo_command(), "show", "mednext-S"],
        "python -c 'import zoo'": [sys.executable, "-c", "import zoo"],
        "python -c 'pass'": [sys.executable, "-c", "pass"],
    }
    runs = {name: lambda command=command: _output(command) for name, command in commands.items()}
    for run in runs.values():
        run()
    timings = alternate(runs, rounds=settings.rounds)
    inside = [float(_output([sys.executable, "-c", _IMPORT_ZOO])) for _ in range(settings.rounds)]
    return {
        "machine": this_machine(),
        "seconds": {name: timing.median for name, timing in timings.items()},
        "import_zoo_seconds": statistics.median(inside),
    }


def render_startup(data: dict[str, Any]) -> str:
    """Write a row for each process."""
    torch_seconds = data["seconds"]["python -c 'import torch'"]
    rows = [
        [
            f"`{name}`",
            seconds(value),
            times(value / torch_seconds, digits=3),
            aim(COMMAND_AIM, sign="≤") if name.startswith("zoo") else "",
        ]
        for name, value in data["seconds"].items()
    ]
    rows.append(
        ["`import zoo`, inside Python", seconds(data["import_zoo_seconds"]), "", f"≤ {seconds(IMPORT_AIM_SECONDS)}"]
    )
    return table(["", "median >", "of importing torch >", "aim >"], rows)


def measure_verify(settings: Settings) -> dict[str, Any]:
    """`zoo verify` of the whole zoo, once at each level."""
    found = {}
    for level in ("schema", "build") if settings.quick else ("schema", "build", "forward"):
        begin = time.perf_counter()
        report = json.loads(_output([*zoo_command(), "verify", "--level", level, "--json"]))
        found[level] = {"seconds": time.perf_counter() - begin, "models": len(report["models"])}
    return {"machine": this_machine(), "levels": found}


def render_verify(data: dict[str, Any]) -> str:
    """Write a row for each level."""
    rows = [
        [
            f"`zoo verify --level {level}`",
            str(found["models"]),
            f"{found['seconds']:.1f} s",
            f"≤ {VERIFY_AIMS_SECONDS[level]} s" if level in VERIFY_AIMS_SECONDS else "",
        ]
        for level, found in data["levels"].items()
    ]
    return table(["", "models >", "whole process >", "aim >"], rows)


def zoo_command() -> list[str]:
    """Return the start of a `zoo` command line: the script beside this Python, or the function that it calls."""
    script = shutil.which("zoo", path=str(Path(sys.executable).parent))
    if script is not None:
        return [script]
    return [sys.executable, "-c", "from connectomics_zoo.cli.main import main; main()"]


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
