"""The training loop: records, endings, resumption."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

import nearlin as nl
from nearlin._array import prototype, unusable
from nearlin.data import Dataset
from nearlin.experiments import RECIPES, CheckpointError, Config, build, folders, loop, registry, train
from nearlin.experiments.batches import Batches, epoch
from nearlin.experiments.config import differences
from nearlin.experiments.recipes import Parts
from nearlin.optim import SGD

X, Y = nl.data.sphere(n=40, d=6, seed=1)
SPHERE = Dataset("small sphere", X, Y)
SMALL = {"width": 512, "progress": False}
OPTIMIZERS = ("near-linear-gauss-newton", "gauss-newton", "gram-gauss-newton", "natural-gradient", "sgd", "adam")


def comparable(records):
    """All but times, and the count of passes: a resumed run makes the forward pass anew that its last step had left."""
    left_out = ("seconds", "cpu_seconds", "gradients")
    return [{name: value for name, value in record.items() if name not in left_out} for record in records]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_records_agree_with_the_losses(optimizer):
    result = train(SPHERE, optimizer=optimizer, steps=4, tol=0, **SMALL)
    assert result.ended == "steps"
    assert [record["step"] for record in result.records] == [0, 1, 2, 3]
    loss = float(result.problem.objective.at(result.params, result.problem.train).loss)
    assert math.isclose(result.final_loss, loss, rel_tol=1e-12)
    assert math.isclose(result.relative_residual, math.sqrt(loss / result.initial_loss), rel_tol=1e-12)
    for before, after in zip(result.records, result.records[1:], strict=False):
        assert math.isclose(before["loss_after"], after["loss"], rel_tol=1e-12)
        assert math.isclose(before["contraction"], math.sqrt(after["loss"] / before["loss"]), rel_tol=1e-12)
    second_order = optimizer not in ("sgd", "adam")
    assert all((record["inner_residual"] is not None) == second_order for record in result.records)


def test_near_linear_converges_and_halves():
    result = train(SPHERE, width=8192, progress=False)
    assert result.ended == "converged"
    assert result.relative_residual <= 1e-8
    assert max(record["contraction"] for record in result.records) <= 0.5
    assert all(record["inner_residual"] <= 1 / 6 * 1.01 for record in result.records)


def test_errors_are_in_the_units_of_the_data():
    data = Dataset("shifted", X, 100 + 20 * Y)
    result = train(data, test_fraction=0.25, steps=3, **SMALL)
    split = nl.data.split(data, 0.25, seed=0)
    for part, error in zip(split, (result.train_error, result.test_error), strict=True):
        rmse = math.sqrt(np.mean((result.predict(part.x) - part.y) ** 2))
        assert math.isclose(error.value, rmse, rel_tol=1e-9)
        assert error.total == len(part)


def test_classification_counts_wrong_signs():
    data = Dataset("signs", X, (X[:, 0] > 0).astype(int), "classification", ("low", "high"))
    result = train(data, test_fraction=0, **SMALL)
    assert result.test_error is None
    rarer = 100 * min(np.mean(data.y == 0), np.mean(data.y == 1))
    assert str(result.train_error) == f"0.00 % wrong (0 of 40; the most frequent class alone {rarer:.2f} %)"


@pytest.mark.parametrize("backend", ["numpy", "torch", "array_api_strict"])
def test_arrays_are_used_as_they_are(backend):
    if reason := unusable(backend):
        pytest.skip(reason)
    like = prototype(backend, "float32")
    x, y = nl.asarray(X, like=like), nl.asarray(Y, like=like)
    result = train((x, y), test_fraction=0, steps=3, **SMALL)
    assert (result.config.backend, result.config.dtype) == (backend, "float32")
    assert type(result.params[0]) is type(x)
    assert result.problem.preprocessing.describe() == "none"
    assert result.problem.train[0] is x


@pytest.mark.parametrize("backend", ["torch", "array_api_strict"])
def test_backends_agree(backend):
    if reason := unusable(backend):
        pytest.skip(reason)
    here, there = (train(SPHERE, backend=name, steps=3, **SMALL) for name in ("numpy", backend))
    np.testing.assert_allclose(nl.to_numpy(there.params[0]), here.params[0], rtol=0, atol=1e-9)


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train(SPHERE, steps=1, **SMALL)
    assert (result.folder, result.checkpoint, result.plot) == (None, None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("pictures")
def test_files(tmp_path):
    pytest.importorskip("matplotlib")
    result = train(SPHERE, steps=2, scale=False, normalize=True, out=tmp_path / "run", **SMALL)
    lines = [json.loads(line) for line in result.log.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["header", "step", "step", "end"]
    assert lines[0]["config"]["width"] == 512
    assert lines[0]["data"]["preprocessing"].startswith("inputs centred, rows normalised")
    assert lines[-1]["final_loss"] == result.final_loss
    written = ["checkpoint.npz", "curvature.png", "fit.png", "run.jsonl", "run.png"]
    assert sorted(path.name for path in result.folder.glob("[!.]*")) == written
    assert result.plot.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match=r"holds an earlier run .*--out, or --resume"):
        train(SPHERE, steps=2, out=tmp_path / "run", **SMALL)


@pytest.mark.parametrize("options", [{"optimizer": name} for name in OPTIMIZERS] + [{"batch_size": 12}])
def test_resuming_continues_bit_for_bit(tmp_path, options):
    options = {**options, **SMALL, "tol": 0}
    whole = train(SPHERE, steps=6, **options)
    half = train(SPHERE, steps=3, out=tmp_path / "run", **options)
    rest = train(SPHERE, steps=6, resume=half.checkpoint, out=half.folder, progress=False)
    np.testing.assert_array_equal(rest.params[0], whole.params[0])
    assert comparable(rest.records) == comparable(whole.records)
    assert rest.final_loss == whole.final_loss
    steps = [json.loads(line) for line in rest.log.read_text().splitlines()]
    assert [line["step"] for line in steps if line["kind"] == "step"] == list(range(6))


def test_a_periodic_checkpoint_resumes_and_drops_the_lines_after_it(tmp_path, monkeypatch):
    whole = train(SPHERE, steps=5, tol=0, **SMALL)
    run = tmp_path / "run"
    finish = loop.Trainer._finish
    monkeypatch.setattr(loop.Trainer, "_finish", lambda self, ended: None)  # killed without warning
    train(SPHERE, steps=5, tol=0, out=run, checkpoint_every=2, **SMALL)
    monkeypatch.setattr(loop.Trainer, "_finish", finish)
    assert nl.experiments.checkpoint.load(run / "checkpoint.npz")["step"] == 4
    rest = train(resume=run / "checkpoint.npz", data=SPHERE, out=run, progress=False)
    np.testing.assert_array_equal(rest.params[0], whole.params[0])
    assert comparable(rest.records) == comparable(whole.records)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run of three steps, in a folder."""
    return train(SPHERE, steps=3, out=tmp_path_factory.mktemp("half") / "run", **SMALL)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 2}, "stands at step 3 of 2"),
        ({"steps": 4, "width": 64, "seed": 3}, "width is 64 here and 512 in the checkpoint; seed is 3 here and 0"),
        ({"steps": 4, "optimizer": "adam"}, "optimizer is 'adam' here"),
        ({"steps": 4, "data": None}, "give the same data"),
        ({"steps": 4, "data": (X, Y)}, "is not the data"),
        ({"steps": 4, "data": Dataset("small sphere", X, 2 * Y)}, "fingerprint"),
    ],
)
def test_resuming_refuses_another_run(half, options, says):
    with pytest.raises(ValueError, match=says):
        train(**{"data": SPHERE, "resume": half.checkpoint, "progress": False, **options})


