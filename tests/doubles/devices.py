"""Devices of the double: two, of which each thread has a current one."""

import threading

import numpy as np

from tests.doubles import counters

DEVICES = 2
MEMORY = 80 * 2**30  # bytes of a device


class CUDARuntimeError(RuntimeError):
    """A call of the CUDA runtime failed."""


class OutOfMemoryError(MemoryError):
    """The memory of the device is spent."""


_thread = threading.local()


class Stream:
    """A stream, entered by ``with``; each thread has a current one."""

    def __enter__(self):
        self._before = current_stream()
        _thread.stream = self
        return self

    def __exit__(self, *error):
        _thread.stream = self._before

    def synchronize(self):
        counters.synchronize("synchronize")


NULL = Stream()


def current_stream(device_id=None):
    """The current stream of this thread."""
    return getattr(_thread, "stream", NULL)


def current():
    """The number of the current device of this thread."""
    return getattr(_thread, "device", 0)


class Device:
    """A device, entered by ``with``."""

    def __init__(self, device=None):
        if isinstance(device, bool) or not isinstance(device, int | np.integer | Device | None):
            raise TypeError(f"an integer is required (got {type(device).__name__})")
        self.id = current() if device is None else int(device)
        self._before = []

    def __int__(self):
        return self.id

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return hash(self.id)

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def use(self):
        if not 0 <= self.id < DEVICES:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        _thread.device = self.id

    def __enter__(self):
        self._before.append(current())
        self.use()
        return self

    def __exit__(self, *error):
        _thread.device = self._before.pop()

    def synchronize(self):
        counters.synchronize("synchronize")

    @property
    def mem_info(self):
        return MEMORY - POOL.kept, MEMORY


class Pool:
    """The pool that memory comes from: ``kept`` bytes are those of freed arrays, which it has not given back."""

    kept = 0

    def free_all_blocks(self, stream=None):
        self.kept = 0


POOL = Pool()


def get_default_memory_pool():
    """The pool of all devices."""
    return POOL
