"""The training loop: steps, records, checkpoints, and an orderly end."""

import contextlib
import dataclasses
import math
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nearlin._array import asarray, fold_in, namespace, permutation, synchronize, to_numpy
from nearlin.experiments import checkpoint, folders
from nearlin.experiments.config import Config, differences, explicit
from nearlin.experiments.environment import versions
from nearlin.experiments.problems import Problem, build
from nearlin.experiments.registry import make_optimizer

LOG, CHECKPOINT, PLOT = "run.jsonl", "checkpoint.npz", "run.png"
_SHUFFLE = 0x73687566666C65  # keeps the order of mini-batches apart from other users of the same seed


class Record(NamedTuple):
    """One step.

    ``loss`` is that of the batch before the step, ``loss_after`` and ``relative_residual`` (‖r‖ / ‖r₀‖) those of the whole
    training set after it (with mini-batches at the end of an epoch, None elsewhere), ``contraction`` the ratio of ‖r‖ after
    and before (full batch alone). The fields from ``inner_iterations`` to ``condition`` come from the step's certificate and are
    None for first-order methods. ``seconds`` is the time of the step alone.
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


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What `train` returns.

    ``ended`` is ``"converged"`` (the tolerance was reached), ``"steps"`` (all steps were taken), ``"stalled"``, ``"non-finite"``
    or ``"interrupted"``, and ``message`` says it in a sentence. ``records`` are plain dicts with the fields of `Record`.
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
    relative_residual: float
    train_error: object
    test_error: object
    ended: str
    message: str
    seconds: float
    folder: Path | None = None
    checkpoint: Path | None = None
    log: Path | None = None
    plot: Path | None = None

    def predict(self, x):
        """Network outputs (n,) in the units of the data, for NumPy inputs (n, d) in the units of the data."""
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
    optimizer="near-linear-gauss-newton",
    target=None,
    task=None,
    test_fraction=0.2,
    center=True,
    scale=False,
    normalize=True,
    standardize=None,
    width=8192,
    activation="relu",
    epsilon=None,
    lr=None,
    batch_size=None,
    backend="numpy",
    dtype="float64",
    steps=12,
    tol=1e-8,
    seed=0,
    out=None,
    checkpoint_every=0,
    resume=None,
    progress=True,
):
    """Fit a wide two-layer network to data and return the `Result`.

    Parameters
    ----------
    data : str, path, Dataset, or (x, y)
        A name (`nearlin.data.NAMES`) or file for `nearlin.data.load`, a `Dataset`, or a pair of arrays (n, d) and (n,) of any
        backend. Arrays are used as they are: on their own backend, device and dtype, without preprocessing; ``backend`` and
        ``dtype`` are theirs. May be omitted with ``resume`` where the checkpoint knows the name or file.
    optimizer : str
        A key of `OPTIMIZERS`.
    target, task : str, optional
        Target column of a ``.csv`` file; ``"regression"`` or ``"classification"`` where the file does not tell.
    test_fraction : float
        Share of the rows kept for testing; 0 for none.
    center, scale, normalize, standardize : bool
        Preprocessing of names, files and data sets; see `Preprocessing.fit`.
    width, activation
        Neurons, and ``relu``, ``tanh``, ``sigmoid``, ``softplus`` or ``identity``.
    epsilon, lr : float, optional
        Inner accuracy and step size; by default those of the optimizer.
    batch_size : int, optional
        Rows per shuffled mini-batch; all rows by default. ``steps`` then counts mini-batches, and losses and residuals of the
        whole training set are evaluated at the ends of epochs.
    backend : {"numpy", "cupy", "torch", "array_api_strict"}
    dtype : {"float64", "float32"}
    steps : int
        Total number of steps, those before a resumed checkpoint included.
    tol : float
        Stop when ‖r_t‖ / ‖r_0‖ on the training set is at most this.
    seed : int
        Of the split, the initial weights, the order of mini-batches, and (folded with t) of step t.
    out : str or path, optional
        Folder for ``run.jsonl`` (a header line, a line per step, an end line), ``checkpoint.npz`` and ``run.png``; it must not
        hold an earlier run. Nothing is written without it. The plot needs matplotlib and is left out without it.
    checkpoint_every : int
        Write the checkpoint every so many steps besides the end; 0 for the end alone.
    resume : str or path, optional
        A checkpoint to continue; it brings its options. Other options given here that differ from the defaults and contradict
        it are refused. The continuation equals an uninterrupted run bit for bit on the same backend and machine.
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
    optimizer = make_optimizer(config.optimizer, epsilon=config.epsilon, lr=config.lr)
    problem, config = build(data, config)
    params = problem.network.init(key=config.seed, like=problem.train[0])
    state = optimizer.init(params, problem.objective)
    return Trainer(config, problem, optimizer, Snapshot(0, params, state))


