"""Which places are on a file system of this machine alone."""

from __future__ import annotations

from pathlib import Path

_LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"})
"""File systems that no other machine writes to at the same time, as it may on NFS or Lustre."""

_MOUNTS = Path("/proc/self/mountinfo")


def is_local(path: Path) -> bool:
    """Return whether `path` lies on a file system of this machine alone, as far as the system says (Linux does)."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    kinds = {}
    for line in lines:
        mount, _, kind = line.partition(" - ")
        kinds[mount.split()[4].replace(r"\040", " ")] = kind.split()[0]
    resolved = path.resolve()
    places = (str(place) for place in (resolved, *resolved.parents))
    return next((kinds[place] for place in places if place in kinds), None) in _LOCAL
