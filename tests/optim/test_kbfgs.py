"""arXiv:2006.08877: the authors' numbers of K-BFGS and K-BFGS(L), exact limits, the quasi-Newton conditions, and the cost."""

import dataclasses
import math

import numpy as np
import pytest

import nearlin as nl
from nearlin.complexity import count, degree, wrap
from nearlin.curvature import means, observe
from nearlin.linalg import double_damping, two_loop_product
from tests.optim.replay import Replay, batch, cnn, mlp, oracle, parameters, warm_batches

BOTH = {"full": nl.optim.KBFGS, "limited": nl.optim.KBFGSL}


@pytest.fixture(params=BOTH)
def method(request):
    return BOTH[request.param]


# ------------------------------------------------------------------------------------------------------ the authors' numbers


def replay(be, name, opt, objective):
    """The data, and per step the index, the parameters and the state."""
    data = oracle(name)
    opt = dataclasses.replace(opt, lr=float(data["hp_lr"]), damping=float(data["hp_damping_lambda"]))
    objective = Replay(objective, tau=float(data["hp_tau"]))
    params = parameters(be, objective.layers, data, "init")
    state = opt.warm_start(params, opt.init(params, objective), objective, warm_batches(be, data))
    for i, rows in enumerate(data["batch_index"]):
        params, state, info = opt.step(params, state, objective, batch(be, data, rows))
        assert info.loss == pytest.approx(float(data[f"loss_step{i}"]), rel=be.tol(1e-12))
        for W, want in zip(params, parameters(be, objective.layers, data, f"step{i}"), strict=True):
            np.testing.assert_allclose(be.numpy(W), be.numpy(want), rtol=be.tol(1e-8), atol=be.tol(1e-10))
        yield data, i, state


def test_the_numbers_of_kbfgs(be):
    for data, i, state in replay(be, "kbfgsrepo_kbfgs", nl.optim.KBFGS(), mlp()):
        for l, f in enumerate(state.layers):
            for name, matrix in (("A", f.A), ("Ha", f.Ha), ("Hg", f.Hg)):
                np.testing.assert_allclose(be.numpy(matrix), data[f"{name}{l}_step{i}"], rtol=be.tol(1e-8), atol=be.tol(1e-10))
            s, y = be.numpy(f.s), be.numpy(f.y)
            sign = np.sign(s @ data[f"s_ema{l}_step{i}"])  # both are stored with the opposite sign there
            np.testing.assert_allclose(sign * s, data[f"s_ema{l}_step{i}"], rtol=be.tol(1e-8), atol=be.tol(1e-10))
            np.testing.assert_allclose(sign * y, data[f"y_ema{l}_step{i}"], rtol=be.tol(1e-8), atol=be.tol(1e-10))


def test_the_numbers_of_limited_memory(be):
    for data, i, state in replay(be, "kbfgsrepo_kbfgsL_mem4", nl.optim.KBFGSL(memory=4), mlp()):
        for l, f in enumerate(state.layers):
            assert f.Hg.S.shape[0] == min(i + 1, 4)
            for ours, theirs in ((f.Hg.S, data[f"S{l}_step{i}"]), (f.Hg.Y, data[f"Y{l}_step{i}"])):
                got = be.numpy(ours)
                sign = np.sign((got * theirs).sum())
                np.testing.assert_allclose(sign * got, theirs, rtol=be.tol(1e-8), atol=be.tol(1e-10))


# -------------------------------------------------------------------------------------------------------------- exact limits


def problem(be, sizes=(5, 4, 3), n=12, seed=3, activation="tanh"):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, sizes[0])) * np.geomspace(0.3, 3, sizes[0])
    y = rng.standard_normal((n, sizes[-1]))
    net = nl.nn.MLP(sizes, activation)
    return nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(1, be.like), (be.array(x), be.array(y))


