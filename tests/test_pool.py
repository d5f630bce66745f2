"""Workers of one BLAS thread each: what they make, in which order they sum, and how many threads BLAS has meanwhile."""

import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from nearlin import _array, nn

HOST = np.zeros(1)


@pytest.fixture(params=[1, 2, 5])
def count(request, monkeypatch):
    """The number of workers, whatever the machine has."""
    monkeypatch.setattr(_array.pool, "blas_threads", lambda: request.param)
    return request.param


@pytest.fixture
def five(monkeypatch):
    monkeypatch.setattr(_array.pool, "blas_threads", lambda: 5)


def test_blocks_come_back_in_order_whatever_the_number_of_workers(count):
    assert _array.map_blocks(lambda i: i * i, range(50), HOST) == [i * i for i in range(50)]


def test_as_many_threads_work_as_there_are_workers_and_the_caller_is_one_of_them(count):
    meeting = threading.Barrier(count, timeout=60)  # broken if fewer come
    idents = _array.map_blocks(lambda _: (meeting.wait(), threading.get_ident())[1], range(count), HOST)
    assert len(set(idents)) == count
    assert threading.get_ident() in idents


def test_workers_keep_the_context_of_the_caller(five):
    """NumPy's errors are a context variable: what is silenced around the walk is silent in its workers, and only then."""
    meeting = threading.Barrier(5, timeout=60)
    seen = lambda _: (meeting.wait(), np.geterr()["over"])[1]  # noqa: E731
    with _array.unguarded():
        inside = _array.map_blocks(seen, range(5), HOST)
    with np.errstate(over="raise"):
        outside = _array.map_blocks(seen, range(5), HOST)
    assert (set(inside), set(outside)) == ({"ignore"}, {"raise"})


@pytest.mark.parametrize("bad", range(4))
def test_an_error_in_a_block_reaches_the_caller_from_any_worker(five, bad):
    with pytest.raises(ZeroDivisionError):
        _array.map_blocks(lambda i: 1 / (i - bad), range(4), HOST)
    assert _array.workers(HOST) == 5


def test_a_walk_inside_of_a_worker_is_serial(five):
    inner = lambda _: set(_array.map_blocks(lambda _: threading.get_ident(), range(9), HOST)) == {threading.get_ident()}  # noqa: E731
    assert all(_array.map_blocks(inner, range(9), HOST))


@pytest.mark.parametrize("blocks", [1, 2, 15, 16, 17, 40])
def test_sums_are_those_of_one_worker_to_the_last_bit(count, rng, blocks):
    parts = 10.0 ** rng.uniform(-9, 9, (blocks, 8))
    found = _array.sum_blocks(lambda i: parts[i], range(blocks), HOST)
    bounds = [blocks * i // min(16, blocks) for i in range(min(16, blocks) + 1)]
    expected = None  # sixteen runs of neighbours, each from left to right
    for i, j in pairwise(bounds):
        run = parts[i]
        for k in range(i + 1, j):
            run = run + parts[k]
        expected = run if expected is None else expected + run
    assert np.array_equal(found, expected)


def test_sums_of_lists_are_sums_of_each_and_take_tuples(count):
    first, second = _array.sums_of_blocks(lambda i: (np.array(i), np.array(1)), [range(10), range(10, 13)], HOST)
    assert (first, second) == ((45, 10), (33, 3))


def test_a_sum_waits_for_no_more_parts_than_workers_make(five):
    """Parts come in any order; the first run is the last one here, and all others wait for it alone."""
    late, made = threading.Event(), []

    def part(i):
        late.wait(60) if i == 0 else made.append(i)
        if len(made) == 38:  # all but the two of the first run
            late.set()
        return i

    assert _array.sum_blocks(part, range(40), HOST) == sum(range(40))


def test_blas_has_one_thread_while_pooled_and_walks_keep_their_workers():
    with threadpool_limits(2, user_api="blas"):
        before = _array.blas_threads()
        with _array.pooled(HOST):
            assert (_array.blas_threads(), _array.workers(HOST)) == (1, before)
            with _array.pooled(HOST):
                assert _array.workers(HOST) == before
            assert (_array.blas_threads(), _array.workers(HOST)) == (1, before)
            assert set(_array.map_blocks(lambda _: (_array.blas_threads(), _array.workers(HOST)), range(9), HOST)) == {(1, 1)}
        assert (_array.blas_threads(), _array.workers(HOST)) == (before, before)


@pytest.mark.parametrize("shape", [(5, 3, 4), (200, 7, 3), (3, 7, 200), (97, 300, 97)])
def test_products_of_the_pool_are_those_of_one_thread(count, monkeypatch, rng, shape):
    monkeypatch.setattr(_array.pool, "POOL_FLOPS", 0)
    m, k, n = shape
    a, b = rng.standard_normal((m, k)), rng.standard_normal((n, k)).T
    with _array.pooled(HOST):
        product = _array.matmul(a, b)
    np.testing.assert_allclose(product, np.einsum("ik,kj->ij", a, b), rtol=1e-13, atol=1e-13)
    assert np.array_equal(_array.matmul(a, b), a @ b)


def test_products_of_the_pool_are_walked_by_it_and_others_are_not(five, monkeypatch):
    walks = []
    walk = _array.pool.map_blocks
    monkeypatch.setattr(_array.pool, "map_blocks", lambda *args: walks.append(args) or walk(*args))
    large, small = np.ones((512, 512)), np.ones((64, 64))
    _array.matmul(large, large)
    with _array.pooled(HOST):
        _array.matmul(small, small)
        assert not walks
        _array.matmul(large, large)
    assert len(walks) == 1


@pytest.mark.parametrize(("length", "step", "multiple", "sizes"), [
    (10, 4, 1, [4, 4, 2]), (9, 4, 1, [3, 3, 3]), (8, 8, 1, [8]), (50, 16, 8, [16, 16, 16, 2]), (0, 4, 1, []), (3, 16, 8, [3]),
    (65536, 520, 8, [520] * 126 + [16]),
])  # fmt: skip
def test_even_steps_are_of_one_size(length, step, multiple, sizes):
    found = _array.slices(length, _array.even_step(length, step, multiple))
    assert [s.stop - s.start for s in found] == sizes
    assert [i for s in found for i in range(s.start, s.stop)] == list(range(length))


def test_a_large_perceptron_leaves_blas_one_thread_where_the_machine_is_crowded(monkeypatch):
    """Quiet, BLAS keeps its threads: workers are slower at single products."""
    seen, networks = [], [nn.MLP((4, k, 2)) for k in (8, 8000)]
    activation = replace(nn.activation("relu"), function=lambda x: seen.append(_array.blas_threads()) or x)
    with threadpool_limits(2, user_api="blas"):
        before = _array.blas_threads()
        for crowded in (False, True):
            monkeypatch.setattr(nn.network, "crowded", lambda crowded=crowded: crowded)
            for network in networks:
                first, _, last = network.modules
                watched = nn.Sequential((first, nn.Elementwise(activation), last))
                watched.forward(watched.init(0, HOST), np.ones((3, 4)))
    assert seen == [before, before, before, 1]
