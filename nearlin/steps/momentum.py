"""Momentum, and the moments of Adam."""

from nearlin._array import namespace
from nearlin.steps.slicing import entrywise


def added(v, g, momentum, form="sum"):
    """momentum v + g, or momentum v + (1 - momentum) g with ``form="average"``, for one array; None for v stands for 0."""
    g = g if form == "sum" else (1 - momentum) * g
    return g if v is None else momentum * v + g


def velocity(old, grads, momentum, form="sum"):
    """v ← `added` (v, g), for every layer, from v = None, which stands for 0. 2 p flops a step, p more for the average."""
    return entrywise(lambda g, v: (added(v, g, momentum, form),), 1, grads, old)[0]


def adam_moments(g, M, V, t, betas, epsilon_hat, second_moment_of="gradient"):
    """Adam's moments after gradient ``g`` of step t = 1, 2, ..., and the root that divides its step.

    M ← β₁ M + (1 - β₁) g,  V ← β₂ V + (1 - β₂) g²,  √(V / (1 - β₂ᵗ)) + epsilon_hat;  None stands for 0. With
    ``second_moment_of="mean"`` V averages the square of M / (1 - β₁ᵗ). Kingma, Ba, arXiv:1412.6980, Algorithm 1; 10 p flops, 6 p
    the first time, p more for the mean.
    """
    M, V = _moments(g, M, V, t, betas, second_moment_of)
    return M, V, _root(V, t, betas, epsilon_hat)


def _moments(g, M, V, t, betas, second_moment_of):
    beta1, beta2 = betas
    g1 = (1 - beta1) * g
    M = g1 if M is None else beta1 * M + g1
    s = g if second_moment_of == "gradient" else M / (1 - beta1**t)
    s2 = (1 - beta2) * s * s
    return M, s2 if V is None else beta2 * V + s2


def _root(V, t, betas, epsilon_hat):
    return namespace(V).sqrt(V / (1 - betas[1] ** t)) + epsilon_hat


def adam_step(decayed, grads, mean, square, t, lr, betas, epsilon_hat, second_moment_of="gradient"):
    """Both moments after the gradients of step t = 1, 2, ..., and W - lr (M / (1 - β₁ᵗ)) / root for every ``decayed`` W.

    Three tuples like ``grads``; see `adam_moments`. 3 p flops more.
    """

    def update(W, g, M, V):
        M, V, root = adam_moments(g, M, V, t, betas, epsilon_hat, second_moment_of)
        return M, V, W - (lr / (1 - betas[0] ** t)) * M / root

    return entrywise(update, 3, decayed, grads, mean, square)


def amsgrad_step(decayed, grads, moments, t, lr, betas, epsilon_hat, second_moment_of="gradient"):
    """`adam_step` with the largest V so far in the root: M, V, that and the new W, from ``moments``, the first three."""

    def update(W, g, M, V, largest):
        M, V = _moments(g, M, V, t, betas, second_moment_of)
        largest = V if largest is None else namespace(V).maximum(largest, V)
        return M, V, largest, W - (lr / (1 - betas[0] ** t)) * M / _root(largest, t, betas, epsilon_hat)

    return entrywise(update, 4, decayed, grads, *moments)
