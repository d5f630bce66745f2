"""nearlin: near-linear-time second-order training of neural networks, on any array-API backend."""

from importlib import import_module
from importlib.metadata import version

from nearlin import curvature, data, linalg, nn, optim, sketch, steps
from nearlin._array import BackendError, asarray, fold_in, keep_freed_memory, synchronize, to_numpy
from nearlin._ranks import Alone, Diverged, World, together

__version__ = version("nearlin")

__all__ = [
    "complexity", "curvature", "data", "experiments", "linalg", "nn", "optim", "sketch", "steps",
    "BackendError", "asarray", "fold_in", "keep_freed_memory", "synchronize", "to_numpy",
    "Alone", "Diverged", "World", "together",
    "__version__",
]  # fmt: skip


def __getattr__(name):
    """Load the rooms that no computation needs only when they are asked for."""
    if name in ("complexity", "experiments", "sklearn"):
        return import_module(f"nearlin.{name}")
    raise AttributeError(f"module 'nearlin' has no attribute {name!r}")
