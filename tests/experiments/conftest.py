"""What tests of runs share."""

import pytest

from nearlin.experiments.run_folder import RunFolder


@pytest.fixture
def without_pictures(monkeypatch):
    """Runs draw none: tests of pictures ask for them, and elsewhere they would be most of the time."""
    monkeypatch.setattr(RunFolder, "_draw", lambda self, result: None)
