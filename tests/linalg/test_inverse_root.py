"""Inverse roots: both methods against the definition and against stored roots, with certificates that do not lie."""

import importlib
import pathlib

import numpy as np
import pytest

from nearlin import _array, linalg
from nearlin.complexity import count, wrap

STORED = np.load(pathlib.Path(__file__).parents[1] / "oracles" / "tntrepo_coupled_newton.npz")
METHODS = ("eigh", "newton")


def semidefinite(rng, eigenvalues):
    q, _ = np.linalg.qr(rng.standard_normal((len(eigenvalues), len(eigenvalues))))
    return (q * np.asarray(eigenvalues)) @ q.T


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [1, 2, 4, 6])
@pytest.mark.parametrize("n", [3, 6])
def test_stored_roots_are_met(be, n, p, method):
    root, _ = linalg.inverse_root(be.array(STORED[f"M{n}"]), p, 0.01, method)
    want = STORED[f"M{n}_p{p}_eps0.01"]
    np.testing.assert_allclose(be.numpy(root), want, rtol=1e-6 + be.tol(1e-13), atol=(1e-6 + be.tol(1e-13)) * np.abs(want).max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 6, 8])
def test_the_power_of_the_root_is_the_inverse(rng, p, method):
    a = semidefinite(rng, [0.0, 0.0, *np.geomspace(1e-2, 10, 10)])
    root, _ = linalg.inverse_root(a, p, 0.1, method)
    np.testing.assert_allclose(np.linalg.matrix_power(root, p) @ (a + 0.1 * np.eye(12)), np.eye(12), atol=1e-5)


def test_the_order_of_the_root_matters(rng):
    a = semidefinite(rng, np.geomspace(1e-2, 10, 10))
    root, _ = linalg.inverse_root(a, 4, 0.1)
    assert np.abs(np.linalg.matrix_power(root, 2) @ (a + 0.1 * np.eye(10)) - np.eye(10)).max() > 0.5


@pytest.mark.parametrize("method", METHODS)
def test_float32_stays_float32(be, rng, method):
    a = semidefinite(rng, np.geomspace(1e-3, 1, 20))
    root, info = linalg.inverse_root(be.array(a, "float32"), 4, 0.01, method)
    assert root.dtype == be.xp.float32
    assert info.reason in ("eigh", "converged")
    np.testing.assert_allclose(be.numpy(root), linalg.inverse_root(a, 4, 0.01)[0], atol=2e-5)


def test_a_stack_is_rooted_matrix_by_matrix(be, rng):
    stack = np.stack([semidefinite(rng, np.geomspace(1e-2, 1, 5)), semidefinite(rng, np.linspace(1, 3, 5))])
    root = be.numpy(linalg.inverse_root(be.array(stack), 2, 0.1)[0])
    for one, matrix in zip(root, stack, strict=True):
        np.testing.assert_allclose(one @ one @ (matrix + 0.1 * np.eye(5)), np.eye(5), atol=be.tol(1e-12))


@pytest.mark.parametrize("method", METHODS)
def test_a_matrix_of_one_entry_has_the_root_of_a_number(be, method):
    root, _ = linalg.inverse_root(be.array([[15.0]]), 4, 1.0, method)
    assert float(root[0, 0]) == pytest.approx(0.5, rel=be.tol(1e-15))


def test_eigenvalues_that_rounding_made_negative_count_as_zero(rng):
    a = semidefinite(rng, [-1e-3, 1.0, 4.0])
    root, _ = linalg.inverse_root(a, 2, 1e-4)
    assert np.linalg.eigvalsh(root)[-1] == pytest.approx(1e-4**-0.5)


# ------------------------------------------------------------------------------------------------------------ certificates


def test_newton_says_how_it_converged(rng):
    a = semidefinite(rng, np.geomspace(1e-3, 1, 15))
    root, info = linalg.inverse_root(a, 2, 1e-3, "newton")
    assert (info.reason, info.error <= 1e-6) == ("converged", True)
    assert 5 < info.iterations < 30
    assert np.abs(root @ root @ (a + 1e-3 * np.eye(15)) - np.eye(15)).max() < 1e-5


def test_newton_says_that_its_iterations_ran_out(rng):
    info = linalg.inverse_root(semidefinite(rng, np.geomspace(1e-6, 1, 15)), 2, 0.0, "newton", maxiter=3)[1]
    assert (info.reason, info.iterations) == ("maxiter", 3)
    assert info.error > 0.1


