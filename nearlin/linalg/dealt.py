"""Calls that are the same on all ranks, made by one rank each, their results handed round: inverses and roots of factors."""

import contextlib
import contextvars
import math

from nearlin._array import is_array, side_by_side

_ranks = contextvars.ContextVar("ranks", default=None)


@contextlib.contextmanager
def dealt_to(ranks):
    """A context in which `dealt` calls are made by ``ranks``; None, or a single one, makes all of them."""
    token = _ranks.set(ranks)
    try:
        yield
    finally:
        _ranks.reset(token)


def dealt(f, *lists, like, walk=side_by_side, least=0):
    """``list(map(f, *lists))`` by ``walk``; by several ranks each call by one of them.

    ``f`` makes no call to other ranks. The most work, n k³ for arguments (n, k, k), goes first, to the rank with the
    least so far; where all of it is below ``least``, every rank makes all calls. An error of any rank is raised on all of them,
    that of the first call.
    """
    ranks, given = _ranks.get(), list(zip(*lists, strict=True))
    work = [] if ranks is None or ranks.size == 1 else list(map(_work, given))
    if len(work) < 2 or sum(work) < least:
        return walk(f, *lists, like=like)
    own = [i for i, owner in enumerate(owners(work, ranks.size)) if owner == ranks.rank]
    made = walk(lambda i: _tried(f, given[i]), own, like=like)
    found = {i: one for part in ranks.each(dict(zip(own, made, strict=True)), "factors") for i, one in part.items()}
    results = []
    for i in range(len(given)):
        result, error = found[i]
        if error is not None:
            raise error
        results.append(result)
    return results


def in_turn(f, *lists, like):
    """``list(map(f, *lists))``."""
    return list(map(f, *lists))


def _tried(f, args):
    """What ``f`` returns and None, or None and its error."""
    try:
        return f(*args), None
    except Exception as error:
        return None, error


def owners(work, size):
    """The rank of each call, by its work."""
    loads, found = [0] * min(size, len(work)), [0] * len(work)
    for i in sorted(range(len(work)), key=lambda i: -work[i]):
        found[i] = min(range(len(loads)), key=loads.__getitem__)
        loads[found[i]] += work[i]
    return found


def largest_share(amounts, work, size):
    """The sum of ``amounts`` over the calls of the rank with most, of ``size`` to which calls of this ``work`` are dealt out."""
    loads = [0] * min(size, len(work))
    for amount, owner in zip(amounts, owners(work, size), strict=True):
        loads[owner] += amount
    return max(loads)


def _work(tree):
    if is_array(tree):
        return math.prod(tree.shape) * tree.shape[-1] if tree.ndim > 1 else 0
    return sum(map(_work, tree)) if isinstance(tree, tuple | list) else 0
