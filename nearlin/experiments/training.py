"""The training loop: steps, records, checkpoints, and an orderly end."""

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nearlin import nn, steps
from nearlin._array import asarray, fold_in, namespace, permutation, synchronize, to_numpy
from nearlin.data import augment
from nearlin.experiments import checkpoint, folders
from nearlin.experiments.config import BY_DEFAULT, Config, differences, explicit
from nearlin.experiments.environment import versions
from nearlin.experiments.problems import Problem, build
from nearlin.experiments.registry import LEAST_SQUARES, OPTIMIZERS, default_lr, make_optimizer, takes_schedules

LOG, CHECKPOINT, PLOT, LAYERS, CURVATURE = "run.jsonl", "checkpoint.npz", "run.png", "layers.png", "curvature.png"
_SHUFFLE, _AUGMENT, _WARM = 0x73687566666C65, 0x6175676D, 0x7761726D  # keep these streams apart from other users of the same seed
GRADIENTS = {"forward": 1 / 3, "backward": 2 / 3, "jvp": 2 / 3, "matvec": 1 / 3, "rmatvec": 1 / 3, "gram_matvec": 2 / 3}


class Record(NamedTuple):
    """One step.

    ``loss`` is that of the batch before the step, ``loss_after`` and ``relative_residual`` (‖r‖ / ‖r₀‖, for the squared loss)
    those of the whole training set after it (with mini-batches at the end of an epoch, None elsewhere), ``test_loss`` that of the
    test set (of recipes, at the same steps), ``contraction`` the ratio of ‖r‖ after and before (full batch alone). The fields
    from ``inner_iterations`` to ``condition`` come from the step's certificate and are None for other methods. ``seconds`` is
    the time of the step alone, ``cpu_seconds`` that of all threads together, and ``gradients`` what was asked of the objective
    in units of one gradient (a forward pass counts 1/3; Gram matrices are left out). ``layer`` is the one that a method which
    changes one layer a step has chosen, ``guarantee`` by how much the batch's loss was certain to fall, and ``decrease`` by how
    much it fell, where the method has looked. ``attempts`` counts the solves of a guarded step, the rejected ones included;
    ``side``, ``plan`` and ``effective_dimension`` (None where nothing estimates it) are those of a method that chooses its route.
    """

    step: int
    loss: float
    loss_after: float | None
    relative_residual: float | None
    contraction: float | None
    inner_iterations: int | None
    products: int | None
    inner_residual: float | None
    inner_reason: str | None
    preconditioner: str | None
    refreshed: bool | None
    condition: float | None
    damping: float | None
    accepted: bool
    reason: str
    seconds: float
    test_loss: float | None
    cpu_seconds: float
    gradients: float
    layer: int | None = None
    guarantee: float | None = None
    decrease: float | None = None
    attempts: int | None = None
    side: str | None = None
    plan: str | None = None
    effective_dimension: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What `train` returns.

    ``ended`` is ``"converged"`` (the tolerance was reached), ``"steps"`` (all were taken), ``"stalled"`` (no step of an epoch
    found anything to gain), ``"non-finite"``, ``"time limit"`` or ``"interrupted"``, and ``message`` says it in a sentence.
    ``records`` are plain dicts with the fields of `Record`.
    ``folder``, ``checkpoint``, ``log`` and ``plot`` are paths, or None where nothing was written.
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
    statistics: tuple = ()
    folder: Path | None = None
    checkpoint: Path | None = None
    log: Path | None = None
    plot: Path | None = None

    def predict(self, x):
        """Network outputs (n,) in the units of the data, for NumPy inputs (n, d) in the units of the data.

        Of a recipe: the outputs (n, c) themselves, for inputs as the recipe has them.
        """
        if self.problem.recipe:
            x = asarray(x, like=self.params[0], dtype="int64" if self.problem.train[0].ndim == 1 else None)
            network = nn.Objective(self.problem.network, self.problem.objective.loss, self.statistics).evaluation().network
            return to_numpy(network.forward(self.params, x)[0])
        steps = self.problem.preprocessing
        x = asarray(steps.inputs(to_numpy(x)), like=self.params[0])
        point = self.problem.objective.at(self.params, (x, x[:, 0]))
        return steps.untargets(to_numpy(point.outputs)[:, 0])

    def print(self):
        """Print the table of steps and the errors to the terminal."""
        from nearlin.experiments.report import print_result

        print_result(self)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during training; ``result`` holds the last complete step, and the message says where its checkpoint lies."""

    def __init__(self, result):
        super().__init__(result.message)
        self.result = result


def train(
    data=None,
    *,
    optimizer=None,
    target=None,
    task=None,
    test_fraction=BY_DEFAULT.test_fraction,
    center=BY_DEFAULT.center,
    scale=BY_DEFAULT.scale,
    normalize=BY_DEFAULT.normalize,
    standardize=None,
    width=BY_DEFAULT.width,
    activation=None,
    epsilon=None,
    lr=None,
    lr_factor=None,
    lr_period=None,
    damping=None,
    settings=BY_DEFAULT.settings,
    batch_size=None,
    backend=BY_DEFAULT.backend,
    dtype=None,
    steps=None,
    epochs=None,
    time_limit=None,
    tol=BY_DEFAULT.tol,
    seed=BY_DEFAULT.seed,
    data_dir=None,
    out=None,
    checkpoint_every=0,
    resume=None,
    progress=True,
):
    """Fit a wide two-layer network to data, or the network of a recipe to its data, and return the `Result`.

    Parameters
    ----------
    data : str, path, Dataset, or (x, y)
        A recipe (`RECIPES`), a name (`nearlin.data.NAMES`) or file for `nearlin.data.load`, a `Dataset`, or a pair of arrays
        (n, d) and (n,) of any backend. Arrays are used as they are: on their own backend, device and dtype, without
        preprocessing; ``backend`` and ``dtype`` are theirs. May be omitted with ``resume`` where the checkpoint knows the name
        or file.
    optimizer : str, optional
        A key of `OPTIMIZERS`; by default near-linear-gauss-newton, and on recipes, whose losses are no least squares, adam.
    target, task : str, optional
        Target column of a ``.csv`` file; ``"regression"`` or ``"classification"`` where the file does not tell.
    test_fraction : float
        Share of the rows kept for testing; 0 for none.
    center, scale, normalize, standardize : bool
        Preprocessing of names, files and data sets; see `Preprocessing.fit`.
    width, activation
        Neurons, and ``relu``, ``tanh``, ``sigmoid``, ``softplus`` or ``identity``; by default the recipe's, or relu.
    epsilon, lr, damping : float, optional
        Inner accuracy, step size and damping; by default those of the optimizer.
    lr_factor, lr_period : float and int, optional
        Multiply the step size by ``lr_factor`` every ``lr_period`` epochs.
    settings : tuple of (name, value)
        Other hyper-parameters of the optimizer: fields of its dataclass.
    batch_size : int or "all", optional
        Rows per shuffled mini-batch; all rows by default, or what the recipe says. ``steps`` then counts mini-batches, and losses
        of the whole training set are evaluated at the ends of epochs. Recipes drop the incomplete batch of an epoch.
    backend : {"numpy", "cupy", "torch", "array_api_strict"}
    dtype : {"float64", "float32"}, optional
        By default float64, or what the recipe says.
    steps, epochs : int, optional
        Total number of steps, or of epochs, those before a resumed checkpoint included; 12 steps by default, or what the recipe
        says.
    time_limit : float, optional
        End after so many seconds of processor time in steps, all threads together, evaluation and warm start left out.
    tol : float
        Stop when ‖r_t‖ / ‖r_0‖ on the training set is at most this.
    seed : int
        Of the split, the initial weights, the order of mini-batches, and (folded with t) of step t.
    data_dir : str or path, optional
        Folder with the files of a recipe that reads some.
    out : str or path, optional
        Folder for ``run.jsonl`` (a header line, a line per step, an end line), ``checkpoint.npz`` and ``run.png``; it must not
        hold an earlier run. Nothing is written without it. Methods with a damping add ``curvature.png`` (damping, effective
        dimension, inner iterations and route of every step), those that change one layer a step ``layers.png``. Plots need
        matplotlib and are left out without it.
    checkpoint_every : int
        Write the checkpoint every so many steps besides the end; 0 for the end alone.
    resume : str or path, optional
        A checkpoint to continue; it brings its options. Options that are given here and contradict it are refused, also those
        that equal a default; steps, epochs, time_limit, tol and where the data lies may change. The continuation equals an
        uninterrupted run bit for bit on the same backend and machine.
    progress : bool
        A live line on a terminal (needs rich).

    Returns
    -------
    Result

    Raises
    ------
    ValueError, TypeError, OSError
        Bad options, data (`DataError`), backends (`BackendError`), checkpoints (`CheckpointError`) or folders, in one sentence.
    Interrupted
        Ctrl-C, after the checkpoint of the last complete step has been written (where ``out`` is given).
    """
    given = explicit({k: v for k, v in locals().items() if k not in ("data", "out", "checkpoint_every", "resume", "progress")})
    return run(data, given, out=out, checkpoint_every=checkpoint_every, resume=resume, progress=progress)


def run(data, given, *, out=None, checkpoint_every=0, resume=None, progress=True, announce=None):
    """`train`, with the options that were given as the dict ``given``; ``announce(trainer)`` is called before the first step."""
    if isinstance(checkpoint_every, bool) or not isinstance(checkpoint_every, int) or checkpoint_every < 0:
        raise ValueError(f"checkpoint_every is {checkpoint_every!r}; expected a non-negative integer")
    if checkpoint_every and out is None:
        raise ValueError("checkpoint_every needs a folder: give out")
    trainer = resumed(resume, data, given) if resume else start(data, Config(**given, **_source(data)))
    if out is not None:
        trainer.write_to(_folder(out, resume, trainer), checkpoint_every)
    if announce is not None:
        announce(trainer)
    return trainer.run(progress)


def _source(data):
    if data is None:
        raise ValueError("no data: give a name, a file, a Dataset, a pair of arrays (x, y), or a checkpoint to resume")
    return {"data": str(data)} if isinstance(data, str | Path) else {}


def _folder(out, resume, trainer):
    header = folders.read_header(Path(out) / LOG)
    same_place = resume is not None and Path(resume).resolve().parent == Path(out).resolve()
    if same_place and header is not None and header.get("started") == trainer.header["started"]:
        return folders.writable(out)
    return folders.claim(out, LOG)


def start(data, config):
    """A `Trainer` at step 0."""
    problem, config = build(data, config)
    optimizer = configured(config, problem)
    params = problem.network.init(key=config.seed, like=_like(problem))
    return Trainer(config, problem, optimizer, starting(optimizer, problem, config, params))


def configured(config, problem):
    """The optimizer of a run, with its schedule in steps."""
    if config.optimizer in LEAST_SQUARES and not _squared(problem):
        loss, known = type(problem.objective.loss).__name__, (*LEAST_SQUARES, "gauss-newton")
        raise ValueError(
            f"{config.optimizer} is for least squares, and {problem.name} has a {loss}; expected gauss-newton, which takes every "
            f"loss, or {', '.join(name for name in OPTIMIZERS if name not in known)}"
        )
    lr = config.lr
    if config.lr_factor is not None:
        if not takes_schedules(config.optimizer):
            raise ValueError(f"{config.optimizer} takes one step size for all steps; expected neither lr_factor nor lr_period")
        period = config.lr_period * Batches(problem, config.batch_rows, config.seed).per_epoch
        lr = steps.StepDecay(default_lr(config.optimizer) if lr is None else lr, config.lr_factor, period)
    settings = dict(config.settings)
    named = {"epsilon": config.epsilon, "lr": lr, "damping": config.damping}
    if twice := [name for name, value in named.items() if value is not None and name in settings]:
        raise ValueError(f"{twice[0]} is given twice; expected it once")
    named = {name: value for name, value in named.items() if value is not None}
    return _for_batches(make_optimizer(config.optimizer, **settings, **named), config, problem)


def _for_batches(optimizer, config, problem):
    """The optimizer, unless it needs all rows in every step and does not get them."""
    if getattr(optimizer, "whole_batch", False) and not Batches(problem, config.batch_rows, config.seed).full:
        rows = problem.train[0].shape[0]
        raise ValueError(
            f"{config.optimizer} guarantees the decrease of the loss of all {rows} rows, and a step takes {config.batch_size}; "
            f"expected --batch-size {rows}, or --set form=stochastic with --lr below 1"
        )
    return optimizer


def starting(optimizer, problem, config, params):
    """The `Snapshot` at step 0, after the pass over the training set that some methods begin with."""
    state = optimizer.init(params, problem.objective)
    batches = Batches(problem, config.batch_rows, config.seed)
    if hasattr(optimizer, "warm_start") and not batches.full:
        with np.errstate(over="ignore", invalid="ignore"):
            state = optimizer.warm_start(params, state, problem.objective, batches.in_order(), fold_in(config.seed, _WARM))
    return Snapshot(0, params, state)


def _like(problem):
    """An array of floats of the problem's backend, device and dtype."""
    return next(a for a in (*problem.train, getattr(problem.network, "H", None)) if a is not None and "float" in str(a.dtype))


