"""Factors of layers for the Gauss-Newton matrix: equal to its blocks where theory says so, unbiased elsewhere, solved exactly."""

import numpy as np
import pytest

from nearlin import curvature, nn

TANH = nn.Elementwise(nn.activation("tanh"))
LOSSES = {"squared": nn.SquaredLoss(), "averaged": nn.SquaredLoss(average=True), "sigmoid": nn.SigmoidCrossEntropy(),
          "softmax": nn.SoftmaxCrossEntropy()}  # fmt: skip
DEEP = nn.MLP((4, 5, 3, 1), "tanh")
NORMALISED = nn.Sequential((nn.Dense(4, 5), nn.BatchNorm(5), TANH, nn.Dense(5, 1)), shape=(4,))
IMAGES = nn.Sequential(
    (nn.Conv2d(1, 2, 2), nn.BatchNorm(2), TANH, nn.LayerNorm(2), nn.GlobalAvgPool(), nn.Dense(2, 1)), shape=(1, 3, 4)
)
CONV = nn.Sequential((nn.Conv2d(2, 3, 3, pad=1), TANH, nn.MaxPool(2), nn.Flatten(), nn.Dense(3, 2)), shape=(2, 3, 3))


def at(be, net, loss="squared", n=7):
    """A point in evaluation mode, and the layers."""
    g = np.random.default_rng(4)
    x = be.array(g.standard_normal((n, *(net.shape or (net.inputs,)))))
    y = g.random((n, net.outputs))
    y = be.array(y / y.sum(axis=1, keepdims=True) if loss == "softmax" else y)
    objective, params = nn.Objective(net, LOSSES[loss]), net.init(1, be.like)
    objective = objective.observe(objective.at(params, (x + 0.1, y)).statistics).evaluation()
    return objective.at(params, (x, y)), objective.layers


def blocks(be, point):
    """The diagonal blocks of JᵀHJ/n by layers, dense."""
    K, blocks, start = be.numpy(point.jacobian(weighted=True).to_dense()), [], 0
    for W in point.params:
        size = W.shape[0] * W.shape[1]
        J = K[:, start : start + size]
        blocks.append(J.T @ J / point.samples)
        start += size
    return blocks


def kron(be, layer):
    """A ⊗ G as a matrix on row-major (o, D)."""
    UA, sA, UG, sG = map(be.numpy, layer[:4])
    return np.kron((UG * sG) @ UG.T, (UA * sA) @ UA.T)


@pytest.mark.parametrize("loss", ["squared", "averaged"])
def test_one_linear_layer_is_its_factors(be, loss):
    """Squared loss and one output: the Gauss-Newton matrix is Σ a aᵀ/n, whatever the signs."""
    point, layers = at(be, nn.MLP((4, 1)), loss)
    (want,) = blocks(be, point)
    (layer,) = curvature.kronecker_curvature(point, layers, 3).layers
    np.testing.assert_allclose(kron(be, layer), want, atol=be.tol(1e-12))
    values = np.linalg.eigvalsh(want)
    assert values[-1] > 5 * values[0] > 0


def test_several_outputs_share_the_factor_of_the_inputs_and_the_other_is_the_identity_in_the_mean(numpy_backend):
    point, layers = at(numpy_backend, nn.MLP((4, 3)), n=40)
    (want,) = blocks(numpy_backend, point)
    found = [kron(numpy_backend, curvature.kronecker_curvature(point, layers, key).layers[0]) for key in range(150)]
    np.testing.assert_allclose(np.mean(found, axis=0), want, atol=0.06)
    np.testing.assert_allclose(np.diag(found[0]), np.diag(want), rtol=1e-12)
    assert np.max(np.abs(found[0] - want)) > 0.1


@pytest.mark.parametrize("net", [DEEP, NORMALISED, IMAGES], ids=["deep", "normalised", "images"])
@pytest.mark.parametrize("loss", ["squared", "sigmoid"])
def test_the_diagonal_of_one_output_is_exact(be, net, loss):
    """Signs square to one: per-sample gradients of one output are the rows of J."""
    point, layers = at(be, net, loss)
    found = curvature.diagonal_curvature(point, layers, 3).layers
    for layer, want in zip(found, blocks(be, point), strict=True):
        np.testing.assert_allclose(be.numpy(layer.values).ravel(), np.diag(want), atol=be.tol(1e-12))


@pytest.mark.parametrize("loss", ["squared", "averaged", "sigmoid"])
def test_the_diagonal_of_one_layer_is_exact_for_independent_outputs(be, loss):
    point, layers = at(be, nn.MLP((4, 3)), loss)
    (found,) = curvature.diagonal_curvature(point, layers, 3).layers
    np.testing.assert_allclose(be.numpy(found.values).ravel(), np.diag(blocks(be, point)[0]), atol=be.tol(1e-12))


CONV_ONE = nn.Sequential(
    (nn.Conv2d(2, 3, 3, pad=1), TANH, nn.Conv2d(3, 4, 2, stride=2, bias=False), TANH, nn.Flatten(), nn.Dense(4, 1)),
    shape=(2, 3, 3),
)


