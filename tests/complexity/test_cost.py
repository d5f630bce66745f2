"""Counted degrees of every routine, and closed forms that equal the counts to the flop."""

import itertools
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import threadpoolctl

import nearlin as nl
from nearlin import _array
from nearlin.complexity import cost, count, counting_like, degree, leading_term, wrap
from nearlin.nn import two_layer_blocks
from nearlin.sketch.kronecker import _mixed

LIKE = counting_like()
BLOCK = 16
ACTIVATIONS = ("relu", "tanh", "sigmoid", "softplus", "identity")
SIZES = [(16, 3, 64), (9, 4, 50), (12, 5, 200), (7, 5, 33)]  # whole blocks of 16 neurons, and not


@pytest.fixture
def blocks(monkeypatch):
    """Sets the number of neurons per block for n samples."""

    def fix(n, neurons=BLOCK):
        monkeypatch.setattr(_array.blocks, "CPU_BLOCK_BYTES", 4 * 8 * n * neurons)
        monkeypatch.setattr(two_layer_blocks, "NARROW", 8)

    return fix


def counted(f, *args):
    """Flops and result."""
    with count() as tally:
        result = f(*args)
    return tally.total, result


def random(*shape):
    return wrap(np.random.default_rng(0).standard_normal(shape))


def two_layer(n, d, m, activation="relu", outputs=1):
    """Objective, parameters, batch of counting arrays."""
    network = nl.nn.TwoLayer(d, m, activation, outputs)
    x, y = nl.data.sphere(n=n, d=d, seed=1)
    batch = wrap((x, np.stack([y * (k + 1) for k in range(outputs)], axis=1)))
    return nl.nn.Objective(network, nl.nn.SquaredLoss()), network.init(0, LIKE), batch


def jacobian(n, d, m, activation="relu"):
    objective, params, batch = two_layer(n, d, m, activation)
    return objective.at(params, batch).jacobian()


def products(n, d, m, activation="relu", outputs=1):
    """Counts of the walks of the two-layer network, by name."""
    network, V, u = nl.nn.TwoLayer(d, m, activation, outputs), (random(m, d),), random(n * outputs)
    forward, (_, tape) = counted(network.forward, V, random(n, d))
    J = tape.jacobian
    return {
        "forward": forward,
        "matvec": counted(J.matvec, V)[0],
        "rmatvec": counted(J.rmatvec, u)[0],
        "gram_matvec": counted(J.gram_matvec, u)[0],
        "gram": counted(J.gram_blocks)[0],
    }


# ---------------------------------------------------------------------------------------------- degrees, exactly, by count


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", ["forward", "matvec", "rmatvec", "gram_matvec"])
@pytest.mark.parametrize("variable", ["n", "d", "m"])
def test_walks_are_linear_in_samples_inputs_and_width(blocks, name, variable, activation):
    def flops(size):
        n, d, m = {"n": (size, 3, 32), "d": (5, size, 32), "m": (5, 3, size)}[variable]
        blocks(n)
        return products(n, d, m, activation)[name]

    assert degree(flops, [32, 48, 64, 80]) == 1


@pytest.mark.parametrize("variable", ["n", "d", "m"])
def test_the_update_is_linear(blocks, variable):
    def flops(size):
        n, d, m = {"n": (size, 3, 32), "d": (5, size, 32), "m": (5, 3, size)}[variable]
        blocks(n)
        J, W, u = jacobian(n, d, m), (random(m, d),), random(n)
        return counted(lambda: nl.linalg.axpy(-1.0, J.rmatvec(u), W))[0]

    assert degree(flops, [32, 48, 64, 80]) == 1


def neuron_sketch(n, m, s, d=3):
    J = jacobian(n, d, m)
    S = nl.sketch.NeuronSigns().sample(0, s, J.factor_shapes, like=LIKE)
    flops, folded = counted(J.fold_left, 0, S)
    return flops, counted(J._hadamard, folded, 0)[0]


def test_the_neuron_mode_sketch_is_linear_and_its_gram_matrix_quadratic_in_samples_alone(blocks):
    sizes = [32, 48, 64, 80, 96]
    blocks(1024, neurons=1024)
    assert leading_term(lambda n: neuron_sketch(n, 64, 16)[0], sizes) == (1, 2 * 64 + 2 * 16)
    assert leading_term(lambda m: neuron_sketch(8, m, 16)[0], sizes) == (1, 2 * 8)
    assert leading_term(lambda n: neuron_sketch(n, 64, 16)[1], sizes) == (2, 2 * (16 + 3) + 1)
    assert leading_term(lambda m: neuron_sketch(8, m, m)[1], sizes) == (1, 2 * 8**2)


