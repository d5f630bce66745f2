"""Arrays of every type, LIBSVM, IDX, CIFAR and packed files through `load`, and what a file may claim."""

import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

from nearlin.data import DataError, files, load, load_features, load_libsvm, read_idx
from nearlin.experiments.commands import cli

RNG = np.random.default_rng(8)
X, Y = RNG.integers(0, 100, (6, 3)), np.array([0, 1, 2, 2, 1, 0])


def refuses(path, says, read=load, **arguments):
    with pytest.raises(DataError, match=says) as caught:
        read(path, **arguments)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


# --------------------------------------------------------------------------------------------------------------- NumPy


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i2", "u4", ">u8", "i8", "f2", "<f4", ">f4", ">f8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_every_type_are_exact(tmp_path, dtype, order):
    x = np.asarray(X, dtype=dtype, order=order)
    np.savez(tmp_path / "a.npz", x=x, y=Y.astype(dtype))
    np.save(tmp_path / "a.npy", np.column_stack([x, Y.astype(dtype)]))
    for path in (tmp_path / "a.npz", tmp_path / "a.npy"):
        data = load(path, task="regression")
        assert data.x.dtype == data.y.dtype == np.float64
        assert data.x.dtype.isnative
        np.testing.assert_array_equal(data.x, x)
        np.testing.assert_array_equal(data.y, Y.astype(dtype))
        np.testing.assert_array_equal(load_features(tmp_path / "a.npz"), x)


def test_integers_that_would_be_rounded_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=np.array([0, 1, 2, 3, 4, 2**53]))
    assert load(tmp_path / "a.npz").y[5] == 2**53
    big = np.array([0, 1, 2, 3, 4, 2**53 + 1])
    for name, arrays in (("x", {"x": X + 2**60, "y": Y}), ("y", {"x": X, "y": Y - 2**62}), ("y", {"x": X, "y": big})):
        np.savez(tmp_path / "a.npz", **arrays)
        refuses(tmp_path / "a.npz", rf"{name} holds integers above 2\^53 in size")
    if np.dtype(np.longdouble).itemsize > 8:
        np.savez(tmp_path / "a.npz", x=X.astype(np.longdouble), y=Y)
        refuses(tmp_path / "a.npz", "x has dtype float128|longdouble; expected float64")


@pytest.mark.parametrize(
    ("cell", "refused"), [(2**53, False), (2**53 + 1, True), (-(2**60), True), (f"{2**60}.0", False), ("12e30", False)]
)
@pytest.mark.parametrize("name", ["a.csv", "a.svm"])
def test_integers_in_text_that_would_be_rounded_are_refused(tmp_path, name, cell, refused):
    path, target = tmp_path / name, "y" if name == "a.csv" else None
    path.write_text(f"id,y\n0,1.5\n{cell},2\n" if target else f"1 1:0\n2 1:{cell}\n")
    if refused:
        where = "line 3, column 'id'" if target else "line 2"
        refuses(path, rf"{where}: the .* {cell}, above 2\^53 in size", target=target)
    else:
        assert load(path, target=target, task="regression").x[1, 0] == float(cell)


def test_targets_of_archives(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=np.array([b"cat", b"dog"] * 3))
    assert load(tmp_path / "a.npz").class_names == ("cat", "dog")
    np.savez(tmp_path / "a.npz", x=X, y=np.array(["cat", ""] * 3))
    refuses(tmp_path / "a.npz", r"the target of row 1 \(counted from 0\) is '', a missing value")
    np.savez(tmp_path / "a.npz", x=X, y=np.array([b"\xff", b"a"] * 3))
    refuses(tmp_path / "a.npz", "bytes that are not UTF-8")
    np.savez(tmp_path / "a.npz", x=X, y=RNG.normal(0, 1, (6, 2)))
    assert (load(tmp_path / "a.npz").targets, load(tmp_path / "a.npz").task) == (2, "regression")
    np.savez(tmp_path / "a.npz", x=X, y=np.array([["a", "b"]] * 6))
    refuses(tmp_path / "a.npz", "y has dtype <U1")


def npy(shape, data):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue() + data


