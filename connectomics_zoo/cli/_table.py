"""Tables of plain texts: columns in line, nothing cut, words whole wherever a terminal has room for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from connectomics_zoo.cli._console import print_styled, print_text, styled, terminal_width
from connectomics_zoo.errors import printable

NARROWEST = 8
"""Characters of a column below which even words are not broken to make it narrower."""

LONGEST_WORD = 32
"""Characters of a word that stays whole if it can; a path or a digest that is longer may be broken."""

ROOM_FOR_WORDS = 20
"""Characters that a column of sentences keeps; where there is less room, other columns are left out."""

Row = Sequence[str]


def print_table(
    headers: Row,
    rows: Sequence[Row],
    *,
    right: Collection[str] = (),
    bold: Collection[int] = (),
    gap: int = 2,
    hide_first: Sequence[str] = (),
) -> None:
    """Print a table; a narrow terminal wraps its cells, and goes without the columns of `hide_first`.

    Args:
        headers: the titles of the columns.
        rows: the cells, as many in each row as there are headers.
        right: the headers whose columns are aligned to the right.
        bold: the numbers of the rows in bold letters.
        gap: blanks between two columns.
        hide_first: the headers of columns that are left out where there is no room for them, in this order.
    """
    width = terminal_width()
    headers, *rows = map(_printable, (headers, *rows))
    hidden = hidden_columns(headers, rows, gap=gap, width=width, hide_first=hide_first)
    shown = [index for index, header in enumerate(headers) if header not in hidden]
    head, rule, *body = table_lines(
        [headers[index] for index in shown],
        [[row[index] for index in shown] for row in rows],
        right=right,
        gap=gap,
        width=width,
    )
    lines = [styled(line, bold=True) for line in head] + rule
    for index, row in enumerate(body):
        lines += [styled(line, bold=index in bold) for line in row]
    print_styled(lines)
    if hidden:
        print_text(f"This terminal is too narrow for: {', '.join(hidden)}.", dim=True)


def print_facts(facts: Mapping[str, str], *, most: int | None = None) -> None:
    """Print a table of names and what there is to say, wrapped as `print_table` does; each in at most `most` lines."""
    start = max(map(len, facts))
    shown = [(name, printable(text, keep="\n")) for name, text in facts.items()]
    lines = fact_lines(shown, width=terminal_width(), most=most)
    print_styled(styled(line[:start], bold=True) + line[start:] for line in lines)


def table_lines(
    headers: Row, rows: Sequence[Row], *, right: Collection[str] = (), gap: int = 2, width: int | None = None
) -> list[list[str]]:
    """Return the lines of a table: those of its header, of the rule below it, and of each row.

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
    return [head, [rule], *body]


def fact_lines(
    facts: Sequence[tuple[str, str]], *, gap: int = 2, width: int | None = None, most: int | None = None
) -> list[str]:
    """Return the lines of a table of names and what there is to say, without a header.

    Args:
        facts: the names with their texts.
        gap: blanks between the two.
        width: characters that a line may have.
        most: lines that a text may take; one that takes more ends in … there.
    """
    widths = _widths(facts, gap=gap, width=width)
    lines = []
    for row in facts:
        own = _row_lines(row, widths=widths, aligned=[False, False], gap=gap)
        lines += own[:most]
        if most is not None and len(own) > most:
            start = widths[0] + gap
            lines[-1] = lines[-1][:start] + _cut(lines[-1][start:], widths[1])
    return lines


def _cut(text: str, width: int) -> str:
    """End a line in …, behind a word if it has several."""
    if len(text) + 2 > width:
        words = text[: width - 1].rpartition(" ")[0]
        text = words or text[: width - 2]
    return f"{text} …"


def hidden_columns(
    headers: Row, rows: Sequence[Row], *, gap: int, width: int | None, hide_first: Sequence[str]
) -> Sequence[str]:
    """Return the headers, of the first of `hide_first`, without which the others have room enough."""
    columns = dict(zip(headers, zip(headers, *rows, strict=True), strict=True))
    for count in range(len(hide_first) + 1):
        needed = [_readable(column) for header, column in columns.items() if header not in hide_first[:count]]
        if width is None or sum(needed) + gap * (len(needed) - 1) <= width:
            return hide_first[:count]
    return hide_first


def fits(headers: Row, rows: Sequence[Row], *, gap: int = 2) -> bool:
    """Whether a table needs no folding: stdout is wide enough, or no terminal."""
    width = terminal_width()
    needed = _widths((headers, *rows), gap=gap, width=None)
    return width is None or sum(needed) + gap * (len(needed) - 1) <= width


def _printable(row: Row) -> Row:
    return [printable(cell, keep="\n") for cell in row]


def _readable(column: Row) -> int:
    """The width in which a column reads well: its words whole, and more than one word of a sentence in a line."""
    return max(_longest_word(column), min(_longest_line(column), ROOM_FOR_WORDS))


def _longest_line(column: Row) -> int:
    return max(len(line) for cell in column for line in cell.split("\n"))


def _longest_word(column: Row) -> int:
    words = [word for cell in column for word in cell.split()]
    parts = [part for word in words for part in ([word] if len(word) <= LONGEST_WORD else _parts(word))]
    return max((len(part) for part in parts if len(part) <= LONGEST_WORD), default=0)


def _parts(word: str) -> list[str]:
    """What a path, a dotted name or the like consists of, each with the mark behind it."""
    return re.findall(r".+?(?:[./,:;_@=-]+|$)", word)


def _widths(rows: Sequence[Row], *, gap: int, width: int | None) -> list[int]:
    """Return what each column needs; where that is too much, the widest give way, first as far as words stay whole."""
    columns = list(zip(*rows, strict=True))
    widths = [_longest_line(column) for column in columns]
    if width is None:
        return widths
    for lowest in [_longest_word(column) for column in columns], [NARROWEST] * len(columns):
        while sum(widths) + gap * (len(widths) - 1) > width:
            wide = [index for index, low in enumerate(lowest) if widths[index] > low]
            if not wide:
                break
            widths[max(wide, key=lambda index: widths[index])] -= 1
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
    """Break lines between words, and a word that is longer than a line behind a mark in it, or else anywhere."""
    folded = []
    for line in cell.split("\n"):
        if len(line) <= width:
            folded.append(line)
            continue
        folded.append("")
        for word in line.split():
            gap = " " if folded[-1] else ""
            for part in [word] if len(word) <= width else _parts(word):
                for start in range(0, len(part), width):
                    piece = part[start : start + width]
                    if len(folded[-1]) + len(gap) + len(piece) <= width:
                        folded[-1] += gap + piece
                    else:
                        folded.append(piece)
                    gap = ""
    return folded
