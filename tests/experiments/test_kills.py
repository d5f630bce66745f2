"""Runs that are killed, interrupted or started together, as processes: in the night."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time

import numpy as np
import pytest

from nearlin.experiments import checkpoint, folders, train, training
from nearlin.experiments.run_folder import CHECKPOINT, LOG
from tests.experiments.test_interrupt import COMMAND

pytestmark = [pytest.mark.nightly, pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")]
STEPS, OPTIONS = 60, {"optimizer": "adam", "width": 64, "tol": 0}
ARGUMENTS = [
    "train",
    "sphere",
    "--optimizer",
    "adam",
    "--width",
    "64",
    "--tol",
    "0",
    "--steps",
    str(STEPS),
    "--checkpoint-every",
    "1",
]


@pytest.fixture(scope="module")
def whole():
    return train("sphere", steps=STEPS, progress=False, **OPTIONS)


def start(folder, *more):
    return subprocess.Popen([*COMMAND, *ARGUMENTS, *more], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stopped(folder, how, last):
    """A run that gets a signal at some time after its log is there; its folder, and what the process said."""
    process, log, wait = start(folder), folder / "runs" / "sphere-adam-0" / LOG, random.uniform(0, last)
    while not log.exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(wait)
    process.send_signal(how)
    return log.parent, process.communicate(), process.returncode


def check(folder, whole):
    """What is there can be told, and goes on to the end of the uninterrupted run; or there is nothing that took a step."""
    if not (folder / CHECKPOINT).exists():
        rest = train("sphere", steps=STEPS, progress=False, out=folders.Free(folder), **OPTIONS)
    else:
        told = training.result_of(folder)
        assert told.steps == checkpoint.load(folder / CHECKPOINT)["step"]
        rest = train(resume=folder / CHECKPOINT, out=folder, progress=False)
    assert np.array_equal(rest.params[0], whole.params[0])
    assert [line["kind"] for line in folders.read_lines(rest.log)] == ["header", *["step"] * STEPS, "end"]
    assert list(rest.folder.glob(".*.part")) == []


@pytest.mark.parametrize("number", range(200))
def test_a_run_that_is_killed(tmp_path, whole, number):
    folder, _, _ = stopped(tmp_path, signal.SIGKILL, 1.5)
    check(folder, whole)


@pytest.mark.parametrize("number", range(40))
def test_a_run_that_is_interrupted(tmp_path, whole, number):
    folder, (_, errors), code = stopped(tmp_path, signal.SIGINT, 1.5)
    assert "Traceback" not in errors
    assert code in (0, 130)
    if code == 0 or folder.exists():
        check(folder, whole)


@pytest.mark.parametrize("number", range(20))
def test_three_that_start_together(tmp_path, whole, number):
    processes = [start(tmp_path) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 3
    names = ("sphere-adam-0", "sphere-adam-0-2", "sphere-adam-0-3")
    for name in names:
        assert np.array_equal(checkpoint.load(tmp_path / "runs" / name / CHECKPOINT)["params"][0], whole.params[0])
        assert len(folders.read_lines(tmp_path / "runs" / name / LOG)) == STEPS + 2


def test_a_folder_that_is_removed(tmp_path, monkeypatch):
    """Log and plots have no place any more; the checkpoint finds one, and the result is there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    removed = []

    def remove(trainer):
        shutil.rmtree(trainer.folder.path)
        removed.append(trainer.folder.path)

    with pytest.warns(UserWarning, match="could not be written: No such file"):
        result = training.run("sphere", {**OPTIONS, "steps": 3}, out=tmp_path / "run", progress=False, announce=remove)
    assert result.steps == 3
    assert result.checkpoint.parent.name.startswith("nearlin-run-")
    assert result.log is None
    assert removed == [tmp_path / "run"]
    assert not removed[0].exists()
