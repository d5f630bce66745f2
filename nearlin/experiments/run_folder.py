"""The folder of a run, through its one life: claimed, its log begun, checkpoints written, finished with an end line and plots."""

import contextlib
import dataclasses
import itertools
import tempfile
import warnings
from pathlib import Path

from nearlin.experiments import checkpoint, folders
from nearlin.experiments.records import damped, has

LOG, CHECKPOINT = "run.jsonl", "checkpoint.npz"
PLOT, LAYERS, CURVATURE, FIT = "run.png", "layers.png", "curvature.png", "fit.png"


class RunFolder:
    """The folder of the run whose head is ``header``, claimed for the time of a context.

    ``out`` is its path, or a `folders.Free`. The checkpoint is written every ``every`` steps besides the end, 0: never. A new run
    that leaves the context before its first step leaves nothing. ``apart`` is whether weights are split over ranks.

    Raises
    ------
    Taken
        It holds an earlier run, which is not the one that is resumed, or another process works there.
    OSError
        It cannot be made or written.
    """

    def __init__(self, out, header, every=0, resume=None):
        self._header, self.every, self.unwritten = header, every, []
        self._claim = folders.claim(out, lambda folder: self._found(folder, resume))
        self.path = self._claim.path
        self.log, self.checkpoint = self.path / LOG, self.path / CHECKPOINT
        self._begun, self._appends, self.apart = resume is not None, True, False

    def __str__(self):
        return str(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._begun:
            self._claim.release()
            return
        with contextlib.suppress(OSError):
            self.log.unlink()
        self._claim.discard()

    def _found(self, folder, resume):
        """What lies in ``folder`` of a run other than the one that is resumed."""
        head = next(iter(folders.read_lines(folder / LOG)), None)
        own = resume is not None and Path(resume).resolve().parent == folder.resolve()
        return None if own and (head is None or head.get("started") == self._header["started"]) else _found(folder)

    def begin(self, records):
        """Write the log's header, and the steps there are already."""
        try:
            self._write_log(records)
        except OSError as error:
            raise OSError(f"cannot write {self.log}: {folders.reason(error)}") from error

    def note(self, record):
        """Write the line of a step; it is not flushed to disk, as the checkpoint holds it, too."""
        self._begun = True
        if not self._appends:
            return
        try:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(folders.line("step", record))
        except OSError as error:
            self._appends = False  # part of the line may be there: the end writes all of them anew
            _warn(self.log, error)

    def save(self, **tree):
        """Write the checkpoint in the middle of the run, which goes on where that fails."""
        try:
            checkpoint.save(self.checkpoint, header=self._header, **tree)
        except OSError as error:
            _warn(self.checkpoint, error)

    def save_last(self, **tree):
        """Write the checkpoint at the end, where the folder cannot take it into another one; its path, or None."""
        self._begun = True
        for path in itertools.chain((self.checkpoint,), () if self.apart else _elsewhere(self.path.name)):
            with folders.tried(path, self.unwritten):
                checkpoint.save(path, header=self._header, **tree)
                if path != self.checkpoint:
                    self.unwritten.append(f"The checkpoint is {folders.quoted(path)}.")
                return path
        return None

    def finish(self, result, draw=True):
        """Write the log with its end line, and the plots; the `Result` with what is there, and sentences on what is not."""
        end = None if result.ended == "interrupted" else result.summary()
        with folders.tried(self.log, self.unwritten):
            self._write_log(result.records, end)
        plot = self._draw(result) if draw else None
        log = self.log if self.log.exists() else None
        return dataclasses.replace(result, log=log, plot=plot, unwritten=tuple(self.unwritten))

    def _write_log(self, records, end=None):
        lines = [("header", self._header), *(("step", record) for record in records), *([("end", end)] if end else [])]
        folders.write_atomically(self.log, lambda file: file.writelines(folders.line(*one).encode() for one in lines))

    def _draw(self, result):
        try:
            from nearlin.experiments.fits import plot_fit
            from nearlin.experiments.plots import plot_curvature, plot_layers, plot_result
        except ImportError:
            return None
        plots = {LAYERS: plot_layers} if has(result.records, "layer") else {}
        plots |= {CURVATURE: plot_curvature} if damped(result.records) else {}
        plots |= {} if self.apart else {FIT: plot_fit}  # it passes rows through the network, which one rank has a part of
        for name, plot in (plots | {PLOT: plot_result}).items():
            with folders.tried(self.path / name, self.unwritten, Exception):  # a picture costs no run its result
                plot(result, self.path / name)
        return self.path / PLOT if (self.path / PLOT).exists() else None


class Follower:
    """The folder of a run on a rank that does not write it."""

    def __init__(self, path, header, every):
        self.path, self.every, self.checkpoint, self._header = path, every, path / CHECKPOINT, header

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return

    def begin(self, records):
        """Nothing: rank 0 writes the log."""

    note = begin

    def save(self, **tree):
        """Write this rank's rows of what is split over ranks; rank 0 writes the rest, and warns where a rank cannot."""
        with contextlib.suppress(OSError):
            checkpoint.save(self.checkpoint, header=self._header, leads=False, **tree)

    def save_last(self, **tree):
        """As `save`; where rank 0 writes it."""
        self.save(**tree)
        return self.checkpoint

    def finish(self, result, draw=True):
        """The `Result` as it is."""
        return result


@contextlib.contextmanager
def folder_of(team, out, header, every=0, resume=None):
    """A context that yields a `RunFolder` on the leading rank of a team and a `Follower` on others."""
    if not team.several:
        with RunFolder(out, header, every, resume) as own:
            yield own
        return
    own = team.together(lambda: RunFolder(out, header, every, resume) if team.leads else None, "folder")
    with own or contextlib.nullcontext():
        path = team.share_folder(own and own.path)
        if own:
            own.apart = team.apart
        yield own or Follower(path, header, every)


def _found(folder):
    """What lies in ``folder`` of a run that has taken a step."""
    if (folder / CHECKPOINT).exists():
        return CHECKPOINT
    return LOG if len(folders.read_lines(folder / LOG)) > 1 else None


def _elsewhere(name):
    """Checkpoints in folders made for them, where those of the system and of the user are."""
    for parent in (tempfile.gettempdir, Path.home):
        with contextlib.suppress(OSError, RuntimeError):
            folder = Path(tempfile.mkdtemp(prefix=f"nearlin-{name}-", dir=parent()))
            yield folder / CHECKPOINT
            with contextlib.suppress(OSError):
                folder.rmdir()


def _warn(path, error):
    warnings.warn(f"{path} could not be written: {folders.reason(error)}; the run goes on, and its end tries again", stacklevel=2)
