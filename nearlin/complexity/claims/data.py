"""The data families that claims are measured on, random ReLU masks, and the Gram matrices they make, all on NumPy.

Rows have unit length. ``key`` is an integer: the same key gives the same draw.
"""

import numpy as np

from nearlin._array import fold_in, generator


def sphere(n, d, key):
    """Points uniform on the unit sphere, (n, d): the easy case."""
    return _unit_rows(generator(key).standard_normal((n, d)))


def near_duplicates(n, d, key, distance=6e-3):
    """n/2 points on the sphere, then a copy of each at about ``distance``: κ(G) near 1e6."""
    points = sphere(n // 2, d, key)
    step = sphere(n // 2, d, fold_in(key, 1))
    return np.concatenate([points, _unit_rows(points + distance * step)])


def offset(n, d, key, spread=0.2):
    """Nearly collinear inputs, mean cosine .96, such as images that are not centred."""
    return _unit_rows(1 + spread * generator(key).standard_normal((n, d)))


def sparse_pairs(n, d, key):
    """Two equal non-zeros in every row, as in one-hot encoded pairs; no two rows are equal (n <= d (d - 1) / 2)."""
    first, second = np.triu_indices(d, k=1)
    pairs = generator(key).choice(first.size, size=n, replace=False)
    x = np.zeros((n, d))
    x[np.arange(n), first[pairs]] = x[np.arange(n), second[pairs]] = 0.5**0.5
    return x


def pair_at_angle(theta, d, key):
    """Two unit vectors at the angle ``theta``, in a random plane, (2, d)."""
    Q = np.linalg.qr(generator(key).standard_normal((d, 2))).Q
    return np.stack([Q[:, 0], np.cos(theta) * Q[:, 0] + np.sin(theta) * Q[:, 1]])


def antipodal_pairs(pairs, d, key):
    """Points x_1, ..., x_k on the sphere and their negatives, (2 k, d)."""
    points = sphere(pairs, d, key)
    return np.concatenate([points, -points])


def labels(n, key):
    """Independent standard normal labels, (n,)."""
    return generator(fold_in(key, 0x6C6162)).standard_normal(n)


def relu_mask(x, m, key):
    """M_ir = 1[w_r · x_i > 0] / √m for m Gaussian neurons, (n, m): the left factors of the Jacobian of a ReLU network."""
    w = generator(fold_in(key, 0x6D61736B)).standard_normal((m, x.shape[1]))
    return (x @ w.T > 0) / m**0.5


def angles(x):
    """Angles between unit rows, (n, n), exact to rounding also near 0 and π: 2 atan2(|x - y|, |x + y|)."""
    near, far = (np.linalg.norm(x[:, None] + sign * x, axis=2) for sign in (-1, 1))
    return 2 * np.arctan2(near, far)


def limit_kernel(x):
    """K_ij = x_i·x_j (π - θ_ij) / 2π, the expectation of the ReLU network's Gram matrix over Gaussian neurons, (n, n)."""
    theta = angles(x)
    return np.cos(theta) * (np.pi - theta) / (2 * np.pi)


def _unit_rows(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


FAMILIES = {
    "sphere": lambda n, key: sphere(n, 32, key),
    "near-duplicates": lambda n, key: near_duplicates(n, 32, key),
    "offset": lambda n, key: offset(n, 32, key),
    "circle": lambda n, key: sphere(n, 2, key),  # κ(G) near 1e11
    "sparse pairs": lambda n, key: sparse_pairs(n, 32, key),
}
