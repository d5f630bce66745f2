"""Bounds of a loss's curvature in one layer, against gradients at other weights; their constants; and which chains exist."""

import dataclasses
import itertools
import math
import types

import numpy as np
import pytest

from nearlin import curvature, linalg, nn
from nearlin.nn import polynomials

QS = (1, 2, math.inf)
TANH, SIGMOID, RELU = (nn.Elementwise(nn.activation(name)) for name in ("tanh", "sigmoid", "relu"))


# ------------------------------------------------------------------------------------------------------------------ chains


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "identity"])
def test_the_constants_of_an_activation_are_the_suprema_of_its_derivatives(name):
    """Of 0, 1 and 2, by differences of the function alone."""
    phi, step = nn.activation(name), 1e-3
    z = np.arange(-40, 40, step)
    f = phi.function(z)
    slope, bend = np.diff(f) / step, np.diff(f, 2) / step**2
    sizes = [np.abs(values).max() for values in (f, slope, bend)]
    if name in ("softplus", "identity"):
        sizes[0] = np.inf
    np.testing.assert_allclose((phi.h0, phi.h1, phi.h2), sizes, rtol=1e-6, atol=1e-7)


def test_a_chain_is_the_activations_after_each_dense_layer():
    network = nn.Sequential((nn.Dense(4, 3), TANH, nn.Dense(3, 2), nn.Dense(2, 3), SIGMOID))
    assert [phi.name for phi in nn.Objective(network, nn.SquaredLoss()).chain] == ["tanh", "identity", "sigmoid"]
    assert [phi.name for phi in nn.chain(nn.MLP((4, 5, 2), "relu"))] == ["relu", "identity"]
    assert len(nn.chain(nn.autoencoder((8, 6, 3), "tanh"))) == 4


NO_CHAINS = {
    "fused": (nn.TwoLayer(3, 8), "the network is a TwoLayer"),
    "conv": (nn.Sequential((nn.Conv2d(1, 2, 3),), shape=(1, 5, 5)), "module 0 is Conv2d and it is neither"),
    "norm": (nn.Sequential((nn.Dense(4, 3), nn.BatchNorm(3), TANH)), "module 1 is BatchNorm and it is neither"),
    "activation first": (nn.Sequential((TANH, nn.Dense(4, 3)), shape=(4,)), "module 0 is Elementwise and its input is no dense"),
    "two activations": (nn.Sequential((nn.Dense(4, 3), TANH, SIGMOID)), "module 2 is Elementwise and its input is no dense"),
    "residual": (nn.Sequential((nn.Residual(nn.Sequential((nn.Dense(4, 4),))),)), "module 0 is Residual"),
    "graph": (nn.GraphNetwork(np.eye(3), np.ones((3, 2)), (4, 2), "tanh"), "the network is a GraphNetwork"),
}


@pytest.mark.parametrize("name", NO_CHAINS)
def test_other_networks_say_why_they_are_no_chain(name):
    network, words = NO_CHAINS[name]
    why = nn.Objective(network, nn.SoftmaxCrossEntropy()).chain
    assert words in why
    with pytest.raises(ValueError, match=f"no bounds of the loss's curvature: {words}"):
        curvature.check_smooth(why, nn.SquaredLoss())


def test_activations_without_bounds_are_named():
    relu, softplus, tanh, identity = map(nn.activation, ("relu", "softplus", "tanh", "identity"))
    with pytest.raises(ValueError, match="layer 1 has the activation relu"):
        curvature.check_smooth((tanh, relu), nn.SoftmaxCrossEntropy())
    with pytest.raises(ValueError, match="layer 1 has the unbounded activation softplus"):
        curvature.check_smooth((tanh, softplus, identity), nn.SquaredLoss())
    with pytest.raises(ValueError, match="layer 0 has the activation tanh; expected one with bounded first and second"):
        curvature.check_smooth((dataclasses.replace(tanh, h1=math.inf),), nn.SoftmaxCrossEntropy())
    curvature.check_smooth((softplus, tanh, identity), nn.SquaredLoss())
    curvature.check_smooth((softplus, identity), nn.SigmoidCrossEntropy())
    curvature.check_smooth((identity,), nn.SquaredLoss())


# ------------------------------------------------------------------------------------------------- constants of activations


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_a_derivative_is_the_polynomial_that_is_given(name, rng):
    phi, z = nn.activation(name), rng.standard_normal(50) * 3
    values = phi.function(z)
    np.testing.assert_allclose([polynomials.value(phi.slope, v) for v in values], phi.derivative(z), atol=1e-14)
    assert phi.low < values.min() < values.max() < phi.h0


