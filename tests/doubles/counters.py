"""What a GPU would be asked for: launches of kernels, synchronisations with the host, copies from the host."""

import contextlib
import sys
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Launches and copies from the host by function, synchronisations by cause, and by the place in nearlin that asked."""

    launches: Counter = field(default_factory=Counter)
    synchronizations: Counter = field(default_factory=Counter)
    places: Counter = field(default_factory=Counter)
    from_host: Counter = field(default_factory=Counter)

    @property
    def besides_factorizations(self):
        """How many synchronisations there are besides those that ask whether a factorisation succeeded."""
        return self.synchronizations.total() - self.synchronizations["devInfo"]


_open = []


@contextlib.contextmanager
def counted():
    """A context that yields the `Counts` of what happens in it."""
    counts = Counts()
    _open.append(counts)
    try:
        yield counts
    finally:
        _open.remove(counts)


def launch(name, times=1):
    """A function launched ``times`` kernels."""
    for counts in _open:
        counts.launches[name] += times


def synchronize(cause):
    """The host waited for the device."""
    for counts in _open:
        counts.synchronizations[cause] += 1
        counts.places[f"{_place()} {cause}"] += 1


def from_host(name):
    """Numbers were copied to the device."""
    for counts in _open:
        counts.from_host[name] += 1


def _place():
    """The innermost three lines of nearlin that are running, above _array."""
    frame, found = sys._getframe(2), []
    while frame and len(found) < 3:
        path = frame.f_code.co_filename.rpartition("/nearlin/")[2]
        if path != frame.f_code.co_filename and not path.startswith("_array"):
            found.append(f"{path}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(found)
