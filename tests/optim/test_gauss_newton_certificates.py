"""What the Gauss-Newton methods report about a step, recomputed by dense float64 code that shares nothing with them."""

import dataclasses
import math
import sys

import numpy as np
import pytest

import nearlin as nl
from nearlin import nn
from tests.families import FAMILIES

NearLinear, GramGaussNewton, NaturalGradient = nl.optim.NearLinearGaussNewton, nl.optim.GramGaussNewton, nl.optim.NaturalGradient
GaussNewton = nl.optim.GaussNewton


def two_layer(n=24, d=5, width=96, seed=0, dtype=np.float64, activation="relu", scale=1.0, noise=None):
    """An objective, parameters and a batch; ``noise`` makes every second row a near-duplicate of the one before."""
    g = np.random.default_rng(seed)
    x, y = g.standard_normal((n, d)), g.standard_normal(n)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    if noise is not None:
        x[1::2] = x[::2] + noise * g.standard_normal((n // 2, d))
    net = nn.TwoLayer(d, width, activation)
    batch = tuple((scale * a).astype(dtype) for a in (x, y))
    return nn.Objective(net, nn.SquaredLoss()), net.init(seed, batch[0]), batch


def first(opt, objective, params, batch, state=None, key=0):
    return opt.step(params, opt.init(params, objective) if state is None else state, objective, batch, key=key)


def flat(v):
    return np.concatenate([np.asarray(V, dtype=float).ravel() for V in v])


# --------------------------------------------------------------------------------------------- solves that are worse than none

FACTORS = {
    NaturalGradient: ("nearlin.linalg.triangular_blocks", "damped_cholesky"),
    GramGaussNewton: ("nearlin.linalg.triangular_blocks", "damped_cholesky"),
    GaussNewton: ("nearlin.curvature.routes", "sketch_factor"),
}


@pytest.fixture
def wrong(monkeypatch):
    """Makes the triangular factors of a method so small that its solves are eleven times too large."""

    def spoil(method):
        module, name = FACTORS[method]
        module = sys.modules[module]
        right = getattr(module, name)

        def smaller(*args):
            found = right(*args)
            return (0.3 * found[0], *found[1:]) if isinstance(found, tuple) else 0.3 * found

        monkeypatch.setattr(module, name, smaller)

    return spoil


NO_BETTER = [
    NaturalGradient(damping=1e-3),
    GramGaussNewton(damping=1e-3, guard=False),
    GaussNewton(plan="exact", damping=1e-3, guard=False),
    GramGaussNewton(damping=1e-3),
]


@pytest.mark.parametrize("opt", NO_BETTER, ids=lambda opt: f"{type(opt).__name__}-{getattr(opt, 'guard', False)}")
def test_a_step_whose_solve_is_worse_than_none_is_not_taken_and_says_so(wrong, opt):
    """||b - A g|| >= ||b||, at a step that is so small that the loss falls all the same; with a guard it is tried again."""
    objective, params, batch = two_layer()
    opt = dataclasses.replace(opt, lr=0.05)
    before = first(opt, objective, params, batch)[2]
    assert before.accepted
    wrong(type(opt))
    new, state, info = first(opt, objective, params, batch)
    assert info.solve.residual > 5
    assert new is params
    assert not info.accepted
    assert info.reason == f"rejected: the solve is worse than none, its residual is {info.solve.residual:.2g}"
    if getattr(opt, "guard", False):
        assert info.attempts == 7
        assert info.new_loss == info.loss
        assert state.damping.value > info.damping > opt.damping


def test_an_exact_factor_that_solves_worse_than_none_preconditions_the_next_attempt(wrong):
    objective, params, batch = two_layer()
    wrong(GaussNewton)
    info = first(GaussNewton(plan="exact", damping=1e-3, lr=1e-3), objective, params, batch)[2]
    assert (info.accepted, info.attempts, info.damping) == (True, 2, pytest.approx(4e-3))
    assert info.solve.iterations > 0
    assert info.solve.residual <= 0.1


@pytest.mark.parametrize("guard", [True, False])
def test_a_solve_that_is_cut_short_where_it_is_worse_than_none_gives_no_step(guard):
    """Points on a circle of radius 1e-12, one iteration without damping; with the guard more of it is tried."""
    attempts = []
    for seed in range(6):
        objective, params, batch = two_layer(n=60, d=2, width=64, seed=seed, dtype=np.float32, scale=1e-12)
        new, _, info = first(NearLinear(guard=guard, damping=0.0, maxiter=1), objective, params, batch)
        assert (new is params) == (not info.accepted)
        assert not (info.accepted and info.solve.residual >= 1)
        if info.solve.residual >= 1:
            assert info.reason == f"rejected: the solve is worse than none, its residual is {info.solve.residual:.2g}"
        attempts.append(info.attempts if guard else info.solve.residual)
    assert max(attempts) > 1


def test_a_step_from_it_is_not_taken_though_the_loss_falls_along_it():
    """Near-duplicates, one iteration, a small step size: a descent direction, with a residual above that of none.

    Gauss-Newton smooths residuals, which then are never above it.
    """
    seen = 0
    for seed in range(4):
        objective, params, batch = two_layer(n=40, d=3, width=256, seed=seed, noise=1e-3)
        options = {"sketch_size": 0.3, "damping": 1e-10, "maxiter": 1, "lr": 1e-6}
        info = first(NearLinear(**options), objective, params, batch)[2]
        assert not (info.accepted and info.solve.residual >= 1)
        seen += info.attempts > 1
        smoothed = first(GaussNewton(plan="sketch", **options), objective, params, batch)[2]
        assert (smoothed.accepted, smoothed.attempts, smoothed.solve.residual < 1) == (True, 1, True)
    assert seen


# -------------------------------------------------------------------------------------------------- methods for least squares


SLOPE = {"relu": lambda z: (z > 0).astype(float), "tanh": lambda z: 1 - np.tanh(z) ** 2}
VALUE = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}


def dense(objective, params, batch):
    """J (n, m d) and r of the two-layer network, written out."""
    W, x, y = (np.asarray(a, dtype=float) for a in (params[0], *batch))
    a = (-1.0) ** np.arange(len(W)) / math.sqrt(len(W))
    z, name = x @ W.T, objective.network.activation
    left = a * SLOPE[name](z)
    return (left[:, :, None] * x[:, None, :]).reshape(len(x), -1), VALUE[name](z) @ a - y


def check_report(objective, params, batch, new, info, lr=1.0, weight=1.0, rel=1e-6, floor=0.0):
    """Residual, losses and ratio of an accepted step from the parameters before and after; returns the residual."""
    J, r = dense(objective, params, batch)
    delta = (flat(params) - flat(new)) / lr
    g = np.linalg.lstsq(J.T, delta, rcond=1e-14)[0]
    residual = np.linalg.norm(r - weight * (J @ delta) - info.damping * g) / np.linalg.norm(r)
    assert info.solve.residual == pytest.approx(residual, rel=rel, abs=floor)
    after = dense(objective, new, batch)[1]
    assert info.loss == pytest.approx(0.5 * np.mean(r**2), rel=1e-10)
    if hasattr(info, "new_loss"):
        assert info.new_loss == pytest.approx(0.5 * np.mean(after**2), rel=1e-8)
        predicted = (r @ r - np.sum((r - lr * (J @ delta)) ** 2)) / 2
        assert info.ratio == pytest.approx((r @ r - after @ after) / 2 / predicted, rel=1e-5)
    return residual


def textbook_pcg(A, R, b, rtol, most=200):
    """Iterations of preconditioned conjugate gradients with M = RᵀR, and the condition number that they see."""
    M = R.T @ R
    x, rest = np.zeros_like(b), b.copy()
    z = np.linalg.solve(M, rest)
    p, rho, alphas, betas = z.copy(), rest @ z, [], []
    while np.linalg.norm(rest) > rtol * np.linalg.norm(b) and len(alphas) < most:
        Ap = A @ p
        alphas.append(rho / (p @ Ap))
        x, rest = x + alphas[-1] * p, rest - alphas[-1] * Ap
        z = np.linalg.solve(M, rest)
        betas.append(rest @ z / rho)
        rho = rest @ z
        p = z + betas[-1] * p
    k = len(alphas)
    T = np.zeros((k, k))
    for j in range(k):
        T[j, j] = 1 / alphas[j] + (betas[j - 1] / alphas[j - 1] if j else 0.0)
        if j + 1 < k:
            T[j, j + 1] = T[j + 1, j] = math.sqrt(betas[j]) / alphas[j]
    values = np.linalg.eigvalsh(T)
    return k, values[-1] / values[0], values[-1]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("options", [{}, {"lr": 0.6}, {"inner_dtype": "float32"}, {"epsilon": 0.4, "reuse": False}], ids=str)
def test_near_linear_steps_report_what_happened(options, activation):
    """Fresh and kept R; λ of the step, not of R; iterations and condition by another PCG with the same R."""
    opt = NearLinear(**options)
    objective, params, batch = two_layer(activation=activation)
    state, kept = None, 0
    for t in range(4):
        before = state
        new, state, info = first(opt, objective, params, batch, state, key=t)
        assert (info.accepted, info.attempts, info.solve.reason) == (True, 1, "converged")
        check_report(objective, params, batch, new, info, opt.lr)
        made = None if before is None else before.preconditioner
        if info.solve.refreshed:
            assert before is None or not opt.reuse or made is None
            R = first(dataclasses.replace(opt, reuse=True), objective, params, batch, before, key=t)[1].preconditioner
        else:
            kept, R = kept + 1, made
        if before is not None:
            assert info.damping == before.damping.value
        if R is not None and not opt.inner_dtype and opt.reuse:
            J, r = dense(objective, params, batch)
            k, condition, largest = textbook_pcg(J @ J.T + info.damping * np.eye(len(r)), np.asarray(R.R), r, opt.epsilon)
            assert info.solve.iterations == k
            assert info.solve.condition == pytest.approx(condition, rel=1e-5)
            assert info.solve.largest == pytest.approx(largest, rel=1e-5)
        assert info.solve.products == info.solve.iterations + 1
        params = new
    assert kept >= 2 if opt.reuse else kept == 0


def test_the_damping_of_a_step_is_its_own_and_not_that_of_the_preconditioner():
    """R made at a fifth of the step's λ still serves."""
    objective, params, batch = two_layer()
    opt = NearLinear(damping=0.02, guard=False, epsilon=1e-3)
    new, state, _ = first(opt, objective, params, batch)
    older = state._replace(preconditioner=state.preconditioner._replace(damping=0.004), recall=None)
    after, _, info = first(opt, objective, new, batch, older, key=1)
    assert (info.solve.refreshed, info.damping) == (False, 0.02)
    check_report(objective, new, batch, after, info)


def test_a_step_that_was_tried_again_reports_the_damping_and_the_solve_of_its_last_attempt():
    """Nearly collinear inputs: the first attempts at a tiny λ overshoot; by all guarded methods."""
    batch = FAMILIES["offset"](np.random.default_rng(0), 64), np.sign(np.random.default_rng(1).standard_normal(64))
    objective, params, _ = two_layer(n=64, d=16, width=1024)
    for opt in (NearLinear(), GramGaussNewton(), GaussNewton(plan="exact"), GaussNewton(plan="sketch")):
        new, _, info = first(opt, objective, params, batch)
        assert info.attempts > 1
        assert info.accepted
        times = 64 if isinstance(opt, GaussNewton) else 1
        check_report(objective, params, batch, new, info._replace(damping=times * info.damping), rel=1e-4, floor=1e-10)


@pytest.mark.parametrize(("effort", "limit"), [(0.5, 36), (1.25, 78)])
def test_a_kept_r_is_given_up_after_four_times_its_effort_and_eight_iterations(effort, limit):
    """⌈4 · effort · ln 1e6⌉ + 8, counted by the oracle; and never more than maxiter."""
    objective, params, batch = two_layer(n=64, d=8, width=1024)
    opt = NearLinear(epsilon=1e-6)
    _, state, _ = first(opt, objective, params, batch)
    useless = state.preconditioner._replace(R=np.diag(np.geomspace(1e-6, 1e6, 64)), effort=effort)
    for maxiter, granted in ((200, limit), (30, 30)):
        counted = nn.Counted(objective)
        once = dataclasses.replace(opt, maxiter=maxiter)
        info = first(once, counted, params, batch, state._replace(preconditioner=useless, recall=None), key=1)[2]
        assert info.solve.refreshed
        assert counted.calls["gram_matvec"] - info.solve.iterations == granted


@pytest.mark.parametrize("growth", [1, 2])
def test_the_oversampling_and_scale_of_r_are_those_of_its_sketch(growth):
    """m' = growth · 3n/2 sums, RᵀR = G̃ + λ I and tr(G̃)/n, from the R that is kept."""
    objective, params, batch = two_layer(width=960)
    opt = NearLinear(damping=0.05, guard=False)
    state = opt.init(params, objective)._replace(growth=growth)
    P = first(opt, objective, params, batch, state)[1].preconditioner
    G = P.R.T @ P.R - 0.05 * np.eye(24)
    assert P.oversampling == 1.5 * growth
    assert P.scale == pytest.approx(np.trace(G) / 24, rel=1e-10)
    assert P.damping == 0.05
    J, _ = dense(objective, params, batch)
    assert np.linalg.norm(G - J @ J.T) < 0.5 * np.linalg.norm(J @ J.T)


@pytest.mark.parametrize("inner", ["chebyshev", "richardson"])
@pytest.mark.parametrize("ratio", [4, 9])
def test_parameters_from_the_size_of_the_sketch_give_its_rate(inner, ratio):
    """γ = √(n/s): Chebyshev contracts by γ in an iteration, Richardson by 2γ/(1+γ²); measured over a whole solve."""
    gamma = ratio**-0.5
    rate = gamma if inner == "chebyshev" else 2 * gamma / (1 + gamma**2)
    objective, params, batch = two_layer(n=64, d=8, width=1024)
    opt = NearLinear(sketch=nl.sketch.Gaussian(), sketch_size=ratio, inner=inner, epsilon=1e-6, damping=1e-9, guard=False)
    info = first(opt, objective, params, batch)[2]
    assert info.solve.reason == "converged"
    assert info.solve.iterations == pytest.approx(math.log(1e-6) / math.log(rate), rel=0.25)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-11])
