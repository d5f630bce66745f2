"""What a layer-wise step costs beside a step of SGD with momentum: ``python asv_bench/layerwise_overhead.py``.

The auto-encoder of the MNIST experiments (784-1000-500-250-30 mirrored), batches of 1000, float32, the intervals of the authors'
own codes. For each method: 2 T2 steps first, then the mean over 2 T2 consecutive steps, so that statistics and inverses count as
often as they happen; a step of SGD is taken between any two, and the ratio is of the two means. The pass over the data before the
first step is left out. Beside it stands the ratio of operations, counted over one period of T2 steps: time differs from it where
operations run slower than matrix products do. Step sizes are small, so that nothing diverges: the cost of a step does not depend
on them. Images are drawn curves, of the size of MNIST's. ``--only kfac,tnt`` runs some
methods, ``--no-count`` leaves the counting out, ``--quick`` runs an eighth of the widths.
"""

import argparse
import platform
import time

import numpy as np

import nearlin as nl

BATCH, BATCHES = 1000, 4
METHODS = {  # the optimizer, T2, and the most that it may cost
    "MBF": (nl.optim.MiniBlockFisher(lr=1e-8, damping=3e-4, statistics_every=2, inverse_every=25), 25, 1.6),
    "K-FAC": (nl.optim.KFAC(lr=3e-5, damping=0.3, pi=False), 20, 2.8),
    "Shampoo, eigh": (nl.optim.Shampoo(lr=3e-6, damping=3e-4, early=False), 20, 2.8),
    "TNT": (nl.optim.TNT(lr=1e-6, damping=0.1), 20, 3.0),
    "K-BFGS": (nl.optim.KBFGS(lr=3e-3, damping=0.3), 20, 3.1),
    "K-BFGS(L)": (nl.optim.KBFGSL(lr=3e-3, damping=0.3), 20, None),
    "Adam": (nl.optim.Adam(lr=3e-4, epsilon_hat=1e-4), 20, None),
    "Shampoo, coupled Newton": (nl.optim.Shampoo(lr=3e-6, damping=3e-4, early=False, root="newton"), 20, None),
}
SGD = nl.optim.SGD(lr=3e-5)


class Run:
    """An optimizer on its way: parameters, state, and the step's number."""

    def __init__(self, optimizer, objective, batches, params):
        self.optimizer, self.objective, self.batches = optimizer, objective, batches
        self.params, self.state, self.t = params, optimizer.init(params, objective), 0
        if hasattr(optimizer, "warm_start"):
            self.state = optimizer.warm_start(params, self.state, objective, batches, key=7)

    def step(self):
        """One step; its seconds."""
        batch = self.batches[self.t % len(self.batches)]
        start = time.perf_counter()
        self.params, self.state, info = self.optimizer.step(self.params, self.state, self.objective, batch, key=self.t)
        seconds = time.perf_counter() - start
        if not info.accepted:
            raise RuntimeError(f"step {self.t} of {self.optimizer} was not taken: {info.reason}")
        self.t += 1
        return seconds


def problem(quick):
    sizes = (784, 125, 63, 32, 8) if quick else (784, 1000, 500, 250, 30)
    net = nl.nn.autoencoder(sizes)
    x, _ = nl.data.curves(n_train=BATCH * BATCHES, n_test=1)
    batches = [(part, part) for part in np.split(x, BATCHES)]
    return nl.nn.Objective(net, nl.nn.SigmoidCrossEntropy()), batches, net.init(0, x)


def timed(optimizer, period, objective, batches, params):
    """Mean seconds of a step and of the SGD step beside it."""
    method, sgd = (Run(one, objective, batches, params) for one in (optimizer, SGD))
    for _ in range(2 * period):
        method.step()
    sgd.step()
    pairs = [(method.step(), sgd.step()) for _ in range(2 * period)]
    return np.mean(pairs, axis=0)


def counted(optimizer, period, objective, batches, params):
    """Operations of a step of the method over those of SGD: the mean of one period, its inverses included."""
    count, wrap = nl.complexity.count, nl.complexity.wrap

    def flops(one, steps):
        run = Run(one, objective, [wrap(batch) for batch in batches], wrap(params))
        while run.t < 2 * period:  # to where the period repeats
            run.step()
        with count() as tally:
            for _ in range(steps):
                run.step()
        return tally.total / steps

    return flops(optimizer, period) / flops(SGD, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="first letters of methods, separated by commas")
    parser.add_argument("--no-count", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    words = [word.strip().lower() for word in options.only.split(",")]
    chosen = [name for name in METHODS if any(name.lower().startswith(word) for word in words)]
    objective, batches, params = problem(options.quick)
    print(f"nearlin {nl.__version__}, NumPy {np.__version__}, {platform.machine()}, batch {BATCH}, float32")
    print(f"{'method':<26}{'s a step':>10}{'SGD':>9}{'ratio':>8}{'at most':>9}{'counted':>9}")
    for name in chosen:
        optimizer, period, most = METHODS[name]
        own, sgd = timed(optimizer, period, objective, batches, params)
        ratio = "" if options.no_count else f"{counted(optimizer, period, objective, batches, params):9.2f}"
        print(f"{name:<26}{own:>10.3f}{sgd:>9.3f}{own / sgd:>8.2f}{most or '':>9}{ratio}", flush=True)


if __name__ == "__main__":
    main()
