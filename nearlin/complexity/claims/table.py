"""What a claim is: a sentence of a paper, how it is measured, what is expected, and the verdict that the measurement gets."""

from collections.abc import Callable
from dataclasses import dataclass, field

HOLDS, FAILS, OUT_OF_REGIME = "holds", "fails", "out of regime"
NOT_MEASURED, NOT_BUILT = "not measured", "not built yet"
VERDICTS = (HOLDS, FAILS, OUT_OF_REGIME, NOT_MEASURED, NOT_BUILT)
KINDS = ("count", "time", "memory", "convergence")


def worst(verdicts):
    """The verdict that several of `HOLDS`, `FAILS` and `OUT_OF_REGIME` come to."""
    return next((verdict for verdict in (FAILS, OUT_OF_REGIME) if verdict in verdicts), HOLDS)


@dataclass(frozen=True)
class Series:
    """One curve of a claim's plot: measured values over sizes, and what the claim predicts there (None: no prediction).

    ``log`` names the logarithmic axes: ``"xy"``, ``"x"``, ``"y"`` or ``""``.
    """

    label: str
    x: tuple
    y: tuple
    predicted: tuple | None = None
    x_label: str = "n"
    y_label: str = ""
    log: str = "xy"


@dataclass(frozen=True)
class Outcome:
    """What a measurement found.

    Attributes
    ----------
    value : str
        The measured quantity, as the report prints it.
    verdict : str
        `HOLDS`, `FAILS` or `OUT_OF_REGIME` (the condition under which the claim is expected to hold was not met).
    detail : str
        Sizes, draws, and the reason where the verdict is not `HOLDS`.
    series : tuple of Series
        Curves for the plot of the claim's family.
    """

    value: str
    verdict: str
    detail: str = ""
    series: tuple = ()

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict is {self.verdict!r}; expected one of {', '.join(VERDICTS)}")


@dataclass(frozen=True)
class Claim:
    """One row of the table.

    Attributes
    ----------
    id : str
        Short name in kebab case, for ``nearlin verify --only``.
    number : int
        Number in the list of the claims of arXiv:2006.11648, or 0.
    family : str
        Claims of a family share a plot and a heading.
    paper : str
        arXiv id and place: "arXiv:2006.11648, main theorem"; "derived" where the statement is ours.
    statement, quantity, expected, condition : str
        The claim in one sentence, what is measured, the values that keep it, and what it takes for granted.
    how : str
        One of `KINDS`. Claims that are timed run with ``--full`` alone.
    measure : callable or None
        ``measure(full) -> Outcome``, with larger sizes where ``full``; None: not built yet.
    should_hold : bool
        Whether a failure makes ``nearlin verify`` exit with 1. A claim that is known to fail in practice says False.
    quick : bool
        Whether it runs without ``--full``.
    """

    id: str
    number: int
    family: str
    paper: str
    statement: str
    quantity: str
    how: str
    expected: str
    condition: str
    measure: Callable | None = field(repr=False)
    should_hold: bool = True
    quick: bool = True

    def __post_init__(self):
        if self.how not in KINDS:
            raise ValueError(f"how is {self.how!r}; expected one of {', '.join(KINDS)}")
