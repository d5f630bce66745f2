"""Jacobians of any network against the dense one: products, Gram matrices, sketches; weighted by roots of output Hessians."""

import functools

import numpy as np
import pytest

from nearlin import _array, nn, sketch

TANH, RELU = (nn.Elementwise(nn.activation(name)) for name in ("tanh", "relu"))
IMAGE = (2, 5, 4)
N = 5


def conv(outputs):
    return nn.Sequential(
        (nn.Conv2d(2, 3, 3, pad=1), TANH, nn.MaxPool(2), nn.Conv2d(3, 4, 2, stride=2, pad=1, bias=False), nn.Flatten(),
         nn.Dense(16, outputs)), shape=IMAGE,
    )  # fmt: skip


def residual(outputs):
    body = nn.Sequential((nn.Conv2d(3, 3, 3, pad=1), nn.BatchNorm(3), TANH, nn.Conv2d(3, 3, 3, pad=1)))
    shorter = nn.Sequential((nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm(6)))
    return nn.Sequential(
        (nn.Conv2d(2, 3, 3, pad=1), nn.Residual(body), TANH, nn.Residual(shorter, nn.ZeroPadShortcut()), nn.GlobalAvgPool(),
         nn.Dense(6, outputs)), shape=IMAGE,
    )  # fmt: skip


def normalised(outputs):
    return nn.Sequential((nn.Dense(6, 5), nn.BatchNorm(5), TANH, nn.Dense(5, outputs)), shape=(6,))


NETWORKS = {
    f"{name}-{c}": make(c)
    for name, make in {
        "dense": lambda c: nn.MLP((6, 5, 4, c), "tanh"),
        "relu": lambda c: nn.MLP((6, 5, c), "relu"),
        "conv": conv,
        "norm": normalised,
        "residual": residual,
    }.items()
    for c in (1, 10)
}
LOSSES = {
    "squared": nn.SquaredLoss(),
    "averaged": nn.SquaredLoss(average=True),
    "sigmoid": nn.SigmoidCrossEntropy(),
    "softmax": nn.SoftmaxCrossEntropy(),
}


@pytest.fixture(params=NETWORKS)
def net(request):
    return NETWORKS[request.param]


def make(be, net, loss="squared", seed=5):
    """An objective in evaluation mode with statistics of its own, parameters, and a batch."""
    g = np.random.default_rng(seed)
    x = be.array(g.standard_normal((N, *(net.shape or (net.inputs,)))))
    params = tuple(W + 0.3 * _array.normal(9, tuple(W.shape), W) for W in net.init(3, be.like))
    objective = nn.Objective(net, LOSSES[loss])
    y = g.random((N, net.outputs))
    y = be.array(y / y.sum(axis=1, keepdims=True))
    other = be.array(g.standard_normal(tuple(x.shape)))
    return objective.observe(objective.at(params, (other, y)).statistics).evaluation(), params, (x, y)


def flat(be, v):
    return np.concatenate([be.numpy(V).ravel() for V in v])


def roots(point, be):
    """C of every sample as a dense (n, c, c), written anew."""
    z, loss = be.numpy(point.outputs).astype(np.float64), point._objective.loss
    eye = np.eye(z.shape[1])
    if isinstance(loss, nn.SquaredLoss):
        return np.stack([eye / (z.shape[1] ** 0.5 if loss.average else 1)] * len(z))
    if isinstance(loss, nn.SigmoidCrossEntropy):
        p = 1 / (1 + np.exp(-z))
        return eye * np.sqrt(p * (1 - p))[:, :, None]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return np.stack([np.diag(np.sqrt(q)) - np.outer(q, np.sqrt(q)) for q in p])


def dense_jacobian(be, point, root=None):
    """Cᵀ J row by row: the gradient of one output of one sample after the other."""
    n, c = point.outputs.shape
    network, rows = point._objective.network, []
    for i in range(n):
        for k in range(c):
            unit = np.zeros((n, c))
            unit[i, k] = 1
            rows.append(flat(be, network.grads(point.params, point._tape, be.array(unit))))
    J = np.array(rows).reshape(n, c, -1)
    return (J if root is None else np.einsum("ikl,ikp->ilp", root, J)).reshape(n * c, -1)


@functools.cache
def reference(on, name, loss="squared", weighted=False):
    """The dense Jacobian of a network, made once: ``on`` NumPy, which every backend is compared with."""
    objective, params, batch = make(on, NETWORKS[name], loss)
    point = objective.at(params, batch)
    return dense_jacobian(on, point, roots(point, on) if weighted else None)


def tangents(be, params, seed=1):
    g = np.random.default_rng(seed)
    return tuple(be.array(g.standard_normal(tuple(W.shape))) for W in params)


