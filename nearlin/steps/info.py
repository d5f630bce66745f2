"""What a step reports."""

import re
from enum import StrEnum
from typing import NamedTuple

from nearlin._array import finite_squares
from nearlin.linalg import SolveInfo


class StepExit(StrEnum):
    """How a step ended: the first word of its reason."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    STALLED = "stalled"

    __repr__ = str.__repr__

    def because(self, sentence):
        """The reason of a step that came out so, as it is reported."""
        return f"{self}: {sentence}"

    @classmethod
    def of(cls, reason):
        """The end that a step's reason tells, or that of a run's record; None of other words."""
        word = re.match(r"\w*", reason)[0]
        return cls(word) if word in set(cls) else None


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


def taken_if_finite(old, new, loss, beside=(), **more):
    """What a step returns that goes from the pair ``old`` of parameters and state to ``new``: these two, and `Info`.

    It goes nowhere, and says so, where the new parameters are not finite, or one of the arrays ``beside`` them. ``loss`` is that
    before the step, ``more`` are other fields of the `Info`. 2 p - L flops for p numbers in L arrays.
    """
    if not finite_squares(*new[0], *beside):
        return *old, Info(float(loss), False, StepExit.REJECTED.because("the step is not finite"))
    return *new, Info(float(loss), True, StepExit.ACCEPTED, **more)


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
        strength is λ + ω with a penalty and the shift of the sample side's J Jᵀ n (λ + ω); the others add it to J Jᵀ.
    ratio : float
        Actual over predicted decrease of the loss in the last attempt.
    attempts : int
        Solves in this step.
    solve : SolveInfo
        Certificate of the last solve.
    side : str
        ``"sample"`` or ``"parameter"``: where the system was solved; empty where there is no choice between them.
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
