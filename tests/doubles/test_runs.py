"""Runs and estimates on a GPU, on the double."""

import dataclasses
import re
import tracemalloc

import numpy as np
import pytest

import nearlin as nl
from nearlin import _array
from nearlin.complexity import cost
from nearlin.experiments import Config, building, compare, estimate, hints, loop, measuring, train, training, tune
from nearlin.linalg.rates import ESTIMATED, Rates, rates_for
from tests.doubles import devices
from tests.doubles.counters import counted

cp = pytest.importorskip("cupy")
NAMES = {"near-linear-gauss-newton": "NearLinearGaussNewton", "gram-gauss-newton": "GramGaussNewton", "sgd": "SGD"}


def sphere(n=40, d=3):
    """Rows of unit length and targets, on the device."""
    return tuple(cp.asarray(a) for a in nl.data.sphere(n=n, d=d, seed=1))


# --------------------------------------------------------------------------------------------------------------- the clock


class Clock:
    """Time as a GPU has it that compiles in the first step of an optimizer: 40 s then, and 2 s in every other."""

    def __init__(self, monkeypatch):
        self.now, self.compiled, self.keys = 0.0, set(), []
        monkeypatch.setattr(loop.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(loop.time, "process_time", lambda: self.now)
        for optimizer in (nl.optim.SGD, nl.optim.Adam):
            monkeypatch.setattr(optimizer, "step", self.timed(optimizer, optimizer.step))

    def timed(self, optimizer, step):
        def timed(one, params, state, objective, batch, key):
            self.now += 2.0 if optimizer in self.compiled else 40.0
            self.compiled.add(optimizer)
            self.keys.append(key)
            return step(one, params, state, objective, batch, key)

        return timed


OPTIONS = {"width": 16, "steps": 3, "test_fraction": 0, "progress": False}


def test_the_first_step_is_timed_without_the_compilation_of_its_kernels(monkeypatch, capsys):
    clock, host = Clock(monkeypatch), tuple(map(nl.to_numpy, sphere()))
    result = train(sphere(), optimizer="sgd", **OPTIONS)
    assert [(r["seconds"], r["cpu_seconds"], r["compilation"]) for r in result.records] == [
        (2, 2, 38),
        (2, 2, None),
        (2, 2, None),
    ]
    assert (len(clock.keys), clock.keys[0]) == (4, clock.keys[1])
    pytest.importorskip("nearlin.experiments.report").print_result(result)
    assert re.search(r"38(\.0*)? s in which kernels were compiled", " ".join(capsys.readouterr().out.split()))
    expected = train(host, optimizer="sgd", **OPTIONS)
    assert [r["compilation"] for r in expected.records] == [None] * 3
    assert len(clock.keys) == 7
    for field in ("loss", "loss_after", "gradients"):
        np.testing.assert_allclose(*([r[field] for r in one.records] for one in (result, expected)), rtol=1e-12)


def test_a_comparison_and_a_search_charge_no_compilation_to_the_first_optimizer(monkeypatch):
    Clock(monkeypatch)
    found = compare(sphere(), ["sgd", "adam"], **OPTIONS)
    assert {name: result.seconds for name, result in found.results.items()} == {"sgd": 6, "adam": 6}
    monkeypatch.undo()
    Clock(monkeypatch)
    options = OPTIONS | {"steps": None, "time_limit": 5.0}
    assert {run.steps for run in tune(sphere(), ["sgd"], runs=2, **options).searches["sgd"].runs} == {3}


def test_images_are_cropped_and_flipped_on_the_device(rng):
    images = rng.standard_normal((6, 3, 8, 8))
    there = cp.asarray(images)
    with counted() as counts:
        found = nl.data.augment(there, key=3)
    assert (counts.synchronizations.total(), counts.from_host.total()) == (0, 2)
    np.testing.assert_array_equal(found.get(), nl.data.augment(images, key=3))


# ------------------------------------------------------------------------------------------------------------------ rates

PLANNING = ("GaussNewton", "NearLinearGaussNewton")


@pytest.mark.parametrize("name", PLANNING)
def test_a_step_on_a_gpu_is_planned_by_the_rates_of_one(name):
    batch, objective = sphere(), nl.nn.Objective(nl.nn.TwoLayer(3, 16), nl.nn.SquaredLoss())
    params = objective.network.init(key=0, like=batch[0])

    def step(rates):
        optimizer = getattr(nl.optim, name)(rates=rates)
        optimizer.step(params, optimizer.init(params, objective), objective, batch, key=0)

    step(None)
    step(dataclasses.replace(Rates(), device="a GPU"))
    with pytest.warns(UserWarning, match="rates are those of a CPU, and the arrays are on a GPU; measure its own: nearlin info"):
        step(Rates())


def test_default_rates_are_those_of_the_kind_of_device():
    for like, expected in ((cp.ones(1), ESTIMATED), (np.ones(1), Rates())):
        assert rates_for(None, like) == expected
    network, slow = nl.nn.MLP((8, 16, 1)), dataclasses.replace(ESTIMATED, cholesky=(1e3, 1e3), device="a slow GPU")
    by = lambda **options: cost.planned_route(network, 64, "float64", True, **options)  # noqa: E731
    assert by(on_gpu=True) == by(optimizer=nl.optim.GaussNewton(rates=ESTIMATED))
    assert by(on_gpu=True) != by()
    assert by(optimizer=nl.optim.GaussNewton(rates=slow), on_gpu=True).name != by(on_gpu=True).name


def test_measured_rates_name_their_gpu(monkeypatch):
    monkeypatch.setattr(measuring, "SPAN", 0.0)
    sizes = measuring.Sizes(matmul=8, thin=(8, 64, 4), cholesky=8, triangular=8, eigh=4, memory=800, calls=1)
    monkeypatch.setattr(measuring, "ON_GPU", sizes)  # which are taken there
    monkeypatch.setattr(measuring, "SIZES", None)
    rates = nl.experiments.measure_rates("cupy")
    assert rates.device == "double"
    assert nl.linalg.Rates.from_dict(rates.to_dict()) == rates


# --------------------------------------------------------------------------------------------------------------- the card

LINE = r"double, device 0 of 2; compute capability 9.0; CUDA driver 12.9, runtime 12.9; 80.0 GiB free; kernel cache "


def test_the_card_is_in_the_head_of_a_run_and_in_the_table_of_backends(tmp_path, monkeypatch, capsys):
    report = pytest.importorskip("nearlin.experiments.report")
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    (tmp_path / "one.cubin").touch()
    rows = dict(nl.experiments.info())
    assert re.fullmatch(LINE + re.escape(f"{tmp_path}, 1 kernels"), rows["GPU of cupy"])
    assert "GPU of numpy" not in rows
    problem, config = building.build(sphere(), Config(width=16))
    trainer = training.begin(training.set_up(problem, config), problem.init(0))
    assert trainer.header["gpu"] | {"cache": ""} == {
        "card": "double", "capability": "9.0", "free": 80 * 2**30, "cuda": "driver 12.9, runtime 12.9",
        "number": "0 of 2", "cache": "", "slow_float64": False,
    }  # fmt: skip
    report.print_header(trainer)
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(LINE, said)
    assert "slower in float64" not in said


def test_the_number_of_a_gpu_is_that_of_the_arrays():
    with cp.cuda.Device(1):
        assert _array.gpu_facts(cp.ones(1))["number"] == "1 of 2"


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((8, 0), "float64"),
        ((9, 0), "float64"),
        ((10, 0), "float64"),
        ((7, 5), "float32"),
        ((8, 6), "float32"),
        ((8, 9), "float32"),
    ],
)
def test_float32_is_the_default_where_float64_is_slow(capability, dtype, monkeypatch):
    major, minor = capability
    card = {"name": b"a card", "major": major, "minor": minor}
    monkeypatch.setattr(cp.cuda.runtime, "getDeviceProperties", lambda number: card)
    x, y = nl.data.sphere(n=40, d=3, seed=1)
    data = nl.data.Dataset("table", x, y, "regression")
    problem, config = building.build(data, Config(backend="cupy", width=16))
    assert (config.dtype, problem.like.dtype) == (dtype, dtype)
    assert building.build(data, Config(backend="cupy", width=16, dtype="float64"))[1].dtype == "float64"
    assert building.build(data, Config(width=16))[1].dtype == "float64"
    said = hints.hints(training.begin(training.set_up(problem, config), problem.init(0)))
    slow = "a card is at least 16 times slower in float64 than in float32, which is the default there (--dtype)"
    assert (slow in said) == (dtype == "float32")


