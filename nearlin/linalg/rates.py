"""Amounts of work by primitive, and how fast a machine does it: what the time of a route is predicted from, before it is taken.

Formula     seconds = Σ_k amount_k / rate_k, over the primitives k; the rates of arithmetic and memory depend on the dtype
Reference   a roofline whose parts do not overlap: Williams, Waterman, Patterson, CACM 52 (2009), doi:10.1145/1498765.1498785
Cost        O(1)
"""

import math
import warnings
from dataclasses import dataclass, fields
from numbers import Real

from nearlin._array import having, on_gpu, pair, positive, settle

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Work:
    """Amounts of work by primitive; ``a + b`` and ``k * a`` are what they say.

    Parameters
    ----------
    matmul : float
        Flops of large products, no side of which is short.
    thin : float
        Flops of products with a factor that is 16 to 64 wide, walked over blocks as in `nearlin.nn.TwoLayer`.
    cholesky : float
        Flops, n³/3 a matrix.
    triangular : float
        Flops of triangular solves, n² per right-hand side: memory bound.
    eigh : float
        Nominal flops of symmetric eigenvalue decompositions with vectors, 9 n³ a matrix.
    memory : float
        Bytes that elementwise work reads and writes.
    calls : float
        Calls of the array library: the overhead that no size changes.
    """

    matmul: float = 0.0
    thin: float = 0.0
    cholesky: float = 0.0
    triangular: float = 0.0
    eigh: float = 0.0
    memory: float = 0.0
    calls: float = 0.0

    def __add__(self, other):
        if not isinstance(other, Work):
            return NotImplemented
        return Work(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __mul__(self, k):
        if not isinstance(k, Real):
            return NotImplemented
        return Work(*(k * a for a in vars(self).values()))

    __rmul__ = __mul__


PRIMITIVES = tuple(f.name for f in fields(Work))
PAIRED = PRIMITIVES[:-1]  # with a rate for each dtype
CPU = "cpu"


@dataclass(frozen=True)
class Rates:
    """Units of each primitive of `Work` per second.

    Parameters
    ----------
    matmul, thin, cholesky, triangular, eigh, memory : (float, float)
        Flops per second, of ``memory`` bytes per second, in float32 and float64.
    calls : float
        Calls per second.
    device : str
        What they are of: ``"cpu"``, or the name of a GPU.

    Raises
    ------
    ValueError
        A rate that is no positive finite number; the message names the field.

    Notes
    -----
    Defaults are those of NumPy and SciPy with OpenBLAS on two cores of a server processor with AVX-512, both in use.
    ``nearlin info --measure`` makes the table of another machine, and `rates_for` has one for GPUs, which is estimated.
    """

    matmul: tuple = (3.2e11, 1.5e11)
    thin: tuple = (1.4e11, 6.2e10)
    cholesky: tuple = (8.7e10, 4.9e10)
    triangular: tuple = (1.1e10, 6.2e9)
    eigh: tuple = (4.8e10, 3.7e10)
    memory: tuple = (1.0e10, 9.9e9)
    calls: float = 7.6e5
    device: str = CPU

    def __post_init__(self):
        rates = pair("two positive numbers, the rates in float32 and float64", lambda x: 0 < x < math.inf)
        settle(self, **dict.fromkeys(PAIRED, rates), calls=positive, device=having("the name of a device", "split"))

    def seconds(self, work, dtype):
        """The time of ``work`` in a dtype, given by name or as a backend has it, in seconds.

        `ValueError` for a dtype other than float32 and float64.
        """
        known = [i for i, name in enumerate(DTYPES) if name in str(dtype)]
        if not known:
            raise ValueError(f"dtype is {dtype!r}; expected float32 or float64")
        parts = (getattr(work, name) / getattr(self, name)[known[0]] for name in PAIRED)
        return sum(parts) + work.calls / self.calls

    def to_dict(self):
        """The rates as plain values: a dict by dtype for every primitive, a number for ``calls``, and the device."""
        pairs = {name: dict(zip(DTYPES, getattr(self, name), strict=True)) for name in PAIRED}
        return {**pairs, "calls": self.calls, "device": self.device}

    @classmethod
    def from_dict(cls, content):
        """The rates that `to_dict` gave; `ValueError` where a key is missing or unknown, or a rate is no positive number."""
        _check_keys("rates", content, (*PRIMITIVES, "device"))
        for name in PAIRED:
            _check_keys(f"{name} of rates", content[name], DTYPES)
        pairs = {name: tuple(content[name][dtype] for dtype in DTYPES) for name in PAIRED}
        return cls(**pairs, calls=content["calls"], device=content["device"])


ESTIMATED = Rates(
    matmul=(5e13, 4e13), thin=(1.5e13, 7e12), cholesky=(6e12, 5e12), triangular=(5e10, 2.5e10), eigh=(3e11, 1.5e11),
    memory=(2.5e12, 2.5e12), calls=1.4e5, device="estimated GPU",
)  # fmt: skip


def rates_for(rates, like):
    """The `Rates` to plan by next to ``like``: ``rates``, or where these are None the default ones of its kind of device.

    Those of a GPU are estimated, from 3 TB/s, 50 TFlop/s and 7 µs a launch: its own are measured by ``nearlin info --measure``. A
    CPU's beside an array on a GPU are a warning.
    """
    gpu = on_gpu(like)
    if rates is None:
        return ESTIMATED if gpu else Rates()
    if gpu and rates.device == CPU:
        advice = "measure its own: nearlin info --measure --backend cupy (or torch) --out rates.json"
        warnings.warn(f"rates are those of a CPU, and the arrays are on a GPU; {advice}", UserWarning, stacklevel=2)
    return rates


def _check_keys(what, content, expected):
    keys = f"expected a dict with the keys {', '.join(expected)}"
    if not isinstance(content, dict):
        raise ValueError(f"{what} is a {type(content).__name__}; {keys}")
    if unknown := [key for key in content if key not in expected]:
        raise ValueError(f"{what} has the unknown key {unknown[0]!r}; {keys}")
    if missing := [key for key in expected if key not in content]:
        raise ValueError(f"{what} lacks {', '.join(missing)}; {keys}")
