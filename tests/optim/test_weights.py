"""Sample weights: a row of weight k is k rows, in what the objective says and in the steps of every method that takes them."""

import numpy as np
import pytest

import nearlin as nl
from nearlin import nn
from nearlin.experiments.batches import Batches

o = nl.optim
COUNTS = np.array([1, 2, 3, 1, 0, 2, 1, 3, 1])
SAMPLE = ("exact", "sketch", "class-averaged", "per-class", "frozen", "nystrom", "cg")
PARAMETER = ("kfac", "diagonal", "parameter-cg")
LOSSES = {"squared": nn.SquaredLoss(), "sigmoid": nn.SigmoidCrossEntropy(), "softmax": nn.SoftmaxCrossEntropy()}


def convolutional():
    tanh = nn.Elementwise(nn.activation("tanh"))
    return nn.Sequential((nn.Conv2d(1, 2, 2), tanh, nn.Flatten(), nn.Dense(8, 2)), shape=(1, 3, 3))


NETWORKS = {"factors": nn.MLP((3, 12, 2), "tanh"), "passes": nn.MLP((3, 12, 6), "tanh"), "convolution": convolutional()}
NETWORKS |= {"wide": nn.TwoLayer(3, 64), "wide-outputs": nn.TwoLayer(3, 64, outputs=2), "wide-tanh": nn.TwoLayer(3, 64, "tanh")}


def pair(name, loss="squared", l2=0.0):
    """An objective, parameters, the weighted batch (mean 1), and the batch with its rows repeated."""
    draw, net = np.random.default_rng(0), NETWORKS[name]
    x = draw.standard_normal((len(COUNTS), *((1, 3, 3) if name == "convolution" else (3,))))
    y = draw.random((len(x), net.outputs))
    if loss == "softmax":
        y = draw.integers(0, net.outputs, len(x))
    rows = np.repeat(np.arange(len(x)), COUNTS)
    return nn.Objective(net, LOSSES[loss], l2=l2), net.init(1, x), (x, y, COUNTS / COUNTS.mean()), (x[rows], y[rows])


def apart(a, b):
    return max(np.max(np.abs(V - W)) for V, W in zip(a, b, strict=True))


def runs(opt, problem, steps=3):
    """Parameters and info after some steps on the weighted and on the repeated rows."""
    objective, start, *batches = problem
    ended = []
    for batch in batches:
        params, state = start, opt.init(start, objective)
        for t in range(steps):
            params, state, info = opt.step(params, state, objective, batch, key=t)
        ended.append((params, info))
    return ended


# ---------------------------------------------------------------------------------------------------------------- the objective


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["factors", "passes", "convolution", "wide", "wide-tanh"])
def test_the_objective_of_weighted_rows_is_that_of_repeated_ones(name, loss):
    if name.startswith("wide") and loss != "squared":
        pytest.skip("the wide network is for least squares")
    objective, params, batch, repeated = pair(name, loss, l2=0.1)
    one, many = (objective.at(params, b) for b in (batch, repeated))
    assert float(one.loss) == pytest.approx(float(many.loss), rel=1e-13)
    assert apart(one.grads(), many.grads()) < 1e-14
    K, L = (point.jacobian(weighted=True).to_dense() for point in (one, many))
    n, N = one.samples, many.samples
    np.testing.assert_allclose(K.T @ K / n, L.T @ L / N, atol=1e-13)
    np.testing.assert_allclose(K.T @ one.residual / n, L.T @ many.residual / N, atol=1e-13)


