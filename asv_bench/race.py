"""Races: contestants take turns, and the least time of a call counts; an earlier checkout may take part from its own process."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path


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


class Base:
    """An earlier checkout in a process of its own, in which ``command`` answers; without a folder there is none.

    The command says where its library lies, then reads names and answers each with the least seconds of a burst.
    """

    def __init__(self, folder, *command):
        self.folder, self.command, self.process = folder, command, None

    def __enter__(self):
        if self.folder is not None:
            command = [sys.executable, *map(str, self.command)]
            env = {**os.environ, "PYTHONPATH": str(Path(self.folder).resolve())}
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            found = self._line()
            if not Path(found).is_relative_to(Path(self.folder).resolve()):
                raise SystemExit(f"--base: the process imports {found}; expected a checkout's nearlin in {self.folder}")
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.process.communicate()

    def _line(self):
        return self.process.stdout.readline().strip()

    def bursts(self, names):
        """Bursts of the base, by name."""
        return {f"base {name}": partial(self._ask, name) for name in names} if self.process else {}

    def _ask(self, name):
        print(name, file=self.process.stdin, flush=True)
        return float(self._line())
