"""Decoupled weight decay."""

from nearlin.nn import join_bias, split_bias


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
