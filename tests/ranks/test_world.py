"""Ranks as processes, by mpiexec: the same calls, and how a world ends. One world at a time."""

import ast
import fcntl
import importlib.util
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

import nearlin as nl
from tests.ranks import by_mpi

ROOT = pathlib.Path(__file__).parents[2]
MPIEXEC = shutil.which("mpiexec", path=pathlib.Path(sys.executable).parent) or shutil.which("mpiexec")
pytestmark = pytest.mark.skipif(not (importlib.util.find_spec("mpi4py") and MPIEXEC), reason="needs mpi4py and mpiexec")


def world(P, *args, seconds=60, module=("-m", "mpi4py")):
    """A finished ``mpiexec`` of ``P`` ranks, and the seconds that it took; ranks that wait take cores from each other."""
    with open(pathlib.Path(tempfile.gettempdir()) / "nearlin-mpi.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        start, command = time.perf_counter(), [MPIEXEC, "-n", str(P), sys.executable, *module, *map(str, args)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        return done, time.perf_counter() - start


@pytest.mark.parametrize("P", [1, 2, 3])
def test_processes_get_what_threads_get(P):
    done, _ = world(P, by_mpi.__file__, "calls", "check")
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == nl.together(P, by_mpi.calls)


@pytest.mark.parametrize("P", [1, 2, 3])
def test_steps_by_neurons_are_those_of_one_process(P):
    done, _ = world(P, by_mpi.__file__, "neurons", "check")
    assert done.returncode == 0, done.stderr
    distances = ast.literal_eval(done.stdout)
    assert len(distances) == len(by_mpi.METHODS)
    assert all(distance <= (1e-12 if P > 1 else 0) for distance in distances)


@pytest.mark.nightly
def test_more_ranks_than_cores_are_right():
    done, _ = world(6, by_mpi.__file__, "neurons", "check", seconds=300)
    assert all(distance <= 1e-12 for distance in ast.literal_eval(done.stdout)), done.stderr


@pytest.mark.parametrize(
    ("case", "sentences"),
    [
        ("raise", ("rank 1 has raised ValueError: no more paper, while rank 0 asks for the sum of forward (3,)",)),
        ("end", ("rank 1 has ended, while rank 0 asks for the sum of forward (3,)",)),
        ("dtype", ("rank 0 asks for the sum of forward (3,) float64", "rank 1 asks for the sum of forward (3,) float32")),
        ("other", ("rank 0 asks for the sum of forward (3,)", "rank 1 asks for the rows of outputs (2,)")),
    ],
)
@pytest.mark.parametrize("check", ["check", pytest.param("", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("module", [("-m", "mpi4py"), pytest.param((), marks=pytest.mark.nightly)], ids=["mpi4py", "plain"])
def test_a_world_whose_ranks_differ_ends_and_says_how(case, sentences, check, module):
    done, seconds = world(2, by_mpi.__file__, case, check, module=module)
    assert done.returncode == 1
    assert seconds < 10
    assert all(sentence in done.stderr for sentence in sentences), done.stderr


@pytest.mark.nightly
def test_a_rank_that_takes_long_is_waited_for():
    done, _ = world(2, by_mpi.__file__, "slow", "")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2.0", "2.0"]


@pytest.mark.nightly
def test_a_rank_that_is_killed_ends_the_world():
    done, seconds = world(2, by_mpi.__file__, "kill", "check")
    assert done.returncode != 0
    assert seconds < 10


def test_without_mpi4py_the_world_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"several ranks need mpi4py and an MPI: .*; expected pip install 'nearlin\[mpi\]'"):
        nl.World()