def kronecker_rows(n, d, m, s=4):
    J = jacobian(n, d, m)
    S = nl.sketch.KroneckerSRHT().sample(0, s, J.factor_shapes, like=LIKE)
    return counted(J.sketch, S)[0]


def test_a_transform_costs_what_the_products_make():
    """Points of the factors in words: 64 = 8 x 8, 2^18 = 8 x 16 x 8 x 16 x 16; their signs are made by doubling."""
    assert counted(nl.linalg.fwht, random(64, 2))[0] == 2 * (8 + 8) * 64 * 2 + 2 * (1 + 4 + 16) == 4138
    assert counted(nl.linalg.fwht, wrap(np.zeros((2**18, 2))))[0] == 67_109_161
    assert counted(nl.linalg.fwht, random(1, 3))[0] == 0


@pytest.mark.parametrize("bits", range(1, 13))
def test_a_transform_costs_at_most_8_n_log_n_and_just_that_with_full_factors(bits):
    N = 2**bits
    flops = counted(nl.linalg.fwht, random(N, 3))[0] - counted(nl.linalg.fwht, random(N, 2))[0]  # the signs cancel
    assert flops <= 8 * N * bits
    assert (flops == 8 * N * bits) == (bits % 4 == 0)
    assert flops >= 4 * N * bits  # no factor has fewer than two points


def test_the_kronecker_sketch_has_one_transform_for_either_factor():
    full = [16, 256, 4096]
    mixed = [counted(_mixed, random(6, m), random(m))[0] for m in full]
    assert mixed == [6 * (8 * m * bits + m) + 85 * bits // 4 for m, bits in zip(full, (4, 8, 12), strict=True)]
    masks = (256 - 16) * (2 * 6 + 3)  # turned into numbers, signed and scaled; the signs of the neurons
    assert kronecker_rows(6, 3, 256) - kronecker_rows(6, 3, 16) == mixed[1] - mixed[0] + masks
    assert leading_term(lambda n: kronecker_rows(n, 3, 20), [4, 6, 8, 10])[0] == 1


def test_the_factorisation_is_cubic_and_the_triangular_solves_are_quadratic():
    def matrix(n):
        return wrap(np.eye(n) + 1)

    sizes = [5, 8, 11, 14, 17]
    assert leading_term(lambda n: counted(nl.linalg.damped_cholesky, matrix(n), 0.1)[0], sizes) == (3, Fraction(1, 3))
    assert leading_term(lambda n: counted(nl.linalg.TriangularPreconditioner(matrix(n)), random(n))[0], sizes) == (2, 2)


def test_the_structured_gram_matrix_is_quadratic_in_samples_and_linear_in_width(blocks):
    def flops(n, d, m):
        blocks(n)
        return products(n, d, m)["gram"]

    sizes = [32, 48, 64, 80]
    assert degree(lambda n: flops(n, 3, 32), sizes) == 2
    assert leading_term(lambda m: flops(8, 3, m), sizes) == (1, 2 * 8**2)
    assert leading_term(lambda d: flops(8, d, 32), sizes) == (1, 2 * 8**2)


def test_a_deliberately_quadratic_step_is_caught():
    """A negative control: a product with J Jᵀ that forms the matrix."""

    def flops(n, formed):
        J, u = jacobian(n, 3, 32), random(n)
        return counted(lambda: J.gram() @ u if formed else J.gram_matvec(u))[0]

    assert degree(lambda n: flops(n, formed=False), [32, 48, 64, 80]) == 1
    assert degree(lambda n: flops(n, formed=True), [32, 48, 64, 80]) == 2


# --------------------------------------------------------------------------------------------------- closed forms of parts


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("n", "d", "m"), SIZES)
@pytest.mark.parametrize("neurons", [BLOCK, 8, 1024])
@pytest.mark.parametrize("outputs", [1, 3])
def test_walks_cost_what_the_formulas_say(blocks, n, d, m, activation, neurons, outputs):
    blocks(n, neurons)
    found = products(n, d, m, activation, outputs)
    assert found == {
        "forward": cost.forward(n, d, m, neurons, activation, outputs),
        "matvec": cost.matvec(n, d, m, neurons, activation, outputs),
        "rmatvec": cost.rmatvec(n, d, m, neurons, activation, outputs),
        "gram_matvec": cost.gram_matvec(n, d, m, neurons, activation, outputs),
        "gram": cost.gram(n, d, m, neurons, activation, outputs),
    }
    assert found["forward"] == cost.forward(n, d, m, activation=activation, outputs=outputs)  # the library's block by default


