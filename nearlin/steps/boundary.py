"""The boundary of an optimizer: states stay with their network, NumPy's warnings inside; ranks share inverses, crowds cores."""

import contextlib
import functools

from nearlin._array import crowded, pooled, unguarded
from nearlin.linalg import dealt_to


def public_step(step):
    """The method ``step``: it refuses the state of another network by a `ValueError`, and heeds no `numpy.seterr`.

    States have a field ``shapes`` where something in them belongs to one network: the shapes of its parameters, () before the
    first step.
    """

    @functools.wraps(step)
    def inside(self, params, state, objective, *args, **kwargs):
        shapes = _own_shapes(self, state, objective)
        with unguarded(), _shared_by(objective), _in_a_crowd(params, objective):
            params, after, info = step(self, params, state, objective, *args, **kwargs)
        return params, _stamped(after, state, shapes), info

    return inside


def public_start(warm_start):
    """The method ``warm_start``, as `public_step` has it."""

    @functools.wraps(warm_start)
    def inside(self, params, state, objective, *args, **kwargs):
        shapes = _own_shapes(self, state, objective)
        with unguarded(), _shared_by(objective), _in_a_crowd(params, objective):
            return _stamped(warm_start(self, params, state, objective, *args, **kwargs), state, shapes)

    return inside


def _shared_by(objective):
    """A context in which the ranks of an objective, where it has some, make one inverse each."""
    return dealt_to(getattr(objective, "ranks", None))


def _in_a_crowd(params, objective):
    """On a crowded machine a context in which BLAS has one thread, and large products go by workers.

    Beside four busy processes on two cores steps of small networks took 10 to 37 times as long without it, 2 to 5 with it.
    Of several ranks each would see another crowd, the others among it, and make other last bits of what all of them make alike.
    """
    several = getattr(getattr(objective, "ranks", None), "size", 1) > 1
    heeds = params and isinstance(params, tuple) and not several
    return pooled(params[0]) if heeds and crowded() else contextlib.nullcontext()


def _own_shapes(optimizer, state, objective):
    """The shapes of the objective's parameters, which are the state's."""
    name, expected = type(optimizer).__name__, tuple(spec.shape for spec in objective.layers)
    if not hasattr(state, "_fields"):
        raise ValueError(f"state is a {type(state).__name__}; expected what {name}'s init or step has returned")
    found = getattr(state, "shapes", ()) or expected
    if found != expected:
        words = f"parameters of shapes {_words(found)}; expected {_words(expected)}"
        raise ValueError(f"state is one of {name} for {words}: make one by init")
    return expected


def _words(shapes):
    return ", ".join(map(str, shapes))


def _stamped(after, before, shapes):
    """The state ``after`` with the shapes of its parameters, unless it is the one ``before``."""
    return after if after is before or not hasattr(after, "shapes") else after._replace(shapes=shapes)
