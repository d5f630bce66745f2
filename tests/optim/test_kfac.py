"""arXiv:1503.05671: the numbers of other codes, exact limits, invariances, schedules, edge cases."""

import numpy as np
import pytest

import nearlin as nl
from nearlin.experiments import archive
from nearlin.nn import BatchNorm, Conv2d, Dense, Flatten, GraphNetwork, Objective, Sequential, SoftmaxCrossEntropy, SquaredLoss
from nearlin.optim import KFAC
from tests.optim.replay import Replay, batch, cnn, labels, mlp, oracle, parameters, warm_batches


def close(be, got, want, rtol=1e-8, atol=1e-10):
    np.testing.assert_allclose(be.numpy(got), want, rtol=be.tol(rtol), atol=be.tol(atol))


# ----------------------------------------------------------------------------------------------- the numbers of other codes


class Accumulated(Replay):
    """Drawn labels whose gradients add up with those at the true labels, as in two of the authors' codes, once training began."""

    training = False

    def at(self, params, batch):
        point = super().at(params, batch)
        if self.training:
            traces = point.traces
            added = lambda a, b: a._replace(signals=a.signals + b.signals)  # noqa: E731
            point.traces = lambda targets: tuple(map(added, traces(targets=targets), traces()))
        return point


FILES = {
    "kbfgsrepo_kfac": (mlp, Replay, 7),
    "tntrepo_kfac_mlp": (mlp, Accumulated, 8),
    "tntrepo_kfac_cnn_freshgrad": (cnn, Replay, 8),
}


def optimizer(name, data):
    """The method of one of the authors' codes."""
    if name == "kbfgsrepo_kfac":
        return KFAC(
            lr=float(data["hp_lr"]), damping=float(data["hp_damping_lambda"]), form="average", pi=False,
            statistics_every=1, inverse_every=int(data["hp_inverse_freq"]),
        )  # fmt: skip
    return KFAC(
        lr=float(data["hp_lr"]), damping=float(data["hp_damping"]), weight_decay=float(data["hp_weight_decay"]), pi=False,
        statistics_every=int(data["hp_T1"]), inverse_every=int(data["hp_T2"]),
    )  # fmt: skip


def replayed(be, name, steps, replay=None):
    """The run of one file: parameters, state and info after the warm start and after every step."""
    data, (make, given, _) = oracle(name), FILES[name]
    opt, drawn = optimizer(name, data), [*data["warm_sampled_targets"], *data["step_sampled_targets"]]
    objective = (replay or given)(make(), [labels(be, y) for y in drawn], float(data.get("hp_tau", 0.0)))
    params = parameters(be, objective.layers, data, "init")
    state = opt.warm_start(params, opt.init(params, objective), objective, warm_batches(be, data))
    objective.training = True
    path = [(params, state, None)]
    for rows in data["batch_index"][:steps]:
        path.append(opt.step(*path[-1][:2], objective, batch(be, data, rows)))
    return data, objective.layers, path


def check_factors(be, layers, state, data, when):
    for i, (layer, spec) in enumerate(zip(state.layers, layers, strict=True)):
        if spec.kind != "norm":
            close(be, layer.A, data[f"A{i}_{when}"])
            close(be, layer.G, data[f"G{i}_{when}"])


@pytest.mark.parametrize("name", FILES)
def test_runs_of_the_authors_codes_are_reproduced(be, name, numpy_backend):
    data, layers, (start, *path) = replayed(be, name, FILES[name][2] if be.name.startswith("numpy") else 3)
    check_factors(be, layers, start[1], data, "warm")
    for t, (params, state, info) in enumerate(path):
        assert info.loss == pytest.approx(float(data[f"loss_step{t}"]), rel=be.tol(1e-10))
        check_factors(be, layers, state, data, f"step{t}")
        for W, want in zip(params, parameters(numpy_backend, layers, data, f"step{t}"), strict=True):
            close(be, W, want)


