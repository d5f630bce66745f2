"""Conjugate gradients, triangular solves, Cholesky factorisations."""

import nearlin as nl
from nearlin._array import cholesky, solve_triangular

from .common import BACKENDS, WIDTHS, Timed, geometric, normal, problem, wait


class CG(Timed):
    """Five iterations on J Jᵀ + I of a two-layer network with n = 128, d = 16, over its width m: 20 n m d flops."""

    params = (BACKENDS, WIDTHS)
    param_names = ("backend", "m")

    def setup(self, backend, m):
        objective, params, batch = problem(backend, 128, m)
        self.J, self.b = objective.at(params, batch).jacobian(), batch[1]

    def time_cg(self, backend, m):
        wait(nl.linalg.cg(lambda v: self.J.gram_matvec(v) + v, self.b, rtol=1e-15, maxiter=5, certify=False)[0])


class Factorisation(Timed):
    """Of a well-conditioned n x n matrix: n³/3 flops, and 64 n² for a triangular solve with 64 columns."""

    params = (BACKENDS, geometric(384, 2560, 6))
    param_names = ("backend", "n")

    def setup(self, backend, n):
        A, self.B = normal(backend, n, n), normal(backend, n, 64, seed=1)
        xp = nl._array.namespace(A)
        self.A = A @ xp.matrix_transpose(A) / n + xp.eye(n, dtype=A.dtype, device=nl._array.device(A))
        self.R = cholesky(self.A)

    def time_cholesky(self, backend, n):
        wait(cholesky(self.A))

    def time_triangular(self, backend, n):
        wait(solve_triangular(self.R, self.B))
