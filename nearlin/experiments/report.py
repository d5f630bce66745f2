"""Reports in the terminal. Importing this module needs rich."""

import contextlib
import dataclasses
import itertools
import math
import sys
from collections import Counter
from functools import partial
from statistics import median

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nearlin.complexity.claims.table import FAILS, HOLDS, NOT_BUILT, NOT_MEASURED, OUT_OF_REGIME
from nearlin.experiments.estimation import in_words
from nearlin.experiments.measuring import MEASUREMENTS
from nearlin.experiments.recipes import RECIPES
from nearlin.experiments.records import damped, has, route, stalled
from nearlin.experiments.run_folder import CURVATURE, LAYERS
from nearlin.linalg import Rates
from nearlin.linalg.rates import DTYPES, PAIRED

UNEVEN = 100  # ratio of feature deviations above which scaling is recommended
WIDE = 100  # columns of a comparison: on a narrower terminal its lines wrap, and no digit is lost
PLANNED = 110  # the same of a table of steps with their routes
FEW_ROWS = 5000  # up to which Gauss-Newton steps on all of them pay
SHOWN = 40  # rows of a table of steps; of a longer run the first and the last ones are shown


def console(stream=None):
    """A console that does not fold tables where the output is not a terminal, and does not decorate text."""
    stream = stream or sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 120, highlight=False, soft_wrap=False, markup=False)


@contextlib.contextmanager
def live(trainer):
    """A context that yields ``update(record)``: a live line on standard error, or nothing where that is not a terminal."""
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield lambda record: None
        return
    limit = trainer.config.time_limit
    counter = "{task.completed:.0f}/{task.total:.0f} s" if limit else "step {task.completed}/{task.total}"
    columns = (TextColumn(counter), BarColumn(bar_width=20), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=terminal, transient=True) as progress:
        done = lambda step: trainer.cpu_seconds if limit else step  # noqa: E731
        task = progress.add_task("", total=limit or trainer.config.steps, completed=done(trainer.snapshot.step))
        yield lambda record: progress.update(task, completed=done(record.step + 1), description=_line(record))


def _line(record):
    parts = [f"loss {record.loss if record.loss_after is None else record.loss_after:.3e}"]
    if record.relative_residual is not None:
        parts.append(f"relative residual {record.relative_residual:.1e}")
    if record.inner_iterations is not None:
        parts.append(f"{record.inner_iterations} inner")
    return "  ".join(parts)


def print_header(trainer, stream=None):
    """What is about to run."""
    out, header, data, config = console(stream), trainer.header, trainer.header["data"], trainer.config
    classes, recipe = data["class_names"], trainer.problem.recipe
    sizes = f"{header['parameters']} parameters"
    network = f"{data['features']} inputs, {config.width} {config.activation} neurons, {sizes}"
    kind = f"classification ({classes[0]} = -1, {classes[1]} = +1)" if classes else data["task"]
    _facts(
        out,
        (
            "data",
            f"{data['name']}: {data['train_rows']} training, {data['test_rows']} test rows, {data['features']} features, {kind}",
        ),
        ("preprocessing", None if recipe else data["preprocessing"]),
        ("hint", _scale_hint(data["spread"])),
        ("network", f"{RECIPES[data['name']].about}; {config.activation}, {sizes}" if recipe else network),
        ("optimizer", _hyperparameters(trainer.optimizer)),
        ("backend", f"{config.backend}, {config.dtype}, seed {config.seed}"),
        (
            "batches",
            f"of {config.batch_size} rows, {trainer.batches.per_epoch} an epoch" if not trainer.batches.full else "all rows",
        ),
        ("hint", _batch_hint(trainer)),
        ("resumed", f"at step {trainer.snapshot.step}" if trainer.snapshot.step else None),
        ("writing to", str(trainer.folder) if trainer.folder else None),
    )


def _scale_hint(spread):
    if spread <= UNEVEN:
        return None
    return f"the deviations of the features differ up to {spread:.1e} times; --scale gives every feature the same weight"