@pytest.mark.parametrize("loss", ["squared", "sigmoid"])
def test_the_diagonal_of_a_convolution_is_exact_by_central_differences(be, loss):
    """One output: the mean over samples of h (df/dθ)², each derivative from two forward passes."""
    point, layers = at(be, CONV_ONE, loss)
    found = curvature.diagonal_curvature(point, layers, 3).layers
    x, *params = (be.numpy(a).astype(np.float64) for a in (point.x, *point.params))
    f, step = lambda params: CONV_ONE.forward(tuple(params), x)[0][:, 0], be.eps ** (1 / 3)
    p = 1 / (1 + np.exp(-f(params)))
    h = p * (1 - p) if loss == "sigmoid" else np.ones_like(p)
    for l in (0, 1):
        want = np.empty(params[l].shape)
        for at_entry in np.ndindex(want.shape):
            slopes = []
            for sign in (step, -step):
                moved = [W.copy() for W in params]
                moved[l][at_entry] += sign
                slopes.append(f(moved) / (2 * step))
            want[at_entry] = np.mean(h * (slopes[0] - slopes[1]) ** 2)
        np.testing.assert_allclose(
            be.numpy(found[l].values), want, rtol=3e4 * be.eps ** (2 / 3), atol=3e4 * be.eps ** (2 / 3) / 100
        )


def test_the_diagonal_of_a_convolution_is_not_that_of_its_kronecker_factors(numpy_backend):
    """Negative control: the product of the factors' means forgets how patches and signals go together."""
    point, layers = at(numpy_backend, CONV_ONE)
    exact, whole = (make(point, layers, 3).layers[0] for make in (curvature.diagonal_curvature, curvature.kronecker_curvature))
    values = np.diag(kron(numpy_backend, whole)).reshape(exact.values.shape)
    assert np.linalg.norm(values - exact.values) > 0.2 * np.linalg.norm(exact.values)


def test_output_factors_of_convolutions_are_means_over_positions(numpy_backend):
    """Its outputs are those of the network: signs as signals, so that Σ d² / rows is 1 for every channel."""
    net = nn.Sequential((nn.Conv2d(1, 3, 2), nn.Flatten()), shape=(1, 4, 4))
    x, params = np.random.default_rng(4).standard_normal((7, 1, 4, 4)), net.init(1, numpy_backend.like)
    objective = nn.Objective(net, nn.SquaredLoss())
    point, layers = objective.at(params, (x, np.zeros((7, 27)))), objective.layers
    UA, sA, UG, sG = curvature.kronecker_curvature(point, layers, 3).layers[0][:4]
    np.testing.assert_allclose(np.diag(UG * sG @ UG.T), 1, atol=1e-13)
    patches = np.stack([point.x[:, 0, i : i + 2, j : j + 2].reshape(7, 4) for i in range(3) for j in range(3)])
    np.testing.assert_allclose(np.diag(UA * sA @ UA.T)[:4], np.sum(patches**2, axis=(0, 1)) / 7, atol=1e-12)


@pytest.mark.parametrize("net", [nn.MLP((4, 5, 3), "tanh"), CONV], ids=["dense", "conv"])
@pytest.mark.parametrize("loss", ["softmax", "squared"])
def test_the_diagonal_is_unbiased(numpy_backend, loss, net):
    point, layers = at(numpy_backend, net, loss)
    found = [curvature.diagonal_curvature(point, layers, key).layers for key in range(400)]
    for l, want in enumerate(blocks(numpy_backend, point)):
        values = np.stack([layers[l].values.ravel() for layers in found])
        error = np.abs(np.mean(values, axis=0) - np.diag(want))
        assert np.all(error <= 4.5 * np.std(values, axis=0) / 20 + 1e-12)


@pytest.mark.parametrize("make", [curvature.kronecker_curvature, curvature.diagonal_curvature])
def test_it_is_solved_and_measured_exactly(be, make):
    """(block + λ I)⁻¹ and Σ s/(s + λ) of the matrices that the layers stand for, at two dampings."""
    point, layers = at(be, NORMALISED)
    curvature = make(point, layers, 2)
    dense = [kron(be, l) if hasattr(l, "UA") else np.diag(be.numpy(l.values).ravel()) for l in curvature.layers]
    g = np.random.default_rng(0)
    v = [g.standard_normal(W.shape) for W in point.params]
    for damping in (1e-2, 1.0):
        found = curvature.solve(tuple(map(be.array, v)), damping)
        for X, V, M in zip(found, v, dense, strict=True):
            want = np.linalg.solve(M + damping * np.eye(len(M)), V.ravel())
            np.testing.assert_allclose(be.numpy(X).ravel(), want, rtol=be.tol(1e-9), atol=be.tol(1e-9))
        values = np.concatenate([np.linalg.eigvalsh(M) for M in dense])
        assert curvature.effective_dimension(damping) == pytest.approx(np.sum(values / (values + damping)), rel=be.tol(1e-10))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_whose_products_would_be_denormal_count_as_zero(dtype):
    limits = np.finfo(dtype)
    small = float(limits.smallest_normal) / float(limits.eps) ** 2
    v = np.array([[0.5 * small, 2 * small, 1.0]], dtype=dtype)
    made_of = curvature.KroneckerCurvature((curvature.DiagonalLayer(np.ones((1, 3), dtype)),))
    (made,) = made_of.solve((v,), 1.0)
    assert made.tolist() == [[0.0, *(0.5 * v[0, 1:]).tolist()]]
    assert v[0, 0] > 0  # what was given is not changed


def test_the_key_decides_the_signs_and_the_targets_do_not_matter(numpy_backend):
    point, layers = at(numpy_backend, nn.MLP((4, 5, 3), "tanh"))
    a, b, c = (curvature.kronecker_curvature(point, layers, key).layers[0].sG for key in (0, 0, 1))
    assert np.array_equal(a, b)
    assert np.max(np.abs(a - c)) > 1e-3
    other = point._objective.at(point.params, (point.x, point.y + 1.0))
    assert np.array_equal(curvature.kronecker_curvature(other, layers, 0).layers[0].sG, a)
