"""The certificate that comes with every iterative answer, and the ways in which an iteration ends."""

from enum import StrEnum
from typing import NamedTuple


class Exit(StrEnum):
    """How an iteration ended: a word, which it equals and prints as, and what the word means, in ``meaning``."""

    CONVERGED = "converged", "the tolerance was met"
    MAXITER = "maxiter", "the iterations that were allowed came first"
    NONPOSITIVE = "nonpositive curvature", "the operator, or the preconditioner, is not positive definite"
    NON_FINITE = "non-finite", "a number overflowed, or was not finite from the start"
    STALLED = "stalled", "the recursion met the tolerance and the true residual did not, or the residual grew"

    def __new__(cls, word, meaning):
        member = str.__new__(cls, word)
        member._value_, member.meaning = word, meaning
        return member

    __repr__ = str.__repr__


class SolveInfo(NamedTuple):
    """How a solve of A x = b ended.

    Attributes
    ----------
    residual : float
        Relative residual ||b - A x|| / ||b||, recomputed from x; where a method says that it carries it along, that one.
    iterations : int
        Iterations done.
    products : int
        Products with A, the certificate's included.
    reason : Exit
        ``"converged"``, ``"maxiter"``, ``"nonpositive curvature"``, ``"non-finite"`` or ``"stalled"``.
    condition : float
        Condition number of the preconditioned operator from CG's Lanczos coefficients: a lower bound, 1 after one iteration
        and NaN where the method gives none.
    preconditioner : str
        Which preconditioner was used.
    refreshed : bool
        Whether it was built in this call.
    largest : float
        Largest Ritz value of the preconditioned operator, NaN where the method gives none: a lower bound of its norm.
    """

    residual: float
    iterations: int
    products: int
    reason: Exit
    condition: float = float("nan")
    preconditioner: str = "none"
    refreshed: bool = False
    largest: float = float("nan")

    @classmethod
    def unsolved(cls, size):
        """Of the answer 0 to a right-hand side of norm ``size`` that is 0, or not finite."""
        return cls(0.0, 0, 0, Exit.CONVERGED) if size == 0 else cls(float("nan"), 0, 0, Exit.NON_FINITE)
