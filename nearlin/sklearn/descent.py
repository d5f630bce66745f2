"""The fit of one network: iterations over batches, and the rule that ends them."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from nearlin._array import fold_in

_WARM = 0x7761726D  # keeps the draws before the first step apart from those of the steps


@dataclass(frozen=True)
class Rule:
    """When a fit ends.

    Parameters
    ----------
    max_iter : int
    tol : float
        An iteration that lowers the loss (or raises the score of held-out rows) by less is no progress.
    n_iter_no_change : int
        So many iterations in a row without progress end the fit.
    """

    max_iter: int
    tol: float
    n_iter_no_change: int

    def halved(self):
        """A rule that ends after half as many iterations without progress."""
        return replace(self, n_iter_no_change=max(1, self.n_iter_no_change // 2))


class Fitted(NamedTuple):
    """Where a fit ended.

    Attributes
    ----------
    params : tuple of arrays
    losses : list of float
        After every step on all rows, or the mean over the mini-batches of every pass.
    scores : list of float or None
        Of held-out rows.
    converged : bool
    """

    params: tuple
    losses: list
    scores: list | None
    converged: bool


def descend(optimizer, objective, params, batches, rule, key, score=None, verbose=False, lost=None):
    """Iterate until the `Rule` ends it.

    Parameters
    ----------
    optimizer : optimizer of `nearlin.optim`
    objective : Objective
    params : tuple of arrays
        Where to start.
    batches : nearlin.experiments.batches.Batches
    rule : Rule
    key : int
        Of all draws.
    score : callable, optional
        ``score(params)`` on held-out rows: the best parameters are returned, and progress is that of the score.
    verbose : bool
        Print a line an iteration.
    lost : callable, optional
        ``lost(params)`` after every iteration: where it is true the fit ends.

    Returns
    -------
    Fitted

    Raises
    ------
    ValueError
        A loss that is not finite, or what the optimizer refuses.
    """
    state, losses, scores, best, idle, t = optimizer.init(params, objective), [], [], (-math.inf, params), 0, 0
    if hasattr(optimizer, "warm_start") and not batches.full:
        state = optimizer.warm_start(params, state, objective, batches.in_order(), fold_in(key, _WARM))
    while len(losses) < rule.max_iter and idle < rule.n_iter_no_change:
        total = 0.0
        for _ in range(batches.per_epoch):
            batch = batches(t)
            params, state, info = optimizer.step(params, state, objective, batch, key=fold_in(key, t))
            total, t = total + batch[0].shape[0] / batches.rows * _loss(info), t + 1
        if not math.isfinite(total):
            raise ValueError(f"the loss is {total} after {len(losses) + 1} iterations; scale the inputs, or take smaller steps")
        losses.append(total)
        scores.append(-total if score is None else score(params))
        idle = 0 if scores[-1] > best[0] + rule.tol else idle + 1
        if scores[-1] > best[0]:
            best = scores[-1], params
        if verbose:
            print(f"iteration {len(losses)}: loss {total:.8f}" + (f", held-out score {scores[-1]:.4f}" if score else ""))
        if lost is not None and lost(params):
            break
    converged = idle >= rule.n_iter_no_change
    return Fitted(params if score is None else best[1], losses, scores if score else None, converged)


def _loss(info):
    """The loss of a step's batch after it, or before it where the method does not look."""
    after = getattr(info, "new_loss", None)
    return float(info.loss if after is None else after)