@pytest.mark.parametrize(("n", "d", "m"), SIZES)
@pytest.mark.parametrize("neurons", [BLOCK, 8, 1024])
@pytest.mark.parametrize("s", [1, 5, 12, 30, 100])
def test_sketches_cost_what_the_formulas_say(blocks, n, d, m, s, neurons):
    blocks(n, neurons)
    rows = cost.sketched_neurons(m, s)
    assert neuron_sketch(n, m, s, d) == (cost.neuron_sketch(n, m, s), cost.sketched_gram(n, d, rows))
    J = jacobian(n, d, m)
    drawing, S = counted(lambda: nl.sketch.KroneckerSRHT().sample(0, s, J.factor_shapes, like=LIKE))
    assert counted(S.rows, 0, random(n, m), random(n, d))[0] == cost.kronecker_sketch(n, d, m, s)
    assert drawing + counted(J.sketch_gram, S)[0] == cost.two_layer(n, d, m).kronecker(s)
    assert sum(neuron_sketch(n, m, s, d)) == cost.two_layer(n, d, m).neurons(s)


@pytest.mark.parametrize("n", [1, 2, 9, 20])
def test_factorisation_and_solves_cost_what_the_formulas_say(n):
    flops, R = counted(nl.linalg.damped_cholesky, wrap(np.eye(n) + 1), 0.1)
    assert flops == cost.factorisation(n)
    assert counted(nl.linalg.TriangularPreconditioner(R), random(n))[0] == cost.triangular_solves(n)


def test_aligned_sketches_cost_two_flops_per_mask_entry_and_two_per_sketched_one():
    assert cost.neuron_sketch(10, 640, 16, block=80) == 2 * 10 * 640 + 2 * 10 * 16


def test_a_wrong_constant_is_caught():
    """A negative control: one flop in a few thousand."""
    found = products(16, 3, 64)["gram_matvec"]
    assert found == cost.gram_matvec(16, 3, 64)
    assert found != cost.gram_matvec(16, 3, 64) + 1
    assert found != cost.gram_matvec(16, 3, 64) - 16 * 3  # one pass over X forgotten


def trilinear(f):
    """The exact coefficient of n d m, by mixed differences at one block of neurons."""
    corners = itertools.product((0, 1), repeat=3)
    total = sum((-1) ** (3 - i - j - k) * f(4 + i, 5 + j, 6 + k, block=100) for i, j, k in corners)
    return Fraction(total)


def test_leading_terms_are_those_of_the_specification():
    assert trilinear(cost.forward) == trilinear(cost.matvec) == 2
    assert trilinear(lambda n, d, m, block: cost.rmatvec(n, d, m)) == 2
    assert trilinear(cost.gram_matvec) == 4
    sizes = [8, 16, 24, 32, 40]
    assert leading_term(lambda m: cost.gram(7, 3, m, block=100), sizes) == (1, 2 * 7**2)
    assert leading_term(lambda n: cost.gram(n, 3, 9, block=100), sizes) == (2, 2 * (9 + 3) + 3)
    assert leading_term(cost.factorisation, sizes) == (3, Fraction(1, 3))
    assert leading_term(cost.triangular_solves, sizes) == (2, 2)
    assert cost.kronecker_sketch(7, 3, 256, 5) - cost.kronecker_sketch(7, 3, 16, 5) == 7 * (8 * (256 * 8 - 16 * 4) + 240) + 85
    assert leading_term(lambda s: cost.kronecker_sketch(7, 3, 9, s, oversample=4), sizes) == (1, 3 * 7 * 4)


