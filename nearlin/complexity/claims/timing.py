"""Claims on time: how seconds grow, and from which sizes a sketched step pays, by flops and in time.

Times are the minimum over interleaved rounds of the processor time of one thread, with one BLAS thread, so that other processes
disturb them little.
"""

import math
import time
from functools import partial

from threadpoolctl import threadpool_limits

from nearlin.complexity.claims import data
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.cost import COUNTED, FIXED, GRAM_PAPER, IDEA, INNER, KRONECKER, MAIN, PAPER, naive_gram
from nearlin.complexity.claims.problems import problem
from nearlin.complexity.counting import flops_of
from nearlin.complexity.fit import contest
from nearlin.linalg import damped_cholesky
from nearlin.optim import GramGaussNewton, NearLinearGaussNewton
from nearlin.sketch import NeuronSigns

NEAR_STEP = NearLinearGaussNewton(epsilon=1e-12, maxiter=INNER, guard=False, sketch=KRONECKER)


def interleaved(calls, rounds=5, budget=70.0):
    """Minimum processor seconds of each of ``calls`` (a dict) over rounds through all of them, with one BLAS thread.

    From the second round on, none begins that would end after ``budget`` seconds.
    """
    start, best = time.perf_counter(), dict.fromkeys(calls, math.inf)
    with threadpool_limits(1, user_api="blas"):
        for done in range(rounds):
            if done >= 2 and time.perf_counter() - start > budget * done / (done + 1):
                break
            for size, call in calls.items():
                before = time.thread_time()
                call()
                best[size] = min(best[size], time.thread_time() - before)
    return best


def geometric(low, high, number=8):
    """Sizes from low to high, odd multiples of 8: powers of two make strided access slow."""
    return tuple(16 * round(low * (high / low) ** (i / (number - 1)) / 16) + 8 for i in range(number))


def times(full, over, sizes, call, timer=interleaved, rounds=6, **fixed):
    """Seconds over the size, of the fastest of some rounds; ``call(size)`` makes ready what is timed."""
    seconds = timer({size: call(size) for size in sizes}, rounds=rounds)
    yield from ({**fixed, over: size, "seconds": one} for size, one in seconds.items())


def product(n):
    """J Jᵀu."""
    p = problem(n, 16, 16384)
    return partial(p.jacobian().gram_matvec, p.batch[1])


def factorisation(n):
    """The damped Cholesky factorisation of a Gram matrix (n, n)."""
    rows = data.sphere(n, n, key=3)
    return partial(damped_cholesky, rows @ rows.T, 1.0)


def naive_times(full, timer=interleaved):
    """The Gram matrix from explicit rows over the structured one, over d."""
    n, m = 264, 2048
    for d in (2, 4, 8, 16):
        J = problem(n, d, m).jacobian()
        seconds = timer({"naive": partial(naive_gram, J), "structured": J.gram})
        yield {"n": n, "m": m, "d": d, "ratio of times": seconds["naive"] / seconds["structured"], "m d/(m+d)": m * d / (m + d)}


def kronecker_times(full, timer=interleaved):
    """The Kronecker sketch over m, and which growth fits best."""

    def call(m, n=32, d=16):
        left, right = data.sphere(n, m, key=3), data.sphere(n, d, key=4)
        return partial(KRONECKER.sample(0, 4 * n, ((m, d),), like=left).rows, 0, left, right)

    rows = list(times(full, "m", [2**k for k in range(10, 20)], call, timer, rounds=12, n=32, d=16))
    best = contest([row["m"] for row in rows], [row["seconds"] for row in rows]).best
    yield from (*rows, {"best fit": best, "m or m log m fits best": int(best in ("n", "n log n"))})


def gains(full, grid, gain, pays):
    """The exact step's cost over the near-linear step's, and the same where the latter should pay.

    ``grid(full)`` holds (n, d, m/n) over n and over m/n; ``gain(n, d, m)`` gives K and the gain, ``pays(n, d, m, K)`` a bool.
    """
    for over, sizes in zip(("n", "m/n"), grid(full), strict=True):
        for n, d, ratio in sizes:
            K, found = gain(n, d, ratio * n)
            row = {"n": n, "m/n": ratio, "d": d, "K": K, f"gain over {over}": found}
            yield {**row, "gain where it should pay": found} if pays(n, d, ratio * n, K) else row


def counted_gain(n, d, m, near=NEAR_STEP):
    """From counts of both steps; symmetric products, which are counted in full, at the half that a rank-k update does."""
    p, half = problem(n, d, m, counting=True), n * n
    exact, sketched = (flops_of(p.step, opt) for opt in (GramGaussNewton(guard=False), near))
    return INNER, (exact - half * (m + d)) / (sketched - half * 4 * n)


