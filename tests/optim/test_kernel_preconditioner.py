"""R of the limit kernel in the place of the paper's R: the same steps, what it is, how long it serves, and when it is taken."""

import re

import numpy as np
import pytest

import nearlin as nl
from nearlin.complexity import cost
from nearlin.experiments import archive
from nearlin.linalg import Rates
from tests.complexity.test_cost import counted, two_layer
from tests.optim.test_near_linear_gauss_newton import dense_gauss_newton, run
from tests.optim.test_pivoted_columns import first, problem

NearLinear = nl.optim.NearLinearGaussNewton
KERNEL = NearLinear(preconditioner="kernel")


def limit(x):
    """E_w[x·x' 1[w·x > 0] 1[w·x' > 0]] by the mean over a grid of directions, for rows x (n, 2)."""
    angles = 2 * np.pi * (np.arange(200000) + 0.5) / 200000
    on = (x @ np.stack([np.cos(angles), np.sin(angles)]) > 0).astype(float)
    return (x @ x.T) * (on @ on.T) / 200000


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_step_is_the_dense_one(be, numpy_backend, outputs):
    if be.eps > 1e-10:
        pytest.skip("needs float64")
    want = dense_gauss_newton(*problem(numpy_backend, width=96, outputs=outputs), damping=1e-6)
    objective, params, batch = problem(be, width=96, outputs=outputs)
    opt = NearLinear(preconditioner="kernel", epsilon=1e-12, damping=1e-6, guard=False)
    (W,), _, info = opt.step(params, opt.init(params, objective), objective, batch, key=7)
    assert info.solve.reason == "converged"
    assert (info.solve.preconditioner, info.plan[:15]) == ("kernel, cholesky", "kernel: by name")
    np.testing.assert_allclose(be.numpy(W), want, atol=1e-8)


def test_r_is_the_root_of_the_damped_limit(be):
    x = np.random.default_rng(0).standard_normal((9, 2))
    objective, params, batch = problem(be, width=64, x=x)
    state = NearLinear(preconditioner="kernel", damping=0.01).step(params, KERNEL.init(params, objective), objective, batch, 0)[1]
    R = be.numpy(state.preconditioner.R).astype(float)
    np.testing.assert_allclose(R.T @ R, limit(x) + 0.01 * np.eye(9), atol=max(1e-4, be.tol(1e-6)))
    assert state.preconditioner.scale == pytest.approx(np.trace(limit(x)) / 9, rel=1e-3)


def test_wider_networks_take_fewer_iterations_down_to_one(numpy_backend):
    """J Jᵀ tends to the kernel; that of other rows serves no better than nothing."""
    took = [first(NearLinear(preconditioner="kernel", epsilon=1e-2), *problem(numpy_backend, width=2**k)) for k in (6, 11, 18)]
    took = [info.solve.iterations for info in took]
    assert took[0] > 2 * took[1] > 2 * took[2] >= 2
    objective, params, batch = problem(numpy_backend, width=2**11)
    point = objective.at(params, batch)
    J, r = point.jacobian(), point.residual
    damped = nl.curvature.DampedGram(J, 1e-6 * J.mean_square())
    spent = []
    for x in (batch[0], batch[0][::-1]):
        R = nl.linalg.damped_cholesky(nl.nn.two_layer_jacobian.relu_kernel(x), damped.damping)
        spent.append(nl.linalg.cg(damped, r, preconditioner=nl.linalg.TriangularPreconditioner(R), rtol=1e-2)[1].iterations)
    plain = nl.linalg.cg(damped, r, rtol=1e-2)[1].iterations
    assert spent[0] == took[1] < plain <= spent[1]


def test_the_losses_go_down_with_one_r(be):
    infos = run(KERNEL, *problem(be), 6)[2]
    assert [info.solve.refreshed for info in infos] == [True] + 5 * [False]
    assert all(info.accepted and info.solve.residual <= 1 / 6 for info in infos[:4])
    assert infos[3].new_loss < 1e-3 * infos[0].loss


