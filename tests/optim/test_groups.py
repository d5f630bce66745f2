"""Convolutions by groups under the layer-wise methods: a network of one position is linear in each group, and known by hand."""

import numpy as np
import pytest

import nearlin as nl
from nearlin import curvature, nn
from nearlin.curvature.mini_blocks import sample_moment

ONE = nn.Sequential((nn.Conv2d(4, 2, 2, groups=2), nn.Flatten()), shape=(4, 2, 2))  # every group has one output at one position
DEEP = nn.Sequential(
    (nn.Conv2d(2, 4, 2, groups=2), nn.Elementwise(nn.activation("tanh")), nn.Conv2d(4, 6, 2, groups=2), nn.Flatten()),
    shape=(2, 3, 3),
)
N = 7


def at(be, net, seed=0):
    g = np.random.default_rng(seed)
    objective = nn.Objective(net, nn.SquaredLoss())
    params = tuple(W + 0.1 for W in net.init(1, be.like))
    batch = be.array(g.standard_normal((N, *net.shape))), be.array(g.standard_normal((N, net.outputs)))
    return objective, params, batch


def inputs(be, x):
    """Homogeneous inputs of the groups of `ONE`, (N, 9) each."""
    halves = np.split(be.numpy(x), 2, axis=1)
    return [np.concatenate([half.reshape(N, 8), np.ones((N, 1))], axis=1) for half in halves]


def test_groups_of_one_output_are_known_exactly(be):
    """JᵀHJ/n is Σ a aᵀ/n for each group, of their own inputs, and nothing between them."""
    objective, params, batch = at(be, ONE)
    point, damping = objective.at(params, batch), 0.3
    blocks = [a.T @ a / N for a in inputs(be, batch[0])]
    v = np.random.default_rng(1).standard_normal((2, 9))
    found = curvature.kronecker_curvature(point, objective.layers, 3)
    want = np.stack([np.linalg.solve(A + damping * np.eye(9), row) for A, row in zip(blocks, v, strict=True)])
    np.testing.assert_allclose(be.numpy(found.solve((be.array(v),), damping)[0]), want, rtol=be.tol(1e-9))
    values = np.concatenate([np.linalg.eigvalsh(A) for A in blocks])
    assert found.effective_dimension(damping) == pytest.approx(np.sum(values / (values + damping)), rel=be.tol(1e-9))
    (diagonal,) = curvature.diagonal_curvature(point, objective.layers, 3).layers
    np.testing.assert_allclose(be.numpy(diagonal.values), np.stack([np.diag(A) for A in blocks]), rtol=be.tol(1e-11))


@pytest.mark.parametrize("inverse", ["factored", "exact"])
def test_kfac_preconditions_each_group_by_its_own_factors(numpy_backend, inverse):
    objective, params, batch = at(numpy_backend, ONE)
    damping, point = 0.3, objective.at(params, batch)
    opt = nl.optim.KFAC(lr=1.0, momentum=0.0, damping=damping, pi=False, fisher="empirical", inverse=inverse)
    (after,), _, _ = opt.step(params, opt.init(params, objective), objective, batch)
    (g,), d = point.grads(), point.outputs - batch[1]
    for k, a in enumerate(inputs(numpy_backend, batch[0])):
        A, G = a.T @ a / N, np.mean(d[:, k] ** 2)
        if inverse == "exact":
            want = np.linalg.solve(G * A + damping * np.eye(9), g[k])
        else:
            want = np.linalg.solve(A + damping**0.5 * np.eye(9), g[k]) / (G + damping**0.5)
        np.testing.assert_allclose(params[0][k] - after[k], want, rtol=1e-10)


def test_the_first_pass_of_kfac_has_the_factors_of_each_group(numpy_backend):
    objective, params, batch = at(numpy_backend, ONE)
    opt = nl.optim.KFAC(fisher="empirical")
    state = opt.warm_start(params, opt.init(params, objective), objective, iter([batch]))
    d = objective.at(params, batch).outputs - batch[1]
    for k, (a, layer) in enumerate(zip(inputs(numpy_backend, batch[0]), state.layers, strict=True)):
        np.testing.assert_allclose(layer.A, a.T @ a / N, rtol=1e-12)
        np.testing.assert_allclose(layer.G, [[np.mean(d[:, k] ** 2)]], rtol=1e-12)


def test_rows_of_the_jacobian_are_those_of_its_products(be):
    objective, params, batch = at(be, DEEP)
    J = objective.at(params, batch).jacobian()
    dense, v = be.numpy(J.to_dense()), np.random.default_rng(2).standard_normal(J.shape[1])
    parts, start = [], 0
    for W in params:
        size = W.shape[0] * W.shape[1]
        parts.append(be.array(v[start : start + size].reshape(W.shape)))
        start += size
    np.testing.assert_allclose(be.numpy(J.matvec(tuple(parts))), dense @ v, atol=be.tol(1e-12))
    np.testing.assert_allclose(be.numpy(J.gram()), dense @ dense.T, atol=be.tol(1e-12))
    u = np.random.default_rng(3).standard_normal(J.shape[0])
    back = np.concatenate([be.numpy(part).ravel() for part in J.rmatvec(be.array(u))])
    np.testing.assert_allclose(back, dense.T @ u, atol=be.tol(1e-12))


def test_moments_of_kernels_are_those_of_the_samples_gradients(numpy_backend):
    """Of single samples, by gradients of batches of one."""
    objective, params, (x, y) = at(numpy_backend, DEEP)
    trace, spec = objective.at(params, (x, y)).traces()[1], objective.layers[1]
    found = sample_moment(trace, spec, "out", False)
    single = [objective.at(params, (x[i : i + 1], y[i : i + 1])).grads()[1][:, :-1].reshape(-1, spec.entries) for i in range(N)]
    np.testing.assert_allclose(found, sum(g[:, :, None] * g[:, None, :] for g in single), atol=1e-12)


def test_a_method_of_one_pair_of_factors_refuses_groups(numpy_backend):
    objective, params, batch = at(numpy_backend, ONE)
    opt = nl.optim.KBFGS()
    with pytest.raises(ValueError, match="a convolution of 2 groups has a matrix of patches for each of them; expected"):
        opt.step(params, opt.init(params, objective), objective, batch)


@pytest.mark.parametrize("name", ["Adam", "KFAC", "MiniBlockFisher", "Shampoo", "TNT", "SOAP", "Muon", "GaussNewton"])
def test_methods_descend(numpy_backend, name):
    objective, params, batch = at(numpy_backend, DEEP)
    opt = getattr(nl.optim, name)()
    state = opt.init(params, objective)
    losses = []
    for t in range(5):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        losses.append(info.loss)
    assert float(objective.at(params, batch).loss) < losses[0]


def test_groups_are_taken_apart_and_put_together(be):
    layers = (nn.LayerSpec("dense", 3, 2), nn.LayerSpec("conv", 6, 4, 2, groups=2), nn.LayerSpec("norm", 6, 1))
    W = [np.random.default_rng(i).standard_normal(spec.shape) for i, spec in enumerate(layers)]
    parts = nn.split_groups(tuple(map(be.array, W)), layers)
    assert (
        [tuple(part.shape) for part in parts] == [spec.shape for spec in nn.ungrouped(layers)] == [(3, 3), (3, 9), (3, 9), (6, 2)]
    )
    for one, want in zip(nn.join_groups(parts, layers), W, strict=True):
        np.testing.assert_array_equal(be.numpy(one), want.astype(be.numpy(one).dtype))
