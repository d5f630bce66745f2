r"""A few columns of K Kᵀ, pivoted over rows (sample, output): what they are made from, how many, and the work that they are.

Formula     P = F Fᵀ + μ I ≈ K Kᵀ + n s I,  F (n c, k) of columns of K Kᵀ = Σ_l (A_l A_lᵀ ⊗ 1 1ᵀ) ∘ (Δ̂_l Δ̂_lᵀ) at drawn pivots
            first rank k₀: 2 k² + e k flops a row of F, e an entry of K Kᵀ, are those of one product with K Kᵀ; √(2 m d) for the
            two-layer network
            2 k columns follow where t products took longer than 2 (B(2 k) - B(k)), k/2 where they took less than B(k) - B(k/2),
            for t iterations and B(k) the time of making k columns
            where rows are sums over positions (convolutions): columns of K SᵀS Kᵀ, for a sketch S of 4 k rows
            the two-layer network: columns of the closed-form kernel of ReLU, else of sums over neurons, 4 k of them
Reference   `nearlin.linalg.pivoted_cholesky`, `nearlin.nn.gram_entries`; the rules are measured
Cost        B(k): c backward passes, n c k Σ_l (2 o + 2 D / c) + 2 n c k² + k³/3 flops;  an application 4 n c k + 2 k²
Deviations  1. F is made anew in every step: after one step that of a deep network is worse than none. That of the closed-form
               kernel stays for the run.
            2. Several outputs of the two-layer network have neurons of their own and one F, for the mean of their blocks.
"""

import math
from functools import partial

from nearlin._array import by_one_worker, copies
from nearlin.linalg import PivotedCholesky, Work
from nearlin.nn import FactorEntries, KernelEntries

SKETCHED = 4  # rows of J Sᵀ for every column
ROUND = 192  # proposals of a round at least: a round reads all factors
FEWEST = 16  # columns, below which they are not halved
CALLS = 120  # of the array library in a round
PASSES = 20  # over an entry of F while it is made
FEW = 8  # m d / n below which few columns do not help


def closed(J):
    """Whether columns are those of a kernel in closed form."""
    return not J.layered and J.phi.name == "relu"


def dense(J):
    """Whether every layer's rows are products of two factors that are at hand."""
    return J.layered and all(isinstance(shape, tuple) for shape in J.factor_shapes) and set(J.rows) == {J.samples}


def first_rank(J):
    """k₀."""
    work = J.product_work()
    return rank_of((work.matmul + work.thin) / _size(J), _entry(J))


def rank_of(product, entry=0):
    """k for which 2 k² + e k, e an ``entry`` of K Kᵀ, are the flops of a ``product``, both a row of F."""
    return math.ceil((math.sqrt(entry * entry + 8 * product) - entry) / 4)


def few_neurons(J):
    """A sentence where a two-layer network has too few neurons for its samples, or nothing."""
    share = J.shape[1] / J.shape[0]
    if J.layered or share >= FEW:
        return ""
    return f"m d is {share:.2g} n, few neurons for so many samples: below {FEW} n iterations grow, and a wider network helps"


def factor_bytes(J):
    """What the factors of the rows take, or J Sᵀ at the first rank."""
    left, right = _widths(J, first_rank(J))
    return 0 if closed(J) else J.item * (_size(J) * left + J.samples * right)


def least_bytes(J):
    """Those, and what the fewest columns take, twice as they grow."""
    return factor_bytes(J) + 2 * J.item * _size(J) * min(FEWEST, _size(J))


def _size(J):
    """Rows of F."""
    return J.pooled().shape[0]


def most_columns(J, memory):
    """Columns that the rows and ``memory`` bytes allow: beside the factors, for F and another one while it grows."""
    return max(1, min(_size(J), int((memory - factor_bytes(J)) / (2 * J.item * _size(J)))))


def columns_work(J, k):
    """The `Work` of making k columns and their preconditioner."""
    N, block, (left, right) = _size(J), min(k, max(ROUND, k // 8)), _widths(J, k)
    rows = _rows_work(J, k)
    flops = N * k * (2 * left + 2 * right * J.samples / N + 2 * k + block)
    memory = J.item * N * (left * k / block + PASSES * k)
    return rows + Work(thin=flops, cholesky=k**3 / 3, memory=memory, calls=CALLS * k / block)


def _rows_work(J, k):
    """The `Work` of making what entries are made from."""
    if dense(J):
        return J.rows_work()
    if closed(J):
        return Work()
    return J.sketch_rows_work(SKETCHED * k)


def _entry(J):
    """Flops of an entry of K Kᵀ; of K SᵀS Kᵀ, whose sketch grows with the columns, none of its own."""
    left, right = _widths(J, 0) if J.layered else (0, 0)
    return 2 * left + 2 * right * J.samples / _size(J)


def _widths(J, k):
    """Σ_l o and Σ_l D, the widths of what an entry is made from."""
    if not J.layered:
        return 5 if closed(J) else SKETCHED * k, J.factor_shapes[0][1]
    if not dense(J):
        return SKETCHED * k, 0
    return tuple(map(sum, zip(*J.factor_shapes, strict=True)))


def pivoted_rows(J, k, sketch, key, like):
    """The `PivotedCholesky` of k columns; ``sketch``, a distribution, is drawn where rows are sums over positions."""
    source = _source(J, k, sketch, key, like)
    grown = partial(PivotedCholesky(source, key).grow, k, ROUND)
    return by_one_worker(grown) if getattr(source, "in_turn", False) else grown()


def _source(J, k, sketch, key, like):
    if closed(J):
        return KernelEntries(*copies((J.inputs,)))
    return FactorEntries.of(J, None if dense(J) else J.pooled().draw(sketch, key, SKETCHED * k, like))


def next_rank(k, iterations, build, product):
    """Columns of the next step, for ``build(k)`` and ``product``, predicted times; `first_rank` has the rule."""
    if iterations * product > 2 * (build(2 * k) - build(k)):
        return 2 * k
    return k // 2 if k > FEWEST and iterations * product < build(k) - build(k // 2) else k
