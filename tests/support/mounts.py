"""File systems that are not those of the machine which runs the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectomics_zoo.files import local


def mount(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str | None) -> None:
    """Let the system say that `folder` is on a file system of this kind; None: let it say nothing."""
    path = folder / "mountinfo"
    if kind is not None:
        escaped = str(folder.resolve()).replace(" ", r"\040")
        path.write_text(
            "20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
            f"21 20 0:50 /export {escaped} rw,relatime shared:2 master:3 - {kind} server:/export rw\n"
        )
    monkeypatch.setattr(local, "_MOUNTS", path)
