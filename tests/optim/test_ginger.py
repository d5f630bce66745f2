"""arXiv:2402.03295: the authors' runs, dense references, the curvature vector's second moment, what is skipped, and the cost."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

import nearlin as nl
from nearlin._array import BackendError
from nearlin.complexity import count, wrap
from nearlin.experiments import archive
from nearlin.nn import LayerSpec
from nearlin.optim import Ginger
from tests.optim.given import Given
from tests.optim.replay import Replay, cnn, oracle

FILES = {
    "d7": "ginger_d7_tau4_b10.9_b20.99_damp0.01",
    "d40-rank-1": "ginger_d40_tau1_b10.9_b20.9_damp0.1",
    "d40-no-momentum": "ginger_d40_tau4_b10.0_b20.5_damp0.01",
    "clip": "ginger_clip_d7_tau4",
    "small-tensor": "ginger_smalld_d3_tau4",
    "zero-h": "ginger_zeroh_d7_tau4",
}
PITFALL = "ginger_PITFALL_damp1e-5_d40_tau4"


def optimizer(data):
    hyper = json.loads(str(data["hyper"]))
    return Ginger(hyper["lr"], hyper["b1"], hyper["b2"], hyper["damping"], hyper["tau"], hyper["rho"])


def replay(data, be=None, dtype="float64"):
    """Increments and S = U diag(σ) Uᵀ after every step."""
    opt, state, made = optimizer(data), Ginger().init((), None), []
    for g, h in zip(data["g"], data["h"], strict=True):
        g, h = (a.astype(dtype) if be is None else be.array(a) for a in (g, h))
        (x,), state = opt.update(state, (g,), (h,))
        U, sigma = state.blocks[0].curvature
        x, U, sigma = (np.asarray(a if be is None else be.numpy(a), dtype=float) for a in (x, U, sigma))
        made.append((x, (U.T * sigma) @ U))
    return made


def worst(found, wanted):
    """The largest relative error of the steps, in the 2-norm."""
    pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if b.any()]
    return max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs)


@pytest.mark.parametrize("name", FILES)
def test_the_exact_recursion_in_float64(name):
    data = oracle(FILES[name])
    x, S = zip(*replay(data), strict=True)
    assert worst(x, data["exact_upd_stream"]) <= 1e-11
    assert worst(S, data["exact_S_stream"]) <= 1e-11


@pytest.mark.parametrize("name", [name for name in FILES if name != "small-tensor"])
def test_the_authors_code_in_float64(name):
    data = oracle(FILES[name])
    assert worst([x for x, _ in replay(data)], data["f64_update"]) <= 1e-10


@pytest.mark.parametrize("name", FILES)
def test_the_exact_recursion_in_float32(name):
    data = oracle(FILES[name])
    x, S = zip(*replay(data, dtype="float32"), strict=True)
    assert worst(x, data["exact_upd_stream"]) <= 5e-5
    assert worst(S, data["exact_S_stream"]) <= 5e-6


@pytest.mark.parametrize("name", ["d7", "clip"])
def test_the_exact_recursion_on_every_backend(be, name):
    data = oracle(FILES[name])
    short = {key: value[:6] if value.ndim else value for key, value in data.items()}
    x, S = zip(*replay(short, be), strict=True)
    assert worst(x, short["exact_upd_stream"]) <= (1e-11 if be.eps < 1e-10 else 5e-5)
    assert worst(S, short["exact_S_stream"]) <= (1e-11 if be.eps < 1e-10 else 5e-6)


def test_steep_curvature_survives_float32_where_the_authors_code_loses_it():
    data = oracle(PITFALL)
    x, S = zip(*replay(data, dtype="float32"), strict=True)
    assert worst(S, data["exact_S_stream"]) <= 5e-6
    assert worst(x, data["exact_upd_stream"]) <= 5e-6
    theirs = [(U.astype(float) * sigma) @ U.T for U, sigma in zip(data["f32_U"], data["f32_sigma"], strict=True)]
    assert worst(theirs, data["exact_S_stream"]) > 0.99


def test_a_tensor_smaller_than_the_rank_keeps_all_of_its_average():
    """The authors' code goes wrong there; the plain average of h hᵀ is what it should be."""
    data = oracle(FILES["small-tensor"])
    assert worst([S for _, S in replay(data)], data["exact_G_full"]) <= 1e-13
    assert worst(data["f64_update"], data["exact_upd_stream"]) > 0.1
    larger = oracle(FILES["d7"])
    assert worst([S for _, S in replay(larger)], larger["exact_G_full"]) > 0.1


