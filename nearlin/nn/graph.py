"""Networks on graphs: layers that are dense on the neighbourhoods of nodes."""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from nearlin._array import check, check_indices, namespace, unguarded_methods
from nearlin.nn.activations import activation as named
from nearlin.nn.layers import Dense, Elementwise, LayerSpec
from nearlin.nn.network import Sequential, Tape
from nearlin.nn.network_jacobian import NetworkJacobian


@unguarded_methods
@dataclass(frozen=True, eq=False)
class GraphNetwork:
    """Graph convolutions Z = S A Wᵀ + b with an activation between them; inputs are indices of nodes.

    Parameters
    ----------
    S : array, shape (N, N)
        Propagation between nodes, such as D^{-1/2} (A + I) D^{-1/2}.
    H : array, shape (N, d)
        Features of the nodes.
    sizes : tuple of int
        Hidden widths and outputs.
    activation : str
    bias : bool
    scheme : str
        How weights are drawn; see `nearlin.nn.Dense`.

    Notes
    -----
    Kipf, Welling, arXiv:1609.02907. Every step propagates over the whole graph; ``batch = (nodes, labels)`` picks the samples
    of the loss. A layer is dense on the rows of S A: its trace has a row per node, N of them.
    """

    S: object
    H: object
    sizes: tuple
    activation: str = "relu"
    bias: bool = True
    scheme: str = "normal"
    chain: Sequential = field(init=False, repr=False)
    propagated: object = field(init=False, repr=False)

    def __post_init__(self):
        check(ndim={"S": 2, "H": 2}, S=self.S, H=self.H)
        N = self.H.shape[0]
        if tuple(self.S.shape) != (N, N):
            raise ValueError(f"S has shape {tuple(self.S.shape)}; expected ({N}, {N}), a row and a column per row of H")
        phi, modules = named(self.activation), []
        for i, (inp, out) in enumerate(pairwise((self.H.shape[1], *self.sizes))):
            layer = _GraphDense(inp, out, self.bias, self.scheme)
            modules += [layer] if i == 0 else [Elementwise(phi), Propagate(self.S), layer]
        object.__setattr__(self, "chain", Sequential(tuple(modules), gain=2.0 if phi.name == "relu" else 1.0))
        object.__setattr__(self, "propagated", self.S @ self.H)

    @property
    def nodes(self):
        """Number of nodes N."""
        return self.H.shape[0]

    @property
    def layers(self):
        """One `LayerSpec` per parameter matrix, of kind ``graph``."""
        return self.chain.layers

    @property
    def outputs(self):
        """Outputs c: the width of the last layer."""
        return self.chain.outputs

    def check_inputs(self, x, params):
        """`BackendError`, `TypeError` or `ValueError` where x is no vector of node indices next to ``params``."""
        check(H=self.H, **{f"params[{i}]": W for i, W in enumerate(params)})
        check_indices("x", x, self.H, self.nodes)

    def init(self, key, like):
        """Parameters next to ``like`` (its backend, device and dtype), each layer drawn by its scheme."""
        return self.chain.init(key, like)

    def forward(self, params, x):
        """Outputs (n, c) at the nodes x (n,), and the tape."""
        y, tape = self.chain.forward(params, self.propagated)
        outputs = namespace(y).take(y, x, axis=0)
        return outputs, Tape((*tape.caches, x), outputs)

    def _back(self, tape, dy):
        """The chain's tape, and output gradients by node; nodes without a sample have none."""
        *caches, x = tape.caches
        xp = namespace(dy)
        nodes = xp.arange(self.nodes, dtype=x.dtype, device=x.device)
        chosen = xp.astype(nodes[:, None] == x[None, :], dy.dtype)
        return Tape(tuple(caches), None), chosen @ dy

    def traces(self, params, tape, dy):
        """One trace per layer, a row per node, for output gradients ``dy`` (n, c)."""
        return self.chain.traces(params, *self._back(tape, dy))

    def grads(self, params, tape, dy):
        """Jᵀ dy, shaped like the parameters, for ``dy`` (n, c)."""
        return tuple(trace.grad() for trace in self.traces(params, tape, dy))

    def jvp(self, params, tape, tangents):
        """J v for tangents shaped like the parameters, (n, c), in one forward-mode pass over the graph."""
        y = self.chain.jvp(params, Tape(tape.caches[:-1], None), tangents)
        return namespace(y).take(y, tape.caches[-1], axis=0)

    def statistics(self, tape):
        """Empty: there are no normalisation layers."""
        return ()

    def rows(self, tape):
        """The rows of each layer's trace: the nodes."""
        return (self.nodes,) * len(self.layers)

    @property
    def coupling(self):
        """Nodes see their neighbours."""
        return "a graph couples samples"

    def astype(self, cast, tape):
        """The network with S and H cast."""
        return GraphNetwork(cast(self.S), cast(self.H), self.sizes, self.activation, self.bias, self.scheme)

    def jacobian(self, params, tape, x, factors=None):
        """The Jacobian operator (n c, p) by passes: there are no rows of single samples."""
        if factors:
            raise ValueError("a graph couples samples: there is no Jacobian in factors; expected factors=None")
        return NetworkJacobian(self, params, x, tape)


@dataclass(frozen=True)
class _GraphDense(Dense):
    @cached_property
    def spec(self):
        return LayerSpec("graph", self.out, self.inp, bias=self.bias)


@dataclass(frozen=True, eq=False)
class Propagate:
    """y = S x over the nodes of a graph."""

    S: object
    spec = None

    def forward(self, W, x):
        """y = S x for x (N, k), and no cache."""
        return self.S @ x, None

    def backward(self, W, cache, dy):
        """dx = Sᵀ dy for output gradients dy (N, k); no trace."""
        return namespace(dy).matrix_transpose(self.S) @ dy, None

    def jvp(self, W, cache, dx, dW):
        """The derivative of y along dx, S dx; None, which stands for zero, stays None."""
        return None if dx is None else self.S @ dx
