"""Steps whose iterates differ between numbers of ranks by more than rounding: one rank's own move as much by the last digits.

The control: the run of one rank from weights each of which is moved to a neighbouring number.
"""

import functools

import numpy as np
import pytest

import nearlin as nl
from nearlin._array import fold_in
from tests.nn.test_by_neurons import STEPS, batch, objective

o = nl.optim
SENSITIVE = {
    "cg": (o.GaussNewton(plan="cg"), {}, "float64"),
    "near-linear, pivoted": (o.NearLinearGaussNewton(preconditioner="pivoted"), {}, "float64"),
    "pivoted, tanh": (o.GaussNewton(plan="pivoted"), {"activation": "tanh"}, "float64"),
    "pivoted, float32": (o.GaussNewton(plan="pivoted"), {}, "float32"),
}


def run(opt, network, dtype, ranks=None, draw=None):
    """The weights after some steps, on ``ranks``, or on one rank alone from weights that are moved where there is a ``draw``."""
    mine = objective(**network) if ranks is None else nl.nn.by_neurons(objective(**network), ranks)
    x, y = (a.astype(dtype) for a in batch())
    params = mine.network.init(1, x)
    if draw is not None:
        up = np.random.default_rng(draw).integers(0, 2, params[0].shape) == 1
        params = (np.nextafter(params[0], np.where(up, np.inf, -np.inf).astype(dtype)),)
    state = opt.init(params, mine)
    for t in range(STEPS):
        params, state, _ = opt.step(params, state, mine, (x, y), fold_in(3, t))
    return (params[0] if ranks is None else mine.network.whole(params)[0]).astype("float64")


@pytest.mark.parametrize("name", SENSITIVE)
def test_ranks_move_iterates_by_no_more_than_the_last_digits_of_the_weights_do(name):
    alone = functools.partial(run, *SENSITIVE[name])
    serial = alone()
    far = lambda W: np.linalg.norm(W - serial) / np.linalg.norm(serial)  # noqa: E731
    moved = max(far(alone(draw=draw)) for draw in range(4))
    assert moved > 100 * np.finfo(SENSITIVE[name][2]).eps
    assert far(nl.together(3, lambda ranks: alone(ranks=ranks))[0]) < 5 * moved