def resumed(path, data, given):
    """A `Trainer` where the checkpoint at ``path`` left off."""
    saved = checkpoint.load(path)
    config = _resumed_config(path, saved, given)
    data = config.data if data is None else data
    if data is None:
        raise ValueError(f"{path} was trained on arrays or a Dataset; give the same data to resume")
    optimizer = make_optimizer(config.optimizer, epsilon=config.epsilon, lr=config.lr)
    problem, config = build(data, dataclasses.replace(config, **(_source(data))))
    found, expected = problem.fingerprint, saved["header"]["data"]["fingerprint"]
    if found != expected:
        raise ValueError(f"{problem.name} is not the data that {path} was trained on (fingerprint {found}, expected {expected})")
    if _fields(optimizer) != saved["header"]["optimizer"]["fields"]:
        raise ValueError(f"{path} was trained by {saved['header']['optimizer']['text']}; this version has {optimizer!r}")
    saved = checkpoint.next_to(saved, problem.train[0])
    snapshot = Snapshot(saved["step"], saved["params"], saved["state"])
    return Trainer(config, problem, optimizer, snapshot, saved["header"], saved["records"])


def _resumed_config(path, saved, given):
    try:
        config = Config(**saved["config"])
    except TypeError as error:
        raise checkpoint.CheckpointError(f"{path} holds options that this version does not know: {error}") from error
    conflicts = differences(config, given)
    if conflicts:
        raise ValueError(f"cannot resume {path} with other options: {'; '.join(conflicts)}")
    config = dataclasses.replace(config, **given)
    if config.steps <= saved["step"]:
        raise ValueError(
            f"{path} stands at step {saved['step']} of {config.steps}; give a larger total number of steps (--steps)"
        )
    return config


class Snapshot(NamedTuple):
    """The last complete step: replaced as a whole, so that an interruption finds a consistent one."""

    step: int
    params: tuple
    state: object


