"""Laws of layers, networks and Jacobians: finite differences, dot tests, and dense second implementations."""

import copy

import numpy as np
import pytest

from nearlin import _array, linalg, nn, sketch

NETWORKS = {
    "two-layer-relu": nn.TwoLayer(5, 37),
    "two-layer-tanh": nn.TwoLayer(5, 24, "tanh"),
    "two-layer-identity": nn.TwoLayer(5, 6, "identity"),
    "two-layer-relu-3": nn.TwoLayer(5, 37, outputs=3),
    "two-layer-tanh-2": nn.TwoLayer(5, 24, "tanh", outputs=2),
    "mlp-tanh": nn.MLP((5, 7, 4, 1), "tanh"),
    "mlp-softplus": nn.MLP((5, 7, 1), "softplus"),
    "mlp-sigmoid-2": nn.MLP((5, 6, 2), "sigmoid"),
    "mlp-relu-3": nn.MLP((5, 9, 8, 3), "relu"),
    "linear": nn.MLP((5, 1)),
}
N = 11


@pytest.fixture(params=NETWORKS)
def net(request):
    return NETWORKS[request.param]


def make(be, net, key=3):
    g = np.random.default_rng(5)
    x = g.standard_normal((N, net.inputs))
    y = g.standard_normal((N, net.outputs))
    params = tuple(W + 0.1 * _array.normal(9, tuple(W.shape), W) for W in net.init(key, be.like))  # biases are not zero
    return nn.Objective(net, nn.SquaredLoss()), params, (be.array(x), be.array(y))


def flat(be, tree):
    return np.concatenate([be.numpy(a).ravel() for a in tree])


def tangents(be, params, seed=1):
    g = np.random.default_rng(seed)
    return tuple(be.array(g.standard_normal(tuple(W.shape))) for W in params)


def test_parameters_have_the_shapes_that_the_layers_announce(be, net):
    params = net.init(0, be.like)
    assert [tuple(W.shape) for W in params] == [spec.shape for spec in net.layers]


def test_the_jacobian_matches_central_differences(net, numpy_backend):
    be = numpy_backend
    objective, params, batch = make(be, net)
    dense, v, eps = objective.at(params, batch).jacobian().to_dense(), tangents(be, params), 1e-7

    def outputs(t):
        return objective.at(tuple(W + t * V for W, V in zip(params, v, strict=True)), batch).outputs.ravel()

    np.testing.assert_allclose((outputs(eps) - outputs(-eps)) / (2 * eps), dense @ flat(be, v), rtol=1e-6, atol=1e-6)


def test_products_equal_the_dense_jacobian(be, net):
    objective, params, batch = make(be, net)
    J = objective.at(params, batch).jacobian()
    dense, tol = be.numpy(J.to_dense()), be.tol(1e-11)
    u, v = np.random.default_rng(2).standard_normal(J.shape[0]), tangents(be, params)
    np.testing.assert_allclose(be.numpy(J.matvec(v)), dense @ flat(be, v), atol=tol)
    np.testing.assert_allclose(flat(be, J.rmatvec(be.array(u))), dense.T @ u, atol=tol)
    np.testing.assert_allclose(be.numpy(J.gram_matvec(be.array(u))), dense @ (dense.T @ u), atol=tol)
    np.testing.assert_allclose(flat(be, J.ggn_matvec(v)), dense.T @ (dense @ flat(be, v)), atol=tol)
    np.testing.assert_allclose(be.numpy(J.gram()), dense @ dense.T, atol=tol)
    assert dense.shape == J.shape


def test_the_product_with_the_gram_matrix_gives_the_adjoint_it_passes_through(be, net):
    objective, params, batch = make(be, net)
    J = objective.at(params, batch).jacobian()
    u = be.array(np.random.default_rng(2).standard_normal(J.shape[0]))
    np.testing.assert_allclose(flat(be, J.gram_matvec_with_adjoint(u)[1]), flat(be, J.rmatvec(u)), atol=be.tol(1e-13))


def test_jacobians_pass_the_dot_test(be, net):
    objective, params, batch = make(be, net)
    assert linalg.dot_test(objective.at(params, batch).jacobian(), 4, be.like) < be.tol(1e-13)