@pytest.mark.parametrize("name", ["factors", "passes", "convolution", "wide", "wide-outputs", "wide-tanh"])
def test_products_and_gram_matrices_are_those_of_scaled_rows(name):
    """Rows of the plain Jacobian, times √w here."""
    objective, params, batch, _ = pair(name)
    J = objective.at(params, batch).jacobian(weighted=True)
    plain = objective.at(params, batch[:2]).jacobian(weighted=True)
    c = objective.network.outputs
    rows = np.repeat(np.sqrt(batch[2]), c)[:, None] * plain.to_dense()
    draw = np.random.default_rng(1)
    v, u = tuple(draw.standard_normal(W.shape) for W in params), draw.standard_normal(len(rows))
    flat = lambda params: np.concatenate([W.ravel() for W in params])  # noqa: E731
    np.testing.assert_allclose(J.matvec(v), rows @ flat(v), atol=1e-12)
    np.testing.assert_allclose(flat(J.rmatvec(u)), u @ rows, atol=1e-12)
    np.testing.assert_allclose(J.gram_matvec(u), rows @ (rows.T @ u), atol=1e-12)
    np.testing.assert_allclose(J.gram(), rows @ rows.T, atol=1e-12)
    grams = [rows[k::c] @ rows[k::c].T for k in range(c)]
    for found, want in zip(J.class_grams(), grams, strict=True):
        np.testing.assert_allclose(found, want, atol=1e-12)
    np.testing.assert_allclose(J.mean_gram(), sum(grams) / c, atol=1e-12)
    if name in ("wide", "wide-outputs"):
        s = np.sqrt(batch[2])
        np.testing.assert_allclose(J.kernel_gram(), s[:, None] * s * plain.kernel_gram(), atol=1e-13)
        assert J.mean_square() == pytest.approx(np.sum(rows**2) / len(rows), rel=1e-12)
    assert np.max(np.abs(J.gram() - plain.gram())) > 0.1


# ------------------------------------------------------------------------------------------------------------------ Gauss-Newton


CASES = [("factors", plan) for plan in (*SAMPLE, *PARAMETER)] + [("passes", plan) for plan in ("exact", "sketch", "kfac")]
CASES += [("convolution", plan) for plan in ("exact", "kfac", "diagonal")] + [("wide-tanh", "exact")]
SLOW = (("passes", "kfac"), ("passes", "sketch"), ("convolution", "kfac"))
CASES += [(name, plan) for name in ("wide", "wide-outputs") for plan in ("exact", "sketch", "kernel", "cg")]


@pytest.mark.parametrize(
    ("name", "plan"), [pytest.param(*case, marks=pytest.mark.nightly if case in SLOW else ()) for case in CASES]
)
@pytest.mark.parametrize("l2", [0.0, pytest.param(0.02, marks=pytest.mark.nightly)])
def test_gauss_newton_takes_a_row_of_weight_k_as_k_rows(name, plan, l2):
    """1e-10 on the exact route, 1e-5 elsewhere; the first damping of the wide network, tr(K Kᵀ)/n², knows n, and is given."""
    opt = o.GaussNewton(plan=plan, epsilon=1e-9, maxiter=500, damping=0.05 if name.startswith("wide") else None)
    (one, info), (many, other) = runs(opt, pair(name, l2=l2))
    assert info.side == ("parameter" if plan in PARAMETER else "sample")
    assert apart(one, many) < (1e-10 if plan == "exact" else 1e-5)
    assert (info.loss, info.new_loss) == pytest.approx((other.loss, other.new_loss), rel=1e-5)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("plan", ["exact", "per-class", "kfac", "parameter-cg"])
def test_cross_entropies_too(plan, loss):
    opt = o.GaussNewton(plan=plan, epsilon=1e-9, maxiter=500, damping=0.05)
    (one, _), (many, _) = runs(opt, pair("factors", loss))
    assert apart(one, many) < (1e-10 if plan == "exact" else 1e-5)


@pytest.mark.parametrize("plan", ["exact", "cg", "kfac"])
def test_without_the_root_it_is_another_step(plan, monkeypatch):
    """Negative control: w in the place of √w in the residual and in the rows, and no weights at all."""
    opt, problem = o.GaussNewton(plan=plan, epsilon=1e-9, maxiter=500, damping=0.05), pair("factors")
    right = runs(opt, problem)[1][0]
    objective, params, batch, repeated = problem
    assert apart(runs(opt, (objective, params, batch[:2], repeated))[0][0], right) > 1e-3
    monkeypatch.setattr(nn.Point, "root_weights", property(lambda point: point.weights))
    assert apart(runs(opt, problem)[0][0], right) > 1e-3


