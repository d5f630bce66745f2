"""Several optimizers on one problem from one start."""

import dataclasses
import json
from pathlib import Path

from nearlin.experiments import folders
from nearlin.experiments.checkpoint import write_atomically
from nearlin.experiments.config import Config, explicit
from nearlin.experiments.problems import build
from nearlin.experiments.registry import OPTIMIZERS, hyperparameters, make_optimizer
from nearlin.experiments.training import Interrupted, Snapshot, Trainer, _source, _summary

FILE, PLOT = "compare.json", "compare.png"
DEFAULT = ("near-linear-gauss-newton", "gram-gauss-newton", "sgd", "adam")


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` returns: ``results`` maps optimizer names to `Result`; the others are paths, or None if not written."""

    results: dict
    folder: Path | None = None
    json: Path | None = None
    plot: Path | None = None

    def print(self):
        """Print a row per optimizer to the terminal."""
        from nearlin.experiments.report import print_comparison

        print_comparison(self)


def compare(data, optimizers=DEFAULT, *, epsilon=None, lr=None, out=None, progress=True, **options):
    """Train from the same initial weights on the same problem with each optimizer.

    Parameters
    ----------
    data : str, path, Dataset, or (x, y)
        As for `train`.
    optimizers : sequence of str
        Keys of `OPTIMIZERS`.
    epsilon, lr : float or dict, optional
        One value for every optimizer that has this hyper-parameter, or a dict from optimizer names to values.
    out : str or path, optional
        Folder for ``compare.json`` and ``compare.png``; it must not hold an earlier comparison. Nothing is written without it.
    progress : bool
        A live line on a terminal (needs rich).
    **options
        Every other option of `train` that is a field of `Config` (steps, tol, width, ...).

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError, TypeError, OSError
        As for `train`.
    KeyboardInterrupt
        Ctrl-C, after the optimizers that are complete, and the steps of the one that is not, have been written.
    """
    optimizers = _checked(optimizers)
    unknown = [name for name in options if name not in {f.name for f in dataclasses.fields(Config)}]
    if unknown:
        raise TypeError(f"compare has no option {unknown[0]!r}")
    made = {
        name: make_optimizer(name, epsilon=_option("epsilon", epsilon, name, optimizers), lr=_option("lr", lr, name, optimizers))
        for name in optimizers
    }
    problem, config = build(data, Config(**explicit(options), **_source(data)))
    folder = None if out is None else folders.claim(out, FILE)
    params = problem.network.init(key=config.seed, like=problem.train[0])
    results, failures = {}, {}
    try:
        for name, optimizer in made.items():
            configured = dataclasses.replace(config, optimizer=name)
            start = Snapshot(0, params, optimizer.init(params, problem.objective))
            try:
                results[name] = Trainer(configured, problem, optimizer, start).run(progress)
            except (ArithmeticError, RuntimeError, ValueError) as error:
                failures[name] = error
    except Interrupted as interruption:
        results[name] = interruption.result
        path = _write(results, folder).json
        where = "nothing was written, as no folder was given" if path is None else f"what was done is in {path}"
        raise KeyboardInterrupt(f"Interrupted in {name} after {interruption.result.steps} complete steps; {where}") from None
    if not results:
        raise next(iter(failures.values()))
    done = _write(results, folder)
    if failures:
        sentences = "; ".join(f"{name} failed: {error}" for name, error in failures.items())
        where = "" if done.json is None else f" ({', '.join(results)} finished and are in {done.json})"
        raise ValueError(f"{sentences}{where}")
    return done


def _checked(optimizers):
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


def _write(results, folder):
    if folder is None:
        return Comparison(results)
    content = {
        name: {"header": _header(result), **_summary(result), "records": result.records} for name, result in results.items()
    }
    text = json.dumps(folders.plain(content), allow_nan=False, indent=1)
    write_atomically(folder / FILE, lambda file: file.write(text.encode()))
    return Comparison(results, folder, folder / FILE, _plot(results, folder / PLOT))


def _header(result):
    return {"config": result.config.to_dict(), "optimizer": repr(result.optimizer), "data": result.problem.describe()}


def _plot(results, path):
    try:
        from nearlin.experiments.plots import plot_comparison
    except ImportError:
        return None
    return plot_comparison(results, path)
