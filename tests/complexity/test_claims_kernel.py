"""Claims on the limit kernel and damping: that what is wrong fails, and the data families."""

import numpy as np
import pytest

from nearlin.complexity.claims import data, kernel
from nearlin.complexity.claims.table import FAILS
from nearlin.optim import GramGaussNewton


def test_numbers_cover_the_kernel():
    assert {claim.number for claim in kernel.CLAIMS} == {24, 25, 26, 27}


def wrong_kernel(x):
    """A limit kernel whose angle is forgotten."""
    return x @ x.T / 2


def undamped(guard, damping):
    return GramGaussNewton(guard=guard, damping=0.0)


MEASURE = {claim.id: claim.measure for claim in kernel.CLAIMS}

WRONG = {
    "another kernel is not approached": MEASURE["gram-to-kernel"].given(kernel=wrong_kernel),
    "without the angle λ_min is quadratic": MEASURE["near-duplicates-kernel"].given(kernel=wrong_kernel),
    "a narrow network is not linear in θ": MEASURE["near-duplicates-wide"].given(width=(64, 64), angles=kernel.NARROW),
    "a wide network is not quadratic in θ": MEASURE["near-duplicates-narrow"].given(width=(2**17, 2**17), angles=kernel.WIDE),
    "the linear kernel is singular before d pairs": MEASURE["antipodal-pairs"].given(kernel=wrong_kernel),
    "no damping, no averaged fit": MEASURE["damping-fixes-duplicates"].given(optimizer=undamped),
    "with damping nothing explodes": MEASURE["undamped-duplicates"].given(damping=1e-4),
}


@pytest.mark.parametrize("measure", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


def test_duplicates_cannot_be_fitted_below_the_floor():
    p, floor = kernel.duplicates(3, n=20, copies=4, width=8)
    x, y = p.batch
    averaged = y.copy()
    averaged[:4] = averaged[-4:] = (y[:4] + y[-4:]) / 2
    assert np.array_equal(x[:4], x[-4:])
    assert floor == pytest.approx(0.5 * np.sum((averaged - y) ** 2))


@pytest.mark.parametrize("draw", data.FAMILIES.values(), ids=data.FAMILIES.keys())
def test_families_have_unit_rows_and_are_reproducible(draw):
    x = draw(24, 5)
    assert x.shape[0] == 24
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1.0)
    assert np.array_equal(x, draw(24, 5))
    assert not np.array_equal(x, draw(24, 6))


def test_the_limit_kernel_is_the_mean_of_gram_matrices():
    x = data.sphere(12, 5, 1)
    masks = data.relu_mask(x, 200_000, 2)
    np.testing.assert_allclose((x @ x.T) * (masks @ masks.T), data.limit_kernel(x), atol=0.01)
    np.testing.assert_array_equal(np.diag(data.limit_kernel(x)), 0.5)


def test_angles_are_exact_where_the_cosine_is_not():
    theta = 1e-9
    assert data.angles(data.pair_at_angle(theta, 6, 2))[0, 1] == pytest.approx(theta, rel=1e-6)