def test_below_a_thousandth_a_float32_solve_still_gives_the_float64_step(epsilon):
    """δ = Jᵀg in float64: a sum of float32 steps would be no better than 1e-7, whatever the residual says."""
    objective, params, batch = two_layer()
    J, _ = dense(objective, params, batch)
    opt = NearLinear(inner_dtype="float32", epsilon=epsilon, damping=1e-3, guard=False)
    new, _, info = first(opt, objective, params, batch)
    assert info.solve.residual <= 1.001 * epsilon
    delta = flat(params) - flat(new)
    g = np.linalg.lstsq(J.T, delta, rcond=1e-14)[0]
    assert np.linalg.norm(J.T @ g - delta) <= 1e-13 * np.linalg.norm(delta)


def test_steps_that_fail_until_the_damping_is_at_its_largest_end_as_stalled():
    objective, params, batch = two_layer()
    for opt in (NearLinear(lr=1e30), GramGaussNewton(lr=1e30)):
        state, reasons = None, []
        for t in range(6):
            new, state, info = first(opt, objective, params, batch, state, key=t)
            assert new is params
            assert (info.accepted, info.new_loss) == (False, info.loss)
            reasons.append(info.reason)
        J, _ = dense(objective, params, batch)
        largest = nl.steps.CEILING * np.trace(J @ J.T) / 24
        assert state.damping.value == pytest.approx(largest, rel=0.3)
        assert reasons[0].startswith("rejected: no decrease in 7 attempt(s), damping now ")
        assert reasons[-1].startswith("stalled: the damping is at its largest; ")