def test_forward_mode_equals_the_jacobian(be, net):
    objective, params, batch = make(be, net)
    point, v = objective.at(params, batch), tangents(be, params)
    np.testing.assert_allclose(be.numpy(point.jvp(v)).ravel(), be.numpy(point.jacobian().matvec(v)), atol=be.tol(1e-12))


def test_the_gradient_is_the_adjoint_of_the_mean_residual(be, net):
    objective, params, batch = make(be, net)
    point = objective.at(params, batch)
    want = flat(be, point.jacobian().rmatvec(point.residual / N))
    np.testing.assert_allclose(flat(be, point.grads()), want, atol=be.tol(1e-13))


def test_traces_multiply_to_the_gradient(be, net):
    objective, params, batch = make(be, net)
    point = objective.at(params, batch)
    got = flat(be, tuple(trace.grad() for trace in point.traces()))
    np.testing.assert_allclose(got / N, flat(be, point.grads()), atol=be.tol(1e-13))


def test_gradients_at_drawn_targets_use_those_targets(be, net):
    objective, params, batch = make(be, net)
    point = objective.at(params, batch)
    assert np.allclose(flat(be, point.grads(targets=point.outputs)), 0)
    drawn = point.draw(3)
    want = flat(be, point.jacobian().rmatvec(be.xp.reshape(point.outputs - drawn, (-1,)) / N))
    np.testing.assert_allclose(flat(be, point.grads(targets=drawn)), want, atol=be.tol(1e-13))


def test_inner_products_in_float32_stay_near(net, numpy_backend):
    objective, params, batch = make(numpy_backend, net)
    J = objective.at(params, batch).jacobian()
    u = np.random.default_rng(2).standard_normal(J.shape[0])
    got = J.astype("float32").gram_matvec(u.astype(np.float32))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, J.gram_matvec(u), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factored", [True, False])
def test_a_full_sketch_of_the_jacobian_equals_its_dense_sketch(be, net, factored):
    objective, params, batch = make(be, net)
    J = objective.at(params, batch).jacobian()
    dist = sketch.KroneckerSRHT() if factored else sketch.Gaussian()
    S = dist.sample(3, 16, J.factor_shapes if factored else J.shape[1], like=be.like)
    if factored:
        dense_sketch = np.concatenate([be.numpy(S.dense(l)) for l in range(len(J.factor_shapes))], axis=1)
    else:
        dense_sketch = be.numpy(S @ be.array(np.eye(J.shape[1])))
    want = be.numpy(J.to_dense()) @ dense_sketch.T
    np.testing.assert_allclose(be.numpy(J.sketch(S)), want, atol=be.tol(1e-12))
    np.testing.assert_allclose(be.numpy(J.sketch_gram(S)), want @ want.T, atol=be.tol(1e-11))


def test_the_neuron_mode_sketch_with_all_neurons_is_exact(be, net):
    """Theory gives equality: with as many sketched neurons as neurons, S₁ only flips signs."""
    objective, params, batch = make(be, net)
    J = objective.at(params, batch).jacobian()
    S = sketch.NeuronSigns().sample(3, 1000, J.factor_shapes, like=be.like)
    np.testing.assert_allclose(be.numpy(J.sketch_gram(S)), be.numpy(J.gram()), atol=be.tol(1e-11))


def test_a_neuron_mode_sketch_with_few_neurons_is_not_exact(numpy_backend):
    objective, params, batch = make(numpy_backend, NETWORKS["two-layer-relu"])
    J = objective.at(params, batch).jacobian()
    S = sketch.NeuronSigns().sample(3, 4, J.factor_shapes, like=numpy_backend.like)
    assert np.max(np.abs(J.sketch_gram(S) - J.gram())) > 0.1


def test_relu_networks_are_homogeneous(be):
    """J(W) vec(W) = f(W): specification, section 1.3."""
    objective, params, batch = make(be, NETWORKS["two-layer-relu"])
    point = objective.at(params, batch)
    np.testing.assert_allclose(be.numpy(point.jacobian().matvec(params)), be.numpy(point.outputs).ravel(), atol=be.tol(1e-12))


def test_tanh_networks_are_not(numpy_backend):
    objective, params, batch = make(numpy_backend, NETWORKS["two-layer-tanh"])
    point = objective.at(params, batch)
    assert np.max(np.abs(point.jacobian().matvec(params) - point.outputs.ravel())) > 1e-2


