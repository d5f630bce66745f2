"""arXiv:2106.02925: the authors' numbers, the natural gradient of a Kronecker-factored Fisher matrix, schedules, and the cost."""

import math

import numpy as np
import pytest

import nearlin as nl
from nearlin.linalg import Modes
from nearlin.nn import LayerSpec
from nearlin.optim.tnt import equalising_scales
from nearlin.steps import LayerwiseState
from tests.optim.given import Given
from tests.optim.replay import Replay, batch, cnn, labels, mlp, oracle, parameters, warm_batches


@pytest.mark.parametrize(("name", "make"), [("tntrepo_tnt_mlp", mlp), ("tntrepo_tnt_cnn_filterflat", cnn)], ids=["mlp", "cnn"])
def test_the_numbers_of_the_authors(be, name, make):
    """Labels drawn by them are replayed; step 0 draws none here, as the warm start stands."""
    data, objective = oracle(name), make()
    opt = nl.optim.TNT(
        lr=float(data["hp_lr"]), damping=float(data["hp_epsilon"]), statistics_every=int(data["hp_T1"]),
        inverse_every=int(data["hp_T2"]), weight_decay=float(data["hp_weight_decay"]),
    )  # fmt: skip
    params = parameters(be, objective.layers, data, "init")
    drawn = Replay(objective, [labels(be, y) for y in (*data["warm_sampled_targets"], *data["step_sampled_targets"][1:])])
    state = opt.warm_start(params, opt.init(params, objective), drawn, warm_batches(be, data))
    called = [f"H{kind}{l}" for l, spec in enumerate(objective.layers) for kind in "Wb"[: 1 + spec.bias]]
    for i, rows in enumerate(data["batch_index"]):
        params, state, info = opt.step(params, state, drawn, batch(be, data, rows))
        assert info.loss == pytest.approx(float(data[f"loss_step{i}"]), rel=be.tol(1e-12))
        for W, want in zip(params, parameters(be, objective.layers, data, f"step{i}"), strict=True):
            np.testing.assert_allclose(be.numpy(W), be.numpy(want), rtol=be.tol(1e-8), atol=be.tol(1e-10))
        for variable, name in zip(state.layers, called, strict=True):
            for mode, H in enumerate(variable.grams):
                np.testing.assert_allclose(be.numpy(H), data[f"{name}_mode{mode}_step{i}"], atol=be.tol(1e-10))


# ------------------------------------------------------------------------------------------------------------ closed forms


def covariance(rng, n):
    """Positive definite, with eigenvalues over two decades."""
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return (Q * np.geomspace(0.1, 10, n)) @ Q.T


def grams_of(factors):
    """What the Gram matrices of a tensor with covariance A ⊗ B ⊗ ... are in expectation."""
    traces = [np.trace(F) for F in factors]
    return tuple(math.prod(traces[:j] + traces[j + 1 :]) * F for j, F in enumerate(factors))


def step_with(grams, g, spec, **options):
    """The direction of one step with given statistics of one variable, for the gradient ``g``."""
    opt = nl.optim.TNT(lr=1.0, momentum=0.0, **options)
    state = LayerwiseState(layers=(Modes(grams),), statistics=1, warm=True)
    (W,), _, _ = opt.step((np.zeros_like(g),), state, Given((spec,)), ((g,), (g,)))
    return -W


@pytest.mark.parametrize(
    ("sizes", "spec"),
    [((4, 6), LayerSpec("dense", 4, 6, bias=False)), ((3, 2, 4), LayerSpec("conv", 3, 2, 2, bias=False))],
    ids=["dense", "conv"],
)
def test_a_kronecker_covariance_gives_the_exact_natural_gradient(rng, sizes, spec):
    """(A ⊗ B ⊗ C)⁻¹ vec g as the damping goes to 0; without the normalisation it is another one."""
    factors, g = [covariance(rng, n) for n in sizes], rng.standard_normal(spec.shape)
    grams, fisher = grams_of(factors), factors[0]
    for F in factors[1:]:
        fisher = np.kron(fisher, F)
    want = np.linalg.solve(fisher, g.reshape(-1)).reshape(g.shape)
    np.testing.assert_allclose(step_with(grams, g, spec, damping=1e-13), want, rtol=1e-8)
    unscaled = nl.linalg.mode_products(g.reshape(sizes), [np.linalg.inv(H) for H in grams]).reshape(g.shape)
    assert np.linalg.norm(unscaled - want) > 0.1 * np.linalg.norm(want)


@pytest.mark.parametrize("sizes", [(5,), (4, 6), (3, 2, 4)])
def test_factors_have_one_mean_eigenvalue_and_the_trace_of_the_covariance(be, rng, sizes):
    grams = nl.linalg.mix_grams((), be.array(rng.standard_normal(sizes)), 0.0, 1.0)
    scaled = [be.numpy(H) / scale for H, scale in zip(grams, equalising_scales(grams), strict=True)]
    mean = [np.trace(H) / len(H) for H in scaled]
    trace = np.trace(be.numpy(grams[0]))
    assert mean == pytest.approx([mean[0]] * len(sizes), rel=be.tol(1e-13))
    assert math.prod(np.trace(H) for H in scaled) == pytest.approx(trace, rel=be.tol(1e-13))
    if len(sizes) > 1:
        assert math.prod(np.trace(be.numpy(H)) for H in grams) != pytest.approx(trace, rel=0.1)


