"""arXiv:2006.11648: the claims on the step, the cases of exact equality, and what happens on bad problems."""

import dataclasses

import numpy as np
import pytest

import nearlin as nl
from tests.families import FAMILIES

NearLinear = nl.optim.NearLinearGaussNewton


def two_layer(be, x, y, width, activation="relu"):
    net = nl.nn.TwoLayer(x.shape[1], width, activation)
    return nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(0, be.like), (be.array(x), be.array(y))


def sphere_problem(be, n=64, d=8, width=1024, activation="relu"):
    return two_layer(be, *nl.data.sphere(n=n, d=d, seed=1), width, activation)


def run(opt, objective, params, batch, steps):
    state, infos = opt.init(params, objective), []
    for t in range(steps):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        infos.append(info)
    return params, state, infos


def dense_gauss_newton(objective, params, batch, damping):
    """Ground truth by a dense solve, O(n² p)."""
    point = objective.at(params, batch)
    J = point.jacobian().to_dense()
    g = np.linalg.solve(J @ J.T + damping * np.eye(J.shape[0]), point.residual)
    return params[0] - (J.T @ g).reshape(params[0].shape)


SKETCHES = {
    "neuron-signs": nl.sketch.NeuronSigns(),
    "kronecker": nl.sketch.KroneckerSRHT(),
    "neuron-samples": nl.sketch.NeuronSamples(),
    "gaussian": nl.sketch.Gaussian(),
    "sparse-sign": nl.sketch.SparseSign(),
    "srht": nl.sketch.SRHT(),
    "count-sketch": nl.sketch.CountSketch(),
}


@pytest.mark.parametrize("sketch", SKETCHES)
def test_the_sketch_changes_the_cost_never_the_step(be, sketch, numpy_backend):
    """With ε → 0 the step is the dense Gauss-Newton step, whatever the sketch."""
    if be.eps > 1e-10:
        pytest.skip("needs float64")
    want = dense_gauss_newton(*sphere_problem(numpy_backend, width=128), damping=1e-6)
    opt = NearLinear(sketch=SKETCHES[sketch], epsilon=1e-12, damping=1e-6, guard=False)
    objective, params, batch = sphere_problem(be, width=128)
    (W,), _, info = opt.step(params, opt.init(params, objective), objective, batch, key=7)
    assert info.solve.reason == "converged"
    np.testing.assert_allclose(be.numpy(W), want, atol=1e-9)


@pytest.mark.parametrize("inner", ["cg", "chebyshev", "richardson", "double product"])
def test_every_inner_iteration_reaches_the_same_step(numpy_backend, inner):
    problem = sphere_problem(numpy_backend, width=128)
    sketch = nl.sketch.Gaussian()
    opt = NearLinear(sketch=sketch, sketch_size=50, inner=inner, epsilon=1e-10, damping=1e-6, guard=False, maxiter=1000)
    (W,), _, info = opt.step(problem[1], opt.init(*problem[1::-1]), problem[0], problem[2], key=7)
    assert info.solve.reason == "converged"
    np.testing.assert_allclose(W, dense_gauss_newton(*problem, damping=1e-6), atol=1e-8)


def test_the_exact_sketch_solves_in_one_iteration(be):
    """With as many sketched neurons as neurons, RᵀR = J Jᵀ + λ I: theory gives equality."""
    objective, params, batch = sphere_problem(be, width=128)
    opt = NearLinear(sketch_size=2, epsilon=be.tol(1e-11))
    info = opt.step(params, opt.init(params, objective), objective, batch, key=0)[2]
    assert (info.solve.iterations, info.solve.reason) == (1, "converged")


def test_a_smaller_sketch_does_not(numpy_backend):
    objective, params, batch = sphere_problem(numpy_backend, width=128)
    opt = NearLinear(sketch_size=1, epsilon=1e-10)
    assert opt.step(params, opt.init(params, objective), objective, batch, key=0)[2].solve.iterations > 8