def resumed(path, data, given):
    """A `Trainer` where the checkpoint at ``path`` left off."""
    saved = checkpoint.load(path)
    config = _resumed_config(path, saved, given)
    data = config.data if data is None else data
    if data is None:
        raise ValueError(f"{path} was trained on arrays or a Dataset; give the same data to resume")
    problem, config = build(data, dataclasses.replace(config, **(_source(data))))
    optimizer = configured(config, problem)
    found, expected = problem.fingerprint, saved["header"]["data"]["fingerprint"]
    if found != expected:
        raise ValueError(f"{problem.name} is not the data that {path} was trained on (fingerprint {found}, expected {expected})")
    if _fields(optimizer) != saved["header"]["optimizer"]["fields"]:
        raise ValueError(f"{path} was trained by {saved['header']['optimizer']['text']}; this version has {optimizer!r}")
    if config.steps <= saved["step"]:
        raise ValueError(
            f"{path} stands at step {saved['step']} of {config.steps}; give a larger total number of steps (--steps)"
        )
    saved = checkpoint.next_to(saved, _like(problem))
    snapshot = Snapshot(saved["step"], saved["params"], saved["state"], saved["statistics"] or ())
    return Trainer(config, problem, optimizer, snapshot, saved["header"], saved["records"])


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


