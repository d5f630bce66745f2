"""The command line under mpiexec: a run of several processes, how they end, and what is refused. One world at a time."""

import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from nearlin.experiments import checkpoint, train
from tests.ranks.test_world import MPIEXEC, pytestmark  # noqa: F401

pytest.importorskip("click")
LONG = ("sphere", "--optimizer", "adam", "--width", "64", "--steps", "2000000", "--tol", "0", "--checkpoint-every", "5")


def command(P, *arguments):
    return [MPIEXEC, "-n", str(P), sys.executable, "-m", "mpi4py", "-m", "nearlin", "train", *map(str, arguments)]


def started(P, *arguments, cwd):
    """A world that has begun; the file that keeps others waiting is to be closed behind it."""
    lock = open(pathlib.Path(tempfile.gettempdir()) / "nearlin-mpi.lock", "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(command(P, *arguments), cwd=cwd, text=True, env=env, start_new_session=True, **pipes)
    process.lock = lock
    return process


def ended(process, seconds=60):
    """Its exit code, output and errors; it does not outlive the test."""
    try:
        out, errors = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        process.lock.close()
    return process.returncode, out, errors


def test_two_processes_train_as_one_and_say_who_they_are(tmp_path):
    options = {"activation": "tanh", "optimizer": "kfac", "lr": 0.1, "batch_size": 64, "dtype": "float64", "steps": 6}
    flags = ["--hidden", 8, *(part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value))]
    code, out, errors = ended(started(2, "breast-cancer", *flags, "--ranks", "samples", "--out", "run", cwd=tmp_path))
    assert code == 0, errors
    head, *_ = map(json.loads, (tmp_path / "run" / "run.jsonl").read_text().splitlines())
    for one in head["ranks"]["processes"]:
        assert f"PID {one['pid']} on {one['host']}, {one['threads']} BLAS thread(s), its samples" in out
    assert len({one["pid"] for one in head["ranks"]["processes"]}) == 2
    assert "rank by rank, for others" in out
    assert out.count("Took all 6 steps") == 1
    wanted = train("breast-cancer", progress=False, hidden=(8,), **options)
    for W, V in zip(checkpoint.load(tmp_path / "run" / "checkpoint.npz")["params"], wanted.params, strict=True):
        assert np.linalg.norm(W - V) < 1e-12 * np.linalg.norm(V)


def running(process, folder):
    """Wait until some steps have been taken."""
    log = folder / "run.jsonl"
    while process.poll() is None and (not (folder / "checkpoint.npz").exists() or log.read_text().count("\n") < 8):
        time.sleep(0.02)


@pytest.mark.parametrize(
    "name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.nightly), pytest.param("SIGUSR1", marks=pytest.mark.nightly)]
)
def test_a_signal_to_mpiexec_ends_all_after_one_step_with_one_checkpoint(name, tmp_path):
    process = started(2, *LONG, "--ranks", "samples", "--out", "run", cwd=tmp_path)
    running(process, tmp_path / "run")
    process.send_signal(getattr(signal, name))
    code, _, errors = ended(process)
    assert code == 130, errors
    step = checkpoint.load(tmp_path / "run" / "checkpoint.npz")["step"]
    assert errors.count(f"Interrupted after {step} complete steps; the checkpoint is run/checkpoint.npz") == 1
    assert (tmp_path / "run" / "run.jsonl").read_text().count("\n") == 1 + step


def test_a_rank_that_is_killed_ends_the_world_and_leaves_the_last_checkpoint(tmp_path):
    process = started(2, *LONG, "--ranks", "samples", "--out", "run", cwd=tmp_path)
    running(process, tmp_path / "run")
    head = json.loads((tmp_path / "run" / "run.jsonl").read_text().splitlines()[0])
    os.kill(head["ranks"]["processes"][1]["pid"], signal.SIGKILL)
    begun = time.perf_counter()
    code, *_ = ended(process)
    assert time.perf_counter() - begun < 10
    assert code != 0
    assert checkpoint.load(tmp_path / "run" / "checkpoint.npz")["step"] % 5 == 0


def test_several_ranks_without_the_option_are_refused(tmp_path):
    code, out, errors = ended(started(2, "sphere", cwd=tmp_path))
    assert (code, out) == (2, "")
    sentence = "Error: there are 2 ranks, and --ranks is not given; expected --ranks samples or --ranks neurons, or one process"
    assert errors.count(sentence) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path):
    code, out, errors = ended(started(3, "sphere", "--optimizer", "nonsense", "--ranks", "samples", cwd=tmp_path))
    assert (code, out) == (2, "")
    assert errors.count("Error: unknown optimizer 'nonsense'") == 1
    assert "Traceback" not in errors


@pytest.mark.nightly
def test_six_ranks_on_two_cores_are_right(tmp_path):
    code, _, errors = ended(
        started(6, "sphere", *LONG[1:5], "--steps", "5", "--ranks", "samples", "--out", "run", cwd=tmp_path), 120
    )
    assert code == 0, errors
    wanted = train("sphere", optimizer="adam", width=64, steps=5, progress=False)
    (W,), (V,) = checkpoint.load(tmp_path / "run" / "checkpoint.npz")["params"], wanted.params
    assert np.linalg.norm(W - V) < 1e-12 * np.linalg.norm(V)
