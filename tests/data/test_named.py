"""Named data sets."""

import numpy as np
import pytest

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
        assert set(data.y) == {-1.0, 1.0}
        assert len(data.class_names) == 2


def test_every_name_is_tested():
    assert set(nl.data.NAMES) == {"digits-4v9", "breast-cancer", "diabetes", "sphere"}


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    def refuse(name, *args, **kwargs):
        raise ImportError(name)

    monkeypatch.setattr(named.importlib, "import_module", refuse)
    named._sklearn_datasets.cache_clear()
    with pytest.raises(nl.data.DataError, match=r'pip install "nearlin\[cli\]"'):
        nl.data.load("diabetes")
    named._sklearn_datasets.cache_clear()
    assert len(nl.data.load("sphere")) == 512
