"""What Ginger costs beside Adam, in one run: ``python asv_bench/ginger_step.py``.

The update alone, in its pure form, on one tensor of 1 000 000 entries; and the whole step, curvature vector included, on a
network of as many parameters (784-880-340-10, batch 512). float32, rank 4; 5 calls of each first, then medians of 20
interleaved rounds. The whole steps are also counted. ``--quick`` runs everything at a sixteenth of the size.
"""

import argparse
import os
import platform
import statistics
import time
from functools import partial

import numpy as np
from threadpoolctl import threadpool_info

import nearlin as nl

RANK, WARM, ROUNDS = 4, 5, 20


def medians(contestants):
    """Median milliseconds of each contestant, interleaved, after warm-up calls."""
    times = {name: [] for name in contestants}
    for i in range(WARM + ROUNDS):
        for name, f in contestants.items():
            start = time.perf_counter()
            f()
            if i >= WARM:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def row(name, times, target):
    ratio = times["ginger"] / times["adam"]
    print(f"  {name:<62}{times['ginger']:>9.2f} ms{times['adam']:>9.2f} ms{ratio:>7.2f}   {target}", flush=True)


def updates(d):
    """The arithmetic of both on one tensor: Ginger on its way, and Adam's moments and parameters."""
    draw = np.random.default_rng(0)
    g, h, W, M, V = (draw.standard_normal((1, d), dtype=np.float32) for _ in range(5))
    ginger, adam = nl.optim.Ginger(rank=RANK), partial(nl.steps.adam_step, (W,), (g,), (M,), (V * V,))
    state = ginger.init((W,), None)
    for _ in range(RANK + 1):  # until every column of U is in use
        _, state = ginger.update(state, (g,), (draw.standard_normal((1, d), dtype=np.float32),))
    return {"ginger": partial(ginger.update, state, (g,), (h,)), "adam": partial(adam, 10, 1e-3, (0.9, 0.999), 1e-8)}


class Run:
    """An optimizer on its way."""

    def __init__(self, optimizer, objective, params, batch):
        self.optimizer, self.objective, self.params, self.batch = optimizer, objective, params, batch
        self.state, self.t = optimizer.init(params, objective), 0

    def step(self):
        self.params, self.state, info = self.optimizer.step(self.params, self.state, self.objective, self.batch, key=self.t)
        self.t += 1
        if not info.accepted:
            raise RuntimeError(f"step {self.t} of {self.optimizer} was not taken: {info.reason}")


def whole_steps(sizes, n, wrap=lambda x: x):
    """Steps of both on a network, from the same parameters."""
    draw = np.random.default_rng(1)
    x, y = draw.standard_normal((n, sizes[0]), dtype=np.float32), np.eye(sizes[-1], dtype=np.float32)[np.arange(n) % sizes[-1]]
    net = nl.nn.MLP(sizes)
    objective, params = nl.nn.Objective(net, nl.nn.SoftmaxCrossEntropy()), wrap(net.init(0, x))
    optimizers = {"ginger": nl.optim.Ginger(lr=1e-4, rank=RANK), "adam": nl.optim.Adam(lr=1e-5)}
    runs = {name: Run(optimizer, objective, params, wrap((x, y))) for name, optimizer in optimizers.items()}
    return runs, sum(W.shape[0] * W.shape[1] for W in params)


def counted(sizes, n):
    """Flops of a whole step over those of Adam's."""
    runs, _ = whole_steps(sizes, n, nl.complexity.wrap)
    flops = {}
    for name, run in runs.items():
        for _ in range(3):
            with nl.complexity.count() as tally:
                run.step()
        flops[name] = tally.total
    return flops["ginger"] / flops["adam"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the size")
    options = parser.parse_args()
    d, sizes, n = (62_500, (196, 220, 85, 10), 128) if options.quick else (1_000_000, (784, 880, 340, 10), 512)
    threads = max([library["num_threads"] for library in threadpool_info()], default=1)
    print(f"nearlin {nl.__version__}, NumPy {np.__version__}, Python {platform.python_version()}, {platform.machine()}, ", end="")
    print(f"{os.cpu_count()} cores, {threads} BLAS threads, {time.strftime('%Y-%m-%d')}")
    print(f"  {'':<62}{'Ginger':>12}{'Adam':>12}{'ratio':>7}   at most")
    row(f"update of {d} entries, rank {RANK}, float32", medians(updates(d)), "6, better 4")
    runs, p = whole_steps(sizes, n)
    row(f"whole step, {p} parameters, batch {n}", medians({name: run.step for name, run in runs.items()}), "2.0")
    print(f"  {'the same, counted':<86}{counted(sizes, n):>7.2f}")


if __name__ == "__main__":
    main()
