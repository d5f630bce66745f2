"""Step sizes by schedule, weight decay with and without exemptions, and matrices taken apart and put together."""

import dataclasses
import math

import numpy as np
import pytest

import nearlin as nl
from nearlin._array import step_size
from nearlin.complexity import flops_of
from nearlin.nn import LayerSpec, join_bias, split_bias
from nearlin.optim import SGD
from nearlin.steps import StepDecay, decay, rate, velocity

LAYERS = (
    LayerSpec("dense", 4, 3),
    LayerSpec("dense", 2, 4, bias=False),
    LayerSpec("conv", 3, 2, kernel=3, pad=1),
    LayerSpec("norm", 3, 1),
    LayerSpec("graph", 2, 5),
)


@pytest.fixture
def matrices(rng):
    return tuple(rng.standard_normal(spec.shape) for spec in LAYERS)


def test_a_number_is_the_same_step_size_at_every_step():
    assert [rate(0.25, t) for t in range(3)] == [0.25] * 3


def test_a_schedule_is_asked_for_the_step_counter():
    assert [rate(lambda t: 1 / (1 + t), t) for t in range(3)] == [1.0, 1 / 2, 1 / 3]


def test_a_step_size_is_a_plain_float():
    """A NumPy float64 would turn float32 arrays into float64."""
    assert type(rate(np.float64(0.1), 0)) is float
    assert type(rate(lambda t: np.float64(0.1), 0)) is float


def test_step_decay_falls_after_every_period():
    lr = StepDecay(0.8, 0.5, 3)
    assert [lr(t) for t in range(8)] == [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2]


def test_step_decay_is_a_value():
    lr = StepDecay(0.8, 0.5, 3)
    assert lr == StepDecay(0.8, 0.5, 3)
    assert hash(lr) == hash(StepDecay(0.8, 0.5, 3))
    assert repr(lr) == "StepDecay(lr=0.8, factor=0.5, period=3)"
    assert hash(nl.optim.SGD(lr=lr)) == hash(nl.optim.SGD(lr=lr))
    with pytest.raises(dataclasses.FrozenInstanceError):
        lr.lr = 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0; expected a positive number"),
        ({"lr": math.inf}, "lr is inf; expected a positive number"),
        ({"lr": "0.1"}, "lr is '0.1'; expected a positive number"),
        ({"factor": 0.0}, r"factor is 0.0; expected a number in \(0, 1\]"),
        ({"factor": 1.5}, r"factor is 1.5; expected a number in \(0, 1\]"),
        ({"factor": math.nan}, r"factor is nan; expected a number in \(0, 1\]"),
        ({"period": 0}, "period is 0; expected an integer of at least 1"),
        ({"period": 2.5}, "period is 2.5; expected an integer of at least 1"),
        ({"period": True}, "period is True; expected an integer of at least 1"),
    ],
)
def test_a_step_decay_outside_its_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        StepDecay(**{"lr": 0.1, "factor": 0.1, "period": 10, **options})


@pytest.mark.parametrize("lr", [0, -1.0, math.nan, math.inf, None, "fast", True, 1j])
def test_a_step_size_that_is_none_is_named(lr):
    with pytest.raises(ValueError, match=r"lr is .*; expected a positive number or a schedule of the step counter"):
        step_size("lr", lr)


@pytest.mark.parametrize("lr", [1, 1e-3, np.float32(0.5), StepDecay(0.1, 0.1, 5), math.exp])
def test_numbers_and_schedules_are_step_sizes(lr):
    assert step_size("lr", lr) == lr


@pytest.mark.parametrize("value", [-1e-3, math.nan, math.inf, None, True, "some"])
def test_a_weight_decay_outside_its_range_is_named(value):
    with pytest.raises(ValueError, match=r"weight_decay is .*; expected a finite number, at least 0"):
        SGD(weight_decay=value)


