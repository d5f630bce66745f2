"""The tables of planted faults stay true to the library: every text is there once, every test and claim exists."""

import ast

import pytest

from nearlin.complexity.claims import CLAIMS
from tests.faults.tables import ROOT, faults

FAULTS = faults()
LEAST, EQUIVALENT = 169, 6


def test_names_are_given_once_and_no_fault_was_dropped():
    names = [fault.name for fault in FAULTS]
    assert sorted(set(names)) == sorted(names)
    assert len(names) >= LEAST


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_text_of_a_fault_occurs_once_and_the_faulty_file_parses(fault):
    planted = fault.planted(ROOT)
    assert planted != fault.path(ROOT).read_text()
    ast.parse(planted)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_who_notices_a_fault_exists(fault):
    assert bool(fault.tests) + bool(fault.claims) + bool(fault.equivalent) == 1
    assert [test for test in fault.tests if not (ROOT / test).exists()] == []
    assert set(fault.claims) <= {claim.id for claim in CLAIMS}


def test_few_faults_are_called_equivalent():
    assert sum(bool(fault.equivalent) for fault in FAULTS) <= EQUIVALENT
