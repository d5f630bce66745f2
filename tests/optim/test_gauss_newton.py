"""Gauss-Newton on both sides: every route takes the dense step; guard, reuse, plan, precision, and bad problems."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

import nearlin as nl
from nearlin import nn
from nearlin.curvature import AGAIN, ROUTES, Applied, Experience, Kept
from nearlin.experiments import archive, records
from nearlin.linalg import Rates
from nearlin.optim.gauss_newton import RITZ, State
from nearlin.steps import judge
from tests.families import FAMILIES

GaussNewton = nl.optim.GaussNewton
TANH = nn.Elementwise(nn.activation("tanh"))
LOSSES = {
    "squared": nn.SquaredLoss(),
    "averaged": nn.SquaredLoss(average=True),
    "sigmoid": nn.SigmoidCrossEntropy(),
    "softmax": nn.SoftmaxCrossEntropy(),
}
TWO_LAYER = ("exact", "sketch", "kernel", "frozen", "nystrom", "cg")
SAMPLE_SIDE = ("exact", "sketch", "class-averaged", "per-class", "frozen", "nystrom", "cg")
PARAMETER_SIDE = ("kfac", "diagonal", "parameter-cg")
DAMPING = 1e-2


def problem(be, net, loss="squared", n=12, seed=3):
    """An objective, parameters and a batch; targets are numbers, or probabilities for the cross-entropies."""
    g = np.random.default_rng(seed)
    shape = net.shape if getattr(net, "shape", None) else (net.inputs,)
    x, y = g.standard_normal((n, *shape)), g.standard_normal((n, net.outputs))
    if loss in ("sigmoid", "softmax"):
        y = 0.1 + 0.8 * g.random((n, net.outputs))
        y = y / y.sum(axis=1, keepdims=True) if loss == "softmax" else y
    return nn.Objective(net, LOSSES[loss]), net.init(2, be.like), (be.array(x), be.array(y))


def mlp(be, loss="squared", outputs=3, **options):
    return problem(be, nn.MLP((5, 7, outputs), "tanh"), loss, **options)


def two_layer(be, n=16, width=32, activation="relu"):
    objective, params, (x, y) = problem(be, nn.TwoLayer(5, width, activation), n=n)
    return objective, params, (x, y[:, 0])


def exactly(plan="auto", **options):
    """A step to full accuracy that is always taken, at a damping that stays."""
    return GaussNewton(**{"plan": plan, "epsilon": 1e-10, "maxiter": 2000, "damping": DAMPING, "guard": False} | options)


def run(opt, objective, params, batch, steps, state=None, first=0):
    state = opt.init(params, objective) if state is None else state
    infos = []
    for t in range(first, first + steps):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        infos.append(info)
    return params, state, infos


def flat(v):
    return np.concatenate([np.asarray(V).ravel() for V in v])


def output_hessians(point):
    """H of every sample, (n, c, c), written anew."""
    z, loss = np.asarray(point.outputs, dtype=float), point._objective.loss
    eye = np.eye(z.shape[1])
    if isinstance(loss, nn.SquaredLoss):
        return np.stack([eye / (z.shape[1] if loss.average else 1)] * len(z))
    if isinstance(loss, nn.SigmoidCrossEntropy):
        p = 1 / (1 + np.exp(-z))
        return eye * (p * (1 - p))[:, :, None]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return np.stack([np.diag(q) - np.outer(q, q) for q in p])


def dense_curvature(point):
    """JᵀHJ/n (p, p)."""
    n, c = point.outputs.shape
    J = np.asarray(point.jacobian().to_dense(), dtype=float).reshape(n, c, -1)
    return np.einsum("ikp,ikl,ilq->pq", J, output_hessians(point), J) / n


def on_weights(objective):
    """D: ones for weights, zeros for biases and normalisations."""
    kept = [np.arange(s.shape[1]) < (0 if s.kind == "norm" else s.fan_in) for s in objective.layers]
    return flat([np.tile(one, (s.out, 1)) for one, s in zip(kept, objective.layers, strict=True)]).astype(float)


def dense_delta(objective, params, batch, damping=DAMPING, momentum=0.0, last=None, side="parameter"):
    """δ of (JᵀHJ/n + λ I + ω D) δ = -g + λ μ δ_prev - ω D θ by a dense solve, O(p³); on the sample side with I for D at left."""
    point, last, D = objective.at(params, batch), 0.0 if last is None else last, on_weights(objective)
    H, g, l2 = dense_curvature(point), flat(point.data_grads()), objective.l2
    b = -g + damping * momentum * last - l2 * D * flat(params)
    return np.linalg.solve(H + np.diag(damping + l2 * (D if side == "parameter" else np.ones_like(D))), b)


def with_l2(problem, l2):
    """A problem whose objective has a penalty."""
    return dataclasses.replace(problem[0], l2=l2), *problem[1:]


def check_steps(opt, objective, params, batch, steps=2, atol=1e-8, **dense):
    """Every step is the dense one, with a preconditioner that is new and with one that is kept."""
    state, last = opt.init(params, objective), None
    for t in range(steps):
        new, state, info = opt.step(params, state, objective, batch, key=t)
        want = dense_delta(objective, params, batch, opt.damping, last=last, side=info.side, **dense)
        assert info.solve.reason == "converged"
        np.testing.assert_allclose(flat(new) - flat(params), opt.lr * want, atol=atol)
        params, last = new, want if dense.get("momentum") else None
    return info


# ----------------------------------------------------------------------------------------- every route takes the dense step


@pytest.mark.parametrize("plan", TWO_LAYER)
def test_every_route_of_the_two_layer_network_takes_the_dense_step(numpy_backend, plan):
    info = check_steps(exactly(plan), *two_layer(numpy_backend))
    assert (info.side, info.plan) == ("sample", f"{plan}: by name")


@pytest.mark.parametrize("plan", [*SAMPLE_SIDE, *PARAMETER_SIDE, "direct"])
def test_every_route_of_a_deep_network_takes_the_dense_step(numpy_backend, plan):
    info = check_steps(exactly(plan), *mlp(numpy_backend))
    assert info.side == ("sample" if plan in SAMPLE_SIDE else "parameter")


def test_another_damping_gives_another_step(numpy_backend):
    """Negative control: λ is per sample mean on both sides, not n times as much."""
    objective, params, batch = mlp(numpy_backend)
    for plan in ("exact", "parameter-cg"):
        new = exactly(plan).step(params, State(), objective, batch)[0]
        for factor in (1 / 12, 12):
            wrong = dense_delta(objective, params, batch, factor * DAMPING)
            assert np.max(np.abs(flat(new) - flat(params) - wrong)) > 1e-2


@pytest.mark.parametrize("plan", ["exact", "sketch", "kfac"])
def test_all_backends_take_the_dense_step(be, plan, numpy_backend):
    objective, params, batch = mlp(numpy_backend)
    want = dense_delta(objective, params, batch)
    objective, start, batch = mlp(be)
    opt = exactly(plan, epsilon=1e-10 if be.eps < 1e-10 else 1e-5)
    new, _, info = opt.step(start, opt.init(start, objective), objective, batch, key=0)
    assert info.solve.residual <= 1.05 * opt.epsilon
    got = flat([be.numpy(W) for W in new]) - flat(params)
    np.testing.assert_allclose(got, want, atol=1e-8 if be.eps < 1e-10 else 1e-3)


@pytest.mark.parametrize("loss", ["averaged", "sigmoid", "softmax"])
@pytest.mark.parametrize("plan", [*PARAMETER_SIDE, "exact", "per-class", "class-averaged", "cg"])
def test_every_loss_takes_the_dense_step_on_both_sides(numpy_backend, plan, loss):
    info = check_steps(exactly(plan), *mlp(numpy_backend, loss))
    assert info.side == ("sample" if plan in SAMPLE_SIDE else "parameter")


@pytest.mark.parametrize("plan", ["exact", "sketch", "class-averaged", "kfac"])
def test_networks_of_many_outputs_take_it_by_passes(numpy_backend, plan):
    """Six outputs: products are passes through the network, not factors."""
    check_steps(exactly(plan), *mlp(numpy_backend, "softmax", outputs=6, n=8))


@pytest.mark.parametrize("solver", ["lsqr", "craig"])
@pytest.mark.parametrize("plan", ["sketch", "frozen", "cg"])
def test_methods_that_square_no_condition_number_take_the_dense_step(numpy_backend, solver, plan):
    check_steps(exactly(plan, solver=solver), *mlp(numpy_backend))
    check_steps(exactly(plan, solver=solver), *two_layer(numpy_backend))


@pytest.mark.parametrize("plan", ["exact", "class-averaged", "cg", "kfac", "parameter-cg"])
@pytest.mark.parametrize("loss", ["squared", "softmax"])
def test_a_penalty_enters_gradient_and_curvature(numpy_backend, plan, loss):
    check_steps(exactly(plan, lr=0.7), *with_l2(mlp(numpy_backend, loss), 0.05))


@pytest.mark.parametrize(
    ("plan", "spring"), [("exact", False), ("sketch", False), ("kfac", True), ("parameter-cg", True), ("exact", True)]
)
def test_spring_is_regularised_towards_the_last_step(numpy_backend, plan, spring):
    """(H + λ I) δ = -g + λ μ δ_prev, on the sample side always, on the parameter side by name; with a penalty too."""
    opt = exactly(plan, momentum=0.9, spring=spring, damping=0.1)
    check_steps(opt, *mlp(numpy_backend), steps=3, momentum=0.9)
    check_steps(opt, *with_l2(mlp(numpy_backend), 0.02), steps=3, momentum=0.9)


@pytest.mark.parametrize("plan", ["kfac", "parameter-cg"])
def test_a_warm_start_changes_the_way_not_the_solution(numpy_backend, plan):
    opt = exactly(plan, momentum=0.9)
    check_steps(opt, *mlp(numpy_backend, "softmax"), steps=3)
    rough = dataclasses.replace(opt, epsilon=0.3)
    warm, cold = (run(dataclasses.replace(rough, momentum=mu), *mlp(numpy_backend, "softmax"), 3)[0] for mu in (0.9, 0.0))
    assert np.max(np.abs(flat(warm) - flat(cold))) > 1e-3


@pytest.mark.parametrize("plan", ["kfac", "parameter-cg"])
def test_a_warm_start_is_at_mu_times_the_last_step(numpy_backend, plan):
    """Where that is the solution already, there is nothing to iterate, and it is the step."""
    objective, params, batch = mlp(numpy_backend, "softmax")
    want = dense_delta(objective, params, batch)
    last = nn.unravel(want / 0.8, params)
    new, _, info = exactly(plan, momentum=0.8, epsilon=1e-6).step(params, State(delta=last), objective, batch, key=0)
    assert (info.solve.iterations, info.solve.residual < 1e-10) == (0, True)
    np.testing.assert_allclose(flat(new) - flat(params), want, atol=1e-12)


def largest_ritz(A, b, order):
    """The largest eigenvalue of A on the span of b, A b, ..., A^(order - 1) b."""
    powers = [b / np.linalg.norm(b)]
    for _ in range(order - 1):
        powers.append(A @ powers[-1] / np.linalg.norm(A @ powers[-1]))
    Q = np.linalg.qr(np.stack(powers, axis=1)).Q
    return np.linalg.eigvalsh(Q.T @ A @ Q)[-1]


@pytest.mark.parametrize("plan", ["exact", "cg", "kfac", "parameter-cg"])
def test_the_first_damping_is_a_hundredth_of_the_largest_of_four_ritz_values(numpy_backend, plan):
    objective, params, batch = mlp(numpy_backend, "softmax")
    point = objective.at(params, batch)
    H, g = dense_curvature(point), flat(point.grads())
    if plan in SAMPLE_SIDE:  # K Kᵀ/n, from the residual
        K, r = np.asarray(point.jacobian(weighted=True).to_dense()), np.asarray(point.residual)
        H, g = K @ K.T / point.samples, r
    info = GaussNewton(plan=plan, guard=False).step(params, State(), objective, batch, key=0)[2]
    assert info.damping == pytest.approx(1e-2 * largest_ritz(H, g, 4), rel=1e-6)
    assert abs(largest_ritz(H, g, 3) / largest_ritz(H, g, 4) - 1) > 1e-4


@pytest.mark.parametrize(("route", "matrices"), [("exact", 3), ("sketch", 5)])
def test_a_route_is_planned_where_its_matrices_fit(numpy_backend, route, matrices):
    """K Kᵀ, its factor and a copy; of a sketch of 4 n c rows these rows, what they make, and its factor in place of that."""
    objective, params, batch = mlp(numpy_backend)
    point = objective.at(params, batch)
    J = point.jacobian(weighted=True)
    bytes_ = matrices * 8 * J.shape[0] ** 2
    planners = [GaussNewton(memory=bytes_ + by).planner(J, point, True) for by in (-1.0, 0.0)]
    assert [ROUTES[route] in planner.candidates() for planner in planners] == [False, True]


@pytest.mark.parametrize("plan", ["kfac", "sketch"])
def test_what_is_kept_remembers_the_iterations_of_its_first_and_of_its_last_step(numpy_backend, plan):
    objective, params, batch = mlp(numpy_backend)
    opt, state, seen = GaussNewton(plan=plan, epsilon=1e-3, maxiter=200, rates=rates(eigh=SLOW, cholesky=SLOW)), State(), []
    for t in range(6):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        if info.solve.refreshed:
            made, uses = info.solve.iterations, 0
        uses += 1
        if (kept := state.experience.kept) is not None:
            assert (kept.fresh, kept.last, kept.uses) == (made, info.solve.iterations, uses)
            seen.append((uses > 1, info.solve.iterations != made))
    assert (True, True) in seen


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 4), (4, 4)])
def test_a_rough_sketch_grows_to_four_times_its_size_and_no_further(numpy_backend, before, after):
    objective, params, batch = mlp(numpy_backend)
    point = objective.at(params, batch)
    planner = GaussNewton(plan="sketch").planner(point.jacobian(weighted=True), point, True)
    slow = nl.linalg.SolveInfo(0.1, 30, 30, "converged")
    found = planner.learn(Experience(growth=before), Kept("sketch", None, None, 1.0), True, slow)
    assert found.growth == after
    assert before == 4 or found.kept is None  # the rough one is not kept


CONV = nn.Sequential(
    (nn.Conv2d(2, 3, 3, pad=1), nn.BatchNorm(3), TANH, nn.MaxPool(2), nn.Flatten(), nn.Dense(12, 3)), shape=(2, 5, 4)
)


def convolutional(be, training, loss="softmax"):
    objective, params, batch = problem(be, CONV, loss, n=6)
    if training:
        return objective, params, batch
    return objective.observe(objective.at(params, batch).statistics).evaluation(), params, batch


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("plan", PARAMETER_SIDE)
def test_convolutions_and_normalisation_take_the_dense_step(numpy_backend, plan, training):
    check_steps(exactly(plan), *convolutional(numpy_backend, training))


def test_coupled_samples_have_the_routes_that_need_no_rows(numpy_backend):
    for plan in ("cg", "nystrom"):
        check_steps(exactly(plan), *convolutional(numpy_backend, training=True, loss="squared"))


@pytest.mark.parametrize("plan", ["exact", "cg", "kfac"])
def test_the_predicted_decrease_is_that_of_the_undamped_model(numpy_backend, plan):
    """-lr <g, δ> - lr²/2 <δ, H δ> with the penalty in both; the ratio is the actual decrease over it."""
    opt = exactly(plan, lr=0.7, momentum=0.5)
    objective, params, batch = with_l2(mlp(numpy_backend, "softmax"), 0.05)
    state, D = opt.init(params, objective), on_weights(objective)
    for t in range(2):
        new, state, info = opt.step(params, state, objective, batch, key=t)
        point, delta = objective.at(params, batch), (flat(new) - flat(params)) / 0.7
        g = flat(point.data_grads()) + 0.05 * D * flat(params)
        H = dense_curvature(point) + 0.05 * np.diag(D)
        predicted = -0.7 * g @ delta - 0.5 * 0.7**2 * delta @ H @ delta
        losses = [float(objective.at(v, batch).data_loss) for v in (params, new)]
        penalised = [loss + 0.025 * np.sum(D * flat(v) ** 2) for loss, v in zip(losses, (params, new), strict=True)]
        assert (info.loss, info.new_loss) == pytest.approx(tuple(penalised), rel=1e-12)
        assert info.ratio == pytest.approx((penalised[0] - penalised[1]) / predicted, rel=1e-6)
        params = new


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_residual_that_is_reported_is_the_true_one(numpy_backend, momentum):
    """||b - (H + λ I + ω D) δ|| / ||b|| with b = -g - ω D θ, from wherever the solve starts."""
    objective, params, batch = with_l2(mlp(numpy_backend, "softmax"), 0.05)
    opt = exactly("kfac", epsilon=0.2, momentum=momentum)
    state, D = opt.init(params, objective), on_weights(objective)
    for t in range(3):
        new, state, info = opt.step(params, state, objective, batch, key=t)
        point = objective.at(params, batch)
        b = -flat(point.data_grads()) - 0.05 * D * flat(params)
        rest = b - (dense_curvature(point) + np.diag(DAMPING + 0.05 * D)) @ (flat(new) - flat(params))
        assert info.solve.residual == pytest.approx(np.linalg.norm(rest) / np.linalg.norm(b), rel=1e-8)
        assert info.solve.residual <= 0.2
        params = new


def test_the_quadratic_stop_ends_before_the_residual_does(numpy_backend):
    """Martens' rule on an ill-conditioned system: fewer iterations, and nearly all of the model's decrease."""
    objective, params, (x, y) = mlp(numpy_backend, "softmax", n=40)
    batch = (x * np.geomspace(1e-3, 1, 5), y)
    opts = [exactly("parameter-cg", damping=1e-9, stop=stop) for stop in ("progress", "residual")]
    infos = [opt.step(params, State(), objective, batch)[2] for opt in opts]
    assert infos[0].solve.iterations < 0.7 * infos[1].solve.iterations
    assert infos[0].solve.reason == "converged"


# ------------------------------------------------------------------------------------------------------------------- the guard


def test_a_step_that_raises_the_loss_is_tried_again(numpy_backend):
    """Uncentred data at a tiny damping: the first attempt overshoots, a later one does not."""
    x = FAMILIES["offset"](np.random.default_rng(0), 64)
    y = np.sign(np.random.default_rng(1).standard_normal(64))
    net = nn.TwoLayer(16, 1024)
    objective, params = nn.Objective(net, nn.SquaredLoss()), net.init(0, x)
    _, state, info = GaussNewton(plan="exact").step(params, State(), objective, (x, y))
    assert info.attempts > 1
    assert info.accepted
    assert info.new_loss < info.loss
    assert info.damping > 1e3 * state.bounds.floor


def test_steps_that_fail_leave_the_parameters_and_end_at_the_largest_damping(numpy_backend):
    """lr = 1e30 overshoots in every attempt, until λ is at its ceiling."""
    objective, params, batch = mlp(numpy_backend)
    opt, state, reasons, fresh = GaussNewton(lr=1e30), State(), [], (params, State(), objective)
    for t in range(8):
        new, state, info = opt.step(params, state, objective, batch, key=t)
        assert new is params
        assert (info.accepted, info.new_loss) == (False, info.loss)
        reasons.append(info.reason)
    assert reasons[0].startswith("rejected: no decrease in 7 attempt(s)")
    assert reasons[-1].startswith("stalled: the damping is at its largest")
    assert state.damping.value == GaussNewton().step(*fresh, batch)[1].bounds.ceiling
    assert state.bounds is None


@pytest.mark.parametrize("plan", ["exact", "kfac"])
def test_the_damping_follows_the_rule(numpy_backend, plan):
    """After a step that is taken at once: `judge` from the ratio. After retries, or a solve that did not end: not below."""
    opt, (objective, params, batch), checked = GaussNewton(plan=plan, maxiter=500), mlp(numpy_backend, "softmax"), 0
    state = opt.init(params, objective)
    for t in range(10):
        before = state.damping
        params, state, info = opt.step(params, state, objective, batch, key=t)
        if before is not None and info.attempts == 1 and info.solve.reason == "converged":
            assert info.damping == before.value
            want = judge(before, info.ratio, state.bounds.floor, state.bounds.size, state.bounds.ceiling)
            assert (info.accepted, state.damping) == want
            checked += 1
        elif info.accepted:
            assert state.damping.value >= info.damping
    assert checked >= 5


def test_the_damping_does_not_fall_after_a_solve_that_did_not_end_or_a_retry(numpy_backend):
    objective, params, batch = mlp(numpy_backend)
    infos, dampings, state = [], [], State()
    for t in range(12):
        params, state, info = GaussNewton(plan="parameter-cg", maxiter=3).step(params, state, objective, batch, key=t)
        infos.append(info)
        dampings.append(state.damping.value)
    unfinished = [(i, d) for i, d in zip(infos, dampings, strict=True) if i.accepted and i.solve.reason == "maxiter"]
    assert any(i.ratio > 0.75 for i, _ in unfinished)
    assert all(d >= i.damping for i, d in unfinished)


def test_the_first_damping_refers_to_the_largest_ritz_value(numpy_backend):
    """1e-2 of it for layered networks, within [eps, 1/eps]; the two-layer network has the floor of the near-linear method."""
    objective, params, batch = mlp(numpy_backend)
    largest = np.linalg.eigvalsh(dense_curvature(objective.at(params, batch)))[-1]
    for plan in ("exact", "parameter-cg"):
        _, state, info = GaussNewton(plan=plan).step(params, State(), objective, batch)
        assert 0.9 * largest < state.bounds.size <= largest * (1 + 1e-9)
        assert info.damping == pytest.approx(1e-2 * state.bounds.size)
        assert (state.bounds.floor, state.bounds.ceiling) == (state.bounds.size * 2**-52, state.bounds.size / 2**-52)
    objective, params, batch = two_layer(numpy_backend)
    G = objective.at(params, batch).jacobian().gram()
    _, state, _ = GaussNewton().step(params, State(), objective, batch)
    assert state.bounds.floor == pytest.approx(1e-8 * np.trace(G) / 16**2)
    assert GaussNewton(guard=False).step(params, State(), objective, batch)[2].damping == state.bounds.floor


def test_a_loss_with_a_floor_ends_as_stalled(numpy_backend):
    """Two labels at one point, on both sides."""
    objective, params, (x, y) = two_layer(numpy_backend, width=256)
    batch = (np.concatenate([x, x]), np.concatenate([y, y + 1]))
    infos = run(GaussNewton(), objective, params, batch, 30)[2]
    assert infos[-1].reason.startswith("stalled")
    assert infos[-1].loss == pytest.approx(1 / 8, rel=1e-3)
    objective, params, (x, y) = mlp(numpy_backend, "softmax", n=6)
    infos = run(GaussNewton(epsilon=1e-3), objective, params, (x, y), 60)[2]
    assert next(info for info in infos if not info.accepted).reason.startswith("stalled: no decrease is left")
    assert infos[-1].loss == pytest.approx(objective.loss.least(y), rel=1e-6)


def test_without_the_guard_every_finite_step_is_taken_and_the_damping_stays(numpy_backend):
    """lr = 2.5: the model predicts no decrease, and the guard would refuse."""
    _, state, infos = run(GaussNewton(lr=2.5, guard=False, plan="exact", damping=1e-6), *mlp(numpy_backend), 3)
    assert all(info.accepted and info.attempts == 1 for info in infos)
    assert state.damping.value == 1e-6
    assert math.isnan(infos[0].ratio)


@pytest.mark.parametrize("plan", ["exact", "parameter-cg"])
def test_momentum_that_does_not_serve_is_dropped(numpy_backend, plan):
    """More damping leaves more of it: a run that tries no step without it ends at the first one that it turns uphill."""
    g = np.random.default_rng(0)
    x = g.standard_normal((40, 8))
    y = np.sin(x @ g.standard_normal((8, 3)))
    net = nn.MLP((8, 10, 3), "tanh")
    opt = GaussNewton(plan=plan, momentum=0.95, spring=True)
    infos = run(opt, nn.Objective(net, nn.SquaredLoss()), net.init(0, x), (x, y), 40)[2]
    assert not any(info.reason.startswith("stalled") for info in infos)
    assert any(info.attempts > 1 for info in infos)
    assert infos[-1].new_loss < 1e-2 * infos[0].loss


def test_a_refused_step_drops_the_last_one(numpy_backend):
    objective, params, batch = mlp(numpy_backend)
    opt = GaussNewton(plan="exact", momentum=0.9)
    params, state, _ = opt.step(params, State(), objective, batch)
    assert state.delta is not None
    _, state, info = dataclasses.replace(opt, lr=1e30).step(params, state, objective, batch, key=1)
    assert (info.accepted, state.delta) == (False, None)


def test_a_penalty_shrinks_weights_that_fit(numpy_backend):
    """Targets are the outputs: the residual is zero, and the penalty is not."""
    objective, params, (x, _) = with_l2(mlp(numpy_backend), 1e-2)
    batch = (x, objective.network.forward(params, x)[0])
    for plan in ("exact", "parameter-cg"):
        new, _, _ = run(GaussNewton(plan=plan), objective, params, batch, 6)
        assert float(objective.at(new, batch).loss) < 0.8 * float(objective.at(params, batch).loss)


# ----------------------------------------------------------------------------------------------------------- what is kept


def lasting(plan):
    """A state in which preconditioners of this route are known to serve as well the second time."""
    return State(experience=Experience(efforts=((plan + AGAIN, 0.0),)))


def keeping(state, **changes):
    """The state with these fields of its preconditioner changed."""
    experience = state.experience._replace(kept=state.experience.kept._replace(**changes))
    return state._replace(experience=experience, recall=None)


def worthwhile(state, **changes):
    """The state with its preconditioner counted as one that took 50 iterations when it was new."""
    return keeping(state, fresh=50, **changes)


@pytest.mark.parametrize("plan", ["exact", "sketch", "class-averaged", "per-class", "frozen", "nystrom", "kfac", "diagonal"])
def test_a_preconditioner_serves_its_batch_and_factors_of_layers_serve_any(numpy_backend, plan):
    objective, params, (x, y) = mlp(numpy_backend, n=24)
    first, second = (x[:12], y[:12]), (x[12:], y[12:])
    opt = exactly(plan, epsilon=0.3)
    new, state, info = opt.step(params, lasting(plan), objective, first)
    state = worthwhile(state)
    assert info.solve.refreshed
    assert not opt.step(new, state, objective, first, key=1)[2].solve.refreshed
    assert opt.step(new, state, objective, second, key=1)[2].solve.refreshed is (plan not in ("kfac", "diagonal"))
    assert dataclasses.replace(opt, reuse=False).step(new, state, objective, first, key=1)[2].solve.refreshed


@pytest.mark.parametrize("plan", ["exact", "sketch", "class-averaged", "nystrom", "kfac", "diagonal"])
def test_a_preconditioner_that_is_expected_to_cost_more_than_a_new_one_is_dropped(numpy_backend, plan):
    """Known to take a million iterations per digit when they serve again, they are not kept; as many as at first, they are."""
    objective, params, batch = mlp(numpy_backend)
    opt = exactly(plan, epsilon=0.3)
    for again, kept in ((0.0, True), (1e6, False)):
        state = opt.step(params, State(experience=Experience(efforts=((plan + AGAIN, again),))), objective, batch)[1]
        assert (state.experience.kept is not None) is kept


def test_a_batch_changed_in_place_is_noticed(numpy_backend):
    objective, params, (x, y) = mlp(numpy_backend)
    opt = exactly("exact", epsilon=0.3)
    new, state, _ = opt.step(params, State(), objective, (x, y))
    state = worthwhile(state)
    assert not opt.step(new, state, objective, (x, y), key=1)[2].solve.refreshed
    x[0, 0] += 1e-9
    info = opt.step(new, state, objective, (x, y), key=1)[2]
    assert info.solve.refreshed
    assert info.loss == float(objective.at(new, (x, y)).loss)


def test_a_frozen_factor_is_made_once(numpy_backend):
    """One Gram matrix in a run whose damping moves by many orders; each step is still the asked one."""
    objective, params, batch = two_layer(numpy_backend, width=256)
    counted = nn.Counted(objective)
    opt = GaussNewton(plan="frozen", damping=1.0)
    infos = run(opt, counted, params, batch, 14)[2]
    assert counted.calls["gram"] == 1
    assert max(i.damping for i in infos) > 1e4 * min(i.damping for i in infos)
    assert all(i.solve.reason == "converged" for i in infos)


def test_a_frozen_factor_is_damped_anew_without_another_gram_matrix(numpy_backend):
    objective, params, batch = two_layer(numpy_backend)
    counted, opt = nn.Counted(objective), exactly("frozen", epsilon=1e-3)
    new, state, _ = opt.step(params, State(), counted, batch)
    moved = state._replace(damping=state.damping._replace(value=1e-3 * DAMPING))
    _, after, info = opt.step(new, moved, counted, batch, key=1)
    G = objective.at(params, batch).jacobian().gram()
    (R,) = after.experience.kept.source.factors
    np.testing.assert_allclose(R.T @ R, G + 16e-3 * DAMPING * np.eye(16), atol=1e-12)
    assert (info.solve.refreshed, counted.calls["gram"], after.experience.kept.strength) == (True, 1, 1e-3 * DAMPING)


@pytest.mark.parametrize(("factor", "used"), [(9.0, True), (1 / 9, True), (11.0, False), (1 / 11, False)])
def test_a_factor_serves_within_ten_times_its_damping(numpy_backend, factor, used):
    objective, params, batch = mlp(numpy_backend)
    opt = exactly("exact", epsilon=0.3)
    new, state, _ = opt.step(params, State(), objective, batch)
    state = worthwhile(state, strength=factor * DAMPING)
    assert opt.step(new, state, objective, batch, key=1)[2].solve.refreshed is not used


def test_a_preconditioner_that_no_longer_serves_is_replaced_within_the_step(numpy_backend):
    objective, params, batch = mlp(numpy_backend)
    opt = exactly("exact", epsilon=1e-6, maxiter=5)
    new, state, _ = opt.step(params, State(), objective, batch)
    useless = state.experience.kept.source._replace(factors=(np.diag(np.geomspace(1e-6, 1e6, 36)),))
    info = opt.step(new, keeping(state, source=useless), objective, batch, key=1)[2]
    assert (info.solve.refreshed, info.solve.reason) == (True, "converged")


@pytest.mark.parametrize(("cholesky", "granted"), [(1e30, 8), (1.0, 20)])
def test_a_kept_preconditioner_is_given_up_at_twice_what_a_new_one_would_cost(numpy_backend, cholesky, granted):
    """2 (build/each + fresh) + 2 iterations, of 3 with a fresh one: nothing to build, or N³/3 where an iteration takes 2 N²."""
    objective, params, batch = mlp(numpy_backend)
    table = rates(matmul=1e30, memory=1e30, calls=1e30, triangular=1.0, cholesky=cholesky)
    opt = exactly("exact", epsilon=1e-6, maxiter=100, rates=table)
    new, state, _ = opt.step(params, lasting("exact"), objective, batch)
    useless = state.experience.kept.source._replace(factors=(np.diag(np.geomspace(1e-6, 1e6, 36)),))
    counted = nn.Counted(objective)
    state = keeping(state, source=useless, fresh=3)
    info = opt.step(new, state, counted, batch, key=1)[2]
    assert (info.solve.refreshed, info.solve.reason) == (True, "converged")
    assert counted.calls["gram_matvec"] - info.solve.iterations == granted


@pytest.mark.parametrize("plan", ["cg", "parameter-cg"])
def test_a_solve_without_preconditioner_that_does_not_end_is_not_repeated(numpy_backend, plan):
    objective, params, batch = mlp(numpy_backend)
    opt = exactly(plan, epsilon=0.5)
    new, state, _ = opt.step(params, State(), objective, batch)
    counted = nn.Counted(objective)
    opt = dataclasses.replace(opt, epsilon=1e-9, maxiter=3)
    info = opt.step(new, state._replace(recall=None), counted, batch, key=1)[2]
    assert (info.solve.reason, info.solve.iterations) == ("maxiter", 3)
    assert counted.calls["gram_matvec"] + counted.calls["rmatvec"] <= 4


def test_a_rough_sketch_is_made_larger_in_the_next_step(numpy_backend):
    objective, params, batch = mlp(numpy_backend, n=16)
    opt = exactly("sketch", sketch_size=0.1, epsilon=1e-3, damping=1e-6)
    _, state, info = opt.step(params, State(), objective, batch)
    assert info.solve.iterations > 30
    assert (state.experience.growth, state.experience.kept) == (2, None)
    point = objective.at(params, batch)
    J = point.jacobian(weighted=True)
    rows = [ROUTES["sketch"].make(opt._setting(J, point, growth, 0, 1))[1].shape[1] for growth in (1, 2)]
    assert rows == [5, 10]


def test_all_attempts_share_one_preconditioner(numpy_backend):
    counted = nn.Counted(mlp(numpy_backend)[0])
    _, params, batch = mlp(numpy_backend)
    info = GaussNewton(plan="exact", lr=1e6).step(params, State(), counted, batch)[2]
    assert (info.attempts, counted.calls["gram"], counted.calls["forward"]) == (7, 1, 8)


# ---------------------------------------------------------------------------------------------------------------- the planner


def rates(**changes):
    """The default table with some primitives at other speeds."""
    table = Rates()
    pairs = {k: v if k == "calls" else (v, v) for k, v in changes.items()}
    return dataclasses.replace(table, **pairs)


SLOW, FAST = 1e-3, 1e30
PRIMITIVES = ("matmul", "thin", "cholesky", "triangular", "eigh", "memory", "calls")
TABLES = [rates(), *(rates(**{name: speed}) for name in PRIMITIVES for speed in (SLOW, FAST))]
NETWORKS = {
    "two-layer": nn.TwoLayer(5, 16),
    "two-layer-tanh": nn.TwoLayer(5, 200, "tanh"),
    "one-output": nn.MLP((5, 20, 1), "tanh"),
    "three-outputs": nn.MLP((5, 9, 9, 3), "relu"),
    "six-outputs": nn.MLP((5, 6, 6)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_candidate_has_a_predicted_time_and_the_route_moves_over_a_grid(numpy_backend, name):
    """Sizes x losses x tables of rates, with nothing kept, something kept, and measured efforts; see test_work for the choice."""
    net, seen = NETWORKS[name], set()
    losses = ("squared",) if isinstance(net, nn.TwoLayer) else ("squared", "sigmoid")
    for n, loss, dtype in itertools.product((2, 40), losses, (np.float64, np.float32)):
        objective, params, batch = problem(numpy_backend, net, loss, n=n)
        params, batch = tuple(W.astype(dtype) for W in params), tuple(a.astype(dtype) for a in batch)
        point = objective.at(params, batch)
        kept = [None, *(Kept(route, None, None, 1.0, 3, 3, 2, "") for route in ("sketch", "kfac"))]
        for table, old in itertools.product(TABLES, kept):
            opt = GaussNewton(rates=table)
            J = point.jacobian(weighted=True)
            state = State(experience=Experience(old, (("class-averaged", 5.0), ("sketch", 0.1), ("sketch" + AGAIN, 0.2))))
            planner = opt.planner(J, point, loss == "squared")
            plan = opt._plan(planner, state)
            seconds = {route.name: planner.seconds(route, state.experience, 100.0) for route in planner.candidates()}
            assert all(0 < s < math.inf for s in seconds.values())
            assert plan.route in seconds
            assert plan.reason.startswith(f"{plan.route}: ")
            seen.add(plan.route)
    assert len(seen) >= 3


def planned(be, table, net, loss="squared", n=40, **options):
    objective, params, batch = problem(be, net, loss, n=n)
    point, opt = objective.at(params, batch), GaussNewton(rates=table, **options)
    return opt._plan(opt.planner(point.jacobian(weighted=True), point, loss == "squared"), State())


def test_a_slow_primitive_is_avoided_and_a_fast_one_is_used(numpy_backend):
    deep, wide = nn.MLP((5, 60, 3), "tanh"), nn.TwoLayer(5, 200)
    for net in (deep, wide):
        assert planned(numpy_backend, rates(cholesky=SLOW), net).route == "cg"
        assert planned(numpy_backend, rates(triangular=SLOW), net).route in ("exact", "cg")
    assert planned(numpy_backend, rates(thin=SLOW), wide).route == "exact"
    assert planned(numpy_backend, rates(matmul=SLOW, memory=FAST, calls=FAST), wide).route in ("sketch", "kernel", "cg")
    assert planned(numpy_backend, rates(eigh=SLOW), deep, "softmax").route in ("diagonal", "parameter-cg")
    assert planned(numpy_backend, rates(eigh=FAST, matmul=FAST, memory=SLOW), deep, "softmax").route == "kfac"


def test_the_side_follows_the_loss_and_the_shape(numpy_backend):
    """Sample side: fewer rows than parameters, and the squared loss; coupled samples have the parameter side."""
    deep = nn.MLP((5, 8, 3), "tanh")  # 75 parameters
    assert planned(numpy_backend, Rates(), deep, n=20).side == "sample"
    assert planned(numpy_backend, Rates(), deep, n=30).side == "parameter"
    assert planned(numpy_backend, Rates(), deep, "softmax", n=20).side == "parameter"
    assert planned(numpy_backend, Rates(), CONV, n=6).side == "parameter"


def test_routes_beyond_the_memory_are_not_planned(numpy_backend):
    deep, wide = nn.MLP((5, 60, 3), "tanh"), nn.TwoLayer(5, 200)
    for net in (deep, wide):
        assert planned(numpy_backend, Rates(), net, memory=1.0).route == "cg"
    no_products = rates(matmul=FAST, thin=SLOW, memory=FAST)
    assert planned(numpy_backend, no_products, wide, n=40).route == "exact"
    assert planned(numpy_backend, no_products, wide, n=40, memory=3 * 8 * 40**2 - 1).route == "cg"
    assert planned(numpy_backend, Rates(), deep, "softmax", memory=1.0).side == "parameter"


@pytest.mark.parametrize(
    ("make", "plan", "words"),
    [
        (mlp, "kernel", "the closed-form kernel is that of the two-layer network"),
        (lambda be: two_layer(be, activation="tanh"), "kernel", "the closed-form kernel is that of ReLU"),
        (lambda be: mlp(be, outputs=1), "class-averaged", "there is one output: it would be 'exact'"),
        (two_layer, "per-class", "there is one output"),
        (two_layer, "kfac", "the two-layer network's neurons are too many"),
        (lambda be: convolutional(be, True), "exact", "batch normalisation by batch statistics couples samples"),
        (lambda be: convolutional(be, True), "sketch", "couples samples: there are no rows of single samples"),
    ],
)  # fmt: skip
def test_a_route_that_cannot_be_taken_is_refused_with_the_reason(numpy_backend, make, plan, words):
    objective, params, batch = make(numpy_backend)
    with pytest.raises(ValueError, match=f"^plan is {plan!r}, and .*{words}.*; expected 'auto' or another route"):
        GaussNewton(plan=plan).step(params, State(), objective, batch)


def test_the_two_layer_network_is_for_least_squares(numpy_backend):
    _, params, (x, y) = two_layer(numpy_backend)
    objective = nn.Objective(nn.TwoLayer(5, 32), nn.SigmoidCrossEntropy())
    with pytest.raises(ValueError, match="the two-layer network's Jacobian is not weighted; expected SquaredLoss"):
        GaussNewton().step(params, State(), objective, (x, 0 * y + 0.5))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"plan": "gram"}, "plan is 'gram'; expected one of 'auto', 'exact'"),
        ({"plan": "nystrom", "solver": "lsqr"}, "solver is 'lsqr', which takes one triangular factor of the whole"),
        ({"solver": "minres"}, "solver is 'minres'"),
        ({"stop": "never"}, "stop is 'never'"),
        ({"epsilon": 1.0}, "epsilon is 1.0"),
        ({"maxiter": 0}, "maxiter is 0"),
        ({"memory": 0.0}, "memory is 0.0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"sketch": "gaussian"}, "expected a distribution of nearlin.sketch"),
        ({"sketch": nl.sketch.Gaussian}, "expected a distribution of nearlin.sketch"),
        ({"rates": {}}, "rates is {}; expected a nearlin.linalg.Rates"),
        ({"inner_dtype": "float16"}, "inner_dtype is 'float16'"),
        ({"damping": -1.0}, "damping is -1.0"),
    ],
)
def test_options_that_cannot_work_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        GaussNewton(**fields)


def test_without_cg_the_plan_has_triangular_factors_alone(numpy_backend):
    averaged = rates(matmul=1e5, cholesky=1e4)
    assert planned(numpy_backend, averaged, nn.MLP((5, 60, 3), "tanh")).route == "class-averaged"
    for table in (averaged, *TABLES):
        assert planned(numpy_backend, table, nn.MLP((5, 60, 3), "tanh"), solver="lsqr").route in ("exact", "sketch", "cg")


# -------------------------------------------------------------------------------------------- residuals without a bound


@pytest.mark.parametrize("scale", [3, 12, 15, 60, 1000])
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_targets_of_tiny_probability_send_the_step_to_the_parameter_side(numpy_backend, scale, loss, dtype):
    """r̃ = √p - y/√p: by name the sample side is taken as long as p > √eps, and nothing is ever NaN."""
    objective, params, (x, y) = mlp(numpy_backend, loss)
    y = np.eye(3)[np.argmax(y, axis=1)].astype(dtype)
    batch = (x.astype(dtype), y)
    params = (params[0].astype(dtype), scale * params[1].astype(dtype))
    z = objective.network.forward(params, batch[0])[0].astype(float)
    with np.errstate(over="ignore"):
        p = 1 / (1 + np.exp(-z)) if loss == "sigmoid" else np.exp(z - z.max(axis=1, keepdims=True))
    p = p if loss == "sigmoid" else p / p.sum(axis=1, keepdims=True)
    least = np.min(np.where(y == 1, p, 1 - p if loss == "sigmoid" else 1.0))
    new, state, info = GaussNewton(plan="per-class").step(params, State(), objective, batch)
    if least > np.finfo(dtype).eps ** 0.5:
        assert (info.side, info.plan) == ("sample", "per-class: by name")
    else:
        assert info.side == "parameter"
        assert info.plan == "kfac: a target's probability is below √eps, where the residual of 'per-class' has no bound"
    new, _, infos = run(GaussNewton(plan="per-class"), objective, new, batch, 4, state, first=1)
    assert all(np.isfinite(W).all() for W in new)
    assert all(i.new_loss <= i.loss < np.inf for i in infos)


# ------------------------------------------------------------------------------------------------------------------ robustness


def uncentred(g):
    x = FAMILIES["offset"](g, 24, d=8)
    cosines = x @ x.T
    assert np.mean(cosines[~np.eye(24, dtype=bool)]) > 0.95
    return x, np.sign(g.standard_normal(24))


def duplicates(g):
    x = np.repeat(g.standard_normal((12, 8)), 2, axis=0)
    return x, g.standard_normal(24)


def constant_pixel(g):
    x = g.standard_normal((24, 8))
    x[:, 2] = 0.0
    x[:, 5] = 1.0
    return x, g.standard_normal(24)


def far_more_samples(g):
    return g.standard_normal((200, 8)), g.standard_normal(200)


def one_sample(g):
    return g.standard_normal((1, 8)), g.standard_normal(1)


def mixed_scales(g):
    return g.standard_normal((24, 8)) * np.geomspace(1e-6, 1e6, 8), 1e3 * g.standard_normal(24)


BAD = {f.__name__: f for f in (uncentred, duplicates, constant_pixel, far_more_samples, one_sample, mixed_scales)}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("net", [nn.TwoLayer(8, 24), nn.MLP((8, 6, 1), "relu")], ids=["two-layer", "mlp"])
def test_bad_problems_converge_or_stop_with_a_reason(name, net):
    """Planned and by every name that the network takes, in both precisions: the loss never rises, nothing is NaN."""
    x, y = BAD[name](np.random.default_rng(0))
    plans = ("auto", *TWO_LAYER) if isinstance(net, nn.TwoLayer) else ("auto", "exact", "sketch", "nystrom", *PARAMETER_SIDE)
    for plan, dtype in itertools.product(plans, (np.float64, np.float32)):
        batch = (x.astype(dtype), y.astype(dtype))
        params, _, infos = run(GaussNewton(plan=plan), nn.Objective(net, nn.SquaredLoss()), net.init(0, batch[0]), batch, 6)
        assert all(np.isfinite(W).all() and W.dtype == dtype for W in params)
        for info in infos:
            assert info.new_loss <= info.loss
            assert info.accepted == (info.reason == "accepted")
            assert info.reason.split(":")[0] in ("accepted", "rejected", "stalled")
        assert not math.isnan(infos[0].solve.residual)


def test_duplicates_with_different_labels_end_at_the_averaged_fit(numpy_backend):
    objective, params, (x, y) = two_layer(numpy_backend, n=12, width=256)
    batch = (np.concatenate([x, x[:3]]), np.concatenate([y, y[:3] + 1.0]))
    infos = run(GaussNewton(), objective, params, batch, 15)[2]
    assert infos[-1].loss == pytest.approx(3 * 2 * 0.25 / (2 * 15), rel=1e-2)


@pytest.mark.parametrize("plan", ROUTES)
def test_a_dead_network_stalls_and_says_so(plan):
    """All pre-activations of a layer without a way around it are negative: J = 0 on every route, at first or later."""
    net = nn.Sequential((nn.Dense(5, 8), nn.Elementwise(nn.activation("relu")), nn.Dense(8, 3, bias=False)))
    if plan == "kernel":
        net = nn.TwoLayer(5, 8)
    x, y = np.abs(np.random.default_rng(0).standard_normal((6, 5))), np.ones((6, net.outputs))
    params = tuple(-np.abs(W) for W in net.init(0, x)) if plan == "kernel" else net.init(0, x)
    dead = params if plan == "kernel" else (np.concatenate([params[0][:, :5], np.full((8, 1), -99.0)], axis=1), params[1])
    objective = nn.Objective(net, nn.SquaredLoss())
    new, state, info = GaussNewton(plan=plan).step(dead, State(), objective, (x, y))
    assert new is dead
    assert info.reason == "stalled: the gradient, or all curvature along it, is zero"
    alive = net.init(1, x)
    _, state, info = GaussNewton(plan=plan).step(alive, State(), objective, (x, y))
    new, _, info = GaussNewton(plan=plan).step(dead, state, objective, (x, y), key=1)
    assert new is dead
    assert info.reason.startswith("stalled")


@pytest.mark.parametrize("plan", ["auto", "exact", "per-class", "nystrom", "cg", *PARAMETER_SIDE])
def test_a_zero_gradient_stalls_and_a_penalty_goes_on(numpy_backend, plan):
    """Targets of one half and no weights: the loss is at its least, and not zero."""
    objective, params, (x, y) = mlp(numpy_backend, "sigmoid")
    zero, batch = tuple(0 * W for W in params), (x, 0 * y + 0.5)
    new, _, info = GaussNewton(plan=plan).step(zero, State(), objective, batch)
    assert new is zero
    assert info.reason == "stalled: the gradient, or all curvature along it, is zero"
    state = GaussNewton(plan=plan).step(params, State(), objective, batch)[1]
    assert GaussNewton(plan=plan).step(zero, state, objective, batch, key=1)[2].reason.startswith("stalled")
    assert GaussNewton(plan=plan).step(params, State(), dataclasses.replace(objective, l2=0.1), batch)[2].accepted


@pytest.mark.parametrize("plan", ["exact", "kernel", "cg", "parameter-cg"])
def test_a_penalty_acts_where_there_is_no_curvature(plan):
    """Both sides, the two-layer network with all neurons off: θ shrinks by ω / (ω + λ)."""
    x, net = np.abs(np.random.default_rng(0).standard_normal((6, 5))), nn.TwoLayer(5, 8)
    (W,) = net.init(0, x)
    objective, dead = nn.Objective(net, nn.SquaredLoss(), l2=0.1), (-np.abs(W),)
    (new,), _, info = GaussNewton(plan=plan).step(dead, State(), objective, (x, np.ones(6)))
    assert info.accepted
    np.testing.assert_allclose(new, dead[0] * (1 - 0.1 / (0.1 + info.damping)), atol=1e-12)


@pytest.mark.parametrize("plan", ["auto", "exact", "sketch", "cg", "kfac", "parameter-cg"])
def test_numbers_that_overflow_are_reported_as_such(numpy_backend, plan):
    objective, params, (x, y) = problem(numpy_backend, nn.MLP((5, 7, 3), "relu"))
    with np.errstate(over="ignore", invalid="ignore"):
        for batch, words in (
            ((x, 1e160 * y), "rejected: the loss is not finite"),
            ((1e150 * x, y), f"rejected: the {'solve' if plan in ('kfac', 'parameter-cg') else 'curvature'} is not finite"),
        ):
            new, _, info = GaussNewton(plan=plan).step(params, State(), objective, batch)
            assert new is params
            assert (info.reason, info.solve.reason) == (words, "non-finite")
        state = GaussNewton(plan=plan).step(params, State(), objective, (x, y))[1]
        for scale in (1e100, 1e150):
            new, after, info = GaussNewton(plan=plan).step(params, state, objective, (scale * x, y))
            assert new is params or np.isfinite(flat(new)).all()
            assert not info.reason.startswith("stalled: no decrease")
            assert not any(math.isnan(effort) for _, effort in after.experience.efforts)


def test_a_large_loss_is_no_obstacle(numpy_backend):
    objective, params, (x, y) = mlp(numpy_backend)
    for plan in ("exact", "kfac"):
        infos = run(GaussNewton(plan=plan), objective, params, (x, 1e100 * y), 4)[2]
        assert infos[-1].new_loss < 0.9 * infos[0].loss


def test_data_that_are_not_finite_are_refused(numpy_backend):
    objective, params, (x, y) = mlp(numpy_backend)
    x[1, 2] = np.nan
    with pytest.raises(ValueError, match="x holds 1 NaN or Inf"):
        GaussNewton().step(params, State(), objective, (x, y))


@pytest.mark.parametrize("key", [-1, 1.5, None, "a"])
def test_a_bad_key_is_refused(numpy_backend, key):
    objective, params, batch = mlp(numpy_backend)
    with pytest.raises(ValueError, match="expected an integer of at least 0"):
        GaussNewton().step(params, State(), objective, batch, key=key)


def test_a_loss_that_is_zero_in_its_arithmetic_ends_the_run():
    """Softmax in float32 far beyond separation: log(1 + e^-17) is 0, its gradient is not."""
    x = np.eye(4, dtype=np.float32)
    net = nn.MLP((4, 4))
    params = (np.concatenate([30 * np.eye(4), np.zeros((4, 1))], axis=1).astype(np.float32),)
    info = GaussNewton().step(params, State(), nn.Objective(net, nn.SoftmaxCrossEntropy()), (x, np.arange(4)))[2]
    assert (info.loss, info.reason) == (0.0, "stalled: the residual is rounding")


# ------------------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("plan", ["exact", "sketch", "cg", "per-class"])
def test_float32_products_meet_a_float64_residual(numpy_backend, plan):
    """``inner_dtype``: the step is the float64 one, also where the residual does not see it; factors are in float32."""
    objective, params, batch = mlp(numpy_backend)
    opt = exactly(plan, inner_dtype="float32")
    check_steps(opt, objective, params, batch)
    _, state, info = opt.step(params, lasting(plan), objective, batch)
    assert info.solve.residual <= 1.001e-10
    if plan != "cg":
        assert state.experience.kept.source.factors[0].dtype == np.float32


def hard(dtype=np.float32):
    """tanh on Gaussian points, narrow enough for small singular values, and the float64 truth for the same float32 factors."""
    g = np.random.default_rng(0)
    x, y = g.standard_normal((60, 2)).astype(dtype), g.standard_normal(60).astype(dtype)
    net = nn.MLP((2, 64, 1), "tanh")
    objective, params = nn.Objective(net, nn.SquaredLoss()), net.init(0, x)
    point = objective.at(params, (x, y))
    K = point.jacobian().astype("float64").to_dense()
    damping = float(1e-8 * np.linalg.norm(K, 2) ** 2 / 60)
    delta = -K.T @ np.linalg.solve(K @ K.T + 60 * damping * np.eye(60), point.residual.astype(float))
    return objective, params, (x, y), damping, delta


@pytest.mark.parametrize("solver", ["cg", "lsqr"])
def test_a_float64_residual_repairs_float32(solver):
    """λ/σ² = 1e-8: with it δ is right to float32's rounding, without it far from that whatever the residual says."""
    objective, params, batch, damping, want = hard()
    far = {}
    for residual_dtype in (None, "float64"):
        opt = exactly("sketch", solver=solver, damping=damping, residual_dtype=residual_dtype, epsilon=1e-9, maxiter=3000)
        point = objective.at(params, batch)
        J = point.jacobian(weighted=True)
        route, setting = ROUTES[opt.plan], opt._setting(J, point, 1, 0, 1)
        kept = route.factor(route.make(setting), setting, damping)
        system = opt._system(route.side, J, point, None)
        step, _, _, info = system.solve(damping, Applied(kept, 60, damping), opt.maxiter)
        assert all(V.dtype == np.float32 for V in step)
        if residual_dtype:
            assert (info.reason, info.iterations < 45) == ("converged", True)  # solves to float32's limit take 52 and more
        far[residual_dtype] = np.linalg.norm(flat(step) - want) / np.linalg.norm(want)
    assert far["float64"] < 1e-7
    assert far[None] > 100 * far["float64"]


