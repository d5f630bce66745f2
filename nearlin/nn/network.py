"""Networks as sequences of layers: plain perceptrons, convolutional networks, residual blocks."""

import functools
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from nearlin._array import check, fold_in, not_negative, pooled, settle, unguarded_methods
from nearlin.nn.activations import activation as named
from nearlin.nn.images import framed
from nearlin.nn.jacobian import LayeredJacobian
from nearlin.nn.layers import Dense, Elementwise, widths
from nearlin.nn.network_jacobian import NetworkJacobian
from nearlin.nn.normalization import BatchNorm, Cache

_BODY = 0x626F6479  # keeps the layers of a body apart from the steps of a run, which fold small numbers into the same key
FEW_OUTPUTS = 4  # up to which a dense network's Jacobian is kept in factors


class Tape(NamedTuple):
    """What a forward pass leaves for the backward pass: the layers' caches and the outputs (n, c)."""

    caches: tuple
    outputs: object


def _specs(module):
    """The specs of the matrices of a layer (one or none) or of a composite."""
    return module.layers if hasattr(module, "layers") else (module.spec,) * bool(module.spec)


def _statistics(cache):
    """The batch statistics in a module's cache, in order."""
    if isinstance(cache, Cache):
        return (cache.statistics,) if cache.statistics else ()
    if isinstance(cache, Tape):
        return tuple(s for inner in cache.caches for s in _statistics(inner))
    return ()


def _rows(module, cache):
    """The rows of the trace of each trainable layer: samples times positions, or nodes."""
    if isinstance(module, Residual):
        return _rows(module.body, Tape(cache.caches[:-1], None))
    if isinstance(module, Sequential):
        return tuple(r for pair in zip(module.modules, cache.caches, strict=True) for r in _rows(*pair))
    return (module.rows(cache),) if module.spec else ()


def _pass(method):
    """A pass through a network, by workers of one BLAS thread each beside convolutions' walks."""

    @functools.wraps(method)
    def passed(self, params, *args, **kwargs):
        if self._convolutional:
            with pooled(params[0]):
                return method(self, params, *args, **kwargs)
        return method(self, params, *args, **kwargs)

    return passed