def test_a_vector_is_preconditioned_by_its_damped_second_moment(rng):
    H, g = covariance(rng, 5), rng.standard_normal((5, 2))
    opt = nl.optim.TNT(lr=1.0, momentum=0.0, damping=0.3)
    state = LayerwiseState(layers=(Modes((H,)),) * 2, statistics=1, warm=True)
    (W,), _, _ = opt.step((np.zeros((5, 2)),), state, Given((LayerSpec("norm", 5, 1),)), ((g,), (g,)))
    np.testing.assert_allclose(-W, np.linalg.solve(H + 0.3 * np.eye(5), g), rtol=1e-12)


def test_without_a_trace_every_factor_is_the_damping_alone(be, rng):
    spec = LayerSpec("dense", 3, 4)
    g = be.array(rng.standard_normal(spec.shape))
    opt = nl.optim.TNT(lr=1.0, momentum=0.0, damping=0.5)
    (W,), _, info = opt.step((0 * g,), opt.init((), None), Given((spec,)), ((g,), (0 * g,)))
    assert info.accepted
    np.testing.assert_allclose(-be.numpy(W)[:, :4], be.numpy(g)[:, :4] / 0.25, rtol=be.tol(1e-14))
    np.testing.assert_allclose(-be.numpy(W)[:, 4], be.numpy(g)[:, 4] / 0.5, rtol=be.tol(1e-14))


def test_drawn_labels_make_the_statistics_and_true_ones_the_direction(rng):
    true, drawn = rng.standard_normal((2, 2, 3))
    opt, objective = nl.optim.TNT(lr=1.0, momentum=0.0), Given((LayerSpec("dense", 2, 3, bias=False),))
    (W,), state, _ = opt.step((np.zeros((2, 3)),), opt.init((), None), objective, ((true,), (drawn,)))
    np.testing.assert_allclose(state.layers[0].grams[0], drawn @ drawn.T, rtol=1e-14)
    X, Y = state.layers[0].matrices
    np.testing.assert_allclose(-W, X @ true @ Y, rtol=1e-12)


def test_another_key_draws_other_labels(numpy_backend):
    x, y = nl.data.sphere(n=12, d=3, seed=1)
    net = nl.nn.MLP((3, 4, 1))
    objective, params, opt = nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(0, x), nl.optim.TNT()
    one, same, other = (opt.step(params, opt.init(params, objective), objective, (x, y), key=k)[1] for k in (1, 1, 2))
    np.testing.assert_array_equal(one.layers[0].grams[0], same.layers[0].grams[0])
    assert not np.allclose(one.layers[0].grams[0], other.layers[0].grams[0], rtol=1e-3)


def test_labels_are_drawn_anew_at_every_step_and_batch(numpy_backend):
    """With one key for all steps, as for all batches of the warm start."""
    x, y = nl.data.sphere(n=12, d=3, seed=1)
    net = nl.nn.MLP((3, 4, 1))
    objective, keys = nl.nn.Objective(net, nl.nn.SquaredLoss()), []

    class Recorded(Replay):
        def at(self, params, batch):
            point = objective.at(params, batch)
            draw = point.draw
            point.draw = lambda key: keys.append(key) or draw(key)
            return point

    recorded, params, opt = Recorded(objective, ()), net.init(0, x), nl.optim.TNT()
    state = opt.init(params, recorded)
    for _ in range(3):
        params, state, _ = opt.step(params, state, recorded, (x, y), key=5)
    assert len(set(keys)) == 3
    keys.clear()
    opt.warm_start(params, state, recorded, [(x, y)] * 3, key=5)
    assert len(set(keys)) == 3


# ---------------------------------------------------------------------------------------------------- schedule, warm start


@pytest.mark.parametrize(("early", "refreshed"), [(True, [0, 2, 4, 5, 10]), (False, [0, 5, 10])])
@pytest.mark.parametrize(("warm", "statistics"), [(True, [2, 4, 6, 8, 10]), (False, [0, 2, 4, 6, 8, 10])])
def test_statistics_and_inverses_are_renewed_when_due(numpy_backend, early, refreshed, warm, statistics):
    """A second backward pass is asked for at every statistics step, and at no other."""
    x, y = nl.data.sphere(n=6, d=3, seed=1)
    net = nl.nn.MLP((3, 2, 1))
    params, counted = net.init(0, x), nl.nn.Counted(nl.nn.Objective(net, nl.nn.SquaredLoss()))
    opt = nl.optim.TNT(statistics_every=2, inverse_every=5, early=early)
    state = opt.init(params, counted)
    if warm:
        state = opt.warm_start(params, state, counted, [(x, y)] * 3)
        assert counted.calls == {"forward": 3, "backward": 3}
    seen, made = [], []
    for t in range(12):
        counted.calls.clear()
        params, state, info = opt.step(params, state, counted, (x, y), key=t)
        assert counted.calls["forward"] == 1
        seen += [t] * (counted.calls["backward"] - 1)
        made += [t] * info.refreshed
    assert (seen, made) == (statistics, refreshed)


def test_a_warm_start_is_the_mean_over_batches(rng):
    opt, objective = nl.optim.TNT(), Given((LayerSpec("dense", 2, 3, bias=False),))
    drawn = [(rng.standard_normal((2, 3)),) for _ in range(4)]
    state = opt.warm_start(drawn[0], opt.init((), None), objective, [((0 * g[0],), g) for g in drawn])
    np.testing.assert_allclose(state.layers[0].grams[1], sum(g[0].T @ g[0] for g in drawn) / 4, rtol=1e-12)
    with pytest.raises(ValueError, match="batches is empty"):
        opt.warm_start(drawn[0], opt.init((), None), objective, [])


@pytest.mark.parametrize(
    ("field", "value"), [("statistics_every", 0), ("inverse_every", 2.0), ("reshape", "flat"), ("damping", 0)]
)
def test_a_field_outside_its_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is"):
        nl.optim.TNT(**{field: value})