def check_products(be, J, dense, params):
    tol = be.tol(1e-11) * max(1, np.abs(dense).max() ** 2)
    u, v = np.random.default_rng(2).standard_normal(J.shape[0]), tangents(be, params)
    assert J.shape == dense.shape
    np.testing.assert_allclose(be.numpy(J.matvec(v)), dense @ flat(be, v), atol=tol)
    np.testing.assert_allclose(flat(be, J.rmatvec(be.array(u))), dense.T @ u, atol=tol)
    np.testing.assert_allclose(be.numpy(J.gram_matvec(be.array(u))), dense @ (dense.T @ u), atol=tol)
    np.testing.assert_allclose(flat(be, J.ggn_matvec(v)), dense.T @ (dense @ flat(be, v)), atol=tol)
    return tol


CASES = [(name, "squared", False) for name in NETWORKS]
CASES += [(name, loss, False) for name in ("dense-10", "residual-10") for loss in LOSSES if loss != "squared"]
CASES += [(name, loss, None) for name, loss, _ in CASES if name.startswith(("dense", "relu"))]  # passes are the others' default


@pytest.mark.parametrize(("name", "loss", "factors"), CASES)
def test_everything_equals_the_dense_jacobian(be, numpy_backend, name, loss, factors):
    net = NETWORKS[name]
    objective, params, batch = make(be, net, loss)
    point = objective.at(params, batch)
    dense = reference(numpy_backend, name, loss, weighted=True)
    J, c = point.jacobian(weighted=True, factors=factors), net.outputs
    tol = check_products(be, J, dense, params)
    np.testing.assert_allclose(be.numpy(J.to_dense()), dense, atol=tol)
    np.testing.assert_allclose(be.numpy(J.gram()), dense @ dense.T, atol=tol)
    by_class = [dense[k::c] @ dense[k::c].T for k in range(c)]
    for got, want in zip(J.class_grams(), by_class, strict=True):
        np.testing.assert_allclose(be.numpy(got), want, atol=tol)
    np.testing.assert_allclose(be.numpy(J.mean_gram()), np.mean(by_class, axis=0), atol=tol)


def test_the_residual_is_that_of_the_derivative_by_the_outputs(be, net):
    """C r̃ = dl/dz, so that (Cᵀ J)ᵀ r̃ / n is the gradient; and H = C Cᵀ."""
    for loss in LOSSES:
        objective, params, batch = make(be, net, loss)
        point = objective.at(params, batch)
        J, C = point.jacobian(weighted=True), roots(point, be)
        got = flat(be, J.rmatvec(point.residual)) / N
        np.testing.assert_allclose(got, flat(be, point.grads()), atol=be.tol(1e-12))
        v = np.random.default_rng(4).standard_normal(tuple(point.outputs.shape))
        want = np.einsum("ijk,ilk,il->ij", C, C, v)
        np.testing.assert_allclose(be.numpy(point.root.hessian(be.array(v))), want, atol=be.tol(1e-13))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sketch_is_the_sketch_of_the_dense_rows(be, numpy_backend, name):
    """Kronecker rows, normalisations and convolutions by their rows, and flat sketches, all against the explicit operator."""
    objective, params, batch = make(be, NETWORKS[name])
    J, dense = objective.at(params, batch).jacobian(), reference(numpy_backend, name)
    tol = be.tol(1e-11)
    S = J.draw(sketch.KroneckerSRHT(), 3, 16, be.like)
    shapes = S.shapes
    explicit = [be.numpy(S.dense(l)) if isinstance(one, tuple) else flat_sample(be, S.flat(l)) for l, one in enumerate(shapes)]
    np.testing.assert_allclose(be.numpy(J.sketch(S)), dense @ np.concatenate(explicit, axis=1).T, atol=tol)
    F = J.draw(sketch.SparseSign(4), 3, 16, be.like)
    np.testing.assert_allclose(be.numpy(J.sketch(F)), dense @ flat_sample(be, F).T, atol=tol)
    Y = be.numpy(J.sketch(S))
    np.testing.assert_allclose(be.numpy(J.sketch_gram(S)), Y @ Y.T, atol=tol)


def flat_sample(be, S):
    return be.numpy(S @ be.array(np.eye(S.shape[1])))


def test_a_convolution_is_sketched_position_by_position_where_that_is_cheaper(be):
    """2 x 2 positions of a wide convolution: its explicit rows would be the dearer way."""
    net = nn.Sequential((nn.Conv2d(16, 64, 3, pad=1), TANH, nn.GlobalAvgPool(), nn.Dense(64, 2)), shape=(16, 2, 2))
    objective, params, batch = make(be, net)
    J = objective.at(params, batch).jacobian()
    S = J.draw(sketch.KroneckerSRHT(oversample=1), 3, 16, be.like)
    assert [isinstance(one, tuple) for one in S.shapes] == [True, True]
    dense = be.numpy(J.to_dense()) @ np.concatenate([be.numpy(S.dense(l)) for l in range(2)], axis=1).T
    np.testing.assert_allclose(be.numpy(J.sketch(S)), dense, atol=be.tol(1e-11))
    assert [isinstance(one, tuple) for one in J.sketch_shapes(8192, 4)] == [False, True]


