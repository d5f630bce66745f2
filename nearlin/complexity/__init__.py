"""Operation counting, exponent fits, and the table of claims.

    with nl.complexity.count() as tally:                     # exact flops, bytes and peak memory of your own step
        opt.step(*nl.complexity.wrap((params, state)), objective, nl.complexity.wrap(batch), key=0)
    nl.complexity.degree(lambda n: flops_of_a_step(n), [64, 96, 128, 160, 192])

`counting` is the array namespace, `cost` holds the closed forms, `fit` judges measured times.
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
