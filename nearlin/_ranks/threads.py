"""Ranks as threads of one process: tests, coverage and counts need no MPI."""

import contextvars
import functools
import operator
import threading

from nearlin._array import by_one_worker, namespace
from nearlin._ranks.protocol import Diverged, Several, both, short


def together(P, f):
    """``f(ranks)`` on P ranks, threads of this process: the list of what they return.

    Sums go in the order of the ranks, and walks over blocks are serial. A rank that returns, raises, or asks for what another
    does not, ends the others at their next call, at once where they wait.

    Raises
    ------
    Diverged
        Ranks that do not ask for the same.
    Exception
        What a rank has raised, with a note on which.
    """
    hub, results, errors = _Hub(P), [None] * P, []

    def run(rank):
        try:
            results[rank] = by_one_worker(lambda: f(Thread(hub, rank)))
        except BaseException as error:
            error.add_note(f"on rank {rank} of {P}")
            errors.append(error)
            hub.leave(rank, f"has raised {short(error)}")
        else:
            hub.leave(rank, "has ended")

    threads = [threading.Thread(target=contextvars.copy_context().run, args=(run, rank), daemon=True) for rank in range(P)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        hub.leave(0, "is interrupted")
        raise
    for error in sorted(errors, key=lambda error: isinstance(error, Diverged)):  # what was the cause comes first
        raise error
    return results


class _Hub:
    """Where threads meet."""

    def __init__(self, size):
        self.size, self.lock, self.given, self.met, self.gone, self.broken = size, threading.Condition(), {}, {}, {}, ""
        self.meetings = 0

    def meet(self, rank, call, x):
        """What all ranks give, once they have."""
        with self.lock:
            self._compare(rank, call)
            self.given[rank] = call, x
            here = self.meetings
            if len(self.given) == self.size:
                self.met = [self.given[r][1] for r in range(self.size)]
                self.given, self.meetings = {}, here + 1
                self.lock.notify_all()
            self.lock.wait_for(lambda: self.meetings > here or self.broken)
            if self.meetings == here:
                raise Diverged(self.broken)
            return self.met

    def leave(self, rank, words):
        """``rank`` will make no call any more."""
        with self.lock:
            self.gone[rank] = words
            for other, (call, _) in self.given.items():
                self._break(rank, words, other, call)

    def _compare(self, rank, call):
        others = {**{other: found for other, (found, _) in self.given.items()}, **self.gone}
        for other, found in others.items():
            if found != call:
                self._break(other, found, rank, call)
        if self.broken:
            raise Diverged(self.broken)

    def _break(self, rank, words, other, call):
        self.broken = self.broken or both(rank, words, other, call)
        self.lock.notify_all()


class Thread(Several):
    """One of the ranks of `together`."""

    def __init__(self, hub, rank):
        super().__init__()
        self._hub, self.rank, self.size, self._asked = hub, rank, hub.size, ""

    def _begin(self, call):
        self._asked = call

    def _meet(self, x):
        return self._hub.meet(self.rank, self._asked, x)

    def _sum(self, own):
        parts = self._meet(own.copy())  # a rank may write into what it gave while others still read
        return functools.reduce(operator.add, parts)

    def _rows(self, own, shares):
        return namespace(own).concat(self._meet(own.copy()), axis=0)

    def _least(self, flag):
        return all(self._meet(flag))

    def _from_right(self, own):
        parts = self._meet(own.copy())
        return parts[self.rank + 1].copy() if self.rank + 1 < self.size else None

    def _broadcast(self, own, root):
        return self._meet(own.copy())[root].copy()

    def _each(self, own):
        return self._meet(own)