@pytest.mark.parametrize("value", [0, 1.0, None, "yes"])
def test_an_exemption_that_is_no_flag_is_named(value):
    with pytest.raises(ValueError, match=r"exempt_bias is .*; expected True or False"):
        SGD(exempt_bias=value)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_schedule_that_leaves_its_range_says_at_which_step(value):
    with pytest.raises(ValueError, match=f"the schedule lr gives {value} at step 7; expected a number >= 0"):
        rate(lambda t: value, 7)


@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_weights_and_bias_make_the_matrix_again(be, matrices, layer):
    spec, W = LAYERS[layer], be.array(matrices[layer])
    weights, bias = split_bias(W, spec)
    assert weights.shape == (spec.out, spec.inp * spec.entries)
    assert (bias is not None) == spec.bias
    if spec.bias:
        np.testing.assert_array_equal(be.numpy(bias), be.numpy(W)[:, -1])
    np.testing.assert_array_equal(be.numpy(join_bias(weights, bias)), be.numpy(W))


def test_all_parameters_decay(be, matrices):
    decayed = decay(tuple(map(be.array, matrices)), LAYERS, 0.25)
    for W, new in zip(matrices, decayed, strict=True):
        np.testing.assert_allclose(be.numpy(new), 0.75 * W, rtol=be.tol(1e-15))


def test_biases_and_normalisation_layers_can_be_exempt(be, matrices):
    decayed = decay(tuple(map(be.array, matrices)), LAYERS, 0.25, exempt=True)
    for spec, W, new in zip(LAYERS, matrices, decayed, strict=True):
        keep = np.full(W.shape, 1.0 if spec.kind == "norm" else 0.75)
        if spec.bias:
            keep[:, -1] = 1.0
        np.testing.assert_allclose(be.numpy(new), keep * W, rtol=be.tol(1e-15))


def test_decay_changes_nothing_given(matrices):
    before = [W.copy() for W in matrices]
    decay(matrices, LAYERS, 0.5)
    decay(matrices, LAYERS, 0.5, exempt=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, matrices, strict=True))


@pytest.mark.parametrize("exempt", [False, True])
def test_decay_costs_a_flop_per_decayed_parameter_and_none_at_zero(matrices, exempt):
    sizes = [spec.out * spec.inp * spec.entries for spec in LAYERS if spec.kind != "norm"]
    p = sum(sizes) if exempt else sum(W.size for W in matrices)
    assert flops_of(decay, matrices, LAYERS, 0.1, exempt=exempt) == p
    assert flops_of(decay, matrices, LAYERS, 0.0, exempt=exempt) == 0
    assert all(a is b for a, b in zip(decay(matrices, LAYERS, 0.0, exempt), matrices, strict=True))


def test_float32_stays_float32(matrices):
    params = tuple(W.astype(np.float32) for W in matrices)
    assert all(W.dtype == np.float32 for W in decay(params, LAYERS, np.float64(0.1), exempt=True))


def test_one_vector_and_back(be):
    params = (be.array([[1.0, 2.0], [3.0, 4.0]]), be.array([[5.0]]), be.array([[6.0, 7.0, 8.0]]))
    vector = nl.nn.ravel(params)
    np.testing.assert_array_equal(be.numpy(vector), np.arange(1.0, 9.0))
    for part, W in zip(nl.nn.unravel(2 * vector, params), params, strict=True):
        np.testing.assert_array_equal(be.numpy(part), 2 * be.numpy(W))


@pytest.mark.parametrize(("form", "weight"), [("sum", 1.0), ("average", 0.25)])
def test_the_velocity_is_a_sum_or_an_average(be, rng, form, weight):
    g, h = rng.standard_normal((2, 2, 4))
    first = velocity(None, (be.array(g),), 0.75, form)
    np.testing.assert_allclose(be.numpy(first[0]), weight * g, atol=be.tol(1e-14))
    second = velocity(first, (be.array(h),), 0.75, form)
    np.testing.assert_allclose(be.numpy(second[0]), 0.75 * weight * g + weight * h, atol=be.tol(1e-14))
