"""arXiv:2202.04124: the numbers of other codes, closed forms against slow ones, exact limits, schedules, edge cases."""

import numpy as np
import pytest

import nearlin as nl
from nearlin import _array
from nearlin.curvature.mini_blocks import blend_outer, sample_moment
from nearlin.experiments import archive
from nearlin.nn import BatchNorm, Conv2d, Dense, Flatten, GraphNetwork, Objective, Sequential, SoftmaxCrossEntropy, SquaredLoss
from nearlin.nn.layers import Trace
from nearlin.optim import MiniBlockFisher
from tests.optim.replay import Replay, batch, mlp, oracle, parameters, warm_batches
from tests.optim.replay import labels as drawn

RELEASED = {"mbfrepo_mbf_mlp_asis": "chunk", "mbfrepo_mbf_mlp_neuronavg": "out"}


def close(be, got, want, rtol=1e-8, atol=1e-10):
    np.testing.assert_allclose(be.numpy(got), want, rtol=be.tol(rtol), atol=be.tol(atol))


# ----------------------------------------------------------------------------------------------- the numbers of other codes


def replayed(be, name, layout, steps):
    """The optimizer and the run of one file: parameters, state and info after the warm start and after every step."""
    data = oracle(name)
    opt = MiniBlockFisher(
        lr=float(data["hp_lr"]), damping=float(data["hp_damping"]), layout=layout, weight_decay=float(data["hp_weight_decay"]),
        statistics_every=int(data["hp_T1"]), inverse_every=int(data["hp_T2"]),
    )  # fmt: skip
    objective = Replay(mlp(), [drawn(be, y) for y in data["warm_sampled_targets"]])
    params = parameters(be, objective.layers, data, "init")
    state = opt.warm_start(params, opt.init(params, objective), objective, warm_batches(be, data))
    path = [(params, state, None)]
    for rows in data["batch_index"][:steps]:
        path.append(opt.step(*path[-1][:2], objective, batch(be, data, rows)))
    return data, objective.layers, path


@pytest.mark.parametrize(("name", "layout"), RELEASED.items())
def test_runs_of_the_authors_code_are_reproduced(be, name, layout):
    steps = 8 if be.name.startswith("numpy") else 3
    data, layers, (start, *path) = replayed(be, name, layout, steps)
    for i, layer in enumerate(start[1].layers):
        close(be, layer.F, data[f"FW{i}_warm"])
    for t, (params, state, info) in enumerate(path):
        assert info.loss == pytest.approx(float(data[f"loss_step{t}"]), rel=be.tol(1e-10))
        for i, (W, want) in enumerate(zip(params, parameters(numpy_like(), layers, data, f"step{t}"), strict=True)):
            close(be, W, want)
            close(be, state.layers[i].F, data[f"FW{i}_step{t}"])


def numpy_like():
    """Something that `parameters` can make NumPy arrays with."""
    return type("Host", (), {"array": staticmethod(lambda a, dtype=None: np.asarray(a))})


def test_the_other_layout_does_not_reproduce_them(numpy_backend):
    data, layers, path = replayed(numpy_backend, "mbfrepo_mbf_mlp_asis", "out", 1)
    want = parameters(numpy_backend, layers, data, "step0")
    assert max(np.abs(a - b).max() for a, b in zip(path[1][0], want, strict=True)) > 1e-4


# ------------------------------------------------------------------------------------------- closed forms of given numbers

NO_PENALTY = {"penalised": lambda self, grads: grads, "check_unweighted": lambda self, method: None}

DERIVED = {  # layout, averaged, statistic -> block, direction
    ("out", False, "sample"): ("F_out_persample", "dir_out_persample"),
    ("out", True, "sample"): ("F_out_persample_avg", "dir_out_persample_avg"),
    ("in", False, "sample"): ("F_in_persample", None),
    ("in", True, "sample"): ("F_in_persample_avg", "dir_in_persample_avg"),
    ("out", True, "batch"): ("F_out_batch_avg", "dir_out_batch_avg"),
    ("in", True, "batch"): ("F_in_batch_avg", "dir_in_batch_avg"),
}


