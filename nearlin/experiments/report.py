"""Reports of runs in the terminal. Importing this module needs rich."""

import dataclasses
import math
from collections import Counter

from nearlin.experiments.environment import gpu_line
from nearlin.experiments.folders import quoted
from nearlin.experiments.hints import hints
from nearlin.experiments.recipes import RECIPES
from nearlin.experiments.records import has, route, stalled
from nearlin.experiments.run_folder import CURVATURE, FIT, LAYERS
from nearlin.experiments.tables import Column, console, facts, say, seconds, table
from nearlin.linalg import Rates

SHOWN = 40  # rows of a table of steps, where not all of them are asked for


def print_header(trainer, stream=None):
    """What is about to run."""
    out, header, data, config = console(stream), trainer.header, trainer.header["data"], trainer.config
    recipe, said = trainer.problem.recipe, trainer.problem.diagnosis
    sizes = f"{header['parameters']} parameters"
    validated = f" {data['validation_rows']} validation," if data["validation_rows"] else ""
    rows = f"{data['train_rows']} training,{validated} {data['test_rows']} test rows"
    facts(
        out,
        ("data", f"{data['name']}: {rows}, {data['features']} features, {_kind(data)}"),
        ("target", data["target"]),
        ("rows", _rows(trainer.problem)),
        ("classes", said and said.classes()),
        ("preprocessing", None if recipe else data["preprocessing"]),
        (
            "network",
            f"{RECIPES[data['name']].about}; {config.activation}, {sizes}" if recipe else f"{_network(trainer)}, {sizes}",
        ),
        ("optimizer", _hyperparameters(trainer.optimizer)),
        ("backend", f"{config.backend}, {config.dtype}, seed {config.seed}"),
        *_ranks(header.get("ranks")),
        ("GPU", gpu_line(header["gpu"]) if header.get("gpu") else None),
        (
            "batches",
            f"of {config.batch_size} rows, {trainer.batches.per_epoch} an epoch" if not trainer.batches.full else "all rows",
        ),
        *(("hint", sentence) for sentence in hints(trainer)),
        *(("warning", sentence) for sentence in (said.warnings() if said else ())),
        ("resumed", f"at step {trainer.snapshot.step}" if trainer.snapshot.step else None),
        ("writing to", str(trainer.folder) if trainer.folder else None),
    )


def _ranks(ranks):
    """A line for every rank: what runs where."""
    if not ranks:
        return
    for one in ranks["processes"]:
        yield f"rank {one['rank']}", f"PID {one['pid']} on {one['host']}, {one['threads']} BLAS thread(s), its {ranks['by']}"


def _rows(problem):
    """What the training rows are like, in a line."""
    if problem.recipe:
        return None
    return problem.diagnosis.line() if problem.diagnosis else "not looked at, as x is a mapped file"


def _kind(data):
    """What the targets are, in a word or two."""
    classes = data["class_names"]
    if not classes:
        return f"{data['outputs']} targets" if data["task"] == "regression" and data["outputs"] > 1 else data["task"]
    signs = data["task"] == "classification"
    return f"classification ({classes[0]} = -1, {classes[1]} = +1)" if signs else f"{len(classes)} classes"


def _network(trainer):
    config, data = trainer.config, trainer.header["data"]
    inputs = f"{data['features']} inputs{' and a constant' if trainer.problem.preprocessing.constant else ''}"
    if config.hidden is None:
        return f"{inputs}, {config.width} {config.activation} neurons"
    return f"perceptron {'-'.join(map(str, (data['features'], *config.hidden, data['outputs'])))}, {config.activation}"


def _hyperparameters(optimizer):
    fields = ((f.name, getattr(optimizer, f.name)) for f in dataclasses.fields(optimizer) if f.init)
    return f"{type(optimizer).__name__}({', '.join(f'{name}={_value(value)}' for name, value in fields)})"


