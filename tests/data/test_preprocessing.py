"""Preprocessing: visible, reversible, its constants from the training rows."""

import numpy as np
import pytest

from nearlin.data import DataError, Dataset, Preprocessing

RNG = np.random.default_rng(0)
DATA = Dataset("toy", RNG.normal(3, [1.0, 10.0, 0.1], (50, 3)), RNG.normal(7, 5, 50))


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_steps(center, scale, normalize):
    steps = Preprocessing.fit(DATA, center=center, scale=scale, normalize=normalize)
    z = DATA.x - DATA.x.mean(axis=0) if center else DATA.x
    z = z / DATA.x.std(axis=0) if scale else z
    z = z / np.linalg.norm(z, axis=1, keepdims=True) if normalize else z
    np.testing.assert_allclose(steps.inputs(DATA.x), z, rtol=1e-13)


def test_new_rows_get_the_constants_of_training():
    steps = Preprocessing.fit(DATA, normalize=False)
    np.testing.assert_allclose(steps.inputs(DATA.x[:1]), DATA.x[:1] - DATA.x.mean(axis=0), rtol=1e-13)


def test_targets_are_standardised_for_regression_and_come_back():
    steps = Preprocessing.fit(DATA)
    t = steps.targets(DATA.y)
    assert abs(t.mean()) < 1e-14
    assert abs(t.std() - 1) < 1e-14
    np.testing.assert_allclose(steps.untargets(t), DATA.y, rtol=1e-14)


def test_several_targets_are_standardised_each_for_itself():
    y = RNG.normal([3.0, -40.0, 0.0], [1.0, 20.0, 1e-3], (50, 3))
    steps = Preprocessing.fit(Dataset("toy", DATA.x, y))
    t = steps.targets(y)
    np.testing.assert_allclose(t, (y - y.mean(axis=0)) / y.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(Preprocessing.from_dict(steps.to_dict()).untargets(t), y, rtol=1e-12)
    assert steps.describe().endswith("3 targets centred and scaled to unit deviation")
    y[:, 1] = 5.0
    with pytest.warns(UserWarning, match="all training targets are 5"):
        steps = Preprocessing.fit(Dataset("toy", DATA.x, y))
    np.testing.assert_array_equal(steps.targets(y)[:, 1], 0)


def test_classes_are_left_alone_unless_asked():
    data = Dataset("toy", DATA.x, RNG.integers(0, 3, 50), "classification")
    np.testing.assert_array_equal(Preprocessing.fit(data).targets(data.y), data.y)
    assert abs(Preprocessing.fit(data, standardize=True).targets(data.y).mean()) < 1e-14
    np.testing.assert_array_equal(Preprocessing.fit(DATA, standardize=False).targets(DATA.y), DATA.y)


def test_constant_target_warns_and_is_centred():
    with pytest.warns(UserWarning, match="all training targets are 7"):
        steps = Preprocessing.fit(Dataset("toy", DATA.x, np.full(50, 7.0)))
    assert (steps.target_mean, steps.target_std) == (7.0, 1.0)


def test_constant_feature_is_not_divided_by_zero():
    x = DATA.x.copy()
    x[:, 1] = 0.1
    steps = Preprocessing.fit(Dataset("toy", x, DATA.y), scale=True)
    assert steps.scale[1] == 1
    assert np.all(np.isfinite(steps.inputs(x)))


@pytest.mark.parametrize("center", [False, True])
def test_zero_row_is_named_by_its_number_in_the_source(center):
    x = DATA.x.copy()
    x[4] = 0
    part = Dataset("toy", x, DATA.y).take([2, 4, 6])
    if center:
        x[4] = (x[2] + x[6]) / 2
        part = Dataset("toy", x, DATA.y).take([2, 4, 6])
    with pytest.raises(DataError, match=r"toy: row 4 \(counted from 0\) is zero"):
        Preprocessing.fit(part, center=center)


def test_equal_rows_are_zero_after_centring_in_spite_of_rounding():
    with pytest.raises(DataError, match=r"zero after centring.*--no-center"):
        Preprocessing.fit(Dataset("toy", np.full((7, 3), 0.1), np.arange(7.0)))


def test_single_row():
    one = Dataset("toy", DATA.x[:1], DATA.y[:1], "regression")
    with pytest.warns(UserWarning, match="targets"), pytest.raises(DataError, match="row 0"):
        Preprocessing.fit(one)


def test_width_mismatch():
    with pytest.raises(DataError, match=r"new.csv has 2 feature\(s\); expected 3"):
        Preprocessing.fit(DATA).inputs(DATA.x[:, :2], "new.csv")


def test_dict_round_trip_and_description():
    steps = Preprocessing.fit(DATA, scale=True)
    again = Preprocessing.from_dict(steps.to_dict())
    np.testing.assert_array_equal(again.inputs(DATA.x), steps.inputs(DATA.x))
    np.testing.assert_array_equal(again.targets(DATA.y), steps.targets(DATA.y))
    assert steps.describe().startswith("inputs centred, features scaled to unit deviation, rows normalised, targets (y - ")
    assert Preprocessing().describe() == "none"
    np.testing.assert_array_equal(Preprocessing().inputs(DATA.x), DATA.x)
