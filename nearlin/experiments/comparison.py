"""Several optimizers on one problem from one start."""

import dataclasses
import itertools
import json
from pathlib import Path

from nearlin._array import integer, unguarded
from nearlin.experiments import folders
from nearlin.experiments.building import build, for_method
from nearlin.experiments.config import OPTIONS, Config, explicit, source
from nearlin.experiments.progress import bar, numbered, part
from nearlin.experiments.registry import (
    NAMED,
    OPTIMIZERS,
    check_settings,
    hyperparameters,
    make_optimizer,
    options_of,
    takes_schedules,
)
from nearlin.experiments.result import Interrupted
from nearlin.experiments.training import begin, set_up

FILE, PLOT = "compare.json", "compare.png"
DEFAULT = ("near-linear-gauss-newton", "gauss-newton", "gram-gauss-newton", "sgd", "adam")
ON_RECIPES = ("gauss-newton", "mini-block-fisher", "kfac", "tnt", "kbfgs", "sgd", "adam")


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` returns.

    ``runs`` maps optimizers to tuples of `Result`, one per seed that finished; ``failures`` maps those with a seed that did not
    to a sentence; ``unwritten`` has a sentence for each file that could not be written, and the others are paths, or None.
    """

    runs: dict
    failures: dict = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    json: Path | None = None
    plot: Path | None = None
    unwritten: tuple = ()

    @property
    def results(self):
        """Optimizer names to the `Result` of the first seed."""
        return {name: runs[0] for name, runs in self.runs.items()}

    def print(self):
        """Print a row per optimizer to the terminal."""
        from nearlin.experiments.comparison_report import print_comparison

        print_comparison(self)


@unguarded()
def compare(
    data, optimizers=None, *, epsilon=None, lr=None, damping=None, tuned=None, seeds=1, out=None, progress=True, **options
):
    """Train on the same problem with each optimizer; for every seed, all start from the same initial weights.

    Parameters
    ----------
    data : str, path, frame, Dataset, or (x, y)
        As for `train`.
    optimizers : sequence of str or optimizer, optional
        Optimizers of `nearlin.optim`, or keys of `OPTIMIZERS`; by default `DEFAULT`, or `ON_RECIPES` on recipes and perceptrons.
    epsilon, lr, damping : float or dict, optional
        One value for every optimizer that has this hyper-parameter, or a dict from optimizer names to values.
    tuned : path, optional
        A ``tune.json`` that `tune` wrote: its best step sizes and dampings, where ``lr`` and ``damping`` do not say otherwise.
    seeds : int
        Number of runs of each optimizer, with seeds ``seed``, ``seed + 1``, ...; the split of the data stays that of ``seed``.
    out : str or path, optional
        Folder for ``compare.json`` and ``compare.png``; it must not hold an earlier comparison. Nothing is written without it.
    progress : bool
        A live line on a terminal, and in a file a line every 30 seconds (needs rich).
    **options
        Every other option of `train` that is a field of `Config` (steps, tol, width, ...).

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError, TypeError, OSError
        As for `train`, where no run finished.
    KeyboardInterrupt
        Ctrl-C, after the runs that are complete, and the steps of the one that is not, have been written.
    """
    given = None if optimizers is None else _named(optimizers)
    seeds = integer(1, ", the number of runs")("seeds", seeds)
    config = Config(**explicit(options, "compare"), **source(data))
    problem, filled = build(data, config)
    optimizers, own = given or _named(default_for(problem))
    found = (best_of(tuned, data, optimizers) if tuned is not None else {}) | own
    hyper = {"epsilon": epsilon, "lr": lr, "damping": damping}
    configs = _configs(problem, config, filled, optimizers, hyper, found)
    with folders.claimed(out, FILE) as folder:
        return _compared(problem, configs, range(config.seed, config.seed + seeds), folder, progress)


def _compared(problem, configs, seeds, folder, progress):
    """The `Comparison` of all runs, written into ``folder``."""
    runs, failures, name, number = {}, {}, next(iter(configs)), itertools.count()
    total = len(seeds) * len(configs)
    kept = (
        "loses all runs, as no folder was given"
        if folder is None
        else f"leaves all steps so far in {folders.quoted(folder / FILE)}"
    )
    try:
        with bar(total, numbered("run", total), lambda: f"Ctrl-C ends the comparison, and {kept}", shown=progress) as show:
            for seed in seeds:
                params = problem.init(seed)
                for name, one in configs.items():
                    live = part(show, next(number), f"{name}, seed {seed}")
                    try:
                        run = begin(set_up(problem, dataclasses.replace(one, seed=seed)), params).run(progress and live)
                        runs.setdefault(name, []).append(run)
                    except (ArithmeticError, RuntimeError, ValueError) as error:
                        failures[name] = f"{name} failed with seed {seed}: {error}"
    except KeyboardInterrupt as interruption:
        steps = 0
        if isinstance(interruption, Interrupted) and (interruption.result.steps or runs):
            runs.setdefault(name, []).append(interruption.result)
            steps = interruption.result.steps
        written = _write(runs, folder, failures) if runs else None
        where = f"what was done is in {written.json}" if written and written.json else "nothing was written"
        where += ", as no folder was given" if folder is None else ""
        sentences = (f"Interrupted in {name} after {steps} complete steps; {where}", *(written.unwritten if written else ()))
        raise KeyboardInterrupt(". ".join(sentences)) from None
    if not runs:
        raise ValueError("; ".join(failures.values()))
    return _write(runs, folder, failures)


def _named(optimizers):
    """Names of optimizers, and by name the hyper-parameters of those that are optimizers of `nearlin.optim`."""
    given = [optimizers] if isinstance(optimizers, str) or hasattr(optimizers, "step") else list(optimizers)
    own = {}
    for i, one in enumerate(given):
        if not isinstance(one, str):
            options = options_of(one)
            given[i] = options.pop("optimizer")
            own[given[i]] = {name: value for name, value in options.items() if name in NAMED and value is not None}
            own[given[i]] |= dict(options["settings"])
    return checked(given), own


def default_for(problem):
    """The optimizers that are compared where none is named: some are for the two-layer network alone."""
    return DEFAULT if problem.wide else ON_RECIPES


def _configs(problem, config, filled, optimizers, hyper, found):
    """A `Config` by optimizer, from what was given and what the problem filled in; what cannot run is refused before that."""
    check_settings(config.settings, optimizers)
    configs = {name: _config_of(name, config, hyper, optimizers, found.get(name, {})) for name in optimizers}
    own = ("optimizer", "settings", *hyper, *(("batch_size", "steps", "epochs") if problem.stops else ()))
    common = {option: getattr(filled, option) for option in OPTIONS if option not in own}
    configs = {name: for_method(_scheduled(dataclasses.replace(one, **common)), problem) for name, one in configs.items()}
    for one in configs.values():
        set_up(problem, one)
    return configs


def _config_of(name, config, hyper, optimizers, tuned):
    values = {option: _option(option, value, name, optimizers) for option, value in hyper.items()}
    settings = {**tuned, **{option: value for option, value in values.items() if value is not None}}
    plain = {option: settings.pop(option, None) for option in hyper}
    own = {option: value for option, value in config.settings if option in hyperparameters(name)}
    return dataclasses.replace(config, optimizer=name, settings=tuple({**settings, **own}.items()), **plain)


def _scheduled(config):
    """Without the schedule, where the optimizer takes none."""
    if config.lr_factor is None or takes_schedules(config.optimizer):
        return config
    return dataclasses.replace(config, lr_factor=None, lr_period=None)


def best_of(path, data, optimizers):
    """Best hyper-parameters by optimizer from a ``tune.json``; `ValueError` where it is none, or does not know one of them."""
    try:
        content = json.loads(Path(path).read_text())
        found = {name: entry["best"] and dict(entry["best"]) for name, entry in content["optimizers"].items()}
    except OSError as error:
        raise ValueError(f"{path} (tuned) cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} (tuned) is no tune.json that nearlin tune wrote") from error
    if content.get("problem") != str(data):
        raise ValueError(f"{path} (tuned) is about {content.get('problem')}; expected {data}")
    missing = [name for name in optimizers if name not in found]
    if missing:
        raise ValueError(f"{path} (tuned) does not know {', '.join(missing)}; it has {', '.join(found)}")
    empty = [name for name in optimizers if found[name] is None]
    if empty:
        raise ValueError(f"{path} (tuned) found nothing finite for {', '.join(empty)}")
    return found


def checked(optimizers):
    """The optimizers as a list of names; `ValueError` where there is none, one is unknown, or one is named twice."""
    names = [optimizers] if isinstance(optimizers, str) else list(optimizers)
    if not names:
        raise ValueError(f"no optimizers; expected some of {', '.join(OPTIMIZERS)}")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the optimizer {name!r} is named twice")
        make_optimizer(name)
    return names


def _option(option, value, name, optimizers):
    """The value of a hyper-parameter for the optimizer called ``name``, None where it has none."""
    if not isinstance(value, dict):
        if value is not None and not any(option in hyperparameters(other) for other in optimizers):
            raise ValueError(f"none of {', '.join(optimizers)} has {option}")
        return value if option in hyperparameters(name) else None
    strangers = [other for other in value if other is not None and other not in optimizers]
    if strangers:
        raise ValueError(f"{option} is given for {strangers[0]!r}, which is not among {', '.join(optimizers)}")
    return value.get(name, value.get(None) if option in hyperparameters(name) else None)


def _write(runs, folder, failures):
    runs = {name: tuple(done) for name, done in runs.items()}
    if folder is None:
        return Comparison(runs, failures)
    content = {
        name: [{"header": _header(run), **run.summary(), "records": _records(run)} for run in done] for name, done in runs.items()
    }
    path, plot, unwritten = folder / FILE, None, []
    with folders.shielded():
        with folders.tried(path, unwritten):
            folders.write_json(path, content)
        with folders.tried(folder / PLOT, unwritten, Exception):  # a picture costs no run its result
            plot = _plot(runs, folder / PLOT)
    return Comparison(runs, failures, folder, path if path.exists() else None, plot, tuple(unwritten))


def _records(result):
    """The steps; of a recipe's many mini-batches those at which the losses are known, without certificates."""
    if not result.problem.recipe:
        return result.records
    totals, kept = dict.fromkeys(("seconds", "cpu_seconds", "gradients"), 0.0), []
    for record in result.records:
        totals = {name: total + record[name] for name, total in totals.items()}
        if record["loss_after"] is not None:
            kept.append({"step": record["step"], "loss_after": record["loss_after"], "test_loss": record["test_loss"], **totals})
    return kept


def _header(result):
    return {"config": result.config.to_dict(), "optimizer": repr(result.optimizer), "data": result.problem.describe()}


def _plot(runs, path):
    try:
        from nearlin.experiments.plots import plot_comparison
    except ImportError:
        return None
    return plot_comparison(runs, path)
