"""`train`: from options to a run, from the start or from a checkpoint."""

import contextlib
import dataclasses
import warnings
from pathlib import Path

from nearlin._array import fold_in, integer, unguarded
from nearlin.experiments import checkpoint
from nearlin.experiments.archive import next_to
from nearlin.experiments.building import build
from nearlin.experiments.config import Config, differences, explicit, source, takes_options
from nearlin.experiments.environment import threads
from nearlin.experiments.folders import read_lines
from nearlin.experiments.loop import Setup, Snapshot, Trainer
from nearlin.experiments.registry import (
    LEAST_SQUARES,
    NAMED,
    OPTIMIZERS,
    TAKES,
    default_lr,
    fields,
    make_optimizer,
    options_of,
    takes_schedules,
)
from nearlin.experiments.run_folder import CHECKPOINT, LOG, RunFolder, folder_of
from nearlin.experiments.teams import ALONE
from nearlin.steps import StepDecay

_WARM = 0x7761726D  # keeps this stream apart from other users of the same seed


@takes_options
def train(data=None, *, out=None, checkpoint_every=0, resume=None, progress=True, team=ALONE, **options):
    """Fit a wide two-layer network or a perceptron to data, or the network of a recipe to its data, and return the `Result`.

    Files and `Dataset` with one target that is a number get the two-layer network: features centred and in units of their
    deviations, a constant appended. Classes and several targets get a perceptron with one hidden layer of 256 ReLU, softmax
    cross-entropy or the squared loss, by `GaussNewton` on all rows. ``hidden`` and ``width`` name the one or the other. Such a
    run ends at the latest after 200 steps (in mini-batches epochs), and before that

    - by validation, of a tenth of the training rows where there are 100 or more, shared alike between classes: 10 steps after the
      first one with the smallest loss, and for classes the first one with the fewest wrong rows. The weights of the step that had
      the smallest loss, or of the last one with the fewest wrong rows, are kept, in the result and for `predict`.
    - where the training loss has fallen by less than 1e-4 of itself in 3 steps; in mini-batches in 10 epochs, as it goes up and
      down.

    A data set by name gets the two-layer network on rows of unit length, 12 steps and no validation.

    Parameters
    ----------
    data : str, path, frame, Dataset, or (x, y)
        A recipe (`RECIPES`), a name (`nearlin.data.NAMES`) or file for `nearlin.data.load`, a data frame (of pandas, polars),
        which is treated as a ``.csv`` of its columns and needs ``target``, a `Dataset`, or a pair of arrays
        (n, d) and (n,) of any backend. Arrays are used as they are: on their own backend, device and dtype, without
        preprocessing; ``backend`` and ``dtype`` are theirs. Floats (n,) get the two-layer network and steps as data by name do;
        integer labels, targets (n, c) and ``hidden`` a perceptron, and an end as files have it. So is a folder with ``x.npy`` and
        ``y.npy``, or a pair whose x is a map, read some rows at a time by the two-layer network. A `Dataset` made of arrays is
        preprocessed. May be omitted with ``resume`` where the checkpoint knows the name or file.
    out : str or path, optional
        Folder for ``run.jsonl`` (a header line, a line per step, an end line), ``checkpoint.npz``, ``run.png`` (losses) and
        ``fit.png`` (a confusion matrix for classes, predicted against true for numbers; not of recipes); it must not hold an
        earlier run. Nothing is written without it. Methods with a damping add ``curvature.png`` (damping, effective
        dimension, inner iterations and route of every step), those that change one layer a step ``layers.png``. Plots need
        matplotlib and are left out without it.
    checkpoint_every : int
        Write the checkpoint every so many steps besides the end; 0 for the end alone.
    resume : str or path, optional
        A checkpoint to continue; it brings its options. Options that are given here and contradict it are refused, also those
        that equal a default; steps, epochs, time_limit, tol and where the data lies may change. The continuation equals an
        uninterrupted run bit for bit on the same backend, machine and number of threads; a warning tells where the threads are
        others. Of a run that is complete, log and plots are made again.
    progress : bool
        A live line on a terminal, and in a file a line every 30 seconds (needs rich).
    team : Team
        Ranks that train together, each by this call: see `nearlin.experiments.Team`.
    OPTIONS

    Returns
    -------
    Result

    Raises
    ------
    ValueError, TypeError, OSError
        Bad options, data (`DataError`), backends (`BackendError`), checkpoints (`CheckpointError`) or folders, in one sentence.
    Interrupted
        Ctrl-C, after the checkpoint of the last complete step has been written (where ``out`` is given).

    Examples
    --------
    >>> x, y = nl.data.sphere(n=32, d=4, seed=0)
    >>> result = nl.experiments.train((x, y), width=512, steps=5, test_fraction=0, progress=False)
    >>> result.steps, result.ended, result.final_loss < result.initial_loss / 10, result.predict(x).shape
    (5, 'steps', True, (32,))
    """
    given = explicit(options)
    return run(data, given, out=out, checkpoint_every=checkpoint_every, resume=resume, progress=progress, team=team)


