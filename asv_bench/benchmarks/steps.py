"""One step of every optimizer, over the width of a two-layer network."""

import nearlin as nl

from .common import BACKENDS, WIDTHS, Timed, geometric, normal, problem, wait

OPTIMIZERS = {
    "NearLinearGaussNewton, R fresh": nl.optim.NearLinearGaussNewton(reuse=False),
    "NearLinearGaussNewton, R reused": nl.optim.NearLinearGaussNewton(),
    "GaussNewton": nl.optim.GaussNewton(),
    "GramGaussNewton": nl.optim.GramGaussNewton(),
    "NaturalGradient": nl.optim.NaturalGradient(),
    "SGD": nl.optim.SGD(),
    "Adam": nl.optim.Adam(),
}


class Step:
    """n = 256, d = 16; the second step, from the state that the first one left."""

    param_names = ("backend", "optimizer", "m")

    def setup(self, backend, optimizer, m):
        self.opt = OPTIMIZERS[optimizer]
        self.objective, params, self.batch = problem(backend, 256, m)
        state = self.opt.init(params, self.objective)
        self.params, self.state, _ = self.opt.step(params, state, self.objective, self.batch, key=0)

    def step(self):
        return self.opt.step(self.params, self.state, self.objective, self.batch, key=1)


class OverWidth(Step, Timed):
    """Seconds of a step."""

    params = (BACKENDS, list(OPTIMIZERS), WIDTHS)

    def time_step(self, backend, optimizer, m):
        wait(*self.step()[0])


class PeakMemory(Step):
    """Resident memory at its peak, with the interpreter and its imports."""

    params = (BACKENDS, list(OPTIMIZERS), [2**14, 2**16, 2**18])

    def peakmem_step(self, backend, optimizer, m):
        wait(*self.step()[0])


class DeepStep(Timed):
    """Seconds of a step of `GaussNewton` on a perceptron 64-256-256-10 with cross-entropy, over the samples."""

    params = (BACKENDS, geometric(64, 1024, 8))
    param_names = ("backend", "n")

    def setup(self, backend, n):
        net = nl.nn.MLP((64, 256, 256, 10), "relu")
        x, self.opt = normal(backend, n, 64), nl.optim.GaussNewton()
        xp = nl._array.namespace(x)
        self.batch = x, xp.argmax(normal(backend, n, 10, seed=1), axis=1)
        self.objective, params = nl.nn.Objective(net, nl.nn.SoftmaxCrossEntropy()), net.init(0, x)
        state = self.opt.init(params, self.objective)
        self.params_, self.state, _ = self.opt.step(params, state, self.objective, self.batch, key=0)

    def time_step(self, backend, n):
        wait(*self.opt.step(self.params_, self.state, self.objective, self.batch, key=1)[0])
