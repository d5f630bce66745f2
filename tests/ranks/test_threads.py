"""Ranks as threads: every call beside plain NumPy on all ranks' arrays, what is counted, and how ranks that differ end."""

import pickle
import threading
import time

import numpy as np
import pytest

import nearlin as nl
from nearlin import _array
from nearlin._ranks import Supposed, launch

SIZES = (1, 2, 3, 7)


def gave(rank, shape=(5, 3)):
    """What a rank gives in these tests."""
    return np.random.default_rng(rank).standard_normal(shape)


@pytest.mark.parametrize(("n", "unit"), [(61, 1), (61, 8), (65, 8), (7, 8), (64, 8), (0, 1)])
@pytest.mark.parametrize("P", SIZES)
def test_shares_are_even_in_order_and_all(n, unit, P):
    (shares, *_), own = nl.together(P, lambda ranks: ranks.shares(n, unit)), nl.together(P, lambda ranks: ranks.share(n, unit))
    assert own == shares
    assert [i for s in shares for i in range(s.start, s.stop)] == list(range(n))
    lengths = [-(-(s.stop - s.start) // unit) for s in shares]
    assert max(lengths) - min(lengths) <= 1
    assert all(s.start % unit == 0 or s.start == n for s in shares)
    sizes = [s.stop - s.start for s in shares]
    assert Supposed(P).fewest_and_most(n, unit) == (min(sizes), max(sizes))


@pytest.mark.parametrize("P", SIZES)
def test_a_sum_is_that_of_all_ranks_arrays(P):
    made = nl.together(P, lambda ranks: ranks.sum(gave(ranks.rank), "it"))
    wanted = np.sum([gave(r) for r in range(P)], axis=0)
    assert all(np.allclose(x, wanted, rtol=1e-15, atol=1e-15) for x in made)
    assert all(np.array_equal(x, made[0]) for x in made)


def test_a_sum_leaves_what_it_is_given_and_is_nobody_elses():
    def work(ranks):
        mine = gave(ranks.rank)
        total = ranks.sum(mine, "it")
        kept = total.copy()
        total *= 2
        mine *= 3
        ranks.all(True, "have written")
        return np.array_equal(mine, 3 * gave(ranks.rank)) and np.array_equal(total, 2 * kept)

    assert nl.together(3, work) == [True] * 3


@pytest.mark.parametrize("P", SIZES)
def test_rows_are_put_together_in_order(P):
    whole = gave(9, (11, 2))
    made = nl.together(P, lambda ranks: ranks.rows(whole[ranks.share(11, 4)], 11, "it", unit=4))
    assert all(np.array_equal(x, whole) for x in made)


@pytest.mark.parametrize("flags", [(True, True, True), (True, False, True), (False, False, False)])
def test_all_and_decide_are_one_answer_for_all_ranks(flags):
    made = nl.together(3, lambda ranks: (ranks.all(flags[ranks.rank], "a"), ranks.decide(flags[ranks.rank], "b")))
    assert made == [(all(flags), any(flags))] * 3


def test_what_the_right_neighbour_and_a_root_have():
    made = nl.together(3, lambda ranks: (ranks.from_right(gave(ranks.rank), "a"), ranks.broadcast(gave(ranks.rank), "b", root=1)))
    assert np.array_equal(made[0][0], gave(1))
    assert np.array_equal(made[1][0], gave(2))
    assert made[2][0] is None
    assert all(np.array_equal(b, gave(1)) for _, b in made)


def test_each_rank_hears_of_every_ranks_value():
    assert nl.together(3, lambda ranks: ranks.each({"rank": ranks.rank}, "it")) == [[{"rank": r} for r in range(3)]] * 3


def test_bytes_and_calls_are_counted_by_name():
    def work(ranks):
        for _ in range(2):
            ranks.sum(gave(0), "product")
        ranks.sum(np.float64(1.0), "number")
        ranks.rows(gave(0, (len(range(11)[ranks.share(11)]), 3)), 11, "rows")
        ranks.from_right(gave(0, (4,)), "border")
        ranks.each("r" * ranks.rank, "words")
        return ranks.bytes, ranks.calls

    words = sum(len(pickle.dumps("r" * r)) for r in range(3))
    for nbytes, calls in nl.together(3, work):
        assert nbytes == {"product": 2 * 8 * 15, "number": 8, "rows": 8 * 33, "border": 8 * 4, "words": words}
        assert calls == {"product": 2, "number": 1, "rows": 1, "border": 1, "words": 1}


def test_seconds_that_a_rank_waits_add_up():
    def work(ranks):
        for _ in range(3):
            time.sleep(0.05 * ranks.rank)
            ranks.all(True, "there")
        return ranks.seconds["there"]

    first, last = nl.together(2, work)
    assert first > 0.14
    assert last < first


def test_the_environment_tells_who_was_launched(monkeypatch):
    for name in (*launch.SIZES, *launch.RANKS):
        monkeypatch.delenv(name, raising=False)
    assert launch.launched() == (0, 1)
    for rank, size in zip(launch.RANKS, launch.SIZES, strict=True):
        with monkeypatch.context() as patch:
            patch.setenv(size, "2")
            patch.setenv(rank, "1")
            assert launch.launched() == (1, 2)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert launch.launched() == (0, 1)


@pytest.mark.parametrize("start", [nl.Alone, lambda: nl.together(1, lambda ranks: ranks)[0]], ids=["Alone", "together"])
def test_one_rank_gets_its_own_arrays_back_and_counts_nothing(start):
    with start() as ranks:
        x = gave(0)
        assert ranks.sum(x, "a") is x
        assert ranks.rows(x, 5, "b") is x
        assert ranks.broadcast(x, "c") is x
        assert ranks.from_right(x, "d") is None
        assert (ranks.all(False, "e"), ranks.decide(True, "f"), ranks.each(3, "g")) == (False, True, [3])
        assert not ranks.bytes
        assert not ranks.calls


def test_arrays_of_every_backend_come_back_on_theirs(be):
    if be.name == "cupy:device1":
        pytest.skip("every thread begins on the first device")
    made = nl.together(2, lambda ranks: ranks.sum(be.array(gave(ranks.rank)), "it"))
    tol = be.tol(1e-15)
    assert all(np.allclose(be.numpy(x), gave(0) + gave(1), rtol=tol, atol=tol) for x in made)


def test_walks_are_serial_on_every_rank(monkeypatch):
    monkeypatch.setattr("nearlin._array.pool.blas_threads", lambda: 4)
    assert _array.workers(gave(0)) == 4
    assert nl.together(2, lambda ranks: _array.workers(gave(0))) == [1, 1]


def test_rows_of_another_number_than_the_ranks_share_are_refused():
    with pytest.raises(ValueError, match="x has 4 rows; expected 3, rank 1's share of 6"):
        nl.together(2, lambda ranks: ranks.rows(gave(0, (3 + ranks.rank, 2)), 6, "it"))


# -------------------------------------------------------------------------------------------------------------- ranks that differ


def ending(first):
    """``first`` on rank 1 and a sum on the others, which it ends: the error, within a second."""
    start = time.perf_counter()
    with pytest.raises((nl.Diverged, KeyError)) as found:
        nl.together(3, lambda ranks: first(ranks) if ranks.rank == 1 else ranks.sum(gave(0), "forward"))
    assert time.perf_counter() - start < 1
    return found.value


def test_a_rank_that_returns_ends_those_that_wait():
    error = ending(lambda ranks: time.sleep(0.1))
    assert isinstance(error, nl.Diverged)
    assert str(error) in {f"rank 1 has ended, while rank {r} asks for the sum of forward (5, 3) float64" for r in (0, 2)}


def test_a_rank_that_returns_ends_those_that_come_later():
    def work(ranks):
        if ranks.rank == 0:
            time.sleep(0.1)
            ranks.sum(gave(0), "forward")

    with pytest.raises(nl.Diverged, match=r"rank [12] has ended, while rank 0 asks for the sum of forward \(5, 3\)"):
        nl.together(3, work)


def test_a_rank_that_raises_ends_the_others_and_says_which_it_was():
    def raises(ranks):
        raise KeyError("no such thing")

    error = ending(raises)
    assert isinstance(error, KeyError)
    assert error.__notes__ == ["on rank 1 of 3"]


@pytest.mark.parametrize(
    ("first", "call"),
    [
        (lambda ranks: ranks.sum(gave(0), "product"), "asks for the sum of product (5, 3)"),
        (lambda ranks: ranks.sum(gave(0, (5,)), "forward"), "asks for the sum of forward (5,)"),
        (lambda ranks: ranks.sum(gave(0).astype("float32"), "forward"), "asks for the sum of forward (5, 3) float32"),
        (lambda ranks: ranks.all(True, "converged"), "asks whether all converged"),
        (lambda ranks: ranks.broadcast(gave(0), "factor", root=2), "asks for factor (5, 3) float64 of rank 2"),
    ],
    ids=["name", "shape", "dtype", "kind", "root"],
)
def test_ranks_that_ask_for_different_things_are_told_both(first, call):
    error = ending(first)
    assert isinstance(error, nl.Diverged)
    assert f"rank 1 {call}" in str(error)
    assert "asks for the sum of forward (5, 3)" in str(error)


def test_no_thread_outlives_a_world_that_has_ended():
    before = threading.active_count()
    ending(lambda ranks: None)
    assert threading.active_count() == before