def test_folded_constants_are_those_that_are_known():
    loss = nn.SquaredLoss()
    assert loss.folded_bounds(nn.activation("tanh"), -1, 1) == pytest.approx((1.1852, 1.2325), abs=5e-5)
    assert loss.folded_bounds(nn.activation("sigmoid"), 0, 1) == pytest.approx((0.14815, 0.07703), abs=5e-6)


@pytest.mark.parametrize(("name", "low", "high"), [("tanh", -0.3, 2.0), ("sigmoid", -1.0, 0.4), ("tanh", 0.0, 0.0)])
def test_folded_constants_are_the_largest_values(name, low, high):
    phi, a = nn.activation(name), np.linspace(-12, 12, 40_001)
    f, slope = phi.function(a), phi.derivative(a)
    curved = np.gradient(slope, a, edge_order=2)
    first = max(np.abs((f - y) * slope).max() for y in (low, high))
    second = max(np.abs(slope**2 + (f - y) * curved).max() for y in (low, high))
    assert nn.SquaredLoss().folded_bounds(phi, low, high) == pytest.approx((first, second), rel=1e-4)


@pytest.mark.parametrize(
    ("f", "low", "high", "want"),
    [
        ((0, -3, 0, 1), -2, 2, 2.0),
        ((0, -3, 0, 1), -1.5, 0.5, 2.0),
        ((-5,), 0, 1, 5.0),
        ((1, -2, 1), 0, 3, 4.0),
        ((0, 0, 0, 1), -1, 2, 8.0),
    ],
)
def test_suprema_of_polynomials(f, low, high, want):
    assert polynomials.supremum(f, low, high) == pytest.approx(want, rel=1e-14)


# ----------------------------------------------------------------------------------------------------- constants of losses


def dual(v, q):
    return np.linalg.norm(v, {1: np.inf, 2: 2, math.inf: 1}[q])


LOSSES = {
    "squared": nn.SquaredLoss(),
    "averaged": nn.SquaredLoss(average=True),
    "sigmoid": nn.SigmoidCrossEntropy(),
    "softmax": nn.SoftmaxCrossEntropy(),
}


def sample(name, rng, c):
    z, y = 3 * rng.standard_normal((1, c)), rng.uniform(0, 1, (1, c))
    return z, np.eye(c)[[rng.integers(c)]] if name == "softmax" else y


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("name", LOSSES)
def test_slopes_and_curvatures_of_losses_stay_below_their_bounds(rng, name, q):
    loss, c, seen = LOSSES[name], 4, 0.0
    for _ in range(200):
        z, y = sample(name, rng, c)
        slope = dual(loss.gradient(z, y)[0], q)
        assert slope <= loss.slope_bound(q, c, lambda z=z, y=y: np.abs(z - y)) * (1 + 1e-12)
        U = (
            np.sign(rng.standard_normal((2, c)))
            if q == math.inf
            else np.eye(c)[rng.integers(0, c, 2)]
            if q == 1
            else rng.standard_normal((2, c))
        )
        u, w = (row / np.linalg.norm(row, {1: 1, 2: 2, math.inf: np.inf}[q]) for row in U)
        curved = u @ (loss.gradient(z + 1e-5 * w, y) - loss.gradient(z - 1e-5 * w, y))[0] / 2e-5
        seen = max(seen, abs(curved))
        assert abs(curved) <= loss.curvature_bound(q, c) * (1 + 1e-6)
    assert seen > 0.2 * loss.curvature_bound(q, c)


@pytest.mark.parametrize("q", QS)
def test_curvatures_of_cross_entropies_are_reached(q):
    """Two classes of equal probability; half of them on either side for q = ∞."""
    loss, h = nn.SoftmaxCrossEntropy(), 1e-4
    z, y = (np.array([[0.0, 0.0, -40.0, -40.0]]), np.eye(4)[:1]) if q != math.inf else (np.zeros((1, 4)), np.eye(4)[:1])
    w = {1: np.array([1.0, 0, 0, 0]), 2: np.array([1.0, -1, 0, 0]) / 2**0.5, math.inf: np.array([1.0, -1, 1, -1])}[q]
    curved = w @ (loss.gradient(z + h * w, y) - loss.gradient(z - h * w, y))[0] / (2 * h)
    assert curved == pytest.approx(loss.curvature_bound(q, 4), rel=1e-6)
    bernoulli = nn.SigmoidCrossEntropy()
    w = np.ones(4) if q == math.inf else np.eye(4)[0]
    curved = w @ (bernoulli.gradient(h * w[None], y) - bernoulli.gradient(-h * w[None], y))[0] / (2 * h)
    assert curved == pytest.approx(bernoulli.curvature_bound(q, 4), rel=1e-6)


