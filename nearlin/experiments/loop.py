"""The training loop: steps, their records, and an orderly end."""

import contextlib
import dataclasses
import math
import time
from collections import Counter
from datetime import UTC, datetime
from typing import NamedTuple

from nearlin import nn
from nearlin._array import fold_in, gpu_facts, namespace, on_gpu, synchronize, unguarded
from nearlin.experiments.batches import Batches
from nearlin.experiments.config import Config
from nearlin.experiments.environment import threads, versions
from nearlin.experiments.folders import quoted, shielded
from nearlin.experiments.problems import Problem
from nearlin.experiments.progress import bar
from nearlin.experiments.records import Record, gradients, line, no_way_on, relative, told
from nearlin.experiments.registry import fields
from nearlin.experiments.result import Interrupted, Result, message
from nearlin.experiments.stopping import Best, ended, improves
from nearlin.experiments.teams import ALONE


class Setup(NamedTuple):
    """What a run works with, all of it made from its options."""

    config: Config
    problem: Problem
    optimizer: object
    batches: Batches


class Snapshot(NamedTuple):
    """The last complete step: replaced as a whole, so that an interruption finds a consistent one."""

    step: int
    params: tuple
    state: object
    statistics: tuple = ()
    best: Best | None = None

    @property
    def kept(self):
        """What the run would return: the `Best`, or without validation the last step."""
        return self.best or Best(self.step, self.params, self.statistics)


