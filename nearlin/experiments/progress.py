"""The live line of whatever takes a while: how far it is, the time that is left, what came last, and what Ctrl-C would leave."""

import contextlib
import math
import os
import sys
import time
from datetime import timedelta

from nearlin.experiments.records import line

PERIOD = 30  # seconds between lines where none can be live
MEMORY = 3600  # seconds from which the time that is left follows: a step may be long


@contextlib.contextmanager
def bar(total, counter, promise, completed=0, shown=True):
    """A context that yields ``show(completed, text)``: a live line on standard error, or nothing without rich.

    Parameters
    ----------
    total, completed : float
        What there is to do, and what of it is done.
    counter, promise : callable
        ``counter(completed)`` says how far it is, and ``promise()`` what Ctrl-C would leave now.
    shown : bool

    Notes
    -----
    In a file, on a dumb terminal and with NO_COLOR a plain line stands for it, every `PERIOD` seconds.
    """
    made = _progress(promise) if shown else None
    if made is None:
        yield lambda completed, text: None
        return
    progress, live = made
    task, said = progress.add_task("", total=total, completed=completed, counter=counter(completed)), time.monotonic()

    def show(completed, text):
        nonlocal said
        progress.update(task, completed=completed, description=text, counter=counter(completed))
        if not live and time.monotonic() - said >= PERIOD:
            said = time.monotonic()
            progress.console.print(f"{counter(completed)}{_left(progress.tasks[0])}: {text}; {promise()}", soft_wrap=True)

    with progress if live else contextlib.nullcontext():
        yield show


def part(show, begun, note):
    """``live(share, record)`` for one of many runs, which stands after ``begun`` of them."""
    return lambda share, record: show(begun + share, line(record, note))


def numbered(what, total):
    """A counter of things of which one is under way: ``run 3/10``."""
    return lambda completed: f"{what} {min(int(completed) + 1, total)}/{total}"


def _left(task):
    return "" if task.time_remaining is None else f", {timedelta(seconds=math.ceil(task.time_remaining))} left"


def _progress(promise):
    """What rich draws, and whether it does so here; None without rich."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column
        from rich.text import Text
    except ImportError:
        return None

    class Promising(Progress):
        """With a second line."""

        def get_renderables(self):
            yield from super().get_renderables()
            yield Text(promise(), style="dim")

    terminal = Console(stderr=True, markup=False, highlight=False, emoji=False)
    live = terminal.is_interactive and not os.environ.get("NO_COLOR")
    columns = (
        TextColumn("{task.fields[counter]}", markup=False),
        BarColumn(bar_width=min(20, terminal.width // 6)),
        TimeRemainingColumn(),
        TextColumn("left"),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
    )
    options = {"transient": True, "expand": True, "redirect_stdout": sys.stdout is not None and sys.stdout.isatty()}
    return Promising(*columns, console=terminal, speed_estimate_period=MEMORY, **options), live
