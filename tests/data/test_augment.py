"""Random crops and flips."""

import numpy as np
import pytest

from nearlin.data import augment

X = np.random.default_rng(4).integers(1, 256, (40, 2, 6, 5), dtype=np.uint8)


def shifts(image, pad, flip):
    """Every outcome for one image (c, h, w), by slicing."""
    _, height, width = image.shape
    padded = np.zeros((image.shape[0], height + 2 * pad, width + 2 * pad), image.dtype)
    padded[:, pad : pad + height, pad : pad + width] = image
    corners = [(i, j) for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
    crops = {(i, j, 1): padded[:, i : i + height, j : j + width] for i, j in corners}
    return crops | ({(i, j, -1): crop[:, :, ::-1] for (i, j, _), crop in crops.items()} if flip else {})


def outcome(image, result, pad, flip):
    """Which of `shifts` the result is."""
    (found,) = (how for how, crop in shifts(image, pad, flip).items() if np.array_equal(crop, result))
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("flip", [False, True])
def test_every_image_is_one_of_its_shifts(dtype, flip):
    x = X.astype(dtype)
    result = augment(x, key=7, pad=2, flip=flip)
    assert (result.dtype, result.shape) == (dtype, X.shape)
    found = [outcome(image, after, 2, flip) for image, after in zip(x, result, strict=True)]
    assert len(set(found)) > 10
    assert {how[2] for how in found} == ({1, -1} if flip else {1})


def test_offsets_are_uniform_and_half_are_mirrored():
    marker = np.zeros((20000, 1, 5, 5), dtype=np.uint8)
    marker[:, 0, 2, 1] = 1
    result = augment(marker, key=0, pad=1)
    rows, columns = np.unravel_index(result.reshape(len(marker), -1).argmax(axis=1), (5, 5))
    np.testing.assert_allclose(np.bincount(rows, minlength=5) / 20000, [0, 1 / 3, 1 / 3, 1 / 3, 0], atol=0.02)
    # a mark at column 1 lands on 0, 1, 2, mirrored on 4, 3, 2
    np.testing.assert_allclose(np.bincount(columns, minlength=5) / 20000, [1 / 6, 1 / 6, 1 / 3, 1 / 6, 1 / 6], atol=0.02)


def test_every_backend_shifts_and_mirrors_alike(be):
    x = be.array(X[:5])
    np.testing.assert_array_equal(be.numpy(augment(x, key=7, pad=2)), augment(X[:5], key=7, pad=2))


def test_nothing_is_left_to_do_without_pad_and_flip():
    result = augment(X, key=3, pad=0, flip=False)
    np.testing.assert_array_equal(result, X)
    assert not np.shares_memory(result, X)


def test_the_key_decides_and_the_input_is_untouched():
    x = X.copy()
    x.flags.writeable = False
    first, again, other = augment(x, 1), augment(x, 1), augment(x, 2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(augment(X.astype(np.float64), 1), first)
    assert not any(np.shares_memory(augment(X, 1, flip=flip), X) for flip in (False, True))


@pytest.mark.parametrize(
    ("x", "arguments", "error", "says"),
    [
        ([[1]], {}, TypeError, "x is a list; expected an array of images"),
        (X[0], {}, ValueError, r"x has shape \(2, 6, 5\); expected \(n, channels, height, width\)"),
        (X, {"pad": -1}, ValueError, "pad is -1"),
        (X, {"pad": 1.5}, ValueError, "pad is 1.5"),
        (X, {"key": -1}, ValueError, "key is -1"),
    ],
)
def test_refusals(x, arguments, error, says):
    with pytest.raises(error, match=says):
        augment(x, **{"key": 0} | arguments)
