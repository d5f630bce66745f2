"""The live line of whatever takes a while. Importing this module needs rich."""

import contextlib

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def bar(total, completed=0, counter="{task.completed}/{task.total}"):
    """A context that yields ``show(completed, text)``: a live line on standard error, or nothing where that is not a terminal."""
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield lambda completed, text: None
        return
    columns = (TextColumn(counter), BarColumn(bar_width=20), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=terminal, transient=True) as progress:
        task = progress.add_task("", total=total, completed=completed)
        yield lambda completed, text: progress.update(task, completed=completed, description=text)
