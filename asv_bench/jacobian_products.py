"""A product with J Jᵀ beside one gradient, in one run: ``python asv_bench/jacobian_products.py``.

ReLU perceptrons with one output in float32, the Jacobian in factors. The gradient is a forward and a backward pass without the
first layer's input gradient. The factors are made once a step: their one-off cost, forward pass included, and that of the
structured Gram matrix stand beside the product. Medians of interleaved rounds.
"""

import argparse
import statistics
import time

import numpy as np

import nearlin as nl

NETWORKS = (((784, 512, 512, 1), 256), ((784, 1000, 500, 250, 1), 512), ((64, 1024, 1024, 1), 512), ((784, 1000, 1), 512),
            ((64, 4096, 1), 512))  # fmt: skip
TARGET = 0.9


def medians(contestants, rounds):
    """Median seconds of each, interleaved, after two rounds."""
    times = {name: [] for name in contestants}
    for i in range(rounds + 2):
        for name, f in contestants.items():
            start = time.perf_counter()
            f()
            if i > 1:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def contest(sizes, n, rounds):
    """Seconds of a gradient, a product, the factors, and the Gram matrix."""
    draw = np.random.default_rng(0)
    x, y, u = (draw.standard_normal((n, k), dtype=np.float32) for k in (sizes[0], 1, 1))
    net = nl.nn.MLP(sizes, "relu")
    objective, params = nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(0, x)
    J = objective.at(params, (x, y)).jacobian(weighted=True)
    return medians(
        {
            "gradient": lambda: objective.at(params, (x, y)).grads(),
            "product": lambda: J.gram_matvec(u[:, 0]),
            "factors": lambda: objective.at(params, (x, y)).jacobian(weighted=True),
            "Gram": J.gram,
        },
        rounds,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    print(f"{'network':<24}{'n':>5}{'gradient':>12}{'product':>10}{'factors':>10}{'Gram':>8}   in gradients")
    for sizes, n in NETWORKS:
        t = contest(sizes, n, rounds)
        ratios = "".join(f"{t[name] / t['gradient']:>{w}.2f}" for name, w in (("product", 10), ("factors", 10), ("Gram", 8)))
        met = "" if t["product"] <= TARGET * t["gradient"] else f"   above {TARGET}"
        print(f"{'-'.join(map(str, sizes)):<24}{n:>5}{1e3 * t['gradient']:>9.1f} ms{ratios}{met}", flush=True)


if __name__ == "__main__":
    main()
