"""The double refuses what CuPy refuses, keeps silent where CuPy does, and counts what a GPU would be asked for."""

import ast
import importlib

import numpy as np
import pytest

import nearlin as nl
from nearlin import _array
from tests.doubles import arrays, linalg, signatures
from tests.doubles.counters import counted
from tests.doubles.recorder import Recorder

cp = pytest.importorskip("cupy")
cupyx = importlib.import_module("cupyx")


@pytest.fixture
def x():
    """(2, 3) on the device."""
    return cp.asarray(np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    "refused",
    [
        np.asarray,
        lambda x: x + np.ones(3),
        lambda x: np.ones(3) + x,
        lambda x: [1.0, 2.0, 3.0] * x,
        lambda x: cp.sum([1.0, 2.0]),
        lambda x: cp.sum(np.ones(3)),
        lambda x: cp.concatenate([x, np.ones((1, 3))]),
        lambda x: cp.exp(np.ones(3)),
        lambda x: cp.exp([1.0]),
        lambda x: x @ np.ones(3),
        lambda x: cp.where(np.ones(3) > 0, x, x),
        lambda x: cp.sum(x, axes=0),
        lambda x: cp.sum(x, 0, None, None, False, True),
        lambda x: cp.matmul(x, 2.0),
        lambda x: cp.invert(x),
        lambda x: cp.exp(x, out=np.empty((2, 3))),
        lambda x: range(x[0, 0]),
        lambda x: cp.linalg.cholesky(np.eye(2)),
        lambda x: cp.cuda.Device(True),
    ],
)
def test_what_cupy_refuses_is_refused(x, refused):
    with pytest.raises((TypeError, np.linalg.LinAlgError)):
        refused(x)


@pytest.mark.parametrize("value", [np.ones(3), [1.0, 2.0, 3.0]])
def test_entries_are_not_set_from_the_host(x, value):
    with pytest.raises(ValueError, match="fill"):
        x[0] = value


def test_there_are_no_scalars(x):
    for found in (x[0, 0], x.sum(), cp.max(x), x[0] @ x[1], x[cp.asarray(0), cp.asarray(1)]):
        assert (type(found), found.shape) == (cp.ndarray, ())
    entry = x[1, 2]
    x[1, 2] = 7.0
    assert float(entry) == 7.0  # a view, where NumPy gives a copy


def test_indices_out_of_range_wrap(x):
    far = cp.asarray(np.array([0, 5]))
    assert cp.take(x, far, axis=1).tolist() == x[:, far].tolist() == [[0.0, 2.0], [3.0, 5.0]]


def test_factorizations_are_silent_until_told_to_raise():
    indefinite = cp.asarray(np.array([[1.0, 2.0], [2.0, 1.0]]))
    assert np.isfinite(cp.linalg.cholesky(indefinite).get()).all()
    with cupyx.errstate(linalg="raise"), pytest.raises(np.linalg.LinAlgError, match="devInfo"):
        cp.linalg.cholesky(indefinite)
    with cupyx.errstate(linalg="raise"):  # comparisons with NaN are false
        assert np.isnan(cp.linalg.cholesky(indefinite * cp.nan).get()).any()
    assert np.isnan(cp.linalg.eigh(indefinite * cp.nan)[0].get()).all()


def test_triangular_solves_mind_trans():
    r = np.array([[2.0, 1.0], [0.0, 4.0]])
    solve = importlib.import_module("cupyx.scipy.linalg").solve_triangular
    for trans in (0, 1):
        found = solve(cp.asarray(r), cp.asarray(np.array([1.0, 2.0])), trans=trans)
        np.testing.assert_allclose(found.get(), np.linalg.solve(r.T if trans else r, [1.0, 2.0]))


def test_an_array_of_another_device_is_refused(x):
    with cp.cuda.Device(1):
        far = cp.ones(3)
        assert (far.device.id, (far + 1).device.id) == (1, 1)
        with pytest.raises(ValueError, match="array device = 0 while current = 1"):
            far + x
    assert cp.cuda.Device().id == 0
    with pytest.raises(ValueError, match="array device = 1"):
        far + 1
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError), cp.cuda.Device(2):
        pass


