"""What a step asks of a GPU, counted on the double: synchronisations besides one a factorisation, and launches."""

import dataclasses
import importlib
import itertools
import threading

import numpy as np
import pytest

import nearlin as nl
from nearlin import _array
from tests.doubles import devices
from tests.doubles.counters import counted

cp = pytest.importorskip("cupy")
AUTOENCODER = {"SGD": 3, "Adam": 3, "KFAC": 6, "Ginger": 9, "Shampoo": 9, "KBFGS": 19}


def autoencoder(rng, sizes=(64, 40, 20, 10, 6), samples=100):
    """An auto-encoder like that of MNIST, its parameters, and a batch, on the device."""
    x = cp.asarray(rng.random((samples, sizes[0])))
    objective = nl.nn.Objective(nl.nn.autoencoder(sizes), nl.nn.SigmoidCrossEntropy())
    return objective.network.init(key=0, like=x), objective, (x, x)


def third_step(optimizer, params, objective, batch):
    """The counts of the third step, and its info."""
    state = optimizer.init(params, objective)
    for key in range(3):
        with counted() as counts:
            params, state, info = optimizer.step(params, state, objective, batch, key=key)
    assert info.accepted
    return counts, info


@pytest.mark.parametrize(("name", "most"), AUTOENCODER.items())
def test_a_step_reads_back_a_few_times_whatever_the_number_of_layers(rng, name, most):
    counts, _ = third_step(getattr(nl.optim, name)(), *autoencoder(rng))
    assert counts.besides_factorizations <= most, counts.places


def test_kfac_with_inverses_launches_at_most_600_times(rng):
    counts, info = third_step(nl.optim.KFAC(), *autoencoder(rng))
    assert info.refreshed
    assert counts.launches.total() <= 600, counts.launches


def test_a_near_linear_step_reads_back_twice_an_iteration(rng):
    n, m = 256, 131072
    x = rng.standard_normal((n, 8))
    x, y = cp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True)), cp.asarray(rng.standard_normal(n))
    objective = nl.nn.Objective(nl.nn.TwoLayer(inputs=8, width=m), nl.nn.SquaredLoss())
    optimizer = nl.optim.NearLinearGaussNewton()
    counts, info = third_step(optimizer, objective.network.init(key=0, like=x), objective, (x, y))
    iterations = info.solve.iterations
    assert counts.besides_factorizations <= 8 + 2 * iterations, counts.places
    assert counts.launches.total() <= 310, counts.launches


def test_smoothing_reads_back_twice_an_iteration(rng):
    b, x, r = (cp.asarray(v) for v in rng.standard_normal((3, 9)))
    smooth = nl.linalg.Smoothing(b, 0.1)
    with counted() as counts:
        smooth(x, r)
    assert counts.synchronizations.total() == 2


@pytest.mark.parametrize("blocks", [(100, 65), (16, 12)])
def test_many_blocks_are_inverted_by_as_many_launches_as_one(rng, blocks):
    n, k = blocks
    X = rng.standard_normal((n, k, 2 * k))
    with counted() as counts:
        found = nl.linalg.block_inverse(cp.asarray(X @ X.mT), 0.1)
    assert counts.launches.total() < 25
    assert counts.besides_factorizations == 1
    np.testing.assert_allclose(found.inverse.get(), np.linalg.inv(X @ X.mT + 0.1 * np.eye(k)), rtol=1e-9)


def test_numbers_of_several_dtypes_are_read_at_once_as_they_are():
    numbers = [cp.asarray(np.array(x)) for x in (3, 0.5, np.float32(np.nan), True)]
    with counted() as counts:
        found = _array.read(*numbers)
    assert counts.synchronizations.total() == 1
    np.testing.assert_array_equal(found, [3.0, 0.5, np.nan, 1.0])


# --------------------------------------------------------------------------------------------------- calls side by side


def asked(x, times):
    """The sum of ``x`` read so many times, and the device and the stream that it was read on."""
    return [_array.read_number(cp.sum(x) + k) for k in range(times)], devices.current(), devices.current_stream()


def test_calls_side_by_side_read_together_and_go_their_own_ways():
    with cp.cuda.Device(1), cp.cuda.Stream() as stream:
        xs = [cp.ones(n) for n in (1, 2, 3)]
        with counted() as counts:
            found = _array.side_by_side(asked, xs, (2, 0, 4), like=xs[0])
    assert found == [([1.0, 2.0], 1, stream), ([], 1, stream), ([3.0, 4.0, 5.0, 6.0], 1, stream)]
    assert counts.synchronizations.total() == 4