class Snapshot(NamedTuple):
    """The last complete step: replaced as a whole, so that an interruption finds a consistent one."""

    step: int
    params: tuple
    state: object
    statistics: tuple = ()


class Trainer:
    """A run in progress. `run` takes the steps; ``snapshot`` and ``records`` are what there is so far."""

    def __init__(self, config, problem, optimizer, snapshot, header=None, records=()):
        self.config, self.problem, self.optimizer, self.snapshot = config, problem, optimizer, snapshot
        self.records = list(records)
        self.cpu_seconds = sum(record["cpu_seconds"] for record in self.records)  # of the steps so far, all threads together
        self.batches = Batches(problem, config.batch_rows, config.seed)
        self.objective = nn.Counted(dataclasses.replace(problem.objective, statistics=snapshot.statistics))
        self._new, self.header = header is None, header or self._header()
        self.initial_loss = self.header["initial_loss"]
        self.folder = self._log = None
        self._every = 0

    def _header(self):
        with np.errstate(over="ignore", invalid="ignore"):
            initial_loss = training_loss(self.problem, self.snapshot.params)
        return {
            "started": datetime.now(UTC).isoformat(),
            "versions": versions(),
            "config": self.config.to_dict(),
            "optimizer": {"text": repr(self.optimizer), "fields": _fields(self.optimizer)},
            "data": self.problem.describe(),
            "parameters": sum(math.prod(W.shape) for W in self.snapshot.params),
            "initial_loss": initial_loss,
        }

    def write_to(self, folder, checkpoint_every=0):
        """Write the log, and later the checkpoint and the plot, into ``folder``."""
        self.folder, self._every = folder, checkpoint_every
        self._log = folders.Log(folder / LOG, self.header, self.records)

    def run(self, progress=True):
        """Take the steps that are left; returns the `Result`, raises `Interrupted` on Ctrl-C."""
        try:
            with np.errstate(over="ignore", invalid="ignore"), _live(self, progress) as live:
                ended = self._reached() or self._steps(live)
            with np.errstate(over="ignore", invalid="ignore"):
                return self._finish(ended)
        except KeyboardInterrupt:
            with _shielded():
                result = self._finish("interrupted")
            raise Interrupted(result) from None
        except Exception as error:
            if self.folder is not None and self._new and not self.snapshot.step:
                self._discard()
            if self.folder is not None and self.snapshot.step:
                with contextlib.suppress(Exception):
                    self._save()
                    error.add_note(f"(the checkpoint of the {self.snapshot.step} complete steps is {self.folder / CHECKPOINT})")
            raise

    def _discard(self):
        """Leave nothing of a new run whose first step is refused."""
        with contextlib.suppress(OSError):
            (self.folder / LOG).unlink()
            self.folder.rmdir()

    def _steps(self, live):
        while self.snapshot.step < self.config.steps:
            record, after = self._step()
            if not all(math.isfinite(loss) for loss in (record.loss, record.loss_after) if loss is not None):
                self._note(record, self.snapshot._replace(step=after.step))
                return "non-finite"
            self._note(record, after)
            live(record)
            if self._every and after.step % self._every == 0:
                self._save()
            if ended := self._reached():
                return ended
            if self._stalled():
                return "stalled"
            if self.config.time_limit and self.cpu_seconds >= self.config.time_limit:
                return "time limit"
            if not record.accepted and record.inner_iterations is None:
                return "non-finite"  # the only reason for which a first-order step is refused, and it would be again
        return "steps"

    def _step(self):
        t, params, state, _ = self.snapshot
        batch, asked = self.batches(t), Counter(self.objective.calls)
        begun, cpu = time.perf_counter(), time.process_time()
        new, state, info = self.optimizer.step(params, state, self.objective, batch, key=fold_in(self.config.seed, t))
        synchronize(new[0])
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        self.objective = self.objective.observe(self.objective.statistics_seen)
        loss, test_loss = self._losses_after(t, new, info)
        record = _record(t, loss, self, info, seconds)
        record = record._replace(test_loss=test_loss, cpu_seconds=cpu, gradients=_gradients(self.objective.calls - asked))
        return record, Snapshot(t + 1, new, state, self.objective.statistics)

    def evaluated(self):
        """The problem as it is evaluated: normalisation layers use the running statistics."""
        if not self.objective.statistics:
            return self.problem
        return dataclasses.replace(self.problem, objective=self.objective.evaluation())

    def _losses_after(self, t, params, info):
        """Losses of training and test set after step t: NaN where parameters are not finite, None inside an epoch."""
        if not _finite(params):
            return math.nan, None
        if not self.batches.ends_epoch(t):
            return None, None
        problem = self.evaluated()
        known = getattr(info, "new_loss", None) if self.batches.full and not problem.recipe else None
        loss = training_loss(problem, params) if known is None else float(known)
        return loss, problem.loss(params, problem.test) if problem.recipe else None

    def _note(self, record, snapshot):
        record = record._asdict()
        self.records.append(record)
        self.cpu_seconds += record["cpu_seconds"]
        self.snapshot = snapshot
        if self._log is not None:
            self._log.write("step", record)

    def _reached(self):
        """``"converged"`` where the last known residual of the training set is at most the tolerance."""
        if self.initial_loss == self.problem.least:
            return "converged"
        if not math.isfinite(self.initial_loss):
            return "non-finite"
        last = self.records[-1]["relative_residual"] if self.records else 1.0
        return "converged" if last is not None and last <= self.config.tol else None

    def _stalled(self):
        """Whether as many steps in a row as an epoch has have stalled: one mini-batch says nothing about the others."""
        last = self.records[-self.batches.per_epoch :]
        return len(last) == self.batches.per_epoch and all(map(_no_way_on, last))

    def _save(self):
        checkpoint.save(
            self.folder / CHECKPOINT,
            params=self.snapshot.params,
            state=self.snapshot.state,
            statistics=self.snapshot.statistics,
            step=self.snapshot.step,
            seed=self.config.seed,
            config=self.config.to_dict(),
            preprocessing=self.problem.preprocessing.to_dict(),
            header=self.header,
            records=self.records,
        )

    def _finish(self, ended):
        del self.records[self.snapshot.step :]  # of a step that was interrupted between its record and its snapshot
        if self.folder is not None:
            self._save()
        result = self._result(ended)
        if self.folder is None:
            return result
        if ended != "interrupted":
            self._log.write("end", _summary(result))
            result = dataclasses.replace(result, plot=_plot(result))
        return result

    def _result(self, ended):
        params, problem = self.snapshot.params, self.evaluated()
        known = self.records and self.records[-1]["loss_after"]
        loss = known if known and math.isfinite(known) else training_loss(problem, params)
        relative = _relative(loss, self.initial_loss) if _squared(problem) else None
        path = None if self.folder is None else self.folder / CHECKPOINT
        return Result(
            config=self.config,
            problem=self.problem,
            optimizer=self.optimizer,
            params=params,
            state=self.snapshot.state,
            records=tuple(self.records),
            steps=self.snapshot.step,
            initial_loss=self.initial_loss,
            final_loss=loss,
            relative_residual=relative,
            train_error=problem.error(params, problem.train),
            test_error=problem.error(params, problem.test),
            ended=ended,
            message=_message(ended, self, relative, loss, path),
            final_test_loss=problem.loss(params, problem.test) if problem.recipe else None,
            statistics=self.snapshot.statistics,
            seconds=sum(record["seconds"] for record in self.records),
            folder=self.folder,
            checkpoint=path,
            log=None if self.folder is None else self.folder / LOG,
        )


