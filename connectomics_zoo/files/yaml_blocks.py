"""Blocks of a YAML file, replaced without touching anything else in it."""

from __future__ import annotations

from connectomics_zoo.errors import SpecError


def replace_block(text: str, key: str, block: str) -> str:
    """Return the YAML `text` with the block of the top-level `key` replaced; everything else stays, byte for byte.

    Args:
        text: the file; the comments above the block and after it stay, those within it do not.
        key: the key, which must start a line.
        block: the new block, with its key and the newline at its end.

    Raises:
        SpecError: no line, or more than one, starts with the key.
    """
    lines = text.splitlines(keepends=True)
    first, end = find_block(text, key)
    return "".join([*lines[:first], block, *lines[end:]])


def find_block(text: str, key: str) -> tuple[int, int]:
    """Return the lines [first, last + 1) of the block of the top-level `key` in the YAML `text`.

    Raises:
        SpecError: no line, or more than one, starts with the key.
    """
    lines = text.splitlines(keepends=True)
    starts = [index for index, line in enumerate(lines) if line.startswith(f"{key}:")]
    if len(starts) != 1:
        raise SpecError(f"{key!r} starts {len(starts)} lines and must start one, write it as a key of its own.")
    end = starts[0] + 1
    while end < len(lines) and (lines[end][0] in " \t" or not lines[end].strip()):
        end += 1
    while not lines[end - 1].strip():  # blank lines belong to what follows
        end -= 1
    return starts[0], end
