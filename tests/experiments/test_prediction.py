"""`predict`: the units of the data, from files of every kind."""

import csv

import numpy as np
import pytest

import nearlin as nl
from nearlin._array import unusable
from nearlin.data import DataError
from nearlin.experiments import Config, Prediction, build, predict, prediction, train

X, _ = nl.data.sphere(n=30, d=3, seed=1)
Y = 50 + 10 * X[:, 0]


@pytest.fixture
def houses(tmp_path):
    path = tmp_path / "houses.csv"
    lines = [",".join(map(repr, row)) for row in np.column_stack([X, Y]).tolist()]
    path.write_text("a,b,c,price\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def result(tmp_path, houses):
    return train(houses, target="price", width=256, out=tmp_path / "run", progress=False)


def test_training_rows_are_reproduced_in_their_own_units(result, houses, tmp_path):
    prediction = predict(result.checkpoint, houses, out=tmp_path / "p.csv", target="price")
    train_rows, _ = nl.data.split(nl.data.load(houses, target="price"), 0.2, seed=0)
    assert np.max(np.abs(prediction.values[train_rows.rows] - train_rows.y)) < 1e-2
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["prediction"]) for row in rows] == prediction.values.tolist()
    np.testing.assert_array_equal(result.predict(X), prediction.values)


def test_other_suffixes_and_inputs(result, tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X)
    values = predict(result.checkpoint, X, out=tmp_path / "p.npy").values
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), values)
    np.testing.assert_array_equal(predict(result.checkpoint, tmp_path / "x.npy").values, values)
    predict(result.checkpoint, tmp_path / "x.npz", out=tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["prediction"], values)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_is_evaluated_in_the_dtype_that_it_was_trained_in(houses, tmp_path, dtype):
    result = train(houses, target="price", width=64, steps=2, dtype=dtype, out=tmp_path / "run", progress=False)
    values = predict(result.checkpoint, X).values
    np.testing.assert_array_equal(values, result.predict(X))
    scores = (values - result.problem.preprocessing.target_mean) / result.problem.preprocessing.target_std
    in_float32 = np.abs(scores - scores.astype("float32")).max() < 1e-12
    assert in_float32 == (dtype == "float32")


def test_a_score_of_zero_is_the_second_class_everywhere(tmp_path):
    """In the labels, the signs of a .npy file, and the errors of a run."""
    x, y = nl.data.sphere(n=9, d=3, seed=1)[0], np.array([1.0, -1.0, 1.0] * 3)
    zeros = (np.zeros((8, 3)),)
    problem, _ = build((x, y), Config(optimizer="sgd", width=8, test_fraction=0))
    assert problem.error(zeros, problem.train) == ("error rate", pytest.approx(100 / 3), 3, 9, pytest.approx(100 / 3))
    labels = prediction._labels(np.array([0.0, -1e-9]), {"task": "classification", "class_names": ("low", "high")})
    assert labels.tolist() == ["high", "low"]
    Prediction(np.array([0.0, -1e-9]), labels).save(tmp_path / "p.npy")
    assert np.load(tmp_path / "p.npy")[:, 1].tolist() == [1.0, -1.0]


def test_another_backend_gives_the_same(result):
    if reason := unusable("torch"):
        pytest.skip(reason)
    np.testing.assert_allclose(
        predict(result.checkpoint, X, backend="torch").values, predict(result.checkpoint, X).values, rtol=1e-10
    )


def test_classes_have_scores_and_labels(tmp_path):
    path = tmp_path / "pets.csv"
    path.write_text("a,b,c,kind\n" + "".join(f"{a},{b},{c},{'dog' if a > 0 else 'cat'}\n" for a, b, c in X.tolist()))
    result = train(path, target="kind", width=256, out=tmp_path / "run", test_fraction=0, progress=False)
    prediction = predict(result.checkpoint, path, out=tmp_path / "p.csv", target="kind")
    assert prediction.labels.tolist() == ["dog" if value >= 0 else "cat" for value in prediction.values]
    wrong = sum((label == "dog") != (a > 0) for label, a in zip(prediction.labels, X[:, 0], strict=True))
    assert wrong == result.train_error.wrong <= 2
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == "score,label"
    predict(result.checkpoint, X, out=tmp_path / "p.npy")
    scores = np.load(tmp_path / "p.npy")
    assert scores.shape == (30, 2)
    np.testing.assert_array_equal(np.sign(scores[:, 0]), scores[:, 1])


