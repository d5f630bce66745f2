"""arXiv:2409.11321: Algorithm 3 written out, equivariance under rotations, Adam as the limit of given axes, and the schedule."""

import dataclasses

import numpy as np
import pytest

import nearlin as nl
from nearlin.nn import LayerSpec
from tests.optim.given import Given

SPEC = LayerSpec("dense", 4, 6, bias=False)


def run(opt, gradients, spec=SPEC, like=None):
    """Parameters from zeros, after every step."""
    return [W for W, _ in walk(opt, gradients, spec)]


def walk(opt, gradients, spec=SPEC):
    """Parameters from zeros and the state, after every step."""
    objective, path = Given((spec,)), []
    params, state = (0 * gradients[0],), opt.init((), None)
    for g in gradients:
        params, state, info = opt.step(params, state, objective, ((g,), (g,)))
        assert info.accepted
        path.append((params[0], state))
    return path


def gradients(rng, steps=7, shape=(4, 6)):
    """Gradients with a common spread of their axes, so that all eigenvalues differ."""
    left, right = np.geomspace(3, 0.3, shape[0])[:, None], np.geomspace(0.2, 5, shape[1])
    return [left * rng.standard_normal(shape) * right + rng.standard_normal(shape) for _ in range(steps)]


@pytest.mark.parametrize("refresh", ["qr", "eigh"])
def test_algorithm_3(rng, refresh):
    opt = nl.optim.SOAP(lr=0.1, betas=(0.9, 0.8), decay=0.7, inverse_every=3, refresh=refresh)
    G = gradients(rng)
    L, R = G[0] @ G[0].T, G[0].T @ G[0]
    QL, QR = falling(L), falling(R)
    M, V, W, path = 0.0, 0.0, np.zeros((4, 6)), run(opt, G)
    np.testing.assert_array_equal(path[0], W)
    for t, g in enumerate(G[1:], start=1):
        rotated = QL.T @ g @ QR
        M, V = 0.9 * M + 0.1 * g, 0.8 * V + 0.2 * rotated**2
        N = (QL.T @ M @ QR / (1 - 0.9**t)) / (np.sqrt(V / (1 - 0.8**t)) + 1e-8)
        W = W - 0.1 * QL @ N @ QR.T
        np.testing.assert_allclose(path[t], W, atol=1e-11)
        w = max(1 / (t + 1), 0.3)
        L, R = (1 - w) * L + w * g @ g.T, (1 - w) * R + w * g.T @ g
        if t % 3 == 0:
            left = np.argsort([-q @ L @ q for q in QL.T])
            right = np.argsort([-q @ R @ q for q in QR.T])
            V = V[left][:, right]
            QL = np.linalg.qr(L @ QL[:, left])[0] if refresh == "qr" else falling(L)
            QR = np.linalg.qr(R @ QR[:, right])[0] if refresh == "qr" else falling(R)


def falling(H):
    """Eigenvectors, the steepest first."""
    return np.linalg.eigh(H)[1][:, ::-1]


def covariance(rng, n=32):
    """A random one with the eigenvalues 1 ... 1e-3."""
    Q = orthogonal(rng, n)
    return Q * np.geomspace(1, 1e-3, n) @ Q.T


def root(H):
    s, U = np.linalg.eigh(H)
    return U * np.sqrt(s) @ U.T


def off_diagonal(H, Q):
    D = Q.T @ H @ Q
    return np.sum((D - np.diag(np.diag(D))) ** 2) / np.sum(D**2)


@pytest.mark.parametrize("seed", range(8))
def test_one_power_iteration_brings_the_basis_nearer_to_statistics_that_have_changed(seed):
    """H is .6 H0 + .4 H1 at the refresh after step 2: means of two equal gradients, then decay .6."""
    rng, spec = np.random.default_rng(seed), LayerSpec("dense", 32, 32, bias=False)
    G = [root(covariance(rng)) @ orthogonal(rng, 32) for _ in range(2)]
    path = walk(nl.optim.SOAP(decay=0.6, inverse_every=2), [G[0], G[0], G[1]], spec)
    before, after = (state.modes[0] for _, state in path[1:])
    for j, (H, stale, fresh) in enumerate(zip(after.grams, before.bases, after.bases, strict=True)):
        old, new = (g @ g.T if j == 0 else g.T @ g for g in G)
        np.testing.assert_allclose(H, 0.6 * old + 0.4 * new, atol=1e-12)
        np.testing.assert_allclose(fresh.T @ fresh, np.eye(32), atol=1e-12)
        assert off_diagonal(H, fresh) < 0.5 * off_diagonal(H, stale)


