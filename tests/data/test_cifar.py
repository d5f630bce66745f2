"""CIFAR-10 and CIFAR-100 in both forms; pickles that want more than arrays are refused without being run."""

import os
import pickle
import struct

import numpy as np
import pytest

from nearlin.data import DataError, load_cifar10, load_cifar100

RNG = np.random.default_rng(6)
X = RNG.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
Y = np.array([0, 9, 3, 3, 7, 1, 2, 8, 5, 4, 6, 2])
COARSE, FINE = Y + 10, 8 * Y + 27
PARTS = {f"data_batch_{i + 1}": slice(2 * i, 2 * i + 2) for i in range(5)} | {"test_batch": slice(10, 12)}


def binary(x, *labels):
    return np.column_stack([*labels, x.reshape(len(x), -1)]).astype(np.uint8).tobytes()


def pickled(x, protocol=2, **labels):
    content = {b"data": x.reshape(len(x), -1)} | {kind.encode(): list(map(int, values)) for kind, values in labels.items()}
    return pickle.dumps(content, protocol=protocol)


def text(value):
    """A short string as Python 2 pickled it."""
    return b"U" + bytes([len(value)]) + value


def pickled_by_python_2(x, **labels):
    """The opcodes of the published files, by hand."""
    raw, minus_one = x.tobytes(), b"J" + struct.pack("<i", -1)
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\0\x85" + text(b"b") + b"\x87R"
    shape = b"J" + struct.pack("<i", len(x)) + b"M\0\x0c\x86"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R(K\3" + text(b"|") + b"NNN" + minus_one + minus_one + b"K\0tb"
    array += b"(K\1" + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    lists = b"".join(text(k.encode()) + b"](" + b"".join(b"K" + bytes([v]) for v in vs) + b"e" for k, vs in labels.items())
    return b"\x80\x02}(" + text(b"data") + array + lists + b"u."


FORMS = {
    "binary": lambda x, **labels: binary(x, *labels.values()),
    "pickle": pickled,
    "python 2": pickled_by_python_2,
}


def suffix(form):
    return ".bin" if form == "binary" else ""


def write10(folder, form, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in PARTS.items():
        data = changes.get(name) or FORMS[form](X[rows], labels=Y[rows])
        (folder / f"{name}{suffix(form)}").write_bytes(data)
    return folder


def write100(folder, form, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", slice(0, 8)), ("test", slice(8, 12))):
        data = changes.get(name) or FORMS[form](X[rows], coarse_labels=COARSE[rows], fine_labels=FINE[rows])
        (folder / f"{name}{suffix(form)}").write_bytes(data)
    return folder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inside", [False, True])
def test_cifar10(tmp_path, form, inside):
    write10(tmp_path / ("cifar-10-batches-bin" if form == "binary" else "cifar-10-batches-py") if inside else tmp_path, form)
    train, test = load_cifar10(tmp_path)
    np.testing.assert_array_equal(train.x, X[:10])
    np.testing.assert_array_equal(train.y, Y[:10])
    np.testing.assert_array_equal(test.x, X[10:])
    np.testing.assert_array_equal(test.y, Y[10:])
    assert (train.x.dtype, train.y.dtype, train.classes[9], test.name) == (np.uint8, np.int64, "truck", "CIFAR-10 test")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("labels", "y", "classes"), [("fine", FINE, 100), ("coarse", COARSE, 20)])
def test_cifar100(tmp_path, form, labels, y, classes):
    write100(tmp_path / ("cifar-100-binary" if form == "binary" else "cifar-100-python"), form)
    train, test = load_cifar100(tmp_path, labels)
    np.testing.assert_array_equal(train.x, X[:8])
    np.testing.assert_array_equal(train.y, y[:8])
    np.testing.assert_array_equal(test.x, X[8:])
    np.testing.assert_array_equal(test.y, y[8:])
    assert train.classes == tuple(map(str, range(classes)))


def test_the_ten_classes_are_called_what_they_are(tmp_path):
    train, test = load_cifar10(write10(tmp_path, "binary"))
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert train.classes == test.classes == tuple(names.split())


def test_cifar100_names_its_classes_where_it_can(tmp_path):
    fine, coarse = [f"kind-{i}" for i in range(100)], [f"group-{i}" for i in range(20)]
    write100(tmp_path / "b", "binary")
    (tmp_path / "b" / "coarse_label_names.txt").write_text("\n".join(coarse) + "\n\n")
    assert load_cifar100(tmp_path / "b", "coarse")[0].classes == tuple(coarse)
    write100(tmp_path / "p", "pickle")
    (tmp_path / "p" / "meta").write_bytes(pickle.dumps({b"fine_label_names": [name.encode() for name in fine]}, protocol=2))
    assert load_cifar100(tmp_path / "p")[1].classes == tuple(fine)
    (tmp_path / "p" / "meta").write_bytes(pickle.dumps({b"fine_label_names": fine[:99]}, protocol=2))
    refuses(load_cifar100, tmp_path / "p", "names of the fine labels are 99 entries; expected 100", "meta")


def test_cifar100_has_two_kinds_of_labels(tmp_path):
    with pytest.raises(ValueError, match="labels is 'finest'; expected 'fine' or 'coarse'"):
        load_cifar100(tmp_path, "finest")


def refuses(function, folder, says, name):
    with pytest.raises(DataError, match=says) as caught:
        function(folder)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


BAD_BINARY = {
    "truncated": (binary(X[:2], Y[:2])[:-1], "6145 bytes, which is 1 records of 3073 and 3072 bytes; expected whole records"),
    "other set": (binary(X[:2], COARSE[:2], FINE[:2]), "2 records of 3073 and 2 bytes"),
    "label": (binary(X[:2], [3, 10]), r"data_batch_3.bin, labels: the label 10 in row 1 .*; expected labels from 0 to 9"),
}


@pytest.mark.parametrize("case", BAD_BINARY)
def test_bad_binary(tmp_path, case):
    data, says = BAD_BINARY[case]
    refuses(load_cifar10, write10(tmp_path, "binary", data_batch_3=data), says, "data_batch_3.bin")


def test_a_batch_that_lost_whole_records(tmp_path):
    folder = write10(tmp_path, "binary", data_batch_4=binary(X[6:7], Y[6:7]))
    refuses(load_cifar10, folder, r"hold \[2, 2, 2, 1, 2\] images; expected equal numbers", "data_batch_1 to 5")


def test_a_label_that_is_not_asked_for_is_checked_too(tmp_path):
    data = binary(X[:8], [0, 1, 2, 20, 0, 0, 0, 0], FINE[:8])
    refuses(load_cifar100, write100(tmp_path, "binary", train=data), "coarse_labels: the label 20 in row 3", "train.bin")


def test_missing_files_and_folders(tmp_path):
    refuses(load_cifar10, tmp_path, "has no file data_batch_1.bin or data_batch_1; found an empty folder", tmp_path.name)
    refuses(load_cifar100, tmp_path, "has no file train.bin or train; found an empty folder", tmp_path.name)
    refuses(load_cifar10, tmp_path / "nowhere", "does not exist", "nowhere")
    (write10(tmp_path, "binary") / "data_batch_5.bin").unlink()
    refuses(load_cifar10, tmp_path, "has no file data_batch_5.bin or data_batch_5; found data_batch_1.bin, ", tmp_path.name)
    (tmp_path / "data_batch_5.bin").touch()
    refuses(load_cifar10, tmp_path, "is empty", "data_batch_5.bin")


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_harmful_pickle_is_not_run(tmp_path):
    trap = tmp_path / "trap"
    data = pickle.dumps({b"data": Harmful(trap), b"labels": []}, protocol=2)
    says = r"data_batch_2 cannot be read: the pickle asks for (posix|nt)\.mkdir; .* a pickle can run any code"
    refuses(load_cifar10, write10(tmp_path / "set", "pickle", data_batch_2=data), says, "data_batch_2")
    assert not trap.exists()
    pickle.loads(data)
    assert trap.exists()  # the pickle does what it says where it is run


def flat(rows):
    return X[rows].reshape(-1, 3072)


BAD_PICKLES = {
    "truncated": (pickled(X[:2], labels=Y[:2])[:-100], "is no pickle, or is truncated"),
    "cut in the middle": (pickled_by_python_2(X[:2], labels=Y[:2])[:3000], "is no pickle, or is truncated"),
    "text": (b"<html>not here</html>", "is no pickle, or is truncated"),
    "a list": (pickle.dumps([1, 2], protocol=2), "holds a pickled list; expected the dictionary"),
    "no data": (pickle.dumps({b"labels": [1]}, protocol=2), "has no entry 'data'; found labels"),
    "no labels": (pickle.dumps({b"data": flat(slice(2))}, protocol=2), "has no entry 'labels'; found data"),
    "data is a list": (pickle.dumps({b"data": [1], b"labels": [1]}, protocol=2), "'data' is no pickled array"),
    "floats": (
        pickle.dumps({b"data": flat(slice(2)) / 2, b"labels": [1, 2]}, protocol=2),
        r"array of type \('f8',\); expected bytes",
    ),
    "objects": (pickle.dumps({b"data": np.array([[None]]), b"labels": [1]}, protocol=2), "'data' is no pickled array"),
    "shape": (pickle.dumps({b"data": X[:2], b"labels": [1, 2]}, protocol=2), r"shape \(2, 3, 32, 32\); expected \(n, 3072\)"),
    "counts": (pickled(X[:2], labels=Y[:3]), "'labels' has 3 entries; expected a list of 2 integers"),
    "labels are one number": (pickle.dumps({b"data": flat(slice(2)), b"labels": 3}, protocol=2), "'labels' is no list; expected"),
    "labels are floats": (
        pickle.dumps({b"data": flat(slice(2)), b"labels": Y[:2] / 2}, protocol=2),
        r"'labels' is an array of type \('f8',\); expected integers",
    ),
    "a label is a float": (
        pickle.dumps({b"data": flat(slice(2)), b"labels": [1, np.float64(2)]}, protocol=2),
        r"'labels' is an array of type \('f8',\); expected integers",
    ),
    "label is text": (pickle.dumps({b"data": flat(slice(2)), b"labels": ["1", 2]}, protocol=2), "expected integers from 0 to 9"),
    "label": (pickled(X[:2], labels=[3, 10]), "the label 10 in row 1"),
    "huge label": (pickled(X[:2], labels=[3, 2**70]), "the label 1180591620717411303424 in row 1"),
    "negative label": (pickled(X[:2], labels=[-1, 3]), "the label -1 in row 0"),
    "raw bytes missing": (
        pickled_by_python_2(X[:2], labels=Y[:2]).replace(b"J\2\0\0\0", b"J\3\0\0\0", 1),
        r"shape \(3, 3072\) and holds 6144 b",
    ),
}


@pytest.mark.parametrize("case", BAD_PICKLES)
def test_bad_pickles(tmp_path, case):
    data, says = BAD_PICKLES[case]
    refuses(load_cifar10, write10(tmp_path, "pickle", data_batch_2=data), says, "data_batch_2")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("labels", [list, np.asarray, lambda y: list(np.int64(y)), lambda y: np.asarray(y, ">i2")])
def test_batches_that_were_pickled_again(tmp_path, protocol, fortran, labels):
    """By every protocol, with labels as NumPy has them."""
    x = np.asfortranarray(flat(slice(2, 4))) if fortran else flat(slice(2, 4))
    data = pickle.dumps({b"data": x, b"labels": labels([7, 3])}, protocol=protocol)
    train, _ = load_cifar10(write10(tmp_path, "pickle", data_batch_2=data))
    np.testing.assert_array_equal(train.x, X[:10])
    assert train.y[2:4].tolist() == [7, 3]


def test_a_harmful_pickle_of_protocol_5_is_not_run(tmp_path):
    trap = tmp_path / "trap"
    content = {b"data": flat(slice(2)), b"labels": [Harmful(trap), np.int64(1)]}
    says = r"data_batch_2 cannot be read: the pickle asks for (posix|nt)\.mkdir"
    refuses(load_cifar10, write10(tmp_path / "s", "pickle", data_batch_2=pickle.dumps(content, protocol=5)), says, "data_batch_2")
    assert not trap.exists()


def test_keys_of_python_3_and_columns_first(tmp_path):
    data = pickle.dumps({"data": np.asfortranarray(flat(slice(2, 4))), "labels": [3, 3]}, protocol=2)
    train, _ = load_cifar10(write10(tmp_path, "pickle", data_batch_2=data))
    np.testing.assert_array_equal(train.x, X[:10])
