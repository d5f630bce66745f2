"""The commands of ``nearlin``: options, and what the user sees. Importing this module needs click and rich."""

import itertools
import sys
import textwrap
import warnings
from pathlib import Path

import click
from click.core import ParameterSource

from nearlin._array import keep_freed_memory
from nearlin.data import NAMES
from nearlin.experiments import comparison_report, cost_report, folders, options, report
from nearlin.experiments.comparison import DEFAULT as COMPARED
from nearlin.experiments.comparison import ON_RECIPES, compare
from nearlin.experiments.endings import USER_ERROR, expected, say
from nearlin.experiments.endings import sentence as said
from nearlin.experiments.environment import info, nearlin_version
from nearlin.experiments.estimation import ITERATIONS, estimate
from nearlin.experiments.measuring import MEASUREMENTS, check_out, measure_rates, write_rates
from nearlin.experiments.prediction import predict
from nearlin.experiments.progress import bar, numbered
from nearlin.experiments.recipes import RECIPES
from nearlin.experiments.teams import on_ranks
from nearlin.experiments.training import result_of, run
from nearlin.experiments.tuning import RUNS, SHARE, listed, tune
from nearlin.experiments.verification import select, verify

NOT_FINITE, CLAIM_FAILED, UNWRITTEN = 1, 1, 1


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
                ctx.exit(say(interruption))
            except (click.ClickException, click.Abort, click.exceptions.Exit):
                raise
            except Exception as error:
                if ctx.params.get("debug") or not expected(error):
                    raise
                raise _Failure(said(error)) from error


def _show_warning(message, category, filename, lineno, file=None, line=None):
    _tell(f"Warning: {message}")


def _tell(text):
    """A line on standard error, above the live one: what `click.echo` writes would stand in it."""
    print(text, file=sys.stderr)


