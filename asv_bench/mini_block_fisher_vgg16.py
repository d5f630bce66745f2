"""What the mini-block Fisher method adds to the layers of VGG16: ``python asv_bench/mini_block_fisher_vgg16.py``.

Forward and backward pass of one layer at a time (batch 128, 32 x 32 images, float32) beside the optimizer's own step on that
layer's gradient: momentum, statistics every T1 = 10 steps, inverses every T2 = 100, direction, update, and the check that it is
finite. A step of each kind is timed, and 100 consecutive ones are added up: 90 plain, 9 with statistics, 1 with statistics and
inverses. Medians after a warm-up. ``--quick`` runs a batch of 4 and the narrow layers, to see that it runs.
"""

import argparse
import os
import platform
import statistics
import time

import numpy as np

import nearlin as nl

T1, T2 = 10, 100
TARGET = 0.10


def median_of(f, rounds):
    """Median seconds of ``rounds`` calls after one, and the last result."""
    f()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = f()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


class Given:
    """An objective of one layer whose gradient is given: nothing but the optimizer takes time."""

    def __init__(self, spec, gradient):
        self.layers, self.gradient, self.samples, self.loss = (spec,), gradient, 1, 1.0

    def at(self, params, batch):
        self.params = params
        return self

    def grads(self, targets=None):
        return (self.gradient,)


def optimizer_seconds(spec, W, gradient, rounds):
    """Seconds of a plain step, of one with statistics, of one with statistics and inverses, and bytes of the state's matrices."""
    opt = nl.optim.MiniBlockFisher(lr=3e-5, damping=3e-3, statistics_every=T1, inverse_every=T2)
    objective, params = Given(spec, gradient), (W,)
    _, state, _ = opt.step(params, opt.init(params, objective), objective, None)
    kinds = {"plain": T2 + 1, "statistics": T2 + T1, "inverses": 2 * T2}
    times = [median_of(lambda t=t: opt.step(params, state._replace(t=t), objective, None), rounds)[0] for t in kinds.values()]
    return times, 2 * state.layers[0].F.nbytes


def layers_of_vgg16(n):
    """Every convolution and dense layer with the shape of its inputs."""
    network = nl.nn.VGG16()
    shape = (n, 3, 32, 32)
    for module in network.modules:
        if isinstance(module, nl.nn.Conv2d | nl.nn.Dense):
            yield module, shape
            shape = (n, module.out, *shape[2:])
        elif isinstance(module, nl.nn.MaxPool):
            shape = (*shape[:2], shape[2] // 2, shape[3] // 2)
        elif isinstance(module, nl.nn.Flatten):
            shape = (n, shape[1] * shape[2] * shape[3])


def layer_row(module, shape, rounds):
    """Seconds of forward and backward pass, and of the optimizer per step."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32)
    W = module.init(0, x)
    dy = rng.standard_normal(module.forward(W, x)[0].shape, dtype=np.float32)

    def gradient():
        _, cache = module.forward(W, x)
        _, trace = module.backward(W, cache, dy)
        return trace.grad()

    passes, G = median_of(gradient, rounds)
    (plain, with_statistics, with_inverses), state = optimizer_seconds(module.spec, W, G / shape[0], rounds)
    often, seldom = T2 // T1 - 1, T2 - T2 // T1
    mean = (seldom * plain + often * with_statistics + with_inverses) / T2
    name = f"{module.spec.kind} {module.inp} -> {module.out}" + (f", {shape[2]} x {shape[3]}" if len(shape) == 4 else "")
    cells = [passes, plain, with_statistics, with_inverses, mean]
    print(
        f"  {name:<28}" + "".join(f"{1e3 * c:>12.1f}" for c in cells) + f"{mean / passes:>10.1%}{state / 2**20:>9.0f}", flush=True
    )
    return passes, mean


def table(title, rows, rounds):
    """Total seconds of the passes and of the optimizer."""
    print(f"\n{title}")
    heads = ["fwd + bwd", "plain", "statistics", "inverses", "mean"]
    print(f"  {'layer':<28}" + "".join(f"{head:>12}" for head in heads) + f"{'share':>10}{'MB':>9}")
    passes, mean = map(sum, zip(*(layer_row(*row, rounds) for row in rows), strict=True))
    print(f"  {'all':<28}{1e3 * passes:>12.1f}{'':>36}{1e3 * mean:>12.1f}{mean / passes:>10.1%}")
    return mean / passes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a batch of 4, layers of at most 128 channels")
    parser.add_argument("--rounds", type=int, default=5, help="calls that a median is taken of (default 5)")
    options = parser.parse_args()
    rounds, n = (1, 4) if options.quick else (options.rounds, 128)
    rows = [row for row in layers_of_vgg16(n) if not options.quick or max(row[0].inp, row[0].out) <= 128]
    versions = f"nearlin {nl.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    print(
        f"{versions}, {platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}; milliseconds, batch {n}, float32"
    )
    share = table("convolutions", [row for row in rows if row[0].spec.kind == "conv"], rounds)
    print(f"  optimizer / forward and backward: {share:.1%} (target <= {TARGET:.0%})")
    if head := [row for row in rows if row[0].spec.kind == "dense"]:
        table('dense head, one block per layer (layout "out", averaged)', head, min(rounds, 2))


if __name__ == "__main__":
    main()
