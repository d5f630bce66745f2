"""Flops of the closed-form kernel, and of pivoted columns of it, to the flop where the rounds that make them are known."""

from math import ceil

import numpy as np

from nearlin._array import block_length
from nearlin.complexity.cost.kernels import factorisation
from nearlin.curvature.pivoted_rows import rank_of
from nearlin.linalg.pivoted_cholesky import LEAST, MOST, STEPS

ENTRY = 9  # flops of an entry of the kernel beside 2 d: the two norms, cosine, its closeness


def first_rank(p, n):
    """k₀ = √(2 p), p = m d, at most n: columns whose making takes about one product, 4 n p flops."""
    return min(n, rank_of(4 * p))


def rounds_of(rank, made=0, least=LEAST):
    """(proposed, taken) of every round if every proposal were taken: rank/8, ``least`` to 512, in each but the last."""
    block, left = min(max(rank // 8, least), MOST), rank - made
    while left:
        taken = min(block, left)
        yield min(block, 2 * left + 8), taken
        left -= taken


def limit_kernel(n, d):
    """K (n, n) in closed form: 2 n² d + 9 n², and what is made of its rows first."""
    return n * n * (2 * d + ENTRY) + 4 * n * d + 3 * n - 1


def pivoted_columns(n, d, rank, rounds=None, made=0, dtype="float64", entry=ENTRY):
    """F (n, k) and FᵀF from the kernel of n samples: n k (2 d + 9) + 2 n k² and, for rounds of t columns, about n Σ t².

    Parameters
    ----------
    n, d, rank : int
        Samples, inputs, k.
    rounds : sequence of (int, int), optional
        Proposals and columns of each round, on which the exact number depends; by default those of `rounds_of`.
    made : int
        Columns that there are already.
    dtype : str
        On which blocks of rows depend.
    entry : int
        Flops of an entry beside 2 d: 1 of sums over s neurons, which are d + s numbers a sample.

    Returns
    -------
    int
        Flops.
    """
    like, k = np.empty(0, dtype), made
    total = 0 if made else 4 * n * d + 6 * n - 3  # x is looked at, norms, the diagonal, which is looked at, its least entry
    for proposed, taken in rounds or rounds_of(rank, made):
        total += proposed**2 * (2 * d + entry + 2 * k)
        blocks = ceil(n / block_length(like.itemsize * (k + 3 * taken), like))
        before = (2 * k + 1) * n * taken if k else 0
        total += n * taken * (2 * d + entry) + before + n * taken**2 + 2 * n * (k + taken) * taken
        total += blocks * (k + taken) * taken + (2 * taken - 1) * n
        k += taken
    return total


def pivoted_root(k):
    """R of FᵀF + μ I, and λ₁(FᵀF) by the power method for the least μ: k³/3 + 20 k²."""
    return factorisation(k) + STEPS * (2 * k * k + 5 * k - 2)


def pivoted_application(n, k, columns=1):
    """P⁻¹ r for P = F Fᵀ + μ I: 4 n k + 2 k² + 2 n, for each column of r."""
    return columns * (4 * n * k + 2 * k * k + 2 * n)
