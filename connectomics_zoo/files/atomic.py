"""Files and folders that appear whole or not at all: written beside their place, renamed when they are complete.

What is being written is called `.NAME.partial-PID-RANDOM`, and a folder that is being replaced `.NAME.old-PID-RANDOM`,
between two renames. What a killed process has left is cleared, or put back, by the next one that writes there.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from connectomics_zoo.errors import OutputError, reason
from connectomics_zoo.files.local import is_local

_log = logging.getLogger(__name__)

_writers: set[str] = set()
"""Each `PID-RANDOM` with which this process writes now; its threads may write the same target."""


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, in place of what was there.

    Raises:
        OutputError: it cannot be written.
    """
    with whole_file(path, overwrite=True) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield where to write a file that appears at `path` at the end of the block; if that fails, nothing is left.

    Raises:
        OutputError: it cannot be written, or something is there and must not be overwritten.
    """
    output = PartialOutput(path, overwrite=overwrite)
    with output.writing():
        yield output.path


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which appears at `path` at the end of the block; if that fails, nothing is left.

    Raises:
        OutputError: it cannot be written, or something is there.
    """
    output = PartialOutput(path, overwrite=False)
    with output.writing():
        output.path.mkdir(parents=True)
        yield output.path


def move_into_place(folder: Path, target: Path, *, overwrite: bool) -> None:
    """Let a finished folder appear at `target`, on the same disk; where that fails, it stays as it is.

    Raises:
        OutputError: the file system does not take it, or something else took the place meanwhile and the finished
            folder is kept beside it.
    """
    output = PartialOutput(target, overwrite=overwrite, path=folder)
    try:
        with output_errors(target):
            output.commit()
    finally:
        output.discard()


def remove_folder(folder: Path) -> None:
    """Remove a folder, which is gone from its place at once, whatever others make in it meanwhile.

    Raises:
        OutputError: it cannot be removed.
    """
    _clear_leftovers(folder)
    aside = folder.with_name(f".{folder.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    with output_errors(folder), suppress(FileNotFoundError):
        folder.rename(aside)
    _remove(aside)


def refuse_existing(path: Path) -> None:
    """Refuse a place where something is, be it a broken link.

    Raises:
        OutputError: something is there.
    """
    if os.path.lexists(path):
        raise OutputError(f"{path} exists and is not overwritten, choose another name or place.")


def check_place(path: Path, *, overwrite: bool) -> None:
    """Refuse a place where an output could not appear, before work goes into it.

    Raises:
        OutputError: something is there and must not be overwritten, or the folder is missing or cannot be written.
    """
    _put_back(path)
    _refuse_device(path)
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path}: exists already, choose another name or overwrite it (--overwrite, overwrite=True).")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}, create it first.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder {path.parent} cannot be written, choose another one.")


def _refuse_device(path: Path) -> None:
    """Refuse what is neither a file nor a folder: `/dev/stdout` renamed over would be lost to everybody.

    Raises:
        OutputError: it is a device, a pipe or a socket, or a link among the devices.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # nothing, or a link that leads nowhere
    is_link_of_system = path.is_symlink() and path.absolute().parent == Path("/dev")
    if is_link_of_system or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OutputError(f"{path}: is a device, pipe or socket and no file, give the name of a file.")


@contextmanager
def output_errors(path: Path | str) -> Iterator[None]:
    """Say in one sentence that `path` cannot be written, where the block fails for that.

    Raises:
        OutputError: the block raises OSError.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({reason(error)}), give a writable place.") from error


