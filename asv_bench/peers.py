"""The reference beside its fastest peers, in one run of a few minutes: ``python asv_bench/peers.py``.

Float32 on two cores and two threads. The contestants of a row take turns, each for some calls at a time; the least time of a call
counts, and the ratio is to the fastest peer. PyTorch (extra ``test``) holds its parameters as it would by itself, in either
memory format; JAX is compiled, and left out where it is not installed. They keep freed memory, as the command line does,
but in the group near-linear-as-is, where all fetch pages for large arrays anew, as processes do by themselves.
``--only vgg11,adam`` runs some groups; ``--base DIR`` adds `near_linear_step.py`'s rows beside an earlier checkout;
``--seconds S`` is the time of a group. The last column is what is asked for.
"""

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import time
from functools import partial
from importlib import metadata
from itertools import count

import numpy as np
import peers_torch
from near_linear_step import base_rows, problem
from race import local, pick, race, row

import nearlin as nl

try:
    import peers_jax
except ImportError:
    peers_jax = None

PINNED = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "2")
SMALL, LARGE = (1024, 65536), (4096, 131072)  # n, m of the wide network

# ------------------------------------------------------------------------------------------------------------- convolutions

RELU = nl.nn.Elementwise(nl.nn.activation("relu"))


def three16():
    convolutions = [part for inp in (3, 16, 16) for part in (nl.nn.Conv2d(inp, 16, 3, pad=1), RELU)]
    return nl.nn.Sequential((*convolutions, nl.nn.GlobalAvgPool(), nl.nn.Dense(16, 10)), shape=(3, 32, 32))


def small_digits():
    first, second = (
        (nl.nn.Conv2d(1, 8, 3, pad=1), RELU, nl.nn.MaxPool(2)),
        (nl.nn.Conv2d(8, 16, 3, pad=1), RELU, nl.nn.MaxPool(2)),
    )
    return nl.nn.Sequential((*first, *second, nl.nn.Flatten(), nl.nn.Dense(64, 10)), shape=(1, 8, 8))


NETWORKS = {  # how it is made, batch, what is asked for
    "vgg11": (nl.nn.VGG11, 64, "<= 1.25"),
    "three16": (three16, 64, "<= 2.8"),
    "digits": (small_digits, 128, "<= 1.6"),
    "resnet32": (nl.nn.ResNet32, 32, "<= 3.1"),
}


def convolutional(name, seconds):
    """Loss and gradient on NumPy's and on PyTorch's arrays, beside PyTorch's own in both memory formats."""
    make, batch, ask = NETWORKS[name]
    net, draw = make(), np.random.default_rng(0)
    x = draw.standard_normal((batch, *net.shape), dtype=np.float32)
    y, params = draw.integers(0, 10, batch), net.init(1, x)
    objective = nl.nn.Objective(net, nl.nn.SoftmaxCrossEntropy())
    ours = {"NumPy": lambda: objective.at(params, (x, y)).grads()}
    times = race(local({**ours, **peers_torch.gradients(objective, params, (x, y))}), seconds)
    shape = " x ".join(map(str, x.shape))
    row(f"{name}, {shape}, forward + backward", times["NumPy"], pick(times, "contiguous", "channels-last"), ask)
    row("  the same on torch arrays", times["nearlin on torch"], pick(times, "contiguous"), "<= 1.5")


# ------------------------------------------------------------------------------------------------------ first-order updates

SIZES = {  # of matrices, and what is asked for
    "1.42 M": (((1000, 785), (500, 1001), (250, 501), (30, 251)), "<= 2.3"),
    "10 M": (((2048, 2048), (2048, 2048), (1024, 1600)), "<= 4"),
}


def adam_updates(seconds):
    """Adam's update of given gradients."""
    for name, (shapes, ask) in SIZES.items():
        draw = np.random.default_rng(0)
        grads, params, mean, root = ([draw.standard_normal(s, dtype=np.float32) for s in shapes] for _ in range(4))
        given = tuple(params), grads, tuple(mean), tuple(M * M for M in root), 7, 1e-3, (0.9, 0.999), 1e-8
        theirs = {**peers_torch.adam(params, grads), **in_jax("adam", params, grads)}
        times = race(local({"ours": partial(nl.steps.adam_step, *given), **theirs}), seconds / len(SIZES))
        row(f"Adam update, {name} parameters", times["ours"], pick(times, "torch"), ask)
        beside_jax(times["ours"], times)


def in_jax(make, *given):
    """What `peers_jax` makes; nothing where JAX is not installed."""
    return getattr(peers_jax, make)(*given) if peers_jax else {}


def beside_jax(ours, times, ask=""):
    if theirs := pick(times, "JAX"):
        row("  the same", ours, theirs, ask)


# ------------------------------------------------------------------------------------------------------------- small steps

