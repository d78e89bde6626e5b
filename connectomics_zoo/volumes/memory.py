"""How much memory is free."""

from __future__ import annotations

from pathlib import Path


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the memory that a new program can have, None where the system does not say it there."""
    if not meminfo.is_file():
        return None
    lines = dict(line.partition(":")[::2] for line in meminfo.read_text(encoding="utf-8").splitlines())
    value = lines.get("MemAvailable", "").split()
    return int(value[0]) * 1024 if value and value[0].isdigit() else None
