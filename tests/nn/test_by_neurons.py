"""The wide layer by neurons: draws, products and steps on several ranks beside those of one, and what goes between ranks."""

import functools

import numpy as np
import pytest

import nearlin as nl
from nearlin import _array
from nearlin.linalg import PivotedCholesky
from nearlin.nn import two_layer
from nearlin.sketch import KroneckerSRHT, NeuronSamples, NeuronSigns

N, M, D, STEPS = 64, 1201, 5, 5
o = nl.optim


@functools.cache
def batch(outputs=1):
    """x (n, d) and y (n, c)."""
    x = np.random.default_rng(3).standard_normal((N, D))
    return x, np.stack([np.sin(2 * x[:, k % D] + k) for k in range(outputs)], axis=1)


def objective(outputs=1, activation="relu", l2=0.0, width=M):
    """Of a two-layer network and least squares."""
    return nl.nn.Objective(nl.nn.TwoLayer(D, width, activation, outputs), nl.nn.SquaredLoss(), l2=l2)


class Case:
    """A method, and the network that it is tried on."""

    def __init__(self, name, opt, **network):
        self.name, self.opt, self.network, self.outputs = name, opt, network, network.get("outputs", 1)

    @functools.cached_property
    def alone(self):
        """Of one rank: the weights after `STEPS` steps, and what the steps reported."""
        return self.run(None)[:2]

    def run(self, ranks):
        """On ``ranks``, or without any: also the bytes of the steps, by name."""
        mine = objective(**self.network)
        mine = mine if ranks is None else nl.nn.by_neurons(mine, ranks)
        params = mine.network.init(1, batch()[0])
        state, told, before = self.opt.init(params, mine), [], ranks and ranks.bytes.copy()
        for t in range(STEPS):
            params, state, info = self.opt.step(params, state, mine, batch(self.outputs), _array.fold_in(3, t))
            told.append((info.accepted, info.solve and info.solve.iterations, getattr(info, "plan", "")))
        if ranks is None:
            return params[0], told, {}
        return mine.network.whole(params)[0], told, {k: v - before[k] for k, v in ranks.bytes.items() if k != "whole array"}

    def __repr__(self):
        return self.name


SOLVERS = [
    Case("near-linear", o.NearLinearGaussNewton()),
    Case("near-linear, fresh", o.NearLinearGaussNewton(reuse=False, preconditioner="sketch"), outputs=3),
    Case("near-linear, samples", o.NearLinearGaussNewton(sketch=NeuronSamples(), sketch_size=2.0)),
    Case("near-linear, pivoted", o.NearLinearGaussNewton(preconditioner="pivoted"), width=121),
    Case("near-linear, kernel", o.NearLinearGaussNewton(preconditioner="kernel"), outputs=3),
    Case("near-linear, chebyshev", o.NearLinearGaussNewton(inner="chebyshev", sketch_size=4.0)),
    Case("gram", o.GramGaussNewton(), outputs=3),
    Case("natural gradient", o.NaturalGradient()),
    Case("gauss-newton", o.GaussNewton()),
    Case("gauss-newton, penalty and momentum", o.GaussNewton(plan="sketch", momentum=0.5), outputs=2, l2=1e-3),
    Case("gauss-newton, tanh", o.GaussNewton(epsilon=1e-2), activation="tanh", outputs=2),
    Case("lsqr", o.GaussNewton(plan="exact", solver="lsqr")),
    *(Case(plan, o.GaussNewton(plan=plan)) for plan in ("exact", "sketch", "kernel", "frozen", "nystrom")),
    Case("cg", o.GaussNewton(plan="cg", damping=1.0)),
    *(Case(plan, o.GaussNewton(plan=plan), outputs=3) for plan in ("class-averaged", "per-class")),
    Case("pivoted", o.GaussNewton(plan="pivoted"), activation="tanh", width=121),
]
FIRST_ORDER = [
    Case("sgd", o.SGD(weight_decay=0.1), l2=1e-3),
    Case("adam", o.Adam(amsgrad=True), outputs=3),
    Case("adamw", o.AdamW()),
    Case("adagrad", o.AdaGrad()),
    Case("rmsprop", o.RMSprop()),
]
CASES = SOLVERS + FIRST_ORDER


