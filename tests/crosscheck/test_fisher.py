"""Mini-block Fisher and K-FAC against dense NumPy, on awkward networks, statistics and factors included."""

import math

import numpy as np
import pytest

from nearlin import optim
from tests.crosscheck.networks import LINEAR, NETWORKS, Case, Conv, cases, error, worst
from tests.optim.replay import Replay


def blocks(M, layer, layout):
    """The blocks of matrices (..., o, D) as rows, (..., blocks, k)."""
    o, D = M.shape[-2:]
    if isinstance(layer, Conv):
        return M[..., : layer.inp * layer.kernel**2].reshape(*M.shape[:-2], o * layer.inp, layer.kernel**2)
    return {"out": M, "in": np.swapaxes(M, -1, -2), "chunk": M.reshape(*M.shape[:-2], D, o)}[layout]


def unblock(rows, layer, layout, shape):
    """The way back."""
    return rows.T if layout == "in" and not isinstance(layer, Conv) else rows.reshape(shape[0], -1)


def fading(new, old, count, decay=0.9, start="mean"):
    """The moving average of a statistic that has been seen ``count`` times."""
    weight = {"mean": max(1 - decay, 1 / (count + 1)), "zero": 1 - decay, "first": 1 - decay if count else 1.0}[start]
    return weight * new + (0 if old is None else (1 - weight) * old)


SCHEDULES = {"each": (1, 1, True), "early": (2, 3, True), "late": (2, 3, False)}


def due(t, schedule):
    """Whether statistics and whether inverses are made in step t."""
    every, inverses, early = SCHEDULES[schedule]
    statistics = t % every == 0
    return statistics, t % inverses == 0 or (early and t <= inverses and statistics)


def mini_block_fisher(case, steps, layout, average, statistic, start, diagonal, schedule, lr=0.02, damping=0.3):
    params, L = [W.copy() for W in case.params], len(case.params)
    v, F, inverse, count = [0.0] * L, [None] * L, [None] * L, [0] * L
    mean, square = [0.0] * L, [0.0] * L
    for t in range(steps):
        at = case.reference(params)
        new_statistics, new_inverses = due(t, schedule)
        for k, layer in enumerate(case.layers):
            v[k] = 0.9 * v[k] + at.G[k]
            if new_statistics:
                rows = blocks(at.G[k][None] if statistic == "batch" else at.S[k], layer, layout)
                new = np.einsum("nbi,nbj->bij", rows, rows) / len(rows)
                new = new.mean(0, keepdims=True) if average and not isinstance(layer, Conv) else new
                F[k] = fading(new, F[k], count[k], start=start)
                count[k] += 1
            if new_inverses:
                inverse[k] = np.linalg.inv(F[k] + damping * np.eye(F[k].shape[-1]))
            step = unblock(_times(inverse[k], blocks(v[k], layer, layout)), layer, layout, params[k].shape)
            if isinstance(layer, Conv) and layer.bias:
                bias = at.G[k][:, -1]
                mean[k] = 0.9 * mean[k] + 0.1 * bias
                square[k] = 0.999 * square[k] + 0.001 * (mean[k] if diagonal == "released" else bias) ** 2
                top = mean[k] / (1 if diagonal == "released" else 1 - 0.9 ** (t + 1))
                adam = top / (1e-8 + np.sqrt(square[k] / (1 - 0.999 ** (t + 1))))
                step = np.concatenate([step, 0.7 * adam[:, None]], axis=1)
            params[k] = (1 - 0.2 * lr) * params[k] - lr * step
    return params, F


def _times(inverses, rows):
    return np.stack([(inverses[0] if len(inverses) == 1 else inverses[b]) @ row for b, row in enumerate(rows)])


STARTS = (("mean", "released", "each"), ("zero", "adam", "early"), ("first", "released", "late"))


@pytest.mark.parametrize(
    ("name", "layout", "average", "statistic", "start"),
    cases(NETWORKS, ("out", "in", "chunk"), (True, False), ("batch", "sample"), STARTS, every=9),
)
def test_mini_block_fisher(name, layout, average, statistic, start):
    case = Case(name)
    begin, diagonal, schedule = start
    every, inverses, early = SCHEDULES[schedule]
    opt = optim.MiniBlockFisher(
        lr=0.02, damping=0.3, layout=layout, average=average, statistic=statistic, start=begin, diagonal=diagonal,
        statistics_every=every, inverse_every=inverses, early=early, weight_decay=0.2, diag_scale=0.7,
    )  # fmt: skip
    params, state = case.run(opt, 5)
    want, F = mini_block_fisher(case, 5, layout, average, statistic, begin, diagonal, schedule)
    assert worst(params, want) <= 1e-9
    assert worst([layer.F.reshape(f.shape) for layer, f in zip(state.layers, F, strict=True)], F) <= 1e-9


