"""arXiv:1708.00523: stored runs of another implementation, the guarantee in every step, the greedy choice, and its edges."""

import dataclasses
import itertools
import json
import math
import pathlib

import numpy as np
import pytest

import nearlin as nl
from nearlin import curvature
from nearlin.complexity import count, wrap
from nearlin.experiments import archive
from nearlin.optim import DSGD
from tests.optim.given import Given

ORACLES = sorted((pathlib.Path(__file__).parents[1] / "oracles").glob("dsgd_*.npz"))
QS = (1, 2, math.inf)
EPS = np.finfo(np.float64).eps


def chain(sizes, activations, bias=True):
    """Dense layers, each with its activation; identity for none."""
    modules = []
    for inp, out, phi in zip(sizes[:-1], sizes[1:], activations, strict=True):
        modules += [nl.nn.Dense(inp, out, bias=bias)]
        modules += [] if phi == "identity" else [nl.nn.Elementwise(nl.nn.activation(phi))]
    return nl.nn.Sequential(tuple(modules))


LOSSES = {"squared": nl.nn.SquaredLoss(), "sigmoid": nl.nn.SigmoidCrossEntropy(), "softmax": nl.nn.SoftmaxCrossEntropy()}


def problem(be, sizes, activations, loss="squared", bias=True, n=12, seed=3, gain=1.0):
    g = np.random.default_rng(seed)
    objective = nl.nn.Objective(chain(sizes, activations, bias), LOSSES[loss])
    params = tuple(be.array(gain * nl.to_numpy(W) + 0.1) for W in objective.network.init(seed, np.ones(1)))
    x = be.array(g.standard_normal((n, sizes[0])))
    if loss == "softmax":
        return objective, params, (x, be.array(g.integers(0, sizes[-1], n), dtype="int64"))
    y = g.uniform(-0.8, 0.8, (n, sizes[-1])) if loss == "squared" else g.uniform(0, 1, (n, sizes[-1]))
    return objective, params, (x, be.array(y))


def descend(opt, objective, params, batch, steps, state=None):
    state, infos = opt.init(params, objective) if state is None else state, []
    for t in range(steps):
        params, state, info = opt.step(params, state, objective, batch, t)
        infos.append(info)
    return params, state, infos


def violations(infos, eps=EPS):
    return [t for t, i in enumerate(infos) if i.guarantee - i.decrease > 8 * eps * abs(i.loss)]


# ------------------------------------------------------------------------------------------------------------ stored runs


def stored(be, path, steps=10):
    """A stored run, and ours from the same start: its loss c ||y - t||² is 2 c times ours, which moves the weights alike."""
    with np.load(path) as archive:
        data = dict(archive)
    hyper = json.loads(str(data["hyper"]))
    objective = nl.nn.Objective(chain(hyper["dims"], hyper["acts"], hyper["bias"]), nl.nn.SquaredLoss())
    opt = DSGD(q=float(hyper["q"]), lr=hyper["eps"], inputs=hyper["mode"], sharp=False, prune=False)
    K, path = len(hyper["acts"]), []
    params = tuple(be.array(data[f"W{k + 1}"][0]) for k in range(K))
    state = opt.init(params, objective)
    for t in range(steps):
        rows = data["batch_idx"][t] if "batch_idx" in data else slice(None)
        batch = be.array(data["X"][rows]), be.array(data["T"][rows])
        params, state, info = opt.step(params, state, objective, batch)
        path.append((params, info))
    return data, 2 * hyper["c"], path


