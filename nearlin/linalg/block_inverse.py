"""Inverses of many damped symmetric blocks at once, with a ladder for the blocks that resist.

Formula     Xᵢ = (Bᵢ + λ I)⁻¹ for Bᵢ (k, k), i = 1, ..., N
            k <= 16: symmetric sweeps, vectorised over the blocks; the pivots are those of the Cholesky factorisation, squared.
            k <= 64: stacked Cholesky factorisations say which blocks are definite, a stacked general inverse inverts them
            k > 64: Cholesky factorisation and inverse, block by block (LAPACK potrf, potri)
            on a GPU stacks for all k <= 256: they take as many launches for many blocks as for one
Reference   Goodnight, A Tutorial on the SWEEP Operator, The American Statistician 33 (1979); LAPACK Working Note 41
Cost        with N blocks that need no help:
            at most N (k³ + 11 k² + 10 k) - 1 flops per call, k <= 16: by sweeps; equal where 4 divides k
            exact N (7 k³/3 + 21 k²/2 + 25 k/6) - 1 flops per call, k > 16, k <= 64: by stacks
            exact N (k³ + 5 k² + 2 k - 1) - 1 flops per call, k > 64: by single blocks
Deviations  1. A pivot counts as positive where it exceeds the rounding error of its diagonal entry: below that, it is noise.
"""

from functools import partial
from typing import NamedTuple

from nearlin import _array
from nearlin.linalg.cholesky import FactorizationError, explained
from nearlin.linalg.precision import is_thin

SWEPT, STACKED, STACKED_ON_GPU = 16, 64, 256  # largest blocks that are swept, and that are stacked: where the times cross
GROUP = 4  # rows that a sweep updates in one call: fewer calls against less of the lower triangle
CLIMBS = 5  # times that the damping of a failing block is multiplied by ten


class BlockInverse(NamedTuple):
    """Damped inverses of blocks, and which blocks needed help.

    Attributes
    ----------
    inverse : array, shape (..., k, k)
        (B + damping I)⁻¹ of every block, or what it kept.
    raised : tuple of (tuple of int, float)
        Blocks that needed a larger damping: index and damping used.
    kept : tuple of tuple of int
        Blocks that kept their previous inverse.
    nonfinite : tuple of tuple of int
        Those of them that hold NaN or Inf.
    name : str
        What a block is, for `sentence`.
    """

    inverse: object
    raised: tuple = ()
    kept: tuple = ()
    nonfinite: tuple = ()
    name: str = "block"

    def sentence(self):
        """What happened, for a message; empty where every block was inverted as asked."""
        lost = [index for index in self.kept if index not in set(self.nonfinite)]
        parts = [
            _listed([f"{_called(self.name, index)} with damping {d:.3g}" for index, d in self.raised], "inverted"),
            _listed([_called(self.name, index) for index in lost], "not positive definite, previous inverse kept"),
            _listed([_called(self.name, index) for index in self.nonfinite], "holding NaN or Inf, previous inverse kept"),
        ]
        return "; ".join(filter(None, parts))


def _called(name, index):
    return f"{name} {index[0] if len(index) == 1 else index}" if index else name


def _listed(names, what, most=3):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {', '.join(names[:most])}{more}" if names else ""