def test_numpy_scalars_as_options_do_not_widen_float32(numpy_backend):
    objective, params, batch = with_l2(mlp(numpy_backend), np.float64(0.01))
    params, batch = (tuple(a.astype(np.float32) for a in v) for v in (params, batch))
    options = {"lr": np.float64(0.5), "damping": np.float64(0.1), "momentum": np.float64(0.5)}
    for plan in ("exact", "sketch", "kfac"):
        new, _, infos = run(GaussNewton(plan=plan, **options), objective, params, batch, 2)
        assert all(W.dtype == np.float32 for W in new)
        assert all(info.accepted for info in infos)


def test_a_gram_matrix_beyond_float32_is_a_preconditioner(numpy_backend):
    """Its Cholesky factorisation needs a larger shift than the asked one: CG takes it from there."""
    objective, params, batch, damping, _ = hard()
    info = exactly("exact", damping=1e-2 * damping, epsilon=0.1).step(params, State(), objective, batch)[2]
    assert "shift" in info.solve.preconditioner
    assert info.solve.iterations > 0
    assert (info.solve.reason, info.solve.residual <= 0.1001) == ("converged", True)


def test_a_device_without_float64_says_so():
    pytest.importorskip("array_api_strict")
    from tests.conftest import Backend

    objective, params, batch = mlp(Backend("array_api_strict:no_float64"))
    with pytest.raises(ValueError, match=r"^residual_dtype is 'float64', and the device has none; expected None"):
        GaussNewton(plan="exact", residual_dtype="float64").step(params, State(), objective, batch)
    assert GaussNewton(plan="exact").step(params, State(), objective, batch)[2].accepted