@click.group("nearlin", cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(nearlin_version(), prog_name="nearlin")
@click.option("--debug", is_flag=True, help="Show the traceback of an error instead of one sentence.")
def cli(debug):
    """Near-linear-time second-order training of wide two-layer networks.

    \b
    Examples:
      nearlin train digits-4v9
      nearlin train digits-ae --optimizer kfac --epochs 10
      nearlin compare diabetes --optimizers near-linear-gauss-newton,adam
      nearlin train houses.csv --target price --out runs/houses
      nearlin predict runs/houses/checkpoint.npz new.csv --out prices.csv
      nearlin verify
      nearlin estimate digits-4v9 --width 65536

    Exit codes: 0 done, 1 the loss became infinite or NaN, a claim failed or a file could not be written, 2 an error in the
    input, 130 interrupted.
    """
    keep_freed_memory()


@cli.command(
    "train",
    short_help="Fit a network to data.",
    epilog="The output folder receives run.jsonl (a header line, a line per step, an end line), checkpoint.npz, run.png (losses) "
    "and fit.png (a confusion matrix for classes, predicted against true for numbers); "
    "of methods with a damping also curvature.png, of those that change one layer a step layers.png.",
)
@click.argument("data", required=False)
@options.of(*options.SPLIT, *options.PREPROCESSING, "optimizer", *options.NETWORKS, "epsilon", "lr", "damping", *options.RUN)
@options.out("run", "DATA-OPTIMIZER-SEED", " where it holds a run; with --resume the folder of the checkpoint")
@options.count("--checkpoint-every", "Write the checkpoint every K steps besides the end.", metavar="K", default=0, least=0)
@options.path("--resume", "Continue a checkpoint with its own options; --steps is the new total.")
@options.ranks
@options.check_ranks
@options.all_steps
@options.progress
@click.pass_context
def train_command(ctx, data, out, checkpoint_every, resume, ranks, check_ranks, all_steps, progress, **given):
    """Fit a wide two-layer network or a perceptron to DATA, or the network of a problem to its data.

    DATA is a problem or a data set by name, or a file: .csv or .tsv (name its --target), .npz with arrays x and y, .npy with
    the target in the last column, .svm (LIBSVM), an IDX or CIFAR file, a folder of these, or
    one with x.npy and y.npy, which need not fit in memory. It may be omitted with --resume.

    \b
    Problems:
      RECIPES
    Data sets:
      NAMES

    On a file, one target that is a number gets the two-layer network, classes and several targets a
    perceptron; the run ends by validation, or where the training loss hardly falls any more.

    \b
    Examples:
      nearlin train digits-4v9
      nearlin train digits --optimizer gauss-newton --batch-size all
      nearlin train houses.csv --target price --steps 20 --out runs/houses
      nearlin train --resume runs/houses/checkpoint.npz --steps 40
      nearlin train flowers.csv --target species
      nearlin train sensors.csv --target heat,load --hidden 256,256
    """
    if data is None and resume is None:
        raise click.UsageError(f"name the DATA: one of {', '.join(NAMES)}, or a file; or --resume a checkpoint", ctx)
    if out is None and resume is None:
        out = lambda config: _free(folders.slug(data), config.optimizer, config.seed)  # noqa: E731
    elif out is None:
        out = resume.parent
    given = {name: given[name] for name in given if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    how = {"out": out, "checkpoint_every": checkpoint_every, "resume": resume, "progress": progress}
    if ranks is None and not check_ranks:
        raise click.UsageError("--no-check-ranks belongs to --ranks", ctx)
    work = lambda team: run(data, given, **how, announce=report.print_header, team=team)  # noqa: E731
    result = on_ranks(ranks, work, say, check_ranks)
    report.print_result(result, all_steps=all_steps)
    if result.ended == "non-finite":
        ctx.exit(NOT_FINITE)
    if result.unwritten:
        ctx.exit(UNWRITTEN)


@cli.command("report", short_help="Print and draw a run again.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("data", required=False)
@options.all_steps
@click.pass_context
def report_command(ctx, folder, data, all_steps):
    """Print the table of the run in FOLDER as far as its checkpoint goes, and make the end of its log and its plots again.

    DATA is where the file that it was trained on lies now.

    \b
    Example:
      nearlin report runs/houses
    """
    result = result_of(folder, data)
    report.print_result(result, all_steps=all_steps)
    if result.unwritten:
        ctx.exit(UNWRITTEN)


def _name_them(command):
    """Put the names of problems and data sets into the help."""
    for word, names in (("RECIPES", RECIPES), ("NAMES", NAMES)):
        lines = textwrap.wrap(", ".join(names), 54, break_on_hyphens=False)
        command.help = command.help.replace(word, "\n      ".join(lines))


_name_them(train_command)


def _free(*names):
    """A folder under ``runs`` that is not taken."""
    return folders.Free(Path("runs") / folders.slug("-".join(map(str, names))))


@cli.command("compare", short_help="Compare optimizers on one problem.")
@click.argument("data")
@options.optimizers(f"{','.join(COMPARED)}; on a problem {','.join(ON_RECIPES)}")
@options.of(*options.SPLIT, *options.PREPROCESSING, *options.NETWORKS)
@click.option("--epsilon", type=float, help="Inner accuracy of the optimizers that have one.")
@options.per_optimizer("--lr", "Step size, for all optimizers or for the one that is named (--lr adam=0.01 --lr sgd=0.1).")
@options.per_optimizer("--damping", "Damping, for all optimizers or for the one that is named.")
@options.path("--tuned", "A tune.json of `nearlin tune`: step sizes and dampings from there.")
@options.count("--seeds", "Runs of each optimizer, seeds SEED, SEED + 1, ...", metavar="K", default=1)
@options.of(*options.RUN)
@options.out("comparison", "compare-DATA-SEED")
@options.progress
@click.pass_context
def compare_command(ctx, data, optimizers, lr, damping, out, **given):
    """Train on DATA with several optimizers, from the same initial weights, and tabulate them.

    Writes compare.json and compare.png.

    \b
    Example:
      nearlin compare digits-4v9 --optimizers near-linear-gauss-newton,gram-gauss-newton,adam --lr adam=0.01
      nearlin compare digits-ae --seeds 3 --time-limit 60
    """
    out = out or _free("compare", folders.slug(data), given["seed"])
    comparison = compare(data, optimizers, lr=lr, damping=damping, out=out, **given)
    comparison_report.print_comparison(comparison)
    for sentence in comparison.failures.values():
        click.echo(f"Error: {sentence}", err=True)
    if comparison.failures:
        ctx.exit(USER_ERROR)
    if any(run.ended == "non-finite" for runs in comparison.runs.values() for run in runs):
        ctx.exit(NOT_FINITE)
    if comparison.unwritten:
        ctx.exit(UNWRITTEN)


@cli.command("tune", short_help="Search step sizes and dampings.")
@click.argument("data")
@options.optimizers("as for compare")
@click.option(
    "--budget",
    type=float,
    default=60.0,
    show_default=True,
    metavar="S",
    help=f"Processor seconds of the run that is tuned for; each run takes a {SHARE}th of it (or what --steps or --epochs say).",
)
@options.count("--runs", "Most runs of each optimizer.", default=RUNS)
@options.of(*options.SPLIT, *options.PREPROCESSING, *options.NETWORKS, *options.RUN)
@options.out("search", "tune-DATA-SEED")
@options.progress
@click.pass_context
def tune_command(ctx, data, optimizers, out, **given):
    """Search the step size, then the damping, of each optimizer on the grid 1, 3, 10, 30, ...

    From the default to the better neighbour until both are worse; all runs are listed.
    Writes tune.json, for `nearlin compare --tuned`, and tune.png.

    \b
    Example:
      nearlin tune digits-ae --optimizers kfac,adam --out runs/tuned
      nearlin compare digits-ae --optimizers kfac,adam --tuned runs/tuned/tune.json --time-limit 60 --seeds 3
    """
    out = out or _free("tune", folders.slug(data), given["seed"])

    def announce(optimizer, number, settings):
        _tell(f"{optimizer}, run {number}: {listed(settings)}")

    tuning = tune(data, optimizers, out=out, before=announce, **given)
    comparison_report.print_tuning(tuning)
    if tuning.unwritten:
        ctx.exit(UNWRITTEN)


@cli.command("predict", short_help="Predict with a checkpoint.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("data")
@options.path("--out", "A .csv, .npy or .npz file; an existing one is replaced.", required=True)
@click.option("--target", metavar="COLUMN", help="Column of DATA to drop, or several between commas (.npy: last).")
@click.option("--backend", default="numpy", show_default=True, metavar="NAME", help="Where the network is evaluated.")
def predict_command(checkpoint, data, out, target, backend):
    """Predict with a CHECKPOINT for the rows of DATA, in the units of the training data.

    DATA holds the features alone, as .csv or .tsv (the columns of training, in any order), .npz (array x), .npy or images;
    --target names a column to drop. Regression gives a column `prediction` (several targets: one for each), classes `label` and,
    of a perceptron, `probability CLASS` for each; the two-layer network is fitted by least squares and has no probabilities, of
    two classes a `score`.

    \b
    Example:
      nearlin predict runs/houses/checkpoint.npz new.csv --out prices.csv
    """
    prediction = predict(checkpoint, data, out=out, target=target, backend=backend)
    none = prediction.labels is not None and prediction.probabilities is None
    without = ", without probabilities: the network was fitted by least squares" if none else ""
    count = len(prediction.values)
    click.echo(f"Wrote {count} prediction{'s' * (count != 1)} to {folders.quoted(out)}{without}")


@cli.command("verify", short_help="Check what the papers promise.")
@click.option(
    "--quick/--full",
    "quick",
    default=True,
    help="Counts and small convergence runs, in a minute and a half; or also timed sweeps, and larger sizes.  [default: quick]",
)
@click.option("--only", metavar="ID,...", callback=lambda ctx, param, value: options.names(value), help="Only these claims.")
@click.option(
    "--backend",
    default="numpy",
    show_default=True,
    metavar="NAME",
    help="Backend whose asv results are judged. Claims that run here are measured on NumPy.",
)
@options.path("--from-asv", "Judge the times that `asv run` left there (asv_bench/.asv/results) instead of measuring.", "DIR")
@options.out("report", "verify-quick, -full or -asv")
@options.progress
@click.pass_context
def verify_command(ctx, quick, only, backend, from_asv, out, progress):
    """Measure what the papers promise about cost and convergence, claim by claim, and say which hold.

    Writes claims.json, claims.md, and a plot per family of claims.
    Exit code 1 if a claim fails that should hold.

    \b
    Examples:
      nearlin verify
      nearlin verify --only step-linear-in-width,outer-rate
      nearlin verify --full --out runs/claims
      nearlin verify --from-asv asv_bench/.asv/results
    """
    if from_asv is not None and ctx.get_parameter_source("quick") is not ParameterSource.DEFAULT:
        raise click.UsageError("--from-asv judges times that are there already; leave --quick and --full out", ctx)
    if only == []:
        raise click.UsageError("--only names no claim", ctx)
    select(only or (), backend, from_asv)  # the same errors, before anything is said
    if backend != "numpy" and from_asv is None:
        click.echo(f"Note: claims are counted and measured on NumPy; times on {backend} are judged by --from-asv.", err=True)
    out = out or _free("verify", "asv" if from_asv is not None else "quick" if quick else "full")
    found = verify(only or (), not quick, backend, from_asv, out, progress)
    if found.interrupted and found.folder is None:
        raise KeyboardInterrupt("Interrupted before the first verdict; nothing was written")
    cost_report.print_claims(found)
    if found.interrupted:
        where = folders.quoted(found.folder)
        said = f"the report in {where} holds what was measured" if found.files else "the report could not be written"
        raise KeyboardInterrupt(f"Interrupted; {said}.")
    if not found.passed:
        ctx.exit(CLAIM_FAILED)
    if found.unwritten:
        ctx.exit(UNWRITTEN)


@cli.command("estimate", short_help="Flops and bytes of a step, before it runs.")
@click.argument("data", required=False)
@options.count("--rows", "Rows, instead of DATA.", metavar="N")
@options.count("--features", "Features, instead of DATA.", metavar="D")
@options.count("--outputs", "Targets, or with --task classification classes, instead of DATA.  [default: 1]", metavar="C")
@options.of("optimizer", *options.NETWORKS)
@options.count(
    "--iterations",
    f"Inner iterations of a step; a run prints its own.  [default: {ITERATIONS} of near-linear-gauss-newton; as planned]",
    metavar="K",
)
@options.count(
    "--ranks",
    "Ranks that share the step: by neurons of the two-layer network, by samples of a perceptron.",
    metavar="P",
    default=1,
)
@options.of(*options.ARRAYS, *options.SPLIT, "normalize", "l2", "settings")
def estimate_command(data, **given):
    """Flops and bytes of one step by part, in closed form: nothing is run.

    DATA is what `nearlin train` takes, with the network and the method that it would choose; or give --rows and --features.
    A step that does not fit into this machine's memory is refused, with what would fit.

    \b
    Examples:
      nearlin estimate digits-4v9 --width 65536
      nearlin estimate --rows 4096 --features 16 --width 131072 --dtype float32
      nearlin estimate flowers.csv --target species --hidden 256,256
      nearlin estimate --rows 16384 --features 128 --width 1048576 --ranks 16
    """
    cost_report.print_estimate(estimate(data, **given))


@cli.command("info", short_help="Versions, backends, threads, and how fast they are.")
@click.option("--measure", is_flag=True, help="Measure how fast a backend is here, in about 10 seconds; let nothing else run.")
@click.option("--backend", metavar="NAME", help="What is measured.  [default: numpy]")
@options.path("--out", "Write the rates as JSON, for --set rates=FILE; an existing file is replaced.")
@click.pass_context
def info_command(ctx, measure, backend, out):
    """Versions, backends and devices, BLAS libraries and threads, cores; or with --measure the rates by which methods plan.

    \b
    Example:
      nearlin info --measure --out rates.json
    """
    if not measure:
        for option, value in (("--backend", backend), ("--out", out)):
            if value is not None:
                raise click.UsageError(f"{option} belongs to --measure", ctx)
        cost_report.print_info(info())
        return
    if out is not None:
        check_out(out)
    promise = lambda: "Ctrl-C ends the measurement, and leaves nothing"  # noqa: E731
    with bar(MEASUREMENTS, numbered("rate", MEASUREMENTS), promise) as show:
        done = itertools.count()
        rates = measure_rates(backend or "numpy", lambda primitive, dtype: show(next(done), f"{primitive}, {dtype}"))
    cost_report.print_rates(rates)
    if out is not None:
        write_rates(out, rates)
        click.echo(f"Wrote {folders.quoted(out)}")