def test_the_slope_of_squares_is_that_of_the_worst_sample():
    e = np.array([[3.0, 0.0], [2.0, 2.0]])
    assert [nn.SquaredLoss().slope_bound(q, 2, lambda: e) for q in QS] == [3.0, 3.0, 4.0]
    assert nn.SquaredLoss(average=True).slope_bound(2, 2, lambda: e) == 1.5


# -------------------------------------------------------------------------------------------------- constants of layers

NETS = {
    "linear": ((4, 3), ("identity",), "squared", True),
    "tanh": ((4, 3, 3), ("tanh", "tanh"), "squared", True),
    "crude": ((4, 3, 3), ("tanh", "tanh"), "squared", False),
    "linear output": ((4, 3, 2), ("tanh", "identity"), "squared", True),
    "linear code": ((4, 3, 2, 3), ("tanh", "identity", "identity"), "squared", True),
    "averaged": ((4, 3, 3), ("tanh", "sigmoid"), "averaged", True),
    "three layers": ((3, 4, 3, 2), ("sigmoid", "tanh", "identity"), "softmax", True),
    "softplus": ((3, 4, 2), ("softplus", "identity"), "sigmoid", True),
}


def network(sizes, activations):
    pairs = zip(itertools.pairwise(sizes), activations, strict=True)
    modules = [module for (inp, out), phi in pairs for module in (nn.Dense(inp, out), nn.Elementwise(nn.activation(phi)))]
    return nn.Sequential(tuple(modules))


def lipschitz(q, objective, params, point, sharp):
    """L_i of every layer, for [W b]."""
    norms = [linalg.operator_norm(W[:, :-1], q) for W in params]
    targets = curvature.target_range(point.y)
    s = curvature.layer_constants(q, params, objective.layers, objective.chain, objective.loss, norms, targets, sharp)
    return [si * curvature.trace_input_size(trace, q, True) for si, trace in zip(s, point.traces(), strict=True)]


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("sharp", [True, False])
@pytest.mark.parametrize("top", ["tanh", "sigmoid", "identity"])
def test_a_mean_over_outputs_has_the_constants_of_the_sum_over_their_number(rng, q, sharp, top):
    """The loss is the sum's over c, and so is all of its curvature."""
    net, found = network((4, 5, 3), ("tanh", top)), {}
    x, y = rng.standard_normal((6, 4)), rng.standard_normal((6, 3))
    params = net.init(1, x)
    for average in (False, True):
        objective = nn.Objective(net, nn.SquaredLoss(average))
        found[average] = lipschitz(q, objective, params, objective.at(params, (x, y)), sharp)
    np.testing.assert_allclose(3 * np.array(found[True]), found[False], rtol=1e-12)


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("name", NETS)
def test_gradients_of_a_layer_move_less_than_its_constant_says(rng, name, q):
    """For displacements of every size, none of them in another layer; and the bound is of use: it is not always far."""
    sizes, activations, loss, sharp = NETS[name]
    objective, tightest = nn.Objective(network(sizes, activations), LOSSES[loss]), 0.0
    for trial in range(12):
        params = tuple(0.3 * 2 ** (trial % 4) * W for W in objective.network.init(trial, np.ones(1)))
        x = rng.standard_normal((1 + trial % 3, sizes[0]))
        y = np.concatenate([sample(loss, rng, sizes[-1])[1] for _ in x])
        point = objective.at(params, (x, y))
        constants, start = lipschitz(q, objective, params, point, sharp), point.grads()
        for (i, L), size in itertools.product(enumerate(constants), (1e-4, 0.3, 3.0, 30.0)):
            D = size * rng.standard_normal(params[i].shape)
            for _ in range(3 if size < 1 else 1):  # towards the direction of the largest change
                moved = objective.at((*params[:i], params[i] + D, *params[i + 1 :]), (x, y)).grads()[i] - start[i]
                ratio = linalg.dual_norm(moved, q) / linalg.operator_norm(D, q)
                assert ratio <= L * (1 + 1e-7)
                tightest = max(tightest, ratio / L)
                rho = linalg.duality_map(moved, q)[0]
                D = size * rho / linalg.operator_norm(rho, q) if np.abs(rho).max() > 0 else D
    assert tightest > 0.2


