"""Colours that everybody can tell apart: the palette of Okabe and Ito (2008)."""

from __future__ import annotations

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

BLUE, VERMILLION, YELLOW = (86, 180, 233), (213, 94, 0), (240, 228, 66)

_GREEN, _PURPLE, _ORANGE, _DARK_BLUE = (0, 158, 115), (204, 121, 167), (230, 159, 0), (0, 114, 178)

CLASS_COLOURS: tuple[Colour, ...] = (BLUE, YELLOW, _GREEN, _PURPLE, _ORANGE, _DARK_BLUE, (255, 255, 255))
"""Of the classes in turn; vermillion is for what is wrong."""


def colour_of(index: int) -> Colour:
    """Return the colour of a class by its place among the classes that are shown."""
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]