# ------------------------------------------------------------------------------------------------------------------- oracles


@pytest.mark.parametrize("plan", ["exact", "sketch", "cg"])
def test_the_oracles_of_the_sample_side_are_those_of_the_head(numpy_backend, plan):
    """1 jacobian by c backward passes, k products, 1 forward per attempt and 1 for the first point; a few products at first."""
    objective, params, batch = mlp(numpy_backend)
    counted, opt = nn.Counted(objective), GaussNewton(plan=plan, reuse=False)
    state = opt.init(params, counted)
    for t in range(3):
        counted.calls.clear()
        params, state, info = opt.step(params, state, counted, batch, key=t)
        assert info.attempts == 1
        assert counted.calls["forward"] == 1 + (t == 0)
        assert counted.calls["jacobian"] == 1
        assert counted.calls["gram_matvec"] == info.solve.iterations + RITZ * (t == 0)
        assert (counted.calls["backward"], counted.calls["jvp"]) == (3, 0)
        assert counted.calls["gram"] == (plan == "exact" and info.solve.refreshed)
        assert counted.calls["sketch"] == (plan == "sketch" and info.solve.refreshed)
        assert counted.calls["matvec"] + counted.calls["rmatvec"] <= 2
        assert info.solve.products == info.solve.iterations + counted.calls["matvec"]