@pytest.mark.parametrize("fresh", [True, False])
def test_the_step_is_linear_in_width_and_inputs_and_without_a_fresh_r_quadratic_in_samples(fresh):
    def flops(n=64, d=4, m=960):
        return sum(cost.near_linear_step(cost.two_layer(n, d, m, block=2**20), 4, fresh, sketch_rows=96).values())

    assert degree(lambda m: flops(m=m), [960, 1920, 2880, 3840]) == 1
    assert degree(lambda d: flops(d=d), [4, 8, 12, 16]) == 1
    assert degree(lambda n: flops(n=n), [16, 32, 48, 64, 80]) == (3 if fresh else 2)


def test_an_unknown_sketch_is_named():
    with pytest.raises(ValueError, match="sketch is 'gaussian'; expected 'neurons' or 'kronecker'"):
        cost.near_linear_step(cost.two_layer(8, 3, 32), 4, sketch="gaussian")


# --------------------------------------------------------------------------------------------------- closed forms of steps

MLPS = [(12, (3, 40, 1), "tanh"), (9, (4, 30, 20, 3), "tanh"), (8, (3, 50, 2), "softplus"), (6, (5, 40, 1), "sigmoid")]
STEPS = {
    "near-linear": nl.optim.NearLinearGaussNewton(damping=1.0),
    "near-linear, fresh R": nl.optim.NearLinearGaussNewton(damping=1.0, reuse=False),
    "near-linear, kronecker": nl.optim.NearLinearGaussNewton(damping=1.0, sketch=nl.sketch.KroneckerSRHT()),
    "near-linear, more rows": nl.optim.NearLinearGaussNewton(damping=1.0, sketch_size=3),
    "gram": nl.optim.GramGaussNewton(damping=1.0),
    "natural gradient": nl.optim.NaturalGradient(),
    "sgd": nl.optim.SGD(),
    "adam": nl.optim.Adam(),
    "adamw": nl.optim.AdamW(),
    "adagrad": nl.optim.AdaGrad(),
    "rmsprop": nl.optim.RMSprop(),
}


def predicted(opt, network, t, info, state):
    """The closed form of step ``t`` from ``state``, with the parts that ``info`` says it had."""
    if isinstance(opt, nl.optim.NearLinearGaussNewton):
        rows = None if opt.sketch_size is None else int(np.ceil(opt.sketch_size * network.block_rows))
        name = "kronecker" if isinstance(opt.sketch, nl.sketch.KroneckerSRHT) else "neurons"
        fresh = info.solve.refreshed
        replaced = fresh and state.preconditioner is not None
        return cost.near_linear_step(network, info.solve.iterations, fresh, t > 0, rows, name, replaced)
    starting = {"SGD": cost.sgd_step, "AdamW": cost.adamw_step, "AdaGrad": cost.adagrad_step, "RMSprop": cost.rmsprop_step}
    starting["Adam"] = cost.adam_step
    if type(opt).__name__ in starting:
        return starting[type(opt).__name__](network, first=t == 0)
    known = {
        "GramGaussNewton": cost.gram_gauss_newton_step,
        "NaturalGradient": cost.natural_gradient_step,
    }
    return known[type(opt).__name__](network)


def assert_steps_cost_what_the_formulas_say(opt, objective, params, batch, network, steps=3):
    state = opt.init(params, objective)
    for t in range(steps):
        flops, (params, after, info) = counted(opt.step, params, state, objective, batch, t)
        assert getattr(info, "attempts", 1) == 1
        parts = predicted(opt, network, t, info, state)
        state = after
        assert sum(parts.values()) == flops, (t, parts)
        assert min(parts.values()) >= 0


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("n", "d", "m", "outputs"), [(16, 3, 512, 1), (9, 4, 333, 1), (9, 4, 333, 3)])
def test_two_layer_steps_cost_what_the_formulas_say(blocks, name, activation, n, d, m, outputs):
    blocks(n)
    network = cost.two_layer(n, d, m, BLOCK, activation, outputs)
    assert_steps_cost_what_the_formulas_say(STEPS[name], *two_layer(n, d, m, activation, outputs), network)


@pytest.mark.parametrize("fresh", [True, False])
def test_a_step_of_ten_outputs_costs_what_one_does_at_equal_width(fresh):
    """Within 1 % at the sizes of the digits, as the walks go over the same neurons: what is left are solves of ten columns."""
    one, ten = (sum(cost.near_linear_step(cost.two_layer(1200, 64, 32768, outputs=c), 3, fresh, True).values()) for c in (1, 10))
    assert 1 < ten / one < 1.01


