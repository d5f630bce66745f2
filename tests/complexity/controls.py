"""Negative controls as parameters of a test: what must fail, by what is wrong with it."""

import pytest


def controls(wrong, slow=()):
    """The values of ``wrong``, tuples or single ones; those named ``slow`` run with ``--nightly`` alone."""
    assert set(slow) <= set(wrong)
    return [
        pytest.param(*(made if isinstance(made, tuple) else (made,)), id=name, marks=[pytest.mark.nightly] * (name in slow))
        for name, made in wrong.items()
    ]
