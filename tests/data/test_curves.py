"""CURVES: drawn by its definition, or read from the published file."""

import sys

import numpy as np
import pytest
import scipy.io
import scipy.stats

from nearlin.data import DataError, load_curves
from nearlin.data import curves as draw_curves
from nearlin.data.curves import _strokes, _vertices

curves_module = sys.modules["nearlin.data.curves"]  # the function of that name hides it


def dense_image(p, q, r, steps=20000):
    """The curve through three points, by its distance to very many points on it."""
    t = np.linspace(0, 1, steps)[:, None]
    curve = p * (1 - t) * (1 - 2 * t) + q * 4 * t * (1 - t) + r * t * (2 * t - 1)
    centres = np.arange(28) + 0.5
    image = np.empty((28, 28))
    for i, y in enumerate(centres):
        for j, x in enumerate(centres):
            distance = np.min(np.hypot(curve[:, 0] - x, curve[:, 1] - y))
            image[i, j] = min(max(1.5 - distance, 0), 1)
    return image


@pytest.mark.parametrize("seed", range(3))
def test_a_stroke_is_the_distance_to_the_curve(seed):
    points = np.random.default_rng(seed).uniform(4, 24, (1, 3, 2))
    np.testing.assert_allclose(_strokes(_vertices(points))[0], dense_image(*points[0], steps=4000), atol=0.05)


def test_a_straight_curve_has_known_pixels():
    points = np.array([[[6.0, 10.5], [11.0, 10.5], [16.0, 10.5]]])  # along row 10, from x = 6 to 16
    image = _strokes(_vertices(points))[0]
    np.testing.assert_allclose(image[10, 6:16], 1, atol=1e-12)
    np.testing.assert_allclose(image[[9, 11], 6:16], 0.5, atol=1e-12)
    np.testing.assert_allclose(image[[8, 12]], 0, atol=1e-12)
    np.testing.assert_allclose(image[10, [4, 5, 16, 17]], [0, 1, 1, 0], atol=1e-12)


def test_three_equal_points_make_a_dot():
    image = _strokes(_vertices(np.full((1, 3, 2), 10.5)))[0]
    corner = 1.5 - 2**0.5
    np.testing.assert_allclose(image[9:12, 9:12], [[corner, 0.5, corner], [0.5, 1, 0.5], [corner, 0.5, corner]])
    assert np.count_nonzero(image) == 9


def test_no_stroke_is_cut_off():
    corners = np.array([[4.0, 4.0], [4.0, 24.0], [24.0, 4.0], [24.0, 24.0]])
    worst = np.array([[p, q, r] for p in corners for q in corners for r in corners])
    vertices = _vertices(worst)  # a pixel outside of the image is at least 2 away from these, and a stroke ends at 1.5
    np.testing.assert_allclose([vertices.min(), vertices.max()], [1.5, 26.5], rtol=1e-14)


def test_images_are_in_the_unit_interval_and_hold_some_ink():
    train, test = draw_curves(300, 200)
    assert (train.shape, test.shape, train.dtype) == ((300, 784), (200, 784), np.float32)
    assert train.min() == 0
    assert train.max() == 1
    assert 0.04 < train.mean() < 0.08
    assert train.sum(axis=1).min() > 3  # a dot at least


def test_the_points_of_the_curves_are_uniform_on_their_square(monkeypatch):
    """[4, 24] in both directions, all six numbers alike."""
    seen = []
    monkeypatch.setattr(curves_module, "_vertices", lambda points: (seen.append(points), _vertices(points))[1])
    draw_curves(600, 1)
    numbers = np.concatenate(seen[:-1]).reshape(600, 6)
    assert all(scipy.stats.kstest(column, "uniform", (4, 20)).pvalue > 1e-3 for column in numbers.T)
    assert np.max(np.abs(np.corrcoef(numbers.T) - np.eye(6))) < 0.15


def test_fewer_images_are_the_first_of_more():
    train, test = draw_curves(30, 20, seed=5)
    longer, more = draw_curves(150, 70, seed=5)
    np.testing.assert_array_equal(train, longer[:30])
    np.testing.assert_array_equal(test, more[:20])


def test_streams_differ_between_parts_and_seeds():
    train, test = draw_curves(20, 20, seed=1)
    assert not np.array_equal(train, test)
    assert not np.array_equal(train, draw_curves(20, 20, seed=2)[0])


def test_float32_is_float64_rounded():
    single, double = draw_curves(20, 1), draw_curves(20, 1, dtype="float64")
    assert double[0].dtype == np.float64
    np.testing.assert_array_equal(single[0], double[0].astype(np.float32))


@pytest.mark.parametrize("arguments", [{"n_train": 0}, {"n_test": 2.5}, {"n_train": True}, {"seed": -1}, {"dtype": "float16"}])
def test_refusals(arguments):
    with pytest.raises(ValueError, match="expected"):
        draw_curves(**{"n_train": 2, "n_test": 2} | arguments)


def write(path, **arrays):
    scipy.io.savemat(path, arrays)
    return path


GOOD = np.random.default_rng(1).random((5, 784))


def test_the_published_file_is_read(tmp_path):
    train, test = load_curves(write(tmp_path / "digs3pts_1.mat", bdata=GOOD, bdatatest=GOOD[:2]))
    np.testing.assert_array_equal(train, GOOD)
    np.testing.assert_array_equal(test, GOOD[:2])


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"bdata": GOOD}, r"lacks the array\(s\) bdatatest; found bdata"),
        ({"bdata": GOOD.T, "bdatatest": GOOD}, r"bdata is float64 of shape \(784, 5\)"),
        ({"bdata": GOOD, "bdatatest": GOOD * 255}, "bdatatest has values from .*; expected 0 to 1"),
        ({"bdata": GOOD, "bdatatest": GOOD * np.nan}, "bdatatest has values from nan"),
        ({"bdata": GOOD > 0.5, "bdatatest": GOOD}, "bdata is uint8"),
    ],
)
def test_other_contents_are_refused(tmp_path, arrays, says):
    with pytest.raises(DataError, match=says) as caught:
        load_curves(write(tmp_path / "a.mat", **arrays))
    assert "a.mat" in str(caught.value)
