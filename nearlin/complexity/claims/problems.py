"""The problems that claims are measured on, walks along their training, and what such a run leaves.

Points lie on the sphere, with standard normal labels, or are the digits that ship with scikit-learn, inputs divided by 16, raw or
centred.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from nearlin._array import fold_in
from nearlin.complexity.claims import data
from nearlin.complexity.counting import count, wrap
from nearlin.data import digits
from nearlin.linalg import FactorizationError
from nearlin.nn import MLP, Objective, SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredLoss, TwoLayer, autoencoder
from nearlin.optim import GaussNewton
from nearlin.steps import StepExit

SQUARED, SOFTMAX = SquaredLoss(), SoftmaxCrossEntropy()
GAUSS_NEWTON = GaussNewton()


class Problem(NamedTuple):
    """An objective, parameters, and the batch (x, y)."""

    objective: Objective
    params: tuple
    batch: tuple

    def jacobian(self):
        """Cᵀ J with the roots C of the output Hessians."""
        return self.objective.at(self.params, self.batch).jacobian(weighted=True)

    def residual(self):
        """Outputs less targets."""
        return self.objective.at(self.params, self.batch).residual

    def step(self, optimizer, state=None, key=0):
        """Parameters, state and info of one step from ``state``, by default the first."""
        state = optimizer.init(self.params, self.objective) if state is None else state
        return optimizer.step(self.params, state, self.objective, self.batch, key)


def starting(network, x, y, key, loss=SQUARED):
    """The problem of a network at its start."""
    return Problem(Objective(network, loss), network.init(key, x), (x, y))


def on_sphere(n, d, m, key, activation="relu"):
    """A two-layer network of m neurons on n points in d dimensions; data and start by one key."""
    return starting(TwoLayer(d, m, activation), data.sphere(n, d, key), data.labels(n, key), key)


def problem(n, d, m, dtype="float64", counting=False, hidden=0):
    """A two-layer network of m neurons, or a perceptron of ``hidden`` layers of them, on NumPy arrays or on counting ones."""
    x, y = data.sphere(n, d, key=3).astype(dtype), data.labels(n, 3).astype(dtype)
    made = starting(MLP((d, *hidden * (m,), 1)), x, y[:, None], 1) if hidden else starting(TwoLayer(d, m), x, y, 1)
    return wrap(made) if counting else made


@functools.cache
def _digits():
    """Rows of 64 numbers in [0, 1], and labels."""
    images, _ = digits()
    return images.floats("float64", flat=True), np.asarray(images.y, dtype=np.int64)


def on_digits(n, c, widths, activation="relu", centred=True, loss=SQUARED, key=1):
    """A multi-layer perceptron on the first n digits, less the mean of all where ``centred``; another loss takes the labels.

    Least-squares targets (n, c) are whether a digit is above 4, or which of the first c it is; less their mean.
    """
    x, labels = _digits()
    y = np.where(labels[:n] > 4, 1.0, -1.0)[:, None] if c == 1 else np.eye(10)[labels[:n], :c]
    y = y - y.mean(axis=0) if loss == SQUARED else labels[:n]
    return starting(MLP((64, *widths, c), activation), x[:n] - centred * x.mean(axis=0), y, key, loss)


def named(widths, c, activation, centred):
    """The words of a report for the network of `on_digits`."""
    return f"{activation} {'-'.join(map(str, (64, *widths, c)))} {'centred' if centred else 'raw'}"


def autoencoding(n, key=1):
    """The auto-encoder 64-32-16-8 with tanh on n digits, by cross-entropy."""
    x = _digits()[0][:n]
    return starting(autoencoder((64, 32, 16, 8), "tanh"), x, x, key, SigmoidCrossEntropy())


def walk(p, optimizer, steps, until=0.0):
    """(problem, info) for every step, the problem as it was before it; at the end, the last problem and None."""
    state = optimizer.init(p.params, p.objective)
    for t in range(steps):
        params, state, info = p.step(optimizer, state, t)
        yield p, info
        p = p._replace(params=params)
        if info.new_loss <= until or StepExit.of(info.reason) is StepExit.STALLED:
            break
    yield p, None


def counted_steps(p, optimizer, steps):
    """(flops, info, state) of each of some steps."""
    state = optimizer.init(p.params, p.objective)
    for t in range(steps):
        with count() as tally:
            params, state, info = p.step(optimizer, state, t)
        yield tally.total, info, state
        p = p._replace(params=params)


def trained(p, steps, optimizer=GAUSS_NEWTON):
    """The problem after some steps."""
    *_, (after, _) = walk(p, optimizer, steps)
    return after


class Run(NamedTuple):
    """What training leaves: ||r_t|| before the first step and after each, what steps report, first weights before and after.

    A residual is infinite where the step could not be made.
    """

    residuals: tuple
    infos: tuple
    start: np.ndarray
    end: np.ndarray

    @property
    def ratios(self):
        """||r_{t+1}|| / ||r_t||, one per step."""
        return tuple(b / a for a, b in zip(self.residuals[:-1], self.residuals[1:], strict=True))


def train(optimizer, p, key, steps, reduction=0.0):
    """The `Run` of full-batch steps on a problem with the squared loss, until ||r|| <= ``reduction`` ||r_0||."""
    start, state = p.params[0], optimizer.init(p.params, p.objective)
    residuals, infos = [float(np.linalg.norm(p.residual()))], []
    for t in range(steps):
        try:
            params, state, info = p.step(optimizer, state, fold_in(key, t))
        except FactorizationError:  # a singular Gram matrix: there is no such step
            residuals.append(math.inf)
            break
        p = p._replace(params=params)
        residuals.append(float(np.linalg.norm(p.residual())))
        infos.append(info)
        if residuals[-1] <= reduction * residuals[0]:
            break
    return Run(tuple(residuals), tuple(infos), start, p.params[0])
