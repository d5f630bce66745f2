"""The two-layer network's masks within a step's bytes: those of its point and of a trial, one of the two sets, or none.

Formula     a set takes n m / 8 bytes (n m elsewhere than on NumPy); two sets serve a guarded step best
            one: the point's are let go for a trial, and made again (2 n m d flops) where the trial is refused
            none: every walk makes phi' anew, 2 n m d flops beside 2 n m d, twice for a product with J Jᵀ
Reference   derived
Cost        none beside these; the numbers of a step are the same
Deviations  none
"""

from nearlin.nn import TwoLayer
from nearlin.nn.activations import activation
from nearlin.nn.two_layer_blocks import mask_bytes

GIGA = 1e9
WITHOUT = {"masks": False}


def asked_for(network, batch, memory):
    """What `Objective.at` is told beside parameters and batch, which are not looked at yet: `WITHOUT`, or nothing."""
    x = batch[0] if isinstance(batch, tuple | list) and batch else None
    if not isinstance(network, TwoLayer) or getattr(x, "ndim", 0) != 2:
        return {}
    return WITHOUT if mask_bytes(x, network.width, activation(network.activation)) > memory else {}


def sets_within(memory, each, beside):
    """How many sets of masks, at most two, of ``each`` bytes have room in ``memory`` ``beside`` other bytes; 0 bytes: two."""
    return min(2, int(max(0, memory - beside) // each)) if each else 2


class Masks:
    """Lets go of masks, and makes them again, as a step goes on.

    Parameters
    ----------
    J : Jacobian
        Of the step's point.
    beside : int
        Bytes that the preconditioner holds.
    memory : float
        Bytes for both.

    Attributes
    ----------
    sets : int
        How many there may be at a time.
    described : str
        In words, or nothing where there are two.
    """

    def __init__(self, J, beside, memory):
        each = 0 if J.layered else mask_bytes(J.x, J.W.shape[0], J.phi)
        self._J, self._masked = J, each > 0
        self.sets = sets_within(memory, each, beside)
        words = (
            f"phi' is made anew in every walk, as a set of masks takes {each / GIGA:.3g} GB",
            f"masks of one point at a time, as those of two take {2 * each / GIGA:.3g} GB",
            "",
        )
        self.described = words[self.sets]
        if not self.sets:
            J.release()

    def before_solve(self):
        """Make the point's again, if they were let go."""
        if self._masked and self.sets:
            self._J.restore()

    def before_trial(self):
        """Let the point's go, if there is no room for two; returns what `Objective.at` is told at a trial."""
        if self.sets == 1:
            self._J.release()
        return {} if self.sets else WITHOUT

    def after_trial(self, point, accepted):
        """Let those of a refused trial go, before the next one makes its own."""
        if self._masked and not accepted and point is not None:
            point.release()