def run(opt, objective, params, batch, steps, state=None):
    """Parameters, state and infos after some steps."""
    state, infos = opt.init(params, objective) if state is None else state, []
    for _ in range(steps):
        params, state, info = opt.step(params, state, objective, batch)
        infos.append(info)
    return params, state, infos


def test_one_linear_layer_takes_damped_newton_steps(be, method):
    """The squared loss has G = I, so that y = s and Hg stays the identity; A is constant, so that Ha stays (A + √λ I)⁻¹."""
    objective, params, (x, y) = problem(be, (5, 3))
    a = np.concatenate([be.numpy(x), np.ones((12, 1))], axis=1)
    A, W = a.T @ a / 12, be.numpy(params[0])
    for steps in (1, 2, 3):
        grad = (a @ W.T - be.numpy(y)).T @ a / 12
        W = W - 0.8 * grad @ np.linalg.inv(A + math.sqrt(0.04) * np.eye(6))
        opt = method(lr=0.8, momentum=0.0, damping=0.04)
        (got,), state, _ = run(opt, objective, params, (x, y), steps)
        np.testing.assert_allclose(be.numpy(got), W, atol=be.tol(1e-12))
    np.testing.assert_allclose(be.numpy(state.layers[0].Ha), np.linalg.inv(A + 0.2 * np.eye(6)), atol=be.tol(1e-11))
    undamped = be.numpy(params[0]) - 0.8 * ((a @ be.numpy(params[0]).T - be.numpy(y)).T @ a / 12)
    assert np.linalg.norm(undamped - be.numpy(run(opt, objective, params, (x, y), 1)[0][0])) > 0.1


def test_memory_that_holds_all_pairs_is_the_full_method(be):
    objective, params, batch = problem(be)
    full = run(nl.optim.KBFGS(lr=0.5), objective, params, batch, 6)[0]
    limited = run(nl.optim.KBFGSL(lr=0.5, memory=6), objective, params, batch, 6)[0]
    for W, V in zip(full, limited, strict=True):
        np.testing.assert_allclose(be.numpy(W), be.numpy(V), atol=be.tol(1e-11))
    short = run(nl.optim.KBFGSL(lr=0.5, memory=1), objective, params, batch, 6)[0]
    assert max(np.abs(be.numpy(W) - be.numpy(V)).max() for W, V in zip(full, short, strict=True)) > 1e-6


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_both_inverses_satisfy_the_quasi_newton_condition(numpy_backend, steps):
    """Hg y = s for the damped pair, Ha y = s for s = Ha mean(a), y = (A + √λ I) s; both stay positive definite."""
    objective, params, batch = problem(numpy_backend)
    opt = nl.optim.KBFGS(lr=0.5, damping=0.09)
    params, before, _ = run(opt, objective, params, batch, steps)
    _, seen = observe(objective.at(params, batch), objective.layers)
    _, after, (info,) = run(opt, objective, params, batch, 1, before)
    assert info.kept == ""
    for f, g, one in zip(before.layers, after.layers, seen, strict=True):
        pair = double_damping(g.s, g.y, f.Hg @ g.y, 0.2, 0.3)
        np.testing.assert_allclose(g.Hg @ pair.y, pair.s, rtol=1e-9, atol=1e-15)
        s = f.Ha @ one.inputs
        y = g.A @ s + 0.3 * s
        np.testing.assert_allclose(g.Ha @ y, s, rtol=1e-9, atol=1e-15)
        assert np.linalg.eigvalsh(g.Hg)[0] > 0
        assert np.linalg.eigvalsh(g.Ha)[0] > 0
    first = before.layers[0]  # its curvature is not the identity, as that of the last layer is
    pair = double_damping(after.layers[0].s, after.layers[0].y, first.Hg @ after.layers[0].y, 0.2, 0.3)
    assert np.linalg.norm(first.Hg @ pair.y - pair.s) > 1e-6 * np.linalg.norm(pair.s)