def test_superlinear_forcing_starts_anew_on_another_batch():
    """Residuals of different data say nothing about contraction."""
    objective, params, (x, y) = two_layer(n=48)
    opt = NearLinear(forcing="superlinear", reuse=False)
    state = first(opt, objective, params, (x[:24], 1e4 * y[:24]))[1]
    info = first(opt, objective, params, (x[24:], y[24:]), state, key=1)[2]
    assert 1e-2 < info.solve.residual <= 1.001 / 6
    again = first(opt, objective, params, (x[:24], y[:24]), state._replace(recall=None), key=1)[2]
    assert again.solve.residual < 1e-3


@pytest.mark.parametrize(("dtype", "share"), [(np.float64, 1e-10), (np.float32, 1e-6)])
def test_the_damping_of_the_natural_gradient_is_a_share_of_the_mean_eigenvalue(dtype, share):
    """Of J Jᵀ, whose trace is the squared length of all rows."""
    objective, params, batch = two_layer(dtype=dtype)
    J = np.asarray(objective.at(params, batch).jacobian().to_dense(), dtype=float)
    info = first(NaturalGradient(), objective, params, batch)[2]
    assert info.damping == pytest.approx(share * np.sum(J**2) / len(J), rel=1e-5)


def test_superlinear_forcing_ends_a_hundred_rounding_errors_above_zero():
    """A residual that fell by 1e-30 asks for half of that, which no solve reaches."""
    eps = np.finfo(float).eps
    terms = [NearLinear(forcing="superlinear")._forcing_term(size, 1.0, eps) for size in (1.0, 0.1, 1e-3, 1e-30)]
    assert terms == [1 / 6, 0.05, 5e-4, 100 * eps]


