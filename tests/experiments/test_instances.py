"""`train` and `compare` take optimizers of `nearlin.optim`; options that contradict themselves are refused in a sentence."""

import dataclasses
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from nearlin import optim
from nearlin.experiments import OPTIMIZERS, Config, compare, train
from nearlin.experiments.checkpoint import load
from nearlin.experiments.commands import cli
from nearlin.experiments.registry import make_optimizer, options_of
from nearlin.linalg import Rates
from nearlin.steps import StepDecay
from tests.optim.test_laws import OPTIMIZERS as LAWS

SMALL = {"width": 8, "steps": 3, "progress": False}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 3))
    return x, x[:, 0] - np.tanh(x[:, 1])


def made(options):
    """The optimizer that options make again."""
    settings = dict(options["settings"])
    given = {k: v for k, v in (options | settings).items() if k not in ("optimizer", "settings") and v is not None}
    return dataclasses.replace(
        make_optimizer(options["optimizer"], **given), **{k: None for k, v in settings.items() if v is None}
    )


RECORDED = {name: opt for name, opt in LAWS.items() if name not in ("near-linear-kronecker", "adamw")}  # a sketch, a schedule


@pytest.mark.parametrize("name", RECORDED)
def test_the_options_of_an_optimizer_make_it_again(name):
    """Also after the way through JSON, as a log has it."""
    options = options_of(RECORDED[name])
    assert made(options) == RECORDED[name]
    back = Config(**json.loads(json.dumps(Config(**options).to_dict())))
    assert made({k: getattr(back, k) for k in options}) == RECORDED[name]


@pytest.mark.parametrize("key", OPTIMIZERS)
def test_at_its_defaults_an_optimizer_is_its_name(key):
    options = options_of(getattr(optim, OPTIMIZERS[key])())
    assert options == {"optimizer": key, "epsilon": None, "lr": None, "damping": None, "settings": ()}


@pytest.mark.parametrize(
    "opt",
    [
        pytest.param(optim.Adam(lr=0.1, betas=(0.8, 0.9)), id="Adam", marks=pytest.mark.nightly),
        pytest.param(optim.Ginger(clip=None, rank=np.int64(3)), id="Ginger"),
    ],
)
def test_a_run_of_an_optimizer_is_that_of_its_options(data, opt, tmp_path):
    """The records are equal; the checkpoint resumes by the optimizer, by its options and without either."""
    found = train(data, optimizer=opt, out=tmp_path / "run", **SMALL)
    options = options_of(opt)
    assert found.optimizer == opt
    assert [r["loss"] for r in found.records] == [r["loss"] for r in train(data, **options, **SMALL).records]
    header = json.loads((tmp_path / "run" / "run.jsonl").read_text().splitlines()[0])
    assert header["config"]["optimizer"] == options["optimizer"]
    assert header["optimizer"]["text"] == repr(opt)
    more = SMALL | {"steps": 5}
    whole = train(data, optimizer=opt, **more)
    for given in ({"optimizer": opt}, options, {}):
        resumed = train(data, resume=found.checkpoint, **more, **given)
        assert [r["loss"] for r in resumed.records] == [r["loss"] for r in whole.records]
    for other in (dataclasses.replace(opt, lr=0.2), type(opt)()):
        with pytest.raises(ValueError, match=r"cannot resume .* (lr|settings) is"):
            train(data, resume=found.checkpoint, optimizer=other, **more)


@pytest.mark.parametrize(
    ("optimizer", "option", "kept"),
    [("sgd", "nesterov", "velocity"), ("rmsprop", "centered", "mean"), ("adam", "amsgrad", "largest")],
)
def test_an_option_is_set_on_the_command_line_and_survives_resuming(data, tmp_path, optimizer, option, kept):
    file, out = tmp_path / "xy.npz", tmp_path / "run"
    np.savez(file, x=data[0], y=data[1])
    first = f"train {file} --optimizer {optimizer} --set {option}=true --width 8 --steps 3 --out {out}"
    for command in (first, f"train --resume {out}/checkpoint.npz --steps 5"):
        assert CliRunner().invoke(cli, [*command.split(), "--no-progress"]).exit_code == 0
    resumed, settings = load(out / "checkpoint.npz"), ((option, True),)
    assert (resumed["config"]["settings"], getattr(resumed["state"], kept) is None) == (settings, False)
    whole = train(file, optimizer=optimizer, settings=settings, **SMALL | {"steps": 5})
    np.testing.assert_array_equal(resumed["params"][0], whole.params[0])
    refused = CliRunner().invoke(cli, first.replace("true", "maybe").split())
    assert (refused.exit_code, f"{option} is 'maybe'; expected True or False" in refused.output) == (2, True)


def test_optimizers_are_compared(data):
    found = compare(data, [optim.SGD(lr=0.03), "adam", optim.AdaGrad(lr=0.2, epsilon_hat=1e-6)], lr={"adam": 0.1}, **SMALL)
    assert [repr(run.optimizer) for run in found.results.values()] == [
        repr(optim.SGD(lr=0.03)),
        repr(optim.Adam(lr=0.1)),
        repr(optim.AdaGrad(lr=0.2, epsilon_hat=1e-6)),
    ]
    with pytest.raises(ValueError, match="'sgd' is named twice"):
        compare(data, [optim.SGD(lr=0.03), optim.SGD(lr=0.3)], **SMALL)


