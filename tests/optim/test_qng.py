"""QNG, the baseline of arXiv:2402.03295: dense inverses while nothing is dropped, and where the authors' code leaves them."""

import json
import math

import numpy as np
import pytest

import nearlin as nl
from nearlin.experiments import archive
from nearlin.optim import QNG
from tests.optim.given import Given
from tests.optim.replay import cnn, oracle


def run(opt, gradients, vectors):
    """Increments of every step, and the last state."""
    state, made = opt.init((), None), []
    for g, h in zip(gradients, vectors, strict=True):
        (x,), state = opt.update(state, (g,), (h,))
        made.append(x)
    return made, state


def dense(gradients, vectors, momentum, decay):
    """-(decayᵗ I + Σ (1 - decay) decay^(t-s) h hᵀ)⁻¹ m, by the curvature before each step's h."""
    G, m, made = np.eye(gradients.shape[1]), 0.0, []
    for g, h in zip(gradients, vectors, strict=True):
        m = momentum * m + g
        made.append(-np.linalg.solve(G, m))
        G = decay * G + (1 - decay) * np.outer(h, h)
    return made


def errors(found, wanted):
    return [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, wanted, strict=True)]


def test_the_product_is_the_inverse_while_nothing_is_dropped(be, rng):
    """After ``rank`` vectors it is not."""
    g, h = rng.standard_normal((2, 12, 7)) * np.geomspace(3, 0.2, 7)
    found, _ = run(QNG(lr=1.0, decay=0.8, rank=8), list(map(be.array, g)), list(map(be.array, h)))
    wrong = errors(map(be.numpy, found), dense(g, h, 0.9, 0.8))
    assert max(wrong[:9]) <= be.tol(1e-13)
    assert min(wrong[9:]) > 1e-2


def test_the_authors_code_agrees_until_its_second_pair():
    """One pair is a product by itself; with two, the code's inner products take another vector."""
    data = oracle("qng_d7_tau4_b10.9_b20.9")
    hyper = json.loads(str(data["hyper"]))
    opt = QNG(hyper["lr"], hyper["b1"], hyper["b2"], hyper["tau"], hyper["trust_region"])
    apart = errors(run(opt, data["g"], data["h"])[0], data["update"])
    exact = errors(data["update"], dense(data["g"], data["h"], hyper["b1"], hyper["b2"]))
    assert max(apart[:2]) <= 2e-7  # their scalars are float32
    assert apart[2] > 1e-3
    assert apart[2] == pytest.approx(exact[2], rel=1e-3)


def test_beyond_the_rank_the_last_pairs_remain(rng):
    """The window by matrices: factors I - c q qᵀ of the last three vectors, newest on the left, and the scale of three."""
    g, h = rng.standard_normal((2, 9, 5))
    decay, C, factors, m = 0.8, np.eye(5), [], 0.0
    found, state = run(QNG(lr=1.0, decay=decay, rank=3), g, h)
    for g_t, h_t, x in zip(g, h, found, strict=True):
        m = 0.9 * m + g_t
        np.testing.assert_allclose(x, -C.T @ C @ m, atol=1e-11)
        q = C @ h_t
        c = (1 - math.sqrt(decay / (decay + (1 - decay) * q @ q))) / (q @ q)
        factors = [*factors, np.eye(5) - c * np.outer(q, q)][-3:]
        C = np.eye(5)
        for F in factors:
            C = decay**-0.5 * F @ C
    assert len(state.vectors) == len(state.factors) == 3


def test_a_vector_of_zeros_only_fades_the_identity(be):
    g = [be.array(np.ones(4))] * 3
    found, state = run(QNG(lr=1.0, momentum=0.0, decay=0.5), g, [0 * g[0]] * 3)
    np.testing.assert_allclose(be.numpy(found[-1]), -4.0)
    assert state.factors == (0.5,) * 3


def test_small_vectors_are_factored_to_rounding():
    """c → (1 - decay) / (2 decay), where the form of the paper's code cancels."""
    assert QNG(decay=0.9)._factor(1e-20) == pytest.approx(0.1 / 1.8, rel=1e-15)
    assert (1 - math.sqrt(0.9 / (0.9 + 0.1 * 1e-20))) / 1e-20 == 0


