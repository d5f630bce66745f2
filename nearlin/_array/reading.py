"""Numbers that a host reads from a device: all at once where possible, as each reading waits for all that was launched before."""

import contextlib
import contextvars
import threading

import numpy as np

from nearlin._array.backends import current_stream, device, namespace, on_gpu, on_stream
from nearlin._array.maps import is_map, same_map

_here = threading.local()  # call: the `_Call` that this thread runs; waiting: what `checked_together` is to look at


def read(*arrays):
    """0-d arrays of one backend as floats, by one synchronisation on a GPU."""
    if not arrays or not on_gpu(arrays[0]):
        return [float(x) for x in arrays]
    call = getattr(_here, "call", None)
    return call.read(arrays) if call else _read(arrays)


def read_number(x):
    """A 0-d array as a float."""
    return float(x) if isinstance(x, np.generic) else read(x)[0]


def read_flag(x):
    """A 0-d array as a truth value."""
    return bool(x) if isinstance(x, np.generic) else bool(read(x)[0])


def _read(arrays):
    if len(arrays) == 1:
        return [float(arrays[0])]
    xp = namespace(*arrays)
    if len({x.dtype for x in arrays}) > 1:
        arrays = [xp.astype(x, xp.float64, copy=False) for x in arrays]
    return list(map(float, xp.stack(arrays).tolist()))


def same(a, b):
    """Whether two tuples hold arrays of one backend, device, dtype, shape and values; maps are compared as `copies` made them."""
    pairs = list(zip(a, b, strict=False))
    if len(a) != len(b) or not all(map(_alike, a, b)):
        return False
    if pairs and on_gpu(a[0]):
        return all(read(*(namespace(x).all(x == y) for x, y in pairs)))
    return all(same_map(x, y) if is_map(x) or is_map(y) else bool(namespace(x).all(x == y)) for x, y in pairs)


def _alike(x, y):
    return namespace(x) is namespace(y) and device(x) == device(y) and x.dtype == y.dtype and x.shape == y.shape


# --------------------------------------------------------------------------------------------------------------- checks


@contextlib.contextmanager
def checked_together():
    """A context in which what `look` is asked for on a GPU is read all at once, at the end."""
    if getattr(_here, "waiting", None) is not None:
        yield
        return
    _here.waiting = waiting = []
    try:
        yield
    finally:
        _here.waiting = None
    found = iter(read(*(x for _, arrays in waiting for x in arrays)))
    for judge, arrays in waiting:
        judge(*(next(found) for _ in arrays))


def look(judge, *arrays):
    """``judge(*numbers)`` of 0-d arrays, which complains or not: now, or at the end of `checked_together`."""
    waiting = getattr(_here, "waiting", None)
    if waiting is None or not on_gpu(arrays[0]):
        judge(*read(*arrays))
    else:
        waiting.append((judge, arrays))


# -------------------------------------------------------------------------------------------------- calls side by side


def side_by_side(f, *lists, like):
    """``list(map(f, *lists))``; where ``like`` lives on a GPU, numbers that all calls wait for are read at once.

    Calls take turns, one at a time and in order: each goes on until it asks for numbers (`read`) or ends. What each allocates
    until then is held by all of them. The first error is raised when every call has ended; where a reading fails, or
    is interrupted, the calls are given up.
    """
    given = list(zip(*lists, strict=True))
    if len(given) < 2 or not on_gpu(like):
        return [f(*args) for args in given]
    calls = [_Call(f, args, like) for args in given]
    try:
        while open_ := [call for call in calls if not call.ended]:
            for call in open_:
                call.go_on()
            asking = [call for call in open_ if not call.ended]
            found = iter(read(*(x for call in asking for x in call.asked)))
            for call in asking:
                call.told = [next(found) for _ in call.asked]
    finally:
        for call in calls:
            call.give_up()
    for call in calls:
        if call.error:
            raise call.error
    return [call.result for call in calls]


class _Call:
    """A call in a thread of its own, which runs in its turns alone."""

    def __init__(self, f, args, like):
        self.ended, self.error, self.asked, self.told = False, None, (), ()
        self._turn, self._back, self._given_up = threading.Semaphore(0), threading.Semaphore(0), False
        run = contextvars.copy_context().run  # NumPy's error state
        threading.Thread(target=run, args=(self._run, f, args, like, current_stream(like)), daemon=True).start()

    def _run(self, f, args, like, stream):
        _here.call = self
        try:
            self._await_turn()
            with on_stream(stream, like):
                self.result = f(*args)
        except BaseException as error:
            self.error = error
        self.ended = True
        self._back.release()

    def _await_turn(self):
        self._turn.acquire()
        if self._given_up:
            raise SystemExit  # frees what the call holds

    def go_on(self):
        """Run until the call asks for numbers, or ends."""
        self._turn.release()
        self._back.acquire()

    def give_up(self):
        """Let the call end where it is, unless it has ended."""
        self._given_up = True
        self._turn.release()

    def read(self, arrays):
        """The numbers, when all other calls have asked for theirs."""
        self.asked = arrays
        self._back.release()
        self._await_turn()
        return self.told
