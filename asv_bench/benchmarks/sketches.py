"""Every sketch: how long a draw takes, and its application."""

import nearlin as nl

from .common import BACKENDS, Timed, like, normal, problem, wait

FLAT = ["CountSketch", "SparseSign", "SRHT", "Gaussian"]
OF_FACTORS = ["NeuronSigns", "NeuronSamples", "KroneckerSRHT"]
ROWS = 64


def distribution(name):
    return getattr(nl.sketch, name)()


class Flat(Timed):
    """S A for A (p, 8) and 64 rows of S."""

    params = (BACKENDS, FLAT, [2**k for k in range(13, 19)])
    param_names = ("backend", "sketch", "p")

    def setup(self, backend, sketch, p):
        self.a, self.like = normal(backend, p, 8), like(backend)
        self.S = distribution(sketch).sample(0, ROWS, p, like=self.like)

    def time_apply(self, backend, sketch, p):
        wait(self.S @ self.a)

    def time_draw(self, backend, sketch, p):
        distribution(sketch).sample(1, ROWS, p, like=self.like)
        wait(self.like)


class OfFactors(Timed):
    """J Sᵀ S Jᵀ of a two-layer network with n = 32 samples, d = 16 inputs, and 64 rows of S, over its width m."""

    params = (BACKENDS, OF_FACTORS, [2**k for k in range(13, 19)])
    param_names = ("backend", "sketch", "m")

    def setup(self, backend, sketch, m):
        objective, params, batch = problem(backend, 32, m)
        self.J = objective.at(params, batch).jacobian()
        self.S = self.draw(sketch)

    def draw(self, sketch):
        return distribution(sketch).sample(0, ROWS, self.J.factor_shapes, like=self.J.x)

    def time_apply(self, backend, sketch, m):
        wait(self.J.sketch_gram(self.S))

    def time_draw(self, backend, sketch, m):
        self.draw(sketch)
        wait(self.J.x)
