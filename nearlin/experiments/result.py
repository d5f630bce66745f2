"""What a run returns, and the sentence that says how it ended."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from nearlin import nn
from nearlin._array import asarray, to_numpy
from nearlin.data import load_features
from nearlin.data.frames import is_frame
from nearlin.experiments.config import Config
from nearlin.experiments.folders import quoted
from nearlin.experiments.problems import Problem, values_of
from nearlin.experiments.stopping import FALL, PATIENCE, WINDOW


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What `train` returns.

    ``ended`` is ``"converged"`` (the tolerance was reached), ``"steps"`` (all were taken), ``"stalled"`` (no step of an epoch
    found anything to gain), ``"validation"`` (it was best some steps ago), ``"plateau"`` (the training loss hardly falls),
    ``"non-finite"``, ``"time limit"`` or ``"interrupted"``, and ``message`` says it in a sentence. With validation, ``params``
    and all errors are those after ``best_step`` steps, where it was best; ``state`` is that of the last one.
    ``records`` are plain dicts with the fields of `Record`.
    ``folder``, ``checkpoint``, ``log`` and ``plot`` are paths, or None where nothing was written; ``unwritten`` holds a sentence
    for each file that could not be, and for a checkpoint that lies elsewhere. ``waited`` are the seconds that each of several
    ranks has waited for others.
    """

    config: Config
    problem: Problem
    optimizer: object
    params: tuple
    state: object
    records: tuple
    steps: int
    initial_loss: float
    final_loss: float
    relative_residual: float | None
    train_error: object
    test_error: object
    ended: str
    message: str
    seconds: float
    final_test_loss: float | None = None
    validation_error: object = None
    best_step: int | None = None
    statistics: tuple = ()
    folder: Path | None = None
    checkpoint: Path | None = None
    log: Path | None = None
    plot: Path | None = None
    unwritten: tuple = ()
    waited: tuple | None = None

    def predict(self, x):
        """Network outputs (n,) or (n, c) in the units of the data, for NumPy inputs (n, d) in the units of the data.

        Of a frame, the columns that the network was trained with, in any order; its targets, if it has them, are left out.
        Of a recipe: the outputs (n, c) themselves, for inputs as the recipe has them.
        """
        if self.problem.recipe:
            x = asarray(x, like=self.params[0], dtype="int64" if self.problem.train[0].ndim == 1 else None)
            network = nn.Objective(self.problem.network, self.problem.objective.loss, self.statistics).evaluation().network
            return to_numpy(network.forward(self.params, x)[0])
        steps = self.problem.preprocessing
        x = self._features(x) if is_frame(x) else to_numpy(x)
        x = asarray(steps.inputs(x, keep_zero=True), like=self.params[0])
        return values_of(self.problem.network.forward(self.params, x)[0], steps)

    def _features(self, frame):
        """The inputs (n, d) in a frame."""
        names = self.problem.target_names or (self.problem.target_name,)
        present = [name for name in names if name in map(str, frame.columns)]
        return load_features(frame, present or None, self.problem.feature_names)

    def summary(self):
        """The end of the run as plain values, for JSON."""
        names = ("ended", "message", "steps", "initial_loss", "final_loss", "final_test_loss", "relative_residual", "seconds")
        errors = ("train_error", "test_error", "validation_error")
        return {
            **{name: getattr(self, name) for name in (*names, "best_step")},
            **{name: getattr(self, name) and getattr(self, name)._asdict() for name in errors},
        }

    def print(self, all_steps=False):
        """Print the table of steps, in the middle of a long run only with ``all_steps``, and the errors to the terminal."""
        from nearlin.experiments.report import print_result

        print_result(self, all_steps=all_steps)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during training; ``result`` holds the last complete step, and the message says where its checkpoint lies."""

    def __init__(self, result):
        super().__init__(result.message)
        self.result = result


def message(result, batches):
    """How the run ended, in a sentence."""
    config, steps, path = result.config, result.steps, result.checkpoint
    s = "s" * (steps != 1)
    relative, loss = result.relative_residual, result.final_loss
    at = _loss(result) if relative is None else f"the relative residual is {relative:.2e}"
    if result.best_step not in (None, steps) and result.ended in ("converged", "stalled", "plateau", "steps", "time limit"):
        at = f"validation was best after step {result.best_step}, whose weights are kept: there {at}"
    aim = "" if relative is None else f" ({_aim(result)})"
    if result.ended == "converged":
        return f"Converged after {steps} step{s}: {at}{aim}."
    if result.ended == "stalled":
        where = "" if batches.full else " in every batch of an epoch"
        return f"Stopped after {steps} step{s}: {result.records[-1]['reason']}{where}; {at}."
    if result.ended == "validation":
        span = f"{PATIENCE} {'steps' if batches.full else 'epochs'}"
        kept = f"kept are the weights after step {result.best_step}, where {at}"
        return f"Stopped after {steps} step{s}: validation found nothing better in {span}; {kept}."
    if result.ended == "plateau":
        window = f"{WINDOW} steps" if batches.full else f"{PATIENCE} epochs"
        return f"Stopped after {steps} step{s}: the training loss fell by less than {FALL:g} of itself in {window}; {at}."
    if result.ended == "non-finite":
        kept = f"the last finite parameters are kept ({at})" if math.isfinite(loss) else "a smaller --lr may help"
        return f"Stopped at step {max(steps - 1, 0)}: the loss is no longer finite; {kept}."
    if result.ended == "time limit":
        return f"Stopped after {steps} step{s} at the time limit of {config.time_limit:g} s of processor time: {at}."
    if result.ended == "interrupted":
        if not steps:
            return "Interrupted before the first step; nothing was written"
        nothing = "nothing was written, as no folder was given" if result.folder is None else "no checkpoint could be written"
        where = f"the checkpoint is {quoted(path)}; continue with --resume {quoted(path)}" if path else nothing
        return f"Interrupted after {steps} complete step{s}; {where}"
    return f"Took {'all ' * (steps > 1)}{steps} step{s}; {at}{aim}."


def _loss(result):
    """The loss beside the least possible one, as far as the dtype tells them apart."""
    loss, least = result.final_loss, result.problem.least
    if not least:
        return f"the loss is {loss:.4g}"
    if abs(loss - least) <= 8 * np.finfo(result.config.dtype).eps * least:
        return f"the loss is the least possible, {least:.4g}, to the digits of {result.config.dtype}"
    return f"the loss is {loss - least:.4g} above the least possible"


def _aim(result):
    """The tolerance, or the least relative residual where the targets of equal rows keep it above."""
    least = math.sqrt(result.problem.least / result.initial_loss) if result.initial_loss else 0.0
    return f"least possible {least:.2e}" if least > result.config.tol else f"tolerance {result.config.tol:g}"