@pytest.mark.parametrize("plan", PARAMETER_SIDE)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_oracles_of_the_parameter_side_are_those_of_the_head(numpy_backend, plan, momentum):
    """By passes: one backward for the gradient, a pair of passes a product, one backward for factors of layers."""
    objective, params, batch = mlp(numpy_backend, "softmax", outputs=6)
    counted, opt = nn.Counted(objective), GaussNewton(plan=plan, momentum=momentum, damping=0.5, reuse=False)
    state = opt.init(params, counted)
    for t in range(3):
        counted.calls.clear()
        params, state, info = opt.step(params, state, counted, batch, key=t)
        assert info.attempts == 1
        warm = momentum > 0 and t > 0
        products = info.solve.iterations + RITZ * (t == 0) + warm
        made = info.solve.refreshed and plan != "parameter-cg"
        assert counted.calls == {"forward": 1 + (t == 0), "jacobian": 1, "jvp": products, "backward": products + 1 + made}
        assert info.solve.products == info.solve.iterations + warm


@pytest.mark.parametrize("plan", ["exact", "sketch", "class-averaged", "per-class", "kfac", "auto"])
def test_a_step_counts_all_passes_that_its_layers_see(numpy_backend, monkeypatch, plan):
    """Ten outputs, by passes: those that make the rows are counted too, and are in the gradient equivalents of a comparison."""
    objective, params, batch = problem(numpy_backend, nn.MLP((64, 64, 10), "tanh"), n=60)
    seen = {"forward": 0, "backward": 0, "jvp": 0}
    for name in seen:
        original = getattr(nn.Dense, name)

        def watched(self, *args, name=name, original=original):
            seen[name] += self.out == 10
            return original(self, *args)

        monkeypatch.setattr(nn.Dense, name, watched)
    counted = nn.Counted(objective)
    GaussNewton(plan=plan).step(params, State(), counted, batch)
    assert {name: counted.calls[name] for name in seen} == seen
    assert seen["backward"] >= (RITZ + 1 if plan in ("kfac", "auto") else RITZ + 11)
    passes = seen["forward"] / 3 + 2 / 3 * (seen["backward"] + seen["jvp"])
    assert records.gradients(counted.calls) == pytest.approx(passes, rel=1e-12)


