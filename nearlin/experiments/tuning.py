"""A search for step size and damping on the papers' grid of 1 and 3 per decade."""

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

from nearlin._array import integer, positive, unguarded
from nearlin.experiments import folders
from nearlin.experiments.building import build
from nearlin.experiments.comparison import checked, default_for
from nearlin.experiments.config import Config, explicit, source
from nearlin.experiments.progress import bar, numbered, part
from nearlin.experiments.registry import check_settings, hyperparameters, make_optimizer
from nearlin.experiments.training import begin, set_up

FILE, PLOT, RUNS, SHARE = "tune.json", "tune.png", 12, 5
BETTER = 1e-3  # by which a step of the search must be better: a flat valley has no end


class _OutOfRuns(Exception):
    """The search has taken all its runs."""


DAMPINGS = ("damping", "epsilon_hat")


class Run(NamedTuple):
    """One run of a search: settings (None: the default), losses above the least possible ones at its end, steps, how it ended.

    ``began`` is the damping of the first step, where it adapts.
    """

    lr: float | None
    damping: float | None
    excess: float
    test_excess: float | None
    steps: int
    ended: str
    began: float | None = None


@dataclasses.dataclass(frozen=True)
class Search:
    """All runs for one optimizer; ``best`` has the smallest training loss, and is None where no loss is finite."""

    runs: tuple
    damping_name: str | None

    @property
    def best(self):
        """The run with the smallest training loss, or None."""
        finite = [run for run in self.runs if math.isfinite(run.excess)]
        return min(finite, key=lambda run: run.excess, default=None)

    @property
    def settings(self):
        """The best hyper-parameters by name, or None."""
        if self.best is None:
            return None
        values = {"lr": self.best.lr, self.damping_name or "damping": self.best.damping}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def sentence(self):
        """The best run in words."""
        if self.best is None:
            return "none, as no run ended with a finite loss"
        return f"{listed(self.settings)}, excess loss {self.best.excess:.4g}"


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What `tune` returns: ``searches`` maps optimizer names to `Search`; ``path`` and ``plot`` are the files, or None.

    ``unwritten`` has a sentence for each that could not be written.
    """

    problem: str
    searches: dict
    path: Path | None = None
    unwritten: tuple = ()
    plot: Path | None = None


@unguarded()
def tune(data, optimizers=None, *, budget=60.0, runs=RUNS, out=None, progress=True, before=None, **options):
    """Search step size, then damping, on the grid 1, 3, 10, 30, ... for each optimizer.

    The search starts at the optimizer's default, moves to the better neighbour until both are worse, first in the step size, then
    in the damping (Adam and its kin: epsilon_hat), and keeps what ends with the smallest training loss. Guarded methods adapt
    their damping and take full steps: of them the first damping alone is searched, from the one that they choose themselves.

    Parameters
    ----------
    data : str, path, frame, Dataset, or (x, y)
        As for `train`.
    optimizers : sequence of str, optional
        As for `compare`.
    budget : float
        Processor seconds of the run that is tuned for; each run of the search takes a fifth of it. With ``steps``, ``epochs``
        or ``time_limit`` among the options, the runs take those instead.
    runs : int
        Most runs of each optimizer.
    out : str or path, optional
        Folder for ``tune.json`` and ``tune.png``; it must not hold an earlier search.
    progress : bool
        A live line on a terminal, and in a file a line every 30 seconds (needs rich).
    before : callable, optional
        ``before(optimizer, number, settings)`` is called before every run.
    **options
        Fields of `Config`.

    Returns
    -------
    Tuning

    Raises
    ------
    ValueError, TypeError, OSError
        As for `compare`.
    KeyboardInterrupt
        Ctrl-C, after the runs that are complete have been written.
    """
    optimizers = None if optimizers is None else checked(optimizers)
    runs, budget = integer(1)("runs", runs), positive("budget", budget)
    config = Config(**explicit(options, "tune"), **source(data))
    if optimizers is not None:
        check_settings(config.settings, optimizers)
    if searched := [name for name, _ in config.settings if name in ("lr", *DAMPINGS)]:
        raise ValueError(f"{searched[0]} is what the search is for; expected other settings")
    if config.steps is None and config.epochs is None and config.time_limit is None:
        config = dataclasses.replace(config, time_limit=budget / SHARE)
    problem, config = build(data, config)
    optimizers = optimizers or checked(default_for(problem))
    params = problem.init(config.seed)
    search = lambda name, live, note: _search(name, problem, config, params, runs, live, before, note)  # noqa: E731
    with folders.claimed(out, FILE) as folder:
        return _tuned(problem, optimizers, runs, search, folder, progress)


def _tuned(problem, optimizers, most, search, folder, progress):
    """The `Tuning` of all searches, written into ``folder`` after every run."""
    searches, name, unwritten = {}, optimizers[0], []
    total = most * len(optimizers)
    kept = (
        "loses all runs, as no folder was given"
        if folder is None
        else f"leaves the complete runs in {folders.quoted(folder / FILE)}"
    )

    def note(search):
        searches[name] = search
        unwritten[:] = _write(problem.name, searches, folder)

    try:
        with bar(total, numbered("run", total), lambda: f"Ctrl-C ends the search, and {kept}", shown=progress) as show:
            for i, name in enumerate(optimizers):
                live = lambda number, settings, begun=i * most, name=name: part(  # noqa: E731
                    show, begun + number, f"{name}, {listed(settings)}"
                )
                search(name, live if progress else lambda number, settings: False, note)
    except KeyboardInterrupt:
        done = sum(len(search.runs) for search in searches.values())
        where = "nothing was written, as no folder was given" if folder is None else f"they are in {folder / FILE}"
        said = "; ".join(unwritten) or where
        raise KeyboardInterrupt(f"Interrupted in {name} after {done} complete runs" + (f"; {said}" if done else "")) from None
    path = None if folder is None or not (folder / FILE).exists() else folder / FILE
    plot = None if folder is None else _draw(problem.name, searches, folder / PLOT, unwritten)
    return Tuning(problem.name, searches, path, tuple(unwritten), plot)


def _draw(problem, searches, path, unwritten):
    """The path of the plot, None where it could not be drawn or written."""
    try:
        from nearlin.experiments.plots import plot_search
    except ImportError:
        return None
    with folders.tried(path, unwritten, Exception):  # a picture costs no search its result
        return plot_search(searches, problem, path)


def _write(problem, searches, folder):
    """Write what there is so far; sentences on what could not be."""
    unwritten = []
    if folder is not None:
        content = {name: {"best": one.settings, "runs": [run._asdict() for run in one.runs]} for name, one in searches.items()}
        with folders.shielded(), folders.tried(folder / FILE, unwritten):
            folders.write_json(folder / FILE, {"problem": problem, "optimizers": content})
    return unwritten


def _search(name, problem, config, params, most, live, before, note):
    damping_name = next((field for field in DAMPINGS if field in hyperparameters(name)), None)
    own = {field: value for field, value in config.settings if field in hyperparameters(name)}
    optimizer, done = make_optimizer(name, **own), {}
    guarded = getattr(optimizer, "guard", False)
    start = tuple(_index(getattr(optimizer, field or "", None)) for field in ("" if guarded else "lr", damping_name))
    if start == (None, None) and not guarded:
        raise ValueError(f"{name} has neither a step size nor a damping by default; expected one to start from")

    def tried(settings):
        if len(done) == most:
            raise _OutOfRuns
        if before is not None:
            before(name, len(done) + 1, settings)
        try:
            return _run(name, problem, config, params, settings, damping_name, live(len(done), settings))
        except ValueError as error:
            if not done:
                raise
            return _failed(settings, damping_name, error)  # the grid left the range of a hyper-parameter

    def keep(point, run):
        done[point] = run
        note(Search(tuple(done.values()), damping_name))

    def excess(point):
        if point not in done:
            settings = {field: _value(k) for field, k in zip(("lr", damping_name), point, strict=True) if k is not None}
            keep(point, tried(settings))
        return done[point].excess

    if start == (None, None):  # the default stands for the point of the grid next to the damping that it chose
        run = tried({})
        start = (None, _index(run.began or None))
        keep(start, run)
    best = start
    with contextlib.suppress(_OutOfRuns):
        for axis in (0, 1):
            if best[axis] is not None:
                best = _descend(best, axis, excess)


def _descend(point, axis, excess):
    """Move along one axis of the grid to the better neighbour until both are worse; from failures, to the safe side."""
    moved = lambda p, by: (*p[:axis], p[axis] + by, *p[axis + 1 :])  # noqa: E731
    safe = (-1, 1)[axis]  # a smaller step, a larger damping
    here = excess(point)
    by = min((safe, -safe), key=lambda by: excess(moved(point, by)))
    while excess(moved(point, by)) < here - BETTER * abs(here) or not math.isfinite(here):
        point = moved(point, by)
        here = excess(point)
    return point


def _run(name, problem, config, params, settings, damping_name, progress):
    own = tuple(pair for pair in config.settings if pair[0] in hyperparameters(name))
    one = dataclasses.replace(config, optimizer=name, lr=None, damping=None, settings=(*own, *settings.items()))
    setup = set_up(problem, one)
    try:
        result = begin(setup, params).run(progress)
    except ArithmeticError as error:
        return _failed(settings, damping_name, error)
    loss = math.inf if result.ended == "non-finite" else result.final_loss - problem.least
    test = None if result.final_test_loss is None else result.final_test_loss - problem.test_least
    began = result.records[0]["damping"] if result.records else None
    return Run(settings.get("lr"), settings.get(damping_name), loss, test, result.steps, result.ended, began)


def listed(settings):
    """Hyper-parameters as ``lr 0.1, damping 0.3``, or ``defaults``."""
    return ", ".join(f"{name} {value:g}" for name, value in settings.items()) or "defaults"


def _failed(settings, damping_name, error):
    return Run(settings.get("lr"), settings.get(damping_name), math.inf, None, 0, f"failed: {error}")


def _index(value):
    """The place of the grid nearest to ``value``, in logarithms: 2 k for 10ᵏ, 2 k + 1 for 3 10ᵏ; None for None."""
    if value is None:
        return None
    k = math.floor(math.log10(value) + 1e-12)
    mantissa = value / 10**k
    return 2 * k + (0 if mantissa < math.sqrt(3) else 1 if mantissa < math.sqrt(30) else 2)


def _value(index):
    return float(f"{3 if index % 2 else 1}e{index // 2}")
