"""Claims on sketches and inner iterations: their quick verdicts, and that what is wrong fails."""

import functools
import math

import numpy as np
import pytest

from nearlin.complexity.claims import data, sketch
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME
from nearlin.linalg import TriangularPreconditioner, cg, richardson
from nearlin.sketch import CountSketch, KroneckerSRHT, NeuronSamples


@pytest.mark.nightly
@pytest.mark.parametrize("claim", sketch.CLAIMS, ids=lambda claim: claim.id)
def test_quick_verdicts(claim):
    outcome = claim.measure(False)
    assert outcome.verdict == (HOLDS if claim.should_hold else FAILS), f"{outcome.value}: {outcome.detail}"
    assert outcome.series
    for series in outcome.series:
        assert len(series.x) == len(series.y) == len(series.predicted or series.y)


def test_numbers_cover_sketches_and_inner_iterations():
    assert {claim.number for claim in sketch.CLAIMS} == {0, 8, 9, 10, 11, 12, 13, 14, 28, 29, 30, 31, 32}


WRONG = {
    "neuron samples miss near-duplicates": functools.partial(sketch.neuron_mode, sketch=NeuronSamples()),
    "neuron samples are not universal": functools.partial(
        sketch.universal, sketch=lambda family: NeuronSamples(), families=("near-duplicates",)
    ),
    "without oversampling collinear data are not": functools.partial(
        sketch.universal, sketch=lambda family: KroneckerSRHT(oversample=1), families=("offset",)
    ),
    "neuron samples are not like the plain transform": functools.partial(
        sketch.structured_like_plain, sketch=lambda family: NeuronSamples()
    ),
    "neuron samples do not bound the iterations": functools.partial(sketch.pcg_worst_case, sketch=lambda family: NeuronSamples()),
    "half the sketch needs more iterations": functools.partial(sketch.pcg_counts, ratio=2),
    "a wrong threshold is not found": functools.partial(
        sketch.threshold, iteration=richardson, factor=lambda mu: 1 - mu, expected=14.0
    ),
    "float64 does not have float32's floor": functools.partial(sketch.float32_floor, dtype="float64"),
    "a narrower range does not hold": functools.partial(sketch.class_averaged, low=1.0, high=1.5),
}


@pytest.mark.parametrize("measure", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


def test_moving_masks_are_out_of_regime():
    outcome = sketch.kept_preconditioners(False, family="offset")
    assert outcome.verdict == OUT_OF_REGIME
    assert "masks move" in outcome.detail


def test_singular_grams_are_out_of_regime():
    assert sketch.universal(False, families=("circle",)).verdict == OUT_OF_REGIME


def test_the_history_is_that_of_cg(rng):
    a = rng.standard_normal((30, 60))
    a, b = a @ a.T, rng.standard_normal(30)
    M = TriangularPreconditioner(np.linalg.cholesky(a + 10 * np.eye(30)).T)
    history = sketch.pcg(lambda v: a @ v, b, M, rtol=1e-8)
    x, info = cg(lambda v: a @ v, b, preconditioner=M, rtol=1e-8)
    np.testing.assert_allclose(history.iterates[-1], x, rtol=1e-12)
    assert history.count(1e-8) == info.iterations == len(history.residuals)
    assert history.count(1e-3) == cg(lambda v: a @ v, b, preconditioner=M, rtol=1e-3)[1].iterations


def test_formulas():
    assert [round(sketch.gaussian_condition(ratio), 1) for ratio in (2, 3, 4, 8)] == [34.0, 13.9, 9.0, 4.4]
    assert [sketch.energy_count(epsilon, 4) for epsilon in (1e-3, 1e-6, 1e-10)] == [11, 21, 35]
    assert round(sketch.RICHARDSON_THRESHOLD, 2) == 11.66
    assert round(sketch.DOUBLE_PRODUCT_THRESHOLD, 1) == 39.5
    assert all(math.isclose(sketch.expected_floor(kappa), floor) for kappa, floor in sketch.FLOORS)


def test_every_draw_counts():
    J = sketch.jacobian(data.sphere(32, 4, key=0), 64)
    kappas = sketch.conditions(J, CountSketch(), 4, draws=5)
    assert np.all(np.diff(kappas) > 0)
    assert sketch.median_condition(J, CountSketch(), 4, draws=5) == kappas[2]