class Batches:
    """Batch t of a run: all rows, or a shuffled mini-batch; the order of an epoch depends on (seed, epoch) alone."""

    def __init__(self, problem, size, seed):
        self._train, self._seed, self._augment = problem.train, seed, problem.augment
        rows = self._train[0].shape[0]
        if size is not None and size > rows:
            raise ValueError(f"batch_size is {size}; the training set has {rows} rows")
        self._rows, self._size = rows, size or rows
        self.full = self._size == rows
        self.per_epoch = rows // self._size if problem.recipe else -(-rows // self._size)

    def __call__(self, t):
        epoch, i = divmod(t, self.per_epoch)
        if self.full:
            return self._augmented(self._train, t)
        order = permutation(fold_in(self._seed, _SHUFFLE, epoch), self._rows, self._train[0])
        rows = order[i * self._size : (i + 1) * self._size]
        return self._augmented(tuple(namespace(a).take(a, rows, axis=0) for a in self._train), t)

    def _augmented(self, batch, t):
        if not self._augment:
            return batch
        x, y = batch
        return asarray(augment(to_numpy(x), fold_in(self._seed, _AUGMENT, t)), like=x), y

    def in_order(self):
        """The whole batches of the training set as it lies, one after the other."""
        for start in range(0, self._rows - self._size + 1, self._size):
            yield tuple(a[start : start + self._size, ...] for a in self._train)

    def ends_epoch(self, t):
        """Whether step t is the last of an epoch."""
        return (t + 1) % self.per_epoch == 0


