"""Runs claims, one at a time and in order: every claim ends with an outcome, whatever its measurement does."""

import time
from dataclasses import dataclass

from threadpoolctl import threadpool_limits

from nearlin.complexity.claims.table import FAILS, NOT_BUILT, NOT_MEASURED, Claim, Outcome

INTERRUPTED = Outcome("", NOT_MEASURED, "interrupted")


@dataclass(frozen=True)
class Result:
    """A claim, what its measurement found, and the seconds that took."""

    claim: Claim
    outcome: Outcome
    seconds: float = 0.0

    @property
    def verdict(self):
        """One of `nearlin.complexity.claims.table.VERDICTS`."""
        return self.outcome.verdict

    @property
    def measured(self):
        """Whether its measurement came to an end."""
        return self.verdict not in (NOT_MEASURED, NOT_BUILT)

    @property
    def disappoints(self):
        """Whether the claim fails although it should hold."""
        return self.verdict == FAILS and self.claim.should_hold


def run(claims, full=False, before=None, after=None):
    """Measure ``claims`` in order.

    Parameters
    ----------
    claims : iterable of Claim
    full : bool
        Run the timed claims too, and measure at larger sizes.
    before, after : callable, optional
        ``before(claim)`` and ``after(result)``, around every claim.

    Returns
    -------
    results : tuple of Result
        One per claim, in order.
    interrupted : bool
        Whether Ctrl-C ended the run; the claims that it left are "not measured".

    Notes
    -----
    An error inside a measurement is a verdict, "fails", and the error's sentence its reason. Claims run on one BLAS thread: on
    matrices of a few hundred rows the threads of a library wait for each other, and on shared cores for everyone else.
    """
    results, interrupted = [], False
    for claim in claims:
        try:
            if before and not interrupted:
                before(claim)
            result = Result(claim, INTERRUPTED) if interrupted else _measured(claim, full)
        except KeyboardInterrupt:
            interrupted, result = True, Result(claim, INTERRUPTED)
        results.append(result)
        if after and not interrupted:
            after(result)
    return tuple(results), interrupted


def why_not(claim, full):
    """The `Outcome` of a claim that is not run, or None."""
    if claim.measure is None:
        return Outcome("", NOT_BUILT, "the method it speaks about is not built yet")
    if not full and claim.how == "time":
        return Outcome("", NOT_MEASURED, "timed: --full measures it, --from-asv judges what asv measured")
    if not full and not claim.quick:
        return Outcome("", NOT_MEASURED, "long: --full measures it")
    return None


def _measured(claim, full):
    if outcome := why_not(claim, full):
        return Result(claim, outcome)
    start = time.perf_counter()
    try:
        with threadpool_limits(1, user_api="blas"):
            outcome = claim.measure(full)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"it returned a {type(outcome).__name__}; expected an Outcome")
    except Exception as error:
        sentence = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        outcome = Outcome("no result", FAILS, f"the measurement failed: {sentence}")
    return Result(claim, outcome, time.perf_counter() - start)
