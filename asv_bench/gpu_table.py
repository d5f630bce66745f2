"""Times on a GPU beside those of this machine's CPU: ``python asv_bench/gpu_table.py --backend cupy`` (or ``torch``).

Medians of rounds after a warm-up in which kernels are compiled, of deep networks means of steps, so that inverses count as
often as they are due; in float32 or ``--dtype``; the CPU's column is NumPy's. The exact step is forward, Gram matrix (X Xᵀ) ∘
(M Mᵀ), Cholesky, update, without guard or certificate; its masks go through products in the working dtype, and through those of
zeros and ones in half precision, which tensor cores do: counts of up to 2048 neurons are exact. Near-linear steps are complete.
Bytes of a product with J Jᵀ are those that its walk moves at least: masks once, slopes written once and read twice. ``--out``
gets ``gpu_table.md``, ``gpu_table.png`` and ``gpu_rates.json``, by default ``docs/measured``, which the page "Numbers on a GPU"
shows. ``--quick`` runs all of it at small sizes, to see that it runs; its ``--out`` is ``runs/gpu-table``. ``--device cpu``
keeps PyTorch on the CPU.
"""

import argparse
import datetime
import importlib
import platform
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import nearlin as nl
from nearlin import _array
from nearlin.experiments import measuring
from nearlin.experiments.environment import gpu_line

EXACT = 2048  # integers up to which half precision has all


class Sizes(NamedTuple):
    """What is timed, by default on a GPU; ``most`` is the largest n of the crossover on a CPU."""

    n: int = 4096
    m: int = 131072
    d: int = 16
    crossover: tuple = (512, 1024, 2048, 4096, 8192, 16384)
    most: int = 2048
    copied: int = 2**28
    transformed: tuple = (2**20, 32)
    encoder: tuple = (784, 1000, 500, 250, 30)
    samples: int = 1000
    head: int = 4096
    images: int = 128
    period: int = 20
    rounds: int = 5


QUICK = Sizes(64, 4096, 8, (16, 32, 64), 32, 2**12, (2**8, 4), (784, 16, 8), 20, 8, 2, 2, 1)


def seconds(body, like, rounds):
    """Median seconds of a body, which the device finishes, after one run."""
    body()
    times = []
    for _ in range(rounds):
        _array.synchronize(like)
        begun = time.perf_counter()
        body()
        _array.synchronize(like)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


# ---------------------------------------------------------------------------------------------- the wide two-layer network


def sphere(n, sizes, like):
    """Objective, parameters, batch."""
    batch = tuple(nl.asarray(a, like=like) for a in nl.data.sphere(n=n, d=sizes.d, seed=0))
    objective = nl.nn.Objective(nl.nn.TwoLayer(sizes.d, sizes.m), nl.nn.SquaredLoss())
    return objective, objective.network.init(0, batch[0]), batch


def half_gram(J):
    """J Jᵀ from products of masks in half precision, whose counts are exact by groups of neurons."""
    xp, counts = _array.namespace(J.x), 0.0
    for mask in J.masks:
        for group in _array.slices(mask.shape[1], EXACT):
            M = xp.astype(mask[:, group], xp.float16)
            counts = counts + xp.astype(M @ xp.matrix_transpose(M), J.x.dtype)
    return counts * (J.x @ xp.matrix_transpose(J.x)) / J.W.shape[0]


def exact_step(gram, objective, params, batch):
    """Forward to updated weights."""
    point = objective.at(params, batch)
    J, r = point.jacobian(), point.residual
    G = gram(J)
    damping = 1e-5 * float(_array.namespace(G).linalg.trace(G)) / G.shape[0]
    g = nl.linalg.TriangularPreconditioner(nl.linalg.damped_cholesky(G, damping))(r)
    return params[0] - J.rmatvec(g)[0]


def near_linear(problem, like, rounds, reuse):
    """Median seconds of the steps after the first two."""
    objective, params, batch = problem
    optimizer = nl.optim.NearLinearGaussNewton(preconditioner="sketch", reuse=reuse)
    state, times = optimizer.init(params, objective), []
    for t in range(rounds + 2):
        begun = time.perf_counter()
        params, state, _ = optimizer.step(params, state, objective, batch, key=t)
        _array.synchronize(like)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[2:])


