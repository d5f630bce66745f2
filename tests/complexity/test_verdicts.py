"""The quick verdict of every claim that no clock decides."""

import pytest

from nearlin.complexity.claims import CLAIMS
from nearlin.complexity.claims.table import FAILS, HOLDS

UNDRAWN = {
    "layerwise-closed-form", "layerwise-passes", "layerwise-state", "mbf-memory-kernels", "dsgd-tight", "spectral-bound",
    "newton-schulz-certificate", "newton-schulz-no-svd",
}  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize("claim", [claim for claim in CLAIMS if claim.quick and claim.how != "time"], ids=lambda claim: claim.id)
def test_a_claim_holds_or_fails_as_it_is_known_to(claim):
    """And its curves, where it has some, are whole."""
    outcome = claim.measure(False)
    assert outcome.verdict == (HOLDS if claim.should_hold else FAILS), f"{outcome.value}: {outcome.detail}"
    assert bool(outcome.series) is (claim.id not in UNDRAWN)
    for series in outcome.series:
        assert len(series.x) == len(series.y)
        assert {len(some) for some in (series.predicted, series.low, series.high) if some is not None} <= {len(series.x)}