def test_gradients_that_do_not_add_up_give_other_numbers(numpy_backend):
    data, _, path = replayed(numpy_backend, "tntrepo_kfac_mlp", 1, Replay)
    assert np.abs(path[1][1].layers[0].G - data["G0_step0"]).max() > 1e-4


# ------------------------------------------------------------------------------------------- closed forms of given numbers


class Given:
    """An objective of one layer with a given trace."""

    def __init__(self, spec, trace, samples):
        self.layers, self._trace, self._samples = (spec,), trace, samples

    def at(self, params, batch):
        trace = self._trace
        methods = {
            "grads": lambda self: (trace.grad() / self.samples,),
            "traces": lambda self, targets: (trace,),
            "draw": lambda self, key: None,
            "root_weights": None,
            "check_unweighted": lambda self, method: None,
        }
        return type("Point", (), {"samples": self._samples, "loss": 1.0, "params": params, **methods})()


def one_step(be, spec, trace, samples, **fields):
    """The layer's state and the direction of the first step."""
    opt, params = KFAC(lr=1.0, **fields), (be.array(np.zeros(spec.shape)),)
    objective = Given(spec, trace, samples)
    (W,), state, _ = opt.step(params, opt.init(params, objective), objective, None)
    return state.layers[0], -be.numpy(W)


DIRECTIONS = {
    "kfac_dir_pi": {"pi": True},
    "kfac_dir_nopi": {"pi": False},
    "kfac_dir_exactdamping": {"inverse": "exact"},
    "ekfac_dir": {"inverse": "rescaled"},
}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_directions_are_those_derived_by_brute_force(be, name):
    data = oracle("derived_blocks_and_kfac")
    spec, trace = nl.nn.LayerSpec("dense", 3, 4), nl.nn.Trace(be.array(data["a"]), be.array(data["g"]), True)
    layer, direction = one_step(be, spec, trace, 7, damping=float(data["lam"]), **DIRECTIONS[name])
    close(be, layer.A, data["kfac_A"], atol=1e-12)
    close(be, layer.G, data["kfac_G"], atol=1e-12)
    np.testing.assert_allclose(direction, data[name], atol=be.tol(1e-10))


@pytest.mark.parametrize(("t", "pi", "same"), [(7.0, True, True), (7.0, False, False)])
def test_balanced_damping_does_not_see_how_the_product_is_split(numpy_backend, rng, t, pi, same):
    """Inputs times √t, output gradients over √t: the same gradient and the same A ⊗ G."""
    spec, a, g = (
        nl.nn.LayerSpec("dense", 3, 4, bias=False),
        rng.standard_normal((9, 4)) * [1, 0.5, 0.1, 0.01],
        rng.standard_normal((9, 3)),
    )
    traces = [nl.nn.Trace(a, g, False), nl.nn.Trace(t**0.5 * a, g / t**0.5, False)]
    first, second = (one_step(numpy_backend, spec, trace, 9, pi=pi, damping=0.1)[1] for trace in traces)
    change = np.linalg.norm(first - second) / np.linalg.norm(first)
    assert change < 1e-12 if same else change > 0.05


# -------------------------------------------------------------------------------------------------------------- exact limits


def natural_direction(objective, params, batch, labels, damping, grads):
    """(F + damping I)⁻¹ g per layer, F = (1/n) Σ of outer products of the samples' gradients at ``labels``."""
    x, _ = batch
    rows = [[G.ravel() for G in objective.at(params, (x[i : i + 1], labels[i : i + 1])).grads()] for i in range(len(x))]
    out = []
    for layer, G in zip(zip(*rows, strict=True), grads, strict=True):
        V = np.stack(layer)
        out.append(np.linalg.solve(V.T @ V / len(V) + damping * np.eye(V.shape[1]), G.ravel()).reshape(G.shape))
    return out