def test_the_trust_region_bounds_the_step(rng):
    """½ stepᵀ C Cᵀ step <= δ: short steps are as they were, long ones end at the border."""
    g, h = rng.standard_normal((2, 4, 5))
    free, held = (run(QNG(lr=1.0, momentum=0.0, rank=9, trust_region=delta), g, h)[0] for delta in (None, 0.7))
    G = np.eye(5)
    for a, b, h_t in zip(free, held, h, strict=True):
        size = 0.5 * a @ G @ a
        np.testing.assert_allclose(b, a * min(1, math.sqrt(0.7 / size)), atol=1e-12)
        G = 0.99 * G + 0.01 * np.outer(h_t, h_t)
    wide, _ = run(QNG(lr=1.0, momentum=0.0, rank=9, trust_region=1e9), g, h)
    np.testing.assert_array_equal(wide, free)
    (x,), _ = QNG(trust_region=0.7).update(QNG().init((), None), (0 * g[0],), (h[0],))
    np.testing.assert_array_equal(x, 0)  # a gradient of zeros has no border


def test_a_vector_that_is_not_finite_is_left_out(rng):
    opt, (g, h) = QNG(), rng.standard_normal((2, 3, 5))
    _, state = run(opt, g, h)
    (x,), after = opt.update(state, (g[0],), (h[0] * math.nan,))
    assert np.isfinite(x).all()
    assert (after.skipped, after.t, len(after.vectors)) == (1, 4, 3)


def test_an_image_network_with_normalisation(be, rng):
    objective, opt = cnn(), QNG(lr=0.05)
    batch = be.array(rng.standard_normal((8, 2, 6, 6))), be.array(rng.integers(0, 3, 8), "int64")
    params, losses = objective.network.init(2, be.like), []
    state = opt.init(params, objective)
    for t in range(8):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        losses.append(info.loss)
    assert losses[-1] < losses[0]


def small(rng, n=6):
    objective = nl.nn.Objective(nl.nn.MLP((3, 4, 2)), nl.nn.SquaredLoss())
    x, y = rng.standard_normal((n, 3)), rng.standard_normal((n, 2))
    return objective, objective.network.init(0, x), (x, y)


def steps(opt, objective, params, batch, number, state=None):
    state = opt.init(params, objective) if state is None else state
    for t in range(number):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        assert (info.accepted, info.refreshed, info.kept) == (True, True, "")
    return params, state


def test_a_state_survives_a_checkpoint_to_the_bit(rng, tmp_path):
    objective, params, batch = small(rng, n=19)
    opt = QNG(lr=0.05, rank=4)
    params, state = steps(opt, objective, params, batch, 6)
    archive.write(tmp_path / "run.npz", {"params": params, "state": state})
    loaded = archive.read(tmp_path / "run.npz")
    whole, _ = steps(opt, objective, params, batch, 3, state)
    resumed, _ = steps(opt, objective, loaded["params"], batch, 3, loaded["state"])
    assert all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_a_step_that_is_not_finite_leaves_everything(rng):
    objective, params, (x, y) = small(rng)
    opt = QNG(lr=0.05)
    params, state = steps(opt, objective, params, (x, y), 2)
    with np.errstate(over="ignore", invalid="ignore"):
        new, after, info = opt.step(params, state, objective, (x, 1e200 * y), key=0)
    assert new is params
    assert after is state
    assert (info.accepted, info.reason) == (False, "rejected: the step is not finite")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("momentum", 1.0), ("momentum", "0.9"), ("decay", 0.0), ("decay", 1.0), ("decay", None), ("rank", 0),
        ("trust_region", 0.0), ("trust_region", "1"), ("lr", -1.0),
    ],
)  # fmt: skip
def test_a_field_outside_its_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is "):
        QNG(**{field: value})


def test_a_step_says_that_its_vector_was_left_out(rng):
    """Labels so far away that the square of h overflows, at a gradient that is as usual."""
    objective, params, batch = small(rng)
    point = objective.at(params, batch)
    grads, huge = point.grads(), tuple(1e200 * g for g in point.grads())
    given = Given(objective.layers)
    seen = given.at(params, (grads, huge))
    seen.samples = 6
    fixed = type("Fixed", (), {"layers": given.layers, "at": lambda self, params, batch: seen})()
    new, state, info = QNG(lr=0.05).step(params, QNG().init(params, objective), fixed, None)
    assert (info.accepted, info.refreshed, info.kept) == (True, False, "the curvature vector is not finite, left out")
    assert (state.skipped, state.vectors) == (1, ())
    assert all(np.isfinite(W).all() for W in new)


@pytest.mark.parametrize("exempt", [False, True])
def test_the_weight_decay_may_leave_biases_out(rng, exempt):
    objective, params, batch = small(rng)
    params = tuple(W + 1 for W in params)  # biases begin at 0
    plain, decayed = (
        QNG(lr=0.05, weight_decay=share, exempt_bias=exempt).step(params, QNG().init(params, objective), objective, batch)[0]
        for share in (0.0, 0.5)
    )
    for W, a, b in zip(params, plain, decayed, strict=True):
        wanted = 0.025 * W
        wanted[:, -1] *= not exempt
        np.testing.assert_allclose(a - b, wanted, atol=1e-15)
