"""What a rank under ``mpiexec`` does in the tests: ``by_mpi.py CASE [check]``."""

import os
import signal
import sys
import time

import numpy as np

import nearlin as nl


def calls(ranks):
    """Every call once: what rank 0 prints."""
    own, one = ranks.share(7), float(ranks.rank + 1)
    rows = ranks.rows(np.full((own.stop - own.start, 2), one), 7, "rows")
    right = ranks.from_right(np.full(2, one), "right")
    found = {
        "sum": ranks.sum(np.full((3, 2), one), "sum").tolist(),
        "number": float(ranks.sum(np.float64(one), "number")),
        "rows": rows[:, 0].tolist(),
        "all": [ranks.all(True, "true"), ranks.all(ranks.rank == 0, "first")],
        "decide": [ranks.decide(False, "false"), ranks.decide(ranks.rank == 0, "first")],
        "right": None if right is None else right.tolist(),
        "broadcast": ranks.broadcast(np.full(2, one), "broadcast", root=ranks.size - 1).tolist(),
        "each": ranks.each("r" * ranks.rank, "each"),
    }
    return found, dict(ranks.bytes)


def main(case, *options):
    with nl.World(check="check" in options) as ranks:
        if case == "calls":
            found = ranks.each(calls(ranks), "found")
            if ranks.rank == 0:
                print(found)
            return
        ranks.sum(np.ones(3), "first")
        if ranks.rank == 1:
            if case == "raise":
                raise ValueError("no more paper")
            if case == "end":
                return
            if case == "other":
                ranks.rows(np.ones(1), ranks.size, "outputs")
            if case == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if case == "slow":
                time.sleep(2.5)
        print(ranks.sum(np.ones(3), "forward")[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
