"""Networks: forward passes, products with their Jacobians, the structured Gram matrix."""

import nearlin as nl

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

    params = (BACKENDS, geometric(512, 3072, 6))
    param_names = ("backend", "n")

    def setup(self, backend, n):
        objective, W, batch = problem(backend, n, 4096)
        self.J, self.u = objective.at(W, batch).jacobian(), batch[1]

    def time_gram(self, backend, n):
        wait(self.J.gram())

    def time_gram_matvec(self, backend, n):
        wait(self.J.gram_matvec(self.u))


class AnyNetwork(Timed):
    """Products with the Jacobian of a small convolutional network with ten outputs by its own passes, over the samples."""

    params = (BACKENDS, geometric(64, 768, 6))
    param_names = ("backend", "n")

    def setup(self, backend, n):
        relu = nl.nn.Elementwise(nl.nn.activation("relu"))
        layers = (nl.nn.Conv2d(1, 16, 3, pad=1), relu, nl.nn.Conv2d(16, 32, 3, stride=2), relu, nl.nn.GlobalAvgPool())
        net = nl.nn.Sequential((*layers, nl.nn.Dense(32, 10)), gain=2.0, shape=(1, 8, 8))
        x, y = normal(backend, n, 1, 8, 8), normal(backend, n, 10, seed=1)
        point = nl.nn.Objective(net, nl.nn.SquaredLoss()).at(net.init(0, x), (x, y))
        self.J, self.v, self.u = point.jacobian(), point.grads(), nl._array.namespace(y).reshape(y, (-1,))

    def time_jvp(self, backend, n):
        wait(self.J.matvec(self.v))

    def time_backward(self, backend, n):
        wait(*self.J.rmatvec(self.u))

    def time_ggn_matvec(self, backend, n):
        wait(*self.J.ggn_matvec(self.v))
