"""What is drawn: keys, the draws that all others are made of, targets of a model's own, and initial weights."""

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
import scipy.special
import scipy.stats

from nearlin import _array, nn

LIKE = np.empty(0)


def test_folding_other_integers_gives_other_keys():
    """Also nested, in another order, and for numbers that look alike when written one after the other."""
    small = [*range(12), 111, 1112, 2**63, 2**64]
    keys = [_array.fold_in(a) for a in small]
    keys += [_array.fold_in(a, b) for a, b in product(small, repeat=2)]
    keys += [_array.fold_in(_array.fold_in(a, b), c) for a, b, c in product(small[:8], repeat=3)]
    keys += [_array.fold_in(a, b, c) for a, b, c in product(small, repeat=3)]
    assert len(set(keys)) == len(keys)
    assert min(keys) >= 0
    assert max(keys) < 2**64
    assert all(0.4 < sum(key >> bit & 1 for key in keys) / len(keys) < 0.6 for bit in range(64))


def test_keys_and_streams_mean_what_they_always_did():
    """A checkpoint of an earlier version goes on with the same draws."""
    assert (_array.fold_in(0), _array.fold_in(np.int64(7), 1, 2)) == (5263075011782779848, 16444841245981344462)
    assert _array.generator(0).bit_generator.random_raw(2).tolist() == [5998289459486161738, 8145447820822519263]


def test_uniform_draws_fill_the_half_open_interval():
    u = _array.uniform(3, (20_000,), LIKE)
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, bins=50, range=(0, 1))[0]
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_uniform_draw_is_rounded_up_to_one(monkeypatch, dtype):
    largest = type("Largest", (), {"random": lambda _, shape: np.full(shape, 1 - 2.0**-53)})()
    monkeypatch.setattr(_array.random, "generator", lambda key, blocks: largest)
    assert _array.uniform(0, (3,), np.empty(0, dtype)).max() < 1


@pytest.mark.parametrize("draw", [_array.uniform, _array.normal], ids=lambda f: f.__name__)
def test_draws_in_float32_are_those_in_float64_rounded(draw):
    wide, narrow = (draw(3, (50,), np.empty(0, dtype)) for dtype in ("float64", "float32"))
    assert narrow.dtype == np.float32
    np.testing.assert_array_equal(narrow, wide.astype(np.float32))


def test_normal_draws_have_the_moments_and_the_tails_of_a_normal_distribution():
    z = _array.normal(3, (200, 100), LIKE).ravel()
    for power, want, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(z**power) - want) < 4 * (spread / z.size) ** 0.5
    assert scipy.stats.kstest(z, "norm").pvalue > 1e-3


def test_signs_are_balanced_and_independent_of_their_neighbours():
    e = _array.signs(3, 20_000, LIKE)
    assert set(e.tolist()) == {-1.0, 1.0}
    for lag in (1, 2, 8, 64):
        assert abs(np.mean(e[lag:] * e[:-lag])) < 4 / 20_000**0.5
    assert abs(np.mean(e)) < 4 / 20_000**0.5


def test_every_order_is_as_likely_as_any_other():
    found = Counter(tuple(_array.permutation(key, 4, LIKE).tolist()) for key in range(4800))
    assert len(found) == 24
    assert scipy.stats.chisquare(list(found.values())).pvalue > 1e-3


@pytest.mark.parametrize("draw", [_array.uniform, _array.normal], ids=lambda f: f.__name__)
def test_draws_of_two_keys_are_uncorrelated(draw):
    a, b = (np.stack([draw(key, (400,), LIKE) for key in range(first, first + 50)]) for first in (0, 1))
    centred = [(x - x.mean()).ravel() for x in (a, b)]
    assert abs(np.dot(*centred) / np.prod([np.linalg.norm(x) for x in centred])) < 4 / 20_000**0.5


# ------------------------------------------------------------------------------------------------------- targets and weights

SHARP = np.array([[2.0, 0.0, -1.0]])
HESSIANS = {  # of one sample's loss by its outputs, in plain terms
    nn.SquaredLoss(): np.eye(3),
    nn.SquaredLoss(average=True): np.eye(3) / 3,
    nn.SigmoidCrossEntropy(): np.diag([1 / (2 + 2 * np.cosh(z)) for z in SHARP[0]]),
    nn.SoftmaxCrossEntropy(): np.diag(p := scipy.special.softmax(SHARP[0])) - np.outer(p, p),
}


