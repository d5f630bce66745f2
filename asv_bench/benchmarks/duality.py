"""Duality maps, and orthogonalisation with and without an SVD."""

import nearlin as nl

from .common import BACKENDS, Timed, geometric, normal, wait

SIZES = geometric(64, 512, 6)


class DualityMap(Timed):
    """ρ(G) of an n x n matrix: one singular value decomposition for q = 2, 7 n² flops for q = 1 and ∞."""

    params = (BACKENDS, [1, 2, float("inf")], SIZES)
    param_names = ("backend", "q", "n")

    def setup(self, backend, q, n):
        self.G = normal(backend, n, n)

    def time_duality_map(self, backend, q, n):
        wait(nl.linalg.duality_map(self.G, q)[0])

    def peakmem_duality_map(self, backend, q, n):
        wait(nl.linalg.duality_map(self.G, q)[0])


class Orthogonalize(Timed):
    """P Qᵀ of an n x n matrix by Newton-Schulz: 6 n³ flops a quintic step, 4 n³ a cubic one."""

    params = (BACKENDS, ["5 quintic", "5 quintic, 2 cubic"], SIZES)
    param_names = ("backend", "steps", "n")

    def setup(self, backend, steps, n):
        self.G, self.polish = normal(backend, n, n), 2 if "cubic" in steps else 0

    def time_orthogonalize(self, backend, steps, n):
        wait(nl.linalg.orthogonalize(self.G, 5, self.polish).matrix)

    def track_efficiency(self, backend, steps, n):
        """Share of the exact step's guaranteed decrease that is kept."""
        _, alignment, bound = nl.linalg.orthogonalize(self.G, 5, self.polish)
        return (alignment / bound / nl.linalg.dual_norm(self.G)) ** 2


class SpectralBound(Timed):
    """An upper bound of ||W||₂ of an n x n matrix: singular values, or traces of powers of W Wᵀ."""

    params = (BACKENDS, ["svd", "gram"], SIZES)
    param_names = ("backend", "method", "n")

    def setup(self, backend, method, n):
        self.W = normal(backend, n, n)

    def time_spectral_bound(self, backend, method, n):
        nl.linalg.spectral_bound(self.W, method)

    def track_excess(self, backend, method, n):
        """The bound over the norm."""
        return nl.linalg.spectral_bound(self.W, method) / nl.linalg.operator_norm(self.W)