def _batch_hint(trainer):
    rows = trainer.problem.train[0].shape[0]
    if trainer.config.optimizer != "gauss-newton" or trainer.batches.full or rows > FEW_ROWS:
        return None
    return f"Gauss-Newton steps gain from larger batches than first-order ones, up to --batch-size all ({rows} rows)"


def _hyperparameters(optimizer):
    fields = ((f.name, getattr(optimizer, f.name)) for f in dataclasses.fields(optimizer) if f.init)
    return f"{type(optimizer).__name__}({', '.join(f'{name}={_value(value)}' for name, value in fields)})"


def _value(value):
    """A hyper-parameter, without the 13 numbers of a table of rates."""
    if isinstance(value, Rates):
        return "default" if value == Rates() else "measured"
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _facts(out, *facts):
    for name, text in facts:
        if text is not None:
            out.print(f"{name:<14} {text}", soft_wrap=True)


def print_result(result, stream=None):
    """The table of steps, the errors, and how the run ended."""
    out, planned = console(stream), has(result.records, "side")
    out.print()
    out.width = max(out.width, PLANNED if planned else 0)
    out.print(steps_table(result))
    out.print()
    sentence = not_halved(result) or grew(result)
    _facts(
        out,
        ("loss", f"{_number(result.initial_loss)} before, {_number(result.final_loss)} after"),
        ("train", str(result.train_error)),
        ("test", "no test rows" if result.test_error is None else str(result.test_error)),
        ("test loss", None if result.final_test_loss is None else _number(result.final_test_loss)),
        ("time", f"{result.seconds:.2f} s in {result.steps} steps"),
        ("preconditioner", _preconditioners(result.records)),
        ("route", "S: on the sample side, P: on the parameter side; d_eff: effective dimension" if planned else None),
        ("plan", _plans(result.records)),
        ("wrote", _written(result)),
    )
    for text in (sentence, result.message):
        if text:
            out.print(text, soft_wrap=True)


def _preconditioners(records):
    names = dict.fromkeys(record["preconditioner"] for record in records if record["preconditioner"] not in (None, "none"))
    return "; ".join(names) or None


def _plans(records):
    """How many steps each route took, and why the last one was chosen."""
    planned = [record for record in records if record.get("plan")]
    if not planned:
        return None
    counts = ", ".join(f"{name} in {number}" for name, number in Counter(map(route, planned)).items())
    return f"{counts} of {len(records)} steps; at the end {planned[-1]['plan']}"


def _written(result):
    names = [path.name for path in (result.log, result.checkpoint, result.plot) if path is not None]
    if result.plot is not None:
        names += [LAYERS] * has(result.records, "layer") + [CURVATURE] * damped(result.records)
    return f"{', '.join(names)} in {result.folder}" if names else None


def _table():
    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)


