"""Damped Cholesky factorisations and the triangular preconditioners made from them."""

from dataclasses import dataclass

from nearlin._array import NotPositiveDefinite, check_square, cholesky, namespace, not_negative, solve_triangular


class FactorizationError(ArithmeticError):
    """A damped matrix could not be factored; the message says which, its size, its damping, and what to change."""


def damped_cholesky(matrix, damping, name="matrix"):
    """Upper triangular R with RᵀR = ``matrix`` + ``damping`` I.

    Parameters
    ----------
    matrix : array, shape (n, n)
        Symmetric; not changed.
    damping : float
        Added to the diagonal.
    name : str
        What the matrix is, for the error message.

    Returns
    -------
    array, shape (n, n)

    Raises
    ------
    FactorizationError
        Not positive definite; names the matrix, its size, the damping and the smallest eigenvalue found.
    BackendError, TypeError, ValueError
        No square matrix of float32 or float64, or a negative damping.

    Notes
    -----
    n³/3 flops; one array of the matrix's size.
    """
    check_square(name, matrix, stack=False)
    damping = not_negative("damping", damping)
    try:
        return cholesky(matrix, shift=damping)
    except NotPositiveDefinite as error:
        raise FactorizationError(explained(matrix, damping, name)) from error


def explained(matrix, damping, name):
    """Why a matrix has no Cholesky factor, and what to change, in a sentence."""
    xp, n, dtype = namespace(matrix), matrix.shape[0], str(matrix.dtype).split(".")[-1]
    if not bool(xp.all(xp.isfinite(matrix))):
        return f"{name} ({n} x {n}) holds NaN or Inf; look at the parameters and the data that made it"
    smallest = float(xp.min(xp.linalg.eigvalsh(matrix)))
    return (
        f"{name} ({n} x {n}, {dtype}) with damping {damping:.3g} is not positive definite: its smallest eigenvalue is "
        f"{smallest:.3g}; raise the damping above {max(0.0, -smallest, damping):.3g}, or use float64"
    )


@dataclass(frozen=True)
class TriangularPreconditioner:
    """M⁻¹ r = R⁻¹ R⁻ᵀ r for upper triangular R (n, n), M = RᵀR; 2 n² flops a call."""

    R: object

    def __call__(self, r):
        return solve_triangular(self.R, solve_triangular(self.R, r, trans=True))


def log_sum(R):
    """Σ log R_ii of a triangular matrix, as a float."""
    xp = namespace(R)
    return float(xp.sum(xp.log(xp.linalg.diagonal(R))))


def sketch_factor(sketched_gram, damping, rows=None):
    """R (n, n) with RᵀR = G̃ + damping I for a sketched Gram matrix G̃ = Y Yᵀ, by Cholesky; else by QR or a larger shift.

    Parameters
    ----------
    sketched_gram : array, shape (n, n)
        G̃.
    damping : float
        Damping of the system to be preconditioned.
    rows : array, shape (n, s), optional
        Y = J Sᵀ where it exists: QR of [Yᵀ; √damping I] is the fallback, at 2 n² (s + n) - 2n³/3 flops.

    Returns
    -------
    R : array, shape (n, n)
    how : str
        ``"cholesky"``, ``"qr"`` or ``"cholesky, shift ..."``. A larger shift slows the iteration; it never changes the answer.
    """
    try:
        return cholesky(sketched_gram, shift=damping), "cholesky"
    except NotPositiveDefinite:
        pass
    xp, n = namespace(sketched_gram), sketched_gram.shape[0]
    if rows is not None:
        root = damping**0.5 * xp.eye(n, dtype=rows.dtype, device=rows.device)
        return xp.linalg.qr(xp.concat([xp.matrix_transpose(rows), root], axis=0)).R, "qr"
    shift = max(damping, float(xp.finfo(sketched_gram.dtype).eps) * float(xp.linalg.trace(sketched_gram)) / n)
    for _ in range(8):
        try:
            return cholesky(sketched_gram, shift=shift), f"cholesky, shift {shift:.1e}"
        except NotPositiveDefinite:
            shift *= 10
    raise FactorizationError(explained(sketched_gram, shift, "sketched Gram matrix"))
