"""Speed and memory of the near-linear step beside its opponents, in one run: ``python asv_bench/near_linear_step.py``.

Ratios of times measured in one process, runs interleaved, after a warm-up; the median of the rounds. The opponent is the
structured exact step: forward, Gram matrix as a Hadamard product, Cholesky, update, by the fastest of rank-k update and
general product on one or two BLAS threads, without guard or certificate. The near-linear steps are complete: certificate,
guard, and (fresh) sketch and factorisation. ``--quick`` runs every row at a sixteenth of the size, to see that it runs.
``--base DIR`` prints the near-linear step of this checkout beside that of another one instead: minima of interleaved rounds, a
process each.
"""

import argparse
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import numpy as np
import scipy.fft
from threadpoolctl import threadpool_limits

import nearlin as nl

EPSILON = 1 / 6


def problem(n, m, dtype, d=16, seed=0):
    """The sphere problem: objective, parameters, batch."""
    x, y = (a.astype(dtype) for a in nl.data.sphere(n=n, d=d, seed=seed))
    net = nl.nn.TwoLayer(d, m)
    return nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(seed, x), (x, y)


def seconds(f, *args):
    """Seconds of one call, and its result."""
    start = time.perf_counter()
    result = f(*args)
    return time.perf_counter() - start, result


def median_of(f, rounds=5):
    """Median seconds of ``rounds`` calls after one."""
    f()
    return statistics.median(seconds(f)[0] for _ in range(rounds))


def row(name, value, target=""):
    print(f"  {name:<74} {value:>18}   {target}", flush=True)


# ------------------------------------------------------------------------------------------------ the structured exact step


def gemm_gram(J):
    """The Gram matrix by general products: a copy keeps NumPy from seeing that the two factors are one."""
    counts = 0.0
    for group in J._groups(bytes_each=2**27):
        B = np.concatenate([J._slope(i, slice(0, J.samples), nl._array.Scratch()) for i in group], axis=1)
        counts = counts + B @ B.copy().T
    counts *= (J.x @ J.x.T) / J.W.shape[0]
    return counts


GRAMS = {"rank-k update": lambda J: J.gram(), "general product": gemm_gram}


def exact_step(gram, objective, params, batch):
    """Forward to updated weights by the Hadamard-product Gram."""
    point = objective.at(params, batch)
    J, r = point.jacobian(), point.residual
    G = gram(J)
    damping = 1e-5 * float(np.trace(G)) / len(r)
    g = nl.linalg.TriangularPreconditioner(nl.linalg.damped_cholesky(G, damping))(r)
    return params[0] - J.rmatvec(g)[0]


