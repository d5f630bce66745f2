"""The planner of GaussNewton beside every route by name, on a grid of problems: ``python asv_bench/planner_grid.py``.

Squared loss; the wide two-layer network (m = 16 n, 16 inputs), a perceptron 64-256-256-256-c, and the small convolutional network
of `digits-cnn` in evaluation mode, on Gaussian inputs; float32 and float64. Times of steps 2 to 6 in all, the smallest of three
interleaved runs. Routes whose predicted time is 20 times the best are skipped. The rates of the machine are measured first, as by
``nearlin info --measure``. ``--quick`` leaves out n = 4096.
"""

import argparse
import time

import numpy as np

import nearlin as nl
from nearlin.experiments import measure_rates

STEPS, ROUNDS, SKIP = 6, 3, 20


def two_layer(n, c, dtype):
    return nl.nn.TwoLayer(16, 16 * n), (16,)


def perceptron(n, c, dtype):
    return nl.nn.MLP((64, 256, 256, 256, c), "relu"), (64,)


def convolutional(n, c, dtype):
    phi = nl.nn.Elementwise(nl.nn.activation("relu"))
    first = (nl.nn.Conv2d(1, 16, 3, pad=1), nl.nn.BatchNorm(16), phi, nl.nn.MaxPool(2))
    second = (nl.nn.Conv2d(16, 32, 3, pad=1), nl.nn.BatchNorm(32), phi, nl.nn.GlobalAvgPool())
    return nl.nn.Sequential((*first, *second, nl.nn.Dense(32, c)), gain=2.0, shape=(1, 8, 8)), (1, 8, 8)


NETWORKS = {"two-layer": (two_layer, (1,)), "MLP 3x256": (perceptron, (1, 10)), "digits-cnn": (convolutional, (1, 10))}


def problem(make, n, c, dtype):
    """Objective, parameters, batch: unit Gaussian targets, normalisation by statistics of the batch."""
    net, shape = make(n, c, dtype)
    draw = np.random.default_rng(0)
    x = draw.standard_normal((n, *shape)).astype(dtype)
    if len(shape) == 1:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = draw.standard_normal((n, c)).astype(dtype)
    objective, params = nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(0, x)
    return objective.observe(objective.at(params, (x, y)).statistics).evaluation(), params, (x, y)


def seconds(opt, objective, params, batch):
    """Seconds of steps 2 to 6, and the routes they took."""
    state, total, routes = opt.init(params, objective), 0.0, []
    for t in range(STEPS):
        start = time.perf_counter()
        params, state, info = opt.step(params, state, objective, batch, key=t)
        if t:
            total += time.perf_counter() - start
            routes.append(info.plan.split(":")[0])
    return total, routes


def candidates(rates, objective, params, batch):
    """Routes by name that can be taken and are predicted to take at most `SKIP` times as long as the fastest."""
    opt = nl.optim.GaussNewton(rates=rates)
    point = objective.at(params, batch)
    planner = opt.planner(point.jacobian(weighted=True), point, squared=True)
    predicted = {r.name: planner.seconds(r, nl.curvature.Experience(), 100.0) for r in planner.candidates()}
    return [r for r, seconds in predicted.items() if seconds <= SKIP * min(predicted.values())]


def cell(rates, name, n, c, dtype):
    """The planner's time over the best route's, and a line."""
    objective, params, batch = problem(NETWORKS[name][0], n, c, dtype)
    contestants = {"auto": nl.optim.GaussNewton(rates=rates)}
    contestants |= {r: nl.optim.GaussNewton(plan=r, rates=rates) for r in candidates(rates, objective, params, batch)}
    times, routes = {}, []
    for _ in range(ROUNDS):
        for route, opt in contestants.items():
            spent, taken = seconds(opt, objective, params, batch)
            times[route] = min(spent, times.get(route, spent))
            routes = taken if route == "auto" else routes
    auto, rest = times.pop("auto"), times
    best = min(rest, key=rest.get)
    others = ", ".join(f"{r} {t / rest[best]:.2f}" for r, t in sorted(rest.items(), key=lambda pair: pair[1]))
    chosen = "+".join(dict.fromkeys(routes))
    print(
        f"{name:<11} n {n:>5} c {c:>2} {dtype}: {auto / rest[best]:5.2f}  chose {chosen:<24} best {rest[best]:.3g} s; {others}",
        flush=True,
    )
    return auto / rest[best]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    sizes = (256, 1024) if parser.parse_args().quick else (256, 1024, 4096)
    rates = measure_rates()
    print(f"rates: {rates.to_dict()}")
    grid = [(name, n, c, dt) for n in sizes for name in NETWORKS for c in NETWORKS[name][1] for dt in ("float32", "float64")]
    ratios = [cell(rates, *where) for where in grid]
    within = sum(r <= 1.3 for r in ratios) / len(ratios)
    print(f"within 1.3 of the best route on {within:.0%} of {len(ratios)} cells (aim 90 %), {max(ratios):.2f} at worst (aim 1.6)")


if __name__ == "__main__":
    main()
