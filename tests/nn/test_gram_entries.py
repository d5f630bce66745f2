"""Entries of Gram matrices that are not formed, against matrices that are: the limit kernel, and networks' Jacobians."""

import numpy as np
import pytest

from nearlin._array import BackendError
from nearlin.complexity import flops_of, wrap
from nearlin.complexity.claims import data, spectra
from nearlin.linalg import PivotedCholesky, cg
from nearlin.nn import (
    MLP,
    Conv2d,
    Dense,
    Elementwise,
    FactorEntries,
    Flatten,
    KernelEntries,
    LayerNorm,
    Objective,
    Sequential,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredLoss,
    TwoLayer,
    activation,
)
from nearlin.sketch import Gaussian, NeuronSigns


def at(be, *rows):
    return be.array(np.asarray(rows), dtype="int64")


def kernel_of(x):
    size = np.linalg.norm(x, axis=1)
    return data.limit_kernel(x / size[:, None]) * np.outer(size, size)


def test_entries_are_those_of_the_kernel(be, rng):
    x = rng.standard_normal((12, 5))
    source, K = KernelEntries(be.array(x)), kernel_of(x)
    columns = at(be, 7, 0, 7)
    np.testing.assert_allclose(be.numpy(source.entries(slice(2, 9), columns)), K[2:9][:, [7, 0, 7]], atol=be.tol(1e-14))
    np.testing.assert_allclose(be.numpy(source.entries(at(be, 3, 7), columns)), K[[3, 7]][:, [7, 0, 7]], atol=be.tol(1e-14))
    np.testing.assert_allclose(be.numpy(source.diagonal), np.diagonal(K), atol=be.tol(1e-14))