EXPLICIT = {
    "width": (64, "width is 8192 here and 64 in the checkpoint"),
    "hidden": ("8,8", r"hidden is \(256,\) here and \(8, 8\)"),
    "test_fraction": (0.4, "test_fraction is 0.2 here and 0.4"),
    "validation_fraction": (0.25, "validation_fraction is 0.1 here and 0.25"),
    "center": (False, "center is True here and False"),
    "scale": (False, "scale is True here and False"),
    "normalize": (True, "normalize is False here and True"),
    "seed": (3, "seed is 0 here and 3"),
    "settings": ((("momentum", 0.5),), r"settings is \(\) here and \(\('momentum', 0.5\),\)"),
    "lr": (0.01, "lr is 0.1 here and 0.01"),
    "epsilon": (None, "epsilon is 0.1 here and None"),
}
DEFAULT = {  # of the optimizers and of data of one's own, where the option itself has none
    "lr": 0.1, "epsilon": 0.1, "width": 8192, "hidden": "256", "validation_fraction": 0.1, "center": True, "scale": True,
    "normalize": False,
}  # fmt: skip


@pytest.mark.parametrize("option", EXPLICIT)
def test_an_option_given_on_resuming_counts_though_it_equals_a_default(tmp_path, option):
    """Left out, or None where that is the default, it is the checkpoint's."""
    value, says = EXPLICIT[option]
    network = {} if option == "hidden" else {"width": 16}
    options = {"optimizer": "sgd", **network, "progress": False, option: value}
    half = train(SPHERE, steps=2, out=tmp_path / "run", **options)
    default = DEFAULT.get(option, getattr(Config(), option))
    with pytest.raises(ValueError, match=says):
        train(SPHERE, steps=4, resume=half.checkpoint, progress=False, **{option: default})
    whole = train(SPHERE, steps=4, **options)
    rest = train(SPHERE, steps=4, resume=half.checkpoint, lr=None, progress=False)
    np.testing.assert_array_equal(rest.params[0], whole.params[0])


