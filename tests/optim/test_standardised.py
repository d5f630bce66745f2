"""Gauss-Newton in the variables of standardised inputs: the dense system, invariance to units, and where it does not act."""

from functools import partial

import numpy as np
import pytest

from nearlin import nn
from nearlin.experiments import archive
from nearlin.optim import GaussNewton

UNITS, ORIGINS = np.array([0.5, 1.0, 512.0]), np.array([0.0, 3.0, 2048.0])


def problem(loss="softmax", l2=0.0, bias=True, n=12, c=3, seed=0, width=4):
    """Three features in units of their own, the last one far from zero."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((n, 3)) * UNITS + ORIGINS
    net = nn.Sequential((nn.Dense(3, width, bias=bias), nn.Elementwise(nn.activation("tanh")), nn.Dense(width, c)))
    y = draw.integers(0, c, n) if loss == "softmax" else draw.standard_normal((n, c))
    W, V = net.init(seed, x)
    W = np.concatenate([W[:, :3] / UNITS, W[:, 3:]], axis=1)
    W = np.concatenate([W[:, :3], W[:, 3:] - W[:, :3] @ ORIGINS[:, None]], axis=1) if bias else W / 8
    loss = nn.SoftmaxCrossEntropy() if loss == "softmax" else nn.SquaredLoss()
    return nn.Objective(net, loss, l2=l2), (W, V), (x, y)


def run(opt, problem, steps):
    """Parameters after every step, and the last state and info."""
    objective, params, batch = problem
    state, path = opt.init(params, objective), []
    for t in range(steps):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        path.append(params)
    return path, state, info


def flat(params):
    return np.concatenate([W.ravel() for W in params])


def metric(batch, params, bias):
    """TᵀT of the map T to the parameters by standardised inputs, written out entry by entry; and D."""
    x, *_ = batch
    mean = x.mean(axis=0) if bias else np.zeros(3)
    s = np.sqrt(((x - mean) ** 2).mean(axis=0))
    width, columns = params[0].shape
    T, D = np.eye(flat(params).size), np.zeros(flat(params).size)
    for r in range(width):
        for j in range(3):
            T[r * columns + j, r * columns + j] = s[j]
            D[r * columns + j] = 1
            if bias:
                T[r * columns + 3, r * columns + j] = mean[j]
    last, size = width * columns, params[1].shape
    D[last:] = np.tile(np.arange(size[1]) < size[1] - 1, size[0])
    return T.T @ T, D


CASES = [
    (plan, loss, l2, 12)
    for plan in ("kfac", "diagonal", "parameter-cg", "direct")
    for loss in ("softmax", "squared")
    for l2 in (0.0, 1e-3)
]
CASES += [
    ("direct", "softmax", 1e-3, 5),
    ("direct", "softmax", 1.0, 5),
    ("exact", "squared", 0.0, 12),
    ("cg", "squared", 0.0, 12),
    ("nystrom", "squared", 0.0, 12),
]


@pytest.mark.parametrize("c", [3, 5])  # a Jacobian in factors, and by passes
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("plan", "loss", "l2", "n"), CASES)
def test_a_step_is_that_of_the_dense_system(plan, loss, l2, n, bias, c):
    """(JᵀHJ/n + λ TᵀT + ω D) δ = -g."""
    objective, params, batch = problem(loss, l2, bias, n, c)
    opt = GaussNewton(plan=plan, damping=0.03, epsilon=1e-11, maxiter=2000, guard=False)
    ((after,), _, info) = run(opt, (objective, params, batch), 1)
    point = objective.at(params, batch)
    K, g = point.jacobian(weighted=True).to_dense(), flat(point.grads())
    M, D = metric(batch, params, bias)
    solve = lambda damping: np.linalg.solve(K.T @ K / n + damping + l2 * np.diag(D), -g)  # noqa: E731
    expected, step = solve(0.03 * M), flat(after) - flat(params)
    assert plan != "direct" or info.solve.iterations <= 3  # the inverse is that of the same matrix
    assert info.side == ("sample" if plan in ("exact", "cg", "nystrom") else "parameter")
    size = lambda v: np.sqrt(v @ M @ v)  # noqa: E731
    assert size(step - expected) < 1e-6 * size(expected)
    assert size(step - solve(0.03 * np.eye(len(g)))) > 1e-2 * size(expected)


def test_the_damping_of_the_sample_side_has_the_penalty_in_it():
    """Deviation 6: (JᵀJ/n + (λ + ω) TᵀT) δ = -g; by its own choice no plan takes that side then."""
    objective, params, batch = problem("squared", 1e-2, n=6, width=8)
    opt = GaussNewton(plan="exact", damping=0.03, epsilon=1e-11, guard=False)
    ((after,), _, _) = run(opt, (objective, params, batch), 1)
    point = objective.at(params, batch)
    K, M = point.jacobian().to_dense(), metric(batch, params, True)[0]
    expected = np.linalg.solve(K.T @ K / 6 + 0.04 * M, -flat(point.grads()))
    step = flat(after) - flat(params)
    assert np.max(np.abs(step - expected)) < 1e-6 * np.max(np.abs(expected))
    sides = [run(GaussNewton(standardize=how), (objective, params, batch), 1)[2].side for how in ("auto", "never")]
    assert sides == ["parameter", "sample"]
    assert run(GaussNewton(), (nn.Objective(objective.network, nn.SquaredLoss()), params, batch), 1)[2].side == "sample"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.5, "spring": True}, {"plan": "exact", "momentum": 0.5}, {"plan": "direct"}]
)
def test_units_of_powers_of_two_change_no_bit(options, dtype):
    objective, params, (x, y) = problem("squared" if options.get("plan") == "exact" else "softmax")
    params, units = tuple(W.astype(dtype) for W in params), np.array([2.0**-9, 4.0, 2.0**20], dtype)
    x, ones = x.astype(dtype), np.append(units, np.ones(1, dtype))
    y = y.astype(dtype) if y.dtype.kind == "f" else y
    opt = GaussNewton(standardize="always", **options)
    path, _, _ = run(opt, (objective, params, (x, y)), 5)
    other, _, info = run(opt, (objective, (params[0] / ones, params[1]), (x * units, y)), 5)
    for (W, V), (W_, V_) in zip(path, other, strict=True):
        np.testing.assert_array_equal(W, W_ * ones)
        np.testing.assert_array_equal(V, V_)
    assert np.max(np.abs(path[-1][0] - params[0])) > 0
    assert info.loss > 0


def test_other_units_and_origins_change_rounding_alone():
    """Without it they change the iterates."""
    objective, (W, V), (x, y) = problem()
    units, origins = np.array([3.0, 0.1, 7.0]), np.array([5.0, -2.0, 100.0])
    W_ = np.concatenate([W[:, :3] / units, W[:, 3:] - (W[:, :3] / units) @ origins[:, None]], axis=1)
    for how, low, high in (("always", 0, 1e-7), ("never", 1e-3, np.inf)):
        opt = GaussNewton(standardize=how, damping=0.1)
        (*_, (_, last)), _, _ = run(opt, (objective, (W, V), (x, y)), 6)
        (*_, (_, other)), _, _ = run(opt, (objective, (W_, V), (x * units + origins, y)), 6)
        assert low <= np.max(np.abs(last - other)) < high


def test_it_goes_the_way_of_standardised_inputs():
    """From the same function, with the sample weights in mean and deviation, for all steps and momentum."""
    objective, (W, V), (x, y) = problem()
    w = np.random.default_rng(1).random(12)
    w /= w.mean()
    mean = (w[:, None] * x).mean(axis=0)
    s = np.sqrt((w[:, None] * (x - mean) ** 2).mean(axis=0))
    start = np.concatenate([W[:, :3] * s, W[:, 3:] + W[:, :3] @ mean[:, None]], axis=1)
    opt = GaussNewton(momentum=0.5)
    path, state, _ = run(opt, (objective, (W, V), (x, y, w)), 6)
    other, plain, _ = run(opt, (objective, (start, V), ((x - mean) / s, y, w)), 6)
    for (A, B), (A_, B_) in zip(path, other, strict=True):
        np.testing.assert_allclose(B, B_, rtol=0, atol=1e-7)
        np.testing.assert_allclose(A[:, :3] * s, A_[:, :3], rtol=0, atol=1e-7)
    np.testing.assert_allclose(state.variables.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(state.variables.deviation, s, rtol=1e-9)
    assert plain.variables == nn.Standardised()


@pytest.mark.parametrize("kind", ["standardised", "pixels", "one feature", "zeros"])
def test_features_of_one_unit_keep_their_iterates(kind):
    objective, params, (x, y) = problem()
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    if kind != "standardised":
        x = {"pixels": np.abs(x) * [16.0, 16.0, 0.1], "one feature": x * [1e3, 0.0, 0.0], "zeros": 0.0 * x}[kind]
    paths = [run(GaussNewton(standardize=how), (objective, params, (x, y)), 4)[0] for how in ("auto", "never")]
    for one, other in zip(*paths, strict=True):
        assert all(map(np.array_equal, one, other))


def test_what_seems_to_have_several_units():
    x = np.ones((5, 4)) * [1.0, 0.0, 2.0, 41.0]
    assert nn.several_units(x)  # the zero does not count, and the lower of 1, 2, 41 in the middle is 2
    assert not nn.several_units(x / [1.0, 1.0, 1.0, 1.1])
    assert nn.several_units((1e-30 * x).astype(np.float32))
    assert nn.several_units((1e30 * x).astype(np.float32))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_variables_of_features_at_the_ends_of_float32(scale):
    x = np.float32(scale) * np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]], np.float32)
    by = nn.Standardised.of(x)
    assert by.mean == pytest.approx((3 * scale, 5 * scale), rel=1e-6)
    assert by.deviation == pytest.approx((np.sqrt(14 / 3) * scale, 1.0), rel=1e-6)
    plain = nn.Standardised.of(x, bias=False)
    assert plain.mean == (0.0, 0.0)
    assert plain.deviation == pytest.approx((np.sqrt(41 / 3) * scale, 5 * scale), rel=1e-6)


def test_other_networks_stay_as_they_are():
    x = np.random.default_rng(0).standard_normal((6, 3)) * UNITS
    for net in (nn.TwoLayer(3, 8), nn.Sequential((nn.Flatten(), nn.Dense(3, 1)), shape=(3,))):
        start = net.init(0, x)
        _, state, info = run(GaussNewton(standardize="always"), (nn.Objective(net, nn.SquaredLoss()), start, (x, np.ones(6))), 1)
        assert info.accepted
        assert state.variables == nn.Standardised()


def test_they_are_those_of_the_first_batch_that_was_stepped_on():
    objective, params, (x, y) = problem()
    refused = GaussNewton(lr=1e300)
    _, state, info = refused.step(params, refused.init(params, objective), objective, (x, y))
    assert not info.accepted
    assert state.variables is None
    opt = GaussNewton()
    params, first, _ = opt.step(params, opt.init(params, objective), objective, (x, y))
    _, second, info = opt.step(params, first, objective, (2 * x, y))
    assert info.accepted
    assert first.variables == second.variables == nn.Standardised.of(x)
    params, first, _ = opt.step(params, opt.init(params, objective), objective, ((x - x.mean(axis=0)) / x.std(axis=0), y))
    _, second, info = opt.step(params, first, objective, (x, y))
    assert info.accepted
    assert first.variables == second.variables == nn.Standardised()


def test_the_model_of_a_linear_layer_is_exact_with_its_penalty():
    """The actual decrease is the predicted one."""
    x = np.random.default_rng(0).standard_normal((12, 3)) * UNITS + ORIGINS
    net, y = nn.Sequential((nn.Dense(3, 2),)), np.random.default_rng(1).standard_normal((12, 2))
    objective, params = nn.Objective(net, nn.SquaredLoss(), l2=0.5), (np.random.default_rng(2).standard_normal((2, 4)) / 100,)
    opt = GaussNewton(plan="direct", damping=0.03, epsilon=1e-11)
    info = run(opt, (objective, params, (x, y)), 1)[2]
    assert info.ratio == pytest.approx(1.0, abs=1e-6)


def test_features_that_vary_by_rounding_alone_are_constant():
    x = np.full((30, 2), 0.1)
    x[:, 1] += np.spacing(0.1) * (np.arange(30) % 2)
    assert nn.Standardised.of(x).deviation == (1.0, 1.0)


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    objective, params, batch = problem()
    opt, step = GaussNewton(momentum=0.5), None
    state = opt.init(params, objective)
    step = partial(opt.step, objective=objective, batch=batch)
    params, state, _ = step(params, state, key=0)
    archive.write(tmp_path / "one.npz", {"params": params, "state": state})
    found = archive.read(tmp_path / "one.npz")
    assert found["state"].variables == state.variables != nn.Standardised()
    for t in (1, 2, 3):
        params, state, _ = step(params, state, key=t)
    resumed = found["params"], found["state"]
    for t in (1, 2, 3):
        *resumed, _ = step(*resumed, key=t)
    assert all(map(np.array_equal, params, resumed[0]))


@pytest.mark.parametrize("passes", [True, False])
def test_the_penalty_is_that_of_the_weights_themselves(passes):
    """Loss, gradient and squares by standardised inputs, beside those by the inputs as they are."""
    objective, params, batch = problem(l2=0.3, c=5 if passes else 3)
    point, by = objective.at(params, batch), nn.Standardised.of(batch[0])
    point.grads()  # the penalty's gradient, which the point keeps, is not the other's
    other = point.standardised(by)
    assert float(objective.at(params, batch).standardised(by).loss) == pytest.approx(float(point.loss), rel=1e-12)
    v = tuple(np.random.default_rng(3).standard_normal(W.shape) for W in params)
    slope = flat(other.grads()) @ flat(by.forth(v))
    assert slope == pytest.approx(flat(point.grads()) @ flat(v), rel=1e-9)
    np.testing.assert_allclose(other.jacobian().matvec(by.forth(v)), point.jacobian().matvec(v), rtol=1e-9)
    for W, V in zip(by.back(by.forth(v)), v, strict=True):
        np.testing.assert_allclose(W, V, rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_feature_that_is_constant_to_rounding_keeps_its_unit(weighted):
    """The mean of equal numbers, weighted ones all the more, is off by rounding, and what is left is no deviation."""
    draw, weights = np.random.default_rng(0), None
    if weighted:
        weights = draw.random(50)
        weights /= weights.mean()
    x = np.stack([np.full(50, 4321.1), 0.3 + 1e-16 * draw.integers(-3, 4, 50), draw.standard_normal(50)], axis=1)
    found = nn.Standardised.of(x, weights)
    assert found.deviation[:2] == (1.0, 1.0)
    np.testing.assert_allclose(found.mean[:2], (4321.1, 0.3), rtol=1e-14)
    p = np.full(50, 1 / 50) if weights is None else weights / 50
    mean = p @ x[:, 2]
    np.testing.assert_allclose((found.mean[2], found.deviation[2]), (mean, np.sqrt(p @ (x[:, 2] - mean) ** 2)), rtol=1e-13)