def fastest_gram(n, m, dtype):
    """The fastest Gram variant and thread count: the better of two trials each, at an eighth of the width."""
    objective, params, batch = problem(n, max(64, m // 8), dtype)
    J = objective.at(params, batch).jacobian()
    times = {}
    for threads in (1, 2):
        with threadpool_limits(threads):
            for name, gram in GRAMS.items():
                times[name, threads] = min(seconds(gram, J)[0] for _ in range(2))
    return min(times, key=times.get)


# -------------------------------------------------------------------------------------------------------- the main contest


def contest(n, m, dtype, rounds, inner_dtype=None):
    """Medians of the exact step, the near-linear step with fresh R, and with reused R, interleaved."""
    name, threads = fastest_gram(n, m, dtype)
    objective, params, batch = problem(n, m, dtype)
    times = {"exact": [], "fresh": [], "reused": []}
    opt = partial(nl.optim.NearLinearGaussNewton, epsilon=EPSILON, inner_dtype=inner_dtype)
    near_linear_run(opt(), objective, params, batch, 2)
    for _ in range(rounds):
        with threadpool_limits(threads):
            times["exact"].append(seconds(exact_step, GRAMS[name], objective, params, batch)[0])
        times["fresh"] += near_linear_run(opt(reuse=False), objective, params, batch, 4)[1:]
        times["reused"] += near_linear_run(opt(), objective, params, batch, 7)[1:]
    return {key: statistics.median(value) for key, value in times.items()}, f"{name}, {threads} thread(s)"


def near_linear_run(opt, objective, params, batch, steps):
    """Seconds of each of the first steps."""
    state, times = opt.init(params, objective), []
    for t in range(steps):
        elapsed, (params, state, _) = seconds(partial(opt.step, params, state, objective, batch, key=t))
        times.append(elapsed)
    return times


def contest_rows(n, m, rounds, targets, inner_targets=None):
    print(f"\nn={n}, m={m}, d=16, epsilon=1/6: structured exact step / near-linear step")
    for dtype, (fresh, reused) in targets.items():
        medians, how = contest(n, m, dtype, rounds)
        row(f"{dtype}: exact step ({how})", f"{medians['exact']:.2f} s")
        for key, target in (("fresh", fresh), ("reused", reused)):
            row(f"{dtype}: R {key} ({medians[key]:.3f} s)", f"{medians['exact'] / medians[key]:.2f}", target)
        if dtype == "float64" and inner_targets:
            float32_rows(n, m, rounds, medians["exact"], inner_targets)


def float32_rows(n, m, rounds, exact, target):
    """float64 with inner products in float32, and against an exact step whose Gram counts are formed exactly in float32."""
    objective, params, batch = problem(n, m, "float64")
    opt = partial(nl.optim.NearLinearGaussNewton, epsilon=EPSILON, inner_dtype="float32")
    counts = lambda J: J.gram(dtype="float32")  # noqa: E731
    fresh, reused, exact32 = [], [], []
    for _ in range(rounds):
        fresh += near_linear_run(opt(reuse=False), objective, params, batch, 4)[1:]
        reused += near_linear_run(opt(), objective, params, batch, 7)[1:]
        exact32.append(seconds(exact_step, counts, objective, params, batch)[0])
    fresh, reused, exact32 = map(statistics.median, (fresh, reused, exact32))
    row(f"float64, inner products in float32: R fresh ({fresh:.3f} s)", f"{exact / fresh:.2f}", "printed")
    row(f"float64, inner products in float32: R reused ({reused:.3f} s)", f"{exact / reused:.2f}", "printed")
    row(f"float64 against Gram counts formed exactly in float32 ({exact32:.2f} s): R fresh", f"{exact32 / fresh:.2f}", target)


# ------------------------------------------------------------------------------------------------------------------ memory


def memory_row(n, m):
    """Peak of a fresh process above the interpreter with its imports and the data."""
    code = f"import near_linear_step as s; print(s.peak_of_a_step({n}, {m}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=sys.path[0]).stdout
    row(
        f"peak memory of two steps above the interpreter, float32 (J: {n * m * 16 * 4 / 2**30:.0f} GB)",
        f"{float(out):.2f} GB",
        "< 1.0",
    )


def peak_of_a_step(n, m):
    """GB above the interpreter, of a fresh and a reused step."""
    before = high_water()
    near_linear_run(nl.optim.NearLinearGaussNewton(sketch_size=1.5), *problem(n, m, "float32"), 2)
    return (high_water() - before) / 2**20


def high_water():
    """Peak resident memory of this process in kB (Linux; getrusage would count the parent's peak too)."""
    return next(int(line.split()[1]) for line in pathlib.Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)


# -------------------------------------------------------------------------------------------------------- another checkout

MEASURED = ("fresh", "reused", "gram_matvec", "forward")


def serve(n, m):
    """Print milliseconds of each of `MEASURED`, minima of some calls, for every line that comes in."""
    objective, params, batch = problem(n, m, "float32")
    opt = nl.optim.NearLinearGaussNewton(sketch_size=1.5)
    state, J = opt.init(params, objective), objective.at(params, batch).jacobian()
    later, kept, _ = opt.step(params, state, objective, batch, key=0)
    calls = (
        partial(opt.step, params, state, objective, batch, key=0),
        partial(opt.step, later, kept, objective, batch, key=1),
        partial(J.gram_matvec_with_adjoint, batch[1]),
        partial(objective.at, params, batch),
    )
    for _ in sys.stdin:
        print(*(1e3 * min(seconds(call)[0] for _ in range(3)) for call in calls), flush=True)


def base_rows(base, n, m, rounds):
    """Times of this checkout and of ``base``, and their ratios."""
    code = f"import near_linear_step as s; s.serve({n}, {m})"
    served = []
    for root in (pathlib.Path(__file__).parent.parent, pathlib.Path(base)):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(root.resolve()), sys.path[0])), "PYTHONSAFEPATH": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        served.append(subprocess.Popen([sys.executable, "-c", code], env=env, text=True, **pipes))
    found = []
    for _ in range(rounds):
        for process in served:
            print(file=process.stdin, flush=True)
            found.append([float(ms) for ms in process.stdout.readline().split()])
    for process in served:
        process.communicate()
    print(f"\nn={n}, m={m}, d=16, float32: this checkout / {base}")
    for name, here, there in zip(MEASURED, *(map(min, zip(*found[i::2], strict=True)) for i in (0, 1)), strict=True):
        row(f"{name} ({here:.1f} ms / {there:.1f} ms)", f"{here / there:.2f}", BASE_TARGETS.get((n, name), "printed"))