def test_the_step_is_an_interpolation_of_the_frozen_masks(numpy_backend):
    """ReLU homogeneity, specification section 1.3: J(W) vec(W⁺) = y for the exact undamped step."""
    objective, params, batch = sphere_problem(numpy_backend, n=32)
    opt = NearLinear(epsilon=1e-13, damping=0.0, guard=False)
    new, _, _ = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    image = objective.at(params, batch).jacobian().matvec(new)
    assert np.linalg.norm(image - batch[1]) <= 1e-12 * np.linalg.norm(batch[1])


@pytest.fixture(scope="module")
def wide():
    """The problem of the claims: sphere, n = 512, d = 16, m = 8192."""
    x, y = nl.data.sphere(n=512, d=16, seed=0)
    net = nl.nn.TwoLayer(16, 8192)
    return nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(0, x), (x, y)


def contractions(infos):
    return [(info.new_loss / info.loss) ** 0.5 for info in infos]


def test_the_residual_halves_at_every_step(wide):
    """At most 1/2 in every step, and 1e-8 within 12 steps."""
    infos = run(NearLinear(), *wide, steps=12)[2]
    start = infos[0].loss
    until = [info for info in infos if info.loss > 1e-16 * start]
    assert len(until) <= 12
    assert infos[-1].new_loss <= 1e-16 * start
    assert max(contractions(until)) <= 0.5


@pytest.mark.parametrize("epsilon", [1 / 6, *(pytest.param(one, marks=pytest.mark.nightly) for one in (0.5, 0.05, 0.01))])
def test_the_asymptotic_contraction_is_the_achieved_inner_residual(wide, epsilon):
    """Within 5 %, and never above 1.05 ε."""
    infos = run(NearLinear(epsilon=epsilon), *wide, steps=20 if epsilon == 0.5 else 10)[2]
    start = infos[0].loss
    tail = [(c, i) for c, i in zip(contractions(infos), infos, strict=True) if 1e-22 * start < i.new_loss < i.loss < 1e-9 * start]
    assert tail
    for contraction, info in tail:
        assert contraction == pytest.approx(info.solve.residual, rel=0.05)
        assert contraction <= 1.05 * epsilon


def test_superlinear_forcing_needs_fewer_steps(wide):
    def steps(opt):
        infos = run(opt, *wide, steps=12)[2]
        return sum(info.loss > 1e-20 * infos[0].loss for info in infos)

    assert steps(NearLinear(forcing="superlinear")) < steps(NearLinear())


@pytest.mark.parametrize(("n", "slack"), [(64, None), (256, None), (512, 2)])
def test_iterations_do_not_grow_with_the_number_of_samples(n, slack):
    """Kronecker SRHT, s = 4n: at most 12 / 23 / 37 iterations to 1e-3 / 1e-6 / 1e-10, within 2 of 11 / 21 / 35 from n = 512."""
    x, _ = nl.data.sphere(n=n, d=32, seed=3)
    net = nl.nn.TwoLayer(32, 4 * n)
    objective, params = nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(0, x)
    J = objective.at(params, (x, x[:, 0])).jacobian()
    b = np.random.default_rng(0).standard_normal(n)
    S = nl.sketch.KroneckerSRHT().sample(1, 4 * n, J.factor_shapes, like=x)
    M = nl.linalg.TriangularPreconditioner(nl.linalg.sketch_factor(J.sketch_gram(S), 0.0)[0])
    for rtol, most, expected in ((1e-3, 12, 11), (1e-6, 23, 21), (1e-10, 37, 35)):
        info = nl.linalg.cg(J.gram_matvec, b, preconditioner=M, rtol=rtol)[1]
        assert info.iterations <= most
        if slack:
            assert abs(info.iterations - expected) <= slack


@pytest.mark.parametrize("family", FAMILIES)
def test_every_data_family_is_solved_to_the_asked_residual(family):
    x = FAMILIES[family](np.random.default_rng(0), 96)
    y = np.random.default_rng(1).standard_normal(96)
    net = nl.nn.TwoLayer(x.shape[1], 4096)
    objective, params = nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(0, x)
    opt = NearLinear()
    info = opt.step(params, opt.init(params, objective), objective, (x, y), key=0)[2]
    assert info.solve.reason == "converged"
    assert info.solve.residual <= 1.001 / 6
    assert info.new_loss <= info.loss