def test_denormals_of_float32_are_flushed_and_warnings_are_not_given():
    tiny = cp.asarray(np.array([1e-30], dtype=np.float32))
    assert (tiny * tiny).tolist() == [0.0]
    assert float((tiny * cp.float32(1e-9))[0]) == 0.0
    assert (cp.asarray(np.array([1e-300])) * 1e-9)[0] > 0
    assert np.isinf((1 / cp.zeros(1)).get()).all()


def test_launches_synchronizations_and_copies_are_counted(x):
    with counted() as counts:
        float((x * 2 + 1).sum())
        bool(x[0, 0] > 0)
        cp.asarray(np.ones(2))
        x[x > 1]
        x.T.reshape(2, 3)
    assert dict(counts.synchronizations) == {"float": 1, "bool": 1, "mask": 1}
    assert dict(counts.from_host) == {"array": 1}
    assert counts.launches == {"multiply": 1, "add": 1, "sum": 1, "greater": 2, "gather": 1, "reshape": 1}


def test_a_factorization_that_is_asked_whether_it_failed_synchronizes():
    with counted() as counts:
        cp.linalg.cholesky(cp.eye(2))
        with cupyx.errstate(linalg="raise"):
            cp.linalg.cholesky(cp.eye(2))
    assert (counts.launches["cholesky"], counts.synchronizations.total(), counts.besides_factorizations) == (2, 1, 0)


def test_what_is_written_by_hand_takes_the_parameters_of_cupy():
    listed = signatures.listed("cupy.linalg")
    given = {own.__name__: own.__code__.co_varnames[: own.__code__.co_argcount] for own in linalg.OWN}
    found = {name: tuple(part.partition("=")[0].strip() for part in listed[name][1].split(",")) for name in given}
    assert given == found
    assert set(signatures.listed("cupy.ndarray")) > {name for name in dir(arrays.ndarray) if not name.startswith("_")} - {
        "functions"
    }


def test_the_forms_of_calls_are_noted_that_succeed_and_are_not_made_by_another(x):
    calls = Recorder()
    total = calls.noting("cupy.sum", cp.sum)
    calls.noting("outer", lambda a, **options: total(a))(x.T, out=(0.5, slice(1, None)), dtype=np.dtype("float32"))
    assert [total(x, axis=0).tolist(), total(2 * x, axis=0).tolist()] == [[3, 5, 7], [6, 10, 14]]
    with pytest.raises(TypeError):
        total([x])
    options = (("dtype", ("dtype", "float32")), ("out", ("tuple", ("float",), ("slice", ("value", 1), *[("value", None)] * 2))))
    assert sorted(map(ast.literal_eval, calls.forms)) == [
        ("cupy.sum", ("tuple",), ("tuple", ("array", "float64", (2, 3), "C")), (("axis", ("value", 0)),)),
        ("outer", ("tuple",), ("tuple", ("array", "float64", (3, 2), "F")), options),
    ]


# ------------------------------------------------------------------------------------------------ nearlin on CuPy's terms


def test_what_has_no_factor_is_noticed():
    indefinite = cp.asarray(np.array([[1.0, 2.0], [2.0, 1.0]]))
    for matrix in (indefinite, indefinite * cp.nan):
        with pytest.raises(_array.NotPositiveDefinite):
            _array.cholesky(matrix)
    with pytest.raises(_array.NotPositiveDefinite):
        _array.cholesky_pivots(indefinite[None])
    with pytest.raises(_array.NotConverged):
        _array.eigh(indefinite * cp.nan)


def test_transposed_solves_and_the_way_back():
    r, b = np.triu(np.arange(1.0, 10).reshape(3, 3)), np.arange(3.0)
    for trans in (False, True):
        found = nl.to_numpy(_array.solve_triangular(cp.asarray(r), cp.asarray(b), trans=trans))
        np.testing.assert_allclose(found, np.linalg.solve(r.T if trans else r, b), atol=1e-14)