class Other:
    """No optimizer of the package."""


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"optimizer": optim.SGD(lr=StepDecay(0.1, 0.5, 2))}, "optimizer has lr=StepDecay"),
        ({"optimizer": LAWS["near-linear-kronecker"]}, "optimizer has sketch=KroneckerSRHT"),
        ({"optimizer": Other()}, "optimizer is a Other; expected one of near-linear-gauss-newton, "),
        ({"optimizer": optim.SGD}, "optimizer is a type; expected one of"),
        ({"optimizer": optim.Adam(), "lr": 0.1}, "lr is given beside the optimizer Adam"),
        ({"optimizer": optim.Adam(), "settings": (("betas", (0.1, 0.1)),)}, "settings is given beside the optimizer Adam"),
        ({"optimizer": ""}, "unknown optimizer ''; expected one of"),
        ({"settings": (("maxiter", 3), ("maxiter", 4))}, "maxiter is given twice in settings; expected it once"),
        ({"settings": (("sketch_size", 99999999999),)}, "sketch_size is 99999999999; expected a positive number of at most 1e6"),
        ({"time_limit": True}, "time_limit is True; expected a positive number of seconds"),
        ({"center": "no"}, "center is 'no'; expected True or False"),
    ],
)
def test_what_cannot_be_recorded_or_contradicts_itself_is_refused(data, given, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}[^\n]*$"):
        train(data, **SMALL, **given)


def test_rates_are_recorded():
    opt = optim.GaussNewton(rates=Rates.from_dict(Rates().to_dict() | {"calls": 5e5}))
    assert made(options_of(opt)) == opt
    assert opt != optim.GaussNewton()


def test_what_equals_a_default_counts_as_given_on_resuming(data, tmp_path):
    """A checkpoint of other values: the tolerance is the default's again, another width is refused."""
    start = train(data, tol=0.9, out=tmp_path / "run", **SMALL | {"steps": 40})
    assert (start.ended, start.steps < 40) == ("converged", True)
    assert train(data, resume=start.checkpoint, progress=False).steps == start.steps
    assert train(data, resume=start.checkpoint, tol=1e-8, progress=False).steps > start.steps
    with pytest.raises(ValueError, match="width is 8192 here and 8 in the checkpoint"):
        train(data, resume=start.checkpoint, width=8192, progress=False)


@pytest.mark.parametrize(
    "options", [("--lr", "adam=.1", "--lr", "adam=.2"), ("--damping", ".1", "--damping", ".2"), ("--lr", ".1", "--lr", ".1")]
)
def test_a_value_that_is_given_twice_is_refused(options, tmp_path):
    out = CliRunner().invoke(cli, ["compare", "diabetes", "--optimizers", "adam", *options, "--out", str(tmp_path / "c")])
    assert out.exit_code == 2
    assert "is given twice" in out.output
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_dsgd_says_what_it_takes(data, activation):
    with pytest.raises(ValueError, match=r"; dsgd takes networks of dense layers and smooth activations .digits-ae, or "):
        train(data, optimizer="dsgd", activation=activation, **SMALL)
    assert "dsgd is for digits-ae" in " ".join(CliRunner().invoke(cli, ["train", "--help"]).output.split())


def test_dsgd_takes_data_with_hidden_layers(data):
    """All rows in every step, and none of them raises the loss."""
    options = {"hidden": "5", "batch_size": "all", "activation": "tanh", "steps": 3, "progress": False}
    records = train(data, optimizer="dsgd", **options).records
    assert all(record["accepted"] and record["loss_after"] < record["loss"] for record in records)


@pytest.mark.parametrize(("problem", "activation"), [("digits-ae", None), ("digits", "tanh")])
@pytest.mark.nightly
def test_dsgd_takes_what_it_says(problem, activation):
    assert train(problem, optimizer="dsgd", activation=activation, batch_size="all", steps=1, progress=False).records[0][
        "accepted"
    ]


@pytest.mark.parametrize(
    ("dtype", "size", "word"), [("float32", 1e30, "overflow"), ("float32", 1e-30, "vanish"), ("float64", 1e-200, "vanish")]
)
def test_features_out_of_range_of_the_runs_dtype_are_refused(data, dtype, size, word):
    """In float64 1e30 is taken, and so are features that are zero."""
    x, y = (a.astype(dtype) for a in data)
    with pytest.raises(ValueError, match=f"^x holds numbers up to .*e.* in size, whose squares {word} in {dtype}; expected"):
        train((x * np.asarray(size, dtype), y), **SMALL)
    assert train((data[0] * 1e30, data[1]), **SMALL, optimizer="sgd").steps > 0
    assert train((data[0] * 0.0, data[1]), **SMALL, optimizer="sgd").steps > 0


def test_the_range_is_that_of_the_preprocessed_features(data, tmp_path):
    """A file in float32: scaled by default; as they are, they overflow."""
    plain = {"center": False, "scale": False, "normalize": False}
    for size, word in ((1e22, "overflow"), (1e-30, "vanish")):
        np.savez(tmp_path / "far.npz", x=size * data[0], y=data[1])
        assert train(tmp_path / "far.npz", dtype="float32", **SMALL).steps == 3
        with pytest.raises(ValueError, match=f"{word} in float32"):
            train(tmp_path / "far.npz", dtype="float32", **plain, **SMALL)