def test_the_structured_gram_is_the_hadamard_product_of_inputs_and_masks(numpy_backend):
    objective, (W,), (x, y) = make(numpy_backend, NETWORKS["two-layer-relu"])
    B = (x @ W.T > 0).astype(float)
    np.testing.assert_allclose(objective.at((W,), (x, y)).jacobian().gram(), (x @ x.T) * (B @ B.T) / W.shape[0], atol=1e-15)


def test_a_neuron_at_zero_is_off(be):
    """ReLU'(0) = 0 in the mask too: the second neuron is orthogonal to the sample."""
    net = nn.TwoLayer(2, 2)
    params, batch = (be.array([[1.0, 0.0], [0.0, 1.0]]),), (be.array([[3.0, 0.0]]), be.array([1.0]))
    J = nn.Objective(net, nn.SquaredLoss()).at(params, batch).jacobian()
    assert be.numpy(J.to_dense())[0, 2:].tolist() == [0.0, 0.0]


def test_gram_counts_in_float32_are_exact(numpy_backend):
    objective, params, batch = make(numpy_backend, NETWORKS["two-layer-relu"])
    J = objective.at(params, batch).jacobian()
    assert np.array_equal(J.gram(dtype="float32"), J.gram())


def kernel_of(be, x, width=8):
    """The Jacobian of a network on inputs x, at the weights of key 3."""
    net, x = nn.TwoLayer(x.shape[1], width), be.array(x)
    return nn.Objective(net, nn.SquaredLoss()).at(net.init(3, be.like), (x, x[:, 0])).jacobian()


def test_the_gram_matrix_approaches_the_closed_kernel_with_the_width(numpy_backend, rng):
    """Like 1/√m: the error halves with four times the width, within 25 % in the mean of 16 times."""
    x = rng.standard_normal((12, 5))
    K = kernel_of(numpy_backend, x).kernel_gram()
    errors = [np.linalg.norm(kernel_of(numpy_backend, x, 2**k).gram() - K) / np.linalg.norm(K) for k in (8, 12, 16)]
    assert errors[-1] < 0.01
    assert (errors[0] / errors[-1]) ** 0.5 == pytest.approx(4, rel=0.25)


def test_the_closed_kernel_is_known_at_right_angles_and_on_lines(be):
    """K_ii = |x|²/2; a multiple by α > 0 has α |x|²/2, by α < 0 nothing; orthogonal inputs have nothing; 60 degrees a third."""
    x = np.array([[3.0, 4.0], [6.0, 8.0], [-3.0, -4.0], [-4.0, 3.0], [5 * np.cos(np.pi / 3), 5 * np.sin(np.pi / 3)], [5.0, 0.0]])
    K = be.numpy(kernel_of(be, x).kernel_gram())
    np.testing.assert_allclose(np.diag(K), np.sum(x * x, axis=1) / 2, rtol=be.tol(1e-8) ** 0.5 if be.eps > 1e-10 else 1e-7)
    want = [25.0, 0.0, 0.0, 25 * 0.5 * (1 - 1 / 3) / 2]
    tol = 1e-6 if be.eps < 1e-10 else 3e-2  # the angle of parallel inputs is only known to √eps
    np.testing.assert_allclose([K[0, 1], K[0, 2], K[0, 3], K[4, 5]], want, atol=tol)
    np.testing.assert_allclose(K, K.T, atol=be.tol(1e-14))
    assert np.min(np.linalg.eigvalsh(K)) > -tol


def test_the_closed_kernel_of_a_row_of_zeros_is_zero(be):
    K = be.numpy(nn.two_layer_jacobian.relu_kernel(be.array([[0.0, 0.0], [3.0, 4.0]])))
    np.testing.assert_allclose(K, [[0, 0], [0, 12.5]], rtol=1e-6)


@pytest.mark.parametrize("name", ["two-layer-relu-3", "two-layer-tanh-2"])
def test_the_factors_of_some_rows_are_those_of_these_rows(be, name):
    objective, params, batch = make(be, NETWORKS[name])
    J, c = objective.at(params, batch).jacobian(), NETWORKS[name].outputs
    (factor,) = J.factors(slice(3, 7))
    np.testing.assert_allclose(
        be.numpy(factor.explicit()).reshape(4 * c, -1), be.numpy(J.to_dense())[3 * c : 7 * c], atol=be.tol(1e-14)
    )