def test_duplicates_with_different_labels_end_at_the_least_squares_fit(numpy_backend):
    """The undamped step explodes (G is singular); the guarded one fits the averaged labels: specification, section 9."""
    x, y = nl.data.sphere(n=60, d=8, seed=1)
    x, y = np.concatenate([x, x[:6]]), np.concatenate([y, y[:6] + 1.0])
    problem = two_layer(numpy_backend, x, y, 4096)
    params, _, infos = run(NearLinear(), *problem, steps=15)
    floor = 6 * 2 * 0.25 / (2 * 66)
    assert all(info.new_loss <= info.loss for info in infos)
    assert float(problem[0].at(params, problem[2]).loss) == pytest.approx(floor, rel=0.05)


def test_uncentred_data_never_raises_the_loss(numpy_backend):
    x = FAMILIES["offset"](np.random.default_rng(0), 128)
    y = np.sign(np.random.default_rng(1).standard_normal(128))
    infos = run(NearLinear(), *two_layer(numpy_backend, x, y, 8192), steps=8)[2]
    assert all(np.isfinite(info.new_loss) and info.new_loss <= info.loss for info in infos)


def test_a_step_that_fails_leaves_the_parameters_and_says_so(numpy_backend):
    """lr = 1e6 overshoots in every attempt."""
    objective, params, batch = sphere_problem(numpy_backend)
    opt = NearLinear(lr=1e6)
    new, state, info = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    assert new is params
    assert info.reason.startswith("rejected: no decrease in 7 attempt")
    assert (info.accepted, info.attempts, info.new_loss) == (False, 7, info.loss)
    assert state.damping.value > 1e-4


def test_a_residual_at_rounding_level_ends_as_stalled(numpy_backend):
    problem = sphere_problem(numpy_backend)
    infos = run(NearLinear(forcing="superlinear"), *problem, steps=15)[2]
    assert infos[-1].reason.startswith("stalled")
    assert infos[-1].loss < 1e-26 * infos[0].loss


def test_r_is_reused_on_the_same_batch_and_fresh_on_another(numpy_backend):
    objective, params, (x, y) = sphere_problem(numpy_backend)
    opt = NearLinear()
    state, fresh = opt.init(params, objective), []
    for t, rows in enumerate((slice(0, 32), slice(0, 32), slice(32, 64), slice(0, 32))):
        params, state, info = opt.step(params, state, objective, (x[rows], y[rows]), key=t)
        fresh.append(info.solve.refreshed)
    assert fresh == [True, False, True, True]


def test_r_is_never_reused_when_asked_not_to(numpy_backend):
    infos = run(NearLinear(reuse=False), *sphere_problem(numpy_backend), steps=3)[2]
    assert all(info.solve.refreshed for info in infos)


def test_a_batch_changed_in_place_is_noticed(numpy_backend):
    objective, params, (x, y) = sphere_problem(numpy_backend)
    opt = NearLinear()
    new, state, _ = opt.step(params, opt.init(params, objective), objective, (x, y), key=0)
    x[:] = x[::-1].copy()
    info = opt.step(new, state, objective, (x, y), key=1)[2]
    assert info.solve.refreshed
    assert info.loss == float(objective.at(new, (x, y)).loss)


def test_an_objective_with_the_same_shapes_is_not_mistaken_for_the_last(numpy_backend):
    objective, params, batch = sphere_problem(numpy_backend)
    other = sphere_problem(numpy_backend, activation="tanh")[0]
    opt = NearLinear()
    new, state, _ = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    assert opt.step(new, state, other, batch, key=1)[2].loss == float(other.at(new, batch).loss)


def test_a_preconditioner_that_no_longer_serves_is_replaced_within_the_step(numpy_backend):
    objective, params, batch = sphere_problem(numpy_backend)
    opt = NearLinear(epsilon=1e-6)
    _, state, _ = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    useless = state.preconditioner._replace(R=np.diag(np.geomspace(1e-6, 1e6, 64)), effort=0.5)
    info = opt.step(params, state._replace(preconditioner=useless, recall=None), objective, batch, key=1)[2]
    assert (info.solve.refreshed, info.solve.reason) == (True, "converged")