def test_newton_returns_the_root_before_the_error_grew(rng):
    """An indefinite matrix: the iteration has nothing to converge to."""
    a = semidefinite(rng, [-0.5, 1.0, 2.0])
    root, info = linalg.inverse_root(a, 2, 0.0, "newton")
    assert info.reason == "stalled"
    assert np.all(np.isfinite(root))
    assert np.array_equal(root, linalg.inverse_root(a, 2, 0.0, "newton", maxiter=info.iterations)[0])


def test_newton_ends_on_overflow_with_a_finite_root(rng):
    a = semidefinite(rng, [-1.0, 1e-3, 1e-3])
    root, info = linalg.inverse_root(a, 6, 0.0, "newton")
    assert info.reason == "stalled"
    assert np.all(np.isfinite(root))


@pytest.mark.parametrize(("p", "products"), [(1, 2), (2, 3), (3, 4), (4, 4), (6, 5), (8, 5)])
def test_newton_multiplies_as_often_as_stated(rng, p, products):
    a = wrap(semidefinite(rng, np.geomspace(1e-2, 1, 8)))
    with count() as tally:
        info = linalg.inverse_root(a, p, 0.1, "newton")[1]
    assert tally.flops["matmul"] == products * 2 * 8**3 * info.iterations + 8 * (p + 2) * 8**2  # the last of it the error


def test_eigenvalues_that_fail_in_float32_are_tried_in_float64(rng, monkeypatch):
    plain = _array.eigh

    def eigh(a):
        if a.dtype == np.float32:
            raise _array.NotConverged("did not converge")
        return plain(a)

    monkeypatch.setattr(_array, "eigh", eigh)
    a = semidefinite(rng, np.geomspace(1e-2, 1, 8)).astype(np.float32)
    root, _ = linalg.inverse_root(a, 2, 0.1)
    assert root.dtype == np.float32
    np.testing.assert_allclose(root @ root @ (a + np.float32(0.1) * np.eye(8, dtype=np.float32)), np.eye(8), atol=1e-5)


def test_eigenvalues_that_never_converge_are_an_error(monkeypatch):
    def eigh(a):
        raise _array.NotConverged("did not converge")

    monkeypatch.setattr(_array, "eigh", eigh)
    with pytest.raises(linalg.FactorizationError, match=r"eigenvalues of factor \(2 x 2\) do not converge"):
        linalg.inverse_root(np.eye(2), 2, 0.1, name="factor")


# --------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_are_refused(be, method, value):
    with pytest.raises(ValueError, match="factor holds 1 NaN or Inf"):
        linalg.inverse_root(be.array([[1.0, 0.0], [0.0, value]]), 2, 0.1, method, name="factor")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 3])
def test_a_singular_matrix_without_damping_is_refused(be, method, n):
    with pytest.raises(linalg.FactorizationError, match=rf"matrix \({n} x {n}\) with damping 0 is singular; raise the damping"):
        linalg.inverse_root(be.array(np.zeros((n, n))), 2, 0.0, method)


@pytest.mark.parametrize(
    ("matrix", "p", "damping", "method", "words"),
    [
        (np.eye(2), 2, 0.1, "svd", "method is 'svd'; expected 'eigh' or 'newton'"),
        (np.eye(2), 0, 0.1, "eigh", "p is 0; expected a positive number"),
        (np.eye(2), 1.5, 0.1, "newton", "p is 1.5; expected a positive integer"),
        (np.eye(2), 2, -0.1, "eigh", "damping is -0.1"),
        (np.ones((2, 3)), 2, 0.1, "eigh", r"matrix has shape \(2, 3\); expected a square matrix"),
        (np.ones((2, 3, 3)), 2, 0.1, "newton", r"matrix has shape \(2, 3, 3\); expected 2 dimension"),
    ],
)
def test_bad_input_is_named(matrix, p, damping, method, words):
    with pytest.raises(ValueError, match=words):
        linalg.inverse_root(matrix, p, damping, method)


# ------------------------------------------------------------------------------------------------------- errors are measured


def dense_error(X, H, damping, p):
    """||Xᵃ (H + λ I) Xᵇ - X||_F / ||X||_F in float64."""
    X, Z = X.astype("float64"), H.astype("float64") + damping * np.eye(len(H))
    a = (p + 1) // 2
    return np.linalg.norm(np.linalg.matrix_power(X, a) @ Z @ np.linalg.matrix_power(X, p + 1 - a) - X) / np.linalg.norm(X)