@pytest.mark.parametrize("inverse", ["exact", "rescaled"])
def test_one_sample_makes_the_product_exact(numpy_backend, rng, inverse):
    """(a aᵀ) ⊗ (d dᵀ) is the outer product of that sample's gradient."""
    objective = Objective(nl.nn.MLP((4, 5, 3)), SquaredLoss())
    params, data = objective.network.init(0, np.empty(0)), (rng.standard_normal((1, 4)), rng.standard_normal((1, 3)))
    label = objective.at(params, data).outputs + rng.standard_normal((1, 3))
    opt = KFAC(lr=1.0, damping=0.1, inverse=inverse)
    new, _, _ = opt.step(params, opt.init(params, objective), Replay(objective, [label]), data)
    want = natural_direction(objective, params, data, label, 0.1, objective.at(params, data).grads())
    for W, V, step in zip(params, new, want, strict=True):
        np.testing.assert_allclose(W - V, step, rtol=1e-9, atol=1e-12)


def linear_problem(rng, n=12, c=3):
    """One linear layer on inputs with a spectrum; labels whose residuals have the identity as second moment."""
    objective = Objective(Sequential((Dense(5, c),)), SquaredLoss())
    params = objective.network.init(0, np.empty(0))
    x, y = rng.standard_normal((n, 5)) * np.logspace(0, -2, 5), rng.standard_normal((n, c))
    outputs = objective.at(params, (x, y)).outputs
    return objective, params, (x, y), outputs + np.sqrt(c) * np.eye(c)[np.arange(n) % c]


@pytest.mark.parametrize(("inverse", "exact"), [("exact", True), ("factored", False)])
def test_a_linear_layer_with_the_squared_loss_is_solved_exactly(numpy_backend, rng, inverse, exact):
    """Its Gauss-Newton matrix is Σ a aᵀ / n ⊗ I; the roots of the damping on the factors are not λ on the product."""
    objective, params, data, drawn = linear_problem(rng)
    opt = KFAC(lr=1.0, damping=0.05, inverse=inverse)
    (W,), state, _ = opt.step(params, opt.init(params, objective), Replay(objective, [drawn]), data)
    np.testing.assert_allclose(state.layers[0].G, np.eye(3), atol=1e-12)
    point = objective.at(params, data)
    J = point.jacobian().to_dense()
    want = np.linalg.solve(J.T @ J / 12 + 0.05 * np.eye(18), J.T @ point.residual / 12).reshape(3, 6)
    error = np.linalg.norm(params[0] - W - want) / np.linalg.norm(want)
    assert error < 1e-11 if exact else error > 1e-2


def projected_fisher(objective, params, batch, drawn, basis, layer):
    """U^T F U of one layer for the samples' gradients at the drawn labels, U = U_G ⊗ U_A."""
    x, _ = batch
    V = np.stack([objective.at(params, (x[i : i + 1], drawn[i : i + 1])).grads()[layer].ravel() for i in range(len(x))])
    U = np.kron(basis.UG, basis.UA)
    return U.T @ (V.T @ V / len(V)) @ U


def convolutional(stride=2, pad=1, bias=True):
    """Two convolutions, 3 x 3 with a stride and 1 x 1, and two dense layers on 2 x 5 x 5 images."""
    phi = nl.nn.Elementwise(nl.nn.activation("tanh"))
    side = (5 + 2 * pad - 3) // stride + 1
    modules = (
        Conv2d(2, 3, 3, stride=stride, pad=pad, bias=bias), phi, Conv2d(3, 4, 1, bias=False), phi, Flatten(),
        Dense(4 * side * side, 5), phi, Dense(5, 3),
    )  # fmt: skip
    return Objective(Sequential(modules, shape=(2, 5, 5)), SoftmaxCrossEntropy())


def images(rng, n=6):
    return rng.standard_normal((n, 2, 5, 5)), rng.integers(0, 3, n)