def test_a_tolerance_given_on_resuming_counts_though_it_equals_the_default(tmp_path):
    half = train(SPHERE, steps=1, tol=0, out=tmp_path / "run", **SMALL)
    default, left = (train(SPHERE, resume=half.checkpoint, steps=30, progress=False, **o) for o in ({"tol": 1e-8}, {}))
    assert (default.config.tol, default.ended) == (1e-8, "converged")
    assert (left.config.tol, left.ended) == (0, "stalled")


@pytest.mark.parametrize("name", ["adam", "sgd", "kfac", "ginger"])
def test_a_schedule_without_a_step_size_starts_at_that_of_the_method(name):
    method = getattr(nl.optim, registry.OPTIMIZERS[name])
    assert registry.default_lr(name) == method().lr


def test_the_fingerprint_of_a_problem_is_of_its_test_rows_too(monkeypatch):
    """A resumed run compares test losses with those of before."""
    x, y, found = np.ones((6, 4), np.float32), np.zeros(6, np.int64), []
    for train_by, test_by in ((0, 0), (0, 1), (1, 0), (0, 0)):
        parts = Parts((x + train_by, y), (x + test_by, y))
        made = dataclasses.replace(RECIPES["digits"], load=lambda _, parts=parts: parts, network=lambda *_: nl.nn.MLP((4, 3)))
        monkeypatch.setitem(RECIPES, "digits", made)
        found.append(build("digits", Config(batch_size="all"))[0].fingerprint)
    assert len(set(found)) == 3
    assert found[0] == found[3]


def test_all_rows_are_no_number_of_rows():
    assert [epoch(20, size, drop_last=False) for size in (None, "all", 7)] == [(20, 1), (20, 1), (7, 3)]


OTHERS = {
    "target": "y", "task": "regression", "standardize": True, "optimizer": "adam", "damping": 0.5, "activation": "tanh",
    "batch_size": 3, "backend": "torch", "dtype": "float32", "lr_factor": 0.5, "lr_period": 2,
}  # fmt: skip
OTHERS["l2"] = 0.5
FREE = {"data": "b", "data_dir": "d", "steps": 9, "epochs": 3, "time_limit": 2.0, "tol": 0.5}


def test_what_determines_the_iterates_may_not_change_on_resuming_and_the_end_may():
    config = Config()
    assert {*OTHERS, *FREE, *EXPLICIT} == set(config.to_dict())
    for name, value in OTHERS.items():
        assert differences(config, {name: value}) == [f"{name} is {value!r} here and {getattr(config, name)!r} in the checkpoint"]
    assert differences(config, FREE) == []


def test_resuming_with_an_optimizer_whose_defaults_changed(tmp_path, monkeypatch):
    half = train(SPHERE, steps=2, optimizer="sgd", out=tmp_path / "run", **SMALL)
    monkeypatch.setattr(registry.optim, "SGD", lambda **options: SGD(momentum=0.5, **options))
    monkeypatch.setattr(registry, "hyperparameters", lambda name: ("lr",))
    with pytest.raises(ValueError, match=r"was trained by SGD\(lr=0.1, momentum=0.9, "):
        train(SPHERE, steps=4, resume=half.checkpoint, progress=False)