def exact_root(H, damping, p):
    values, vectors = np.linalg.eigh(H.astype("float64"))
    return (vectors * (np.maximum(values, 0) + damping) ** (-1 / p)) @ vectors.T


@pytest.mark.parametrize("p", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("seed", range(4))
def test_the_error_of_a_root_is_the_one_that_is_told(p, seed):
    """float32, condition number 1e3: rounding is all of it; the forward error is no more, and for p = 1 the same."""
    rng = np.random.default_rng(seed)
    H = semidefinite(rng, np.geomspace(1e-5, 1, 30)).astype("float32")
    root, info = linalg.inverse_root(H, p, 1e-3)
    assert root.dtype == np.float32
    assert 0.3 * dense_error(root, H, 1e-3, p) < info.error < 3 * dense_error(root, H, 1e-3, p)
    wrong = np.linalg.norm(root - exact_root(H, 1e-3, p)) / np.linalg.norm(exact_root(H, 1e-3, p))
    assert 1e-6 < wrong < 3 * info.error
    assert p > 1 or info.error < 3 * wrong


@pytest.mark.parametrize("p", [1, 2, 4])
def test_an_error_that_is_put_in_is_seen(rng, monkeypatch, p):
    H = semidefinite(rng, np.geomspace(1e-3, 1, 20))
    module = importlib.import_module("nearlin.linalg.inverse_root")
    plain = module._by_eigenvalues
    for size in (1e-6, 1e-2):
        off = rng.standard_normal((20, 20))
        monkeypatch.setattr(module, "_by_eigenvalues", lambda *given, off=size * (off + off.T): plain(*given) + off)
        root, info = linalg.inverse_root(H, p, 0.1)
        assert 0.5 * dense_error(root, H, 0.1, p) < info.error < 2 * dense_error(root, H, 0.1, p)
        assert info.error > 0.1 * size


def test_the_error_of_a_stack_is_its_largest(rng, monkeypatch):
    stack = np.stack([semidefinite(rng, np.linspace(1, k, 9)) for k in (2, 3, 4)])
    module = importlib.import_module("nearlin.linalg.inverse_root")
    plain, off = module._by_eigenvalues, rng.standard_normal((3, 9, 9)) * np.array([1e-6, 1e-3, 1e-5])[:, None, None]
    monkeypatch.setattr(module, "_by_eigenvalues", lambda *given: plain(*given) + off + off.mT)
    roots, info = linalg.inverse_root(stack, 2, 1e-3)
    assert 0.5 * dense_error(roots[1], stack[1], 1e-3, 2) < info.error < 2 * dense_error(roots[1], stack[1], 1e-3, 2)


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_roots_of_any_size_carry_their_error(rng, p, size):
    H = (size * semidefinite(rng, np.geomspace(1e-2, 1, 9))).astype("float32")
    for method in METHODS:
        root, info = linalg.inverse_root(H, p, 0.1 * size, method)
        want = exact_root(H / np.float32(size), 0.1, p)
        np.testing.assert_allclose(root * np.float64(size) ** (1 / p), want, atol=1e-5 * np.abs(want).max())
        assert 1e-9 < info.error < 2e-5


def test_the_order_of_an_error_is_an_integer(rng):
    assert np.isnan(linalg.inverse_root(semidefinite(rng, [1.0, 2.0]), 2.5, 0.1)[1].error)


def test_newton_is_right_where_one_entry_hides_its_progress():
    """5 u uᵀ: the largest entry of M - I grows on the way, its Frobenius norm does not."""
    u = np.ones(3) / 3**0.5
    H = 5 * np.outer(u, u)
    root, info = linalg.inverse_root(H, 2, 0.1, "newton")
    assert info.reason == "converged"
    np.testing.assert_allclose(root, exact_root(H, 0.1, 2), atol=2e-6)


def test_newton_starts_where_theory_says():
    """z = (1 + p) / (2 ||Z||_F): a multiple of the identity of size 4 has M = I at once for p = 3, and only for p = 3."""
    steps = [linalg.inverse_root(7.0 * np.eye(4), p, 0.0, "newton")[1].iterations for p in (2, 3, 4)]
    assert steps[1] == 0
    assert min(steps[0], steps[2]) > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_newton_says_converged_of_no_root_that_is_not(rng, dtype):
    """Gram matrices of full and of half rank, rank one, and spectra over up to ten decades, at many dampings."""
    seen = {"converged": 0, "indefinite": 0}
    for trial in range(160):
        n = int(rng.integers(2, 16))
        A = rng.standard_normal((n, (2 * n, max(1, n // 2), 1, n)[trial % 4]))
        H = A @ A.T if trial % 4 < 3 else semidefinite(rng, np.geomspace(1, 10.0 ** -rng.uniform(0, 10), n))
        H, damping, p = H.astype(dtype), 10.0 ** rng.uniform(-6, 0) * float(np.trace(H)), int(rng.choice([1, 2, 4, 6]))
        root, info = linalg.inverse_root(H, p, damping, "newton")
        seen[info.reason] += 1
        want = exact_root(H, damping, p)
        assert info.reason == "indefinite" or np.linalg.norm(root - want) < 1e-5 * np.linalg.norm(want)
    assert seen["converged"] > 100
    assert (seen["indefinite"] > 0) == (dtype == "float32")  # Gram matrices of low rank, rounded


@pytest.mark.parametrize("slack", [0.5, 2.0])
def test_an_eigenvalue_below_zero_is_named_where_it_matters(rng, slack):
    """-1e-5 p λ is what Newton's root may take as it is and the eigendecomposition for 0."""
    H = semidefinite(rng, [-slack * 1e-5 * 2 * 0.1, 1.0, 2.0])
    assert linalg.inverse_root(H, 2, 0.1, "newton")[1].reason == ("converged" if slack < 1 else "indefinite")


def test_a_recursion_that_lost_touch_is_no_convergence(rng, monkeypatch):
    """M says 1e-6, the products say otherwise."""
    module = importlib.import_module("nearlin.linalg.inverse_root")
    plain = module._newton
    monkeypatch.setattr(module, "_newton", lambda *given: (1.001 * plain(*given)[0], *plain(*given)[1:]))
    info = linalg.inverse_root(semidefinite(rng, np.geomspace(1e-2, 1, 9)), 2, 0.1, "newton")[1]
    assert info.reason == "stalled"
    assert info.error == pytest.approx(2e-3, rel=0.1)  # (1 + t)³ - (1 + t) = 2 t


# ------------------------------------------------------------------------------------------------------ where float32 is thin


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("damping", [1e-6, 1e-3])
def test_float32_roots_are_right_or_say_that_they_are_not(be, rng, p, damping):
    H = semidefinite(rng, np.geomspace(1e-8, 1, 40)).astype("float32")
    root, info = linalg.inverse_root(be.array(H, "float32"), p, damping)
    want = exact_root(H, damping, p)
    wrong = np.linalg.norm(be.numpy(root) - want) / np.linalg.norm(want)
    assert wrong < 1e-4 or info.error > 0.3 * wrong
    if not be.name.endswith("no_float64") and damping == 1e-6:
        assert 1e-9 < wrong < 2e-7
        assert wrong / 2 < info.error


@pytest.mark.parametrize(("share", "wide"), [(0.9e-5, True), (1.1e-5, False)])
def test_the_damping_that_is_thin_is_a_share_of_the_trace(rng, share, wide):
    """One rule for inverses and roots: below 1e-5 of the trace, in float64."""
    H = semidefinite(rng, np.geomspace(1e-7, 1, 40)).astype("float32")
    damping = share * float(np.trace(H))
    want = exact_root(H, damping, 1)
    for made in (linalg.inverse_root(H, 1, damping)[0], linalg.block_inverse(H, damping).inverse):
        assert (np.linalg.norm(made - want) < 2e-7 * np.linalg.norm(want)) == wide


def test_one_thin_matrix_widens_its_whole_stack(rng):
    stack = np.stack([semidefinite(rng, np.geomspace(low, 1, 30)) for low in (1e-2, 1e-8)]).astype("float32")
    stack[0] *= np.float32(1e-3)  # a trace that the damping is no thin share of
    damping = 1e-7
    roots, info = linalg.inverse_root(stack, 2, damping)
    assert damping > 1e-5 * np.trace(stack[0])
    for root, H in zip(roots, stack, strict=True):
        want = exact_root(H, damping, 2)
        assert np.linalg.norm(root - want) < 2e-7 * np.linalg.norm(want)
    assert info.error < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_a_damping_of_float64_does_not_widen_float32(rng, method):
    H = semidefinite(rng, np.linspace(1, 2, 5)).astype("float32")
    assert linalg.inverse_root(H, 2, np.float64(0.1), method)[0].dtype == np.float32


def test_a_root_that_float32_does_not_hold_is_an_error():
    with pytest.raises(linalg.FactorizationError, match="is singular; raise the damping"):
        linalg.inverse_root(np.zeros((2, 2), "float32") + np.float32(1e-30), 1, 1e-42)
