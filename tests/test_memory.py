"""Memory of freed arrays: the pages that a process is given anew, counted by the system."""

import subprocess
import sys
import types

import pytest

import nearlin as nl
from nearlin._array import memory

COUNT = """
import ctypes, resource, numpy as np, nearlin as nl
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: no huge pages, a fault for each
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def again():
    for _ in range(2):  # the first ones may still find new pages
        before = faults(); arrays = [np.ones(400_000) for _ in range(40)]; del arrays
    return faults() - before
print(again(), nl.keep_freed_memory(), again())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_an_array_after_a_freed_one_gets_no_new_pages():
    before, kept, after = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True).stdout.split()
    if kept == "False":
        pytest.skip("another C library than glibc")
    assert int(before) > 10_000  # 128 MB in pages of 4 KiB; glibc keeps 64 MB at most by itself
    assert int(after) < 10


def test_an_old_glibc_keeps_what_it_can(monkeypatch):
    """It refuses thresholds above 32 MiB, and gives up a choice of its own with the first one that is set."""
    kept = {}

    def mallopt(option, value):
        refused = option == memory.MMAP_THRESHOLD and value > 32 * 2**20
        return 0 if refused else kept.update({option: value}) or 1

    monkeypatch.setattr("ctypes.CDLL", lambda name: types.SimpleNamespace(mallopt=mallopt))
    assert nl.keep_freed_memory() is True
    assert kept == {memory.MMAP_THRESHOLD: 32 * 2**20, memory.TRIM_THRESHOLD: 2**30}


def test_a_c_library_that_refuses_is_left_as_it_is(monkeypatch):
    asked = []
    refusing = types.SimpleNamespace(mallopt=lambda option, value: asked.append(option) or 0)
    monkeypatch.setattr("ctypes.CDLL", lambda name: refusing)
    assert nl.keep_freed_memory() is False
    assert set(asked) == {memory.MMAP_THRESHOLD}


def test_another_c_library_is_left_as_it_is(monkeypatch):
    def library(name):
        raise TypeError

    monkeypatch.setattr("ctypes.CDLL", library)
    assert nl.keep_freed_memory() is False