def on(case, P):
    """The weights, reports and bytes of every rank of P."""
    return nl.together(P, case.run)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_one_rank_makes_the_serial_steps_to_the_bit(case):
    ((W, told, nbytes),) = on(case, 1)
    assert np.array_equal(W, case.alone[0])
    assert told == case.alone[1]
    assert nbytes == {}


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("P", [2, 3])
def test_ranks_make_the_serial_steps_to_rounding(case, P):
    check(case, P)


@pytest.mark.parametrize(("case", "P"), [(SOLVERS[0], 7), (SOLVERS[5], 61), (FIRST_ORDER[1], 61)], ids=repr)
def test_many_ranks_make_the_serial_steps_to_rounding(case, P):
    check(case, P)


@pytest.mark.nightly
@pytest.mark.parametrize("P", [7, 61])
@pytest.mark.parametrize("case", [case for case in CASES if case.network.get("width", M) == M], ids=repr)
def test_many_ranks_make_every_methods_steps(case, P):
    check(case, P)


def check(case, P):
    """Weights within 1e-12 of those of one rank, with the same iterations and plans, and the same on every rank."""
    made, (W0, told0) = on(case, P), case.alone
    assert all(np.array_equal(W, made[0][0]) for W, _, _ in made)
    assert np.linalg.norm(made[0][0] - W0) <= 1e-12 * np.linalg.norm(W0)
    assert all(told == told0 for _, told, _ in made)
    assert all(nbytes == made[0][2] for _, _, nbytes in made)


@pytest.mark.parametrize(
    "opt", [o.NearLinearGaussNewton(), o.GaussNewton(plan="exact"), o.Adam()], ids=lambda opt: type(opt).__name__
)
def test_steps_are_those_of_one_rank_on_every_backend(be, opt):
    if be.name == "cupy:device1":
        pytest.skip("every thread begins on the first device")
    x, y = map(be.array, batch())

    def stepped(ranks):
        mine = objective() if ranks is None else nl.nn.by_neurons(objective(), ranks)
        params = mine.network.init(1, x)
        state = opt.init(params, mine)
        for t in range(2):
            params, state, _ = opt.step(params, state, mine, (x, y), t)
        return be.numpy(params[0] if ranks is None else mine.network.whole(params)[0])

    alone, tol = stepped(None), be.tol(1e-12)
    assert all(np.linalg.norm(W - alone) <= tol * np.linalg.norm(alone) for W in nl.together(2, stepped))


def test_the_seed_moves_the_weights():
    """Else equal weights would say nothing of the steps."""
    W = objective().network.init(1, batch()[0])[0]
    assert all(np.linalg.norm(case.alone[0] - W) > 1e-4 * np.linalg.norm(W) for case in (SOLVERS[0], FIRST_ORDER[1]))


# ------------------------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("P", [1, 2, 3, 7])
@pytest.mark.parametrize("outputs", [1, 3, 7])
@pytest.mark.parametrize("start", ["init", "init_at_zero"])
def test_weights_are_drawn_as_by_one_rank(monkeypatch, P, outputs, start):
    monkeypatch.setattr(two_layer, "DRAW", 500)
    alone = getattr(objective(outputs).network, start)(4, batch()[0])[0]

    def drawn(ranks):
        network = nl.nn.by_neurons(objective(outputs), ranks).network
        return getattr(network, start)(4, batch()[0])[0].local

    assert np.array_equal(np.concatenate(nl.together(P, drawn)), alone)