def test_a_near_linear_start_that_stalls_reports_the_damping_of_its_state():
    objective, params, (x, y) = two_layer()
    state = first(NearLinear(), objective, params, (x, y))[1]
    fitted = np.asarray(objective.at(params, (x, y)).outputs)[:, 0]
    info = first(NearLinear(), objective, params, (x, fitted), state._replace(recall=None))[2]
    assert (info.reason, info.damping) == ("stalled: the residual is rounding", state.damping.value)
    assert (info.new_loss, info.attempts, info.solve[:4]) == (info.loss, 0, (0.0, 0, 0, "converged"))


EXACT = [
    (GramGaussNewton(damping=1e-4, gram_dtype="float32"), {"activation": "tanh"}, 1e-3, 1e-10),
    (GramGaussNewton(damping=1e-11, guard=False, gram_weight=0.5, lr=0.5), {"noise": 1e-4}, 1e-3, 1e-13),
    (NaturalGradient(damping=1e-11, lr=0.5), {"noise": 1e-4}, 1e-3, 1e-13),
]


@pytest.mark.parametrize(
    ("opt", "options", "rel", "least"), EXACT, ids=["gram-in-float32", "mini-batch-form", "natural-gradient"]
)
def test_exact_methods_report_the_residual_that_rounding_left(opt, options, rel, least):
    """Gram matrices in float32, or of near-duplicates: the residual of the solve is far above zero, and is what they say."""
    objective, params, batch = two_layer(**options)
    new, _, info = first(opt, objective, params, batch)
    assert info.accepted
    assert info.damping == opt.damping
    residual = check_report(objective, params, batch, new, info, opt.lr, getattr(opt, "gram_weight", 1.0), rel=rel)
    assert residual > least
    assert (info.solve.iterations, info.solve.products, info.solve.refreshed) == (0, 1, True)


