"""Features in raw units saturate a softmax at the start: its curvature vanishes, and Gauss-Newton steps all the same."""

import numpy as np
import pytest

from nearlin import data, nn
from nearlin.curvature import sides
from nearlin.optim import GaussNewton

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def cancer():
    """200 rows, whose features lie between 1e-3 and 4e3, and labels 0 and 1."""
    found = data.load("breast-cancer")
    return found.x[:200], (found.y[:200] > 0).astype(np.int64)


def problem(cancer, dtype, seed):
    x, y = cancer
    network = nn.MLP((x.shape[1], 256, 2), "relu")
    batch = x.astype(dtype), y
    return nn.Objective(network, nn.SoftmaxCrossEntropy()), network.init(seed, like=batch[0]), batch


def steps(objective, params, batch, count, standardize="auto"):
    """The infos, and the share of the rows that the network gets right at the end."""
    opt, infos = GaussNewton(standardize=standardize), []
    state = opt.init(params, objective)
    for t in range(count):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        infos.append(info)
    outputs = objective.at(params, batch).outputs
    return infos, np.mean(np.argmax(outputs, axis=1) == batch[1]), state


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_first_step_is_taken(cancer, dtype, seed):
    """The loss, at first some tens or hundreds, falls below 1 in 15 steps."""
    infos, right, _ = steps(*problem(cancer, dtype, seed), 15)
    assert infos[0].accepted
    assert infos[0].loss > 30 > 1 > infos[-1].new_loss
    assert right > 0.9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_by_the_ritz_value_alone_nothing_is_ever_taken(cancer, dtype, monkeypatch):
    monkeypatch.setattr(sides, "SATURATED", 0.0)
    infos, _, _ = steps(*problem(cancer, dtype, 0), 3)
    assert not any(info.accepted for info in infos)
    assert infos[-1].new_loss == infos[0].loss


def test_the_damping_then_refers_to_the_gradient_by_the_loss(cancer):
    """||g||²/2L by a central difference along g: the derivative of the loss there is ||g||²."""
    objective, params, batch = problem(cancer, np.float64, 0)
    g = objective.at(params, batch).grads()
    h = 1e-9
    up, down = (float(objective.at(tuple(W + s * h * G for W, G in zip(params, g, strict=True)), batch).loss) for s in (1, -1))
    loss = float(objective.at(params, batch).loss)
    state = steps(objective, params, batch, 1, "never")[2]
    assert state.bounds.size == pytest.approx((up - down) / (2 * h) / (2 * loss), rel=1e-3)


def test_the_bounds_of_a_batch_are_kept_only_once_a_step_was_taken(cancer):
    """A step that overflows is refused; the next batch, in units a million times smaller, has its own bounds."""
    objective, params, (x, y) = problem(cancer, np.float64, 0)
    opt = GaussNewton(lr=1e300)
    _, refused, info = opt.step(params, opt.init(params, objective), objective, (x, y))
    assert not info.accepted
    opt, small = GaussNewton(), (1e-3 * x, y)
    first, second = (opt.step(params, state, objective, small)[1].bounds for state in (refused, opt.init(params, objective)))
    assert first == second