@pytest.mark.parametrize(("first", "n"), [(0, 40), (1, 40), (32, 64), (33, 7), (1000, 1)])
def test_signs_from_the_middle_of_a_stream_are_those_of_the_stream(be, first, n):
    whole = be.numpy(_array.signs(5, first + n, be.like))
    assert np.array_equal(be.numpy(_array.signs(5, n, be.like, first)), whole[first:])


@pytest.mark.parametrize("sketch", [NeuronSigns(), NeuronSamples()], ids=lambda sketch: type(sketch).__name__)
def test_a_sketch_of_some_neurons_is_that_of_all(sketch):
    block = np.random.default_rng(0).standard_normal((3, 10))
    whole, part = (sketch.sample(2, 20, ((200, 4),), like=block, neurons=own) for own in (None, slice(40, 90)))
    (columns, values), (same, found) = whole.left(0, block, 45), part.left(0, block, 45)
    assert columns == same
    assert np.array_equal(values, found)
    with pytest.raises(ValueError, match="block covers neurons 35 to 45 of layer 0; expected a part of 40 to 90"):
        part.left(0, block, 35)


# ---------------------------------------------------------------------------------------------------------------- the operator


def jacobian(ranks, outputs=1, activation="relu", weights=None):
    """J of one rank or of ``ranks``, at the same weights."""
    mine = objective(outputs, activation)
    mine = nl.nn.by_neurons(mine, ranks) if ranks else mine
    given = batch(outputs) if weights is None else (*batch(outputs), weights)
    return mine.at(mine.network.init(1, batch()[0]), given).jacobian(weighted=True)


def same_on_ranks(f, P=3, tol=1e-13, **network):
    """Whether f(J) is to rounding the same of one rank and of P."""
    alone, made = f(jacobian(None, **network)), nl.together(P, lambda ranks: f(jacobian(ranks, **network)))
    return all(np.max(np.abs(np.asarray(x) - np.asarray(alone))) <= tol * np.max(np.abs(alone)) for x in made)


@pytest.mark.parametrize("network", [{}, {"outputs": 3}, {"outputs": 7, "activation": "tanh"}], ids=str)
@pytest.mark.parametrize("weights", [None, np.linspace(0.5, 1.5, N)], ids=["", "weights"])
def test_products_and_matrices_are_those_of_one_rank(network, weights):
    u = np.random.default_rng(2).standard_normal(N * network.get("outputs", 1))
    same = functools.partial(same_on_ranks, weights=weights, **network)
    assert same(lambda J: J.gram_matvec(u))
    assert same(lambda J: J.matvec(J.rmatvec(u)))
    assert same(lambda J: J.gram())
    assert same(lambda J: J.mean_gram())
    assert same(lambda J: J.mean_square())
    dense = jacobian(None, weights=weights, **network).to_dense()
    assert same(lambda J: getattr(*J.rmatvec(u), "whole", lambda: J.rmatvec(u)[0])())
    assert np.allclose(jacobian(None, weights=weights, **network).gram_matvec(u), dense @ (dense.T @ u))


@pytest.mark.parametrize("s", [30, 96, 400, 3000])
@pytest.mark.parametrize("sketch", [NeuronSigns(), NeuronSamples()], ids=lambda sketch: type(sketch).__name__)
def test_a_sketched_gram_matrix_is_that_of_one_rank(sketch, s):
    def made(J):
        J = J.pooled()
        return J.sketch_gram(J.draw(sketch, 8, s, batch()[0]))

    assert same_on_ranks(made, outputs=3)


def test_columns_of_a_sketch_are_those_of_one_rank():
    def made(J):
        source = nl.nn.FactorEntries.of(J, J.pooled().draw(NeuronSigns(), 8, 200, batch()[0]))
        return np.column_stack([PivotedCholesky(source, 2).grow(12).F, source.diagonal])

    assert same_on_ranks(made, tol=1e-11, outputs=2)