def test_a_budget_of_bytes_changes_memory_alone(numpy_backend, net):
    objective, params, batch = make(numpy_backend, net, "softmax")
    J = objective.at(params, batch).jacobian(weighted=True, factors=False)
    small = nn.NetworkJacobian(J.network, J.params, J.x, J.tape, J.root, budget=1)
    assert small._samples_at_a_time() == 1 < N <= J._samples_at_a_time()
    np.testing.assert_allclose(small.gram(), J.gram(), atol=1e-12)
    S = J.draw(sketch.KroneckerSRHT(), 3, 12, numpy_backend.like)
    np.testing.assert_allclose(small.sketch(S), J.sketch(S), atol=1e-12)


def test_coupled_samples_have_products_but_no_rows(be):
    """Batch normalisation by batch statistics: exact products, and one sentence where rows are asked for."""
    for name in ("norm-10", "residual-1"):
        objective = nn.Objective(NETWORKS[name], LOSSES["squared"])
        _, params, batch = make(be, NETWORKS[name])
        point = objective.at(params, batch)
        J, dense = point.jacobian(), dense_jacobian(be, point)
        check_products(be, J, dense, params)
        np.testing.assert_allclose(be.numpy(J.to_dense()), dense, atol=be.tol(1e-11))
        with pytest.raises(ValueError, match="batch normalisation by batch statistics couples samples: the Jacobian's rows"):
            J.gram()


def test_a_graph_has_products(be, rng):
    S, H = rng.random((N, N)), rng.standard_normal((N, 4))
    net = nn.GraphNetwork(be.array(S), be.array(H), (5, 3), "tanh")
    params = net.init(1, be.like)
    nodes, y = be.array([3, 0, 1], "int64"), be.array([0, 2, 1], "int64")
    point = nn.Objective(net, LOSSES["softmax"]).at(params, (nodes, y))
    check_products(be, point.jacobian(weighted=True), dense_jacobian(be, point, roots(point, be)), params)
    with pytest.raises(ValueError, match="a graph couples samples"):
        point.jacobian().gram()


def test_another_dtype_stays_near(numpy_backend, net):
    objective, params, batch = make(numpy_backend, net, "softmax")
    for factors in (None, False):
        J = objective.at(params, batch).jacobian(weighted=True, factors=factors)
        u = np.random.default_rng(2).standard_normal(J.shape[0])
        got = J.astype("float32").gram_matvec(u.astype(np.float32))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, J.gram_matvec(u), rtol=1e-3, atol=1e-3)


def test_the_softmax_keeps_its_digits_where_one_class_is_nearly_certain():
    """H v and Cᵀ v in float32 against float64, one probability at 1 - 1e-6: to rounding; the plain form loses four digits."""
    z = np.array([[0.0, -14.0, -15.0], [-14.5, -13.9, 0.0]])
    v = np.array([[1.0, 2.0, -1.0], [0.5, -1.0, 3.0]])
    loss = nn.SoftmaxCrossEntropy()
    want = loss.root(z).hessian(v)
    root = loss.root(z.astype(np.float32))
    np.testing.assert_allclose(root.hessian(v.astype(np.float32)), want, rtol=3e-6)
    p = (root.root * root.root).astype(np.float32)
    plain = p * v.astype(np.float32) - p * np.sum(p * v.astype(np.float32), axis=1, keepdims=True, dtype=np.float32)
    assert np.max(np.abs(plain / want - 1)) > 1e-3


def test_a_wrong_root_is_noticed(numpy_backend):
    """Negative control: weighted by another loss's root, the gradient is another one."""
    objective, params, batch = make(numpy_backend, NETWORKS["dense-10"], "softmax")
    point = objective.at(params, batch)
    J = point.jacobian().weigh(nn.SigmoidCrossEntropy().root(point.outputs))
    assert not np.allclose(flat(numpy_backend, J.rmatvec(point.residual)) / N, flat(numpy_backend, point.grads()), atol=1e-3)


def test_passes_are_counted_as_what_they_are(numpy_backend):
    objective, params, batch = make(numpy_backend, NETWORKS["conv-10"])
    counted = nn.Counted(objective)
    J = counted.at(params, batch).jacobian(weighted=True)
    J.gram_matvec(np.ones(J.shape[0]))
    assert counted.calls == {"forward": 1, "jacobian": 1, "jvp": 1, "backward": 1}
