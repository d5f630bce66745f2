"""Pivoted columns of the kernel in the place of the paper's R: the same steps, and what is decided from step to step."""

import dataclasses
import re

import numpy as np
import pytest

import nearlin as nl
from nearlin.curvature import PivotedColumns
from nearlin.curvature.pivoted_gram import Form
from nearlin.experiments import archive
from tests.optim.test_near_linear_gauss_newton import dense_gauss_newton, run

NearLinear = nl.optim.NearLinearGaussNewton
PIVOTED = NearLinear(preconditioner="pivoted")


def problem(be, n=64, d=8, width=1024, activation="relu", outputs=1, x=None):
    x = nl.data.sphere(n=n, d=d, seed=1)[0] if x is None else x
    y = np.sin(3 * x[:, :outputs] if outputs > 1 else 3 * x[:, 0])
    net = nl.nn.TwoLayer(x.shape[1], width, activation, outputs)
    return nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(0, be.like), (be.array(x), be.array(y))


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_step_is_the_dense_one(be, numpy_backend, outputs):
    if be.eps > 1e-10:
        pytest.skip("needs float64")
    want = dense_gauss_newton(*problem(numpy_backend, width=96, outputs=outputs), damping=1e-6)
    objective, params, batch = problem(be, width=96, outputs=outputs)
    opt = NearLinear(preconditioner="pivoted", epsilon=1e-12, damping=1e-6, guard=False)
    (W,), _, info = opt.step(params, opt.init(params, objective), objective, batch, key=7)
    assert info.solve.reason == "converged"
    assert info.solve.preconditioner == "pivoted, 40 columns"  # √(2 m d) = 39.2
    np.testing.assert_allclose(be.numpy(W), want, atol=1e-8)


def test_the_losses_go_down_as_with_a_sketch(be):
    """To the rounding of the dtype, by steps that are all accepted, with one factor."""
    by_columns, by_sketch = (run(opt, *problem(be), 6)[2] for opt in (PIVOTED, NearLinear(preconditioner="sketch")))
    assert [info.solve.refreshed for info in by_columns] == [True] + 5 * [False]
    assert all(info.accepted and info.solve.residual <= 1 / 6 for info in by_columns[:4])
    assert by_columns[3].new_loss < 1e-3 * by_columns[0].loss
    assert by_sketch[3].new_loss < 1e-3 * by_sketch[0].loss


def test_fewer_columns_are_worse_and_no_preconditioner_much_worse(numpy_backend):
    x = np.repeat(nl.data.sphere(n=64, d=4, seed=0)[0], 4, axis=0) + 0.1 * np.random.default_rng(0).standard_normal((256, 4))
    objective, params, batch = problem(numpy_backend, width=8192, x=x)
    J, r = objective.at(params, batch).jacobian(), batch[1]
    columns, spent = PivotedColumns(J, 0), []
    whole = columns.make(None)
    for rank in (128, 32, 8):
        P = columns.factor(whole.first(rank), 1e-3, None)
        assert P.M.rank == rank
        spent.append(nl.linalg.cg(nl.curvature.DampedGram(J, 1e-3), r, preconditioner=P.operator(256), rtol=1e-6)[1].iterations)
    plain = nl.linalg.cg(nl.curvature.DampedGram(J, 1e-3), r, rtol=1e-6)[1].iterations
    assert spent[0] < spent[1] < spent[2] <= plain
    assert 3 * spent[0] < plain


def test_another_batch_another_factor(numpy_backend):
    objective, params, (x, y) = problem(numpy_backend)
    state, fresh = PIVOTED.init(params, objective), []
    for t, rows in enumerate((slice(0, 32), slice(0, 32), slice(32, 64), slice(0, 32))):
        params, state, info = PIVOTED.step(params, state, objective, (x[rows], y[rows]), key=t)
        fresh.append(info.solve.refreshed)
    assert fresh == [True, False, True, True]


def test_a_batch_changed_in_place_is_noticed(numpy_backend):
    objective, params, (x, y) = problem(numpy_backend)
    params, state, _ = PIVOTED.step(params, PIVOTED.init(params, objective), objective, (x, y), key=0)
    x[:] = x[::-1].copy()
    assert PIVOTED.step(params, state, objective, (x, y), key=1)[2].solve.refreshed


def test_columns_are_not_drawn_anew_where_they_do_not_converge(numpy_backend):
    """The kernel has no others to give."""
    infos = run(NearLinear(preconditioner="pivoted", maxiter=1, epsilon=1e-3), *problem(numpy_backend, width=96), 2)[2]
    assert [info.solve.refreshed for info in infos] == [True, False]
    assert all(info.solve.reason.startswith("max") for info in infos)


