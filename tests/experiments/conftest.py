"""What tests of runs share."""

import pytest

from nearlin.experiments.run_folder import RunFolder


@pytest.fixture
def pictures():
    """Tests of pictures ask for them: elsewhere runs draw none, which would be most of their time."""


@pytest.fixture(autouse=True)
def without_pictures(request, monkeypatch):
    """See `pictures`."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(RunFolder, "_draw", lambda self, result: None)