@pytest.mark.parametrize("rows", [5, 7, 10**12])
def test_a_header_that_claims_other_rows_than_there_are(tmp_path, rows):
    claim = npy((rows, 3), X.astype("<f8").tobytes())
    (tmp_path / "a.npy").write_bytes(claim)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", claim)
        archive.writestr("y.npy", npy((6,), Y.astype("<f8").tobytes()))
    for path in (tmp_path / "a.npy", tmp_path / "a.npz"):
        refuses(path, rf"states float64 of shape \({rows}, 3\), {rows * 24} bytes, and 144 bytes follow")


def test_what_does_not_fit_in_memory_is_said_so(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=X, y=Y)

    def refuse(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", refuse)
    for read in (load, load_features):
        refuses(tmp_path / "a.npz", "does not fit in memory as float64", read)


def test_damaged_archives(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=RNG.normal(0, 1, (50, 3)), y=np.arange(50.0))
    whole = (tmp_path / "a.npz").read_bytes()
    for place in range(60, 400, 20):
        (tmp_path / "a.npz").write_bytes(whole[:place] + bytes(8) + whole[place + 8 :])
        with pytest.raises(DataError, match=r"a\.npz"):
            load(tmp_path / "a.npz")


# --------------------------------------------------------------------------------------------------------------- LIBSVM


@pytest.mark.parametrize("name", ["a.svm", "a.libsvm", "a.svmlight", "a.svm.gz"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_libsvm_as_scikit_learn_reads_it(tmp_path, name, mark):
    sklearn = pytest.importorskip("sklearn.datasets")
    text = "1 1:2 4:-.5\n0 2:3 # a comment\n1 1:1e2\n0 3:7\n"
    data = (mark + text).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    x, y = sklearn.load_svmlight_file(io.BytesIO(text.encode()), zero_based=False)
    found = load(tmp_path / name)
    np.testing.assert_array_equal(found.x, x.toarray())
    assert [found.class_names[label] for label in found.y] == [str(int(value)) for value in y]
    np.testing.assert_array_equal(load_libsvm(tmp_path / name)[1], y)
    assert load_features(tmp_path / name, features=9).shape == (4, 9)
    refuses(tmp_path / name, r"the index 4; expected at most 3", load_features, features=3)
    refuses(tmp_path / name, "a LIBSVM file has its target first", target="y")


# ---------------------------------------------------------------------------------------------------------------- images


def idx(a):
    return struct.pack(f">HBB{a.ndim}I", 0, 8, a.ndim, *a.shape) + a.astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("t10k-images.idx3-ubyte.gz", "t10k-labels.idx1-ubyte.gz"),
        ("emnist-images-idx3-ubyte.gz", "emnist-labels-idx1-ubyte"),
    ],
)
def test_a_pair_of_idx_files(tmp_path, images, labels):
    x, y = RNG.integers(0, 256, (6, 4, 5)), np.array([3, 1, 7, 1, 3, 3])
    for name, a in ((images, x), (labels, y)):
        (tmp_path / name).write_bytes(gzip.compress(idx(a)) if name.endswith("gz") else idx(a))
    data = load(tmp_path / images)
    np.testing.assert_array_equal(data.x, x.reshape(6, 20))
    assert [data.class_names[label] for label in data.y] == ["3", "1", "7", "1", "3", "3"]
    assert load(tmp_path / images, task="regression").task == "regression"
    np.testing.assert_array_equal(load_features(tmp_path / images, features=20), data.x)
    refuses(tmp_path / labels, "expected images, .* and not their labels")
    if images.startswith("train"):
        np.testing.assert_array_equal(load(tmp_path).x, data.x)
        refuses(tmp_path, "is a folder of training and test images; expected one of its files", load_features)
    (tmp_path / labels).write_bytes(idx(y[:4]))
    refuses(tmp_path / images, r"holds 6 image\(s\) and .* labels of shape \(4,\)")
    (tmp_path / labels).unlink()
    refuses(tmp_path / images, "has no file .*labels")


def test_folders_and_batches_of_cifar(tmp_path):
    x, y = RNG.integers(0, 256, (6, 3072), dtype=np.uint8), np.array([3, 9, 0, 0, 4, 1])
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for j, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        (folder / name).write_bytes(pickle.dumps({b"data": x[j : j + 1], b"labels": [np.int64(y[j])]}, protocol=5))
    for place in (tmp_path, folder):
        data = load(place)
        np.testing.assert_array_equal(data.x, x[:5])
        assert (data.y.tolist(), data.class_names[9], data.task) == (y[:5].tolist(), "truck", "classification")
    np.testing.assert_array_equal(load_features(folder / "test_batch", features=3072), x[5:])
    (tmp_path / "hundred").mkdir()
    (tmp_path / "hundred" / "train.bin").write_bytes(np.column_stack([y, 10 * y, x]).astype(np.uint8).tobytes())
    (tmp_path / "hundred" / "test.bin").write_bytes(np.column_stack([y, y, x]).astype(np.uint8).tobytes())
    hundred = load(tmp_path / "hundred")
    assert (hundred.y.tolist(), len(hundred.class_names)) == ((10 * y).tolist(), 100)
    np.testing.assert_array_equal(load(tmp_path / "hundred" / "test.bin").y, y)
    refuses(folder / "test_batch", "images have their labels beside them", target="label")


def test_other_folders_and_suffixes(tmp_path):
    refuses(tmp_path, "is a folder; expected a file .* or a folder with the files of CIFAR-10, CIFAR-100 or MNIST")
    (tmp_path / "a.npz.gz").write_bytes(b"x")
    refuses(tmp_path / "a.npz.gz", "has the suffix '.npz.gz'; expected .csv, .tsv")


# ----------------------------------------------------------------------------------------------------------- packed files


def packed(path, piece, size, head=b""):
    with gzip.open(path, "wb") as file:
        file.write(head)
        for _ in range(size // len(piece)):
            file.write(piece)
    return path


@pytest.mark.parametrize(
    ("name", "head", "piece"), [("a.csv.gz", b"u,y\n", b"1,2\n"), ("a.csv.gz", b"", b"\n"), ("a.svm.gz", b"", b"1 1:2\n")]
)
def test_a_packed_file_is_unpacked_within_bounds(tmp_path, monkeypatch, name, head, piece):
    monkeypatch.setattr(files, "_ALWAYS", 2**16)
    path = packed(tmp_path / name, 2**12 * piece, 2**22, head)
    limit = 100 * path.stat().st_size
    assert limit < 2**22
    refuses(
        path, f"unpacks to more than {max(limit, 2**16)} bytes, 100 times its size", **({"target": "y"} if "csv" in name else {})
    )


def test_an_idx_file_is_unpacked_as_far_as_its_header_promises(tmp_path, monkeypatch):
    path = packed(tmp_path / "a-images-idx3-ubyte.gz", bytes(2**16), 2**22, struct.pack(">IIII", 2051, 3, 4, 4))
    read, original = [], gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: read.append(size) or original(self, size))
    refuses(path, r"is too long: 65 bytes or more; expected 64 for uint8 of shape \(3, 4, 4\)", read_idx)
    assert sum(read) < 4096
    assert min(read) >= 0


def test_many_zeros_are_no_bomb(tmp_path):
    table = "\n".join(["u,v,w,y", *["0,0,0,1"] * 5000])
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(table.encode()))
    assert len(load(tmp_path / "a.csv.gz", "y")) == 5000


# ------------------------------------------------------------------------------------------------------- command line


@pytest.mark.nightly
def test_the_command_line_trains_and_predicts_on_packed_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [(a, b, "red" if a > b else "blue", a + b) for a, b in RNG.normal(0, 1, (30, 2))]
    text = "\n".join(["u\tv\tcolour\ty", *("\t".join(map(str, row)) for row in rows)])
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(text.encode()))
    call = lambda *arguments: CliRunner().invoke(cli, arguments)  # noqa: E731
    done = call("train", "a.tsv.gz", "--target", "y", "--width", "64", "--steps", "3", "--out", "run", "--no-progress")
    assert done.exit_code == 0, done.output
    done = call("predict", "run/checkpoint.npz", "a.tsv.gz", "--target", "y", "--out", "p.csv")
    assert done.exit_code == 0, done.output
    (tmp_path / "b.csv").write_text("u,v,colour\n1,2,blue\n1,2,green\n")
    done = call("predict", "run/checkpoint.npz", "b.csv", "--out", "p.csv")
    assert done.exit_code == 2
    assert "line 3, column 'colour': the text 'green', which the training data had not" in done.stderr