def _gradients(calls):
    return sum(GRADIENTS.get(name, 0) * number for name, number in calls.items())


def _squared(problem):
    return isinstance(problem.objective.loss, nn.SquaredLoss)


def training_loss(problem, params):
    """Loss on the whole training set as a float; NaN where the parameters are not finite."""
    return problem.loss(params, problem.train) if _finite(params) else math.nan


def _finite(params):
    return all(bool(namespace(W).all(namespace(W).isfinite(W))) for W in params)


def _record(t, after, trainer, info, seconds):
    solve, loss, initial, full = info.solve, float(info.loss), trainer.initial_loss, trainer.batches.full
    squared, kept, plan = _squared(trainer.problem), getattr(info, "kept", ""), getattr(info, "plan", "")
    return Record(
        step=t,
        loss=loss,
        loss_after=after,
        relative_residual=None if after is None or not squared else _relative(after, initial),
        contraction=None if after is None or not full or not squared else _relative(after, loss),
        inner_iterations=None if solve is None else int(solve.iterations),
        products=None if solve is None else int(solve.products),
        inner_residual=None if solve is None else float(solve.residual),
        inner_reason=None if solve is None else str(solve.reason),
        preconditioner=None if solve is None else str(solve.preconditioner),
        refreshed=None if solve is None else bool(solve.refreshed),
        condition=None if solve is None or solve.condition is None else float(solve.condition),
        damping=None if getattr(info, "damping", None) is None else float(info.damping),
        accepted=bool(info.accepted),
        reason=f"{info.reason}; {kept}" if kept else str(info.reason),
        seconds=seconds,
        test_loss=None,
        cpu_seconds=0.0,
        gradients=0.0,
        layer=getattr(info, "layer", None),
        guarantee=getattr(info, "guarantee", None),
        decrease=getattr(info, "decrease", None),
        attempts=getattr(info, "attempts", None),
        side=info.side if plan else None,
        plan=plan or None,
        effective_dimension=_finite_or_none(info.effective_dimension) if plan else None,
    )


