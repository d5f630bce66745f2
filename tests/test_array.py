"""The room that names backends: one error for mixed inputs, the same draws and the same failures everywhere."""

import importlib
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import nearlin as nl
from nearlin import _array


def test_what_is_brought_next_to_an_array_is_a_copy(be):
    """Whatever it came from: a later change of one does not reach the other."""
    for a in (np.ones(3, dtype=str(be.like.dtype).split(".")[-1]), be.array([1.0, 1.0, 1.0])):
        made = _array.asarray(a, like=be.like)
        made[0] = 5.0
        assert np.asarray(_array.to_numpy(a)).tolist() == [1.0, 1.0, 1.0]


def test_arrays_of_two_backends_are_one_clear_error():
    strict = _array.prototype("array_api_strict")
    with pytest.raises(_array.BackendError, match=r"x is a float64 numpy array .* y is a float64 array_api_strict array"):
        _array.check(x=np.ones(3), y=_array.asarray(np.ones(3), like=strict))


def test_arrays_of_two_devices_are_one_clear_error():
    strict = pytest.importorskip("array_api_strict")
    other = strict.ones((3,), device=strict.Device("device1"))
    with pytest.raises(_array.BackendError, match="device1"):
        _array.check(x=strict.ones((3,)), y=other)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        ([1.0], _array.BackendError, "x is a list"),
        (np.ones(3, dtype=np.float16), TypeError, "x has dtype float16; expected float32 or float64 .half precision"),
        (np.ones(3, dtype=np.int64), TypeError, "x has dtype int64; expected float32 or float64"),
        (np.array([1.0, np.nan, np.inf]), ValueError, "x holds 2 NaN or Inf value.s. among 3"),
        (np.ones(0), ValueError, "expected at least one entry"),
        (np.ones((2, 2)), ValueError, r"x has shape \(2, 2\); expected 1 dimension"),
    ],
    ids=["list", "float16", "integer", "nan", "empty", "ndim"],
)
def test_bad_input_is_named(x, error, words):
    with pytest.raises(error, match=words):
        _array.check(ndim={"x": 1}, x=x)


def test_two_dtypes_are_not_cast_silently():
    with pytest.raises(_array.BackendError, match="nothing is cast silently"):
        _array.check(x=np.ones(2), y=np.ones(2, dtype=np.float32))


@pytest.mark.parametrize("draw", [_array.uniform, _array.normal, _array.signs, _array.permutation], ids=lambda f: f.__name__)
def test_draws_are_the_same_on_every_backend(be, draw, numpy_backend):
    shape = (50,) if draw in (_array.uniform, _array.normal) else 50
    got, want = be.numpy(draw(7, shape, be.like)), draw(7, shape, numpy_backend.like)
    np.testing.assert_allclose(got, want, rtol=be.tol(1e-15))


def test_keys_are_folded_to_different_streams():
    keys = {_array.fold_in(0), _array.fold_in(1), _array.fold_in(0, 0), _array.fold_in(0, 1), _array.fold_in(0, 0, 1)}
    assert len(keys) == 5


@pytest.mark.parametrize("key", [-1, 1.5, True, "a"])
def test_a_key_is_a_non_negative_integer(key):
    with pytest.raises(ValueError, match="expected an integer of at least 0"):
        _array.fold_in(key)


def test_cholesky_factors_the_shifted_matrix(be, rng):
    a = rng.standard_normal((20, 20))
    a = a @ a.T
    R = be.numpy(_array.cholesky(be.array(a), shift=0.5))
    np.testing.assert_allclose(R.T @ R, a + 0.5 * np.eye(20), atol=be.tol(1e-13))
    assert np.allclose(np.tril(R, -1), 0)


def test_large_finite_numbers_are_not_taken_for_infinite(be):
    """Their squares overflow in both precisions: the check then counts, and finds the NaN and Inf beside them."""
    large = 2.0 ** (1000 if be.eps < 1e-10 else 100) * np.asarray([[1.0, -1.0], [1.0, 0.5]])
    _array.check(x=be.array(large), y=be.array(large).T)
    for entries, bad, place in itertools.product((large, np.ones((2, 2))), (np.nan, np.inf, -np.inf), np.ndindex(2, 2)):
        wrong = entries.copy()
        wrong[place] = bad
        with pytest.raises(ValueError, match=r"x holds 1 NaN or Inf value\(s\) among 4; expected finite numbers"):
            _array.check(x=be.array(wrong))


@pytest.mark.parametrize("place", [0, 1])
def test_one_array_that_is_not_finite_is_seen_beside_others(be, place):
    arrays = [be.array([1.0, 2.0]), be.array([[3.0]])]
    assert _array.finite_squares(*arrays)
    arrays[place] = be.array([1.0, np.nan])
    assert not _array.finite_squares(*arrays)


