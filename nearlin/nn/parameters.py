"""What optimizers do to parameters besides their direction: momentum, moments, weight decay, biases apart, one vector."""

import math

from nearlin._array import namespace
from nearlin.linalg import axpy

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


def adam_moments(g, M, V, t, betas, epsilon_hat, second_moment_of="gradient"):
    """Adam's moments after gradient ``g`` of step t = 1, 2, ..., and the root that divides its step.

    M ← β₁ M + (1 - β₁) g,  V ← β₂ V + (1 - β₂) g²,  √(V / (1 - β₂ᵗ)) + epsilon_hat;  None stands for 0. With
    ``second_moment_of="mean"`` V averages the square of M / (1 - β₁ᵗ). Kingma, Ba, arXiv:1412.6980, Algorithm 1; 10 p flops, 6 p
    the first time, p more for the mean.
    """
    beta1, beta2 = betas
    g1 = (1 - beta1) * g
    M = g1 if M is None else beta1 * M + g1
    s = g if second_moment_of == "gradient" else M / (1 - beta1**t)
    s2 = (1 - beta2) * s * s
    V = s2 if V is None else beta2 * V + s2
    return M, V, namespace(g).sqrt(V / (1 - beta2**t)) + epsilon_hat


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
