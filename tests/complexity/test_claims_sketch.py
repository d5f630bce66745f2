"""Claims on sketched preconditioners: that what is wrong fails."""

import numpy as np
import pytest

from nearlin.complexity.claims import data, sketch, spectra
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME
from nearlin.sketch import CountSketch, Gaussian, KroneckerSRHT, NeuronSamples
from tests.complexity.controls import controls


def test_numbers_cover_sketches():
    assert {claim.number for claim in sketch.CLAIMS} == {0, 8, 9, 14, 28, 29, 30, 31}


MEASURE = {claim.id: claim.measure for claim in sketch.CLAIMS}


def samples(family):
    """A sketch that misses what a family needs."""
    return NeuronSamples()


WRONG = {
    "neuron samples miss near-duplicates": MEASURE["kappa-neuron-mode"].given(sketch=samples),
    "neuron samples are not universal": MEASURE["kappa-universal"].given(sketch=samples, families=("near-duplicates",)),
    "without oversampling collinear data are not": MEASURE["kappa-universal"].given(
        sketch=lambda family: KroneckerSRHT(oversample=1), families=("offset",)
    ),
    "neuron samples are not like the plain transform": MEASURE["kappa-structured-sketch"].given(sketch=samples),
    "a matrix that forgets the samples preconditions no class": MEASURE["kappa-class-averaged"].given(
        averaged=lambda J: np.eye(J.samples)
    ),
}
SLOW = ("neuron samples are not like the plain transform", "a matrix that forgets the samples preconditions no class")


@pytest.mark.parametrize("measure", controls(WRONG, slow=SLOW))
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


ROW = {"data": "sphere", "network": "relu", "s/n": 2, "s/(n c)": 2, "m'/n": 2, "limit": 10.0, "κ(G)": 30.0, "tr(G̃)/tr(G)": 1.0}
ROW |= {"κ_pre": 10.0, "d_eff/n": 0.5, "median κ_pre": 10.0, "formula": 10.0, "κ_pre with s = n": 10.0, "kept": "K"}
ROW |= {"outer step": 1, "most": 10.0, "ratio of residuals": 0.5, "plain κ_pre": 10.0, "n": 2, "m": 2, "d": 2}
ROW |= {"ratio without oversampling": 3.5, "ratio with fourfold oversampling": 1.2, "activation": "relu", "reference": 2.0}


@pytest.mark.parametrize(
    ("name", "column", "holds", "fails"),
    [
        ("kappa-universal", "κ_pre", (8.6, 11.4), (8.4, 11.6)),
        ("kappa-universal", "tr(G̃)/tr(G)", (0.86, 1.14), (0.84, 1.16)),
        ("kappa-neuron-mode", "κ_pre", (1.0, 10.0), (10.1,)),
        ("kappa-neuron-mode", "tr(G̃)/tr(G)", (0.86, 1.14), (0.84, 1.16)),
        ("kappa-structured-sketch", "median κ_pre", (9.1, 11.9), (8.9, 12.1)),
        ("kappa-collinear-oversampling", "ratio without oversampling", (1.0, 3.4), (3.6,)),
        ("kappa-collinear-oversampling", "ratio with fourfold oversampling", (1.0, 1.1), (1.3,)),
        ("kappa-effective-dimension", "median κ_pre", (1.0, 9.9), (10.1,)),
        ("kappa-effective-dimension", "κ_pre with s = n", (1.0, 33.9), (34.1,)),
        ("kappa-kept-preconditioner", "κ_pre", (1.0, 9.9), (10.1,)),
        ("kappa-layer-sum", "κ_pre", (8.6, 11.4), (8.4, 11.6)),
        ("kappa-class-averaged", "median κ_pre", (1.1, 3.9), (0.9, 4.1)),
        ("kappa-class-averaged-range", "median κ_pre", (1.05, 2.4), (1.0, 2.5)),
    ],
)
def test_a_claim_fails_by_each_of_its_bounds(name, column, holds, fails):
    for values, verdict in ((holds, HOLDS), (fails, FAILS)):
        assert [MEASURE[name].judge([{**ROW, column: value}]).verdict for value in values] == [verdict] * len(values)


@pytest.mark.parametrize(("most", "verdict"), [(24.0, HOLDS), (26.0, FAILS)])
def test_medians_are_near_the_limit_and_no_draw_far_above_it(most, verdict):
    assert MEASURE["kappa-universal"].judge([{**ROW, "κ_pre": kappa} for kappa in (9.0, 10.0, most)]).verdict == verdict


@pytest.mark.parametrize("over", "nmd")
@pytest.mark.parametrize(("power", "verdict"), [(0.09, HOLDS), (-0.09, HOLDS), (0.11, FAILS), (-0.11, FAILS)])
def test_kappa_grows_with_no_size(over, power, verdict):
    flat = [{"limit": 9.0, v: k, f"median κ_pre over {v}": 9.0} for v in "nmd" if v != over for k in (64, 128)]
    grown = [{"limit": 9.0, over: k, f"median κ_pre over {over}": k**power} for k in (64, 128)]
    assert MEASURE["kappa-size-independent"].judge(flat + grown).verdict == verdict


def test_moving_masks_are_out_of_regime():
    outcome = MEASURE["kappa-kept-preconditioner"].given(family="offset")(False)
    assert outcome.verdict == OUT_OF_REGIME
    assert "out of regime: largest ratio of residuals is" in outcome.detail


def test_singular_grams_are_out_of_regime():
    assert MEASURE["kappa-universal"].given(families=("circle",))(False).verdict == OUT_OF_REGIME


def test_limits_of_gaussian_sketches():
    assert [round(spectra.gaussian_condition(ratio), 1) for ratio in (2, 3, 4, 8)] == [34.0, 13.9, 9.0, 4.4]


def test_every_draw_counts_and_stands_in_a_row():
    J = spectra.jacobian(data.sphere(32, 4, key=0), 64)
    kappas = spectra.conditions(J, CountSketch(), 4, draws=5)
    assert len(set(kappas)) == 5
    assert spectra.median_condition(J, CountSketch(), 4, draws=5) == sorted(kappas)[2]
    rows = list(sketch.against_gaussian(J, CountSketch(), (2, 4), draws=5))
    assert [row["κ_pre"] for row in rows if row["s/n"] == 4] == kappas
    assert {row["s/n"]: round(row["limit"], 1) for row in rows} == {2: 34.0, 4: 9.0}


def test_the_scale_of_a_sketch_is_that_of_its_trace():
    J = spectra.jacobian(data.sphere(32, 4, key=0), 64)
    rows = [spectra.sketched_gram(J, Gaussian(), 4, key) for key in range(3)]
    expected = np.mean([np.trace(G) for G in rows]) / np.linalg.norm(J.to_dense()) ** 2
    np.testing.assert_allclose(spectra.scale(J, Gaussian(), 4, 3), expected)
