"""Verdicts from asv results that these tests write with asv's own writer: what they judge, and what they refuse."""

import importlib
import itertools
import pathlib
import pkgutil

import numpy as np
import pytest
import threadpoolctl

from nearlin import optim
from nearlin.complexity import asv_results
from nearlin.complexity.asv_results import SCALINGS, THREADS, Curve, Scaling
from nearlin.complexity.claims.table import FAILS, HOLDS, NOT_MEASURED, OUT_OF_REGIME

asv = pytest.importorskip("asv")
results_module = pytest.importorskip("asv.results")
runner = pytest.importorskip("asv.runner")
util = pytest.importorskip("asv.util")
SIZES = [2**k for k in range(10, 18)]
CG = "solvers.CG.time_cg"


def add(results, name, params, values, samples=None):
    number, samples = [samples and 1] * len(values), samples or [None] * len(values)
    outcome = runner.BenchmarkResult(result=values, samples=samples, number=number, errcode=0, stderr="", profile=None)
    results.add_result({"name": name, "version": "1", "params": [[repr(p) for p in some] for some in params]}, outcome,
                       record_samples=True)  # fmt: skip


def folder(path, benchmarks, threads=1, commit="c" * 40):
    """A results folder; ``benchmarks`` are (name, params, values, samples)."""
    results = results_module.Results({"machine": "desk"}, {}, commit, 0, "3.12", "existing", {})
    if threads is not None:
        add(results, THREADS, [], [threads])
    for benchmark in benchmarks:
        add(results, *benchmark)
    results.save(str(path))
    util.write_json(str(path / "desk" / "machine.json"), {"machine": "desk"}, 1)
    return path


def powers(exponent, noise=0.01, floor=0.0):
    rng = np.random.default_rng(0)
    return [floor + 1e-6 * n**exponent * (1 + noise * rng.standard_normal()) for n in SIZES]


def cg(exponent=1.0, backend="numpy", **options):
    return CG, [[backend], SIZES], powers(exponent, **options)


def judged(path, id="cg-time", **options):
    (claim,) = [c for c in asv_results.claims(asv_results.read(path), **options) if c.id == id]
    return claim.measure(True)


@pytest.mark.parametrize(
    ("exponent", "verdict"),
    [(1.0, HOLDS), (0.9, HOLDS), (1.5, FAILS), (2.0, FAILS)],
    ids=["linear", "less", "n^1.5", "quadratic"],
)
def test_an_exponent_is_judged(tmp_path, exponent, verdict):
    outcome = judged(folder(tmp_path, [cg(exponent)]))
    assert outcome.verdict == verdict, outcome
    assert abs(float(outcome.value.split()[1]) - exponent) < 0.05
    (series,) = outcome.series
    assert series.x == tuple(SIZES)
    np.testing.assert_allclose(series.predicted, series.y, rtol=0.1)


def test_a_floor_is_no_exponent(tmp_path):
    outcome = judged(folder(tmp_path, [cg(1.0, floor=5e-3)]))
    assert outcome.verdict == HOLDS
    np.testing.assert_allclose(outcome.series[0].predicted, [5e-3 + 1e-6 * n for n in SIZES], rtol=0.03)


def test_noise_decides_nothing(tmp_path):
    assert judged(folder(tmp_path, [cg(1.0, noise=0.4)])).verdict == OUT_OF_REGIME


