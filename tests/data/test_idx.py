"""IDX files: what is read, and one clear sentence for what cannot be."""

import gzip

import numpy as np
import pytest

from nearlin.data import DataError, load_fashion_mnist, load_mnist, read_idx

RNG = np.random.default_rng(5)
TRAIN, TEST = RNG.integers(0, 256, (7, 4, 5), dtype=np.uint8), RNG.integers(0, 256, (3, 4, 5), dtype=np.uint8)
TRAIN_LABELS, TEST_LABELS = np.array([3, 1, 4, 1, 5, 9, 0], dtype=np.uint8), np.array([2, 6, 5], dtype=np.uint8)
TYPES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx(array):
    header = bytes([0, 0, TYPES[array.dtype.str[1:]], array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write(folder, dash="-", packed=False, **changes):
    """The four files, some of them with other bytes."""
    parts = {"train-images": TRAIN, "train-labels": TRAIN_LABELS, "t10k-images": TEST, "t10k-labels": TEST_LABELS}
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in parts.items():
        data = changes.get(name.replace("-", "_"), idx(array))
        path = folder / f"{name}{dash}idx{array.ndim}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(data) if packed else data)
    return folder


@pytest.mark.parametrize("dash", ["-", "."])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inside", ["", "raw", "MNIST/raw"])
def test_mnist(tmp_path, dash, packed, inside):
    write(tmp_path / inside, dash, packed)
    train, test = load_mnist(tmp_path)
    np.testing.assert_array_equal(train.x[:, 0], TRAIN)
    np.testing.assert_array_equal(test.x[:, 0], TEST)
    np.testing.assert_array_equal(train.y, TRAIN_LABELS)
    np.testing.assert_array_equal(test.y, TEST_LABELS)
    assert (train.name, test.name, train.classes) == ("MNIST train", "MNIST test", tuple("0123456789"))
    assert (train.x.dtype, train.y.dtype, train.x.shape) == (np.uint8, np.int64, (7, 1, 4, 5))


def test_fashion_mnist_has_its_own_classes(tmp_path):
    train, _ = load_fashion_mnist(write(tmp_path))
    assert train.classes[train.y[0]] == "Dress"
    assert " ".join(train.classes) == "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle boot"


def test_a_folder_given_as_text(tmp_path):
    assert len(load_mnist(str(write(tmp_path)))[0]) == 7


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_entry(tmp_path, kind):
    array = np.arange(-6, 6).reshape(2, 3, 2).astype(kind)
    (tmp_path / "a").write_bytes(idx(array))
    found = read_idx(tmp_path / "a")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


BAD_IDX = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "three bytes": (b"\0\0\x08", "the magic number is 8; expected"),
    "text": (b"<html>not here</html>", "the magic number is 1013478509; expected .*2051 for images, 2049 for labels"),
    "unknown type": (b"\0\0\x0a\x01" + bytes(8), "the magic number is 2561"),
    "no dimensions": (b"\0\0\x08\0", "the magic number is 2048"),
    "header cut": (idx(TRAIN)[:9], "is truncated: 9 bytes; expected a header of 16"),
    "body cut": (idx(TRAIN)[:-1], r"is truncated: 155 bytes; expected 156 for uint8 of shape \(7, 4, 5\)"),
    "too long": (idx(TRAIN) + b"\0", "is too long: 157 bytes or more; expected 156"),
    "gzip cut": (gzip.compress(idx(TRAIN))[:-12], "truncated gzip"),
    "gzip damaged": (gzip.compress(idx(TRAIN))[:-8] + bytes(8), "damaged gzip"),
    "gzip header": (b"\x1f\x8b\x00\x00" + bytes(20), "damaged gzip"),
    "gzip of nothing": (gzip.compress(b""), "is empty"),
}


def says_one_sentence(function, path, says, name=None):
    with pytest.raises(DataError, match=says) as caught:
        function(path)
    assert "\n" not in str(caught.value)
    assert (name or path.name) in str(caught.value)


@pytest.mark.parametrize("case", BAD_IDX)
def test_bad_idx(tmp_path, case):
    data, says = BAD_IDX[case]
    (tmp_path / "file-idx3-ubyte").write_bytes(data)
    says_one_sentence(read_idx, tmp_path / "file-idx3-ubyte", says)


def test_no_file(tmp_path):
    says_one_sentence(read_idx, tmp_path / "nowhere", "does not exist")
    says_one_sentence(read_idx, tmp_path, "is a folder; expected a file")


BAD_SETS = {
    "labels as images": (
        {"train_images": idx(TRAIN_LABELS)},
        r"the magic number is 2049; expected 2051 \(images\)",
        "train-images",
    ),
    "images as labels": ({"t10k_labels": idx(TEST)}, r"the magic number is 2051; expected 2049 \(labels\)", "t10k-labels"),
    "cut": ({"t10k_images": idx(TEST)[:-30]}, "is truncated: 46 bytes; expected 76", "t10k-images"),
    "counts": ({"train_labels": idx(TRAIN_LABELS[:5])}, r"7 image\(s\) and .* 5 label\(s\)", "train-labels"),
    "label": ({"train_labels": idx(TRAIN_LABELS + 3)}, r"the label 12 in row 5 .*; expected labels from 0 to 9", "train-labels"),
    "no images": ({"t10k_images": idx(TEST[:0]), "t10k_labels": idx(TEST_LABELS[:0])}, r"the shape \(0, 4, 5\)", "t10k-images"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", BAD_SETS)
def test_bad_sets(tmp_path, case, packed):
    changes, says, name = BAD_SETS[case]
    says_one_sentence(load_mnist, write(tmp_path, packed=packed, **changes), says, name)


def test_missing_files_and_folders(tmp_path):
    says_one_sentence(load_mnist, tmp_path, "has no file train-images-idx3-ubyte or .*; found an empty folder")
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    says_one_sentence(load_mnist, tmp_path, "has no file t10k-labels-idx1-ubyte or .*; found t10k-images-idx3-ubyte, train")
    says_one_sentence(load_mnist, tmp_path / "nowhere", "does not exist; expected a folder")
    says_one_sentence(load_mnist, tmp_path / "train-labels-idx1-ubyte", "is a file; expected a folder")
