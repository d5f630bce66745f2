"""What a run reports, computed again by plain NumPy that shares nothing with the library.

The problems are tiny, so that every loss, error and count is formed anew at the parameters of every step.
"""

import csv
import dataclasses
import json
import math
import os
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

import nearlin as nl
from nearlin import nn
from nearlin.data import Dataset
from nearlin.experiments import RECIPES, checkpoint, compare, environment, predict, train
from nearlin.experiments.recipes import Parts, Recipe
from nearlin.nn.two_layer_jacobian import TwoLayerJacobian

# ---------------------------------------------------------------------------------------------------- networks and losses


def two_layer(params, x):
    """m^(-1/2) sum_r (-1)^r relu(w_r . x), (n, 1)."""
    (W,) = params
    signs = np.where(np.arange(len(W)) % 2 == 0, 1.0, -1.0)
    return (np.maximum(x @ W.T, 0) @ signs / math.sqrt(len(W)))[:, None]


def perceptron(params, x, linear=()):
    """tanh between the layers, but for those in ``linear``."""
    for i, W in enumerate(params):
        x = x @ W[:, :-1].T + W[:, -1]
        if i + 1 < len(params) and i not in linear:
            x = np.tanh(x)
    return x


def moments(z):
    return z.mean(axis=(0, 2, 3)), z.var(axis=(0, 2, 3))


def convolved(W, x):
    """A convolution 3 x 3 with padding 1, entry by entry."""
    n, channels, height, width = x.shape
    kernels, padded = W[:, :-1].reshape(-1, channels, 3, 3), np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.empty((n, len(W), height, width))
    for i in range(height):
        for j in range(width):
            y[:, :, i, j] = np.einsum("nchw,ochw->no", padded[:, :, i : i + 3, j : j + 3], kernels) + W[:, -1]
    return y


