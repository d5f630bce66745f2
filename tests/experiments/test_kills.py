"""Runs that are killed, interrupted or started together, on full disks and in folders that close: as processes, in the night."""

import os
import pathlib
import random
import re
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


def start(folder, *more, by=(), **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*by, *COMMAND, *ARGUMENTS, *more], cwd=folder, text=True, **pipes, **options)


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


@pytest.fixture
def disk(tmp_path, request):
    """A disk of so many KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", path], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("cannot mount a disk here")
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("disk", [4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 1024], indirect=True)
def test_a_disk_that_fills(tmp_path, disk, whole):
    """The result is printed, and its checkpoint lies in the folder or where the last lines say; or the run has not begun."""
    process = start(tmp_path, "--out", disk / "run", env={**os.environ, "TMPDIR": str(tmp_path)})
    text, errors = process.communicate()
    assert "Traceback" not in errors
    if process.returncode == 2:
        assert re.search(r"Error: cannot write .*disk.*: No space left on device", errors)
        assert not (disk / "run").exists()
        return
    assert f"Took all {STEPS} steps" in text
    unwritten = re.findall(r"^(\S+) could not be written: No space left on device\.", text, flags=re.MULTILINE)
    assert process.returncode == (1 if unwritten else 0)
    moved = re.search(r"^The checkpoint is (\S+)\.$", text, flags=re.MULTILINE)
    path = pathlib.Path(moved[1]) if moved else disk / "run" / CHECKPOINT
    assert (str(disk / "run" / CHECKPOINT) in unwritten) == bool(moved)
    assert np.array_equal(checkpoint.load(path)["params"][0], whole.params[0])
    drawn = {"run.png", "fit.png", LOG}
    assert {name for name in drawn if not (disk / "run" / name).exists()} <= {pathlib.Path(one).name for one in unwritten}
    again = training.result_of(path.parent if moved else shutil.copytree(disk / "run", tmp_path / "copy"))
    assert [line["kind"] for line in folders.read_lines(again.log)] == ["header", *["step"] * STEPS, "end"]


POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")  # root, with the rights of anybody


@pytest.mark.skipif(
    not (shutil.which("setpriv") and hasattr(os, "getuid") and os.getuid() == 0), reason="only root may give up its rights"
)
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_folder_of_somebody_else(tmp_path, whole, when):
    """Before the run it is refused, and what is closed during the run costs no result."""
    elsewhere, log = tmp_path / "elsewhere", tmp_path / "runs" / "sphere-adam-0" / LOG
    for path in (elsewhere, log.parent.parent):
        path.mkdir()
    if when == "before":
        os.chown(log.parent.parent, 65534, 65534)
    with start(tmp_path, by=POWERLESS, env={**os.environ, "TMPDIR": str(elsewhere)}) as process:
        while when == "during" and not log.exists() and process.poll() is None:
            time.sleep(0.001)
        if when == "during":
            for path in (log, log.parent):
                os.chown(path, 65534, 65534)
        text, errors = process.communicate()
    assert "Traceback" not in errors
    if when == "before":
        says = "Error: cannot write into the folder runs/sphere-adam-0 (--out): Permission denied\n"
        assert (process.returncode, text, errors) == (2, "", says)
        assert list(log.parent.parent.iterdir()) == []
        return
    assert process.returncode == 1
    assert f"Took all {STEPS} steps" in text
    assert f"runs/sphere-adam-0/{CHECKPOINT} could not be written: Permission denied." in text
    path = pathlib.Path(re.search(r"^The checkpoint is (\S+)\.$", text, flags=re.MULTILINE)[1])
    assert path.is_relative_to(elsewhere)
    assert np.array_equal(checkpoint.load(path)["params"][0], whole.params[0])
