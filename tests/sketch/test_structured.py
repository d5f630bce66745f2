"""Vectors of one structure or another keep their length under every sketch: on average, and with the spread of a Gaussian one.

A sketch without its signs, or without its random order, keeps lengths on average too, but not on vectors like these.
"""

import numpy as np
import pytest
import scipy.linalg

from nearlin.sketch import SRHT, CountSketch, Gaussian, KroneckerSRHT, NeuronSamples, NeuronSigns, SparseSign
from tests.families import FAMILIES, gram, mask, preconditioned_condition

P, S, DRAWS = 64, 16, 400
H = scipy.linalg.hadamard(P).astype(float)
FLAT = {
    "spike": np.eye(P)[5],
    "two neighbours": np.eye(P)[4] + np.eye(P)[5],
    "one bucket of neighbours": np.repeat(np.eye(S)[2], P // S),
    "one stride": np.tile(np.eye(S)[2], P // S),
    "constant": np.ones(P),
    "ramp": np.arange(P) + 1.0,
    "Hadamard column 5": H[5],
    "Hadamard column 32": H[32],
    "sum of Hadamard columns": H[1] + H[2] + H[7],
    "block of a Kronecker product": np.kron(np.eye(8)[3], H[:8, 1][:8]),
}
X = np.stack([x / np.linalg.norm(x) for x in FLAT.values()], axis=1)


def lengths(matrices, x):
    """||S x||² for unit columns of ``x``: (draws, columns)."""
    return np.stack([np.sum((a @ x) ** 2, axis=0) for a in matrices])


def off(found, names, spread):
    """The names of the vectors whose squared lengths are not 1 on average, or vary by more than ``spread``."""
    mean, variance = found.mean(axis=0), np.mean((found - 1) ** 2, axis=0)
    bad = (np.abs(mean - 1) > 4 * (spread / len(found)) ** 0.5) | (variance > 1.4 * spread)
    return [name for name, wrong in zip(names, bad, strict=True) if wrong]


@pytest.mark.parametrize("dist", [Gaussian(), SRHT(), CountSketch(), SparseSign(nnz=4)], ids=lambda dist: type(dist).__name__)
def test_structured_vectors_keep_their_length(dist):
    draws = (dist.sample(key, S, P, like=X) for key in range(DRAWS))
    assert off(lengths(draws, X), FLAT, 2 / S) == []


def _countsketch(rng, order, signs):
    places = rng.permutation(P) if order else np.arange(P)
    a = np.zeros((S, P))
    a[np.arange(P) // (P // S), places] = rng.choice([-1.0, 1.0], P) if signs else 1.0
    return a


def _srht(rng, order, signs):
    rows = rng.permutation(P)[:S] if order else np.arange(S)
    return H[rows] * (rng.choice([-1.0, 1.0], P) if signs else 1.0) / S**0.5


@pytest.mark.parametrize("make", [_countsketch, _srht])
@pytest.mark.parametrize(("order", "signs"), [(True, True), (False, True), (True, False)])
def test_without_signs_or_order_some_do_not(rng, make, order, signs):
    found = off(lengths((make(rng, order, signs) for _ in range(DRAWS)), X), FLAT, 2 / S)
    assert bool(found) != (order and signs)


# ------------------------------------------------------------------------------------------------------ products of two factors

M = D = 16
ROWS = 32
h = scipy.linalg.hadamard(M).astype(float)
FACTORED = {
    "spike": np.outer(np.eye(M)[3], np.eye(M)[5]),
    "constant": np.ones((M, M)),
    "Hadamard columns": np.outer(h[5], h[3]),
    "one Hadamard column, left": np.outer(h[5], np.eye(M)[3]),
    "one Hadamard column, right": np.outer(np.eye(M)[3], h[5]),
    "diagonal": np.eye(M),
    "antidiagonal": np.eye(M)[::-1],
    "repeated row": np.outer(np.ones(M), np.arange(M) - 2.0),
    "repeated column": np.outer(np.arange(M) - 2.0, np.ones(M)),
    "Hadamard matrix": h,
}
Y = np.stack([x.ravel() / np.linalg.norm(x) for x in FACTORED.values()], axis=1)
SPREAD = 8 / ROWS  # of products of two independent sums of signs, whose fourth moments are 3 each


@pytest.mark.parametrize("oversample", [1, 4])
def test_structured_matrices_keep_their_length(oversample):
    dist = KroneckerSRHT(oversample)
    draws = (dist.sample(key, ROWS, ((M, D),), like=Y).dense(0) for key in range(DRAWS))
    assert off(lengths(draws, Y), FACTORED, SPREAD) == []


def _kronecker(rng, fault):
    left, right = rng.choice([-1.0, 1.0], (2, M))
    p, q = (np.concatenate([rng.permutation(M) for _ in range(ROWS // M)]) for _ in range(2))
    left = np.ones(M) if fault == "no signs, left" else left
    right = {"no signs, right": np.ones(M), "one vector of signs": left}.get(fault, right)
    p, q = {"one index": (p, p), "no shuffle": (np.arange(ROWS) % M,) * 2}.get(fault, (p, q))
    return ((h[p] * left)[:, :, None] * (h[q] * right)[:, None, :]).reshape(ROWS, -1) / ROWS**0.5


@pytest.mark.parametrize("fault", ["", "no signs, left", "no signs, right", "one vector of signs", "one index", "no shuffle"])
def test_without_signs_or_indices_of_both_factors_some_do_not(rng, fault):
    found = off(lengths((_kronecker(rng, fault) for _ in range(DRAWS)), Y), FACTORED, SPREAD)
    assert bool(found) == bool(fault)


@pytest.mark.parametrize("shape", [(8, 8), (8, 4), (4, 8), (16, 8)])
def test_rows_of_both_transforms_are_paired_at_random(shape):
    """With 3 rows for each pair (p, q), over all draws, hardly a pair is missed and none is met four times too often."""
    m, d = shape
    met = np.zeros((m, d))
    for key in range(24):
        draw = KroneckerSRHT(1).sample(key, m * d // 8, (shape,), like=Y).layers[0]
        np.add.at(met, (draw.left_index.ravel(), draw.right_index.ravel()), 1)
    assert np.count_nonzero(met) > 0.9 * m * d
    assert met.max() <= 12


def test_rows_are_grouped_in_a_random_order():
    """No part of a group is a whole round of the transform in every draw, on either side."""
    whole = np.zeros(2)
    for key in range(20):
        draw = KroneckerSRHT(4).sample(key, M, ((M, D),), like=Y).layers[0]
        whole += [np.array_equal(np.sort(index[0]), np.arange(M)) for index in (draw.left_index, draw.right_index)]
    assert np.all(whole < 3)


def test_signs_of_groups_are_independent_of_those_of_the_factors():
    draws = [KroneckerSRHT(1).sample(key, M, ((M, D),), like=Y).layers[0] for key in range(DRAWS)]
    signs = [np.sign(np.stack(one)) for one in zip(*((d.left_signs, d.right_signs, d.weights[0]) for d in draws), strict=True)]
    for i in range(3):
        assert np.all(np.abs(signs[i].mean(axis=0)) < 4 / DRAWS**0.5)
        for j in range(i):
            assert np.max(np.abs(signs[i].T @ signs[j])) < 5 * DRAWS**0.5


# -------------------------------------------------------------------------------------------------------------------- neurons


def _neurons(dist, s, left):
    shapes = ((left.shape[1], 1),)
    return np.stack([np.sum(dist.sample(key, s, shapes, like=left).left(0, left)[1] ** 2, axis=1) for key in range(DRAWS)])


def test_signed_groups_of_neurons_keep_lengths_across_groups_and_double_the_square_within_one():
    """The variance is 2 (1 - 1/g) for a vector inside of one group of g, and a share of it where it is spread over s of them."""
    inside = np.repeat(np.eye(S)[2], P // S)[None, :]
    found = _neurons(NeuronSigns(), S, np.concatenate([np.full((1, P), P**-0.5), inside / np.linalg.norm(inside)]))
    assert np.all(np.abs(found.mean(axis=0) - 1) < 4 * (np.array([2 / S, 1.5]) / DRAWS) ** 0.5)
    np.testing.assert_allclose(found.var(axis=0), [1.5 / S, 1.5], rtol=0.25)


def test_a_sampled_neuron_counts_for_all_that_are_not():
    found = _neurons(NeuronSamples(), S, np.stack([np.eye(P)[5], np.full(P, P**-0.5)]))
    assert set(found[:, 0].round(12)) == {0.0, P / S}
    assert np.mean(found[:, 0] > 0) == pytest.approx(S / P, abs=0.09)
    np.testing.assert_allclose(found[:, 1], 1)


# ----------------------------------------------------------------------------------------------------------- recommended sizes


def _flat_condition(dist, rows, basis):
    """κ of the sketched basis of a space, the median of five draws: ((1 + √(n/s)) / (1 - √(n/s)))² for Gaussian sketches."""
    p = basis.shape[0]
    return np.median([np.linalg.cond(dist.sample(key, rows, p, like=basis) @ basis) ** 2 for key in range(5)])


@pytest.mark.parametrize("dist", [Gaussian(), SRHT(), CountSketch(), SparseSign()], ids=lambda dist: type(dist).__name__)
def test_recommended_rows_keep_a_space_up_to_a_condition_of_nine(rng, dist):
    n = 64
    basis = np.linalg.qr(rng.standard_normal((1024, n))).Q
    assert 5.5 < _flat_condition(dist, dist.oversampling * n, basis) < 10
    assert _flat_condition(dist, dist.oversampling * n // 2, basis) > 15


def test_eight_signs_in_a_column_keep_spikes_apart():
    assert np.all(np.count_nonzero(SparseSign().sample(0, S, P, like=X) @ np.eye(P), axis=0) == 8)
    assert _flat_condition(SparseSign(), 256, np.eye(1024)[:, :64]) < 9
    assert _flat_condition(SparseSign(nnz=1), 256, np.eye(1024)[:, :64]) > 100


def _factored_condition(dist, rows, family):
    """κ of the preconditioned Gram matrix of 64 samples, the median of seven draws of data and sketch."""
    found = []
    for key in range(7):
        rng = np.random.default_rng(key)
        x = FAMILIES[family](rng, 64)
        left = mask(rng, x, 2048)
        sample = dist.sample(key, rows, ((2048, x.shape[1]),), like=x)
        if hasattr(sample, "left"):
            sketched = gram(sample.left(0, left)[1], x)
        else:
            made = sample.rows(0, left, x)
            sketched = made @ made.T
        found.append(preconditioned_condition(gram(left, x), sketched))
    return np.median(found)


@pytest.mark.parametrize(
    ("dist", "family", "low", "high"),
    [
        (KroneckerSRHT(), "sphere", 7, 10),
        (KroneckerSRHT(), "offset", 7, 10),
        (KroneckerSRHT(1), "offset", 15, 30),
        (NeuronSigns(), "sphere", 2.2, 2.9),
        (NeuronSigns(), "offset", 10, 30),
        (NeuronSamples(), "sphere", 2.3, 3.3),
    ],
    ids=repr,
)
def test_recommended_rows_precondition_factored_rows(dist, family, low, high):
    """Collinear inputs, `offset`, are where four members of a group are needed."""
    assert low < _factored_condition(dist, int(dist.oversampling * 64), family) < high
