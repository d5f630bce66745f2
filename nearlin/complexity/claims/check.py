"""Declared checks: a sweep makes rows, bounds say what must be true of their columns, and the verdict follows.

A row is a dict: the sizes it was measured at, and what was measured there. Nothing in a claim's module writes a verdict, a value
or a sentence by hand: `Check` makes the `Outcome` from the rows and the bounds. NaN and infinity keep no bound, and a sweep
without rows holds nothing.
"""

from dataclasses import replace
from functools import partial
from numbers import Number

from nearlin.complexity.claims.bound import Bound, between, text
from nearlin.complexity.claims.table import HOLDS, OUT_OF_REGIME, Claim, Outcome, worst

__all__ = ["Bound", "Check", "claim"]


class Check:
    """The measurement of a claim: rows from a sweep, and bounds on their columns.

    Parameters
    ----------
    sweep : callable
        ``sweep(full) -> rows``: dicts, made by running the public methods that the claim names.
    bounds : Bound
        At least one that judges.
    regime : tuple of Bound
        Bounds on all rows, without which the claim is out of regime.
    among : tuple of Bound
        Bounds on single rows: those that miss them are named and left out; if all do, the claim is out of regime.
    note : str
        A sentence that the detail ends with.
    """

    def __init__(self, sweep, *bounds, regime=(), among=(), note=""):
        if not any(bound.judges for bound in bounds):
            raise ValueError("the check has no bound that could be missed; expected at least one Bound with low, high or equal")
        self.sweep, self.bounds, self.regime, self.among, self.note = sweep, bounds, regime, among, note

    def __call__(self, full):
        """The `Outcome`."""
        return self.judge(self.sweep(full))

    @property
    def expected(self):
        """What the bounds demand, in words."""
        return "; ".join(dict.fromkeys(bound.expected for bound in self.bounds if bound.judges))

    def given(self, **options):
        """The same check of a sweep with other options: of something else in the place of what is under test."""
        sweep = partial(self.sweep, **options)
        return Check(sweep, *self.bounds, regime=self.regime, among=self.among, note=self.note)

    def judge(self, rows):
        """The `Outcome` of these rows."""
        rows = list(rows)
        kept, left = self._among(rows)
        sizes = self._sizes(rows)
        if rows and not kept:
            return Outcome("no row is in regime", OUT_OF_REGIME, "; ".join([left, sizes]))
        outside = [reason for bound in self.regime for reason in bound(kept)[2]]
        found = [bound(kept) for bound in self.bounds if bound.judges]
        verdict = worst([verdict for verdict, _, _ in found])
        reasons = [reason for _, _, some in found for reason in some]
        detail = [*(f"out of regime: {reason}" for reason in outside), *reasons, sizes, left, self.note]
        series = _once(one for bound in self.bounds for one in bound.series(kept))
        value = "; ".join(dict.fromkeys(value for _, value, _ in found))
        return Outcome(value, OUT_OF_REGIME if outside else verdict, "; ".join(filter(None, detail)), series)

    def _among(self, rows):
        """The rows in regime, and words on the others."""
        kept, left = [], []
        for row in rows:
            missed = [bound for bound in self.among if bound.column in row and bound([row])[0] != HOLDS]
            (left if missed else kept).append(row)
        if not left:
            return kept, ""
        expected = ", ".join(f"{bound.column} {between(*bound.limits(left[0]))}" for bound in self.among)
        words = list(dict.fromkeys(", ".join(f"{k} = {text(v)}" for k, v in row.items() if isinstance(v, str)) for row in left))
        named = f" ({'; '.join(words[:4])})" if words[0] else ""
        return kept, f"{len(left)} of {len(rows)} rows left out{named}, as {expected} is not met"

    def _sizes(self, rows):
        """What was chosen: every column that no bound names, with its values."""
        measured = set().union(*(bound.columns for bound in (*self.bounds, *self.regime, *self.among)))
        columns = dict.fromkeys(name for row in rows for name in row if name not in measured)
        return "; ".join(f"{name} = {_range([row[name] for row in rows if name in row])}" for name in columns)


def _once(series):
    """Every curve once, with what is predicted of it and the bounds on it, from whichever `Bound` says so first."""
    curves = {}
    for one in series:
        known = curves.setdefault((one.label, one.x, one.y, one.x_label, one.y_label), one)
        if known.predicted is None:
            known = replace(known, predicted=one.predicted, says=one.says)
        if not known.bound:
            known = replace(known, low=one.low, high=one.high, bound=one.bound)
        curves[one.label, one.x, one.y, one.x_label, one.y_label] = known
    return tuple(curves.values())


def claim(
    id, number, family, paper, statement, condition, *check, expected="", how="convergence", should_hold=True, quick=True, **more
):
    """The `Claim` that is measured by `Check`, given its sweep, its bounds and its options.

    What is measured is what the sweep says of itself, and what is expected what the bounds demand, unless ``expected`` says it.
    """
    measure, (sweep, *_) = Check(*check, **more), check
    while isinstance(sweep, partial):
        sweep = sweep.func
    quantity = " ".join((sweep.__doc__ or "").partition("\n\n")[0].split()).replace("``", "").removesuffix(".")
    expected, quick = expected or measure.expected, quick and how != "time"
    return Claim(id, number, family, paper, statement, quantity, how, expected, condition, measure, should_hold, quick)


def _range(values):
    distinct = list(dict.fromkeys(values))
    if len(distinct) > 6 and all(isinstance(v, Number) for v in distinct):
        return f"{text(min(distinct))} ... {text(max(distinct))}"
    return ", ".join(map(text, distinct[:6])) + (", ..." if len(distinct) > 6 else "")
