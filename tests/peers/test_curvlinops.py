"""Gauss-Newton products and K-FAC factors beside curvlinops, where it is installed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
curvlinops = pytest.importorskip("curvlinops")

from nearlin import nn, optim  # noqa: E402

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("FutureWarning", "DeprecationWarning")]


def perceptron(sizes, params):
    """The perceptron with tanh as a torch module of the same weights."""
    modules = []
    for inp, out, W in zip(sizes[:-1], sizes[1:], params, strict=True):
        linear = torch.nn.Linear(inp, out, dtype=torch.float64)
        linear.weight.data, linear.bias.data = torch.as_tensor(W[:, :-1].copy()), torch.as_tensor(W[:, -1].copy())
        modules += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*modules[:-1])


def entries(params):
    """Weights and biases in the order of torch."""
    return np.concatenate([part.ravel() for W in params for part in (W[:, :-1], W[:, -1])])


@pytest.fixture
def problem():
    draw, sizes = np.random.default_rng(1), (6, 5, 4, 3)
    net = nn.MLP(sizes, "tanh")
    params = tuple(W + 0.2 * draw.standard_normal(W.shape) for W in net.init(2, np.ones(1)))
    x, y = draw.standard_normal((9, 6)), draw.integers(0, 3, 9)
    return (
        nn.Objective(net, nn.SoftmaxCrossEntropy()),
        params,
        perceptron(sizes, params),
        [(torch.as_tensor(x), torch.as_tensor(y))],
    )


def test_gauss_newton_products(problem):
    objective, params, module, data = problem
    operator = curvlinops.GGNLinearOperator(
        module, torch.nn.CrossEntropyLoss(), list(module.parameters()), data, check_deterministic=False
    )
    v = tuple(np.random.default_rng(3).standard_normal(W.shape) for W in params)
    want = (operator @ torch.as_tensor(entries(v))).detach().numpy()
    got = entries(objective.at(params, tuple(part.numpy() for part in data[0])).jacobian(weighted=True).ggn_matvec(v)) / 9
    np.testing.assert_allclose(got, want, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("fisher", ["type-2", "empirical"])
def test_kronecker_factors(problem, fisher):
    objective, params, module, data = problem
    blocks = curvlinops.KFACLinearOperator(
        module, torch.nn.CrossEntropyLoss(), list(module.parameters()), data, check_deterministic=False,
        fisher_type=fisher, separate_weight_and_bias=False,
    )  # fmt: skip
    want = (blocks @ torch.eye(blocks.shape[0], dtype=torch.float64)).detach().numpy()
    opt, batch = optim.KFAC(fisher=fisher), tuple(part.numpy() for part in data[0])
    layers = opt.step(params, opt.init(params, objective), objective, batch)[1].layers
    places = iter(np.split(np.arange(len(want)), np.cumsum([W.size for W in params])[:-1]))
    for W, layer in zip(params, layers, strict=True):
        place = next(places)
        ours = np.concatenate([part.ravel() for part in np.split(np.arange(W.size).reshape(W.shape), [W.shape[1] - 1], axis=1)])
        got, block = np.kron(layer.G, layer.A)[np.ix_(ours, ours)], want[np.ix_(place, place)]
        np.testing.assert_allclose(got, block, atol=1e-12 * np.abs(block).max())
