"""A trial point that is recalled: at what it was evaluated at, and nowhere else."""

import numpy as np
import pytest

from nearlin import nn, steps

OBJECTIVE = nn.Objective(nn.TwoLayer(3, 16), nn.SquaredLoss())


def good():
    """Parameters and a batch."""
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((5, 3)), draw.standard_normal(5)
    return OBJECTIVE.network.init(0, x), (x, y)


@pytest.mark.parametrize("wrap", [lambda o: o, nn.Counted], ids=["plain", "counted"])
def test_a_point_is_recalled_at_the_same_parameters_and_batch_alone(wrap):
    """Values decide, not identity; what was evaluated is a copy, so that arrays changed in place are other arrays."""
    wrapped, (params, (x, y)) = wrap(OBJECTIVE), good()
    recall = steps.Recall.of(wrapped, params, (x, y), wrapped.at(params, (x, y)))
    again = tuple(W.copy() for W in params), (x.copy(), y.copy())
    assert steps.recalled(recall, wrapped, *again) is recall.point
    other = nn.Objective(nn.TwoLayer(3, 16, "tanh"), nn.SquaredLoss())
    for asked in (
        (None, wrapped, params, (x, y)),
        (recall, wrap(other), params, (x, y)),
        (recall, wrapped, (params[0] + 1e-15,), (x, y)),
        (recall, wrapped, params, (x[:3], y[:3])),
        (recall, wrapped, params, (x.astype(np.float32), y)),
        (recall, wrapped, params, (x.tolist(), y)),
    ):
        assert steps.recalled(*asked) is None
    y[0] += 1.0
    assert steps.recalled(recall, wrapped, params, (x, y)) is None


def test_a_point_with_batch_statistics_is_not_recalled():
    normalised = nn.Objective(nn.Sequential((nn.Dense(3, 2), nn.BatchNorm(2))), nn.SquaredLoss())
    (x, y), params = good()[1], normalised.network.init(0, np.ones(1))
    batch = (x, np.stack([y, y], axis=1))
    assert steps.Recall.of(normalised, params, batch, normalised.at(params, batch)) is None
