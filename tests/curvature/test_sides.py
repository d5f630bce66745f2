"""The two sides of a damped Gauss-Newton system, on a dense K beside the normal equations."""

from types import SimpleNamespace

import numpy as np
import pytest

from nearlin import nn
from nearlin.curvature import Accuracy, Applied, Kept, ParameterSide, Pull, SampleSide

N, P, DAMPING, L2 = 7, 5, 0.3, 0.2
LAYERS = (nn.LayerSpec("dense", 1, P - 1),)  # the last parameter is a bias
NONE = Applied(Kept("cg", None, None, 1.0), N, 1.0)


def dense(K):
    """K as sides see a Jacobian, its parameters one matrix (1, p)."""
    product = lambda v: K @ v[0][0, :]  # noqa: E731
    adjoint = lambda u: ((u @ K)[None, :],)  # noqa: E731
    both = lambda u: (K @ (K.T @ u), adjoint(u))  # noqa: E731
    return SimpleNamespace(
        samples=K.shape[0], matvec=product, rmatvec=adjoint, gram_matvec=lambda u: both(u)[0], gram_matvec_with_adjoint=both
    )


@pytest.mark.parametrize("side", ["sample", "parameter"])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_both_sides_have_the_minimiser_of_the_model_with_its_pulls(rng, side, momentum):
    """δ of ||r + K δ||²/2n + λ/2 ||δ - μ δ_prev||² + ω/2 ||W + δ||², W without the bias; its image, and its slope.

    The sample side damps the bias by ω too.
    """
    K, r, theta, last = rng.standard_normal((N, P)), *(rng.standard_normal(k) for k in (N, P, P))
    gradient = K.T @ r / N
    D = np.arange(P) < P - 1
    pull = Pull((theta[None, :],), LAYERS, L2, (last[None, :],) if momentum else None, momentum, spring=True)
    accuracy = Accuracy(1e-12)
    if side == "sample":
        system = SampleSide(dense(K), r, pull, accuracy)
    else:
        system = ParameterSide(dense(K), ((gradient + L2 * D * theta)[None, :],), pull, accuracy)
    solution = system.solve(DAMPING, NONE, 100)
    b = -gradient + DAMPING * momentum * last - L2 * D * theta
    H = K.T @ K / N + np.diag(DAMPING + L2 * (D if side == "parameter" else np.ones(P)))
    want = np.linalg.solve(H, b)
    assert solution.info.reason == "converged"
    np.testing.assert_allclose(solution.step[0][0], want, atol=1e-10)
    np.testing.assert_allclose(solution.image, K @ want, atol=1e-10)
    assert solution.slope == pytest.approx((gradient + L2 * D * theta) @ want, abs=1e-10)
    system.forget()
    plain = np.linalg.solve(H, -gradient - L2 * D * theta)
    np.testing.assert_allclose(system.solve(DAMPING, NONE, 100).step[0][0], plain, atol=1e-10)


def test_another_damping_takes_no_further_image_of_what_it_pulls_towards(rng):
    J, images = dense(rng.standard_normal((N, P))), []
    product = J.matvec
    J.matvec = lambda v: images.append(v) or product(v)
    pull = Pull((rng.standard_normal((1, P)),), LAYERS, L2, (rng.standard_normal((1, P)),), 0.6)
    system = SampleSide(J, rng.standard_normal(N), pull, Accuracy(1e-6))
    for damping in (DAMPING, 2 * DAMPING, 4 * DAMPING):
        system.solve(damping, NONE, 100)
    assert len(images) == 2


def test_where_the_penalty_balances_the_loss_the_accuracy_can_be_reached(rng):
    """The residual does not vanish there, and the step does, to rounding."""
    K, r = rng.standard_normal((N, P)), rng.standard_normal(N)
    bias = K[:, -1]
    r -= bias * (bias @ r) / (bias @ bias)
    theta = -K.T @ r / (N * L2)
    system = SampleSide(dense(K), r, Pull((theta[None, :],), LAYERS, L2), Accuracy(1e-3))
    solution = system.solve(DAMPING, NONE, 100)
    assert solution.info.reason == "converged"
    assert np.max(np.abs(solution.step[0])) < 1e-11 * np.max(np.abs(theta))


def test_a_solve_that_ends_before_its_first_step_is_zero_and_has_an_image(rng):
    """The curvature along the gradient overflows."""
    K, gradient = 1e160 * rng.standard_normal((N, P)), rng.standard_normal((1, P))
    with np.errstate(over="ignore", invalid="ignore"):
        system = ParameterSide(dense(K), (gradient,), Pull((gradient,), LAYERS), Accuracy(1e-3))
        solution = system.solve(DAMPING, NONE, 100)
    assert (solution.info.reason, solution.info.iterations, np.any(solution.step[0])) == ("non-finite", 0, False)
    np.testing.assert_array_equal(solution.image, np.zeros(N))


@pytest.mark.parametrize("seed", range(3))
def test_a_residual_above_the_accuracy_is_not_called_converged(seed):
    """In float32, near the least residual that there is: what CG sums up says 1e-6, and the residual itself some 1e-6 more."""
    rng, (n, p), epsilon, damping = np.random.default_rng(seed), (30, 20), 1e-6, 1e-6
    U, V = (np.linalg.qr(rng.standard_normal((k, p)))[0] for k in (n, p))
    K = ((U * np.geomspace(1, 1e-2, p)) @ V.T * np.sqrt(n)).astype(np.float32)
    gradient = rng.standard_normal((1, p)).astype(np.float32)
    pull = Pull((np.zeros_like(gradient),), (nn.LayerSpec("dense", 1, p - 1),))
    solution = ParameterSide(dense(K), (gradient,), pull, Accuracy(epsilon)).solve(damping, NONE, 400)
    assert solution.info.reason == "stalled"
    assert 1.05 * epsilon < solution.info.residual < 50 * epsilon
    K, g, step = (a.astype(np.float64) for a in (K, gradient[0], solution.step[0][0]))
    assert np.linalg.norm(g + K.T @ (K @ step) / n + damping * step) > 1.05 * epsilon * np.linalg.norm(g)
