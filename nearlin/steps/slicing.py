"""Updates entry by entry, walked in slices by the workers."""

from math import prod

from nearlin._array import even_step, is_numpy, map_blocks, namespace, slices

SLICE = 2**17  # entries: the temporaries of an update stay in a core's cache, and a slice takes much longer than its calls


def entrywise(update, results, *trees):
    """``update`` of every layer's arrays, which works entry by entry: a tuple of that many ``results``, each like the parameters.

    The arrays of ``update`` are those of the ``trees`` in order, the first that of the parameters; None for a tree stands for
    None in the place of each of its arrays. On NumPy large arrays are cut into slices, alike to the bit and into fresh memory.
    """
    nothing = (None,) * len(trees[0])
    layers = list(zip(*(tree or nothing for tree in trees), strict=True))
    if not is_numpy(trees[0][0]) or all(prod(W.shape) <= SLICE for W in trees[0]):
        return tuple(zip(*(update(*layer) for layer in layers), strict=True))
    xp = namespace(*trees[0])
    made = [tuple(xp.empty(W.shape, dtype=W.dtype) for _ in range(results)) for W in trees[0]]
    flat = [(_flat(given), _flat(fresh)) for given, fresh in zip(layers, made, strict=True)]
    lengths = [prod(W.shape) for W in trees[0]]
    tasks = [(*pair, part) for pair, k in zip(flat, lengths, strict=True) for part in slices(k, even_step(k, SLICE))]

    def work(task):
        given, fresh, entries = task
        for out, result in zip(fresh, update(*(a if a is None else a[entries] for a in given)), strict=True):
            out[entries] = result

    map_blocks(work, tasks, trees[0][0])
    return tuple(zip(*made, strict=True))


def _flat(arrays):
    return [a if a is None else namespace(a).reshape(a, (-1,)) for a in arrays]
