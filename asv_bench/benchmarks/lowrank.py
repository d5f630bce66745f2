"""Low-rank curvature: its update by a vector together with its inverse, and the inverse alone, over the dimension."""

import nearlin as nl

from .common import BACKENDS, Timed, geometric, normal, wait


class LowRank(Timed):
    """Dimension d, rank k: d (4 k² + 12 k + 9) flops, and d (4 k + 4) for the inverse alone."""

    params = (BACKENDS, [16], geometric(2**12, 2**18, 6))
    param_names = ("backend", "rank", "d")

    def setup(self, backend, rank, d):
        self.h, self.v = normal(backend, d), normal(backend, d, seed=1)
        self.inverse, self.curvature = nl.linalg.Inverse(1e-2), nl.linalg.lowrank(d, rank, self.h)
        for seed in range(2, rank + 4):
            self.curvature = nl.linalg.lowrank_update(self.curvature, normal(backend, d, seed=seed), 0.99).curvature

    def time_step(self, backend, rank, d):
        wait(nl.linalg.lowrank_step(self.curvature, self.h, self.v, 0.99, self.inverse).x)

    def time_solve(self, backend, rank, d):
        wait(nl.linalg.lowrank_solve(self.curvature, self.v, self.inverse))


class LowRankQuality:
    """Distance of UᵀU from the identity after 1000 updates by slowly drifting vectors."""

    params = (BACKENDS, [1, 4, 16])
    param_names = ("backend", "rank")

    def track_orthonormality(self, backend, rank):
        first, second = normal(backend, 1000), normal(backend, 1000, seed=1)
        curvature = nl.linalg.lowrank(1000, rank, first)
        for t in range(1000):
            curvature = nl.linalg.lowrank_update(curvature, first + 1e-3 * t * second, 0.99).curvature
        U = nl.to_numpy(curvature.U).astype("float64")
        return float(abs(U @ U.T - nl.to_numpy(nl.linalg.lowrank(rank, rank, U).U)).max())
