"""Workers of one BLAS thread each: what they make, in which order they sum, and how many threads BLAS has meanwhile."""

import contextlib
import io
import os
import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import nearlin as nl
from nearlin import _array, nn
from nearlin._ranks import Supposed
from nearlin.steps import boundary

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


def test_a_late_block_keeps_its_place(five):
    """The first block waits for the last one."""
    last = threading.Event()
    block = lambda i: (last.wait(60) if i == 0 else last.set() if i == 8 else None, i)[1]  # noqa: E731
    assert _array.map_blocks(block, range(9), HOST) == list(range(9))


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


def meeting_of(count):
    """The threads that take a block each: all of them, as they wait for each other."""
    meeting = threading.Barrier(count, timeout=60)
    return _array.map_blocks(lambda _: (meeting.wait(), threading.get_ident())[1], range(count), HOST)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("by_caller", [True, False])
def test_all_workers_are_there_after_an_error_in_any_thread(five, error, by_caller):
    caller, meeting = threading.get_ident(), threading.Barrier(5, timeout=60)

    def block(_):
        meeting.wait()
        if (threading.get_ident() == caller) == by_caller:
            raise error

    with pytest.raises(error):
        _array.map_blocks(block, range(5), HOST)
    assert len(set(meeting_of(5))) == 5


def test_a_serial_walk_leaves_the_workers_as_they_were(five, monkeypatch):
    def fail():
        raise ZeroDivisionError

    with contextlib.suppress(ZeroDivisionError):
        _array.by_one_worker(fail)
    assert _array.workers(HOST) == 5
    for work in (lambda: None, fail):
        with _array.pooled(HOST), monkeypatch.context() as inside:
            inside.setattr(_array.pool, "blas_threads", lambda: 1)  # as they are while `pooled` is held
            with contextlib.suppress(ZeroDivisionError):
                _array.by_one_worker(work)
            assert _array.workers(HOST) == 5


def test_a_forked_process_has_workers_of_its_own(five, monkeypatch):
    """The threads of a pool do not live on in a fork, which would wait for them forever."""
    before = set(meeting_of(5)) - {threading.get_ident()}
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert not before & set(meeting_of(5))


def test_other_backends_walk_serially(five):
    other = _array.prototype("array_api_strict")
    assert _array.workers(other) == 1
    assert set(_array.map_blocks(lambda _: threading.get_ident(), range(9), other)) == {threading.get_ident()}
    with _array.pooled(HOST):
        assert _array.workers(other) == 1


def test_a_walk_inside_of_a_worker_is_serial(five):
    inner = lambda _: set(_array.map_blocks(lambda _: threading.get_ident(), range(9), HOST)) == {threading.get_ident()}  # noqa: E731
    assert all(_array.map_blocks(inner, range(9), HOST))
    meeting = threading.Barrier(5, timeout=60)
    assert _array.map_blocks(lambda _: (meeting.wait(), _array.workers(HOST))[1], range(5), HOST) == [1] * 5


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


def test_a_sum_waits_for_no_more_parts_than_workers_make(five, rng):
    """Parts come in any order; the first run is the last one here, and all others wait for it alone."""
    late, made, parts = threading.Event(), [], 10.0 ** rng.uniform(-9, 9, (40, 8))

    def part(i):
        late.wait(60) if i == 0 else made.append(i)
        if len(made) == 38:  # all but the two of the first run
            late.set()
        return parts[i]

    found = _array.sum_blocks(part, range(40), HOST)
    assert np.array_equal(found, _array.by_one_worker(lambda: _array.sum_blocks(parts.__getitem__, range(40), HOST)))


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 3, 4), (200, 7, 3), (3, 7, 200), (97, 300, 97)])
def test_products_of_the_pool_are_those_of_one_thread(count, monkeypatch, rng, shape, dtype):
    monkeypatch.setattr(_array.pool, "POOL_FLOPS", 0)
    m, k, n = shape
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((n, k)).astype(dtype).T
    with _array.pooled(HOST):
        product = _array.matmul(a, b)
    tol = 450 * np.finfo(dtype).eps
    np.testing.assert_allclose(product, np.einsum("ik,kj->ij", a.astype(float), b), rtol=tol, atol=tol)
    assert product.dtype == dtype
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


@pytest.mark.parametrize("start", [False, True])
def test_a_step_leaves_blas_one_thread_where_the_machine_is_crowded(monkeypatch, start):
    """Quiet, BLAS keeps its threads: workers are slower at single products."""
    seen = []
    watched = nn.Elementwise(replace(nn.activation("tanh"), function=lambda x: seen.append(_array.blas_threads()) or np.tanh(x)))
    objective = nn.Objective(nn.Sequential((nn.Dense(4, 3), watched, nn.Dense(3, 1))), nn.SquaredLoss())
    params, batch, opt = objective.network.init(0, HOST), (np.ones((5, 4)), np.ones(5)), nl.optim.KFAC()
    with threadpool_limits(2, user_api="blas"):
        before = _array.blas_threads()
        for crowded in (False, True):
            monkeypatch.setattr(boundary, "crowded", lambda crowded=crowded: crowded)
            state = opt.init(params, objective)
            if start:
                opt.warm_start(params, state, objective, [batch], key=0)
            else:
                opt.step(params, state, objective, batch, key=0)
            assert set(seen) == {1 if crowded else before}
            assert _array.blas_threads() == before
            seen.clear()