@pytest.mark.parametrize("path", ORACLES, ids=lambda path: path.stem[5:])
def test_stored_runs_are_met(numpy_backend, path):
    data, scale, run = stored(numpy_backend, path)
    for t, (params, info) in enumerate(run):
        assert info.layer == data["layer"][t]
        np.testing.assert_allclose(scale * info.loss, data["f_used"][t], rtol=1e-12)
        np.testing.assert_allclose(scale**0.5 * np.array(info.p), data["p"][t], rtol=1e-12)
        np.testing.assert_allclose(scale**0.5 * np.array(info.scores), data["score"][t], rtol=1e-12)
        np.testing.assert_allclose(scale * info.guarantee, data["guarantee"][t], rtol=1e-12)
        for k, W in enumerate(params, start=1):
            np.testing.assert_allclose(W, data[f"W{k}"][t + 1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["A_tanh_sq_q2_data_warm", "C_sig_sq3_qinf_bound_warm", "C_sig_sq3_q1_data_warm_stoch"])
def test_stored_runs_are_met_on_every_backend(be, name):
    (path,) = (path for path in ORACLES if path.stem == f"dsgd_{name}")
    data, _, run = stored(be, path, steps=4)
    if be.eps < 1e-10:
        assert [info.layer for _, info in run] == list(data["layer"][:4])
    for k, W in enumerate(run[-1][0], start=1):
        np.testing.assert_allclose(be.numpy(W), data[f"W{k}"][4], atol=be.tol(1e-12))


def test_the_sharp_constants_take_longer_steps(numpy_backend):
    (path,) = (
        path for path in ORACLES if path.stem == "dsgd_A_tanh_sq_q2_data_cold" or path.stem == "dsgd_A_tanh_sq_q2_bound_cold"
    )
    data, _, run = stored(numpy_backend, path, steps=1)
    objective = nl.nn.Objective(chain((5, 4, 3), ("tanh", "tanh"), bias=False), nl.nn.SquaredLoss())
    params = tuple(data[f"W{k}"][0] for k in (1, 2))
    opt = DSGD(inputs="bound")
    info = opt.step(params, opt.init(params, objective), objective, (data["X"], data["T"]))[2]
    assert all(a < 0.9 * b for a, b in zip(info.p, run[0][1].p, strict=True))


# -------------------------------------------------------------------------------------------------------------- guarantee

NETS = {
    "one layer": ((5, 3), ("identity",), "squared"),
    "one layer of tanh": ((5, 3), ("tanh",), "squared"),
    "linear output": ((5, 4, 3), ("tanh", "identity"), "squared"),
    "three layers of sigmoid": ((5, 4, 4, 3), ("sigmoid",) * 3, "squared"),
    "linear code": ((5, 4, 2, 4, 3), ("tanh", "identity", "tanh", "identity"), "squared"),
    "two linear layers on top": ((5, 4, 4, 3), ("tanh", "identity", "identity"), "squared"),
    "softmax": ((5, 4, 3), ("tanh", "identity"), "softmax"),
    "softplus and softmax": ((5, 6, 4), ("softplus", "identity"), "softmax"),
    "bernoulli": ((5, 4, 4, 3), ("tanh", "sigmoid", "identity"), "sigmoid"),
    "bernoulli of tanh": ((5, 4, 3), ("tanh", "tanh"), "sigmoid"),
}


@pytest.mark.parametrize("sharp", [True, False], ids=["sharp", "crude"])
@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("net", NETS)
def test_every_step_decreases_the_loss_by_what_is_guaranteed(numpy_backend, net, q, sharp):
    if sharp and not (NETS[net][2] == "squared" and NETS[net][1][-1] in ("tanh", "sigmoid")):
        pytest.skip("the constants are the same")
    case = problem(numpy_backend, *NETS[net], gain=1.5)
    for bias, layers, lr in (("augmented", "greedy", 1.0), ("separate", "cyclic", 1.5), ("none", "cyclic", 0.5)):
        infos = descend(DSGD(q=q, lr=lr, sharp=sharp, bias=bias, layers=layers, verify=True), *case, 15)[2]
        assert violations(infos) == []
        assert all(info.reason == "accepted" for info in infos)


@pytest.mark.parametrize("steps", [30, pytest.param(300, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(("q", "inputs", "depth"), list(itertools.product(QS, ("data", "bound"), (1, 2, 3))))
def test_the_guarantee_holds_over_many_steps(numpy_backend, q, inputs, depth, steps):
    sizes = (6, 6, 5, 3)[-depth - 1 :]
    case = problem(numpy_backend, sizes, ("tanh",) * depth, seed=depth)
    infos = descend(DSGD(q=q, inputs=inputs, verify=True), *case, steps)[2]
    assert len(infos) == steps
    assert violations(infos) == []
    assert infos[-1].loss < infos[0].loss


def test_constants_that_are_too_small_break_the_guarantee(numpy_backend, monkeypatch):
    """The negative control: a hundredth of the constants."""
    true = curvature.layer_constants
    monkeypatch.setattr(curvature, "layer_constants", lambda *args: tuple(s / 100 for s in true(*args)))
    case = problem(numpy_backend, *NETS["linear output"])
    infos = descend(DSGD(verify=True), *case, 20)[2]
    assert violations(infos)
    assert any("less than the guaranteed" in info.reason for info in infos)


def test_a_batch_is_not_held_to_what_is_guaranteed_for_the_whole_data(numpy_backend, monkeypatch):
    true = curvature.layer_constants
    monkeypatch.setattr(curvature, "layer_constants", lambda *args: tuple(s / 100 for s in true(*args)))
    infos = descend(DSGD(form="stochastic", lr=0.9, verify=True), *problem(numpy_backend, *NETS["linear output"]), 20)[2]
    assert violations(infos)
    assert {info.reason for info in infos} == {"accepted"}


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
def test_rounding_of_large_weights_breaks_no_guarantee(numpy_backend, size):
    """Outputs are differences of large numbers, and the guarantee is an equality."""
    objective = nl.nn.Objective(chain((2, 1), ("identity",), bias=False), nl.nn.SquaredLoss())
    reasons = set()
    for seed in range(20):
        a, off = np.random.default_rng(seed).uniform(0.5, 1.0, 2)
        params, batch = (np.array([[size, size + off]]),), (np.array([[a, -a]]), np.zeros((1, 1)))
        reasons |= {info.reason for info in descend(DSGD(lr=0.5, verify=True), objective, params, batch, 5)[2]}
    assert reasons == {"accepted"}


def test_the_guarantee_is_met_with_equality_by_one_linear_layer(numpy_backend):
    """One row, one sample: f is a parabola along ρ, and lr = 1 ends at its bottom."""
    objective, params, batch = problem(numpy_backend, (5, 1), ("identity",), n=1)
    _, _, (info,) = descend(DSGD(verify=True), objective, params, batch, 1)
    assert info.guarantee == pytest.approx(info.loss, rel=1e-12)
    assert info.decrease == pytest.approx(info.loss, rel=1e-12)
    half = descend(DSGD(verify=True, lr=0.5), objective, params, batch, 1)[2][0]
    assert half.decrease == pytest.approx(0.75 * info.loss, rel=1e-12)


def test_float32_keeps_the_guarantee_up_to_its_rounding(numpy_backend):
    objective, params, batch = problem(numpy_backend, *NETS["linear output"])
    single = [tuple(a.astype(np.float32) for a in part) for part in (params, batch)]
    infos = descend(DSGD(verify=True), objective, *single, 100)[2]
    assert violations(infos, np.finfo(np.float32).eps) == []
    assert infos[-1].loss < 0.9 * infos[0].loss


def test_sizes_of_inputs_are_bounded_by_their_bounds(numpy_backend):
    case = problem(numpy_backend, *NETS["three layers of sigmoid"])
    for q in QS:
        data, bound = (descend(DSGD(q=q, inputs=one), *case, 1)[2][0].p for one in ("data", "bound"))
        assert all(a <= b * (1 + 1e-12) for a, b in zip(data, bound, strict=True))
        assert data[0] == pytest.approx(bound[0])


def test_newton_schulz_keeps_the_guarantee_without_an_svd(numpy_backend):
    objective, params, batch = problem(numpy_backend, *NETS["three layers of sigmoid"], gain=2.0)
    for steps, polish in ((5, 0), (5, 2), (2, 0)):
        opt = DSGD(orth="newton_schulz", ns_steps=steps, polish=polish, verify=True)
        with count() as tally:
            infos = descend(opt, objective, wrap(params), wrap(batch), 20)[2]
        assert violations(infos) == []
        assert not {"svd", "svdvals", "eigh", "eigvalsh"} & set(tally.calls)
        assert infos[0].bound == pytest.approx(1.0 if polish else 1.21)


def test_certified_scores_are_below_the_exact_ones(numpy_backend):
    case = problem(numpy_backend, *NETS["softmax"])
    exact, certain = (
        descend(DSGD(prune=False, orth=orth), *case, 1)[2][0].scores for orth in ("svd", "newton_schulz")
    )  # with bounds of the weights' norms that are larger too
    assert all(0.9 * a < b <= a * (1 + 1e-12) for a, b in zip(exact, certain, strict=True))


# ---------------------------------------------------------------------------------------------------- which layer is chosen


def given(*grads):
    """An objective whose gradient is the batch, on layers without biases."""
    return Given(tuple(nl.nn.LayerSpec("dense", *G.shape, bias=False) for G in grads)), (grads, grads)


@pytest.mark.parametrize("q", QS)
def test_the_highest_score_is_chosen_and_its_layer_alone_is_moved(be, rng, q):
    grads = tuple(be.array(rng.standard_normal((4, 5)) * size) for size in (1.0, 3.0, 2.0))
    objective, batch = given(*grads)
    params = tuple(0 * G + 1 for G in grads)
    opt = DSGD(q=q, p=(1.0, 4.0, 1.0), lr=0.25)
    new, _, info = opt.step(params, opt.init(params, objective), objective, batch)
    rho, dual = nl.linalg.duality_map(grads[2], q)
    assert (info.layer, info.guarantee) == (2, None)
    assert info.scores[2] == pytest.approx(dual)
    np.testing.assert_allclose(be.numpy(new[2]), be.numpy(1 - 0.25 * rho), atol=be.tol(1e-14))
    assert all(np.array_equal(be.numpy(new[i]), be.numpy(params[i])) for i in (0, 1))


def test_of_equal_scores_the_first_is_chosen(numpy_backend):
    G = np.diag([3.0, 1.0])
    for prune, q in itertools.product((True, False), QS):
        objective, batch = given(G, G, G)
        opt = DSGD(p=2.0, q=q, prune=prune)
        assert opt.step((G, G, G), opt.init((G, G, G), objective), objective, batch)[2].layer == 0


def test_of_equal_scores_the_first_is_chosen_whatever_their_bounds(numpy_backend):
    """The second has the higher bound, and is looked at before."""
    grads = np.diag([2.0, 2.0]), np.diag([4.0, 0.0])
    objective, batch = given(*grads)
    info = DSGD(p=1.0).step(grads, DSGD(p=1.0).init(grads, objective), objective, batch)[2]
    assert (info.layer, info.scores) == (0, (4.0, 4.0))


@pytest.mark.parametrize("orth", ["svd", "newton_schulz"])
def test_pruning_changes_nothing_but_the_work(rng, orth):
    for seed in range(20):
        g = np.random.default_rng(seed)
        grads = tuple(g.standard_normal((6, r)) @ g.standard_normal((r, 8)) * 2 ** g.standard_normal() for r in (1, 2, 4, 6))
        objective, batch = given(*grads)
        pruned, full = (
            opt.step(grads, opt.init(grads, objective), objective, batch)
            for opt in (DSGD(p=1.0, lr=0.1, orth=orth), DSGD(p=1.0, lr=0.1, orth=orth, prune=False))
        )
        assert all(np.array_equal(a, b) for a, b in zip(pruned[0], full[0], strict=True))
        assert pruned[2].layer == full[2].layer == int(np.argmax(full[2].scores))
        for a, b in zip(pruned[2].scores, full[2].scores, strict=True):
            assert a is None or a == pytest.approx(b, rel=1e-12)


def test_pruning_leaves_out_singular_values(rng):
    grads = tuple(wrap(rng.standard_normal((6, 8)) * size) for size in (100.0, 1.0, 1.0))
    objective, batch = given(*grads)

    def calls(opt):
        with count() as tally:
            opt.step(grads, opt.init(grads, objective), objective, batch)
        return tally.calls["svdvals"], tally.calls["svd"]

    assert calls(DSGD(p=1.0)) == (0, 1)
    assert calls(DSGD(p=1.0, prune=False)) == (3, 1)


def test_cyclic_steps_visit_every_block_in_turn(numpy_backend):
    case = problem(numpy_backend, *NETS["linear output"])
    infos = descend(DSGD(layers="cyclic", bias="separate"), *case, 5)[2]
    found = [(info.layer, info.part) for info in infos]
    assert found == [(0, "weights"), (0, "bias"), (1, "weights"), (1, "bias"), (0, "weights")]
    assert [score is None for score in infos[0].scores] == [False, True, True, True]


def test_cyclic_steps_pass_over_layers_that_cannot_move_the_loss(numpy_backend):
    objective, params, batch = problem(numpy_backend, *NETS["linear output"])
    start = (params[0], 0 * params[1])
    new, _, (info,) = descend(DSGD(layers="cyclic", verify=True), objective, start, batch, 1)
    assert (info.p[0], info.layer, info.reason) == (0.0, 1, "accepted")
    assert 0 < info.guarantee <= info.decrease
    assert np.array_equal(new[0], start[0])
    assert np.abs(new[1] - start[1]).max() > 0


def test_all_layers_at_once_have_no_guarantee(numpy_backend):
    objective, params, batch = problem(numpy_backend, *NETS["linear output"])
    new, _, (info,) = descend(DSGD(layers="all", verify=True), objective, params, batch, 1)
    assert (info.layer, info.guarantee) == (None, None)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(new, params, strict=True))
    assert info.decrease > 0


@pytest.mark.parametrize("bias", ["augmented", "separate", "none"])
def test_biases_move_with_their_layer_on_their_own_or_not_at_all(numpy_backend, bias):
    objective, params, batch = problem(numpy_backend, *NETS["linear output"])
    new, _, infos = descend(DSGD(bias=bias), objective, params, batch, 30)
    moved = [np.abs(a - b)[:, -1].max() > 0 for a, b in zip(new, params, strict=True)]
    assert any(moved) == (bias != "none")
    assert {info.part for info in infos} <= {"augmented": {"matrix"}, "separate": {"weights", "bias"}, "none": {"weights"}}[bias]
    assert len(infos[0].p) == (4 if bias == "separate" else 2)


def test_lower_layers_have_their_turn(numpy_backend):
    infos = descend(DSGD(), *problem(numpy_backend, *NETS["softmax"], n=30), 200)[2]
    assert {info.layer for info in infos} == {0, 1}


# ---------------------------------------------------------------------------------------------------------- limits and edges


def test_given_p_on_one_matrix_is_stochastic_spectral_descent(be, rng):
    G = rng.standard_normal((4, 6)) * np.geomspace(1, 10, 6)
    W = rng.standard_normal((4, 6))
    P, s, Q = np.linalg.svd(G, full_matrices=False)
    objective, batch = given(be.array(G))
    opt = DSGD(p=1.0, lr=0.3)
    new = opt.step((be.array(W),), opt.init((be.array(W),), objective), objective, batch)[0][0]
    np.testing.assert_allclose(be.numpy(new), W - 0.3 * s.sum() * P @ Q, atol=be.tol(1e-12))
    assert np.abs(be.numpy(new) - (W - 0.3 * G)).max() > 1


def test_zero_weights_above_give_a_layer_the_score_zero(be):
    objective, params, batch = problem(be, *NETS["linear output"])
    params = (params[0], 0 * params[1])
    for bias in ("augmented", "separate"):
        opt = DSGD(bias=bias)
        _, _, info = opt.step(params, opt.init(params, objective), objective, batch)
        assert info.accepted
        assert info.layer == 1
        assert (info.p[0], info.scores[0]) == (0.0, 0.0)


def test_a_stationary_point_ends_the_run(be):
    objective, params, (x, _) = problem(be, (4, 3), ("identity",))
    params = (0 * params[0],)
    batch = (x, be.array(np.zeros((12, 3))))
    opt = DSGD()
    new, state, info = opt.step(params, opt.init(params, objective), objective, batch)
    assert not info.accepted
    assert info.reason == "stalled: the gradient is zero"
    assert new is params
    assert state == opt.init(params, objective)


def test_a_gradient_that_is_not_finite_is_rejected(rng):
    G = rng.standard_normal((3, 4))
    objective, batch = given(G, G * np.nan)
    opt = DSGD(p=1.0)
    state = opt.init((G, G), objective)
    params, after, info = opt.step((G, G), state, objective, batch)
    assert info.reason == "rejected: the gradient is not finite"
    assert not info.accepted
    assert after is state
    assert all(a is G for a in params)


def test_a_step_that_is_not_finite_is_rejected(rng):
    G = rng.standard_normal((3, 4)) * 1e150
    objective, batch = given(G)
    opt = DSGD(p=1e-120, q=math.inf)
    with np.errstate(over="ignore"):
        params, _, info = opt.step((G,), opt.init((G,), objective), objective, batch)
    assert info.reason == "rejected: the step is not finite"
    assert params[0] is G


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_layers_whose_constants_are_not_finite_are_left_out(numpy_backend, monkeypatch, value):
    objective, params, batch = problem(numpy_backend, *NETS["softmax"])
    opt = DSGD()
    monkeypatch.setattr(curvature, "layer_constants", lambda *args: (1.0, value))
    assert opt.step(params, opt.init(params, objective), objective, batch)[2].layer == 0
    monkeypatch.setattr(curvature, "layer_constants", lambda *args: (value, value))
    new, _, info = opt.step(params, opt.init(params, objective), objective, batch)
    assert (info.accepted, info.reason) == (False, "rejected: no p is positive and finite")
    assert new is params


EDGES = {"one sample": ((5, 4, 3), 1), "one input": ((1, 4, 3), 6), "one output": ((5, 4, 1), 6), "one of each": ((1, 1, 1), 1)}


@pytest.mark.parametrize(("q", "orth"), [*((q, "svd") for q in QS), (2, "newton_schulz")])
@pytest.mark.parametrize("edge", EDGES)
def test_narrow_networks_have_the_guarantee_too(be, edge, q, orth):
    sizes, n = EDGES[edge]
    infos = descend(DSGD(q=q, lr=0.3, orth=orth, verify=True), *problem(be, sizes, ("tanh", "identity"), n=n), 5)[2]
    assert all(info.accepted for info in infos)
    assert violations(infos, be.eps) == []


@pytest.mark.parametrize("orth", ["svd", "newton_schulz"])
def test_convolutions_and_normalisation_take_steps_with_given_p(rng, orth):
    network = nl.nn.Sequential(
        (
            nl.nn.Conv2d(1, 3, 3, pad=1), nl.nn.BatchNorm(3), nl.nn.Elementwise(nl.nn.activation("relu")),
            nl.nn.Conv2d(3, 2, 1), nl.nn.GlobalAvgPool(), nl.nn.Dense(2, 2),
        ),
        shape=(1, 5, 5),
    )  # fmt: skip
    objective = nl.nn.Objective(network, nl.nn.SoftmaxCrossEntropy())
    params, x = network.init(0, np.ones(1)), rng.standard_normal((10, 1, 5, 5))
    batch = (x, np.arange(10) % 2)
    for options in ({}, {"bias": "separate"}, {"layers": "all"}):
        opt = DSGD(p=3.0, orth=orth, **options)
        new, _, infos = descend(opt, objective, params, batch, 20)
        assert float(objective.at(new, batch).loss) < infos[0].loss
    with pytest.raises(ValueError, match=r"no bounds .* module 0 is Conv2d and it is neither"):
        DSGD().init(params, objective)


REFUSED = {
    "relu": ((5, 4, 3), ("relu", "identity"), "layer 0 has the activation relu; expected one with bounded"),
    "softplus and squares": ((5, 4, 3), ("softplus", "identity"), "layer 0 has the unbounded activation softplus, so the slope"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_guarantee_is_refused_with_the_reason(numpy_backend, name):
    *net, words = REFUSED[name]
    objective, params, batch = problem(numpy_backend, *net)
    with pytest.raises(ValueError, match=words):
        DSGD().init(params, objective)
    with pytest.raises(ValueError, match=words):
        DSGD().step(params, nl.optim.dsgd.State(), objective, batch)
    assert descend(DSGD(p=10.0), objective, params, batch, 2)[2][1].accepted


def test_unbounded_inputs_have_no_bound(numpy_backend):
    objective, params, _ = problem(numpy_backend, *NETS["softplus and softmax"])
    with pytest.raises(ValueError, match=r"inputs is 'bound' and layer 1 has unbounded inputs \(softplus\)"):
        DSGD(inputs="bound").init(params, objective)


def test_a_fused_network_is_refused():
    objective = nl.nn.Objective(nl.nn.TwoLayer(3, 8, "tanh"), nl.nn.SquaredLoss())
    with pytest.raises(ValueError, match=r"no bounds .*: the network is a TwoLayer"):
        DSGD().init(objective.network.init(0, np.ones(1)), objective)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("q", 3), ("lr", 0.0), ("lr", 2.0), ("lr", -1.0), ("form", "mini"), ("layers", "one"), ("inputs", "all"), ("bias", True),
        ("delta", -1.0), ("orth", "qr"), ("ns_steps", -1), ("polish", 1.5), ("p", 0.0), ("p", (1.0, -1.0)),
        ("p", 1e200), ("p", 1e-170), ("p", (1.0, 1e200)), ("p", True), ("q", True), ("lr", True), ("delta", False), ("sharp", 1),
        ("prune", None), ("verify", "yes"),
    ],
)  # fmt: skip
def test_a_field_outside_its_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} is "):
        dataclasses.replace(DSGD(), **{field: value})


def test_fields_that_do_not_go_together_are_named(numpy_backend):
    with pytest.raises(ValueError, match="orth is 'newton_schulz' and q is 1; expected q = 2"):
        DSGD(orth="newton_schulz", q=1)
    with pytest.raises(ValueError, match=r"lr is 1.0; expected a number in \(0, 1\) in the stochastic form, such as 0.5"):
        DSGD(form="stochastic")
    objective, params, batch = problem(numpy_backend, *NETS["softmax"])
    with pytest.raises(ValueError, match="p holds 3 numbers; expected 2, one per block"):
        DSGD(p=(1.0, 1.0, 1.0)).init(params, objective)
    opt = DSGD(lr=nl.steps.StepDecay(1.0, 0.5, 2))
    assert [info.guarantee / info.scores[info.layer] ** 2 for info in descend(opt, objective, params, batch, 4)[2]] == [
        pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.375), pytest.approx(0.375)
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"lr is 3\.0"):
        DSGD(lr=lambda t: 3.0).step(params, opt.init(params, objective), objective, batch)


def test_several_p_are_a_tuple():
    with pytest.raises(ValueError, match=r"p is \[1.0, 2.0\]; expected a positive number or a tuple of them"):
        DSGD(p=[1.0, 2.0])


def test_infinity_may_be_a_word(numpy_backend):
    case = problem(numpy_backend, *NETS["softmax"])
    a, b = (descend(DSGD(q=q), *case, 3)[0] for q in ("inf", math.inf))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_delta_is_added_under_the_root(numpy_backend):
    case = problem(numpy_backend, *NETS["softmax"])
    p, larger = (np.array(descend(DSGD(delta=delta), *case, 1)[2][0].p) for delta in (0.0, 1.0))
    np.testing.assert_allclose(larger, np.sqrt(p**2 + 1))


# ------------------------------------------------------------------------------------------------------- the stochastic form


def test_the_stochastic_inequality_holds_at_every_mini_batch(numpy_backend, rng):
    """f(new) <= f - (lr/2) (1 - lr) ||g||² + (lr/2) ||n||² for the whole data, whatever the error n of the gradient."""
    steps = 0
    for q, net in itertools.product(QS, ("softmax", "three layers of sigmoid", "linear output")):
        objective, params, (x, y) = problem(numpy_backend, *NETS[net], n=40)
        lr = 0.5
        opt = DSGD(q=q, lr=lr, form="stochastic", inputs="bound", prune=False)
        batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)]
        state = opt.warm_start(params, opt.init(params, objective), objective, batches)
        for t in range(30):
            rows = rng.permutation(40)[:8]
            whole, part = objective.at(params, (x, y)), objective.at(params, (x[rows], y[rows]))
            params, state, info = opt.step(params, state, objective, (x[rows], y[rows]), t)
            error = [a - b for a, b in zip(part.grads(), whole.grads(), strict=True)]
            n = max(nl.linalg.dual_norm(E, q) / p for E, p in zip(error, info.p, strict=True))
            after = float(objective.at(params, (x, y)).loss)
            assert after <= float(whole.loss) - info.guarantee + lr / 2 * n**2 + 1e-14
            assert info.guarantee == pytest.approx(lr / 2 * (1 - lr) * max(info.scores) ** 2)
            steps += 1
    assert steps == 270


