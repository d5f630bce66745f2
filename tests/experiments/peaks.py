"""Three steps of an optimizer as `train` takes them, and the peak of their memory: of the arrays, or of a process.

``python -m tests.experiments.peaks CASE``, a case as JSON, prints by how many bytes the resident peak grows after `init`.
"""

import gc
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import threadpoolctl

import nearlin as nl
from nearlin.experiments import estimate
from nearlin.experiments.batches import Batches
from nearlin.experiments.registry import make_optimizer

DEFAULTS = {"outputs": 1, "activation": "relu", "dtype": "float64", "backend": "numpy", "classes": False, "settings": {}}


def problem(case):
    """Objective and data (x, y) of a case: what `estimate` takes, or ``classes`` for a perceptron's task."""
    case, rng = DEFAULTS | case, np.random.default_rng(0)
    n, d, c = case["rows"], case["features"], case["outputs"]
    x = rng.standard_normal((n, d)).astype(case["dtype"])
    teacher = rng.standard_normal((d, c)).astype(case["dtype"]) / d**0.5
    if "hidden" in case:
        network, loss = nl.nn.MLP((d, *case["hidden"], c), case["activation"]), nl.nn.SquaredLoss()
    else:
        network, loss = nl.nn.TwoLayer(d, case["width"], case["activation"], c), nl.nn.SquaredLoss()
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.sin(x @ teacher)
    if case["classes"]:
        y, loss = np.argmax(y, axis=1), nl.nn.SoftmaxCrossEntropy()
    if case["backend"] == "torch":
        import torch

        x, y = torch.from_numpy(x), torch.from_numpy(y)
    elif case["backend"] == "cupy":
        import cupy

        x, y = cupy.asarray(x), cupy.asarray(y)
    return nl.nn.Objective(network, loss), (x, y if case["classes"] or c > 1 else y[:, 0])


def begun(case):
    """Optimizer, objective, batches, parameters and state before the first step."""
    objective, train = problem(case)
    optimizer = make_optimizer(case["optimizer"], **case.get("settings", {}))
    params = objective.network.init(0, train[0])
    return [optimizer, objective, Batches(train, case.get("batch_size"), 0), params, optimizer.init(params, objective)]


def take_steps(ready):
    """Three steps; nobody else holds the first parameters, where ``ready`` is a list of what is `begun`."""
    optimizer, objective, batches, params, state = ready
    ready.clear()
    for t in range(3):
        params, state, _ = optimizer.step(params, state, objective, batches(t), key=t)


def estimated(case):
    """The `Estimate` of a case."""
    options = {name: value for name, value in case.items() if name not in ("classes", "settings")}
    options["settings"] = tuple(case.get("settings", {}).items())
    if case.get("classes"):
        options["task"] = "classification"
    return estimate(**{"dtype": "float64"} | options, memory=2**50)


def traced(case):
    """Peak bytes of the arrays of NumPy, or of the double of CuPy, by tracemalloc."""
    with threadpoolctl.threadpool_limits(1):
        take_steps(begun(case))  # what is cached for good
        gc.collect()
        tracemalloc.start()
        try:
            take_steps(begun(case))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def profiled(case):
    """Peak bytes of torch's arrays on the CPU, by its own profiler, and those of the data, which NumPy made."""
    from torch.profiler import ProfilerActivity, profile

    take_steps(begun(case))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        take_steps(begun(case))
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(np.cumsum(sizes)) + sum(a.nbytes for a in problem(case)[1])


# ------------------------------------------------------------------------------------------------------------- of a process


def grown(case):
    """By how many bytes the resident peak of a process grows in three steps after `init`, BLAS on one thread.

    The C library gives freed memory back: by itself glibc keeps blocks below 32 MB, which were 40 MB beside arrays of 234 MB.
    """
    fixed = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    fixed["MALLOC_MMAP_THRESHOLD_"] = str(2**18)
    command = [sys.executable, "-m", "tests.experiments.peaks", json.dumps(case)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=os.environ | fixed, cwd=root, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def at_init(case):
    """Bytes of an estimate that are there before the first step."""
    arrays, data = estimated(case).bytes, "training set" if "batch_size" in case else "data"
    return arrays[data] + arrays["parameters"]


def _resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


if __name__ == "__main__":
    warm = json.loads(sys.argv[1])
    rows = {"rows": min(warm["rows"], 64), "batch_size": min(warm.get("batch_size", 64), 32)}
    take_steps(begun({**warm, **rows} | ({"width": 64} if "width" in warm else {"hidden": (8,)})))  # code and caches
    ready = begun(json.loads(sys.argv[1]))
    gc.collect()
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # the peak begins anew
    before = _resident("VmRSS")
    take_steps(ready)
    print(_resident("VmHWM") - before)
