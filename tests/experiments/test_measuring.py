"""Rates measured, written, read, and handed to an optimizer; no number here depends on the speed of the machine."""

import dataclasses
import functools
import json
import math
import warnings

import numpy as np
import pytest

import nearlin as nl
from nearlin.complexity import counting
from nearlin.experiments import measuring, registry
from nearlin.experiments.config import Config, differences
from nearlin.linalg import Rates
from nearlin.linalg.rates import DTYPES, PAIRED

SMALL = measuring.Sizes(matmul=16, thin=(8, 64, 4), cholesky=16, triangular=16, eigh=8, memory=2**12, calls=2)
TABLE = Rates(**{name: (1.25 + k, 2.5) for k, name in enumerate(PAIRED)}, calls=1e5)


@pytest.fixture(autouse=True)
def at_once(monkeypatch, tmp_path):
    """A working folder of its own, and no waiting."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "SPAN", 0.0)


def numbers(rates):
    return [*(rate for name in PAIRED for rate in getattr(rates, name)), rates.calls]


@pytest.mark.parametrize("primitive", measuring.BODIES)
def test_the_amount_of_a_body_is_what_it_does(primitive):
    """Its flops are counted, up to what is of lower order; of the array of ones its bytes."""
    sizes = measuring.Sizes(matmul=60, thin=(64, 512, 32), cholesky=60, triangular=60, eigh=60, memory=2**14)
    like = counting.xp.empty((0,), dtype=counting.xp.float32)
    amount, body = measuring.BODIES[primitive](getattr(sizes, primitive), like)
    with counting.count() as tally:
        body()
    done = tally.bytes["multiply"] if primitive == "memory" else tally.total
    assert done == pytest.approx(amount, rel=0.03)


def test_a_round_of_calls_is_six():
    amount, body = measuring._calls(5, counting.xp.empty((0,), dtype=counting.xp.float32))
    with counting.count() as tally:
        body()
    assert amount == sum(tally.calls.values()) == 30


def test_a_rate_is_the_amount_over_the_median_time_after_one_run_that_is_not_timed(monkeypatch):
    clock, runs = [0.0], []

    def body():
        runs.append(1)
        clock[0] += [100.0, 0.5, 4.0, 0.25, 8.0][len(runs) - 1]

    monkeypatch.setattr(measuring, "SPAN", 10.0)
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
    assert measuring._rate(30.0, body, np.empty(0)) == 13.3  # 30 / 2.25 to three digits
    assert len(runs) == 5


@pytest.mark.filterwarnings("ignore:the device:UserWarning")
def test_every_backend_has_rates(be):
    if be.name == "counting":
        pytest.skip("it counts")
    like, asked = be.xp.empty((0,), dtype=be.xp.float32, device=be.device), []
    rates = measuring.rates_of(like, lambda *what: asked.append(what), SMALL)
    assert all(0 < rate < math.inf for rate in numbers(rates))
    wide = be.eps < 1e-10
    assert len(asked) == len(set(asked)) == (measuring.MEASUREMENTS if wide else len(PAIRED) + 1)
    assert {dtype for _, dtype in asked} == set(DTYPES if wide else DTYPES[:1])


def test_a_device_without_float64_says_so():
    strict = pytest.importorskip("array_api_strict")
    like = strict.empty((0,), dtype=strict.float32, device=strict.Device("no_float64"))
    with pytest.warns(UserWarning, match=r"the device .*no_float64.* has no float64; the rates of float32 stand for it"):
        rates = measuring.rates_of(like, sizes=SMALL)
    assert all(getattr(rates, name)[0] == getattr(rates, name)[1] for name in PAIRED)


def test_a_backend_by_name():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(0 < rate < math.inf for rate in numbers(nl.experiments.measure_rates("numpy", sizes=SMALL)))
    with pytest.raises(nl.BackendError, match="unknown backend 'jax'"):
        nl.experiments.measure_rates("jax")


def test_a_file_gives_back_what_was_written(tmp_path):
    measuring.write_rates(tmp_path / "rates.json", TABLE)
    assert Rates.from_dict(measuring.read_rates(tmp_path / "rates.json")) == TABLE
    assert [path.name for path in tmp_path.iterdir()] == ["rates.json"]


# ------------------------------------------------------------------------------------------------ what an optimizer is given


@dataclasses.dataclass(frozen=True)
class Planning(nl.optim.SGD):
    """Gradient descent that would plan by rates."""

    rates: Rates = Rates()


@pytest.fixture
def planning(monkeypatch):
    monkeypatch.setattr(nl.optim, "Planning", Planning, raising=False)
    monkeypatch.setitem(registry.OPTIMIZERS, "planning", "Planning")


@pytest.mark.usefixtures("planning")
def test_an_optimizer_is_made_of_a_table_or_of_its_plain_values():
    for rates in (TABLE, TABLE.to_dict(), json.loads(json.dumps(TABLE.to_dict()))):
        assert registry.make_optimizer("planning", rates=rates).rates == TABLE
    with pytest.raises(ValueError, match="rates lacks thin"):
        registry.make_optimizer("planning", rates={name: rate for name, rate in TABLE.to_dict().items() if name != "thin"})
    with pytest.raises(ValueError, match="sgd has no rates"):
        registry.make_optimizer("sgd", rates=TABLE.to_dict())


@pytest.mark.parametrize("rates", [TABLE, TABLE.to_dict()], ids=["table", "dict"])
@pytest.mark.parametrize("kind", [tuple, list])
def test_settings_are_compared_as_plain_values(rates, kind):
    given = kind([kind(["rates", rates]), kind(["betas", kind([0.9, 0.95])])])
    config = Config(settings=given)
    assert config.settings == (("rates", TABLE.to_dict()), ("betas", (0.9, 0.95)))
    assert Config(**config.to_dict()) == config
    assert Config(**json.loads(json.dumps(config.to_dict()))) == config
    assert differences(config, {"settings": given}) == []
    assert len(differences(config, {"settings": (("rates", Rates().to_dict()),)})) == 1


@pytest.mark.usefixtures("planning")
@pytest.mark.parametrize("rates", [TABLE, TABLE.to_dict()], ids=["table", "dict"])
def test_a_run_with_rates_is_resumed(rates):
    options = {"optimizer": "planning", "width": 16, "settings": (("rates", rates),), "progress": False}
    data = nl.data.sphere(n=12, d=3, seed=1)
    nl.experiments.train(data, steps=2, out="run", **options)
    again = nl.experiments.train(data, steps=3, resume="run/checkpoint.npz", progress=False)
    assert again.optimizer.rates == TABLE
    assert nl.experiments.train(data, steps=3, resume="run/checkpoint.npz", **options).optimizer.rates == TABLE
    with pytest.raises(ValueError, match=r"settings is .* here and .* in the checkpoint"):
        nl.experiments.train(data, steps=3, resume="run/checkpoint.npz", **options | {"settings": (("rates", Rates()),)})


# ------------------------------------------------------------------------------------------------------------ the command line


@pytest.fixture
def nearlin(monkeypatch):
    """Runs the command line, with small sizes."""
    pytest.importorskip("rich")
    runner = pytest.importorskip("click.testing").CliRunner()
    commands = pytest.importorskip("nearlin.experiments.commands")
    monkeypatch.setattr(commands, "measure_rates", functools.partial(measuring.measure_rates, sizes=SMALL))
    return lambda *arguments: runner.invoke(commands.cli, [str(argument) for argument in arguments])


def test_info_measures_prints_and_writes(nearlin, tmp_path):
    done = nearlin("info", "--measure", "--out", "rates.json")
    assert done.exit_code == 0, done.output
    for word in (*PAIRED, "calls", *DTYPES, "GFlop/s", "GB/s", "calls/s", "Wrote rates.json"):
        assert word in done.stdout
    assert done.stderr == ""
    rates = Rates.from_dict(json.loads((tmp_path / "rates.json").read_text()))
    assert all(0 < rate < math.inf for rate in numbers(rates))
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("cholesky")]
    assert [float(cell) for cell in row[1:3]] == pytest.approx([rate / 1e9 for rate in rates.cholesky])


def test_info_measures_another_backend(nearlin, tmp_path):
    pytest.importorskip("array_api_strict")
    done = nearlin("info", "--measure", "--backend", "array_api_strict")
    assert done.exit_code == 0, done.output
    assert "eigh" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("planning")
def test_a_run_takes_the_numbers_of_the_file_and_needs_it_no_more(nearlin, tmp_path):
    measuring.write_rates("rates.json", TABLE)
    x, y = nl.data.sphere(n=12, d=3, seed=1)
    np.savez("xy.npz", x=x, y=y)
    network = ("--width", 16, "--optimizer", "planning", "--set", "rates=rates.json")
    done = nearlin("train", "xy.npz", *network, "--set", "momentum=0.5", "--steps", 2, "--out", "run")
    assert done.exit_code == 0, done.output
    same = ("--set", "rates=rates.json", "--set", "momentum=0.5")
    assert nearlin("train", "--resume", "run/checkpoint.npz", "--steps", 3, *same).exit_code == 0
    (tmp_path / "rates.json").unlink()
    assert nearlin("train", "--resume", "run/checkpoint.npz", "--steps", 4).exit_code == 0
    saved = nl.experiments.checkpoint.load("run/checkpoint.npz")
    assert dict(saved["config"]["settings"]) == {"rates": TABLE.to_dict(), "momentum": 0.5}


BAD = {
    "out without measure": (["info", "--out", "r.json"], "--out belongs to --measure"),
    "backend without measure": (["info", "--backend", "torch"], "--backend belongs to --measure"),
    "unknown backend": (["info", "--measure", "--backend", "jax"], "unknown backend 'jax'"),
    "out below a file": (["info", "--measure", "--out", "text/r.json"], "cannot write into the folder text (--out)"),
    "out is a folder": (["info", "--measure", "--out", "folder"], "folder (--out) is a folder"),
    "missing file": (["train", "digits", "--set", "rates=no.json"], "the file of rates no.json cannot be read"),
    "a folder of rates": (["train", "digits", "--set", "rates=folder"], "the file of rates folder cannot be read"),
    "foreign text": (["train", "digits", "--set", "rates=text"], "text is no file of rates that nearlin info --measure wrote"),
    "foreign bytes": (["train", "digits", "--set", "rates=bytes"], "bytes is no file of rates"),
    "foreign JSON": (["train", "digits", "--set", "rates=other"], "--measure wrote: rates has the unknown key 'problem'"),
    "no number": (["train", "digits", "--set", "rates=nan"], "calls is nan; expected a positive number"),
    "compare": (["compare", "digits", "--set", "rates=no.json"], "the file of rates no.json cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_and_exit_code_2(case, nearlin, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("rates")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "other").write_text('{"problem": "digits"}')
    (tmp_path / "nan").write_text(json.dumps(TABLE.to_dict() | {"calls": math.nan}))
    before = {path.name for path in tmp_path.rglob("*")}
    arguments, says = BAD[case]
    done = nearlin(*arguments)
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.output
    assert {path.name for path in tmp_path.rglob("*")} == before
