"""Frames of polars beside the same table in a file and in NumPy."""

import numpy as np
import pytest

from nearlin.data import DataError, load, load_features
from nearlin.experiments import train

pl = pytest.importorskip("polars")
RNG = np.random.default_rng(5)


def frame(n=40):
    """Columns of every kind that a file can hold."""
    return pl.DataFrame(
        {
            "a": RNG.normal(size=n),
            "count": RNG.integers(-5, 5, n),
            "on": RNG.random(n) < 0.5,
            "colour": pl.Series(RNG.choice(["red", "blue"], n)),
            "grade": pl.Series(RNG.choice(["low", "high"], n)).cast(pl.Categorical),
            "number": RNG.normal(size=n).astype("float32"),
            "kind": np.arange(n) % 3 + 1,
            "name": pl.Series(np.array(["x", "y"])[np.arange(n) % 2]),
        }
    )


@pytest.mark.parametrize("target", ["number", "kind", "name", ("a", "number")])
def test_a_frame_is_the_data_set_of_its_file(target, tmp_path):
    table = frame().with_columns(pl.col("number").cast(pl.Float64))
    table.write_csv(tmp_path / "table.csv")
    ours, file = load(table, target), load(tmp_path / "table.csv", target)
    for field in ("task", "class_names", "feature_names", "target_name", "target_names", "reason"):
        assert getattr(ours, field) == getattr(file, field)
    np.testing.assert_array_equal(ours.x, file.x)
    np.testing.assert_array_equal(ours.y, file.y)
    shuffled = table.select(table.columns[::-1])
    np.testing.assert_array_equal(load_features(shuffled, target, ours.feature_names), ours.x)


@pytest.mark.parametrize(
    ("column", "found"),
    [("a", "a missing value"), ("count", "a missing value"), ("colour", "a missing value"), ("grade", "a missing value")],
)
def test_what_is_missing_is_named_by_row_and_column(column, found):
    table = frame().with_columns(pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise(pl.col(column)).alias(column))
    with pytest.raises(DataError, match=rf"frame, row 3 \(counted from 0\), column '{column}': .*{found}"):
        load(table, "name")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pl.Series([2**53 + 1, 0]), r"integers above 2\^53"),
        (pl.Series(["2020-01-01"] * 2).str.to_date(), "the column 'a' holds datetime64"),
    ],
)
def test_other_columns_are_refused_in_a_sentence(values, message):
    with pytest.raises(DataError, match=message):
        load(pl.DataFrame({"a": values, "y": [1.5, 2.5]}), "y")


@pytest.mark.filterwarnings("ignore:3 iterations")
def test_runs_and_estimators_take_frames():
    classifier = pytest.importorskip("nearlin.sklearn").MLPClassifier
    table = frame().select("a", "count", "kind")
    result = train(table, target="kind", hidden=8, steps=3, progress=False)
    x, kind = table.select("a", "count").to_numpy(), table["kind"].to_numpy()
    np.testing.assert_array_equal(result.predict(table), result.predict(x))
    options = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
    ours = classifier(**options).fit(table.select("a", "count"), table["kind"])
    beside = classifier(**options).fit(x, kind)
    np.testing.assert_array_equal(ours.predict_proba(table.select("a", "count")), beside.predict_proba(x))
    assert ours.feature_names_in_.tolist() == ["a", "count"]
