"""Calls dealt out to ranks, and symmetric matrices in half the numbers."""

import numpy as np
import pytest

import nearlin as nl
from nearlin import linalg


def spd(k, seed=0):
    A = np.random.default_rng(seed).standard_normal((k, k + 2))
    return A @ A.T


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_a_symmetric_matrix_travels_as_its_lower_triangle(be, k, lead):
    S = np.random.default_rng(k).integers(-99, 99, (*lead, k, k)).astype(float)
    S += np.swapaxes(S, -1, -2)
    packed = linalg.pack_symmetric(be.array(S))
    assert tuple(packed.shape) == (*lead, k * (k + 1) // 2)
    lower = S[..., *np.tril_indices(k)]
    assert np.array_equal(np.sort(be.numpy(packed)), np.sort(lower))
    assert np.array_equal(be.numpy(linalg.unpack_symmetric(packed, k)), S)


def test_what_is_not_finite_stays_where_it_is():
    S = spd(5)
    S[3, 1] = S[1, 3] = np.nan
    found = linalg.unpack_symmetric(linalg.pack_symmetric(S), 5)
    assert np.array_equal(found, S, equal_nan=True)


@pytest.mark.parametrize("P", [1, 2, 3, 7])
def test_each_call_is_made_once_and_all_ranks_have_its_result(P):
    matrices, made = [spd(k, k) for k in (3, 9, 4, 8, 2)], []

    def invert(i, A):
        made.append(i)
        return np.linalg.inv(A), f"matrix {i}"

    def work(ranks):
        with linalg.dealt_to(ranks):
            return linalg.dealt(invert, range(5), matrices, like=matrices[0])

    found = nl.together(P, work)
    assert sorted(made) == [0, 1, 2, 3, 4]
    for results in found:
        for i, (inverse, name) in enumerate(results):
            assert name == f"matrix {i}"
            assert np.array_equal(inverse, np.linalg.inv(matrices[i]))


def test_the_most_work_goes_first_to_the_rank_with_the_least():
    matrices = [spd(k) for k in (10, 10, 10, 18, 4)]  # 18³ is about as much as all the others

    def work(ranks):
        own = []
        with linalg.dealt_to(ranks):
            linalg.dealt(lambda i, A: own.append(i), range(5), matrices, like=matrices[0])
        return own

    assert nl.together(2, work) == [[3], [0, 1, 2, 4]]


def test_an_error_of_one_rank_is_raised_on_all():
    def work(ranks):
        with linalg.dealt_to(ranks), pytest.raises(linalg.FactorizationError) as found:
            linalg.dealt(lambda A: linalg.damped_cholesky(A, 0.0, "factor"), [spd(3), -spd(4)], like=spd(3))
        return str(found.value)

    sentences = nl.together(2, work)
    assert sentences[0] == sentences[1]
    assert "factor (4 x 4" in sentences[0]


def test_outside_of_the_context_every_rank_makes_all_calls():
    def work(ranks):
        with linalg.dealt_to(ranks):
            pass
        return linalg.dealt(lambda A: A.shape[0], [spd(2), spd(3)], like=spd(2)), dict(ranks.calls)

    assert nl.together(2, work) == [([2, 3], {})] * 2
