"""Claims on cost: their quick verdicts, that wrong counts and times are caught, and the timing itself."""

import functools
import itertools
import math
import time

import numpy as np
import pytest

from nearlin.complexity import cost as closed
from nearlin.complexity.claims import cost
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME
from nearlin.optim import GramGaussNewton, NearLinearGaussNewton

QUICK = [claim for claim in cost.CLAIMS if claim.quick]
TIMED = [claim for claim in cost.CLAIMS if not claim.quick]


@pytest.mark.nightly
@pytest.mark.parametrize("claim", QUICK, ids=lambda claim: claim.id)
def test_quick_verdicts(claim):
    outcome = claim.measure(False)
    assert outcome.verdict == (HOLDS if claim.should_hold else FAILS), f"{outcome.value}: {outcome.detail}"
    assert outcome.series
    for series in outcome.series:
        assert len(series.x) == len(series.y) == len(series.predicted or series.y)


def test_what_is_timed_is_not_quick_and_nothing_else_is():
    assert all(claim.how == "time" for claim in TIMED)
    assert all(claim.how != "time" for claim in QUICK)
    assert {claim.number for claim in cost.CLAIMS} == {0, 4, 5, 6, 7, 15, 33}


# -------------------------------------------------------------------------------------------------------------- counts

MEASURE = {claim.id: claim.measure for claim in cost.CLAIMS}


def quadratic_step(p, _):
    """A step that also forms products of all pairs of neurons."""
    (W,) = p.params
    return cost.PARTS["whole step"](p, _) + cost.flops(lambda: W @ W.T)


def doubled(*args, **kwargs):
    """The formula with one constant wrong."""
    parts = closed.near_linear_step(*args, **kwargs)
    return {**parts, "certificate": 2 * parts["certificate"]}


def outer_sketch(J, S):
    """A sketch that forms the Jacobian's rows first."""
    J.to_dense()
    return J.sketch(S)


class PlainRows:
    """A sketch of factors whose cost has no logarithm."""

    def sample(self, key, s, shapes, like):
        return self

    def rows(self, layer, left, right):
        return left @ left.T * (right @ right.T)


class FormsGram:
    """A near-linear step that forms the Gram matrix first, and throws it away."""

    def __init__(self, **options):
        self.opt = NearLinearGaussNewton(**options)

    def init(self, params, objective):
        return self.opt.init(params, objective)

    def step(self, params, state, objective, batch, key):
        objective.at(params, batch).jacobian().gram()
        return self.opt.step(params, state, objective, batch, key)


WRONG = {
    "a step with a Gram matrix in it": MEASURE["step-near-linear"].given(optimizer=FormsGram),
    "a quadratic step is not linear in m": MEASURE["step-linear-in-width"].given(
        made={**cost.PARTS, "whole step": quadratic_step}
    ),
    "the structured Gram is not linear in n": MEASURE["parts-in-samples"].given(wanted={("structured Gram", "n"): 1}),
    "one wrong constant": MEASURE["step-closed-form"].given(formula=doubled),
    "the tail of another part": MEASURE["step-cubic-tail"].given(made={"whole step": cost.PARTS["factorisation"]}),
    "a structured Gram is not naive": MEASURE["naive-gram-ratio"].given(naive=lambda J: J.factors(slice(0, J.samples))[0].left),
    "no logarithm": MEASURE["kronecker-sketch-nlogn"].given(sketch=PlainRows()),
    "rows of the Jacobian in memory": MEASURE["kronecker-sketch-memory"].given(sketch=outer_sketch),
    "the exact step holds n m floats": MEASURE["step-memory"].given(opt=GramGaussNewton()),
    "twice the iterations pay later": MEASURE["break-even-flops"].given(
        grid=lambda full: ([(224, 4, 32)], []),
        gain=functools.partial(
            cost.counted_gain, near=NearLinearGaussNewton(epsilon=1e-12, maxiter=8, guard=False, sketch=cost.KRONECKER)
        ),
    ),
}


