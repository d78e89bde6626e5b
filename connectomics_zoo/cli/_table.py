"""Tables of plain texts, without rich, which takes longer to import than a list takes to read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

NARROWEST = 8
"""Characters that a folded column keeps."""

Row = Sequence[str]


def table_lines(
    headers: Row, rows: Sequence[Row], *, right: Collection[str] = (), gap: int = 2, width: int | None = None
) -> tuple[list[str], list[str]]:
    """Return the lines of a table's header, and those below it: a rule, and the rows, whose cells may have several.

    Args:
        headers: the titles of the columns.
        rows: the cells, as many in each row as there are headers.
        right: the headers whose columns are aligned to the right.
        gap: blanks between two columns.
        width: characters that a line may have; the widest columns are folded where it is not enough.
    """
    widths = _widths((headers, *rows), gap=gap, width=width)
    aligned = [header in right for header in headers]
    rule = "─" * (sum(widths) + gap * (len(widths) - 1))
    head, *body = (_row_lines(row, widths=widths, aligned=aligned, gap=gap) for row in (headers, *rows))
    return head, [rule, *(line for lines in body for line in lines)]


def fact_lines(facts: Sequence[tuple[str, str]], *, gap: int = 2, width: int | None = None) -> list[str]:
    """Return the lines of a table of names and what there is to say, without a header."""
    widths = _widths(facts, gap=gap, width=width)
    return [line for row in facts for line in _row_lines(row, widths=widths, aligned=[False, False], gap=gap)]


def _widths(rows: Sequence[Row], *, gap: int, width: int | None) -> list[int]:
    """Return what each column needs; where that is more than `width`, the widest ones give way as far as they can."""
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in zip(*rows, strict=True)]
    while width is not None and sum(widths) + gap * (len(widths) - 1) > width and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _row_lines(row: Row, *, widths: Sequence[int], aligned: Sequence[bool], gap: int) -> list[str]:
    columns = [_fold(cell, width) for cell, width in zip(row, widths, strict=True)]
    height = max(len(lines) for lines in columns)
    filled = [lines + [""] * (height - len(lines)) for lines in columns]
    return [
        (" " * gap)
        .join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, aligned, strict=True)
        )
        .rstrip()
        for texts in zip(*filled, strict=True)
    ]


def _fold(cell: str, width: int) -> list[str]:
    lines = cell.split("\n")
    if all(len(line) <= width for line in lines):
        return lines
    import textwrap

    return [part for line in lines for part in textwrap.wrap(line, width) or [""]]
