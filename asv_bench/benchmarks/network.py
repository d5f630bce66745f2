"""The two-layer network: forward pass, products with its Jacobian, its structured Gram matrix."""

from .common import BACKENDS, WIDTHS, Timed, geometric, normal, problem, wait

SAMPLES = 256


class OverWidth(Timed):
    """n = 256, d = 16."""

    params = (BACKENDS, WIDTHS)
    param_names = ("backend", "m")

    def setup(self, backend, m):
        self.objective, self.W, self.batch = problem(backend, SAMPLES, m)
        self.J = self.objective.at(self.W, self.batch).jacobian()
        self.V, self.u = (normal(backend, m, 16),), self.batch[1]

    def time_forward(self, backend, m):
        wait(self.objective.at(self.W, self.batch).outputs)

    def time_matvec(self, backend, m):
        wait(self.J.matvec(self.V))

    def time_rmatvec(self, backend, m):
        wait(*self.J.rmatvec(self.u))

    def time_gram_matvec(self, backend, m):
        wait(self.J.gram_matvec(self.u))

    def time_gram(self, backend, m):
        wait(self.J.gram())


class OverSamples(Timed):
    """m = 4096, d = 16."""

    params = (BACKENDS, geometric(512, 4096, 8))
    param_names = ("backend", "n")

    def setup(self, backend, n):
        objective, W, batch = problem(backend, n, 4096)
        self.J, self.u = objective.at(W, batch).jacobian(), batch[1]

    def time_gram(self, backend, n):
        wait(self.J.gram())

    def time_gram_matvec(self, backend, n):
        wait(self.J.gram_matvec(self.u))
