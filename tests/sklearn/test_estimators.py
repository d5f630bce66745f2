"""The estimators beside scikit-learn's own forward pass, plain NumPy, repeated rows, and what they refuse."""

import pickle

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", minversion="1.7")

from sklearn import datasets, neural_network  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from nearlin.sklearn import SOLVERS, MLPClassifier, MLPRegressor  # noqa: E402
from nearlin.sklearn.fitting import Task  # noqa: E402
from nearlin.sklearn.scaling import Scaling  # noqa: E402

SMALL = {"hidden_layer_sizes": (8,), "random_state": 0}


def blobs(n=120, classes=3, features=4, seed=0):
    return datasets.make_blobs(n, features, centers=classes, cluster_std=2.0, random_state=seed)


def curve(n=120, targets=1, seed=0):
    g = np.random.default_rng(seed)
    X = g.standard_normal((n, 3)) * (1, 10, 0.1) + (5, -100, 0)
    return X, np.squeeze(np.stack([np.sin(X[:, 0]) * (k + 1) * 100 + 10 * X[:, 2] for k in range(targets)], axis=1))


def theirs(ours, X, y):
    """scikit-learn's own estimator with the same weights."""
    kind = neural_network.MLPClassifier if hasattr(ours, "classes_") else neural_network.MLPRegressor
    with pytest.warns(ConvergenceWarning):
        other = kind(hidden_layer_sizes=ours.hidden_layer_sizes, activation=ours.activation, max_iter=1).fit(X, y)
    other.coefs_, other.intercepts_ = ours.coefs_, ours.intercepts_
    return other


def penalised(coefs, intercepts, X, y, alpha, weights=None):
    """The objective by plain NumPy: softmax, logistic or squared, ReLU inside."""
    h, w = X, np.ones(len(X)) if weights is None else weights
    for i, (W, b) in enumerate(zip(coefs, intercepts, strict=True)):
        h = (h if i == 0 else np.maximum(h, 0)) @ W + b
    if y.dtype.kind == "f":
        losses = 0.5 * np.sum((h - y.reshape(h.shape)) ** 2, axis=1)
    elif h.shape[1] == 1:
        losses = np.logaddexp(0, h[:, 0]) - y * h[:, 0]
    else:
        losses = np.log(np.sum(np.exp(h), axis=1)) - h[np.arange(len(y)), y]
    return np.sum(w * losses) / w.sum() + alpha / (2 * w.sum()) * sum(np.sum(W * W) for W in coefs)


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_scikit_learn_predicts_the_same_from_our_weights(activation):
    X, y = blobs()
    X = 1000 * X + 5000
    for labels in (y, y > 0, np.array(["a", "b", "c"])[y]):
        ours = MLPClassifier(activation=activation, alpha=1.0, max_iter=3, tol=1.0, **SMALL).fit(X, labels)
        other = theirs(ours, X, labels)
        np.testing.assert_array_equal(ours.predict(X), other.predict(X))
        np.testing.assert_allclose(ours.predict_proba(X), other.predict_proba(X), atol=1e-9)
        np.testing.assert_allclose(ours.predict_log_proba(X), np.log(ours.predict_proba(X)))
    for targets in (1, 2):
        X, t = curve(targets=targets)
        ours = MLPRegressor(activation=activation, alpha=1.0, max_iter=3, tol=1.0, **SMALL).fit(X, t)
        np.testing.assert_allclose(ours.predict(X), theirs(ours, X, t).predict(X), rtol=1e-9, atol=1e-7)
        assert ours.predict(X).shape == t.shape


def test_a_single_class_is_predicted_everywhere():
    """Far from what was fitted, too, where the one output has either sign."""
    X, _ = blobs(60)
    ours = MLPClassifier(activation="identity", alpha=1e-3, tol=0.1, **SMALL).fit(X, np.full(60, 7))
    far = 1e6 * (X - X.mean(axis=0))
    outputs = far @ ours.coefs_[0] @ ours.coefs_[1]
    assert np.min(outputs) < 0 < np.max(outputs)
    assert set(ours.predict(far)) == {7}
    np.testing.assert_array_equal(ours.predict_proba(far), 1.0)


def test_several_labels_at_once():
    X, Y = datasets.make_multilabel_classification(120, 5, n_classes=4, random_state=0)
    ours = MLPClassifier(alpha=0.1, tol=0.1, **SMALL).fit(X, Y)
    other = theirs(ours, X, Y)
    np.testing.assert_array_equal(ours.predict(X), other.predict(X))
    np.testing.assert_allclose(ours.predict_proba(X), other.predict_proba(X), atol=1e-12)
    assert ours.score(X, Y) > 0.5


