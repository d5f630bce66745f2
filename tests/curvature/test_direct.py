"""The direct route: the inverse of the dense matrix, on both of its sides, and what it refuses."""

import math

import numpy as np
import pytest

from nearlin import nn
from nearlin.curvature import ROUTES, direct, direct_factor, direct_matrices
from nearlin.optim import GaussNewton


def problem(be, sizes, n, loss, bias=True):
    """A perceptron, whose first layer may lack its ``bias``."""
    g, (d, m, c) = np.random.default_rng(0), sizes
    layers = nn.Dense(d, m, bias=bias), nn.Elementwise(nn.activation("tanh")), nn.Dense(m, c)
    objective = nn.Objective(nn.Sequential(layers, shape=(d,)), loss, l2=0.3)
    y = g.standard_normal((n, sizes[-1])) if isinstance(loss, nn.SquaredLoss) else g.integers(0, sizes[-1], n)
    x = be.array(g.standard_normal((n, sizes[0])))
    y = be.xp.asarray(y, device=be.device) if y.dtype.kind == "i" else be.array(y)
    return objective, objective.network.init(1, be.like), (x, y)


@pytest.mark.parametrize(("sizes", "n"), [((3, 4, 3), 5), ((3, 4, 3), 40), ((3, 4, 7), 3), ((3, 4, 7), 40)])
@pytest.mark.parametrize("loss", [nn.SquaredLoss(), nn.SoftmaxCrossEntropy()], ids=["squared", "softmax"])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_inverse_of_the_dense_matrix(be, sizes, n, loss, bias, monkeypatch):
    """With fewer rows than parameters, and with more, seven at a time; with a Jacobian in factors, and by passes."""
    objective, params, batch = problem(be, sizes, n, loss, bias)
    monkeypatch.setattr(direct, "ENTRIES", 7 * sizes[-1] * sum(math.prod(spec.shape) for spec in objective.layers))
    J = objective.at(params, batch).jacobian(weighted=True)
    source, how = direct_factor(direct_matrices(J, objective.layers), J, objective.layers, params, 0.05, 0.3)
    v = tuple(be.array(np.random.default_rng(2).standard_normal(W.shape)) for W in params)
    flat = lambda v: np.concatenate([be.numpy(V).ravel() for V in v]).astype(float)  # noqa: E731
    K = be.numpy(J.to_dense()).astype(float)
    weights = np.concatenate([np.tile(np.arange(s.shape[1]) < s.fan_in, s.out) for s in objective.layers])
    M = K.T @ K / n + 0.05 * np.eye(K.shape[1]) + 0.3 * np.diag(weights)
    np.testing.assert_allclose(flat(source.solve(v, 0.35)), np.linalg.solve(M, flat(v)), rtol=0, atol=be.tol(1e-10))
    wrong = np.linalg.solve(M + 0.3 * np.diag(~weights), flat(v))
    assert np.max(np.abs(flat(source.solve(v, 0.35)) - wrong)) > 1e-2
    assert how == "cholesky"


def test_a_step_takes_two_iterations_and_nothing_is_kept(numpy_backend):
    objective, params, batch = problem(numpy_backend, (3, 4, 3), 5, nn.SoftmaxCrossEntropy())
    opt = GaussNewton(plan="direct", epsilon=1e-10)
    _, state, info = opt.step(params, opt.init(params, objective), objective, batch)
    assert info.accepted
    assert info.solve.iterations <= 2
    assert (info.side, info.solve.preconditioner) == ("parameter", "direct, cholesky")
    assert state.experience.kept is None


def test_networks_that_it_does_not_take_are_told():
    image, rows = np.ones((2, 1, 4, 4)), np.ones((2, 3))
    conv = nn.Sequential((nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Dense(8, 1)), shape=(1, 4, 4))
    wide = nn.TwoLayer(3, 8)
    for net, x, words in ((conv, image, "not dense"), (wide, rows, "'exact'")):
        objective = nn.Objective(net, nn.SquaredLoss())
        J = objective.at(net.init(0, x), (x, np.ones(2))).jacobian()
        assert words in ROUTES["direct"].obstacle(J)
