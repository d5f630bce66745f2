"""The wide network of several outputs, each with neurons of its own: against plain NumPy, and against networks of one output."""

import numpy as np
import pytest

import nearlin as nl
from nearlin import linalg, nn, sketch

D, N = 5, 11
CASES = {"relu-3": (36, "relu", 3), "tanh-2": (24, "tanh", 2), "uneven-4": (30, "relu", 4), "one-each": (3, "softplus", 3)}
PHI = {  # function and derivative, written anew
    "relu": (lambda z: np.where(z > 0, z, 0), lambda z: 1.0 * (z > 0)),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "softplus": (lambda z: np.log1p(np.exp(z)), lambda z: 1 / (1 + np.exp(-z))),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def problem(be, width, activation, outputs, n=N):
    g = np.random.default_rng(5)
    x, y = g.standard_normal((n, D)), g.standard_normal((n, outputs))
    network = nn.TwoLayer(D, width, activation, outputs)
    return nn.Objective(network, nn.SquaredLoss()), network.init(3, be.like), (be.array(x), be.array(y))


def recomputed(W, x, activation, outputs):
    """f (n, c) and J (n, c, m, d), neuron by neuron, in float64: a float32 product may raise a flag without a cause."""
    W, x = np.asarray(W, dtype=np.float64), np.asarray(x, dtype=np.float64)
    (m, d), n = W.shape, len(x)
    function, derivative = PHI[activation]
    f, J = np.zeros((n, outputs)), np.zeros((n, outputs, m, d))
    for k in range(outputs):
        for r in range(k * m // outputs, (k + 1) * m // outputs):
            a = (-1) ** r * np.sqrt(outputs / m)
            f[:, k] += a * function(x @ W[r])
            J[:, k, r, :] = a * derivative(x @ W[r])[:, None] * x
    return f, J.reshape(n * outputs, m * d)


def test_outputs_gradient_and_jacobian_are_those_of_the_formula(be, case):
    _, activation, outputs = case
    objective, (W,), (x, y) = problem(be, *case)
    point, tol = objective.at((W,), (x, y)), be.tol(1e-12)
    f, J = recomputed(be.numpy(W), be.numpy(x), activation, outputs)
    np.testing.assert_allclose(be.numpy(point.outputs), f, atol=tol)
    np.testing.assert_allclose(be.numpy(point.jacobian().to_dense()), J, atol=tol)
    residual = (f - be.numpy(y)).ravel()
    np.testing.assert_allclose(be.numpy(point.grads()[0]).ravel(), J.T @ residual / N, atol=tol)
    assert float(point.loss) == pytest.approx(residual @ residual / (2 * N), rel=tol)


def assembled(be, J):
    """J Jᵀ, column by column, through products alone."""
    eye = np.eye(J.shape[0])
    return np.stack([be.numpy(J.gram_matvec(be.array(column))) for column in eye], axis=1)


def off_diagonal(gram, outputs):
    """The entries of J Jᵀ between two outputs."""
    blocks = gram.reshape(N, outputs, N, outputs)
    return np.concatenate([blocks[:, k, :, l].ravel() for k in range(outputs) for l in range(outputs) if k != l])


def test_the_gram_matrix_is_block_diagonal_to_the_last_bit(be, case):
    objective, params, batch = problem(be, *case)
    J = objective.at(params, batch).jacobian()
    gram, dense = assembled(be, J), be.numpy(J.to_dense()).astype("float64")
    assert not np.any(off_diagonal(gram, case[2]))
    assert not np.any(off_diagonal(be.numpy(J.gram()), case[2]))
    np.testing.assert_allclose(gram, dense @ dense.T, atol=be.tol(1e-12))
    np.testing.assert_allclose(gram, be.numpy(J.gram()), atol=be.tol(1e-12))


def test_a_perceptron_of_several_outputs_is_not(numpy_backend):
    """A negative control: its outputs share the first layer."""
    network = nn.MLP((D, 12, 3), "relu")
    x = np.random.default_rng(5).standard_normal((N, D))
    J = nn.Objective(network, nn.SquaredLoss()).at(network.init(3, x), (x, x[:, :3])).jacobian()
    assert np.any(off_diagonal(assembled(numpy_backend, J), 3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_an_output_is_the_network_of_its_own_neurons_to_the_last_bit(activation, dtype):
    """Outputs, products and Gram matrices: the two thin products of one output."""
    g = np.random.default_rng(7)
    x, y = g.standard_normal((N, D)).astype(dtype), g.standard_normal((N, 3)).astype(dtype)
    network, single = nn.TwoLayer(D, 48, activation, 3), nn.TwoLayer(D, 16, activation)
    (W,) = network.init(3, x)
    point = nn.Objective(network, nn.SquaredLoss()).at((W,), (x, y))
    J, u = point.jacobian(), y.ravel()
    image, (adjoint,) = J.gram_matvec_with_adjoint(u)
    for k in range(3):
        own = slice(16 * k, 16 * (k + 1))
        alone = nn.Objective(single, nn.SquaredLoss()).at((W[own].copy(),), (x, y[:, k : k + 1].copy()))
        J_k, u_k = alone.jacobian(), y[:, k].copy()
        want, (back,) = J_k.gram_matvec_with_adjoint(u_k)
        assert np.array_equal(point.outputs[:, k], alone.outputs[:, 0])
        assert np.array_equal(image.reshape(N, 3)[:, k], want)
        assert np.array_equal(adjoint[own], back)
        assert np.array_equal(J.rmatvec(u)[0][own], J_k.rmatvec(u_k)[0])
        assert np.array_equal(J.matvec((W,)).reshape(N, 3)[:, k], J_k.matvec((W[own].copy(),)))
        assert np.array_equal(J.class_grams()[k], J_k.gram())


def test_neurons_permuted_by_outputs_permute_the_outputs(numpy_backend):
    objective, (W,), batch = problem(numpy_backend, 36, "relu", 3)
    order = [2, 0, 1]
    moved = np.concatenate([W[12 * k : 12 * (k + 1)] for k in order])
    before, after = (objective.at((V,), batch) for V in (W, moved))
    assert np.array_equal(after.outputs, before.outputs[:, order])
    grams = before.jacobian().class_grams()
    for k, gram in zip(order, after.jacobian().class_grams(), strict=True):
        assert np.array_equal(gram, grams[k])


def test_the_draws_are_those_of_one_output(be):
    one, three = (be.numpy(nn.TwoLayer(D, 36, outputs=c).init(3, be.like)[0]) for c in (1, 3))
    assert np.array_equal(one, three)


# --------------------------------------------------------------------------------------------------- the pooled matrices


def mean_of_blocks(dense, outputs):
    """(1/c) Σ_k J_k J_kᵀ from the rows of J."""
    rows = dense.reshape(N, outputs, -1)
    return sum(rows[:, k] @ rows[:, k].T for k in range(outputs)) / outputs


def test_the_pooled_matrices_are_the_mean_of_the_blocks(be, case):
    objective, params, batch = problem(be, *case)
    J, tol = objective.at(params, batch).jacobian(), be.tol(1e-12)
    want = mean_of_blocks(be.numpy(J.to_dense()), case[2])
    exact = sketch.NeuronSigns().sample(3, 1000, J.factor_shapes, like=be.like)  # it flips signs alone
    for gram in (J.mean_gram(), J.pooled().sketch_gram(exact), sum(J.class_grams()) / case[2]):
        np.testing.assert_allclose(be.numpy(gram), want, atol=tol)
    assert J.mean_square() == pytest.approx(np.trace(want) / N, rel=be.tol(1e-13))


@pytest.mark.parametrize("distribution", [sketch.NeuronSigns(), sketch.KroneckerSRHT(), sketch.Gaussian()])
def test_a_pooled_sketch_estimates_the_mean_of_the_blocks(numpy_backend, distribution):
    """Over 400 draws its mean is within 4 standard errors; that of c times the mean is not: a negative control."""
    objective, params, batch = problem(numpy_backend, 36, "relu", 3)
    J = objective.at(params, batch).jacobian()
    want = mean_of_blocks(J.to_dense(), 3)
    traces = [np.trace(J.pooled().sketch_gram(J.pooled().draw(distribution, key, 12, batch[0]))) for key in range(400)]
    error = np.std(traces) / len(traces) ** 0.5
    assert abs(np.mean(traces) - np.trace(want)) <= 4 * error + 1e-12 * np.trace(want)
    assert abs(np.mean(traces) - 3 * np.trace(want)) > 20 * error


def test_a_pooled_factor_of_another_scale_is_seen(numpy_backend):
    """At a damping of the size of the matrix, c times the mean block takes more iterations than the mean block."""
    objective, params, batch = problem(numpy_backend, 6000, "relu", 3)
    J = objective.at(params, batch).jacobian()
    damping, u = J.mean_square() / 4, np.random.default_rng(1).standard_normal(3 * N)

    def iterations(scale):
        P = linalg.TriangularBlocks((linalg.damped_cholesky(scale * J.mean_gram(), damping),), 3, damping)
        return linalg.cg(lambda v: J.gram_matvec(v) + damping * v, u, preconditioner=P, rtol=1e-8)[1].iterations

    assert iterations(1.0) + 3 <= min(iterations(3.0), iterations(1 / 3))


def test_the_blocks_approach_one_closed_kernel_with_the_width(numpy_backend):
    errors = []
    for width in (2**9, 2**15):
        objective, params, batch = problem(numpy_backend, width, "relu", 2)
        J = objective.at(params, batch).jacobian()
        K = J.kernel_gram()
        errors.append(max(np.linalg.norm(gram - K) / np.linalg.norm(K) for gram in J.class_grams()))
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.4)  # like 1/√m


# ------------------------------------------------------------------------------------------------------------------- steps


def dense_step(objective, params, batch, damping):
    """W - Jᵀ (J Jᵀ + λ I)⁻¹ r by a dense solve."""
    point = objective.at(params, batch)
    J = point.jacobian().to_dense()
    g = np.linalg.solve(J @ J.T + damping * np.eye(J.shape[0]), point.residual)
    return params[0] - (J.T @ g).reshape(params[0].shape)


def test_the_near_linear_step_is_the_dense_one(be, numpy_backend):
    if be.eps > 1e-10:
        pytest.skip("needs float64")
    want = dense_step(*problem(numpy_backend, 360, "relu", 3), damping=1e-3)
    objective, params, batch = problem(be, 360, "relu", 3)
    opt = nl.optim.NearLinearGaussNewton(epsilon=1e-12, damping=1e-3, guard=False)
    (W,), state, info = opt.step(params, opt.init(params, objective), objective, batch, key=7)
    assert info.solve.reason == "converged"
    assert tuple(state.preconditioner.R.shape) == (N, N)  # one factor for all outputs
    np.testing.assert_allclose(be.numpy(W), want, atol=1e-9)


PLANS = ("exact", "sketch", "kernel", "class-averaged", "per-class", "frozen", "nystrom", "cg")


@pytest.mark.parametrize("plan", PLANS)
def test_gauss_newton_takes_the_dense_step_by_every_route(numpy_backend, plan):
    objective, params, batch = problem(numpy_backend, 360, "relu", 3)
    want = dense_step(objective, params, batch, damping=1e-3)
    opt = nl.optim.GaussNewton(plan=plan, epsilon=1e-12, damping=1e-3 / N, guard=False, maxiter=300)
    state = opt.init(params, objective)
    (W,), state, info = opt.step(params, state, objective, batch, key=7)
    assert info.solve.reason == "converged"
    np.testing.assert_allclose(W, want, atol=1e-9)
    if plan in ("exact", "frozen"):
        assert info.solve.iterations == 0
        assert [R.shape for R in state.experience.kept.source.factors] == 3 * [(N, N)]  # blocks, not (n c, n c)


@pytest.mark.parametrize("opt", [nl.optim.NearLinearGaussNewton(), nl.optim.GaussNewton(plan="sketch")])
def test_a_pooled_sketch_has_as_many_rows_as_that_of_one_output(numpy_backend, opt, monkeypatch):
    sizes, sample = [], sketch.NeuronSigns.sample

    def recorded(self, key, s, shape, *, like):
        sizes.append(s)
        return sample(self, key, s, shape, like=like)

    monkeypatch.setattr(sketch.NeuronSigns, "sample", recorded)
    objective, params, batch = problem(numpy_backend, 360, "relu", 3)
    opt.step(params, opt.init(params, objective), objective, batch, key=0)
    assert sizes == [int(np.ceil(1.5 * N))]


@pytest.mark.parametrize("method", [nl.optim.GramGaussNewton(damping=1e-3, guard=False), nl.optim.NaturalGradient(1.0, 1e-3)])
def test_the_exact_methods_take_the_dense_step(numpy_backend, method):
    objective, params, batch = problem(numpy_backend, 360, "relu", 3)
    (W,), _, info = method.step(params, method.init(params, objective), objective, batch)
    np.testing.assert_allclose(W, dense_step(objective, params, batch, damping=1e-3), atol=1e-10)
    assert info.solve.iterations == 0


def test_a_loss_averaged_over_outputs_scales_the_rows(be):
    width, activation, outputs = CASES["relu-3"]
    objective, params, batch = problem(be, width, activation, outputs)
    J = nn.Objective(objective.network, nn.SquaredLoss(average=True)).at(params, batch).jacobian(weighted=True)
    _, dense = recomputed(be.numpy(params[0]), be.numpy(batch[0]), activation, outputs)
    dense, tol = dense / outputs**0.5, be.tol(1e-12)
    np.testing.assert_allclose(be.numpy(J.to_dense()), dense, atol=tol)
    np.testing.assert_allclose(assembled(be, J), dense @ dense.T, atol=tol)
    np.testing.assert_allclose(be.numpy(J.gram()), dense @ dense.T, atol=tol)
    unweighted = objective.at(params, batch).jacobian()
    np.testing.assert_allclose(be.numpy(J.kernel_gram()), be.numpy(unweighted.kernel_gram()) / outputs, atol=be.tol(1e-8) ** 0.5)
    assert J.mean_square() == pytest.approx(unweighted.mean_square() / outputs, rel=be.tol(1e-13))


def digits(n, width, dtype="float32"):
    """The first digits, one-hot in 10 outputs, rows of unit length."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = data.data[:n] - data.data[:n].mean(axis=0), np.eye(10)[data.target[:n]]
    batch = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype), y.astype(dtype)
    network = nn.TwoLayer(64, width, outputs=10)
    return nn.Objective(network, nn.SquaredLoss()), network.init(0, batch[0]), batch


@pytest.mark.parametrize(("n", "width"), [(150, 6000), pytest.param(1200, 32768, marks=pytest.mark.nightly, id="of the issue")])
@pytest.mark.parametrize("opt", [nl.optim.NearLinearGaussNewton(), nl.optim.GaussNewton(epsilon=1 / 6, plan="sketch")])
def test_digits_are_fitted_in_five_steps_of_few_iterations(opt, n, width):
    objective, params, batch = digits(n, width)
    state, iterations = opt.init(params, objective), []
    for t in range(5):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        iterations.append(info.solve.iterations)
    assert max(iterations) <= 4
    assert info.new_loss < 1e-6
    assert np.array_equal(np.argmax(objective.at(params, batch).outputs, axis=1), np.argmax(batch[1], axis=1))


# ---------------------------------------------------------------------------------------------------------------- refusals


def test_outputs_without_neurons_are_refused():
    with pytest.raises(ValueError, match=r"width is 2 with 3 outputs, each of which has its own neurons; expected .* at least 3"):
        nn.TwoLayer(D, 2, outputs=3)


@pytest.mark.parametrize("value", [0, 1.5, True, "ten"])
def test_outputs_are_a_positive_integer(value):
    with pytest.raises(ValueError, match=r"outputs is .*; expected an integer of at least 1"):
        nn.TwoLayer(D, 12, outputs=value)


@pytest.mark.parametrize("inner", ["chebyshev", "richardson", "double product"])
def test_an_iteration_that_knows_the_sketched_spectrum_is_refused(numpy_backend, inner):
    objective, params, batch = problem(numpy_backend, 36, "relu", 3)
    opt = nl.optim.NearLinearGaussNewton(inner=inner, sketch_size=50)
    with pytest.raises(ValueError, match=f"inner is '{inner}', which needs a sketch of the system itself, .* expected 'cg'"):
        opt.step(params, opt.init(params, objective), objective, batch, key=0)


def test_a_solver_with_one_factor_of_the_whole_is_refused(numpy_backend):
    objective, params, batch = problem(numpy_backend, 36, "relu", 3)
    opt = nl.optim.GaussNewton(solver="lsqr")
    with pytest.raises(ValueError, match=r"solver is 'lsqr', which takes one triangular factor of the whole, .* expected 'cg'"):
        opt.step(params, opt.init(params, objective), objective, batch)


def test_a_loss_that_couples_outputs_is_refused(numpy_backend):
    objective, params, batch = problem(numpy_backend, 36, "relu", 3)
    objective, opt = nn.Objective(objective.network, nn.SoftmaxCrossEntropy()), nl.optim.GaussNewton()
    with pytest.raises(ValueError, match=r"the two-layer network's Jacobian is not weighted; expected SquaredLoss"):
        opt.step(params, opt.init(params, objective), objective, (batch[0], np.full((N, 3), 1 / 3)))


@pytest.mark.parametrize(("width", "outputs"), [(8, 1), (24, 3), (22, 4)])
def test_a_network_of_twins_begins_at_zero(be, width, outputs):
    x = be.array(np.random.default_rng(0).standard_normal((5, 3)))
    network = nn.TwoLayer(inputs=3, width=width, activation="softplus", outputs=outputs)
    (W,), (usual,) = network.init_at_zero(7, x), network.init(7, x)
    f = be.numpy(network.forward((W,), x)[0])
    W, usual = be.numpy(W), be.numpy(usual)
    for k in range(outputs):
        a, b = k * width // outputs, (k + 1) * width // outputs
        np.testing.assert_array_equal(W[a:b:2], usual[a:b:2])
        np.testing.assert_array_equal(W[a + 1 : b : 2], usual[a : b - 1 : 2])
        assert len(np.unique(W[a:b], axis=0)) == -(-(b - a) // 2)
        if (b - a) % 2 == 0:
            np.testing.assert_allclose(f[:, k], 0, atol=1e-6)
    assert np.max(np.abs(be.numpy(network.forward((be.array(usual),), x)[0]))) > 0.1