def test_they_are_those_of_the_network(rng):
    x = rng.standard_normal((12, 5))
    gram = TwoLayer(5, 8).forward(TwoLayer(5, 8).init(0, x), x)[1].jacobian.kernel_gram()
    np.testing.assert_allclose(KernelEntries(x).entries(slice(0, 12), np.arange(12)), gram, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shift", [0.0, 5.0])
@pytest.mark.parametrize("d", [4, 100])
def test_fifty_distinct_of_four_hundred_rows_have_rank_fifty(rng, dtype, shift, d):
    x = (rng.standard_normal((50, d)) + shift).astype(dtype)[rng.permutation(np.arange(400) % 50)]
    P = PivotedCholesky(KernelEntries(x), 0).grow(200)
    assert (P.rank, P.exhausted) == (50, True)
    assert len({x[i].tobytes() for i in P.pivots}) == 50


@pytest.mark.parametrize("distinct", [3, 12])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_of_few_distinct_rows_each_is_taken_once(dtype, distinct):
    """Many times each: what rounding leaves of the others adds up."""
    for key in range(4):
        g = np.random.default_rng(key)
        x = g.standard_normal((distinct, 300)).astype(dtype)[g.integers(0, distinct, 300)]
        P = PivotedCholesky(KernelEntries(x), key).grow(120)
        assert (P.rank, P.exhausted) == (distinct, True)


@pytest.mark.parametrize("d", [256, 785, 3072])
def test_long_rows_of_alike_numbers_are_equal_to_themselves_beyond_their_rounding(d):
    """Sums of d products of one sign carry up to 54 eps in float32, by which such a row would lie apart from itself."""
    x = (0.1 + np.random.default_rng(0).random((64, 1)) * np.ones((64, d))).astype("float32")
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    source = KernelEntries(x)
    np.testing.assert_allclose(np.diagonal(source.entries(slice(0, 64), np.arange(64))), source.diagonal, rtol=1e-5)
    assert PivotedCholesky(source, 0).grow(8).rank == 1


def test_a_row_of_zeros_gives_zeros():
    source = KernelEntries(np.asarray([[0.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(source.entries(slice(0, 2), np.arange(2)), [[0, 0], [0, 1]])


def test_the_flops_are_those_of_the_head(rng):
    x, A, Y = wrap(rng.random((8, 5))), wrap(rng.random((8, 5))), wrap(rng.random((8, 3)))
    columns = wrap(np.arange(4))
    assert flops_of(KernelEntries(x).entries, slice(0, 8), columns) == 32 * (2 * 5 + 9)
    assert flops_of(FactorEntries((A, Y), (A, Y)).entries, slice(0, 8), columns) == 32 * 2 * (2 * 5 + 2 * 3 + 1) + 32


def point_of(be, rng, network, loss, n, shape, outputs, weights=None):
    x, classes = rng.standard_normal((n, *shape)), np.eye(outputs)[rng.integers(0, outputs, n)]
    labels = classes if isinstance(loss, SoftmaxCrossEntropy) else rng.random((n, outputs)).round()
    weights = None if weights is None else weights / weights.mean()
    batch = [be.array(part) for part in (x, labels, weights) if part is not None]
    return Objective(network, loss).at(network.init(0, batch[0]), tuple(batch))


def rows_of(be, J):
    """J by the adjoint at unit vectors: no factor."""
    units = np.eye(J.shape[0])
    return np.stack([np.concatenate([be.numpy(V).ravel() for V in J.rmatvec(be.array(u))]) for u in units])


def same_entries(be, source, G, tol):
    N, tol = len(G), {"rtol": 0, "atol": be.tol(tol) * np.abs(G).max()}
    rows, columns = at(be, N - 1, 2), at(be, 4, 0, N - 2)
    np.testing.assert_allclose(be.numpy(source.diagonal), np.diagonal(G), **tol)
    np.testing.assert_allclose(be.numpy(source.entries(rows, columns)), G[[N - 1, 2]][:, [4, 0, N - 2]], **tol)
    for some in (slice(0, N), slice(1, N - 1), slice(2, 3)):
        np.testing.assert_allclose(be.numpy(source.entries(some, columns)), G[some][:, [4, 0, N - 2]], **tol)


CASES = [
    (SquaredLoss(), 1),
    (SigmoidCrossEntropy(), 1),
    (SquaredLoss(), 10),
    (SoftmaxCrossEntropy(), 3),
    (SoftmaxCrossEntropy(), 10),
]


@pytest.mark.parametrize(("loss", "outputs"), CASES)
def test_factors_give_the_gram_matrix_of_a_network(be, rng, loss, outputs):
    point = point_of(be, rng, MLP((4, 6, 5, outputs), "tanh"), loss, 7, (4,), outputs, rng.random(7) + 0.5)
    J = point.jacobian(weighted=True)
    rows = rows_of(be, J)
    same_entries(be, FactorEntries.of(J), rows @ rows.T, 1e-12)


def test_and_of_one_with_convolutions(be, rng):
    """Rows of layers that are not dense are explicit, or all are sketched: what J SᵀS Jᵀ is, in plain NumPy."""
    layers = (Conv2d(2, 3, 3, pad=1), LayerNorm(3), Elementwise(activation("tanh")), Flatten(), Dense(48, 5))
    point = point_of(be, rng, Sequential(layers, shape=(2, 4, 4)), SoftmaxCrossEntropy(), 4, (2, 4, 4), 5)
    J = point.jacobian(weighted=True)
    rows = rows_of(be, J)
    same_entries(be, FactorEntries.of(J), rows @ rows.T, 1e-12)
    S = J.draw(Gaussian(), 0, 30, point.outputs)
    sketched = rows @ be.numpy(S.rmatmul(be.array(np.eye(30))))
    same_entries(be, FactorEntries.of(J, S), sketched @ sketched.T, 1e-12)


@pytest.mark.parametrize(("phi", "outputs"), [("relu", 1), ("tanh", 1), ("softplus", 3)])
def test_sketched_neurons_at_the_present_weights(be, rng, phi, outputs):
    """(X Xᵀ) ∘ (M S₁ᵀ S₁ Mᵀ) for the slopes M (n, m) of all outputs' neurons; without a sketch, the mean of their matrices."""
    weights = rng.random(9) + 0.5
    point = point_of(be, rng, TwoLayer(5, 42, phi, outputs), SquaredLoss(), 9, (5,), outputs, weights)
    J, x = point.jacobian(weighted=True), be.numpy(point.x)
    S = J.pooled().draw(NeuronSigns(), 1, 12, point.outputs)
    z = x @ be.numpy(point.params[0]).T
    M = {"relu": 1.0 * (z > 0), "tanh": 1 / np.cosh(z) ** 2, "softplus": 1 / (1 + np.exp(-z))}[phi] / 42**0.5
    inputs = np.sqrt(weights / weights.mean())[:, None] * x
    _, folded = S.left(0, be.array(M))
    same_entries(be, FactorEntries.of(J, S), (inputs @ inputs.T) * (be.numpy(folded) @ be.numpy(folded).T), 1e-12)
    blocks = np.stack([be.numpy(block) for block in J.class_grams()])
    same_entries(be, FactorEntries.of(J), blocks.mean(axis=0), 1e-12)


def test_they_stand_for_the_network_as_the_kernel_does():
    """k columns of either leave about as many iterations of a wide ReLU network."""
    x = data.sphere(512, 16, 0)
    J = spectra.jacobian(x, 4096)
    damping, b = 1e-5 * J.mean_square(), data.labels(512, 1)
    took = []
    for source in (KernelEntries(x), FactorEntries.of(J, J.draw(NeuronSigns(), 0, 256, x))):
        P = PivotedCholesky(source, 0).grow(128).preconditioner(damping)
        took.append(cg(lambda v: J.gram_matvec(v) + damping * v, b, rtol=1 / 6, maxiter=200, preconditioner=P)[1].iterations)
    assert took[1] <= took[0] + 2 < 10


def test_the_bad_is_refused():
    x = np.ones((4, 2))
    with pytest.raises(ValueError, match=r"^x has shape \(4,\); expected 2 dimension"):
        KernelEntries(x[:, 0])
    with pytest.raises(ValueError, match=r"^x holds 8 NaN or Inf"):
        KernelEntries(x * np.nan)
    with pytest.raises(ValueError, match=r"^pair 1 has shapes \(3, 2\) and \(4, 2\); expected \(n, inp\) and \(n c, s\) with"):
        FactorEntries((x, x), (x[:3], x))
    with pytest.raises(ValueError, match=r"^pair 0 has shapes \(4, 2\) and \(3, 2\)"):
        FactorEntries((x, x[:3]))
    with pytest.raises(ValueError, match=r"^pair 1 has shapes \(4, 2\) and \(8, 2\)"):
        FactorEntries((x, x), (x, np.ones((8, 2))))
    with pytest.raises((TypeError, BackendError), match=r"^the first Y has dtype float64, Y has float32"):
        FactorEntries((x, x), (None, x.astype("float32")))
    with pytest.raises((TypeError, BackendError), match=r"^the first Y has dtype float32, A has float64"):
        FactorEntries((x, x.astype("float32")))
    with pytest.raises(ValueError, match=r"^pair 1 has shapes \(3, 2\); expected"):
        FactorEntries((x, x), (None, x[:3]))
