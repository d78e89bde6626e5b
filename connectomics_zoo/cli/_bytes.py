"""Memory as an option takes it: `24GB`, `23.5GiB`."""

from __future__ import annotations

import re

import click

_UNITS = {"": 1, "B": 1, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_bytes(context: click.Context | None, parameter: click.Parameter | None, text: str | None) -> int | None:
    """Return the bytes of `24GB` or `23.5GiB`, as the callback of an option."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = None if found is None else _UNITS.get(found[2].upper())
    if found is None or unit is None or float(found[1]) * unit < 1:
        raise click.BadParameter(f"{text!r} is no memory, write it like 24GB or 24GiB.", context, parameter)
    return int(float(found[1]) * unit)