def test_pairs_are_damped_onto_their_thresholds(numpy_backend):
    """Small output gradients: sᵀy / sᵀs is far below √λ before the damping, and √λ after it."""
    objective, params, batch = problem(numpy_backend)
    _, state, _ = run(nl.optim.KBFGSL(lr=0.05, damping=0.81), objective, params, batch, 3)
    f = state.layers[0]
    assert f.s @ f.y < 0.9 * (f.s @ f.s)
    s, y = f.Hg.S[-1], f.Hg.Y[-1]
    assert s @ y == pytest.approx(0.9 * (s @ s), rel=1e-12)


@pytest.mark.parametrize("damping", [1.0, 4.0])
def test_any_positive_damping_is_a_damping(numpy_backend, method, damping):
    """One linear layer, y = s before the damping: sᵀy is √λ sᵀs after it, and steps go by (A + √λ I)⁻¹."""
    objective, params, (x, y) = problem(numpy_backend, (5, 3))
    _, state, infos = run(method(lr=0.5, momentum=0.0, damping=damping), objective, params, (x, y), 3)
    a = np.concatenate([x, np.ones((12, 1))], axis=1)
    first = params[0] - 0.5 * (a @ params[0].T - y).T @ a / 12 @ np.linalg.inv(a.T @ a / 12 + math.sqrt(damping) * np.eye(6))
    (got,), _, _ = run(method(lr=0.5, momentum=0.0, damping=damping), objective, params, (x, y), 1)
    np.testing.assert_allclose(got, first, rtol=1e-12)
    assert infos[2].loss < infos[1].loss < infos[0].loss
    (f,) = state.layers
    if method is nl.optim.KBFGSL:
        for s, t in zip(f.Hg.S, f.Hg.Y, strict=True):
            assert s @ t == pytest.approx(math.sqrt(damping) * (s @ s), rel=1e-12)
    else:
        pair = double_damping(f.s, f.y, f.Hg @ f.y, 0.2, math.sqrt(damping))
        np.testing.assert_allclose(f.Hg @ pair.y, pair.s, rtol=1e-9)


def test_two_loops_give_the_product_that_is_taken(be, rng):
    objective, params, batch = problem(be)
    _, state, _ = run(nl.optim.KBFGSL(lr=0.5, memory=4), objective, params, batch, 6)
    M = be.array(rng.standard_normal((4, 6)))
    pairs = state.layers[0].Hg
    np.testing.assert_allclose(be.numpy(pairs(M)), be.numpy(two_loop_product(pairs, M)), atol=be.tol(1e-11))


def test_the_pair_is_the_change_of_the_means(numpy_backend):
    objective, params, batch = problem(numpy_backend)
    new, state, info = nl.optim.KBFGS(pair_decay=0.0).step(params, nl.optim.KBFGS().init(params, objective), objective, batch)
    before, after = ([means(t) for t in objective.at(p, batch).traces()] for p in (params, new))
    for f, W, V, (a, g, _), (b, h, _) in zip(state.layers, params, new, before, after, strict=True):
        np.testing.assert_allclose(f.s, V @ b - W @ a, atol=1e-15)
        np.testing.assert_allclose(f.y, h - g, atol=1e-15)
    assert info.new_loss == pytest.approx(float(objective.at(new, batch).loss), rel=1e-14)


def test_a_convolution_on_single_pixels_is_a_dense_layer(be, method, rng):
    """1 x 1 kernels on 1 x 1 images."""
    x, y = be.array(rng.standard_normal((8, 4))), be.array(rng.standard_normal((8, 2)))
    tanh, flat = nl.nn.Elementwise(nl.nn.activation("tanh")), nl.nn.Flatten()
    dense = nl.nn.Objective(nl.nn.Sequential((nl.nn.Dense(4, 3), tanh, nl.nn.Dense(3, 2))), nl.nn.SquaredLoss())
    conv = nl.nn.Sequential((nl.nn.Conv2d(4, 3, 1), tanh, flat, nl.nn.Dense(3, 2)), shape=(4, 1, 1))
    params = dense.network.init(0, be.like)
    want, _, _ = run(method(lr=0.5), dense, params, (x, y), 4)
    images = be.xp.reshape(x, (8, 4, 1, 1))
    got, _, _ = run(method(lr=0.5), nl.nn.Objective(conv, nl.nn.SquaredLoss()), params, (images, y), 4)
    for W, V in zip(got, want, strict=True):
        np.testing.assert_allclose(be.numpy(W), be.numpy(V), atol=be.tol(1e-12))


