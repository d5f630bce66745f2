"""From checked rows to a fitted network: the table of what is fitted, held-out rows, and the choice of the penalty."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

from nearlin import nn
from nearlin._array import asarray, namespace
from nearlin.experiments.batches import Batches
from nearlin.sklearn.descent import Rule, descend
from nearlin.sklearn.inputs import take
from nearlin.sklearn.scaling import Scaling

PENALTIES = (1e-2, 1e-3, 1e-4)  # ω, alpha per row: the largest first
HELD_OUT = 0.1  # of the rows, to choose among them
MANY = 8000  # rows that are enough to choose
FEW = 100  # rows below which none are held out
MIDDLE = 1e-3  # ω there


class Outputs(NamedTuple):
    """What targets ask of a network.

    Attributes
    ----------
    codes : numpy.ndarray
        Positions of classes (n,), an indicator (n, k), or numbers (n, k): what a score compares with.
    targets : numpy.ndarray
        The same as the loss takes them.
    labels : numpy.ndarray or None
        Classes, whose proportions held-out rows keep.
    number : int
        Of outputs.
    activation : str
        Of the outputs, as scikit-learn names it.
    loss : loss of `nearlin.nn`
    """

    codes: np.ndarray
    targets: np.ndarray
    labels: np.ndarray | None
    number: int
    activation: str
    loss: object


@dataclass(frozen=True, eq=False)
class Table:
    """Scaled rows next to a backend.

    Parameters
    ----------
    x, y : array
        Inputs as the network takes them, and targets as the loss does.
    weights : array or None
        Of mean 1.
    labels : numpy.ndarray or None
        As in `Outputs`.
    rows : numpy.ndarray
        Their numbers in the whole table.
    """

    x: object
    y: object
    weights: object
    labels: np.ndarray | None
    rows: np.ndarray

    @property
    def n(self):
        """Number of rows."""
        return len(self.rows)

    @property
    def batch(self):
        """(x, y), or (x, y, w)."""
        return (self.x, self.y) if self.weights is None else (self.x, self.y, self.weights)

    def __getitem__(self, rows):
        weights = None if self.weights is None else take(self.weights, rows)
        weights = None if weights is None else weights / namespace(weights).mean(weights)
        labels = None if self.labels is None else self.labels[rows]
        return Table(take(self.x, rows), take(self.y, rows), weights, labels, self.rows[rows])

    def single(self):
        """The rows in float32."""
        single = namespace(self.x).float32
        (x,), y = cast((self.x,), single), self.y
        if not namespace(y).isdtype(y.dtype, "integral"):
            (y,) = cast((y,), single)
        return replace(self, x=x, y=y, weights=None if self.weights is None else cast((self.weights,), single)[0])

    def split(self, fraction, random):
        """The rows to fit and those held out, with the classes in their proportions where that can be."""
        counts = () if self.labels is None else np.unique(self.labels, return_counts=True)[1]
        several = len(counts) and min(counts) > 1 and min(fraction, 1 - fraction) * self.n >= len(counts)
        options = {"test_size": fraction, "random_state": random, "stratify": self.labels if several else None}
        return tuple(self[part] for part in train_test_split(np.arange(self.n), **options))


def cast(arrays, dtype):
    """A tuple of arrays in a dtype of their namespace."""
    return tuple(namespace(a).astype(a, dtype, copy=False) for a in arrays)


def tabulate(rows, outputs, layers, standardize):
    """The `Table` of checked `Rows` as a `Perceptron` takes them, and the `Scaling` that made it."""
    X, numeric = rows.X, outputs.codes.dtype.kind == "f"
    mean = 1.0 if rows.weights is None else float(np.mean(rows.weights))
    weights = None if rows.weights is None else asarray(rows.weights / mean, like=X)
    y = asarray(outputs.targets, like=X, dtype="int64" if outputs.targets.dtype.kind == "i" else None)
    scaling = Scaling.fit(X, y if numeric else None, weights) if standardize else Scaling()
    n = X.shape[0]
    table = Table(layers.inputs(scaling.inputs(X)), scaling.targets(y), weights, outputs.labels, np.arange(n))
    return table, scaling


@dataclass(frozen=True, eq=False)
class Task:
    """What is fitted, and how.

    Parameters
    ----------
    layers : Perceptron
    loss : loss of `nearlin.nn`
    optimizer, rough : optimizer of `nearlin.optim`
        Of the last fit, and of those that choose the penalty.
    batch_size : int or None
    rule : Rule
    key : int
        Of all draws.
    verbose : bool
    """

    layers: object
    loss: object
    optimizer: object
    rough: object
    batch_size: int | None
    rule: Rule
    key: int
    verbose: bool = False

    @cached_property
    def network(self):
        """The network of `nearlin.nn`."""
        return self.layers.network

    def objective(self, l2=0.0):
        """The mean loss with a penalty."""
        return nn.Objective(self.network, self.loss, l2=l2)

    def fit(self, table, l2, params, score=None, lost=None):
        """The `Fitted` from ``params`` on."""
        batches = Batches(table.batch, self.batch_size and min(self.batch_size, table.n), self.key)
        return descend(self.optimizer, self.objective(l2), params, batches, self.rule, self.key, score, self.verbose, lost)

    def value(self, table, params, l2=0.0):
        """The mean loss of a table, a float."""
        return float(self.objective(l2).at(params, table.batch).loss)

    def choose(self, table, start, random):
        """The penalty ω with the least loss on held-out rows, and parameters fitted with it.

        They are tried from the largest on, each from ``start``, until one is worse than that before it; a fit by steps on all
        rows also ends where its held-out loss is above the best one and rises. The best goes on on all of ``table``.
        """
        quiet, best = replace(self, verbose=False, optimizer=self.rough, rule=self.rule.halved()), None
        start, dtype = cast(start, table.x.dtype), start[0].dtype
        some = table if table.n <= MANY else table.split(MANY / table.n, random)[1]
        fitted, held_out = some.split(HELD_OUT, random)
        for l2 in PENALTIES:
            lost = self._lost(held_out, best[0]) if best and self.batch_size is None else None
            params = quiet.fit(fitted, l2, start, lost=lost).params
            loss = self.value(held_out, params)
            if best is not None and loss > best[0]:
                break
            best = loss, l2, params
        return best[1], cast(quiet.fit(table, *best[1:]).params, dtype)

    def _lost(self, held_out, least):
        """``lost(params)`` for `descend`: whether the held-out loss is above ``least`` and has risen since the last call."""
        last = math.inf

        def lost(params):
            nonlocal last
            before, last = last, self.value(held_out, params)
            return last > max(least, before)

        return lost
