"""The runner: every claim ends with an outcome, whatever its measurement does; and the table that ids are picked from."""

import dataclasses
import subprocess
import sys

import pytest

from nearlin._array import blas_threads
from nearlin.complexity import claims as table
from nearlin.complexity.claims.runner import run
from nearlin.complexity.claims.table import FAILS, HOLDS, NOT_BUILT, NOT_MEASURED, OUT_OF_REGIME, Claim, Outcome


def claim(id="a", measure=lambda full: Outcome("1", HOLDS), how="count", **options):
    return Claim(id, 0, "family", "derived", "It holds.", "a number", how, "1", "always", measure, **options)


def raising(error):
    def measure(full):
        raise error

    return measure


def one(*args, full=False, **kwargs):
    (result,), interrupted = run([claim(*args, **kwargs)], full)
    assert not interrupted
    return result


def test_a_measurement_gives_its_outcome_and_seconds():
    result = one(measure=lambda full: Outcome("1", OUT_OF_REGIME, "too small"))
    assert (result.verdict, result.outcome.detail) == (OUT_OF_REGIME, "too small")
    assert result.seconds > 0


@pytest.mark.parametrize("full", [False, True])
def test_the_full_flag_reaches_the_measurement(full):
    seen = []
    one(measure=lambda flag: seen.append(flag) or Outcome("", HOLDS), full=full)
    assert seen == [full]


@pytest.mark.parametrize("options", [{"how": "time"}, {"quick": False}])
def test_timed_and_long_claims_wait_for_full(options):
    result = one(measure=raising(AssertionError), **options)
    assert result.verdict == NOT_MEASURED
    assert "--full" in result.outcome.detail
    assert one(**options, full=True).verdict == HOLDS


def test_a_claim_without_a_measurement_is_not_built_yet():
    assert one(measure=None).verdict == one(measure=None, how="time", full=True).verdict == NOT_BUILT


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        (raising(ValueError("n is 0;\n expected 1")), "ValueError: n is 0; expected 1"),
        (raising(ZeroDivisionError()), "ZeroDivisionError"),
        (raising(MemoryError("no 8 GB")), "MemoryError: no 8 GB"),
        (lambda full: 3, "returned a int"),
        (lambda full: Outcome("1", "perhaps"), "verdict is 'perhaps'"),
    ],
)
def test_an_error_inside_a_measurement_is_a_failure_with_its_sentence(measure, says):
    result = one(measure=measure)
    assert result.verdict == FAILS
    assert says in result.outcome.detail
    assert "\n" not in result.outcome.detail


def test_only_a_claim_that_should_hold_disappoints():
    fails = lambda full: Outcome("2", FAILS)  # noqa: E731
    assert one(measure=fails).disappoints
    assert not one(measure=fails, should_hold=False).disappoints
    assert not one().disappoints
    assert not one(measure=None).disappoints


def test_interruption_keeps_what_was_measured():
    ids = []
    claims = [claim("a"), claim("b", raising(KeyboardInterrupt())), claim("c", raising(AssertionError()))]
    results, interrupted = run(claims, before=lambda c: ids.append(c.id), after=lambda r: ids.append(r.verdict))
    assert interrupted
    assert [result.verdict for result in results] == [HOLDS, NOT_MEASURED, NOT_MEASURED]
    assert results[2].outcome.detail == "interrupted"
    assert ids == ["a", HOLDS, "b"]


@pytest.mark.parametrize("how", ["count", "time"])
def test_claims_run_on_one_blas_thread(how):
    before, seen = blas_threads(), []
    one(how=how, measure=lambda full: seen.append(blas_threads()) or Outcome("", HOLDS), full=True)
    assert seen == [1]
    assert blas_threads() == before


# -------------------------------------------------------------------------------------------------------------- the table


def test_selection_keeps_the_order_of_the_table():
    claims = tuple(map(claim, "abc"))
    assert [c.id for c in table.select(["c", "a"], claims)] == ["a", "c"]
    assert table.select([], claims) == claims


@pytest.mark.parametrize(
    ("name", "says"),
    [("outer-rat", "did you mean 'outer-rate'"), ("Outer_Rate", "did you mean 'outer-rate'"), ("xyz", "the ids are")],
)
def test_an_unknown_id_gets_a_hint(name, says):
    with pytest.raises(ValueError, match=f"unknown claim '{name}'; {says}"):
        table.select([name], (claim("outer-rate"), claim("cg-counts")))


def test_the_table_is_complete_and_consistent():
    assert {c.number for c in table.CLAIMS} >= set(range(1, 34))
    ids = [c.id for c in table.CLAIMS]
    assert len(set(ids)) == len(ids)
    for c in table.CLAIMS:
        assert c.id == c.id.lower().replace(" ", "-").replace(",", "-")
        for field in dataclasses.fields(c):
            assert getattr(c, field.name) not in ("", None) or field.name == "measure", (c.id, field.name)


def test_importing_nearlin_loads_no_claims():
    code = "import sys, nearlin, nearlin.complexity.claims; print('nearlin.complexity.claims.outer' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
