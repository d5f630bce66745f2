"""Parameters as separate tensors, and the moments of what traces hold."""

import numpy as np
import pytest

import nearlin as nl
from nearlin.curvature import Means, change, means, moments, observe
from nearlin.nn import LayerSpec, join_tensors, split_tensors, tensor_names
from nearlin.steps import average, mean_weights

LAYERS = (
    LayerSpec("dense", 4, 3),
    LayerSpec("dense", 2, 4, bias=False),
    LayerSpec("norm", 5, 1),
    LayerSpec("conv", 3, 2, 3),
    LayerSpec("conv", 2, 3, 1, bias=False),
    LayerSpec("graph", 2, 3),
)


@pytest.mark.parametrize("reshape", ["filter", "matrix"])
def test_what_is_split_is_joined_again(be, rng, reshape):
    params = tuple(be.array(rng.standard_normal(spec.shape)) for spec in LAYERS)
    joined = join_tensors(split_tensors(params, LAYERS, reshape), LAYERS)
    for W, V in zip(params, joined, strict=True):
        np.testing.assert_array_equal(be.numpy(V), be.numpy(W))


def test_variables_have_their_own_axes(rng):
    params = tuple(rng.standard_normal(spec.shape) for spec in LAYERS)
    shapes = [part.shape for part in split_tensors(params, LAYERS)]
    assert shapes == [(4, 3), (4,), (2, 4), (5,), (5,), (3, 2, 9), (3,), (2, 3, 1), (2, 3), (2,)]
    assert [part.shape for part in split_tensors(params, LAYERS, "matrix")][5:8] == [(3, 18), (3,), (2, 3)]
    assert len(tensor_names(LAYERS)) == len(shapes)
    assert tensor_names(LAYERS)[:5] == ["layer 0 weights", "layer 0 bias", "layer 1 weights", "layer 2 scale", "layer 2 shift"]


def cnn(be, rng, stride=1, pad=0):
    modules = (
        nl.nn.Conv2d(2, 3, 2, stride=stride, pad=pad), nl.nn.BatchNorm(3), nl.nn.Conv2d(3, 2, 1, bias=False),
        nl.nn.GlobalAvgPool(), nl.nn.Dense(2, 2), nl.nn.Dense(2, 3, bias=False),
    )  # fmt: skip
    net = nl.nn.Sequential(modules, shape=(2, 4, 4))
    objective = nl.nn.Objective(net, nl.nn.SquaredLoss())
    x, y = be.array(rng.standard_normal((6, 2, 4, 4))), be.array(rng.standard_normal((6, 3)))
    return objective.at(net.init(1, be.like), (x, y)), objective.layers


def rows(be, trace):
    """Homogeneous inputs (D, rows) and output gradients (out, rows)."""
    A, G = trace.accumulate(lambda A, G: (A, G))
    return be.numpy(A), be.numpy(G)


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (2, 1)])
def test_moments_are_those_of_the_rows(be, rng, stride, pad):
    point, layers = cnn(be, rng, stride, pad)
    for trace, spec in zip(point.traces(), layers, strict=True):
        if spec.kind == "norm":
            continue
        (A, G), got, tol = rows(be, trace), moments(trace), be.tol(1e-13)
        np.testing.assert_allclose(be.numpy(got.grad), G @ A.T, atol=tol)
        np.testing.assert_allclose(be.numpy(got.gram), A @ A.T, atol=tol)
        for one in (got, moments(trace, gram=False)):
            np.testing.assert_allclose(be.numpy(one.inputs), A.mean(1), atol=tol)
            np.testing.assert_allclose(be.numpy(one.signals), G.mean(1), atol=tol)
            assert one.size == pytest.approx(np.sqrt((G * G).sum() / G.shape[1]), rel=be.tol(1e-13))
        for found, want in zip(means(trace)[:2], (A.mean(1), G.mean(1)), strict=True):
            np.testing.assert_allclose(be.numpy(found), want, atol=tol)
        assert means(trace).size == pytest.approx(got.size, rel=be.tol(1e-13))


def test_observing_gives_the_gradient_and_means_over_samples(be, rng):
    point, layers = cnn(be, rng)
    grads, seen = observe(point, layers)
    for got, want in zip(grads, point.grads(), strict=True):
        np.testing.assert_allclose(be.numpy(got), be.numpy(want), atol=be.tol(1e-14))
    assert [one is None for one in seen] == [spec.kind == "norm" for spec in layers]
    A, _ = rows(be, point.traces()[0])
    np.testing.assert_allclose(be.numpy(seen[0].gram), A @ A.T / 6, atol=be.tol(1e-13))


def test_the_change_of_means_and_what_of_it_may_be_rounding(be, rng):
    before, after = (Means(be.array(rng.standard_normal(3)), be.array(rng.standard_normal(2)), size) for size in (2.0, 5.0))
    W, V = rng.standard_normal((2, 2, 3))
    s, y, noise = change(be.array(W), before, be.array(V), after)
    np.testing.assert_allclose(be.numpy(s), V @ be.numpy(after.inputs) - W @ be.numpy(before.inputs), atol=be.tol(1e-14))
    np.testing.assert_allclose(be.numpy(y), be.numpy(after.signals) - be.numpy(before.signals), atol=be.tol(1e-14))
    assert noise == 32 * be.eps * 5


def test_averages_are_plain_means_at_first(be, rng):
    """Of 1, 2, 3 statistics; then the newest has 1 - decay. A statistic with NaN or Inf is left out."""
    squares = [np.diag(d) for d in rng.uniform(1, 2, (4, 3))]
    X = None
    for count, S in enumerate(squares[:3]):
        X, finite = average(X, be.array(S), *mean_weights(0.7, count))
        assert finite
        np.testing.assert_allclose(be.numpy(X), sum(squares[: count + 1]) / (count + 1), rtol=be.tol(1e-14))
    Y, finite = average(X, be.array(squares[3]), *mean_weights(0.7, 3))
    np.testing.assert_allclose(be.numpy(Y), 0.7 * be.numpy(X) + 0.3 * squares[3], rtol=be.tol(1e-14))
    assert mean_weights(0.75, 0, warm=True) == (0.75, 0.25)
    assert mean_weights(1.0, 9) == (0.9, 0.1)
    kept, finite = average(X, be.array(np.diag([1.0, np.inf, 1.0])), 0.7, 0.3)
    assert (kept is X, finite) == (True, False)
    zeros, finite = average(None, be.array(np.diag([1.0, np.nan, 1.0])), 0.0, 1.0)
    assert not finite
    np.testing.assert_array_equal(be.numpy(zeros), np.zeros((3, 3)))
