"""What ranks ask of each other, each call by its name and counted."""

import functools
import itertools
import math
import pickle
import time
from collections import Counter
from contextlib import contextmanager

from nearlin._array import asarray, is_numpy, to_numpy


class Diverged(RuntimeError):
    """Ranks do not ask for the same: one has ended, has raised, or asks for something else."""


class Alone:
    """One rank, which is all there are; and the protocol of the others.

    Attributes
    ----------
    rank, size : int
        Which one of how many.
    bytes, calls, seconds : Counter
        By name: bytes of what the calls hand to this rank, how many there were, and how long it waited for others.

    Notes
    -----
    A context: at its end ranks wait for each other, and an exception in it ends them all.
    """

    rank, size = 0, 1

    def __init__(self):
        self.bytes, self.calls, self.seconds = Counter(), Counter(), Counter()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return

    def shares(self, n, unit=1):
        """The slices of n things of all ranks, in order and even; they begin at multiples of ``unit``."""
        units = -(-n // unit)
        borders = [min(n, r * units // self.size * unit) for r in range(self.size + 1)]
        return [slice(*pair) for pair in itertools.pairwise(borders)]

    def share(self, n, unit=1):
        """This rank's slice of n things; see `shares`."""
        return self.shares(n, unit)[self.rank]

    def fewest_and_most(self, n, unit=1):
        """How many of n things the rank has that has fewest of them, and the one with most; of `shares`, without a list.

        The last rank has one of the units that are left over, and lacks what may be missing of the last unit.
        """
        units, over = divmod(-(-n // unit), self.size)
        last = n - min(n, (self.size - 1) * -(-n // unit) // self.size * unit)
        others = [units * unit, (units + (over > 1)) * unit] if self.size > 1 else []
        return min([last, *others]), max([last, *others])

    def sum(self, x, what):
        """The sum of the ranks' arrays ``x``, of one shape and dtype; ``what`` is its name in messages and counters."""
        return x

    def rows(self, x, n, what, unit=1):
        """All n rows of an array, of which ``x`` has those of `share` (n, unit)."""
        self._check_rows(x, n, unit)
        return x

    def _check_rows(self, x, n, unit):
        own = self.share(n, unit)
        if x.shape[0] != own.stop - own.start:
            raise ValueError(f"x has {x.shape[0]} rows; expected {own.stop - own.start}, rank {self.rank}'s share of {n}")

    def all(self, flag, what):
        """Whether every rank says so."""
        return bool(flag)

    def decide(self, flag, what):
        """Whether any rank says so: one decision for all."""
        return bool(flag)

    def from_right(self, x, what):
        """The next rank's ``x``, of the shape and dtype of this one's; None on the last rank."""
        return

    def broadcast(self, x, what, root=0):
        """The array ``x`` of rank ``root``; the others give one of its shape and dtype."""
        return x

    def each(self, value, what):
        """The list of the ranks' values, small and picklable."""
        return [value]


class Supposed(Alone):
    """Rank 0 of ``size`` ranks that are not there: of their shares, and of what they would be refused for."""

    def __init__(self, size):
        super().__init__()
        self.size = size


def _among_several(method):
    """The method, or that of `Alone` where this rank is all there are: nothing is moved, and nothing counted."""
    alone = getattr(Alone, method.__name__)

    @functools.wraps(method)
    def made(self, *args, **kwargs):
        return (alone if self.size == 1 else method)(self, *args, **kwargs)

    return made


class Several(Alone):
    """Several ranks: every call is named and counted, and made by what `World` and the ranks of `together` have beneath."""

    @_among_several
    def sum(self, x, what):
        own = _on_host(x)
        with self._call(f"asks for the sum of {what} {own.shape} {own.dtype}", what, own.nbytes):
            return _beside(x, self._sum(own))

    @_among_several
    def rows(self, x, n, what, unit=1):
        self._check_rows(x, n, unit)
        own = _on_host(x)
        shape = (n, *own.shape[1:])
        with self._call(f"asks for the rows of {what} {shape} {own.dtype}", what, own.itemsize * math.prod(shape)):
            return _beside(x, self._rows(own, self.shares(n, unit)))

    @_among_several
    def all(self, flag, what):
        with self._call(f"asks whether all {what}", what, 1):
            return self._least(bool(flag))

    @_among_several
    def decide(self, flag, what):
        with self._call(f"asks whether any {what}", what, 1):
            return not self._least(not flag)

    @_among_several
    def from_right(self, x, what):
        own = _on_host(x)
        with self._call(f"hands {what} {own.shape} {own.dtype} to the left", what, own.nbytes):
            found = self._from_right(own)
        return None if found is None else _beside(x, found)

    @_among_several
    def broadcast(self, x, what, root=0):
        own = _on_host(x)
        with self._call(f"asks for {what} {own.shape} {own.dtype} of rank {root}", what, own.nbytes):
            return _beside(x, self._broadcast(own, root))

    @_among_several
    def each(self, value, what):
        own = pickle.dumps(value)
        with self._call(f"asks for each rank's {what}", what, 0):
            found = self._each(own)
            self.bytes[what] += sum(map(len, found))
            return list(map(pickle.loads, found))

    @contextmanager
    def _call(self, call, what, nbytes):
        """What every call begins and ends with."""
        start = time.perf_counter()
        self._begin(call)
        yield
        self.bytes[what] += nbytes
        self.calls[what] += 1
        self.seconds[what] += time.perf_counter() - start


def _on_host(x):
    own = to_numpy(x)
    return own if own.flags.c_contiguous else own.copy()


def _beside(x, made):
    """``made`` as an array of the backend of ``x``, or a number as NumPy has it."""
    if is_numpy(x):
        return made[()] if made.ndim == 0 else made
    return asarray(made, like=x)


def both(rank, words, other, call):
    """The sentence of a `Diverged`."""
    return f"rank {rank} {words}, while rank {other} {call}"


def short(error):
    """An error in words."""
    return f"{type(error).__name__}: {error}"