@pytest.mark.parametrize("seed", range(8))
def test_steps_after_a_power_iteration_are_as_long_as_after_new_eigenvectors(seed):
    """Noise with covariances that change on the way; the refresh is that after step 10."""
    rng, spec = np.random.default_rng(seed), LayerSpec("dense", 32, 32, bias=False)
    left, right = ([H0, 0.6 * H0 + 0.4 * H1] for H0, H1 in [[covariance(rng) for _ in range(2)] for _ in range(2)])
    G = [root(left[t > 5]) @ rng.standard_normal((32, 32)) @ root(right[t > 5]) for t in range(12)]
    qr, eigh = (run(nl.optim.SOAP(inverse_every=10, refresh=refresh), G, spec) for refresh in ("qr", "eigh"))
    assert np.linalg.norm(qr[11] - qr[10]) == pytest.approx(np.linalg.norm(eigh[11] - eigh[10]), rel=0.1)


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


@pytest.mark.parametrize("refresh", ["qr", "eigh"])
def test_rotated_gradients_give_rotated_steps(rng, refresh):
    """Square, so that no eigenspace is arbitrary; Adam's steps do not turn along."""
    G, U, V = gradients(rng, shape=(4, 4)), orthogonal(rng, 4), orthogonal(rng, 4)
    turned, spec = [U @ g @ V.T for g in G], LayerSpec("dense", 4, 4, bias=False)
    opt = nl.optim.SOAP(inverse_every=2, refresh=refresh)
    np.testing.assert_allclose(run(opt, turned, spec)[-1], U @ run(opt, G, spec)[-1] @ V.T, atol=1e-10)
    adam = nl.optim.Adam(lr=3e-3)
    assert np.abs(run(adam, turned, spec)[-1] - U @ run(adam, G, spec)[-1] @ V.T).max() > 1e-3


def test_gradients_along_the_axes_take_adams_steps(be, rng):
    """Diagonal gradients: the eigenbasis is that of the parameters, whatever its order; full ones have another."""
    diagonal = [np.diag(rng.standard_normal(4) * np.geomspace(1, 5, 4)) for _ in range(6)]
    spec = LayerSpec("dense", 4, 4, bias=False)
    soap, adam = nl.optim.SOAP(inverse_every=100), nl.optim.Adam(lr=3e-3, betas=(0.95, 0.95))
    got = run(soap, [be.array(g) for g in diagonal], spec)[-1]
    np.testing.assert_allclose(be.numpy(got), run(adam, diagonal[1:], spec)[-1], atol=be.tol(1e-12))
    full = [g + 0.5 for g in diagonal]
    assert np.abs(run(soap, full, spec)[-1] - run(adam, full[1:], spec)[-1]).max() > 1e-3


def test_variables_of_one_axis_take_adams_steps(be, rng):
    G = [rng.standard_normal((5, 2)) for _ in range(5)]
    got = run(nl.optim.SOAP(), [be.array(g) for g in G], LayerSpec("norm", 5, 1))[-1]
    want = run(nl.optim.Adam(lr=3e-3, betas=(0.95, 0.95)), G[1:], LayerSpec("norm", 5, 1))[-1]
    np.testing.assert_allclose(be.numpy(got), want, atol=be.tol(1e-12))


@pytest.mark.parametrize("refresh", ["qr", "eigh"])
def test_bases_stay_orthogonal_and_follow_the_statistics(rng, refresh):
    """Constant statistics: power iterations turn their Gram matrices diagonal."""
    opt, spec = nl.optim.SOAP(inverse_every=1, refresh=refresh, decay=0.0), LayerSpec("dense", 4, 4, bias=False)
    start, g = rng.standard_normal((2, 4, 4))
    params, state = (np.zeros((4, 4)),), opt.init((), None)
    for one in [start] + [g] * 60:
        params, state, _ = opt.step(params, state, Given((spec,)), ((one,), (one,)))
    for H, Q in zip(state.modes[0].grams, state.modes[0].bases, strict=True):
        np.testing.assert_allclose(Q.T @ Q, np.eye(4), atol=1e-13)
        D = Q.T @ H @ Q
        assert np.abs(D - np.diag(np.diag(D))).max() < 1e-3 * np.abs(D).max()


def test_bases_are_refreshed_when_due_and_step_0_moves_nothing(rng):
    opt = nl.optim.SOAP(inverse_every=3)
    params, state, seen = (np.ones((4, 6)),), opt.init((), None), []
    for t, g in enumerate(gradients(rng, 8)):
        params, state, info = opt.step(params, state, Given((SPEC,)), ((g,), (g,)))
        seen += [t] * info.refreshed
        assert (info.reason == "accepted") == (t > 0)
        assert bool((params[0] == 1).all()) == (t == 0)
    assert seen == [0, 3, 6]


@pytest.mark.parametrize(
    ("field", "value"),
    [("betas", (0.9, 1.0)), ("decay", 1.0), ("inverse_every", 0), ("refresh", "svd"), ("reshape", "flat"), ("epsilon_hat", 0.0)],
)
def test_a_field_outside_its_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} "):
        dataclasses.replace(nl.optim.SOAP(), **{field: value})