@pytest.mark.parametrize("classes", [2, 3])
def test_the_loss_is_scikit_learns_and_so_is_the_start(classes):
    """At a step size of next to nothing both stand at the same initial weights; with a weight, at the same loss."""
    X, y = blobs(classes=classes)
    options = {"alpha": 3.0, "max_iter": 1, "batch_size": len(X), "learning_rate_init": 1e-30, "solver": "adam", **SMALL}
    weights = np.random.default_rng(0).uniform(0.5, 2, len(X))
    for w in (None, weights):
        with pytest.warns(ConvergenceWarning):
            ours = MLPClassifier(standardize=False, **options).fit(X, y, w)
        with pytest.warns(ConvergenceWarning):
            other = neural_network.MLPClassifier(**options).fit(X, y, w)
        for a, b in zip((*ours.coefs_, *ours.intercepts_), (*other.coefs_, *other.intercepts_), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)
        want = penalised(ours.coefs_, ours.intercepts_, X, y, 3.0, w)
        assert ours.loss_ == pytest.approx(want, rel=1e-12)
        if w is None:
            assert other.loss_ == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_fit_ends_at_a_minimum_of_the_penalised_loss(weighted):
    """Of the standardised problem: gradients by differences of the loss that NumPy computes."""
    X, y = blobs(40)
    w = np.random.default_rng(1).integers(1, 4, 40).astype(float) if weighted else None
    mean = np.average(X, axis=0, weights=w)
    Z = (X - mean) / np.sqrt(np.average((X - mean) ** 2, axis=0, weights=w))
    ours = MLPClassifier((3,), "identity", alpha=2.0, tol=0.0, random_state=0).fit(Z, y, w)
    f = lambda t: penalised((ours.coefs_[0] + t * D, ours.coefs_[1]), ours.intercepts_, Z, y, 2.0, w)  # noqa: E731
    h = lambda t: _linear(ours, t, D, Z, y, w)  # noqa: E731
    for seed in range(3):
        D = np.random.default_rng(seed).standard_normal(ours.coefs_[0].shape)
        assert abs(h(1e-5) - h(-1e-5)) / 2e-5 < 1e-6
        assert f(0.0) > 0


def _linear(ours, t, D, X, y, w):
    """The penalised loss of a network without an activation, moved by t D."""
    (W, V), (b, c) = ours.coefs_, ours.intercepts_
    z, w = (X @ (W + t * D) + b) @ V + c, np.ones(len(X)) if w is None else w
    losses = np.log(np.sum(np.exp(z), axis=1)) - z[np.arange(len(y)), y]
    return np.sum(w * losses) / w.sum() + (np.sum((W + t * D) ** 2) + np.sum(V * V)) / w.sum()


@pytest.mark.parametrize("problem", ["softmax", "logistic", "squared"])
def test_a_row_of_weight_two_is_two_rows(problem):
    X, y = blobs(110, 2 if problem == "logistic" else 3)
    kind, y = (MLPRegressor, curve(110)[1]) if problem == "squared" else (MLPClassifier, y)
    w = np.random.default_rng(0).integers(0, 4, 110)
    options = {"alpha": 0.5, "max_iter": 8, "tol": 1e-2, **SMALL}
    weighted = kind(**options).fit(X, y, w)
    repeated = kind(**options).fit(np.repeat(X, w, axis=0), np.repeat(y, w))
    other = kind(**options).fit(X, y)
    out = "predict" if problem == "squared" else "predict_proba"
    scale = np.std(y) if problem == "squared" else 1.0
    found, want, without = (getattr(one, out)(X) / scale for one in (weighted, repeated, other))
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-10)
    assert np.max(np.abs(found - without)) > 1e-4
    assert weighted.n_iter_ == repeated.n_iter_


def test_rows_of_weight_zero_are_not_there():
    X, y = blobs(60)
    assert list(MLPClassifier(alpha=0.5, tol=0.1, **SMALL).fit(X, y, (y != 1).astype(float)).classes_) == [0, 2]


def test_large_systems_are_not_solved_directly_and_agree_too():
    X, y = blobs(400, 3)
    w = np.random.default_rng(0).integers(1, 4, 400)
    options = {"hidden_layer_sizes": (150,), "alpha": 4.0, "max_iter": 4, "tol": 1e-1, "random_state": 0}
    weighted = MLPClassifier(**options).fit(X, y, w)
    repeated = MLPClassifier(**options).fit(np.repeat(X, w, axis=0), np.repeat(y, w))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=0, atol=0.1)


