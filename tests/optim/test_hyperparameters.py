"""The hyper-parameters of every optimizer refuse what they cannot be, in words that name them."""

import dataclasses
import math

import numpy as np
import pytest

from nearlin import optim
from nearlin.experiments import OPTIMIZERS

MAY_BE_NONE = {("Ginger", "clip")}  # besides those that are None by default
WRONG = ["oops", "", 1j, complex(2), math.nan, None, np.ones(1), np.ones((2, 2))]
FIELDS = [(name, f) for name in OPTIMIZERS.values() for f in dataclasses.fields(getattr(optim, name)) if f.init]
CASES = [
    pytest.param(name, f.name, value, id=f"{name}-{f.name}-{np.shape(value) or value!r}")
    for name, f in FIELDS
    for value in [*WRONG, 1 if isinstance(f.default, bool) else True]
    if value is not None or not (f.default is None or (name, f.name) in MAY_BE_NONE)
]


@pytest.mark.parametrize(("name", "field", "value"), CASES)
def test_what_a_field_cannot_be_is_refused_and_named(name, field, value):
    with pytest.raises(ValueError, match=f"^{field} (is|are) [^\n]*; expected [^\n]*$"):
        getattr(optim, name)(**{field: value})


@pytest.mark.parametrize("name", OPTIMIZERS.values())
def test_the_defaults_are_taken(name):
    cls = getattr(optim, name)
    assert cls(**{f.name: getattr(cls(), f.name) for f in dataclasses.fields(cls) if f.init}) == cls()