def test_normalisation_steps_along_the_momentum_and_convolutions_learn(be, method, rng):
    objective = cnn()
    x, y = be.array(rng.standard_normal((8, 2, 6, 6))), be.array(rng.integers(0, 3, 8), "int64")
    params = objective.network.init(2, be.like)
    grads = objective.at(params, (x, y)).grads()
    opt = method(lr=0.3, form="sum")
    new, state, _ = run(opt, objective, params, (x, y), 1)
    np.testing.assert_allclose(be.numpy(new[1]), be.numpy(params[1]) - 0.3 * be.numpy(grads[1]), atol=be.tol(1e-13))
    assert [f is None for f in state.layers] == [False, True, False, False, False]
    _, _, infos = run(opt, objective, new, (x, y), 8, state)
    assert infos[-1].new_loss < 0.7 * infos[0].loss


# ------------------------------------------------------------------------------------------- pairs that hold rounding alone


def normalised(be, dtype=None, bias=True):
    """A convolution ahead of a normalisation, where the mean output gradient is 0, and a dense layer, where it is not."""
    rng = np.random.default_rng(0)
    relu = nl.nn.Elementwise(nl.nn.activation("relu"))
    modules = (nl.nn.Conv2d(1, 4, 3, pad=1, bias=bias), nl.nn.BatchNorm(4), relu, nl.nn.GlobalAvgPool(), nl.nn.Dense(4, 3))
    net = nl.nn.Sequential(modules, gain=2.0, shape=(1, 8, 8))
    x, y = rng.standard_normal((16, 1, 8, 8)), be.array(rng.integers(0, 3, 16), "int64")
    x = be.array(x, dtype)
    return nl.nn.Objective(net, nl.nn.SoftmaxCrossEntropy()), net.init(0, x), (x, y)


@pytest.mark.parametrize("bias", [True, False])
def test_the_order_of_a_batch_does_not_matter_ahead_of_a_normalisation(numpy_backend, method, bias):
    """y there is rounding; a method that learns from it takes the permuted batch elsewhere, by 2e-4 after these steps."""
    objective, params, (x, y) = normalised(numpy_backend, bias=bias)
    order = np.random.default_rng(1).permutation(16)
    one, state, infos = run(method(), objective, params, (x, y), 16)
    other, _, _ = run(method(), objective, params, (x[order], y[order]), 16)
    for W, V, start in zip(one, other, params, strict=True):
        np.testing.assert_allclose(V, W, atol=1e-13)
        assert np.abs(W - start).max() > 1e-4
    assert all("layer 0: output factor skipped: no curvature" in info.kept for info in infos)
    assert not any("layer 2: output factor" in info.kept for info in infos)
    assert all(info.refreshed for info in infos)  # one of the factors was, though not all
    first, last = state.layers[0], state.layers[2]
    assert np.linalg.norm(first.y) < 0.1 * first.noise < 1e-10 * np.linalg.norm(last.y)
    assert np.linalg.norm(last.y) > 1e6 * last.noise


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_output_factor_ahead_of_a_normalisation_is_that_of_the_start(numpy_backend, dtype):
    objective, params, batch = normalised(numpy_backend, dtype)
    _, full, _ = run(nl.optim.KBFGS(), objective, params, batch, 12)
    np.testing.assert_array_equal(full.layers[0].Hg, np.eye(4))
    assert np.abs(full.layers[2].Hg - np.eye(3)).max() > 1e-3
    _, limited, _ = run(nl.optim.KBFGSL(), objective, params, batch, 12)
    assert limited.layers[0].Hg.S is None
    assert limited.layers[2].Hg.S.shape[0] == 12


