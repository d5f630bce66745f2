"""What determines a run, as plain values: written into the head of its log and into its checkpoints.

An option is written once, as a field of `Config`: the signature and the docstring of `train`, and the options of the command
line, follow from the field, its default and its metadata.
"""

import inspect
import textwrap
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import get_args

import numpy as np

from nearlin._array import flag, integer, not_negative, number, optional, settle, within
from nearlin.experiments.registry import OPTIMIZERS, SMOOTH, check_name
from nearlin.nn import ACTIVATIONS

DTYPES = ("float32", "float64")
MAY_CHANGE = ("data", "data_dir", "steps", "epochs", "time_limit", "tol")  # on resuming: where the data lies, and when to stop
TOL = 1e-8  # of the residual, relative to that at the start
STEPS = 12  # of a run on a named data set or on arrays that names neither steps nor epochs nor a limit of time
MOST = 200  # steps on all rows, or epochs, of a run on data of one's own: it ends by itself
ALL = "all"  # batch_size: every row in every step, also where a problem has mini-batches by default


def _plain(value):
    """As it is compared and written: tuples for lists, Python's numbers for NumPy's, a dict for what has ``to_dict``: `Rates`."""
    value = value.to_dict() if hasattr(value, "to_dict") else value.item() if isinstance(value, np.generic) else value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if type(value) in (tuple, list) else value


def _option(default, help, **more):
    """A field of `Config`.

    In ``help`` and ``detail`` other options stand in braces; ``detail`` is for the docstring alone. ``otherwise`` says what None
    stands for. ``least`` is the smallest integer, or ``least`` and ``below`` bound a number; ``choices`` are the words that an
    option takes, and ``metavar`` is what the command line calls its value.
    """
    return field(default=default, metadata={"help": help, **more})


def kinds(option):
    """The types that an option takes, without None."""
    found = get_args(option.type) if isinstance(option.type, UnionType) else (option.type,)
    return tuple(kind for kind in found if kind is not type(None))


def _kind(option):
    """What an option with integers or truth values takes, as `settle` has it."""
    if bool in kinds(option):
        return flag
    least = option.metadata["least"]
    if str not in kinds(option):
        return integer(least)
    return lambda name, value: ALL if isinstance(value, str) and value == ALL else integer(least, f", or {ALL!r}")(name, value)


@dataclass(frozen=True)
class Config:
    """The options of `train` that determine the iterates, and its stopping rules; None leaves the choice to the problem.

    Raises
    ------
    ValueError, TypeError
        An option out of range; the message names it.
    """

    data: str | None = None
    data_dir: str | None = _option(None, "Folder with the files of a problem that reads some.", metavar="DIR")
    target: str | None = _option(
        None, "Target column of a table (.csv, .tsv), or several between commas.", metavar="COLUMN[,...]"
    )
    task: str | None = _option(
        None,
        "What the targets are. By default texts, booleans, -1/1, and at most 20 integers without gaps from 0 or 1 that occur at "
        "least twice each are classes; all else is regression.",
        choices=("regression", "classification"),
    )
    test_fraction: float = _option(0.2, "Share of the rows kept for testing; 0 for none.", least=0, below=1)
    validation_fraction: float | None = _option(
        None,
        "Share of the training rows held out to stop by; 0 for none.",
        otherwise="0.1 of 100 rows or more on files; none on named data",
        least=0,
        below=1,
    )
    center: bool | None = _option(None, "Subtract the mean of the training rows.", otherwise="on")
    scale: bool | None = _option(
        None,
        "Divide every feature by its standard deviation.",
        detail="Those of pixels, integers of one range, count as at least half their root mean square.",
        otherwise="on for files, off for named data",
    )
    normalize: bool | None = _option(
        None,
        "Scale every row to unit length.",
        detail="Without it the two-layer network gets a constant feature on files: it has no biases.",
        otherwise="off for files, on for named data",
    )
    standardize: bool | None = _option(None, "Give the targets mean 0 and deviation 1.", otherwise="for regression")
    optimizer: str | None = _option(
        None,
        f"One of {', '.join(OPTIMIZERS)}. dsgd is for {SMOOTH}.",
        detail="Or an optimizer of `nearlin.optim`, whose name and hyper-parameters are recorded.",
        otherwise="near-linear-gauss-newton; gauss-newton for a perceptron or with l2; adam on a problem",
        metavar="NAME",
    )
    epsilon: float | None = _option(None, "Inner accuracy of the linear solves.", otherwise="the optimizer's")
    lr: float | None = _option(None, "Step size.", otherwise="the optimizer's")
    lr_factor: float | None = _option(None, "Multiply the step size by this every {lr_period} epochs.")
    lr_period: int | None = _option(None, "Epochs between two reductions of the step size.", least=1, metavar="EPOCHS")
    damping: float | None = _option(None, "Damping; where it adapts, the first one.", otherwise="the optimizer's")
    l2: float = _option(
        0.0,
        "Weight of ||W||² / 2 in the loss, over weights and not over biases.",
        detail="Training losses are with it, those of validation and test rows without.",
        least=0,
    )
    settings: tuple = _option((), "Other hyper-parameters of the optimizer: names of its fields, and values.")
    hidden: str | tuple | None = _option(
        None,
        "Widths of a perceptron's hidden layers: 256, or 256,256 for two.",
        otherwise="256 where a file has classes or several targets; else the two-layer network",
        metavar="N[,...]",
    )
    width: int | None = _option(
        None,
        "Neurons of the two-layer network, on files also for classes.",
        otherwise="8192 without hidden layers; 32768 for digits-parity",
        least=1,
    )
    activation: str | None = _option(
        None, "What the neurons compute.", otherwise="the problem's, or relu", choices=tuple(ACTIVATIONS)
    )
    batch_size: int | str | None = _option(
        None,
        "Rows per shuffled mini-batch, or all rows.",
        detail="{steps} counts mini-batches, and losses of the whole training set are evaluated at the ends of epochs. "
        "Recipes drop the incomplete batch of an epoch.",
        otherwise="the problem's; 200 on files for methods that are made for mini-batches; else all",
        least=1,
        metavar="N|all",
    )
    backend: str = _option(
        "numpy", "numpy, cupy, torch or array_api_strict; `nearlin info` says which can be used.", metavar="NAME"
    )
    dtype: str | None = _option(
        None,
        "float64 or float32.",
        otherwise="the problem's; float32 for a perceptron on classes and for digits-parity; else float64",
        metavar="NAME",
    )
    steps: int | None = _option(
        None,
        "Total number of steps (mini-batches).",
        detail="Those before a resumed checkpoint are included.",
        otherwise=f"the problem's epochs, {STEPS} on named data; on files at most 200, or 200 epochs",
        least=1,
    )
    epochs: int | None = _option(None, "Total number of passes over the training rows, instead of {steps}.", least=1)
    time_limit: float | None = _option(
        None,
        "End after so many seconds of processor time in steps.",
        detail="All threads together, evaluation and warm start left out.",
        metavar="S",
    )
    tol: float | None = _option(
        None,
        "Stop when the residual, relative to that at the start, is at most this.",
        otherwise=f"{TOL:g}; 0.0001 for digits-parity",
        least=0,
    )
    seed: int = _option(
        0,
        "Of the split, the weights, and every draw.",
        detail="The order of mini-batches depends on it and the epoch, step t on it folded with t.",
        least=0,
    )

    def __post_init__(self):
        for f in fields(self):
            object.__setattr__(self, f.name, _plain(getattr(self, f.name)))
            if f.name in KINDS:
                settle(self, **{f.name: optional(KINDS[f.name]) if f.default is None else KINDS[f.name]})
        if self.optimizer is not None:
            check_name(self.optimizer)
        once = [name for name, _ in self.settings]
        if twice := [name for name in once if once.count(name) > 1]:
            raise ValueError(f"{twice[0]} is given twice in settings; expected it once")
        if (self.lr_factor is None) != (self.lr_period is None):
            raise ValueError("lr_factor and lr_period make a schedule together; expected both or none")
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