def test_a_warm_start_knows_the_first_layers_inputs(numpy_backend):
    objective, params, (x, y) = problem(numpy_backend, *NETS["linear output"], n=24)
    opt = DSGD(form="stochastic", lr=0.5, inputs="bound")
    batches = [(x[:16], y[:16]), (x[16:], y[16:])]
    state = opt.warm_start(params, opt.init(params, objective), objective, batches)
    assert state.seen.inputs[0] == pytest.approx(np.mean(np.sum(x**2, axis=1) + 1))
    _, after, warm = opt.step(params, state, objective, batches[1])
    assert after.seen.inputs[0] == state.seen.inputs[0]
    _, larger = sorted(batches, key=lambda batch: np.sum(batch[0] ** 2) / len(batch[0]))
    assert np.mean(np.sum(larger[0] ** 2, axis=1) + 1) > state.seen.inputs[0]
    assert opt.step(params, state, objective, larger)[1].seen.inputs[0] == state.seen.inputs[0]  # the mean, not the maximum
    assert warm.p == pytest.approx(
        DSGD(inputs="bound", sharp=False).step(params, opt.init(params, objective), objective, (x, y))[2].p, rel=0.2
    )
    assert DSGD().warm_start(params, opt.init(params, objective), objective, batches) == opt.init(params, objective)
    with pytest.raises(ValueError, match="batches is empty"):
        opt.warm_start(params, opt.init(params, objective), objective, [])


