"""The deep networks that claims are measured on, and walks along their training.

Data are the digits that ship with scikit-learn, inputs divided by 16, raw or centred.
"""

import functools
from typing import NamedTuple

import numpy as np

from nearlin.data import digits
from nearlin.nn import MLP, Objective, SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredLoss, autoencoder
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


@functools.cache
def _digits():
    """Rows of 64 numbers in [0, 1], and labels."""
    images, _ = digits()
    return images.floats("float64", flat=True), np.asarray(images.y, dtype=np.int64)


def inputs(n, centred):
    """The first n digits; ``centred`` takes off the mean of all of them."""
    x, _ = _digits()
    return x[:n] - x.mean(axis=0) if centred else x[:n].copy()


def targets(n, c):
    """Least-squares targets (n, c): whether a digit is above 4, or which of the first c it is; less their mean."""
    y = _digits()[1][:n]
    found = np.where(y > 4, 1.0, -1.0)[:, None] if c == 1 else np.eye(10)[y][:, :c]
    return found - found.mean(axis=0)


def on_digits(n, c, widths, activation="relu", centred=True, loss=SQUARED, key=1):
    """A multi-layer perceptron on n digits: least squares on `targets`, or another loss on the labels."""
    x, network = inputs(n, centred), MLP((64, *widths, c), activation)
    y = targets(n, c) if loss == SQUARED else _digits()[1][:n]
    return Problem(Objective(network, loss), network.init(key, x), (x, y))


def named(widths, c, activation, centred):
    """The words of a report for the network of `on_digits`."""
    return f"{activation} {'-'.join(map(str, (64, *widths, c)))} {'centred' if centred else 'raw'}"


def autoencoding(n, key=1):
    """The auto-encoder 64-32-16-8 with tanh on n digits, by cross-entropy."""
    x, network = inputs(n, centred=False), autoencoder((64, 32, 16, 8), "tanh")
    return Problem(Objective(network, SigmoidCrossEntropy()), network.init(key, x), (x, x))


def walk(p, optimizer, steps, until=0.0):
    """(problem, info) for every step, the problem as it was before it; at the end, the last problem and None."""
    state = optimizer.init(p.params, p.objective)
    for t in range(steps):
        params, state, info = optimizer.step(p.params, state, p.objective, p.batch, t)
        yield p, info
        p = p._replace(params=params)
        if info.new_loss <= until or StepExit.of(info.reason) is StepExit.STALLED:
            break
    yield p, None


def trained(p, steps, optimizer=GAUSS_NEWTON):
    """The problem after some steps."""
    *_, (after, _) = walk(p, optimizer, steps)
    return after
