"""Memory and time of predicting and decoding, at several sizes of the volume."""

from __future__ import annotations

import math
import shutil
import sys
from typing import Any

from connectomics_zoo.volumes import uri
from scaling.common import Section, Settings, megabytes, table
from scaling.material import EDGE, MULTIPLES
from scaling.processes import measure
from scaling.small import BLOCK, CACHE_BYTES, WINDOW

WAYS = {"in one process": (), "2 workers": ("--workers", "2")}


def measure_sizes(settings: Settings) -> dict[str, Any]:
    """Run both verbs both ways at all sizes."""
    rows = []
    for verb in ("predict", "decode"):
        for way, options in WAYS.items():
            for multiple in settings.multiples:
                print(f"scale: {verb} {way}, {multiple} times the volume …", file=sys.stderr)
                rows.append({"verb": verb, "way": way, "multiple": multiple, **run(settings, verb, multiple, options)})
    caches = {"cache_bytes": CACHE_BYTES, "usual_cache_bytes": uri._CACHE_BYTES}
    return {"edge": EDGE, "block": BLOCK, "window": WINDOW, **caches, "rows": rows}


def run(settings: Settings, verb: str, multiple: int, options: tuple[str, ...]) -> dict[str, Any]:
    """Predict or decode one volume."""
    folder = settings.scratch / f"{verb}-{multiple}"
    folder.mkdir()
    if verb == "predict":
        arguments = settings.material.predict(multiple, folder / "out.zarr", *options)
    else:
        block = ",".join([str(BLOCK)] * 3)
        arguments = settings.material.decode(multiple, folder / "out.zarr", "--block", block, *options)
    found = measure(arguments)
    shutil.rmtree(folder)
    return {"seconds": found.seconds, "main_bytes": found.main_bytes, "worker_bytes": found.worker_bytes}


def render(data: dict[str, Any]) -> str:
    """Return the table."""
    rows = []
    for row in data["rows"]:
        shape = [count * data["edge"] for count in MULTIPLES[row["multiple"]]]
        blocks = math.prod(-(-edge // data["block"]) for edge in shape)
        size = f"{row['multiple']}x: {shape[0]}³ in {blocks} blocks"
        peaks = [megabytes(row["main_bytes"]), megabytes(row["worker_bytes"])]
        rows.append([f"`zoo {row['verb']}`", row["way"], size, f"{row['seconds']:.0f} s", *peaks])
    headers = ["", "where", "voxels", "time >", "peak memory of the process >", "of the largest worker >"]
    return (
        f"From the start of the command to its end, in blocks of {data['block']}³ voxels. The network is a U-Net of "
        f"4 channels in windows of {data['window']}³; objects are components of a foreground. The memory is all that "
        "is resident (VmHWM), most of it the libraries' own. Chunks that were read are kept up to "
        f"{data['cache_bytes'] / 2**20:.0f} MiB here (by default "
        f"{data['usual_cache_bytes'] / 2**20:.0f} MiB, more than the smaller volumes have).\n\n" + table(headers, rows)
    )


SECTION = Section("Memory and time by the size of the volume", measure_sizes, render)
