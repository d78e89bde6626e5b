"""Small pictures for notebooks: SVG without a script, in the colour of the text around it, so that dark pages do."""

from __future__ import annotations

import html
from collections.abc import Sequence

from connectomics_zoo.errors import printable

_LINE, _LEFT, _BAR, _RIGHT = 18, 220, 200, 120
"""Pixels: height of a line, and widths of its name, its bar and its number."""

_LETTER = 6.6
"""Pixels of a letter, about."""

_STRENGTHS = (0.65, 0.4, 0.2, 0.08)
"""Of the colour, for the parts of a bar in turn."""


def bars(values: Sequence[tuple[str, float, str]]) -> str:
    """Return a bar for each name, value in 0..1 and what stands behind it; nothing where there is none."""
    if not values:
        return ""
    shapes = []
    for row, (name, value, text) in enumerate(values):
        y = row * _LINE
        length = _BAR * min(1.0, max(0.0, value))
        shapes += [
            _text(_LEFT - 8, y + 13, name, anchor="end", most=_LEFT),
            _box(_LEFT, y + 3, _BAR, _LINE - 6, 0.1),
            _box(_LEFT, y + 3, length, _LINE - 6, _STRENGTHS[0]),
            _text(_LEFT + _BAR + 8, y + 13, text, most=_RIGHT),
        ]
    return _svg(_LEFT + _BAR + _RIGHT, len(values) * _LINE, shapes)


def shares(parts: Sequence[tuple[str, int]]) -> str:
    """Return one bar that is divided by numbers, with their names; nothing where all are 0."""
    total = sum(count for _, count in parts)
    if total == 0:
        return ""
    width, shapes, x, place = _LEFT + _BAR, [], 0.0, 0.0
    for strength, (name, count) in zip(_STRENGTHS, parts, strict=False):
        if count == 0:
            continue
        length = width * count / total
        shapes.append(_box(x, 2, length, 12, strength))
        x += length
        label = f"{count} {name}"
        shapes += [_box(place, 22, 10, 10, strength), _text(place + 14, 31, label, most=width)]
        place += 14 + (len(label) + 2) * _LETTER
    return _svg(max(width, int(place)), 36, shapes)


def scales(levels: Sequence[tuple[tuple[int, ...], str]]) -> str:
    """Return a box for each scale of a network, which shrinks with its stride, and what it is called below."""
    largest, gap, width = 72.0, 16, 96
    shapes = []
    for number, (stride, name) in enumerate(levels):
        size = max(4.0, largest / max(stride))
        thin = max(4.0, largest / min(stride))
        middle = number * (width + gap) + width / 2
        shapes.append(_box(middle - size / 2, largest - thin, size, thin, _STRENGTHS[0 if number == 0 else 1]))
        lines = ("×".join(map(str, stride)), name)
        shapes += [
            _text(middle, largest + 16 + 14 * line, text, anchor="middle", most=width + gap)
            for line, text in enumerate(lines)
        ]
    return _svg(len(levels) * (width + gap), int(largest) + 38, shapes)


def _box(x: float, y: float, width: float, height: float, strength: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="currentColor" fill-opacity="{strength}"/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", most: float) -> str:
    letters = int(most / _LETTER)
    short = text if len(text) <= letters else f"{text[: letters - 1]}…"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" fill="currentColor">'
        f"{html.escape(printable(short))}</text>"
    )


def _svg(width: int, height: int, shapes: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" font-family="sans-serif">{"".join(shapes)}</svg>'
    )
