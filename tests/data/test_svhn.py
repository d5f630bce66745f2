"""SVHN: the cropped digits."""

import numpy as np
import pytest
import scipy.io

from nearlin.data import DataError, load_svhn

RNG = np.random.default_rng(7)
X = RNG.integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
Y = np.array([[1], [10], [9], [10], [4]], dtype=np.uint8)


def write(folder, **train):
    scipy.io.savemat(folder / "train_32x32.mat", {"X": X, "y": Y} | train)
    scipy.io.savemat(folder / "test_32x32.mat", {"X": X[..., :2], "y": Y[:2].astype(float)}, do_compression=True)
    return folder


def test_axes_and_labels(tmp_path):
    train, test = load_svhn(write(tmp_path))
    np.testing.assert_array_equal(train.x[3, 1, 20, 7], X[20, 7, 1, 3])
    np.testing.assert_array_equal(train.x, np.moveaxis(np.moveaxis(X, 3, 0), 3, 1))
    np.testing.assert_array_equal(train.y, [1, 0, 9, 0, 4])
    np.testing.assert_array_equal(test.y, [1, 0])
    assert [train.classes[label] for label in train.y] == ["1", "0", "9", "0", "4"]
    assert (len(test), train.x.dtype, train.x.flags.c_contiguous, train.name) == (2, np.uint8, True, "SVHN train")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y": Y + 1}, r"the label 11 in row 1 \(counted from 0\); expected 1 to 10"),
        ({"y": Y - 1}, "the label 0 in row 0"),
        ({"y": Y + 0.5}, "the label 1.5 in row 0"),
        ({"y": Y[:3]}, r"y is uint8 of shape \(3, 1\); expected a number for each image, \(5, 1\)"),
        ({"X": X / 255}, r"X is float64 of shape \(32, 32, 3, 5\); expected uint8"),
        ({"X": X[:28]}, r"X is uint8 of shape \(28, 32, 3, 5\)"),
        ({"X": X[..., 0]}, r"X is uint8 of shape \(32, 32, 3\)"),
    ],
)
def test_bad_arrays(tmp_path, changes, says):
    refuses(write(tmp_path, **changes), says)


def refuses(folder, says, name="train_32x32.mat"):
    with pytest.raises(DataError, match=says) as caught:
        load_svhn(folder)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_bad_files(tmp_path):
    refuses(tmp_path, "has no file train_32x32.mat; found an empty folder", tmp_path.name)
    refuses(tmp_path / "nowhere", "does not exist; expected a folder", "nowhere")
    path = write(tmp_path) / "train_32x32.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refuses(tmp_path, "is no MATLAB file, or is truncated")
    path.write_bytes(b"<html>not here</html>" * 20)
    refuses(tmp_path, "is no MATLAB file, or is truncated")
    path.write_bytes(b"")
    refuses(tmp_path, "is empty")
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    refuses(tmp_path, r"MATLAB 7.3 \(HDF5\) file; expected version 7 or older")
    scipy.io.savemat(path, {"images": X})
    refuses(tmp_path, r"lacks the array\(s\) X, y; found images")
    path.unlink()
    refuses(tmp_path, "has no file train_32x32.mat; found test_32x32.mat")
