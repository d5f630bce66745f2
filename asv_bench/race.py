"""Races: contestants take turns, and the least time of a call counts."""

import time
from functools import partial


def burst(f, seconds=0.05):
    """The least seconds of a call, of two or more in a row: in the first one other contestants' threads still spin."""
    least, calls, end = float("inf"), 0, time.perf_counter() + seconds
    while calls < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        f()
        least, calls = min(least, time.perf_counter() - start), calls + 1
    return least


def race(bursts, seconds):
    """The least seconds by name, in three rounds or more, after one that warms."""
    for run in bursts.values():
        run()
    least, rounds, end = dict.fromkeys(bursts, float("inf")), 0, time.perf_counter() + seconds
    while rounds < 3 or time.perf_counter() < end:
        least, rounds = {name: min(least[name], run()) for name, run in bursts.items()}, rounds + 1
    return least


def local(contestants):
    """Bursts of functions, by name."""
    return {name: partial(burst, f) for name, f in contestants.items()}


def written(seconds):
    return f"{1e6 * seconds:.0f} us" if seconds < 1e-3 else f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def row(text, ours, peers, ask):
    """One line: our time, the fastest of the peers, the ratio, what is asked for."""
    name, peer = min(peers.items(), key=lambda pair: pair[1]) if peers else ("", None)
    beside, ratio = ("", "") if peer is None else (f"{name} {written(peer)}", f"{ours / peer:.2f}")
    print(f"  {text:<58} {written(ours):>8}   {beside:<34} {ratio:>6}   {ask}", flush=True)


def pick(times, *parts):
    """The times whose names have one of ``parts``."""
    return {name: seconds for name, seconds in times.items() if any(part in name for part in parts)}