def test_calls_within_calls_read_together_too():
    def outer(x):
        return _array.side_by_side(lambda y: asked(y, 2)[0], (x, 2 * x), like=x)

    xs = [cp.ones(n) for n in (1, 2)]
    with counted() as counts:
        found = _array.side_by_side(outer, xs, like=xs[0])
    assert found == [[[1.0, 2.0], [2.0, 3.0]], [[2.0, 3.0], [4.0, 5.0]]]
    assert counts.synchronizations.total() == 2


def test_the_error_of_one_call_is_raised_when_the_others_have_ended():
    ended = []

    def call(x, fails):
        if fails:
            raise nl.BackendError("it failed")
        asked(x, 3)
        ended.append(True)

    with pytest.raises(nl.BackendError, match="it failed"):
        _array.side_by_side(call, [cp.ones(1)] * 3, (False, True, False), like=cp.ones(1))
    assert ended == [True, True]


def began_since(before):
    """The threads that are there besides those of ``before``, after a while for them to end."""
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    return set(threading.enumerate()) - before


@pytest.mark.parametrize("error", [KeyboardInterrupt, cp.cuda.runtime.CUDARuntimeError])
def test_calls_whose_numbers_cannot_be_read_are_given_up(monkeypatch, error):
    before, ended, tolist, readings = set(threading.enumerate()), [], cp.ndarray.tolist, itertools.count()

    def fail(x):
        if next(readings):
            raise error
        return tolist(x)

    def call(x):
        ended.append(asked(x, 2))

    monkeypatch.setattr(cp.ndarray, "tolist", fail)
    with pytest.raises(error):
        _array.side_by_side(call, [cp.ones(1)] * 3, like=cp.ones(1))
    assert (began_since(before), ended) == (set(), [])


@pytest.mark.parametrize("error", [devices.OutOfMemoryError, devices.CUDARuntimeError])
def test_a_step_whose_device_fails_leaves_everything_as_it_was(rng, monkeypatch, error):
    params, objective, batch = autoencoder(rng)
    optimizer, before, calls = nl.optim.KFAC(), set(threading.enumerate()), itertools.count()
    state = optimizer.init(params, objective)
    expected, *_ = optimizer.step(params, state, objective, batch, key=0)
    algebra = importlib.import_module("array_api_compat.cupy").linalg
    cholesky = algebra.cholesky

    def fail(x):
        if next(calls) == 3:
            raise error
        return cholesky(x)

    with monkeypatch.context() as patch:
        patch.setattr(algebra, "cholesky", fail)
        with pytest.raises(error):
            optimizer.step(params, state, objective, batch, key=0)
    assert next(calls) > 4  # the other calls went on
    assert not began_since(before)
    for W, W_expected in zip(optimizer.step(params, state, objective, batch, key=0)[0], expected, strict=True):
        np.testing.assert_array_equal(W.get(), W_expected.get())


# ------------------------------------------------------------------------------------------------------- equal iterates


@pytest.mark.parametrize("name", sorted(name for name in nl.optim.__all__ if dataclasses.is_dataclass(getattr(nl.optim, name))))
def test_iterates_are_those_of_numpy(rng, name):
    """NaturalGradient with a damping: without one its systems are so thin that rounding shows."""
    x, y = rng.standard_normal((2, 40, 5))
    network = (
        nl.nn.TwoLayer(inputs=5, width=16) if "NearLinear" in name or "Gram" in name else nl.nn.autoencoder((5, 4, 3), "tanh")
    )
    y = y[:, 0] if isinstance(network, nl.nn.TwoLayer) else y
    objective, ends = nl.nn.Objective(network, nl.nn.SquaredLoss()), []
    places = [_array.prototype(name) for name in ("numpy", "cupy", "torch") if not _array.unusable(name)]
    for given in [tuple(nl.asarray(a, like=like) for a in (x, y)) for like in places]:
        optimizer = getattr(nl.optim, name)(**({"damping": 1.0} if name == "NaturalGradient" else {}))
        params = network.init(key=0, like=given[0])
        state = optimizer.init(params, objective)
        for key in range(5):
            params, state, _ = optimizer.step(params, state, objective, given, key=key)
        ends.append([nl.to_numpy(W) for W in params])
    for there in ends[1:]:
        for W, W_expected in zip(there, ends[0], strict=True):
            np.testing.assert_allclose(W, W_expected, rtol=1e-9, atol=1e-9)