@pytest.mark.parametrize("name", ["two-layer-relu", "two-layer-tanh", "two-layer-relu-3", "two-layer-tanh-2"])
def test_the_mean_square_is_the_mean_of_the_gram_diagonal(be, name):
    objective, params, batch = make(be, NETWORKS[name])
    J = objective.at(params, batch).jacobian()
    assert J.mean_square() == pytest.approx(np.mean(np.diag(be.numpy(J.gram()))), rel=be.tol(1e-13))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("width", [1, 8, 9, 64, 1000])
def test_blocks_of_neurons_do_not_change_the_numbers(numpy_backend, width, outputs, monkeypatch):
    net = nn.TwoLayer(5, 1000, outputs=outputs)
    objective, params, batch = make(numpy_backend, net)
    u = np.random.default_rng(2).standard_normal(N * outputs)
    whole = objective.at(params, batch)
    J = whole.jacobian()
    S = sketch.NeuronSigns().sample(3, 20, J.factor_shapes, like=numpy_backend.like)
    want = J.gram(), J.sketch_gram(S), J.mean_square()
    monkeypatch.setattr(_array.blocks, "CPU_BLOCK_BYTES", width * N * 8)
    monkeypatch.setattr(nn.two_layer_jacobian, "GROUP_BYTES", 1)
    parts = objective.at(params, batch)
    np.testing.assert_allclose(parts.outputs, whole.outputs, atol=1e-13)
    np.testing.assert_allclose(parts.jacobian().gram_matvec(u), whole.jacobian().gram_matvec(u), atol=1e-12)
    J = parts.jacobian()
    for found, expected in zip((J.gram(), J.sketch_gram(S), J.mean_square()), want, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("n", [64, 65, 128, 193])  # tiles of 64 samples
@pytest.mark.parametrize(("activation", "outputs"), [("relu", 1), ("relu", 3), ("tanh", 2)])
def test_tiles_of_samples_and_neurons_make_the_dense_products(be, monkeypatch, n, activation, outputs):
    """Against J from its definition, row (i, k): a_r phi'(w_r·x_i) x_i √(c/m) at the neurons r of output k."""
    monkeypatch.setattr(_array.blocks, "CPU_BLOCK_BYTES", 8 * 64 * 64)
    monkeypatch.setattr(_array.blocks, "on_gpu", lambda like: False)  # whose blocks are larger than anything here
    monkeypatch.setattr(nn.two_layer_blocks, "WIDE", 24)
    draw, d, m = np.random.default_rng(5), 4, 100
    x, W, u = draw.standard_normal((n, d)), draw.standard_normal((m, d)), draw.standard_normal(n * outputs)
    z, a = x @ W.T, 1.0 - 2 * (np.arange(m) % 2)
    phi, slope = (np.tanh(z), 1 - np.tanh(z) ** 2) if activation == "tanh" else (np.maximum(z, 0), 1.0 * (z > 0))
    own = np.array([[k * m // outputs <= r < (k + 1) * m // outputs for r in range(m)] for k in range(outputs)])
    scale = np.sqrt(outputs / m)
    f = scale * np.einsum("ir,kr->ik", phi * a, own)
    J = scale * np.einsum("ir,kr,ij->ikrj", slope * a, own, x).reshape(n * outputs, m * d)
    params = (be.array(W),)
    made, tape = nn.TwoLayer(d, m, activation, outputs).forward(params, be.array(x))
    close = lambda found, want: np.testing.assert_allclose(be.numpy(found), want, atol=be.tol(1e-11))  # noqa: E731
    found = tape.jacobian
    assert not nn.two_layer_blocks.undivided(found.x)
    assert len(found._tiles) == -(-n // 64)
    image, (adjoint,) = found.gram_matvec_with_adjoint(be.array(u))
    close(made, f)
    close(image, J @ (J.T @ u))
    close(adjoint, (J.T @ u).reshape(m, d))
    close(found.rmatvec(be.array(u))[0], (J.T @ u).reshape(m, d))
    close(found.matvec(params), J @ W.ravel())
    assert found.mean_square() == pytest.approx(np.mean(np.sum(J * J, axis=1)), rel=be.tol(1e-12))
    S = sketch.NeuronSigns().sample(0, 9, found.factor_shapes, like=be.like)
    folded = be.numpy(S.left(0, be.array(scale * slope), 0)[1])
    wanted = np.zeros((n, outputs, folded.shape[1]))
    for k in range(outputs):
        wanted[:, k] = be.numpy(S.left(0, be.array(scale * slope * own[k]), 0)[1])
    close(found.fold_left(0, S), wanted.reshape(n * outputs, -1))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tiles_make_the_same_bits_with_any_number_of_workers(monkeypatch, count):
    monkeypatch.setattr(_array.blocks, "CPU_BLOCK_BYTES", 8 * 64 * 64)
    monkeypatch.setattr(nn.two_layer_blocks, "WIDE", 24)
    x, u = (np.random.default_rng(6).standard_normal(shape) for shape in ((193, 4), 193))
    net = nn.TwoLayer(4, 1000)
    results = []
    for workers in (1, count):
        monkeypatch.setattr(_array.pool, "blas_threads", lambda workers=workers: workers)
        f, tape = net.forward(net.init(0, x), x)
        image, (adjoint,) = tape.jacobian.gram_matvec_with_adjoint(u)
        results.append((f, image, adjoint))
    assert all(map(np.array_equal, *results))


def test_a_weight_depends_on_the_key_and_its_neuron_alone(be):
    small, large = (be.numpy(nn.TwoLayer(3, m).init(1, be.like)[0]) for m in (100, 70000))
    assert np.array_equal(small, large[:100])


def test_the_relu_derivative_at_zero_is_zero(be):
    phi = nn.activation("relu")
    assert be.numpy(phi.derivative(be.array([-1.0, 0.0, 1.0]))).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("name", nn.ACTIVATIONS)
def test_activation_constants_bound_the_derivatives(name):
    z = np.linspace(-30, 30, 200001)
    phi = nn.activation(name)
    slopes = np.diff(phi.derivative(z)) / np.diff(z)
    for bound, values in ((phi.h0, phi.function(z)), (phi.h1, phi.derivative(z)), (phi.h2, slopes)):
        assert np.max(np.abs(values)) <= bound * (1 + 1e-6)
    if name != "relu" and np.isfinite(phi.h2):
        assert np.max(np.abs(slopes)) >= phi.h2 * (1 - 1e-3)


@pytest.mark.parametrize("name", ["softplus", "sigmoid", "tanh"])
def test_activations_do_not_overflow(be, name):
    phi = nn.activation(name)
    z = be.array([-1e4, 1e4])
    assert np.all(np.isfinite(be.numpy(phi.function(z))))
    assert np.all(np.isfinite(be.numpy(phi.derivative(z))))


def test_layers_are_left_as_they_were(net, numpy_backend):
    before = copy.deepcopy(net)
    objective, params, batch = make(numpy_backend, net)
    point = objective.at(params, batch)
    point.grads()
    point.jacobian().gram()
    assert net == before


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_a_width_is_a_positive_integer(value):
    with pytest.raises(ValueError, match=r"width is .*; expected an integer of at least 1"):
        nn.TwoLayer(3, value)


def test_an_unknown_activation_lists_the_known_ones():
    with pytest.raises(ValueError, match="activation is 'gelu'; expected one of relu, tanh"):
        nn.TwoLayer(3, 4, "gelu")


@pytest.mark.parametrize("sizes", [(3,), (3, 0, 1), (3, 2.0, 1)])
def test_mlp_sizes_are_positive_integers(sizes):
    with pytest.raises(ValueError, match="expected at least two positive integers"):
        nn.MLP(sizes)


@pytest.mark.parametrize(
    ("modules", "found"), [((), "nothing"), ((nn.Flatten(),), "Flatten"), ((nn.Flatten(), nn.MaxPool(2)), "MaxPool")]
)
def test_a_network_without_parameters_is_refused(modules, found):
    with pytest.raises(ValueError, match=rf"modules holds no layer with parameters, but .*{found}; expected at least one"):
        nn.Sequential(modules)
