"""What the sketch families share: checks of sizes and shapes, and the two products of a sketch of flat vectors.

The vocabulary is RandBLAS's: a distribution (frozen, no arrays) and a sample (one drawn operator).
"""

from dataclasses import dataclass, field
from numbers import Integral
from typing import ClassVar

from nearlin import _array

_ROWS = _array.integer(1, ", the number of sketch rows")
_LENGTH = _array.integer(1, ", the length of the vectors (factor shapes need a factor sketch)")


def check_like(like):
    """Refuse a prototype that is no array, or whose dtype is not float32 or float64."""
    if not _array.is_array(like):
        raise _array.BackendError(f"like is a {type(like).__name__}; expected a NumPy, CuPy, PyTorch or other array-API array")
    xp = _array.namespace(like)
    if like.dtype not in (xp.float32, xp.float64):
        raise TypeError(f"like is a {_array.describe(like)}; expected float32 or float64")


def check_factors(s, shape, like, flat=False):
    """The sketch size and the factor shapes ((m_1, d_1), ...) of a sketch of factors, as ints.

    With ``flat`` a layer may also be given as a number, the length of its rows, which are no products of factors then.
    """
    check_like(like)
    rows = _ROWS("s", s)
    if not (isinstance(shape, tuple | list) and shape and all(_is_pair(one) or (flat and _is_number(one)) for one in shape)):
        others = ", or the length of its rows" if flat else ""
        raise ValueError(f"shape is {shape!r}; expected one pair (m, d) of factor widths per layer{others}")
    return rows, tuple(_checked_layer(one) for one in shape)


def _is_pair(value):
    return isinstance(value, tuple | list) and len(value) == 2


def _is_number(value):
    return isinstance(value, Integral) and not isinstance(value, bool)


def _checked_layer(one):
    if _is_number(one):
        return _array.integer(1)("row length", one)
    return _array.integer(1)("factor width m", one[0]), _array.integer(1)("factor width d", one[1])


def check_layer(shapes, layer):
    """The factor widths of ``layer``; `ValueError` where there is no such layer."""
    if isinstance(layer, bool) or not isinstance(layer, Integral) or not 0 <= layer < len(shapes):
        raise ValueError(f"layer is {layer!r}; expected an integer from 0 to {len(shapes) - 1}")
    return shapes[layer]


@dataclass(frozen=True)
class FlatDistribution:
    """A distribution of operators on flat vectors."""

    factored: ClassVar[bool] = False
    oversampling: ClassVar[int] = 4

    def sample(self, key, s, shape, *, like):
        """Draw the operator of ``key`` with ``s`` rows on vectors of length ``shape``, next to ``like`` and in its dtype."""
        check_like(like)
        return self._drawn(key, _ROWS("s", s), _LENGTH("shape", shape), like)

    def _drawn(self, key, s, p, like):
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class FlatSample:
    """One drawn operator S (s, p) with E[SᵀS] = I: ``S @ A`` and the adjoint ``S.rmatmul(B)``.

    Products take arrays of one or two dimensions on the backend and device and in the dtype of the sample, return new
    ones, and raise `ValueError` for a wrong length and `BackendError` for another backend, device or dtype.
    """

    shape: tuple[int, int]

    __array_ufunc__ = None  # NumPy's ``A @ S`` is an error, not an array of objects

    def __matmul__(self, a):
        """S A for ``a`` (p, k) or (p,): (s, k) or (s,)."""
        return self._product("A", a, self.shape[1], self._apply)

    def rmatmul(self, b):
        """Sᵀ B for ``b`` (s, k) or (s,): (p, k) or (p,)."""
        return self._product("B", b, self.shape[0], self._adjoint)

    def _product(self, name, a, length, product):
        _array.check(ndim={name: (1, 2)}, finite=False, **{name: a, "the sample": self._held()})
        if a.shape[0] != length:
            raise ValueError(f"{name} has shape {tuple(a.shape)}; expected {length} rows, as S has shape {self.shape}")
        return product(a) if a.ndim == 2 else product(a[:, None])[:, 0]

    def _held(self):
        """One of the arrays that the sample holds."""
        raise NotImplementedError

    def _apply(self, a):
        raise NotImplementedError

    def _adjoint(self, b):
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class LeftSample:
    """One drawn operator per layer that acts on the left factor (the neurons) alone.

    ``left_rows(l)`` sketched neurons, made out of ``group(l)`` consecutive neurons each; ``left(l, block, start)`` sketches
    a block of neurons wherever the caller has it at hand, so that the whole (b, m) factor never needs to exist.
    """

    shapes: tuple[tuple[int, int], ...]
    neurons: slice | None = field(default=None, kw_only=True)  # those that it was drawn for; None: all

    def left_rows(self, layer):
        """m'_l, the number of sketched neurons of ``layer``."""
        raise NotImplementedError

    def group(self, layer):
        """How many consecutive neurons make one sketched neuron: blocks that start at its multiples share none."""
        raise NotImplementedError

    def columns(self, layer, start, stop):
        """The slice of the sketched columns that neurons ``start`` to ``stop`` of ``layer`` have a part in."""
        raise NotImplementedError

    def left(self, layer, block, start=0):
        """Sketch columns ``start`` to ``start + w`` of the left factor of ``layer``.

        Parameters
        ----------
        layer : int
        block : array (b, w)
            Consecutive columns of the (b, m) left factor. Not changed.
        start : int
            The first of them.

        Returns
        -------
        columns : slice
            Which of the ``left_rows(layer)`` sketched columns the block touches, possibly none.
        values : array (b, k)
            Its contributions to them, to be added. Blocks that begin and end at multiples of ``group(layer)`` (or end at m)
            touch columns of their own, which may be stored instead.

        Raises
        ------
        ValueError
            No such layer, or a block that reaches outside of the factor.
        BackendError
            ``block`` is on another backend or device, or in another dtype, than the sample.
        """
        m, _ = check_layer(self.shapes, layer)
        _array.check(ndim={"block": 2}, finite=False, block=block, **{"the sample": self._held(layer)})
        stop = start + block.shape[1]
        own = self.neurons or slice(0, m)
        if start < own.start or stop > own.stop:
            found = f"block covers neurons {start} to {stop} of layer {layer}"
            raise ValueError(f"{found}; expected a part of {own.start} to {own.stop}")
        return self.columns(layer, start, stop), self._left(layer, block, start)

    def _held(self, layer):
        raise NotImplementedError

    def _left(self, layer, block, start):
        raise NotImplementedError