class Given:
    """An objective of one layer with a given trace."""

    def __init__(self, spec, trace, samples):
        self.layers, self._trace, self._samples = (spec,), trace, samples

    def at(self, params, batch):
        traces = (self._trace,)
        grads = tuple(trace.grad() / self._samples for trace in traces)
        methods = {"data_grads": lambda self, targets=None: grads, "traces": lambda self, targets=None: traces, **NO_PENALTY}
        return type("Point", (), {"samples": self._samples, "loss": 1.0, "params": params, **methods})()


def one_step(be, spec, trace, samples, **fields):
    """F and the direction of the first step."""
    opt = MiniBlockFisher(lr=1.0, **fields)
    params = (be.array(np.zeros(spec.shape)),)
    objective = Given(spec, trace, samples)
    (W,), state, _ = opt.step(params, opt.init(params, objective), objective, None)
    return be.numpy(state.layers[0].F), -be.numpy(W)


@pytest.mark.parametrize(("layout", "average", "statistic"), DERIVED)
def test_dense_blocks_are_those_derived_by_brute_force(be, layout, average, statistic):
    data = oracle("derived_blocks_and_kfac")
    spec, trace = nl.nn.LayerSpec("dense", 3, 4), nl.nn.Trace(be.array(data["a"]), be.array(data["g"]), True)
    fields = {"layout": layout, "average": average, "statistic": statistic, "damping": float(data["lam"])}
    F, direction = one_step(be, spec, trace, 7, **fields)
    block, wanted = DERIVED[layout, average, statistic]
    np.testing.assert_allclose(F, data[block], atol=be.tol(1e-12))
    if wanted:
        np.testing.assert_allclose(direction, data[wanted], atol=be.tol(1e-10))


@pytest.mark.parametrize(("statistic", "suffix"), [("batch", "batch"), ("sample", "persample")])
def test_kernel_blocks_are_those_derived_by_brute_force(be, statistic, suffix):
    data = oracle("derived_blocks_and_kfac")
    spec = Conv2d(2, 2, 3, pad=1, bias=False).spec
    trace = nl.nn.ConvTrace(be.array(data["conv_x"]), be.array(data["conv_dz"]), spec)
    F, direction = one_step(be, spec, trace, 3, statistic=statistic, damping=float(data["lam"]))
    np.testing.assert_allclose(F, data[f"conv_F_{suffix}"].reshape(4, 9, 9), atol=be.tol(1e-10))
    np.testing.assert_allclose(direction.reshape(2, 2, 9), data[f"conv_dir_{suffix}"], atol=be.tol(1e-10))


# ---------------------------------------------------------------------------------------------------- against slow versions


def sample_gradients(objective, params, batch):
    """Per-sample gradients of every layer, one backward pass each; samples must not be coupled."""
    x, y = batch
    singles = [objective.at(params, (x[i : i + 1], y[i : i + 1])).grads() for i in range(len(x))]
    return [np.stack(layer) for layer in zip(*singles, strict=True)]


def cut(M, spec, layout):
    """The mini-blocks of one matrix, one at a time."""
    if spec.kind == "conv":
        return [M[f, c * spec.entries : (c + 1) * spec.entries] for f in range(spec.out) for c in range(spec.inp)]
    if layout == "chunk":
        flat = M.ravel()
        return [flat[i : i + spec.out] for i in range(0, flat.size, spec.out)]
    return list(M if layout == "out" else M.T)


def dense_blocks(gradients, spec, layout, statistic):
    """Every block (blocks, k, k), by loops."""
    if statistic == "batch":
        return np.stack([np.outer(v, v) for v in cut(gradients.mean(axis=0), spec, layout)])
    per_sample = [[np.outer(v, v) for v in cut(G, spec, layout)] for G in gradients]
    return np.mean(per_sample, axis=0)


def convolutional(stride=2, pad=1):
    """Two convolutions, 3 x 3 and 1 x 1, and two dense layers on 2 x 5 x 5 images."""
    relu = nl.nn.Elementwise(nl.nn.activation("tanh"))
    side = (5 + 2 * pad - 3) // stride + 1
    modules = (
        Conv2d(2, 3, 3, stride=stride, pad=pad), relu, Conv2d(3, 4, 1, bias=False), relu, Flatten(),
        Dense(4 * side * side, 5, bias=False), relu, Dense(5, 3),
    )  # fmt: skip
    return Objective(Sequential(modules, shape=(2, 5, 5)), SoftmaxCrossEntropy())


