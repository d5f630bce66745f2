"""Ginger on random streams against dense moving averages, cut to rank tau by their eigenvectors."""

import numpy as np
import pytest

from nearlin import optim
from tests.crosscheck.networks import cases

OPTIONS = (
    {"correct_curvature": False, "relative_damping": 0.0, "clip": None},
    {"correct_curvature": True, "relative_damping": 0.2, "clip": 0.3},
)
STREAMS = ("gauss", "low rank", "scaled")
TOLERANCE = {"float64": 1e-11, "float32": 5e-5}


def stream(kind, d, steps=12):
    draw = np.random.default_rng(d)
    g, h = draw.standard_normal((steps, d)), draw.standard_normal((steps, d))
    if kind == "low rank":
        h = draw.standard_normal((steps, 2)) @ draw.standard_normal((2, d)) + 1e-3 * h
    if kind == "scaled":
        h = h * np.geomspace(1, 1e-3, d)
    return g.astype(np.float32).astype(float), h.astype(np.float32).astype(float)


def cut(S, rank):
    """The leading ``rank`` eigenpairs of S, and how far what is cut lies below, beside the largest eigenvalue."""
    values, U = np.linalg.eigh(S)
    kept = np.maximum(values, 0) * (np.arange(len(S)) >= len(S) - rank)
    cuts = 0 < rank < len(S) and values[-rank - 1] > 1e-12 * values[-1]
    return (U * kept) @ U.T, (values[-rank] - values[-rank - 1]) / values[-1] if cuts else 1.0


@pytest.mark.parametrize(
    ("d", "rank", "decay", "damping", "kind", "option", "dtype"),
    cases((1, 2, 3, 5, 17, 64), (0, 1, 4, 8), (0.0, 0.5, 0.9, 0.99), (1e-2, 0.1, 1.0), STREAMS, (0, 1), TOLERANCE, every=40),
)
def test_ginger(d, rank, decay, damping, kind, option, dtype):
    options = OPTIONS[option]
    g, h = stream(kind, d)
    opt = optim.Ginger(lr=0.7, momentum=0.8, decay=decay, damping=damping, rank=rank, **options)
    state, S, m, apart = opt.init((), None), np.zeros((d, d)), np.zeros(d), []
    for t in range(1, len(g) + 1):
        (moved,), state = opt.update(state, (g[t - 1].astype(dtype),), (h[t - 1].astype(dtype),))
        S, gap = cut(decay * S + (1 - decay) * np.outer(h[t - 1], h[t - 1]), min(rank, d))
        m = 0.8 * m + 0.2 * g[t - 1]
        if gap <= 1e-3:  # from here on rounding decides which eigenvectors are kept
            break
        curvature = S / (1 - decay**t) if options["correct_curvature"] else S
        strength = max(damping, options["relative_damping"] * np.linalg.eigvalsh(curvature)[-1])
        want = np.linalg.solve(strength * np.eye(d) + curvature, m / (1 - 0.8**t))
        want = np.clip(want, -options["clip"], options["clip"]) if options["clip"] else want
        apart.append(np.linalg.norm(moved + 0.7 * want) / np.linalg.norm(0.7 * want))
    assert len(apart) >= 2
    assert max(apart) <= TOLERANCE[dtype]
