"""Named data sets."""

import numpy as np
import pytest
import scipy.stats

import nearlin as nl
from nearlin.data import named


def test_sphere_is_on_the_sphere_and_follows_its_seed():
    x, y = nl.data.sphere(n=40, d=5, seed=3)
    assert x.shape == (40, 5)
    assert y.shape == (40,)
    assert x.dtype == y.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1.0, rtol=1e-14)
    again, other = nl.data.sphere(n=40, d=5, seed=3), nl.data.sphere(n=40, d=5, seed=4)
    np.testing.assert_array_equal(x, again[0])
    np.testing.assert_array_equal(y, again[1])
    assert not np.allclose(x, other[0])


def test_drawn_data_are_what_they_always_were():
    """Numbers that were measured on them stay true, and no stream is another's."""
    x, y = nl.data.sphere(n=2, d=2, seed=0)
    np.testing.assert_allclose(x, [[0.1267863484729181, 0.9919300488647895], [-0.10890550321464595, -0.9940521069690285]])
    np.testing.assert_allclose(y, [1.1321553515705678, -2.033433988460376])
    graph = nl.data.planted_graph(60, 20, 3, 4, 9, 9, seed=0)
    assert graph.train.tolist() == [3, 5, 10, 11, 15, 35, 39, 41, 43, 45, 51, 56]
    assert graph.test.tolist() == [0, 2, 25, 29, 36, 40, 50, 54, 57]
    image = nl.data.curves(1, 1, dtype="float64")[0]
    assert (int(image.argmax()), round(float(image.sum()), 4)) == (231, 56.1583)


def test_the_labels_of_the_sphere_are_standard_normal():
    _, y = nl.data.sphere(n=4000, d=2, seed=0)
    assert scipy.stats.kstest(y, "norm").pvalue > 1e-3


def test_sphere_is_independent_of_the_weights_of_the_same_seed():
    x, _ = nl.data.sphere(n=64, d=8, seed=0)
    (W,) = nl.nn.TwoLayer(inputs=8, width=64).init(key=0, like=x)
    assert np.max(np.abs(np.sum(x * W, axis=1) / np.linalg.norm(W, axis=1))) < 0.99


@pytest.mark.parametrize("arguments", [{"n": 0}, {"d": 0}, {"n": 2.5}, {"n": True}, {"seed": -1}])
def test_sphere_refuses_what_is_no_size(arguments):
    with pytest.raises(ValueError, match="expected a"):
        nl.data.sphere(**arguments)


@pytest.mark.parametrize(
    ("name", "shape", "task"),
    [
        ("digits-4v9", (361, 64), "classification"),
        ("digits-parity", (1797, 64), "classification"),
        ("breast-cancer", (569, 30), "classification"),
        ("diabetes", (442, 10), "regression"),
        ("sphere", (512, 16), "regression"),
    ],
)
def test_named(name, shape, task):
    if name != "sphere":
        pytest.importorskip("sklearn")
    data = nl.data.load(name)
    assert (data.x.shape, data.y.shape, data.task) == (shape, shape[:1], task)
    if task == "classification":
        assert data.y.dtype == np.int64
        assert set(data.y) == {0, 1}
        assert len(data.class_names) == 2


def meant(data):
    """The names of the classes of all rows."""
    return [data.class_names[y] for y in data.y]


def test_fours_and_nines_are_called_what_they_are():
    pytest.importorskip("sklearn")
    source, data = named._sklearn("digits").load_digits(), nl.data.load("digits-4v9")
    rows = [i for i, target in enumerate(source.target) if target in (4, 9)]
    np.testing.assert_array_equal(data.x, source.data[rows])
    assert meant(data) == [str(source.target[i]) for i in rows]
    assert data.feature_names == tuple(source.feature_names)


def test_odd_and_even_digits_are_called_what_they_are():
    pytest.importorskip("sklearn")
    source, data = named._sklearn("digits").load_digits(), nl.data.load("digits-parity")
    np.testing.assert_array_equal(data.x, source.data)
    assert meant(data) == ["odd" if target in (1, 3, 5, 7, 9) else "even" for target in source.target]
    assert data.y[source.target == 3].all()  # odd is 1 and becomes +1
    assert data.feature_names == tuple(source.feature_names)


def test_tumours_are_called_what_they_are():
    pytest.importorskip("sklearn")
    source, data = named._sklearn("breast-cancer").load_breast_cancer(), nl.data.load("breast-cancer")
    np.testing.assert_array_equal(data.x, source.data)
    assert meant(data) == [str(source.target_names[target]) for target in source.target]
    assert data.feature_names == tuple(map(str, source.feature_names))


def test_the_progression_of_diabetes_is_in_its_own_units():
    pytest.importorskip("sklearn")
    source, data = named._sklearn("diabetes").load_diabetes(), nl.data.load("diabetes")
    np.testing.assert_array_equal(data.x, source.data)
    np.testing.assert_array_equal(data.y, source.target)
    assert data.feature_names == tuple(source.feature_names)


def test_every_name_is_tested():
    assert set(nl.data.NAMES) == {"digits-4v9", "digits-parity", "breast-cancer", "diabetes", "sphere"}


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    def refuse(name, *args, **kwargs):
        raise ImportError(name)

    monkeypatch.setattr(named.importlib, "import_module", refuse)
    named._sklearn_datasets.cache_clear()
    with pytest.raises(nl.data.DataError, match=r'pip install "nearlin\[cli\]"'):
        nl.data.load("diabetes")
    named._sklearn_datasets.cache_clear()
    assert len(nl.data.load("sphere")) == 512


@pytest.fixture
def digits():
    pytest.importorskip("sklearn")
    return nl.data.digits


def test_digits_are_images_of_ten_classes_in_two_parts(digits):
    train, test = digits()
    assert (train.x.shape, test.x.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert set(train.y) == set(test.y) == set(range(10))
    source = named._sklearn("digits").load_digits()
    rows = train.floats("float64", flat=True)
    pairs = {(row.tobytes(), int(label)) for row, label in zip(source.data / 16, source.target, strict=True)}
    both = np.concatenate([rows, test.floats("float64", flat=True)])
    labels = np.concatenate([train.y, test.y])
    assert {(row.tobytes(), int(label)) for row, label in zip(both, labels, strict=True)} == pairs
    assert rows.min() == 0
    assert rows.max() == 1


def test_the_entropy_of_digits_is_as_documented(digits):
    p = digits()[0].floats("float64", flat=True)
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1)) + (1 - p) * np.log(np.where(p < 1, 1 - p, 1)), axis=1)
    assert round(float(np.mean(entropy)), 3) == 13.671


def test_digits_are_split_by_the_seed(digits):
    np.testing.assert_array_equal(digits(1)[1].x, digits(1)[1].x)
    assert not np.array_equal(digits(1)[1].x, digits(2)[1].x)
    with pytest.raises(ValueError, match="seed is -1; expected an integer of at least 0"):
        digits(-1)