def test_ten_outputs_that_shared_their_neurons_would_cost_ten_times_that():
    """A negative control: ten networks of the whole width."""
    one, ten = (cost.gram_matvec(1200, 64, 32768 * c, outputs=c) for c in (1, 10))
    assert ten / one > 9


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(("n", "sizes", "activation"), MLPS)
def test_mlp_steps_cost_what_the_formulas_say(name, n, sizes, activation):
    network = nl.nn.MLP(sizes, activation)
    batch = random(n, sizes[0]), random(n, sizes[-1])
    objective = nl.nn.Objective(network, nl.nn.SquaredLoss())
    closed = cost.mlp(n, sizes, activation)
    assert_steps_cost_what_the_formulas_say(STEPS[name], objective, network.init(0, LIKE), batch, closed)


@pytest.mark.parametrize(("n", "sizes", "activation"), MLPS)
def test_mlp_products_cost_what_the_formulas_say(n, sizes, activation):
    network, x, dy = nl.nn.MLP(sizes, activation), random(n, sizes[0]), random(n, sizes[-1])
    closed, params, u = cost.mlp(n, sizes, activation), nl.nn.MLP(sizes).init(0, LIKE), random(n * sizes[-1])
    forward, (_, tape) = counted(network.forward, params, x)
    making, J = counted(network.jacobian, params, tape, x)
    assert (forward, making) == (closed.forward, closed.jacobian)
    assert counted(network.grads, params, tape, dy)[0] == closed.gradient - closed.slopes
    assert counted(network.grads, params, network.forward(params, x)[1], dy)[0] == closed.gradient
    assert counted(J.matvec, params)[0] == closed.matvec
    assert counted(J.rmatvec, u)[0] == closed.rmatvec
    assert counted(J.gram_matvec, u)[0] == closed.gram_matvec
    assert counted(J.gram)[0] == closed.gram


# ----------------------------------------------------------------------------------------------------------------- memory


def peak(opt, batch, W):
    """Peak bytes of three steps, those of data and parameters included."""
    outputs = 1 if batch[1].ndim == 1 else batch[1].shape[1]
    objective = nl.nn.Objective(nl.nn.TwoLayer(W.shape[1], W.shape[0], outputs=outputs), nl.nn.SquaredLoss())

    def run():
        x, y = map(np.array, batch)
        params = (np.array(W),)
        state = opt.init(params, objective)
        for t in range(3):
            params, state, _ = opt.step(params, state, objective, (x, y), t)

    run()
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("n", "d", "m"),
    [(64, 16, 4096), (256, 8, 4096), pytest.param(128, 32, 16384, marks=pytest.mark.nightly), (384, 8, 1024), (16, 64, 4096)],
)
@pytest.mark.parametrize("name", ["near-linear", "gram", "sgd", "adam", "adamw", "adagrad", "rmsprop"])
def test_memory_is_near_the_formulas(name, n, d, m):
    assert_memory_is_near_the_formulas(name, n, d, m)


@pytest.mark.parametrize(("n", "d", "m"), [(128, 8, 8192), (384, 8, 1024), (64, 16, 4096)])
@pytest.mark.parametrize("name", ["near-linear", "gram", "adam"])
def test_memory_of_several_outputs_is_near_the_formulas(name, n, d, m):
    assert_memory_is_near_the_formulas(name, n, d, m, outputs=4)


def assert_memory_is_near_the_formulas(name, n, d, m, outputs=1):
    opt = {**STEPS, "near-linear": nl.optim.NearLinearGaussNewton(preconditioner="sketch")}[name]
    (x, y), W = nl.data.sphere(n=n, d=d, seed=1), np.random.default_rng(0).standard_normal((m, d))
    batch, sizes = (x, y if outputs == 1 else y[:, None] * np.arange(1, outputs + 1)), {"outputs": outputs}
    with threadpoolctl.threadpool_limits(1):
        measured = peak(opt, batch, W)
    if name == "near-linear":
        forms = [cost.near_linear_memory(n, d, m, fresh=f, recalled=not f, **sizes) for f in (True, False)]
        expected = max(sum(parts.values()) for parts in forms)
    elif name == "gram":
        expected = sum(cost.gram_memory(n, d, m, **sizes).values())
    else:
        expected = sum(cost.first_order_memory(n, d, m, optimizer=name, **sizes).values())
    assert 0.9 * expected <= measured <= 1.1 * expected
