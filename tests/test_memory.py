"""Memory of freed arrays: the pages that a process is given anew, counted by the system."""

import subprocess
import sys

import pytest

import nearlin as nl

COUNT = """
import resource, numpy as np, nearlin as nl
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


def test_another_c_library_is_left_as_it_is(monkeypatch):
    def library(name):
        raise TypeError

    monkeypatch.setattr("ctypes.CDLL", library)
    assert nl.keep_freed_memory() is False