def test_a_linear_layer_under_squares_meets_its_constant(rng):
    objective = nn.Objective(network((4, 1), ("identity",)), nn.SquaredLoss())
    params, x = objective.network.init(0, np.ones(1)), rng.standard_normal((1, 4))
    point = objective.at(params, (x, np.ones((1, 1))))
    (L,) = lipschitz(2, objective, params, point, True)
    D = np.concatenate([x, [[1.0]]], axis=1)
    moved = objective.at((params[0] + D,), (x, np.ones((1, 1)))).grads()[0] - point.grads()[0]
    assert linalg.dual_norm(moved) == pytest.approx(L * linalg.operator_norm(D), rel=1e-12)


@pytest.mark.parametrize("q", QS)
def test_outputs_deviate_by_no_more_than_is_said(rng, q):
    """Whatever the lower layers: here they are drawn anew."""
    net = network((4, 3, 3, 2), ("tanh", "identity", "identity"))
    params, y = net.init(0, np.ones(1)), rng.standard_normal((5, 2))
    bound = curvature.deviation(params, net.layers, nn.chain(net), curvature.target_range(y))
    seen = 0.0
    for scale in (0.1, 1.0, 100.0):
        for seed in range(200):
            lower = scale * np.random.default_rng(seed).standard_normal(params[0].shape)
            off = np.abs(net.forward((lower, *params[1:]), rng.standard_normal((5, 4)))[0] - y)
            assert np.all(off <= bound)
            seen = max(seen, (off / bound).max())
    assert seen > 0.8


def test_biases_above_are_a_part_of_what_outputs_deviate_by():
    net = network((2, 2, 2), ("tanh", "identity"))
    params = np.zeros((2, 3)), np.array([[1.0, -2.0, -5.0], [0.5, 0.0, 7.0]])
    bound = curvature.deviation(params, net.layers, nn.chain(net), curvature.target_range(np.array([[1.0, -1.0]])))
    np.testing.assert_allclose(bound, [[3 + 5 + 1, 0.5 + 7 + 1]])


def with_inputs(x):
    """What is asked of a point with these inputs."""
    return types.SimpleNamespace(samples=x.shape[0], input_sum=lambda f: f(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("q", QS)
def test_input_sizes_are_mean_squares_of_norms_and_below_their_bounds(be, rng, q, bias):
    x = rng.uniform(-1, 1, (7, 5))
    full = np.concatenate([x, np.ones((7, 1))], axis=1) if bias else x
    want = np.mean(np.linalg.norm(full, {1: 1, 2: 2, math.inf: np.inf}[q], axis=1) ** 2)
    assert curvature.input_size(with_inputs(be.array(x)), q, bias) == pytest.approx(want, rel=be.tol(1e-13))
    assert curvature.input_bound(1.0, 5, q, bias) >= want
    top = curvature.input_size(with_inputs(be.array(np.ones((2, 5)))), q, bias)
    assert curvature.input_bound(1.0, 5, q, bias) == pytest.approx(top, rel=be.tol(1e-13))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("h0", [0.5, 3.0])
def test_input_bounds_are_the_norms_of_the_largest_inputs(h0, q, bias):
    """An input of ones stands for the bias, whatever bounds the others."""
    full = np.append(np.full(4, h0), [1.0] * bias)
    assert curvature.input_bound(h0, 4, q, bias) == pytest.approx(np.linalg.norm(full, q) ** 2, rel=1e-14)


def test_bounds_of_curvature_compose_as_second_derivatives_do():
    """softmax's slope bound 1 for q = 1: s - r²/4 bounds (d/da)² tanh(z tanh a), and is not far above it."""
    z, a = 6.0, np.linspace(-4, 4, 20001)
    net = network((1, 1, 2), ("tanh", "tanh"))
    params = net.init(0, np.ones(1))
    s = curvature.layer_constants(1, params, net.layers, nn.chain(net), nn.SoftmaxCrossEntropy(), [0.0, z], None)[0]
    second = np.gradient(np.gradient(np.tanh(z * np.tanh(a)), a), a)
    assert 0.7 * (s - z * z / 4) < np.max(np.abs(second)) < s - z * z / 4


def test_layers_below_weights_of_zero_have_the_constant_zero():
    net = network((4, 3, 2), ("tanh", "identity"))
    params = net.init(0, np.ones(1))
    s = curvature.layer_constants(2, params, net.layers, nn.chain(net), nn.SoftmaxCrossEntropy(), [0.0, 0.0], None)
    assert s == (0.0, 0.5)
