"""LIBSVM text files."""

import gzip

import numpy as np
import pytest

from nearlin.data import DataError, load_libsvm

TEXT = "+1 1:0.5 3:-2e1 # a comment\n\n# nothing but a comment\r\n-1 4:7\n2.5\n"
DENSE = [[0.5, 0, -20, 0], [0, 0, 0, 7], [0, 0, 0, 0]]


def write(path, text):
    path.write_bytes(text.encode())
    return path


def test_lines_become_rows(tmp_path):
    x, y = load_libsvm(write(tmp_path / "a.txt", TEXT))
    np.testing.assert_array_equal(x, DENSE)
    np.testing.assert_array_equal(y, [1, -1, 2.5])
    assert x.dtype == y.dtype == np.float64


def test_gzip_and_float32(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(TEXT.encode()))
    x, y = load_libsvm(tmp_path / "a.gz", dtype="float32")
    np.testing.assert_array_equal(x, np.float32(DENSE))
    assert x.dtype == y.dtype == np.float32


def test_zero_based_moves_the_columns(tmp_path):
    x, _ = load_libsvm(write(tmp_path / "a", "1 0:5 2:6\n"), zero_based=True)
    np.testing.assert_array_equal(x, [[5, 0, 6]])
    x, _ = load_libsvm(write(tmp_path / "a", "1 1:5 2:6\n"), zero_based=True)
    np.testing.assert_array_equal(x, [[0, 5, 6]])


def test_features_fix_the_width(tmp_path):
    assert load_libsvm(write(tmp_path / "a", TEXT), features=6)[0].shape == (3, 6)
    assert load_libsvm(write(tmp_path / "a", "1 3:1\n"), zero_based=True, features=4)[0].shape == (1, 4)


def test_entries_may_come_in_any_order(tmp_path):
    np.testing.assert_array_equal(load_libsvm(write(tmp_path / "a", "1 3:1 1:2\n"))[0], [[2, 0, 1]])


BAD = {
    "no colon": ("1 1:2\n1 2\n", "line 2: '2'; expected index:value"),
    "no index": ("1 :2\n", "line 1: ':2'; expected index:value"),
    "no value": ("1 1:\n", "line 1: the value of index 1 is ''; expected one number"),
    "text": ("1 1:2\n\n1 2:red\n", "line 3: the value of index 2 is 'red'"),
    "two colons": ("1 1:2:3\n", "line 1: the value of index 1 is '2:3'"),
    "underscore": ("1 1:1_0\n", "line 1: the value of index 1 is '1_0'"),
    "name": ("1 age:2\n", "line 1: 'age:2'; expected index:value with a whole number"),
    "negative": ("1 -1:2\n", "line 1: '-1:2'"),
    "fraction": ("1 1.5:2\n", "line 1: '1.5:2'"),
    "zero": ("1 1:2\n1 0:2 1:3\n", r"line 2: the index 0; expected indices from 1 \(zero_based=True"),
    "twice": ("1 1:2 1:3\n", "line 1: the index 1 twice"),
    "nan": ("1 1:nan\n", "line 1: the value of index 1 is 'nan'; expected a finite number"),
    "inf": ("1 1:1e999\n", "line 1: the value of index 1 is '1e999'; expected a finite"),
    "target": ("yes 1:2\n", "line 1: the target is 'yes'; expected one number"),
    "no target": ("1:2 2:3\n", "line 1: the target is '1:2'"),
    "many targets": ("1,2 1:2\n", "line 1: the target is '1,2'; expected one number"),
    "infinite target": ("inf 1:2\n", "line 1: the target is 'inf'"),
    "ranking": ("1 qid:3 1:2\n", "line 1: 'qid:3' belongs to a ranking"),
    "huge": ("1 99999999999999999999:2\n", "line 1: the index 99999999999999999999 is too large"),
    "beyond memory": ("1 99999999999999999:2\n", "1 x 99999999999999999 float64 numbers .* does not fit"),
    "comments": ("# nothing\n\n", "holds no samples"),
    "empty": ("", "is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path, case):
    text, says = BAD[case]
    with pytest.raises(DataError, match=says) as caught:
        load_libsvm(write(tmp_path / "a.svm", text))
    assert "a.svm" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("zero_based", "index", "largest"), [(False, 4, 3), (True, 3, 2)])
def test_an_index_beyond_the_features(tmp_path, zero_based, index, largest):
    path = write(tmp_path / "a", f"1 1:1\n1 {index}:2\n")
    with pytest.raises(DataError, match=rf"line 2: the index {index}; expected at most {largest}, for 3 feature\(s\)"):
        load_libsvm(path, zero_based=zero_based, features=3)


def test_other_bad_files_and_arguments(tmp_path):
    (tmp_path / "a").write_bytes(b"1 1:2\n\xff\xfe")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        load_libsvm(tmp_path / "a")
    with pytest.raises(DataError, match="does not exist"):
        load_libsvm(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="features is 0; expected an integer of at least 1"):
        load_libsvm(tmp_path / "a", features=0)
    with pytest.raises(ValueError, match="expected float32 or float64"):
        load_libsvm(tmp_path / "a", dtype=int)
