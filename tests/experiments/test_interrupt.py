"""Ctrl-C on a real run."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from nearlin.experiments import checkpoint, train

pytest.importorskip("rich")
pytest.importorskip("click")

# A suite that runs in the background of a shell ignores SIGINT, and so would what it starts.
SCRIPT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from nearlin.__main__ import main; main()"
COMMAND = [sys.executable, "-c", SCRIPT]
# Ctrl-C where one module is imported.
IMPORTING = """
import os, sys
class Finder:
    def find_spec(name, path, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
"""


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


@contextlib.contextmanager
def started(*arguments, **options):
    """A process that does not outlive the test."""
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as the tests have: a run that goes on with others is warned
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*COMMAND, *arguments], text=True, env=env, **pipes, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_leaves_a_checkpoint_that_resumes(tmp_path):
    """The run ends by itself, long after it is interrupted: nothing here waits for a time that a busy machine misses."""
    log = tmp_path / "runs" / "sphere-adam-0" / "run.jsonl"
    arguments = ["train", "sphere", "--optimizer", "adam", "--width", "64", "--steps", "20000", "--tol", "0"]
    with started(*arguments, cwd=tmp_path) as process:
        while lines(log) < 5 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    path = log.with_name("checkpoint.npz")
    saved = checkpoint.load(path)
    assert saved["step"] >= 3
    assert f"Interrupted after {saved['step']} complete steps" in errors
    assert "runs/sphere-adam-0/checkpoint.npz" in errors
    resumed = train(resume=path, steps=saved["step"] + 2, out=path.parent, progress=False)
    assert len(resumed.records) == saved["step"] + 2


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("name", ["datetime", "click"])
def test_ctrl_c_while_modules_are_loaded_is_one_line(tmp_path, name):
    """NumPy imports datetime in C, and makes another error of one that comes from there."""
    script = SCRIPT.replace("from", IMPORTING.format(name=name) + "from")
    command = [sys.executable, "-c", script, "train", "sphere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "Interrupted before the first step; nothing was written\n"
    assert list(tmp_path.iterdir()) == []