def test_the_scaling_is_the_best_one_in_the_eigenbasis(numpy_backend, rng):
    """S is the diagonal of the Fisher matrix there, closest to it in the Frobenius norm; the product of eigenvalues is not."""
    objective, data = convolutional(), images(rng)
    params, drawn = objective.network.init(1, np.empty(0)), rng.integers(0, 3, 6)
    opt = KFAC(inverse="rescaled")
    _, state, _ = opt.step(params, opt.init(params, objective), Replay(objective, [drawn]), data)
    for i, layer in enumerate(state.layers):
        F = projected_fisher(objective, params, data, drawn, layer.inverse, i)
        np.testing.assert_allclose(np.diag(F), layer.S.ravel(), atol=1e-12)
        distance = lambda S: np.linalg.norm(F - np.diag(S.ravel()))  # noqa: B023, E731
        assert distance(layer.S) < distance(layer.inverse.scaling())
        assert distance(layer.S) < distance(1.01 * layer.S)


def test_the_curvature_in_a_new_basis_is_estimated_anew(numpy_backend, rng):
    """S of a step with new eigenvectors is that of its batch alone; of a step without, an average with the S before."""
    objective, opt = Objective(nl.nn.MLP((4, 5, 3)), SquaredLoss()), KFAC(inverse="rescaled", inverse_every=3, early=False)
    params = objective.network.init(0, np.empty(0))
    state, labels = opt.init(params, objective), rng.standard_normal((5, 9, 3))
    for t in range(5):
        data, before = (rng.standard_normal((9, 4)), rng.standard_normal((9, 3))), state
        traces = objective.at(params, data).traces(targets=labels[t])
        params, state, info = opt.step(params, state, Replay(objective, [labels[t]]), data)
        assert info.refreshed == (t % 3 == 0)
        for i, (layer, trace) in enumerate(zip(state.layers, traces, strict=True)):
            S = layer.inverse.second_moments(trace.homogeneous(), trace.signals)
            mixed = S if t % 3 == 0 else 0.9 * before.layers[i].S + (1 - 0.9) * S
            np.testing.assert_allclose(layer.S, mixed, rtol=1e-12)
            assert t == 0 or np.abs(0.9 * before.layers[i].S + (1 - 0.9) * S - S).max() > 0.1 * S.max()


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (2, 1), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_factors_are_those_of_loops(numpy_backend, rng, stride, pad, bias):
    """A sums over positions and is a mean over samples; G is a mean over both."""
    objective, data = convolutional(stride, pad, bias), images(rng)
    params = objective.network.init(1, np.empty(0))
    drawn = rng.integers(0, 3, 6)
    opt = KFAC()
    _, state, _ = opt.step(params, opt.init(params, objective), Replay(objective, [drawn]), data)
    trace, layer = objective.at(params, data).traces(targets=drawn)[0], state.layers[0]
    x, d = np.pad(data[0], ((0, 0), (0, 0), (pad, pad), (pad, pad))), trace.signals
    A, G, side = 0.0, 0.0, d.shape[2]
    for i, row, column in np.ndindex(6, side, side):
        patch = x[i, :, row * stride : row * stride + 3, column * stride : column * stride + 3].ravel()
        a = np.append(patch, 1.0) if bias else patch
        A, G = A + np.outer(a, a) / 6, G + np.outer(d[i, :, row, column], d[i, :, row, column]) / (6 * side**2)
    np.testing.assert_allclose(layer.A, A, atol=1e-12)
    np.testing.assert_allclose(layer.G, G, atol=1e-12)