@pytest.mark.parametrize("opt", [GramGaussNewton(guard=False), NaturalGradient()], ids=["gram", "natural-gradient"])
def test_an_exact_solve_that_leaves_more_than_the_root_of_rounding_is_not_called_converged(opt):
    """Forty points on a circle in float32: the factor is of a matrix that is singular to its precision."""
    for d, reason in ((2, "stalled"), (12, "converged")):
        objective, params, batch = two_layer(n=40, d=d, width=64 if d == 2 else 512, dtype=np.float32)
        info = first(opt, objective, params, batch)[2]
        assert info.solve.reason == reason
        assert (info.solve.residual > np.finfo(np.float32).eps ** 0.5) == (reason == "stalled")


# ------------------------------------------------------------------------------------------------- Gauss-Newton, on both sides


def perceptron(loss="squared", n=9, outputs=3, seed=2, l2=0.0):
    """5-7-c with tanh, and its J, r̃ and roots C written out."""
    g, net = np.random.default_rng(seed), nn.MLP((5, 7, outputs), "tanh")
    x, y = g.standard_normal((n, 5)), g.random((n, outputs))
    if loss == "squared":
        y = 3 * y
    losses = {"squared": nn.SquaredLoss(), "averaged": nn.SquaredLoss(average=True), "sigmoid": nn.SigmoidCrossEntropy()}
    return nn.Objective(net, losses[loss], l2=l2), net.init(seed, x), (x, y)