@unguarded()
def run(data, given, *, out=None, checkpoint_every=0, resume=None, progress=True, announce=None, team=ALONE):
    """`train`, with the options that were given as the dict ``given``; ``announce(trainer)`` is called before the first step.

    ``out`` may also be a function of the `Config` that is run, and it or its value a `folders.Free`.
    """
    if integer(0)("checkpoint_every", checkpoint_every) and out is None:
        raise ValueError("checkpoint_every needs a folder: give out")
    if team.several:
        team.compare((data if isinstance(data, str | Path) else None, sorted(given.items()), resume, checkpoint_every))
    given = _with_fields(given)
    if resume:
        trainer, ended = _resumed(resume, data, given, team)
    else:
        trainer, ended = _started(data, Config(**given, **source(data)), team), None
    out = out(trainer.config) if callable(out) else out
    with contextlib.nullcontext() if out is None else folder_of(team, out, trainer.header, checkpoint_every, resume) as folder:
        if folder is not None:
            trainer.write_to(folder)
        if announce is not None and team.leads:
            announce(trainer)
        return trainer.run(progress and team.leads, ended)


@unguarded()
def result_of(folder, data=None):
    """The `Result` of the run in a folder as far as its checkpoint goes, with its log's end and its plots made again.

    Parameters
    ----------
    folder : str or path
        What `train` was given as ``out``.
    data : optional
        As for `train`, where the checkpoint knows neither name nor file, or the file lies elsewhere now.

    Raises
    ------
    CheckpointError
        There is no checkpoint, or it is damaged.
    ValueError, OSError
        The data are others than those of the run, another process works in the folder, or it cannot be written.
    """
    path = Path(folder) / CHECKPOINT
    if not path.exists():
        steps = len([one for one in read_lines(path.with_name(LOG)) if one["kind"] == "step"])
        raise checkpoint.CheckpointError(f"{folder} has no {CHECKPOINT}" + (f", and a log of {steps} steps" if steps else ""))
    trainer, ended = _resumed(path, data, {})
    with RunFolder(folder, trainer.header, resume=path) as trainer.folder:
        return trainer.again(ended or "interrupted")


def _with_fields(given):
    """The options with an optimizer of `nearlin.optim` as its name and its hyper-parameters."""
    if isinstance(given.get("optimizer", ""), str):
        return given
    own = options_of(given["optimizer"])
    if twice := [name for name in (*NAMED, "settings") if name in given]:
        raise ValueError(f"{twice[0]} is given beside the optimizer {given['optimizer']!r}; expected it in there alone")
    return given | own


def _started(data, config, team=ALONE):
    """A `Trainer` at step 0."""
    setup = _built(data, config, team)
    problem, config = setup.problem, setup.config
    return begin(setup, problem.init(config.seed), team)


def _built(data, config, team):
    """The `Setup` of this rank."""
    problem, config = team.together(lambda: build(data, config), "data")
    team.alike(problem.fingerprint, "data")
    return set_up(team.split(problem, config.optimizer), config)


def set_up(problem, config):
    """The `Setup` of a run: its optimizer, with the schedule in steps, and its batches."""
    if config.optimizer in LEAST_SQUARES and not problem.squared:
        loss, known = type(problem.objective.loss).__name__, (*LEAST_SQUARES, "gauss-newton")
        raise ValueError(
            f"{config.optimizer} is for least squares, and {problem.name} has a {loss}; expected gauss-newton, which takes every "
            f"loss, or {', '.join(name for name in OPTIMIZERS if name not in known)}"
        )
    batches = problem.batches(config.batch_size, config.seed)
    optimizer = _optimizer(config, batches)
    if getattr(optimizer, "whole_batch", False) and not batches.full:
        rows = problem.train[0].shape[0]
        raise ValueError(
            f"{config.optimizer} guarantees the decrease of the loss of all {rows} rows, and a step takes {config.batch_size}; "
            f"expected --batch-size {rows}, or --set form=stochastic with --lr below 1"
        )
    try:
        optimizer.init((), problem.objective)
    except ValueError as error:
        if config.optimizer not in TAKES:
            raise
        raise ValueError(f"{error}; {config.optimizer} takes {TAKES[config.optimizer]}") from error
    return Setup(config, problem, optimizer, batches)