@pytest.mark.parametrize("a", [[[1.0, 2.0], [2.0, 1.0]], [[np.nan, 0.0], [0.0, 1.0]]], ids=["indefinite", "nan"])
def test_cholesky_fails_the_same_way_on_every_backend(be, a):
    with pytest.raises(_array.NotPositiveDefinite):
        _array.cholesky(be.array(a))


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("columns", [None, 3])
def test_solve_triangular_solves(be, rng, trans, columns):
    R = np.triu(rng.standard_normal((9, 9))) + 5 * np.eye(9)
    b = rng.standard_normal(9 if columns is None else (9, columns))
    x = be.numpy(_array.solve_triangular(be.array(R), be.array(b), trans=trans))
    np.testing.assert_allclose((R.T if trans else R) @ x, b, atol=be.tol(1e-13))


@pytest.mark.parametrize("columns", [1, 7, 8, 20])
def test_masks_survive_packing(be, rng, columns):
    mask = rng.standard_normal((5, columns)) > 0
    packed = _array.pack_mask(be.array(mask, dtype="bool"))
    assert np.array_equal(be.numpy(_array.Scratch().unpack_mask(packed, columns, be.dtype)), mask.astype(float))


def test_same_looks_at_values_not_at_identity(be):
    x = be.array([1.0, 2.0])
    assert _array.same((x,), _array.copies((x,)))
    assert not _array.same((x,), (x + 1.0,))
    assert not _array.same((x,), (x, x))


def test_equal_values_of_two_dtypes_are_not_the_same():
    a, b = np.ones(3), np.ones(3, np.float32)
    assert (_array.same((a,), (b,)), _array.same((a,), (a.copy(),)), _array.same((a, a), (a,))) == (False, True, False)


def test_eigenvectors_hold_no_numbers_that_slow_products_down(rng):
    """Units without inputs: what LAPACK leaves in their place of 1e-40 times the matrix is 0."""
    u, noise = rng.standard_normal((20, 4)), 1e-40 * rng.standard_normal((30, 30))
    a = noise + noise.T
    a[:20, :20] += u @ u.T
    values, vectors = _array.eigh(a)
    sizes = np.abs(vectors[vectors != 0])
    assert sizes.min() >= np.finfo(float).eps ** 2
    np.testing.assert_allclose((vectors * values) @ vectors.T, a, atol=1e-12)


def test_the_cupy_probe_never_raises():
    assert _array.cupy_unusable() is None or isinstance(_array.cupy_unusable(), str)


def test_an_unknown_backend_is_named_with_the_known_ones():
    with pytest.raises(_array.BackendError, match="unknown backend 'jax'; expected one of numpy, cupy"):
        _array.prototype("jax")


def test_masked_arrays_are_refused_wherever_arrays_come_in():
    """Every conversion would drop the mask in silence."""
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6.0)
    masked = np.ma.masked_greater(x, 7), np.ma.masked_equal(y, 3)
    steps = nl.data.Preprocessing()
    calls = (
        lambda: nl.asarray(masked[0], like=x),
        lambda: _array.check(x=masked[0]),
        lambda: _array.check(x=x, y=masked[1]),
        lambda: nl.experiments.train((masked[0], y), width=4, steps=1, progress=False),
        lambda: nl.experiments.train((x, masked[1]), width=4, steps=1, progress=False),
        lambda: steps.inputs(masked[0]),
    )
    for call in calls:
        with pytest.raises(TypeError, match="is a masked array, whose mask would be lost; expected a plain array"):
            call()


@pytest.mark.parametrize("call", ["cholesky", "eigh", "svd", "spd_inverse"])
def test_memory_that_torch_lacks_is_not_a_matrix_that_has_no_factor(call, monkeypatch):
    torch = pytest.importorskip("torch")

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    algebra = importlib.import_module("array_api_compat.torch").linalg
    for name in ("cholesky", "eigh", "svd"):
        monkeypatch.setattr(algebra, name, fail)
    with pytest.raises(torch.OutOfMemoryError):
        getattr(_array, call)(torch.eye(2, dtype=torch.float64))


def test_the_number_of_a_gpu_is_that_of_the_arrays_on_pytorch_too(monkeypatch):
    torch, card = pytest.importorskip("torch"), SimpleNamespace(name="a card", major=9, minor=0)
    monkeypatch.setattr("array_api_compat.is_torch_array", lambda x: True)
    told = {"get_device_properties": card, "current_device": 0, "device_count": 2, "empty_cache": None, "mem_get_info": (1, 2)}
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda *device, value=value: value)
    facts = _array.gpu_facts(SimpleNamespace(device=SimpleNamespace(type="cuda", index=1)))
    assert (facts["number"], facts["free"], facts["card"]) == ("1 of 2", 1, "a card")