def _widths(name, value):
    """The widths of hidden layers as a tuple, from text, one integer, or several."""
    expected = "expected positive integers, such as 256,256"
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, tuple) else (value,)
    try:
        return tuple(integer(1)(name, int(part) if isinstance(part, str) else part) for part in parts or ("",))
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; {expected}") from None


KINDS = {f.name: _kind(f) for f in fields(Config) if {int, bool} & set(kinds(f))} | {
    "hidden": _widths,
    "test_fraction": within("[0, 1)"),
    "validation_fraction": within("[0, 1)"),
    "time_limit": number("a positive number of seconds", lambda x: x > 0),
    "lr_factor": within("(0, 1]"),
    "l2": not_negative,
    "tol": not_negative,
}
DEFAULTS = Config()
OPTIONS = {f.name: f for f in fields(Config)}


def words(text, spelled):
    """The help of an option, with the names in braces as ``spelled(name)``."""
    return text.format_map({name: spelled(name) for name in OPTIONS})


def takes_options(function):
    """Put the options that ``function`` takes as ``**options`` into its signature, and into its docstring at OPTIONS."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    left = [f for name, f in OPTIONS.items() if name not in signature.parameters]
    shown = [inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default) for f in left]
    function.__signature__ = signature.replace(parameters=[*own, *shown])
    if function.__doc__:
        function.__doc__ = function.__doc__.replace("    OPTIONS\n", "".join(map(_documented, left)))
    return function


def _documented(option):
    """The entry of an option in a NumPy docstring."""
    meta = option.metadata
    type_ = (
        f"{{{', '.join(map(repr, meta['choices']))}}}" if "choices" in meta else " or ".join(k.__name__ for k in kinds(option))
    )
    text = f"{meta['help']} {meta.get('detail', '')}".strip()
    text += f" By default {meta['otherwise']}." if "otherwise" in meta else ""
    text = words(text, "``{}``".format)
    body = textwrap.fill(text, 125, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return f"    {option.name} : {type_}{', optional' if option.default is None else ''}\n{body}\n"


def source(data):
    """The option ``data`` for what is trained on: a name or file, which a checkpoint remembers, or nothing."""
    if data is None:
        raise ValueError("no data: give a name, a file, a Dataset, a pair of arrays (x, y), or a checkpoint to resume")
    return {"data": str(data)} if isinstance(data, str | Path) else {}


def explicit(options, caller="train"):
    """Of a dict of options, those that a call names; None, where that is the default, leaves the choice.

    Raises
    ------
    TypeError
        An option that ``caller`` does not have.
    """
    if unknown := [name for name in options if name not in OPTIONS or name == "data"]:
        raise TypeError(f"{caller} has no option {unknown[0]!r}")
    return {name: value for name, value in options.items() if value is not None or OPTIONS[name].default is not None}


def differences(config, given):
    """Sentences for the options in the dict ``given`` that contradict ``config`` and must not change on resuming."""
    alike = {"settings": _plain, "hidden": lambda value: _widths("hidden", _plain(value))}
    given = {name: alike[name](value) if name in alike else value for name, value in given.items()}
    return [
        f"{name} is {value!r} here and {getattr(config, name)!r} in the checkpoint"
        for name, value in given.items()
        if name not in MAY_CHANGE and value != getattr(config, name)
    ]