def written_out(objective, params, batch):
    """K = Cᵀ J (n c, p), r̃ (n c,) and the mean loss, for diagonal roots."""
    (V, W), (x, y) = params, batch
    ones = np.ones((len(x), 1))
    a = np.hstack([x, ones])
    h = np.tanh(a @ V.T)
    b = np.hstack([h, ones])
    f, c = b @ W.T, W.shape[0]
    rows = []
    for i in range(len(x)):
        for k in range(c):
            last = np.zeros_like(W)
            last[k] = b[i]
            rows.append(np.concatenate([np.outer(W[k, :-1] * (1 - h[i] ** 2), a[i]).ravel(), last.ravel()]))
    p = 1 / (1 + np.exp(-f))
    if isinstance(objective.loss, nn.SigmoidCrossEntropy):
        root, gradient, loss = np.sqrt(p * (1 - p)), p - y, np.sum(np.log1p(np.exp(f)) - y * f)
    else:
        share = c if objective.loss.average else 1
        root, gradient, loss = np.full_like(f, share**-0.5), (f - y) / share, 0.5 * np.sum((f - y) ** 2) / share
    return np.array(rows) * root.reshape(-1, 1), (gradient / root).ravel(), loss / len(x)


SAMPLE_SIDE = [
    ("exact", {"inner_dtype": "float32"}),
    ("sketch", {}),
    ("sketch", {"solver": "lsqr"}),
    ("sketch", {"solver": "craig"}),
    ("sketch", {"inner_dtype": "float32", "epsilon": 1e-5}),
    ("class-averaged", {}),
    ("per-class", {}),
    ("frozen", {"inner_dtype": "float32"}),
    ("nystrom", {}),
    ("cg", {}),
    ("cg", {"epsilon": 1e-4, "maxiter": 12}),
]


@pytest.mark.parametrize("loss", ["squared", "averaged", "sigmoid"])
@pytest.mark.parametrize(("plan", "options"), SAMPLE_SIDE, ids=str)
def test_the_sample_side_reports_the_true_residual_and_the_damping_without_the_penalty(plan, options, loss):
    """||b - (K Kᵀ + n (λ + ω)) u|| / ||b||, b = r̃ + K δ₀, u from the step itself; SPRING and the penalty in δ₀."""
    lam, omega, mu, lr = 0.05, 0.02, 0.6, 0.8
    opt = GaussNewton(**{"plan": plan, "damping": lam, "momentum": mu, "lr": lr, "guard": False} | options)
    objective, params, batch = perceptron(loss, l2=omega)
    D = np.concatenate([np.tile(np.arange(W.shape[1]) < W.shape[1] - 1, W.shape[0]) for W in params])  # not the last column
    state, last = None, 0.0
    for t in range(3):
        new, state, info = first(opt, objective, params, batch, state, key=t)
        K, r, before = written_out(objective, params, batch)
        n, theta, delta = 9, D * flat(params), (flat(new) - flat(params)) / lr
        centre = (lam * mu * last - omega * theta) / (lam + omega)
        b = r + K @ centre
        u = np.linalg.lstsq(K.T, centre - delta, rcond=1e-14)[0]
        residual = np.linalg.norm(b - K @ (centre - delta) - n * (lam + omega) * u) / np.linalg.norm(b)
        np.testing.assert_allclose(K.T @ u, centre - delta, atol=1e-6)
        assert info.solve.residual == pytest.approx(residual, rel=1e-2 if "inner_dtype" in options else 1e-5)
        g = K.T @ r
        epsilon = opt.epsilon * min(1, np.linalg.norm(g / n + omega * theta) / np.linalg.norm(g / n))
        assert (info.solve.reason == "converged") == (residual <= 1.01 * epsilon)
        assert info.damping == lam
        slope, bend = r @ (K @ delta) / n + omega * theta @ delta, np.sum((K @ delta) ** 2) / n + omega * delta @ (D * delta)
        losses = [before, written_out(objective, new, batch)[2]]
        penalised = [one + omega / 2 * np.sum(D * flat(v) ** 2) for one, v in zip(losses, (params, new), strict=True)]
        assert (info.loss, info.new_loss) == pytest.approx(tuple(penalised), rel=1e-10)
        predicted = -lr * slope - lr**2 / 2 * bend
        assert info.ratio == pytest.approx((penalised[0] - penalised[1]) / predicted, rel=1e-4)
        params, last = new, delta


def test_solvers_and_precisions_take_about_as_many_iterations_as_cg_in_float64():
    """A wrong shift, or float32 solves beyond float32's accuracy, would be repaired by corrections, at many times the cost."""
    objective, params, batch = perceptron(l2=0.02)
    opt = GaussNewton(plan="sketch", damping=0.03, guard=False, epsilon=1e-8, maxiter=2000)
    plain = first(opt, objective, params, batch)[2].solve.iterations
    for options in ({"solver": "lsqr"}, {"solver": "craig"}, {"inner_dtype": "float32"}):
        solve = first(dataclasses.replace(opt, **options), objective, params, batch)[2].solve
        assert solve.reason == "converged"
        assert 0.5 * plain <= solve.iterations <= 1.6 * plain