BASE_TARGETS = {(1024, "reused"): "<= 0.85", (1024, "gram_matvec"): "<= 0.85", (1024, "forward"): "<= 0.65",
                (4096, "fresh"): "<= 0.90", (4096, "reused"): "<= 0.88"}  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------- PyTorch


def torch_rows(n, m, rounds):
    """One near-linear step against one Adam step by autograd, and one product with J Jᵀ against jvp of vjp."""
    try:
        import torch
    except ImportError:
        row("PyTorch", "not installed")
        return
    objective, params, batch = problem(n, m, "float32")
    x, y = map(torch.asarray, batch)
    a = (1.0 - 2.0 * (torch.arange(m) % 2)) / m**0.5
    f = lambda W: torch.relu(x @ W.T) @ a  # noqa: E731
    W = torch.asarray(params[0].copy()).requires_grad_(True)
    adam = torch.optim.Adam([W], lr=1e-3)

    def adam_step():
        adam.zero_grad()
        (0.5 * ((f(W) - y) ** 2).mean()).backward()
        adam.step()

    theirs, ours, near = [], [], []
    torch.set_num_threads(min((1, 2), key=lambda threads: (torch.set_num_threads(threads), median_of(adam_step, 3))[1]))
    for _ in range(rounds):
        theirs += [seconds(adam_step)[0] for _ in range(3)]
        near += near_linear_run(nl.optim.NearLinearGaussNewton(sketch_size=1.5), objective, params, batch, 6)[1:]
        ours += near_linear_run(nl.optim.Adam(), objective, params, batch, 4)[1:]
    theirs, ours, near = map(statistics.median, (theirs, ours, near))
    print(f"\nn={n}, m={m}, d=16, float32: near-linear step (R reused) / first-order step")
    row(f"/ PyTorch Adam step by autograd ({theirs:.3f} s on the better of 1 and 2 threads)", f"{near / theirs:.2f}", "<= 0.8")
    row(f"/ the house's own Adam step ({ours:.3f} s)", f"{near / ours:.2f}", "printed")
    product_row(torch, f, objective, params, batch)


def product_row(torch, f, objective, params, batch):
    J, u = objective.at(params, batch).jacobian(), batch[1]

    W = torch.asarray(params[0])

    def theirs():
        _, vjp = torch.func.vjp(f, W)
        return torch.func.jvp(f, (W,), vjp(torch.asarray(u)))[1]

    ratio = median_of(theirs, 3) / median_of(lambda: J.gram_matvec(u), 5)
    np.testing.assert_allclose(theirs().numpy(), J.gram_matvec(u), rtol=2e-3, atol=1e-4)
    row("jvp of vjp in PyTorch / gram_matvec", f"{ratio:.1f}", ">= 15")