def images(rng, n=6, classes=3):
    return rng.standard_normal((n, 2, 5, 5)), rng.integers(0, classes, n)


def on(be, params, data):
    x, y = data
    return tuple(be.array(W) for W in params), (be.array(x), drawn(be, y))


@pytest.mark.parametrize("statistic", ["batch", "sample"])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("layout", ["out", "in", "chunk"])
def test_blocks_and_direction_are_those_of_loops(numpy_backend, rng, layout, average, statistic):
    objective, data = convolutional(), images(rng)
    params = objective.network.init(1, np.empty(0))
    opt = MiniBlockFisher(lr=1.0, damping=0.01, layout=layout, average=average, statistic=statistic)
    new, state, _ = opt.step(params, opt.init(params, objective), objective, data)
    gradients = sample_gradients(objective, params, data)
    for W, V, layer, G, spec in zip(params, new, state.layers, gradients, objective.layers, strict=True):
        blocks = dense_blocks(G, spec, layout, statistic)
        F = blocks.mean(axis=0) if average and spec.kind == "dense" else blocks
        np.testing.assert_allclose(layer.F, F, atol=1e-12)
        parts = cut(G.mean(axis=0), spec, layout)
        direction = [np.linalg.solve((F if F.ndim == 2 else F[b]) + 0.01 * np.eye(len(v)), v) for b, v in enumerate(parts)]
        np.testing.assert_allclose(np.concatenate(cut(W - V, spec, layout)), np.concatenate(direction), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("statistic", ["batch", "sample"])
def test_convolutions_step_alike_on_every_backend(be, numpy_backend, rng, statistic):
    objective, data = convolutional(), images(rng)
    host = objective.network.init(1, np.empty(0))
    opt = MiniBlockFisher(lr=1e-3, damping=0.1, statistic=statistic, statistics_every=1, inverse_every=2)
    ends = []
    for backend in (be, numpy_backend):
        params, moved = on(backend, host, data)
        state = opt.init(params, objective)
        for t in range(3):
            params, state, _ = opt.step(params, state, objective, moved, key=t)
        ends.append([backend.numpy(W) for W in params])
    for got, want in zip(*ends, strict=True):
        np.testing.assert_allclose(got, want, atol=be.tol(1e-10))


@pytest.mark.parametrize("statistic", ["batch", "sample"])
@pytest.mark.parametrize("layout", ["out", "in", "chunk"])
def test_the_averaged_block_is_the_mean_of_the_blocks(numpy_backend, rng, layout, statistic):
    objective = Objective(nl.nn.MLP((6, 5, 4)), SquaredLoss())
    params, data = objective.network.init(0, np.empty(0)), (rng.standard_normal((9, 6)), rng.standard_normal((9, 4)))
    states = []
    for average in (True, False):
        opt = MiniBlockFisher(layout=layout, average=average, statistic=statistic)
        states.append(opt.step(params, opt.init(params, objective), objective, data)[1])
    for mean, every in zip(states[0].layers, states[1].layers, strict=True):
        np.testing.assert_allclose(mean.F, every.F.mean(axis=0), atol=1e-14)
        assert np.abs(every.F - mean.F).max() > 1e-3


def test_one_block_for_a_whole_layer_is_the_natural_gradient_of_the_empirical_fisher(numpy_backend, rng):
    """One linear layer with one output: its only mini-block is the layer."""
    objective = Objective(Sequential((Dense(6, 1),)), SquaredLoss())
    params, (x, y) = (
        objective.network.init(0, np.empty(0)),
        (rng.standard_normal((20, 6)) * np.logspace(0, -2, 6), rng.standard_normal(20)),
    )
    opt = MiniBlockFisher(lr=1.0, damping=1e-3, statistic="sample", layout="out")
    (W,), _, _ = opt.step(params, opt.init(params, objective), objective, (x, y))
    point = objective.at(params, (x, y))
    J, r = point.jacobian().to_dense(), point.residual
    weighted = r[:, None] * J
    fisher = weighted.T @ weighted / 20
    natural = np.linalg.solve(fisher + 1e-3 * np.eye(7), J.T @ r / 20)
    np.testing.assert_allclose(params[0] - W, natural[None, :], rtol=1e-9)
    diagonal = (J.T @ r / 20) / (np.diag(fisher) + 1e-3)
    assert np.linalg.norm(diagonal - natural) > 0.1 * np.linalg.norm(natural)


def test_a_kernel_of_one_pixel_follows_the_scalar_rule(numpy_backend, rng):
    """kernel 1: θ ← θ - lr v / (F + damping) with F the average of g²."""
    objective, data = Objective(Sequential((Conv2d(2, 3, 1, bias=False), Flatten()), shape=(2, 2, 2)), SquaredLoss()), None
    data = (rng.standard_normal((5, 2, 2, 2)), rng.standard_normal((5, 12)))
    params = objective.network.init(0, np.empty(0))
    opt = MiniBlockFisher(lr=0.01, damping=0.1, statistics_every=1, inverse_every=1, start="zero")
    state, F, v, W = opt.init(params, objective), 0.0, 0.0, params[0]
    for _ in range(4):
        g = objective.at((W,), data).grads()[0]
        v, F = 0.9 * v + g, 0.9 * F + 0.1 * g * g
        W = W - 0.01 * v / (F + 0.1)
        params, state, _ = opt.step(params, state, objective, data)
        np.testing.assert_allclose(params[0], W, rtol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_per_sample_graph_blocks_sum_over_nodes(numpy_backend, rng, bias):
    S, H = rng.random((7, 7)), rng.standard_normal((7, 3))
    objective = Objective(GraphNetwork(S, H, (4, 2), bias=bias), SoftmaxCrossEntropy())
    params, data = objective.network.init(0, np.empty(0)), (np.array([1, 4, 6]), np.array([0, 1, 1]))
    opt = MiniBlockFisher(statistic="sample")
    _, state, info = opt.step(params, opt.init(params, objective), objective, data)
    for layer, trace in zip(state.layers, objective.at(params, data).traces(), strict=True):
        a, g = trace.homogeneous(), trace.signals
        want = sum(np.outer(a[i], a[i]) * (g[i] @ g[i]) / g.shape[1] for i in range(7)) / 3
        np.testing.assert_allclose(layer.F, want, atol=1e-12)
    assert info.accepted


# ------------------------------------------------------------------------------------------------------------- convergence


def contraction(rng, lr, steps, damping=0.05):
    """An affine model with full-rank Jacobian, its K blocks, and residual norms of the idealised method."""
    n, widths = 6, (3, 5, 4, 2)
    blocks = [rng.standard_normal((n, k)) @ np.diag(np.logspace(0, -1, k)) for k in widths]
    J, r, norms = np.concatenate(blocks, axis=1), rng.standard_normal(n), []
    inverses = [nl.linalg.block_inverse(B.T @ B / n, damping).inverse for B in blocks]
    for _ in range(steps):
        norms.append(np.linalg.norm(r))
        r = r - lr * sum(B @ (X @ (B.T @ r / n)) for B, X in zip(blocks, inverses, strict=True))
    largest = max(np.linalg.norm(B, 2) ** 2 for B in blocks)
    mu = np.linalg.eigvalsh(J @ J.T)[0] / (largest + n * damping)
    return np.array(norms), mu, len(widths)


@pytest.mark.parametrize("seed", range(5))
def test_the_idealised_method_contracts_an_affine_model_at_the_rate_of_its_theorem(seed):
    """|r_k| <= (1 - lr mu)^k |r_0| for lr <= 1/K, mu = λ_min(J Jᵀ) / (max_b |J_b|² + n damping)."""
    norms, mu, K = contraction(np.random.default_rng(seed), lr=1 / 4, steps=60)
    assert K == 4
    assert np.all(norms <= (1 - mu / K) ** np.arange(60) * norms[0] * (1 + 1e-12))
    assert norms[-1] < 0.9 * norms[0]


def test_a_step_size_past_the_bound_does_not_contract():
    assert contraction(np.random.default_rng(0), lr=2.5, steps=60)[0][-1] > 1e3


# ---------------------------------------------------------------------------------------------------- schedules, edge cases


@pytest.mark.parametrize(
    ("T1", "T2", "early", "inverses"),
    [
        (2, 25, True, [*range(0, 25, 2), 25, 50, 75]),
        (10, 100, True, [0, 10, 20, 30, 40, 50, 60, 70]),
        (1, 20, True, [*range(21), 40, 60]),
        (2, 25, False, [0, 25, 50, 75]),
    ],
)
def test_statistics_and_inverses_keep_their_schedule(numpy_backend, rng, T1, T2, early, inverses):
    objective = Objective(nl.nn.MLP((2, 1)), SquaredLoss())
    params, data = objective.network.init(0, np.empty(0)), (rng.standard_normal((4, 2)), rng.standard_normal(4))
    opt = MiniBlockFisher(statistics_every=T1, inverse_every=T2, early=early)
    state, refreshed, statistics = opt.init(params, objective), [], []
    for t in range(76 if T2 != 100 else 80):
        before = state.statistics
        params, state, info = opt.step(params, state, objective, data)
        refreshed += [t] * info.refreshed
        statistics += [t] * (state.statistics - before)
    assert refreshed == inverses
    assert statistics == list(range(0, t + 1, T1))


@pytest.mark.parametrize(("start", "weights"), [("mean", (1, 1 / 2, 1 / 3)), ("first", (1, 0.1, 0.1)), ("zero", (0.1, 0.1, 0.1))])
def test_without_a_warm_start_the_statistics_begin_as_asked(numpy_backend, rng, start, weights):
    objective = Objective(nl.nn.MLP((3, 2)), SquaredLoss())
    params, data = objective.network.init(0, np.empty(0)), (rng.standard_normal((4, 3)), rng.standard_normal((4, 2)))
    opt = MiniBlockFisher(lr=0.01, start=start, statistics_every=1)
    state, F = opt.init(params, objective), 0.0
    for w in weights:
        (g,) = objective.at(params, data).grads()
        old = 1 - w if start != "first" or w < 1 else 0.0
        F = old * F + w * g.T @ g / 2
        params, state, _ = opt.step(params, state, objective, data)
        np.testing.assert_allclose(state.layers[0].F, F, rtol=1e-12)


def test_the_warm_start_is_the_mean_over_batches_at_drawn_labels(numpy_backend, rng):
    objective = Objective(nl.nn.MLP((3, 2)), SquaredLoss())
    params = objective.network.init(0, np.empty(0))
    batches = [(rng.standard_normal((4, 3)), rng.standard_normal((4, 2))) for _ in range(3)]
    drawn = [rng.standard_normal((4, 2)) for _ in batches]
    opt = MiniBlockFisher()
    state = opt.warm_start(params, opt.init(params, objective), Replay(objective, drawn), batches)
    gradients = [objective.at(params, (x, y)).grads()[0] for (x, _), y in zip(batches, drawn, strict=True)]
    np.testing.assert_allclose(state.layers[0].F, np.mean([g.T @ g / 2 for g in gradients], axis=0), rtol=1e-12)
    assert (state.statistics, state.warm) == (3, True)
    with pytest.raises(ValueError, match="batches is empty"):
        opt.warm_start(params, state, objective, [])


def test_biases_of_kernels_and_normalisations_follow_the_diagonal_rules(numpy_backend, rng):
    modules = (Conv2d(2, 3, 3), BatchNorm(3), Flatten(), Dense(27, 2))
    objective = Objective(Sequential(modules, shape=(2, 5, 5)), SquaredLoss())
    start, data = objective.network.init(0, np.empty(0)), (rng.standard_normal((8, 2, 5, 5)), rng.standard_normal((8, 2)))
    for diagonal in ("released", "adam"):
        params, opt = start, MiniBlockFisher(lr=1e-3, diagonal=diagonal, diag_scale=0.5)
        state, W, m, s = opt.init(params, objective), start[1], 0.0, 0.0
        for t in range(1, 5):
            g = objective.at(params, data).grads()[1]
            m = 0.9 * m + 0.1 * g
            s = 0.999 * s + 0.001 * (m if diagonal == "released" else g) ** 2
            top = m if diagonal == "released" else m / (1 - 0.9**t)
            W = W - 0.5e-3 * top / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
            params, state, _ = opt.step(params, state, objective, data)
            np.testing.assert_allclose(params[1], W, rtol=1e-9)
            if t == 1:
                np.testing.assert_allclose(start[1] - W, 0.5e-3 * np.sign(g), rtol=1e-5)  # as in Adam
        assert state.layers[0].mean.shape == (3,)


def edge_network():
    """One input channel, a 1 x 1 convolution, one output."""
    relu = nl.nn.Elementwise(nl.nn.activation("relu"))
    modules = (Conv2d(1, 2, 1), relu, BatchNorm(2), Conv2d(2, 1, 2), Flatten(), Dense(9, 1))
    return Objective(Sequential(modules, shape=(1, 4, 4)), SquaredLoss())


@pytest.mark.parametrize("statistic", ["batch", "sample"])
@pytest.mark.parametrize("case", ["plain", "dead", "one sample", "constant"])
def test_edge_cases_stay_finite(be, rng, case, statistic):
    """One input, one output, 1 x 1 kernels; a dead layer, a batch of one, constant pixels."""
    objective = edge_network()
    x, y = rng.standard_normal((1 if case == "one sample" else 5, 1, 4, 4)), None
    y = rng.standard_normal(len(x))
    x = 0 * x if case == "constant" else x
    params = [W for W in objective.network.init(0, np.empty(0))]
    params[0] = -1e3 + 0 * params[0] if case == "dead" else params[0]
    x = np.abs(x) if case == "dead" else x
    params, data = on(be, params, (x, y))
    opt = MiniBlockFisher(lr=1e-4, statistic=statistic)
    state = opt.init(params, objective)
    for t in range(4):
        params, state, info = opt.step(params, state, objective, data, key=t)
        assert info.accepted
        assert info.kept == ""
    assert all(np.all(np.isfinite(be.numpy(W))) for W in params)


class Poisoned(Given):
    """An objective whose gradient is what the batch says."""

    def at(self, params, batch):
        methods = {"data_grads": lambda self, targets=None: (batch,), **NO_PENALTY}
        return type("Point", (), {"samples": 1, "loss": 1.0, "params": params, **methods})()


@pytest.mark.parametrize("average", [True, False])
def test_a_statistic_that_overflows_is_left_out_and_said(numpy_backend, average):
    spec = nl.nn.LayerSpec("dense", 2, 2)
    objective, opt = Poisoned(spec, None, 1), MiniBlockFisher(lr=1e-200, damping=1.0, statistics_every=1, average=average)
    params, fine = (np.ones((2, 3)),), np.arange(6.0).reshape(2, 3)
    params, before, _ = opt.step(params, opt.init(params, objective), objective, fine)
    _, state, info = opt.step(params, before, objective, 1e170 * fine)
    assert np.array_equal(state.layers[0].F, before.layers[0].F)
    assert (info.accepted, info.kept, state.kept) == (True, "layer 0: the statistic holds NaN or Inf, left out", 1)


def test_a_block_with_nan_keeps_its_inverse_and_is_named(numpy_backend):
    spec = nl.nn.LayerSpec("dense", 2, 2)
    objective, opt = Poisoned(spec, None, 1), MiniBlockFisher(average=False, statistics_every=2, inverse_every=3, early=False)
    params, g = (np.ones((2, 3)),), np.arange(6.0).reshape(2, 3)
    params, state, _ = opt.step(params, opt.init(params, objective), objective, g)
    (layer,) = state.layers
    F = 2 * layer.F
    F[1, 0, 0] = np.nan
    _, after, info = opt.step(params, state._replace(t=3, layers=(layer._replace(F=F),)), objective, g)
    assert np.array_equal(after.layers[0].inverse[1], layer.inverse[1])
    np.testing.assert_allclose(after.layers[0].inverse[0], np.linalg.inv(F[0] + 1e-3 * np.eye(3)), rtol=1e-9)
    assert (info.accepted, after.kept) == (True, 1)
    assert info.kept == "holding NaN or Inf, previous inverse kept: layer 0, block 1 (of step 0)"
    F[0, 0, 0] = np.inf
    assert opt.step(params, state._replace(t=3, layers=(layer._replace(F=F),)), objective, g)[1].kept == 2


def test_a_warm_start_that_overflows_says_where(numpy_backend):
    class Drawing(Poisoned):
        def at(self, params, batch):
            point = super().at(params, batch)
            point.draw = lambda key: None
            return point

    objective, opt, params = Drawing(nl.nn.LayerSpec("dense", 2, 2), None, 1), MiniBlockFisher(), (np.ones((2, 3)),)
    with pytest.raises(ArithmeticError, match=r"batch 2 of the warm start: layer 0: the statistic holds NaN or Inf"):
        opt.warm_start(params, opt.init(params, objective), objective, [np.ones((2, 3)), np.full((2, 3), 1e170)])


def test_a_step_that_is_not_finite_changes_nothing(numpy_backend):
    spec = nl.nn.LayerSpec("dense", 2, 2)
    objective, opt = Poisoned(spec, None, 1), MiniBlockFisher(statistics_every=1)
    params = (np.ones((2, 3)),)
    _, state, _ = opt.step(params, opt.init(params, objective), objective, np.ones((2, 3)))
    new, after, info = opt.step(params, state, objective, np.full((2, 3), np.nan))
    assert new is params
    assert after is state
    assert info.reason == "rejected: the step is not finite"


@pytest.mark.parametrize(
    ("field", "value"),
    [("layout", "row"), ("statistic", "mean"), ("start", "pass"), ("diagonal", "sgd"), ("damping", 0.0), ("diag_beta2", 1.0),
     ("diag_epsilon", 0.0), ("diag_scale", -1.0), ("statistics_every", 0), ("inverse_every", 2.0), ("decay", 1.0)],
)  # fmt: skip
def test_a_field_outside_its_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is "):
        MiniBlockFisher(**{field: value})


# -------------------------------------------------------------------------------------------------------------------- cost


def test_a_state_survives_a_checkpoint(numpy_backend, rng, tmp_path):
    objective, data = edge_network(), (rng.standard_normal((5, 1, 4, 4)), rng.standard_normal(5))
    params, opt = objective.network.init(0, np.empty(0)), MiniBlockFisher(lr=1e-4)
    _, state, _ = opt.step(params, opt.init(params, objective), objective, data)
    archive.write(tmp_path / "state.npz", state)
    again = opt.step(params, archive.read(tmp_path / "state.npz"), objective, data)
    assert all(np.array_equal(a, b) for a, b in zip(again[0], opt.step(params, state, objective, data)[0], strict=True))


@pytest.mark.parametrize("layout", ["out", "in", "chunk", "conv"])
def test_blocks_of_samples_and_of_mini_blocks_are_all_there(rng, layout, monkeypatch):
    """Σ v vᵀ over samples, and old F + new v vᵀ, where a walk takes one of them at a time; of 13 kernels on two positions."""
    a, g = rng.standard_normal((6, 2)), rng.standard_normal((6, 4))
    if layout == "conv":
        layer, x, dy = Conv2d(2, 13, 2), rng.standard_normal((6, 2, 2, 3)), rng.standard_normal((6, 13, 1, 2))
        trace, kept = layer.trace(x, dy), 768  # bytes: the patches of all samples, but not the gradients of two
        patches = np.stack([x[:, :, :, 0:2], x[:, :, :, 1:3]], axis=-1)
        v = np.einsum("not,ncijt->nocij", dy[:, :, 0, :], patches).reshape(6, 26, 4)
    else:
        layer, trace, kept = Dense(2, 4), Trace(a, g, True), 1
        G = g[:, :, None] * np.concatenate([a, np.ones((6, 1))], axis=1)[:, None, :]
        v = {"out": G, "in": np.swapaxes(G, 1, 2), "chunk": G.reshape(6, 3, 4)}[layout]
    monkeypatch.setattr(_array.blocks, "CPU_BLOCK_BYTES", kept)
    found = sample_moment(trace, layer.spec, layout, False)
    np.testing.assert_allclose(found, np.einsum("nbi,nbj->bij", v, v), rtol=0, atol=1e-12)
    blended = blend_outer(found, v[0], 0.25, 0.5)
    np.testing.assert_allclose(blended, 0.25 * found + 0.5 * np.einsum("bi,bj->bij", v[0], v[0]), rtol=0, atol=1e-12)
