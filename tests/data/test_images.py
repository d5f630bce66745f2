"""`Images`: bytes in, floats out."""

import numpy as np
import pytest

from nearlin.data import DataError, Images

X = np.random.default_rng(3).integers(0, 256, (6, 3, 4, 5), dtype=np.uint8)
IMAGES = Images("toy", X, np.array([0, 1, 2, 0, 1, 1], dtype=np.uint8), ("a", "b", "c"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_are_pixels_over_255(dtype):
    x = IMAGES.floats(dtype)
    assert (x.dtype, x.shape) == (dtype, X.shape)
    np.testing.assert_allclose(x, X / 255, rtol=1e-6 if dtype == "float32" else 1e-15)


def test_levels_are_what_means_one():
    np.testing.assert_array_equal(Images("toy", X // 16, IMAGES.y, IMAGES.classes, levels=16).floats("float64"), X // 16 / 16)


def test_flat_rows_hold_one_image_each():
    np.testing.assert_array_equal(IMAGES.floats(flat=True), IMAGES.floats().reshape(6, 60))


def test_constants_act_per_channel():
    mean, std = [0.1, 0.5, 0.9], [1.0, 2.0, 0.25]
    expected = (X / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(IMAGES.floats("float64", mean, std), expected, rtol=1e-13)
    assert IMAGES.floats("float32", mean, std).dtype == np.float32


def test_moments_normalise_each_channel():
    mean, std = IMAGES.moments()
    np.testing.assert_allclose(mean, (X / 255).mean(axis=(0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(std, (X / 255).std(axis=(0, 2, 3)), rtol=1e-13)
    x = IMAGES.floats("float64", mean, std)
    np.testing.assert_allclose(x.mean(axis=(0, 2, 3)), 0, atol=1e-13)
    np.testing.assert_allclose(x.std(axis=(0, 2, 3)), 1, rtol=1e-13)


@pytest.mark.parametrize("levels", [15, 16, 200])
def test_moments_are_in_units_of_the_level_that_means_one(levels):
    x = (X // 17)[:, :2]
    mean, std = Images("toy", x, IMAGES.y, IMAGES.classes, levels).moments()
    for channel in range(2):
        pixels = [int(v) / levels for v in x[:, channel].flat]
        assert mean[channel] == pytest.approx(sum(pixels) / len(pixels), rel=1e-12)
        assert std[channel] ** 2 == pytest.approx(sum((v - mean[channel]) ** 2 for v in pixels) / len(pixels), rel=1e-12)


def test_bytes_are_left_as_they_are():
    x = X.copy()
    x.flags.writeable = False
    images = Images("toy", x, IMAGES.y, IMAGES.classes)
    images.floats("float64", [0.5] * 3, [2.0] * 3)
    np.testing.assert_array_equal(images.x, X)


def test_take_keeps_images_and_labels_together():
    part = IMAGES.take([4, 2])
    assert len(part) == 2
    np.testing.assert_array_equal(part.x, X[[4, 2]])
    np.testing.assert_array_equal(part.y, [1, 2])
    np.testing.assert_array_equal(IMAGES.take([2, 4]).y, [2, 1])
    assert part.y.dtype == np.int64


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x": X.astype(float)}, r"the images are float64 of shape \(6, 3, 4, 5\); expected uint8"),
        ({"x": X[:, 0]}, r"shape \(6, 4, 5\); expected uint8 of shape \(n, channels, height, width\)"),
        ({"x": X[:0], "y": []}, r"shape \(0, 3, 4, 5\)"),
        ({"x": [[1]]}, "the images are a list"),
        ({"y": [0, 1]}, "6 images and 2 labels"),
        ({"y": [0, 1, 2, 3, 0, 0]}, r"the label 3 in row 3 \(counted from 0\); expected labels from 0 to 2"),
        ({"y": [0, 1, -1, 0, 0, 0]}, "the label -1 in row 2"),
        ({"y": [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]}, "the labels have dtype float64; expected integers"),
        ({"y": np.zeros((6, 1), dtype=int)}, r"the labels have shape \(6, 1\)"),
        ({"levels": 16}, "the largest pixel is 25.; expected 0 to 16"),
    ],
)
def test_bad_images_get_one_sentence(changes, says):
    fields = {"x": X, "y": IMAGES.y, "classes": IMAGES.classes} | changes
    with pytest.raises(DataError, match=says) as caught:
        Images("toy", **fields)
    assert str(caught.value).startswith("toy: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"dtype": "float16"}, "dtype is 'float16'; expected float32 or float64"),
        ({"dtype": None}, "dtype is None"),
        ({"mean": [0.5]}, r"mean is \[0.5\]; expected 3 finite number\(s\), one per channel"),
        ({"mean": [0.5, np.nan, 0.5]}, "expected 3 finite"),
        ({"std": [1.0, 0.0, 1.0]}, r"expected 3 positive number\(s\)"),
    ],
)
def test_bad_constants_get_one_sentence(arguments, says):
    with pytest.raises(ValueError, match=says):
        IMAGES.floats(**arguments)
