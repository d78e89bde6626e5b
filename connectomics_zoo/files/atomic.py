"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connectomics_zoo.errors import OutputError, reason


class PartialOutput:
    """A temporary sibling of an output, renamed to it when complete.

    Raises:
        OutputError: the target exists and must not be overwritten, or its folder cannot be written.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.partial-{os.getpid()}")
        self._overwrite = overwrite
        self._refuse_existing()
        if not target.parent.is_dir():
            raise OutputError(f"{target}: there is no folder {target.parent}, create it first.")
        if not os.access(target.parent, os.W_OK):
            raise OutputError(f"{target}: the folder {target.parent} cannot be written, choose another one.")
        self.discard()

    def _refuse_existing(self) -> None:
        if os.path.lexists(self.target) and not self._overwrite:
            raise OutputError(
                f"{self.target}: exists already, choose another name or overwrite it (--overwrite, overwrite=True)."
            )

    def commit(self) -> None:
        """Move the finished output to its place.

        Raises:
            OutputError: something else took the place meanwhile; the output is kept beside it.
        """
        if os.path.lexists(self.target) and not self._overwrite:
            kept = self._keep()
            raise OutputError(
                f"{self.target}: appeared while it was being written and stays as it is, the finished one is {kept}: "
                "rename or delete one of them."
            )
        old = self.target.with_name(f".{self.target.name}.old-{os.getpid()}")
        # A folder cannot replace another one, so the old one steps aside, and comes back if that fails.
        moved = self.path.is_dir() and self.target.exists()
        if moved:
            self.target.rename(old)
        try:
            self.path.replace(self.target)
        except OSError:
            if moved:
                old.rename(self.target)
            raise
        if moved:
            shutil.rmtree(old)

    def _keep(self) -> Path:
        """Move the finished output to a free name beside its place, and return that."""
        names = (self.target.with_stem(f"{self.target.stem}.finished-{number}") for number in itertools.count(1))
        kept = next(path for path in names if not os.path.lexists(path))
        self.path.rename(kept)
        return kept

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Commit at the end of the block, and leave nothing unfinished behind if it fails.

        Raises:
            OutputError: the file system does not take it, or something else took the place meanwhile.
        """
        try:
            yield
            self.commit()
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{self.target}: cannot be written ({reason(error)}), choose another place.") from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)