def block_inverse(blocks, damping, name="block", previous=None):
    """(B + damping I)⁻¹ for every symmetric block B of a stack.

    A block that is not positive definite is tried again with ten times its damping, at most five times; then it keeps its
    previous inverse. A block with NaN or Inf always keeps it. In float32, a block whose damping is below 1e-5 of its trace is
    inverted in float64 where the device has that, and cast back (`nearlin.linalg.precision`). The other blocks do not notice:
    their inverses are the same to the bit.

    Parameters
    ----------
    blocks : array, shape (..., k, k)
        Symmetric; not changed.
    damping : float
        Added to every diagonal; at least 0.
    name : str
        What a block is, for messages.
    previous : array, shape (..., k, k), optional
        Inverses to keep where a block has none.

    Returns
    -------
    BlockInverse
        The inverses, with the blocks that needed a larger damping or kept their previous inverse.

    Raises
    ------
    FactorizationError
        A block has no inverse and there is no previous one; names it, its size, the dampings, its smallest eigenvalue, and
        what to change.
    ValueError, TypeError, BackendError
        Blocks that are not square, a damping below 0 or not finite, previous inverses of another shape, dtype or backend.

    Notes
    -----
    For N blocks, N (k³ + 11k² + 10k) flops up to k = 16, N (7k³/3 + 21k²/2 + 25k/6) up to k = 64 and N (k³ + 5k² + 2k) above;
    one array of the size of ``blocks`` and a cache of work. Every failing block costs its own inverse again, at most five times.
    """
    (xp, damping), k = _checked(blocks, damping, previous), blocks.shape[-1]
    flat = xp.reshape(blocks, (-1, k, k))
    dampings = xp.full((flat.shape[0],), damping, dtype=blocks.dtype, device=_array.device(blocks))
    inverse, good = _invert(flat, dampings)
    if _array.read_flag(good[0] if flat.shape[0] == 1 else xp.all(good)):
        return BlockInverse(xp.reshape(inverse, blocks.shape), name=name)
    failed = xp.nonzero(~good)[0]
    mended, dampings, found, finite = _climb(xp.take(flat, failed, axis=0), xp.take(dampings, failed, axis=0))
    indices = [_index(i, blocks.shape[:-2]) for i in _array.to_numpy(failed).tolist()]
    if previous is not None:
        kept = xp.take(xp.reshape(previous, (-1, k, k)), failed, axis=0)
        mended = xp.where(found[:, None, None], mended, kept)
    elif not _array.read_flag(xp.all(found)):
        raise FactorizationError(_why(xp.take(flat, failed, axis=0), dampings, found, indices, damping, name))
    inverse = xp.reshape(_merged(inverse, good, mended), blocks.shape)
    ends = list(zip(indices, *(_array.to_numpy(a).tolist() for a in (dampings, found, finite)), strict=True))
    return BlockInverse(
        inverse,
        raised=tuple((index, d) for index, d, ok, _ in ends if ok),
        kept=tuple(index for index, _, ok, _ in ends if not ok),
        nonfinite=tuple(index for index, _, _, whole in ends if not whole),
        name=name,
    )


def _checked(blocks, damping, previous):
    """The namespace of arguments that make sense together, and the damping as a float."""
    xp = _array.check_square("blocks", blocks)
    if previous is not None:
        _array.check(finite=False, beside=("blocks", blocks), previous=previous)
        if previous.shape != blocks.shape:
            raise ValueError(f"previous is a {_array.describe(previous)}; expected the shape of blocks, {tuple(blocks.shape)}")
    return xp, _array.not_negative("damping", damping)


def _index(i, lead):
    """The index of the ``i``-th block in a stack of shape ``lead``."""
    index = []
    for length in reversed(lead):
        i, here = divmod(i, length)
        index.insert(0, here)
    return tuple(index)


# ------------------------------------------------------------------------------------------------------ when a block fails


def _climb(blocks, dampings):
    """Inverses of failed blocks with their dampings raised, those dampings, which were found, and which blocks are finite."""
    xp = _array.namespace(blocks)
    finite = xp.all(xp.isfinite(blocks), axis=(1, 2))
    found, inverse = xp.zeros_like(finite), xp.zeros_like(blocks)
    least = float(xp.finfo(blocks.dtype).eps) * xp.max(xp.abs(xp.linalg.diagonal(blocks)), axis=-1)  # ten times 0 is 0
    for _ in range(CLIMBS):
        open_ = finite & ~found
        if not _array.read_flag(xp.any(open_)):
            break
        dampings = xp.where(open_, xp.maximum(10 * dampings, least), dampings)
        again, good = _invert(blocks, dampings)
        inverse = xp.where((open_ & good)[:, None, None], again, inverse)
        found = found | (open_ & good)
    return inverse, dampings, found, finite