def test_r_is_made_anew_for_another_batch_or_damping(numpy_backend):
    objective, params, (x, y) = problem(numpy_backend)
    state, fresh = KERNEL.init(params, objective), []
    for t, rows in enumerate((slice(0, 32), slice(0, 32), slice(32, 64))):
        params, state, info = KERNEL.step(params, state, objective, (x[rows], y[rows]), key=t)
        fresh.append(info.solve.refreshed)
    moved = state._replace(damping=state.damping._replace(value=20 * state.damping.value))
    fresh += [KERNEL.step(params, s, objective, (x[rows], y[rows]), key=3)[2].solve.refreshed for s in (state, moved)]
    assert fresh == [True, False, True, False, True]


def test_it_is_not_made_anew_where_it_does_not_converge(numpy_backend):
    """There is no other kernel."""
    infos = run(NearLinear(preconditioner="kernel", maxiter=1, epsilon=1e-3), *problem(numpy_backend, width=96), 2)[2]
    assert [info.solve.refreshed for info in infos] == [True, False]
    assert all(info.solve.reason.startswith("max") for info in infos)


def test_no_key_changes_it(numpy_backend):
    objective, params, batch = problem(numpy_backend, width=64)
    steps = [KERNEL.step(params, KERNEL.init(params, objective), objective, batch, key=k)[0][0] for k in (0, 1)]
    assert np.array_equal(*steps)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_that_repeat_need_no_larger_shift(numpy_backend, dtype):
    """The diagonal and equal rows are exact: arc cosines near 1 would lose half of the digits, and 1e-5 of damping with them."""
    x = np.repeat(nl.data.sphere(n=100, d=16, seed=0)[0] * 3.7, 3, axis=0).astype(dtype)
    info = first(KERNEL, *problem(numpy_backend, width=8192, x=x))
    assert (info.solve.preconditioner, info.accepted) == ("kernel, cholesky", True)


def test_a_run_goes_on_from_a_checkpoint(numpy_backend, tmp_path):
    objective, params, batch = problem(numpy_backend)
    params, state, _ = KERNEL.step(params, KERNEL.init(params, objective), objective, batch, key=0)
    archive.write(tmp_path / "state", {"state": state})
    again = archive.read(tmp_path / "state", numpy_backend.like)["state"]
    on, after = (KERNEL.step(params, s, objective, batch, key=1) for s in (state, again))
    assert np.array_equal(on[0][0], after[0][0])
    assert not after[2].solve.refreshed


def test_rows_in_a_file_have_the_kernel_of_rows_in_memory(numpy_backend, tmp_path):
    objective, params, (x, y) = problem(numpy_backend)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    weights = [KERNEL.step(params, KERNEL.init(params, objective), objective, (a, y), key=0)[0][0] for a in (x, mapped)]
    assert np.array_equal(*weights)


# ----------------------------------------------------------------------------------------------------------------- the choice

TALL = {"n": 256, "d": 8, "width": 512}  # 1.8 n² > 4 m d flops a sample: R takes more than a product, and m d = 16 n


def test_it_is_taken_where_the_sketch_outweighs_products(numpy_backend):
    plan = first(NearLinear(), *problem(numpy_backend, **TALL)).plan
    words = re.fullmatch(r"kernel: (\S+) s predicted, (sketch|pivoted) (\S+) s", plan)
    assert float(words[1]) <= float(words[3])
    wide = first(NearLinear(), *problem(numpy_backend, n=256, d=8, width=8192)).plan
    assert wide.startswith("sketch: ")


