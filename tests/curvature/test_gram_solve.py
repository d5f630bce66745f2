"""(J Jᵀ + λ I) g = b by corrections: the step is Jᵀg, the residual the true one, and every end has its reason."""

import math

import numpy as np
import pytest

from nearlin import linalg
from nearlin.curvature import DampedGram, gram_solve
from nearlin.linalg import SolveInfo, cg

N, P, DAMPING = 20, 35, 1e-3


class Dense(linalg.DenseOperator):
    """An operator on tuples of one array, as a Jacobian is; it counts its products."""

    calls = 0

    def matvec(self, v):
        object.__setattr__(self, "calls", self.calls + 1)
        return super().matvec(v[0])

    def rmatvec(self, u):
        return (super().rmatvec(u),)

    def gram_matvec_with_adjoint(self, u):
        v = self.rmatvec(u)
        return self.matrix @ v[0], v


def jacobian(rng, condition=1e2):
    """Singular values from 1 to 1/condition."""
    U, V = (np.linalg.qr(rng.standard_normal((k, N)))[0] for k in (N, P))
    return (U * np.geomspace(1, 1 / condition, N)) @ V.T


def by_cg(J, damping=DAMPING, **given):
    """The plain inner solve."""

    def solve(rest, rtol, limit):
        operator = DampedGram(J, damping, **given)
        g, info = cg(operator, rest, rtol=min(rtol, 0.99), maxiter=limit, certify=False, on_step=operator.accumulate)
        found = (*operator.in_dtype_of(g, rest), info)
        return found if operator.image is None else (*found, operator.image)

    return solve


@pytest.mark.parametrize("keep_image", [False, True])
def test_it_solves_to_the_true_residual(be, rng, keep_image):
    a, b = jacobian(rng), rng.standard_normal(N)
    J, rtol = Dense(be.array(a)), be.tol(1e-11)
    g, step, image, info = gram_solve(J, be.array(b), DAMPING, by_cg(J, keep_image=keep_image), rtol, 1000)
    g, (V,), image = be.numpy(g), map(be.numpy, step), be.numpy(image)
    assert (info.reason, info.residual <= 1.001 * rtol) == ("converged", True)
    np.testing.assert_allclose(g, np.linalg.solve(a @ a.T + DAMPING * np.eye(N), b), rtol=be.tol(1e-6), atol=be.tol(1e-6))
    np.testing.assert_allclose(V, a.T @ g, atol=be.tol(1e-10))
    np.testing.assert_allclose(image, a @ a.T @ g, atol=be.tol(1e-10))
    assert info.residual == pytest.approx(np.linalg.norm(b - image - DAMPING * g) / np.linalg.norm(b), abs=be.tol(1e-12))
    assert info.products == info.iterations + J.calls
    assert (J.calls == 0) is keep_image


def in_float32(J, damping, summed):
    """The inner solve in float32; ``summed`` keeps Jᵀg from the float32 products, else it is left to be formed."""
    J = Dense(J.matrix.astype(np.float32))

    def solve(rest, rtol, limit):
        operator = DampedGram(J, damping)
        c = rest.astype(np.float32)
        g, info = cg(operator, c, rtol=max(rtol, 1e-2), maxiter=limit, certify=False, on_step=operator.accumulate)
        g, step = operator.in_dtype_of(g, rest)
        return g, step if summed else None, info

    return solve


@pytest.mark.parametrize(("summed", "right"), [(False, True), (True, False)])
def test_a_step_of_lower_precision_is_formed_anew(rng, summed, right):
    """Damping 1e-6 of the largest eigenvalue: both residuals ||b - J δ - λ g|| are small, and only one δ is Jᵀg."""
    a, b = jacobian(rng, 1e4), rng.standard_normal(N)
    J, damping = Dense(a), 1e-6
    _, (V,), _, info = gram_solve(J, b, damping, in_float32(J, damping, summed), 1e-9, 4000)
    assert info.reason == "converged"
    want = a.T @ np.linalg.solve(a @ a.T + damping * np.eye(N), b)
    assert (np.linalg.norm(V - want) < 1e-8 * np.linalg.norm(want)) == right


@pytest.mark.parametrize(
    ("b", "given", "reason"),
    [
        (1.0, lambda rest, rtol, limit: (0 * rest, (np.zeros(P),), SolveInfo(0.0, 1, 1, "converged")), "stalled"),
        (1.0, lambda rest, rtol, limit: (0 * rest, (np.zeros(P),), SolveInfo(1.0, 1, 1, "maxiter")), "maxiter"),
        (1.0, lambda rest, rtol, limit: (math.nan * rest, (np.zeros(P),), SolveInfo(0.0, 1, 1, "converged")), "non-finite"),
        (0.0, None, "converged"),
        (math.inf, None, "non-finite"),
    ],
)
def test_every_end_has_its_reason(rng, b, given, reason):
    info = gram_solve(Dense(jacobian(rng)), np.full(N, b), DAMPING, given, 1e-6, 100).info
    assert info.reason == reason


def test_zero_is_answered_with_zero(be, rng):
    J, b = Dense(be.array(jacobian(rng))), be.array(np.zeros(N))
    g, (V,), image, info = gram_solve(J, b, DAMPING, None, 1e-6, 100)
    assert [float(be.xp.max(be.xp.abs(a))) for a in (g, V, image)] == [0, 0, 0]
    assert (V.shape, info.residual, info.iterations) == ((P,), 0.0, 0)


def test_corrections_share_one_limit(rng):
    """Inner solves of one digit each: five of them for five digits, and no more iterations than allowed."""
    J, limits = Dense(jacobian(rng)), []
    inner = by_cg(J)

    def rough(rest, rtol, limit):
        limits.append(limit)
        return inner(rest, max(rtol, 0.1), limit)

    info = gram_solve(J, rng.standard_normal(N), DAMPING, rough, 1e-5, 500).info
    assert info.reason == "converged"
    assert len(limits) >= 5
    assert limits[0] == 500
    assert sorted(limits, reverse=True) == limits
    assert limits[-1] > 500 - info.iterations
    assert gram_solve(J, rng.standard_normal(N), DAMPING, rough, 1e-12, 12).info.iterations <= 12
