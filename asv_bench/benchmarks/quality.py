"""What is no time: threads, exact flops, iterations, conditioning, exponents of a quick sweep in this process."""

import time

from nearlin._array import blas_threads
from nearlin.complexity.counting import flops_of
from nearlin.complexity.fit import fit_with_floor

from .common import BACKENDS, problem, wait
from .steps import OPTIMIZERS

NEAR_LINEAR = [name for name in OPTIMIZERS if name.startswith("NearLinear")]


class Threads:
    """`nearlin verify --from-asv` refuses results unless this says 1."""

    def track_blas_threads(self):
        return blas_threads()

    track_blas_threads.unit = "threads"


class Flops:
    """Of one step, counted exactly, over the width; n = 64, d = 16."""

    params = (list(OPTIMIZERS), [2**k for k in range(10, 17, 2)])
    param_names = ("optimizer", "m")

    def track_step(self, optimizer, m):
        opt, (objective, params, batch) = OPTIMIZERS[optimizer], problem("numpy", 64, m)
        return int(flops_of(opt.step, params, opt.init(params, objective), objective, batch, key=0))

    track_step.unit = "flops"


class Inner:
    """The inner solve of the near-linear step after three steps; d = 16."""

    params = (BACKENDS, NEAR_LINEAR, [256, 512, 1024], [8, 64])
    param_names = ("backend", "optimizer", "n", "m/n")

    def setup(self, backend, optimizer, n, ratio):
        opt, (objective, params, batch) = OPTIMIZERS[optimizer], problem(backend, n, ratio * n)
        state = opt.init(params, objective)
        for t in range(3):
            params, state, self.info = opt.step(params, state, objective, batch, key=t)

    def track_iterations(self, *_):
        return self.info.solve.iterations

    def track_condition(self, *_):
        """κ of the preconditioned operator, as conjugate gradients see it: a lower bound."""
        return float(self.info.solve.condition)

    track_iterations.unit = "iterations"
    track_condition.unit = "condition number"


class Exponent:
    """Of one step in the width m, from a quick sweep in this process, fitted with a floor; n = 128, d = 16."""

    params = (BACKENDS, list(OPTIMIZERS))
    param_names = ("backend", "optimizer")
    timeout = 120

    def track_step(self, backend, optimizer):
        widths = [2**k for k in range(8, 16)]
        return fit_with_floor(widths, [self.seconds(backend, OPTIMIZERS[optimizer], m) for m in widths]).exponent

    track_step.unit = "exponent"

    def seconds(self, backend, opt, m):
        objective, params, batch = problem(backend, 128, m)
        params, state, _ = opt.step(params, opt.init(params, objective), objective, batch, key=0)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            wait(*opt.step(params, state, objective, batch, key=1)[0])
            times.append(time.perf_counter() - start)
        return min(times)
