"""GaussNewton on the wide two-layer network beside structured Gram steps: ``python asv_bench/gauss_newton_two_layer.py``.

The sphere in 16 dimensions, float32, ε = 1/6; times of whole steps, factorisations, guard and certificate included, from the
start until the residual is rounding, at most 8 steps; the same number of BLAS threads for all, runs interleaved. The opponent is
`GramGaussNewton` with its counts formed in float32. Also the time to a relative residual of 1e-6 of each run. At n = 8192 one
step of the opponent is timed, and taken for all. ``--quick`` runs at a sixteenth of the size.
"""

import argparse
import statistics
import time

import nearlin as nl

EPSILON, STEPS, GOAL = 1 / 6, 8, 1e-6
METHODS = {
    "planner's choice": nl.optim.GaussNewton(epsilon=EPSILON),
    "reused sketch": nl.optim.GaussNewton(epsilon=EPSILON, plan="sketch"),
    "NearLinearGaussNewton": nl.optim.NearLinearGaussNewton(epsilon=EPSILON),
}
GRAM = nl.optim.GramGaussNewton(gram_dtype="float32")


def problem(n, m, seed=0):
    x, y = (a.astype("float32") for a in nl.data.sphere(n=n, d=16, seed=seed))
    net = nl.nn.TwoLayer(16, m)
    return nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(seed, x), (x, y)


def run(opt, objective, params, batch, steps=STEPS, reduction=0.0):
    """Seconds of each step that moved, relative residuals after them, and what was chosen."""
    state, times, residuals, words, first = opt.init(params, objective), [], [], [], None
    for t in range(steps):
        start = time.perf_counter()
        params, state, info = opt.step(params, state, objective, batch, key=t)
        elapsed = time.perf_counter() - start
        first = first or info.loss
        if info.accepted:
            times.append(elapsed)
            residuals.append((info.new_loss / first) ** 0.5)
            words.append(f"{info.solve.preconditioner.split(',')[0]} {info.solve.iterations}")
        if not info.accepted or residuals[-1] <= reduction:
            break
    return times, residuals, words


def until(times, residuals):
    """Seconds to the goal."""
    steps = next(i for i, r in enumerate(residuals) if r <= GOAL) + 1
    return sum(times[:steps])


def contest(n, m, rounds, gram_steps, targets):
    print(f"\nn = {n}, m = {m}, d = 16, float32", flush=True)
    objective, params, batch = problem(n, m)
    run(METHODS["reused sketch"], objective, params, batch, 1)  # warm
    found, gram = {name: [] for name in METHODS}, []
    for _ in range(rounds):
        gram += run(GRAM, objective, params, batch, 1)[0]
        for name, opt in METHODS.items():
            found[name].append(run(opt, objective, params, batch))
    step = statistics.median(gram)
    to_goal = None
    if gram_steps:
        times, residuals, _ = run(GRAM, objective, params, batch, STEPS, GOAL)
        to_goal = until(times, residuals)
        print(f"  structured Gram run: {len(times)} steps to {residuals[-1]:.1e}, {to_goal:.1f} s; one step {step:.2f} s")
    else:
        print(f"  one structured Gram step: {step:.1f} s")
    for name, runs in found.items():
        mean = statistics.median(sum(times) / len(times) for times, _, _ in runs)
        goal = statistics.median(until(times, residuals) for times, residuals, _ in runs)
        steps = next(i for i, r in enumerate(runs[0][1]) if r <= GOAL) + 1
        assumed = "" if to_goal else f", {steps} Gram steps assumed"
        speed = f"{(to_goal or steps * step) / goal:.1f} times as fast{assumed}"
        print(f"  {name:<24} mean step {mean:6.2f} s: Gram step / it = {step / mean:5.1f}{targets.get(name, '')}")
        print(f"  {'':<24} to {GOAL:g} in {goal:6.2f} s: {speed}; {', '.join(runs[0][2])}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--large", action="store_true", help="also n = 8192, m = 262144: some ten minutes")
    given = parser.parse_args()
    if given.quick:
        contest(1024, 32768, 1, True, {})
        return
    contest(4096, 131072, given.rounds, True, {"planner's choice": " (aim 10)", "reused sketch": " (aim 5)"})
    if given.large:
        contest(8192, 262144, 1, False, {"planner's choice": " (aim 18)", "reused sketch": " (aim 8)"})


if __name__ == "__main__":
    main()
