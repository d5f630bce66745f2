"""The commands of ``nearlin``: options, and what the user sees. Importing this module needs click and rich."""

import warnings
from pathlib import Path

import click
from click.core import ParameterSource

from nearlin.data import NAMES
from nearlin.experiments import folders, report
from nearlin.experiments.comparison import DEFAULT as COMPARED
from nearlin.experiments.comparison import FILE, compare
from nearlin.experiments.environment import info, nearlin_version
from nearlin.experiments.prediction import predict
from nearlin.experiments.registry import OPTIMIZERS
from nearlin.experiments.training import LOG, run
from nearlin.nn import ACTIVATIONS

INTERRUPTED, USER_ERROR, NOT_FINITE = 130, 2, 1


class _Failure(click.ClickException):
    exit_code = USER_ERROR


class _Group(click.Group):
    """Turns errors into one sentence on standard error, warnings into a line there, and Ctrl-C into exit code 130."""

    def invoke(self, ctx):
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.simplefilter("default", UserWarning)
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as interruption:
                click.echo(f"\n{interruption}" if str(interruption) else "\nInterrupted.", err=True)
                ctx.exit(INTERRUPTED)
            except (click.ClickException, click.Abort, click.exceptions.Exit):
                raise
            except Exception as error:
                if ctx.params.get("debug") or not _expected(error):
                    raise
                raise _Failure(_sentence(error)) from error


def _expected(error):
    """Whether ``error`` speaks about the user's input or machine."""
    return isinstance(error, ValueError | TypeError | OSError | MemoryError | ImportError | ArithmeticError) or _out_of_memory(
        error
    )


def _out_of_memory(error):
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__


def _sentence(error):
    text = " ".join(" ".join([str(error), *getattr(error, "__notes__", ())]).split()) or type(error).__name__
    if _out_of_memory(error):
        return f"out of memory ({text}); a smaller --width or --batch-size, or --dtype float32, needs less"
    return text


def _show_warning(message, category, filename, lineno, file=None, line=None):
    click.echo(f"Warning: {message}", err=True)


class _LrPerOptimizer(click.ParamType):
    name = "[NAME=]VALUE"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        name, equals, number = value.rpartition("=")
        try:
            return (name if equals else None), float(number)
        except ValueError:
            self.fail(f"{value!r} is not a number or NAME=NUMBER", param, ctx)


POSITIVE = click.IntRange(min=1)
_data_options = [
    click.option("--target", metavar="COLUMN", help="Target column of a .csv file."),
    click.option(
        "--task",
        type=click.Choice(["regression", "classification"]),
        help="What the targets are. By default two distinct texts, booleans, and -1/+1 are two classes, all else is regression.",
    ),
    click.option(
        "--test-fraction",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.2,
        show_default=True,
        help="Share of the rows kept for testing; 0 for none.",
    ),
    click.option("--center/--no-center", default=True, show_default=True, help="Subtract the mean of the training rows."),
    click.option("--scale/--no-scale", default=False, show_default=True, help="Divide every feature by its standard deviation."),
    click.option("--normalize/--no-normalize", default=True, show_default=True, help="Scale every row to unit length."),
    click.option(
        "--standardize/--no-standardize",
        default=None,
        help="Give the targets mean 0 and deviation 1.  [default: for regression]",
    ),
]
_network_options = [
    click.option("--width", type=POSITIVE, default=8192, show_default=True, help="Neurons of the two-layer network."),
    click.option(
        "--activation", type=click.Choice(list(ACTIVATIONS)), default="relu", show_default=True, help="What the neurons compute."
    ),
]
_run_options = [
    click.option("--batch-size", type=POSITIVE, help="Rows per shuffled mini-batch.  [default: all rows]"),
    click.option(
        "--backend",
        default="numpy",
        show_default=True,
        metavar="NAME",
        help="numpy, cupy, torch or array_api_strict; `nearlin info` says which can be used.",
    ),
    click.option("--dtype", default="float64", show_default=True, metavar="NAME", help="float64 or float32."),
    click.option("--steps", type=POSITIVE, default=12, show_default=True, help="Total number of steps (mini-batches)."),
    click.option(
        "--tol",
        type=click.FloatRange(min=0),
        default=1e-8,
        show_default=True,
        help="Stop when the residual, relative to that at the start, is at most this.",
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the split, the weights, and every draw."
    ),
]
_progress_option = [
    click.option(
        "--progress/--no-progress", default=True, help="Show a live line while running, on a terminal.  [default: progress]"
    )
]


def _with(*groups):
    def decorate(function):
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return decorate


