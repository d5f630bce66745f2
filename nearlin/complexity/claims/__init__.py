"""The table of claims: what the papers promise about cost and convergence, each with its measurement and its verdict.

`CLAIMS` holds all of them, family by family; it is made when it is first asked for. Every sweep takes what is under test as a
parameter, so that a deliberately wrong method can be put in its place.
"""

import difflib
import functools
from importlib import import_module

FAMILIES = (
    "outer", "natural_gradient", "kernel", "sketch", "inner", "deep", "damped", "pivoted", "pivoted_steps", "cost", "timing",
    "layerwise", "layerwise_rates", "ginger", "dsgd", "ranks",
)  # fmt: skip

__all__ = ["CLAIMS", "FAMILIES", "select"]


@functools.cache
def _claims():
    claims = tuple(claim for family in FAMILIES for claim in import_module(f"{__name__}.{family}").CLAIMS)
    ids = [claim.id for claim in claims]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise ValueError(f"two claims have the id {min(twice)!r}")
    return claims


def __getattr__(name):
    """Load the families only when they are asked for."""
    if name == "CLAIMS":
        return _claims()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def select(ids, claims=None):
    """The claims with the given ids, in the order of the table.

    Parameters
    ----------
    ids : iterable of str
        Ids of claims; none of them selects all.
    claims : tuple of Claim, optional
        The table; by default `CLAIMS`.

    Raises
    ------
    ValueError
        An id that is not in the table.
    """
    claims = _claims() if claims is None else claims
    wanted, known = set(ids), [claim.id for claim in claims]
    for name in sorted(wanted.difference(known)):
        close = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the ids are {', '.join(known)}"
        raise ValueError(f"unknown claim {name!r}; {hint}")
    return tuple(claim for claim in claims if claim.id in wanted) if wanted else claims
