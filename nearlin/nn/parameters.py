"""Parameters with their biases apart, and as one vector."""

import math

from nearlin._array import namespace

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