@click.group("nearlin", cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(nearlin_version(), prog_name="nearlin")
@click.option("--debug", is_flag=True, help="Show the traceback of an error instead of one sentence.")
def cli(debug):
    """Near-linear-time second-order training of wide two-layer networks.

    \b
    Examples:
      nearlin train digits-4v9
      nearlin compare diabetes --optimizers near-linear-gauss-newton,adam
      nearlin train houses.csv --target price --scale --out runs/houses
      nearlin predict runs/houses/checkpoint.npz new.csv --out prices.csv

    Exit codes: 0 done, 1 the loss became infinite or NaN, 2 an error in the input, 130 interrupted.
    """


@cli.command(
    "train",
    short_help="Fit a network to data.",
    epilog="The output folder receives run.jsonl (a header line, a line per step, an end line), checkpoint.npz and run.png.",
)
@click.argument("data", required=False)
@_with(_data_options)
@click.option(
    "--optimizer",
    default="near-linear-gauss-newton",
    show_default=True,
    metavar="NAME",
    help=f"One of {', '.join(OPTIMIZERS)}.",
)
@_with(_network_options)
@click.option("--epsilon", type=float, help="Inner accuracy of near-linear-gauss-newton.  [default: the optimizer's]")
@click.option("--lr", type=float, help="Step size.  [default: the optimizer's]")
@_with(_run_options)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Output folder, without an earlier run.  [default: runs/DATA-OPTIMIZER-SEED, with -2, -3, ... appended "
    "where it holds a run; with --resume the folder of the checkpoint]",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="K",
    help="Write the checkpoint every K steps besides the end.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Continue a checkpoint with its own options; --steps is the new total.",
)
@_with(_progress_option)
@click.pass_context
def train_command(ctx, data, out, checkpoint_every, resume, progress, **options):
    """Fit a wide two-layer network to DATA.

    \b
    DATA is a data set by name (NAMES)
    or a file: .csv with a header line (name its --target), .npz with arrays x and y,
    or .npy with the target in the last column. It may be omitted with --resume.

    \b
    Examples:
      nearlin train digits-4v9
      nearlin train houses.csv --target price --scale --steps 20 --out runs/houses
      nearlin train --resume runs/houses/checkpoint.npz --steps 40
    """
    given = {name: options[name] for name in options if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    if data is None and resume is None:
        raise click.UsageError(f"name the DATA: one of {', '.join(NAMES)}, or a file; or --resume a checkpoint", ctx)
    if out is None:
        out = (
            resume.parent
            if resume is not None
            else _default_folder(f"{folders.slug(data)}-{options['optimizer']}-{options['seed']}")
        )
    result = run(
        data, given, out=out, checkpoint_every=checkpoint_every, resume=resume, progress=progress, announce=report.print_header
    )
    report.print_result(result)
    if result.ended == "non-finite":
        ctx.exit(NOT_FINITE)


train_command.help = train_command.help.replace("NAMES", ", ".join(NAMES))


def _default_folder(name, marker=LOG):
    return folders.free(Path("runs") / folders.slug(name), marker)


@cli.command("compare", short_help="Compare optimizers on one problem.")
@click.argument("data")
@click.option(
    "--optimizers",
    default=",".join(COMPARED),
    show_default=True,
    metavar="A,B,...",
    help=f"Some of {', '.join(OPTIMIZERS)}.",
)
@_with(_data_options, _network_options)
@click.option("--epsilon", type=float, help="Inner accuracy of the optimizers that have one.")
@click.option(
    "--lr",
    type=_LrPerOptimizer(),
    multiple=True,
    help="Step size, for all optimizers or for the one that is named (--lr adam=0.01 --lr sgd=0.1).",
)
@_with(_run_options)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Output folder, without an earlier comparison.  [default: runs/compare-DATA-SEED, with -2, -3, ... appended]",
)
@_with(_progress_option)
def compare_command(data, optimizers, lr, out, **options):
    """Train on DATA with several optimizers, from the same initial weights, and tabulate them.

    \b
    Writes compare.json and compare.png.
    Example:
      nearlin compare digits-4v9 --optimizers near-linear-gauss-newton,gram-gauss-newton,adam --lr adam=0.01
    """
    names = [name.strip() for name in optimizers.split(",") if name.strip()]
    out = out or _default_folder(f"compare-{folders.slug(data)}-{options['seed']}", FILE)
    comparison = compare(data, names, lr=dict(lr) or None, out=out, **options)
    report.print_comparison(comparison)


@cli.command("predict", short_help="Predict with a checkpoint.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("data")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="A .csv, .npy or .npz file; an existing one is replaced.",
)
@click.option("--target", metavar="COLUMN", help="Column of DATA to drop (.npy: last).")
@click.option("--backend", default="numpy", show_default=True, metavar="NAME", help="Where the network is evaluated.")
def predict_command(checkpoint, data, out, target, backend):
    """Predict with a CHECKPOINT for the rows of DATA, in the units of the training data.

    \b
    DATA holds the features alone, as .csv (the columns of training, in any order), .npz (array x) or .npy;
    --target names a column to drop. Regression gives a column `prediction`, classification `score` and `label`.
    Example:
      nearlin predict runs/houses/checkpoint.npz new.csv --out prices.csv
    """
    prediction = predict(checkpoint, data, out=out, target=target, backend=backend)
    click.echo(f"Wrote {len(prediction.values)} prediction(s) to {out}")


@cli.command("info", short_help="Versions, backends, threads.")
def info_command():
    """Versions, backends and devices, BLAS libraries and threads, cores."""
    report.print_info(info())