def test_alpha_is_chosen_among_three_and_not_below_a_hundred_rows():
    X, y = blobs(150)
    assert min(abs(MLPClassifier(**SMALL).fit(X, y).alpha_ / 150 / np.array([1e-2, 1e-3, 1e-4]) - 1)) < 1e-9
    assert MLPClassifier(**SMALL).fit(X[:99], y[:99]).alpha_ == pytest.approx(0.099)
    w = np.linspace(0.5, 3, 99)
    assert MLPClassifier(**SMALL).fit(X[:99], y[:99], w).alpha_ == pytest.approx(1e-3 * w.sum())
    assert MLPClassifier(alpha=3.0, **SMALL).fit(X[:99], y[:99], w).alpha_ == pytest.approx(3.0)
    with pytest.warns(UserWarning, match="99 are too few"):
        held = MLPClassifier(early_stopping=True, **SMALL).fit(X[:99], y[:99])
    assert held.validation_scores_ is None


def test_noise_without_a_signal_takes_the_largest_penalty():
    g = np.random.default_rng(0)
    X, y = g.standard_normal((200, 5)), g.standard_normal(200)
    assert MLPRegressor((50,), random_state=0).fit(X, y).alpha_ / 200 == pytest.approx(1e-2)


def test_early_stopping_keeps_the_best_of_the_held_out_scores():
    X, y = curve(200)
    ours = MLPRegressor((30,), early_stopping=True, alpha=0.0, n_iter_no_change=4, random_state=0).fit(X, y)
    assert ours.best_validation_score_ == max(ours.validation_scores_)
    assert ours.validation_scores_[-1] < ours.best_validation_score_
    assert ours.loss_ == pytest.approx(ours.loss_curve_[int(np.argmax(ours.validation_scores_))], rel=1e-9)
    shorter = MLPRegressor((30,), early_stopping=True, alpha=0.0, random_state=0)
    shorter.set_params(max_iter=int(np.argmax(ours.validation_scores_)) + 1, n_iter_no_change=4)
    with pytest.warns(ConvergenceWarning):
        np.testing.assert_array_equal(shorter.fit(X, y).predict(X), ours.predict(X))
    assert ours.best_loss_ is None
    assert len(ours.validation_scores_) == ours.n_iter_ == len(ours.loss_curve_)


def test_rows_that_are_held_out_for_the_score_do_not_choose_the_penalty(monkeypatch):
    """Fits that choose and begin see the rows that the last fit sees, and no others."""
    seen, patience, fit = [], [], Task.fit

    def watched(self, table, *args, **kwargs):
        seen.append(set(table.rows.tolist()))
        patience.append(self.rule.n_iter_no_change)
        return fit(self, table, *args, **kwargs)

    monkeypatch.setattr(Task, "fit", watched)
    options = {"early_stopping": True, "max_iter": 9, "tol": 0.5, "n_iter_no_change": 4, **SMALL}
    MLPClassifier(**options).fit(*blobs(200))
    assert len(seen[-1]) == 180
    assert all(rows <= seen[-1] for rows in seen)
    assert set(patience) == {2}  # the last fit has begun already
    MLPClassifier(alpha=0.1, **options).fit(*blobs(200))
    assert patience[-1] == 4


def test_scores_of_held_out_rows_are_weighted():
    """Labels are noise, and a row of the first class counts a thousand times as much as one of the second."""
    g = np.random.default_rng(0)
    X, y = g.standard_normal((200, 3)), np.arange(200) % 2
    options = {"alpha": 0.1, "early_stopping": True, "tol": 0.1, **SMALL}
    weighted = MLPClassifier(**options).fit(X, y, np.where(y == 0, 1000.0, 1.0))
    assert weighted.best_validation_score_ > 0.99
    assert MLPClassifier(**options).fit(X, y).best_validation_score_ < 0.9


def test_the_tolerance_of_a_regression_is_in_units_of_its_variance():
    """Half the variance of the targets is all that a loss can fall by."""
    X, y = curve(60)
    X, y = StandardScaler().fit_transform(X), 1000 * (y - np.mean(y)) / np.std(y)
    options = {"solver": "sgd", "learning_rate_init": 1e-4, "alpha": 0.0, "standardize": False, **SMALL}
    ours = MLPRegressor(tol=1.0, n_iter_no_change=2, **options).fit(X, y)
    assert np.all(np.diff(ours.loss_curve_) < -2)
    assert ours.n_iter_ == 3