@pytest.mark.parametrize("inverse", ["factored", "exact", "rescaled"])
def test_convolutions_step_alike_on_every_backend(be, numpy_backend, rng, inverse):
    objective, (x, y) = convolutional(), images(rng)
    host, ends = objective.network.init(1, np.empty(0)), []
    T1, T2 = (1, 1) if inverse == "rescaled" else (2, 3)  # S depends on how eigenvectors to the eigenvalue 0 are chosen
    opt = KFAC(lr=0.01, damping=0.1, inverse=inverse, statistics_every=T1, inverse_every=T2)
    for backend in (be, numpy_backend):
        params, data = tuple(backend.array(W) for W in host), (backend.array(x), labels(backend, y))
        state = opt.init(params, objective)
        for t in range(4):
            params, state, _ = opt.step(params, state, objective, data, key=t)
        ends.append([backend.numpy(W) for W in params])
    for got, want in zip(*ends, strict=True):
        np.testing.assert_allclose(got, want, atol=be.tol(1e-9))


@pytest.mark.parametrize("inverse", ["factored", "exact", "rescaled"])
def test_graph_layers_sum_over_nodes(numpy_backend, rng, inverse):
    objective = Objective(GraphNetwork(rng.random((7, 7)), rng.standard_normal((7, 3)), (4, 2)), SoftmaxCrossEntropy())
    params, data = objective.network.init(0, np.empty(0)), (np.array([1, 4, 6]), np.array([0, 1, 1]))
    drawn = np.array([1, 0, 1])
    opt = KFAC(inverse=inverse)
    _, state, info = opt.step(params, opt.init(params, objective), Replay(objective, [drawn]), data)
    for layer, trace in zip(state.layers, objective.at(params, data).traces(targets=drawn), strict=True):
        a, d = trace.homogeneous(), trace.signals
        np.testing.assert_allclose(layer.A, a.T @ a / 3, atol=1e-12)
        np.testing.assert_allclose(layer.G, d.T @ d / 7, atol=1e-12)
    assert info.accepted


# ---------------------------------------------------------------------------------------------------- schedules, edge cases


@pytest.mark.parametrize(
    ("T1", "T2", "early", "inverses"),
    [
        (1, 20, True, [*range(21), 40]),
        (2, 5, True, [0, 2, 4, *range(5, 45, 5)]),
        (10, 40, True, [0, 10, 20, 30, 40]),
        (2, 5, False, [*range(0, 45, 5)]),
    ],
)
@pytest.mark.parametrize("inverse", ["factored", "rescaled"])
def test_statistics_and_inverses_keep_their_schedule(numpy_backend, rng, T1, T2, early, inverses, inverse):
    objective = nl.nn.Counted(Objective(nl.nn.MLP((2, 1)), SquaredLoss()))
    params, data = objective.network.init(0, np.empty(0)), (rng.standard_normal((4, 2)), rng.standard_normal(4))
    opt = KFAC(statistics_every=T1, inverse_every=T2, early=early, inverse=inverse)
    state, refreshed, statistics, backwards = opt.init(params, objective), [], [], 0
    for t in range(45):
        before = state.statistics
        params, state, info = opt.step(params, state, objective, data, key=t)
        refreshed += [t] * info.refreshed
        statistics += [t] * (state.statistics - before)
        backwards += 2 if statistics[-1:] == [t] or (inverse == "rescaled" and info.refreshed) else 1
    assert refreshed == inverses
    assert statistics == list(range(0, 45, T1))
    assert objective.calls == {"forward": 45, "backward": backwards}


def test_labels_come_from_the_key_alone(numpy_backend, rng):
    objective = Objective(nl.nn.MLP((3, 2)), SquaredLoss())
    params, data = objective.network.init(0, np.empty(0)), (rng.standard_normal((4, 3)), rng.standard_normal((4, 2)))
    opt = KFAC()
    G = [opt.step(params, opt.init(params, objective), objective, data, key)[1].layers[0].G for key in (1, 1, 2)]
    assert np.array_equal(G[0], G[1])
    assert not np.allclose(G[0], G[2])


