"""GaussNewton beside Adam on ten classes of digits: ``python asv_bench/gauss_newton_digits.py``.

ReLU perceptron 64-256-256-10, mean cross-entropy, full batch of 1437, float32. Steps and seconds to a training loss of 1e-4,
and the test accuracy there, for five seeds; GaussNewton with its defaults and from λ₀ = 1e-8, every attempt counted as a step;
Adam with four step sizes. Runs are interleaved by seed; medians.
"""

import argparse
import statistics
import time

import numpy as np

import nearlin as nl

GOAL, CAP = 1e-4, 4000
METHODS = {
    "GaussNewton": (nl.optim.GaussNewton(), 60),
    "GaussNewton, first damping 1e-8": (nl.optim.GaussNewton(damping=1e-8), 60),
    **{f"Adam, lr {lr:g}": (nl.optim.Adam(lr=lr), CAP) for lr in (1e-3, 3e-3, 1e-2, 3e-2)},
}


def problem():
    """Objective, training and test batch."""
    train, test = nl.data.digits(seed=0)
    x, x_test = (part.floats("float32", flat=True) for part in (train, test))
    mean = x.mean(axis=0)
    net = nl.nn.MLP((64, 256, 256, 10), "relu")
    return nl.nn.Objective(net, nl.nn.SoftmaxCrossEntropy()), (x - mean, train.y), (x_test - mean, test.y)


def run(opt, objective, params, batch, cap):
    """Steps (attempts included), seconds, and the parameters at the goal; None where it is not reached."""
    state, steps, seconds = opt.init(params, objective), 0, 0.0
    for t in range(cap):
        start = time.perf_counter()
        params, state, info = opt.step(params, state, objective, batch, key=t)
        seconds += time.perf_counter() - start
        steps += getattr(info, "attempts", 1)
        loss = getattr(info, "new_loss", None)
        loss = info.loss if loss is None else loss
        if loss <= GOAL:
            return steps, seconds, params
        if info.reason.startswith("stalled"):
            break
    return None, seconds, params


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    objective, train, test = problem()
    params = objective.network.init(0, train[0])
    for opt, _ in METHODS.values():
        run(opt, objective, params, train, 2)  # warm
    found = {name: [] for name in METHODS}
    for seed in range(seeds):
        params = objective.network.init(seed, train[0])
        for name, (opt, cap) in METHODS.items():
            steps, seconds, at = run(opt, objective, params, train, cap)
            right = float(np.mean(np.argmax(objective.at(at, test).outputs, axis=1) == test[1]))
            found[name].append((steps, seconds, right))
    print(f"{'to a training loss of 1e-4':<34}{'steps':>18}{'seconds':>18}{'test accuracy':>16}")
    for name, runs in found.items():
        steps, seconds, right = zip(*runs, strict=True)
        reached = [s for s in steps if s is not None]
        words = f"{statistics.median(reached):.0f} [{min(reached)}, {max(reached)}]" if len(reached) == seeds else "not reached"
        times = f"{statistics.median(seconds):.2f} [{min(seconds):.2f}, {max(seconds):.2f}]"
        print(f"{name:<34}{words:>18}{times:>18}{100 * statistics.median(right):>14.1f} %")
    fastest = min(statistics.median(s for _, s, _ in runs) for name, runs in found.items() if name.startswith("Adam"))
    ratio = statistics.median(s for _, s, _ in found["GaussNewton"]) / fastest
    print(f"GaussNewton / fastest Adam, seconds: {ratio:.2f} (at most 2)")


if __name__ == "__main__":
    main()
