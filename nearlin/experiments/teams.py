"""Ranks that train together: what is theirs of a problem, what they compare before they begin, and when they end.

Every rank makes the same calls. Rank 0 writes, prints and reads the clock's answers to it out loud; what may differ from rank to
rank, as times, signals and the state of a disk, is decided by all of them together.
"""

import contextlib
import os
import secrets
import socket
import sys
import time
import warnings
from dataclasses import dataclass, field, replace

from threadpoolctl import threadpool_info, threadpool_limits

from nearlin import nn
from nearlin._ranks import Alone, Diverged, World, launched
from nearlin.experiments.archive import mapped
from nearlin.experiments.environment import versions
from nearlin.experiments.folders import heard_by
from nearlin.experiments.registry import check_by_neurons
from nearlin.nn.split_two_layer import UNIT

KINDS = ("neurons", "samples")
PATIENCE = 10  # seconds in which a file of rank 0 has to appear on all ranks


class Disagreement(ValueError):
    """What stands in the way on some rank, the same sentence on all of them."""


@dataclass(frozen=True, eq=False)
class Team:
    """Ranks, and what is split over them.

    Parameters
    ----------
    by : str, optional
        ``"neurons"`` of the two-layer network, or ``"samples"`` of any other.
    ranks : Alone, World, ...
    """

    by: str | None = None
    ranks: object = field(default_factory=Alone)

    def __post_init__(self):
        if self.by not in (None, *KINDS):
            raise ValueError(f"ranks is {self.by!r}; expected 'neurons' or 'samples'")

    @property
    def leads(self):
        """Whether this is the rank that writes."""
        return self.ranks.rank == 0

    @property
    def several(self):
        """Whether there are others."""
        return self.ranks.size > 1

    @property
    def apart(self):
        """Whether each of several ranks has a part of the weights."""
        return self.by == "neurons" and self.several

    def split(self, problem, optimizer):
        """A `Problem` whose objective is this rank's part, for the method ``optimizer``."""
        if self.by is None:
            return problem
        if self.by == "samples":
            return replace(problem, objective=nn.by_samples(problem.objective, self.ranks))
        if not problem.wide:
            raise ValueError(f"{problem.name} gets a network of layers, whose neurons are not split; expected --ranks samples")
        check_by_neurons(optimizer)
        objective = nn.by_neurons(problem.objective, self.ranks)
        return replace(problem, objective=objective, network=objective.network)

    def rows(self, n):
        """Which of n rows of weights that were split are read by this rank."""
        return self.ranks.share(n, UNIT) if self.apart else slice(0, n)

    def held(self, rows, n):
        """An array of n rows that was split over ranks, of which this one holds ``rows``."""
        return nn.Split(rows, n, self.ranks, UNIT) if self.by == "neurons" else rows

    def split_again(self, tree, setup):
        """What a checkpoint holds, with weights, and what is shaped like them, split over these ranks where they were not yet.

        `ValueError` where inputs are shaped like weights: a state may hold both.
        """
        if self.by != "neurons" or isinstance(tree["params"][0], nn.Split):
            return tree
        (spec,), own = setup.problem.network.layers, setup.problem.network.neurons
        if spec.shape[0] == setup.batches.batch_size:
            found = f"a run of one process with as many neurons as samples in a batch, {spec.shape[0]}, cannot go on by neurons"
            raise ValueError(f"{found}; expected one process, without --ranks")
        split = lambda array: self.held(array[own, ...], spec.shape[0]) if array.shape == spec.shape else array  # noqa: E731
        return tree | {name: mapped(tree[name], split) for name in ("params", "state", "best")}

    def whole(self, problem):
        """The `Problem` of a result: with samples, one rank evaluates it alone."""
        if self.by != "samples":
            return problem
        o = problem.objective
        return replace(problem, objective=nn.Objective(o.network, o.loss, o.statistics, o.momentum, o.l2))

    # ------------------------------------------------------------------------------------------------------ before they begin

    def limit_threads(self):
        """Give BLAS the threads of this rank: its share of the cores that it and others on this host may use."""
        cores = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        places = self.ranks.each((socket.gethostname(), cores), "cores")
        count = len(cores) if isinstance(cores, tuple) else cores
        if self.several:
            threadpool_limits(max(1, count // places.count(places[self.ranks.rank])), user_api="blas")

    def compare(self, options):
        """`Disagreement` where a rank has other options, versions, another BLAS or other threads than rank 0."""
        blas = [library for library in threadpool_info() if library["user_api"] == "blas"]
        kinds = sorted(f"{one['internal_api']} {one.get('version')} for {one.get('architecture')}" for one in blas)
        threads = sorted(one["num_threads"] for one in blas)
        mine = {"options": repr(options), "BLAS": ", ".join(kinds), "BLAS threads": threads} | versions()
        for rank, theirs in enumerate(found := self.ranks.each(mine, "set-up")):
            for name in found[0] | theirs:
                ours, other = found[0].get(name), theirs.get(name)
                if ours != other:
                    raise Disagreement(f"rank 0 has {name} {ours}, and rank {rank} {other}; expected the same on all ranks")

    def alike(self, value, what):
        """`Disagreement` where ``value``, such as a fingerprint of data, is not that of rank 0."""
        for rank, other in enumerate(found := self.ranks.each(value, what)):
            if other != found[0]:
                raise Disagreement(
                    f"{what} of rank {rank} is {other}, and that of rank 0 {found[0]}; expected the same on all ranks"
                )

    def together(self, work, what):
        """``work()`` of every rank, or where it fails on one a `Disagreement` on all; ``work`` makes no call to others."""
        if not self.several:
            return work()
        made, error = None, None
        try:
            made = work()
        except Exception as one:
            error = one
        said = self.ranks.each(error and (str(error) or type(error).__name__), what)
        if not any(said):
            return made
        if error is not None and said[0]:
            raise error
        rank = next(r for r, words in enumerate(said) if words)
        raise Disagreement(f"{said[rank]} (rank {rank})") from error

    def processes(self):
        """Rank, PID, host and BLAS threads of all ranks, as dicts."""
        threads = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
        own = {"rank": self.ranks.rank, "pid": os.getpid(), "host": socket.gethostname(), "threads": min(threads, default=1)}
        return self.ranks.each(own, "processes")

    def share_folder(self, path):
        """The path of rank 0's folder; `Disagreement` where another rank does not see what rank 0 writes there."""
        path, name = self.ranks.each((path, f".{secrets.token_hex(8)}.part"), "folder")[0]
        token = path / name
        try:
            if self.leads:
                token.touch()
            self.ranks.all(True, "have the token")
            seen = self.ranks.each(self.leads or _appears(token), "folder is seen")
        finally:
            if self.leads:
                token.unlink(missing_ok=True)
        if not all(seen):
            rank = seen.index(False)
            raise Disagreement(
                f"rank {rank} does not see the folder {path} of rank 0; expected --out on a disk that all ranks share"
            )
        return path

    # ----------------------------------------------------------------------------------------------------------- how they end

    def first(self, reason):
        """The reason of the first rank that has one to end, or None."""
        if not self.ranks.decide(reason is not None, "end"):
            return None
        return next(filter(None, self.ranks.each(reason, "reason")))

    @contextlib.contextmanager
    def signals(self):
        """A context that yields a function: whether INT, TERM or USR1 has come. Of a single rank they raise `KeyboardInterrupt`.

        Ranks end at the same step: they finish the one that they are in.
        """
        come = []

        def heard(number, frame):
            come.append(number)
            if not self.several:
                raise KeyboardInterrupt

        with heard_by(heard):
            yield lambda: bool(come)

    def waited(self):
        """Seconds that each rank has waited for others, or None for one rank."""
        return tuple(self.ranks.each(sum(self.ranks.seconds.values()), "seconds")) if self.several else None


ALONE = Team()


def on_ranks(by, work, say, check=True):
    """``work(team)`` of the ranks that mpiexec has started, which all end alike; of this process alone where ``by`` is None.

    ``say(error)`` tells what ended the work, and returns the exit code of all ranks, of which those other than 0 are mute.
    ``check``: of `World`. `ValueError` where there are several, and ``by`` is None.
    """
    if by is None:
        _check_alone()
        return work(ALONE)
    with World(check) as world:
        team = Team(by, world)
        team.limit_threads()
        if not team.leads:
            _mute(sys.stdout)
            warnings.simplefilter("ignore", UserWarning)
        try:
            return work(team)
        except Diverged:
            raise
        except (Exception, KeyboardInterrupt) as error:
            world.each(type(error).__name__, "error")  # the same on all ranks, or it is said which has this one
            if not team.leads:
                _mute(sys.stderr)
            code = say(error)
            world.all(True, "know how it ended")  # a rank that exits with a code may end the others
    sys.exit(code)


def _mute(stream):
    stream.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _check_alone():
    rank, size = launched()
    if size == 1:
        return
    if rank:
        _mute(sys.stderr)
        time.sleep(1)  # rank 0 speaks before one that exits with another code than 0 ends it
    found = f"there are {size} ranks, and --ranks is not given"
    raise ValueError(f"{found}; expected --ranks samples or --ranks neurons, or one process without mpiexec")


def _appears(path):
    """Whether a file is there, now or soon: file systems over a network keep what they knew for some seconds."""
    end = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > end:
            return False
        with contextlib.suppress(OSError):
            os.listdir(path.parent)
        time.sleep(0.1)
    return True
