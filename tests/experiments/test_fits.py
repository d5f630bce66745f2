"""The pictures of a fit: what stands in them is what was predicted, beside scikit-learn and plain NumPy."""

import numpy as np
import pytest

from nearlin.data import Dataset
from nearlin.experiments import train

fits = pytest.importorskip("nearlin.experiments.fits")
metrics = pytest.importorskip("sklearn.metrics")

RNG = np.random.default_rng(4)
X = RNG.normal(size=(150, 3))
KINDS = Dataset("kinds", X, np.digitize(X[:, 0] + 0.5 * X[:, 1], [-0.5, 0.5]), "classification", ("low", "mid", "high"))
PAIR = Dataset("pair", X, np.column_stack([X[:, 0], 100 + X[:, 1] ** 2]), target_names=("heat", "load"))


@pytest.fixture
def figures(monkeypatch):
    """Figures that would have been written."""
    drawn = []

    def save(figure, path, title):
        figure.suptitle(title)
        drawn.append(figure)

    monkeypatch.setattr(fits.canvas, "save", save)
    return drawn


def test_counts_beside_scikit_learn():
    true, predicted = RNG.integers(0, 5, size=(2, 200))
    np.testing.assert_array_equal(fits.confusion(true, predicted, 5), metrics.confusion_matrix(true, predicted))
    assert fits.confusion(np.array([0]), np.array([1]), 3).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("options", [{"hidden": 4}, {"width": 33}])
def test_the_confusion_matrix_is_that_of_the_test_rows(figures, options):
    result = train(KINDS, steps=2, progress=False, **options)
    fits.plot_fit(result, "fit.png")
    x, y = (np.asarray(a) for a in result.problem.test)
    rows = np.argmax(np.asarray(result.problem.network.forward(result.params, x)[0]), axis=1)
    true = y if y.ndim == 1 else np.argmax(y, axis=1)
    counts = metrics.confusion_matrix(true, rows, labels=[0, 1, 2])
    axes = figures[0].axes[0]
    found = {text.get_position(): int(text.get_text()) for text in axes.texts}
    assert found == {(j, i): counts[i, j] for i in range(3) for j in range(3) if counts[i, j]}
    np.testing.assert_allclose(axes.images[0].get_array(), counts / counts.sum(axis=1, keepdims=True))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["low", "mid", "high"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert f"({len(true) - np.trace(counts)} of {len(true)})" in figures[0].get_suptitle()


def test_signs_are_named_as_they_are(figures):
    result = train((X, np.where(X[:, 0] > 0.8, 1.0, -1.0)), width=32, steps=1, test_fraction=0, progress=False)
    fits.plot_fit(result, "fit.png")
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["-1", "1"]
    rows = {i: sum(int(text.get_text()) for text in axes.texts if text.get_position()[1] == i) for i in (0, 1)}
    assert rows == {0: np.sum(X[:, 0] <= 0.8), 1: np.sum(X[:, 0] > 0.8)}


def test_predicted_against_true_in_the_units_of_the_data(figures):
    result = train(PAIR, hidden=4, steps=2, progress=False, dtype="float64")
    fits.plot_fit(result, "fit.png")
    for k, (axes, name) in enumerate(zip(figures[0].axes, ("heat", "load"), strict=True)):
        below, above = axes.collections
        steps = result.problem.preprocessing
        true = np.asarray(result.problem.test[1])[:, k] * steps.target_std[k] + steps.target_mean[k]
        inputs = np.asarray(result.problem.test[0]) * steps.scale + steps.mean
        predicted = result.predict(inputs)[:, k]
        np.testing.assert_allclose(above.get_offsets(), np.column_stack([true, predicted]))
        assert axes.get_title() == f"RMSE {metrics.root_mean_squared_error(true, predicted):.4g} on the test rows"
        assert len(below.get_offsets()) == result.problem.train[0].shape[0]
        assert (axes.get_xlabel(), axes.get_ylabel()) == (f"true {name}", f"predicted {name}")
        (line,) = axes.get_lines()
        assert list(line.get_xdata()) == list(line.get_ydata()) == list(axes.get_xlim())
        assert line.get_zorder() > above.get_zorder()
    assert [text.get_text()[:8] for text in figures[0].legends[0].texts] == ["training", "test row", "predicte"]


def test_without_test_rows_the_validation_rows_judge_and_then_the_training_rows(figures):
    for fraction, part in ((0.1, "validation"), (0.0, "training")):
        result = train(KINDS, hidden=4, steps=2, test_fraction=0, validation_fraction=fraction, progress=False)
        fits.plot_fit(result, "fit.png")
        assert f"kinds, {part} rows: " in figures[-1].get_suptitle()


@pytest.mark.usefixtures("pictures")
def test_a_run_writes_its_fit_and_draws_its_validation(tmp_path):
    result = train(KINDS, hidden=4, steps=3, progress=False, out=tmp_path / "run")
    assert (tmp_path / "run" / "fit.png").read_bytes()[:4] == b"\x89PNG"
    plots = pytest.importorskip("nearlin.experiments.plots")
    figure = plots.canvas.figure(4, 4)
    plots._plot_validation(panel := figure.subplots(), result, [0, 1, 2, 3])
    validation, kept = panel.get_lines()
    assert list(validation.get_ydata()) == [record["validation_loss"] for record in result.records]
    assert list(kept.get_xdata()) == [result.best_step] * 2


@pytest.mark.parametrize(
    ("lr", "many"),
    [(1e6, True), (0.01, False), *(pytest.param(*one, marks=pytest.mark.nightly) for one in ((1e6, False), (0.01, True)))],
)
def test_names_with_dollars_and_runs_that_diverge_are_drawn(tmp_path, lr, many):
    kinds = np.arange(150) % (25 if many else 3)
    names = tuple(f"$a_{k}$ kind of a very long name" for k in range(25 if many else 3))
    for data in (
        Dataset("$x_$", X, kinds, "classification", names),
        Dataset("$x_$", X, PAIR.y, target_names=("$a_$", "$^$")),
    ):
        result = train(data, hidden=4, epochs=2, progress=False, optimizer="sgd", lr=lr)
        assert fits.plot_fit(result, tmp_path / "fit.png").stat().st_size > 0
    plots = pytest.importorskip("nearlin.experiments.plots")
    assert plots.plot_result(result, tmp_path / "run.png").stat().st_size > 0
