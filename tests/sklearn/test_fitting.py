"""From checked rows to a fit: parts of a table, the choice of the penalty, and iterations, of which each has draws of its own."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.7")

from nearlin import nn
from nearlin.experiments.batches import Batches
from nearlin.sklearn.descent import Fitted, Rule, descend
from nearlin.sklearn.fitting import Table, Task
from nearlin.sklearn.scaling import Scaling
from nearlin.sklearn.solvers import Wide, unknowns


def table(n, weights=None, labels=None):
    shares = None if weights is None else weights / np.mean(weights)
    return Table(np.arange(2.0 * n).reshape(n, 2), np.arange(float(n)), shares, labels, np.arange(n))


def test_a_part_has_the_weights_that_were_given():
    given = np.random.default_rng(0).uniform(0.5, 3.0, 40)
    for weights in (given, None):
        part = table(40, weights)[np.array([3, 8, 5])][np.array([2, 0])]
        np.testing.assert_array_equal(part.rows, [5, 3])
        np.testing.assert_array_equal(part.y, [5, 3])
        if weights is not None:
            np.testing.assert_allclose(part.weights, 2 * given[[5, 3]] / (given[5] + given[3]))


def test_held_out_rows_have_the_classes_in_their_proportions():
    labels = np.repeat([0, 1], [80, 20])
    for seed in range(5):
        fitted, held_out = table(100, labels=labels).split(0.1, np.random.RandomState(seed))
        np.testing.assert_array_equal(np.bincount(held_out.labels), [8, 2])
        np.testing.assert_array_equal(np.sort([*fitted.rows, *held_out.rows]), np.arange(100))


def test_the_penalty_has_the_least_loss_on_rows_that_were_not_fitted():
    """Without the penalty in it, by shorter fits each from the start, on at most 8000 rows, until one is worse; then on all."""
    fits, losses = [], {1e-2: 3.0, 1e-3: 2.0, 1e-4: 2.5}

    class Scripted(Task):
        def fit(self, some, l2, params, score=None, lost=None):
            fits.append((self.optimizer, self.rule, some, float(params[0][0])))
            return Fitted((np.array([l2], params[0].dtype),), [], None, True)

        def value(self, some, params, l2=0.0):
            assert not set(some.rows) & set(fits[-1][2].rows)
            assert (some.n, fits[-1][2].n) == (800, 7200)
            return losses[min(losses, key=lambda known: abs(known - params[0][0]))] + 1e3 * l2

    task = Scripted(None, None, "whole", "rough", None, Rule(200, 1e-4, 10), 0)
    l2, (W,) = task.choose(table(10000), (np.array([7.0]),), np.random.RandomState(0))
    assert (l2, W[0], W.dtype) == (1e-3, 1e-3, np.float64)
    assert {(optimizer, rule) for optimizer, rule, *_ in fits} == {("rough", Rule(200, 1e-4, 5))}
    assert [start for *_, start in fits] == [7.0] * 3 + [1e-3]
    assert fits[-1][2].n == 10000
    fits.clear()
    losses.update({1e-3: 4.0, 1e-4: 0.0})
    assert task.choose(table(10000), (np.array([7.0]),), np.random.RandomState(0))[0] == 1e-2
    assert len(fits) == 3


def test_a_penalty_is_given_up_where_its_held_out_loss_is_above_the_best_and_rises():
    """By steps on all rows; passes through mini-batches may rise."""
    curves = {1e-2: [9.0, 9.5, 2.0], 1e-3: [9.0, 3.0, 1.0, 1.5, 1.8, 2.5, 0.0]}  # of the held-out rows, step by step
    taken = dict.fromkeys((1e-2, 1e-3, 1e-4), 0)

    class Scripted(Task):
        def fit(self, some, l2, params, score=None, lost=None):
            while some.n < 200 and taken[l2] < len(curves[l2]):
                taken[l2] += 1
                if lost is not None and lost((l2,)):
                    break
            return Fitted((np.array(l2),), [], None, True)

        def value(self, some, params, l2=0.0):
            return curves[float(params[0])][taken[float(params[0])] - 1]

    task = Scripted(None, None, None, None, None, Rule(200, 1e-4, 10), 0)
    assert task.choose(table(200), (np.zeros(1),), np.random.RandomState(0))[0] == 1e-2
    assert taken == {1e-2: 3, 1e-3: 6, 1e-4: 0}
    taken.update(dict.fromkeys(taken, 0))
    curves[1e-4] = [3.0]
    assert replace(task, batch_size=50).choose(table(200), (np.zeros(1),), np.random.RandomState(0))[0] == 1e-3
    assert taken == {1e-2: 3, 1e-3: 7, 1e-4: 1}


def test_iterations_end_without_progress_and_every_step_has_its_own_draws():
    keys, losses = [], iter([(4.0, 1.0), (3.0, 0.0), (2.0, 2.95), (1.9, 3.1), (0.0, 0.0)])

    class Scripted:
        def init(self, params, objective):
            return iter(value for pair in losses for value in pair)

        def step(self, params, state, objective, batch, key):
            keys.append(key)
            return params, state, SimpleNamespace(loss=next(state))

    batches = Batches((np.zeros((4, 1)), np.zeros((4, 1))), 3, 0)
    found = descend(Scripted(), None, (), batches, Rule(9, 0.2, 2), 5)
    assert found.losses == pytest.approx([3.25, 2.25, 2.2375, 2.2])  # a batch of three rows and one of one
    assert found.converged
    assert len(set(keys)) == len(keys) == 8


def test_iterations_end_where_they_are_lost():
    taken = []

    class Scripted:
        def init(self, params, objective):
            return None

        def step(self, params, state, objective, batch, key):
            taken.append(key)
            return (len(taken),), state, SimpleNamespace(loss=1.0 / len(taken))

    batches = Batches((np.zeros((4, 1)), np.zeros((4, 1))), None, 0)
    found = descend(Scripted(), None, (0,), batches, Rule(9, 0.0, 2), 5, lost=lambda params: params[0] == 3)
    assert (len(taken), found.params, found.converged) == (3, (3,), False)


def test_columns_that_vary_by_rounding_alone_are_left():
    x = np.full((30, 2), 0.1)
    x[:, 1] += np.spacing(0.1) * (np.arange(30) % 2)
    np.testing.assert_array_equal(Scaling.fit(x).deviation, 1.0)


def test_unknowns_are_those_of_the_smaller_side():
    network = nn.MLP((4, 8, 3))
    assert [unknowns(network, n) for n in (5, 10**6)] == [5 * 3, 8 * 5 + 3 * 9]


def test_layers_on_raw_units_are_those_on_scaled_ones_and_come_back():
    g = np.random.default_rng(0)
    X, y = g.standard_normal((20, 3)) * (1, 10, 0.1) + (5, -100, 0), 7 * g.standard_normal((20, 2)) + 3
    scaling = Scaling.fit(X, y)
    coefs, intercepts = [g.standard_normal((3, 4)), g.standard_normal((4, 2))], [g.standard_normal(4), g.standard_normal(2)]
    outputs = lambda x, W, b: np.tanh(x @ W[0] + b[0]) @ W[1] + b[1]  # noqa: E731
    raw = scaling.fold(coefs, intercepts)
    want = outputs((X - X.mean(axis=0)) / X.std(axis=0), coefs, intercepts) * y.std(axis=0) + y.mean(axis=0)
    np.testing.assert_allclose(outputs(X, *raw), want, rtol=1e-10)
    for found, given in zip(scaling.unfold(*raw), (coefs, intercepts), strict=True):
        for a, b in zip(found, given, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_the_wide_network_begins_with_sums_of_variance_one():
    """For inputs of mean 0 and deviation 1 and the constant beside them."""
    coefs, intercepts = Wide((8, 4000, 1), "relu").draw(np.random.RandomState(0), np.zeros(1))
    sums = np.random.default_rng(0).standard_normal((50, 8)) @ coefs[0] + intercepts[0]
    assert np.mean(sums**2) == pytest.approx(1.0, abs=0.15)
