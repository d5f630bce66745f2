"""Preconditioners of Gauss-Newton systems: making them and applying them, on both sides."""

import nearlin as nl

from .common import BACKENDS, Timed, geometric, like, normal, problem, wait

KINDS = ("exact", "class-averaged", "per-class")
CLASSES = 4


def perceptron(backend, n, outputs=CLASSES, width=256):
    """A point of a perceptron 64-width-width-outputs on Gaussian inputs, and its objective."""
    net = nl.nn.MLP((64, width, width, outputs), "tanh")
    objective = nl.nn.Objective(net, nl.nn.SquaredLoss())
    x, y = normal(backend, n, 64), normal(backend, n, outputs, seed=1)
    return objective, objective.at(net.init(0, like(backend)), (x, y))


class ByClass(Timed):
    """Gram matrices of a perceptron with 4 outputs over its samples: the whole one, the mean, one for each class."""

    params = (BACKENDS, KINDS, geometric(64, 512, 6))
    param_names = ("backend", "kind", "n")

    def setup(self, backend, kind, n):
        _, point = perceptron(backend, n)
        self.J, self.r = point.jacobian(weighted=True), point.residual
        make = {"exact": lambda: (self.J.gram(),), "class-averaged": lambda: (self.J.mean_gram(),)}
        self.grams = make.get(kind, self.J.class_grams)
        factors = tuple(nl.linalg.sketch_factor(gram, 1.0)[0] for gram in self.grams())
        self.P = nl.linalg.TriangularBlocks(factors, 1 if kind == "exact" else CLASSES, 1.0)

    def time_gram(self, backend, kind, n):
        wait(*self.grams())

    def time_apply(self, backend, kind, n):
        wait(self.P(self.r))


class ByLayer(Timed):
    """Kronecker factors with both eigenbases, and the diagonal, over the width of a perceptron with 512 samples."""

    params = (BACKENDS, geometric(32, 384, 6))
    param_names = ("backend", "width")

    def setup(self, backend, width):
        self.objective, self.point = perceptron(backend, 512, width=width)
        self.kfac = nl.curvature.kronecker_curvature(self.point, self.objective.layers, 0)
        self.grads = self.point.grads()

    def time_kronecker(self, backend, width):
        wait(*(layer.UA for layer in nl.curvature.kronecker_curvature(self.point, self.objective.layers, 0).layers))

    def time_diagonal(self, backend, width):
        wait(*(layer.values for layer in nl.curvature.diagonal_curvature(self.point, self.objective.layers, 0).layers))

    def time_solve(self, backend, width):
        wait(*self.kfac.solve(self.grads, 1e-3))


class Kernel(Timed):
    """The closed-form kernel of the wide two-layer network over its samples, d = 16."""

    params = (BACKENDS, geometric(256, 2048, 6))
    param_names = ("backend", "n")

    def setup(self, backend, n):
        objective, params, batch = problem(backend, n, 64)
        self.J = objective.at(params, batch).jacobian()

    def time_kernel(self, backend, n):
        wait(self.J.kernel_gram())


class Iterations:
    """Iterations of `GaussNewton` to ε = 1e-3 by preconditioner, over the samples of a perceptron with 4 outputs."""

    params = (["sketch", "class-averaged", "per-class", "nystrom", "cg"], geometric(32, 128, 4))
    param_names = ("plan", "n")
    timeout = 120

    def track_iterations(self, plan, n):
        objective, point = perceptron("numpy", n)
        opt = nl.optim.GaussNewton(plan=plan, epsilon=1e-3, maxiter=2000)
        batch = (point.x, point.y)
        return opt.step(point.params, opt.init(point.params, objective), objective, batch, key=0)[2].solve.iterations

    track_iterations.unit = "iterations"
