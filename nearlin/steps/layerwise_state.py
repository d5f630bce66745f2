"""What the layer-wise methods hand from step to step."""

from typing import NamedTuple


class LayerwiseState(NamedTuple):
    """What a step of a method with averaged statistics hands to the next.

    Attributes
    ----------
    t : int
        Steps taken.
    velocity : tuple or None
        v, like the parameters; None before the first step.
    layers : tuple
        What the method keeps for each layer, or for each variable where it takes layers apart; may be empty before the first
        statistic.
    statistics : int
        How many statistics were taken.
    warm : bool
        Whether they come from a warm start.
    kept : int
        How many times an inverse was kept from before, or a statistic left out.
    size : float
        Mean of what the batches weighed, weighted as the statistics are: their samples, to the power that `weigh` has.
    shapes : tuple
        Of the parameters; () before the first step.
    """

    t: int = 0
    velocity: tuple | None = None
    layers: tuple = ()
    statistics: int = 0
    warm: bool = False
    kept: int = 0
    size: float = 0.0
    shapes: tuple = ()