def test_other_keys_draw_other_pivots(numpy_backend):
    objective, params, batch = problem(numpy_backend, width=64)
    start = PIVOTED.init(params, objective)
    pivots = [PIVOTED.step(params, start, objective, batch, key=k)[1].preconditioner.M.factor.pivots for k in (0, 0, 1)]
    assert pivots[0] == pivots[1] != pivots[2]
    steps = [
        nl.optim.GaussNewton(plan="pivoted").step(params, nl.optim.GaussNewton().init(params, objective), objective, batch, k)
        for k in (0, 0, 1)
    ]
    pivots = [state.experience.kept.source.factor.pivots for _, state, _ in steps]
    assert pivots[0] == pivots[1] != pivots[2]


def test_without_reuse_every_step_makes_one(numpy_backend):
    opt = NearLinear(preconditioner="pivoted", reuse=False)
    assert all(info.solve.refreshed for info in run(opt, *problem(numpy_backend), 3)[2])


# ----------------------------------------------------------------------------------------------------------------- the choice

SLOW_FACTORS = nl.linalg.Rates(cholesky=(1e3, 1e3))  # flops per second: a factor (n, n) takes longer than one (k, k)


def first(opt, *problem):
    return run(opt, *problem, 1)[2][0]


def test_the_route_with_the_least_predicted_time_is_taken_and_named(numpy_backend):
    for opt, taken, other in ((NearLinear(), "sketch", "pivoted"), (NearLinear(rates=SLOW_FACTORS), "pivoted", "sketch")):
        info = first(opt, *problem(numpy_backend, width=1024 if taken == "sketch" else 64))
        words = re.fullmatch(rf"{taken}: (\S+) s predicted, ({other}|kernel) (\S+) s", info.plan)
        assert float(words[1]) <= float(words[3])
        assert info.solve.preconditioner.startswith("pivoted" if taken == "pivoted" else "NeuronSigns")


def test_what_is_made_is_expected_to_serve_four_steps(numpy_backend):
    """Where factors alone take time: n³/3 flops of R, n = 64, and k₀³/3 of 32 columns, at 1000 a second."""
    for width, other in ((64, "kernel"), (63, "sketch")):  # below m d = 8 n the kernel takes no part
        plan = first(NearLinear(rates=SLOW_FACTORS), *problem(numpy_backend, width=width)).plan
        assert plan.partition(";")[0] == f"pivoted: {32**3 / 3 / 4000:.2g} s predicted, {other} {64**3 / 3 / 4000:.2g} s"


def test_a_sketch_that_does_not_fit_the_memory_is_not_made(numpy_backend):
    info = first(NearLinear(memory=64 * 64 * 8 * 3 - 1), *problem(numpy_backend))
    assert info.plan == "pivoted: a sketch takes 9.83e-05 GB"
    assert first(NearLinear(memory=64 * 64 * 8 * 3), *problem(numpy_backend)).plan.startswith("sketch")


def test_memory_caps_the_columns(numpy_backend):
    opt = NearLinear(preconditioner="pivoted", memory=2 * 8 * 64 * 10 + 1)
    assert first(opt, *problem(numpy_backend)).solve.preconditioner == "pivoted, 10 columns"


@pytest.mark.parametrize(
    "options", [{"sketch": nl.sketch.KroneckerSRHT()}, {"sketch_size": 2.0}, {"inner": "chebyshev"}, {"preconditioner": "sketch"}]
)
def test_whoever_asks_for_a_sketch_gets_it(numpy_backend, options):
    info = first(NearLinear(rates=SLOW_FACTORS, **options), *problem(numpy_backend))
    assert (info.plan, info.solve.preconditioner.startswith("pivoted")) == ("", False)


def test_a_run_that_began_with_a_sketch_stays_with_it(numpy_backend):
    objective, params, batch = problem(numpy_backend, width=64)
    params, state, _ = NearLinear(preconditioner="sketch").step(params, PIVOTED.init(params, objective), objective, batch, key=0)
    info = NearLinear(rates=SLOW_FACTORS).step(params, state, objective, batch, key=1)[2]
    assert not info.solve.refreshed


@pytest.mark.parametrize("network", ["tanh", "layers"])
def test_networks_without_a_closed_form_are_told(numpy_backend, network):
    objective, params, batch = problem(numpy_backend, activation="tanh" if network == "tanh" else "relu")
    if network == "layers":
        objective = nl.nn.Objective(nl.nn.MLP((8, 16, 1)), nl.nn.SquaredLoss())
        params, batch = objective.network.init(0, batch[0]), (batch[0], batch[1][:, None])
    with pytest.raises(
        ValueError, match=r"preconditioner is 'pivoted', and the closed-form kernel is that of .*; expected 'auto'"
    ):
        first(PIVOTED, objective, params, batch)
    assert first(NearLinear(rates=SLOW_FACTORS), objective, params, batch).plan == ""


