"""Which rows a step takes: all of them, or a mini-batch in an order that the seed and the epoch alone determine."""

from nearlin._array import fold_in, namespace, permutation, rows_of
from nearlin.data import augment
from nearlin.experiments.config import ALL
from nearlin.nn import OwnRows

_SHUFFLE, _AUGMENT = 0x73687566666C65, 0x6175676D  # keep these streams apart from other users of the same seed


def epoch(rows, batch_size, drop_last):
    """(rows of a step, steps of an epoch) for ``batch_size`` of ``rows`` rows: an integer, or None or ``"all"`` for all rows.

    Raises
    ------
    ValueError
        A batch of more rows than there are.
    """
    size = rows if batch_size in (None, ALL) else batch_size
    if size > rows:
        raise ValueError(f"batch_size is {size}; the training set has {rows} rows")
    return size, rows // size if drop_last else -(-rows // size)


class Batches:
    """Batch t of the rows ``train``, (x, y) or (x, y, w), as `epoch` divides them; ``augmented`` images are cropped and flipped.

    Sample weights w go with their rows; those of a mini-batch are divided by their mean, so that it is 1 again. `ValueError` for
    a mini-batch of zeros alone. ``own(rows)`` is the slice of a batch that this rank reads of x, or None: rows are drawn alike.
    """

    def __init__(self, train, batch_size, seed, drop_last=False, augmented=False, own=None):
        self._train, self._seed, self._augment, self._own = train, seed, augmented, own
        self.rows = self._train[0].shape[0]
        self.batch_size, self.per_epoch = epoch(self.rows, batch_size, drop_last)
        self.full = self.batch_size == self.rows

    def __call__(self, t):
        number, i = divmod(t, self.per_epoch)
        if self.full:
            return self._augmented(self._whole, t)
        order = permutation(fold_in(self._seed, _SHUFFLE, number), self.rows, self._train[0])
        rows = order[i * self.batch_size : (i + 1) * self.batch_size]
        own = self._own(rows.shape[0]) if self._own and not self._augment else None
        x, *others = self._train
        taken = rows_of(x, rows if own is None else rows[own])
        batch = _of_mean_one((taken, *(rows_of(a, rows) for a in others)))
        return self._augmented(batch if own is None else (OwnRows(taken, own), *batch[1:]), t)

    def _augmented(self, batch, t):
        if not self._augment:
            return batch
        x, y = batch
        return augment(x, fold_in(self._seed, _AUGMENT, t)), y

    @property
    def _whole(self):
        """All rows, of x those of this rank."""
        own = self._own(self.rows) if self._own and not self._augment else None
        x, *others = self._train
        return self._train if own is None else (OwnRows(x[own, ...], own), *others)

    def in_order(self):
        """The whole batches of the training set as it lies, one after the other."""
        for start in range(0, self.rows - self.batch_size + 1, self.batch_size):
            yield _of_mean_one(tuple(a[start : start + self.batch_size, ...] for a in self._train))

    def ends_epoch(self, t):
        """Whether step t is the last of an epoch."""
        return (t + 1) % self.per_epoch == 0


def _of_mean_one(batch):
    """A batch whose weights, where it has some, are divided by their mean."""
    x, y, *weights = batch
    means = [float(namespace(w).mean(w)) for w in weights]
    if 0 in means:
        found = f"all {x.shape[0]} sample weights of a mini-batch are 0"
        raise ValueError(f"{found}; expected larger batches, or rows of weight 0 left out")
    return x, y, *(w / mean for w, mean in zip(weights, means, strict=True))