def test_curvature_that_overflows_in_float32_is_left_out():
    """Sums are made in float64."""
    h = cp.asarray(np.array([1.0, 1e30, 2.0], dtype=np.float32))
    kept = nl.linalg.lowrank(3, 2, h)
    assert nl.linalg.lowrank_step(kept, h, None, 0.9, nl.linalg.Inverse(1.0)).curvature is kept


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("key", [0, 7, 2**63 + 5])
def test_uniform_draws_and_signs_are_those_of_numpy_bit_for_bit(dtype, key):
    host = np.empty(0, dtype=dtype)
    with counted() as counts:
        draws = _array.uniform(key, (5, 101), cp.asarray(host)), _array.signs(key, 1003, cp.asarray(host))
    assert (counts.from_host["array"], counts.synchronizations.total(), counts.launches.total()) == (2, 0, 2)  # of ``like``
    for found, expected in zip(draws, (_array.uniform(key, (5, 101), host), _array.signs(key, 1003, host)), strict=True):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.get(), expected)


def test_uniform_draws_are_at_most_what_is_asked_for():
    found = _array.philox.uniform(_array.fold_in(7), 0.5, cp.empty(101))
    np.testing.assert_array_equal(found.get(), np.minimum(_array.uniform(7, (101,), np.empty(0)), 0.5))


def test_a_clip_reads_nothing_back(x):
    with counted() as counts:
        found = _array.clipped(x, 1.0, 3.0)
    assert (counts.synchronizations.total(), counts.launches.total(), counts.from_host.total()) == (0, 2, 0)
    assert found.tolist() == [[1.0, 1.0, 2.0], [3.0, 3.0, 3.0]]


@pytest.mark.parametrize("kind", [cp.cuda.runtime.CUDARuntimeError, MemoryError])
@pytest.mark.parametrize("call", ["cholesky", "cholesky_pivots", "eigh", "svd", "spd_inverse"])
def test_a_device_that_fails_is_not_a_matrix_that_does(monkeypatch, kind, call):
    def fail(*args, **kwargs):
        raise kind("the device is lost")

    for name in ("cholesky", "eigh", "svd"):
        monkeypatch.setattr(importlib.import_module("array_api_compat.cupy").linalg, name, fail)
    with pytest.raises(kind, match="the device is lost"):
        getattr(_array, call)(cp.eye(2) if call != "cholesky_pivots" else cp.eye(2)[None])


@pytest.mark.parametrize(
    "call",
    [
        lambda far: nl.asarray([1.0], like=far),
        lambda far: nl.linalg.cg(lambda v: v, far),
        lambda far: nl.nn.TwoLayer(inputs=2, width=3).init(key=0, like=far),
        lambda far: nl.linalg.block_inverse(far[:, None, None], 1.0),
    ],
)
def test_arrays_of_a_device_that_is_not_current_are_refused_in_one_sentence(call):
    with cp.cuda.Device(1):
        far = cp.ones(3)
    with pytest.raises(nl.BackendError, match=r"on <CUDA Device 1>, while CuPy works on <CUDA Device 0>; .*with x.device"):
        call(far)
    with far.device:
        assert nl.to_numpy(nl.linalg.cg(lambda v: v, far)[0]).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("label", [-1, 3])
def test_indices_out_of_range_are_refused_where_those_of_cupy_wrap(label):
    network, (x, index) = nl.nn.MLP((4, 3)), (cp.ones((2, 4)), cp.asarray(np.array([0, label])))
    with pytest.raises(ValueError, match=rf"y holds {label}; expected integers in \[0, 3\)"):
        nl.nn.Objective(network, nl.nn.SoftmaxCrossEntropy()).at(network.init(key=0, like=x), (x, index))
    graph = nl.nn.GraphNetwork(cp.eye(3), cp.ones((3, 4)), (2,))
    with pytest.raises(ValueError, match=rf"x holds {label}; expected integers in \[0, 3\)"):
        graph.check_inputs(index, graph.init(key=0, like=x))
