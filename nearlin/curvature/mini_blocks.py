"""Mini-blocks of a layer's weights: how a matrix is cut into them, and the second moments of their gradients.

A block of a convolution is one kernel, k = kernel². Of a dense or graph layer [W b] (out, D) it is a row with ``layout`` "out", a
column with "in", and one of D pieces of ``out`` consecutive entries with "chunk".
"""

from functools import partial

from nearlin._array import block_length, map_blocks, namespace, slices
from nearlin.nn import over_samples


def block_rows(M, spec, layout):
    """The mini-blocks of a layer's weights as rows (blocks, k)."""
    xp = namespace(M)
    if spec.kind == "conv":
        return xp.reshape(M[:, : spec.fan_in], (-1, spec.entries))
    if layout == "in":
        return xp.matrix_transpose(M)
    return M if layout == "out" else xp.reshape(M, M.shape[::-1])


def from_rows(rows, spec, layout):
    """The layer's weights from the rows of `block_rows`."""
    xp = namespace(rows)
    if spec.kind == "conv":
        return xp.reshape(rows, (spec.out, spec.fan_in))
    if layout == "in":
        return xp.matrix_transpose(rows)
    return rows if layout == "out" else xp.reshape(rows, spec.shape)


def blend_outer(F, rows, old, new):
    """old F + new v vᵀ for every row v (k,), (blocks, k, k); blocks are walked by the cacheful, and one array is made."""
    xp, (n, k) = namespace(rows), rows.shape
    blended = xp.empty((n, k, k), dtype=rows.dtype, device=rows.device)

    def part(block):
        v = rows[block, :]
        outer = (new * v)[:, :, None] * v[:, None, :]
        blended[block, ...] = outer if F is None else old * F[block, ...] + outer

    map_blocks(part, slices(n, max(1, block_length(8 * k * k, rows) // 4)), rows)
    return blended


def sample_moment(trace, spec, layout, averaged):
    """Σ over samples of g gᵀ for every mini-block, (blocks, k, k), or the mean over blocks, (k, k)."""
    return over_samples(partial(_sample_moment, spec=spec, layout=layout, averaged=averaged), trace, symmetric=(0,))


def _sample_moment(trace, spec, layout, averaged):
    if spec.kind == "conv":
        groups = [one.accumulate(partial(_kernel_moments, one.spec, one.positions)) for one in trace.by_group()]
        return namespace(*groups).concat(groups, axis=0)
    xp, a, g = namespace(trace.signals), trace.homogeneous(), trace.signals
    if layout == "chunk":
        return _chunk_moments(a, g, averaged)
    x, w = (a, g) if layout == "out" else (g, a)  # the gradient of block j is wⱼ x
    if averaged:
        x = xp.sqrt(xp.mean(w * w, axis=1))[:, None] * x
        return xp.matrix_transpose(x) @ x
    weights = xp.matrix_transpose(w)

    def part(block):
        scaled = weights[block, :, None] * x[None, :, :]
        return xp.matrix_transpose(scaled) @ scaled

    blocks = slices(w.shape[1], block_length(8 * x.shape[0] * x.shape[1], x))
    return xp.concat(map_blocks(part, blocks, x), axis=0)


def _chunk_moments(a, g, averaged):
    """As `sample_moment`, from the samples' gradients g aᵀ (o, D) themselves, cut into D rows of o entries."""
    xp, (n, o), D, total = namespace(a, g), g.shape, a.shape[1], 0.0
    for block in slices(n, block_length(8 * o * D, a)):
        rows = xp.reshape(g[block, :, None] * a[block, None, :], (-1, D, o))
        rows = xp.reshape(rows, (-1, o)) if averaged else xp.permute_dims(rows, (1, 0, 2))
        total = total + xp.matrix_transpose(rows) @ rows
    return total / D if averaged else total


def _kernel_moments(spec, positions, A, G):
    """Σ v vᵀ over the samples of a block of patches, v (κ,) a sample's gradient by one kernel: (out inp, κ, κ), κ = kernel²."""
    xp, n, kappa, total = namespace(A, G), A.shape[1] // positions, spec.entries, 0.0
    patches = xp.permute_dims(xp.reshape(A[: spec.fan_in, :], (spec.fan_in, n, positions)), (1, 2, 0))
    signals = xp.permute_dims(xp.reshape(G, (spec.out, n, positions)), (1, 0, 2))
    for block in slices(n, block_length(8 * spec.out * spec.fan_in, A)):
        v = xp.reshape(signals[block, ...] @ patches[block, ...], (-1, spec.out * spec.inp, kappa))
        v = xp.permute_dims(v, (1, 2, 0))
        total = total + v @ xp.matrix_transpose(v)
    return total
