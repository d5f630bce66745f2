"""Trial points: the decrease of the loss beside the model's, and the forward pass that an accepted one saves the next step."""

import math
from typing import NamedTuple

from nearlin._array import checked_together, copies, is_array, look, same
from nearlin.linalg import axpy, norms
from nearlin.nn import Point


class Recall(NamedTuple):
    """An accepted trial point with copies of what it was evaluated at: the next step's forward pass, already made."""

    objective: object
    inputs: tuple
    point: Point

    @classmethod
    def of(cls, objective, params, batch, point):
        """None where normalisation layers have statistics of the batch: they belong to the step that asks for them."""
        if point.statistics:
            return None
        return cls(objective, copies((*params, *objective.arrays(batch))), point)


def recalled(recall, objective, params, batch):
    """The point of a `Recall` or None, if it was evaluated at just these parameters and this batch; else None."""
    if recall is None or recall.objective != objective:
        return None
    inputs = (*params, *objective.arrays(batch))
    return recall.point if objective.agreed(all(map(is_array, inputs)) and same(recall.inputs, inputs)) else None


class Trial(NamedTuple):
    """Trial parameters, the point there (None if not finite), its loss, predicted decrease, and actual over predicted."""

    params: tuple
    point: Point | None
    loss: float
    predicted: float
    ratio: float


def attempt(objective, point, batch, step, image, lr, **kept):
    """Go from ``point`` to θ - lr ``step`` and compare the decrease with the Gauss-Newton model's.

    Parameters
    ----------
    objective : Objective
    point : Point
        Where the step starts.
    batch : tuple
        The (x, y) of ``point``.
    step : tuple
        δ, shaped like the parameters.
    image : array, shape (n c,)
        J δ.
    lr : float
    **kept
        Of `Objective.at`.

    Returns
    -------
    Trial
        Its ``ratio`` is (L - L⁺) / ((||r||² - ||r - lr J δ||²) / 2n); NaN where a number is not finite or the model predicts
        no decrease.

    Notes
    -----
    One forward pass.
    """
    params = axpy(-lr, step, point.params)
    r = point.residual
    before, modelled, *sizes = norms(r, r - lr * image, *params)
    if not all(map(math.isfinite, sizes)):
        return Trial(point.params, None, math.nan, math.nan, math.nan)
    predicted = (before**2 - modelled**2) / (2 * point.samples)
    losses = []
    with checked_together():  # one reading with what the objective checks
        new = objective.at(params, batch, **kept)
        look(lambda *found: losses.extend(found), point.loss, new.loss)
    loss, after = losses
    actual = loss - after
    return Trial(params, new, after, predicted, actual / predicted if predicted > 0 else math.nan)