def _no_way_on(record):
    """Whether a step has stalled, or was refused before anything was tried."""
    return record["reason"].startswith("stalled") or (not record["accepted"] and record.get("attempts") == 0)


def has(records, field):
    """Whether any of the records tells ``field``."""
    return any(record.get(field) is not None for record in records)


def damped(records):
    """Whether the steps had a damping: then their curvature is drawn."""
    return any(record.get("damping") for record in records)


def route(record):
    """The name of the route that a record's plan took."""
    return record["plan"].partition(":")[0]


def _finite_or_none(value):
    return float(value) if math.isfinite(value) else None


def _relative(loss, reference):
    """‖r‖ / ‖r_ref‖ from two losses of the same data."""
    if not (math.isfinite(loss) and math.isfinite(reference)):
        return math.nan
    return math.sqrt(loss / reference) if reference > 0 else (0.0 if loss == 0 else math.inf)


def _fields(optimizer):
    return {f.name: repr(getattr(optimizer, f.name)) for f in dataclasses.fields(optimizer) if f.init}


def _message(ended, trainer, relative, loss, path):
    config, steps, least = trainer.config, trainer.snapshot.step, trainer.problem.least
    above = " above the least possible" if least else ""
    at = f"the loss is {loss - least:.4g}{above}" if relative is None else f"the relative residual is {relative:.2e}"
    aim = "" if relative is None else f" (tolerance {config.tol:g})"
    if ended == "converged":
        return f"Converged after {steps} steps: {at}{aim}."
    if ended == "stalled":
        where = "" if trainer.batches.full else " in every batch of an epoch"
        return f"Stopped after {steps} steps: {trainer.records[-1]['reason']}{where}; {at}."
    if ended == "non-finite":
        kept = f"the last finite parameters are kept ({at})" if math.isfinite(loss) else "a smaller --lr may help"
        return f"Stopped at step {max(steps - 1, 0)}: the loss is no longer finite; {kept}."
    if ended == "time limit":
        return f"Stopped after {steps} steps at the time limit of {config.time_limit:g} s of processor time: {at}."
    if ended == "interrupted":
        where = (
            f"the checkpoint is {path}; continue with --resume {path}" if path else "nothing was written, as no folder was given"
        )
        return f"Interrupted after {steps} complete steps; {where}"
    return f"Took all {steps} steps; {at}{aim}."


def _summary(result):
    errors = {name: getattr(result, name) and getattr(result, name)._asdict() for name in ("train_error", "test_error")}
    names = ("ended", "message", "steps", "initial_loss", "final_loss", "final_test_loss", "relative_residual", "seconds")
    return {**{name: getattr(result, name) for name in names}, **errors}


def _plot(result):
    try:
        from nearlin.experiments.plots import plot_curvature, plot_layers, plot_result
    except ImportError:
        return None
    if has(result.records, "layer"):
        plot_layers(result, result.folder / LAYERS)
    if damped(result.records):
        plot_curvature(result, result.folder / CURVATURE)
    return plot_result(result, result.folder / PLOT)


def _live(trainer, progress):
    if progress:
        with contextlib.suppress(ImportError):
            from nearlin.experiments.report import live

            return live(trainer)
    return contextlib.nullcontext(lambda record: None)


@contextlib.contextmanager
def _shielded():
    """A second Ctrl-C must not break the writing of the checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
