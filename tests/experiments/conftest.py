"""What tests of runs share."""

import pytest

from nearlin.experiments import tuning
from nearlin.experiments.run_folder import RunFolder


@pytest.fixture(autouse=True)
def without_a_terminal(monkeypatch):
    """Tables are those of a file, also where the workers of pytest-xdist say that they have 80 columns."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def pictures():
    """Tests of pictures ask for them: elsewhere runs draw none, which would be most of their time."""


@pytest.fixture(autouse=True)
def without_pictures(request, monkeypatch):
    """See `pictures`."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(RunFolder, "_draw", lambda self, result: None)
        monkeypatch.setattr(tuning, "_draw", lambda *given: None)
