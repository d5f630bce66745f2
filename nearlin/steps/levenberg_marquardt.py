"""The Levenberg-Marquardt rule: damping from the ratio of actual to predicted decrease.

Formula     ratio > .75: λ ← max(λ/4, floor).  ratio < .25: λ ← 4 λ.
            ratio <= .05 or not finite: reject, λ ← max(ν λ, 1e-4 scale), ν ← 2ν (ν = 4 at first, reset on success)
            λ <= 1e8 scale throughout: there the step is 1e-8 of a gradient step
Reference   Levenberg (1944); Marquardt (1963); the growing factor ν is Nielsen's (IMM-REP-1999-05)
Cost        O(1)
Deviations  1. The jump to 1e-4 scale on a rejection, scale = tr(G)/n: from a tiny damping, ν alone would need many rejections.
"""

import math
from typing import NamedTuple

CEILING = 1e8  # largest damping over the mean eigenvalue


class Damping(NamedTuple):
    """The damping λ and the factor ν of the next rejection."""

    value: float
    growth: float = 4.0


def judge(damping, ratio, floor, scale, ceiling=None):
    """Whether a step with this ratio of actual to predicted decrease is accepted, and the damping that follows.

    Parameters
    ----------
    damping : Damping
    ratio : float
        Actual over predicted decrease of the loss.
    floor : float
        Smallest damping.
    scale : float
        tr(G)/n, the mean eigenvalue of the damped matrix, or another size of it that the jump and the ceiling refer to.
    ceiling : float, optional
        Largest damping; `CEILING` times ``scale`` by default.

    Returns
    -------
    accepted : bool
    damping : Damping
    """
    ceiling = CEILING * scale if ceiling is None else ceiling
    if not math.isfinite(ratio) or ratio <= 0.05:
        return False, Damping(min(max(damping.growth * damping.value, 1e-4 * scale), ceiling), 2 * damping.growth)
    if ratio > 0.75:
        return True, Damping(max(damping.value / 4, floor))
    return True, Damping(min(4 * damping.value, ceiling) if ratio < 0.25 else damping.value)


def least_damping(eps):
    """The floor of λ over tr(G)/n for arithmetic of precision ``eps``: 1e-8 in float64, 1e-5 in float32."""
    return 1e-8 if eps < 1e-10 else 1e-5
