"""What a spec can state at most, for all who read one; without pydantic."""

from __future__ import annotations

MAX_EDGE = 65536
"""The largest number of voxels along an axis; a size rule that steps over it has one size."""

MAX_WEIGHTS_BYTES = 64 * 2**30
"""The largest weights file."""