@pytest.mark.parametrize(("ranks", "threads"), [(1, 1), (2, 2)])
def test_several_ranks_heed_no_crowd(monkeypatch, ranks, threads):
    """Each would see another one, and what all make alike would differ in its last bits."""
    monkeypatch.setattr(boundary, "crowded", lambda: True)
    stepped = boundary.public_step(lambda self, params, state, objective: (params, state, _array.blas_threads()))
    objective = nn.by_samples(nn.Objective(nn.MLP((4, 1)), nn.SquaredLoss()), Supposed(ranks))
    opt, params = nl.optim.Adam(), objective.network.init(0, HOST)
    with threadpool_limits(2, user_api="blas"):
        assert stepped(opt, params, opt.init(params, objective), objective)[2] == threads


def test_convolutions_leave_blas_one_thread():
    """Which their walks' workers would take cores from."""
    seen = []
    watched = nn.Elementwise(replace(nn.activation("tanh"), function=lambda x: seen.append(_array.blas_threads()) or x))
    net = nn.Sequential((nn.Conv2d(1, 1, 3), watched, nn.GlobalAvgPool()), shape=(1, 4, 4))
    with threadpool_limits(2, user_api="blas"):
        net.forward(net.init(0, HOST), np.ones((2, 1, 4, 4)))
    assert seen == [1]


@pytest.mark.parametrize(("ready", "crowded"), [(1, False), (3, False), (4, True), (40, True), (None, False)])
def test_crowded_is_more_than_a_thread_beside_those_of_the_cores(monkeypatch, ready, crowded):
    """By the first of ready/all, the fourth word of Linux's load averages; nothing elsewhere."""

    def load_averages(path):
        if ready is None:
            raise FileNotFoundError(path)
        return io.StringIO(f"9.75 9.50 9.25 {ready}/812 4711\n")

    monkeypatch.setattr(_array.pool, "open", load_averages, raising=False)
    monkeypatch.setattr(_array.pool.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(_array.pool.time, "monotonic", lambda: 0.04)
    _array.pool._ready.cache_clear()
    assert _array.crowded() is crowded
    ready = 4 if ready == 3 else 3
    assert _array.crowded() is crowded  # it is the same twentieth of a second
    monkeypatch.setattr(_array.pool.time, "monotonic", lambda: 0.06)
    assert _array.crowded() is (ready == 4)
    _array.pool._ready.cache_clear()


def test_networks_give_the_same_bits_with_any_number_of_workers(monkeypatch, rng):
    """Of walks over images: convolutions by patches, strided and by groups, and by Winograd, both normalisations, both pools."""
    layers = (
        *(nn.Conv2d(3, 6, 3, pad=1), nn.BatchNorm(6), nn.Elementwise(nn.activation("relu")), nn.MaxPool(3, 2, 1)),
        *(nn.Conv2d(6, 4, 3, 2, 1, groups=2), nn.LayerNorm(4), nn.AvgPool(2), nn.Conv2d(4, 5, 3, pad=1), nn.GlobalAvgPool()),
    )
    net, x, dy = nn.Sequential(layers, shape=(3, 9, 9)), rng.standard_normal((13, 3, 9, 9)), rng.standard_normal((13, 5))
    params, found = net.init(0, x), []
    for limit in ("BLOCK", "LIGHT"):
        monkeypatch.setattr(nn.images, limit, 2**11)
    monkeypatch.setattr(nn.winograd, "CHANNELS", 4)
    for count in (1, 2, 3, 5):
        monkeypatch.setattr(_array.pool, "blas_threads", lambda count=count: count)
        outputs, tape = net.forward(params, x)
        found.append((outputs, *net.grads(params, tape, dy), net.jvp(params, tape, params)))
    assert all(np.array_equal(a, b) for one in found[1:] for a, b in zip(found[0], one, strict=True))


def test_workers_unpack_masks_into_memory_of_their_own(rng, count):
    """Masks of any width come out whole; those that several threads hold at once do not meet."""
    masks = [rng.random((8, width)) > 0.5 for width in (8, 13, 8, 5, 16) * 4]
    packed, scratch, meeting = [_array.pack_mask(mask) for mask in masks], _array.Scratch(), threading.Barrier(count, timeout=60)

    def held(i):
        mask = scratch.unpack_mask(packed[i], masks[i].shape[1], HOST.dtype)
        if i < count:
            meeting.wait()
        return mask.dtype == HOST.dtype and np.array_equal(mask, masks[i])

    assert all(_array.map_blocks(held, range(len(masks)), HOST))
    assert np.shares_memory(*(scratch.unpack_mask(packed[0], 8, HOST.dtype) for _ in range(2)))
    assert scratch.unpack_mask(packed[0], 8, np.dtype("float32")).dtype == "float32"
