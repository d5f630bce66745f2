"""Polynomials in one variable as tuples of coefficients, constant first: products, derivatives, and suprema on an interval."""

from itertools import pairwise


def value(f, x):
    """f(x), by Horner's rule."""
    total = 0.0
    for coefficient in reversed(f):
        total = total * x + coefficient
    return total


def product(f, g):
    """The coefficients of f g."""
    made = [0.0] * (len(f) + len(g) - 1)
    for i, a in enumerate(f):
        for j, b in enumerate(g):
            made[i + j] += a * b
    return tuple(made)


def derivative(f):
    """The coefficients of f'."""
    return tuple(k * a for k, a in enumerate(f))[1:] or (0.0,)


def crossings(f, low, high):
    """Where f changes its sign in [low, high], ascending: by bisection between the crossings of its derivative."""
    if len(f) < 2:
        return []
    ends = [low, *crossings(derivative(f), low, high), high]
    return [_bisected(f, a, b) for a, b in pairwise(ends) if value(f, a) * value(f, b) < 0]


def _bisected(f, a, b):
    rising = value(f, a) < 0
    while a < (middle := (a + b) / 2) < b:
        a, b = (middle, b) if (value(f, middle) < 0) == rising else (a, middle)
    return (a + b) / 2


def supremum(f, low, high):
    """The largest |f| on [low, high]: at its ends or where the derivative crosses 0."""
    return max(abs(value(f, x)) for x in (low, *crossings(derivative(f), low, high), high))