def steps_table(result):
    """A rich table with a row per step."""
    columns = _certificate(result.records)
    table = _table()
    full = result.config.whole_batch and not result.problem.recipe
    losses = ("loss", "contraction") if full else ("batch loss", "training loss")
    for name in ("step", *losses, *columns, "seconds"):
        table.add_column(name, justify="left" if name == "route" else "right", no_wrap=True)
    table.add_column("note", overflow="fold")
    records = result.records
    gap = len(records) > SHOWN
    for record in records[: SHOWN // 2] if gap else records:
        table.add_row(*_cells(record, full, columns))
    if gap:
        table.add_row("...", *[""] * (len(table.columns) - 2), f"{len(records) - SHOWN} steps not shown")
        for record in records[-SHOWN // 2 :]:
            table.add_row(*_cells(record, full, columns))
    end = (_number(result.final_loss), "") if full else ("", _number(result.final_loss))
    table.add_row(str(result.steps), *end, *[""] * (len(table.columns) - 4), "end")
    return table


def _certificate(records):
    """The columns of the linear solves: none for first-order methods, and the plan's where there is one."""
    if not has(records, "inner_iterations"):
        return ()
    return (*(("λ", "d_eff", "route") if has(records, "side") else ()), "inner", "true res.", "R")


def _cells(record, full, columns):
    certificate = {
        "λ": _number(record["damping"], 1),
        "d_eff": _short(record.get("effective_dimension")),
        "route": _route(record),
        "inner": "" if record["inner_iterations"] is None else str(record["inner_iterations"]),
        "true res.": _number(record["inner_residual"], 1),
        "R": {None: "", True: "fresh", False: "reused"}[record["refreshed"]],
    }
    return (
        str(record["step"]),
        _number(record["loss"]),
        _contraction(record["contraction"]) if full else _number(record["loss_after"]),
        *(certificate[name] for name in columns),
        f"{record['seconds']:.3f}",
        _note(record),
    )


def _short(value):
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _route(record):
    """``S exact`` on the sample side, ``P kfac`` on the parameter side."""
    side = record.get("side")
    return f"{side[0].upper()} {route(record)}" if side else ""


def _contraction(value):
    return "" if value is None else f"{value:.3f}"


def _note(record):
    if not record["accepted"] or stalled(record):
        return record["reason"]
    parts = [f"{record['attempts']} tries"] if (record.get("attempts") or 1) > 1 else []
    if record["inner_reason"] not in (None, "converged"):
        parts.append(f"inner solve: {record['inner_reason']}")
    elif _missed(record):
        parts.append("not halved")
    return ", ".join(parts)


def _missed(record):
    """Whether a Gauss-Newton step in full batch that found something to do did not halve the residual."""
    if record["inner_iterations"] is None or record["contraction"] is None or stalled(record):
        return False
    return not record["contraction"] <= 0.5


def not_halved(result):
    """A sentence where a Gauss-Newton step in full batch did not halve the residual, or None."""
    missed = [record for record in result.records if _missed(record)]
    if not missed:
        return None
    worst = max(missed, key=lambda record: math.inf if math.isnan(record["contraction"]) else record["contraction"])
    count = f"{len(missed)} of {len(result.records)} steps"
    return f"The residual did not halve at {count} (worst contraction {worst['contraction']:.2f}, at step {worst['step']})."


def grew(result):
    """A sentence where the training loss ended above its start, or None."""
    if result.final_loss <= result.initial_loss:
        return None
    if hasattr(result.optimizer, "guard"):  # every step has lowered the loss of its batch
        return "The training loss grew from batch to batch; larger batches or more steps may help."
    return "The training loss grew; a smaller --lr may help."


def print_comparison(comparison, stream=None):
    """A row per optimizer: medians over the seeds, with their range."""
    first = next(iter(comparison.runs.values()))[0]
    base = _seconds_a_step(comparison.runs.get("sgd", ()))
    cells = partial(_recipe_cells, base=base) if first.problem.recipe else _cells_of_runs
    table = _table()
    table.add_column("optimizer", no_wrap=True)
    for name in cells(comparison.runs[next(iter(comparison.runs))]):
        table.add_column(name, justify="left" if name == "end" else "right", no_wrap=True)
    for name, runs in comparison.runs.items():
        table.add_row(name, *cells(runs).values())
    out = console(stream)
    out.width = max(out.width, WIDE)
    out.print(table)
    out.print()
    for text in _legend(first, len(next(iter(comparison.runs.values())))):
        out.print(text, soft_wrap=True)
    if comparison.folder is not None:
        paths = [path.name for path in (comparison.json, comparison.plot) if path is not None]
        out.print(f"wrote {', '.join(paths)} in {comparison.folder}", soft_wrap=True)


def _cells_of_runs(runs):
    """Columns for the two-layer network."""
    return {
        "loss": _median([r.final_loss for r in runs], "{:.3e}"),
        "residual": _median([r.relative_residual for r in runs], "{:.1e}"),
        "steps": _median([r.steps for r in runs], "{:.0f}"),
        "seconds": _median([r.seconds for r in runs], "{:.2f}"),
        "s/step": f"{_seconds_a_step(runs):.4f}",
        "train": _error_of([r.train_error for r in runs]),
        "test": _error_of([r.test_error for r in runs]),
        "end": "/".join(dict.fromkeys(r.ended for r in runs)),
    }


def _recipe_cells(runs, base):
    """Columns for a recipe, whose losses have a least value."""
    problem = runs[0].problem
    errors = {"wrong %": _median([r.test_error.value for r in runs], "{:.2f}")} if problem.task == "labels" else {}
    return {
        "train": _median([r.final_loss - problem.least for r in runs], "{:.4g}", "{:.3g}"),
        "test": _median([r.final_test_loss - problem.test_least for r in runs], "{:.4g}", "{:.3g}"),
        **errors,
        "steps": f"{median([r.steps for r in runs]):.0f}",
        "seconds": f"{median([r.seconds for r in runs]):.1f}",
        "grads": f"{median([_gradients(r) for r in runs]):.0f}",
        "ms/step": f"{1e3 * _seconds_a_step(runs):.2f}",
        **({"/ sgd": f"{_seconds_a_step(runs) / base:.2f}"} if base else {}),
        "end": "/".join(dict.fromkeys(r.ended for r in runs)),
    }


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
        errors = {"rmse": "root mean squared errors in the units of the data", "error rate": "wrong signs in per cent"}
        yield (
            "residual: of the training set, relative to the start; seconds: in steps alone; train, test: "
            + errors[result.train_error.kind]
        )
    if seeds > 1:
        yield f"medians of {seeds} seeds [smallest, largest]"


def _median(values, form, ends_form=None):
    """The median, and below it the range where there are several."""
    if any(value is None for value in values):
        return ""
    middle, ends = form.format(median(values)), (min(values), max(values))
    low, high = map((ends_form or form).format, ends)
    return middle if low == high else f"{middle}\n[{low}, {high}]"


def _seconds_a_step(runs):
    return median([r.seconds / max(r.steps, 1) for r in runs]) if runs else 0.0


def _gradients(result):
    return sum(record["gradients"] for record in result.records)


def _error_of(errors):
    return "" if None in errors else f"{median([error.value for error in errors]):.4g}"


def print_tuning(tuning, stream=None):
    """All runs of a search, and what it found."""
    out = console(stream)
    for name, found in tuning.searches.items():
        table = _table()
        for column in ("run", "lr", found.damping_name or "damping", "excess", "test excess", "steps", "end"):
            table.add_column(column, justify="right", no_wrap=True)
        for i, run in enumerate(found.runs):
            best = Text("*" if run is found.best else "")
            cells = (
                _setting(run.lr),
                _setting(run.damping),
                _number(run.excess),
                _number(run.test_excess),
                str(run.steps),
                run.ended,
            )
            table.add_row(Text(str(i + 1)) + best, *cells)
        out.print(f"{name}: {len(found.runs)} runs; best: {found.sentence}", soft_wrap=True)
        out.print(table)
        out.print()
    if tuning.path is not None:
        out.print(
            f"wrote {tuning.path}; nearlin compare {tuning.problem} --tuned {tuning.path} takes the best of each", soft_wrap=True
        )


def _setting(value):
    return "" if value is None else f"{value:g}"


def print_info(rows, stream=None):
    """Two columns."""
    width = max(len(name) for name, _ in rows)
    _facts(console(stream), *((name.ljust(width), text) for name, text in rows))


@contextlib.contextmanager
def measuring_progress():
    """A context that yields ``before(primitive, dtype)``: a bar on standard error, or nothing off a terminal."""
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield lambda primitive, dtype: None
        return
    columns = (BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}"), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=terminal, transient=True) as progress:
        task, number = progress.add_task("", total=MEASUREMENTS), itertools.count()
        yield lambda primitive, dtype: progress.update(task, completed=next(number), description=f"{primitive}, {dtype}")


def print_rates(rates, stream=None):
    """A row per primitive."""
    table = _table()
    table.add_column("primitive", no_wrap=True)
    for name in (*DTYPES, "unit"):
        table.add_column(name, justify="left" if name == "unit" else "right", no_wrap=True)
    for name in PAIRED:
        cells = (f"{rate / 1e9:.3g}" for rate in getattr(rates, name))
        table.add_row(name, *cells, "GB/s" if name == "memory" else "GFlop/s")
    table.add_row("calls", f"{rates.calls:.3g}", "", "calls/s")
    console(stream).print(table)


def _number(value, digits=3):
    return "" if value is None else f"{value:.{digits}e}"


# ------------------------------------------------------------------------------------------------------ claims, estimates

STYLES = {HOLDS: "green", FAILS: "bold red", OUT_OF_REGIME: "yellow"}


@contextlib.contextmanager
def claims_progress(claims):
    """A context that yields ``before(claim)`` and ``after(result)``: a bar on standard error, or nothing off a terminal."""
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield (lambda claim: None), (lambda result: None)
        return
    columns = (BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}"), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=terminal, transient=True) as progress:
        task = progress.add_task("", total=len(claims))
        yield (lambda claim: progress.update(task, description=claim.id)), (lambda result: progress.advance(task))


def print_claims(verification, stream=None):
    """A row per claim, the reasons of what does not hold, and the summary."""
    out = console(stream)
    table = _table()
    for name in ("claim", "measured", "expected"):
        table.add_column(name, overflow="fold", no_wrap=False)
    table.add_column("verdict", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for result in verification.results:
        verdict = Text(result.verdict, style=STYLES.get(result.verdict, "dim"))
        cells = (result.claim.id, result.outcome.value, result.claim.expected)
        table.add_row(*map(Text, cells), verdict, f"{result.seconds:.1f}" if result.seconds else "")
    out.print(table)
    out.print()
    for text in _reasons(verification.results):
        out.print(text, soft_wrap=True)
    out.print(f"{verification.summary}; {verification.header['seconds']:.0f} s", soft_wrap=True)
    if verification.folder is not None:
        texts = [name for name in verification.files if not name.endswith(".png")]
        plots = len(verification.files) - len(texts)
        out.print(f"wrote {', '.join(texts)} and {plots} plot{'s' * (plots != 1)} in {verification.folder}", soft_wrap=True)


def _reasons(results):
    """A line per claim that was measured and does not hold, and one per reason of those that were not measured."""
    left = {}
    for result in results:
        if result.verdict in (NOT_MEASURED, NOT_BUILT):
            left.setdefault(f"{result.verdict} ({result.outcome.detail})", []).append(result.claim.id)
        elif result.verdict != HOLDS:
            known = "" if result.disappoints or result.verdict != FAILS else ", as it is known to"
            yield f"{result.claim.id} {result.verdict}{known}: {result.outcome.detail}"
    for reason, ids in left.items():
        yield f"{reason}: {', '.join(ids)}"


def print_estimate(estimate, stream=None):
    """Flops by part, for the kinds of step that the optimizer makes, and memory by part."""
    out = console(stream)
    _facts(
        out,
        ("data", f"{estimate.source}: {estimate.rows} rows a step, {estimate.features} features"),
        (
            "network",
            f"{estimate.features} inputs, {estimate.width} {estimate.activation} neurons, {estimate.parameters} parameters",
        ),
        ("optimizer", estimate.optimizer + (f", {estimate.iterations} inner iterations" if estimate.iterations else "")),
        ("backend", f"{estimate.backend}, {estimate.dtype}"),
    )
    out.print()
    out.print(_parts("flops", {kind: step.flops for kind, step in estimate.steps.items()}, _count))
    out.print()
    out.print(_parts("bytes", {kind: step.bytes for kind, step in estimate.steps.items()}, in_words))
    out.print()
    out.print(
        "Flops are those of the cost model, for one attempt a step; seconds depend on the machine and are not estimated. "
        "Bytes are the arrays of a step, without the interpreter.",
        soft_wrap=True,
    )


def _parts(name, kinds, form):
    """A table with a row per part and a column per kind of step."""
    table = _table()
    table.add_column(name, no_wrap=True)
    for kind in kinds:
        table.add_column(kind, justify="right", no_wrap=True)
        table.add_column("", justify="right", no_wrap=True)
    parts = dict.fromkeys(part for values in kinds.values() for part in values)
    for part in parts:
        table.add_row(part, *(cell for values in kinds.values() for cell in _share(values.get(part, 0), values, form)))
    table.add_row("total", *(cell for values in kinds.values() for cell in (form(sum(values.values())), "")))
    return table


def _share(value, values, form):
    return (form(value), f"{value / max(sum(values.values()), 1):.0%}") if value else ("", "")


def _count(value):
    return f"{value:.3e}"
