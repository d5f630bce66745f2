"""What determines a run, as plain values: written into the head of its log and into its checkpoints."""

from dataclasses import asdict, dataclass, fields

DTYPES = ("float32", "float64")
MAY_CHANGE = ("data", "steps", "tol")  # on resuming: where the data lies, and when to stop


@dataclass(frozen=True)
class Config:
    """The options of `train` that determine the iterates, and its stopping rules.

    Raises
    ------
    ValueError, TypeError
        An option out of range; the message names it.
    """

    data: str | None = None
    target: str | None = None
    task: str | None = None
    test_fraction: float = 0.2
    center: bool = True
    scale: bool = False
    normalize: bool = True
    standardize: bool | None = None
    optimizer: str = "near-linear-gauss-newton"
    epsilon: float | None = None
    lr: float | None = None
    width: int = 8192
    activation: str = "relu"
    batch_size: int | None = None
    backend: str = "numpy"
    dtype: str = "float64"
    steps: int = 12
    tol: float = 1e-8
    seed: int = 0

    def __post_init__(self):
        for name, least in (("width", 1), ("steps", 1), ("seed", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is None and name == "batch_size":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}")
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction is {self.test_fraction!r}; expected a number in [0, 1)")
        if not self.tol >= 0:
            raise ValueError(f"tol is {self.tol!r}; expected a number of at least 0")
        if self.dtype in ("float16", "bfloat16", "half"):
            raise ValueError(
                f"dtype is {self.dtype!r}: half precision cannot carry the linear solves; expected float32 or float64"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; expected float32 or float64")

    def to_dict(self):
        """The options as a plain dict."""
        return asdict(self)


DEFAULTS = Config()
NAMES = tuple(f.name for f in fields(Config))


def explicit(options):
    """Of a dict of options, those that differ from the defaults."""
    return {name: value for name, value in options.items() if value != getattr(DEFAULTS, name)}


def differences(config, given):
    """Sentences for the options in the dict ``given`` that contradict ``config`` and must not change on resuming."""
    return [
        f"{name} is {value!r} here and {getattr(config, name)!r} in the checkpoint"
        for name, value in given.items()
        if name not in MAY_CHANGE and value != getattr(config, name)
    ]
