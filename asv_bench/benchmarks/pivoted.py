"""Preconditioners from a few columns of the limit kernel: making and applying them over the samples, and what they leave."""

import math

import nearlin as nl

from .common import BACKENDS, Timed, geometric, like, problem, wait


class Pivoted(Timed):
    """k columns on the sphere, d = 16: n k (2 d + 9) + 2 n k² flops, 4 n k a call; and the blocks of groups of near rows."""

    params = (BACKENDS, [64], geometric(2**11, 2**15, 6))
    param_names = ("backend", "rank", "n")

    def setup(self, backend, rank, n):
        self.x, self.r = (nl.asarray(a, like=like(backend)) for a in nl.data.sphere(n=n, d=16, seed=0))
        self.P, self.groups = self.make(rank), nl.linalg.nearby_groups(self.x, 0)

    def make(self, rank):
        return nl.linalg.PivotedCholesky(nl.nn.KernelEntries(self.x), 0).grow(rank).preconditioner(1e-5)

    def time_make(self, backend, rank, n):
        wait(self.make(rank).R)

    def time_apply(self, backend, rank, n):
        wait(self.P(self.r))

    def time_blocks(self, backend, rank, n):
        wait(nl.linalg.pivoted_blocks(self.P.factor, 1e-5, self.groups).inverses)


class PivotedQuality:
    """Iterations to 1/6 with k₀ = √(2 m d) columns and without, over the samples; d = 16, λ = 1e-5 tr/n."""

    params = (BACKENDS, [512, 1024, 2048], [1, 8])
    param_names = ("backend", "n", "m/n")
    timeout = 120

    def setup(self, backend, n, ratio):
        objective, params, batch = problem(backend, n, ratio * n)
        self.J, (x, self.b) = objective.at(params, batch).jacobian(), batch
        self.damping = 1e-5 * self.J.mean_square()
        factor = nl.linalg.PivotedCholesky(nl.nn.KernelEntries(x), 0).grow(min(n, math.isqrt(32 * ratio * n)))
        self.P = factor.preconditioner(self.damping)

    def iterations(self, **options):
        def damped(v):
            return self.J.gram_matvec(v) + self.damping * v

        return nl.linalg.cg(damped, self.b, rtol=1 / 6, maxiter=500, **options)[1].iterations

    def track_iterations(self, *_):
        return self.iterations(preconditioner=self.P)

    def track_iterations_without(self, *_):
        return self.iterations()

    track_iterations.unit = track_iterations_without.unit = "iterations"