class Trainer:
    """A run in progress. `run` takes the steps; ``snapshot`` and ``records`` are what there is so far."""

    def __init__(self, config, problem, optimizer, snapshot, header=None, records=()):
        self.config, self.problem, self.optimizer, self.snapshot = config, problem, optimizer, snapshot
        self.records = list(records)
        self.batches = Batches(problem.train, config.batch_size, config.seed)
        self.header = header or self._header()
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
            return self._finish(ended)
        except KeyboardInterrupt:
            with _shielded():
                result = self._finish("interrupted")
            raise Interrupted(result) from None
        except Exception as error:
            if self.folder is not None and self.snapshot.step:
                with contextlib.suppress(Exception):
                    self._save()
                    error.add_note(f"(the checkpoint of the {self.snapshot.step} complete steps is {self.folder / CHECKPOINT})")
            raise

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
            if record.reason.startswith("stalled"):
                return "stalled"
            if not record.accepted and record.inner_iterations is None:
                return "non-finite"  # the only reason for which a first-order step is refused, and it would be again
        return "steps"

    def _step(self):
        t, params, state = self.snapshot
        batch = self.batches(t)
        begun = time.perf_counter()
        new, state, info = self.optimizer.step(params, state, self.problem.objective, batch, key=fold_in(self.config.seed, t))
        synchronize(new[0])
        seconds = time.perf_counter() - begun
        after = self._loss_after(t, new, info)
        return _record(t, after, self.initial_loss, self.batches.full, info, seconds), Snapshot(t + 1, new, state)

    def _loss_after(self, t, params, info):
        """Loss of the training set after step t: NaN where parameters are not finite, None (not evaluated) inside an epoch."""
        if not _finite(params):
            return math.nan
        if not self.batches.ends_epoch(t):
            return None
        known = getattr(info, "new_loss", None) if self.batches.full else None
        return training_loss(self.problem, params) if known is None else float(known)

    def _note(self, record, snapshot):
        record = record._asdict()
        self.records.append(record)
        self.snapshot = snapshot
        if self._log is not None:
            self._log.write("step", record)

    def _reached(self):
        """``"converged"`` where the last known residual of the training set is at most the tolerance."""
        if self.initial_loss == 0:
            return "converged"
        if not math.isfinite(self.initial_loss):
            return "non-finite"
        last = self.records[-1]["relative_residual"] if self.records else 1.0
        return "converged" if last is not None and last <= self.config.tol else None

    def _save(self):
        checkpoint.save(
            self.folder / CHECKPOINT,
            params=self.snapshot.params,
            state=self.snapshot.state,
            statistics=self.problem.objective.statistics,
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
        params, problem = self.snapshot.params, self.problem
        known = self.records and self.records[-1]["loss_after"]
        loss = known if known and math.isfinite(known) else training_loss(problem, params)
        relative = _relative(loss, self.initial_loss)
        path = None if self.folder is None else self.folder / CHECKPOINT
        return Result(
            config=self.config,
            problem=problem,
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
            message=_message(ended, self.config, self.snapshot.step, relative, path),
            seconds=sum(record["seconds"] for record in self.records),
            folder=self.folder,
            checkpoint=path,
            log=None if self.folder is None else self.folder / LOG,
        )


class Batches:
    """Batch t of a run: all rows, or a shuffled mini-batch; the order of an epoch depends on (seed, epoch) alone."""

    def __init__(self, train, size, seed):
        self._train, self._seed = train, seed
        rows = train[0].shape[0]
        if size is not None and size > rows:
            raise ValueError(f"batch_size is {size}; the training set has {rows} rows")
        self._rows, self._size = rows, size or rows
        self.full = self._size == rows
        self.per_epoch = -(-rows // self._size)

    def __call__(self, t):
        if self.full:
            return self._train
        epoch, i = divmod(t, self.per_epoch)
        order = permutation(fold_in(self._seed, _SHUFFLE, epoch), self._rows, self._train[0])
        rows = order[i * self._size : (i + 1) * self._size]
        return tuple(namespace(a).take(a, rows, axis=0) for a in self._train)

    def ends_epoch(self, t):
        """Whether step t is the last of an epoch."""
        return (t + 1) % self.per_epoch == 0


def training_loss(problem, params):
    """Loss on the whole training set as a float; NaN where the parameters are not finite."""
    return float(problem.objective.at(params, problem.train).loss) if _finite(params) else math.nan


def _finite(params):
    return all(bool(namespace(W).all(namespace(W).isfinite(W))) for W in params)


def _record(t, after, initial, full, info, seconds):
    solve, loss = info.solve, float(info.loss)
    return Record(
        step=t,
        loss=loss,
        loss_after=after,
        relative_residual=None if after is None else _relative(after, initial),
        contraction=None if after is None or not full else _relative(after, loss),
        inner_iterations=None if solve is None else int(solve.iterations),
        products=None if solve is None else int(solve.products),
        inner_residual=None if solve is None else float(solve.residual),
        inner_reason=None if solve is None else str(solve.reason),
        preconditioner=None if solve is None else str(solve.preconditioner),
        refreshed=None if solve is None else bool(solve.refreshed),
        condition=None if solve is None or solve.condition is None else float(solve.condition),
        damping=None if getattr(info, "damping", None) is None else float(info.damping),
        accepted=bool(info.accepted),
        reason=str(info.reason),
        seconds=seconds,
    )


def _relative(loss, reference):
    """‖r‖ / ‖r_ref‖ from two losses of the same data."""
    if not (math.isfinite(loss) and math.isfinite(reference)):
        return math.nan
    return math.sqrt(loss / reference) if reference > 0 else (0.0 if loss == 0 else math.inf)


def _fields(optimizer):
    return {f.name: repr(getattr(optimizer, f.name)) for f in dataclasses.fields(optimizer) if f.init}


def _message(ended, config, steps, relative, path):
    at = f"the relative residual is {relative:.2e}"
    if ended == "converged":
        return f"Converged after {steps} steps: {at} (tolerance {config.tol:g})."
    if ended == "stalled":
        return f"Stopped after {steps} steps: the optimizer stalled, no further decrease can be had; {at}."
    if ended == "non-finite":
        return f"Stopped at step {max(steps - 1, 0)}: the loss is no longer finite; the last finite parameters are kept ({at})."
    if ended == "interrupted":
        where = (
            f"the checkpoint is {path}; continue with --resume {path}" if path else "nothing was written, as no folder was given"
        )
        return f"Interrupted after {steps} complete steps; {where}"
    return f"Took all {steps} steps; {at} (tolerance {config.tol:g})."


def _summary(result):
    errors = {name: getattr(result, name) and getattr(result, name)._asdict() for name in ("train_error", "test_error")}
    names = ("ended", "message", "steps", "initial_loss", "final_loss", "relative_residual", "seconds")
    return {**{name: getattr(result, name) for name in names}, **errors}


def _plot(result):
    try:
        from nearlin.experiments.plots import plot_result
    except ImportError:
        return None
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