def test_the_warm_start_is_the_mean_over_batches(numpy_backend, rng):
    objective = Objective(nl.nn.MLP((3, 2)), SquaredLoss())
    params = objective.network.init(0, np.empty(0))
    batches = [(rng.standard_normal((4, 3)), rng.standard_normal((4, 2))) for _ in range(3)]
    opt = KFAC()
    state = opt.warm_start(params, opt.init(params, objective), objective, batches)
    ones = [np.concatenate([x, np.ones((4, 1))], axis=1) for x, _ in batches]
    np.testing.assert_allclose(state.layers[0].A, np.mean([a.T @ a / 4 for a in ones], axis=0), rtol=1e-12)
    with pytest.raises(ValueError, match="batches is empty"):
        opt.warm_start(params, state, objective, [])


def test_normalisations_step_along_the_momentum(numpy_backend, rng):
    objective = Objective(Sequential((Dense(3, 4), BatchNorm(4), Dense(4, 2))), SquaredLoss())
    params, data = objective.network.init(0, np.empty(0)), (rng.standard_normal((8, 3)), rng.standard_normal((8, 2)))
    opt, v, W = KFAC(lr=0.01), 0.0, params[1]
    state = opt.init(params, objective)
    for t in range(3):
        v = 0.9 * v + objective.at(params, data).grads()[1]
        W = W - 0.01 * v
        params, state, _ = opt.step(params, state, objective, data, key=t)
        np.testing.assert_allclose(params[1], W, rtol=1e-12)


@pytest.mark.parametrize("inverse", ["factored", "exact", "rescaled"])
@pytest.mark.parametrize("case", ["plain", "dead", "one sample", "constant"])
def test_edge_cases_stay_finite(be, rng, case, inverse):
    """One input, one output, 1 x 1 kernels; a dead layer, a batch of one, constant pixels."""
    relu = nl.nn.Elementwise(nl.nn.activation("relu"))
    modules = (Conv2d(1, 2, 1), relu, BatchNorm(2), Conv2d(2, 1, 2), Flatten(), Dense(9, 1))
    objective = Objective(Sequential(modules, shape=(1, 4, 4)), SquaredLoss())
    x = rng.standard_normal((1 if case == "one sample" else 5, 1, 4, 4)) * (case != "constant")
    host = list(objective.network.init(0, np.empty(0)))
    if case == "dead":
        host[0], x = -1e3 + 0 * host[0], np.abs(x)
    params, data = tuple(be.array(W) for W in host), (be.array(x), be.array(rng.standard_normal(len(x))))
    opt = KFAC(lr=1e-3, inverse=inverse, damping=0.1)
    state = opt.init(params, objective)
    for t in range(4):
        params, state, info = opt.step(params, state, objective, data, key=t)
        assert info.accepted
        assert info.kept == ""
    assert all(np.all(np.isfinite(be.numpy(W))) for W in params)


@pytest.mark.parametrize("inverse", ["factored", "exact", "rescaled"])
def test_a_statistic_that_overflows_is_left_out_and_said(numpy_backend, rng, inverse):
    spec, opt = nl.nn.LayerSpec("dense", 2, 3), KFAC(lr=1e-200, inverse=inverse)
    a, g, params = rng.standard_normal((5, 3)), rng.standard_normal((5, 2)), (np.ones((2, 4)),)
    fine, huge = (Given(spec, nl.nn.Trace(a, scale * g, True), 5) for scale in (1.0, 1e170))
    params, before, _ = opt.step(params, opt.init(params, fine), fine, None)
    _, state, info = opt.step(params, before, huge, None)
    old, new = before.layers[0], state.layers[0]
    assert np.array_equal(new.A, old.A)
    assert np.array_equal(new.G, old.G)
    assert (info.accepted, info.kept, state.kept) == (True, "layer 0: the statistic holds NaN or Inf, left out", 1)


