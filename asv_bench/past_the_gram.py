"""Steps of the wide network on more samples than an n x n matrix allows: ``python asv_bench/past_the_gram.py [--only ROW ...]``.

Points on the sphere in 16 dimensions, float32, ε = 1/6; complete steps, with certificate and guard, each run in a process of its
own, whose peak of resident memory is printed beside. The opponent is the structured exact step of `near_linear_step.py`, without
guard and certificate: measured up to n = 4096, beyond by n² (m + d) + n³/3 flops at the rate of n = 4096. Rows in `SHORT` take
less than 150 s on two cores each and run by default; those in `LONG` have to be named. ``--out DIR`` keeps the numbers as
past_the_gram.json, to which later rows are added; ``--plot`` draws past_the_gram.png from it. ``--quick`` runs rows at small
sizes, to see that they run.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from functools import partial

import numpy as np
from near_linear_step import row
from past_the_gram_runs import D, exact_flops, mean, write_rows

import nearlin as nl
from nearlin.complexity import fit_exponent

RATE_AT = {"n": 4096, "m": 32768}  # of the exact step
QUICK = 16  # by which sizes are divided
MAPPED = 6e8  # bytes that columns and masks may take, beside rows that lie in a file
FEW = 8  # iterations at most there: m d is 3 n, where columns leave many, and bits and memory are the same at every one


def in_child(name, **given):
    """What a function of `past_the_gram_runs.py` returns in a fresh process, with its peaks; or the last line of its error."""
    code = f"import json, past_the_gram_runs as s; print(json.dumps(s.measured({name!r}, **{given!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=sys.path[0], check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def in_words(found):
    """Iterations, attempts and residuals of a run."""
    if "error" in found:
        return found["error"]
    some, kept = found["steps"], [one["seconds"] for one in found["steps"][1:] if one["attempts"] == 1 and not one["fresh"]]
    words = f"iterations {', '.join(str(one['iterations']) for one in some)}"
    retried = [f"{t}: {one['attempts']}" for t, one in enumerate(some) if one["attempts"] > 1]
    words += f"; attempts {', '.join(retried)}" if retried else "; none retried"
    left = [t for t, one in enumerate(some) if not one["accepted"]]
    words += f"; NOT accepted {left}" if left else ""
    worst = max(one["residual"] for one in some)
    words += f"; residual at most {worst:.3f}; first {some[0]['seconds']:.2f} s, others kept and not retried "
    words += f"{min(kept):.2f} to {max(kept):.2f} s" if kept else "none"
    return f"{words}; {some[0]['how']}; peak {found['peak']:.2f} GB" + (f"; {some[0]['plan']}" if some[0]["plan"] else "")


# --------------------------------------------------------------------------------------------------------------------- rows


def rate(quick):
    """Flops a second of the exact step at n = 4096."""
    n, m = (size // (QUICK if quick else 1) for size in RATE_AT.values())
    took = in_child("exact", n=n, m=m)["seconds"]
    row(f"exact step, n = {n}, m = {m}: {took:.2f} s", f"{exact_flops(n, m) / took / 1e9:.0f} GF/s")
    return exact_flops(n, m) / took


def contest(quick, n, m, target):
    """Exact step over the mean of 8 steps of the library's own choice; the exact step beyond n = 4096 by its flops."""
    small = QUICK if quick else 1
    n, m = n // small, m // small
    if n <= 4096:
        found = in_child("against_exact", n=n, m=m)
        row(f"n = {n}, m = {m}: exact {found['exact']:.2f} s / mean of 8 steps {found['mean']:.2f} s",
            f"{found['exact'] / found['mean']:.1f}", target)  # fmt: skip
    else:
        found = against_rate(quick, n, m, "auto", target)
    print(f"    {in_words(found)}")
    return found


