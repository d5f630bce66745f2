"""Linear algebra on arrays and operators: solvers, factorisations, preconditioners, transforms. Knows no networks."""

from nearlin.linalg.bfgs import (
    DampedPair,
    LimitedMemory,
    bfgs_update,
    compact_product,
    double_damping,
    minimal_damping,
    powell_damping,
    remember,
    track_inverse,
    two_loop_product,
)  # fmt: skip
from nearlin.linalg.block_inverse import BlockInverse, block_inverse
from nearlin.linalg.cg import SlowProgress, cg, identity
from nearlin.linalg.cholesky import FactorizationError, TriangularPreconditioner, damped_cholesky, sketch_factor
from nearlin.linalg.dealt import dealt, dealt_to, in_turn
from nearlin.linalg.duality import Orthogonalized, dual_norm, duality_map, operator_norm, orthogonalize, spectral_bound
from nearlin.linalg.golub_kahan import LeastNorm, craig, lsqr
from nearlin.linalg.hadamard import fwht
from nearlin.linalg.inverse_root import RootInfo, inverse_root, symmetric_eigh
from nearlin.linalg.iterations import best_step, chebyshev, double_product, richardson, sketch_spectrum
from nearlin.linalg.kronecker import KroneckerEigenbasis, KroneckerInverse, damped_factors, eigenbasis, trace_balance
from nearlin.linalg.lowrank import Inverse, LowRank, LowRankStep, lowrank, lowrank_solve, lowrank_step, lowrank_update
from nearlin.linalg.modes import Modes, average_grams, average_modes, mix_grams, mode_gram, mode_product, mode_products
from nearlin.linalg.nystrom import Nystrom, columns, nystrom
from nearlin.linalg.operators import DenseOperator, LinearOperator, axpy, dot_test, inner, norm, norms, safe_norm
from nearlin.linalg.packed import pack_symmetric, unpack_symmetric
from nearlin.linalg.pivoted_blocks import PivotedBlocks, nearby_groups, pivoted_blocks, second_level
from nearlin.linalg.pivoted_cholesky import PivotedCholesky, PivotedPreconditioner
from nearlin.linalg.precision import eps_of
from nearlin.linalg.rates import Rates, Work, rates_for
from nearlin.linalg.smoothing import Smoothing
from nearlin.linalg.solve_info import Exit, SolveInfo
from nearlin.linalg.triangular_blocks import TriangularBlocks

__all__ = [
    "dealt", "dealt_to", "in_turn", "pack_symmetric", "unpack_symmetric",
    "DenseOperator", "LinearOperator", "axpy", "dot_test", "eps_of", "inner", "norm", "norms", "safe_norm",
    "Exit", "SolveInfo", "SlowProgress", "Smoothing", "cg", "identity",
    "LeastNorm", "craig", "lsqr",
    "Nystrom", "columns", "nystrom",
    "PivotedCholesky", "PivotedPreconditioner", "PivotedBlocks", "nearby_groups", "pivoted_blocks", "second_level",
    "best_step", "chebyshev", "double_product", "richardson", "sketch_spectrum",
    "FactorizationError", "TriangularPreconditioner", "damped_cholesky", "sketch_factor", "TriangularBlocks",
    "BlockInverse", "block_inverse",
    "KroneckerEigenbasis", "KroneckerInverse", "damped_factors", "eigenbasis", "trace_balance",
    "RootInfo", "inverse_root", "symmetric_eigh",
    "DampedPair", "LimitedMemory", "bfgs_update", "compact_product", "double_damping", "minimal_damping", "powell_damping",
    "remember", "track_inverse", "two_loop_product",
    "Orthogonalized", "dual_norm", "duality_map", "operator_norm", "orthogonalize", "spectral_bound",
    "Inverse", "LowRank", "LowRankStep", "lowrank", "lowrank_solve", "lowrank_step", "lowrank_update",
    "Modes", "average_grams", "average_modes", "mix_grams", "mode_gram", "mode_product", "mode_products",
    "fwht",
    "Rates", "Work", "rates_for",
]  # fmt: skip
