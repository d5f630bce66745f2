"""Steps on a quiet machine and beside busy processes: ``python asv_bench/under_load.py [--busy 4]``.

Each row is one step of an optimizer: the median of five on the machine as it is, the same beside so many processes that do
nothing but count, and the ratio. With two cores and four such processes two threads get a third of the machine: a ratio of 3.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import time

import numpy as np

import nearlin as nl
from nearlin import nn, optim

MOST = 6.0


def perceptron(sizes, loss, targets, n):
    """Objective, parameters and batch of a perceptron on random inputs."""
    x = np.random.default_rng(0).random((n, sizes[0]), dtype=np.float32)
    network = nn.MLP(sizes, "relu")
    return nn.Objective(network, loss), network.init(0, x), (x, targets(x))


def classes(x):
    """Ten labels."""
    return np.random.default_rng(1).integers(0, 10, x.shape[0])


def wide():
    """The near-linear step's problem."""
    x, y = (a.astype("float32") for a in nl.data.sphere(n=1024, d=16, seed=0))
    network = nn.TwoLayer(16, 16384)
    return nn.Objective(network, nn.SquaredLoss()), network.init(0, x), (x, y)


def convolutional():
    """Two convolutions on images of 16 x 16."""
    x = np.random.default_rng(0).random((128, 3, 16, 16), dtype=np.float32)
    relu = nn.Elementwise(nn.activation("relu"))
    modules = (nn.Conv2d(3, 16, 3, 1, 1), relu, nn.MaxPool(2), nn.Conv2d(16, 32, 3, 1, 1), relu, nn.Flatten(), nn.Dense(2048, 10))
    network = nn.Sequential(modules, shape=(3, 16, 16))
    return nn.Objective(network, nn.SoftmaxCrossEntropy()), network.init(0, x), (x, classes(x))


def suite():
    """Name → (optimizer, objective, parameters, batch)."""
    mlp = perceptron((784, 500, 250, 10), nn.SoftmaxCrossEntropy(), classes, 500)
    auto = perceptron((784, 500, 30, 500, 784), nn.SigmoidCrossEntropy(), lambda x: x, 500)
    small = perceptron((64, 64, 10), nn.SoftmaxCrossEntropy(), classes, 128)
    return {
        "SGD, perceptron": (optim.SGD(), *mlp),
        "Adam, perceptron": (optim.Adam(), *mlp),
        "Adam, auto-encoder": (optim.Adam(), *auto),
        "K-FAC, auto-encoder": (optim.KFAC(), *auto),
        "Shampoo, auto-encoder": (optim.Shampoo(), *auto),
        "Gauss-Newton, perceptron": (optim.GaussNewton(), *perceptron((64, 64, 10), nn.SoftmaxCrossEntropy(), classes, 200)),
        "Adam, small perceptron": (optim.Adam(), *small),
        "K-BFGS, small perceptron": (optim.KBFGS(), *small),
        "near-linear, wide network": (optim.NearLinearGaussNewton(), *wide()),
        "SGD, convolutions": (optim.SGD(), *convolutional()),
        "Adam, convolutions": (optim.Adam(), *convolutional()),
    }


def times(opt, objective, params, batch, steps=5):
    """Seconds of ``steps`` steps after one."""
    state, found = opt.init(params, objective), []
    for t in range(steps + 1):
        start = time.perf_counter()
        params, state, _ = opt.step(params, state, objective, batch, key=t)
        found.append(time.perf_counter() - start)
    return found[1:]


@contextlib.contextmanager
def busy(count):
    """``count`` processes that count."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.3)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=4, help="processes beside (default 4)")
    options = parser.parse_args()
    made, worst = suite(), 0.0
    quiet = {name: statistics.median(times(*case)) for name, case in made.items()}
    print(f"{'ms a step':<28}{'quiet':>10}{f'{options.busy} beside':>12}{'ratio':>8}   at most {MOST:g}")
    for name, case in made.items():
        with busy(options.busy):
            loaded = statistics.median(times(*case))
        worst = max(worst, loaded / quiet[name])
        print(f"{name:<28}{1e3 * quiet[name]:>10.1f}{1e3 * loaded:>12.1f}{loaded / quiet[name]:>8.1f}", flush=True)
    print(f"{'the largest ratio':<50}{worst:>8.1f}")


if __name__ == "__main__":
    main()
