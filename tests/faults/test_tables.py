"""The tables of planted faults stay true to the library: every text is there once, every test and claim exists."""

import ast

import pytest

from nearlin.complexity.claims import CLAIMS
from tests.faults.tables import ROOT, faults

FAULTS = faults()
LEAST, EQUIVALENT = 180, 6


def test_names_are_given_once_and_no_fault_was_dropped():
    names = [fault.name for fault in FAULTS]
    assert sorted(set(names)) == sorted(names)
    assert len(names) >= LEAST


def parses(text):
    """Whether a text is Python."""
    try:
        return bool(ast.parse(text))
    except SyntaxError:
        return False


def test_the_text_of_a_fault_occurs_once():
    """``planted`` raises where it does not."""
    assert [fault.name for fault in FAULTS if fault.planted(ROOT) == fault.path(ROOT).read_text()] == []


@pytest.mark.nightly
def test_the_faulty_file_parses():
    assert [fault.name for fault in FAULTS if not parses(fault.planted(ROOT))] == []


def test_who_notices_a_fault_exists():
    known = {claim.id for claim in CLAIMS}
    for fault in FAULTS:
        assert bool(fault.tests) + bool(fault.claims) + bool(fault.equivalent) == 1, fault.name
        assert [test for test in fault.tests if not (ROOT / test).exists()] == [], fault.name
        assert set(fault.claims) <= known, fault.name


def test_few_faults_are_called_equivalent():
    assert sum(bool(fault.equivalent) for fault in FAULTS) <= EQUIVALENT
