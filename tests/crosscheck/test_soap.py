"""SOAP on streams of gradients against dense NumPy; the modes have full rank, so that a basis is a basis."""

import numpy as np
import pytest

from nearlin import nn, optim
from tests.crosscheck.networks import Conv, Fully, cases, error
from tests.crosscheck.test_modes import along, contraction, matrix, variables
from tests.optim.given import Given

LAYERS = {"dense": (Fully(5), nn.Dense(5, 5)), "filter": (Conv(3, 3, 2), nn.Conv2d(3, 3, 2)), "no bias": (Fully(4, False), None)}


def soap(layer, stream, W, every, refresh, lr=0.003, beta=0.95, epsilon=1e-3):
    """The matrix after the stream, and the bases."""
    M, V, H, Q = {}, {}, {}, {}
    for t, G in enumerate(stream):
        tensors = dict(enumerate(variables(G, layer, "filter")))
        if t > 0:
            W = W - lr * matrix([_direction(part, g, M, V, Q, t, beta, epsilon) for part, g in tensors.items()])
        for part, g in tensors.items():
            for j in range(g.ndim if g.ndim > 1 else 0):
                new = max(1 - beta, 1 / (t + 1))
                H[part, j] = new * contraction(g, j) + (1 - new) * H.get((part, j), 0)
                if t % every == 0:
                    Q[part, j], order = _basis(H[part, j], Q.get((part, j)), refresh)
                    if part in V:
                        V[part] = np.take(V[part], order, axis=j)
    return W, Q


def _direction(part, g, M, V, Q, t, beta, epsilon):
    basis = [Q[part, j] for j in range(g.ndim)] if g.ndim > 1 else []
    inward = [q.T for q in basis]
    M[part] = beta * M.get(part, 0) + (1 - beta) * g
    V[part] = beta * V.get(part, 0) + (1 - beta) * along(g, inward) ** 2
    return along(along(M[part], inward) / (1 - beta**t) / (np.sqrt(V[part] / (1 - beta**t)) + epsilon), basis)


def _basis(H, Q, refresh):
    """A new basis, steepest first, and the columns of the old one in that order."""
    order = np.arange(len(H)) if Q is None else np.argsort(-np.einsum("ij,ij->j", Q, H @ Q), kind="stable")
    if Q is None or refresh == "eigh":
        return np.linalg.eigh(H)[1][:, ::-1], order
    return np.linalg.qr(H @ Q[:, order])[0], order


@pytest.mark.parametrize(("name", "every", "refresh", "seed"), cases(LAYERS, (1, 3), ("qr", "eigh"), range(3)))
def test_soap(name, every, refresh, seed):
    layer, module = LAYERS[name]
    module = module or nn.Dense(4, 4, bias=False)
    draw = np.random.default_rng(seed)
    start = draw.standard_normal(module.spec.shape)
    stream = [draw.standard_normal(start.shape) * np.geomspace(1, 0.1, len(start))[:, None] for _ in range(8)]
    opt = optim.SOAP(lr=0.003, inverse_every=every, refresh=refresh, epsilon_hat=1e-3)
    objective = Given((module.spec,))
    params, state = (start,), opt.init((start,), objective)
    for G in stream:
        params, state, info = opt.step(params, state, objective, ((G,), None), key=0)
        assert info.accepted
    assert error(params[0] - start, soap(layer, stream, start, every, refresh)[0] - start) <= 1e-9