def normalised(params, x, statistics=None):
    """Convolution, batch normalisation, ReLU, mean over positions, dense; by the batch's own statistics where none are given."""
    kernel, scale, last = params
    z = convolved(kernel, x)
    mean, variance = moments(z) if statistics is None else statistics
    z = (z - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    z = np.maximum(z * scale[:, 0, None, None] + scale[:, 1, None, None], 0).mean(axis=(2, 3))
    return z @ last[:, :-1].T + last[:, -1]


def squared(f, y):
    return sum(float(np.sum((a - b) ** 2)) for a, b in zip(f, y.reshape(len(f), -1), strict=True)) / (2 * len(f))


def softmax(f, y):
    return float(
        np.mean([math.log(sum(math.exp(v) for v in row)) - row[label] for row, label in zip(f.tolist(), y, strict=True)])
    )


def sigmoid(f, y):
    p = 1 / (1 + np.exp(-f))
    return -float(np.sum(y * np.log(p) + (1 - y) * np.log(1 - p))) / len(f)


# ------------------------------------------------------------------------------------------------------------- problems

RNG = np.random.default_rng(10)
LABELS, TEST_LABELS = np.arange(23) % 3, np.arange(9) % 3
ROWS, TEST_ROWS = RNG.uniform(0.05, 0.95, (23, 5)) + LABELS[:, None] / 4, RNG.uniform(0.1, 0.9, (9, 5))
SHADES, TEST_SHADES = RNG.uniform(0.05, 0.95, (23, 5)), RNG.uniform(0.3, 0.7, (9, 5))
PICTURES, TEST_PICTURES = RNG.normal(LABELS[:, None, None, None], 1, (23, 2, 4, 4)), RNG.normal(1, 2, (9, 2, 4, 4))


def _small_cnn():
    modules = (nn.Conv2d(2, 3, 3, pad=1), nn.BatchNorm(3), nn.Elementwise(nn.activation("relu")), nn.GlobalAvgPool())
    return nn.Sequential((*modules, nn.Dense(3, 3)), gain=2.0, shape=(2, 4, 4))


def _recipe(parts, network, loss, task):
    return Recipe("", lambda config: Parts(*parts), lambda config, *_: network, loss, task, 7, 2, "tanh", "float64")


TINY = {
    "labels": _recipe(
        ((ROWS, LABELS), (TEST_ROWS, TEST_LABELS)), nn.MLP((5, 4, 3)), nn.SoftmaxCrossEntropy(), "labels"
    ),
    "pictures": _recipe(
        ((PICTURES, LABELS), (TEST_PICTURES, TEST_LABELS)), _small_cnn(), nn.SoftmaxCrossEntropy(), "labels"
    ),
    "shades": _recipe(
        ((SHADES, SHADES), (TEST_SHADES, TEST_SHADES)), nn.autoencoder((5, 4, 2), "tanh"), nn.SigmoidCrossEntropy(),
        "reconstruction",
    ),
}  # fmt: skip
PLAIN = {
    "labels": (perceptron, softmax),
    "pictures": (normalised, softmax),
    "shades": (lambda params, x: perceptron(params, x, linear=(1,)), sigmoid),
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The tiny problems, evaluated in parts of which the last one is smaller."""
    for name, recipe in TINY.items():
        monkeypatch.setitem(RECIPES, name, recipe)
    monkeypatch.setattr("nearlin.experiments.problems.CHUNK", 40)


class Seen:
    """What an optimizer was given, and returned, in every step of a run."""

    def __init__(self, monkeypatch, cls):
        self.before, self.batches, self.after, self.keys = [], [], [], []
        step = cls.step

        def recorded(optimizer, params, state, objective, batch, key=0):
            result = step(optimizer, params, state, objective, batch, key)
            for kept, one in zip(
                (self.before, self.batches, self.keys, self.after), (params, batch, key, result[0]), strict=True
            ):
                kept.append(one)
            return result

        monkeypatch.setattr(cls, "step", recorded)


def running(seen):
    """The running statistics after every step: those of the first batch, then nine parts of the old and one of the new."""
    found = []
    for params, (x, _) in zip(seen.before, seen.batches, strict=True):
        new = moments(convolved(params[0], x))
        found.append(new if not found else tuple(0.9 * a + 0.1 * b for a, b in zip(found[-1], new, strict=True)))
    return found


def evaluated(name, seen, t):
    """The network after step t, as it is evaluated: a function of inputs."""
    network, params = PLAIN[name][0], seen.after[t]
    return (lambda x: network(params, x, running(seen)[t])) if name == "pictures" else lambda x: network(params, x)


def close(a, b):
    return math.isclose(a, b, rel_tol=1e-9)


# ---------------------------------------------------------------------------------------------------------------- losses


def test_what_nearlin_info_says_of_cores_and_threads_is_what_is_asked(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(3)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    monkeypatch.setattr(environment, "blas_threads", lambda: 5)
    rows = dict(nl.experiments.info())
    assert (rows["cores"], rows["BLAS threads"]) == ("3 usable of 9", "5")
    assert rows["numpy"] == np.__version__
    assert rows["backend numpy"] == "usable, device cpu"


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("sgd", {"lr": 0.2}),
        ("kfac", {"lr": 0.05}),
        ("gauss-newton", {"batch_size": "all", "epochs": 3}),
        ("gauss-newton", {}),
        ("kbfgs", {"batch_size": "all", "epochs": 3}),
    ],
    ids=["sgd", "kfac", "gauss-newton on all rows", "gauss-newton", "kbfgs on all rows"],
)
def test_the_losses_of_a_problem(monkeypatch, name, optimizer, options):
    """Of the batch before a step, by its own statistics; of the two sets at the end of an epoch and of the run, as evaluated."""
    if (optimizer, name) == ("kbfgs", "pictures"):
        pytest.skip("K-BFGS is for dense and convolution layers")
    problem, loss = TINY[name], PLAIN[name][1]
    monkeypatch.setattr("nearlin.experiments.problems.CHUNK", 8 * math.prod(problem.load(None).train[0].shape[1:]))
    (x, y), (x_test, y_test), _ = problem.load(None)
    seen = Seen(monkeypatch, getattr(nl.optim, nl.experiments.OPTIMIZERS[optimizer]))
    result = train(name, optimizer=optimizer, progress=False, **options)
    per_epoch = 1 if options.get("batch_size") else 3
    assert result.steps == len(seen.after) == (3 if per_epoch == 1 else 6)
    assert {len(batch[0]) for batch in seen.batches} == {23 if per_epoch == 1 else 7}
    for t, record in enumerate(result.records):
        assert close(record["loss"], loss(PLAIN[name][0](seen.before[t], seen.batches[t][0]), seen.batches[t][1]))
        if (t + 1) % per_epoch:
            assert (record["loss_after"], record["test_loss"]) == (None, None)
        else:
            network = evaluated(name, seen, t)
            assert close(record["loss_after"], loss(network(x), y))
            assert close(record["test_loss"], loss(network(x_test), y_test))
    assert close(result.final_loss, loss(network(x), y))
    assert close(result.final_test_loss, loss(network(x_test), y_test))
    parts = [slice(0, 8), slice(8, 16), slice(16, 23)]  # no running statistics are known yet: each part has its own
    assert close(
        result.initial_loss,
        sum(len(x[part]) / 23 * loss(PLAIN[name][0](seen.before[0], x[part]), y[part]) for part in parts),
    )


def test_a_run_that_ends_inside_an_epoch_is_evaluated_at_its_end(monkeypatch):
    seen = Seen(monkeypatch, nl.optim.SGD)
    result = train("pictures", optimizer="sgd", steps=5, progress=False)
    network, (train_set, test_set, _) = evaluated("pictures", seen, 4), TINY["pictures"].load(None)
    assert close(result.final_loss, softmax(network(train_set[0]), train_set[1]))
    assert close(result.final_test_loss, softmax(network(test_set[0]), test_set[1]))


def data(task="regression"):
    """Rows whose last ones lie far from the others, so that constants of all rows are not those of a part."""
    x = np.concatenate([RNG.normal(2, 1, (30, 4)), RNG.normal(-9, 5, (10, 4))])
    y = (x[:, 0] + x[:, 1] > 0).astype(int) if task == "classification" else 100 + 7 * x[:, 0] - x[:, 2] ** 2
    return Dataset("far", x, y, task, ("near", "far") if task == "classification" else None)


UNIT_ROWS = {"scale": False, "normalize": True}


def parts(dataset, config):
    rows = nl.data.split(dataset, config.test_fraction, config.seed, stratified=True)
    assert sorted([*rows[0].rows, *rows[1].rows]) == list(range(len(dataset)))
    return rows


def constants(part):
    return part.x.mean(axis=0), part.y.mean(), part.y.std()


def prepared(x, mean):
    return (x - mean) / np.sqrt(np.sum((x - mean) ** 2, axis=1))[:, None]


@pytest.mark.parametrize("optimizer", ["near-linear-gauss-newton", "gram-gauss-newton", "kbfgs", "adam"])
@pytest.mark.parametrize("batch_size", [None, 9])
def test_the_losses_of_least_squares(monkeypatch, optimizer, batch_size):
    """Also where the method knows the loss of its batch after the step, which is not that of all rows."""
    seen, dataset = Seen(monkeypatch, getattr(nl.optim, nl.experiments.OPTIMIZERS[optimizer])), data()
    result = train(dataset, optimizer=optimizer, batch_size=batch_size, steps=8, width=64, tol=0, **UNIT_ROWS, progress=False)
    part, _ = parts(dataset, result.config)
    mean, target_mean, target_std = constants(part)
    x, y = prepared(part.x, mean), (part.y - target_mean) / target_std
    first = squared(two_layer(seen.before[0], x), y)
    assert close(result.initial_loss, first)
    for t, record in enumerate(result.records):
        assert close(record["loss"], squared(two_layer(seen.before[t], seen.batches[t][0]), seen.batches[t][1]))
        if batch_size and t % 4 != 3:
            assert [record[name] for name in ("loss_after", "relative_residual", "contraction")] == [None] * 3
            continue
        after = squared(two_layer(seen.after[t], x), y)
        assert close(record["loss_after"], after)
        assert close(record["relative_residual"], math.sqrt(after / first))
        if batch_size is None:
            assert close(record["contraction"], math.sqrt(after / record["loss"]))
        assert record["test_loss"] is None
    assert close(result.final_loss, after)
    assert close(result.relative_residual, math.sqrt(after / first))


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_arrays_are_trained_on_the_rows_that_are_not_held_out(monkeypatch, fraction):
    """The first column of x is the number of its row."""
    seen, x, y = Seen(monkeypatch, nl.optim.SGD), RNG.normal(0, 1, (20, 3)), RNG.normal(0, 1, 20)
    x[:, 0] = np.arange(20)
    result = train((x, y), optimizer="sgd", lr=1e-4, test_fraction=fraction, steps=1, width=8, progress=False)
    rows = [int(row) for row in result.problem.train[0][:, 0]]
    test_rows = [] if result.problem.test is None else [int(row) for row in result.problem.test[0][:, 0]]
    assert len(test_rows) == 20 * fraction
    assert sorted(rows + test_rows) == list(range(20))
    outputs = two_layer(seen.after[0], x)
    assert close(result.final_loss, squared(outputs[rows], y[rows]))
    assert close(result.train_error.value, math.sqrt(np.mean((outputs[rows, 0] - y[rows]) ** 2)))
    if fraction:
        assert close(result.test_error.value, math.sqrt(np.mean((outputs[test_rows, 0] - y[test_rows]) ** 2)))


# ---------------------------------------------------------------------------------------------------------------- errors


def test_errors_in_the_units_of_the_data(monkeypatch, tmp_path):
    """Of the rows of each part, with constants of the training rows; the same from `predict` and from the checkpoint's arrays."""
    seen, dataset = Seen(monkeypatch, nl.optim.GramGaussNewton), data()
    result = train(dataset, optimizer="gram-gauss-newton", steps=2, width=64, **UNIT_ROWS, out=tmp_path / "run", progress=False)
    mean, target_mean, target_std = constants(parts(dataset, result.config)[0])
    guess = lambda x: target_mean + target_std * two_layer(seen.after[-1], prepared(x, mean))[:, 0]  # noqa: E731
    for part, error in zip(parts(dataset, result.config), (result.train_error, result.test_error), strict=True):
        assert error.kind == "rmse"
        assert error.total == len(part)
        assert close(error.value, math.sqrt(np.mean((guess(part.x) - part.y) ** 2)))
    np.testing.assert_allclose(result.predict(dataset.x), guess(dataset.x), rtol=1e-9)
    np.testing.assert_allclose(predict(result.checkpoint, dataset.x).values, guess(dataset.x), rtol=1e-9)
    saved = checkpoint.load(result.checkpoint)
    np.testing.assert_allclose(saved["preprocessing"]["mean"], mean, rtol=1e-12)
    assert close(saved["preprocessing"]["target_std"], target_std)
    np.testing.assert_array_equal(saved["params"][0], seen.after[-1][0])
    assert [record["loss_after"] for record in saved["records"]] == [record["loss_after"] for record in result.records]
    (test_x, test_y) = result.problem.test
    np.testing.assert_allclose(test_x, prepared(parts(dataset, result.config)[1].x, mean), rtol=1e-12)
    np.testing.assert_allclose(test_y, (parts(dataset, result.config)[1].y - target_mean) / target_std, rtol=1e-12)


def test_wrong_signs_and_the_names_of_classes(monkeypatch, tmp_path):
    seen, dataset = Seen(monkeypatch, nl.optim.Adam), data("classification")
    result = train(dataset, optimizer="adam", lr=0.02, steps=3, width=16, **UNIT_ROWS, out=tmp_path / "run", progress=False)
    mean, *_ = constants(parts(dataset, result.config)[0])
    scores = two_layer(seen.after[-1], prepared(dataset.x, mean))[:, 0]
    for part, error in zip(parts(dataset, result.config), (result.train_error, result.test_error), strict=True):
        wrong = sum((score >= 0) != (y == 1) for score, y in zip(scores[part.rows], part.y, strict=True))
        assert (error.wrong, error.total, error.value) == (wrong, len(part), pytest.approx(100 * wrong / len(part)))
    assert 0 < result.train_error.wrong < result.train_error.total
    found = predict(result.checkpoint, dataset.x, out=tmp_path / "p.csv")
    np.testing.assert_allclose(found.values, scores, rtol=1e-9)
    assert found.labels.tolist() == ["near" if score < 0 else "far" for score in scores]
    with open(tmp_path / "p.csv", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == found.labels.tolist()


@pytest.mark.parametrize("name", ["labels", "pictures"])
def test_wrong_labels(monkeypatch, name):
    seen = Seen(monkeypatch, nl.optim.SGD)
    result = train(name, optimizer="sgd", lr=0.05, progress=False)
    network = evaluated(name, seen, -1)
    for (x, y), error in zip(TINY[name].load(None)[:2], (result.train_error, result.test_error), strict=True):
        wrong = sum(int(np.argmax(row)) != label for row, label in zip(network(x), y, strict=True))
        assert (error.wrong, error.total, error.value) == (wrong, len(x), pytest.approx(100 * wrong / len(x)))
        np.testing.assert_allclose(result.predict(x), network(x), rtol=1e-9)
    assert result.test_error.wrong > 0


def test_the_error_of_an_auto_encoder_is_of_its_probabilities(monkeypatch):
    seen = Seen(monkeypatch, nl.optim.SGD)
    result = train("shades", optimizer="sgd", lr=0.05, progress=False)
    for (x, y), error in zip(TINY["shades"].load(None)[:2], (result.train_error, result.test_error), strict=True):
        seen_as = 1 / (1 + np.exp(-evaluated("shades", seen, -1)(x)))
        assert (error.kind, error.wrong, error.total) == ("mse", None, len(x))
        assert close(error.value, sum((a - b) ** 2 for a, b in zip(seen_as.flat, y.flat, strict=True)) / y.size)


def test_the_least_losses_are_entropies_of_the_targets():
    problem = nl.experiments.build("shades", nl.experiments.Config())[0]
    for least, p in ((problem.least, SHADES), (problem.test_least, TEST_SHADES)):
        assert close(least, -sum(v * math.log(v) + (1 - v) * math.log(1 - v) for v in p.flat) / len(p))
    labelled = nl.experiments.build("labels", nl.experiments.Config())[0]
    assert (labelled.least, labelled.test_least) == (0, 0)


def test_the_spread_of_the_features_is_that_of_the_training_rows_that_vary():
    dataset = data()
    x = np.column_stack([dataset.x * [1.0, 30.0, 0.2, 1.0], np.full(40, 7.0)])
    part = parts(wide := Dataset("wide", x, dataset.y), nl.experiments.Config())[0]
    deviations = [math.sqrt(np.mean((column - column.mean()) ** 2)) for column in part.x[:, :4].T]
    problem, _ = nl.experiments.build(wide, nl.experiments.Config(width=4, scale=False))
    assert close(problem.spread, max(deviations) / min(deviations))
    assert problem.describe()["spread"] == problem.spread
    assert nl.experiments.build(wide, nl.experiments.Config(width=4, scale=True))[0].spread == 1.0


def test_the_message_tells_the_loss_above_the_least_one():
    result = train("shades", optimizer="sgd", steps=4, progress=False)
    entropy = -sum(v * math.log(v) + (1 - v) * math.log(1 - v) for v in SHADES.flat) / 23
    assert result.message == f"Took all 4 steps; the loss is {result.final_loss - entropy:.4g} above the least possible."
    labelled = train("labels", optimizer="sgd", steps=4, progress=False)
    assert labelled.message == f"Took all 4 steps; the loss is {labelled.final_loss:.4g}."


# ----------------------------------------------------------------------------------------------------------------- counts


def passes_of_steps(monkeypatch, optimizer, *watched):
    """A Counter of the calls of (class, method) inside steps, at the network itself; what a pass asks in turn is part of it."""
    calls, inside = Counter(), []

    def wrapped(cls, name, note):
        original = getattr(cls, name)

        def wrapper(*args, **options):
            calls.update([note] if inside == ["step"] else [])
            inside.append(note)
            try:
                return original(*args, **options)
            finally:
                inside.pop()

        monkeypatch.setattr(cls, name, wrapper)

    for cls, name in watched:
        wrapped(cls, name, name)
    wrapped(getattr(nl.optim, nl.experiments.OPTIMIZERS[optimizer]), "step", "step")
    return calls


@pytest.mark.parametrize(
    ("optimizer", "asked"),
    [("sgd", (1, 1)), ("adam", (1, 1)), ("kfac", (1, 2)), ("mini-block-fisher", (1, 1)), ("kbfgs", (2, 2))],
)
def test_gradient_equivalents_are_a_third_for_a_pass_forward_and_two_for_one_back(monkeypatch, optimizer, asked):
    """What the loop asks for its records is not the method's."""
    calls = passes_of_steps(monkeypatch, optimizer, *((nn.Sequential, name) for name in ("forward", "grads", "traces")))
    (result,) = compare("labels", [optimizer], epochs=2, progress=False).runs[optimizer]
    forward, back = asked
    assert (calls["forward"], calls["grads"] + calls["traces"]) == (6 * forward, 6 * back)
    assert [record["gradients"] for record in result.records] == pytest.approx([forward / 3 + 2 * back / 3] * 6)


@pytest.mark.parametrize("optimizer", ["near-linear-gauss-newton", "gram-gauss-newton"])
def test_gradient_equivalents_of_the_wide_network_are_thirds_of_its_thin_products(monkeypatch, optimizer):
    """One of 2 n m d flops in f, J v and Jᵀ u, two in J Jᵀ u: each counts a third."""
    thirds = {"forward": 1, "matvec": 1, "rmatvec": 1, "gram_matvec": 2, "gram_matvec_with_adjoint": 2}
    watched = [(nn.TwoLayer, "forward"), *((TwoLayerJacobian, name) for name in thirds if name != "forward")]
    calls = passes_of_steps(monkeypatch, optimizer, *watched)
    result = train(data(), optimizer=optimizer, steps=3, width=64, tol=0, progress=False)
    assert sum(record["gradients"] for record in result.records) == pytest.approx(
        sum(thirds[c] * k for c, k in calls.items()) / 3
    )
    if optimizer == "near-linear-gauss-newton":
        assert calls["gram_matvec_with_adjoint"] >= sum(record["inner_iterations"] for record in result.records) > 0


# ------------------------------------------------------------------------------------------------------- what is written


LOSSES = ("loss_after", "test_loss")


def test_a_comparison_writes_the_sums_over_the_steps_up_to_those_whose_losses_are_known(tmp_path):
    both = compare("shades", ["sgd", "kfac"], lr=0.05, seeds=2, out=tmp_path, progress=False)
    written = json.loads((tmp_path / "compare.json").read_text())
    for name, runs in both.runs.items():
        for run, entry in zip(runs, written[name], strict=True):
            kept = [t for t, record in enumerate(run.records) if record["loss_after"] is not None]
            assert [record["step"] for record in entry["records"]] == kept == [2, 5]
            for t, record in zip(kept, entry["records"], strict=True):
                for field in ("seconds", "cpu_seconds", "gradients"):
                    assert close(record[field], sum(r[field] for r in run.records[: t + 1]))
                assert (record["loss_after"], record["test_loss"]) == tuple(
                    run.records[t][f] for f in ("loss_after", "test_loss")
                )
            assert close(entry["seconds"], sum(r["seconds"] for r in run.records))
            assert (entry["final_loss"], entry["final_test_loss"]) == (run.final_loss, run.final_test_loss)
            assert entry["train_error"]["value"] == run.train_error.value
            assert entry["test_error"]["value"] == run.test_error.value
            assert (entry["header"]["config"]["optimizer"], entry["header"]["config"]["seed"]) == (name, run.config.seed)
    assert [run.config.seed for run in both.runs["sgd"]] == [0, 1]


def test_seconds_are_those_of_steps_alone_and_processor_seconds_those_of_all_threads(monkeypatch):
    """By clocks that go forward inside a step and elsewhere alike: a step takes 2 s of 3 and 5 s of 7."""
    from nearlin.experiments import loop

    wall, cpu = iter(range(0, 10**6)), iter(range(0, 10**6))
    times = SimpleNamespace(perf_counter=lambda: 2.0 * next(wall), process_time=lambda: 5.0 * next(cpu))
    monkeypatch.setattr(loop, "time", times)
    result = train("labels", optimizer="sgd", epochs=2, progress=False)
    assert [(record["seconds"], record["cpu_seconds"]) for record in result.records] == [(2.0, 5.0)] * 6
    assert result.seconds == 12.0
    limited = train("labels", optimizer="sgd", time_limit=18.0, progress=False)
    assert (limited.ended, limited.steps) == ("time limit", 4)


def test_a_resumed_run_has_used_the_time_that_was_used_before_it(monkeypatch, tmp_path):
    from nearlin.experiments import loop

    ticks = iter(range(10**6))
    clock = lambda: 5.0 * next(ticks)  # noqa: E731
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: 0.0, process_time=clock))
    half = train("labels", optimizer="sgd", time_limit=10.0, out=tmp_path, progress=False)
    rest = train(resume=half.checkpoint, time_limit=20.0, progress=False)
    assert [(run.ended, run.steps) for run in (half, rest)] == [("time limit", 2), ("time limit", 4)]


def test_a_record_holds_what_the_step_said(monkeypatch, tmp_path):
    """Every number of the certificate and of the plan, in the log as well."""
    solve = {"iterations": 3, "products": 5, "residual": 0.25, "reason": "maxiter", "preconditioner": "signs", "condition": 7.0}
    told = {"layer": 1, "guarantee": 0.125, "decrease": 0.5, "attempts": 2, "side": "sample", "plan": "exact: by name"}
    told |= {"damping": 0.75, "effective_dimension": 4.5, "accepted": False}

    def step(optimizer, params, state, objective, batch, key=0):
        info = SimpleNamespace(solve=SimpleNamespace(**solve, refreshed=False), loss=1.5, reason="kept it", kept="a root", **told)
        return params, state, info

    monkeypatch.setattr(nl.optim.SGD, "step", step)
    result = train("labels", optimizer="sgd", steps=1, out=tmp_path, progress=False)
    logged = json.loads(result.log.read_text().splitlines()[1])
    for record in (result.records[0], logged):
        assert {name: record[name] for name in told} == told
        assert (record["loss"], record["reason"]) == (1.5, "kept it; a root")
        inner = ("inner_iterations", "products", "inner_residual", "inner_reason", "preconditioner", "condition")
        assert [record[name] for name in inner] == list(solve.values())
        assert record["refreshed"] is False


def test_the_header_and_the_end_of_a_log_are_those_of_the_run(tmp_path):
    result = train("pictures", optimizer="sgd", steps=4, out=tmp_path, progress=False)
    header, *steps, end = map(json.loads, result.log.read_text().splitlines())
    assert header["parameters"] == 3 * 19 + 3 * 2 + 3 * 4 == sum(W.size for W in result.params)
    assert (header["data"]["train_rows"], header["data"]["test_rows"], header["data"]["features"]) == (23, 9, 32)
    assert header["initial_loss"] == end["initial_loss"] == result.initial_loss
    assert [step["step"] for step in steps] == [0, 1, 2, 3]
    for name in ("final_loss", "final_test_loss", "ended", "steps", "seconds", "message"):
        assert end[name] == getattr(result, name)
    assert end["train_error"] == result.train_error._asdict()
    assert end["test_error"] == result.test_error._asdict()
    saved = checkpoint.load(result.checkpoint)
    assert (saved["step"], saved["seed"], len(saved["records"])) == (4, 0, 4)
    assert all(np.array_equal(a, b) for a, b in zip(saved["params"], result.params, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(saved["statistics"][0], result.statistics[0], strict=True))


def test_a_warm_start_sees_every_whole_batch_of_the_training_set_once(monkeypatch):
    """In the order of the rows, without the incomplete one, and not where a step takes all rows."""
    seen = []
    monkeypatch.setattr(
        nl.optim.KFAC, "warm_start", lambda self, params, state, objective, batches, key: (seen.extend(batches), state)[1]
    )
    train("labels", optimizer="kfac", steps=1, batch_size=4, progress=False)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in seen]), ROWS[:20])
    np.testing.assert_array_equal(np.concatenate([y for _, y in seen]), LABELS[:20])
    seen.clear()
    monkeypatch.setitem(
        RECIPES, "labels", dataclasses.replace(TINY["labels"], load=lambda c: Parts((ROWS[:8], LABELS[:8]), (ROWS, LABELS)))
    )
    train("labels", optimizer="kfac", steps=1, batch_size=4, progress=False)
    assert [len(x) for x, _ in seen] == [4, 4]
    seen.clear()
    train("labels", optimizer="kfac", steps=1, batch_size="all", progress=False)
    assert seen == []


