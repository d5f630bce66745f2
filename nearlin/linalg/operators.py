"""The operator protocol, and the dot test that every operator must pass.

An operator has ``shape``, ``matvec(v)`` and ``rmatvec(u)``. Its domain may be a vector or a tuple of arrays (a Jacobian's
parameters); its range is a vector.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from nearlin._array import fold_in, namespace, normal, on_gpu, read, read_number, unguarded


class LinearOperator(Protocol):
    """What solvers and tests ask of an operator A; inherit from nothing, just offer these."""

    shape: tuple[int, int]

    def matvec(self, v):
        """A v."""

    def rmatvec(self, u):
        """Aᵀ u."""


@dataclass(frozen=True)
class DenseOperator:
    """An explicit matrix (n, p) as an operator."""

    matrix: object

    @property
    def shape(self):
        """(n, p)."""
        return tuple(self.matrix.shape)

    def matvec(self, v):
        """A v; 2 n p flops."""
        return self.matrix @ v

    def rmatvec(self, u):
        """Aᵀ u; 2 n p flops."""
        return namespace(self.matrix).matrix_transpose(self.matrix) @ u


def inner(a, b):
    """Inner product of two arrays, or of two tuples of arrays, as a float (one synchronisation)."""
    if isinstance(a, tuple) and any(isinstance(part, tuple) for part in a):
        return sum(inner(u, v) for u, v in zip(a, b, strict=True))
    if isinstance(a, tuple):
        return sum(read(*map(product, a, b)))
    return read_number(namespace(a, b).sum(a * b))


def product(a, b):
    """The inner product of two arrays, to be looked at by `nearlin._array.read`: a float, and a 0-d array on a GPU."""
    found = namespace(a, b).sum(a * b)
    return found if on_gpu(found) else float(found)


def norms(*arrays, beside=()):
    """The values of the 0-d arrays ``beside``, and the norms of several arrays; one synchronisation."""
    found = read(*beside, *(product(a, a) for a in arrays))
    values, squares = found[: len(beside)], found[len(beside) :]
    return values + list(map(_root, squares, arrays))


def norm(a):
    """Euclidean norm of an array or a tuple of arrays, as a float: 0 for zeros alone, Inf where the squares overflow."""
    return _root(inner(a, a), a)


def _root(square, a):
    """The norm of ``a`` from the sum of its squares, unless underflow may show in that."""
    return square**0.5 if square >= least_square(a) else _scaled_norm(a)


def safe_norm(a):
    """`norm` that is finite for all finite numbers: for solvers, while a step whose squares overflow is refused."""
    with unguarded():
        size = norm(a)
    return size if size < math.inf else _scaled_norm(a)


def _scaled_norm(a):
    largest = _largest(a)
    if not 0 < largest < math.inf:
        return largest
    scaled = _divided(a, largest)
    return largest * inner(scaled, scaled) ** 0.5


def normalized(b):
    """``b`` (n,) divided by a power of two, that power, and the norm of the quotient.

    The power is 1 unless squares of numbers of the size of b under- or overflow: the bits are those of b otherwise.
    """
    with unguarded():
        square = inner(b, b)
    if least_square(b) <= square < math.inf:
        return b, 1.0, square**0.5
    largest = _largest(b)
    if not 0 < largest < math.inf:
        return b, 1.0, largest
    unit = 2.0 ** (math.frexp(largest)[1] - 1)
    return b / unit, unit, norm(b / unit)


def least_square(a):
    """What a sum of squares has to be for underflow not to show in it."""
    if isinstance(a, tuple):
        return max(map(least_square, a), default=0.0)
    limits = namespace(a).finfo(a.dtype)
    return float(limits.smallest_normal) / float(limits.eps)


def _largest(a):
    """max |a_i|, NaN where there is one."""
    if isinstance(a, tuple):
        sizes = [_largest(part) for part in a]
        return math.nan if any(map(math.isnan, sizes)) else max(sizes)
    xp = namespace(a)
    return float(xp.max(xp.abs(a))) if 0 not in a.shape else 0.0


def _divided(a, size):
    return tuple(_divided(part, size) for part in a) if isinstance(a, tuple) else a / size


def axpy(alpha, x, y):
    """alpha x + y for arrays or tuples of arrays."""
    if isinstance(x, tuple):
        return tuple(axpy(alpha, u, v) for u, v in zip(x, y, strict=True))
    return alpha * x + y


def dot_test(operator, key, like):
    """Relative error of <A v, u> = <v, Aᵀ u> for random u and v: rounding, if ``matvec`` and ``rmatvec`` are adjoint.

    Parameters
    ----------
    operator : object
        With ``shape``, ``matvec`` and ``rmatvec``.
    key : int
        Key of the draws.
    like : array
        Backend, device and dtype of the vectors.

    Returns
    -------
    float
        |<A v, u> - <v, Aᵀ u>| / (||A v|| ||u||).
    """
    u = normal(key, (operator.shape[0],), like)
    adjoint = operator.rmatvec(u)
    v = _normal_like(fold_in(key, 1), adjoint, like)
    image = operator.matvec(v)
    return abs(inner(image, u) - inner(v, adjoint)) / (norm(image) * norm(u))


def _normal_like(key, template, like):
    if isinstance(template, tuple):
        return tuple(_normal_like(fold_in(key, i), t, like) for i, t in enumerate(template))
    return normal(key, tuple(template.shape), like)