def test_backends_agree_ahead_of_a_normalisation(be, method, numpy_backend):
    got, _, _ = run(method(), *normalised(be), 12)
    want, _, _ = run(method(), *normalised(numpy_backend), 12)
    for W, V in zip(got, want, strict=True):
        np.testing.assert_allclose(be.numpy(W), V, atol=be.tol(1e-12))


@pytest.mark.parametrize("target", [1.0, 1e6])
def test_a_curvature_below_the_length_of_the_gradient_is_skipped(numpy_backend, method, target):
    """One linear layer, y = s: sᵀy <= 1e-4 sᵀs ||g|| where the mean output gradient g is longer than 1e4."""
    objective, params, (x, y) = problem(numpy_backend, (5, 3))
    _, state, (info,) = run(method(), objective, params, (x, y + target), 1)
    assert ("layer 0: output factor skipped: curvature" in info.kept) == (target > 1)
    learned = state.layers[0].Hg.S is not None if method is nl.optim.KBFGSL else info.kept == ""
    assert learned == (target == 1)


def test_a_pair_that_overflows_is_left_out_of_the_average(numpy_backend, method):
    """Outputs of 1e159 ahead of a saturated activation: the step and its loss are finite, sᵀs is not, and sᵀy > 0."""
    net = nl.nn.Sequential((nl.nn.Dense(1, 1), nl.nn.Elementwise(nl.nn.activation("tanh")), nl.nn.Dense(1, 1)))
    objective, x, y = nl.nn.Objective(net, nl.nn.SquaredLoss()), np.array([[0.5], [0.7]]), np.array([[1.0], [0.4]])
    opt = method(statistics_every=100)
    params, state, _ = run(opt, objective, net.init(0, x), (x, y), 2)
    state = state._replace(velocity=(np.array([[-1e100 * np.sign(state.layers[0].y[0]), 0.0]]), state.velocity[1]))
    _, after, (info,) = run(opt, objective, params, (1e60 * x, y), 1, state)
    assert info.accepted
    assert "layer 0: output factor rejected: non-finite" in info.kept
    old, new = state.layers[0], after.layers[0]
    assert np.array_equal(new.s, old.s) and np.array_equal(new.y, old.y) and new.noise == old.noise  # noqa: PT018
    assert not np.array_equal(after.layers[1].s, state.layers[1].s)


# --------------------------------------------------------------------------------------- schedule, warm start, what is refused


def test_statistics_are_taken_when_due_and_as_plain_means_at_first(numpy_backend, method):
    objective, params, batch = problem(numpy_backend)
    opt = method(statistics_every=3, decay=0.5)
    state, seen, moments = opt.init(params, objective), [], []
    for t in range(8):
        gram = observe(objective.at(params, batch), objective.layers)[1][1].gram
        before = state
        params, state, _ = opt.step(params, state, objective, batch)
        if state.statistics > before.statistics:
            seen.append(t)
            moments.append(gram)
    assert seen == [0, 3, 6]
    np.testing.assert_allclose(state.layers[1].A, 0.5 * (0.5 * (moments[0] + moments[1])) + 0.5 * moments[2], rtol=1e-12)


def test_a_warm_start_is_the_mean_over_batches_and_stands_at_step_0(numpy_backend, method):
    objective, params, (x, y) = problem(numpy_backend)
    opt, halves = method(), [(x[:6], y[:6]), (x[6:], y[6:])]
    counted = nl.nn.Counted(objective)
    state = opt.warm_start(params, opt.init(params, objective), counted, halves)
    assert counted.calls == {"forward": 2, "backward": 2}
    a = np.concatenate([x, np.ones((12, 1))], axis=1)
    np.testing.assert_allclose(state.layers[0].A, a.T @ a / 12, rtol=1e-12)
    _, first, _ = opt.step(params, state, counted, halves[0])
    np.testing.assert_array_equal(first.layers[0].A, state.layers[0].A)
    assert counted.calls == {"forward": 4, "backward": 4}
    with pytest.raises(ValueError, match="batches is empty"):
        opt.warm_start(params, opt.init(params, objective), objective, [])


