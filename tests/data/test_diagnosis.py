"""What the data say before the first step, beside plain NumPy: dictionaries of rows, singular values, sums of logarithms."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from nearlin.data import Dataset, Preprocessing, load
from nearlin.data.diagnosis import Diagnosis, diagnose, equal_rows, least_loss, outside_first_direction

RNG = np.random.default_rng(5)


def groups_by_hand(x):
    found = defaultdict(list)
    for i, row in enumerate(x.tolist()):
        found[tuple(row)].append(i)
    return list(found.values())


def test_rows_are_equal_by_value():
    x = RNG.integers(0, 3, size=(200, 3)).astype(float)
    x[x == 0] *= np.where(RNG.random(np.sum(x == 0)) < 0.5, -1, 1)  # -0.0 and 0.0 are one number
    groups = equal_rows(x)
    assert sorted(map(sorted, groups_by_hand(x + 0))) == sorted(np.flatnonzero(groups == g).tolist() for g in set(groups))
    assert equal_rows(np.array([[1.0, 1e-9], [1.0, 0.0]])).tolist() == [0, 1]
    assert equal_rows(np.array([[1.0, 1e-9], [1.0, 0.0]], dtype=np.float32) * np.float32(1e-40)).tolist() == [0, 0]


@pytest.mark.parametrize("outputs", [(), (2,)])
def test_the_floor_of_the_squared_loss_is_the_variance_within_groups(outputs):
    x = RNG.integers(0, 2, size=(60, 3)).astype(float)
    y = RNG.normal(size=(60, *outputs)) + 1e6
    by_hand = sum(0.5 * np.sum((y[rows] - np.mean(y[rows], axis=0)) ** 2) for rows in groups_by_hand(x)) / 60
    assert least_loss(y, equal_rows(x)) == pytest.approx(by_hand, rel=1e-8)
    assert by_hand > 0.1


def test_the_floor_of_the_cross_entropy_is_the_entropy_within_groups():
    x, labels = RNG.integers(0, 2, size=(90, 2)).astype(float), RNG.integers(0, 3, size=90)
    by_hand = 0.0
    for rows in groups_by_hand(x):
        counts = Counter(labels[rows].tolist())
        by_hand -= sum(c * math.log(c / len(rows)) for c in counts.values()) / 90
    assert least_loss(labels, equal_rows(x)) == pytest.approx(by_hand, rel=1e-12)
    assert by_hand > 0.1


@pytest.mark.parametrize("y", [np.repeat(0.1 * np.arange(4), 7), np.repeat(np.arange(4), 7)])
def test_where_equal_rows_agree_the_floor_is_exactly_zero(y):
    groups = np.repeat(np.arange(4), 7)
    assert least_loss(y, groups) == 0
    assert math.copysign(1, least_loss(y, groups)) == 1
    assert least_loss(y, np.zeros(28, dtype=int)) > 0


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (5, 1)])
def test_energy_outside_the_first_direction_beside_singular_values(shape):
    x = RNG.normal(size=shape) + 1
    s = np.linalg.svd(x, compute_uv=False)
    share, exact = outside_first_direction(x)
    assert exact
    assert share == pytest.approx(np.sum(s[1:] ** 2) / np.sum(s**2), rel=1e-9, abs=1e-28)


def test_energy_far_below_rounding_is_resolved():
    u, v, w = np.ones(30), np.eye(4)[0], np.eye(4)[1]
    x = np.outer(u, v) + 1e-11 * np.outer(np.where(np.arange(30) % 2, 1, -1), w)
    assert outside_first_direction(x)[0] == pytest.approx(1e-22, rel=1e-6)
    assert outside_first_direction(np.zeros((3, 2))) == (0.0, True)
    assert outside_first_direction(1e200 * x)[0] == pytest.approx(1e-22, rel=1e-4)


def test_beyond_1024_features_power_iterations_give_an_upper_bound():
    x = RNG.normal(size=(30, 1025)) + 0.5 * RNG.normal(size=(30, 1)) * np.ones(1025)
    s = np.linalg.svd(x, compute_uv=False)
    share, exact = outside_first_direction(x)
    truth = 1 - s[0] ** 2 / np.sum(s**2)
    assert not exact
    assert truth <= share <= 1.05 * truth


@pytest.mark.parametrize(("name", "energy"), [("digits-4v9", 0.60), ("diabetes", 0.67), ("breast-cancer", 0.08)])
def test_known_energies_of_unit_rows(name, energy):
    dataset = load(name)
    x = dataset.x - dataset.x.mean(axis=0)
    x = x / np.linalg.norm(x, axis=1)[:, None]
    assert outside_first_direction(x)[0] == pytest.approx(energy, abs=0.011)


def said(x, y, given=None, **more):
    return diagnose(x, y, x if given is None else given, **{"parameters": 1000, **more})


def test_rows_that_preprocessing_makes_equal():
    x = np.linspace(-3, 3, 120)[:, None]
    dataset = Dataset("sine", x, np.sin(x[:, 0]))
    steps = Preprocessing.fit(dataset)
    found = said(steps.inputs(x), steps.targets(dataset.y), x, normalized=True)
    assert (found.rows, found.given, found.distinct) == (120, 120, 2)
    y = dataset.y / dataset.y.std()
    assert found.floor == pytest.approx(0.25 * (np.var(y[:60]) + np.var(y[60:])), rel=1e-9)
    assert [sentence.partition(":")[0] for sentence in found.limits()] == [
        "rows that are equal for the network have different targets",
        "of 120 distinct rows preprocessing and dtype leave 2; --no-normalize keeps the lengths of rows",
    ]
    assert found.line().startswith("2 of 120 rows distinct, least loss 0.0817; 1000 parameters")
    assert said(x, dataset.y).limits() == []


def test_one_row_that_outshines_all_others():
    x = RNG.normal(size=(50, 4))
    x[17] *= 1e9
    found = said(x, RNG.normal(size=50), rows=np.arange(100, 150))
    assert found.longest[0] == 117
    assert found.longest[1] == pytest.approx(1, abs=1e-15)
    assert len(found.limits()) == 1
    assert "row 117 (counted from 0) alone holds 100 %" in found.limits()[0]
    x[17] = 0
    assert said(x, RNG.normal(size=50)).limits() == []


def test_fewer_parameters_than_targets():
    x, y = RNG.normal(size=(50, 4)), RNG.normal(size=50)
    assert said(x, y, parameters=50).limits() == []
    assert said(x, y, parameters=49).limits()[0].startswith("49 parameters cannot fit 50 targets")
    assert said(x, y, parameters=99, outputs=2).limits()[0].startswith("99 parameters cannot fit 100 targets")
    assert said(x, np.arange(50) % 2, parameters=49).limits() == []  # classes need no exact fit


def test_classes_that_lack():
    counts = {"training": (0, 5, 4), "validation": (1, 0, 1), "test": (1, 1, 0)}
    found = said(RNG.normal(size=(9, 2)), np.arange(9) % 2 + 1, counts=counts, class_names=("a", "b", "c"))
    assert found.classes() == "a 0/1/1, b 5/0/1, c 4/1/0 (training/validation/test rows)"
    assert found.gaps() == [
        "no training row is of class 'a', which cannot be learned",
        "no test row is of class 'c', of which the test error says nothing",
    ]
    assert found.warnings() == found.gaps()


def test_many_classes_are_counted_by_their_ends():
    counts = {"training": tuple(range(5, 25)), "test": tuple(range(1, 21))}
    found = said(RNG.normal(size=(9, 2)), np.arange(9) % 2, counts=counts, class_names=tuple(map(str, range(20))))
    assert found.classes() == "5/1 in the smallest, 24/20 in the largest class (training/test rows)"


def test_numbers_have_no_classes():
    found = said(RNG.normal(size=(9, 2)), RNG.normal(size=9))
    assert isinstance(found, Diagnosis)
    assert found.classes() is None
    assert found.gaps() == []
