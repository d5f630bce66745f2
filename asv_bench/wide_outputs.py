"""A step of the wide network with ten outputs beside one with one, at equal width: ``python asv_bench/wide_outputs.py``.

1200 digits, m = 32768, ε = 1/6: one-hot in c = 10 outputs, and one class against the rest in c = 1. The second step is taken
again and again, from the state that the first one left, where both take as many inner iterations: processor seconds of whole
steps, guard and certificate included, in pairs one right after the other whose order turns round from pair to pair. The median
of the pairs' ratios and its quartiles; beside them the iterations of six steps with ten outputs, which are to be 4 at most.
``--quick`` runs at an eighth of the size, to see that it runs.
"""

import argparse
import math
import statistics
import time
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

import nearlin as nl

LIMIT = 1.1
METHODS = {
    "NearLinearGaussNewton, R reused": nl.optim.NearLinearGaussNewton(preconditioner="sketch"),
    "NearLinearGaussNewton, R fresh": nl.optim.NearLinearGaussNewton(preconditioner="sketch", reuse=False),
    "GaussNewton, sketch": nl.optim.GaussNewton(epsilon=1 / 6, plan="sketch"),
    "GaussNewton, kernel": nl.optim.GaussNewton(epsilon=1 / 6, plan="kernel"),
}


def problem(outputs, n, width, dtype):
    """Objective, parameters and batch of n digits, rows centred and of length 1."""
    train, _ = nl.data.digits(seed=0)
    x = train.floats(dtype, flat=True)[:n]
    x = x - x.mean(axis=0)
    hot = np.eye(10, dtype=dtype)[train.y[:n]]
    network = nl.nn.TwoLayer(64, width, outputs=outputs)
    batch = x / np.linalg.norm(x, axis=1, keepdims=True), hot if outputs == 10 else 2 * hot[:, 0] - 1
    return nl.nn.Objective(network, nl.nn.SquaredLoss()), network.init(0, x), batch


def second(opt, objective, params, batch):
    """The second step, as a function that takes it."""
    params, state, _ = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    return partial(opt.step, params, state, objective, batch, key=1)


def seconds(step):
    """Processor seconds of a step, and its iterations."""
    start = time.process_time()
    info = step()[2]
    return time.process_time() - start, info.solve.iterations


def ratios(opt, problems, pairs):
    """Of the seconds with ten outputs to those with one, pair by pair; not a number where iterations differ."""
    steps = {c: second(opt, *problems[c]) for c in (1, 10)}
    found = []
    for pair in range(pairs):
        took = {c: seconds(steps[c]) for c in ((1, 10), (10, 1))[pair % 2]}
        found.append(took[10][0] / took[1][0] if took[10][1] == took[1][1] else math.nan)
    return found


def run(opt, objective, params, batch, steps=6):
    """Iterations of the first steps, and the last loss."""
    state, iterations = opt.init(params, objective), []
    for t in range(steps):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        iterations.append(info.solve.iterations)
    return iterations, float(info.new_loss)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    n, width, pairs = (150, 4096, 3) if given.quick else (1200, 32768, given.pairs)
    threadpool_limits(given.threads)
    for dtype in ("float32", "float64"):
        problems = {c: problem(c, n, width, dtype) for c in (1, 10)}
        print(f"\nn = {n}, m = {width}, {dtype}: a step with 10 outputs over one with 1; expected at most {LIMIT}", flush=True)
        for name, opt in METHODS.items():
            low, middle, high = statistics.quantiles(ratios(opt, problems, pairs), n=4)
            iterations, loss = run(opt, *problems[10])
            words = f"iterations {iterations}, loss {loss:.1e} after them"
            print(f"  {name:<34} {middle:.3f} ({low:.3f} to {high:.3f}); {words}", flush=True)


if __name__ == "__main__":
    main()
