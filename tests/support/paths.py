"""Places that tests look at: the repository, and the folder beside it that some machines have."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

SHARED = REPOSITORY.parent / "shared"
"""Real volumes and reference outputs, which are not part of the repository; tests that need them skip without."""
