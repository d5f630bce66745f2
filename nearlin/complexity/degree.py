"""The exact degree of a cost, from exact counts.

Formula     Δ⁰ = counts, Δᵏ⁺¹_i = Δᵏ_{i+1} - Δᵏ_i on equally spaced sizes: a polynomial of degree p has Δᵖ constant and not
            zero, Δᵖ⁺¹ = 0, and leading coefficient Δᵖ / (p! hᵖ) for spacing h. No tolerance: counts are integers or Fractions.
            c n log₂ n + a n + b on sizes 2ᵏ: D_k = count(2ᵏ⁺¹) - 2 count(2ᵏ) = 2 c 2ᵏ - b, and D_{k+1} - D_k = 2 c 2ᵏ.
            With b = 0 that says that the first differences of count/n are the constant c.
Reference   Newton's finite differences.

The slope of log(count) over log(size) is not the degree: lower-order terms bend it. For 100 n + n² on sizes 10 to 40 it is
1.2, and the degree is 2.
"""

from fractions import Fraction
from itertools import pairwise
from math import factorial
from numbers import Rational

from nearlin.complexity.counting import Tally


def difference_table(f, sizes):
    """Counts and their repeated differences: row k holds the k-th differences, down to a single one.

    Parameters
    ----------
    f : callable
        f(size) is a count: an int, a Fraction or a `Tally`, of which the total is taken.
    sizes : sequence of int
        At least two, equally spaced and ascending.

    Returns
    -------
    list of list of int or Fraction

    Raises
    ------
    ValueError
        Fewer than two sizes, sizes that are not equally spaced integers, or a count that is not exact.
    """
    _spacing(sizes)
    table = [[_exact(f(size), size) for size in sizes]]
    while len(table[-1]) > 1:
        table.append([b - a for a, b in pairwise(table[-1])])
    return table


def degree(f, sizes):
    """The degree of the polynomial that f is on ``sizes``, which are at least two more than it; 0 for a constant.

    f and sizes are those of `difference_table`; `ValueError` also where they are too few, or f is no polynomial.
    """
    return leading_term(f, sizes)[0]


def leading_term(f, sizes):
    """Degree p and coefficient c of the leading term c nᵖ of f; see `degree`. The coefficient is an exact Fraction."""
    table = difference_table(f, sizes)
    zero = next((k for k, row in enumerate(table) if not any(row)), None)
    if zero is None:
        raise ValueError(
            f"the differences of {len(sizes)} counts do not vanish: no polynomial of degree <= {len(sizes) - 2}; expected at "
            "least degree + 2 sizes of a polynomial"
        )
    p = max(zero - 1, 0)
    return p, Fraction(table[p][0]) / (factorial(p) * _spacing(sizes) ** p)


def nlogn(f, sizes):
    """The coefficient c if f is c n log₂ n + a n + b on ``sizes``, else None.

    Parameters
    ----------
    f : callable
        As in `difference_table`.
    sizes : sequence of int
        At least four consecutive powers of two, ascending.

    Returns
    -------
    Fraction or None
        0 where f is linear.

    Raises
    ------
    ValueError
        Fewer than four sizes, other sizes, or a count that is not exact.
    """
    if len(sizes) < 4:
        raise ValueError(f"{len(sizes)} sizes are too few; expected at least 4 consecutive powers of two")
    if any(not _is_power_of_two(n) for n in sizes) or any(b != 2 * a for a, b in pairwise(sizes)):
        raise ValueError(f"sizes are {list(sizes)}; expected consecutive powers of two, ascending")
    counts = [_exact(f(n), n) for n in sizes]
    steps = [b - 2 * a for a, b in pairwise(counts)]
    found = {Fraction(b - a) / (2 * n) for a, b, n in zip(steps, steps[1:], sizes, strict=False)}
    return found.pop() if len(found) == 1 else None


def _is_power_of_two(n):
    return _is_integer(n) and n > 0 and not n & (n - 1)


def _is_integer(n):
    return isinstance(n, Rational) and not isinstance(n, bool) and n.denominator == 1


def _spacing(sizes):
    """The common distance of equally spaced sizes."""
    if len(sizes) < 2:
        raise ValueError(f"{len(sizes)} sizes are too few; expected at least degree + 2 of them")
    if not all(map(_is_integer, sizes)):
        raise ValueError(f"sizes are {list(sizes)}; expected integers")
    gaps = {int(b) - int(a) for a, b in pairwise(sizes)}
    if len(gaps) > 1 or min(gaps) < 1:
        raise ValueError(f"sizes are {list(sizes)}; expected equally spaced ascending integers")
    return gaps.pop()


def _exact(value, size):
    value = value.total if isinstance(value, Tally) else value
    if not isinstance(value, Rational) or isinstance(value, bool):
        raise ValueError(f"the count at size {size} is {value!r}; expected an exact int or Fraction")
    return Fraction(value) if value.denominator != 1 else int(value)