class PartialOutput:
    """A temporary sibling of an output, `path`, renamed to it when complete; for outputs that outlive a block.

    Raises:
        OutputError: the target exists and must not be overwritten.
    """

    def __init__(self, target: Path, *, overwrite: bool, path: Path | None = None) -> None:
        self._writer = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.target = target
        self._aside = target.with_name(f".{target.name}.partial-{self._writer}")
        self.path = self._aside if path is None else path
        self._overwrite = overwrite
        _refuse_device(target)
        _put_back(target)
        if not overwrite:
            refuse_existing(target)
        _clear_leftovers(target)
        _writers.add(self._writer)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Put the output in its place at the end of the block, and leave nothing unfinished behind if it fails.

        Raises:
            OutputError: the file system does not take it, or something else took the place meanwhile and the finished
                output is kept beside it.
        """
        try:
            with output_errors(self.target):
                yield
                self.commit()
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written, unless it was made elsewhere, and what was replaced."""
        _remove(self._aside)
        _writers.discard(self._writer)

    def commit(self) -> None:
        """Put the output in its place."""
        if not self.path.is_dir():
            _flush(self.path)
        if not self._overwrite:
            self._take_free_place()
        elif self.path.is_dir():
            self._replace_folder()
        else:
            self.path.replace(self.target)

    def _take_free_place(self) -> None:
        try:
            _rename_to_free(self.path, self.target)
        except OSError as error:
            if not os.path.lexists(self.target):
                raise
            kept = self._keep()
            raise OutputError(
                f"{self.target}: appeared while it was being written and stays as it is, the finished one is {kept}: "
                "rename or delete one of them."
            ) from error

    def _keep(self) -> Path:
        """Move the finished output to a free name beside its place, and return that."""
        names = (self.target.with_stem(f"{self.target.stem}.finished-{number}") for number in itertools.count(1))
        kept = next(path for path in names if not os.path.lexists(path))
        self.path.rename(kept)
        return kept

    def _replace_folder(self) -> None:
        """Put the folder in the place of the old one, which steps aside, and comes back if that fails.

        Where another process puts its own there in between, that one is replaced in turn.
        """
        old = self.target.with_name(f".{self.target.name}.old-{self._writer}")
        while True:
            _remove(old)
            try:
                with suppress(FileNotFoundError):
                    self.target.rename(old)
                try:
                    self.path.rename(self.target)
                    break
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
            except BaseException:
                if os.path.lexists(old) and not os.path.lexists(self.target):
                    old.rename(self.target)
                raise
        # Under this name nobody takes it for an output that has lost its place, once only half of it is left; and not
        # under that of the new one, which whoever goes on after a kill would put in the place once more.
        with suppress(OSError):
            old.rename(self._aside)


def _flush(path: Path) -> None:
    """Wait until the disk has a file, which after a power cut could otherwise be empty under its final name."""
    with path.open("r+b") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())


def _rename_to_free(path: Path, target: Path) -> None:
    """Move `path` to `target`, unless something is there.

    Raises:
        OSError: something is, or it cannot be moved.
    """
    try:
        os.link(path, target)  # refuses even what has come a moment ago, which renaming would replace
    except OSError:  # something is there, or it is a folder, or the file system has no links
        if os.path.lexists(target):
            raise
        path.rename(target)


def _put_back(target: Path) -> None:
    """Give a folder its name back that a process was killed while replacing, or say where it is."""
    if os.path.lexists(target):
        return
    for old, pid, writer in _siblings(target, "old"):
        if _may_write(pid, writer):
            _log.warning("%s is now %s: process %d is replacing it, or was killed: rename it then.", target, old, pid)
            continue
        try:
            old.rename(target)
        except OSError as error:
            _log.warning("%s was left as %s by a killed process (%s): rename it.", target, old, reason(error))
            continue
        _log.warning("%s was left as %s by a killed process that was replacing it, and is back.", target, old)
        return


def _clear_leftovers(target: Path) -> None:
    """Remove what killed processes have left of earlier outputs; what another machine may be writing stays."""
    if not is_local(target.parent):
        return
    for path, pid, writer in [*_siblings(target, "partial"), *_siblings(target, "old")]:
        if not _may_write(pid, writer):
            _remove(path)


def _siblings(target: Path, kind: Literal["partial", "old"]) -> list[tuple[Path, int, str]]:
    """Return every `.NAME.{kind}-PID[-RANDOM]` beside `target`, with the number of its process and its writer.

    Earlier versions wrote them without the random part.
    """
    pattern = re.compile(rf"{re.escape(f'.{target.name}.{kind}-')}(([1-9][0-9]{{0,8}})(?:-[0-9a-f]{{8}})?)")
    with suppress(OSError):  # there is no such folder, or it cannot be listed
        matches = [(path, pattern.fullmatch(path.name)) for path in target.parent.iterdir()]
        return sorted((path, int(match[2]), match[1]) for path, match in matches if match)
    return []


def _may_write(pid: int, writer: str) -> bool:
    """Whether the writer, of the process with that number, may still be at work."""
    if pid == os.getpid():
        # An earlier process can have had the number of this one, as the first of every container has.
        return writer in _writers
    return _is_running(pid)


def _is_running(pid: int) -> bool:
    """Whether a process of this machine has that number, which may be another one than the one that is meant."""
    if os.name == "nt":  # where asking would send a signal
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _remove(path: Path) -> None:
    """Remove a file, link or folder, as far as that is possible; the next one that writes there removes the rest."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