def test_moments_in_the_basis_that_overflow_leave_those_of_before(rng):
    spec, opt = nl.nn.LayerSpec("dense", 2, 3), KFAC(lr=1e-200, inverse="rescaled", early=False)
    a, g, params = rng.standard_normal((5, 3)), rng.standard_normal((5, 2)), (np.ones((2, 4)),)
    fine, huge = (Given(spec, nl.nn.Trace(a, scale * g, True), 5) for scale in (1.0, 1e170))
    params, before, _ = opt.step(params, opt.init(params, fine), fine, None)
    _, after, _ = opt.step(params, before, huge, None)
    old, new = before.layers[0], after.layers[0]
    np.testing.assert_allclose(new.S, old.S, rtol=1e-14)
    assert np.abs(new.S - new.inverse.scaling()).max() > 1e-3 * np.abs(new.S).max()


@pytest.mark.parametrize("inverse", ["factored", "exact"])
def test_a_factor_with_nan_keeps_its_inverse(numpy_backend, rng, inverse):
    spec, opt = nl.nn.LayerSpec("dense", 2, 3), KFAC(inverse=inverse, statistics_every=2, inverse_every=3, early=False)
    trace, params = nl.nn.Trace(rng.standard_normal((5, 3)), rng.standard_normal((5, 2)), True), (np.ones((2, 4)),)
    objective = Given(spec, trace, 5)
    params, state, _ = opt.step(params, opt.init(params, objective), objective, None)
    (layer,) = state.layers
    _, after, info = opt.step(params, state._replace(t=3, layers=(layer._replace(A=np.nan * layer.A),)), objective, None)
    assert np.array_equal(after.layers[0].inverse[0], layer.inverse[0])
    assert (info.accepted, after.kept, after.layers[0].made) == (True, 1, 0)
    assert "layer 0, input factor" in info.kept
    assert "(of step 0)" in info.kept


def test_a_warm_start_that_overflows_says_where(numpy_backend, rng):
    spec, opt, params = nl.nn.LayerSpec("dense", 2, 3), KFAC(), (np.ones((2, 4)),)
    huge = Given(spec, nl.nn.Trace(rng.standard_normal((5, 3)), 1e170 * rng.standard_normal((5, 2)), True), 5)
    with pytest.raises(ArithmeticError, match=r"batch 1 of the warm start: layer 0: the statistic holds NaN or Inf"):
        opt.warm_start(params, opt.init(params, huge), huge, [None])


@pytest.mark.parametrize("inverse", ["factored", "rescaled"])
def test_a_step_that_is_not_finite_changes_nothing(numpy_backend, inverse):
    spec, opt = nl.nn.LayerSpec("dense", 2, 3), KFAC(inverse=inverse)
    lost = Given(spec, nl.nn.Trace(np.ones((5, 3)), np.full((5, 2), np.nan), True), 5)
    params = (np.ones((2, 4)),)
    state = opt.init(params, lost)
    new, after, info = opt.step(params, state, lost, None)
    assert new is params
    assert after is state
    assert info.reason == "rejected: the step is not finite"


@pytest.mark.parametrize(
    ("field", "value"),
    [("form", "mean"), ("inverse", "eigen"), ("damping", 0.0), ("pi", 1.0), ("statistics_every", 0),
     ("inverse_every", 2.0), ("decay", 1.0), ("momentum", -0.1)],
)  # fmt: skip
def test_a_field_outside_its_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is "):
        KFAC(**{field: value})


# -------------------------------------------------------------------------------------------------------------------- cost


@pytest.mark.parametrize("inverse", ["factored", "rescaled"])
def test_a_state_survives_a_checkpoint(numpy_backend, rng, inverse, tmp_path):
    objective, data = convolutional(), images(rng)
    params, opt = objective.network.init(0, np.empty(0)), KFAC(inverse=inverse, statistics_every=2, inverse_every=3, early=False)
    _, state, _ = opt.step(params, opt.init(params, objective), objective, data)
    archive.write(tmp_path / "state.npz", state)
    again = opt.step(params, archive.read(tmp_path / "state.npz"), objective, data, key=1)
    assert all(np.array_equal(a, b) for a, b in zip(again[0], opt.step(params, state, objective, data, key=1)[0], strict=True))