def test_the_curve_of_mini_batches_is_the_mean_over_the_rows():
    X, y = blobs(70)
    options = {"alpha": 2.0, "batch_size": 60, "learning_rate_init": 1e-30, "max_iter": 1, **SMALL}
    with pytest.warns(ConvergenceWarning):
        ours = MLPClassifier(solver="adam", **options).fit(X, y)
    assert ours.loss_curve_[0] == pytest.approx(ours.loss_, rel=1e-9)
    with pytest.warns(ConvergenceWarning):
        wild = MLPClassifier(solver="adam", **{**options, "learning_rate_init": 1.0, "max_iter": 6}).fit(X, y)
    assert wild.best_loss_ == min(wild.loss_curve_) < wild.loss_curve_[-1]


def test_a_warm_start_goes_on():
    X, y = blobs(90)
    ours = MLPClassifier(warm_start=True, tol=0.1, alpha=0.1, **SMALL).fit(X, y)
    before, fewer = ours.loss_, ours.n_iter_
    again = ours.fit(X, y)
    assert again.loss_curve_[0] < before
    assert again.n_iter_ < fewer
    with pytest.raises(ValueError, match="its features, sizes and classes"):
        ours.fit(X, y + 1)


@pytest.mark.parametrize("standardize", [True, False])
def test_scaling_is_folded_into_the_weights(standardize):
    """On raw units the fit is that on standardised ones; without, it is not."""
    X, y = blobs(90)
    raw = X * (1, 100, 1e-3, 1) + (0, 1e3, 0, -7)
    standard = StandardScaler().fit_transform(X)
    options = {"alpha": 0.5, "tol": 0.1, **SMALL}
    want = MLPClassifier(**options).fit(standard, y).predict_proba(standard)
    found = MLPClassifier(standardize=standardize, **options).fit(raw, y).predict_proba(raw)
    assert (np.max(np.abs(found - want)) < 1e-8) == standardize


def test_targets_in_any_unit_give_the_same_fit():
    X, y = curve(90)
    options = {"alpha": 0.5, "max_iter": 4, "tol": 1.0, **SMALL}
    one, other = (MLPRegressor(**options).fit(X, t).predict(X) for t in (y, 1e-4 * y + 3))
    np.testing.assert_allclose(other, 1e-4 * one + 3, rtol=1e-8)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_every_solver_lowers_the_loss(solver):
    X, y = blobs(60)
    options = {} if solver == "near-linear" else {"alpha": 1e-3}
    with pytest.warns(ConvergenceWarning):
        ours = MLPClassifier((12,), solver=solver, max_iter=3, tol=0.0, batch_size="auto", random_state=0, **options).fit(X, y)
    assert ours.loss_curve_[-1] < ours.loss_curve_[0]
    assert hasattr(ours, "predict_proba") == (solver != "near-linear")
    assert ours.score(X, y) > 0.3


@pytest.mark.parametrize("classes", [2, 3])
def test_the_near_linear_network_is_in_the_weights(classes):
    X, y = blobs(60, classes)
    ours = MLPClassifier((32,), solver="near-linear", random_state=0, tol=0.1).fit(X, y)
    assert ours.score(X, y) > 0.8
    outputs = np.maximum(X @ ours.coefs_[0] + ours.intercepts_[0], 0) @ ours.coefs_[1] + ours.intercepts_[1]
    np.testing.assert_array_equal(ours.predict(X), np.argmax(outputs, axis=1) if classes > 2 else outputs[:, 0] > 0)
    one_hot = 2.0 * (y[:, None] == np.arange(classes)) - 1 if classes > 2 else 2.0 * y[:, None] - 1
    assert ours.loss_ == pytest.approx(0.5 * np.mean(np.sum((outputs - one_hot) ** 2, axis=1)), rel=1e-9)


@pytest.mark.parametrize(("classes", "width"), [(2, 8), (3, 9), (3, 12)])
def test_the_near_linear_network_begins_at_zero(classes, width):
    """Where every output has an even number of neurons; else one neuron of it is left over."""
    X, y = blobs(60, classes)
    with pytest.warns(ConvergenceWarning):
        ours = MLPClassifier((width,), solver="near-linear", random_state=0, max_iter=1, learning_rate_init=1e-12).fit(X, y)
    outputs = np.maximum(X @ ours.coefs_[0] + ours.intercepts_[0], 0) @ ours.coefs_[1]
    assert (np.max(np.abs(outputs)) < 1e-6) == (width % 2 == 0)
    assert np.sum(ours.coefs_[1] ** 2, axis=0) == pytest.approx(1.0)