def two_layer_rows(sizes, like):
    """Steps, and a product with J Jᵀ beside what copying its bytes takes."""
    problem = sphere(sizes.n, sizes, like)
    J, u = problem[0].at(*problem[1:]).jacobian(), problem[2][1]
    a = _array.namespace(like).ones((sizes.copied,), dtype=like.dtype, device=_array.device(like))
    item, copied = _array.itemsize(like.dtype), seconds(lambda: _array.copies((a,)), like, sizes.rounds)
    product = seconds(lambda: J.gram_matvec(u), like, sizes.rounds)
    bandwidth, moved = 2 * item * sizes.copied / copied, (1 + 3 * item) * sizes.n * sizes.m
    yield "exact step", seconds(lambda: exact_step(lambda J: J.gram(), *problem), like, sizes.rounds), "s"
    if not _array.is_numpy(like):
        gram, xp = half_gram(J), _array.namespace(like)
        if not bool(xp.all(xp.abs(gram - J.gram()) <= 1e-4 * xp.max(gram))):
            raise RuntimeError("half precision miscounts neurons")
        yield "exact step, masks in half precision", seconds(lambda: exact_step(half_gram, *problem), like, sizes.rounds), "s"
    yield "near-linear step, R fresh", near_linear(problem, like, sizes.rounds, False), "s"
    yield "near-linear step, R reused", near_linear(problem, like, sizes.rounds, True), "s"
    yield "product with J Jᵀ", product, "s"
    yield "copy", bandwidth / 1e9, "GB/s"
    if not _array.is_numpy(like):  # whose blocks stay in a core's cache
        yield "product with J Jᵀ, of the bandwidth of a copy", 100 * moved / product / bandwidth, "%"


def crossover(sizes, like):
    """Seconds of the exact and of the near-linear steps over n."""
    found = {}
    for n in sizes.crossover:
        if n > sizes.most and not _array.on_gpu(like):
            break
        problem = sphere(n, sizes, like)
        found[n] = {"exact": seconds(lambda p=problem: exact_step(lambda J: J.gram(), *p), like, sizes.rounds)}
        found[n] |= {name: near_linear(problem, like, sizes.rounds, name == "R reused") for name in ("R fresh", "R reused")}
    return found


# ----------------------------------------------------------------------------------------------------------- deep networks


def steps(optimizer, network, loss, batch, period):
    """Mean seconds of 2 ``period`` consecutive steps, so that what is due now and then counts as often as it comes."""
    params, objective = network.init(0, batch[0]), nl.nn.Objective(network, loss)
    state, begun = optimizer.init(params, objective), 0.0
    for t in range(3 * period):
        if t == period:
            _array.synchronize(batch[0])
            begun = time.perf_counter()
        params, state, _ = optimizer.step(params, state, objective, batch, key=t)
    _array.synchronize(params[0])
    return (time.perf_counter() - begun) / (2 * period)