@pytest.mark.parametrize("lr", [1e200, 1e120], ids=["parameters", "loss"])
def test_a_step_that_diverges_is_not_taken(numpy_backend, method, lr):
    objective, params, (x, y) = problem(numpy_backend, activation="relu")
    with np.errstate(over="ignore", invalid="ignore"):
        opt = method(lr=lr)
        state = opt.init(params, objective)
        new, after, info = opt.step(params, state, objective, (x, y))
    assert new is params
    assert after is state
    assert info.reason.startswith("rejected: the ")
    assert info.new_loss == info.loss


def test_layers_without_curvature_keep_their_inverse(numpy_backend, method):
    """A layer whose units are all dead: s moves, y does not, so that the pair is skipped or damped, and nothing breaks."""
    objective, params, (x, y) = problem(numpy_backend, (3, 4, 2), activation="relu")
    dead = params[0].copy()
    dead[:, :3], dead[:, 3] = 0.0, -1.0
    new, state, info = method().step((dead, params[1]), method().init(params, objective), objective, (x, y))
    np.testing.assert_array_equal(new[0], dead)
    assert "layer 0: output factor skipped: no curvature" in info.kept
    assert state.kept == info.kept.count(";") + 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("damping", math.inf), ("damping", 0.0), ("powell", 1.0), ("pair_decay", 1.0), ("statistics_every", 0),
        ("form", "mean"), ("momentum", 1.0), ("decay", -0.1), ("weight_decay", -1), ("memory", 0),
    ],
)  # fmt: skip
def test_a_field_outside_its_range_is_named(method, field, value):
    if field not in {f.name for f in dataclasses.fields(method)}:
        pytest.skip("not a field of this optimizer")
    with pytest.raises(ValueError, match=f"{field} is"):
        method(**{field: value})


# ---------------------------------------------------------------------------------------------------------------------- cost


def flops_of_a_step(method, n=8, d=4, o=3, step=2):
    """Flops of one step of a linear layer beyond its forward and backward pass."""
    rng = np.random.default_rng(0)
    net = nl.nn.Sequential((nl.nn.Dense(d, o),))
    objective, params = nl.nn.Objective(net, nl.nn.SquaredLoss()), wrap((rng.standard_normal((o, d + 1)),))
    data, opt = wrap((rng.standard_normal((n, d)), rng.standard_normal((n, o)))), method()
    state = opt.init(params, objective)
    for _ in range(step):
        params, state, _ = opt.step(params, state, objective, data)
    with count() as tally:
        opt.step(params, state, objective, data)
    with count() as plain:
        point = objective.at(params, data)
        point.grads(), point.loss
    return tally.total - plain.total


@pytest.mark.parametrize(
    ("method", "size", "leading"),
    [
        (nl.optim.KBFGS, "d", 2 * 8 + 4 + 13 + 2 * 3),  # 2 n D² + 4 D² + 13 D² + 2 o D²
        (nl.optim.KBFGS, "o", 11 + 2 * 5),  # 11 o² + 2 o² D
        (nl.optim.KBFGSL, "d", 2 * 8 + 4 + 13 + 2 * 3),
        (nl.optim.KBFGSL, "o", 0),
    ],
    ids=["full-inputs", "full-outputs", "limited-inputs", "limited-outputs"],
)
def test_the_quadratic_terms_are_those_of_the_head(method, size, leading):
    sizes = [16, 32, 48, 64]
    values = [flops_of_a_step(method, **{size: s}) for s in sizes]
    assert degree(lambda s: values[sizes.index(s)], sizes) == (2 if leading else 1)
    assert values[2] - 2 * values[1] + values[0] == 2 * 16**2 * leading