# ---------------------------------------------------------------------------------------------- transforms, preconditioners


def hadamard_row(log_n):
    """The Hadamard transform against SciPy's DCT, one thread."""
    x = np.random.default_rng(0).standard_normal((2**log_n, 8))
    with threadpool_limits(1):
        ratio = median_of(lambda: nl.linalg.fwht(x), 15) / median_of(lambda: scipy.fft.dct(x, axis=0, workers=1), 15)
    row(f"Hadamard transform / scipy DCT, 2^{log_n} x 8, float64, one thread", f"{ratio:.2f}", "<= 1.5")


def kernel(x):
    """The limit kernel K of section 1.4 of the literature on wide ReLU networks: x·x' (π - arccos(x·x')) / 2π for unit rows."""
    c = np.clip(x @ x.T, -1, 1)
    return c * (np.pi - np.arccos(c)) / (2 * np.pi)


@contextmanager
def timed(store):
    start = time.perf_counter()
    yield
    store.append(time.perf_counter() - start)


def preconditioner_table(n, m):
    """What no sketch, a closed-form kernel and a frozen Gram matrix do for the same systems, at the start and after 3 steps."""
    objective, params, batch = problem(n, m, "float64")
    opt = nl.optim.NearLinearGaussNewton(sketch_size=1.5)
    state, later = opt.init(params, objective), params
    for t in range(3):
        later, state, _ = opt.step(later, state, objective, batch, key=t)
    points = [objective.at(p, batch) for p in (params, later)]
    first = points[0].jacobian()
    builders = {
        "none": None,
        "closed-form kernel": lambda J: nl.linalg.damped_cholesky(kernel(batch[0]), 1e-10),
        "frozen exact Gram G0": lambda J: nl.linalg.damped_cholesky(first.gram(), 1e-10),
        "sketch of the start (stale R)": lambda J: sketched(first),
        "fresh sketch": sketched,
    }
    print(f"\nn={n}, m={m}, d=16, float64, start | after 3 steps: iterations to 1/6 and 1e-6, seconds to build + solve to 1/6")
    for name, build in builders.items():
        cells = []
        for point in points:
            J, r, spent = point.jacobian(), point.residual, []
            with timed(spent):
                M = nl.linalg.TriangularPreconditioner(build(J)) if build else nl.linalg.identity
            with timed(spent):
                coarse = nl.linalg.cg(J.gram_matvec, r, preconditioner=M, rtol=EPSILON)[1]
            fine = nl.linalg.cg(J.gram_matvec, r, preconditioner=M, rtol=1e-6)[1]
            cells.append(f"{coarse.iterations:>3} {fine.iterations:>3}  {spent[0]:.3f} + {spent[1]:.3f} s")
        print(f"  {name:<32} {cells[0]:<28} {cells[1]}", flush=True)


def sketched(J):
    S = nl.sketch.NeuronSigns().sample(1, int(1.5 * J.samples), J.factor_shapes, like=J.x)
    return nl.linalg.sketch_factor(J.sketch_gram(S), 1e-10)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the size")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--base", metavar="DIR", help="another checkout, whose near-linear steps are timed beside")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    (n, m), (n_small, m_small) = ((1024, 8192), (256, 4096)) if options.quick else ((4096, 131072), (1024, 65536))
    versions = f"nearlin {nl.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    print(f"{versions}, {platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    if options.base:
        for size in ((n_small, m_small), (n, m)):
            base_rows(options.base, *size, 2 * rounds)
        return
    large = {"float32": (">= 4 (aim 8)", ">= 6 (aim 12)"), "float64": (">= 6 (aim 8)", ">= 9 (aim 12)")}
    contest_rows(n, m, rounds, large, ">= 3.5")
    memory_row(n, m)
    contest_rows(n_small, m_small, rounds, {dtype: (">= 1.5", ">= 2") for dtype in large})
    torch_rows(n_small, m_small, rounds)
    print()
    hadamard_row(18)
    preconditioner_table(n_small, m_small)


if __name__ == "__main__":
    main()
