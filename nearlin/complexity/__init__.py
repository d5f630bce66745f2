"""Operation counting, exponent fits, and the table of claims.

    >>> flops = lambda n: nl.complexity.flops_of(nl.linalg.damped_cholesky, np.eye(n), 0.1)  # exact, of any function
    >>> nl.complexity.leading_term(flops, [8, 16, 24, 32, 40])  # n³/3
    (3, Fraction(1, 3))

`count` counts flops, bytes and peak memory of a block; `counting` is its array namespace, `cost` holds the
closed forms, `fit` judges measured times.
"""

from nearlin.complexity import cost
from nearlin.complexity.counting import Tally, count, counting_like, flops_of, wrap
from nearlin.complexity.degree import degree, difference_table, leading_term, nlogn
from nearlin.complexity.fit import Contest, ExponentFit, contest, fit_exponent, fit_with_floor

__all__ = [
    "Tally", "count", "counting_like", "flops_of", "wrap",
    "degree", "difference_table", "leading_term", "nlogn",
    "Contest", "ExponentFit", "contest", "fit_exponent", "fit_with_floor",
    "cost",
]  # fmt: skip