@pytest.mark.parametrize("preconditioner", ["sketch", "kernel", "pivoted"])
def test_inputs_whose_squares_underflow_leave_the_weights_where_they_are(numpy_backend, preconditioner):
    """float32: the kernel is rounding, and there is no column to take."""
    objective, params, (x, y) = problem(numpy_backend, n=30, d=5, width=256)
    params, batch = (params[0].astype("float32"),), ((1e-20 * x).astype("float32"), y.astype("float32"))
    opt = NearLinear(preconditioner=preconditioner)
    (W,), _, info = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    assert not info.accepted
    assert np.array_equal(W, params[0])


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="preconditioner is 'pivoted' with inner 'chebyshev'"):
        NearLinear(preconditioner="pivoted", inner="chebyshev")
    with pytest.raises(ValueError, match="preconditioner is 'columns'; expected"):
        NearLinear(preconditioner="columns")


@pytest.mark.parametrize(("width", "few"), [(63, True), (64, False)])
def test_too_few_neurons_for_the_samples_are_named(numpy_backend, width, few):
    """m d is 7.9 n, and 8 n."""
    info = first(PIVOTED, *problem(numpy_backend, width=width))
    said = "; m d is 7.9 n, few neurons for so many samples: below 8 n iterations grow, and a wider network helps"
    assert info.plan == "pivoted: by name" + said * few


# ------------------------------------------------------------------------------------------------------- from step to step


@pytest.fixture
def columns(numpy_backend):
    """`PivotedColumns` on a machine where products with J Jᵀ are slow, and P of its first form."""
    objective, params, batch = problem(numpy_backend)
    made = PivotedColumns(objective.at(params, batch).jacobian(), 0, nl.linalg.Rates(thin=(1e6, 1e6)))
    return made, made.factor(made.make(None), 1e-3, None)


def kept(columns, P, iterations):
    return columns.keep(P, True, iterations, 1 / 6)[0]


def test_more_columns_where_the_iterations_took_longer_than_these(columns):
    made, P = columns
    assert P.form == Form(64)
    P = P._replace(form=Form(16))
    assert kept(made, P, 4).next == Form(32)
    quick = dataclasses.replace(made, rates=nl.linalg.Rates(thin=(1e15, 1e15), calls=1e15))
    assert kept(quick, P, 4).next is None


def test_groups_first_where_iterations_are_many(columns):
    made, P = columns
    assert kept(made, P, 7).next == Form(64, True)
    assert kept(made, P._replace(form=Form(64, False)), 7).next is None  # there are no more columns than rows


def test_a_change_that_took_longer_is_undone_for_good(columns):
    made, P = columns
    changed = kept(made, P._replace(form=Form(16)), 4)._replace(form=Form(32), next=None)
    undone = kept(made, changed, 8)
    assert (undone.next, undone.settled) == (Form(16), True)
    assert kept(made, undone._replace(form=Form(16), next=None), 50).next is None
    better = kept(made, changed, 2)
    assert not better.settled


def test_what_is_wanted_next_is_made_from_what_there_is(columns):
    made, P = columns
    small = made.factor(made.make(P._replace(next=Form(8))), 1e-3, P._replace(next=Form(8)))
    assert (small.form, small.M.factor.pivots) == (Form(8), P.M.factor.pivots[:8])
    again = made.make(small._replace(next=Form(24)))
    assert again.pivots[:8] == small.M.factor.pivots
    assert made.at(small._replace(next=Form(24)), 1e-3) is None


def test_the_first_columns_are_those_of_a_factor_that_never_had_more(columns):
    F = columns[1].M.factor
    fewer, fresh = F.first(8), F.F[:, :8]
    np.testing.assert_array_equal(fewer.F, fresh)
    np.testing.assert_allclose(fewer.gram, fresh.T @ fresh, rtol=1e-12)
    dense = F.source.entries(slice(0, 64), np.arange(64)) - fresh @ fresh.T
    np.testing.assert_allclose(fewer.remainder, np.diag(dense), atol=1e-12)
    assert F.first(100) is F


def test_another_damping_is_another_factor_of_the_same_columns(columns):
    made, P = columns
    other = made.at(P, 1.0)
    assert other.M.factor is P.M.factor
    assert other.damping == other.M.damping == 1.0
    assert made.at(P, P.damping) is P