def test_accuracies_near_rounding_are_certified_by_one_more_pass(numpy_backend):
    objective, params, batch = mlp(numpy_backend, "softmax", outputs=6)
    counted = nn.Counted(objective)
    info = exactly("parameter-cg", epsilon=1e-13).step(params, State(), counted, batch)[2]
    assert counted.calls["backward"] == counted.calls["jvp"] + 2
    assert info.solve.products == info.solve.iterations + 1


@pytest.mark.parametrize("plan", ["cg", "sketch"])
def test_on_the_sample_side_the_image_is_summed_up_above_rounding_and_made_anew_near_it(numpy_backend, plan):
    """No product beyond the iterations at ε = .1; near rounding one for every correction."""
    objective, params, batch = mlp(numpy_backend)
    for epsilon, anew in ((0.1, False), (1e-13, True)):
        counted = nn.Counted(objective)
        info = exactly(plan, epsilon=epsilon).step(params, State(), counted, batch)[2]
        assert (counted.calls["matvec"] > 0) is anew
        assert info.solve.products == info.solve.iterations + counted.calls["matvec"]


def test_on_the_parameter_side_a_residual_that_lost_touch_is_not_called_converged(numpy_backend):
    """float32, damping far below rounding of the curvature: the recursion goes on to fall, the residual does not."""
    objective, params, (x, y) = mlp(numpy_backend, n=40)
    batch = ((x * np.geomspace(1 / 300, 300, 5)).astype(np.float32), y.astype(np.float32))
    params = tuple(W.astype(np.float32) for W in params)
    opt = exactly("parameter-cg", epsilon=1e-7, damping=1e-9, maxiter=5000, standardize="never")
    info = opt.step(params, State(), objective, batch)[2]
    assert (info.solve.reason, info.solve.residual > 1.5e-7) == ("stalled", True)


