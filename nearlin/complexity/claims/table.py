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
    """One curve of a claim's plot: measured values over sizes, what the claim predicts there, and the bounds on it (None: none).

    ``log`` names the logarithmic axes: ``"xy"``, ``"x"``, ``"y"`` or ``""``; ``says`` and ``bound`` are what is predicted
    and the bounds in words.
    """

    label: str
    x: tuple
    y: tuple
    predicted: tuple | None = None
    x_label: str = "n"
    y_label: str = ""
    log: str = "xy"
    says: str = "predicted"
    low: tuple | None = None
    high: tuple | None = None
    bound: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a measurement found."""

    value: str  # the measured quantity, as the report prints it
    verdict: str  # one of `VERDICTS`; `OUT_OF_REGIME` where the condition under which the claim should hold was not met
    detail: str = ""  # sizes, draws, and the reason where the verdict is not `HOLDS`
    series: tuple = ()  # a `Series` for each curve in the plot of the claim's family

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict is {self.verdict!r}; expected one of {', '.join(VERDICTS)}")


@dataclass(frozen=True)
class Claim:
    """One row of the table. A claim that is known to fail in practice has ``should_hold`` False: its failure is no error."""

    id: str  # short name in kebab case, for ``nearlin verify --only``
    number: int  # in the list of the claims of arXiv:2006.11648, or 0
    family: str  # claims of a family share a plot and a heading
    paper: str  # arXiv id and place: "arXiv:2006.11648, main theorem"; "derived" where the statement is ours
    statement: str  # in one sentence
    quantity: str  # what is measured
    how: str  # one of `KINDS`; claims that are timed run with ``--full`` alone
    expected: str  # value and tolerance, as the report prints them
    condition: str  # under which it is expected to hold
    measure: Callable | None = field(repr=False)  # measure(full) -> `Outcome`, larger sizes where ``full``; None: not built
    should_hold: bool = True
    quick: bool = True  # whether it runs without ``--full``

    def __post_init__(self):
        if self.how not in KINDS:
            raise ValueError(f"how is {self.how!r}; expected one of {', '.join(KINDS)}")
