"""Preconditioners by small triangular factors: whole, shared by all outputs, and one for each, against the dense matrix."""

import numpy as np
import pytest

from nearlin.linalg import TriangularBlocks, damped_cholesky

N, C, DAMPING = 6, 3, 0.3


def gram(rng, n):
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return (q * np.geomspace(1e-2, 1e2, n)) @ q.T


def blocks(be, rng, form):
    """The preconditioner, and the matrix (N C, N C) in order (sample, output) that it stands for, without damping."""
    grams = [gram(rng, N * C)] if form == "whole" else [gram(rng, N) for _ in range(1 if form == "shared" else C)]
    factors = tuple(damped_cholesky(be.array(G), DAMPING) for G in grams)
    dense = grams[0] if form == "whole" else np.kron(grams[0], np.eye(C))
    if form == "by class":
        dense = sum(np.kron(G, np.diag(np.eye(C)[k])) for k, G in enumerate(grams))
    return TriangularBlocks(factors, 1 if form == "whole" else C, DAMPING), dense


FORMS = ["whole", "shared", "by class"]


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_inverse_of_the_damped_matrix(be, rng, form):
    M, dense = blocks(be, rng, form)
    r = rng.standard_normal(N * C)
    want = np.linalg.solve(dense + DAMPING * np.eye(N * C), r)
    np.testing.assert_allclose(be.numpy(M(be.array(r))), want, atol=be.tol(1e-12))


def test_the_forms_are_not_each_other(numpy_backend, rng):
    """Negative control: another order of rows, or one class's factor for all, is another matrix."""
    M, dense = blocks(numpy_backend, rng, "by class")
    r = rng.standard_normal(N * C)
    want = np.linalg.solve(dense + DAMPING * np.eye(N * C), r)
    other_order = M(r.reshape(N, C).T.ravel()).reshape(C, N).T.ravel()
    shared = TriangularBlocks(M.factors[:1], C, DAMPING)(r)
    for wrong in (other_order, shared):
        assert np.max(np.abs(wrong - want)) > 1e-2


@pytest.mark.parametrize("form", FORMS)
def test_the_effective_dimension_is_unbiased(numpy_backend, rng, form):
    """tr(G (G + λ I)⁻¹) in the mean over probes, and exact for a diagonal matrix whatever the probe."""
    M, dense = blocks(numpy_backend, rng, form)
    values = np.linalg.eigvalsh(dense)
    want = np.sum(values / (values + DAMPING))
    found = [M.effective_dimension(key) for key in range(200)]
    assert np.mean(found) == pytest.approx(want, abs=4 * np.std(found) / 200**0.5)
    assert 0 < np.std(found) < 0.5 * want
    d = np.geomspace(1e-2, 1e2, N)
    diagonal = TriangularBlocks((np.diag(np.sqrt(d + DAMPING)),), 1, DAMPING)
    assert diagonal.effective_dimension(0) == pytest.approx(np.sum(d / (d + DAMPING)), rel=1e-12)


def test_the_same_key_is_the_same_probe_on_all_backends(be, numpy_backend):
    found = [blocks(b, np.random.default_rng(1), "by class")[0].effective_dimension(5) for b in (be, numpy_backend)]
    assert found[0] == pytest.approx(found[1], rel=be.tol(1e-11))