def timed_gain(n, d, m, sketch, timer=interleaved):
    """From seconds of both steps, R fresh."""
    p, near = problem(n, d, m), NearLinearGaussNewton(reuse=False, sketch=sketch)
    K = p.step(near)[2].solve.iterations
    seconds = timer({"exact": partial(p.step, GramGaussNewton()), "near": partial(p.step, near)}, rounds=4)
    return K, seconds["exact"] / seconds["near"]


QUIET, TIMED = "a quiet machine, one BLAS thread", "cost, timed"
BY_COUNT = partial(  # small d, so that sizes which can be counted are large; products and guard, transform, Gram matrix and R
    gains, gain=counted_gain, pays=lambda n, d, m, K: n * m >= (4 * K + 6) * m * d + 8 * m * math.log2(m) + 13 / 3 * n * n,
    grid=lambda full: (
        [(n, 4, 32) for n in (64, 128, 192, 224, 256, *((384, 512, 768, 1024) if full else ()))],
        [(1024 if full else 512, 2, ratio) for ratio in (2, 4, 6, 8)],
    ),
)  # fmt: skip
BY_TIME = partial(  # n to 1024 at m = 32 n, and m to 32 n at n = 1024; it should pay from twice 4 K d and twice 4.3 n on
    gains, pays=lambda n, d, m, K: n >= 8 * K * d and m >= 8.6 * n,
    grid=lambda full: ([(32 * 2**k, 16, 32) for k in range(6)], [(1024, 16, 2**k) for k in range(6)]),
)  # fmt: skip
BREAK_EVEN = (Bound("gain over n", over="n"), Bound("gain over m/n", over="m/n"), Bound("gain where it should pay", low=1))

CLAIMS = (
    claim("break-even-flops", 33, COUNTED, "derived",
        "By flops, a sketched step pays against the structured exact one from m (n - n*) = 13/3 n² on, n* = (4K+6) d + 8 log₂ m.",
        "Kronecker sketch with s = 4n, K = 4, symmetric products by rank-k updates", BY_COUNT, *BREAK_EVEN, how="count"),
    claim("step-time-in-width", 4, TIMED, MAIN,
        "The time of a near-linear step is linear in the width.", QUIET,
        partial(times, over="m", sizes=[2**k for k in range(10, 19)], rounds=30, n=256, d=16, K=INNER, dtype="float32",
            call=lambda m: partial(problem(256, 16, m, "float32").step, FIXED)),
        Bound("seconds", 0.95, 1.05, over="m", reduce="interval", halfwidth=0.05), how="time"),
    claim("product-time-in-samples", 5, TIMED, MAIN,
        "The time of an inner iteration's product is linear in the samples.", QUIET,
        partial(times, over="n", sizes=geometric(128, 4096), rounds=30, m=16384, d=16, dtype="float64", call=product),
        Bound("seconds", 0.95, 1.05, over="n", reduce="interval", halfwidth=0.1), how="time"),
    claim("factorisation-time", 5, TIMED, MAIN,
        "The time of the factorisation is cubic in the samples.", QUIET,
        partial(times, over="n", sizes=geometric(512, 4096), dtype="float64", call=factorisation),
        Bound("seconds", 2.85, 3.15, over="n", reduce="interval", halfwidth=0.2), how="time"),
    claim("gram-time-in-samples", 6, TIMED, f"{GRAM_PAPER}, as {PAPER} states it",
        "The time of the structured Gram matrix is quadratic in the samples.", QUIET,
        partial(times, over="n", sizes=geometric(512, 8192), m=4096, d=16, dtype="float32",
            call=lambda n: problem(n, 16, 4096, "float32").jacobian().gram),
        Bound("seconds", equal=2, over="n", reduce="interval, no floor", halfwidth=0.2), how="time"),
    claim("naive-gram-time", 7, TIMED, "derived",
        "A Gram matrix from explicit rows takes about m d/(m+d) times as long as the structured one.", QUIET, naive_times,
        Bound("ratio of times", 0.5, 2.5, over="d", per="m d/(m+d)"), how="time"),
    claim("kronecker-sketch-time", 15, TIMED, IDEA,
        "The time of the Kronecker sketch grows with the width like m log m.", QUIET, kronecker_times,
        Bound("m or m log m fits best", equal=1), Bound("seconds", over="m"), how="time"),
    claim("break-even-time", 33, TIMED, "derived",
        "In time, a near-linear step beats the structured exact step from n = 4 K d and m = 4.3 n on.", QUIET,
        partial(BY_TIME, gain=partial(timed_gain, sketch=NeuronSigns())), *BREAK_EVEN, how="time"),
    claim("break-even-time-kronecker", 33, TIMED, "derived",
        "In time, the same holds with the Kronecker sketch that the count is about.", QUIET,
        partial(BY_TIME, gain=partial(timed_gain, sketch=KRONECKER)), *BREAK_EVEN, how="time", should_hold=False),
)  # fmt: skip