def test_a_rough_sketch_is_made_larger_in_the_next_step(numpy_backend):
    x = FAMILIES["near-duplicates"](np.random.default_rng(0), 128)
    problem = two_layer(numpy_backend, x, np.random.default_rng(1).standard_normal(128), 4096)
    opt = NearLinear(sketch_size=0.1, guard=False)
    state, info = opt.step(problem[1], opt.init(*problem[1::-1]), problem[0], problem[2], key=0)[1:]
    assert info.solve.iterations > 6
    assert (state.growth, state.preconditioner) == (2, None)


@pytest.mark.parametrize("epsilon", [1 / 6, 1e-10])
def test_float32_products_meet_a_float64_residual(numpy_backend, epsilon):
    objective, params, batch = sphere_problem(numpy_backend)
    opt = NearLinear(inner_dtype="float32", epsilon=epsilon)
    (W,), state, info = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    assert W.dtype == np.float64
    assert state.preconditioner.R.dtype == np.float32
    assert (info.solve.reason, info.solve.residual <= 1.001 * epsilon) == ("converged", True)


@pytest.mark.parametrize("reuse", [True, False])
def test_the_oracles_are_those_of_the_head(numpy_backend, reuse):
    """1 jacobian, 1 sketch if R is fresh, K products with J Jᵀ and 1 with J, 1 forward per attempt and 1 for the first point."""
    objective, params, batch = sphere_problem(numpy_backend)
    counted, opt = nl.nn.Counted(objective), NearLinear(reuse=reuse)
    state = opt.init(params, counted)
    for t in range(3):
        counted.calls.clear()
        params, state, info = opt.step(params, state, counted, batch, key=t)
        want = {"jacobian": 1, "gram_matvec": info.solve.iterations, "matvec": 1, "forward": info.attempts + (t == 0)}
        if info.solve.refreshed:
            want["sketch_gram"] = 1
        assert counted.calls == want
        assert info.solve.products == info.solve.iterations + 1


def test_the_state_does_not_grow(numpy_backend):
    problem = sphere_problem(numpy_backend, n=16, width=64)

    def size(tree):
        if dataclasses.is_dataclass(tree):
            return sum(size(getattr(tree, f.name)) for f in dataclasses.fields(tree))
        if isinstance(tree, tuple):
            return sum(map(size, tree))
        return tree.nbytes if isinstance(tree, np.ndarray) else size(vars(tree)) if hasattr(tree, "outputs") else 0

    opt = NearLinear(lr=0.05)
    assert size(run(opt, *problem, steps=40)[1]) == size(run(opt, *problem, steps=4)[1])


def test_a_loss_with_a_floor_ends_as_stalled_and_the_damping_stays_finite(numpy_backend):
    """Two labels at one point: the least-squares fit is reached, and nothing is left to gain."""
    x, y = nl.data.sphere(n=20, d=6, seed=1)
    problem = two_layer(numpy_backend, np.concatenate([x, x]), np.concatenate([y, y + 1]), 1024)
    for opt in (NearLinear(), nl.optim.GramGaussNewton()):
        _, state, infos = run(opt, *problem, steps=40)
        assert any(info.reason.startswith("stalled") for info in infos)
        assert state.damping.value <= nl.steps.CEILING


def test_a_residual_that_overflows_is_reported_as_such(numpy_backend):
    objective, params, (x, y) = sphere_problem(numpy_backend)
    with np.errstate(over="ignore"):
        for opt in (NearLinear(), nl.optim.GramGaussNewton()):
            new, _, info = opt.step(params, opt.init(params, objective), objective, (x, 1e200 * y), key=0)
            assert new is params
            assert (info.solve.reason, info.reason) == ("non-finite", "rejected: the loss is not finite")