def test_bad_input(houses, tmp_path):
    result = train(houses, target="price", width=256, scale=False, normalize=True, out=tmp_path / "run", progress=False)
    run = result.checkpoint
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="'price', which the training data had not"):
        predict(run, houses)
    with pytest.raises(DataError, match=r"data has 2 feature\(s\); expected 3"):
        predict(run, X[:, :2])
    with pytest.raises(DataError, match=r"data: x holds 90 NaN"):
        predict(run, X * np.nan)
    with pytest.raises(ValueError, match=r"suffix '.txt'; expected one of .csv, .npy, .npz"):
        predict(run, X, out=tmp_path / "p.txt")
    with pytest.raises(ValueError, match="one of the files that are read"):
        predict(run, houses, out=houses, target="price")
    with pytest.raises(OSError, match="cannot write into the folder"):
        predict(run, X, out=tmp_path / "file" / "p.csv")


def test_a_row_at_the_mean_has_the_value_at_zero_and_a_warning(houses, tmp_path):
    result = train(houses, target="price", width=256, scale=False, normalize=True, out=tmp_path / "run", progress=False)
    steps = result.problem.preprocessing
    rows, sentence = np.stack([X[0], steps.mean, X[1], steps.mean]), r"row 1 \(counted from 0\) is zero after centring, as 1 more"
    with pytest.warns(UserWarning, match=sentence):
        values = predict(result.checkpoint, rows).values
    assert values[[1, 3]].tolist() == [steps.target_mean] * 2  # ReLU without biases is 0 at 0
    np.testing.assert_allclose(values[[0, 2]], predict(result.checkpoint, X[:2]).values, rtol=1e-12)
    with pytest.warns(UserWarning, match="row 0 .* has no direction; its prediction is what the network gives for zero"):
        assert result.predict(steps.mean[None]).tolist() == [steps.target_mean]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_perceptron_has_a_column_of_probabilities_for_each_class(tmp_path, classes):
    names = ("cat", "dog", "eel")[:classes]
    pets = nl.data.Dataset("pets", X, np.digitize(X[:, 0], [0.0, 0.4][: classes - 1]), "classification", names)
    result = train(pets, hidden=8, steps=3, dtype="float64", out=tmp_path / "run", progress=False)
    found = predict(result.checkpoint, X, out=tmp_path / "p.csv")
    hidden, last = result.params
    z = np.maximum(
        (X - result.problem.preprocessing.mean) / result.problem.preprocessing.scale @ hidden[:, :-1].T + hidden[:, -1], 0
    )
    odds = np.exp(z @ last[:, :-1].T + last[:, -1])
    by_hand = odds / odds.sum(axis=1)[:, None]
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["label", *(f"probability {name}" for name in names)]
    np.testing.assert_allclose([[float(row[f"probability {name}"]) for name in names] for row in rows], by_hand, rtol=1e-10)
    assert [row["label"] for row in rows] == [names[k] for k in np.argmax(by_hand, axis=1)]
    predict(result.checkpoint, X, out=tmp_path / "p.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), found.probabilities)


def test_large_outputs_have_probabilities_too():
    np.testing.assert_allclose(prediction._softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])), [[1, 0], [0.5, 0.5]])


def test_least_squares_has_no_probabilities(tmp_path):
    pets = nl.data.Dataset("pets", X, np.digitize(X[:, 0], [0.0, 0.4]), "classification", ("cat", "dog", "eel"))
    result = train(pets, width=96, steps=3, out=tmp_path / "run", progress=False)
    found = predict(result.checkpoint, X, out=tmp_path / "p.csv")
    assert found.probabilities is None
    assert list(found.columns()) == ["label"]
