"""`compare`."""

import json

import numpy as np
import pytest

import nearlin as nl
from nearlin.data import Dataset
from nearlin.experiments import compare, train

DATA = Dataset("small sphere", *nl.data.sphere(n=30, d=5, seed=1))
SMALL = {"width": 256, "steps": 3, "progress": False}


def test_same_start_and_the_numbers_of_train(tmp_path):
    pytest.importorskip("matplotlib")
    both = compare(DATA, ["gram-gauss-newton", "adam"], lr={"adam": 0.01}, out=tmp_path / "c", **SMALL)
    assert list(both.results) == ["gram-gauss-newton", "adam"]
    assert len({result.initial_loss for result in both.results.values()}) == 1
    alone = train(DATA, optimizer="adam", lr=0.01, **SMALL)
    np.testing.assert_array_equal(both.results["adam"].params[0], alone.params[0])
    written = json.loads(both.json.read_text())
    assert written["adam"][0]["final_loss"] == alone.final_loss
    assert len(written["gram-gauss-newton"][0]["records"]) == 3
    assert both.plot.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="earlier run"):
        compare(DATA, ["adam"], out=tmp_path / "c", **SMALL)


def test_every_seed_starts_from_weights_of_its_own_on_the_split_of_the_first(tmp_path):
    """The second run is that of `train` with its seed but for the split; the weights are those that the network draws."""
    both = compare(DATA, ["sgd", "adam"], seeds=2, seed=4, out=tmp_path / "c", **SMALL)
    for runs in both.runs.values():
        assert [run.config.seed for run in runs] == [4, 5]
        for run in runs:
            x, y = run.problem.train
            np.testing.assert_array_equal(x, both.results["sgd"].problem.train[0])
            (W,) = run.problem.init(run.config.seed)
            np.testing.assert_array_equal(W[::2], run.problem.network.init(key=run.config.seed, like=x)[0][::2])
            outputs = np.maximum(x @ W.T, 0) @ np.where(np.arange(256) % 2 == 0, 1.0, -1.0) / 16
            assert run.initial_loss == pytest.approx(np.sum((outputs - y) ** 2) / 48, rel=1e-10)
            assert np.max(np.abs(outputs)) < 1e-12  # neurons of opposite signs are alike
    written = json.loads(both.json.read_text())
    assert [run["header"]["config"]["seed"] for run in written["adam"]] == [4, 5]


def test_odd_and_even_digits_are_learnt_to_equal_loss():
    """The comparison of README's first command, narrower and on fewer rows; the residuals anew in plain NumPy."""
    pytest.importorskip("sklearn")
    methods = ("near-linear-gauss-newton", "gauss-newton", "gram-gauss-newton", "adam")
    found = compare("digits-parity", methods, width=2048, test_fraction=0.8, progress=False)
    for name, result in found.results.items():
        x, y = (a.astype(np.float64) for a in result.problem.train)
        assert set(y) == {-1.0, 1.0}
        (before,), (after,) = result.problem.init(0), result.params
        signs = np.where(np.arange(2048) % 2 == 0, 1.0, -1.0) / np.sqrt(2048)
        start, end = (np.linalg.norm(np.maximum(x @ W.T.astype(np.float64), 0) @ signs - y) for W in (before, after))
        assert result.relative_residual == pytest.approx(end / start, rel=1e-4, abs=1e-6)  # float32 rounds as much
        assert (result.ended, end <= 1.01e-4 * start) == (("steps", False) if name == "adam" else ("converged", True))
        assert result.train_error.value == 0 or name == "adam"


def test_one_value_goes_to_those_that_have_the_hyperparameter():
    both = compare(DATA, ["near-linear-gauss-newton", "sgd"], epsilon=0.5, **SMALL)
    assert both.results["near-linear-gauss-newton"].optimizer.epsilon == 0.5


def test_batches_steps_and_step_size_are_those_of_each_method():
    """Of 300 rows that are trained on, on data of one's own; what is given is that of all."""
    draw = np.random.default_rng(0).standard_normal
    data = Dataset("own", draw((300, 3)), np.arange(300) % 3, "classification")
    options = {"hidden": 2, "test_fraction": 0.0, "validation_fraction": 0.0, "progress": False}
    found = {name: run.config for name, run in compare(data, ["kfac", "gauss-newton"], **options).results.items()}
    assert {name: (one.batch_size, one.steps, one.lr) for name, one in found.items()} == {
        "kfac": (200, 400, 0.03), "gauss-newton": (None, 200, None)
    }  # fmt: skip
    given = compare(data, ["gauss-newton", "kfac"], batch_size=150, epochs=3, **options).results
    assert {(run.config.batch_size, run.config.steps) for run in given.values()} == {(150, 6)}


def test_interruption_keeps_what_is_complete(tmp_path, monkeypatch):
    def interrupt(self, *arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(nl.optim.Adam, "step", interrupt)
    with pytest.raises(
        KeyboardInterrupt, match=r"Interrupted in adam after 0 complete steps; what was done is in .*compare.json"
    ):
        compare(DATA, ["sgd", "adam", "gram-gauss-newton"], out=tmp_path / "c", **SMALL)
    written = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert {name: runs[0]["ended"] for name, runs in written.items()} == {"sgd": "steps", "adam": "interrupted"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"optimizers": []}, "no optimizers"),
        ({"optimizers": ["adam", "adam"]}, "named twice"),
        ({"optimizers": ["adma"]}, "did you mean 'adam'"),
        ({"optimizers": ["adam"], "epsilon": 0.1}, "none of adam has epsilon"),
        ({"optimizers": ["adam"], "lr": {"sgd": 0.1}}, "given for 'sgd'"),
        ({"optimizers": ["adam"], "epsilon": {"adam": 0.1}}, "adam has no epsilon"),
        ({"optimizers": ["adam"], "wdith": 3}, "no option 'wdith'"),
    ],
)
def test_bad_input(arguments, says):
    with pytest.raises((ValueError, TypeError), match=says):
        compare(DATA, **{**SMALL, **arguments})
