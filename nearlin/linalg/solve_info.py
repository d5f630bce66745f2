"""The certificate that comes with every iterative answer."""

from typing import NamedTuple


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
    reason : str
        ``"converged"``, ``"maxiter"``, ``"nonpositive curvature"``, ``"non-finite"`` or ``"stalled"`` (the recursion met the
        tolerance but the true residual did not, or the residual grew).
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
    reason: str
    condition: float = float("nan")
    preconditioner: str = "none"
    refreshed: bool = False
    largest: float = float("nan")
