"""Ranks as processes, by MPI; mpi4py alone is named, so that a site's own MPI serves."""

import atexit
import functools
import math
import os
import time
import zlib
from array import array

from nearlin._array import namespace, slices
from nearlin._ranks.protocol import Diverged, Several, both, short

LONGEST = 2**30  # entries of one reduction: MPI counts them in 31 bits
LANES = 16  # communicators, by the name of a call: calls of two names do not meet by mistake
GRACE = 2.0  # seconds that a rank which has raised waits for the others to have raised the same
PATIENCE = 1.0  # seconds after which a rank that waits tells the others what it waits for
SPINS, YIELDS = 50, 1000  # how often a rank that waits looks before it lets others have the core, and before it sleeps
NAP = 2e-5  # seconds
_let_others = getattr(os, "sched_yield", functools.partial(time.sleep, 0))


class World(Several):
    """The processes that ``mpiexec`` has started, by mpi4py.

    Parameters
    ----------
    check : bool
        Compare the name, shape and dtype of every call before it is made, by one reduction of 16 bytes. Without it ranks compare
        what they wait for when they have waited for a second; of calls that differ, one in `LANES` may go through before, with
        numbers that mean nothing.

    Raises
    ------
    ImportError
        mpi4py, or an MPI, is missing.

    Notes
    -----
    A context, ``with nl.World() as ranks:``, in what ``mpiexec -n 4 python -m mpi4py`` starts. Where all ranks leave it alike, by
    its end or by one and the same error, each goes on; else the world is aborted when the first of them exits.
    """

    def __init__(self, check=True):
        super().__init__()
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise ImportError(f"several ranks need mpi4py and an MPI: {error}; expected pip install 'nearlin[mpi]'") from error
        self._mpi, self._talk, *self._lanes = MPI, *(MPI.COMM_WORLD.Dup() for _ in range(1 + LANES))
        self.rank, self.size, self.check = self._talk.rank, self._talk.size, check
        self._asked, self._number, self._heard, self._said = "", 0, [], []

    def __exit__(self, kind, error, trace):
        failed = kind is not None and kind is not SystemExit
        self._asked, self._number = f"has raised {short(error)}" if failed else "has ended", self._number + 1
        self._say(self._asked, last=True)
        try:
            self._wait(self._talk.Ibarrier(), GRACE if failed else math.inf)
        except Diverged:
            atexit.register(self._mpi.COMM_WORLD.Abort, 1)
            if not failed:
                raise
            error.add_note(f"on rank {self.rank} of {self.size}")

    # ------------------------------------------------------------------------------------------------- waiting, and being heard

    def _begin(self, call):
        tag = zlib.crc32(call.encode())
        self._asked, self._number, self._comm = call, self._number + 1, self._lanes[tag % LANES]
        if self.check:
            self._compare(tag)

    def _compare(self, tag):
        """`Diverged` where another rank asks for something else."""
        lane, pair, found = self._lanes[0], array("q", [tag, -tag]), array("q", [0, 0])
        self._wait(lane.Iallreduce(pair, found, self._mpi.MAX))
        if found[0] != -found[1]:
            calls = lane.allgather(self._asked)
            other = next(r for r, call in enumerate(calls) if call != calls[0])
            raise Diverged(both(0, calls[0], other, calls[other]))

    def _wait(self, request, limit=math.inf):
        """Wait until a request is done, for ``limit`` seconds, or until another rank is heard of that will never come."""
        looks, start, said = 0, time.monotonic(), False
        while not request.Test():
            looks += 1
            if looks > SPINS:
                _let_others() if looks < YIELDS else time.sleep(NAP)
            if looks % SPINS == 0:
                self._listen()
                waited = time.monotonic() - start
                if waited > limit:
                    raise Diverged(f"rank {self.rank} {self._asked}, and others do not")
                if waited > PATIENCE and not said:
                    said = True
                    self._say(self._asked)

    def _say(self, words, last=False):
        """Tell the others what this rank's call is, or that it was the ``last`` one."""
        others = [r for r in range(self.size) if r != self.rank]
        self._said += [self._talk.isend((self.rank, self._number, words, last), r) for r in others]

    def _listen(self):
        while (message := self._talk.improbe()) is not None:
            self._heard.append(message.recv())
        self._heard = [said for said in self._heard if said[1] >= self._number or said[3]]
        for rank, number, words, last in self._heard:
            if words != self._asked and (number == self._number or (last and number < self._number)):
                raise Diverged(both(rank, words, self.rank, self._asked))

    # -------------------------------------------------------------------------------------------------------------- the calls

    def _sum(self, own):
        out = namespace(own).empty_like(own)
        given, made = own.reshape(-1), out.reshape(-1)
        for part in slices(given.size, LONGEST):
            self._wait(self._comm.Iallreduce(given[part], made[part]))
        return out

    def _rows(self, own, shares):
        out = namespace(own).empty((shares[-1].stop, *own.shape[1:]), dtype=own.dtype)
        kind = self._row(own)
        counts, starts = [s.stop - s.start for s in shares], [s.start for s in shares]
        self._wait(self._comm.Iallgatherv([own, own.shape[0], kind], [out, counts, starts, kind]))
        kind.Free()
        return out

    def _row(self, own):
        """MPI's type of a row: counts of rows stay below 2³¹."""
        kind = self._mpi.BYTE.Create_contiguous(own.itemsize * math.prod(own.shape[1:]))
        return kind.Commit()

    def _least(self, flag):
        out = array("b", [0])
        self._wait(self._comm.Iallreduce(array("b", [flag]), out, self._mpi.MIN))
        return bool(out[0])

    def _from_right(self, own):
        none, out = self._mpi.PROC_NULL, namespace(own).empty_like(own)
        left, right = self.rank - 1 if self.rank else none, self.rank + 1 if self.rank + 1 < self.size else none
        kind = self._mpi.BYTE
        for request in (self._comm.Irecv([out, kind], right), self._comm.Isend([own, kind], left)):
            self._wait(request)
        return None if right == none else out

    def _broadcast(self, own, root):
        out = own if self.rank == root else namespace(own).empty_like(own)
        flat = out.reshape(-1)
        for part in slices(flat.size, LONGEST):
            self._wait(self._comm.Ibcast(flat[part], root))
        return out

    def _each(self, own):
        lengths = array("q", [0]) * self.size
        self._wait(self._comm.Iallgather(array("q", [len(own)]), lengths))
        starts = [sum(lengths[:r]) for r in range(self.size)]
        out, kind = bytearray(sum(lengths)), self._mpi.BYTE
        self._wait(self._comm.Iallgatherv([own, kind], [out, list(lengths), starts, kind]))
        return [memoryview(out)[start : start + length] for start, length in zip(starts, lengths, strict=True)]