@pytest.mark.parametrize(("damping", "rank"), [(1e6, 16), (1e-9, 33)])
def test_a_low_rank_is_named_by_its_rank(damping, rank):
    """The first 16 columns where the damping hides the rest; half of the 66 unknowns, the most, where it hides nothing."""
    objective, params, batch = two_layer(n=66)
    info = first(GaussNewton(plan="nystrom", damping=damping, guard=False, maxiter=1), objective, params, batch)[2]
    assert info.solve.preconditioner == f"nystrom of rank {rank}"


def test_a_low_rank_that_is_the_whole_solves_at_once():
    """15 rows are within the first rank of 16: P is K Kᵀ + n (λ + ω) I itself."""
    objective, params, batch = perceptron(n=5, l2=0.02)
    opt = GaussNewton(plan="nystrom", damping=0.03, guard=False, epsilon=1e-8)
    assert first(opt, objective, params, batch)[2].solve.iterations <= 2


@pytest.mark.parametrize("solver", ["lsqr", "craig"])
def test_a_solve_that_is_cut_short_does_not_say_that_it_converged(solver):
    objective, params, batch = perceptron()
    info = first(GaussNewton(plan="cg", solver=solver, epsilon=1e-9, maxiter=3, damping=1e-4), objective, params, batch)[2]
    assert (info.solve.reason, info.solve.iterations) == ("maxiter", 3)
    assert info.solve.residual > 1e-6


DIMENSIONS = {"exact": 0.05, "sketch": 0.3, "class-averaged": 0.6, "per-class": 0.6}


@pytest.mark.parametrize("plan", DIMENSIONS)
def test_the_effective_dimension_is_that_of_the_matrices_that_were_factored(plan):
    """The mean over keys of N - λ ||R⁻ᵀz||² is Σ s/(s + λ) over the spectrum of RᵀR - λ I, at n (λ + ω); near that of K Kᵀ."""
    objective, params, batch = perceptron(l2=0.02)
    opt = GaussNewton(plan=plan, damping=0.03, guard=False, epsilon=0.3)
    found, wanted = [], []
    for key in range(40):
        known = nl.curvature.Experience(efforts=((f"{plan}, again", 0.0),))
        state, info = first(opt, objective, params, batch, nl.optim.gauss_newton.State(experience=known), key)[1:]
        R = [np.asarray(one) for one in state.experience.kept.source.factors]
        spectra = [np.linalg.eigvalsh(one.T @ one) - 9 * 0.05 for one in R]
        times = 27 // sum(map(len, spectra))
        wanted.append(times * sum(np.sum(s / (s + 9 * 0.05)) for s in spectra))
        found.append(info.effective_dimension)
    assert np.mean(found) == pytest.approx(np.mean(wanted), abs=4 * np.std(found) / 40**0.5 + 1e-9)
    assert np.std(found) > 1e-3
    values = np.linalg.eigvalsh(written_out(objective, params, batch)[0] @ written_out(objective, params, batch)[0].T)
    assert np.mean(wanted) == pytest.approx(np.sum(values / (values + 9 * 0.05)), rel=DIMENSIONS[plan])


@pytest.mark.parametrize("plan", ["exact", "parameter-cg", "kfac"])
def test_a_stalled_or_rejected_start_reports_no_residual_of_its_own(plan):
    """Nothing was solved: the losses are equal, the damping is that of the state, and the ratio is not a number."""
    objective, params, (x, y) = perceptron()
    opt = GaussNewton(plan=plan)
    _, state, _ = first(opt, objective, params, (x, y))
    fitted = written_out(objective, params, (x, y))[1].reshape(y.shape) + y
    new, after, info = first(opt, objective, params, (x, fitted), state._replace(recall=None))
    assert new is params
    assert after is not None
    assert (info.loss, info.accepted, info.attempts) == (info.new_loss, False, 0)
    assert (info.damping, info.reason) == (state.damping.value, "stalled: the residual is rounding")
    assert math.isnan(info.ratio)
    assert info.solve[:4] == (0.0, 0, 0, "converged")
