"""Averages of statistics over steps and warm starts: what an old and a new one weigh, and the keys that they draw by."""

import math
from functools import partial

from nearlin._array import fold_in, namespace, read_number, require

_WARM = 0x7761726D  # keeps the draws of a warm start apart from those of the steps
_LABELS = 0x6C6162656C73  # and both apart from the weights, where these were drawn from the same key


def label_key(key, t):
    """The key of the labels that step t draws."""
    return fold_in(key, _LABELS, t)


def warm_key(key, count):
    """The key of batch ``count`` of a warm start."""
    return fold_in(key, _WARM, count)


def mean_weights(decay, count, warm=False, share=1.0):
    """Weights of an old average of ``count`` statistics and of a new one: 1 - 1/t and 1/t until 1/t < 1 - ``decay``.

    After a warm start they are ``decay`` and 1 - ``decay`` at once. The new one counts ``share`` times, as `weigh` has it.
    """
    new = 1 - decay if warm else max(1 - decay, 1 / (count + 1))
    total = 1 - new + new * share
    return (1 - new) / total, new * share / total


def weigh(size, mean, old, new):
    """How often a batch of ``size`` counts beside others of the mean size ``mean``, 0 before the first; and the mean with it.

    The size of a batch of n samples is n for a mean over samples. For the outer product of a mean gradient it is n²: a sum of
    n² g gᵀ over a sum of n² has the expectation of g gᵀ in batches of Σ n² / Σ n samples each. ``old`` and ``new`` are the
    weights of the average for batches of one size.
    """
    return (size / mean, old * mean + new * size) if mean else (1.0, float(size))


def weighted(weights, count, size, mean):
    """``weights`` of a count, for a batch of ``size`` after ``count`` others of the mean size ``mean``, and the mean with it."""
    share, mean = weigh(size, mean, *weights(count))
    return partial(weights, share=share), mean


def warmed(state, batches, at, observe, start=None, power=1):
    """The state after a warm start: its layers hold the means of the statistics of ``batches``.

    Parameters
    ----------
    state : LayerwiseState
    batches : iterable of tuple
        One (x, y) after another.
    at : callable
        The point of a batch.
    observe : callable
        ``observe(kept, point, weights, count)`` makes what is kept after batch ``count`` = 1, 2, ... of what was kept before it,
        by the weights of a count, and the sentences of statistics that are not finite.
    start : optional
        What is kept before the first.
    power : int
        A batch of n samples weighs n to this power; see `weigh`.

    Raises
    ------
    ValueError
        No batch.
    ArithmeticError
        A statistic that holds NaN or Inf.
    """
    kept, count, mean = start, 0, 0.0
    for count, batch in enumerate(batches, start=1):
        point = at(batch)
        weights, mean = weighted(partial(mean_weights, 1.0), count - 1, point.samples**power, mean)
        kept, lost = observe(kept, point, weights, count)
        if lost:
            raise ArithmeticError(f"batch {count} of the warm start: {lost[0]}; expected finite numbers")
    require(count, "batches is empty; expected at least one (x, y)")
    return state._replace(layers=kept, statistics=count, warm=True, size=mean)


def average(X, statistic, old, new):
    """``old`` X + ``new`` S and True; where S, symmetric and semidefinite, is not finite X and False. None stands for zeros."""
    S = new * statistic
    if not math.isfinite(read_number(namespace(S).linalg.trace(S))):  # no entry is larger than the trace
        return namespace(S).zeros_like(S) if X is None else X, False
    return S if X is None else old * X + S, True
