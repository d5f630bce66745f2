"""The Jacobian of any network by its own passes: J v is one forward-mode pass, Jᵀ u one backward pass.

Rows of single samples, for Gram matrices and sketches, take c backward passes over a chunk of samples at a time; they exist where
no layer couples samples (batch normalisation by batch statistics does, and graphs do).
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from nearlin._array import namespace, slices
from nearlin.linalg import Work
from nearlin.linalg.hadamard import next_power_of_two, transform_flops
from nearlin.nn.convolution import unfold
from nearlin.nn.jacobian import Factor, Jacobian, Positions, Rows, summed
from nearlin.nn.layers import Trace
from nearlin.nn.normalization import NormTrace
from nearlin.nn.output_root import ScaledIdentity

BUDGET = 2**28  # bytes of the rows of one chunk of samples


@dataclass(frozen=True, eq=False)
class NetworkJacobian(Jacobian):
    """Cᵀ J of a network at ``params`` on the inputs ``x``.

    Parameters
    ----------
    network : Sequential or GraphNetwork
    params : tuple of arrays
    x : array
        Inputs, or node indices of a graph.
    tape : Tape
        Of the forward pass at ``params`` and ``x``.
    root : OutputRoot
        The roots C of the output Hessians.
    budget : int
        Bytes of the rows that are made at a time.
    """

    network: object
    params: tuple
    x: object
    tape: object
    root: object = ScaledIdentity()
    budget: int = BUDGET

    products: ClassVar[tuple] = ()

    @property
    def samples(self):
        """Number of samples n."""
        return self.tape.outputs.shape[0]

    @property
    def coupling(self):
        """Why outputs of a sample depend on other samples, in words; empty where they do not."""
        return self.network.coupling

    @property
    def outputs(self):
        """Outputs c."""
        return self.tape.outputs.shape[1]

    @property
    def shape(self):
        """(n c, p)."""
        return self.samples * self.outputs, sum(math.prod(W.shape) for W in self.params)

    @cached_property
    def factor_shapes(self):
        """(out, fan-in and bias) per layer; of a normalisation, and of a convolution by groups, the number of its parameters."""
        return tuple(math.prod(s.shape) if s.kind == "norm" or s.groups > 1 else s.shape for s in self.network.layers)

    @property
    def _row_shapes(self):
        """The same for rows as they are made: a convolution's are summed over positions."""
        return tuple(math.prod(s.shape) if s.kind in ("norm", "conv") else s.shape for s in self.network.layers)

    @cached_property
    def rows(self):
        """The rows of each layer's trace: samples times positions, or nodes."""
        return self.network.rows(self.tape)

    def weigh(self, root):
        """Cᵀ J for the roots C (an `OutputRoot`) of the output Hessians."""
        return replace(self, root=root)

    def matvec(self, v):
        """J v (n c,) for a params-shaped tuple ``v``: one forward-mode pass, at most 4 n p flops on dense networks."""
        return namespace(*v).reshape(self.root.adjoint(self.network.jvp(self.params, self.tape, v)), (-1,))

    def rmatvec(self, u):
        """Jᵀ u, a params-shaped tuple, for ``u`` (n c,): one backward pass, at most 4 n p flops on dense networks."""
        dy = self.root.apply(namespace(u).reshape(u, (self.samples, self.outputs)))
        return self.network.grads(self.params, self.tape, dy)

    def astype(self, dtype):
        """The same Jacobian in another dtype, given by name: the forward pass is made anew there."""
        xp = namespace(*self.params)
        kind = getattr(xp, dtype)
        cast = lambda a: xp.astype(a, kind, copy=False)  # noqa: E731
        network, params = self.network.astype(cast, self.tape), tuple(map(cast, self.params))
        x = self.x if xp.isdtype(self.x.dtype, "integral") else cast(self.x)
        return NetworkJacobian(network, params, x, network.forward(params, x)[1], self.root.astype(kind), self.budget)

    # ---------------------------------------------------------------------------------------------------- rows of single samples

    def factors(self, rows):
        """A `Factor`, `Positions` or `Rows` per layer for a slice of samples; c backward passes over them.

        Raises
        ------
        ValueError
            A layer couples samples: there are no rows of single samples.
        """
        if reason := self.network.coupling:
            raise ValueError(f"{reason}: the Jacobian's rows cannot be made sample by sample; products with it can")
        whole = rows.stop - rows.start == self.samples
        tape = self.tape if whole else self.network.forward(self.params, self.x[rows, ...])[1]
        root = self.root if whole else self.root[rows]
        xp, (b, c) = namespace(tape.outputs), tape.outputs.shape
        units = xp.eye(c, dtype=tape.outputs.dtype, device=tape.outputs.device)
        C = root.adjoint(xp.broadcast_to(units, (b, c, c)))  # transposed: rows of Cᵀ J are pulled back from the columns of C
        passes = [self.network.traces(self.params, tape, C[:, k, :]) for k in range(c)]
        return tuple(map(_block, zip(*passes, strict=True)))

    def _samples_at_a_time(self, matrices=1):
        """So many that the largest layer's rows, or all signals, stay within the budget, in ``matrices`` chunks at a time."""
        sizes = [math.prod(spec.shape) for spec in self.network.layers]
        signals = sum(rows * spec.out for rows, spec in zip(self.rows, self.network.layers, strict=True)) // self.samples
        return max(1, self.budget // (self.item * matrices * self.outputs * (signals + max(sizes))))

    def _chunk(self, S):
        return min(self._samples_at_a_time(), super()._chunk(S))

    def sketch_shapes(self, s, oversample=1):
        """Convolutions are told by (out, inp) where a sketch of every position is cheaper than one of their rows.

        The rows take 2 T out q flops each, and 16 an entry by `SparseSign`; positions T (N log₂ N for both factors and 3 σ s).
        """
        shapes = []
        for spec, shape, rows in zip(self.network.layers, self.factor_shapes, self.rows, strict=True):
            if spec.kind == "conv" and spec.groups == 1:
                T = rows // self.samples
                transforms = sum(N * math.log2(N) for N in map(next_power_of_two, shape))
                by_position, by_row = T * (transforms + 3 * oversample * s), (2 * T + 16) * math.prod(shape)
                shape = shape if by_position < by_row else math.prod(shape)
            shapes.append(shape)
        return tuple(shapes)

    def gram(self, dtype=None):
        """J Jᵀ (n c, n c), chunk by chunk of samples; in ``dtype`` (a name), if given."""
        if dtype is not None:
            return namespace(*self.params).astype(self.astype(dtype).gram(), self.params[0].dtype, copy=False)
        xp, c = namespace(*self.params), self.outputs
        chunks = slices(self.samples, self._samples_at_a_time(matrices=2))
        like = self.tape.outputs
        gram = xp.empty((self.shape[0], self.shape[0]), dtype=like.dtype, device=like.device)
        for i, rows in enumerate(chunks):
            here = tuple(map(summed, self.factors(rows)))
            for columns in chunks[i:]:
                there = here if columns == rows else tuple(map(summed, self.factors(columns)))
                part = sum(a.cross(b) for a, b in zip(here, there, strict=True))
                across = (slice(rows.start * c, rows.stop * c), slice(columns.start * c, columns.stop * c))
                gram[across[0], across[1]] = part
                if columns != rows:
                    gram[across[1], across[0]] = xp.matrix_transpose(part)
        return gram

    # ----------------------------------------------------------------------------------------------------------- amounts of work

    @property
    def dtype(self):
        """Of the parameters."""
        return self.params[0].dtype

    @property
    def _layers(self):
        """Spec and rows of every layer whose matrix is multiplied."""
        return [pair for pair in zip(self.network.layers, self.rows, strict=True) if pair[0].kind != "norm"]

    def _moved(self):
        """The bytes and calls of one product of every layer's matrix with its inputs."""
        layers = zip(self.network.layers, self.rows, strict=True)
        floats = sum(rows * (6 * spec.out + 3 * spec.fan_in * (spec.kind == "conv")) for spec, rows in layers)
        return Work(memory=self.item * floats, calls=25 * len(self.params))

    def signals_work(self):
        """The `Work` of one backward pass to the signals: every layer's transposed matrix but the first one's."""
        flops = sum(_through(spec, rows) for spec, rows in self._layers[1:])
        return Work(matmul=flops) + self._moved()

    def product_work(self):
        """The `Work` of one product: a pass forward and one backward, each through all layers and with their own matrices."""
        own = sum(2 * rows * spec.out * (2 * spec.fan_in + spec.bias * (spec.kind != "conv")) for spec, rows in self._layers)
        return 2 * self.signals_work() + Work(matmul=own) + 2 * self._moved()

    def rows_work(self, shapes=None):
        """The `Work` of all rows: c backward passes, and the rows of convolutions, where ``shapes`` has them as rows."""
        layers = zip(self.network.layers, self.rows, shapes or self._row_shapes, strict=True)
        flops = sum(2 * rows * shape for spec, rows, shape in layers if spec.kind == "conv" and isinstance(shape, int))
        return self.outputs * (self.signals_work() + Work(matmul=flops))

    def gram_work(self):
        """The `Work` of `gram`; of k > 1 chunks of samples, rows are made (k + 1)/2 times from a forward pass each."""
        N, n = self.shape[0], self.samples
        chunks = math.ceil(n / self._samples_at_a_time(matrices=2))
        forward = sum(2 * rows * spec.out * spec.fan_in for spec, rows in self._layers) if chunks > 1 else 0
        flops = self._gram_flops(N * N, n * n) + (chunks + 1) / 2 * forward
        return (chunks + 1) / 2 * self.rows_work() + Work(matmul=flops, memory=6 * N * N * self.item * len(self.params))

    def sketch_work(self, s):
        """The `Work` of `sketch_gram` by a `KroneckerSRHT` with four times oversampling."""
        return self.sketch_rows_work(s) + Work(matmul=self.shape[0] ** 2 * s)

    def sketch_rows_work(self, s):
        """The `Work` of `sketch` by the same."""
        N, flops, moved, shapes = self.shape[0], 0, 0, self.sketch_shapes(s, 4)
        for shape, rows in zip(shapes, self.rows, strict=True):
            if isinstance(shape, int):
                moved += 24 * N * shape
            else:  # of a convolution every position
                moved += self.outputs * rows * (sum(k * math.log2(k) for k in map(next_power_of_two, shape)) + 20 * s)
                flops += self.outputs * rows * sum(map(transform_flops, shape))
        return self.rows_work(shapes) + Work(matmul=flops, memory=self.item * moved, calls=200 * len(self.params))

    def class_work(self, mean):
        """The `Work` of `mean_gram`, or of `class_grams`."""
        return self.rows_work() + super().class_work(mean)

    def sketch_gram(self, S):
        """As for every Jacobian, but `ValueError` for a sketch of neurons alone: it takes a Jacobian in factors."""
        if hasattr(S, "left"):
            raise ValueError("a sketch of neurons takes a Jacobian in factors; expected KroneckerSRHT() or a flat sketch here")
        return super().sketch_gram(S)

    def to_dense(self):
        """J as an explicit (n c, p) matrix, by n c backward passes where samples are coupled: for tests and small problems."""
        if not self.network.coupling:
            return super().to_dense()
        xp, like = namespace(*self.params), self.tape.outputs
        units = xp.eye(self.shape[0], dtype=like.dtype, device=like.device)
        flat = lambda v: xp.concat([xp.reshape(V, (-1,)) for V in v])  # noqa: E731
        return xp.stack([flat(self.rmatvec(units[i, :])) for i in range(self.shape[0])])


def _through(spec, rows):
    """Flops from one side of a layer to the other; on a graph through its propagation too."""
    return 2 * rows * spec.fan_in * (spec.out + (rows if spec.kind == "graph" else 0))


def _block(traces):
    """The rows of one layer from its traces at c output gradients."""
    first = traces[0]
    xp = namespace(first.signals)
    signals = xp.stack([trace.signals for trace in traces], axis=1)
    if isinstance(first, Trace):
        return Factor(first.homogeneous(), signals)
    b, c, channels = signals.shape[:3]
    if isinstance(first, NormTrace):
        inputs, signals = xp.reshape(first.inputs, (b, 1, channels, -1)), xp.reshape(signals, (b, c, channels, -1))
        both = [xp.sum(signals * inputs, axis=3), xp.sum(signals, axis=3)]
        return Rows(xp.reshape(xp.stack(both, axis=3), (b, c, -1)))
    if first.spec.groups > 1:
        groups = [_block(traces) for traces in zip(*(trace.by_group() for trace in traces), strict=True)]
        return Rows(xp.concat([group.summed().values for group in groups], axis=2))
    patches = xp.reshape(unfold(first.inputs, first.spec), (first.spec.fan_in, b, -1))
    patches = xp.permute_dims(patches, (1, 2, 0))
    if first.spec.bias:
        patches = xp.concat([patches, xp.ones_like(patches[:, :, :1])], axis=2)
    return Positions(patches, xp.permute_dims(xp.reshape(signals, (b, c, channels, -1)), (0, 1, 3, 2)))
