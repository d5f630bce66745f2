"""Data families on which preconditioners differ, the mask of random ReLU neurons, and the quality measure of a sketch."""

import numpy as np
import scipy.linalg


def _unit_rows(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def sphere(rng, n, d=16):
    """Uniform on the sphere: the easy case."""
    return _unit_rows(rng.standard_normal((n, d)))


def near_duplicates(rng, n, d=16, distance=6e-3):
    """n/2 points on the sphere, and a copy of each at about ``distance``: κ(G) near 1e6."""
    points = sphere(rng, n // 2, d)
    step = _unit_rows(rng.standard_normal(points.shape))
    return np.concatenate([points, _unit_rows(points + distance * step)])


def offset(rng, n, d=16):
    """Nearly collinear inputs, such as images that are not centred."""
    return _unit_rows(1 + 0.2 * rng.standard_normal((n, d)))


def plane(rng, n):
    """The circle: d = 2, κ(G) near 1e11."""
    return sphere(rng, n, 2)


def sparse_pairs(rng, n, d=32):
    """Two equal non-zeros in every row, as in one-hot encoded pairs; no two rows are equal."""
    first, second = np.triu_indices(d, k=1)
    pairs = rng.choice(first.size, size=n, replace=False)
    x = np.zeros((n, d))
    x[np.arange(n), first[pairs]] = x[np.arange(n), second[pairs]] = 0.5**0.5
    return x


FAMILIES = {
    "sphere": sphere,
    "near-duplicates": near_duplicates,
    "offset": offset,
    "d=2": plane,
    "sparse2": sparse_pairs,
}


def mask(rng, x, m):
    """Gradient weights 1[w_r · x_i > 0] / √m of m random ReLU neurons: the left factors of the Jacobian (n, m)."""
    return (x @ rng.standard_normal((x.shape[1], m)) > 0) / m**0.5


def gram(left, right):
    """G = (right rightᵀ) ∘ (left leftᵀ), the Gram matrix of a Jacobian with these factors."""
    return (right @ right.T) * (left @ left.T)


def preconditioned_condition(g, g_sketched):
    """κ(R⁻ᵀ G R⁻¹) with RᵀR = G̃; infinite where G̃ is not positive definite."""
    try:
        values = scipy.linalg.eigh(g, g_sketched, eigvals_only=True)
    except scipy.linalg.LinAlgError:
        return np.inf
    return values[-1] / values[0] if values[0] > 0 else np.inf
