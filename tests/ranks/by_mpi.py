"""What a rank under ``mpiexec`` does in the tests: ``by_mpi.py CASE [check]``."""

import os
import signal
import sys
import time

import numpy as np

import nearlin as nl
from nearlin._ranks import world


def calls(ranks):
    """Every call once: what rank 0 prints."""
    own, one = ranks.share(7), float(ranks.rank + 1)
    rows = ranks.rows(np.full((own.stop - own.start, 2), one), 7, "rows")
    right = ranks.from_right(np.full(2, one), "right")
    found = {
        "sum": ranks.sum(np.full((3, 2), one), "sum").tolist(),
        "columns": ranks.sum(np.arange(6.0).reshape(3, 2).T * one, "columns").tolist(),
        "number": float(ranks.sum(np.float64(one), "number")),
        "rows": rows[:, 0].tolist(),
        "all": [ranks.all(True, "true"), ranks.all(ranks.rank == 0, "first")],
        "decide": [ranks.decide(False, "false"), ranks.decide(ranks.rank == 0, "first")],
        "right": None if right is None else right.tolist(),
        "broadcast": ranks.broadcast(np.arange(7) * one, "broadcast", root=ranks.size - 1).tolist(),
        "each": ranks.each("r" * ranks.rank, "each"),
    }
    return found, dict(ranks.bytes)


METHODS = (nl.optim.NearLinearGaussNewton(reuse=False), nl.optim.GaussNewton(plan="exact"), nl.optim.Adam())


def trained(opt, objective, x, y, steps=5):
    """The parameters after some steps."""
    params = objective.network.init(1, x)
    state = opt.init(params, objective)
    for t in range(steps):
        params, state, _ = opt.step(params, state, objective, (x, y), nl.fold_in(3, t))
    return params


def neurons(ranks):
    """The relative distance of several ranks' weights from those of one, for each of `METHODS`."""
    x, y = nl.data.sphere(n=64, d=5, seed=0)
    objective = nl.nn.Objective(nl.nn.TwoLayer(5, 1201), nl.nn.SquaredLoss())
    for opt in METHODS:
        (W,), mine = trained(opt, objective, x, y), nl.nn.by_neurons(objective, ranks)
        (found,) = mine.network.whole(trained(opt, mine, x, y))
        yield float(np.linalg.norm(found - W) / np.linalg.norm(W))


def main(case, *options):
    with nl.World(check="check" in options) as ranks:
        if case == "calls":
            world.LONGEST = 4  # sums and broadcasts go in parts
            found = ranks.each(calls(ranks), "found")
            if ranks.rank == 0:
                print(found)
            return
        if case == "neurons":
            distances = list(neurons(ranks))
            if ranks.rank == 0:
                print(distances)
            return
        ranks.sum(np.ones(3), "first")
        if ranks.rank == 1:
            if case == "raise":
                raise ValueError("no more paper")
            if case == "end":
                return
            if case == "other":
                ranks.rows(np.ones(1), ranks.size, "outputs")
            if case == "dtype":
                ranks.sum(np.ones(3, dtype="float32"), "forward")
            if case == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if case == "slow":
                time.sleep(2.5)
        print(ranks.sum(np.ones(3), "forward")[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