@unguarded_methods
@dataclass(frozen=True)
class Sequential:
    """Layers applied one after another; parameters are a tuple with one matrix per trainable layer.

    Parameters
    ----------
    modules : tuple
        Layers, and composites such as `Residual`.
    gain : float
        Variance of initial weights times fan-in, for layers drawn by the scheme ``"normal"``.
    shape : tuple of int, optional
        Shape of one input: (d,) or (channels, h, w). By default that of the first layer's inputs, where it is dense.
    """

    modules: tuple
    gain: float = 1.0
    shape: tuple | None = None

    def __post_init__(self):
        settle(self, gain=not_negative)
        if not self.layers:
            found = ", ".join(type(module).__name__ for module in self.modules) or "nothing"
            raise ValueError(f"modules holds no layer with parameters, but {found}; expected at least one, such as Dense")

    @cached_property
    def layers(self):
        """One `LayerSpec` per parameter matrix."""
        return tuple(spec for module in self.modules for spec in _specs(module))

    @cached_property
    def _convolutional(self):
        return any(spec.kind == "conv" for spec in self.layers)

    @cached_property
    def _places(self):
        """Where the parameters of each module lie: an index, None where it has none, a slice for a composite."""
        made, start = [], 0
        for module in self.modules:
            stop = start + len(_specs(module))
            made.append(slice(start, stop) if hasattr(module, "layers") else start if stop > start else None)
            start = stop
        return tuple(made)

    def _own(self, params):
        """The parameters of each module: a matrix, None where it has none, a tuple for a composite."""
        return [None if place is None else params[place] for place in self._places]

    @property
    def inputs(self):
        """Inputs d, where samples are vectors, or the shape of one sample."""
        if self.shape is None:
            return self.layers[0].inp
        return self.shape[0] if len(self.shape) == 1 else self.shape

    @property
    def outputs(self):
        """Outputs c: the width of the last layer that has one."""
        return self.layers[-1].out

    def check_inputs(self, x, params):
        """`BackendError`, `TypeError` or `ValueError` where x is no batch of this network's inputs next to ``params``."""
        expected = self.shape or (self.layers[0].inp,)
        check(ndim={"x": 1 + len(expected)}, x=x, **{f"params[{i}]": W for i, W in enumerate(params)})
        if tuple(x.shape[1:]) != expected:
            sizes = ", ".join(map(str, expected))
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (n, {sizes}), the network's inputs")

    def init(self, key, like):
        """Parameters next to ``like`` (its backend, device and dtype), each layer drawn by its scheme."""
        params = []
        for i, module in enumerate(module for module in self.modules if _specs(module)):
            drawn = module.init(fold_in(key, i), like, *(() if hasattr(module, "layers") else (self.gain,)))
            params += drawn if hasattr(module, "layers") else [drawn]
        return tuple(params)

    @_pass
    def forward(self, params, x):
        """Outputs (n, c) and the tape, for inputs (n, ...)."""
        caches = []
        for module, W in zip(self.modules, self._own(params), strict=True):
            x, cache = module.forward(W, x)
            caches.append(cache)
        return x, Tape(tuple(caches), x)

    @_pass
    def backward(self, params, tape, dy, inputs=True):
        """Input gradients (None unless ``inputs``) and one trace per trainable layer, for output gradients ``dy``."""
        traces, matrices = [], self._own(params)
        first = next(i for i, module in enumerate(self.modules) if _specs(module))
        for i in reversed(range(0 if inputs else first, len(matrices))):
            module, W, cache = self.modules[i], matrices[i], tape.caches[i]
            if i == first and not inputs and hasattr(module, "trace"):
                return None, (module.trace(cache, dy), *reversed(traces))
            dy, trace = module.backward(W, cache, dy)
            if trace is not None:
                traces += reversed(trace) if hasattr(module, "layers") else [trace]
        return dy, tuple(reversed(traces))

    def traces(self, params, tape, dy):
        """One trace per trainable layer, for output gradients ``dy`` (n, c). The first layer's input gradient is not formed."""
        return self.backward(params, tape, dy, inputs=False)[1]

    @_pass
    def grads(self, params, tape, dy):
        """Jᵀ dy, shaped like the parameters."""
        return tuple(trace.grad() for trace in self.traces(params, tape, dy))

    @_pass
    def jvp(self, params, tape, tangents, dx=None):
        """J v for tangents shaped like the parameters, (n, c), in one forward-mode pass; ``dx`` moves the inputs too."""
        for module, W, dW, cache in zip(self.modules, self._own(params), self._own(tangents), tape.caches, strict=True):
            dx = module.jvp(W, cache, dx, dW) if not hasattr(module, "layers") else module.jvp(W, cache, dW, dx)
        return dx

    def statistics(self, tape):
        """`Statistics` of the batch, one per normalisation layer."""
        return _statistics(tape)

    def rows(self, tape):
        """The rows of each layer's trace, samples times positions, from the tape of a forward pass."""
        return _rows(self, tape)

    def normalized_by(self, statistics):
        """The network with its normalisation layers in evaluation mode, by the given statistics, one per such layer."""
        return _normalized_by(self, iter(statistics))

    @property
    def coupling(self):
        """Why outputs of a sample depend on other samples, in words; empty where they do not."""
        coupled = any(isinstance(module, BatchNorm) and module.statistics is None for module in _flat(self))
        return "batch normalisation by batch statistics couples samples" if coupled else ""

    def astype(self, cast, tape):
        """The network with all arrays that it owns cast, given the tape of a forward pass."""
        if self.coupling or not (statistics := self.statistics(tape)):
            return self
        return self.normalized_by(tuple(type(one)(*map(cast, one)) for one in statistics))

    def jacobian(self, params, tape, x, factors=None):
        """The Jacobian operator (n c, p) of the outputs by the parameters.

        Parameters
        ----------
        params, tape, x
            Of a forward pass.
        factors : bool, optional
            Keep it in factors, which takes c backward passes and n (inp + c out) floats a layer and makes products of few
            outputs as cheap as they can be: dense layers alone, where it is the default up to `FEW_OUTPUTS`. Else products are
            passes of their own, and factors are made where Gram matrices, sketches or rows are asked for.
        """
        strangers = sorted({spec.kind for spec in self.layers if spec.kind != "dense"})
        if factors and strangers:
            found = f"the network has layers of kind {', '.join(strangers)}"
            raise ValueError(f"{found}; expected dense layers for a Jacobian in factors")
        J = NetworkJacobian(self, params, x, tape)
        if factors is None:
            factors = not strangers and J.outputs <= FEW_OUTPUTS
        return LayeredJacobian(J.factors(slice(0, J.samples))) if factors else J


def _flat(module):
    """The layers inside of a module, composites opened."""
    if isinstance(module, Residual):
        module = module.body
    return [layer for inner in module.modules for layer in _flat(inner)] if isinstance(module, Sequential) else [module]


def _normalized_by(module, statistics):
    if isinstance(module, BatchNorm):
        return replace(module, statistics=next(statistics))
    if isinstance(module, Sequential):
        return replace(module, modules=tuple(_normalized_by(inner, statistics) for inner in module.modules))
    if isinstance(module, Residual):
        return replace(module, body=_normalized_by(module.body, statistics))
    return module


