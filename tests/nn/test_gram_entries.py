"""Entries of Gram matrices that are not formed, against matrices that are: the limit kernel, and networks' Jacobians."""

import numpy as np
import pytest

from nearlin._array import BackendError
from nearlin.complexity import flops_of, wrap
from nearlin.complexity.claims import data
from nearlin.linalg import PivotedCholesky
from nearlin.nn import MLP, FactorEntries, KernelEntries, Objective, SquaredLoss, TwoLayer


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


def test_a_row_of_zeros_gives_zeros():
    source = KernelEntries(np.asarray([[0.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(source.entries(slice(0, 2), np.arange(2)), [[0, 0], [0, 1]])


def test_the_flops_are_those_of_the_head(rng):
    x, A, Y = wrap(rng.random((8, 5))), wrap(rng.random((8, 5))), wrap(rng.random((8, 3)))
    columns = wrap(np.arange(4))
    assert flops_of(KernelEntries(x).entries, slice(0, 8), columns) == 32 * (2 * 5 + 9)
    assert flops_of(FactorEntries((A, Y), (A, Y)).entries, slice(0, 8), columns) == 32 * 2 * (2 * 5 + 2 * 3 + 1) + 32


@pytest.mark.parametrize("outputs", [1, 3])
def test_factors_give_the_gram_matrix_of_a_network(be, rng, outputs):
    x, network = be.array(rng.standard_normal((7, 4))), MLP((4, 6, 5, outputs), "tanh")
    batch = (x, be.array(rng.standard_normal((7, outputs))))
    J = Objective(network, SquaredLoss()).at(network.init(0, x), batch).jacobian()
    G, n = be.numpy(J.gram()), 7 * outputs
    source = FactorEntries(*((layer.inputs, layer.left) for layer in J.factors(slice(0, 7))))
    rows, columns = at(be, n - 1, 2), at(be, 4, 0, n - 2)
    tol = {"rtol": 0, "atol": be.tol(1e-13) * np.abs(G).max()}
    np.testing.assert_allclose(be.numpy(source.diagonal), np.diagonal(G), **tol)
    np.testing.assert_allclose(be.numpy(source.entries(rows, columns)), G[[n - 1, 2]][:, [4, 0, n - 2]], **tol)
    np.testing.assert_allclose(be.numpy(source.entries(slice(1, n - 1), columns)), G[1 : n - 1][:, [4, 0, n - 2]], **tol)


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
    with pytest.raises((TypeError, BackendError), match=r"^the first A has dtype float64, Y has float32"):
        FactorEntries((x, x.astype("float32")))
