"""The folder of a run, through its one life: claimed, its log begun, checkpoints written, finished with an end line and plots."""

import contextlib
import dataclasses
from pathlib import Path

from nearlin.experiments import checkpoint, folders
from nearlin.experiments.records import damped, has

LOG, CHECKPOINT = "run.jsonl", "checkpoint.npz"
PLOT, LAYERS, CURVATURE, FIT = "run.png", "layers.png", "curvature.png", "fit.png"


class RunFolder:
    """``path`` holds the run whose head is ``header``; the checkpoint is written every ``every`` steps besides the end, 0: never.

    Raises
    ------
    ValueError
        It holds an earlier run, which is not the one that is resumed.
    OSError
        It cannot be made or written.
    """

    def __init__(self, path, header, every=0, resume=None):
        own = resume is not None and Path(resume).resolve().parent == Path(path).resolve()
        found = folders.read_header(Path(path) / LOG)
        own = own and found is not None and found.get("started") == header["started"]
        self.path = folders.writable(path) if own else folders.claim(path, LOG)
        self.every, self._new = every, resume is None
        self.log, self.checkpoint = self.path / LOG, self.path / CHECKPOINT
        self._header = header

    def __str__(self):
        return str(self.path)

    def begin(self, records):
        """Write the log's header, and the steps there are already."""
        lines = [("header", self._header), *(("step", record) for record in records)]
        self.log.write_text("".join(folders.line(*one) for one in lines), encoding="utf-8")

    def note(self, record):
        """Write the line of a step."""
        self._append("step", record)

    def save(self, **tree):
        """Write the checkpoint."""
        checkpoint.save(self.checkpoint, header=self._header, **tree)

    def finish(self, result):
        """Write the end line and the plots; the `Result` with its plot."""
        self._append("end", result.summary())
        return dataclasses.replace(result, plot=self._draw(result))

    def discard(self):
        """Leave nothing of a new run whose first step is refused."""
        if self._new:
            with contextlib.suppress(OSError):
                self.log.unlink()
                self.path.rmdir()

    def _append(self, kind, content):
        """Write a line, which is in the file on return."""
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(folders.line(kind, content))

    def _draw(self, result):
        try:
            from nearlin.experiments.fits import plot_fit
            from nearlin.experiments.plots import plot_curvature, plot_layers, plot_result
        except ImportError:
            return None
        if has(result.records, "layer"):
            plot_layers(result, self.path / LAYERS)
        if damped(result.records):
            plot_curvature(result, self.path / CURVATURE)
        plot_fit(result, self.path / FIT)
        return plot_result(result, self.path / PLOT)