@pytest.mark.parametrize("loss", HESSIANS, ids=repr)
def test_gradients_at_drawn_targets_have_mean_zero_and_the_output_hessian_as_their_covariance(loss):
    n = 20_000
    outputs = np.repeat(SHARP, n, axis=0)
    g = loss.gradient(outputs, loss.draw(7, outputs))
    spread = np.max(np.abs(g), axis=0)
    assert np.all(np.abs(g.mean(axis=0)) < 4 * spread / n**0.5)
    np.testing.assert_allclose(g.T @ g / n, HESSIANS[loss], rtol=0, atol=4 * float(np.max(spread)) ** 2 / n**0.5)
    assert abs(np.trace(g.T @ g) / n / np.trace(HESSIANS[loss]) - 1) < 0.05


@pytest.mark.parametrize("loss", HESSIANS, ids=repr)
def test_targets_of_samples_are_drawn_one_by_one(loss):
    """Samples with equal outputs get targets of their own: neighbours do not go together."""
    n = 4000
    outputs = np.repeat(SHARP, n, axis=0)
    y = loss.draw(7, outputs)
    y = y - y.mean(axis=0)
    for lag in (1, 2):
        assert np.all(np.abs(np.sum(y[lag:] * y[:-lag], axis=0)) < 4.5 * np.sum(y**2, axis=0) / n**0.5)


@pytest.mark.parametrize("loss", [nn.SquaredLoss(), nn.SigmoidCrossEntropy()], ids=repr)
def test_targets_of_outputs_are_drawn_one_by_one(loss):
    y = loss.draw(7, np.zeros((4000, 3)))
    assert np.max(np.abs(np.corrcoef(y.T) - np.eye(3))) < 4.5 / 4000**0.5


WEIGHTS = {  # variance of the weights, and of the biases
    "normal": (nn.Dense(100, 80), 2.0, 2.0 / 100, 0.0),
    "uniform": (nn.Dense(100, 80, scheme="uniform"), 2.0, 1 / 300, 1 / 300),
    "fan-out": (nn.Conv2d(10, 80, 3, scheme="fan-out"), 2.0, 2 / (9 * 80), 0.0),
    "convolution": (nn.Conv2d(10, 80, 3), 2.0, 2.0 / 90, 0.0),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_independent_with_the_variance_of_their_scheme(name):
    layer, gain, variance, of_bias = WEIGHTS[name]
    W = layer.init(3, LIKE, gain)
    weights, bias = W[:, :-1], W[:, -1]
    assert np.mean(weights**2) == pytest.approx(variance, rel=0.06)
    assert abs(np.mean(weights)) < 4 * (variance / weights.size) ** 0.5
    assert np.mean(bias**2) == pytest.approx(of_bias, rel=0.5)
    for a, b in ((weights[1:], weights[:-1]), (weights[:, 1:], weights[:, :-1])):
        assert abs(np.mean(a * b)) < 4 * variance / a.size**0.5


def test_neurons_of_the_two_layer_network_do_not_depend_on_its_width():
    """Its weights are drawn in chunks, each from its own stream."""
    (few,), (many,) = (nn.TwoLayer(3, width).init(5, LIKE) for width in (2**16 + 2**9, 2**17 + 2**8))
    np.testing.assert_array_equal(few, many[: len(few)])
    chunks = [many[i : i + 2**8] for i in (0, 2**16, 2**17)]
    assert max(abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in combinations(chunks, 2)) < 4 / (3 * 2**8) ** 0.5
    assert np.mean(many**2) == pytest.approx(1, abs=0.01)


def test_neurons_are_drawn_65536_at_a_time_as_they_always_were():
    """Other draws would give another network to every checkpoint and figure of a width above that."""
    (W,) = nn.TwoLayer(2, 2**16 + 3).init(5, LIKE)
    np.testing.assert_array_equal(W[: 2**16], _array.normal(_array.fold_in(5, 0), (2**16, 2), LIKE))
    np.testing.assert_array_equal(W[2**16 :], _array.normal(_array.fold_in(5, 1), (3, 2), LIKE))


def test_the_last_class_takes_what_rounding_leaves_of_the_probabilities(monkeypatch):
    """Where probabilities sum to less than 1 in float32, and a draw lies above their sum."""
    outputs = np.random.default_rng(0).standard_normal((400, 50)).astype(np.float32)
    most = np.float32(1 - 2**-24)
    monkeypatch.setattr("nearlin.nn.losses.uniform", lambda key, shape, like, first: np.full(shape, most))
    p = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    sums = np.cumsum(p / p.sum(axis=1, keepdims=True), axis=1)[:, -1]
    assert np.any(sums <= most)
    y = nn.SoftmaxCrossEntropy().draw(0, outputs)
    assert np.all(y.sum(axis=1) == 1)