def test_bent_times_count_with_their_exponent_at_the_largest_size():
    x = np.log(np.divide(SIZES, SIZES[0]))
    bent = Curve(tuple(SIZES), tuple(np.exp(0.9 * x + 0.06 * x**2)), 0)  # local exponents 0.9 to 1.5
    linear, subquadratic, equal = (Scaling("x", "", "x", growth=g, floor=False, exact=e)
                                   for g, e in (("n", False), ("n^2", False), ("n", True)))  # fmt: skip
    for claim in (linear, equal):
        outcome = claim.judge(bent)
        assert (outcome.verdict, outcome.detail.split(":")[0]) == (OUT_OF_REGIME, "the times bend")
    assert subquadratic.judge(bent).verdict == HOLDS
    flattening = Curve(tuple(SIZES), tuple(np.exp(1.1 * x - 0.06 * x**2)), 0)
    assert (linear.judge(flattening).verdict, equal.judge(flattening).verdict) == (HOLDS, OUT_OF_REGIME)
    slightly = Curve(tuple(SIZES), tuple(np.exp(0.9 * x + 0.025 * x**2)), 0)  # 0.9 to 1.14
    assert equal.judge(slightly).verdict == HOLDS


def test_an_exact_growth_must_be_reached_too():
    quadratic = Scaling("x", "", "x", growth="n^2", exact=True, floor=False)
    for exponent, verdict in ((1.5, FAILS), (2.0, HOLDS), (2.5, FAILS)):
        assert quadratic.judge(Curve(tuple(SIZES), tuple(powers(exponent)), 0)).verdict == verdict


def test_a_logarithm_is_divided_out():
    times = tuple(1e-9 * n * np.log2(n) for n in SIZES)
    assert "exponent 1.00" in Scaling("x", "", "x", growth="n log n").judge(Curve(tuple(SIZES), times, 0)).value


@pytest.mark.parametrize(("growth", "power"), [("n", 1), ("n log n", 1), ("n^2", 2), ("n^3", 3)])
def test_the_exponent_of_a_growth_is_its_power_and_its_tolerance_a_fifth(growth, power):
    """Times that grow as they are said to hold, and a quarter of a power more fails."""
    scaling = Scaling("x", "", "x", growth=growth, floor=False)
    for more, verdict in ((0, HOLDS), (0.15, HOLDS), (0.25, FAILS)):
        times = [1e-9 * n ** (power + more) * (np.log2(n) if "log" in growth else 1) for n in SIZES]
        assert scaling.judge(Curve(tuple(SIZES), tuple(times), 0)).verdict == verdict
    assert scaling.claim().expected == f"at most {power} + 0.2"


def test_sizes_are_judged_in_ascending_order(tmp_path):
    name, params, values = cg(1.0)
    run = asv_results.read(folder(tmp_path, [(name, [params[0], SIZES[::-1]], values[::-1])]))
    curve = run.curves[CG, "numpy", ()]
    assert (list(curve.sizes), list(curve.seconds)) == (SIZES, values)


def test_samples_count_by_their_minimum(tmp_path):
    name, params, least = cg()
    samples = [[t, 1.3 * t, 9 * t] for t in least]
    run = asv_results.read(folder(tmp_path, [(name, params, [5 * t for t in least], samples)]))
    np.testing.assert_allclose(run.curves[CG, "numpy", ()].seconds, least)


def test_curves_are_kept_apart_and_failures_are_named(tmp_path):
    sketches = ["CountSketch", "SRHT"]
    values = [t for _, s in itertools.product(["numpy"], sketches) for t in powers(1.0 if s == "CountSketch" else 2.0)]
    values[0] = None
    path = folder(tmp_path, [("sketches.Flat.time_apply", [["numpy"], sketches, SIZES], values)])
    assert "1 size(s) failed or were skipped" in judged(path, "countsketch-time").detail
    assert judged(path, "srht-time").verdict == FAILS
    assert judged(path, "gaussian-time").verdict == NOT_MEASURED
    assert judged(path, "sgd-time").verdict == NOT_MEASURED


def test_the_newest_results_are_judged_on_the_backend_that_is_asked_for(tmp_path):
    folder(tmp_path, [cg(2.0)], commit="a" * 40)
    folder(tmp_path, [cg(1.0), ("solvers.Factorisation.time_cholesky", [["torch"], SIZES], powers(3.0))], commit="b" * 40)
    run = asv_results.read(tmp_path)
    assert str(run) == "machine desk, commit bbbbbbbb"
    assert judged(tmp_path).verdict == HOLDS
    assert judged(tmp_path, "factorisation-time", backend="torch").verdict == HOLDS
    with pytest.raises(ValueError, match="no times on the backend 'cupy'; they hold numpy, torch"):
        asv_results.claims(run, "cupy")


