r"""K-FAC's factors of the Gauss-Newton matrix JᵀHJ/n as a preconditioner, with exact damping, and its diagonal by layers.

Formula     dense, conv, graph:  A ⊗ G,  A = Σ a aᵀ / n,  G = Σ d dᵀ / rows,
                                 (A ⊗ G + λ I)⁻¹ M = U_G [(U_Gᵀ M U_A) / (s_G s_Aᵀ + λ)] U_Aᵀ
            d are the layer's output gradients, pulled back from C z with signs z drawn for every output: E[C z zᵀ Cᵀ] = H
            With sample weights w, A = Σ w a aᵀ / n, and C has √w.
            normalisation:  the diagonal Σ g² / n of per-sample gradients g
Reference   Martens, Grosse, arXiv:1503.05671; Grosse, Martens, arXiv:1602.01407 (convolutions: A sums over positions)
Cost        one backward pass to the signals; 2 n D² + 2 n o² and 9 D³ + 9 o³ a layer (o, D); 4 o² D + 4 o D² a solve
Deviations  1. Signs instead of labels drawn from the model: the same mean, but drawn labels hardly ever differ from the target
               where the model is nearly certain, and their gradients vanish there.
            2. Of a convolution by groups every group has factors of its own: JᵀHJ between groups, which share no inputs, is left
               out, as it is between layers.
            3. Exact damping by both eigenbases instead of √λ on each factor.
"""

from functools import partial
from itertools import islice
from typing import NamedTuple

from nearlin._array import flushed, fold_in, map_blocks, namespace, slices
from nearlin.linalg import KroneckerEigenbasis, dealt, symmetric_eigh
from nearlin.nn import NormTrace, over_samples
from nearlin.nn.normalization import all_but_channels


class DiagonalLayer(NamedTuple):
    """A layer by the diagonal of its curvature, ``values`` shaped like its matrix."""

    values: object

    def solve(self, M, damping):
        """M / (values + damping)."""
        return M / (self.values + damping)

    def scaling(self):
        """The eigenvalues, like the layer's matrix."""
        return self.values


