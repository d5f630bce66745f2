"""Bounds on the columns of measured rows: curves, what they are reduced to, and the verdict that the numbers get."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from numbers import Number
from typing import NamedTuple

import numpy as np

from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME, Series, worst
from nearlin.complexity.degree import degree, leading_term
from nearlin.complexity.fit import fit_exponent, fit_with_floor


def _log(values):
    return np.log(np.asarray(values, dtype=float))


def geometric_mean(values):
    """exp of the mean logarithm; infinite where a value is."""
    return float(np.exp(np.mean(_log(values))))


def _interval(fit):
    return lambda x, y: (fit(x, y).low, fit(x, y).high)


def _exact(f, x, y):
    return f(dict(zip(x, y, strict=True)).__getitem__, x)


class Reduction(NamedTuple):
    """What becomes of one curve: its name in the report, and the numbers, each of which must keep the bounds."""

    name: str
    of: Callable  # of(x, y) -> tuple of numbers, for a curve with sizes x, ascending, and values y


REDUCTIONS = {
    "all": Reduction("{column}", lambda x, y: (min(y), max(y))),
    "max": Reduction("largest {column}", lambda x, y: (max(y),)),
    "min": Reduction("smallest {column}", lambda x, y: (min(y),)),
    "median": Reduction("median {column}", lambda x, y: (float(np.median(y)),)),
    "mean": Reduction("mean {column}", lambda x, y: (float(np.mean(y)),)),
    "geometric mean": Reduction("geometric mean of {column}", lambda x, y: (geometric_mean(y),)),
    "first": Reduction("{column} at the first {over}", lambda x, y: (y[0],)),
    "last": Reduction("{column} at the last {over}", lambda x, y: (y[-1],)),
    "spread": Reduction("largest over smallest {column}", lambda x, y: (max(y) / min(y),)),
    "share": Reduction("share with {column}", lambda x, y: (float(np.mean(y)),)),
    "degree": Reduction("degree of {column} in {over}", lambda x, y: (_exact(degree, x, y),)),
    "leading": Reduction("leading coefficient of {column} in {over}", lambda x, y: (_exact(leading_term, x, y)[1],)),
    "exponent": Reduction("exponent of {column} in {over}", lambda x, y: (float(np.polyfit(np.log(x), _log(y), 1)[0]),)),
    "interval": Reduction("exponent of {column} in {over}", _interval(fit_with_floor)),
    "interval, no floor": Reduction("exponent of {column} in {over}", _interval(fit_exponent)),
}
LEVELS = ("all", "max", "min", "median", "mean", "geometric mean", "first", "last")  # what they give stands beside the curve
FITTED = ("exponent", "interval", "interval, no floor")


class Curve(NamedTuple):
    """One group of rows: the first, sizes, values (over ``per``); and as drawn, what is expected of them and both bounds."""

    first: dict
    x: tuple
    y: tuple
    drawn: tuple
    beside: tuple | None
    low: tuple
    high: tuple


@dataclass(frozen=True)
class Bound:
    """What must be true of one column: the numbers that each curve of it is reduced to lie within both bounds.

    A bound that is a string names a column that holds it. Without any bound the column is drawn and not judged. Reductions that
    are intervals hold where they meet the bounds, and are out of regime where they do but are wider than twice ``halfwidth``.
    """

    column: str  # what is judged; rows without it, or without ``per``, are left out
    low: object = -math.inf
    high: object = math.inf
    equal: object = None  # both bounds at once
    over: str = ""  # the column of sizes: x of the plot, and of reductions that fit
    by: str = ""  # the column by whose values rows are split into curves; each of them is judged
    draws: str = ""  # what is taken of several rows at one size, one of `REDUCTIONS`; by default each counts
    reduce: str = "all"  # one of `REDUCTIONS`
    per: str = ""  # the column by which ``column`` is divided first; the plot expects it, times the mean of the bounds
    beside: str = ""  # the column that the plot expects, where it is not ``per``
    log: str = "xy"  # logarithmic axes of the plot, as in `Series`
    halfwidth: float = math.inf

    def __post_init__(self):
        if self.reduce not in REDUCTIONS or self.draws not in ("", *REDUCTIONS):
            raise ValueError(f"reduce is {self.reduce!r} and draws {self.draws!r}; expected {', '.join(REDUCTIONS)}")

    @property
    def ends(self):
        """(low, high)."""
        return (self.low, self.high) if self.equal is None else (self.equal, self.equal)

    @property
    def judges(self):
        """Whether it can fail."""
        return self.ends != (-math.inf, math.inf)

    @property
    def columns(self):
        """The columns that are measured rather than chosen."""
        named = (self.column, self.per, self.beside, *self.ends)
        return {name for name in named if isinstance(name, str)} - {""}

    def __call__(self, rows):
        """(verdict, value, reasons) of these rows."""
        curves = self.curves(rows)
        if not curves:
            return FAILS, f"no {self.column}", [f"no row has {self.column}"]
        found, verdicts, reasons = {}, [], []
        for name, curve in curves.items():
            found[name], (low, high) = self._reduced(curve), self.limits(curve.first)
            verdicts.append(self._verdict(found[name], low, high))
            says = f"{self._name} is {_span(found[name])}"
            if verdicts[-1] == FAILS:
                group = f"{name}: " if self.by else ""
                reasons.append(f"{group}{says}{self._where(curve, low, high)}, expected {between(low, high)}")
            elif verdicts[-1] == OUT_OF_REGIME:
                reasons.append(f"{says}, wider than ± {self.halfwidth:g}: too noisy to tell")
        return worst(verdicts), f"{self._name} {self._value(found)}", reasons

    @property
    def expected(self):
        """What must be true, in words."""
        width = f", known to ± {self.halfwidth:g}" if self.halfwidth < math.inf else ""
        return f"{self._name}: {between(*self.ends)}{width}"

    @property
    def _name(self):
        column = f"{self.column} over {self.per}" if self.per else self.column
        column = REDUCTIONS[self.draws].name.format(column=column) if self.draws else column
        return REDUCTIONS[self.reduce].name.format(column=column, over=self.over or "row")

    def _value(self, found):
        """The reduced numbers: by group where few differ, their range else."""
        groups = {}
        for name, values in found.items():
            groups.setdefault(_span(values), []).append(str(name))
        if 1 < len(groups) <= 6 and len(found) <= 12:
            return ", ".join(f"{value} ({', '.join(names)})" for value, names in groups.items())
        return _span([v for values in found.values() for v in values])

    def curves(self, rows):
        """One `Curve` per group."""
        groups = {}
        for row in rows:
            if self.column in row and (self.per or self.column) in row:
                groups.setdefault(row[self.by] if self.by else self.column, []).append(row)
        return {name: self._curve(some) for name, some in groups.items()}

    def _curve(self, rows):
        points = [(row[self.over] if self.over else i, row) for i, row in enumerate(rows)]
        points.sort(key=lambda point: point[0])
        at = [(x, [row]) for x, row in points]
        if self.draws:
            at = [(x, [row for _, row in some]) for x, some in groupby(points, lambda point: point[0])]
        take = lambda values: REDUCTIONS[self.draws or "first"].of((), values)[0]  # noqa: E731
        drawn = tuple(take([row[self.column] for row in some]) for _, some in at)
        y = tuple(take([_ratio(row[self.column], row[self.per]) for row in some]) for _, some in at) if self.per else drawn
        beside, first = self.beside or self.per, [some[0] for _, some in at]
        expected = tuple(_drawn(row[beside]) for row in first) if beside else None
        ends = zip(*([_drawn(end) * _drawn(row.get(self.per, 1)) for end in self.limits(row)] for row in first), strict=True)
        return Curve(points[0][1], tuple(x for x, _ in at), y, drawn, expected, *ends)

    def _reduced(self, curve):
        if not all(map(_finite, curve.y)):
            return (math.nan,) if self.reduce in FITTED else (next(v for v in curve.y if not _finite(v)),)
        try:
            return tuple(math.nan if v is None else v for v in REDUCTIONS[self.reduce].of(curve.x, curve.y))
        except ValueError:  # no polynomial, or too few sizes for a fit
            return (math.nan,)

    def limits(self, row):
        """(low, high) for a curve with this first row: numbers, columns looked up."""
        return tuple(row[end] if isinstance(end, str) else end for end in self.ends)

    def _verdict(self, values, low, high):
        if not all(map(_finite, values)):
            return FAILS
        if not self.reduce.startswith("interval"):
            return HOLDS if all(low <= v <= high for v in values) else FAILS
        a, b = values
        if not (a <= high and low <= b):
            return FAILS
        return HOLDS if b - a <= 2 * self.halfwidth else OUT_OF_REGIME

    def _where(self, curve, low, high):
        """The size of the value furthest beyond its bound."""
        if not self.over or self.reduce not in ("all", "max", "min"):
            return ""
        beyond = [(math.inf if not _finite(v) else max(low - v, v - high), x) for x, v in zip(curve.x, curve.y, strict=True)]
        return f" (at {self.over} = {text(max(beyond, key=lambda point: point[0])[1])})"

    def series(self, rows):
        """The curves of the plot."""
        return tuple(self._series(name, curve) for name, curve in self.curves(rows).items()) if self.over else ()

    def _series(self, name, curve):
        label = (
            f"{self.by} {'= ' * _is_number(name)}{name}"
            if self.by and (_is_number(name) or isinstance(name, tuple))
            else str(name)
        )
        says, predicted = self._predicted(curve)
        bound, low, high = self._bounds(curve)
        axes = (self.over, self.column, self.log)
        return Series(label, curve.x, tuple(map(_drawn, curve.drawn)), predicted, *axes, says, low, high, bound)

    def _predicted(self, curve):
        """What is expected of the curve, in words and at its sizes; None where that is bounds or nothing."""
        low, high = self.limits(curve.first)
        level, ends = self.reduce in LEVELS, [end for end in (low, high) if _finite(end)]
        if self.beside and self.reduce != "degree":
            return self.beside, curve.beside
        if self.per and self.reduce != "degree":
            exact = not level or (len(ends) == 2 and low < 1 < high)
            return (times(low, self.per), curve.low) if level and low == high else (self.per, curve.beside if exact else None)
        if not ends or not all(map(_finite, curve.drawn)):
            return "", None
        if self.reduce in FITTED:
            says = f"exponent {between(*self.ends)}, through the middle"
            return says, through(curve.x, curve.drawn, float(sum(ends) / len(ends)))
        if self.reduce == "degree":
            says = "expected degree" if isinstance(self.equal, str) else f"degree {between(*self.ends)}"
            return f"{says}, through the first counts", _polynomial(curve.x, curve.drawn, min(int(ends[0]), len(curve.x) - 1))
        return (text(self.equal), curve.low) if level and low == high else ("", None)

    def _bounds(self, curve):
        """The bounds in words, and the lower and the upper one at the sizes of the curve, None where there is none."""
        if self.reduce not in LEVELS or self.equal is not None or not self.judges:
            return "", None, None
        of = "" if self.reduce == "all" else {"max": "largest ", "min": "smallest "}.get(self.reduce, f"{self.reduce} ")
        low, high = (end if all(map(math.isfinite, end)) else None for end in (curve.low, curve.high))
        if low and high:
            return f"bounds: {of}{times(between(*self.ends), self.per)}", low, high
        end = self.high if high else self.low
        if isinstance(end, str) or (self.per and text(end) == "1"):
            return f"{'upper' if high else 'lower'} bound: {of}{times(end, self.per) if self.per else end}", low, high
        return f"bound: {of}at {'most' if high else 'least'} {times(end, self.per)}", low, high


def through(sizes, values, exponent):
    """The curve of this exponent through the geometric middle of the measured ``values``: what is predicted up to a factor."""
    powers = np.asarray(sizes, dtype=float) ** exponent
    return tuple((powers * geometric_mean(np.asarray(values, dtype=float) / powers)).tolist())


def times(factor, column):
    """So many times a column, in words."""
    return text(factor) if not column else column if text(factor) == "1" else f"{text(factor)} times {column}"


def _polynomial(sizes, counts, p):
    """The polynomial of degree p through the first p + 1 counts, at all sizes."""
    x, y = np.asarray(sizes, dtype=float), np.asarray(list(map(float, counts)))
    return tuple(np.polyval(np.polyfit(x[: p + 1], y[: p + 1], p), x).tolist())


def _finite(value):
    return isinstance(value, Number | np.generic) and math.isfinite(value)


def _is_number(name):
    """Whether a group is named by a number, or by the digits of one."""
    try:
        return math.isfinite(float(name))
    except (TypeError, ValueError):
        return False


def _ratio(a, b):
    """a / b, exact for integers."""
    return Fraction(a, b) if isinstance(a, int) and isinstance(b, int) and b else a / b


def _drawn(value):
    return float(value) if isinstance(value, Number | np.generic) else math.nan


def text(value):
    """A value for the report: floats to three digits, fractions as they are up to twelfths and else to five digits."""
    if isinstance(value, float | np.floating):
        return f"{value:.3g}"
    if isinstance(value, Fraction) and value.denominator > 12:
        return f"{float(value):.5g}"
    return str(value)


def _span(values):
    ends = (min(values), max(values)) if all(map(_finite, values)) else values
    return " to ".join(dict.fromkeys(map(text, ends)))


def between(low, high):
    """The bounds in words, with infinite ones left out."""
    if text(low) == text(high):
        return text(low)
    if low == -math.inf:
        return f"at most {text(high)}"
    return f"at least {text(low)}" if high == math.inf else f"{text(low)} to {text(high)}"