# ------------------------------------------------------------------------------------------------------- keys and endings


@pytest.mark.parametrize("options", [{}, {"seed": 3}, {"batch_size": "all"}], ids=str)
def test_every_step_has_a_key_of_its_own(monkeypatch, options):
    seen = Seen(monkeypatch, nl.optim.KFAC)
    train("labels", optimizer="kfac", steps=6, progress=False, **options)
    assert len(set(seen.keys)) == 6
    other = Seen(monkeypatch, nl.optim.KFAC)
    train("labels", optimizer="kfac", steps=6, progress=False, **{**options, "seed": 8})
    assert not set(other.keys) & set(seen.keys[:6])


def test_a_run_ends_at_the_first_relative_residual_that_is_at_most_the_tolerance(monkeypatch):
    """Weights that shrink by a tenth a step, and targets of zero: the residual, relative to the first, is 0.9^t."""
    monkeypatch.setattr(nl.optim.SGD, "step", shrink)
    x = RNG.normal(0, 1, (6, 3))
    for tol, steps in ((0.5, 7), (0.9**7 * 1.0001, 7), (0.9**7 * 0.9999, 8), (0.85, 2)):
        result = train((x, np.zeros(6)), optimizer="sgd", width=8, activation="identity", test_fraction=0, steps=9, tol=tol,
                       progress=False)  # fmt: skip
        assert (result.ended, result.steps) == ("converged", steps)
        assert [record["relative_residual"] for record in result.records] == pytest.approx([0.9**t for t in range(1, steps + 1)])
        assert f"the relative residual is {0.9**steps:.2e} (tolerance {tol:g})" in result.message


