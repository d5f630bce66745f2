"""What determines a run, as plain values: written into the head of its log and into its checkpoints."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import SimpleNamespace

DTYPES = ("float32", "float64")
MAY_CHANGE = ("data", "data_dir", "steps", "epochs", "time_limit", "tol")  # on resuming: where the data lies, and when to stop
STEPS = 12  # of a run that names neither steps nor epochs nor a limit of time
ALL = "all"  # batch_size: every row in every step, also where a problem has mini-batches by default


def _plain(value):
    """A setting as it is compared and written: tuples for lists, and a dict for what has ``to_dict``, such as `Rates`."""
    value = value.to_dict() if hasattr(value, "to_dict") else value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if type(value) in (tuple, list) else value


@dataclass(frozen=True)
class Config:
    """The options of `train` that determine the iterates, and its stopping rules; None leaves the choice to the problem.

    Raises
    ------
    ValueError, TypeError
        An option out of range; the message names it.
    """

    data: str | None = None
    data_dir: str | None = None
    target: str | None = None
    task: str | None = None
    test_fraction: float = 0.2
    center: bool = True
    scale: bool = False
    normalize: bool = True
    standardize: bool | None = None
    optimizer: str | None = None
    epsilon: float | None = None
    lr: float | None = None
    lr_factor: float | None = None
    lr_period: int | None = None
    damping: float | None = None
    settings: tuple = ()
    width: int = 8192
    activation: str | None = None
    batch_size: int | str | None = None
    backend: str = "numpy"
    dtype: str | None = None
    steps: int | None = None
    epochs: int | None = None
    time_limit: float | None = None
    tol: float = 1e-8
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "settings", _plain(self.settings))
        for name, least in (("width", 1), ("steps", 1), ("seed", 0), ("batch_size", 1), ("epochs", 1), ("lr_period", 1)):
            value = getattr(self, name)
            if (value is None and name not in ("width", "seed")) or (name == "batch_size" and value == ALL):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                words = f", or {ALL!r}" if name == "batch_size" else ""
                raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}{words}")
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction is {self.test_fraction!r}; expected a number in [0, 1)")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit is {self.time_limit!r}; expected a positive number of seconds")
        if (self.lr_factor is None) != (self.lr_period is None):
            raise ValueError("lr_factor and lr_period make a schedule together; expected both or none")
        if self.lr_factor is not None and not 0 < self.lr_factor <= 1:
            raise ValueError(f"lr_factor is {self.lr_factor!r}; expected a number in (0, 1]")
        if not self.tol >= 0:
            raise ValueError(f"tol is {self.tol!r}; expected a number of at least 0")
        if self.dtype in ("float16", "bfloat16", "half"):
            raise ValueError(
                f"dtype is {self.dtype!r}: half precision cannot carry the linear solves; expected float32 or float64"
            )
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; expected float32 or float64")

    @property
    def whole_batch(self):
        """Whether every step takes all rows, as nothing else was asked for."""
        return self.batch_size in (None, ALL)

    def to_dict(self):
        """The options as a plain dict."""
        return asdict(self)


DEFAULTS = Config()
NAMES = tuple(f.name for f in fields(Config))


@dataclass(frozen=True, repr=False)
class Default:
    """What stands for an option that a call does not name; it reads as the ``value`` that `Config` has for it."""

    value: object

    def __repr__(self):
        return repr(self.value)


BY_DEFAULT = SimpleNamespace(**{name: Default(getattr(DEFAULTS, name)) for name in NAMES})


def source(data):
    """The option ``data`` for what is trained on: a name or file, which a checkpoint remembers, or nothing."""
    if data is None:
        raise ValueError("no data: give a name, a file, a Dataset, a pair of arrays (x, y), or a checkpoint to resume")
    return {"data": str(data)} if isinstance(data, str | Path) else {}


def explicit(options):
    """Of a dict of options, those that a call names; None, where that is the default, leaves the choice."""
    unnamed = lambda name, value: isinstance(value, Default) or (value is None and getattr(DEFAULTS, name) is None)  # noqa: E731
    return {name: value for name, value in options.items() if not unnamed(name, value)}


def differences(config, given):
    """Sentences for the options in the dict ``given`` that contradict ``config`` and must not change on resuming."""
    given = {name: _plain(value) if name == "settings" else value for name, value in given.items()}
    return [
        f"{name} is {value!r} here and {getattr(config, name)!r} in the checkpoint"
        for name, value in given.items()
        if name not in MAY_CHANGE and value != getattr(config, name)
    ]