def _merged(inverse, good, mended):
    """``inverse`` with its blocks that are not ``good`` replaced, in order, by ``mended``."""
    xp, n = _array.namespace(inverse), inverse.shape[0]
    there = n - 1 + xp.cumulative_sum(xp.astype(~good, xp.int64))
    order = xp.where(good, xp.arange(n, dtype=xp.int64, device=_array.device(inverse)), there)
    return xp.take(xp.concat([inverse, mended], axis=0), order, axis=0)


def _why(blocks, dampings, found, indices, damping, name):
    """The message for the first block that has no inverse."""
    lost = [i for i, ok in enumerate(_array.to_numpy(found).tolist()) if not ok]
    first = explained(blocks[lost[0], ...], float(dampings[lost[0]]), _called(name, indices[lost[0]]))
    return f"{first} (from {damping:.3g}, raised at most {CLIMBS} times; {len(lost)} failing in all, no previous inverse to keep)"


# ----------------------------------------------------------------------------------------------------------- many inverses


def _invert(blocks, dampings):
    """Inverses of (N, k, k) blocks with dampings (N,), and which of them are positive definite."""
    xp, (n, k, _) = _array.namespace(blocks), blocks.shape
    single = _attempt_of(blocks) is _single
    length = _array.block_length(k * k * 8, blocks) // 6  # an odd multiple of 8, as powers of two make strided access slow
    chunks = _array.slices(n, 1 if single else length // 16 * 16 + 8)
    walk = map if single else partial(_array.map_blocks, like=blocks)  # LAPACK on large blocks has threads of its own
    if len(chunks) == 1 and _array.on_gpu(blocks):
        return _wide_enough(blocks, dampings)
    inverse = xp.empty_like(blocks)
    good = xp.empty((n,), dtype=xp.bool, device=_array.device(blocks))
    for chunk, (X, fine) in zip(chunks, walk(lambda c: _wide_enough(blocks[c, ...], dampings[c]), chunks), strict=True):
        inverse[chunk, ...] = X
        good[chunk] = fine
    return inverse, good


def _wide_enough(blocks, dampings):
    """As `_attempt`, in float64 for float32 blocks whose damping is small beside their trace."""
    xp, wide = _array.namespace(blocks), _array.widest(blocks)
    attempt = _attempt_of(blocks)
    if wide == blocks.dtype:
        return attempt(blocks, dampings)
    thin = is_thin(blocks, dampings)
    if not _array.read_flag(xp.any(thin)):
        return attempt(blocks, dampings)
    exact, good = attempt(xp.astype(blocks, wide), xp.astype(dampings, wide))
    with _array.unguarded():
        exact = xp.astype(exact, blocks.dtype)
    good = good & xp.all(xp.isfinite(exact), axis=(1, 2))
    if _array.read_flag(xp.all(thin)):
        return exact, good
    inverse, fine = attempt(blocks, dampings)
    return xp.where(thin[:, None, None], exact, inverse), xp.where(thin, good, fine)


def _attempt_of(blocks):
    """What makes inverses in the dtype at hand, anything where a block has none, and says which have one."""
    k = blocks.shape[-1]
    if _array.on_gpu(blocks):
        return _hopeful if k <= STACKED_ON_GPU else _single
    return _sweep if k <= SWEPT else _stacked if k <= STACKED else _single


def _single(blocks, dampings):
    """The inverse of one large block."""
    xp, block = _array.namespace(blocks), blocks[0, ...]
    try:
        if not _array.read_flag(xp.all(xp.isfinite(block))):
            raise _array.NotPositiveDefinite("not finite")
        inverse = _array.spd_inverse(block, float(dampings[0]))
    except _array.NotPositiveDefinite:
        return xp.zeros_like(blocks), _array.asarray([False], like=blocks, dtype="bool")
    return inverse[None, ...], xp.all(xp.isfinite(inverse))[None]


def _stacked(blocks, dampings):
    """Inverses by stacked routines; what is not definite is replaced by the identity, as one failure would end them all."""
    xp = _array.namespace(blocks)
    eye = xp.eye(blocks.shape[-1], dtype=blocks.dtype, device=_array.device(blocks))
    with _array.unguarded():
        damped = blocks + dampings[:, None, None] * eye
    finite = xp.all(xp.isfinite(damped), axis=(1, 2))
    damped = xp.where(finite[:, None, None], damped, eye)
    good = finite & _definite(damped)
    inverse = xp.linalg.inv(xp.where(good[:, None, None], damped, eye))
    inverse = 0.5 * (inverse + xp.matrix_transpose(inverse))
    return inverse, good & xp.all(xp.isfinite(inverse), axis=(1, 2))


def _hopeful(blocks, dampings):
    """As `_stacked`, by half as many launches where all blocks are definite."""
    xp = _array.namespace(blocks)
    damped = blocks + dampings[:, None, None] * xp.eye(blocks.shape[-1], dtype=blocks.dtype, device=_array.device(blocks))
    try:
        good = _above_rounding(_array.cholesky_pivots(damped), damped)
    except _array.NotPositiveDefinite:
        return _stacked(blocks, dampings)
    inverse = xp.linalg.inv(damped)
    inverse = 0.5 * (inverse + xp.matrix_transpose(inverse))
    return inverse, good & xp.all(xp.isfinite(inverse), axis=(1, 2))


def _above_rounding(pivots, blocks):
    """Whether all pivots of a block exceed the rounding errors of its diagonal."""
    xp = _array.namespace(blocks)
    return xp.all(pivots > float(xp.finfo(blocks.dtype).eps) * xp.linalg.diagonal(blocks), axis=-1)


def _definite(blocks):
    """Which blocks are positive definite to working precision; a stack that fails is halved."""
    xp, n = _array.namespace(blocks), blocks.shape[0]
    try:
        return _above_rounding(_array.cholesky_pivots(blocks), blocks)
    except _array.NotPositiveDefinite:
        if n == 1:
            return _array.asarray([False], like=blocks, dtype="bool")
    return xp.concat([_definite(blocks[: n // 2, ...]), _definite(blocks[n // 2 :, ...])])


def _sweep(blocks, dampings):
    """Inverses by k symmetric pivots on the upper triangles of all blocks at once.

    The blocks lie along the last axis, so that one call works on all of them. A pivot that is not positive is passed over:
    its block is lost, but stays finite.
    """
    xp, (n, k, _) = _array.namespace(blocks), blocks.shape
    A = xp.empty((k, k, n), dtype=blocks.dtype, device=_array.device(blocks))
    A[...] = xp.permute_dims(blocks, (1, 2, 0))
    with _array.unguarded():
        for j in range(k):
            A[j, j, :] += dampings
        good = xp.all(xp.isfinite(A), axis=(0, 1))
        noise = _noise([A[j, j, :] for j in range(k)])
        for j in range(k):
            positive = A[j, j, :] > noise[j]
            good = good & positive
            _pivot(A, j, positive)
        for j in range(k - 1):
            A[j + 1 :, j, :] = A[j, j + 1 :, :]
        good = good & xp.all(xp.isfinite(A), axis=(0, 1))
    return xp.permute_dims(-A, (2, 0, 1)), good


def _noise(diagonal):
    """The least pivots that are more than rounding error."""
    limits = _array.namespace(diagonal[0]).finfo(diagonal[0].dtype)
    return [float(limits.eps) * entry + float(limits.smallest_normal) for entry in diagonal]


def _pivot(A, j, positive):
    """Sweep row j of the upper triangles in place where its pivot is positive: after all k pivots, A is minus its inverse."""
    xp, k, pivot = _array.namespace(A), A.shape[0], A[j, j, :]
    scale = xp.where(positive, 1 / xp.where(positive, pivot, xp.ones_like(pivot)), xp.zeros_like(pivot))
    row = xp.concat([A[:j, j, :], A[j, j:, :]], axis=0)
    root, row = row * xp.sqrt(scale), row * scale
    for rows in _array.slices(k, GROUP):
        A[rows, rows.start :, :] -= root[rows, None, :] * root[None, rows.start :, :]
    A[:j, j, :] = row[:j, :]
    A[j, j:, :] = row[j:, :]
    A[j, j, :] = -scale
