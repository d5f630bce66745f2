"""The exact methods and the first-order ones: dense solves, closed forms, and identities of their papers."""

import numpy as np
import pytest

import nearlin as nl


def problem(be, n=20, d=6, width=128, activation="relu"):
    x, y = nl.data.sphere(n=n, d=d, seed=1)
    net = nl.nn.TwoLayer(d, width, activation)
    return nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(0, be.like), (be.array(x), be.array(y))


def step(opt, objective, params, batch):
    return opt.step(params, opt.init(params, objective), objective, batch, key=0)


@pytest.mark.parametrize(
    ("opt", "weight", "damping", "lr"),
    [
        (nl.optim.GramGaussNewton(damping=1e-3), 1.0, 1e-3, 1.0),
        (nl.optim.GramGaussNewton(gram_weight=0.5, damping=1e-2, guard=False), 0.5, 1e-2, 1.0),
        (nl.optim.NaturalGradient(lr=0.3, damping=1e-3), 1.0, 1e-3, 0.3),
    ],
    ids=["full-batch", "mini-batch-form", "natural-gradient"],
)
def test_exact_steps_equal_the_dense_solve(be, opt, weight, damping, lr, numpy_backend):
    objective, params, batch = problem(numpy_backend)
    point = objective.at(params, batch)
    J = point.jacobian().to_dense()
    g = np.linalg.solve(weight * J @ J.T + damping * np.eye(20), point.residual)
    (W,), _, info = step(opt, *problem(be))
    np.testing.assert_allclose(be.numpy(W), params[0] - lr * (J.T @ g).reshape(128, 6), atol=be.tol(1e-12))
    assert info.solve.residual < be.tol(1e-12)


def test_gram_counts_in_float32_change_nothing(numpy_backend):
    (W,), _, _ = step(nl.optim.GramGaussNewton(), *problem(numpy_backend))
    (V,), _, _ = step(nl.optim.GramGaussNewton(gram_dtype="float32"), *problem(numpy_backend))
    np.testing.assert_allclose(V, W, atol=1e-12)


def test_one_pass_over_fixed_batches_is_a_block_gauss_seidel_sweep(numpy_backend):
    """Specification, section 3: exact in the linear model (identity activation)."""
    objective, params, (x, y) = problem(numpy_backend, n=5, activation="identity")
    point = objective.at(params, (x, y))
    G, r = point.jacobian().gram(), point.residual
    opt = nl.optim.GramGaussNewton(damping=0.0, guard=False)
    g = np.zeros(5)
    for rows in (slice(0, 2), slice(2, 5)):
        params = step(opt, objective, params, (x[rows], y[rows]))[0]
        g[rows] += np.linalg.solve(G[rows, rows], (r - G @ g)[rows])
    np.testing.assert_allclose(objective.at(params, (x, y)).residual, r - G @ g, atol=1e-11)


@pytest.mark.parametrize("lr", [0.25, 1.0])
def test_natural_gradient_contracts_the_linear_model_by_one_minus_its_step(numpy_backend, lr):
    objective, params, batch = problem(numpy_backend, n=5, activation="identity")
    before = objective.at(params, batch).residual
    (new), _, _ = step(nl.optim.NaturalGradient(lr=lr), objective, params, batch)
    np.testing.assert_allclose(objective.at(new, batch).residual, (1 - lr) * before, atol=1e-8)


def test_a_guarded_exact_step_that_fails_leaves_the_parameters(numpy_backend):
    objective, params, batch = problem(numpy_backend)
    new, state, info = step(nl.optim.GramGaussNewton(lr=1e6), objective, params, batch)
    assert new is params
    assert (info.accepted, info.attempts) == (False, 7)
    assert state.damping.value > 1e-4


def test_duplicates_without_damping_are_refused_with_advice(numpy_backend):
    objective, params, (x, y) = problem(numpy_backend)
    x = np.concatenate([x, x])
    with pytest.raises(
        nl.linalg.FactorizationError, match=r"Gram matrix \(40 x 40, float64\) with damping 0 is not positive definite"
    ):
        step(nl.optim.NaturalGradient(damping=0.0), objective, params, (x, np.concatenate([y, y + 1])))


def test_momentum_follows_its_recursion(be):
    objective, params, batch = problem(be)
    opt, velocity = nl.optim.SGD(lr=0.2, momentum=0.7), 0.0
    W, state = be.numpy(params[0]), opt.init(params, objective)
    for _ in range(3):
        g = be.numpy(objective.at(params, batch).grads()[0])
        velocity = 0.7 * velocity + g
        W = W - 0.2 * velocity
        params, state, _ = opt.step(params, state, objective, batch, key=0)
        np.testing.assert_allclose(be.numpy(params[0]), W, atol=be.tol(1e-13))


def test_adam_follows_algorithm_1(be):
    objective, params, batch = problem(be)
    opt, M, V = nl.optim.Adam(lr=0.01), 0.0, 0.0
    W, state = be.numpy(params[0]), opt.init(params, objective)
    for t in range(1, 4):
        g = be.numpy(objective.at(params, batch).grads()[0])
        M, V = 0.9 * M + 0.1 * g, 0.999 * V + 0.001 * g * g
        W = W - 0.01 * (M / (1 - 0.9**t)) / (np.sqrt(V / (1 - 0.999**t)) + 1e-8)
        params, state, _ = opt.step(params, state, objective, batch, key=0)
        np.testing.assert_allclose(be.numpy(params[0]), W, atol=be.tol(1e-11))


def test_adam_equals_pytorch():
    torch = pytest.importorskip("torch")
    x, y = (torch.asarray(a) for a in nl.data.sphere(n=20, d=6, seed=1))
    net = nl.nn.TwoLayer(6, 64)
    objective, params = nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(0, x)
    W = params[0].clone().requires_grad_(True)
    signs = 1.0 - 2.0 * (torch.arange(64) % 2)
    theirs, ours = torch.optim.Adam([W], lr=0.01), nl.optim.Adam(lr=0.01)
    state = ours.init(params, objective)
    for _ in range(3):
        theirs.zero_grad()
        (0.5 * ((torch.relu(x @ W.T) @ signs.double() / 8.0 - y) ** 2).mean()).backward()
        theirs.step()
        params, state, _ = ours.step(params, state, objective, (x, y), key=0)
    np.testing.assert_allclose(nl.to_numpy(params[0]), W.detach().numpy(), atol=1e-10)


@pytest.mark.parametrize("opt", [nl.optim.SGD(lr=1e308), nl.optim.NaturalGradient(lr=1e308)], ids=["sgd", "natural-gradient"])
def test_a_step_that_overflows_is_not_taken(numpy_backend, opt):
    with np.errstate(over="ignore", invalid="ignore"):
        objective, params, batch = problem(numpy_backend)
        batch = (batch[0], 1e10 * batch[1])
        new, _, info = step(opt, objective, params, batch)
    assert new is params
    assert info.reason == "rejected: the step is not finite"