@pytest.mark.parametrize("P", [2, 3, 61])
@pytest.mark.parametrize("network", [{}, {"outputs": 3}, {"activation": "tanh"}], ids=str)
def test_work_is_that_of_the_whole_layer(P, network):
    def work(J):
        pooled = J.pooled()
        return (
            J.shape,
            J.factor_shapes,
            J.product_work(),
            J.gram_work(),
            pooled.sketch_work(96),
            J.kernel_work(),
            J.class_work(True),
        )

    alone = work(jacobian(None, **network))
    assert nl.together(P, lambda ranks: work(jacobian(ranks, **network))) == [alone] * P


# -------------------------------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("outputs", [1, 3])
def test_bytes_of_a_near_linear_step_are_those_of_the_formula(outputs):
    """8 n c a product and a forward pass, 8 n² + 8 n a fresh R, and 8 a norm of the parameters."""
    case = Case("", o.NearLinearGaussNewton(reuse=False, preconditioner="sketch"), outputs=outputs)
    for _, told, nbytes in on(case, 3):
        products = sum(iterations + 1 for _, iterations, _ in told)  # and one that certifies
        vector = 8 * N * outputs
        assert all(accepted for accepted, _, _ in told)
        assert nbytes == {
            "forward": vector * (STEPS + 1),
            "product": vector * products,
            "sketched Gram matrix": 8 * N * N * STEPS,
            "border": 8 * N * STEPS,
            "sum of entries": 8 * STEPS,
            "entries are true": STEPS - 1,
        }


def test_bytes_of_a_gram_step_are_those_of_the_formula():
    case = Case("", o.GramGaussNewton(), outputs=3)
    for _, _, nbytes in on(case, 2):
        assert nbytes["Gram matrix"] == 8 * N * N * 3 * STEPS
        assert nbytes["product"] == 8 * N * 3 * STEPS


def test_the_closed_form_kernel_moves_nothing_and_a_sketch_its_entries():
    def grown(ranks):
        J = jacobian(ranks, activation="tanh")
        factor = PivotedCholesky(nl.nn.FactorEntries.of(J, J.draw(NeuronSigns(), 8, 200, batch()[0])), 2).grow(12)
        return factor, ranks.bytes["entries"], ranks.bytes["diagonal"], ranks.calls["entries"]

    for factor, entries, diagonal, calls in nl.together(2, grown):
        assert diagonal == 8 * N
        assert calls == 2 * factor.rounds  # a round: the triangle of its proposals, at most 2 k + 8 of them, and columns
        assert 0 < entries - 8 * N * 12 <= 8 * factor.rounds * 32 * 33 // 2
    assert "entries" not in on(SOLVERS[3], 2)[0][2]


def test_a_first_order_step_moves_its_outputs_and_two_norms():
    """Whether the parameters and the gradient are finite."""
    for _, _, nbytes in on(FIRST_ORDER[2], 2):
        assert nbytes == {"forward": 8 * N * STEPS, "sum of entries": 2 * 8 * STEPS}


@pytest.mark.parametrize("P", [2, 5])
def test_a_rank_holds_its_share_of_weights_and_masks(P):
    def held(ranks):
        J = jacobian(ranks)
        return J.W.nbytes, sum(mask.nbytes for mask in J.masks)

    (weights, masks), made = held(None), nl.together(P, held)
    assert sum(w for w, _ in made) == weights
    assert all(w <= weights / P + 8 * 8 * D and m <= masks / P + 3 * N for w, m in made)


# ------------------------------------------------------------------------------------------------------------ what is refused


def refusal(f, P=2):
    """The error of f(ranks, objective by neurons, params)."""

    def run(ranks):
        mine = nl.nn.by_neurons(objective(), ranks)
        f(ranks, mine, mine.network.init(1, batch()[0]))

    with pytest.raises((ValueError, TypeError, AttributeError, RuntimeError)) as found:
        nl.together(P, run)
    return str(found.value)