def shrink(optimizer, params, state, objective, batch, key=0):
    loss = float(objective.at(params, batch).loss)
    return tuple(0.9 * W for W in params), state, SimpleNamespace(loss=loss, accepted=True, reason="accepted", solve=None)


@pytest.mark.parametrize(
    ("reasons", "steps"),
    [
        (("stalled",) * 3, 3),
        (("stalled", "stalled", "accepted", "stalled", "stalled", "stalled"), 6),
        (("stalled", "accepted") * 4 + ("accepted",), 9),
        (("not tried", "stalled: nothing is left", "not tried"), 3),
        (("rejected", "stalled", "stalled") * 3, 9),
    ],
)
def test_a_run_stalls_where_all_steps_in_a_row_of_an_epoch_found_nothing(monkeypatch, reasons, steps):
    def scripted(optimizer, params, state, objective, batch, key=0):
        word, taken = reasons[len(told)], reasons[len(told)] == "accepted"
        told.append(word)
        info = {"loss": 1.0, "accepted": taken, "reason": word, "attempts": 0 if word == "not tried" else 3}
        info["solve"] = SimpleNamespace(
            iterations=1, products=1, residual=0.0, reason="converged", preconditioner="none", refreshed=True, condition=None
        )
        return params, state, SimpleNamespace(**info)

    told = []
    monkeypatch.setattr(nl.optim.SGD, "step", scripted)
    result = train("labels", optimizer="sgd", steps=9, progress=False)
    assert (result.ended, result.steps) == ("stalled" if steps < 9 else "steps", steps)