@dataclass(frozen=True)
class Residual:
    """y = body(x) + shortcut(x).

    Parameters
    ----------
    body : Sequential
    shortcut : layer without parameters, optional
        `ZeroPadShortcut` where the body changes the shape; the identity without it.
    """

    body: Sequential
    shortcut: object = None

    @property
    def layers(self):
        """One `LayerSpec` per parameter matrix of the body."""
        return self.body.layers

    def init(self, key, like):
        """The parameters of the body."""
        return self.body.init(fold_in(key, _BODY), like)

    def _along(self, x):
        return x if self.shortcut is None else self.shortcut.forward(None, x)[0]

    def forward(self, params, x):
        """y and the `Tape`, for x (n, ...). `ValueError` where body and shortcut differ in shape."""
        y, tape = self.body.forward(params, x)
        short = self._along(x)
        if y.shape != short.shape:
            raise ValueError(
                f"the body of a Residual gives {tuple(y.shape)}, its shortcut {tuple(short.shape)}; expected one shape"
            )
        return y + short, Tape((*tape.caches, tuple(x.shape)), None)

    def backward(self, params, tape, dy):
        """dx, shaped like x, for output gradients dy, and a trace per trainable layer of the body."""
        *caches, shape = tape.caches
        dx, traces = self.body.backward(params, Tape(tuple(caches), None), dy)
        return dx + (dy if self.shortcut is None else self.shortcut.backward(None, shape, dy)[0]), traces

    def jvp(self, params, tape, tangents, dx):
        """Derivative of y along (dx, tangents), shaped like y; ``dx`` None stands for zero."""
        body = self.body.jvp(params, Tape(tape.caches[:-1], None), tangents, dx)
        return body if dx is None else body + self._along(dx)


@dataclass(frozen=True)
class ZeroPadShortcut:
    """Every second row and column, and zero channels in front and behind: (n, c, h, w) to (n, 2 c, ⌈h/2⌉, ⌈w/2⌉).

    He, Zhang, Ren, Sun, arXiv:1512.03385, shortcut A.
    """

    spec = None

    def forward(self, W, x):
        """y (n, 2 c, ⌈h/2⌉, ⌈w/2⌉) of x (n, c, h, w), and the cache, the shape of x."""
        half = x[:, :, ::2, ::2]
        front = x.shape[1] // 2
        y = framed((x.shape[0], 2 * x.shape[1], *half.shape[2:]), x)
        y[:, front : front + x.shape[1], :, :] = half
        return y, tuple(x.shape)

    def backward(self, W, shape, dy):
        """dx (n, c, h, w) for output gradients dy, zero at the entries that were left out; no trace."""
        dx = framed(shape, dy)
        front = shape[1] // 2
        dx[:, :, ::2, ::2] = dy[:, front : front + shape[1], :, :]
        return dx, None

    def jvp(self, W, shape, dx, dW):
        """The derivative of y along dx, the same entries of dx; None, which stands for zero, stays None."""
        return None if dx is None else self.forward(W, dx)[0]


def chain(network):
    """The activation after each dense layer of a network in which the two alternate, or the sentence why it is no such chain.

    Parameters
    ----------
    network : Sequential, TwoLayer, GraphNetwork, ...

    Returns
    -------
    tuple of Activation, or str
        One per layer; ``identity`` where nothing follows a dense layer.
    """
    if not isinstance(network, Sequential):
        return f"the network is a {type(network).__name__}; expected dense layers and activations in turn"
    activations, free = [], False  # free: a dense layer waits for its activation
    for i, module in enumerate(network.modules):
        if type(module) is Dense:
            activations, free = [*activations, named("identity")], True
        elif isinstance(module, Elementwise) and free:
            activations, free = [*activations[:-1], module.phi], False
        else:
            place = "its input is no dense layer's output" if isinstance(module, Elementwise) else "it is neither"
            return f"module {i} is {type(module).__name__} and {place}; expected dense layers and activations in turn"
    return tuple(activations)


def MLP(sizes, activation="tanh", scheme="normal"):
    """A multi-layer perceptron with biases: dense layers of the given sizes, the activation between them, linear output.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden widths, outputs: at least two positive numbers.
    activation : str
        ``relu``, ``tanh``, ``sigmoid``, ``softplus`` or ``identity``.
    scheme : str
        How weights are drawn; see `nearlin.nn.Dense`.
    """
    phi, modules = named(activation), []
    for inp, out in pairwise(widths("inputs, widths, outputs", sizes)):
        modules += [Dense(inp, out, scheme=scheme), Elementwise(phi)]
    return Sequential(tuple(modules[:-1]), gain=2.0 if phi.name == "relu" else 1.0)