def test_an_accepted_trial_point_is_the_next_steps_forward_pass_and_normalisation_has_none(numpy_backend):
    objective, params, batch = mlp(numpy_backend)
    assert GaussNewton().step(params, State(), objective, batch)[1].recall is not None
    objective, params, batch = convolutional(numpy_backend, training=True)
    assert GaussNewton().step(params, State(), objective, batch)[1].recall is None


# ------------------------------------------------------------------------------------------------------- effective dimension


def dense_dimension(H, strength):
    values = np.linalg.eigvalsh(H)
    return float(np.sum(values / (values + strength)))


def test_the_effective_dimension_is_that_of_the_damped_curvature(numpy_backend):
    """Exact route: mean over keys of one random probe each; Nyström at full rank: exact. A spectrum of decades, l2 counted in."""
    small = with_l2(mlp(numpy_backend, n=5), 0.01)  # 15 rows, within the first rank
    found = exactly("nystrom").step(small[1], State(), small[0], small[2])[2].effective_dimension
    assert found == pytest.approx(dense_dimension(dense_curvature(small[0].at(*small[1:])), DAMPING + 0.01), rel=1e-9)
    objective, params, batch = with_l2(mlp(numpy_backend, n=10), 0.01)
    H = dense_curvature(objective.at(params, batch))
    want = dense_dimension(H, DAMPING + 0.01)
    assert 3 < want < 25
    opt = exactly("exact", epsilon=0.1)
    found = [opt.step(params, State(), objective, batch, key=k)[2].effective_dimension for k in range(60)]
    assert np.mean(found) == pytest.approx(want, abs=4 * np.std(found) / 60**0.5)
    assert np.std(found) < 0.2 * want
    other = dense_dimension(H, 10 * DAMPING)
    assert abs(np.mean(found) - other) > 10 * np.std(found) / 60**0.5


