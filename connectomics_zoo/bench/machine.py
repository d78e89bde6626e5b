"""The machine that something was measured on: its processor, memory and versions, and nothing that names its owner."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from connectomics_zoo.network.threads import usable_cores

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "sve", "bf16")
"""Instruction sets that decide how fast networks are on a CPU, as Linux calls them."""

_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """What numbers are worth nothing without."""

    processor: str
    """Model of the CPU."""
    cores: int
    """Logical cores that this process may use."""
    instructions: tuple[str, ...]
    """Those of `INSTRUCTIONS` that the CPU has; empty where the system does not say."""
    memory_gib: float | None
    """Main memory, in GiB."""
    accelerator: str | None
    """Model of the GPU that was measured, None for the CPU."""
    system: str
    """Kind of operating system."""
    threads: int
    """Threads that torch computed with."""
    load: float | None
    """Processes that wanted to run in the minute before the measurement, on average."""
    versions: dict[str, str]
    """Versions of python and of packages."""
    date: str
    """Day of the measurement, YYYY-MM-DD."""

    def describe(self) -> str:
        """Return all of it in one line."""
        flags = f" ({', '.join(self.instructions)})" if self.instructions else ""
        memory = f", {self.memory_gib:.0f} GiB" if self.memory_gib is not None else ""
        accelerator = f", {self.accelerator}" if self.accelerator is not None else ""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        cores = f"{self.cores} core{'s' if self.cores > 1 else ''}"
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"{self.processor}{flags}, {cores}{memory}{accelerator}, {self.system}, {threads}; {versions}; {self.date}"
        )


def describe_machine(device: torch.device, *, packages: tuple[str, ...] = ()) -> Machine:
    """Return this machine as it is now.

    Args:
        device: where networks run.
        packages: whose versions matter beside those of python, torch, MONAI and this package.
    """
    info = _cpu_info()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return Machine(
        processor=info.get("model name") or _processor(),
        cores=usable_cores(),
        instructions=tuple(name for name in INSTRUCTIONS if name in flags),
        memory_gib=_memory_gib(),
        accelerator=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        system=platform.system(),
        threads=torch.get_num_threads(),
        load=load_average(),
        versions=_versions(("torch", "monai", "connectomics-zoo", *packages)),
        date=date.today().isoformat(),
    )


def load_average() -> float | None:
    """Return how many processes wanted to run in the last minute, None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has none
        return None


def _cpu_info() -> dict[str, str]:
    """What Linux says of the first core."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", maxsplit=1)[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _processor() -> str:
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if said:
            return said
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
