"""Parameters with their biases apart, in blocks that are changed on their own, and as one vector."""

import math
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from nearlin._array import asarray, namespace

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


def weights_of(params, layers):
    """The weights of the layers, without biases and normalisations: views of ``params``, but where there is an input scale."""
    return tuple(_unscaled(split_bias(W, spec)[0], spec) for W, spec in zip(params, layers, strict=True) if spec.kind != "norm")


def without_biases(params, layers):
    """D ``params``, the gradient of half the squares of `weights_of`: zeros in the place of biases and of normalisations.

    D is 1 for weights, 1/s² for those of a layer with an input scale s.
    """
    return tuple(map(_without_bias, params, layers))


def _without_bias(W, spec):
    if spec.kind == "norm":
        return namespace(W).zeros_like(W)
    weights, bias = split_bias(W, spec)
    weights = _unscaled(_unscaled(weights, spec), spec)
    return weights if bias is None else join_bias(weights, namespace(bias).zeros_like(bias))


def _unscaled(weights, spec):
    return weights / asarray(spec.input_scale, like=weights) if spec.input_scale else weights


def ungrouped(layers):
    """``layers`` with a convolution of g groups as g convolutions, side by side."""
    return tuple(
        replace(spec, out=spec.out // spec.groups, inp=spec.depth, groups=1) for spec in layers for _ in range(spec.groups)
    )


def split_groups(params, layers):
    """The matrices of the `ungrouped` layers: rows of ``params``, views."""
    return tuple(
        W[i : i + spec.out // spec.groups, :]
        for W, spec in zip(params, layers, strict=True)
        for i in range(0, spec.out, spec.out // spec.groups)
    )


def join_groups(parts, layers):
    """The matrices, one per layer, that `split_groups` took apart."""
    rest = iter(parts)
    groups = [tuple(islice(rest, spec.groups)) for spec in layers]
    return tuple(own[0] if len(own) == 1 else namespace(*own).concat(own, axis=0) for own in groups)


class Block(NamedTuple):
    """A part of a layer's matrix that is changed on its own: all of it, its weights, or its bias."""

    layer: int
    part: str


def layer_blocks(layers, bias):
    """The `Block` s of ``layers``, in order, with biases ``"augmented"``, ``"separate"`` or ``"none"``."""
    made = []
    for i, spec in enumerate(layers):
        parts = ("matrix",) if bias == "augmented" or not spec.bias else ("weights", "bias")
        made += [Block(i, part) for part in (parts if bias != "none" else parts[:1])]
    return tuple(made)


def take_block(G, spec, part):
    """A block of a matrix, as a matrix."""
    if part == "matrix":
        return G
    weights, bias = split_bias(G, spec)
    return weights if part == "weights" else bias[:, None]


def move_block(W, spec, part, step, rho):
    """W with a step in one of its blocks."""
    if part == "matrix":
        return W - step * rho
    weights, bias = split_bias(W, spec)
    if part == "weights":
        return join_bias(weights - step * rho, bias)
    return join_bias(weights, bias - step * rho[:, 0])


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
