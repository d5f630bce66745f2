"""Amounts of work add up, rates turn them into seconds, and both refuse what they cannot be."""

import dataclasses
import json
import math

import pytest

from nearlin.linalg import Rates, Work
from nearlin.linalg.rates import PAIRED, PRIMITIVES

TABLE = Rates(**{name: (2.0**k, 2.0**-k) for k, name in enumerate(PAIRED)}, calls=10)


def test_works_add_up_primitive_by_primitive():
    a, b = Work(*range(7)), Work(matmul=1.5, calls=2)
    assert a + b == Work(1.5, 1, 2, 3, 4, 5, 8)
    assert 3 * a == a * 3 == a + a + a == Work(*range(0, 21, 3))
    assert sum([a, b], Work()) == a + b
    assert Work() == 0 * a


@pytest.mark.parametrize("other", [1, None, "work", (1,) * 7])
def test_a_work_is_added_to_works_alone(other):
    with pytest.raises(TypeError):
        Work() + other


@pytest.mark.parametrize("k", [Work(), None, "twice", 1j])
def test_a_work_is_taken_so_many_times(k):
    with pytest.raises(TypeError):
        k * Work()


@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize(("dtype", "which"), [("float32", 0), ("float64", 1)])
def test_the_time_of_one_primitive_is_its_amount_over_its_rate(name, dtype, which):
    rate = TABLE.calls if name == "calls" else getattr(TABLE, name)[which]
    assert TABLE.seconds(Work(**{name: 12.0}), dtype) == 12.0 / rate


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_times_add_up(dtype):
    a, b = Work(*range(1, 8)), Work(thin=3.0, memory=5.0)
    assert TABLE.seconds(a + 2 * b, dtype) == pytest.approx(TABLE.seconds(a, dtype) + 2 * TABLE.seconds(b, dtype), rel=1e-14)
    assert TABLE.seconds(Work(), dtype) == 0


def test_the_dtype_of_an_array_names_its_rates(be):
    work = Work(triangular=12.0)
    name = "float64" if be.eps < 1e-10 else "float32"
    assert TABLE.seconds(work, be.like.dtype) == TABLE.seconds(work, name)


@pytest.mark.parametrize("dtype", ["float16", "int64", None])
def test_another_dtype_has_no_rates(dtype):
    with pytest.raises(ValueError, match=r"dtype is .*; expected float32 or float64"):
        TABLE.seconds(Work(), dtype)


def test_rates_are_plain_numbers_that_JSON_gives_back():
    for rates in (Rates(), TABLE, dataclasses.replace(TABLE, device="a card")):
        assert Rates.from_dict(json.loads(json.dumps(rates.to_dict()))) == rates
    assert all(type(rate) is float for name in PAIRED for rate in getattr(TABLE, name))
    assert type(TABLE.calls) is float
    assert repr(Rates()).startswith("Rates(matmul=(3")
    assert hash(Rates(matmul=[1, 2])) == hash(Rates(matmul=(1.0, 2.0)))


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize(
    "value",
    [0, 1.0, (1.0,), (1.0, 0.0), (-1.0, 1.0), (1.0, math.nan), (math.inf, 1.0), ("1", "2"), (True, 1), (1j, 1), None, "ab"],
)
def test_a_pair_of_rates_that_is_none_is_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name} is .*; expected two positive numbers, the rates in float32 and float64"):
        dataclasses.replace(TABLE, **{name: value})


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "many", None, 1j, (1.0, 2.0)])
def test_a_rate_of_calls_that_is_none_is_named(value):
    with pytest.raises(ValueError, match=r"^calls is .*; expected a positive number"):
        Rates(calls=value)


def without(content, *path):
    *above, last = path
    inner = content
    for key in above:
        inner = inner[key]
    del inner[last]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "rates is a list; expected a dict with the keys matmul, thin"),
        ({}, "rates lacks matmul, thin, cholesky, triangular, eigh, memory, calls, device; expected"),
        (without(TABLE.to_dict(), "thin"), "rates lacks thin; expected"),
        (without(TABLE.to_dict(), "eigh", "float32"), "eigh of rates lacks float32; expected"),
        (TABLE.to_dict() | {"qr": 1.0}, "rates has the unknown key 'qr'; expected"),
        (TABLE.to_dict() | {"thin": {"float32": 1, "float64": 1, "float16": 1}}, "thin of rates has the unknown key 'float16'"),
        (TABLE.to_dict() | {"thin": 1.0}, "thin of rates is a float; expected a dict with the keys float32, float64"),
        (TABLE.to_dict() | {"thin": {"float32": 1, "float64": "fast"}}, r"thin is \(1, 'fast'\); expected two positive numbers"),
        (TABLE.to_dict() | {"calls": None}, "calls is None; expected a positive number"),
    ],
)
def test_another_table_is_refused_with_the_reason(content, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Rates.from_dict(content)
