"""nearlin: near-linear-time second-order training of neural networks, on any array-API backend."""

from importlib import import_module

_ARRAY = ("BackendError", "asarray", "fold_in", "keep_freed_memory", "synchronize", "to_numpy")
_RANKS = ("Alone", "Diverged", "World", "together")
_ROOMS = ("complexity", "curvature", "data", "experiments", "linalg", "nn", "optim", "sketch", "steps")

__all__ = [*_ROOMS, *_ARRAY, *_RANKS, "__version__"]


def __getattr__(name):
    """Load what is asked for once, and not before: the command line hears Ctrl-C while it loads the rest."""
    if name not in (*__all__, "sklearn"):
        raise AttributeError(f"module 'nearlin' has no attribute {name!r}")
    globals()[name] = value = _load(name)
    return value


def _load(name):
    if name in _ARRAY:
        return getattr(import_module("nearlin._array"), name)
    if name in _RANKS:
        return getattr(import_module("nearlin._ranks"), name)
    if name == "__version__":
        return import_module("importlib.metadata").version("nearlin")
    return import_module(f"nearlin.{name}")


def __dir__():
    return list({*globals(), *__all__})
