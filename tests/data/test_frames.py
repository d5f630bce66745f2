"""Data frames are read as the files that they would be written to."""

from types import SimpleNamespace

import numpy as np
import pytest

from nearlin.data import DataError, load
from nearlin.data.load import load_features
from nearlin.experiments import predict, train

pd = pytest.importorskip("pandas")  # mlxtend brings it


def frame(n=40):
    """Columns of every kind that a file can hold."""
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "a": rng.normal(size=n),
            "count": rng.integers(-5, 5, n),
            "on": rng.random(n) < 0.5,
            "colour": rng.choice(["red", "blue", " green "], n),
            "grade": pd.Categorical(rng.choice(["low", "high"], n)),
            "nullable": pd.array(rng.integers(0, 9, n), dtype="Int64"),
            "digits": rng.integers(0, 9, n).astype(str),
            "number": rng.normal(size=n),
            "kind": np.arange(n) % 3 + 1,
            "name": np.array(["x", "y"])[np.arange(n) % 2],
            "truth": np.arange(n) % 2 == 0,
        },
        index=np.arange(n)[::-1],
    )


@pytest.fixture
def written(tmp_path):
    """A frame as a file."""

    def write(table):
        table.to_csv(tmp_path / "table.csv", index=False)
        return tmp_path / "table.csv"

    return write


@pytest.mark.parametrize("target", ["number", "kind", "name", "truth", ("number", "a"), "digits"])
def test_a_frame_is_the_data_set_of_its_file(target, written):
    ours, file = load(frame(), target), load(written(frame()), target)
    for field in ("task", "class_names", "feature_names", "target_name", "target_names", "reason"):
        assert getattr(ours, field) == getattr(file, field)
    np.testing.assert_array_equal(ours.x, file.x)
    np.testing.assert_array_equal(ours.y, file.y)
    assert load(frame().sample(frac=1, random_state=0), target).x.tolist() != file.x.tolist()  # rows are in the frame's order


@pytest.mark.parametrize(("column", "value", "message"), [
    ("a", np.nan, "frame, row 3 (counted from 0), column 'a': 'nan', a missing value; expected a number"),
    ("a", np.inf, "frame, row 3 (counted from 0), column 'a': 'inf'; expected a finite number"),
    ("nullable", pd.NA, "frame, row 3 (counted from 0), column 'nullable': .* a missing value; expected a number"),
    ("colour", None, "frame, row 3 (counted from 0), column 'colour': .* a missing value; expected a text"),
    ("grade", None, "frame, row 3 (counted from 0), column 'grade': .* a missing value; expected a text"),
    ("name", None, "frame, row 3 (counted from 0), column 'name': .* a missing value; expected a class"),
])  # fmt: skip
def test_what_is_missing_is_named_by_row_and_column(column, value, message):
    table = frame()
    table.iloc[3, table.columns.get_loc(column)] = value
    with pytest.raises(DataError, match=message.replace("(", r"\(").replace(")", r"\)")):
        load(table, "name")


@pytest.mark.parametrize(("table", "message"), [
    (pd.DataFrame({"a": pd.to_datetime(["2020-01-01"] * 2), "y": [1, 2]}), "the column 'a' holds datetime64"),
    (pd.DataFrame([[1, 2, 3.5], [1, 2, 4.5]], columns=["a", "a", "y"]), "two columns called 'a'"),
    (pd.DataFrame([[1, 2, 3.5], [1, 2, 4.5]], columns=[1, "1", "y"]), "two columns called '1'"),
    (pd.DataFrame({"a": [], "y": []}), "0 rows"),
    (pd.DataFrame({"a": [-(2**53) - 1, 0], "y": [1.5, 2]}), "column 'a': x holds integers above 2\\^53"),
    (pd.DataFrame({"a": [1, 0], "y": [1, 2**53 + 1]}), "column 'y': x holds integers above 2\\^53"),
    (pd.DataFrame({"a": np.array([2**70, 0], dtype=object), "y": [1.5, 2]}), "column 'a': the integer 11.*above 2\\^53"),
    (pd.DataFrame({"a": [1.0, 2]}), "no column 'y'"),
])  # fmt: skip
def test_other_frames_are_refused_in_a_sentence(table, message):
    with pytest.raises(DataError, match=message):
        load(table, "y")
    with pytest.raises(DataError, match="name the target"):
        load(frame())


def test_features_are_those_of_training_in_any_order(written):
    names = load(frame(), "number").feature_names
    shuffled = frame()[list(frame().columns[::-1])]
    np.testing.assert_array_equal(load_features(shuffled, "number", names), load(written(frame()), "number").x)
    other = shuffled.assign(colour="violet")
    with pytest.raises(DataError, match=r"frame, row 0 \(counted from 0\), column 'colour': the text 'violet'"):
        load_features(other, "number", names)


def test_numbers_where_training_had_texts_are_a_new_text():
    with pytest.raises(DataError, match=r"the text '1\.5', which the training data had not"):
        load_features(pd.DataFrame({"a": [1.5, 2.0]}), None, ("a=u", "a=v"))


def test_a_run_on_a_frame_is_that_on_its_file(written, tmp_path):
    options = {"target": "kind", "hidden": 8, "steps": 3, "progress": False}
    ours, file = train(frame(), out=tmp_path / "run", **options), train(written(frame()), **options)
    for a, b in zip(ours.params, file.params, strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours.problem.fingerprint == file.problem.fingerprint
    x = load(frame(), "kind").x
    np.testing.assert_array_equal(ours.predict(frame()), file.predict(x))
    np.testing.assert_array_equal(ours.predict(frame().drop(columns="kind")), file.predict(x))
    predicted = predict(tmp_path / "run" / "checkpoint.npz", frame(), target="kind")
    np.testing.assert_array_equal(predicted.values, file.predict(x))


def test_another_library_needs_the_same_interface_alone():
    columns = {"a": np.array([0.5, 1.5, 2.5]), "t": np.array(["u", "v", "u"], dtype=object), "y": np.array([0.1, 0.2, 0.3])}

    class Frame:
        """As polars has it: columns and types in sequences."""

        columns = ("a", "t", "y")
        dtypes = ("f", "o", "f")

        def __len__(self):
            return 3

        def __getitem__(self, name):
            return SimpleNamespace(to_numpy=lambda: columns[name])

    ours = load(Frame(), "y")
    assert ours.feature_names == ("a", "t=u", "t=v")
    np.testing.assert_array_equal(ours.x, [[0.5, 1, 0], [1.5, 0, 1], [2.5, 1, 0]])
