"""Options of the command line: those of `Config` follow from its fields. Importing this module needs click."""

import contextlib
import json
from pathlib import Path

import click

from nearlin.experiments.config import ALL, OPTIONS, kinds, words
from nearlin.experiments.measuring import read_rates
from nearlin.experiments.registry import OPTIMIZERS
from nearlin.experiments.teams import KINDS

SOURCE = ("target", "task", "test_fraction")
SPLIT = (*SOURCE, "validation_fraction")
PREPROCESSING = ("center", "scale", "normalize", "standardize")
NETWORK = ("width", "activation")  # of the two-layer network
NETWORKS = ("hidden", *NETWORK)
ARRAYS = ("batch_size", "backend", "dtype")
RUN = (*ARRAYS, "steps", "epochs", "time_limit", "data_dir", "lr_factor", "lr_period", "l2", "settings", "tol", "seed")


class _Pair(click.ParamType):
    """A name and a value: what is a pair already, as defaults are, is not read again."""

    def convert(self, value, param, ctx):
        return value if isinstance(value, tuple) else self._read(value, param, ctx)


class _PerOptimizer(_Pair):
    name = "[NAME=]VALUE"

    def _read(self, value, param, ctx):
        name, equals, number = value.rpartition("=")
        try:
            return (name if equals else None), float(number)
        except ValueError:
            self.fail(f"{value!r} is not a number or NAME=NUMBER", param, ctx)


class _Setting(_Pair):
    name = "NAME=VALUE"

    def _read(self, value, param, ctx):
        name, equals, text = value.partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        if name == "rates":
            return name, read_rates(text)
        with contextlib.suppress(ValueError):
            return name.replace("-", "_"), json.loads(text.lower() if text in ("True", "False") else text)
        return name.replace("-", "_"), text


class _BatchSize(click.IntRange):
    def convert(self, value, param, ctx):
        return ALL if str(value).lower() == ALL else super().convert(value, param, ctx)

    def _describe_range(self):
        return f"{super()._describe_range()}, or {ALL}"


def of(*names):
    """A decorator of a command: the options that are these fields of `Config`, in this order."""

    def decorate(command):
        for name in reversed(names):
            command = _option(OPTIONS[name])(command)
        return command

    return decorate


def _option(option):
    meta, default, kind = option.metadata, option.default, kinds(option)[0]
    flag = _flag(option.name)
    declared = (f"{flag}/--no-{flag[2:]}",) if kind is bool else ("--set", option.name) if kind is tuple else (flag,)
    text = words(meta["help"], _flag) + (f"  [default: {meta['otherwise']}]" if "otherwise" in meta else "")
    more = {"default": default, "show_default": True} if default is not None and kind is not tuple else {}
    if kind is tuple:
        text += " Repeatable: --set momentum=0.8. rates=FILE reads what `nearlin info --measure` wrote."
        more = {"multiple": True}
    elif kind is bool and default is None:
        more = {"default": None}
    return click.option(*declared, **_type(kind, option), metavar=meta.get("metavar"), help=text, **more)


def _flag(name):
    return f"--{name.replace('_', '-')}"


def _type(kind, option):
    """The click type of an option, within the bounds of its field."""
    meta = option.metadata
    if kind is tuple:
        return {"type": _Setting()}
    if kind is int:
        return {"type": (_BatchSize if ALL in meta.get("metavar", "") else click.IntRange)(min=meta["least"])}
    if kind is float and "least" in meta:
        return {"type": click.FloatRange(meta["least"], meta.get("below"), max_open="below" in meta)}
    if "choices" in meta:
        return {"type": click.Choice(meta["choices"])}
    return {"type": kind} if kind is not bool else {}


def optimizers(default):
    """The option ``--optimizers`` of a command that takes several."""
    text = f"Some of {', '.join(OPTIMIZERS)}.  [default: {default}]"
    return click.option("--optimizers", metavar="A,B,...", callback=lambda ctx, param, value: names(value), help=text)


def names(text):
    """The names in a comma-separated list; None for None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def path(flag, help, metavar="FILE", **more):
    """An option that is a file or, with the metavar DIR, a folder."""
    return click.option(flag, type=click.Path(path_type=Path), metavar=metavar, help=help, **more)


def out(earlier, default, more=""):
    """The option ``--out`` of a command that writes a folder."""
    text = f"Output folder, without an earlier {earlier}.  [default: runs/{default}, with -2, -3, ... appended{more}]"
    return path("--out", text, "DIR")


def count(flag, help, least=1, **more):
    """An option that is an integer."""
    return click.option(flag, type=click.IntRange(min=least), help=help, show_default="default" in more, **more)


def per_optimizer(flag, help):
    """An option that is a number for all optimizers, or for the one that is named; repeatable."""
    return click.option(flag, type=_PerOptimizer(), multiple=True, callback=_once, help=help)


def _once(ctx, param, values):
    """The pairs, as a dict."""
    names = [name for name, _ in values]
    if twice := [name for name in names if names.count(name) > 1]:
        raise click.BadParameter(f"it is given twice{f' for {twice[0]}' if twice[0] else ''}; expected it once", ctx, param)
    return dict(values) or None


all_steps = click.option("--all-steps", is_flag=True, help="Print every step; of a long run the middle is left out otherwise.")
ranks = click.option(
    "--ranks",
    type=click.Choice(KINDS),
    help="Split samples, or the neurons of the two-layer network, over the ranks of mpiexec -n 4 python -m mpi4py -m nearlin.",
)
check_ranks = click.option(
    "--check-ranks/--no-check-ranks",
    default=True,
    help="Compare what ranks ask of each other before every call, which costs one reduction of 16 bytes.  [default: check-ranks]",
)
progress = click.option(
    "--progress/--no-progress",
    default=True,
    help="Show a live line while running, in a file a line every 30 seconds.  [default: progress]",
)
