"""The Nyström preconditioner: making and applying it over n and rank; the ranks it takes, and the iterations it leaves."""

import nearlin as nl

from .common import BACKENDS, Timed, geometric, normal, wait

DAMPINGS = [10 ** (-k / 2) for k in range(1, 9)]


def power_law(backend, n):
    """A Z for A = H diag(i⁻³) H, H a reflection: 9 n flops a column; J Jᵀ of a Jacobian with singular values i^-1.5."""
    h = normal(backend, n)
    xp = nl._array.namespace(h)
    h = h / nl.linalg.norm(h)
    values = xp.arange(1, n + 1, dtype=h.dtype, device=nl._array.device(h)) ** -3.0

    def reflected(Z):
        return Z - 2 * h[:, None] * (h @ Z)[None, :]

    return lambda Z: reflected(values[:, None] * reflected(Z))


class Nystrom(Timed):
    """A (n, n) with cheap products, at a fixed rank k: 25 n k² flops, and 4 n k a call."""

    params = (BACKENDS, [32], geometric(2**11, 2**16, 6))
    param_names = ("backend", "rank", "n")

    def setup(self, backend, rank, n):
        self.matmat, self.r = power_law(backend, n), normal(backend, n, seed=1)
        self.P = self.make(rank, n)

    def make(self, rank, n):
        return nl.linalg.nystrom(self.matmat, n, 0, 1.0, like=self.r, rank=rank, accuracy=1e3, power=1)

    def time_make(self, backend, rank, n):
        wait(self.make(rank, n).U)

    def time_apply(self, backend, rank, n):
        wait(self.P(self.r))


class Adaptive:
    """n = 400, eigenvalues i⁻³: the rank that is found over the damping, and iterations to 1e-4 with it and without."""

    params = (BACKENDS, DAMPINGS)
    param_names = ("backend", "damping")

    def setup(self, backend, damping):
        self.A, self.b = power_law(backend, 400), normal(backend, 400, seed=1)
        self.P = nl.linalg.nystrom(self.A, 400, 0, damping, like=self.b, rank=2)

    def iterations(self, damping, **options):
        return nl.linalg.cg(lambda v: self.A(v[:, None])[:, 0] + damping * v, self.b, rtol=1e-4, **options)[1].iterations

    def track_rank(self, backend, damping):
        return self.P.rank

    def track_rank_over_effective_dimension(self, backend, damping):
        return self.P.rank / self.P.effective_dimension()

    def track_products(self, backend, damping):
        return self.P.products

    def track_iterations(self, backend, damping):
        return self.iterations(damping, preconditioner=self.P)

    def track_iterations_without(self, backend, damping):
        return self.iterations(damping)

    track_rank.unit = "columns"
    track_rank_over_effective_dimension.unit = "columns per dimension"
    track_products.unit = "products"
    track_iterations.unit = track_iterations_without.unit = "iterations"
