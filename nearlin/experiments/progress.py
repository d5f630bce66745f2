"""The live line of whatever takes a while."""

import contextlib


@contextlib.contextmanager
def bar(total, completed=0, counter="{task.completed}/{task.total}", shown=True):
    """A context that yields ``show(completed, text)``: a live line on a terminal's standard error, or nothing without rich."""
    terminal = _terminal() if shown else None
    if terminal is None:
        yield lambda completed, text: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(counter), BarColumn(bar_width=20), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=terminal, transient=True) as progress:
        task = progress.add_task("", total=total, completed=completed)
        yield lambda completed, text: progress.update(task, completed=completed, description=text)


def _terminal():
    with contextlib.suppress(ImportError):
        from rich.console import Console

        console = Console(stderr=True)
        return console if console.is_terminal else None
