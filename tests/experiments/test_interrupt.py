"""Ctrl-C on a real run."""

import os
import signal
import subprocess
import sys
import time

import pytest

from nearlin.experiments import checkpoint, train

pytest.importorskip("rich")
pytest.importorskip("click")

COMMAND = [sys.executable, "-c", "from nearlin.experiments.cli import main; main()"]


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_leaves_a_checkpoint_that_resumes(tmp_path):
    arguments = ["train", "sphere", "--optimizer", "adam", "--width", "64", "--steps", "1000000", "--tol", "0"]
    process = subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "runs" / "sphere-adam-0" / "run.jsonl"
    deadline = time.monotonic() + 60
    while lines(log) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    path = log.with_name("checkpoint.npz")
    saved = checkpoint.load(path)
    assert saved["step"] >= 3
    assert f"Interrupted after {saved['step']} complete steps" in errors
    assert "runs/sphere-adam-0/checkpoint.npz" in errors
    resumed = train(resume=path, steps=saved["step"] + 2, out=path.parent, progress=False)
    assert len(resumed.records) == saved["step"] + 2