def test_the_range_of_targets_is_that_of_all_batches(numpy_backend):
    objective, params, (x, y) = problem(numpy_backend, *NETS["one layer of tanh"], n=24)
    opt = DSGD(form="stochastic", lr=0.5)
    batches = [(x[i : i + 6], y[i : i + 6]) for i in range(0, 24, 6)]
    warm = opt.warm_start(params, opt.init(params, objective), objective, batches)
    cold = opt.init(params, objective)
    for t, batch in enumerate(batches):
        params, cold, _ = opt.step(params, cold, objective, batch, t)
    for state in (warm, cold):
        assert (state.seen.targets.low, state.seen.targets.high) == (y.min(), y.max())


def test_without_a_warm_start_sizes_only_grow(numpy_backend):
    objective, params, (x, y) = problem(numpy_backend, *NETS["linear output"], n=24)
    opt, seen = DSGD(form="stochastic", lr=0.5), []
    state = opt.init(params, objective)
    for t in range(8):
        rows = slice(3 * t, 3 * t + 3)
        params, state, _ = opt.step(params, state, objective, (x[rows], y[rows]), t)
        seen.append(state.seen)
    assert all(a <= b for one, two in itertools.pairwise(seen) for a, b in zip(one.inputs, two.inputs, strict=True))
    assert seen[-1].inputs[0] == pytest.approx(max(np.mean(np.sum(x[i : i + 3] ** 2, axis=1) + 1) for i in range(0, 24, 3)))
    np.testing.assert_array_equal(seen[-1].targets.sizes, np.abs(y).max(axis=0, keepdims=True))


