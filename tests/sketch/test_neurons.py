"""Laws of the sketches of the neuron mode."""

import numpy as np
import pytest

from nearlin._array import BackendError
from nearlin.sketch import NeuronSamples, NeuronSigns
from tests.families import FAMILIES, gram, mask, near_duplicates, preconditioned_condition

SHAPES = ((24, 3), (25, 2), (5, 4))
DISTRIBUTIONS = [NeuronSigns(), NeuronSamples()]

every_distribution = pytest.mark.parametrize("dist", DISTRIBUTIONS, ids=lambda dist: type(dist).__name__)
every_layer = pytest.mark.parametrize("layer", range(len(SHAPES)))


def operator(dist, key, s, shapes, layer):
    """S₁ of a layer as a NumPy matrix (m', m)."""
    _, values = dist.sample(key, s, shapes, like=np.empty(0)).left(layer, np.eye(shapes[layer][0]))
    return values.T


def sketched_left(dist, key, s, left):
    """M' of a whole left factor."""
    _, values = dist.sample(key, s, ((left.shape[1], 1),), like=left).left(0, left)
    return values


@every_distribution
@every_layer
def test_mean_of_gram_over_draws_is_identity(dist, layer):
    s, draws, m = 8, 300, SHAPES[layer][0]
    mean = sum(a.T @ a for a in (operator(dist, key, s, SHAPES, layer) for key in range(draws))) / draws
    assert np.max(np.abs(mean - np.eye(m))) < 6 * (max(1, m / s) / draws) ** 0.5  # entries have variance m/s at most


@every_distribution
@every_layer
@pytest.mark.parametrize("s", [1, 4, 8, 30])
def test_blocks_of_neurons_make_the_columns_of_the_whole(be, rng, dist, layer, s):
    m = SHAPES[layer][0]
    left = rng.standard_normal((6, m))
    sketch = dist.sample(1, s, SHAPES, like=be.like)
    g, width = sketch.group(layer), sketch.left_rows(layer)
    _, whole = sketch.left(layer, be.array(left))
    assembled, covered = np.full((6, width), np.nan), []
    for start in range(0, m, 2 * g):
        columns, values = sketch.left(layer, be.array(left[:, start : start + 2 * g]), start)
        assert values.dtype == be.dtype
        assembled[:, columns] = be.numpy(values)
        covered += range(width)[columns]
    assert covered == list(range(width))
    np.testing.assert_allclose(assembled, be.numpy(whole), rtol=0, atol=be.tol(1e-14))


@every_distribution
@every_layer
@pytest.mark.parametrize("s", [1, 4, 8, 30])
def test_number_of_sketched_neurons_is_at_least_min_of_s_and_m(dist, layer, s):
    m = SHAPES[layer][0]
    sketch = dist.sample(1, s, SHAPES, like=np.empty(0))
    columns, values = sketch.left(layer, np.ones((2, m)))
    assert min(s, m) <= sketch.left_rows(layer) <= m
    assert columns == slice(0, sketch.left_rows(layer))
    assert values.shape == (2, sketch.left_rows(layer))


@every_distribution
@pytest.mark.parametrize("width", [1, 2, 4, 5, 7, 25])
@pytest.mark.parametrize("s", [1, 4, 8, 25])
def test_blocks_that_split_groups_add_up_to_the_whole(be, rng, dist, width, s):
    left = rng.standard_normal((6, 25))
    sketch = dist.sample(1, s, SHAPES, like=be.like)
    _, whole = sketch.left(1, be.array(left))
    total = np.zeros((6, sketch.left_rows(1)))
    for start in range(0, 25, width):
        columns, values = sketch.left(1, be.array(left[:, start : start + width]), start)
        total[:, columns] += be.numpy(values)
    np.testing.assert_allclose(total, be.numpy(whole), rtol=0, atol=be.tol(1e-14))


@every_layer
def test_signs_have_one_entry_per_neuron_in_consecutive_groups(layer):
    a = operator(NeuronSigns(), 3, 4, SHAPES, layer)
    np.testing.assert_array_equal(np.abs(a).sum(axis=0), np.ones(a.shape[1]))
    assert np.all(np.diff(np.argmax(np.abs(a), axis=0)) >= 0)


def test_samples_are_distinct_neurons_with_equal_weight():
    a = operator(NeuronSamples(), 3, 6, SHAPES, 0)
    np.testing.assert_allclose(a @ a.T, 24 / 6 * np.eye(6), rtol=1e-15)


@every_distribution
@every_layer
def test_same_key_gives_same_operator_on_every_backend(be, rng, dist, layer):
    left = rng.standard_normal((6, SHAPES[layer][0]))
    _, expected = dist.sample(9, 8, SHAPES, like=np.empty(0)).left(layer, left)
    _, values = dist.sample(9, 8, SHAPES, like=be.like).left(layer, be.array(left))
    np.testing.assert_allclose(be.numpy(values), expected, rtol=0, atol=be.tol(1e-14))


