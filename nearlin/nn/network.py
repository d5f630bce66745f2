"""Networks as sequences of layers, and plain multi-layer perceptrons."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from nearlin._array import fold_in, namespace
from nearlin.nn.activations import activation as named
from nearlin.nn.jacobian import Factor, LayeredJacobian
from nearlin.nn.layers import Dense, Elementwise


class Tape(NamedTuple):
    """What a forward pass leaves for the backward pass: the layers' caches and the outputs (n, c)."""

    caches: tuple
    outputs: object


@dataclass(frozen=True)
class Sequential:
    """Layers applied one after another; parameters are a tuple with one matrix per trainable layer."""

    modules: tuple
    gain: float = 1.0

    @property
    def layers(self):
        """One `LayerSpec` per parameter matrix."""
        return tuple(module.spec for module in self.modules if module.spec)

    @property
    def inputs(self):
        return self.layers[0].inp

    @property
    def outputs(self):
        return self.layers[-1].out

    def init(self, key, like):
        """Parameters next to ``like`` (its backend, device and dtype): W ~ N(0, gain / fan-in), biases zero."""
        trainable = [module for module in self.modules if module.spec]
        return tuple(module.init(fold_in(key, i), like, self.gain) for i, module in enumerate(trainable))

    def _zip(self, params):
        """Each module with its matrix, or with None where it has no parameters."""
        matrices = iter(params)
        return [(module, next(matrices) if module.spec else None) for module in self.modules]

    def forward(self, params, x):
        """Outputs (n, c) and the tape, for inputs (n, d); 2 n p flops and lower-order terms."""
        caches = []
        for module, W in self._zip(params):
            x, cache = module.forward(W, x)
            caches.append(cache)
        return x, Tape(tuple(caches), x)

    def traces(self, params, tape, dy):
        """One `Trace` per trainable layer, for output gradients ``dy`` (n, c); 4 n p flops."""
        traces = []
        for (module, W), cache in zip(reversed(self._zip(params)), reversed(tape.caches), strict=True):
            dy, trace = module.backward(W, cache, dy)
            if trace is not None:
                traces.append(trace)
        return tuple(reversed(traces))

    def grads(self, params, tape, dy):
        """Jᵀ dy, shaped like the parameters."""
        return tuple(trace.grad() for trace in self.traces(params, tape, dy))

    def jvp(self, params, tape, tangents):
        """J v for tangents shaped like the parameters, (n, c), in one forward-mode pass."""
        dx = None
        for (module, W), (_, dW), cache in zip(self._zip(params), self._zip(tangents), tape.caches, strict=True):
            dx = module.jvp(W, cache, dx, dW)
        return dx

    def jacobian(self, params, tape):
        """The Jacobian of the outputs by the parameters as factors: one backward pass per output."""
        xp = namespace(tape.outputs)
        ones = xp.ones_like(tape.outputs)
        unit = xp.eye(self.outputs, dtype=ones.dtype, device=ones.device)
        passes = [self.traces(params, tape, ones * unit[k, :]) for k in range(self.outputs)]
        factors = [
            Factor(per_output[0].homogeneous(), xp.stack([trace.signals for trace in per_output], axis=1))
            for per_output in zip(*passes, strict=True)
        ]
        return LayeredJacobian(tuple(factors))


def MLP(sizes, activation="tanh"):
    """A multi-layer perceptron with biases: dense layers of the given sizes, the activation between them, linear output.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden widths, outputs: at least two positive numbers.
    activation : str
        ``relu``, ``tanh``, ``sigmoid``, ``softplus`` or ``identity``.
    """
    if len(sizes) < 2 or any(not isinstance(s, int) or s < 1 for s in sizes):
        raise ValueError(f"sizes is {tuple(sizes)!r}; expected at least two positive integers: inputs, widths, outputs")
    phi = named(activation)
    modules = []
    for inp, out in pairwise(sizes):
        modules += [Dense(inp, out), Elementwise(phi)]
    return Sequential(tuple(modules[:-1]), gain=2.0 if phi.name == "relu" else 1.0)