def _optimizer(config, batches):
    lr = config.lr
    if config.lr_factor is not None:
        if not takes_schedules(config.optimizer):
            raise ValueError(f"{config.optimizer} takes one step size for all steps; expected neither lr_factor nor lr_period")
        first = default_lr(config.optimizer) if lr is None else lr
        lr = StepDecay(first, config.lr_factor, config.lr_period * batches.per_epoch)
    settings, named = dict(config.settings), {"epsilon": config.epsilon, "lr": lr, "damping": config.damping}
    if twice := [name for name, value in named.items() if value is not None and name in settings]:
        raise ValueError(f"{twice[0]} is given twice; expected it once")
    optimizer = make_optimizer(config.optimizer, **settings, **{name: v for name, v in named.items() if v is not None})
    return dataclasses.replace(optimizer, **{name: None for name, value in settings.items() if value is None})


def begin(setup, params, team=ALONE):
    """A `Trainer` at step 0, after the pass over the training set that some methods begin with."""
    config, problem, optimizer, batches = setup
    state = optimizer.init(params, problem.objective)
    if hasattr(optimizer, "warm_start") and not batches.full:
        state = optimizer.warm_start(params, state, problem.objective, batches.in_order(), fold_in(config.seed, _WARM))
    return Trainer(setup, Snapshot(0, params, state), team=team)


def _resumed(path, data, given, team=ALONE):
    """A `Trainer` where the checkpoint at ``path`` left off, and how the run ended where it is complete."""
    saved = team.together(lambda: checkpoint.load(path, team=team), "checkpoint")
    config = _resumed_config(path, saved, given)
    data = config.data if data is None else data
    if data is None:
        raise ValueError(f"{path} was trained on arrays or a Dataset; give the same data to resume")
    setup = _built(data, dataclasses.replace(config, **source(data)), team)
    _, problem, *_ = setup
    config = setup.config
    found, expected = problem.fingerprint, saved["header"]["data"]["fingerprint"]
    if found != expected:
        raise ValueError(f"{problem.name} is not the data that {path} was trained on (fingerprint {found}, expected {expected})")
    if fields(setup.optimizer) != saved["header"]["optimizer"]["fields"]:
        raise ValueError(f"{path} was trained by {saved['header']['optimizer']['text']}; this version has {setup.optimizer!r}")
    if config.steps < saved["step"]:
        raise ValueError(
            f"{path} stands at step {saved['step']} of {config.steps}; give a larger total number of steps (--steps)"
        )
    _compare_threads(path, saved["header"]["threads"], threads(config.backend))
    saved = next_to(team.split_again(saved, setup), problem.like)
    trainer = Trainer(setup, Snapshot(*(saved[name] for name in Snapshot._fields)), saved["header"], saved["records"], team)
    return trainer, saved["ended"] if config.to_dict() == saved["config"] else None


def _compare_threads(path, before, now):
    """Warn where a library that computes has other threads now: sums are then taken in another order."""
    other = [
        f"{name} has {now[name]} threads, and had {before[name]}" for name in before if now.get(name, 0) not in (0, before[name])
    ]
    if before and not set(before) & set(now):
        other = [f"{', '.join(now)} computes, and {', '.join(before)} did"]
    if other:
        warnings.warn(f"the continuation of {path} may differ in the last bits: {'; '.join(other)}", stacklevel=2)


def _resumed_config(path, saved, given):
    try:
        config = Config(**saved["config"])
    except TypeError as error:
        raise checkpoint.CheckpointError(f"{path} holds options that this version does not know: {error}") from error
    conflicts = differences(config, given)
    if conflicts:
        raise ValueError(f"cannot resume {path} with other options: {'; '.join(conflicts)}")
    if "epochs" in given and "steps" not in given:
        config = dataclasses.replace(config, steps=None)
    return dataclasses.replace(config, **given)