def deep_rows(sizes, like):
    """K-FAC and MBF beside SGD on the auto-encoder of MNIST, on images of its size, and a VGG; Hadamard transforms."""
    length, columns = sizes.transformed
    A = _array.normal(0, (length, columns), like)
    yield "Walsh-Hadamard transform", seconds(lambda: nl.linalg.fwht(A), like, sizes.rounds), "s"
    x = nl.asarray(nl.data.curves(n_train=sizes.samples, n_test=1)[0], like=like)
    encoder, loss = nl.nn.autoencoder(sizes.encoder), nl.nn.SigmoidCrossEntropy()
    for name, optimizer in (
        ("SGD", nl.optim.SGD(lr=1e-5)),
        ("K-FAC", nl.optim.KFAC(lr=1e-5, damping=0.3, statistics_every=1, inverse_every=sizes.period)),
        ("MBF", nl.optim.MiniBlockFisher(lr=1e-8, damping=3e-4, statistics_every=2, inverse_every=sizes.period)),
    ):
        yield f"{name} on the MNIST auto-encoder", steps(optimizer, encoder, loss, (x, x), sizes.period), "s"
    images = _array.normal(1, (sizes.images, 3, 32, 32), like)
    labels = nl.asarray(np.arange(sizes.images) % 10, like=like, dtype="int64")
    vgg, loss = nl.nn.VGG11(hidden=sizes.head), nl.nn.SoftmaxCrossEntropy()
    yield "SGD on VGG-11", steps(nl.optim.SGD(lr=1e-5), vgg, loss, (images, labels), max(1, sizes.rounds // 2)), "s"


# ---------------------------------------------------------------------------------------------------------------- the table


def words(value, unit):
    """A number with its unit."""
    if value is None:
        return ""
    return f"{1e3 * value:.3g} ms" if unit == "s" else f"{value:.3g} {unit}"


def markdown(head, here, there, names):
    """The table; the last column is how many times faster the device is."""
    lines = [*head, "", f"| | {names[0]} | {names[1]} | times faster |", "|---|---|---|---|"]
    for name, (value, unit) in there.items():
        before = here.get(name, (None, unit))[0]
        ratio = f"{before / value:.3g}" if before and unit == "s" else ""
        lines.append(f"| {name} | {words(before, unit)} | {words(value, unit)} | {ratio} |")
    return "\n".join(lines) + "\n"


def plot(path, curves, sizes):
    """Seconds a step over n, on both."""
    from nearlin.experiments import canvas

    canvas.styled(_plot)(canvas, path, curves, sizes)


def _plot(canvas, path, curves, sizes):
    figure = canvas.figure(8, 4.6)
    panel, points = figure.subplots(), [(n, one) for found in curves.values() for n, one in found.items()]
    for (where, found), line in zip(curves.items(), ("--", "-"), strict=True):
        for i, name in enumerate(("exact", "R fresh", "R reused")):
            values = [one[name] for one in found.values()]
            panel.plot(list(found), values, linestyle=line, label=f"{name}: {where}", **canvas.curve_style(i))
    canvas.scale(panel.xaxis, [n for n, _ in points], log=True, at={n for n, _ in points})
    canvas.scale(panel.yaxis, [value for _, one in points for value in one.values()], log=True)
    panel.set(xlabel="samples n", ylabel="seconds a step")
    canvas.below(figure, canvas.entries([panel]))
    canvas.save(figure, path, f"One step of a two-layer network, m = {sizes.m}, d = {sizes.d}")


def like_of(options):
    """An empty array where the options say."""
    like = _array.prototype(options.backend, options.dtype)
    if options.backend == "torch" and options.device:
        like = importlib.import_module("torch").empty(0, dtype=like.dtype, device=options.device)
    return like


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("cupy", "torch"), default="cupy")
    parser.add_argument("--device", help="of PyTorch: cuda, cpu; by default cuda where there is one")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    if reason := _array.unusable(options.backend):
        parser.error(f"--backend {options.backend} cannot be used: {reason}")
    like, host = like_of(options), np.empty(0, options.dtype)
    sizes, out = QUICK if options.quick else Sizes(), options.out or Path("runs/gpu-table" if options.quick else "docs/measured")
    out.mkdir(parents=True, exist_ok=True)
    facts = _array.gpu_facts(like)
    date, where = datetime.datetime.now(datetime.UTC).date(), gpu_line(facts) if facts else f"{options.backend} on a CPU"
    head = [f"{date}: {where}.", f"nearlin {nl.__version__}, NumPy {np.__version__} on {platform.machine()}, {options.dtype}.",
            f"n = {sizes.n}, m = {sizes.m}, d = {sizes.d}; VGG-11 with {sizes.images} images."]  # fmt: skip
    found = [{}, {}]
    for rows, place in zip(found, (host, like), strict=True):
        for part in (two_layer_rows, deep_rows):
            for name, value, unit in part(sizes, place):
                rows[name] = value, unit
                print(f"{_array.backend_name(place):<8}{name:<52}{words(value, unit)}", flush=True)
    names = "NumPy on the CPU", (facts or {"card": where})["card"]
    text = markdown(head, *found, names) + "\n![Seconds a step over n, on both](gpu_table.png)\n"
    (out / "gpu_table.md").write_text(text, encoding="utf-8")
    plot(out / "gpu_table.png", {name: crossover(sizes, place) for name, place in zip(names, (host, like), strict=True)}, sizes)
    small = {"sizes": measuring.Sizes(64, (64, 256, 8), 64, 64, 16, 2**12, 2)} if options.quick else {}
    measuring.write_rates(out / "gpu_rates.json", measuring.rates_of(_array.asarray(host, like=like, dtype="float32"), **small))
    print(f"Wrote gpu_table.md, gpu_table.png and gpu_rates.json in {out}")


if __name__ == "__main__":
    main()
