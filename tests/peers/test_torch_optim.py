"""First-order methods beside torch.optim, on streams of gradients of very different sizes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nearlin import nn, optim  # noqa: E402
from tests.optim.given import Given  # noqa: E402

T, O = torch.optim, optim
PAIRS = {
    "sgd": (lambda p: T.SGD(p, 0.1, momentum=0.9), O.SGD(lr=0.1, momentum=0.9)),
    "sgd without momentum": (lambda p: T.SGD(p, 0.01), O.SGD(lr=0.01, momentum=0.0)),
    "sgd, nesterov": (lambda p: T.SGD(p, 0.1, momentum=0.9, nesterov=True), O.SGD(lr=0.1, nesterov=True)),
    "amsgrad": (lambda p: T.Adam(p, 0.1, (0.9, 0.5), amsgrad=True), O.Adam(lr=0.1, betas=(0.9, 0.5), amsgrad=True)),
    "rmsprop, centred": (lambda p: T.RMSprop(p, 0.01, centered=True), O.RMSprop(lr=0.01, centered=True)),
    "rmsprop, centred, momentum": (
        lambda p: T.RMSprop(p, 0.01, centered=True, momentum=0.9),
        O.RMSprop(lr=0.01, centered=True, momentum=0.9),
    ),
    "adam": (lambda p: T.Adam(p, 1e-3), O.Adam(lr=1e-3)),
    "adam, other betas": (lambda p: T.Adam(p, 0.1, (0.0, 0.5), 1e-3), O.Adam(lr=0.1, betas=(0.0, 0.5), epsilon_hat=1e-3)),
    "adamw": (lambda p: T.AdamW(p, 0.1, (0.9, 0.99), weight_decay=0.5), O.AdamW(lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)),
    "adagrad": (lambda p: T.Adagrad(p, 0.01), O.AdaGrad(lr=0.01)),
    "adagrad, large epsilon": (lambda p: T.Adagrad(p, 1.0, eps=0.01), O.AdaGrad(lr=1.0, epsilon_hat=0.01)),
    "rmsprop": (lambda p: T.RMSprop(p, 0.01), O.RMSprop(lr=0.01)),
    "rmsprop, other decay": (lambda p: T.RMSprop(p, 0.1, 0.5, 0.01), O.RMSprop(lr=0.1, decay=0.5, epsilon_hat=0.01)),
    "rmsprop with momentum": (lambda p: T.RMSprop(p, 0.01, momentum=0.9), O.RMSprop(lr=0.01, momentum=0.9)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_twenty_steps_are_pytorchs(name):
    theirs, ours = PAIRS[name]
    draw, layers = np.random.default_rng(0), nn.MLP((7, 9, 5, 3), "tanh").layers
    start = tuple(draw.standard_normal(spec.shape) for spec in layers)
    objective, params = Given(layers), start
    state, tensors = ours.init(params, objective), [torch.nn.Parameter(torch.as_tensor(W.copy())) for W in start]
    optimizer = theirs(tensors)
    for t in range(20):
        grads = tuple(draw.standard_normal(W.shape) * 10.0 ** draw.uniform(-3, 1) for W in start)
        params, state, info = ours.step(params, state, objective, (grads, None), key=t)
        assert info.accepted
        for tensor, g in zip(tensors, grads, strict=True):
            tensor.grad = torch.as_tensor(g)
        optimizer.step()
    for W, tensor, W0 in zip(params, tensors, start, strict=True):
        want = tensor.detach().numpy()
        assert np.linalg.norm(W - want) <= 1e-11 * np.linalg.norm(want - W0)
