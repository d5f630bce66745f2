"""The operator protocol, and the dot test that every operator must pass.

An operator has ``shape``, ``matvec(v)`` and ``rmatvec(u)``. Its domain may be a vector or a tuple of arrays (a Jacobian's
parameters); its range is a vector.
"""

from dataclasses import dataclass
from typing import Protocol

from nearlin._array import fold_in, namespace, normal


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
        return tuple(self.matrix.shape)

    def matvec(self, v):
        """A v; 2 n p flops."""
        return self.matrix @ v

    def rmatvec(self, u):
        """Aᵀ u; 2 n p flops."""
        return namespace(self.matrix).matrix_transpose(self.matrix) @ u


def inner(a, b):
    """Inner product of two arrays, or of two tuples of arrays, as a float (one synchronisation)."""
    if isinstance(a, tuple):
        return sum(inner(u, v) for u, v in zip(a, b, strict=True))
    return float(namespace(a, b).sum(a * b))


def norm(a):
    """Euclidean norm of an array or a tuple of arrays, as a float."""
    return inner(a, a) ** 0.5


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
