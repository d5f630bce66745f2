"""Reports of rates, estimates and claims in the terminal. Importing this module needs rich."""

from rich.text import Text

from nearlin.complexity.claims.table import FAILS, HOLDS, NOT_BUILT, NOT_MEASURED, OUT_OF_REGIME
from nearlin.experiments.folders import quoted
from nearlin.experiments.refusals import in_words
from nearlin.experiments.tables import Column, console, facts, say, seconds, table
from nearlin.linalg.rates import DTYPES, PAIRED

STYLES = {HOLDS: "green", FAILS: "bold red", OUT_OF_REGIME: "yellow"}


CLAIMS = (
    Column("claim", lambda result: result.claim.id, Text, align="fold"),
    Column(
        "verdict", lambda result: result.verdict, lambda verdict: Text(verdict, style=STYLES.get(verdict, "dim")), align="fold"
    ),
    Column("seconds", lambda result: result.seconds or None, seconds),
    Column("measured", lambda result: result.outcome.value, Text, align="fold"),
    Column("expected", lambda result: result.claim.expected, Text, align="fold"),
)


def print_claims(verification, stream=None):
    """A row per claim, the reasons of what does not hold, and the summary."""
    out = console(stream)
    out.print(table(CLAIMS, verification.results))
    out.print()
    say(out, *_reasons(verification.results), f"{verification.summary}; {seconds(verification.header['seconds'])} s")
    say(out, *verification.unwritten)
    if verification.files:
        texts = [name for name in verification.files if not name.endswith(".png")]
        plots = len(verification.files) - len(texts)
        say(out, f"wrote {', '.join(texts)} and {plots} plot{'s' * (plots != 1)} in {quoted(verification.folder)}")


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
    facts(
        out,
        ("data", f"{estimate.source}: {estimate.rows} rows a step{_of(estimate.all_rows)}, {estimate.features} features"),
        (
            "network",
            f"{_network(estimate)}, {estimate.parameters} parameters",
        ),
        ("optimizer", estimate.optimizer + (f", {estimate.solve} inner iterations" if estimate.solve else "")),
        ("route", _route(estimate.route)),
        ("preconditioner", _preconditioner(estimate.preconditioner)),
        ("backend", f"{estimate.backend}, {estimate.dtype}"),
        ("ranks", _ranks(estimate)),
    )
    out.print()
    out.print(_parts("flops", {kind: step.flops for kind, step in estimate.steps.items()}, "{:.3e}".format))
    out.print()
    out.print(_parts("bytes", {kind: step.bytes for kind, step in estimate.steps.items()}, in_words))
    out.print()
    if any(step.sent != {} for step in estimate.steps.values()):
        _print_sent(out, {kind: step.sent for kind, step in estimate.steps.items()})
    say(
        out,
        "Flops are those of the cost model, for one attempt a step; seconds depend on the machine and are not estimated. "
        "Bytes are the arrays that there are at the peak of a step"
        + (
            f"; the interpreter and its libraries take {in_words(estimate.interpreter)} beside them."
            if estimate.interpreter
            else "."
        ),
    )


def _ranks(estimate):
    if not estimate.split:
        return None if estimate.ranks == 1 else f"{estimate.ranks}, more than rows: each takes all of them"
    own = f"{estimate.own_rows} rows" if estimate.hidden else f"{estimate.neurons} neurons"
    return f"{estimate.ranks}; flops and bytes are those of the one that has most, {own}"


def _print_sent(out, kinds):
    """What is handed to every rank, where a formula tells it."""
    told = {kind: sent for kind, sent in kinds.items() if sent is not None}
    if told:
        out.print(_parts("sent", told, in_words))
        out.print()
    if len(told) < len(kinds):
        say(out, f"What is sent in {', '.join(kind for kind in kinds if kind not in told)} depends on draws, and is not told.")


def _of(rows):
    return f" of {rows}" if rows else ""


def _route(planned):
    if planned is None:
        return None
    return f"{planned.name}{f', {planned.rank} columns' if planned.rank else ''}, as planned for the first step"


def _preconditioner(planned):
    if planned is None:
        return None
    named = {"sketch": "sketch", "kernel": "the limit kernel", "pivoted": f"{planned.rank} pivoted columns of the kernel"}
    return f"{named[planned.name]}, as planned for the first step"


def _network(estimate):
    if not estimate.hidden:
        return f"{estimate.features} inputs, {estimate.width} {estimate.activation} neurons"
    return f"perceptron {'-'.join(map(str, (estimate.features, *estimate.hidden, estimate.outputs)))}, {estimate.activation}"


def _parts(name, kinds, form):
    """A table with a row per part and a column per kind of step: the amount, and its share."""
    columns, totals = [Column(name, lambda part: part, align="left")], {}
    for kind, values in kinds.items():
        totals[kind] = {**values, "total": sum(values.values())}
        columns.append(Column(kind, lambda part, kind=kind: _share(totals[kind], part, form)))
    return table(columns, (*dict.fromkeys(part for values in kinds.values() for part in values), "total"))


def _share(values, part, form):
    return f"{form(values[part])} {values[part] / values['total']:4.0%}" if values.get(part) else None


def print_info(rows, stream=None):
    """Two columns."""
    facts(console(stream), *rows)


def print_rates(rates, stream=None):
    """A row per primitive."""
    rows = [(name, *(rate / 1e9 for rate in getattr(rates, name)), "GB/s" if name == "memory" else "GFlop/s") for name in PAIRED]
    columns = (
        Column("primitive", lambda row: row[0], align="left"),
        Column(DTYPES[0], lambda row: row[1], "{:.3g}"),
        Column(DTYPES[1], lambda row: row[2], "{:.3g}"),
        Column("unit", lambda row: row[3], align="left"),
    )
    console(stream).print(table(columns, [*rows, ("calls", rates.calls, None, "calls/s")]))
