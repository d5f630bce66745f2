"""The certificates that come with every iterative answer and every guarded step."""

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


class Info(NamedTuple):
    """What happened in one step of a method that solves no linear system.

    Attributes
    ----------
    loss : float
        Of the batch, before the step.
    accepted : bool
        Whether the parameters moved.
    reason : str
        ``"accepted"`` or ``"rejected: ..."``.
    solve : None
        There is no certificate.
    refreshed : bool
        Whether curvature that is renewed in intervals (inverses, roots, bases) was.
    kept : str
        What of it was kept from before or left out instead, and why; empty if nothing.
    new_loss : float or None
        Of the batch, after the step, where the method looks at it.
    """

    loss: float
    accepted: bool
    reason: str
    solve: None = None
    refreshed: bool = False
    kept: str = ""
    new_loss: float | None = None


class StepInfo(NamedTuple):
    """What happened in one guarded Gauss-Newton step.

    Attributes
    ----------
    loss, new_loss : float
        Before and after the step; equal if it was rejected.
    accepted : bool
        Whether the parameters moved.
    reason : str
        ``"accepted"``, ``"rejected: ..."`` or ``"stalled: ..."``.
    damping : float
        λ of the last attempt, as the method's ``damping`` has it. `GaussNewton` adds it to the mean curvature JᵀHJ/n, where the
        strength is λ + ω with weight decay and the shift of the sample side's J Jᵀ n (λ + ω); the others add it to J Jᵀ.
    ratio : float
        Actual over predicted decrease of the loss in the last attempt.
    attempts : int
        Solves in this step.
    solve : SolveInfo
        Certificate of the last solve.
    side : str
        ``"sample"`` or ``"parameter"``: where the system was solved.
    plan : str
        The route that was chosen, and why; empty where there is no choice.
    effective_dimension : float
        Estimate of tr(H (H + λ I)⁻¹), the number of directions that the damping leaves free; NaN where there is none.
    """

    loss: float
    new_loss: float
    accepted: bool
    reason: str
    damping: float
    ratio: float
    attempts: int
    solve: SolveInfo
    side: str = "sample"
    plan: str = ""
    effective_dimension: float = float("nan")