@every_distribution
def test_two_keys_and_two_layers_give_different_operators(dist):
    shapes = ((24, 3), (24, 3))
    one = operator(dist, 0, 8, shapes, 0)
    assert np.max(np.abs(one - operator(dist, 1, 8, shapes, 0))) > 0.1
    assert np.max(np.abs(one - operator(dist, 0, 8, shapes, 1))) > 0.1


def test_signs_do_not_depend_on_the_sketch_size():
    few, many = (NeuronSigns().sample(0, s, SHAPES, like=np.empty(0)) for s in (2, 8))
    np.testing.assert_array_equal(few.signs[0], many.signs[0])


@every_distribution
def test_inputs_are_not_changed(be, rng, dist):
    host = rng.standard_normal((3, 24))
    block = be.array(host)
    dist.sample(0, 8, SHAPES, like=be.like).left(0, block)
    np.testing.assert_array_equal(be.numpy(block), be.numpy(be.array(host)))


@every_distribution
def test_float32_stays_float32(be, dist):
    sketch = dist.sample(0, 8, SHAPES, like=be.array(np.empty(0), dtype="float32"))
    for layer, (m, _) in enumerate(SHAPES):
        _, values = sketch.left(layer, be.array(np.ones((2, m)), dtype="float32"))
        assert values.dtype == be.xp.float32


@every_distribution
@pytest.mark.parametrize("s", [48, 100])
def test_sketch_of_no_fewer_rows_than_neurons_is_exact(rng, dist, s):
    left = mask(rng, FAMILIES["sphere"](rng, 16), 48)
    g = left @ left.T
    np.testing.assert_allclose((m := sketched_left(dist, 0, s, left)) @ m.T, g, atol=1e-15)
    assert np.linalg.cond(g) > 10  # a spectrum that a multiple of the identity would not match


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("ratio", "bound"), [(2, 34.0), (4, 9.0)])
def test_condition_with_signs_is_below_that_of_gaussian_sketches_on_any_data(family, ratio, bound):
    n, m, conditions = 64, 8192, []
    for key in range(5):
        rng = np.random.default_rng(key)
        x = FAMILIES[family](rng, n)
        left = mask(rng, x, m)
        sketched = sketched_left(NeuronSigns(), key, ratio * n, left)
        assert sketched.shape[1] == ratio * n
        conditions.append(preconditioned_condition(gram(left, x), gram(sketched, x)))
    assert np.median(conditions) <= bound


def test_signs_that_cancel_lose_the_difference_of_two_samples():
    left = np.ones((2, 64))
    left[1, :2] = 0  # two samples whose masks differ in two neurons of one group
    draws = [sketched_left(NeuronSigns(), key, 8, left) for key in range(20)]
    lost = [bool(np.all(values[0] == values[1])) for values in draws]
    assert any(lost)
    assert not all(lost)


@pytest.mark.parametrize("key", range(3))
def test_samples_fail_on_near_duplicates(key):
    rng, n, m = np.random.default_rng(key), 64, 2048
    x = near_duplicates(rng, n)
    left = mask(rng, x, m)
    assert preconditioned_condition(gram(left, x), gram(sketched_left(NeuronSamples(), key, 4 * n, left), x)) > 100


@every_distribution
@pytest.mark.parametrize(("start", "width"), [(-3, 3), (24, 3), (21, 6)])
def test_block_must_lie_inside_of_the_layer(dist, start, width):
    sketch = dist.sample(0, 8, SHAPES, like=np.empty(0))
    with pytest.raises(ValueError, match="expected a part of 0 to 24"):
        sketch.left(0, np.ones((2, width)), start)


@every_distribution
def test_layer_must_exist(dist):
    sketch = dist.sample(0, 8, SHAPES, like=np.empty(0))
    for call in (sketch.group, sketch.left_rows, lambda layer: sketch.left(layer, np.ones((2, 24)))):
        with pytest.raises(ValueError, match="layer is 3; expected an integer from 0 to 2"):
            call(3)


@every_distribution
@pytest.mark.parametrize(("s", "shape"), [(0, SHAPES), (4.0, SHAPES), (4, 16), (4, ((0, 2),))])
def test_sizes_must_be_positive_integers(dist, s, shape):
    with pytest.raises(ValueError, match="expected"):
        dist.sample(0, s, shape, like=np.empty(0))


@every_distribution
def test_block_of_another_backend_device_or_dtype_is_refused(dist):
    strict = pytest.importorskip("array_api_strict")
    sketch = dist.sample(0, 8, SHAPES, like=np.empty(0))
    with pytest.raises(BackendError, match="the sample is a float64 numpy array"):
        sketch.left(0, strict.ones((2, 24)))
    with pytest.raises(BackendError, match="block has dtype float32"):
        sketch.left(0, np.ones((2, 24), dtype=np.float32))
    with pytest.raises(BackendError, match="share one backend and device"):
        dist.sample(0, 8, SHAPES, like=strict.empty((0,), device=strict.Device("device1"))).left(0, strict.ones((2, 24)))
