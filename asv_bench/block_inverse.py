"""The batched inverse of 9 x 9 blocks beside a loop over them, in one run: ``python asv_bench/block_inverse.py``.

Medians of interleaved rounds in one process, one thread each. The loops do what the batched inverse does for one block after
another: add the damping, see that the block is positive definite, invert it. ``--quick`` runs every row at a sixteenth of the
size, to see that it runs.
"""

import argparse
import os
import platform
import statistics
import time

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

import nearlin as nl

DAMPING = 0.1


def seconds(f, *args):
    """Seconds of one call."""
    start = time.perf_counter()
    f(*args)
    return time.perf_counter() - start


def medians(rounds, **contestants):
    """Median seconds of each contestant, interleaved, each call after one that is not timed."""
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, f in contestants.items():
            f()
            times[name].append(seconds(f))
    return {name: statistics.median(found) for name, found in times.items()}


def row(name, value, target=""):
    print(f"  {name:<78} {value:>12}   {target}", flush=True)


# --------------------------------------------------------------------------------------------------------------- the loops


def unchecked_loop(blocks):
    """A general inverse of every block: the least that a loop can do, blind to indefinite blocks."""
    shift = DAMPING * np.eye(blocks.shape[-1], dtype=blocks.dtype)
    return np.stack([np.linalg.inv(block + shift) for block in blocks])


def numpy_loop(blocks):
    """A Cholesky factorisation to see that the block is definite, and its inverse."""
    shift = DAMPING * np.eye(blocks.shape[-1], dtype=blocks.dtype)
    inverses = []
    for block in blocks:
        np.linalg.cholesky(block + shift)
        inverses.append(np.linalg.inv(block + shift))
    return np.stack(inverses)


def scipy_loop(blocks):
    """A Cholesky factorisation and a solve with the identity."""
    eye = np.eye(blocks.shape[-1], dtype=blocks.dtype)
    shift = DAMPING * eye
    return np.stack([scipy.linalg.cho_solve(scipy.linalg.cho_factor(block + shift), eye) for block in blocks])


def batched(blocks):
    """The library's."""
    return nl.linalg.block_inverse(blocks, DAMPING)


def stacked(blocks):
    """NumPy's own stacked routines, which fail all together where one block is indefinite."""
    shifted = blocks + DAMPING * np.eye(blocks.shape[-1], dtype=blocks.dtype)
    np.linalg.cholesky(shifted)
    return np.linalg.inv(shifted)


# ---------------------------------------------------------------------------------------------------------------- the table


def definite(count, k, dtype):
    """(count, k, k) well-conditioned blocks."""
    root = np.random.default_rng(0).standard_normal((count, k, 2 * k))
    return (root @ root.mT / (2 * k)).astype(dtype)


def loops_rows(count, k, dtype, rounds):
    blocks = definite(count, k, dtype)
    contestants = {"checked loop": numpy_loop, "unchecked loop": unchecked_loop, "scipy": scipy_loop, "stacked": stacked}
    times = medians(rounds, batched=lambda: batched(blocks), **{n: lambda f=f: f(blocks) for n, f in contestants.items()})
    error = np.abs(batched(blocks).inverse - numpy_loop(blocks)).max()
    found = f"{1e3 * times['batched']:.2f} ms, {error:.0e} apart from a loop"
    print(f"\n{count} blocks of {k} x {k}, {dtype}: batched inverse in {found}")
    names = {
        "checked loop": ("Python loop, Cholesky and inverse by NumPy", ">= 8"),
        "scipy": ("Python loop, Cholesky and solve by SciPy", ">= 8"),
        "unchecked loop": ("Python loop, inverse by NumPy, definiteness not checked", "printed"),
        "stacked": ("NumPy's stacked Cholesky and inverse", "printed"),
    }
    for key, (name, target) in names.items():
        row(f"{name} ({1e3 * times[key]:.1f} ms) / batched", f"{times[key] / times['batched']:.1f}", target)


def failing_rows(count, k, dtype, rounds):
    blocks, spoilt = definite(count, k, dtype), definite(count, k, dtype)
    spoilt[count // 3] *= -1
    times = medians(rounds, clean=lambda: batched(blocks), spoilt=lambda: batched(spoilt))
    clean, result = batched(blocks), batched(spoilt)
    others = np.arange(count) != count // 3
    row(
        f"one indefinite block ({1e3 * times['spoilt']:.2f} ms) / clean",
        f"{times['spoilt'] / times['clean']:.2f}",
        "<= 3",
    )
    same = np.array_equal(result.inverse[others], clean.inverse[others])
    row(f"it is named: {result.sentence()}; the others are bit-identical", "yes" if same else "NO", "yes")


def large_row(n, dtype, rounds):
    matrix = definite(1, n, dtype)[0]
    shift = DAMPING * np.eye(n, dtype=dtype)
    times = medians(rounds, ours=lambda: batched(matrix), theirs=lambda: np.linalg.inv(matrix + shift))
    row(
        f"one {n} x {n} matrix, {dtype}: NumPy's inverse / ours ({1e3 * times['ours']:.1f} ms)",
        f"{times['theirs'] / times['ours']:.1f}",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the size")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default 9)")
    options = parser.parse_args()
    count, large = (256, 256) if options.quick else (4096, 1000)
    versions = f"nearlin {nl.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    print(f"{versions}, {platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    with threadpool_limits(1):
        for dtype in ("float32", "float64"):
            loops_rows(count, 9, dtype, options.rounds)
            failing_rows(count, 9, dtype, options.rounds)
        print()
        for dtype in ("float32", "float64"):
            large_row(large, dtype, options.rounds)


if __name__ == "__main__":
    main()
