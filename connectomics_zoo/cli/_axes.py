"""Numbers along the axes of a volume, as an option takes them: `16,128,128`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_WORDS = {1: "one", 2: "two", 3: "three"}


def axis_numbers(
    number: type[int] | type[float], *, counts: tuple[int, ...] = (3,), example: str
) -> Callable[[click.Context, click.Parameter, str | None], tuple[Any, ...] | None]:
    """Return the callback of an option that reads numbers (z, y, x), separated by commas; without a value, None.

    Args:
        number: whole numbers, or any.
        counts: how many there may be: three, two where (y, x) is meant as well, and one where it is that of all axes.
        example: shown where the value cannot be read.
    """

    def convert(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[Any, ...] | None:
        if value is None:
            return None
        try:
            numbers = tuple(number(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in counts:
            kind = "whole numbers" if number is int else "numbers"
            many = " or ".join(_WORDS[count] for count in counts)
            axes = " (z, y, x)" if 3 in counts else ""
            raise click.BadParameter(f"{value!r} is not {many} {kind}{axes}, write them like {example}.", ctx, param)
        return numbers

    return convert
