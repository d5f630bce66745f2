"""What a route is said to cost against what it makes on counting arrays, and the plan against the route that was cheapest."""

import dataclasses
import itertools
import math
import re
import types

import numpy as np
import pytest

import nearlin as nl
from nearlin import nn
from nearlin.complexity import counting
from nearlin.curvature import ROUTES, Applied, Experience, Kept
from nearlin.linalg import Rates
from nearlin.optim.gauss_newton import State

GaussNewton = nl.optim.GaussNewton
TANH = nn.Elementwise(nn.activation("tanh"))
NETWORKS = {
    "two-layer": nn.TwoLayer(7, 330),
    "two-layer-tanh": nn.TwoLayer(7, 330, "tanh"),
    "two-layer-3": nn.TwoLayer(7, 330, outputs=3),
    "factors": nn.MLP((13, 29, 17, 3), "tanh"),
    "one-output": nn.MLP((13, 29, 1), "tanh"),
    "passes": nn.MLP((13, 29, 17, 7), "tanh"),
    "conv": nn.Sequential(
        (nn.Conv2d(3, 11, 3, pad=1), TANH, nn.Conv2d(11, 9, 2, stride=2, bias=False), nn.Flatten(), nn.Dense(54, 3)),
        shape=(3, 5, 7),
    ),
    "norm": nn.Sequential((nn.Dense(13, 19), nn.BatchNorm(19), TANH, nn.Dense(19, 7)), shape=(13,)),
}
SAMPLES = {"two-layer": 41, "two-layer-tanh": 41, "two-layer-3": 41, "one-output": 41}
ARITHMETIC = ("matmul", "thin", "cholesky", "triangular", "eigh")


def halved(given, made, **_):
    """Flops of a matrix product; of A Aᵀ the half that a rank-k update does."""
    a, b = given[:2]
    half = a.shape == b.shape[::-1] and np.shares_memory(a, b)
    return (1 if half else 2) * made[0].size * a.shape[-1]


@pytest.fixture
def tally(monkeypatch):
    """Flops by kind of primitive that ``f()`` makes on counting arrays."""

    def counted(f):
        with counting.count() as found:
            f()
        names = {"matmul": ("matmul",), "cholesky": ("cholesky", "shifted_cholesky"), "triangular": ("solve_triangular",)}
        names["eigh"] = ("eigh",)
        return {kind: float(sum(found.flops[name] for name in those)) for kind, those in names.items()}

    original = counting._call

    def call(name, function, flops, moved, *args, **kwargs):
        return original(name, function, halved if name == "matmul" else flops, moved, *args, **kwargs)

    monkeypatch.setattr(counting, "_call", call)
    return counted


def problem(name, wrap=counting.wrap, n=None, loss="squared"):
    """An objective in evaluation mode, parameters and a batch, on counting arrays or others."""
    net, n, g = NETWORKS[name], n or SAMPLES.get(name, 23), np.random.default_rng(5)
    shape = getattr(net, "shape", None) or (net.inputs,)
    x, y = wrap(g.standard_normal((n, *shape))), wrap(g.random((n, net.outputs)))
    objective = nn.Objective(net, LOSSES[loss])
    params = net.init(3, x)
    return objective.observe(objective.at(params, (x + 0.1, y)).statistics).evaluation(), params, (x, y)


LOSSES = {"squared": nn.SquaredLoss(), "sigmoid": nn.SigmoidCrossEntropy()}


def arithmetic(work):
    """Flops by kind; thin products are products."""
    return {"matmul": work.matmul + work.thin, "cholesky": work.cholesky, "triangular": work.triangular, "eigh": work.eigh}


def check(work, counted):
    assert arithmetic(work) == pytest.approx(counted, rel=0.1)


def usual_sketch(J):
    return nl.sketch.KroneckerSRHT() if J.layered else nl.sketch.NeuronSigns()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_jacobian_does_the_work_that_it_announces(tally, name):
    """Products, Gram matrices, sketches and signals, at odd sizes, within a tenth by kind of operation."""
    objective, params, batch = problem(name)
    point = objective.at(params, batch)
    J = point.jacobian(weighted=True)
    u, v = counting.wrap(np.ones(J.shape[0])), point.params
    check(J.product_work(), tally(lambda: J.gram_matvec(u)))
    check(J.gram_work(), tally(J.gram))
    S = J.draw(usual_sketch(J), 1, 45, like=point.outputs)
    check(J.sketch_work(45), tally(lambda: J.pooled().sketch_gram(S)))
    check(J.class_work(mean=True), tally(J.mean_gram))
    check(J.class_work(mean=False), tally(J.class_grams))
    if name in ("two-layer", "two-layer-3"):
        check(J.kernel_work(), tally(J.kernel_gram))
    if name.startswith("two-layer"):
        return
    check(J.product_work(), tally(lambda: J.ggn_matvec(v)))
    check(J.signals_work(), tally(lambda: point.pullback(point.outputs)))


