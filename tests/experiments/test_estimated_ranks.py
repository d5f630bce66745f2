"""`estimate` for several ranks: bytes by name are those that ranks count, peaks and flops those of a process; what is refused."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import nearlin as nl
from nearlin.complexity import cost
from nearlin.experiments import Team, estimate, train
from nearlin.experiments.registry import BY_NEURONS, OPTIMIZERS
from tests.experiments import peaks, rank_costs
from tests.experiments.test_estimated_memory import assert_near, label, one, planned
from tests.ranks.test_world import pytestmark as needs_mpi
from tests.ranks.test_world import world

NEAR, GN = "near-linear-gauss-newton", "gauss-newton"
WIDE = {"rows": 64, "features": 5, "width": 1201}
FEW = {"rows": 96, "features": 6, "hidden": (9, 7), "outputs": 3}
CLASSES = {"rows": 90, "features": 6, "hidden": (9, 7), "outputs": 6, "classes": True}
SENT = [
    *(one(WIDE, name, **more) for name in (NEAR, "gram-gauss-newton", "natural-gradient") for more in ({}, {"outputs": 3})),
    one(WIDE, NEAR, dtype="float32"),
    one({**WIDE, "rows": 512, "batch_size": 64}, NEAR),
    one({**WIDE, "width": 161}, NEAR, settings={"preconditioner": "sketch"}),
    *(one(WIDE, NEAR, settings={"preconditioner": name}) for name in ("kernel", "pivoted")),
    *planned(WIDE, "exact", "frozen", "sketch", "kernel", "cg", "pivoted"),
    *planned(WIDE, "class-averaged", "per-class", "exact", outputs=3),
    *(one(WIDE, name) for name in ("sgd", "adam", "adamw", "adagrad", "rmsprop")),
    *(one(sizes, name) for sizes in (FEW, CLASSES) for name in ("sgd", "adam", "kfac")),
    *(one({**sizes, "batch_size": 30, "rows": 90}, name) for sizes in (FEW, CLASSES) for name in ("adam", "kfac")),
    *(case for sizes in (FEW, CLASSES) for case in planned(sizes, "kfac", "diagonal", "parameter-cg")),
    one({**FEW, "rows": 2}, "kfac"),
]  # fmt: skip


def estimated(case, ranks):
    return replace(peaks.estimated(case), ranks=ranks, workers=1)


def step_of(case, ranks, t, solve):
    """The `Step` that is told for step t of a run, with as many inner iterations as it took."""
    found = estimated(case, ranks)
    names = list(found.steps)
    if solve is None:
        return found.steps[names[-1]]
    iterations, fresh, _ = solve
    name = names[0] if t == 0 or len(names) == 1 else "later, R fresh" if fresh else names[-1]
    return replace(found, iterations=max(iterations, 1)).steps[name]


def ran(case, ranks):
    """Bytes by name of every step, and what its solve did."""
    optimizer, objective, batches, params = rank_costs.begun(case, ranks)
    state = optimizer.init(params, objective)
    for t in range(rank_costs.STEPS):
        before, batch = ranks.bytes.copy(), batches(t)
        params, state, info = optimizer.step(params, state, objective, batch, key=t)
        moved = {name: now - before[name] for name, now in ranks.bytes.items() if now > before[name]}
        yield moved, rank_costs.solved(info)


NUMBERS = {"sum of entries": 16, "entries are true": 1, "mean square": 8, "rows": 2, "agreed": 1, "inputs": 1}  # single ones


def assert_sent(moved, told, sizes):
    """What has a formula to the byte; pickled inverses beside their words, and what is a number or a row of moments."""
    for name in ("factors", *NUMBERS, "moments"):
        assert moved.get(name, 0) - told.get(name, 0) in range(
            {"factors": 400 * len(sizes.get("hidden", ())) + 400, "moments": 500}.get(name, NUMBERS.get(name, 0)) + 1
        )
    left = [{k: v for k, v in one.items() if k not in ("factors", "moments", *NUMBERS)} for one in (moved, told)]
    assert left[0] == left[1]


@pytest.mark.parametrize("case", SENT, ids=label)
@pytest.mark.parametrize("P", [2, 3])
def test_bytes_that_are_told_are_those_that_ranks_get(case, P):
    for steps in nl.together(P, lambda ranks: list(ran(case, ranks))):
        once = [(t, *step) for t, step in enumerate(steps) if step[1] is None or step[1][2] == 1]  # of one attempt
        assert len(once) > 1
        for t, moved, solve in once:
            assert_sent(moved, step_of(case, P, t, solve).sent, case)


def test_what_depends_on_draws_is_not_told():
    for case in (planned(WIDE, "pivoted", activation="tanh"), planned(WIDE, "nystrom")):
        assert next(iter(estimated(*case, 2).steps.values())).sent is None


def test_one_rank_is_sent_nothing():
    for case in (one(WIDE, NEAR), one(FEW, "kfac"), *planned(FEW, "kfac")):
        assert all(step.sent == {} for step in estimated(case, 1).steps.values())


# ------------------------------------------------------------------------------------------------------------- flops and peaks

ROWS = {"rows": 800, "features": 64, "hidden": (128, 16, 128), "outputs": 64, "activation": "tanh"}
FACTORS = {"rows": 60, "features": 200, "hidden": (300,), "outputs": 3, "activation": "tanh"}
TALL = {"rows": 256, "features": 16, "width": 8192}
MEASURED = [
    one(TALL, NEAR),
    one(TALL, NEAR, outputs=3),
    one({**TALL, "rows": 512, "batch_size": 256}, NEAR, activation="tanh"),
    *(one(TALL, name) for name in ("gram-gauss-newton", "adam")),
    *planned(TALL, "exact"),
    one(ROWS, "adam"),
    one(ROWS, "kfac"),
    *planned(ROWS, "kfac"),
    *(one({**FACTORS, "rows": n}, "kfac") for n in (60, 1)),  # one row is not split, and inverses are handed round all the same
    *(case for n in (60, 1) for case in planned({**FACTORS, "rows": n}, "kfac")),
    one({**ROWS, "rows": 1600, "batch_size": 800, "dtype": "float32"}, "kfac"),
]  # fmt: skip
MORE = [
    *(one(sizes, name) for sizes in (TALL, ROWS) for name in ("sgd", "adamw", "adagrad", "rmsprop")),
    one(TALL, "natural-gradient", outputs=3),
    *planned(TALL, "sketch", "frozen", "cg"),
    *planned(TALL, "per-class", "class-averaged", outputs=3),
    *planned(TALL, "pivoted", activation="tanh"),
    *(one({**CLASSES, "rows": 600, "features": 60, "hidden": (128,)}, name) for name in ("adam", "kfac")),
    *planned({**CLASSES, "rows": 600, "features": 60, "hidden": (128,)}, "kfac", "diagonal", "parameter-cg"),
]  # fmt: skip
EXACT = ("gram-gauss-newton", "natural-gradient", "kfac", NEAR, "sgd", "adam", "adamw", "adagrad", "rmsprop")


def measured(P, cases):
    """(case, peak of the rank with most, its steps) for each case, by processes."""
    done, _ = world(P, "-m", "tests.experiments.rank_costs", json.dumps(cases), seconds=500)
    assert done.returncode == 0, done.stderr
    for case, ranks in zip(cases, json.loads(done.stdout), strict=True):
        yield case, max(peak for peak, _ in ranks), [max(steps) for steps in zip(*(steps for _, steps in ranks), strict=True)]


@needs_mpi
@pytest.mark.parametrize(
    ("P", "cases"), [(2, MEASURED), pytest.param(3, MEASURED + MORE, marks=pytest.mark.nightly)], ids=["2", "3"]
)
def test_peaks_and_flops_are_those_of_the_rank_that_has_most(P, cases):
    """Peaks within a tenth; flops of the squared loss to the flop, where they are for one rank, but for the cuts of blocks."""
    for case, peak, steps in measured(P, cases):
        found = estimated(case, P)
        again = any(solve and solve[1] for _, _, solve in steps[1:])
        assert_near(found.most if again else found.peak, peak)
        if case["optimizer"] not in EXACT or case.get("classes"):
            continue
        for t, (flops, _, solve) in list(enumerate(steps))[1:]:
            told = sum(step_of(case, P, t, solve).flops.values())
            assert told == pytest.approx(flops, rel=2e-3 if "width" in case else 1e-5)


def test_a_share_is_that_of_the_rank_with_most_neurons_or_rows():
    for P in (2, 3, 7):
        assert estimated(one(WIDE, NEAR), P).neurons == max(nl.together(P, lambda ranks: len(range(1201)[ranks.share(1201, 8)])))
        assert estimated(one(FEW, "adam"), P).own_rows == -(-96 // P)


def test_what_is_planned_is_what_ranks_plan():
    for case in (one(WIDE, GN), one(FEW, GN), one(CLASSES, GN), one({**WIDE, "activation": "tanh"}, GN)):

        def plan(ranks, case=case):
            optimizer, objective, batches, params = rank_costs.begun(case, ranks)
            return optimizer.step(params, optimizer.init(params, objective), objective, batches(0), key=0)[2].plan

        route = estimated(case, 2).route
        assert nl.together(2, plan)[0].startswith(f"{route.name}: {route.seconds:.2g} s predicted")
    few = one({**FEW, "rows": 12}, GN)  # on the side of the samples, which ranks do not have
    assert estimated(few, 2).route.name == "kfac"
    assert estimated(few, 1).route.name == "exact"


# -------------------------------------------------------------------------------------------------------------- what is refused


def refused(**options):
    """The sentence of the estimate, and that of a run."""
    rows, features = options.pop("rows"), options.pop("features")
    ranks = options.pop("ranks")
    with pytest.raises(ValueError, match="expected") as told:
        estimate(rows=rows, features=features, ranks=ranks, **options)
    x = np.random.default_rng(0).standard_normal((rows, features))
    by = "samples" if "hidden" in options else "neurons"

    def run(team):
        with pytest.raises(ValueError, match="expected") as found:
            train((x, np.sin(x[:, :1] if "hidden" in options else x[:, 0])), steps=1, test_fraction=0, progress=False, team=team,
                  validation_fraction=0.0, **options)  # fmt: skip
        return str(found.value)

    return str(told.value), nl.together(ranks, lambda ranks: run(Team(by, ranks)))[0]


REFUSED = {
    "blocks": {"width": 20, "ranks": 4, "optimizer": "adam"},
    "groups": {"width": 4096, "ranks": 400, "optimizer": NEAR},
    "parameters": {"width": 64, "ranks": 2, "optimizer": GN, "settings": (("plan", "parameter-cg"),)},
    "samples": {"hidden": (9,), "ranks": 2, "optimizer": GN, "settings": (("plan", "exact"),)},
    "direct": {"hidden": (9,), "ranks": 2, "optimizer": GN, "settings": (("plan", "direct"),)},
    **{name: {"width": 64, "ranks": 2, "optimizer": name} for name in cost.LAYERS},
}


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "groups"])
def test_what_a_run_refuses_is_refused_with_the_same_reason(name):
    told, found = refused(rows=12, features=5, **REFUSED[name])
    assert told == found


def test_a_sketch_of_wide_groups_is_refused_for_many_ranks():
    with pytest.raises(ValueError, match="a sketch of 18 rows sums groups of 227 neurons, and a rank has 8; expected fewer"):
        estimate(rows=12, features=5, **REFUSED["groups"])
    estimate(rows=16, features=5, width=2304, ranks=24, optimizer=NEAR)  # groups of 2304 // 24 = 96 neurons, all that a rank has
    with pytest.raises(ValueError, match="sums groups of 96 neurons, and a rank has 88"):
        estimate(rows=16, features=5, width=2304, ranks=25, optimizer=NEAR)


def test_every_method_is_split_by_neurons_or_refused_in_a_sentence():
    x = np.random.default_rng(0).standard_normal((30, 4))

    def run(ranks, name):
        return train((x, np.sin(x[:, 0])), optimizer=name, width=64, steps=1, progress=False, team=Team("neurons", ranks))

    for name in OPTIMIZERS:
        if name in BY_NEURONS:
            assert nl.together(2, lambda ranks, name=name: run(ranks, name))[0].steps == 1
        else:
            with pytest.raises(ValueError, match=f"{name} reads rows of the weights, or signals, and those of other neurons"):
                nl.together(2, lambda ranks, name=name: run(ranks, name))


def test_more_ranks_are_proposed_where_a_step_does_not_fit():
    sizes = {"rows": 1024, "features": 64, "width": 2**20, "optimizer": "adam"}
    with pytest.raises(ValueError, match=r"--ranks 4, each on a machine of its own") as found:
        estimate(**sizes, memory=2**30)
    assert "--ranks 8" not in str(found.value)
    assert estimate(**sizes, ranks=4, memory=2**30).peak < 2**30
    with pytest.raises(ValueError, match="what would fit") as found:
        estimate(**{**sizes, "optimizer": "kfac", "width": 2**14}, memory=2**30)
    assert "--ranks" not in str(found.value)


def test_nothing_is_proposed_that_ranks_refuse():
    """A batch of 32 rows would fit, whose sketch sums groups of 1365 neurons, where a rank has 1024."""
    sizes = {"features": 64, "width": 2**16, "optimizer": NEAR, "ranks": 64}
    assert replace(estimate(rows=128, **sizes), rows=32, all_rows=128).peak < 3.3e6
    with pytest.raises(ValueError, match="what would fit: --dtype float32") as found:
        estimate(rows=128, **sizes, memory=3.3e6)
    assert "--batch-size" not in str(found.value)


def test_the_command_prints_what_is_sent():
    pytest.importorskip("rich")
    cli = pytest.importorskip("nearlin.experiments.commands").cli
    run = pytest.importorskip("click.testing").CliRunner().invoke
    sizes = ["estimate", "--rows", "64", "--features", "5"]
    done = run(cli, [*sizes, "--width", "1201", "--ranks", "3", "--optimizer", "gram-gauss-newton"])
    assert done.exit_code == 0, done.output
    assert "3; flops and bytes are those of the one that has most, 401 neurons" in done.output
    assert re.search(r"^Gram matrix +32\.00 KiB", done.output, re.MULTILINE)
    done = run(cli, [*sizes, "--hidden", "9", "--ranks", "70", "--optimizer", "adam"])
    assert "70, more than rows: each takes all of them" in done.output
    assert "sent" not in done.output
    done = run(
        cli, [*sizes, "--width", "1201", "--activation", "tanh", "--ranks", "2", "--optimizer", GN, "--set", "plan=pivoted"]
    )
    assert "What is sent in first step, later, columns anew depends on draws, and is not told." in done.output
    assert "sent" not in run(cli, [*sizes, "--width", "1201"]).output
