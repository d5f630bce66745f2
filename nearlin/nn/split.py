"""Arrays whose rows are split over ranks: what works entry by entry works on a rank's own rows, and sums go over all ranks.

They bring an array-API namespace of their own, so that norms, moments, steps and penalties take them as they are. What is not
here, as products of matrices or slices, needs rows of other ranks and is an error; nothing is gathered silently.
"""

import functools
import math
import operator
from dataclasses import dataclass
from numbers import Real

from nearlin._array import namespace


@dataclass(frozen=True, eq=False)
class Split:
    """An array of which every rank holds some rows.

    Attributes
    ----------
    local : array
        The rows of this rank.
    rows : int
        Of all ranks together.
    ranks : Alone, World, ...
        Who holds them, `share` (rows, ``unit``) each.
    unit : int
    """

    local: object
    rows: int
    ranks: object
    unit: int

    __array_ufunc__ = None  # NumPy's numbers leave an operation to this class
    __hash__ = None

    @property
    def shape(self):
        """That of the whole."""
        return (self.rows, *self.local.shape[1:])

    @property
    def ndim(self):
        """Dimensions."""
        return self.local.ndim

    @property
    def size(self):
        """Entries of the whole."""
        return math.prod(self.shape)

    @property
    def dtype(self):
        """Of the rows."""
        return self.local.dtype

    @property
    def device(self):
        """Of the rows."""
        return self.local.device

    def whole(self):
        """All rows, on every rank; a plain array."""
        return self.ranks.rows(self.local, self.rows, "whole array", self.unit)

    def __array_namespace__(self, api_version=None):
        return _split_namespace(namespace(self.local))

    def __array__(self, *args, **kwargs):
        raise TypeError(_needs("NumPy's array"))

    def __matmul__(self, other):
        raise TypeError(_needs("a matrix product"))

    __rmatmul__ = __matmul__

    def __getitem__(self, key):
        raise TypeError(_needs("an index"))

    def like(self, local):
        """An array that is split as this one, with other rows."""
        return Split(local, self.rows, self.ranks, self.unit)

    def _with(self, f, other):
        if isinstance(other, Split):
            if other.shape != self.shape or other.ranks is not self.ranks or other.unit != self.unit:
                raise ValueError(f"split arrays of shapes {self.shape} and {other.shape}; expected arrays split alike")
            other = other.local
        elif not isinstance(other, Real):
            return NotImplemented
        return self.like(f(self.local, other))


def _needs(what):
    return f"{what} needs rows that lie on other ranks; expected a method of sums and entries, or whole arrays (Split.whole)"


def _give_operators():
    def binary(f):
        return lambda self, other: self._with(f, other)

    def swapped(f):
        return lambda self, other: self._with(lambda a, b: f(b, a), other)

    for name in ("add", "sub", "mul", "truediv", "pow"):
        setattr(Split, f"__{name}__", binary(getattr(operator, name)))
        setattr(Split, f"__r{name}__", swapped(getattr(operator, name)))
    for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_"):
        setattr(Split, f"__{name.removesuffix('_')}__", binary(getattr(operator, name)))
    for name in ("neg", "invert", "abs"):
        f = getattr(operator, name)
        setattr(Split, f"__{name}__", lambda self, f=f: self.like(f(self.local)))


_give_operators()


@functools.cache
def _split_namespace(xp):
    return SplitNamespace(xp)


class SplitNamespace:
    """The array API of split arrays, over the namespace ``xp`` of their rows."""

    ENTRYWISE = ("abs", "isfinite", "maximum", "minimum", "ones_like", "sign", "sqrt", "square", "where", "zeros_like")
    TYPES = ("bool", "float32", "float64", "int32", "int64", "finfo", "isdtype")

    def __init__(self, xp):
        self._xp, self.__name__ = xp, f"split {xp.__name__}"

    def __getattr__(self, name):
        if name in self.TYPES:
            return getattr(self._xp, name)
        if name not in self.ENTRYWISE:
            raise AttributeError(_needs(name))
        return functools.partial(self._entrywise, getattr(self._xp, name))

    def _entrywise(self, f, *args, **kwargs):
        first = next(a for a in args if isinstance(a, Split))
        return first.like(f(*(a.local if isinstance(a, Split) else a for a in args), **kwargs))

    def astype(self, x, dtype, copy=True):
        """The rows in another dtype."""
        return x.like(self._xp.astype(x.local, dtype, copy=copy))

    def asarray(self, x, copy=None):
        """``x``, or a copy."""
        return x.like(self._xp.asarray(x.local, copy=copy))

    def sum(self, x):
        """The sum of all entries, a 0-d array."""
        return x.ranks.sum(self._xp.sum(x.local), "sum of entries")

    def max(self, x):
        """The largest of all entries, a 0-d array."""
        largest = self._xp.reshape(self._xp.max(x.local), (1,))
        return self._xp.max(x.ranks.rows(largest, x.ranks.size, "largest entry"))

    def all(self, x):
        """Whether all entries are true."""
        return x.ranks.all(bool(self._xp.all(x.local)), "entries are true")
