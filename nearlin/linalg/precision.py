"""How exact a dtype is, and where float32 is not enough for the inverse, a root or the eigenvalues of a damped matrix.

Formula     float64 where λ < 1e-5 tr H, and the device has it; the result is cast back
Reference   derived: rounding moves an eigenvalue of H + λ I by eps ||H|| <= eps tr H, so that an inverse formed in float32 is
            wrong by about eps tr H / λ, one percent at λ = 1e-5 tr H
"""

from nearlin._array import namespace, widest

THIN = 1e-5


def eps_of(x):
    """The spacing of floats at 1 in the dtype of ``x``."""
    return float(namespace(x).finfo(x.dtype).eps)


def is_thin(matrices, damping):
    """Whether ``damping``, one number or one for each, is below 1e-5 of the trace of the matrices (..., n, n): booleans (...)."""
    xp = namespace(matrices)
    return damping < THIN * xp.sum(xp.linalg.diagonal(matrices), axis=-1)


def wide_enough(matrices, damping=0.0):
    """``matrices`` (..., n, n), in float64 where ``damping`` is thin for one of them; 0, that is not known, always is."""
    xp = namespace(matrices)
    wide = matrices.dtype != widest(matrices) and bool(xp.any(is_thin(matrices, damping)))
    return xp.astype(matrices, widest(matrices)) if wide else matrices