@pytest.mark.parametrize("opt", [NearLinear(lr=2.5, guard=False), nl.optim.GramGaussNewton(lr=2.5, guard=False)], ids=repr)
def test_without_the_guard_every_finite_step_is_taken(numpy_backend, opt):
    """lr = 2.5: the model predicts no decrease, and the guard would refuse."""
    info = run(opt, *sphere_problem(numpy_backend), steps=1)[2][0]
    assert info.accepted
    assert np.isnan(info.ratio)


def test_all_attempts_share_one_sketch(numpy_backend):
    x = FAMILIES["offset"](np.random.default_rng(0), 128)
    objective, params, batch = two_layer(numpy_backend, x, np.random.default_rng(1).standard_normal(128), 4096)
    counted, opt = nl.nn.Counted(objective), NearLinear()
    info = opt.step(params, opt.init(params, counted), counted, batch, key=0)[2]
    assert info.attempts > 1
    assert counted.calls["sketch_gram"] == 1
    assert counted.calls["forward"] == 1 + info.attempts


def test_the_key_decides_the_sketch(numpy_backend):
    objective, params, batch = sphere_problem(numpy_backend)
    R = [
        NearLinear().step(params, NearLinear().init(params, objective), objective, batch, key=k)[1].preconditioner.R
        for k in (0, 1)
    ]
    assert np.max(np.abs(R[0] - R[1])) > 1e-3


@pytest.mark.parametrize("key", [-1, 1.5, None, "a"])
def test_a_bad_key_is_refused_whether_r_is_fresh_or_kept(numpy_backend, key):
    objective, params, batch = sphere_problem(numpy_backend)
    opt = NearLinear()
    new, state, _ = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    with pytest.raises(ValueError, match="expected an integer of at least 0"):
        opt.step(new, state, objective, batch, key=key)


def test_the_sketch_grows_when_the_last_was_rough(numpy_backend):
    objective, params, batch = sphere_problem(numpy_backend)
    opt = NearLinear()
    P = [
        opt.step(params, opt.init(params, objective)._replace(growth=g), objective, batch, key=0)[1].preconditioner
        for g in (1, 2)
    ]
    assert P[1].oversampling == 2 * P[0].oversampling == 3.0
    G = objective.at(params, batch).jacobian().gram()
    far = [np.max(np.abs(p.R.T @ p.R - G)) for p in P]
    assert far[1] < far[0]


def kept(opt, problem, **changes):
    """Whether R, with changed records, is still used by the next step."""
    objective, params, batch = problem
    _, state, _ = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    P = state.preconditioner._replace(**changes)
    after = opt.step(params, state._replace(preconditioner=P, recall=None), objective, batch, key=1)
    return not after[2].solve.refreshed, after[1].preconditioner is not None


@pytest.mark.parametrize(("factor", "used"), [(9.0, True), (1 / 9, True), (11.0, False), (1 / 11, False)])
def test_r_serves_within_ten_times_its_damping(numpy_backend, factor, used):
    problem = sphere_problem(numpy_backend)
    opt = NearLinear(damping=1e-6, guard=False)
    assert kept(opt, problem, damping=factor * 1e-6)[0] is used


@pytest.mark.parametrize(("effort", "still_kept"), [(2.0, True), (0.1, False)])
def test_r_is_dropped_after_a_step_that_needed_much_more_than_the_one_that_built_it(numpy_backend, effort, still_kept):
    """2 or 3 iterations at ε = 1/6: allowed are 1.5 effort ln 6 + 1, 6.4 or 1.3."""
    assert kept(NearLinear(), sphere_problem(numpy_backend), effort=effort) == (True, still_kept)


def test_another_sketch_or_dtype_builds_its_own_r(numpy_backend):
    objective, params, batch = sphere_problem(numpy_backend)
    new, state, _ = NearLinear().step(params, NearLinear().init(params, objective), objective, batch, key=0)
    for opt in (NearLinear(sketch=nl.sketch.Gaussian()), NearLinear(inner_dtype="float32")):
        assert opt.step(new, state, objective, batch, key=1)[2].solve.refreshed


