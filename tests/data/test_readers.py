"""Files: what is read, and one clear sentence for what cannot be."""

import numpy as np
import pytest

from nearlin.data import DataError, load, load_features

X = np.array([[1.0, 2.0], [3.0, 5.0], [-1.0, 0.5], [4.0, 4.0]])
Y = np.array([1.5, -2.0, 0.25, 3.0])


def csv(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


def test_csv_target_by_name_wherever_it_stands(tmp_path):
    lines = [f"{a},{y},{b}" for (a, b), y in zip(X, Y, strict=True)]
    data = load(csv(tmp_path / "a.csv", "u,price,v\n" + "\n".join(lines) + "\n"), target="price")
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y, Y)
    assert (data.feature_names, data.target_name, data.task) == (("u", "v"), "price", "regression")


@pytest.mark.parametrize(
    "text", ["u;v;y\n1;2;3\n4;5;6\n", "u\tv\ty\n1\t2\t3\n4\t5\t6\n", '\ufeffu, v, "y"\n\n1, 2, 3\n4, 5, 6\n\n']
)
def test_csv_dialects(tmp_path, text):
    data = load(csv(tmp_path / "a.csv", text), target="y")
    np.testing.assert_array_equal(data.x, [[1, 2], [4, 5]])
    np.testing.assert_array_equal(data.y, [3, 6])


def test_csv_two_texts_are_two_classes(tmp_path):
    data = load(csv(tmp_path / "a.csv", "u,kind\n1,dog\n2,cat\n3,dog\n"), target="kind")
    np.testing.assert_array_equal(data.y, [1, 0, 1])
    assert (data.task, data.class_names) == ("classification", ("cat", "dog"))


def test_task_makes_two_numbers_two_classes(tmp_path):
    path = csv(tmp_path / "a.csv", "u,y\n1,0\n2,1\n3,1\n")
    assert load(path, target="y").task == "regression"
    data = load(path, target="y", task="classification")
    np.testing.assert_array_equal(data.y, [0, 1, 1])
    assert data.class_names == ("0", "1")


@pytest.mark.parametrize("factor", [1e200, 1e-200])
def test_values_whose_squares_are_no_numbers_are_refused(tmp_path, factor):
    np.savez(tmp_path / "a.npz", x=X.astype(float), y=factor * np.asarray(Y, dtype=float))
    with pytest.raises(DataError, match="choose another unit"):
        load(tmp_path / "a.npz")


def test_plus_and_minus_one_are_two_classes(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=np.array([1.0, -1.0, -1.0, 1.0]))
    assert load(tmp_path / "a.npz").task == "classification"
    assert load(tmp_path / "a.npz", task="regression").task == "regression"


def test_npz_and_npy(tmp_path):
    np.savez(tmp_path / "a.npz", x=X.astype(np.float32), y=Y[:, None])
    np.save(tmp_path / "a.npy", np.column_stack([X, Y]).astype(np.float32))
    archive, matrix = load(tmp_path / "a.npz"), load(tmp_path / "a.npy")
    np.testing.assert_array_equal(archive.x, X)
    np.testing.assert_array_equal(matrix.x, X)
    np.testing.assert_array_equal(archive.y, matrix.y)
    assert archive.x.dtype == matrix.x.dtype == np.float64


def refuses(path, says, **arguments):
    with pytest.raises(DataError, match=says) as caught:
        load(path, **arguments)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def test_csv_without_target_lists_the_columns(tmp_path):
    refuses(csv(tmp_path / "a.csv", "u,v\n1,2\n"), "name the target column .* u, v")


def test_csv_that_is_not_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00u")
    refuses(tmp_path / "a.csv", "not UTF-8", target="y")