def test_arrays_of_other_backends_stay_there(be):
    X, y = blobs(40)
    want = MLPClassifier(alpha=0.1, max_iter=3, tol=1.0, **SMALL).fit(X, y)
    ours = MLPClassifier(alpha=0.1, max_iter=3, tol=1.0, **SMALL)
    z = be.array(X)
    ours.fit(z, be.xp.asarray(y, device=be.device))
    np.testing.assert_allclose(be.numpy(ours.predict_proba(z)), want.predict_proba(X), atol=be.tol(1e-8))
    np.testing.assert_array_equal(be.numpy(ours.predict(z)), want.predict(X))
    assert ours.score(z, be.xp.asarray(y, device=be.device)) == want.score(X, y)
    with pytest.raises(ValueError, match="X has 3 features, but MLPClassifier is expecting 4"):
        ours.predict(z[:, :3])
    if not be.name.startswith("numpy"):
        with pytest.raises(ValueError, match=r"MLPClassifier.predict\(\) must use the same namespace"):
            ours.predict(X)


def test_single_precision_stays_single():
    X, y = blobs(60)
    ours = MLPClassifier(alpha=0.1, **SMALL).fit(X.astype(np.float32), y)
    assert {W.dtype for W in (*ours.coefs_, *ours.intercepts_)} == {np.dtype(np.float32)}
    assert ours.predict_proba(X).dtype == np.float32


def test_copies_pipelines_and_searches():
    X, y = blobs(90)
    ours = MLPClassifier(alpha=0.1, **SMALL)
    search = GridSearchCV(make_pipeline(StandardScaler(), ours), {"mlpclassifier__alpha": [0.01, 1.0]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.5
    fitted = clone(ours).fit(X, y)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(clone(ours).fit(X, y).predict_proba(X), fitted.predict_proba(X))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "lbfgs"}, "solver is 'lbfgs'"),
        ({"activation": "sigmoid"}, "activation is 'sigmoid'"),
        ({"alpha": -1}, "alpha is -1"),
        ({"alpha": "best"}, "alpha is 'best'"),
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes is 0"),
        ({"hidden_layer_sizes": (3, 3), "solver": "near-linear"}, "expected one size"),
        ({"alpha": 1.0, "solver": "near-linear"}, "takes no penalty"),
        ({"max_iter": 0}, "max_iter is 0"),
        ({"tol": "small"}, "tol is 'small'"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"standardize": 1}, "standardize is 1"),
    ],
)
def test_parameters_that_cannot_be_used_are_named(options, words):
    X, y = blobs(30)
    with pytest.raises(ValueError, match=words):
        MLPClassifier(**options).fit(X, y)


def test_weights_that_cannot_be_used_are_named():
    X, y = blobs(30)
    for weights, words in ((np.zeros(30), "are zero"), (-np.ones(30), "holds -1"), (np.ones(29), r"shape \(29,\)")):
        with pytest.raises(ValueError, match=words):
            MLPClassifier(**SMALL).fit(X, y, weights)


def test_raw_units_are_left():
    """With a softmax that is saturated at the start the fit moves, and is about as good as on standardised inputs."""
    X, y = (a[::2] for a in datasets.load_wine(return_X_y=True))
    options = {"alpha": 1e-4, "random_state": 0}
    standardised = MLPClassifier(**options).fit(X, y).score(X, y)
    for dtype in (np.float64, np.float32):
        raw = MLPClassifier(standardize=False, **options).fit(X.astype(dtype), y)
        assert raw.loss_curve_[0] > 10 > raw.loss_curve_[-1]
        assert raw.score(X.astype(dtype), y) > standardised - 0.02


def test_raw_units_beyond_single_precision_are_fitted():
    X, y = blobs(100)
    assert MLPClassifier(standardize=False, tol=0.1, **SMALL).fit(1e40 * X, y).score(1e40 * X, y) > 0.8


def test_deviations_of_pixels_have_a_floor_on_every_backend(be):
    x = np.zeros((40, 4))
    x[::2, 0], x[1::3, 1], x[:20, 2], x[7, 3] = 255, 200, 130, 1
    std = np.sqrt(np.mean((x - x.mean(axis=0)) ** 2, axis=0))
    floor = np.sqrt(np.mean(std**2)) / 2
    assert std[3] < floor < std[0]
    np.testing.assert_allclose(be.numpy(Scaling.fit(be.array(x)).deviation), np.where(std > floor, std, floor), rtol=1e-5)
    np.testing.assert_allclose(be.numpy(Scaling.fit(be.array(x + 0.5)).deviation), std, rtol=1e-5)