class Trainer:
    """A run in progress. `run` takes the steps; ``snapshot`` and ``records`` are what there is so far."""

    def __init__(self, setup, snapshot, header=None, records=(), team=ALONE):
        self.config, self.problem, self.optimizer, self.batches = setup
        self.team, self._asked = team, lambda: False
        self.snapshot, self.records = snapshot, list(records)
        self.cpu_seconds = sum(record["cpu_seconds"] for record in self.records)  # of the steps so far, all threads together
        self.objective, self._compiled = self._counted(), not on_gpu(self.problem.like)
        self.header = header or self._header()
        self.initial_loss = self.header["initial_loss"]
        self.folder = None

    @unguarded()
    def _header(self):
        initial_loss = training_loss(self.problem, self.snapshot.params)
        return {
            "started": datetime.now(UTC).isoformat(),
            "versions": versions(),
            "threads": threads(self.config.backend),
            "gpu": gpu_facts(self.problem.like),
            "config": self.config.to_dict(),
            "optimizer": {"text": repr(self.optimizer), "fields": fields(self.optimizer)},
            "data": self.problem.describe(),
            "parameters": sum(math.prod(W.shape) for W in self.snapshot.params),
            "initial_loss": initial_loss,
            **({"ranks": {"by": self.team.by, "processes": self.team.processes()}} if self.team.several else {}),
        }

    def write_to(self, folder):
        """Write the log, and later the checkpoint and the plot, into a `RunFolder`."""
        self.folder = folder
        folder.begin(self.records)

    @unguarded()
    def run(self, progress=True, ended=None):
        """Take the steps that are left, none where it has ``ended``; returns the `Result`, raises `Interrupted` on Ctrl-C.

        ``progress`` may also be a function of the share of the steps that is done, and of the `Record` of the last one.
        """
        with self.team.signals() as self._asked:
            try:
                with _live(self, progress) as live:
                    ended = ended or self._reached() or self._steps(live)
            except KeyboardInterrupt:
                ended = ended or "interrupted"
            except Exception as error:
                if self.folder is not None and self.snapshot.step:
                    with contextlib.suppress(Exception):
                        path = self.folder.save_last(**self._tree())
                        error.add_note(f"(the checkpoint of the {self.snapshot.step} complete steps is {path})")
                raise
            with shielded():
                result = self._finish(ended)
        if ended == "interrupted":
            raise Interrupted(result)
        return result

    def promise(self):
        """What Ctrl-C would leave now."""
        if self.folder is None:
            return "Ctrl-C ends the run; the exception that it raises holds the complete steps"
        if not self.snapshot.step:
            return "Ctrl-C ends the run before its first step, and leaves nothing"
        return f"Ctrl-C ends the run, and leaves its complete steps in {quoted(self.folder.checkpoint)}, for --resume"

    @unguarded()
    def again(self, ended):
        """The `Result` of the steps so far, with log and plots made again; the checkpoint is there."""
        result = self._result(ended, self.folder.checkpoint)
        return self.folder.finish(result)

    def _steps(self, live):
        while self.snapshot.step < self.config.steps:
            if ended := self.team.first(self._after(*self._step(), live)):
                return ended
        return "steps"

    def _after(self, record, after, live):
        """Note a step; why the run ends with it, or None. Times and signals are this rank's."""
        if not all(math.isfinite(loss) for loss in (record.loss, record.loss_after) if loss is not None):
            self._note(record, self.snapshot._replace(step=after.step))
            return "non-finite"
        self._note(record, after)
        live(record)
        if self.folder is not None and self.folder.every and after.step % self.folder.every == 0:
            self.folder.save(**self._tree())
        if ended := self._reached():
            return ended
        if self._stalled():
            return "stalled"
        if self.config.time_limit and self.cpu_seconds >= self.config.time_limit:
            return "time limit"
        if not record.accepted and record.inner_iterations is None:
            return "non-finite"  # the only reason for which a first-order step is refused, and it would be again
        return "interrupted" if self._asked() else None

    def _counted(self):
        return nn.Counted(dataclasses.replace(self.problem.objective, statistics=self.snapshot.statistics))

    def _taken(self, objective, batch):
        """Parameters, state and info of the next step, its seconds, and those of all threads."""
        t, params, state, *_ = self.snapshot
        begun, cpu = time.perf_counter(), time.process_time()
        new, state, info = self.optimizer.step(params, state, objective, batch, key=fold_in(self.config.seed, t))
        synchronize(new[0])
        return new, state, info, time.perf_counter() - begun, time.process_time() - cpu

    def _step(self):
        t, best = self.snapshot.step, self.snapshot.best
        batch, asked = self.batches(t), Counter(self.objective.calls)
        first = None if self._compiled else self._taken(self._counted(), batch)[3]
        new, state, info, seconds, cpu = self._taken(self.objective, batch)
        self._compiled = True
        self.objective = self.objective.observe(self.objective.statistics_seen)
        record = Record(
            step=t,
            **self._losses_after(t, new, info),
            **told(info),
            seconds=seconds,
            cpu_seconds=cpu,
            gradients=gradients(self.objective.calls - asked),
            compilation=None if first is None else max(0.0, first - seconds),
        )
        if improves(self.records, record):
            best = Best(t + 1, new, self.objective.statistics)
        return record, Snapshot(t + 1, new, state, self.objective.statistics, best)

    def evaluated(self, statistics):
        """The problem as it is evaluated: normalisation layers use the running statistics."""
        if not statistics:
            return self.problem
        objective = dataclasses.replace(self.problem.objective, statistics=statistics)
        return dataclasses.replace(self.problem, objective=objective.evaluation())

    def _losses_after(self, t, params, info):
        """Losses of training and test set after step t, and ratios of residuals: None inside an epoch, NaN if not finite."""
        problem, loss, test_loss, validation = self.evaluated(self.objective.statistics), None, None, (None, None)
        if not _finite(params):
            loss = math.nan
        elif self.batches.ends_epoch(t):
            known = getattr(info, "new_loss", None) if self.batches.full and not problem.recipe else None
            loss = training_loss(problem, params) if known is None else float(known)
            test_loss = problem.loss(params, problem.test) if problem.recipe else None
            validation = problem.validate(params)
        squared = loss is not None and problem.squared
        return {
            "loss_after": loss,
            "test_loss": test_loss,
            "relative_residual": relative(loss, self.initial_loss) if squared else None,
            "contraction": relative(loss, float(info.loss)) if squared and problem.wide and self.batches.full else None,
            "validation_loss": validation[0],
            "validation_wrong": validation[1],
        }

    def _note(self, record, snapshot):
        record = record._asdict()
        self.records.append(record)
        self.cpu_seconds += record["cpu_seconds"]
        self.snapshot = snapshot
        if self.folder is not None:
            self.folder.note(record)

    def _reached(self):
        """Why the run is at its end: ``"converged"`` where the training set's last known residual is at most the tolerance."""
        if self.initial_loss == self.problem.least:
            return "converged"
        if not math.isfinite(self.initial_loss):
            return "non-finite"
        last = self.records[-1]["relative_residual"] if self.records else 1.0
        if last is not None and last <= self.config.tol:
            return "converged"
        return ended(self.records, self.initial_loss, self.batches.full) if self.problem.stops else None

    def _stalled(self):
        """Whether as many steps in a row as an epoch has have stalled: one mini-batch says nothing about the others."""
        last = self.records[-self.batches.per_epoch :]
        return len(last) == self.batches.per_epoch and all(map(no_way_on, last))

    def _tree(self, ended=None):
        """What the checkpoint holds beside the header."""
        return {
            **self.snapshot._asdict(),
            "seed": self.config.seed,
            "config": self.config.to_dict(),
            "preprocessing": self.problem.preprocessing.to_dict(),
            "records": self.records,
            "ended": None if ended == "interrupted" else ended,
        }

    def _finish(self, ended):
        del self.records[self.snapshot.step :]  # of a step that was interrupted between its record and its snapshot
        if self.folder is None or (ended == "interrupted" and not self.snapshot.step):
            return self._result(ended)
        result = self._result(ended, self.folder.save_last(**self._tree(ended)))
        return self.folder.finish(result, draw=ended != "interrupted")

    def _result(self, ended, checkpoint=None):
        step, params, statistics = self.snapshot.kept
        problem = self.evaluated(statistics)
        known = self.records and step == self.snapshot.step and self.records[-1]["loss_after"]
        loss = known if known and math.isfinite(known) else training_loss(problem, params)
        result = Result(
            config=self.config,
            problem=self.team.whole(self.problem),
            optimizer=self.optimizer,
            params=params,
            state=self.snapshot.state,
            records=tuple(self.records),
            steps=self.snapshot.step,
            initial_loss=self.initial_loss,
            final_loss=loss,
            relative_residual=relative(loss, self.initial_loss) if problem.squared else None,
            train_error=problem.error(params, problem.train),
            test_error=problem.error(params, problem.test),
            validation_error=problem.error(params, problem.validation),
            best_step=self.snapshot.best and step,
            ended=ended,
            message="",
            final_test_loss=problem.loss(params, problem.test) if problem.recipe else None,
            statistics=statistics,
            seconds=sum(record["seconds"] for record in self.records),
            folder=None if self.folder is None else self.folder.path,
            checkpoint=checkpoint,
            waited=self.team.waited(),
        )
        return dataclasses.replace(result, message=message(result, self.batches))


def training_loss(problem, params):
    """Loss on the whole training set as a float; NaN where the parameters are not finite."""
    return problem.loss(params, problem.train, penalty=True) if _finite(params) else math.nan


def _finite(params):
    return all(bool(namespace(W).all(namespace(W).isfinite(W))) for W in params)


@contextlib.contextmanager
def _live(trainer, progress):
    """A context that yields ``live(record)``: a bar of steps, or of seconds where these are limited."""
    limit = trainer.config.time_limit
    total = limit or trainer.config.steps
    done = lambda step: min(trainer.cpu_seconds, limit) if limit else step  # noqa: E731
    counter = (lambda done: f"{done:.0f}/{limit:g} s") if limit else (lambda done: f"step {done}/{total}")
    if callable(progress):
        yield lambda record: progress(done(record.step + 1) / total, record)
        return
    with bar(total, counter, trainer.promise, done(trainer.snapshot.step), progress) as show:
        yield lambda record: show(done(record.step + 1), line(record))
