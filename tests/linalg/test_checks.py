"""Bad input is refused in the same words by all routines of the floor, and by one sentence each."""

import numpy as np
import pytest

from nearlin import curvature, linalg
from nearlin._array import BackendError

EYE = np.eye(3)
SYSTEMS = {
    "cg": lambda b, **given: linalg.cg(lambda v: v, b, **given),
    "richardson": lambda b, **given: linalg.richardson(lambda v: v, b, **given),
    "chebyshev": lambda b, **given: linalg.chebyshev(lambda v: v, b, bounds=(0.5, 1.5), **given),
    "double_product": lambda b, **given: linalg.double_product(lambda v: v, b, **given),
    "lsqr": lambda b, damping=0.0, **given: linalg.lsqr(linalg.DenseOperator(EYE), b, damping, **given),
    "craig": lambda b, damping=0.0, **given: linalg.craig(linalg.DenseOperator(EYE), b, damping, **given),
    "gram_solve": lambda b, damping=0.1, rtol=1e-3: curvature.gram_solve(linalg.DenseOperator(EYE), b, damping, None, rtol, 10),
}
MATRICES = {
    "damped_cholesky": (linalg.damped_cholesky, "matrix"),
    "block_inverse": (linalg.block_inverse, "blocks"),
    "inverse_root": (lambda H, damping: linalg.inverse_root(H, 2, damping), "matrix"),
    "newton": (lambda H, damping: linalg.inverse_root(H, 2, damping, "newton"), "matrix"),
    "eigenbasis": (lambda H, damping: linalg.eigenbasis(H, EYE).solve(EYE, damping), "A"),
    "damped_factors": (lambda H, damping: linalg.damped_factors(H, H, damping), "A"),
}
DTYPES = "expected float32 or float64"


@pytest.mark.parametrize("solve", SYSTEMS)
@pytest.mark.parametrize(
    ("b", "error", "words"),
    [
        (np.ones(3, complex), TypeError, rf"^b has dtype complex128; {DTYPES} \("),
        (np.ones(3, "int64"), TypeError, rf"^b has dtype int64; {DTYPES} \("),
        ([1.0, 1.0, 1.0], BackendError, r"^b is a list; expected a NumPy"),
        (np.ones((3, 3)), ValueError, r"^b has shape \(3, 3\); expected 1 dimension"),
        (np.ones((3, 1)), ValueError, r"^b has shape \(3, 1\); expected 1 dimension"),
        (np.ones(0), ValueError, r"^b has shape \(0,\); expected at least one entry"),
    ],
    ids=["complex", "integer", "list", "matrix", "column", "empty"],
)
def test_right_hand_sides_are_vectors_of_floats(solve, b, error, words):
    with pytest.raises(error, match=words):
        SYSTEMS[solve](b)


@pytest.mark.parametrize("solve", SYSTEMS)
@pytest.mark.parametrize("rtol", [-1e-9, 1.0, float("nan")])
def test_tolerances_lie_in_their_range(solve, rtol):
    with pytest.raises(ValueError, match=rf"^rtol is {rtol!r}; expected a number in \[0, 1\)$"):
        SYSTEMS[solve](np.ones(3), rtol=rtol)


@pytest.mark.parametrize("damping", [-1e-9, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("call", [*(MATRICES), "lsqr", "craig", "gram_solve"])
def test_dampings_are_not_negative(call, damping):
    with pytest.raises(ValueError, match=rf"^damping is {damping!r}; expected a finite number, at least 0$"):
        SYSTEMS[call](np.ones(3), damping=damping) if call in SYSTEMS else MATRICES[call][0](EYE, damping)


@pytest.mark.parametrize("call", MATRICES)
@pytest.mark.parametrize(
    ("matrix", "error", "words"),
    [
        (np.ones((2, 3)), ValueError, r"^{} has shape \(2, 3\); expected a square matrix$"),
        (np.ones((0, 0)), ValueError, r"^{} has shape \(0, 0\); expected at least one entry$"),
        (np.eye(2, dtype=complex), TypeError, rf"^{{}} has dtype complex128; {DTYPES} \("),
        ([[1.0]], BackendError, r"^{} is a list; expected a NumPy"),
        (np.ones(3), ValueError, r"^{} has shape \(3,\); expected (a square matrix|2 dimension\(s\))$"),
    ],
    ids=["oblong", "empty", "complex", "list", "vector"],
)
def test_matrices_are_square_and_of_floats(call, matrix, error, words):
    f, name = MATRICES[call]
    if call == "damped_factors" and np.shape(matrix) == (2, 3):
        name = "blocks"  # checked where it is inverted
    with pytest.raises(error, match=words.format(name)):
        f(matrix, 0.1)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"like": np.ones(1, complex)}, TypeError, f"^like has dtype complex128; {DTYPES}"),
        ({"like": [1.0]}, BackendError, "^expected arrays of one array-API backend, found builtins.list$"),
        ({"matmat": lambda Z: Z + 0j}, TypeError, rf"^matmat\(Z\) has dtype complex128; {DTYPES}"),
        ({"matmat": lambda Z: [1.0]}, BackendError, r"^matmat\(Z\) is a list; expected a NumPy"),
        ({"n": 0}, ValueError, "^n is 0; expected an integer of at least 1$"),
        ({"damping": -1.0}, ValueError, "^damping is -1.0; expected a positive number$"),
    ],
)
def test_nystrom_refuses_the_same(given, error, words):
    with pytest.raises(error, match=words):
        linalg.nystrom(**{"matmat": lambda Z: Z, "n": 8, "key": 0, "damping": 1.0, "like": np.ones(1)} | given)


@pytest.mark.parametrize(
    ("matrix", "damping", "words"),
    [
        (np.zeros((2, 2)), 0.0, "eigenvalue is 0; raise the damping above 0, or"),
        (np.array([[1.0, 1.0], [1.0, 1.0]]), 0.0, "raise the damping above [0-9]"),
        (np.diag([1.0, -2.0]), 0.5, "eigenvalue is -2; raise the damping above 2, or"),
        (np.diag([1e20, -1e-3]), 0.0, "raise the damping above 0.001, or"),
    ],
)
def test_a_failed_factorisation_names_a_damping_that_is_more(matrix, damping, words):
    with pytest.raises(linalg.FactorizationError, match=words):
        linalg.damped_cholesky(matrix, damping)
