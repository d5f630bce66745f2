"""Tables as data: columns that say what they show of a row, and how; and lines no longer than the terminal is wide.

Importing this module needs rich.
"""

import itertools
import os
import re
import shutil
import sys
from collections.abc import Callable
from typing import NamedTuple

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table
from rich.text import Text

FILE = 120  # columns of a table in a file
WORD = r"""(?<!\S)'[^']*'(?:"'"'[^']*')*\S*|\S+"""  # what a shell has quoted is one
GAP = 2  # spaces between columns
FOLDED = 12  # columns below which no text is folded
FACT = 14  # columns of a fact's name


class Column(NamedTuple):
    """A column: its head, what it shows of a row, how, and of which tables it is part.

    ``get(row)`` is a value, or a key of the row; None stays empty. ``fmt`` is a format or a function of the value, and
    ``when(whole)`` whether the table of ``whole`` has the column. ``align`` is ``"right"``, ``"left"``, or ``"fold"`` for texts
    that wrap.
    """

    name: str
    get: Callable | str
    fmt: Callable | str = "{}"
    when: Callable = lambda whole: True
    align: str = "right"

    def cell(self, row):
        """The text for a row."""
        value = row.get(self.get) if isinstance(self.get, str) else self.get(row)
        if value is None:
            return ""
        return self.fmt.format(value) if isinstance(self.fmt, str) else self.fmt(value)


class _Shown(NamedTuple):
    """A column of a table: its `Column`, and its cells."""

    column: Column
    cells: list

    @property
    def width(self):
        """That of its longest line."""
        texts = (cell.plain if isinstance(cell, Text) else cell for cell in (self.column.name, *self.cells))
        return max(cell_len(line) for text in texts for line in (text.splitlines() or [""]))

    @property
    def least(self):
        """The columns without which it is not shown."""
        return min(self.width, FOLDED) if self.column.align == "fold" else self.width


class _Tables:
    """One table, or as many, one below the other, as the columns need; each of them begins with the first column."""

    def __init__(self, shown):
        self.shown = shown

    def __rich_console__(self, out, options):
        first, *rest = self.shown
        key = min(first.width, (options.max_width - GAP) // 2)
        blocks, room = [], 0
        for one in rest:
            if one.least + GAP > room:
                blocks.append([])
                room = options.max_width - key
            blocks[-1].append(one)
            room -= one.least + GAP
        for i, block in enumerate(blocks or [[]]):
            if i:
                yield ""
            yield _table(first, key, block, options.max_width - key - GAP)


def _table(first, key, others, room):
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    for one in (first, *others):
        fold = one.column.align == "fold"
        made.add_column(
            one.column.name,
            justify="left" if fold else one.column.align,
            no_wrap=one is not first and not fold and one.width <= room,
            overflow="fold",
            width=key if one is first else None,
        )
    for cells in zip(*(one.cells for one in (first, *others)), strict=True):
        made.add_row(*cells)
    return made


def table(columns, rows, whole=None):
    """What prints a line per row, in several tables where the columns do not stand beside each other."""
    rows = list(rows)
    return _Tables([_Shown(column, [column.cell(row) for row in rows]) for column in columns if column.when(whole)])


def seconds(value):
    """Three digits of a time, however short it is."""
    return f"{value:.0f}" if not abs(value) < 99.95 else f"{value:#.3g}" if value else "0"


def console(stream=None):
    """A console as wide as its terminal or as COLUMNS says; without styles where the terminal is dumb or NO_COLOR is set."""
    plain = {"markup": False, "highlight": False, "emoji": False}
    color = None if os.environ.get("NO_COLOR") else "auto"
    width = shutil.get_terminal_size((FILE, 0)).columns
    return Console(file=stream or sys.stdout, width=width, height=25, color_system=color, **plain)


def facts(out, *pairs):
    """A line per pair of a name and a text, where there is a text; a long one goes on below itself."""
    pairs = [(name, text) for name, text in pairs if text is not None]
    width = max([FACT, *(len(name) for name, _ in pairs)]) + 1
    for name, text in pairs:
        for i, line in enumerate(_lines(out, text, width)):
            out.print(f"{'' if i else name:<{width}}{line}", soft_wrap=True)


def say(out, *texts):
    """Every text that there is, each from a line of its own."""
    for text in texts:
        for line in _lines(out, text) if text else ():
            out.print(line, soft_wrap=True)


def _lines(out, text, indent=0):
    """The lines of a text, of which a file has one."""
    if not (out.is_terminal or os.environ.get("COLUMNS")):
        return [text]
    lines, width = [], max(out.width - indent, FOLDED)
    for word in itertools.chain.from_iterable(_parts(word, width) for word in re.findall(WORD, text)):
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _parts(word, width):
    """A word that fits into a line, or a path, which stays whole, to be copied; of others what does fit."""
    if os.sep in word or cell_len(word) <= width:
        return [word]
    return itertools.chain.from_iterable(chop_cells(part, width) for part in word.split())
