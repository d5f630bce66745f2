"""Rows that lie in a file: read from it, never by its pages; a file that ends too early; when two maps hold the same."""

import os
import tracemalloc

import numpy as np
import pytest

from nearlin import _array


@pytest.fixture
def kept(tmp_path):
    """An array, and the path of a file that holds it."""
    x = np.random.default_rng(0).standard_normal((40, 3))
    np.save(tmp_path / "x.npy", x)
    return x, tmp_path / "x.npy"


def mapped(path):
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [slice(0, 40), slice(7, 19), slice(39, 40), slice(5, 5), np.array([3, 3, 39, 0])], ids=str)
@pytest.mark.parametrize("part", [slice(None), slice(4, 38)], ids=["all", "part"])
def test_rows_are_those_of_the_array(kept, rows, part, dtype):
    x, path = kept
    np.save(path, x.astype(dtype))
    within = rows if isinstance(rows, slice) else np.minimum(rows, 33)
    found = _array.rows_of(mapped(path)[part], within)
    np.testing.assert_array_equal(found, x.astype(dtype)[part][within])
    assert type(found) is np.ndarray
    assert found.flags.owndata


def test_a_vector_and_images_have_rows_too(tmp_path):
    for shape in ((9,), (9, 2, 3)):
        x = np.random.default_rng(1).standard_normal(shape)
        np.save(tmp_path / "x.npy", x)
        np.testing.assert_array_equal(_array.rows_of(mapped(tmp_path / "x.npy"), slice(2, 7)), x[2:7])


def test_chunks_are_at_most_8_mb_even_and_cover_all_rows(tmp_path):
    """Even: some BLAS rounds products of a last few rows in another way than those of many."""
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float64", (5000, 784))
    del x
    x = mapped(tmp_path / "x.npy")
    for multiple in (1, 64):
        chunks = _array.row_chunks(x, multiple)
        assert [i for rows in chunks for i in range(rows.start, rows.stop)] == list(range(5000))
        assert len(chunks) == 4
        assert all(rows.start % multiple == 0 for rows in chunks)
        sizes = [rows.stop - rows.start for rows in chunks]
        assert max(sizes) * 784 * 8 <= 2**23
        assert max(sizes) - min(sizes) <= 4 * (multiple - 1)
    assert _array.row_chunks(np.empty((5000, 784))) == [slice(0, 5000)]
    np.testing.assert_array_equal(_array.by_rows(lambda rows: rows.shape[0] + rows[:, 0], x)[[0, -1]], [1250.0, 1250.0])


@pytest.mark.parametrize("left", [0, 100, 128 + 24 * 17 + 5])
def test_a_file_that_ends_too_early_is_one_sentence(kept, left):
    _, path = kept
    map_, at = mapped(path), max(0, (left - 128) // 24)
    os.truncate(path, left)
    with pytest.raises(OSError, match=rf"x.npy ends in row {at} of the 40 that it had when it was mapped; expected the whole"):
        _array.rows_of(map_, slice(0, 40))


def test_a_file_that_is_gone_or_is_no_file_any_more_is_one_sentence(kept):
    _, path = kept
    map_ = mapped(path)
    path.unlink()
    for ask in (lambda: _array.rows_of(map_, slice(0, 1)), lambda: _array.copies((map_,))):
        with pytest.raises(OSError, match=r"x.npy cannot be read, while rows of it are asked for: No such file"):
            ask()
    path.mkdir()
    with pytest.raises(OSError, match=r"x.npy cannot be read, while rows of it are asked for: Is a directory"):
        _array.rows_of(map_, slice(0, 1))


def test_what_may_be_written_to_or_is_no_rows_is_an_array_like_others(kept):
    """A map of mode "c" holds what its file does not."""
    x, path = kept
    assert _array.is_map(mapped(path))
    for mode in ("r+", "c"):
        map_ = np.load(path, mmap_mode=mode)
        assert not _array.is_map(map_)
        map_[0, 0] = 7.0
        assert _array.rows_of(map_, slice(0, 1))[0, 0] == 7.0
    np.save(path, np.asfortranarray(x))
    for other in (mapped(path), mapped(path)[:, :2], mapped(path)[::2], np.asarray(mapped(path)), x):
        assert not _array.is_map(other)
        np.testing.assert_array_equal(_array.rows_of(other, slice(1, 5)), np.asarray(other)[1:5])


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_an_array_take_no_copy_of_all(order):
    x, few = np.zeros((4000, 60), order=order)[:, :50], np.array([7, 7, 3999])
    tracemalloc.start()
    try:
        found = _array.rows_of(x, few)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shape == (3, 50)
    assert peak < x.nbytes / 10


def test_the_same_rows_of_a_file_that_has_not_changed_are_the_same(kept):
    x, path = kept
    remembered = _array.copies((mapped(path)[:20],))
    assert _array.same(remembered, (mapped(path)[:20],))
    assert not _array.same(remembered, (mapped(path)[20:],))
    assert not _array.same(remembered, (x[:20],))
    assert not _array.same(_array.copies((x[:20],)), (mapped(path)[:20],))
    writable = np.load(path, mmap_mode="r+")
    writable[0, 0] += 1
    writable.flush()
    os.utime(path, ns=(0, 1))
    assert not _array.same(remembered, (mapped(path)[:20],))


def test_nan_in_a_file_is_counted_and_squares_that_overflow_are_not(tmp_path):
    x = np.ones((3000, 784))
    x[2, 3] = x[2999, 0] = np.nan
    x[5] = 1e200
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"x holds 2 NaN or Inf value\(s\) among 2352000; expected finite numbers"):
        _array.check(x=mapped(tmp_path / "x.npy"))
    np.save(tmp_path / "y.npy", np.nan_to_num(x))
    _array.check(x=mapped(tmp_path / "y.npy"))
    with pytest.raises(ValueError, match=r"x holds numbers up to 1e\+200 in size, whose squares overflow"):
        _array.check_range("x", mapped(tmp_path / "y.npy"))