def test_claims_of_the_table_keep_number_and_paper(tmp_path):
    claims = {c.id: c for c in asv_results.claims(asv_results.read(folder(tmp_path, [cg()])))}
    assert claims["step-time-in-width"].number == 4
    assert "2006.11648" in claims["step-time-in-width"].paper
    assert len(claims) == len(SCALINGS)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path / "none", "does not exist"),
        (lambda path: path, "holds no results of nearlin's asv suites"),
        (lambda path: folder(path, [("other.time_it", [["numpy"], SIZES], powers(1.0))]), "no results of nearlin's"),
        (lambda path: folder(path, [cg()], threads=None), "do not say on how many BLAS threads"),
        (lambda path: folder(path, [cg()], threads=2), "measured on 2 BLAS threads; expected 1"),
    ],
    ids=["missing", "empty", "foreign", "unsaid threads", "two threads"],
)
def test_results_that_cannot_be_judged_are_refused(tmp_path, make, says):
    with pytest.raises(ValueError, match=says):
        asv_results.read(make(tmp_path))


def test_damaged_files_are_refused(tmp_path):
    folder(tmp_path, [cg()])
    (file,) = [p for p in (tmp_path / "desk").iterdir() if p.name != "machine.json"]
    for content in ('{"version": 2}', '{"version": 2, "results": 3}', "{", "[]"):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"no results of nearlin's|cannot read"):
            asv_results.read(tmp_path)


def test_too_few_sizes_are_refused(tmp_path):
    run = asv_results.read(folder(tmp_path, [(CG, [["numpy"], SIZES[:4]], powers(1.0)[:4])]))
    with pytest.raises(ValueError, match=r"CG\.time_cg: 4 sizes are too few"):
        asv_results.claims(run)


# ------------------------------------------------------------------------------------------------------------ the suites


@pytest.fixture(scope="module")
def suites():
    """The modules of asv_bench/benchmarks by name; their own limit of BLAS threads ends with the fixture."""
    with pytest.MonkeyPatch.context() as patch, threadpoolctl.threadpool_limits(1):
        patch.syspath_prepend(pathlib.Path(__file__).parents[2] / "asv_bench")
        package = importlib.import_module("benchmarks")
        yield {m.name: importlib.import_module(f"benchmarks.{m.name}") for m in pkgutil.iter_modules(package.__path__)}


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling.id)
def test_what_is_judged_is_timed_at_six_sizes(suites, scaling):
    module, suite, name = scaling.benchmark.split(".")
    _, *choices, sizes = getattr(suites[module], suite).params
    assert hasattr(getattr(suites[module], suite), name)
    assert all(one in some for one, some in zip(scaling.choice, choices, strict=True))
    assert len(sizes) >= 6


def test_one_step_of_every_optimizer_is_timed_and_judged(suites):
    timed = {**suites["steps"].OPTIMIZERS, **suites["steps"].DEEP}
    assert {type(opt).__name__ for opt in timed.values()} == set(optim.__all__)
    judged = {s.choice[0] for s in SCALINGS if s.benchmark in ("steps.OverWidth.time_step", "steps.Deep.time_step")}
    assert judged == set(timed)


def test_the_times_of_the_readme_are_those_of_some_five_hundred_combinations(suites):
    """Each takes about a second."""
    classes = [c for m in suites.values() for c in vars(m).values() if isinstance(c, type) and c.__module__ == m.__name__]
    timed = [(c, [name for name in dir(c) if name.startswith("time_")]) for c in classes]
    assert 400 <= sum(len(names) * np.prod([len(p) for p in c.params], dtype=int) for c, names in timed if names) <= 550
