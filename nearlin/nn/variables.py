"""Parameters as separate tensors: weights, kernels by filter and channel, biases, scales and shifts."""

from nearlin._array import namespace
from nearlin.nn.parameters import join_bias, split_bias


def split_tensors(params, layers, reshape="filter"):
    """The variables of all layers in order, as views where the backend has them: first a layer's weights, then its bias.

    Parameters
    ----------
    params : tuple of arrays
        One matrix per layer, or anything shaped like that.
    layers : tuple of LayerSpec
    reshape : str
        Kernels as (out, inp, kernel²), ``"filter"``, or as (out, inp kernel²), ``"matrix"``.

    Returns
    -------
    list of arrays
        Dense and graph weights (out, inp), kernels of two or three axes, scales and biases (out,).
    """
    return [part for W, spec in zip(params, layers, strict=True) for part in _parts(W, spec, reshape)]


def _parts(W, spec, reshape):
    weights, bias = split_bias(W, spec)
    if spec.kind == "norm":
        weights = weights[:, 0]
    elif spec.kind == "conv" and reshape == "filter":
        weights = namespace(W).reshape(weights, (spec.out, spec.depth, spec.entries))
    return (weights,) if bias is None else (weights, bias)


def join_tensors(variables, layers):
    """The matrices, one per layer, that `split_tensors` took apart."""
    parts, made = iter(variables), []
    for spec in layers:
        weights, bias = next(parts), next(parts) if spec.bias else None
        made.append(join_bias(namespace(weights).reshape(weights, (spec.out, spec.fan_in)), bias))
    return tuple(made)


def tensor_names(layers):
    """What to call each of the `split_tensors` in a message: ``layer 2 weights``, ``layer 2 bias``; layers count from 0."""
    kinds = {"norm": ("scale", "shift")}
    pairs = [(i, spec, kinds.get(spec.kind, ("weights", "bias"))) for i, spec in enumerate(layers)]
    return [f"layer {i} {kind}" for i, spec, pair in pairs for kind in pair[: 1 + spec.bias]]
