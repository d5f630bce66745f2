"""Tables as data: columns that say what they show of a row, and how. Importing this module needs rich."""

import sys
from collections.abc import Callable
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table


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


def table(columns, rows, whole=None):
    """A rich table with a line per row."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    columns = [column for column in columns if column.when(whole)]
    for column in columns:
        fold = column.align == "fold"
        made.add_column(
            column.name, justify="left" if fold else column.align, no_wrap=not fold, overflow="fold" if fold else "ellipsis"
        )
    for row in rows:
        made.add_row(*(column.cell(row) for column in columns))
    return made


def console(stream=None):
    """A console that does not fold tables where the output is not a terminal, and does not decorate text."""
    stream = stream or sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 120, highlight=False, soft_wrap=False, markup=False)


def facts(out, *pairs):
    """A line per pair of a name and a text, where there is a text."""
    for name, text in pairs:
        if text is not None:
            out.print(f"{name:<14} {text}", soft_wrap=True)


def say(out, *texts):
    """A line per text, where there is one; lines are not broken."""
    for text in texts:
        if text:
            out.print(text, soft_wrap=True)
