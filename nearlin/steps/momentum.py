"""Momentum, and the moments of Adam."""

from nearlin._array import namespace
from nearlin.linalg import axpy


def velocity(old, grads, momentum, form="sum"):
    """v ← momentum v + g, or momentum v + (1 - momentum) g with ``form="average"``, from v = None, which stands for 0.

    2 p flops a step, p more for the average.
    """
    if form == "average":
        grads = tuple((1 - momentum) * g for g in grads)
    return grads if old is None else axpy(momentum, old, grads)


def adam_moments(g, M, V, t, betas, epsilon_hat, second_moment_of="gradient"):
    """Adam's moments after gradient ``g`` of step t = 1, 2, ..., and the root that divides its step.

    M ← β₁ M + (1 - β₁) g,  V ← β₂ V + (1 - β₂) g²,  √(V / (1 - β₂ᵗ)) + epsilon_hat;  None stands for 0. With
    ``second_moment_of="mean"`` V averages the square of M / (1 - β₁ᵗ). Kingma, Ba, arXiv:1412.6980, Algorithm 1; 10 p flops, 6 p
    the first time, p more for the mean.
    """
    beta1, beta2 = betas
    g1 = (1 - beta1) * g
    M = g1 if M is None else beta1 * M + g1
    s = g if second_moment_of == "gradient" else M / (1 - beta1**t)
    s2 = (1 - beta2) * s * s
    V = s2 if V is None else beta2 * V + s2
    return M, V, namespace(g).sqrt(V / (1 - beta2**t)) + epsilon_hat


def adam_step(decayed, grads, mean, square, t, lr, betas, epsilon_hat, second_moment_of="gradient"):
    """Both moments after the gradients of step t = 1, 2, ..., and W - lr (M / (1 - β₁ᵗ)) / root for every ``decayed`` W.

    Three tuples like ``grads``; see `adam_moments`. 3 p flops more.
    """
    none, made = (None,) * len(grads), []
    for W, g, M, V in zip(decayed, grads, mean or none, square or none, strict=True):
        M, V, root = adam_moments(g, M, V, t, betas, epsilon_hat, second_moment_of)
        made.append((M, V, W - (lr / (1 - betas[0] ** t)) * M / root))
    return tuple(zip(*made, strict=True))
