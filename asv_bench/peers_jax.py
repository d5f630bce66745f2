"""JAX's side of `peers`: compiled functions to be timed, by name. `ImportError` where JAX is not installed."""

from itertools import count

import jax
import numpy as np


def adam(params, grads):
    """Compiled, its moments and parameters given up to it: nothing new is allocated."""
    zeros, given = tuple(np.zeros_like(W) for W in params), jax.device_put(tuple(grads))
    update = jax.jit(lambda held, grads, t: adam_by_jax(*held, grads, t), donate_argnums=0)
    return {"JAX jit": stepping(lambda held, t: update(held, given, t), (tuple(params), zeros, zeros))}


def steps(params, batch):
    (x, y), xp, zeros = jax.device_put(batch), jax.numpy, tuple(np.zeros_like(W) for W in params)

    def loss(params):
        V, W = params
        z = xp.maximum(x @ V[:, :-1].T + V[:, -1], 0) @ W[:, :-1].T + W[:, -1]
        return -xp.mean(xp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1))

    def sgd(held, t):
        momentum = jax.tree.map(lambda M, g: 0.9 * M + g, held[1], jax.grad(loss)(held[0]))
        return jax.tree.map(lambda W, M: W - 1e-3 * M, held[0], momentum), momentum

    adam = jax.jit(lambda held, t: adam_by_jax(*held, jax.grad(loss)(held[0]), t))
    return {"JAX jit SGD": stepping(jax.jit(sgd), (params, zeros)), "JAX jit Adam": stepping(adam, (params, zeros, zeros))}


def wide(params, batch, product):
    m, (x, u) = len(params[0]), jax.device_put(batch)
    a = (1.0 - 2.0 * (jax.numpy.arange(m) % 2)) / m**0.5
    f = lambda W: jax.nn.relu(x @ W.T) @ a  # noqa: E731
    loss = lambda held: 0.5 * jax.numpy.mean((f(held[0]) - u) ** 2)  # noqa: E731
    passes, W = jax.jit(lambda W, u: jax.jvp(f, (W,), jax.vjp(f, W)[1](u))[1]), jax.device_put(params[0])
    np.testing.assert_allclose(passes(W, u), product, rtol=2e-3, atol=1e-4)
    adam = jax.jit(lambda held, t: adam_by_jax(*held, jax.grad(loss)(held[0]), t), donate_argnums=0)
    zeros = (np.zeros_like(params[0]),)
    return {
        "JAX jit Adam": stepping(adam, (params, zeros, zeros)),
        "JAX jit jvp of vjp": lambda: passes(W, u).block_until_ready(),
    }


def adam_by_jax(params, mean, square, grads, t, lr=1e-3):
    tree, b1, b2 = jax.tree.map, 0.9, 0.999
    mean = tree(lambda M, g: b1 * M + (1 - b1) * g, mean, grads)
    square = tree(lambda V, g: b2 * V + (1 - b2) * g * g, square, grads)
    root = tree(lambda V: jax.numpy.sqrt(V / (1 - b2**t)) + 1e-8, square)
    return tree(lambda W, M, s: W - lr / (1 - b1**t) * M / s, params, mean, root), mean, square


def stepping(update, start):
    """A function that takes one compiled step after another, and waits for it."""
    held, t = [jax.tree.map(jax.numpy.array, start)], count(1)

    def step():
        held[0] = jax.block_until_ready(update(held[0], float(next(t))))

    return step