def test_superlinear_forcing_asks_for_half_the_last_contraction(numpy_backend):
    problem = sphere_problem(numpy_backend)
    infos = run(NearLinear(forcing="superlinear"), *problem, steps=4)[2]
    norms = [info.loss**0.5 for info in infos]
    for before, now, info in zip(norms[:-1], norms[1:], infos[1:], strict=True):
        assert info.solve.residual <= 1.001 * min(1 / 6, 0.5 * now / before)
        assert info.solve.residual > 1e-3 * min(1 / 6, 0.5 * now / before)


def test_the_damping_starts_at_the_floor_of_the_dtype(numpy_backend):
    (objective, (W,), (x, y)) = sphere_problem(numpy_backend)
    for dtype, floor in ((np.float64, 1e-8), (np.float32, 1e-5)):
        params, batch = (W.astype(dtype),), (x.astype(dtype), y.astype(dtype))
        info = NearLinear().step(params, NearLinear().init(params, objective), objective, batch, key=0)[2]
        trace = np.trace(objective.at(params, batch).jacobian().gram())
        assert info.damping == pytest.approx(floor * trace / 64, rel=0.2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"inner": "double product"}, "expected more than 39.5 for the double product"),
        ({"sketch": "gaussian"}, "expected a distribution of nearlin.sketch"),
        ({"sketch_size": 0.0}, "sketch_size is 0.0"),
        ({"sketch_size": float("nan")}, "sketch_size is nan"),
        ({"maxiter": 0}, "maxiter is 0"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"damping": float("inf")}, "damping is inf"),
    ],
)
def test_options_that_cannot_work_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        NearLinear(**fields)


def test_a_state_of_another_problem_is_not_reused(numpy_backend):
    opt = NearLinear()
    first, second = sphere_problem(numpy_backend, n=16), sphere_problem(numpy_backend, n=24)
    state = run(opt, *first, steps=2)[1]
    assert opt.step(second[1], state, second[0], second[2], key=0)[2].solve.refreshed


@pytest.mark.parametrize("sketch", [nl.sketch.NeuronSigns(), nl.sketch.NeuronSamples(), nl.sketch.KroneckerSRHT()], ids=repr)
def test_networks_of_many_outputs_take_the_dense_step_by_every_sketch(numpy_backend, sketch):
    """Six outputs: a sketch of neurons takes the Jacobian in factors, others by passes."""
    g, net = np.random.default_rng(0), nl.nn.MLP((5, 9, 6), "tanh")
    objective, params = nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(0, np.empty(0))
    batch = g.standard_normal((7, 5)), g.standard_normal((7, 6))
    point = objective.at(params, batch)
    J = point.jacobian().to_dense()
    step = J.T @ np.linalg.solve(J @ J.T + 1e-2 * np.eye(42), point.residual)
    opt = NearLinear(sketch=sketch, epsilon=1e-11, damping=1e-2, guard=False)
    new, _, info = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    assert info.solve.reason == "converged"
    moved = np.concatenate([(a - b).ravel() for a, b in zip(params, new, strict=True)])
    np.testing.assert_allclose(moved, step, atol=1e-8)


@pytest.mark.parametrize("worn", [False, True])
@pytest.mark.parametrize("epsilon", [0.3, 1e-2, 1e-4])
def test_a_solve_ends_as_soon_as_its_accuracy_is_reached(numpy_backend, epsilon, worn):
    """With one iteration less, the true residual is above ε; after a kept R that no longer serves, too."""
    objective, params, batch = sphere_problem(numpy_backend)
    opt = NearLinear(epsilon=epsilon, damping=1e-3, sketch_size=1.0)
    state = opt.init(params, objective)
    if worn:
        params, state, _ = opt.step(params, state, objective, batch, key=0)
        R = np.diag(np.geomspace(1.0, 1e-3, len(state.preconditioner.R)))
        state = state._replace(preconditioner=state.preconditioner._replace(R=R))
    enough = opt.step(params, state, objective, batch, key=1)[2].solve
    short = dataclasses.replace(opt, maxiter=enough.iterations - 1).step(params, state, objective, batch, key=1)[2].solve
    assert enough.refreshed
    assert enough.residual <= epsilon < short.residual