@pytest.mark.parametrize("measure", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


def test_a_quadratic_step_is_named():
    outcome = WRONG["a quadratic step is not linear in m"](False)
    assert "whole step in m: degree of flops in size is 2, expected 1" in outcome.detail


def test_a_gram_matrix_in_any_kind_of_step_reads_degree_two():
    detail = WRONG["a step with a Gram matrix in it"](False).detail
    for step in ("two-layer, fresh", "two-layer, reused", "two-layer, retried", "deep perceptron, reused"):
        assert f"{step}: degree of flops between two widths in n is 2, expected 1" in detail


def test_what_a_wider_network_costs_more_is_what_it_was_counted_by_hand():
    """4 products of 4 n d, sketch 2 n, certificate 2 n d, guard and forward 2 (2 n d + 4 n), and d terms that have no n."""
    rows = itertools.islice(cost.per_width(False), 4)
    found = [row["flops between two widths"] / 720 for row in rows]
    assert np.all(np.diff(found, 2) == 0)
    assert np.diff(found)[0] / 8 == 4 * 4 * 4 + 2 + 2 * 4 + 2 * (2 * 4 + 4)


def test_one_more_float_array_of_samples_by_neurons_is_seen():
    rows = list(cost.step_memory(False))
    assert MEASURE["step-memory"].judge(rows).verdict == HOLDS
    rows[-1] = {**rows[-1], "bytes per n m": 3.0}
    assert MEASURE["step-memory"].judge(rows).verdict == FAILS


# --------------------------------------------------------------------------------------------------------------- times


def timer_of(power, floor=0.0, noise=0.0):
    """A timer that makes up times with a power of the size."""

    def timer(calls, rounds=1, budget=0.0):
        rng = np.random.default_rng(0)
        return {size: (floor + 1e-9 * float(size) ** power) * (1 + noise * rng.standard_normal()) for size in calls}

    return timer


EXPONENTS = {"step-time-in-width": 1, "product-time-in-samples": 1, "factorisation-time": 3, "gram-time-in-samples": 2}


@pytest.fixture
def small(monkeypatch):
    """Problems of the smallest size, whatever is asked for: what is made here is not run."""
    make = cost.problem
    monkeypatch.setattr(cost, "problem", lambda n, d, m, *args: make(8, 2, 16, *args))
    monkeypatch.setattr(cost.data, "sphere", lambda n, d, key, make=cost.data.sphere: make(8, 2, key))


@pytest.mark.parametrize(("name", "power"), EXPONENTS.items())
def test_made_up_times(small, name, power):
    assert MEASURE[name].given(timer=timer_of(power, floor=1e-6, noise=0.01))(True).verdict == HOLDS
    assert MEASURE[name].given(timer=timer_of(power + 1))(True).verdict == FAILS
    assert MEASURE[name].given(timer=timer_of(power - 0.5))(True).verdict == FAILS


def test_quadratic_times_fail_the_linear_claim_with_noise_and_floor(small):
    assert MEASURE["step-time-in-width"].given(timer=timer_of(2, floor=1e-3, noise=0.03))(True).verdict == FAILS


def test_noise_is_no_failure(small):
    outcome = MEASURE["step-time-in-width"].given(timer=timer_of(1, noise=0.2))(True)
    assert outcome.verdict == OUT_OF_REGIME
    assert "too noisy to tell" in outcome.detail


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, HOLDS), (0.55, HOLDS), (2.4, HOLDS), (0.45, FAILS), (2.6, FAILS)])
def test_times_of_explicit_rows(small, factor, verdict):
    ratios = iter([factor * 2048 * d / (2048 + d) for d in (2, 4, 8, 16)])
    timer = lambda calls: {"naive": next(ratios), "structured": 1.0}  # noqa: E731
    assert MEASURE["naive-gram-time"].given(timer=timer)(True).verdict == verdict


def test_growth_of_the_sketch(monkeypatch):
    monkeypatch.setattr(cost.data, "sphere", lambda n, d, key: np.zeros((n, d)))
    log = lambda calls, rounds: {m: 1e-9 * m * math.log(m) for m in calls}  # noqa: E731
    assert MEASURE["kronecker-sketch-time"].given(timer=log)(True).verdict == HOLDS
    assert MEASURE["kronecker-sketch-time"].given(timer=timer_of(2))(True).verdict == FAILS


@pytest.mark.parametrize("name", ["break-even-time", "break-even-time-kronecker"])
@pytest.mark.parametrize(
    ("from_n", "from_ratio", "verdict"),
    [(256, 4.3, HOLDS), (20, 0.5, HOLDS), (513, 4.3, FAILS), (512, 16, HOLDS), (256, 17, FAILS), (1e9, 1e9, FAILS)],
)
def test_break_even_in_made_up_times(name, from_n, from_ratio, verdict):
    gain = lambda n, d, m: (4, min(n / from_n, m / n / from_ratio))  # noqa: E731
    assert MEASURE[name].given(gain=gain)(True).verdict == verdict


def test_break_even_is_not_judged_by_sizes_that_it_does_not_speak_of():
    gain = lambda n, d, m: (64, 9.0)  # noqa: E731
    assert MEASURE["break-even-time"].given(gain=gain)(True).verdict == FAILS  # no size is large enough beside 4 K d


def test_interleaved_takes_minima_of_processor_time():
    spins = iter([200_000, 0, 0, 0])
    seconds = cost.interleaved({"spin": lambda: sum(range(next(spins))), "sleep": lambda: time.sleep(0.01)}, rounds=4)
    assert seconds["spin"] < 1e-3
    assert seconds["sleep"] < 5e-3


def test_interleaved_stops_at_its_budget_after_two_rounds():
    calls = []
    cost.interleaved({0: lambda: calls.append(0)}, rounds=50, budget=0.0)
    assert len(calls) == 2


def test_sizes_are_no_powers_of_two():
    sizes = cost.geometric(512, 8192)
    assert len(sizes) == 8
    assert (sizes[0], sizes[-1]) == (520, 8200)
    assert all(n % 16 == 8 for n in sizes)