# ------------------------------------------------------------------------------------------------- options of the update


def given(rng, shapes=((3, 4), (2, 5)), steps=6):
    """Gradients and curvature vectors of some steps."""
    draw = lambda: tuple(rng.standard_normal(s) * np.geomspace(2, 0.3, s[1]) for s in shapes)  # noqa: E731
    return [(draw(), draw()) for _ in range(steps)]


def run(opt, steps, state=None):
    """Increments of every step, and the last state."""
    state, made = Ginger().init((), None) if state is None else state, []
    for g, h in steps:
        x, state = opt.update(state, g, h)
        made.append(x)
    return made, state


def flat(arrays):
    return np.concatenate([a.ravel() for a in arrays])


def same(found, wanted, atol=1e-12):
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(flat(a), flat(b), atol=atol)


def test_tensors_do_not_know_each_other(rng):
    opt, steps = Ginger(damping=0.1, clip=None), given(rng)
    both, _ = run(opt, steps)
    for i in range(2):
        alone, _ = run(opt, [((g[i],), (h[i],)) for g, h in steps])
        same([x[i : i + 1] for x in both], alone, atol=0)


def test_all_tensors_as_one(rng):
    opt, steps = Ginger(damping=0.1, lr=1.0, clip=0.5, block="all"), given(rng)
    joined = [((flat(g)[None, :],), (flat(h)[None, :],)) for g, h in steps]
    found, state = run(opt, steps)
    same(found, run(dataclasses.replace(opt, block="tensor"), joined)[0], atol=0)
    assert len(state.blocks) == 1
    assert np.abs(flat(found[-1]) - flat(run(dataclasses.replace(opt, block="tensor"), steps)[0][-1])).max() > 1e-3


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("relative", [0.0, 0.3])
def test_dense_algebra(rng, correct, relative):
    """Up to ``rank`` steps, with every option, against d x d matrices."""
    opt = Ginger(nl.steps.StepDecay(2.0, 0.5, 2), 0.8, 0.7, 0.05, 6, 0.4, correct_curvature=correct, relative_damping=relative)
    steps, m, G = given(rng, ((3, 4),)), 0.0, 0.0
    for t, ((g,), (h,), (x,)) in enumerate(((*s, x) for s, x in zip(steps, run(opt, steps)[0], strict=True)), start=1):
        m, G = 0.8 * m + 0.2 * g.ravel(), 0.7 * G + 0.3 * np.outer(h, h)
        S = G / (1 - 0.7**t) if correct else G
        gamma = max(0.05, relative * np.linalg.eigvalsh(S)[-1])
        wanted = np.linalg.solve(gamma * np.eye(12) + S, m / (1 - 0.8**t))
        np.testing.assert_allclose(x.ravel(), -2 * 0.5 ** ((t - 1) // 2) * np.clip(wanted, -0.4, 0.4), atol=1e-12)


def test_rank_0_is_momentum_over_the_damping(rng):
    steps = given(rng, ((3, 4),))
    m = sum(0.1 * 0.9 ** (5 - i) * g[0] for i, (g, _) in enumerate(steps)) / (1 - 0.9**6)
    found, _ = run(Ginger(lr=0.5, damping=0.2, rank=0, clip=None), steps)
    np.testing.assert_allclose(found[-1][0], -0.5 * m / 0.2, atol=1e-14)


def test_a_step_without_h_leaves_the_curvature(rng):
    opt, steps = Ginger(damping=0.1), given(rng)
    _, state = run(opt, steps)
    _, after = opt.update(state, steps[0][0], None)
    for old, new in zip(state.blocks, after.blocks, strict=True):
        assert new.curvature is old.curvature
        assert (new.t, new.seen) == (old.t + 1, old.seen)
        assert np.abs(new.m - old.m).max() > 0
        assert new.dropped == old.dropped > 0
    assert after.t == state.t + 1


def test_without_h_a_gradient_that_is_not_finite_is_left_alone(rng):
    opt, steps = Ginger(damping=0.1), given(rng)
    _, state = run(opt, steps)
    (bad, good), _ = steps[0]
    x, after = opt.update(state, (bad * math.nan, good), None)
    assert not x[0].any()
    assert np.abs(x[1]).max() > 0
    assert after.blocks[0] is state.blocks[0]
    assert (after.skipped, after.blocks[1].t) == (1, state.blocks[1].t + 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["g", "h"])
def test_a_tensor_that_is_not_finite_is_left_alone(be, rng, which, bad):
    """The other tensor steps as if nothing had happened; at the first step too."""
    opt, steps = Ginger(damping=0.1), given(rng)
    arrays = [[tuple(map(be.array, g)), tuple(map(be.array, h))] for g, h in steps]
    for first in (0, 3):
        _, before = run(opt, arrays[:first])
        (g, h), (good, _) = arrays[first], run(opt, arrays[first : first + 1], before)
        spoilt = be.numpy((g if which == "g" else h)[0]).copy()
        spoilt[1, 2] = bad
        pair = ((be.array(spoilt), g[1]), h) if which == "g" else (g, (be.array(spoilt), h[1]))
        x, after = opt.update(before, *pair)
        np.testing.assert_array_equal(be.numpy(x[0]), 0)
        np.testing.assert_array_equal(be.numpy(x[1]), be.numpy(good[0][1]))
        assert after.skipped == 1
        assert after.blocks[0].t == first
        if first:
            assert after.blocks[0] is before.blocks[0]
        assert all(np.isfinite(be.numpy(a)).all() for block in after.blocks for a in (block.m, *block.curvature))


def test_what_does_not_fit_is_named(rng):
    opt, ((g, h), *_) = Ginger(), given(rng)
    with pytest.raises(ValueError, match=r"h has shapes .* expected"):
        opt.update(opt.init((), None), g, h[::-1])
    _, state = opt.update(opt.init((), None), g, h)
    with pytest.raises(ValueError, match=r"grads have \[10, 12\] entries; expected \[12, 10\]"):
        opt.update(state, g[::-1], h[::-1])
    with pytest.raises(BackendError, match=r"h\[0\] has float32"):
        opt.update(state, g, tuple(a.astype(np.float32) for a in h))
    with pytest.raises(TypeError, match="int64"):
        opt.update(opt.init((), None), (np.ones((2, 2), np.int64),), None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("momentum", 1.0), ("decay", 1.0), ("damping", 0.0), ("relative_damping", -1.0), ("clip", 0.0), ("rank", -1),
        ("rank", True), ("statistics_every", 0), ("block", "layer"), ("curvature", "ggn"), ("correct_curvature", 1),
        ("damping", "1"), ("momentum", "0.9"), ("decay", None), ("relative_damping", "0"), ("clip", "1"),
    ],
)  # fmt: skip
def test_a_field_outside_its_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is "):
        Ginger(**{field: value})


# --------------------------------------------------------------------------------------------------- the curvature vector


def small(be, loss, outputs=3, n=2):
    net = nl.nn.MLP((2, 3, outputs), "tanh")
    rng = np.random.default_rng(3)
    y = rng.dirichlet(np.ones(outputs), n) if not isinstance(loss, nl.nn.SquaredLoss) else rng.standard_normal((n, outputs))
    objective = nl.nn.Objective(net, loss)
    return objective, net.init(1, be.like), (be.array(rng.standard_normal((n, 2))), be.array(y))


def vector(objective, params, batch, targets, **options):
    """h of one step, flat, at the given drawn labels: the first curvature is (1 - decay) h hᵀ."""
    opt = Ginger(decay=0.0, rank=1, block="all", clip=None, damping=1.0, **options)
    _, state, _ = opt.step(params, opt.init(params, objective), Replay(objective, [targets]), batch)
    U, sigma = state.blocks[0].curvature
    return sigma[0] ** 0.5 * U[0, :]


def gauss_newton(objective, params, batch, hessians):
    """(1/n) Σ J_iᵀ H_i J_i."""
    J = objective.at(params, batch).jacobian().to_dense()
    J = J.reshape(len(hessians), -1, J.shape[1])
    return np.mean([j.T @ H @ j for j, H in zip(J, hessians, strict=True)], axis=0)


def test_the_mean_of_h_h_over_all_classes_is_the_gauss_newton_matrix(numpy_backend):
    """Two samples of three classes: nine draws, each with its probability."""
    objective, params, batch = small(numpy_backend, nl.nn.SoftmaxCrossEntropy())
    z = objective.at(params, batch).outputs
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    mean = 0.0
    for classes in itertools.product(range(3), repeat=2):
        h = vector(objective, params, batch, np.eye(3)[list(classes)])
        mean = mean + np.outer(h, h) * p[0, classes[0]] * p[1, classes[1]]
    wanted = gauss_newton(objective, params, batch, [np.diag(q) - np.outer(q, q) for q in p])
    np.testing.assert_allclose(mean, wanted, atol=1e-15)
    labels = vector(objective, params, batch, None, curvature="empirical_fisher")
    assert np.abs(np.outer(labels, labels) - wanted).max() > 1e-2


@pytest.mark.parametrize("average", [False, True])
def test_the_mean_of_h_h_over_all_signs_is_the_gauss_newton_matrix(numpy_backend, average):
    """Squared loss: noise of ±1 (times √c where outputs are averaged) has the moments of the normal one that is drawn."""
    objective, params, batch = small(numpy_backend, nl.nn.SquaredLoss(average), outputs=2)
    f, scale, mean = objective.at(params, batch).outputs, 2**0.5 if average else 1.0, 0.0
    for signs in itertools.product((-1, 1), repeat=4):
        h = vector(objective, params, batch, f + scale * np.reshape(signs, (2, 2)))
        mean = mean + np.outer(h, h) / 16
    wanted = gauss_newton(objective, params, batch, [np.eye(2) / scale**2] * 2)
    np.testing.assert_allclose(mean, wanted, atol=1e-15)


def test_the_mean_of_h_h_over_all_bits_is_the_gauss_newton_matrix(numpy_backend):
    objective, params, batch = small(numpy_backend, nl.nn.SigmoidCrossEntropy(), outputs=2)
    p, mean = 1 / (1 + np.exp(-objective.at(params, batch).outputs)), 0.0
    for bits in itertools.product((0.0, 1.0), repeat=4):
        y = np.reshape(bits, (2, 2))
        h = vector(objective, params, batch, y)
        mean = mean + np.outer(h, h) * np.prod(np.where(y == 1, p, 1 - p))
    wanted = gauss_newton(objective, params, batch, [np.diag(q * (1 - q)) for q in p])
    np.testing.assert_allclose(mean, wanted, atol=1e-15)


def test_labels_are_drawn_from_the_key(numpy_backend):
    objective, params, batch = small(numpy_backend, nl.nn.SquaredLoss())
    opt = Ginger(rank=1, block="all", decay=0.0)
    _, state, _ = opt.step(params, opt.init(params, objective), objective, batch, key=11)
    drawn = objective.at(params, batch).draw(nl.steps.label_key(11, 0))
    U, sigma = state.blocks[0].curvature
    h = vector(objective, params, batch, drawn)
    np.testing.assert_allclose(sigma[0] * np.outer(U[0], U[0]), np.outer(h, h), atol=1e-14)


def test_the_oracle_is_asked_as_the_head_says(numpy_backend):
    objective, params, batch = small(numpy_backend, nl.nn.SquaredLoss())
    calls = []
    for opt in (Ginger(), Ginger(curvature="empirical_fisher"), Ginger(statistics_every=3), Ginger(rank=0)):
        counted, state = nl.nn.Counted(objective), opt.init(params, objective)
        for t in range(3):
            params, state, info = opt.step(params, state, counted, batch, key=t)
            assert info.refreshed == (opt.rank > 0 and (opt.statistics_every == 1 or t == 0))
        calls.append((counted.calls["forward"], counted.calls["backward"]))
    assert calls == [(3, 6), (3, 3), (3, 4), (3, 3)]


# ------------------------------------------------------------------------------------------------------------- whole steps


EDGES = Ginger(lr=0.02, damping=0.1, clip=None)


def steps(opt, objective, params, batch, count=6, state=None):
    state, infos = opt.init(params, objective) if state is None else state, []
    for t in range(count):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        assert info.accepted, info.reason
        infos.append(info)
    return params, state, infos


def test_an_image_network_with_normalisation(be, rng):
    objective = cnn()
    x, y = be.array(rng.standard_normal((8, 2, 6, 6))), be.array(rng.integers(0, 3, 8), "int64")
    _, _, infos = steps(EDGES, objective, objective.network.init(2, be.like), (x, y), 8)
    assert infos[-1].loss < infos[0].loss


def test_a_dead_layer_and_a_constant_pixel_stay_where_they_are(be, rng):
    relu = nl.nn.Elementwise(nl.nn.activation("relu"))
    objective = nl.nn.Objective(nl.nn.Sequential((nl.nn.Dense(3, 4), relu, nl.nn.Dense(4, 2))), nl.nn.SquaredLoss())
    first, second = objective.network.init(0, be.like)
    x = np.abs(rng.standard_normal((6, 3)))
    batch = be.array(x), be.array(rng.standard_normal((6, 2)))
    params, _, _ = steps(EDGES, objective, (0 * first - 1, second), batch)
    np.testing.assert_array_equal(be.numpy(params[0]), -np.ones((4, 4)))
    assert np.abs(be.numpy(params[1]) - be.numpy(second)).max() > 1e-6
    x[:, 1] = 0
    params, _, _ = steps(EDGES, objective, (first, second), (be.array(x), batch[1]))
    np.testing.assert_allclose(be.numpy(params[0])[:, 1], be.numpy(first)[:, 1], atol=be.tol(1e-13))


def test_one_sample_one_input_one_output(be):
    objective = nl.nn.Objective(nl.nn.MLP((1, 1, 1)), nl.nn.SquaredLoss())
    params, _, infos = steps(EDGES, objective, objective.network.init(3, be.like), (be.array([[0.7]]), be.array([[0.2]])))
    assert np.isfinite(infos[-1].loss)
    assert all(np.isfinite(be.numpy(W)).all() for W in params)


def test_a_network_on_a_graph(be, rng):
    S = np.exp(-np.abs(np.arange(7)[:, None] - np.arange(7)))
    net = nl.nn.GraphNetwork(be.array(S / S.sum(1, keepdims=True)), be.array(rng.standard_normal((7, 5))), (4, 3))
    batch = (be.array([0, 2, 3, 6], "int64"), be.array([0, 1, 2, 1], "int64"))
    _, _, infos = steps(EDGES, nl.nn.Objective(net, nl.nn.SoftmaxCrossEntropy()), net.init(0, be.like), batch, 8)
    assert infos[-1].loss < infos[0].loss


@pytest.mark.parametrize("block", ["tensor", "all"])
def test_a_state_survives_a_checkpoint_to_the_bit(numpy_backend, tmp_path, block):
    objective, params, batch = small(numpy_backend, nl.nn.SquaredLoss(), n=17)
    opt = dataclasses.replace(EDGES, block=block)
    params, state, _ = steps(opt, objective, params, batch, 5)
    archive.write(tmp_path / "run.npz", {"params": params, "state": state})
    loaded = archive.read(tmp_path / "run.npz")
    whole, _, _ = steps(opt, objective, params, batch, 3, state)
    resumed, _, _ = steps(opt, objective, loaded["params"], batch, 3, loaded["state"])
    assert all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert all(17 not in a.shape for kept in state.blocks for a in (kept.m, *kept.curvature))


def test_a_step_that_is_not_finite_leaves_everything(numpy_backend):
    objective, params, (x, y) = small(numpy_backend, nl.nn.SquaredLoss())
    params, state, _ = steps(EDGES, objective, params, (x, y), 2)
    with np.errstate(over="ignore", invalid="ignore"):
        new, after, info = EDGES.step(params, state, objective, (x, 1e200 * y), key=0)
    assert new is params
    assert after == state._replace(skipped=2)
    assert all(new is old for new, old in zip(after.blocks, state.blocks, strict=True))
    reason = "rejected: its gradient or curvature vector is not finite, or its squares overflow, in every tensor"
    assert (info.accepted, info.reason) == (False, reason)


def test_parameters_that_overflow_are_rejected(numpy_backend):
    objective, params, (x, y) = small(numpy_backend, nl.nn.SquaredLoss())
    opt, state = dataclasses.replace(EDGES, lr=1e200), EDGES.init(params, objective)
    new, after, info = opt.step(params, state, objective, (x, 1e120 * y))
    assert new is params
    assert after is state
    assert (info.accepted, info.reason) == (False, "rejected: the step is not finite")


def test_a_damping_whose_reciprocal_overflows_is_refused(numpy_backend):
    objective, params, (x, y) = small(numpy_backend, nl.nn.SquaredLoss())
    params, x, y = tuple(W.astype(np.float32) for W in params), x.astype(np.float32), y.astype(np.float32)
    opt = Ginger(damping=1e-40)
    with pytest.raises(ValueError, match=r"damping is 1e-40; expected a number whose reciprocal is finite in float32"):
        opt.step(params, opt.init(params, objective), objective, (x, y))


def fixed(specs, grads, drawn):
    """An objective of four samples with these gradients, whatever the parameters."""
    objective = Given(specs)
    point = objective.at((), (grads, drawn))
    point.samples = 4
    return type("Fixed", (), {"layers": specs, "at": lambda self, params, batch: point})()


def test_a_layer_that_is_left_alone_is_said(rng):
    specs, grads = (LayerSpec("dense", 2, 2, bias=False),) * 2, (np.full((2, 2), np.nan), np.ones((2, 2)))
    opt, params = Ginger(weight_decay=0.5, lr=0.1), (np.ones((2, 2)), np.ones((2, 2)))
    objective = fixed(specs, grads, (np.ones((2, 2)), np.ones((2, 2))))
    new, state, info = opt.step(params, opt.init(params, objective), objective, None)
    np.testing.assert_array_equal(new[0], 0.95)
    assert np.abs(new[1] - 0.95).max() > 1e-2
    assert info.kept == "layer 0: its gradient or curvature vector is not finite, or its squares overflow, left as it is"
    assert (state.skipped, info.accepted) == (1, True)
    assert info.stiffness == pytest.approx(0.01 * 4 * 4 / 1e-5)


@pytest.mark.parametrize("exempt", [False, True])
def test_the_weight_decay_may_leave_biases_out(numpy_backend, exempt):
    objective, params, batch = small(numpy_backend, nl.nn.SquaredLoss())
    params = tuple(W + 1 for W in params)  # biases begin at 0
    opt = dataclasses.replace(EDGES, exempt_bias=exempt)
    step = lambda opt: opt.step(params, opt.init(params, objective), objective, batch)[0]  # noqa: E731
    plain, decayed = step(opt), step(dataclasses.replace(opt, weight_decay=0.5))
    for W, a, b in zip(params, plain, decayed, strict=True):
        wanted = 0.01 * W
        wanted[:, -1] *= not exempt
        np.testing.assert_allclose(a - b, wanted, atol=1e-15)


def test_the_cost_of_a_whole_step(rng):
    """h, the sum with the parameters and the look at it take 4 flops an entry: 17 in all, clipping included."""
    rank, rest = 3, set()
    for d in (20, 30, 40):
        spec, (g, h, earlier, W) = LayerSpec("dense", 1, d, bias=False), wrap(tuple(rng.standard_normal((4, 1, d))))
        opt = Ginger(rank=rank)
        _, state = opt.update(opt.init((), None), (g,), (earlier,))
        with count() as tally:
            assert opt.step((W,), state, fixed((spec,), (g,), (h,)), None)[2].accepted
        rest.add(tally.total - d * (4 * rank**2 + 12 * rank + 17))
    assert len(rest) == 1