OPTIMIZERS = {  # and what is asked for
    "SGD": (nl.optim.SGD(1e-3), "<= 155 us"),
    "Adam": (nl.optim.Adam(1e-3), "<= 185 us"),
    "K-FAC": (nl.optim.KFAC(), "<= 440 us"),
}


def small_steps(seconds):
    """Steps on a perceptron 64-64-10, batches of 32."""
    draw, net = np.random.default_rng(0), nl.nn.MLP((64, 64, 10), "relu")
    batch = draw.standard_normal((32, 64), dtype=np.float32), draw.integers(0, 10, 32)
    objective, params = nl.nn.Objective(net, nl.nn.SoftmaxCrossEntropy()), net.init(0, batch[0])
    contestants = {name: nearlin_step(opt, objective, params, batch) for name, (opt, *_) in OPTIMIZERS.items()}
    theirs = {**peers_torch.steps(net, params, batch), **in_jax("steps", params, batch)}
    times = race(local({**contestants, **theirs}), seconds)
    for name, (_, ask) in OPTIMIZERS.items():
        same = {peer: seconds for peer, seconds in times.items() if peer in theirs and peer.endswith(name)}
        row(f"step on MLP 64-64-10, {name}", times[name], pick(same, "torch"), ask)
        beside_jax(times[name], same)


def nearlin_step(opt, objective, params, batch):
    """A function that takes one step after another."""
    held, t = [params, opt.init(params, objective)], count()

    def step():
        held[0], held[1], _ = opt.step(*held, objective, batch, key=next(t))

    return step


# --------------------------------------------------------------------------------------------------------- the wide network


def wide(n, m):
    """What is timed of the two-layer network: a second step with the sketch reused, and the product."""
    objective, params, batch = problem(n, m, "float32")
    J, opt = objective.at(params, batch).jacobian(), nl.optim.NearLinearGaussNewton()
    after, state, _ = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    return {
        "reused": lambda: opt.step(after, state, objective, batch, key=1),
        "product": lambda: J.gram_matvec(batch[1]),
    }


def wide_rows(seconds):
    """The wide network beside first-order steps and products by other libraries."""
    ours = wide(*SMALL)
    given = *problem(*SMALL, "float32")[1:], ours["product"]()
    times = race(local({**ours, **peers_torch.wide(*given), **in_jax("wide", *given)}), 3 * seconds)
    size = "n = {}, m = {}".format(*SMALL)
    row(f"near-linear step, R reused, {size}", times["reused"], pick(times, "torch fused"), "<= .37")
    beside_jax(times["reused"], pick(times, "Adam"), "<= .44")
    for peer in pick(times, "jvp of vjp", "kept mask"):
        row("gram_matvec", times["product"], pick(times, peer), "")


# -------------------------------------------------------------------------------------------------------------------- main


def finite_checks(seconds):
    params = nl.nn.VGG11().init(0, np.zeros(0, np.float32))
    check = lambda: [nl._array.check_finite("params", W) for W in params]  # noqa: E731
    row("finite checks of VGG11's parameters", race(local({"ours": check}), seconds / 2)["ours"], {}, "<= 7 ms")


GROUPS = {
    **{name: partial(convolutional, name) for name in NETWORKS},
    "adam": adam_updates,
    "steps": small_steps,
    "finite": finite_checks,
    "near-linear": wide_rows,
    "near-linear-as-is": wide_rows,
}


def run_here(name, seconds):
    """The rows of one group, on the first two cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    if not name.endswith("as-is"):
        nl.keep_freed_memory()
    GROUPS[name](seconds)


def run(groups, base, seconds):
    """Each group in a process of its own: what is allocated, and which threads wait, does not depend on the groups before it."""
    versions = ", ".join(f"{name} {version(name) or '(not installed)'}" for name in ("numpy", "torch", "jax"))
    print(f"nearlin {nl.__version__}, {versions}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}", flush=True)
    for name in groups:
        command = [sys.executable, __file__, "--group", name, "--seconds", str(seconds)]
        subprocess.run(command, env={**os.environ, **PINNED}, check=True)
    if base:
        for size in (SMALL, LARGE):
            base_rows(base, *size, rounds=6)


def version(name):
    """Of an installed package; None where there is none."""
    return metadata.version(name) if importlib.util.find_spec(name) else None


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="GROUP,...", help=f"some of {', '.join(GROUPS)} (by default all)")
    parser.add_argument("--base", metavar="DIR", help="an earlier checkout of this repository")
    parser.add_argument("--seconds", type=float, default=4.0, help="time of a group, at least three rounds (default 4)")
    parser.add_argument("--group", choices=GROUPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.only = given.only.split(",") if given.only else list(GROUPS)
    if unknown := [name for name in given.only if name not in GROUPS]:
        parser.error(f"--only names {unknown[0]!r}; expected some of {', '.join(GROUPS)}")
    return given


if __name__ == "__main__":
    given = options()
    if given.group:
        run_here(given.group, given.seconds)
    else:
        run(given.only, given.base, given.seconds)
