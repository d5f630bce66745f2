"""Claims on cost: that wrong counts are caught."""

import itertools

import numpy as np
import pytest

from nearlin.complexity import cost as closed
from nearlin.complexity.claims import cost
from nearlin.complexity.claims.table import FAILS, HOLDS
from nearlin.complexity.counting import flops_of
from nearlin.optim import GramGaussNewton, NearLinearGaussNewton

# -------------------------------------------------------------------------------------------------------------- counts

MEASURE = {claim.id: claim.measure for claim in cost.CLAIMS}


def quadratic_step(p, _):
    """A step that also forms products of all pairs of neurons."""
    (W,) = p.params
    return cost.PARTS["whole step"](p, _) + flops_of(lambda: W @ W.T)


def doubled(*args, **kwargs):
    """The formula with one constant wrong."""
    parts = closed.near_linear_step(*args, **kwargs)
    return {**parts, "certificate": 2 * parts["certificate"]}


def outer_sketch(J, S):
    """A sketch that forms the Jacobian's rows first."""
    J.to_dense()
    return J.sketch(S)


def left_gram(J):
    """The product of the left factors alone."""
    return cost.naive_gram(J, lambda J: J.factors(slice(0, J.samples))[0].left)


class PlainRows:
    """A sketch of factors whose cost has no logarithm."""

    def sample(self, key, s, shapes, like):
        return self

    def rows(self, layer, left, right):
        return left @ left.T * (right @ right.T)


class FormsGram:
    """A near-linear step that forms the Gram matrix first, and throws it away."""

    def __init__(self, **options):
        self.opt = NearLinearGaussNewton(**options)

    def init(self, params, objective):
        return self.opt.init(params, objective)

    def step(self, params, state, objective, batch, key):
        objective.at(params, batch).jacobian().gram()
        return self.opt.step(params, state, objective, batch, key)


WRONG = {
    "a quadratic step is not linear in m": MEASURE["step-linear-in-width"].given(
        made={**cost.PARTS, "whole step": quadratic_step}
    ),
    "the structured Gram is not linear in n": MEASURE["parts-in-samples"].given(wanted={("structured Gram", "n"): 1}),
    "one wrong constant": MEASURE["step-closed-form"].given(formula=doubled),
    "the tail of another part": MEASURE["step-cubic-tail"].given(made={"whole step": cost.PARTS["factorisation"]}),
    "a structured Gram is not naive": MEASURE["naive-gram-ratio"].given(gram=left_gram),
    "no logarithm": MEASURE["kronecker-sketch-nlogn"].given(sketch=PlainRows()),
    "rows of the Jacobian in memory": MEASURE["kronecker-sketch-memory"].given(sketch=outer_sketch),
    "the exact step holds n m floats": MEASURE["step-memory"].given(opt=GramGaussNewton()),
}


@pytest.mark.parametrize("measure", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


def test_a_quadratic_step_is_named():
    outcome = WRONG["a quadratic step is not linear in m"](False)
    assert "whole step in m: degree of flops in size is 2, expected 1" in outcome.detail


def test_a_gram_matrix_in_any_kind_of_step_reads_degree_two():
    outcome = MEASURE["step-near-linear"].given(optimizer=FormsGram)(False)
    assert outcome.verdict == FAILS
    for step in ("two-layer, fresh", "two-layer, reused", "two-layer, retried", "deep perceptron, reused"):
        assert f"{step}: degree of flops between two widths in n is 2, expected 1" in outcome.detail


def test_what_a_wider_network_costs_more_is_what_it_was_counted_by_hand():
    """4 products of 4 n d, sketch 2 n, certificate 2 n d, guard and forward 2 (2 n d + 4 n), and d terms that have no n."""
    rows = itertools.islice(cost.per_width(False), 4)
    found = [row["flops between two widths"] / 720 for row in rows]
    assert np.all(np.diff(found, 2) == 0)
    assert np.diff(found)[0] / 8 == 4 * 4 * 4 + 2 + 2 * 4 + 2 * (2 * 4 + 4)


def test_one_more_float_array_of_samples_by_neurons_is_seen():
    rows = list(cost.step_memory(False))
    assert MEASURE["step-memory"].judge(rows).verdict == HOLDS
    rows[-1] = {**rows[-1], "bytes per n m": 3.0}
    assert MEASURE["step-memory"].judge(rows).verdict == FAILS