class GroupedLayer(NamedTuple):
    """A convolution by groups, each with factors of its own: the curvature of rows of its matrix, and none between groups."""

    groups: tuple

    def solve(self, M, damping):
        """(curvature + damping)⁻¹ M, group by group."""
        xp, rows = namespace(M), slices(M.shape[0], M.shape[0] // len(self.groups))
        return xp.concat([one.solve(M[own, :], damping) for one, own in zip(self.groups, rows, strict=True)], axis=0)

    def scaling(self):
        """The eigenvalues, like the layer's matrix."""
        scalings = [one.scaling() for one in self.groups]
        return namespace(*scalings).concat(scalings, axis=0)


class KroneckerCurvature(NamedTuple):
    """An approximation of JᵀHJ/n by layers, in the eigenbases of its factors.

    Attributes
    ----------
    layers : tuple of KroneckerEigenbasis, GroupedLayer or DiagonalLayer
        One per parameter matrix.
    """

    layers: tuple

    def solve(self, v, damping):
        """(curvature + ``damping`` I)⁻¹ ``v`` for a params-shaped tuple."""
        return tuple(layer.solve(flushed(V), damping) for layer, V in zip(self.layers, v, strict=True))

    def effective_dimension(self, damping):
        """Σ s / (s + ``damping``) over all eigenvalues s."""
        ratios = [layer.scaling() / (layer.scaling() + damping) for layer in self.layers]
        return sum(float(namespace(ratio).sum(ratio)) for ratio in ratios)


def kronecker_curvature(point, specs, key):
    """K-FAC's factors at a `Point`.

    Parameters
    ----------
    point : Point
    specs : tuple of LayerSpec
        ``objective.layers``.
    key : int
        Of the signs.

    Returns
    -------
    KroneckerCurvature

    Raises
    ------
    FactorizationError, ValueError
        A factor whose eigenvalues do not converge, or with NaN or Inf.
    """
    traces = point.signed_traces(fold_in(key, 0))
    traces = [one for trace in traces for one in trace.by_group()]
    names = [i for i, spec in enumerate(specs) for _ in range(spec.groups)]
    scale, normal = point.root_weights, [specs[i].kind == "norm" for i in names]
    pairs = [None if norm else factor_sums(trace, scale) for norm, trace in zip(normal, traces, strict=True)]
    factors = []
    for i, pair, trace in zip(names, pairs, traces, strict=True):
        if pair is not None:
            factors += [
                (pair[0] / point.samples, f"layer {i}, input factor"),
                (pair[1] / trace.rows, f"layer {i}, output factor"),
            ]
    # one thread each: LAPACK makes no use of more
    found = iter(dealt(lambda factor: symmetric_eigh(*factor), factors, like=point.outputs, walk=map_blocks))
    layers = []
    for pair, trace in zip(pairs, traces, strict=True):
        if pair is None:
            layers.append(_diagonal(trace, point.samples))
        else:
            (sA, UA), (sG, UG) = next(found), next(found)
            layers.append(KroneckerEigenbasis(UA, sA, UG, sG))
    rest = iter(layers)
    own = [tuple(islice(rest, spec.groups)) for spec in specs]
    return KroneckerCurvature(tuple(groups[0] if len(groups) == 1 else GroupedLayer(groups) for groups in own))


def diagonal_curvature(point, specs, key):
    """The diagonal of JᵀHJ/n by layers, from the second moments of per-sample gradients at drawn signs; arguments as above.

    Its mean over the signs is the diagonal; of one output it is the diagonal itself. Where samples are coupled, the gradients
    of single samples (of a graph: nodes) are not the rows of J, and it is an approximation. As many flops as a gradient.
    """
    layers = []
    for spec, trace in zip(specs, point.signed_traces(fold_in(key, 0)), strict=True):
        if spec.kind == "norm":
            layers.append(_diagonal(trace, point.samples))
        elif spec.kind == "conv":
            squares = [over_samples(_squares_by_position, one) for one in trace.by_group()]
            layers.append(DiagonalLayer(namespace(*squares).concat(squares, axis=0) / point.samples))
        else:
            layers.append(DiagonalLayer(over_samples(_squares_by_row, trace) / point.samples))
    return KroneckerCurvature(tuple(layers))


def _diagonal(trace: NormTrace, samples):
    """Second moments of the per-sample gradients of scale and shift, (channels, 2)."""
    return DiagonalLayer(over_samples(_squares_of_norm, trace) / samples)


def _squares_of_norm(trace):
    """Σ g² over samples for the gradients g of scale and shift."""
    xp, axes = namespace(trace.signals), all_but_channels(trace.signals)[1:]
    reduce = (lambda a: xp.sum(a, axis=axes)) if axes else (lambda a: a)
    per_sample = [reduce(trace.signals * trace.inputs), reduce(trace.signals)]
    return xp.stack([xp.sum(g * g, axis=0) for g in per_sample], axis=1)


def _squares_by_row(trace):
    """Σ g² over samples for the gradients of a dense or graph layer."""
    a, g = trace.homogeneous() ** 2, trace.signals**2
    return namespace(g).matrix_transpose(g) @ a


def _squares_by_position(trace):
    """Σ g² over samples for the gradients of a convolution of one group."""
    return trace.accumulate(partial(_squares, positions=trace.positions))


def factor_sums(trace, root_weights=None):
    """Σ w a aᵀ and Σ d dᵀ over the rows of a trace, for the roots √w (n,) of sample weights; d has its √w already."""
    return over_samples(_factor_sums, trace, root_weights, symmetric=(0, 1))


def _factor_sums(trace, root_weights):
    A, G = trace.accumulate(outer_sums)
    if root_weights is None:
        return A, G
    xp, shape = namespace(root_weights), trace.signals.shape
    rows = xp.broadcast_to(xp.reshape(root_weights, (-1, *(1,) * (len(shape) - 1))), (shape[0], 1, *shape[2:]))
    weighed = trace._replace(signals=rows)  # a column of √w beside every a
    return weighed.accumulate(lambda A, s: (A * s) @ namespace(A).matrix_transpose(A * s)), G


def signal_sums(trace):
    """Σ d dᵀ over the rows of a trace."""
    outer = lambda A, G: G @ namespace(G).matrix_transpose(G)  # noqa: E731
    return over_samples(lambda own: own.accumulate(outer), trace, symmetric=(0,))


def outer_sums(A, G):
    """Σ a aᵀ and Σ d dᵀ over columns."""
    transposed = namespace(A, G).matrix_transpose
    return A @ transposed(A), G @ transposed(G)


def _squares(A, G, positions):
    """Σ (Σ_t d_t a_tᵀ)² over samples, entry by entry, for columns that count positions t within samples."""
    xp = namespace(A, G)
    by_sample = [xp.permute_dims(xp.reshape(M, (M.shape[0], -1, positions)), (1, 0, 2)) for M in (G, A)]
    gradients = by_sample[0] @ xp.matrix_transpose(by_sample[1])
    return xp.sum(gradients * gradients, axis=0)