@pytest.mark.parametrize("name", NETWORKS)
def test_bytes_and_calls_are_of_the_order_of_what_was_counted(name):
    """Rates of memory and calls were fitted with these amounts: they are no counts, and no order of magnitude away from them."""
    objective, params, batch = problem(name)
    point = objective.at(params, batch)
    J, u = point.jacobian(weighted=True), point.residual
    S = J.draw(usual_sketch(J), 1, 45, like=point.outputs)
    pairs = [(J.product_work(), lambda: J.gram_matvec(u)), (J.gram_work(), J.gram_blocks)]
    pairs.append((J.sketch_work(45), lambda: J.pooled().sketch_gram(S)))
    if not name.startswith("two-layer"):
        pairs += [(J.class_work(mean=True), J.mean_gram), (J.class_work(mean=False), J.class_grams)]
    for work, f in pairs:
        with counting.count() as found:
            f()
        moved = sum(found.bytes.values())
        assert 0.15 * moved < work.memory < 2 * moved or (work.thin and not work.memory)
        assert 0.25 * sum(found.calls.values()) < work.calls < 7 * sum(found.calls.values())


AMOUNTS = {  # kilobytes and calls: product, Gram matrix, sketch of 45 rows; class Gram matrices (mean, each) or kernel
    "two-layer": [(0, 10), (297.168, 8), (215.824, 12), (134.48, 20)],
    "two-layer-tanh": [(0, 10), (297.168, 8), (215.824, 12)],
    "two-layer-3": [(0, 30), (458.544, 24), (215.824, 36), (134.48, 20)],
    "factors": [(81.144, 36), (685.584, 30), (1883.42, 600), (76.176, 30), (228.528, 90)],
    "one-output": [(29.52, 24), (161.376, 20), (716.352, 400), (161.376, 20), (161.376, 20)],
    "passes": [(234.048, 300), (4142.21, 525), (4824.85, 1125), (485.76, 555), (942.816, 735)],
    "conv": [(4621.34, 300), (4151.59, 225), (12724.2, 825), (3542.18, 255), (3694.54, 315)],
    "norm": [(198.72, 300), (4080.38, 525), (4366.32, 1125), (423.936, 555), (880.992, 735)],
}
APPLIED = {  # bytes and calls of one application on "passes": 161 rows, 7 outputs, 1042 parameters
    **dict.fromkeys(("exact", "frozen", "sketch", "kernel", "class-averaged"), (0, 10)),
    "per-class": (0, 70),
    **dict.fromkeys(("nystrom", "cg"), (6440, 40)),
    **dict.fromkeys(("kfac", "diagonal", "parameter-cg"), (41680, 40)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_bytes_and_calls_are_those_that_the_rates_were_fitted_with(name):
    """Whoever changes one of these amounts changes what the default rates and measured ones predict: fit them anew."""
    objective, params, batch = problem(name)
    J = objective.at(params, batch).jacobian(weighted=True)
    works = [J.product_work(), J.gram_work(), J.sketch_work(45)]
    if not name.startswith("two-layer"):
        works += [J.class_work(mean=True), J.class_work(mean=False)]
    elif name != "two-layer-tanh":
        works.append(J.kernel_work())
    for work, (kilobytes, calls) in zip(works, AMOUNTS[name], strict=True):
        assert (work.memory, work.calls) == pytest.approx((1000 * kilobytes, calls), rel=1e-4)
    if name == "passes":
        assert {plan: (work.memory, work.calls) for plan in APPLIED for work in [ROUTES[plan].apply_work(J)]} == APPLIED
    single = J.astype("float32")
    assert single.product_work().memory == works[0].memory / 2
    assert single.gram_work().memory == works[1].memory / 2


def test_a_nystrom_preconditioner_is_expected_to_take_32_products():
    """A nominal number: how many it takes depends on the spectrum."""
    objective, params, batch = problem("factors")
    J = objective.at(params, batch).jacobian(weighted=True)
    assert ROUTES["nystrom"].build_work(J, 0) == 32 * J.product_work()


@pytest.mark.parametrize(("inner", "ratio"), [(None, 1), ("float32", 4)])
def test_a_route_is_timed_in_the_dtype_that_it_works_in(inner, ratio):
    """float64 data; float32 is four times as fast at everything here."""
    rates = Rates(**{kind: (4e9, 1e9) for kind in (*ARITHMETIC, "memory")}, calls=1e30)
    objective, params, batch = problem("factors", np.asarray)
    point = objective.at(params, batch)
    J, plain = point.jacobian(weighted=True), GaussNewton(rates=rates)
    planners = [one.planner(J, point, True) for one in (plain, dataclasses.replace(plain, inner_dtype=inner))]
    for route in planners[0].candidates():
        times = [planner.seconds(route, Experience(), 100.0) for planner in planners]
        assert times[0] / times[1] == pytest.approx(ratio)


@pytest.mark.parametrize(("ratio", "effort"), [(8.0, 1.5), (24.0, 2.5), (1e6, 10)])
def test_plain_cg_is_expected_to_take_half_the_root_of_its_condition_number_a_digit(ratio, effort):
    """Of an e-fold, of a condition number of at most 1 + σ/λ, known after the first step; as measured where that is large."""
    objective, params, batch = problem("factors", np.asarray)
    point = objective.at(params, batch)
    planner = GaussNewton().planner(point.jacobian(weighted=True), point, True)
    assert planner._prior(ROUTES["cg"], ratio) == effort
    assert planner._prior(ROUTES["sketch"], ratio) == 1.4


def test_rows_of_chunks_are_made_again_for_every_pair_of_them(tally):
    objective, params, batch = problem("conv")
    J = objective.at(params, batch).jacobian()
    whole, parts = (nn.NetworkJacobian(J.network, J.params, J.x, J.tape, budget=2**bits) for bits in (28, 18))
    assert parts._samples_at_a_time(2) < 23 <= whole._samples_at_a_time(2)
    assert parts.gram_work().matmul > 1.5 * whole.gram_work().matmul
    check(parts.gram_work(), tally(parts.gram))


CASES = [
    *((name, plan) for name in NETWORKS if name.startswith("two-layer") for plan in ("exact", "sketch", "frozen", "cg")),
    *(("two-layer-3", plan) for plan in ("kernel", "class-averaged", "per-class")),
    ("two-layer", "kernel"),
    *((name, plan) for name in ("factors", "passes", "conv") for plan in ("exact", "sketch", "class-averaged", "per-class")),
    *((name, plan) for name in ("factors", "passes", "conv", "norm") for plan in ("kfac", "diagonal", "parameter-cg")),
    *((name, "direct") for name in ("factors", "passes")),
]


def parts(opt, plan, objective, params, batch, J=None):
    """What builds a preconditioner, and what applies it once, as the step does both."""
    point = objective.at(params, batch)
    J, strength, route = point.jacobian(weighted=True), 1e-2, ROUTES[plan]

    def build():
        setting = opt._setting(J, point, 1, 3, opt.planner(J, point, True).columns(Experience()))
        return route.factor(route.make(setting), setting, strength)

    applied = Applied(build(), point.samples, strength)
    vector = point.residual

    def apply():
        return applied(vector) if route.side == "sample" else applied.on_parameters(params)

    def product():
        return J.gram_matvec(vector) if route.side == "sample" else J.ggn_matvec(params)

    return J, build, apply, product


@pytest.mark.parametrize(("name", "plan"), CASES)
def test_a_route_does_the_work_that_it_announces(tally, name, plan):
    """Its preconditioner, made and applied."""
    opt = GaussNewton(plan=plan)
    J, build, apply, _ = parts(opt, plan, *problem(name))
    check(ROUTES[plan].build_work(J, opt._rows(J, 1)), tally(build))
    work, counted = ROUTES[plan].apply_work(J), tally(apply)
    shared = plan == "class-averaged" or (J.block_diagonal and plan in ("sketch", "kernel"))
    if shared:  # of c columns solved at once the first is bound by memory, the others are products
        assert work.triangular == pytest.approx(counted["triangular"] / J.outputs, rel=0.1)
        work = nl.linalg.Work(triangular=work.triangular + work.matmul)
    check(work, counted)


@pytest.mark.parametrize(("name", "n"), [("two-layer", 1000), ("two-layer-tanh", 1000), ("factors", 300), ("passes", 300)])
def test_columns_of_many_rows_are_about_the_work_that_is_announced(tally, name, n):
    """Within a quarter: proposals that are refused, and their minors, are not announced."""
    opt = GaussNewton(plan="pivoted")
    J, build, *_ = parts(opt, "pivoted", *problem(name, n=n))
    k = opt.planner(J, None, True).columns(Experience())
    announced, counted = sum(arithmetic(ROUTES["pivoted"].build_work(J, k)).values()), sum(tally(build).values())
    assert 0.75 * counted < announced < 1.1 * counted


FREE = {"memory": (1e30, 1e30), "calls": 1e30}
TABLES = {
    "default": Rates(**FREE),
    **{f"slow {kind}": Rates(**{kind: (1e7, 1e7)}, **FREE) for kind in ARITHMETIC},
}


def seconds(flops, rates, wide):
    """Time of counted operations: products of the two-layer network's walks are thin."""
    named = {"thin" if wide and kind == "matmul" else kind: amount for kind, amount in flops.items()}
    return sum(amount / getattr(rates, kind)[1] for kind, amount in named.items())


PLANNED = {"two-layer": "squared", "factors": "squared", "passes": "squared", "conv": "sigmoid", "norm": "sigmoid"}
DIGITS = math.log(1e3)
SERVED = {  # uses of a kept preconditioner that took 3 iterations, measured effort of others on their second step: iterations
    "a third time": (2, None, 3),
    "a second time": (1, None, 6),
    "a second time, as others did": (1, 9 / DIGITS, 9),
    "a second time, no better than the first": (1, 1 / DIGITS, 3),
}


@pytest.mark.parametrize("name", PLANNED)
def test_the_plan_is_the_route_that_was_cheapest_by_the_operations_it_made(tally, name):
    """Every candidate is run, iterations are those of its solves; the planned one is within a tenth of the best.

    What is built is expected to serve four steps, one where nothing is kept; what has been kept costs its iterations alone.
    """
    loss, chosen = PLANNED[name], set()
    plain = problem(name, np.asarray, loss=loss)
    opt = GaussNewton(epsilon=1e-3, damping=1e-2 if loss == "squared" else 1e-7, guard=False, maxiter=3000)
    point = plain[0].at(*plain[1:])
    J, wide, found = point.jacobian(weighted=True), name.startswith("two-layer"), {}
    planner = lambda opt: opt.planner(J, point, loss == "squared")  # noqa: E731
    for plan in (route.name for route in planner(opt).candidates()):
        state, info = dataclasses.replace(opt, plan=plan).step(plain[1], State(), plain[0], plain[2])[1:]
        assert info.solve.reason == "converged"
        _, build, apply, product = parts(opt, plan, *problem(name, loss=loss))
        applied = tally(apply)
        if plan == "class-averaged":  # c columns at once: the first is bound by memory, the others are as fast as products
            one = applied["triangular"] / J.outputs
            applied = {**applied, "triangular": one, "matmul": (J.outputs - 1) * one}
        found[plan] = (dict(state.experience.efforts)[plan], tally(build), applied, tally(product))

    def cost(plan, rates, steps, kept):
        effort, *flops = found[plan]
        build, apply, product = (seconds(made, rates, wide and i == 2) for i, made in enumerate(flops))
        build, iterations = (build / steps, effort * DIGITS) if kept is None else (0.0, kept)
        return build + iterations * (apply + product) + product

    cases = [(None, *SERVED["a third time"]), *((plan, *how) for plan in found for how in SERVED.values())]
    for rates, (served, uses, again, kept) in itertools.product(TABLES.values(), cases):
        efforts = {plan: effort for plan, (effort, *_) in found.items()} | ({f"{served}, again": again} if again else {})
        old = served and Kept(served, types.SimpleNamespace(rank=math.inf), None, 1.0, 3, 3, uses)
        state = State(experience=Experience(old, tuple(sorted(efforts.items()))))
        for reuse in (True, False)[: 1 if kept > 3 else 2]:
            costs = {plan: cost(plan, rates, 4 if reuse else 1, kept if plan == served and reuse else None) for plan in found}
            other = dataclasses.replace(opt, rates=rates, reuse=reuse)
            planned = other._plan(planner(other), state)
            assert costs[planned.route] <= 1.1 * min(costs.values())
            first, *others = re.findall(r"([0-9.e+-]+) s", planned.reason)
            assert float(first) == pytest.approx(costs[planned.route], rel=0.15)
            if others:
                assert float(others[0]) >= 0.95 * float(first)
            chosen.add(planned.route)
    assert len(chosen) >= 2
