"""What optimizers do to parameters besides their direction: step sizes by schedule, weight decay, weights apart from biases."""

import math
from dataclasses import dataclass
from numbers import Real

from nearlin._array import namespace
from nearlin.linalg import axpy

# ------------------------------------------------------------------------------------------------------------ step sizes


def check_lr(lr):
    """Raise `ValueError` unless ``lr`` is a positive finite number or a callable schedule of the step counter."""
    if not callable(lr) and not (isinstance(lr, Real) and 0 < lr < math.inf):
        raise ValueError(f"lr is {lr!r}; expected a positive number or a schedule of the step counter")


def check_weight_decay(weight_decay):
    """Raise `ValueError` unless ``weight_decay`` is a finite number >= 0."""
    if not (isinstance(weight_decay, Real) and 0 <= weight_decay < math.inf):
        raise ValueError(f"weight_decay is {weight_decay!r}; expected a number >= 0")


def rate(lr, t):
    """The step size of step ``t`` = 0, 1, ..., as a float.

    Parameters
    ----------
    lr : float or callable
        A step size, or a schedule t -> step size, such as `StepDecay`.
    t : int
        Steps taken before this one.

    Raises
    ------
    ValueError
        A schedule that returns a negative number, NaN or Inf.
    """
    value = float(lr(t) if callable(lr) else lr)
    if not 0 <= value < math.inf:
        raise ValueError(f"the schedule lr gives {value!r} at step {t}; expected a number >= 0")
    return value


@dataclass(frozen=True)
class StepDecay:
    """The schedule lr factor^⌊t / period⌋ of the step counter t.

    Parameters
    ----------
    lr : float
        Step size of the first ``period`` steps.
    factor : float
        In (0, 1].
    period : int
        Steps between two reductions; epochs times the number of batches of one epoch.
    """

    lr: float
    factor: float
    period: int

    def __post_init__(self):
        if not (isinstance(self.lr, Real) and 0 < self.lr < math.inf):
            raise ValueError(f"lr is {self.lr!r}; expected a positive number")
        if not (isinstance(self.factor, Real) and 0 < self.factor <= 1):
            raise ValueError(f"factor is {self.factor!r}; expected a number in (0, 1]")
        if isinstance(self.period, bool) or not isinstance(self.period, int) or self.period < 1:
            raise ValueError(f"period is {self.period!r}; expected a positive integer, the steps between two reductions")

    def __call__(self, t):
        return self.lr * self.factor ** (t // self.period)


# ----------------------------------------------------------------------------------------------------------------- momentum


def velocity(old, grads, params, momentum, form="sum", l2=0.0):
    """v ← momentum v + g, or momentum v + (1 - momentum) g with ``form="average"``, from v = None, which stands for 0.

    ``l2`` adds l2 θ to g. 2 p flops a step, p more for the average, 2 p more for ``l2``.
    """
    if l2:
        grads = axpy(l2, params, grads)
    if form == "average":
        grads = tuple((1 - momentum) * g for g in grads)
    return grads if old is None else axpy(momentum, old, grads)


# ------------------------------------------------------------------------------------------------------- weights and biases


def split_bias(W, spec):
    """The matrix of one layer as weights (out, fan_in) and bias (out,), or None where the layer has none; views, no flops.

    Parameters
    ----------
    W : array, shape ``spec.shape``
        [W b] of a dense, conv or graph layer; a normalisation layer's shift counts as its bias.
    spec : LayerSpec
    """
    if not spec.bias:
        return W, None
    return W[:, :-1], W[:, -1]


def join_bias(weights, bias):
    """The matrix [W b] that `split_bias` took apart."""
    if bias is None:
        return weights
    xp = namespace(weights, bias)
    return xp.concat([weights, xp.expand_dims(bias, axis=1)], axis=1)


def decay(params, layers, factor, exempt=False):
    """Decoupled weight decay θ ← (1 - factor) θ; p flops, and none where ``factor`` is 0.

    Parameters
    ----------
    params : tuple of arrays
        One matrix per layer.
    layers : tuple of LayerSpec
    factor : float
        Step size times weight decay.
    exempt : bool
        Leave the biases of dense, conv and graph layers, and both columns of normalisation layers, as they are.

    Returns
    -------
    tuple of arrays
        New matrices; those that nothing happens to are returned as they are.

    Notes
    -----
    Loshchilov, Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101; biases are not exempt there.
    """
    if factor == 0:
        return tuple(params)
    keep = 1.0 - float(factor)
    if not exempt:
        return tuple(keep * W for W in params)
    return tuple(_decayed_weights(W, spec, keep) for W, spec in zip(params, layers, strict=True))


def _decayed_weights(W, spec, keep):
    if spec.kind == "norm":
        return W
    weights, bias = split_bias(W, spec)
    return join_bias(keep * weights, bias)


# ------------------------------------------------------------------------------------------------------------- as one vector


def ravel(params):
    """All entries of a tuple of arrays in one vector, in order; a copy, no flops."""
    return namespace(*params).concat([namespace(W).reshape(W, (-1,)) for W in params])


def unravel(vector, like):
    """The parts of ``vector`` in the shapes of the arrays ``like``: what `ravel` put together."""
    parts, start = [], 0
    for W in like:
        size = math.prod(W.shape)
        parts.append(namespace(vector).reshape(vector[start : start + size], W.shape))
        start += size
    return tuple(parts)
