"""Outputs, gradients, Jacobian and Gauss-Newton products beside torch.func."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nearlin import nn  # noqa: E402
from tests.peers import in_torch  # noqa: E402

# torch.func compiles by means that torch has deprecated: some releases warn of it by the one class, some by the other.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}:torch") for kind in ("FutureWarning", "DeprecationWarning")]


def phi(name):
    return nn.Elementwise(nn.activation(name))


def block(*modules):
    return nn.Sequential(tuple(modules))


NETS = {
    "relu": nn.MLP((7, 9, 8, 3), "relu"),
    "sigmoid": nn.MLP((7, 9, 3), "sigmoid"),
    "strided": nn.Sequential(
        (nn.Conv2d(2, 4, 3, 2, 1), phi("tanh"), nn.Conv2d(4, 3, 2, 1, 0, bias=False), phi("softplus"), nn.Flatten(),
         nn.Dense(18, 3)),
        shape=(2, 5, 7),
    ),
    "pools": nn.Sequential(
        (nn.Conv2d(2, 4, 3, 1, 1), phi("tanh"), nn.MaxPool(3, 2, 1), nn.Conv2d(4, 4, 3, 1, 0), phi("relu"), nn.AvgPool(2, 1, 1),
         nn.GlobalAvgPool(), nn.Dense(4, 3)),
        shape=(2, 9, 8),
    ),
    "residual": nn.Sequential(
        (nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm(4), phi("relu"),
         nn.Residual(block(nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm(8), phi("relu"), nn.Conv2d(8, 8, 3, 1, 1)),
                     nn.ZeroPadShortcut()),
         nn.Residual(block(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm(8), phi("relu"))), nn.GlobalAvgPool(), nn.Dense(8, 3)),
        shape=(3, 9, 9),
    ),
}  # fmt: skip
N = 11


@pytest.mark.parametrize("kind", nn.LOSSES)
@pytest.mark.parametrize(("name", "evaluated"), [*((name, False) for name in NETS), ("residual", True)])
def test_a_network_is_pytorchs(name, kind, evaluated):
    network, draw = NETS[name], np.random.default_rng(0)
    shape = network.shape or (7,)
    x, params = draw.standard_normal((N, *shape)), network.init(3, np.ones(1))
    params = tuple(W + 0.1 * draw.standard_normal(W.shape) for W in params)
    y = {"squared": draw.standard_normal((N, 3)), "sigmoid-cross-entropy": draw.random((N, 3))}.get(kind, draw.integers(0, 3, N))
    objective = nn.Objective(network, nn.LOSSES[kind]())
    if evaluated:
        other = draw.standard_normal(x.shape)
        objective = objective.observe(objective.at(params, (other, y)).statistics).evaluation()
    point = objective.at(params, (x, y))
    X, Y = torch.as_tensor(x), torch.as_tensor(y)
    matrices = tuple(torch.as_tensor(W) for W in params)

    def outputs(*Ws):
        return in_torch.forward(objective.network.modules, iter(Ws), X)

    f = outputs(*matrices)
    close(point.outputs, f)
    close(point.loss, in_torch.loss(kind, f, Y))
    gradient = torch.func.grad(lambda Ws: in_torch.loss(kind, outputs(*Ws), Y))(matrices)
    close(in_torch.flat(point.grads()), in_torch.flat(gradient))

    v, u = tuple(draw.standard_normal(W.shape) for W in params), draw.standard_normal(N * 3)
    J = point.jacobian()
    _, Jv = torch.func.jvp(outputs, matrices, tuple(map(torch.as_tensor, v)))
    close(J.matvec(v), Jv.ravel())
    _, back = torch.func.vjp(outputs, *matrices)
    close(in_torch.flat(J.rmatvec(u)), in_torch.flat(back(torch.as_tensor(u).reshape(N, 3))))

    Hessian = torch.func.hessian(lambda f: N * in_torch.loss(kind, f, Y))(f).reshape(3 * N, 3 * N)
    product = back((Hessian @ Jv.ravel()).reshape(N, 3))
    close(in_torch.flat(point.jacobian(weighted=True).ggn_matvec(v)), in_torch.flat(product))


def close(got, want, rtol=1e-11):
    got, want = np.asarray(got), np.asarray(want.detach() if isinstance(want, torch.Tensor) else want)
    np.testing.assert_allclose(got, want, atol=rtol * np.abs(want).max(), rtol=0)
