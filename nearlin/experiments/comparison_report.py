"""Reports of comparisons and searches in the terminal. Importing this module needs rich."""

import shlex
from statistics import median
from typing import NamedTuple

from nearlin.experiments.folders import quoted
from nearlin.experiments.tables import Column, console, say, seconds, table


class _Compared(NamedTuple):
    """The runs of one optimizer; ``base`` is the seconds a step of sgd, 0 where it was not run."""

    name: str
    runs: tuple
    base: float


def _median(get, form, ends=None):
    """The median of the runs, and below it their range where there is one; empty where a run does not know its value."""
    form, ends = (one.format if isinstance(one, str) else one for one in (form, ends or form))

    def cell(row):
        values = [get(run) for run in row.runs]
        if any(value is None for value in values):
            return None
        low, high, middle = ends(min(values)), ends(max(values)), form(median(values))
        return middle if low == high else f"{middle}\n[{low}, {high}]"

    return cell


def _middle(get):
    """The median of the runs as a number."""
    return lambda row: None if None in (values := [get(run) for run in row.runs]) else median(values)


def _error(name):
    """The median of errors, None where there is none."""
    return _middle(lambda run: getattr(run, name) and getattr(run, name).value)


_OPTIMIZER = Column("optimizer", lambda row: row.name, align="left")
_END = Column("end", lambda row: "/".join(dict.fromkeys(run.ended for run in row.runs)), align="left")
RUNS = (
    _OPTIMIZER,
    Column("loss", _median(lambda run: run.final_loss, "{:.3e}")),
    Column("residual", _median(lambda run: run.relative_residual, "{:.1e}")),
    Column("steps", _median(lambda run: run.steps, "{:.0f}")),
    Column("seconds", _median(lambda run: run.seconds, seconds)),
    Column("s/step", lambda row: _seconds_a_step(row.runs), seconds),
    Column("train", _error("train_error"), "{:.4g}"),
    Column("test", _error("test_error"), "{:.4g}"),
    _END,
)
RECIPE_RUNS = (
    _OPTIMIZER,
    Column("train", _median(lambda run: run.final_loss - run.problem.least, "{:.4g}", "{:.3g}")),
    Column("test", _median(lambda run: run.final_test_loss - run.problem.test_least, "{:.4g}", "{:.3g}")),
    Column(
        "wrong %", _median(lambda run: run.test_error.value, "{:.2f}"), when=lambda rows: rows[0].runs[0].problem.task == "labels"
    ),
    Column("steps", _middle(lambda run: run.steps), "{:.0f}"),
    Column("seconds", _middle(lambda run: run.seconds), seconds),
    Column("grads", _middle(lambda run: _gradients(run)), "{:.0f}"),
    Column("ms/step", lambda row: 1e3 * _seconds_a_step(row.runs), seconds),
    Column("/ sgd", lambda row: _seconds_a_step(row.runs) / row.base, "{:.3g}", lambda rows: rows[0].base),
    _END,
)


def print_comparison(comparison, stream=None):
    """A row per optimizer: medians over the seeds, with their range."""
    base = _seconds_a_step(comparison.runs.get("sgd", ()))
    rows = [_Compared(name, runs, base) for name, runs in comparison.runs.items()]
    first = rows[0].runs[0]
    out = console(stream)
    out.print(table(RECIPE_RUNS if first.problem.recipe else RUNS, rows, rows))
    out.print()
    say(out, *_legend(first, [len(row.runs) for row in rows]))
    say(out, *comparison.unwritten)
    if paths := [path.name for path in (comparison.json, comparison.plot) if path is not None]:
        say(out, f"wrote {', '.join(paths)} in {quoted(comparison.folder)}")


def _legend(result, seeds):
    if result.problem.recipe:
        least, test_least = (f"{value:.4f}" for value in (result.problem.least, result.problem.test_least))
        yield (
            f"train, test: losses above the least possible ones, {least} and {test_least}"
            if result.problem.least
            else ("train, test: losses" + ("; wrong %: of the test set" if result.problem.task == "labels" else ""))
        )
        yield "seconds: in steps alone; grads: work asked of the network, in gradients; / sgd: seconds a step over those of sgd"
    else:
        errors = {"rmse": "root mean squared errors in the units of the data", "error rate": "wrong in per cent"}
        yield (
            "residual: of the training set, relative to the start; seconds: in steps alone; train, test: "
            + errors[result.train_error.kind]
        )
    majority = [
        f"{part} {error.majority:.2f}"
        for part, error in (("train", result.train_error), ("test", result.test_error))
        if error is not None and error.majority is not None
    ]
    if majority:
        yield f"the most frequent class alone is wrong in per cent: {', '.join(majority)}"
    if max(seeds) > 1:  # where some have failed, not of all optimizers as many
        yield f"medians of {' to '.join(map(str, sorted({min(seeds), max(seeds)})))} seeds [smallest, largest]"


def _seconds_a_step(runs):
    return median([r.seconds / max(r.steps, 1) for r in runs]) if runs else 0.0


def _gradients(result):
    return sum(record["gradients"] for record in result.records)


def print_tuning(tuning, stream=None):
    """All runs of a search, and what it found."""
    out = console(stream)
    for name, found in tuning.searches.items():
        say(out, f"{name}: {len(found.runs)} run{'s' * (len(found.runs) != 1)}; best: {found.sentence}")
        out.print(table(_search(found), enumerate(found.runs, 1)))
        out.print()
    say(out, *tuning.unwritten)
    if tuning.path is not None:
        say(out, f"wrote {quoted(tuning.path)}{f' and {tuning.plot.name}' if tuning.plot else ''}{_next(tuning)}")


def _next(tuning):
    """The command that takes the best of each optimizer of which there is one."""
    found = ",".join(name for name, search in tuning.searches.items() if search.best is not None)
    command = ("nearlin", "compare", tuning.problem, "--optimizers", found, "--tuned", str(tuning.path))
    return f"; {shlex.join(command)} takes the best of each" if found else ""


def _search(found):
    """The columns of a search, for rows of a number and a run."""
    return (
        Column("run", lambda row: f"{row[0]}{'*' if row[1] is found.best else ''}"),
        Column("lr", lambda row: row[1].lr, "{:g}", lambda whole: any(run.lr is not None for run in found.runs)),
        Column(found.damping_name or "damping", lambda row: row[1].damping, "{:g}", lambda whole: found.damping_name),
        Column("excess", lambda row: row[1].excess, "{:.3e}"),
        Column("test excess", lambda row: row[1].test_excess, "{:.3e}"),
        Column("steps", lambda row: row[1].steps),
        Column("end", lambda row: row[1].ended, align="fold"),
    )