BAD_NPZ = {
    "no x": ({"z": X}, r"lacks the array\(s\) x, y; found z"),
    "no y": ({"x": X}, r"lacks the array\(s\) y"),
    "lengths": ({"x": X, "y": Y[:2]}, "4 rows and y has 2"),
    "x 1-d": ({"x": Y, "y": Y}, r"shape \(4,\)"),
    "x 3-d": ({"x": X[None], "y": Y}, r"shape \(1, 4, 2\)"),
    "y 3-d": ({"x": X, "y": X[None]}, r"y has shape \(1, 4, 2\)"),
    "no rows": ({"x": X[:0], "y": Y[:0]}, "at least one row"),
    "nan": ({"x": np.where(X == 5, np.nan, X), "y": Y}, "row 1, column 1"),
    "nan target": ({"x": X, "y": np.where(Y > 2, np.nan, Y)}, "row 3"),
    "complex": ({"x": X + 1j, "y": Y}, "complex128"),
    "pickle": ({"x": np.array([{}]), "y": Y}, "pickled"),
    "text": ({"x": X.astype(str), "y": Y}, "expected real numbers"),
    "four texts": ({"x": X, "y": np.array(list("abcd"))}, "4 distinct"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz(tmp_path, case):
    arrays, says = BAD_NPZ[case]
    np.savez(tmp_path / "a.npz", **arrays)
    refuses(tmp_path / "a.npz", says)


def test_other_bad_files(tmp_path):
    np.savez(tmp_path / "whole.npz", x=X, y=Y)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:200])
    (tmp_path / "empty.npz").touch()
    (tmp_path / "foreign.npy").write_text("hello")
    (tmp_path / "a.txt").write_text("hello")
    np.save(tmp_path / "vector.npy", Y)
    np.save(tmp_path / "array.npy", X)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    refuses(tmp_path / "cut.npz", "truncated")
    refuses(tmp_path / "empty.npz", "is empty")
    refuses(tmp_path / "foreign.npy", "no NumPy file")
    refuses(tmp_path / "a.txt", "suffix '.txt'")
    refuses(tmp_path / "vector.npy", r"shape \(4,\)")
    refuses(tmp_path / "array.npz", "single array")
    refuses(tmp_path / "nowhere.csv", "does not exist")
    refuses(tmp_path, "is a folder")
    refuses(tmp_path / "whole.npz", "target 'y' is for .csv", target="y")


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("digits", {}, "did you mean 'digits-4v9'"),
        ("nothing-like-it", {}, "expected one of digits-4v9, digits-parity, diabetes, breast-cancer, sphere, or a file"),
        ("sphere", {"target": "y"}, "has its own target"),
        ("sphere", {"task": "classification"}, "is for regression"),
        ("sphere", {"task": "ranking"}, "task is 'ranking'"),
    ],
)
def test_names(name, arguments, says):
    with pytest.raises(DataError, match=says):
        load(name, **arguments)


def test_features_come_in_the_order_of_training(tmp_path):
    path = csv(tmp_path / "a.csv", "v,y,u\n2,9,1\n5,9,3\n")
    np.testing.assert_array_equal(load_features(path, "y", ("u", "v"), 2), [[1, 2], [3, 5]])


def test_features_of_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", x=X)
    np.save(tmp_path / "a.npy", np.column_stack([X, Y]))
    np.testing.assert_array_equal(load_features(tmp_path / "a.npz", features=2), X)
    np.testing.assert_array_equal(load_features(tmp_path / "a.npy", target="last", features=2), X)


@pytest.mark.parametrize(
    ("text", "target", "says"),
    [
        ("u,v,y\n1,2,3\n", None, r"column\(s\) 'y', which the training data had not; a target column is dropped"),
        ("u,y\n1,3\n", "y", r"lacks the column\(s\) 'v'"),
        ("u,v\n1,2\n", "y", "no column 'y'"),
    ],
)
def test_features_that_differ_from_training(tmp_path, text, target, says):
    with pytest.raises(DataError, match=says):
        load_features(csv(tmp_path / "a.csv", text), target, ("u", "v"), 2)


def test_width_that_differs_from_training(tmp_path):
    np.save(tmp_path / "a.npy", np.column_stack([X, Y]))
    with pytest.raises(DataError, match=r"has 3 feature\(s\); expected 2, as in training; a target column"):
        load_features(tmp_path / "a.npy", features=2)