def test_kronecker_factors_and_diagonals_are_those_of_repeated_rows():
    """K-FAC's A and the diagonal are averages with the weights; with one output their G depends on no signs."""
    objective, params, batch, repeated = pair("wide")
    net = nn.MLP((3, 5, 1), "tanh")
    objective, params = nn.Objective(net, nn.SquaredLoss()), net.init(0, batch[0])
    found = [nl.curvature.kronecker_curvature(objective.at(params, b), net.layers, 0) for b in (batch, repeated)]
    for one, many in zip(*(curvature.layers for curvature in found), strict=True):
        np.testing.assert_allclose(one.sA, many.sA, atol=1e-13)
        np.testing.assert_allclose(one.sG, many.sG, atol=1e-13)
    found = [nl.curvature.diagonal_curvature(objective.at(params, b), net.layers, 0) for b in (batch, repeated)]
    for one, many in zip(*(curvature.layers for curvature in found), strict=True):
        np.testing.assert_allclose(one.values, many.values, atol=1e-13)


# ------------------------------------------------------------------------------------------------------------- the other methods

TAKING = [
    o.SGD(lr=0.1), o.Adam(lr=0.01), o.AdamW(lr=0.01), o.AdaGrad(lr=0.1), o.RMSprop(lr=0.01), o.Muon(lr=0.05),
    o.Shampoo(lr=0.05), o.DSGD(p=3.0), o.KFAC(fisher="type-2", lr=0.05),
    o.KFAC(fisher="type-2", lr=0.05, inverse="exact"), o.KFAC(fisher="type-2", lr=0.05, inverse="rescaled"),
]  # fmt: skip


@pytest.mark.parametrize("opt", TAKING, ids=lambda opt: type(opt).__name__)
@pytest.mark.parametrize("name", ["factors", pytest.param("convolution", marks=pytest.mark.nightly)])
def test_other_methods_take_it_so_too(opt, name):
    tight = 1e-5 if getattr(opt, "inverse", "") == "rescaled" else 1e-9  # bases of null spaces
    (one, _), (many, _) = runs(opt, pair(name, "sigmoid"), steps=4)
    assert apart(one, many) < tight
    plain = runs(opt, (*pair(name, "sigmoid")[:2], pair(name, "sigmoid")[2][:2]), steps=4)[0][0]
    assert apart(plain, many) > 1e-4


def test_the_statistics_of_soap_are_those_of_repeated_rows():
    """Its steps depend on bases of null spaces, which are up to rounding."""
    objective, params, *batches = pair("factors", "sigmoid")
    states = [o.SOAP().step(params, o.SOAP().init(params, objective), objective, batch, 0)[1] for batch in batches]
    for one, many in zip(*(state.modes for state in states), strict=True):
        assert all(apart((H,), (K,)) < 1e-14 for H, K in zip(one.grams, many.grams, strict=True))


REFUSING = [
    o.NearLinearGaussNewton(), o.GramGaussNewton(), o.NaturalGradient(), o.KFAC(), o.KFAC(fisher="empirical"), o.KBFGS(),
    o.KBFGSL(), o.MiniBlockFisher(), o.TNT(), o.Ginger(), o.QNG(), o.DSGD(),
]  # fmt: skip


@pytest.mark.parametrize("opt", REFUSING, ids=lambda opt: type(opt).__name__)
def test_methods_without_them_say_so(opt):
    objective, params, batch, _ = pair("factors")
    said = rf"the batch has sample weights, and {type(opt).__name__}.* takes none; expected \(x, y\), or GaussNewton"
    with pytest.raises(ValueError, match=said):
        opt.step(params, opt.init(params, objective), objective, batch, 0)
    if hasattr(opt, "warm_start") and not isinstance(opt, o.DSGD):
        with pytest.raises(ValueError, match=said):
            opt.warm_start(params, opt.init(params, objective), objective, [batch], 0)


def test_every_method_is_among_them():
    known = {type(opt).__name__ for opt in (*TAKING, *REFUSING)} | {"GaussNewton", "SOAP"}
    assert known == {name for name in o.__all__ if hasattr(getattr(o, name), "step")}


