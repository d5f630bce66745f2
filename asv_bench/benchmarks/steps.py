"""One step of every optimizer, over the width of a two-layer network or of a perceptron."""

import nearlin as nl

from .common import BACKENDS, WIDTHS, Timed, geometric, like, normal, problem, wait

OPTIMIZERS = {
    "NearLinearGaussNewton, R fresh": nl.optim.NearLinearGaussNewton(preconditioner="sketch", reuse=False),
    "NearLinearGaussNewton, R reused": nl.optim.NearLinearGaussNewton(preconditioner="sketch"),
    "GaussNewton": nl.optim.GaussNewton(),
    "GramGaussNewton": nl.optim.GramGaussNewton(),
    "NaturalGradient": nl.optim.NaturalGradient(),
    "SGD": nl.optim.SGD(),
    "Adam": nl.optim.Adam(),
    "AdamW": nl.optim.AdamW(),
    "AdaGrad": nl.optim.AdaGrad(),
    "RMSprop": nl.optim.RMSprop(),
    "QNG": nl.optim.QNG(),
    "Ginger": nl.optim.Ginger(),
}
ALWAYS = {"statistics_every": 1, "inverse_every": 1}
DEEP = {  # whose matrices are of the size of a layer's sides; what is due now and then is done in every step
    "MiniBlockFisher": nl.optim.MiniBlockFisher(**ALWAYS),
    "KFAC": nl.optim.KFAC(**ALWAYS),
    "Shampoo": nl.optim.Shampoo(**ALWAYS),
    "SOAP": nl.optim.SOAP(inverse_every=1),
    "TNT": nl.optim.TNT(**ALWAYS),
    "KBFGS": nl.optim.KBFGS(lr=1e-3),
    "KBFGSL": nl.optim.KBFGSL(lr=1e-3),
    "DSGD": nl.optim.DSGD(),
    "DSGD, Newton-Schulz": nl.optim.DSGD(orth="newton_schulz"),
    "Muon": nl.optim.Muon(),
}


class Step:
    """n = 256, d = 16; the second step, from the state that the first one left."""

    param_names = ("backend", "optimizer", "m")

    def setup(self, backend, optimizer, m):
        self.start(OPTIMIZERS[optimizer], *problem(backend, 256, m))

    def start(self, opt, objective, params, batch):
        state = opt.init(params, objective)
        params, state, _ = opt.step(params, state, objective, batch, key=0)
        self.step = lambda: opt.step(params, state, objective, batch, key=1)


class OverWidth(Step, Timed):
    """Seconds of a step."""

    params = (BACKENDS, list(OPTIMIZERS), WIDTHS)

    def time_step(self, backend, optimizer, m):
        wait(*self.step()[0])


class TenOutputs(Step, Timed):
    """Seconds of a step with ten outputs, over the width, of the methods that go by one preconditioner for all of them."""

    params = (BACKENDS, [name for name in OPTIMIZERS if "GaussNewton" in name and "Gram" not in name], WIDTHS)

    def setup(self, backend, optimizer, m):
        self.start(OPTIMIZERS[optimizer], *problem(backend, 256, m, outputs=10))

    def time_step(self, backend, optimizer, m):
        wait(*self.step()[0])


class PeakMemory(Step):
    """Resident memory at its peak, with the interpreter and its imports."""

    params = (BACKENDS, list(OPTIMIZERS), [2**14, 2**16, 2**18])

    def peakmem_step(self, backend, optimizer, m):
        wait(*self.step()[0])


class Deep(Step, Timed):
    """Seconds of a step on a tanh perceptron 64-w-w-10, 256 samples, cross-entropy, over its width w."""

    params = (BACKENDS, list(DEEP), geometric(64, 512, 6))
    param_names = ("backend", "optimizer", "w")

    def setup(self, backend, optimizer, w):
        self.start(DEEP[optimizer], *perceptron(backend, 256, w, "tanh"))

    def time_step(self, backend, optimizer, w):
        wait(*self.step()[0])


class DeepGaussNewton(Step, Timed):
    """Seconds of a step of `GaussNewton` on a ReLU perceptron 64-256-256-10 with cross-entropy, over the samples."""

    params = (BACKENDS, geometric(64, 768, 6))
    param_names = ("backend", "n")

    def setup(self, backend, n):
        self.start(nl.optim.GaussNewton(), *perceptron(backend, n, 256, "relu"))

    def time_step(self, backend, n):
        wait(*self.step()[0])


def perceptron(backend, n, width, activation):
    """Gaussian inputs, ten classes: objective, parameters, batch."""
    network = nl.nn.MLP((64, width, width, 10), activation)
    labels = nl.asarray([i % 10 for i in range(n)], like=like(backend), dtype="int64")
    x = normal(backend, n, 64)
    return nl.nn.Objective(network, nl.nn.SoftmaxCrossEntropy()), network.init(0, x), (x, labels)
