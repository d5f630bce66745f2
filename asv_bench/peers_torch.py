"""PyTorch's side of `peers`: functions to be timed, by name."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
from tests.peers import in_torch


def gradients(objective, params, batch):
    """Loss and gradient, the library's on PyTorch's arrays, and PyTorch's own in both memory formats."""
    tensors, batch = tuple(map(torch.asarray, params)), tuple(map(torch.asarray, batch))
    return {
        "nearlin on torch": lambda: objective.at(tensors, batch).grads(),
        "torch contiguous": _gradient(objective, tensors, batch, torch.contiguous_format),
        "torch channels-last": _gradient(objective, tensors, batch, torch.channels_last),
    }


def _gradient(objective, tensors, batch, memory_format):
    modules, x = objective.network.modules, batch[0].contiguous(memory_format=memory_format)
    pairs = list(in_torch.leaves(modules, iter(tensors), memory_format))
    leaves = [leaf for pair in pairs for leaf in pair if leaf is not None]

    def gradient():
        for leaf in leaves:
            leaf.grad = None
        in_torch.loss("softmax-cross-entropy", in_torch.forward(modules, iter(pairs), x), batch[1]).backward()

    gradient()
    ours, theirs = objective.at(tensors, batch).grads()[-1][:, :-1], pairs[-1][0].grad  # of the last layer
    assert torch.linalg.norm(ours - theirs) <= 1e-3 * torch.linalg.norm(theirs), "PyTorch has another gradient"
    return gradient


def adam(params, grads):
    leaves = [torch.asarray(W.copy()).requires_grad_() for W in params]
    for leaf, g in zip(leaves, grads, strict=True):
        leaf.grad = torch.asarray(g)
    return {"torch fused": torch.optim.Adam(leaves, 1e-3, fused=True).step}


def steps(net, params, batch):
    x, y = map(torch.asarray, batch)

    def stepper(make):
        pairs = list(in_torch.leaves(net.modules, map(torch.asarray, params)))
        optimizer = make([leaf for pair in pairs for leaf in pair])

        def step():
            optimizer.zero_grad()
            in_torch.loss("softmax-cross-entropy", in_torch.forward(net.modules, iter(pairs), x), y).backward()
            optimizer.step()

        return step

    fused = partial(torch.optim.Adam, lr=1e-3, fused=True)
    return {"torch SGD": stepper(partial(torch.optim.SGD, lr=1e-3, momentum=0.9)), "torch fused Adam": stepper(fused)}


def wide(params, batch, product):
    """Adam by autograd, and two ways to J Jᵀ u, which is ``product``."""
    m, (x, u) = len(params[0]), map(torch.asarray, batch)
    a = (1.0 - 2.0 * (torch.arange(m) % 2)) / m**0.5
    f = lambda W: torch.relu(x @ W.T) @ a  # noqa: E731
    W, leaf = torch.asarray(params[0]), torch.asarray(params[0].copy()).requires_grad_()
    optimizer, mask = torch.optim.Adam([leaf], lr=1e-3, fused=True), (x @ W.T > 0).float()

    def step():
        optimizer.zero_grad()
        (0.5 * ((f(leaf) - u) ** 2).mean()).backward()
        optimizer.step()

    passes = lambda: torch.func.jvp(f, (W,), torch.func.vjp(f, W)[1](u))[1]  # noqa: E731
    masked = lambda: torch.sum(x * (mask @ (mask.T @ (u[:, None] * x))), 1) / m  # noqa: E731
    for made in (passes(), masked()):
        np.testing.assert_allclose(made.numpy(), product, rtol=2e-3, atol=1e-4)
    return {"torch fused Adam": step, "torch.func jvp of vjp": passes, "torch, kept mask": masked}