def step_by(opt):
    """A step of ``opt``."""
    return lambda ranks, mine, params: opt.step(params, opt.init(params, mine), mine, batch(), 0)


def test_sketches_that_mix_neurons_are_refused():
    said = refusal(step_by(o.NearLinearGaussNewton(sketch=KroneckerSRHT())))
    found = "sketch is KroneckerSRHT(oversample=4), which mixes the neurons of several ranks"
    assert said == f"{found}; expected NeuronSigns() or NeuronSamples()"


def test_groups_wider_than_a_ranks_neurons_are_refused():
    said = refusal(step_by(o.NearLinearGaussNewton(sketch_size=1 / 8)), P=61)
    assert (
        said == "a sketch of 8 rows sums groups of 150 neurons, and a rank has 16; expected fewer ranks or a larger sketch_size"
    )


@pytest.mark.parametrize(
    "opt", [o.KFAC(), o.MiniBlockFisher(), o.TNT(), o.KBFGS(), o.Shampoo(), o.SOAP(), o.Muon(), o.Ginger()], ids=repr
)
def test_methods_that_need_rows_of_other_ranks_are_refused(opt):
    said = refusal(step_by(opt))
    assert "split over ranks" in said or "lie on other ranks" in said


def test_plans_over_the_parameters_are_refused_with_the_reason():
    found = "plan is 'parameter-cg', and neurons are split over ranks, and systems over the parameters with them"
    assert refusal(step_by(o.GaussNewton(plan="parameter-cg"))) == f"{found}; expected 'auto' or another route"


def test_more_ranks_than_blocks_of_neurons_are_refused():
    nl.together(3, lambda ranks: nl.nn.by_neurons(objective(width=20), ranks))
    with pytest.raises(ValueError, match="there are 4 ranks, and the width 20 has 3 blocks of 8 neurons; expected at most"):
        nl.together(4, lambda ranks: nl.nn.by_neurons(objective(width=20), ranks))


def test_other_networks_are_refused():
    other = nl.nn.Objective(nl.nn.MLP((D, 4, 1)), nl.nn.SquaredLoss())
    with pytest.raises(ValueError, match="the network is a Sequential; expected a TwoLayer: others are split by samples"):
        nl.nn.by_neurons(other, nl.Alone())


def test_whole_parameters_are_refused_and_split_by_the_network():
    whole = objective().network.init(1, batch()[0])
    said = refusal(lambda ranks, mine, params: mine.at(whole, batch()))
    assert said.endswith("expected rows of these ranks: network.init or network.split")
    made = nl.together(2, lambda ranks: nl.nn.by_neurons(objective(), ranks).network.split(whole)[0].whole())
    assert all(np.array_equal(W, whole[0]) for W in made)


def test_numbers_that_are_not_finite_on_one_rank_end_all():
    def broken(ranks, mine, params):
        if ranks.rank == 1:
            params[0].local[0, 0] = np.nan
        mine.at(params, batch())

    assert refusal(broken) == "params[0] holds 1 NaN or Inf value(s) among 3005; expected finite numbers"


def test_a_rank_that_plans_differently_ends_the_world():
    said = refusal(lambda ranks, mine, params: step_by(o.GaussNewton(plan=("exact", "sketch")[ranks.rank]))(ranks, mine, params))
    assert "rank 1 asks for the sum of" in said or "rank 1 hands border" in said
    assert "rank 0 asks for the sum of Gram matrix (64, 64)" in said


def test_a_rank_that_stops_early_ends_the_world():
    def steps(ranks, mine, params):
        for t in range(3 - ranks.rank):
            params, _, _ = o.SGD().step(params, o.SGD().init(params, mine), mine, batch(), t)

    assert refusal(steps) == "rank 1 has ended, while rank 0 asks for the sum of forward (64, 1) float64"