# --------------------------------------------------------------------------------------------------------- state and costs


def test_the_state_comes_back_from_a_checkpoint(numpy_backend, tmp_path):
    """Norms are left out, and computed again to the bit."""
    objective, params, batch = problem(numpy_backend, *NETS["softmax"])
    opt = DSGD(form="stochastic", lr=0.5)
    half, state, _ = descend(opt, objective, params, batch, 3)
    archive.write(tmp_path / "c.npz", {"params": half, "state": state})
    back = archive.read(tmp_path / "c.npz")["state"]
    assert back.norms is None
    assert back.seen.inputs == state.seen.inputs
    a, b = (descend(opt, objective, half, batch, 3, one)[0] for one in (state, back))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_whole_batches_need_no_memory_of_the_data(numpy_backend):
    assert descend(DSGD(), *problem(numpy_backend, *NETS["linear output"]), 2)[1].seen is None


def test_norms_of_weights_that_stay_are_not_computed_again(numpy_backend):
    objective, params, batch = problem(numpy_backend, *NETS["three layers of sigmoid"])
    params, batch, opt = wrap(params), wrap(batch), DSGD(prune=False)
    state, seen = opt.init(params, objective), []
    for _ in range(3):
        with count() as tally:
            new, state, info = opt.step(params, state, objective, batch)
        seen.append((tally.calls["svdvals"] - 3, info.layer))
        params = new
    assert seen[0][0] == 2
    assert [calls for calls, _ in seen[1:]] == [1 if layer > 0 else 0 for _, layer in seen[:-1]]