def against_rate(quick, n, m, method, target, count=8):
    flops, found = exact_flops(n, m) / rate(quick), in_child("steps", n=n, m=m, method=method, count=count)
    if "error" not in found:
        found |= {"exact": flops, "mean": mean(found)}
        row(f"n = {n}, m = {m}: exact {flops:.1f} s by flops / mean of {count} steps {found['mean']:.2f} s",
            f"{flops / found['mean']:.1f}", target)  # fmt: skip
    return found


def pivoted(quick, n, m, target, count=8):
    """Steps with pivoted columns beside the exact step's flops."""
    small = QUICK if quick else 1
    found = against_rate(quick, n // small, m // small, "pivoted", target, count)
    print(f"    {in_words(found)}")
    return found


def wide_inputs(quick, n, d, m):
    """One step, by in-memory rows."""
    found = in_child("steps", n=n // (QUICK if quick else 1), m=m, d=d, count=1)
    row(f"n = {n}, d = {d}, m = {m}: one step", f"{mean(found):.1f} s" if "error" not in found else "", "<= 360 s, < 4 GB")
    print(f"    {in_words(found)}; anonymous {found.get('anonymous', math.nan):.2f} GB")
    return found


def by_map(quick, n, d, m):
    """One step whose rows are read by a map, beside the one that has them in memory."""
    n, found = n // (QUICK if quick else 1), {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.npy")
        write_rows(path, n, d)
        for source in ("map", "read"):
            found[source] = in_child("steps", n=n, m=m, d=d, count=1, source=source, path=path, memory=MAPPED, maxiter=FEW)
            print(f"    {source}: {in_words(found[source])}; anonymous {found[source].get('anonymous', math.nan):.2f} GB")
    same = found["map"].get("weights") == found["read"].get("weights") and "weights" in found["map"]
    row(f"n = {n}, d = {d}, m = {m}: by map and in memory equal to the last bit", str(same), "True, < .7 GB anonymous")
    return found


def exponents(quick, sizes):
    """Of a product, a forward pass and a build at fixed k in n: m = 16384, one BLAS thread."""
    sizes = [n // (QUICK if quick else 1) for n in sizes]
    found = in_child("timed_parts", sizes=sizes, m=16384, rank=512 if not quick else 32)
    for name, times in found["seconds"].items():
        say_exponent(f"{name} in n, {sizes[0]} ... {sizes[-1]}, m = 16384", sizes, times, "<= 1.05, ± .05")
    return found


def say_exponent(name, sizes, times, target):
    fit = fit_exponent(sizes, times)
    row(f"exponent of {name}", f"{fit.exponent:.3f} ± {(fit.high - fit.low) / 2:.3f}", target)


def whole_steps(quick, sizes):
    """The exponent of a whole step with m = n, of the least seconds of steps that kept their columns."""
    sizes = [n // (QUICK if quick else 1) for n in sizes]
    found = {n: in_child("one_thread", n=n, m=n) for n in sizes}
    least = [min(one["seconds"] / one["attempts"] for one in found[n]["steps"][1:]) for n in sizes]
    passes = [min(one["seconds"] / one["attempts"] / (one["iterations"] + 2) for one in found[n]["steps"][1:]) for n in sizes]
    for n in sizes:
        print(f"    n = m = {n}: {in_words(found[n])}")
    say_exponent(f"an attempt in n = m, {sizes[0]} ... {sizes[-1]}", sizes, least, "printed")
    say_exponent("the same over n, as m grows with it", sizes, [t / n for t, n in zip(least, sizes, strict=True)], "<= 1.2")
    say_exponent("the same over iterations + 2", sizes, [t / n for t, n in zip(passes, sizes, strict=True)], "printed")
    return found


# --------------------------------------------------------------------------------------------------------------- iterations


def over_ratio(quick, rows):
    """A table of iterations over n and m d/n."""
    found = [
        in_child("solves", n=n // (QUICK if quick else 1), m=max(D, m // (QUICK if quick else 1)), dtype=t, d=d)
        for n, m, d, t in rows
    ]
    names = ("n", "m", "k", "md/n", "kernel", "present weights", "none")
    print("  " + "".join(f"{name:>16}" for name in (*names, "dtype", "d")))
    for one, (_, _, d, dtype) in zip(found, rows, strict=True):
        print("  " + "".join(f"{one.get(name, '-'):>16}" for name in names) + f"{dtype:>16}{d:>16}", flush=True)
    return found


def second(quick, sizes):
    """Duplicates, clusters and smooth data with the second level."""
    found = {}
    for family in ("duplicates", "clusters of 8", "sphere", "offset"):
        for n in sizes:
            n //= QUICK if quick else 1
            found[f"{family}, {n}"] = one = in_child("levels", family=family, n=n, m=8 * n)
            goal = one["flat"] / 2 if family in ("duplicates", "clusters of 8") else one["flat"] + 1
            row(f"{family}, n = {n}: flat {one['flat']}, blocks {one['blocks']}, chosen", str(one["chosen"]), f"<= {goal:g}")
    return found


def digits(quick, n, m):
    """Ten steps on MNIST's 784 pixels and a constant, by default and by columns."""
    small, found = QUICK if quick else 1, {}
    for method in ("auto", "pivoted"):
        found[method] = one = in_child("steps", n=n // small, m=m // small, method=method, count=10, source="mnist")
        most = max((a["iterations"] for a in one.get("steps", [])), default=math.nan)
        row(f"MNIST, {n // small} x 785, m = {m // small}, {method}: most iterations in 10 steps", str(most), "<= 6")
        print(f"    {in_words(one)}")
    return found


def curve(quick, sizes, methods):
    """Mean seconds of four steps over n, m = n."""
    found = []
    for n in sizes:
        n //= QUICK if quick else 1
        for method in methods:
            one = in_child("exact", n=n, m=n) if method == "exact" else in_child("steps", n=n, m=n, method=method, count=4)
            took = one["seconds"] if method == "exact" else mean(one) if "error" not in one else math.nan
            found.append({"method": method, "n": n, "seconds": took, "peak": one.get("peak", math.nan)})
            row(f"n = m = {n}, {method}: seconds a step, peak {one.get('peak', math.nan):.2f} GB", f"{took:.2f}")
            if method != "exact":
                print(f"    {in_words(one)}")
    return found


POWERS = tuple(2**k for k in range(12, 17))
RATIOS = [(4096, 65536, D, "float32"), (4096, 4096, D, "float32"), (4096, 1024, D, "float32"), (4096, 256, D, "float32")]
WIDE = [(n, m, D, t) for t in ("float32", "float64") for n, m in ((4096, 8192), (8192, 8192))]
SHORT = {
    "n4096": partial(contest, n=4096, m=131072, target=">= 13"),
    "n8192": partial(contest, n=8192, m=262144, target=">= 28"),
    "n16384": partial(pivoted, n=16384, m=131072, target=">= 35, < 1.2 GB"),
    "exponents": partial(exponents, sizes=POWERS),
    "whole-steps": partial(whole_steps, sizes=tuple(2**k for k in range(10, 15))),
    "iterations": partial(over_ratio, rows=WIDE),
    "ratio": partial(over_ratio, rows=RATIOS),
    "inputs": partial(over_ratio, rows=[(4096, 16 * 4096 // d, d, "float32") for d in (4, 16, 64)]),
    "levels": partial(second, sizes=(2048, 4096)),
    "curve": partial(curve, sizes=(1024, 2048, 4096), methods=("exact", "sketch", "kernel", "pivoted")),
    "curve-8192": partial(curve, sizes=(8192,), methods=("sketch", "kernel", "pivoted")),
    "curve-16384": partial(curve, sizes=(16384,), methods=("kernel", "pivoted")),
}
LONG = {
    "mnist": partial(digits, n=5000, m=20000),
    "n65536": partial(pivoted, n=65536, m=65536, target=">= 80, < 2.5 GB"),
    "whole-steps-long": partial(whole_steps, sizes=tuple(2**k for k in range(12, 17))),
    "iterations-long": partial(over_ratio, rows=[(16384, 16384, D, t) for t in ("float32", "float64")]),
    "ratio-long": partial(over_ratio, rows=[(16384, m, D, "float32") for m in (262144, 16384, 4096, 1024)]),
    "n262144": partial(wide_inputs, n=262144, d=64, m=16384),
    "mapped": partial(by_map, n=262144, d=784, m=1024),
    "curve-32768": partial(curve, sizes=(32768,), methods=("pivoted",)),
    "curve-65536": partial(curve, sizes=(65536,), methods=("pivoted",)),
    "sketch-16384": partial(curve, sizes=(16384,), methods=("sketch",)),
}


# --------------------------------------------------------------------------------------------------------------------- plot


def plot(kept, path):
    """Seconds a step against n for the four methods, and where an n x n matrix needs 1, 4, 16 and 64 GiB."""
    from nearlin.experiments import canvas

    canvas.styled(_plot)(canvas, kept, path)


def _plot(canvas, kept, path):
    points = [one for name, found in kept.items() if name.startswith(("curve", "sketch-")) for one in found]
    names = {
        "exact": "exact: Gram matrix, Cholesky",
        "sketch": "sketch: the paper's R (n, n)",
        "kernel": "the limit kernel's R (n, n)",
        "pivoted": "k columns of the kernel",
    }
    by = {name: sorted((one["n"], one["seconds"]) for one in points if one["method"] == name) for name in names}
    figure = canvas.figure(8, 4.6)
    panel = figure.subplots()
    for i, (name, some) in enumerate(by.items()):
        panel.plot(*np.transpose(some), label=names[name], **canvas.curve_style(i))
    n0, t0 = by["exact"][-1]
    beyond = [n for n in (*POWERS, 2**17) if n >= n0]
    flops = [t0 * exact_flops(n, n) / exact_flops(n0, n0) for n in beyond]
    panel.plot(beyond, flops, "--", color=canvas.COLOURS[0], label="exact, by its flops")
    canvas.scale(panel.xaxis, beyond, log=True, at={n for some in by.values() for n, _ in some}.union(beyond))
    canvas.scale(panel.yaxis, flops, log=True)
    for wall in (1, 4, 16, 64):
        n = math.sqrt(wall * 2**30 / 4)
        panel.axvline(n, color=canvas.GREY, linewidth=0.9, linestyle=":")
        panel.text(n * 0.97, 0.03, f"n × n: {wall} GiB", rotation=90, va="bottom", ha="right", color=canvas.GREY, fontsize=8,
                   transform=panel.get_xaxis_transform())  # fmt: skip
    panel.set(xlabel="samples n = neurons m", ylabel="seconds a step")
    canvas.below(figure, canvas.entries([panel]))
    canvas.save(figure, path, f"One Gauss-Newton step of a two-layer network, d = {D}, float32, two cores")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*SHORT, *LONG), metavar="ROW", help=f"of {', '.join((*SHORT, *LONG))}")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="keep the numbers there")
    parser.add_argument("--plot", action="store_true", help="draw what is kept, and run nothing but --only")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    options = parser.parse_args()
    if options.plot and not options.out:
        parser.error("--plot draws what --out DIR holds; give both")
    path = options.out and options.out / "past_the_gram.json"
    kept = json.loads(path.read_text()) if path and path.exists() else {}
    print(f"nearlin {nl.__version__}, NumPy {np.__version__}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}", flush=True)
    for name in options.only or (() if options.plot else SHORT):
        print(f"\n{name}", flush=True)
        kept[name] = {**SHORT, **LONG}[name](options.quick)
        if path:
            options.out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(kept, indent=1))
    if options.plot:
        plot(kept, options.out / "past_the_gram.png")


if __name__ == "__main__":
    main()
