"""Full-batch training runs for claims on convergence: residual norms, inner accuracies and weights along the way."""

import functools
import math
from dataclasses import dataclass

import numpy as np

from nearlin._array import fold_in
from nearlin.linalg import FactorizationError
from nearlin.nn import Objective, SquaredLoss, TwoLayer
from nearlin.nn.two_layer import DRAW


@dataclass(frozen=True)
class Trajectory:
    """What a run leaves.

    Attributes
    ----------
    residuals : tuple of float
        ||r_t|| before the first step and after every step; infinite where the step could not be made.
    infos : tuple of StepInfo
        What every step reported.
    start, end : array, (m, d)
        Weights before and after.
    """

    residuals: tuple
    infos: tuple
    start: np.ndarray
    end: np.ndarray

    @property
    def ratios(self):
        """||r_{t+1}|| / ||r_t||, one per step."""
        return tuple(b / a for a, b in zip(self.residuals[:-1], self.residuals[1:], strict=True))

    @property
    def inner(self):
        """Relative true residual of every step's linear system."""
        return tuple(info.solve.residual for info in self.infos)

    @property
    def steps(self):
        """Steps made."""
        return len(self.residuals) - 1

    def steps_to(self, reduction):
        """Steps made, if the last residual is at most ``reduction`` times the first; else infinity."""
        return self.steps if self.residuals[-1] <= reduction * self.residuals[0] else math.inf


def train(optimizer, x, y, width, key, steps, reduction=0.0, activation="relu"):
    """Train a two-layer network on the whole of (x, y) until ||r|| <= ``reduction`` ||r_0||, for at most ``steps`` steps."""
    objective = Objective(TwoLayer(x.shape[1], width, activation), SquaredLoss())
    return follow(optimizer, objective, (neurons(x.shape[1], width, key),), (x, y), key, steps, reduction)


def follow(optimizer, objective, params, batch, key, steps, reduction=0.0):
    """The same for any network with the squared loss, from ``params``; the `Trajectory` has the weights of its first layer."""
    start, state = params, optimizer.init(params, objective)
    residuals, infos = [_size(objective, params, *batch)], []
    for t in range(steps):
        try:
            params, state, info = optimizer.step(params, state, objective, batch, fold_in(key, t))
        except FactorizationError:  # a singular Gram matrix: there is no such step
            residuals.append(math.inf)
            break
        residuals.append(_size(objective, params, *batch))
        infos.append(info)
        if residuals[-1] <= reduction * residuals[0]:
            break
    return Trajectory(tuple(residuals), tuple(infos), start[0], params[0])


def neurons(d, width, key):
    """The start W (m, d) of a `TwoLayer` network for ``key``: leading rows of a draw that all widths share."""
    return _draw(d, -(-width // DRAW), key)[:width].copy()


@functools.lru_cache(maxsize=4)
def _draw(d, chunks, key):
    return TwoLayer(d, chunks * DRAW).init(key, np.empty(0))[0]


def _size(objective, params, x, y):
    return float(np.linalg.norm(objective.at(params, (x, y)).residual))