def kfac(case, steps, inverse, pi, schedule, form="sum", l2=0.0, lr=0.05, damping=0.3):
    params, L, labels = [W.copy() for W in case.params], len(case.params), iter(case.drawn)
    v, A, G, rescaled, made, count = [0.0] * L, [None] * L, [None] * L, [None] * L, [None] * L, 0
    for t in range(steps):
        true = case.reference(params)
        new_statistics, new_inverses = due(t, schedule)
        drawn = case.reference(params, next(labels)) if new_statistics or (new_inverses and inverse == "rescaled") else None
        for k, W in enumerate(case.weights(params)):
            v[k] = 0.9 * v[k] + (1 if form == "sum" else 0.1) * (true.G[k] + l2 * W)
            n, T = true.a[k].shape[:2]
            if new_statistics:
                A[k] = fading(np.einsum("nti,ntj->ij", drawn.a[k], drawn.a[k]) / n, A[k], count)
                G[k] = fading(np.einsum("nti,ntj->ij", drawn.g[k], drawn.g[k]) / (n * T), G[k], count)
            if new_inverses:
                made[k], rescaled[k] = _kfac_inverse(A[k], G[k], inverse, pi, damping), None
            if inverse == "rescaled" and drawn is not None:
                UG, UA = made[k]
                new = ((UG.T @ drawn.S[k] @ UA) ** 2).mean(0)
                rescaled[k] = new if rescaled[k] is None else 0.9 * rescaled[k] + 0.1 * new
        count += new_statistics
        params = [W - lr * _kfac_step(v[k], made[k], rescaled[k], inverse, damping) for k, W in enumerate(params)]
    return params, A, G


def _kfac_inverse(A, G, inverse, pi, damping):
    D, o = len(A), len(G)
    if inverse == "exact":
        return np.linalg.inv(np.kron(G, A) + damping * np.eye(o * D))
    if inverse == "rescaled":
        return np.linalg.eigh(G)[1], np.linalg.eigh(A)[1]
    share = math.sqrt((np.trace(A) / D) / (np.trace(G) / o)) if pi else 1.0
    return np.linalg.inv(G + math.sqrt(damping) / share * np.eye(o)), np.linalg.inv(A + math.sqrt(damping) * share * np.eye(D))


def _kfac_step(v, made, rescaled, inverse, damping):
    if inverse == "exact":
        return (made @ v.ravel()).reshape(v.shape)
    left, right = made
    if inverse == "factored":
        return left @ v @ right
    return left @ ((left.T @ v @ right) / (rescaled + damping)) @ right.T


FORMS = (("each", "sum", 0.0), ("early", "average", 0.1), ("late", "sum", 0.0))


def _has_a_basis(name, loss, inverse, pi, form):
    """A basis is compared where no eigenvalue is repeated, and a single class teaches a softmax nothing."""
    return not (loss == "softmax" and name in LINEAR) and not (inverse == "rescaled" and form[0] != "each")


@pytest.mark.parametrize(
    ("name", "loss", "inverse", "pi", "form"),
    cases(NETWORKS, ("squared", "softmax"), ("factored", "exact", "rescaled"), (True, False), FORMS, every=8, where=_has_a_basis),
)
def test_kfac(name, loss, inverse, pi, form):
    schedule, kind, l2 = form
    case = Case(name, loss, l2=l2)
    every, inverses, early = SCHEDULES[schedule]
    opt = optim.KFAC(
        lr=0.05,
        damping=0.3,
        pi=pi,
        inverse=inverse,
        statistics_every=every,
        inverse_every=inverses,
        early=early,
        form=kind,
    )
    params, state = case.run(opt, 5, Replay(case.objective, case.drawn))
    want, A, G = kfac(case, 5, inverse, pi, schedule, kind, l2)
    assert worst(params, want) <= 1e-8
    if inverse != "rescaled":
        assert max(max(error(layer.A, a), error(layer.G, g)) for layer, a, g in zip(state.layers, A, G, strict=True)) <= 1e-9
