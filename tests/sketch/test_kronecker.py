"""Laws of the Kronecker-signed Hadamard sketch of factored rows."""

import numpy as np
import pytest
import scipy.linalg

from nearlin._array import BackendError
from nearlin.sketch import KroneckerSRHT
from tests.families import gram, mask, preconditioned_condition, sphere

SHAPES = ((6, 3), (8, 5), (1, 4), (5, 1))

every_layer = pytest.mark.parametrize("layer", range(len(SHAPES)))
every_oversample = pytest.mark.parametrize("oversample", [1, 4])


def khatri_rao(left, right):
    """Rows left[i] ⊗ right[i]."""
    return (left[:, :, None] * right[:, None, :]).reshape(left.shape[0], -1)


def factors(rng, layer, b=7):
    m, d = SHAPES[layer]
    return rng.standard_normal((b, m)), rng.standard_normal((b, d))


@every_layer
@every_oversample
def test_rows_equal_factored_rows_times_dense_operator(be, rng, layer, oversample):
    left, right = factors(rng, layer)
    sketch = KroneckerSRHT(oversample).sample(2, 11, SHAPES, like=be.like)
    rows = sketch.rows(layer, be.array(left), be.array(right))
    assert rows.shape == (7, 11)
    assert rows.dtype == be.dtype
    expected = khatri_rao(left, right) @ be.numpy(sketch.dense(layer)).T
    np.testing.assert_allclose(be.numpy(rows), expected, rtol=0, atol=be.tol(1e-12))


@every_layer
def test_plain_operator_has_rows_of_two_signed_hadamard_matrices(layer):
    m, d = SHAPES[layer]
    sketch = KroneckerSRHT(oversample=1).sample(2, 9, SHAPES, like=np.empty(0))
    draw = sketch.layers[layer]
    left = scipy.linalg.hadamard(1 << (m - 1).bit_length())[draw.left_index[0], :m] * draw.left_signs
    right = scipy.linalg.hadamard(1 << (d - 1).bit_length())[draw.right_index[0], :d] * draw.right_signs
    np.testing.assert_allclose(sketch.dense(layer), khatri_rao(left, right) * draw.weights[0][:, None], atol=1e-15)
    np.testing.assert_allclose(np.abs(sketch.dense(layer)), 9**-0.5)


@every_oversample
def test_mean_of_gram_over_draws_is_identity_without_cross_terms_of_layers(oversample):
    s, draws, total = 10, 300, 0.0
    for key in range(draws):
        sketch = KroneckerSRHT(oversample).sample(key, s, SHAPES[:2], like=np.empty(0))
        joint = np.concatenate([sketch.dense(0), sketch.dense(1)], axis=1)
        total = total + joint.T @ joint
    deviation = np.abs(total / draws - np.eye(total.shape[0]))
    assert np.max(deviation) < 7 * (2 / (s * draws)) ** 0.5


def test_equal_layers_are_drawn_independently():
    sketch = KroneckerSRHT().sample(0, 10, ((6, 3), (6, 3)), like=np.empty(0))
    assert np.max(np.abs(sketch.dense(0) - sketch.dense(1))) > 0.1


