"""Networks beside other work: as many busy processes as cores, with torch's own way of waiting and with ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from connectomics_zoo.network.threads import WAITING, usable_cores
from performance.common import Settings, aim, seconds, table, this_machine, times

AIM = 2.5
"""Times the idle time that the default implementation may take beside as many busy processes as cores."""

_MEASURE = """
import json, sys
from connectomics_zoo.bench import bench
import zoo
size, rounds, busy = map(int, sys.argv[1:])
report = bench(
    [zoo.get_spec("mednext-S")], size=(size,), precisions=("float32",), modes=("inference",), rounds=rounds,
    device="cpu", memory="skip", busy=busy,
)
print(json.dumps(report.to_dict()))
"""


def measure(settings: Settings) -> dict[str, Any]:
    """mednext-S, each way of waiting in a fresh process."""
    size, busy = (16 if settings.quick else 48), usable_cores()
    free = {name: value for name, value in os.environ.items() if name not in (*WAITING, "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", _MEASURE, str(size), str(settings.rounds), str(busy)]
    found = {}
    for waiting, extra in (("torch's own", {}), ("zoo's", WAITING)):
        process = subprocess.run(command, env={**free, **extra}, check=True, stdout=subprocess.PIPE, text=True)
        found[waiting] = json.loads(process.stdout)["models"][0]["measurements"]
    return {"machine": this_machine(), "size": size, "busy": busy, "measurements": found}


def render(data: dict[str, Any]) -> str:
    """Write a row for each implementation and way of waiting."""
    rows = []
    for waiting, items in data["measurements"].items():
        for item in items:
            ratio = item["seconds_busy"] / item["seconds"]
            wanted = aim(AIM, sign="≤") if item["implementation"] == "default" and waiting == "zoo's" else ""
            medians = [seconds(item["seconds"]), seconds(item["seconds_busy"])]
            rows.append([item["implementation"], waiting, *medians, times(ratio), wanted])
    edge = data["size"]
    setting = " ".join(f"{name}={value}" for name, value in WAITING.items())
    return "\n\n".join(
        [
            f"mednext-S at {edge}×{edge}×{edge} in float32, idle and beside {data['busy']} processes that compute "
            "without a pause. By itself a thread of torch that waits for the others holds its core; the command line "
            "has it give the core away soon. The same in your own program, set before torch is imported: "
            f"`{setting}`.",
            table(["implementation", "waiting", "idle >", "busy >", "busy / idle >", "aim >"], rows),
        ]
    )