@pytest.mark.parametrize("width", [256 // 8 * 8 - 1, 256])
def test_it_is_not_taken_for_few_neurons(numpy_backend, width):
    """Below m d = 8 n."""
    plan = first(NearLinear(), *problem(numpy_backend, n=256, d=8, width=width)).plan
    assert plan.startswith("kernel") == (width == 256)


def test_it_is_not_taken_where_it_does_not_fit_the_memory(numpy_backend):
    fits = 3 * 8 * 256**2
    plans = [first(NearLinear(memory=memory), *problem(numpy_backend, **TALL)).plan for memory in (fits, fits - 1)]
    assert [plan.split(":")[0] for plan in plans] == ["kernel", "pivoted"]


def test_a_kernel_that_serves_badly_gives_way(numpy_backend):
    """Steps that took 40 iterations are predicted to take them again: a sketch takes less."""
    objective, params, batch = problem(numpy_backend, **TALL)
    opt = NearLinear()
    params, state, info = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    stays = opt.step(params, state, objective, batch, key=1)
    assert (info.plan[:6], stays[2].plan[:6], stays[2].solve.refreshed) == ("kernel", "kernel", False)
    bad = state._replace(preconditioner=state.preconditioner._replace(effort=40 / np.log(6)))
    left = opt.step(params, bad, objective, batch, key=1)
    assert not left[2].plan.startswith("kernel")
    assert opt.step(left[0], left[1], objective, batch, key=2)[2].plan.split(":")[0] == left[2].plan.split(":")[0]


def test_columns_that_serve_badly_do_not_give_way_to_it(numpy_backend):
    """They may have been taken because it served badly itself: the two would take turns."""
    objective, params, batch = problem(numpy_backend, **TALL)
    state = first_state(NearLinear(preconditioner="pivoted"), objective, params, batch)
    bad = state._replace(preconditioner=state.preconditioner._replace(effort=40.0))
    assert NearLinear().step(params, bad, objective, batch, key=1)[2].plan.startswith("sketch: ")


def first_state(opt, objective, params, batch):
    return opt.step(params, opt.init(params, objective), objective, batch, key=0)[1]


def test_a_sketch_by_name_stays_one(numpy_backend):
    info = first(NearLinear(preconditioner="sketch"), *problem(numpy_backend, **TALL))
    assert (info.plan, info.solve.preconditioner) == ("", "NeuronSigns(), cholesky")


@pytest.mark.parametrize("options", [{}, {"preconditioner": "kernel"}, {"rates": Rates(cholesky=(1e3, 1e3))}])
@pytest.mark.parametrize("n", [64, 256])
def test_the_planned_preconditioner_is_the_one_that_a_step_takes(numpy_backend, n, options):
    opt, made = NearLinear(**options), problem(numpy_backend, **{**TALL, "n": n})
    planned = cost.planned_preconditioner(made[0].network, n, "float64", opt)
    assert first(opt, *made).plan.split(":")[0] == planned.name


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_networks_without_a_closed_form_are_told(numpy_backend, activation):
    with pytest.raises(ValueError, match=r"preconditioner is 'kernel', and the closed-form kernel is that of ReLU; expected"):
        first(KERNEL, *problem(numpy_backend, activation=activation))


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="preconditioner is 'kernel' with inner 'chebyshev'"):
        NearLinear(preconditioner="kernel", inner="chebyshev")


# -------------------------------------------------------------------------------------------------------------------- its cost


@pytest.mark.parametrize(("n", "d", "m", "outputs"), [(16, 3, 512, 1), (9, 4, 333, 3), (200, 5, 3000, 1)])
def test_steps_cost_what_the_formulas_say(n, d, m, outputs):
    objective, params, batch = two_layer(n, d, m, outputs=outputs)
    state, network = KERNEL.init(params, objective), cost.two_layer(n, d, m, outputs=outputs)
    for t in range(3):
        flops, (params, state, info) = counted(KERNEL.step, params, state, objective, batch, t)
        assert (info.attempts, info.solve.refreshed) == (1, t == 0)
        parts = cost.near_linear_step(network, info.solve.iterations, t == 0, recalled=t > 0, preconditioner="kernel")
        assert sum(parts.values()) == flops, (t, parts)


def test_a_step_without_the_sketch_takes_fewer_flops():
    network = cost.two_layer(4096, 16, 131072, block=64)
    first_steps = [sum(cost.near_linear_step(network, 2, preconditioner=name).values()) for name in ("kernel", "sketch")]
    assert first_steps[0] < 0.75 * first_steps[1]