def test_groups_serve_near_duplicates_and_are_kept_near_a_damping(numpy_backend):
    rng = np.random.default_rng(0)
    x = np.repeat(nl.data.sphere(n=48, d=6, seed=0)[0], 2, axis=0)
    x = x + 1e-2 * rng.standard_normal(x.shape)
    objective, params, batch = problem(numpy_backend, width=2048, x=x)
    made = PivotedColumns(objective.at(params, batch).jacobian(), 0)
    P = made.factor(made.make(None).first(24), 1e-3, None)
    grouped = made.factor(P.M.factor, 1e-3, P._replace(next=Form(24, True)))
    assert (grouped.form, grouped.described) == (Form(24, True), "pivoted, 24 columns, groups of near rows")
    assert made.at(grouped, 5e-3) is grouped
    assert made.at(grouped, 1.0).damping == 1.0
    J, r, spent = made.J, rng.standard_normal(96), []
    for one in (P, grouped):
        system = nl.curvature.DampedGram(J, 1e-3)
        spent.append(nl.linalg.cg(system, r, preconditioner=one.operator(96), rtol=1e-3)[1].iterations)
    assert 2 * spent[1] < spent[0]


def test_a_state_comes_back_from_a_checkpoint(tmp_path, numpy_backend):
    objective, params, batch = problem(numpy_backend)
    params, state, _ = PIVOTED.step(params, PIVOTED.init(params, objective), objective, batch, key=0)
    archive.write(tmp_path / "run.npz", {"params": params, "state": state})
    loaded = archive.read(tmp_path / "run.npz", like=batch[0])["state"]
    (W,), _, info = PIVOTED.step(params, loaded, objective, batch, key=1)
    (V,), _, same = PIVOTED.step(params, state, objective, batch, key=1)
    assert not info.solve.refreshed
    assert info == same
    np.testing.assert_array_equal(W, V)


# ------------------------------------------------------------------------------------------------------------ in GaussNewton


@pytest.mark.parametrize(("activation", "outputs"), [("relu", 1), ("relu", 3), ("tanh", 1)])
def test_gauss_newton_takes_the_dense_step_by_columns(be, numpy_backend, activation, outputs):
    if be.eps > 1e-10:
        pytest.skip("needs float64")
    sizes = {"width": 96, "activation": activation, "outputs": outputs}
    want = dense_gauss_newton(*problem(numpy_backend, **sizes), damping=64e-6)
    objective, params, batch = problem(be, **sizes)
    opt = nl.optim.GaussNewton(plan="pivoted", epsilon=1e-12, damping=1e-6, guard=False, maxiter=200)
    (W,), _, info = opt.step(params, opt.init(params, objective), objective, batch, key=7)
    assert (info.solve.reason, info.solve.preconditioner) == (
        "converged",
        f"pivoted, {40 if activation == 'relu' else 48} columns",
    )
    np.testing.assert_allclose(be.numpy(W), want, atol=1e-7)


@pytest.mark.parametrize(("activation", "made"), [("relu", [True, False, False]), ("tanh", [True] * 3)])
def test_gauss_newton_keeps_the_columns_of_the_kernel_alone(numpy_backend, activation, made):
    _, state, infos = run(nl.optim.GaussNewton(plan="pivoted"), *problem(numpy_backend, activation=activation), 3)
    assert [info.solve.refreshed for info in infos] == made
    kept = state.experience.kept
    assert (kept is not None) == (activation == "relu")
    if kept is not None:
        assert isinstance(kept.source.factor.source, nl.nn.KernelEntries)
        assert state.experience.columns == kept.source.rank
    assert all(info.accepted for info in infos)


def test_gauss_newton_takes_more_columns_where_products_are_slow(numpy_backend):
    objective, params, batch = problem(numpy_backend)
    opt, found = nl.optim.GaussNewton(plan="pivoted", rates=nl.linalg.Rates(thin=(1e6, 1e6))), []
    state = opt.init(params, objective)
    state = state._replace(experience=state.experience._replace(columns=16))
    for t in range(4):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        found.append((info.solve.preconditioner, info.solve.refreshed))
    assert found == [
        ("pivoted, 16 columns", True),
        ("pivoted, 32 columns", True),
        ("pivoted, 64 columns", True),
        ("pivoted, 64 columns", False),
    ]


def test_gauss_newton_plans_columns_where_matrices_do_not_fit(numpy_backend):
    opt = nl.optim.GaussNewton(memory=3 * 64 * 64 * 8 - 1)
    assert run(opt, *problem(numpy_backend, width=64), 1)[2][0].plan.startswith("pivoted: ")
    few = run(opt, *problem(numpy_backend, width=65), 1)[2][0]  # k₀ is above n/2
    assert few.plan.startswith("cg: ")