# ------------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("weights", "error", "said"),
    [
        (np.full(9, 1 + 1e-6), ValueError, "w has mean 1.000001; expected"),
        (np.full(9, 2.0), ValueError, r"w has mean 2; expected sample weights of at least 0 and mean 1, such as w / mean\(w\)"),
        (np.array([-1.0, 3, *[1] * 7]), ValueError, "w holds -1; expected sample weights of at least 0"),
        (np.ones(8), ValueError, "w has 8 entries, x has 9 rows"),
        (np.ones((9, 1)), ValueError, r"w has shape \(9, 1\); expected 1 dimension"),
        (np.ones(9, dtype=np.float32), nl.BackendError, "w has float32"),
        (np.ones(9, dtype=int), TypeError, "w has dtype int64"),
        (np.array([np.nan, *[1.0] * 8]), ValueError, "w holds 1 NaN or Inf"),
    ],
)
def test_weights_that_are_none_are_named(weights, error, said):
    objective, params, (x, y, _), _ = pair("factors")
    with pytest.raises(error, match=said):
        objective.at(params, (x, y, weights))


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_roots_of_weighted_rows(loss):
    """H = C Cᵀ with √w in C, also of some of the samples."""
    objective, params, batch, _ = pair("factors", loss)
    root, plain = (objective.at(params, b).root for b in (batch, batch[:2]))
    v = np.random.default_rng(1).standard_normal((9, 2))
    np.testing.assert_allclose(root.hessian(v), batch[2][:, None] * plain.hessian(v), atol=1e-14)
    np.testing.assert_allclose(root.hessian(v), root.apply(root.adjoint(v)), atol=1e-14)
    np.testing.assert_allclose(root[slice(2, 5)].apply(v[2:5]), root.apply(v)[2:5], atol=1e-14)


def test_what_counts_takes_weights_along():
    objective, params, batch, _ = pair("factors")
    assert float(nn.Counted(objective).at(params, batch).loss) == float(objective.at(params, batch).loss)


def test_rounding_of_the_mean_is_no_error():
    objective, params, (x, y, _), _ = pair("factors")
    w = np.random.default_rng(0).random(9).astype(np.float32)
    params, x, y = tuple(W.astype(np.float32) for W in params), x.astype(np.float32), y.astype(np.float32)
    assert np.isfinite(float(objective.at(params, (x, y, w / w.mean())).loss))


def test_samples_that_are_coupled_have_no_weights():
    net = nn.Sequential((nn.Dense(3, 4), nn.BatchNorm(4), nn.Dense(4, 2)))
    x, y, w = pair("factors")[2]
    objective, params = nn.Objective(net, nn.SquaredLoss()), net.init(0, x)
    with pytest.raises(ValueError, match="batch normalisation by batch statistics couples samples, in which sample weights"):
        objective.at(params, (x, y, w))
    running = objective.observe(objective.at(params, (x, y)).statistics).evaluation()
    assert float(running.at(params, (x, y, w)).loss) > 0


def test_float32_stays_float32():
    objective, params, batch, _ = pair("wide")
    params, batch = (tuple(a.astype(np.float32) for a in v) for v in (params, batch))
    for plan in ("exact", "sketch", "kernel", "cg"):
        opt = o.GaussNewton(plan=plan)
        (W,), _, info = opt.step(params, opt.init(params, objective), objective, batch, 0)
        assert (W.dtype, info.accepted) == (np.float32, True)


@pytest.mark.parametrize("plan", ["exact", "kfac"])
def test_all_backends_take_the_same_weighted_step(be, plan):
    objective, params, batch, _ = pair("factors")
    opt = o.GaussNewton(plan=plan, damping=0.05, epsilon=1e-6)
    want = opt.step(params, opt.init(params, objective), objective, batch, 0)[0]
    start, moved = tuple(map(be.array, params)), tuple(map(be.array, batch))
    got = opt.step(start, opt.init(start, objective), objective, moved, 0)[0]
    assert apart([be.numpy(W) for W in got], want) < (1e-6 if be.eps < 1e-10 else 1e-3)


def test_mini_batches_take_their_weights_along():
    x, y, w = pair("factors")[2]
    batches = Batches((x, y, w), 4, 0)
    for batch in (*map(batches, range(4)), *batches.in_order()):
        rows = [int(np.flatnonzero((x == row).all(1))[0]) for row in batch[0]]
        np.testing.assert_allclose(batch[2], w[rows] / w[rows].mean(), rtol=1e-14)
    zeros = np.array([9.0, *[0] * 8])
    with pytest.raises(ValueError, match="all 4 sample weights of a mini-batch are 0; expected larger batches"):
        list(Batches((x, y, zeros), 4, 0).in_order())
