"""What targets are taken for, and the labels that classes become."""

import itertools

import numpy as np
import pytest

from nearlin.data import DataError, Dataset
from nearlin.data.targets import settle_targets

X = np.arange(24.0).reshape(12, 2)
TWICE = lambda values: [*values, *values]  # noqa: E731


@pytest.mark.parametrize(
    ("y", "classes", "reason"),
    [
        (TWICE("ba"), ("a", "b"), "holds text"),
        (TWICE([b"ba", b"ab"]), ("ab", "ba"), "holds text"),
        (TWICE([True, False]), ("False", "True"), "truth values"),
        ([-1, 1, 1], ("-1", "1"), "are -1 and 1"),
        ([-1.0, 1.0, 1.0], ("-1", "1"), "are -1 and 1"),
        (TWICE([0, 1]), ("0", "1"), "from 0 to 1"),
        (TWICE([2.0, 1.0, 3.0]), ("1", "2", "3"), "from 1 to 3"),
        (TWICE(range(20)), tuple(map(str, range(20))), "from 0 to 19"),
        (TWICE(range(21)), None, "more than 20"),
        ([0, 1, 1], None, "only once"),
        (TWICE([2, 3]), None, "without gaps from 0 or 1"),
        (TWICE([0, 1, 3]), None, "without gaps"),
        (TWICE([-1, 0, 1]), None, "without gaps"),
        (TWICE([1]), None, "without gaps"),
        (TWICE([0.0, 0.5, 1.0]), None, "not all integers"),
        (TWICE([1e90, 3.0]), None, "without gaps"),
        (TWICE([[0, 1], [1, 0]]), None, "several targets"),
    ],
)
def test_what_targets_are_taken_for(y, classes, reason):
    labels, task, names, why = settle_targets("toy", np.array(y))
    assert (task, names) == ("regression" if classes is None else "classification", classes)
    assert reason in why
    if classes is None:
        np.testing.assert_array_equal(labels, np.array(y, dtype=float))
    else:
        text = [v.decode() if isinstance(v, bytes) else str(int(v)) if not isinstance(v, str | bool) else str(v) for v in y]
        assert [names[label] for label in labels] == text
        assert labels.dtype == np.int64


def test_the_task_that_is_named_decides():
    assert settle_targets("toy", np.array(TWICE([0, 1])), "regression")[:3][1:] == ("regression", None)
    labels, task, names, _ = settle_targets("toy", np.array(TWICE([2.5, 10.0, -3.0])), "classification")
    assert (task, names, labels.tolist()) == ("classification", ("-3", "2.5", "10"), [1, 2, 0, 1, 2, 0])
    with pytest.raises(DataError, match="toy: the target holds text; regression expects numbers"):
        settle_targets("toy", np.array(["a", "b"]), "regression")
    with pytest.raises(DataError, match=r"toy: y has shape \(4, 2\); classification expects one target"):
        settle_targets("toy", np.array(TWICE([[0, 1], [1, 0]])), "classification")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("task", [None, "regression", "classification"])
def test_targets_that_are_not_finite_are_named_by_their_row(value, task):
    with pytest.raises(DataError, match=r"toy: y holds 2 NaN or Inf value\(s\), the first in row 1"):
        settle_targets("toy", np.array(TWICE([1.0, value])), task)


@pytest.mark.parametrize("mark", ["", "NA", "nan", "?", " ", "null", "<NA>"])
def test_a_missing_class_is_named_by_its_row(mark):
    with pytest.raises(DataError, match=r"toy: the target of row 2 \(counted from 0\) is .* a missing value"):
        settle_targets("toy", np.array(["a", "b", mark, "a", "b"]))


def test_names_of_large_numbers_stay_apart():
    names = settle_targets("toy", np.array(TWICE([1234567.0, 1234568.0, 0.1])), "classification")[2]
    assert names == ("0.1", "1234567", "1234568")
    assert settle_targets("toy", np.float32(TWICE([0.1, 0.2])), "classification")[2] == ("0.1", "0.2")


@pytest.mark.parametrize(
    ("values", "dtype"), [(TWICE("cab"), object), (TWICE([3, 1, 7]), np.uint8), (TWICE([0.5, -1, 2]), ">f4")]
)
def test_a_data_set_numbers_its_classes_in_sorted_order(values, dtype):
    data = Dataset("toy", X[:6], np.array(values, dtype=dtype), "classification")
    ranks = {value: rank for rank, value in enumerate(sorted(set(values)))}
    assert data.y.tolist() == [ranks[value] for value in values]
    assert len(data.class_names) == 3


def test_a_part_keeps_the_classes_that_it_lacks():
    part = Dataset("toy", X[:6], np.array(TWICE("abc")), "classification").take([0, 3, 2])
    assert (part.y.tolist(), part.class_names) == ([0, 0, 2], ("a", "b", "c"))


@pytest.mark.parametrize(
    ("y", "names", "says"),
    [
        ([-1, 1, 1], ("a", "b"), r"y holds -1 in row 0 \(counted from 0\); expected labels from 0 to 1"),
        ([0, 1, 2], ("a", "b"), "y holds 2 in row 2"),
        ([0, 0.5, 1], ("a", "b"), "y holds 0.5 in row 1"),
        ([0, 1, np.nan], ("a", "b"), "y holds nan in row 2"),
        (["a", "b", "a"], ("a", "b"), "dtype <U1"),
        ([0, 1, 1], ("a", "a"), "expected at least two distinct names"),
        ([0, 0, 0], ("a",), "expected at least two distinct names"),
    ],
)
def test_labels_are_positions_in_class_names(y, names, says):
    with pytest.raises(DataError, match=says):
        Dataset("toy", X[:3], np.array(y), "classification", names)


@pytest.mark.parametrize("masked", list(itertools.product([False, True], repeat=2)))
def test_masked_arrays_are_refused(masked):
    x, y = (np.ma.masked_equal(a, 3.0) if mask else a for a, mask in zip((X, np.arange(12.0)), masked, strict=True))
    if not any(masked):
        assert len(Dataset("toy", x, y)) == 12
        return
    with pytest.raises(DataError, match=f"toy: {'x' if masked[0] else 'y'} is a masked array, whose mask would be lost"):
        Dataset("toy", x, y)


def test_several_targets():
    data = Dataset("toy", X, np.ones((12, 3), dtype=int), target_names=("u", "v", "w"))
    assert (data.targets, data.y.dtype, data.take([1, 2]).y.shape) == (3, np.float64, (2, 3))
    with pytest.raises(DataError, match=r"y holds 1 NaN or Inf value\(s\), the first in row 4, column 1"):
        Dataset("toy", X, np.where(np.arange(24).reshape(12, 2) == 9, np.nan, 1.0))
    with pytest.raises(DataError, match=r"2 target_names for 3 target\(s\)"):
        Dataset("toy", X, np.ones((12, 3)), target_names=("u", "v"))


def test_the_sentence_says_what_was_decided_and_how_to_decide_otherwise():
    y, task, names, reason = settle_targets("toy", np.array(TWICE([0, 1, 2])))
    sentence = Dataset("toy", X[:6], y, task, names, target_name="kind", reason=reason).describe_target()
    assert sentence == (
        "the target 'kind' is taken for 3 classes ('0', '1', '2'), because its values are the integers from 0 to 2, each at "
        "least twice; --task regression decides otherwise"
    )
    sentence = Dataset("toy", X, np.ones((12, 2)), target_names=("u", "v"), reason="there are several targets").describe_target()
    assert sentence == "the 2 targets ('u', 'v') are taken for numbers (regression), because there are several targets"
