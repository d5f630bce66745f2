"""What steps cost each rank under ``mpiexec``: ``rank_costs.py CASES``, a list of cases of `peaks` as JSON.

Rank 0 prints, for each case and rank: the peak of its arrays, and of every step flops, bytes by name, and what the solve did.
"""

import gc
import json
import sys
import tracemalloc

from threadpoolctl import threadpool_limits

import nearlin as nl
from nearlin.complexity import counting
from nearlin.experiments.batches import Batches
from nearlin.experiments.registry import make_optimizer
from tests.experiments import peaks

STEPS = 3


def begun(case, ranks, wrap=lambda a: a):
    """Optimizer, objective of this rank, batches, parameters and state."""
    objective, train = peaks.problem(case)
    by = nl.nn.by_samples if "hidden" in case else nl.nn.by_neurons
    optimizer, mine = make_optimizer(case["optimizer"], **case.get("settings", {})), by(objective, ranks)
    train = tuple(map(wrap, train))
    params = mine.network.init(0, train[0])
    return optimizer, mine, Batches(train, case.get("batch_size"), 0, own=getattr(mine, "own", None)), params


def traced(case, ranks):
    """Peak bytes of this rank's arrays."""
    optimizer, objective, batches, params = begun(case, ranks)
    state = optimizer.init(params, objective)
    for t in range(STEPS):
        params, state, _ = optimizer.step(params, state, objective, batches(t), key=t)


def solved(info):
    """Iterations, whether the preconditioner is new, attempts; None without a solve."""
    return (info.solve.iterations, info.solve.refreshed, info.attempts) if info.solve and hasattr(info, "attempts") else None


def counted(case, ranks):
    """Of every step (flops, bytes by name, iterations, whether the preconditioner is new, attempts)."""
    optimizer, objective, batches, params = begun(case, ranks, counting.wrap)
    state = optimizer.init(params, objective)
    for t in range(STEPS):
        before, batch = ranks.bytes.copy(), batches(t)
        with counting.count() as tally:
            params, state, info = optimizer.step(params, state, objective, batch, key=t)
        moved = {name: now - before[name] for name, now in ranks.bytes.items() if now > before[name]}
        yield float(tally.total), moved, solved(info)


def costs(case, ranks):
    """What `main` prints of this rank."""
    traced(case, ranks)  # what is cached for good
    gc.collect()
    tracemalloc.start()
    traced(case, ranks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, list(counted(case, ranks))


def main(cases):
    with nl.World() as ranks:
        with threadpool_limits(1):  # each thread has blocks of its own
            found = [ranks.each(costs(case, ranks), "costs") for case in json.loads(cases)]
        if ranks.rank == 0:
            print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
