"""Linear algebra on arrays and operators: solvers, factorisations, preconditioners, transforms. Knows no networks."""

from nearlin.linalg.cg import cg, identity
from nearlin.linalg.cholesky import FactorizationError, TriangularPreconditioner, damped_cholesky, sketch_factor
from nearlin.linalg.hadamard import fwht
from nearlin.linalg.iterations import best_step, chebyshev, double_product, richardson, sketch_spectrum
from nearlin.linalg.levenberg_marquardt import CEILING, Damping, judge, least_damping
from nearlin.linalg.operators import DenseOperator, LinearOperator, axpy, dot_test, inner, norm
from nearlin.linalg.solve_info import SolveInfo, StepInfo

__all__ = [
    "DenseOperator", "LinearOperator", "axpy", "dot_test", "inner", "norm",
    "SolveInfo", "StepInfo", "cg", "identity",
    "best_step", "chebyshev", "double_product", "richardson", "sketch_spectrum",
    "FactorizationError", "TriangularPreconditioner", "damped_cholesky", "sketch_factor",
    "CEILING", "Damping", "judge", "least_damping",
    "fwht",
]  # fmt: skip