def test_resuming_something_else(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    with pytest.raises(CheckpointError, match="not a nearlin checkpoint"):
        train(SPHERE, resume=tmp_path / "a.npz", progress=False)


def test_mini_batches_cover_every_row_once_an_epoch():
    x = np.arange(10.0)[:, None]
    batches = Batches((x, x[:, 0]), 4, seed=2)
    assert batches.per_epoch == 3
    epochs = [np.concatenate([batches(3 * e + i)[1] for i in range(3)]) for e in range(2)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(*epochs)
    assert [batches.ends_epoch(t) for t in range(4)] == [False, False, True, False]
    np.testing.assert_array_equal(batches(4)[0][:, 0], batches(4)[1])


def test_mini_batch_records():
    result = train(SPHERE, optimizer="adam", batch_size=10, test_fraction=0, steps=6, **SMALL)
    assert [record["loss_after"] is not None for record in result.records] == [False, False, False, True, False, False]
    assert all(record["contraction"] is None for record in result.records)
    with pytest.raises(ValueError, match="batch_size is 41; the training set has 40 rows"):
        train(SPHERE, batch_size=41, test_fraction=0, **SMALL)


def test_all_rows_can_be_asked_for_by_name(tmp_path):
    whole, named = (train(SPHERE, optimizer="sgd", batch_size=size, steps=2, **SMALL) for size in (None, "all"))
    assert comparable(whole.records) == comparable(named.records)
    half = train("digits", batch_size="all", epochs=2, optimizer="adam", out=tmp_path / "run", progress=False)
    assert half.steps == 2
    rest = train(resume=half.checkpoint, steps=3, batch_size="all", progress=False)
    assert all(record["loss_after"] is not None for record in rest.records)
    with pytest.raises(ValueError, match="batch_size is 200 here and 'all' in the checkpoint"):
        train(resume=half.checkpoint, steps=3, batch_size=200, progress=False)


@dataclasses.dataclass(frozen=True)
class Scripted:
    """An optimizer that does what it is told."""

    script: tuple

    def init(self, params, objective):
        return 0

    def step(self, params, state, objective, batch, key):
        word = self.script[state]
        if word == "interrupt":
            raise KeyboardInterrupt
        if word == "fail":
            raise ArithmeticError("a pivot is not positive")
        if word == "nan":
            params = tuple(W * math.nan for W in params)
        loss = float(objective.at(params, batch).loss) if word != "nan" else 1.0
        info = SimpleNamespace(loss=loss, accepted=word != "rejected", reason=word, solve=None)
        return tuple(0.9 * W for W in params) if word == "accepted" else params, state + 1, info


def scripted(monkeypatch, *script):
    monkeypatch.setitem(registry.OPTIMIZERS, "scripted", "Scripted")
    monkeypatch.setattr(registry.optim, "Scripted", lambda **options: Scripted(script), raising=False)


@pytest.mark.parametrize(
    ("script", "ended", "steps", "says"),
    [
        (("accepted", "nan"), "non-finite", 2, "no longer finite"),
        (("accepted", "stalled"), "stalled", 2, "stalled"),
        (("accepted", "stalled: nothing is left"), "stalled", 2, "Stopped after 2 steps: stalled: nothing is left; the relative"),
        (("rejected",), "non-finite", 1, "no longer finite"),
    ],
)
def test_early_endings(monkeypatch, script, ended, steps, says):
    scripted(monkeypatch, *script)
    result = train(SPHERE, optimizer="scripted", **SMALL)
    assert (result.ended, result.steps, len(result.records)) == (ended, steps, steps)
    assert says in result.message
    assert np.all(np.isfinite(result.params[0]))
    assert math.isfinite(result.final_loss)


def test_a_run_on_mini_batches_stalls_when_every_batch_of_an_epoch_did(monkeypatch):
    """Also where the steps of that epoch were taken before and after a checkpoint."""
    scripted(monkeypatch, "stalled", "accepted", "stalled", "stalled", "stalled", "accepted")
    result = train(SPHERE, optimizer="scripted", batch_size=12, test_fraction=0.1, steps=6, **SMALL)  # 3 batches an epoch
    assert (result.ended, result.steps) == ("stalled", 5)
    assert "stalled in every batch of an epoch" in result.message


def test_interruption_keeps_the_last_complete_step(monkeypatch, tmp_path):
    scripted(monkeypatch, "accepted", "accepted", "interrupt")
    with pytest.raises(nl.experiments.Interrupted, match=r"Interrupted after 2 complete steps; .*checkpoint\.npz") as caught:
        train(SPHERE, optimizer="scripted", out=tmp_path / "run", **SMALL)
    result = caught.value.result
    saved = nl.experiments.checkpoint.load(result.checkpoint)
    assert (saved["step"], len(saved["records"]), saved["state"]) == (2, 2, 2)
    np.testing.assert_array_equal(saved["params"][0], result.params[0])


def test_an_error_keeps_the_last_complete_step_and_says_where(monkeypatch, tmp_path):
    scripted(monkeypatch, "accepted", "fail")
    with pytest.raises(ArithmeticError, match="pivot") as caught:
        train(SPHERE, optimizer="scripted", out=tmp_path / "run", **SMALL)
    assert "the checkpoint of the 1 complete steps" in caught.value.__notes__[0]
    assert nl.experiments.checkpoint.load(tmp_path / "run" / "checkpoint.npz")["step"] == 1


def test_nothing_is_done_where_nothing_is_left_to_do():
    met = train(SPHERE, tol=1.0, **SMALL)
    exact = train(
        (np.array([[1.0], [2.0]]), np.zeros(2)), width=2, activation="identity", test_fraction=0, progress=False, steps=2
    )
    assert (met.ended, met.steps, met.relative_residual) == ("converged", 0, 1.0)
    assert exact.ended == "converged"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": None}, "no data"),
        ({"width": 0}, "width is 0"),
        ({"width": 2.5}, "width is 2.5"),
        ({"steps": 0}, "steps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"tol": -1}, "tol is -1"),
        ({"tol": math.nan}, "tol is nan"),
        ({"test_fraction": 1}, "test_fraction is 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": "some"}, "batch_size is 'some'; expected an integer of at least 1, or 'all'"),
        ({"dtype": "float16"}, "half precision"),
        ({"dtype": "int64"}, "expected float32 or float64"),
        ({"backend": "jax"}, "unknown backend 'jax'"),
        ({"activation": "swish"}, "swish"),
        ({"optimizer": "adan"}, "did you mean 'adam'"),
        ({"optimizer": "adam", "epsilon": 0.1}, "adam has no epsilon; it has lr"),
        ({"epsilon": 2.0}, "epsilon is 2.0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"checkpoint_every": 2}, "needs a folder"),
        ({"checkpoint_every": -2, "out": "x"}, "checkpoint_every is -2"),
        ({"width": 10**12}, "copies of 1000000000000 x 7 weights"),
        ({"data": (X, Y, Y)}, "expected \\(x, y\\)"),
        ({"data": (X, Y[:3])}, "x has 40 rows and y has 3"),
        ({"data": (X, Y[:, None, None])}, "expected 1 or 2 dimension"),
        ({"data": (X.astype(np.float16), Y)}, "float16"),
        ({"data": (X, np.arange(40))}, "int64"),
        ({"data": (X, Y.tolist())}, "y is a list"),
        ({"data": (X * math.nan, Y)}, "x holds 240 NaN"),
        ({"data": (X[:1], Y[:1])}, "has 1 row"),
        ({"data": "nowhere.csv"}, "does not exist"),
    ],
)
def test_bad_input(options, says):
    with pytest.raises((ValueError, TypeError), match=says) as caught:
        train(**{"data": SPHERE, "width": 8, "progress": False, **options})
    assert "\n" not in str(caught.value)


def test_one_sample_and_duplicates_are_finite():
    one = train((X[:1], Y[:1]), test_fraction=0, **SMALL)
    assert one.ended == "converged"
    rows = np.repeat(np.arange(8), 5)
    twice = train((X[rows], Y), test_fraction=0, steps=8, **SMALL)
    assert math.isfinite(twice.final_loss)
    assert twice.final_loss <= twice.initial_loss


def test_a_folder_that_is_free_and_numbers_that_json_has(tmp_path):
    out = folders.Free(tmp_path / "run")
    for name in ("run", "run-2", "run-3"):
        with folders.claimed(out, "mark") as folder:
            assert folder == tmp_path / name
            (folder / "mark").touch()
    assert folders.plain({"a": [math.nan, (math.inf, 1.5)], "b": -math.inf}) == {"a": [None, [None, 1.5]], "b": None}


def test_three_copies_of_the_weights_must_fit(monkeypatch):
    for dtype, size in (("float64", 8), ("float32", 4)):
        least = 3 * 16 * 7 * size
        monkeypatch.setattr("nearlin.experiments.building.memory_next_to", lambda like, least=least: least)
        assert train(SPHERE, width=16, dtype=dtype, steps=1, progress=False).steps == 1
        monkeypatch.setattr("nearlin.experiments.building.memory_next_to", lambda like, least=least: least - 1)
        with pytest.raises(ValueError, match="3 copies of 16 x 7 weights"):
            train(SPHERE, width=16, dtype=dtype, steps=1, progress=False)


def test_one_layer_that_is_not_finite_is_enough():
    assert loop._finite((X, Y))
    assert not loop._finite((X, math.nan * Y))
    assert not loop._finite((math.inf * X, Y))