def _value(value):
    """A hyper-parameter, without the 13 numbers of a table of rates."""
    if isinstance(value, Rates):
        return f"measured on {value.device}"
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def print_result(result, stream=None, all_steps=False):
    """The table of steps, the errors, and how the run ended."""
    out, planned = console(stream), has(result.records, "side")
    out.print()
    out.print(steps_table(result, all_steps))
    out.print()
    sentence = not_halved(result) or grew(result)
    facts(
        out,
        ("loss", f"{_number(result.initial_loss)} before, {_number(result.final_loss)} after"),
        ("train", str(result.train_error)),
        ("test", "no test rows" if result.test_error is None else str(result.test_error)),
        ("validation", _validation(result)),
        ("test loss", None if result.final_test_loss is None else _number(result.final_test_loss)),
        ("time", f"{seconds(result.seconds)} s in {result.steps} step{'s' * (result.steps != 1)}{_compilation(result.records)}"),
        ("waited", result.waited and f"{', '.join(map(seconds, result.waited))} s, rank by rank, for others"),
        ("preconditioner", _preconditioners(result.records)),
        ("route", "S: on the sample side, P: on the parameter side; d_eff: effective dimension" if planned else None),
        ("plan", _plans(result.records)),
        ("wrote", _written(result)),
    )
    say(out, sentence, *(f"From the data: {limit}." for limit in limits(result)), result.message, *result.unwritten)


def _compilation(records):
    spent = sum(record.get("compilation") or 0.0 for record in records)
    return f", and {seconds(spent)} s in which kernels were compiled" if spent else ""


def _validation(result):
    if result.validation_error is None:
        return None
    return f"{result.validation_error}" + (f"; kept are the weights after step {result.best_step}" if result.best_step else "")


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
    names = [path.name for path in (result.log, result.checkpoint, result.plot) if path and path.parent == result.folder]
    names += [name for name in (FIT, LAYERS, CURVATURE) if result.plot is not None and (result.folder / name).exists()]
    failed = [name for name in names if any(one.startswith(f"{quoted(result.folder / name)} ") for one in result.unwritten)]
    names = [name for name in names if name not in failed]
    return f"{', '.join(names)} in {quoted(result.folder)}" if names else None


def _full(result):
    """Whether every step took all rows of a two-layer network's data: then losses before a step are those of the training set."""
    return result.config.whole_batch and not result.problem.recipe


def _solved(result):
    return has(result.records, "inner_iterations")


def _planned(result):
    return _solved(result) and has(result.records, "side")


STEPS = (
    Column("step", "step"),
    Column("loss", "loss", "{:.3e}", _full),
    Column("contraction", "contraction", "{:.3f}", lambda result: _full(result) and result.problem.wide),
    Column("batch loss", "loss", "{:.3e}", lambda result: not _full(result)),
    Column("training loss", "loss_after", "{:.3e}", lambda result: not _full(result)),
    Column("validation", "validation_loss", "{:.3e}", lambda result: has(result.records, "validation_loss")),
    Column("wrong", "validation_wrong", when=lambda result: has(result.records, "validation_wrong")),
    Column("λ", "damping", "{:.1e}", _planned),
    Column("d_eff", "effective_dimension", lambda value: f"{value:.0f}" if value >= 100 else f"{value:.3g}", _planned),
    Column("route", lambda record: _route(record), when=_planned, align="left"),
    Column("inner", "inner_iterations", when=_solved),
    Column("true res.", "inner_residual", "{:.1e}", _solved),
    Column("R", "refreshed", lambda fresh: "fresh" if fresh else "reused", _solved),
    Column("seconds", "seconds", seconds),
    Column("note", lambda record: record["note"] if "note" in record else _note(record), align="fold"),
)


def steps_table(result, all_steps=False):
    """A row per step; of a long run the first and the last ones, where not all steps are asked for."""
    records = result.records
    if len(records) > SHOWN + 1 and not all_steps:  # a line that says that one is left out would take its place
        gap = {"step": "...", "note": f"{len(records) - SHOWN} steps not shown; --all-steps prints them"}
        records = (*records[: SHOWN // 2], gap, *records[-SHOWN // 2 :])
    end = {"step": result.steps, "loss" if _full(result) else "loss_after": result.final_loss, "note": "end"}
    return table(STEPS, (*records, end), result)


def _route(record):
    """``S exact`` on the sample side, ``P kfac`` on the parameter side."""
    return f"{record['side'][0].upper()} {route(record)}" if record.get("side") else None


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


def limits(result):
    """What the data said before the first step, of a run whose loss or last residual did not halve or is at its floor."""
    said, loss = result.problem.diagnosis, result.final_loss
    halved = loss <= 0.5 * result.initial_loss and not (result.records and _missed(result.records[-1]))
    return [] if said is None or (halved and loss > 2 * said.floor) else said.limits()


def _number(value, digits=3):
    return "" if value is None else f"{value:.{digits}e}"