@pytest.mark.parametrize("options", [{"q": 1}, {"q": math.inf}, {"orth": "newton_schulz"}, {}])
def test_norms_are_not_taken_for_those_of_another_kind(numpy_backend, rng, options):
    """The middle layer stays as it is; its singular values are equal, so that all its norms and bounds differ."""
    objective, params, batch = problem(numpy_backend, *NETS["three layers of sigmoid"])
    params[1][:, :4] = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    for before in (DSGD(), DSGD(orth="newton_schulz")):
        later, state, _ = descend(before, objective, params, batch, 2)
        opt = DSGD(**options)
        known, fresh = (opt.step(later, one, objective, batch)[2].p for one in (state, opt.init(later, objective)))
        assert known == fresh


def test_weights_changed_in_between_are_noticed(numpy_backend):
    """Even in place, which nothing here does: the norms that the guarantee needs are those of the weights as they are."""
    objective, params, batch = problem(numpy_backend, *NETS["softmax"])
    params, state, _ = descend(DSGD(), objective, params, batch, 1)
    params[1][...] *= 3.0
    known, fresh = (DSGD().step(params, one, objective, batch)[2].p for one in (state, DSGD().init(params, objective)))
    assert known == fresh


def test_verification_costs_one_forward_pass(numpy_backend):
    objective, params, batch = problem(numpy_backend, *NETS["softmax"])
    for verify in (False, True):
        counted = nl.nn.Counted(objective)
        opt = DSGD(verify=verify)
        opt.step(params, opt.init(params, objective), counted, batch)
        assert counted.calls == {"forward": 1 + verify, "backward": 1}