@pytest.mark.parametrize(("width", "padded"), [(4, 4), (8, 8), (3, 4), (5, 8)])
def test_every_row_of_the_transform_is_used_equally_often(width, padded):
    sketch = KroneckerSRHT().sample(0, 16, ((width, width),), like=np.empty(0))
    for index in (sketch.layers[0].left_index, sketch.layers[0].right_index):
        np.testing.assert_array_equal(np.bincount(index.ravel()), np.full(padded, 64 // padded))


@pytest.mark.parametrize(("s", "nonzeros"), [(3, 3), (8, 8), (20, 8)])
def test_rows_that_are_no_products_get_as_many_signs_in_a_column_as_there_are_rows_and_at_most_eight(s, nonzeros):
    flat = KroneckerSRHT().sample(0, s, (12, (6, 3)), like=np.empty(0)).flat(0) @ np.eye(12)
    np.testing.assert_array_equal(np.count_nonzero(flat, axis=0), np.full(12, nonzeros))
    np.testing.assert_allclose(np.sum(flat**2, axis=0), 1)


@every_layer
def test_same_key_gives_same_operator_on_every_backend(be, rng, layer):
    left, right = factors(rng, layer)
    expected = KroneckerSRHT().sample(4, 11, SHAPES, like=np.empty(0)).rows(layer, left, right)
    rows = KroneckerSRHT().sample(4, 11, SHAPES, like=be.like).rows(layer, be.array(left), be.array(right))
    np.testing.assert_allclose(be.numpy(rows), expected, rtol=0, atol=be.tol(1e-13))


def test_two_keys_give_two_operators():
    one, other = (KroneckerSRHT().sample(key, 10, SHAPES, like=np.empty(0)).dense(0) for key in (0, 1))
    assert np.max(np.abs(one - other)) > 0.1


def test_inputs_are_not_changed(be, rng):
    left, right = factors(rng, 0)
    a, c = be.array(left), be.array(right)
    KroneckerSRHT().sample(0, 10, SHAPES, like=be.like).rows(0, a, c)
    np.testing.assert_array_equal(be.numpy(a), be.numpy(be.array(left)))
    np.testing.assert_array_equal(be.numpy(c), be.numpy(be.array(right)))


def test_float32_stays_float32(be):
    sketch = KroneckerSRHT().sample(0, 10, SHAPES, like=be.array(np.empty(0), dtype="float32"))
    m, d = SHAPES[0]
    rows = sketch.rows(0, be.array(np.ones((2, m)), dtype="float32"), be.array(np.ones((2, d)), dtype="float32"))
    held = [value for draw in sketch.layers for value in vars(draw).values()]
    assert rows.dtype == sketch.dense(0).dtype == be.xp.float32
    assert all(x.dtype in (be.xp.float32, be.xp.int64) for x in held)


@pytest.mark.parametrize(("ratio", "expected"), [(2, 34.0), (4, 9.0), (8, 4.4)])
def test_condition_follows_the_law_of_gaussian_sketches(ratio, expected):
    rng, n, m, d, conditions = np.random.default_rng(7), 128, 512, 16, []
    for key in range(25):
        x = sphere(rng, n, d)
        left = mask(rng, x, m)
        rows = KroneckerSRHT(oversample=4).sample(key, ratio * n, ((m, d),), like=x).rows(0, left, x)
        conditions.append(preconditioned_condition(gram(left, x), rows @ rows.T))
    assert np.median(conditions) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("shape", [16, (), ("4", 4), (4, 0), ((4, 4, 4),), ((4, 0),), ((2.0, 4),)])
def test_shape_must_be_factor_widths(shape):
    with pytest.raises(ValueError, match=r"expected one pair|expected an integer of at least 1"):
        KroneckerSRHT().sample(0, 8, shape, like=np.empty(0))


@pytest.mark.parametrize("s", [0, 2.5, False])
def test_sketch_size_must_be_a_positive_integer(s):
    with pytest.raises(ValueError, match=r"s is .*; expected an integer of at least 1"):
        KroneckerSRHT().sample(0, s, SHAPES, like=np.empty(0))


def test_oversampling_must_be_a_positive_integer():
    with pytest.raises(ValueError, match="oversample is 0"):
        KroneckerSRHT(oversample=0)


@pytest.mark.parametrize("layer", [-1, 4, 1.0])
def test_layer_must_exist(layer):
    sketch = KroneckerSRHT().sample(0, 8, SHAPES, like=np.empty(0))
    with pytest.raises(ValueError, match=r"layer is .*; expected an integer from 0 to 3"):
        sketch.rows(layer, np.ones((2, 6)), np.ones((2, 3)))


@pytest.mark.parametrize(("left", "right"), [((2, 5), (2, 3)), ((2, 6), (2, 4)), ((2, 6), (3, 3))])
def test_factors_of_other_shapes_are_refused(left, right):
    sketch = KroneckerSRHT().sample(0, 8, SHAPES, like=np.empty(0))
    with pytest.raises(ValueError, match=r"expected \(b, 6\) and \(b, 3\) in layer 0"):
        sketch.rows(0, np.ones(left), np.ones(right))


def test_factors_of_another_backend_are_refused():
    strict = pytest.importorskip("array_api_strict")
    sketch = KroneckerSRHT().sample(0, 8, SHAPES, like=np.empty(0))
    with pytest.raises(BackendError, match=r"left is a float64 numpy array .* right is a float64 array_api_strict"):
        sketch.rows(0, np.ones((2, 6)), strict.ones((2, 3)))
    with pytest.raises(BackendError, match="the sample is a float64 numpy array"):
        sketch.rows(0, strict.ones((2, 6)), strict.ones((2, 3)))