def test_kronecker_factors_sum_their_dimension_and_without_a_preconditioner_there_is_none(numpy_backend):
    objective, params, batch = with_l2(mlp(numpy_backend), 0.02)
    _, state, info = exactly("kfac").step(params, lasting("kfac"), objective, batch)
    layers = state.experience.kept.source.layers
    values = np.concatenate([np.outer(layer.sG, layer.sA).ravel() for layer in layers])
    assert info.effective_dimension == pytest.approx(np.sum(values / (values + DAMPING + 0.02)), rel=1e-12)
    for plan in ("cg", "parameter-cg"):
        assert math.isnan(exactly(plan).step(params, State(), objective, batch)[2].effective_dimension)


# ----------------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    ("plan", "momentum"), [(plan, 0.0) for plan in ("auto", *SAMPLE_SIDE, *PARAMETER_SIDE)] + [("exact", 0.9), ("kfac", 0.9)]
)
def test_a_run_continues_from_a_checkpoint_to_the_bit(tmp_path, numpy_backend, plan, momentum):
    objective, params, batch = mlp(numpy_backend)
    opt = GaussNewton(plan=plan, momentum=momentum, epsilon=0.3)
    whole, last, infos = run(opt, objective, params, batch, 6)
    half, state, _ = run(opt, objective, params, batch, 3)
    archive.write(tmp_path / "c.npz", {"params": half, "state": state})
    saved = archive.read(tmp_path / "c.npz", like=numpy_backend.like)
    assert isinstance(saved["state"], State)
    assert saved["state"].recall is None
    resumed, end, again = run(opt, objective, saved["params"], batch, 3, saved["state"], first=3)
    assert all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert (end.damping, end.experience.efforts, end.bounds) == (last.damping, last.experience.efforts, last.bounds)
    assert [repr(i) for i in infos[3:]] == [repr(i) for i in again]


def test_a_kept_preconditioner_in_a_checkpoint_serves(tmp_path, numpy_backend):
    """Every kind of it is there, and recognises its batch."""
    objective, params, batch = mlp(numpy_backend)
    for plan in ("exact", "class-averaged", "per-class", "nystrom", "kfac", "diagonal"):
        new, state, _ = GaussNewton(plan=plan, epsilon=0.5).step(params, lasting(plan), objective, batch)
        archive.write(tmp_path / "c.npz", {"params": new, "state": state})
        saved = archive.read(tmp_path / "c.npz", like=numpy_backend.like)
        kept = saved["state"].experience.kept
        assert type(kept.source) is type(state.experience.kept.source)
        point = objective.at(saved["params"], batch)
        assert ROUTES[plan].serves(kept, point)


def test_a_sketch_of_neurons_is_refused_where_the_jacobian_is_not_in_factors(numpy_backend):
    objective, params, batch = mlp(numpy_backend, outputs=6)
    opt = GaussNewton(plan="sketch", sketch=nl.sketch.NeuronSigns())
    with pytest.raises(ValueError, match="takes a Jacobian in factors; expected KroneckerSRHT"):
        opt.step(params, opt.init(params, objective), objective, batch)
