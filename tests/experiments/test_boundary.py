"""Runs heed no `numpy.seterr`, and leak no warning."""

import warnings

import numpy as np
import pytest

import nearlin as nl
from nearlin.experiments import compare, predict, train


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 3))
    return x, np.sign(x[:, 0])


def told(result):
    keys = ("step", "loss", "loss_after", "accepted", "reason")
    return result.ended, [[repr(record[key]) for key in keys] for record in result.records]


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "near-linear-gauss-newton"},
        {"optimizer": "sgd", "lr": 1e200, "batch_size": 6},
        {"optimizer": "kfac", "lr": 1e200, "batch_size": 6},
        {"optimizer": "dsgd", "activation": "tanh", "settings": {"p": 1e-160}.items(), "batch_size": 6},
    ],
    ids=lambda options: options["optimizer"],
)
def test_a_run_is_the_same_whatever_numpy_is_set_to(data, options):
    options = {**options, "settings": tuple(options.get("settings", ()))}
    run = lambda: told(train(data, width=8, steps=6, progress=False, **options))  # noqa: E731
    with np.errstate(all="ignore"):
        wanted = run()
    with np.errstate(all="raise"):
        assert run() == wanted
    assert np.geterr()["under"] == "ignore"  # as it was


def test_a_comparison_that_diverges_leaks_no_warning(data):
    with warnings.catch_warnings(), np.errstate(all="warn"):
        warnings.simplefilter("error")
        found = compare(data, ("sgd", "adam"), lr={"sgd": 1e200, "adam": 1e150}, width=8, steps=6, batch_size=6, progress=False)
    assert found.results["sgd"].ended == "non-finite"


@pytest.mark.nightly
def test_a_cross_entropy_that_underflows_trains(tmp_path):
    """A problem with a softmax, whose step size makes its outputs large."""
    with np.errstate(all="raise"):
        result = train("digits", optimizer="sgd", lr=100.0, steps=3, progress=False, out=tmp_path / "run")
    assert np.isfinite(result.records[0]["loss"])


def test_predictions_heed_no_error_state(tmp_path):
    with np.errstate(all="raise"):
        x = nl.data.load("diabetes").x
        result = train("diabetes", width=8, steps=2, progress=False, out=tmp_path / "wide")
        assert np.all(np.isfinite(predict(result.checkpoint, x).values))
