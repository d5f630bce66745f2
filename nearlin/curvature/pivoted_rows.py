r"""A few columns of K Kᵀ for networks of layers, pivoted over rows (sample, output): how many, and the work that they are.

Formula     P = F Fᵀ + μ I ≈ K Kᵀ + n s I,  F (n c, k) of columns of K Kᵀ = Σ_l (A_l A_lᵀ ⊗ 1 1ᵀ) ∘ (Δ̂_l Δ̂_lᵀ) at drawn pivots
            first rank k₀: 2 k² + e k flops a row of F, e an entry of K Kᵀ, are those of one product with K Kᵀ
            2 k columns follow where K products took longer than 2 (B(2 k) - B(k)), k/2 where they took less than B(k) - B(k/2),
            for K iterations and B(k) the time of making k columns
            where rows are sums over positions (convolutions): columns of K SᵀS Kᵀ, for a sketch S of 4 k rows
Reference   `nearlin.linalg.pivoted_cholesky`, `nearlin.nn.gram_entries`; the rules are measured
Cost        B(k): c backward passes, n c k Σ_l (2 o + 2 D / c) + 2 n c k² + k³/3 flops;  an application 4 n c k + 2 k²
Deviations  1. F is made anew in every step: after one step that of a deep network is worse than none.
"""

import math

from nearlin.linalg import PivotedCholesky, Work
from nearlin.nn import FactorEntries

SKETCHED = 4  # rows of J Sᵀ for every column
ROUND = 192  # proposals of a round at least: a round reads all factors
FEWEST = 16  # columns, below which they are not halved
CALLS = 120  # of the array library in a round
PASSES = 20  # over an entry of F while it is made


def dense(J):
    """Whether every layer's rows are products of two factors."""
    return all(isinstance(shape, tuple) for shape in J.factor_shapes) and set(J.rows) == {J.samples}


def first_rank(J):
    """k₀, for which 2 k² + e k are the flops of a product a row."""
    product, e = J.product_work().matmul / J.shape[0], _entry(J)
    return max(1, round((math.sqrt(e * e + 8 * product) - e) / 4))


def factor_bytes(J):
    """What the factors of the rows take, or J Sᵀ at the first rank."""
    left, right = _widths(J, first_rank(J))
    return J.item * (J.shape[0] * left + J.samples * right)


def most_columns(J, memory):
    """Columns that the rows and ``memory`` bytes allow: beside the factors, for F and another one while it grows."""
    return max(1, min(J.shape[0], int((memory - factor_bytes(J)) / (2 * J.item * J.shape[0]))))


def columns_work(J, k):
    """The `Work` of making k columns and their preconditioner."""
    N, block, (left, right) = J.shape[0], max(ROUND, k // 8), _widths(J, k)
    rows = J.rows_work() if dense(J) else J.sketch_rows_work(SKETCHED * k)
    flops = N * k * (2 * left + 2 * right / J.outputs + 2 * k + block)
    memory = J.item * N * (left * k / block + PASSES * k)
    return rows + Work(thin=flops, cholesky=k**3 / 3, memory=memory, calls=CALLS * k / block)


def _entry(J):
    """Flops of an entry of K Kᵀ; of K SᵀS Kᵀ, whose sketch grows with the columns, none of its own."""
    left, right = _widths(J, 0)
    return 2 * left + 2 * right / J.outputs


def _widths(J, k):
    """Σ_l o and Σ_l D, the widths of what an entry is made from."""
    if not dense(J):
        return SKETCHED * k, 0
    return tuple(map(sum, zip(*J.factor_shapes, strict=True)))


def pivoted_rows(J, k, sketch, key, like):
    """The `PivotedCholesky` of k columns; ``sketch``, a distribution, is drawn where rows are sums over positions."""
    S = None if dense(J) else J.draw(sketch, key, SKETCHED * k, like)
    return PivotedCholesky(FactorEntries.of(J, S), key).grow(k, ROUND)


def next_rank(k, iterations, build, product):
    """Columns of the next step, for ``build(k)`` and ``product``, predicted times; `first_rank` has the rule."""
    if iterations * product > 2 * (build(2 * k) - build(k)):
        return 2 * k
    return k // 2 if k > FEWEST and iterations * product < build(k) - build(k // 2) else k