# ----------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", NAMES)
def test_an_estimate_is_of_the_blocks_of_a_gpu(name, activation):
    """256 MB, where those of a CPU are 2 MB."""
    n, d, m = 512, 8, 16384
    batch, optimizer = sphere(n, d), getattr(nl.optim, NAMES[name])()
    objective = nl.nn.Objective(nl.nn.TwoLayer(d, m, activation), nl.nn.SquaredLoss())
    tracemalloc.start()
    params = objective.network.init(key=0, like=batch[0])
    optimizer.step(params, optimizer.init(params, objective), objective, batch, key=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sizes = {"rows": n, "features": d, "width": m, "activation": activation, "optimizer": name}
    assert 0.8 * peak < estimate(backend="cupy", **sizes).peak < 1.25 * peak


def test_a_step_that_does_not_fit_the_gpu_is_refused(monkeypatch):
    """What the pool keeps of freed arrays is given back before."""
    sizes = {"rows": 4096, "features": 16, "width": 131072, "backend": "cupy"}
    need = estimate(**sizes).peak
    monkeypatch.setattr(devices, "MEMORY", need)
    monkeypatch.setattr(devices.POOL, "kept", need // 2)
    assert estimate(**sizes).peak == need
    monkeypatch.setattr(devices, "MEMORY", need - 1)
    with pytest.raises(ValueError, match=r"and the GPU has .* GiB; what would fit: --dtype float32"):
        estimate(**sizes)


def test_weights_that_do_not_fit_the_gpu_are_refused(monkeypatch):
    options = OPTIONS | {"steps": 1}
    monkeypatch.setattr(devices, "MEMORY", building.COPIES * 16 * 3 * 8)
    monkeypatch.setattr(devices.POOL, "kept", 1000)
    assert train(sphere(), **options).steps == 1
    monkeypatch.setattr(devices, "MEMORY", building.COPIES * 16 * 3 * 8 - 1)
    with pytest.raises(ValueError, match=r"3 copies of 16 x 3 weights take .* GiB are free on the GPU"):
        train(sphere(), **options)
