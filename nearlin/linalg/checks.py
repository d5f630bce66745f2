"""What the routines of this floor refuse, in one place and in the same words."""

import math

from nearlin._array import check


def check_square(name, matrix, *, finite=False, stack=True):
    """The namespace of symmetric matrices (..., n, n), or of one (n, n) without ``stack``; raises as `nearlin._array.check`."""
    xp = check(ndim=None if stack else {name: 2}, finite=finite, **{name: matrix})
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}; expected a square matrix")
    return xp


def check_system(b, rtol, damping=0.0):
    """The right-hand side b (n,), the tolerance and the damping of a solve; NaN and Inf in b are for its certificate."""
    check(ndim={"b": 1}, finite=False, b=b)
    check_damping(damping)
    if not 0 <= rtol < 1:
        raise ValueError(f"rtol is {rtol!r}; expected a number in [0, 1)")


def check_damping(damping):
    """A damping that may be zero."""
    if not 0 <= damping < math.inf:
        raise ValueError(f"damping is {damping!r}; expected a finite number, at least 0")
