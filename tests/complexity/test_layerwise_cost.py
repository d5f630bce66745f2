"""Closed forms of layer-wise steps, of their parts for dense layers and convolutions, and of their state, against the count."""

from fractions import Fraction

import numpy as np
import pytest

import nearlin as nl
from nearlin import _array
from nearlin.complexity import cost, count, counting_like, degree, leading_term, wrap
from nearlin.optim import kbfgs

T1, T2, STEPS = 2, 4, 6  # step 1 has nothing due, step 2 statistics, step 4 inverses too
EVERY = {"statistics_every": T1, "inverse_every": T2, "early": False}
METHODS = {
    "mbf out": ("mini-block-fisher", nl.optim.MiniBlockFisher(**EVERY), {}),
    "mbf in": ("mini-block-fisher", nl.optim.MiniBlockFisher(layout="in", **EVERY), {"layout": "in"}),
    "mbf chunk": ("mini-block-fisher", nl.optim.MiniBlockFisher(layout="chunk", **EVERY), {"layout": "chunk"}),
    "mbf per neuron": ("mini-block-fisher", nl.optim.MiniBlockFisher(average=False, **EVERY), {"average": False}),
    "mbf sample": ("mini-block-fisher", nl.optim.MiniBlockFisher(statistic="sample", **EVERY), {"statistic": "sample"}),
    "mbf sample per input": (
        "mini-block-fisher",
        nl.optim.MiniBlockFisher(statistic="sample", average=False, layout="in", **EVERY),
        {"statistic": "sample", "average": False, "layout": "in"},
    ),
    "kfac": ("kfac", nl.optim.KFAC(**EVERY), {}),
    "kfac without pi": ("kfac", nl.optim.KFAC(pi=False, **EVERY), {"pi": False}),
    "kfac exact": ("kfac", nl.optim.KFAC(inverse="exact", **EVERY), {"inverse": "exact"}),
    "kfac rescaled": ("kfac", nl.optim.KFAC(inverse="rescaled", **EVERY), {"inverse": "rescaled"}),
    "shampoo": ("shampoo", nl.optim.Shampoo(**EVERY), {}),
    "shampoo matrix": ("shampoo", nl.optim.Shampoo(reshape="matrix", **EVERY), {"reshape": "matrix"}),
    "tnt": ("tnt", nl.optim.TNT(**EVERY), {}),
    "kbfgs": ("kbfgs", nl.optim.KBFGS(lr=1e-3, statistics_every=T1), {}),
    "kbfgs-l": ("kbfgs-l", nl.optim.KBFGSL(lr=1e-3, statistics_every=T1), {}),
}
MLPS = [(12, (3, 20, 2)), (7, (5, 18, 4, 3)), (5, (70, 3, 66))]  # swept, stacked and single inverses


def random(*shape):
    return wrap(np.random.default_rng(len(shape)).uniform(0.1, 1.0, shape))


@pytest.fixture
def dampings(monkeypatch):
    """The words of all double dampings of quasi-Newton pairs."""
    words = []

    def recorded(*args, _original=kbfgs.double_damping):
        pair = _original(*args)
        words.append(pair.word)
        return pair

    monkeypatch.setattr(kbfgs, "double_damping", recorded)
    return words


def flops_of(word):
    """How many dampings a word stands for."""
    return {"kept": 0, "s damped": 1, "y damped": 1, "s and y damped": 2}[word]


def run(opt, objective, params, batch, steps=STEPS):
    """Flops of each step, the states after them, and what was reported."""
    state, flops, states = opt.init(params, objective), [], []
    for t in range(steps):
        with count() as tally:
            params, state, info = opt.step(params, state, objective, batch, t)
        assert info.accepted, info
        assert not getattr(info, "kept", ""), info
        flops.append(tally.total)
        states.append(state)
    return flops, states


def perceptron(n, sizes):
    network = nl.nn.MLP(sizes, "tanh")
    return (
        nl.nn.Objective(network, nl.nn.SquaredLoss()),
        network.init(0, counting_like()),
        (random(n, sizes[0]), random(n, sizes[-1])),
    )


def convolution(n, c, f, kernel, side, bias=True):
    layers = (nl.nn.Conv2d(c, f, kernel, pad=kernel // 2, bias=bias), nl.nn.GlobalAvgPool())
    network = nl.nn.Sequential(layers, shape=(c, side, side))
    objective = nl.nn.Objective(network, nl.nn.SquaredLoss())
    return objective, network.init(0, counting_like()), (random(n, c, side, side), random(n, f))


# ----------------------------------------------------------------------------------------------------------- whole steps


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "sizes"), MLPS)
def test_steps_of_perceptrons_cost_what_the_formulas_say(method, n, sizes, dampings):
    name, opt, options = METHODS[method]
    objective, params, batch = perceptron(n, sizes)
    flops, states = run(opt, objective, params, batch)
    net, layers = cost.mlp(n, sizes), cost.dense_layers(sizes)
    assert layers == objective.layers
    for t in range(1, STEPS):
        due = {"statistics_due": t % T1 == 0, "inverse_due": t % T2 == 0}
        if name == "kbfgs-l":
            options = {"pairs": t}
            assert all(factor.Hg.S.shape[0] == t for factor in states[t - 1].layers)
        parts = cost.layerwise_step(name, net, layers, **due, **options)
        words = dampings[t * len(layers) : (t + 1) * len(layers)]
        extra = sum(3 * flops_of(word) * spec.out for word, spec in zip(words, layers, strict=bool(words)))
        assert sum(parts.values()) + extra == flops[t], (t, sum(parts.values()) + extra - flops[t], parts)
        assert min(parts.values()) >= 0


# ---------------------------------------------------------------------------------------------------------- convolutions

CONVS = [(6, 3, 4, 3, 4), (5, 2, 3, 5, 3), (4, 1, 2, 1, 2)]


def conv_parts(method, sizes, bias):
    """Statistics, inverse and direction of one convolution: counted, by differences of steps, and by the formula."""
    name, opt, options = METHODS[method]
    n, _, f, _, side = sizes
    objective, params, batch = convolution(*sizes, bias)
    flops, _ = run(opt, objective, params, batch)
    sgd = run(nl.optim.SGD(lr=1e-3), objective, params, batch, 2)[0][1]
    (spec,) = objective.layers
    part = cost.LAYERS[name](spec, n, side**2, **options)
    labels = 0
    if options.get("statistic") == "sample":
        labels = f * spec.shape[1] - n * f  # the gradient is scaled in place of the output gradients
    elif name in ("kfac", "tnt"):
        labels = (3 if name == "kfac" else 4) * n * f + backward(objective, params, batch, grads=name == "tnt")
    return (flops[2] - flops[1] - labels, flops[4] - flops[2], flops[1] - sgd), (part.statistics, part.inverse, part.direction)


def backward(objective, params, batch, grads):
    """Flops of a second backward pass, which finds the slopes made, with or without the gradients of parameters."""
    tape = objective.network.forward(params, batch[0])[1]
    objective.network.traces(params, tape, batch[1])
    with count() as tally:
        (objective.network.grads if grads else objective.network.traces)(params, tape, batch[1])
    return tally.total


FIRST_LEVEL = [method for method in METHODS if not method.startswith("kbfgs")]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", FIRST_LEVEL)
@pytest.mark.parametrize("sizes", CONVS)
def test_parts_of_convolutions_cost_what_the_formulas_say(method, sizes, bias):
    counted, expected = conv_parts(method, sizes, bias)
    assert counted == expected


@pytest.mark.parametrize("method", ["mbf out", "mbf sample", "kfac", "kfac exact"])
def test_convolutions_in_several_blocks_of_samples(method, monkeypatch):
    monkeypatch.setattr(_array.blocks, "CPU_BLOCK_BYTES", 2 * 8 * 3 * 9 * 16)  # two samples' patches
    counted, expected = conv_parts(method, (7, 3, 4, 3, 4), True)
    assert counted == expected


@pytest.mark.parametrize("method", ["kbfgs", "kbfgs-l"])
@pytest.mark.parametrize("sizes", CONVS)
def test_quasi_newton_statistics_of_convolutions(method, sizes, dampings):
    name, opt, _ = METHODS[method]
    objective, params, batch = convolution(*sizes)
    flops, _ = run(opt, objective, params, batch, 3)
    (spec,) = objective.layers
    layer = [
        cost.LAYERS[name](spec, sizes[0], sizes[-1] ** 2, flops_of(dampings[t]), *((t,) * (name == "kbfgs-l"))) for t in (1, 2)
    ]
    assert flops[2] - flops[1] == layer[1].statistics + sum((layer[1][k] - layer[0][k]) for k in (2, 3))


# ------------------------------------------------------------------------------------------------------------------ state


def floats(state):
    """Numbers in the arrays of a nested state."""
    if isinstance(state, tuple):
        return sum(map(floats, state))
    return state.size if hasattr(state, "size") else 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_the_state_is_as_large_as_the_formulas_say(method, kind):
    name, opt, options = METHODS[method]
    objective, params, batch = perceptron(7, (5, 18, 4)) if kind == "dense" else convolution(*CONVS[0])
    _, states = run(opt, objective, params, batch, 3)
    if name == "kbfgs-l":
        options = {"pairs": 3}
    assert floats(states[-1]) == sum(cost.LAYERS[name](spec, 7, **options).state for spec in objective.layers)


@pytest.mark.parametrize("method", FIRST_LEVEL)
def test_normalisation_layers_cost_and_keep_what_the_formulas_say(method):
    name, opt, options = METHODS[method]
    conv = nl.nn.Conv2d(2, 3, 3, pad=1, bias=False)
    network = nl.nn.Sequential((conv, nl.nn.BatchNorm(3), nl.nn.GlobalAvgPool()), shape=(2, 4, 4))
    objective, batch = nl.nn.Objective(network, nl.nn.SquaredLoss()), (random(6, 2, 4, 4), random(6, 3))
    params = network.init(0, counting_like())
    flops, states = run(opt, objective, params, batch)
    sgd = run(nl.optim.SGD(lr=1e-3), objective, params, batch, 2)[0][1]
    parts = [cost.LAYERS[name](spec, 6, 16, **options) for spec in objective.layers]
    assert floats(states[-1]) == sum(part.state for part in parts)
    assert flops[1] - sgd == sum(part.direction for part in parts)
    assert flops[4] - flops[2] == sum(part.inverse for part in parts)


@pytest.mark.parametrize("method", FIRST_LEVEL)
def test_convolutions_by_groups_with_rectangular_kernels_cost_what_the_formulas_say(method):
    name, opt, options = METHODS[method]
    conv = nl.nn.Conv2d(4, 6, (3, 2), (1, 2), (0, 1), dilation=(2, 1), groups=2, bias=False)
    network = nl.nn.Sequential((conv, nl.nn.GlobalAvgPool()), shape=(4, 6, 4))
    objective, batch = nl.nn.Objective(network, nl.nn.SquaredLoss()), (random(6, 4, 6, 4), random(6, 6))
    flops, states = run(opt, objective, network.init(0, counting_like()), batch)
    sgd = run(nl.optim.SGD(lr=1e-3), objective, network.init(0, counting_like()), batch, 2)[0][1]
    part = cost.LAYERS[name](objective.layers[0], 6, 2 * 3, **options)
    assert (floats(states[-1]), flops[1] - sgd, flops[4] - flops[2]) == (part.state, part.direction, part.inverse)


# ------------------------------------------------------------------------------------------------- degrees, means, controls


def test_leading_terms_of_dense_layers():
    layer, sizes = nl.nn.LayerSpec, range(100, 160, 10)

    def leading(name, part, **fixed):
        (variable,) = {"o", "d", "n"} - set(fixed)

        def flops(size):
            s = {**fixed, variable: size}
            return getattr(cost.LAYERS[name](layer("dense", s["o"], s["d"], bias=False), s["n"]), part)

        return leading_term(flops, sizes)

    assert leading("mini-block-fisher", "statistics", o=7, n=9) == (2, 2 * 7 + 3)
    assert leading("mini-block-fisher", "statistics", o=7, d=9) == (0, 2 * 7 * 81 + 3 * 81 + 2 * 63 - 1)  # no n in it
    assert leading("mini-block-fisher", "inverse", o=7, n=9) == (3, 1)
    assert leading("kfac", "statistics", o=7, d=9) == (1, 2 * (49 + 81))
    assert leading("kfac", "inverse", d=7, n=9) == (3, 1)
    assert leading("shampoo", "inverse", o=7, n=9) == (3, 11)
    assert leading("tnt", "inverse", o=7, n=9) == (3, 1)
    assert leading("kbfgs", "updates", o=7, n=9) == (2, 13)
    assert leading("kbfgs-l", "direction", o=7, n=9) == (2, 2 * 7)


def test_kernels_of_mini_block_fisher_do_not_see_samples_or_positions():
    spec = nl.nn.LayerSpec("conv", 8, 4, 3)
    assert cost.mini_block_fisher_layer(spec, 5, 7) == cost.mini_block_fisher_layer(spec, 500, 700)
    sampled = [cost.mini_block_fisher_layer(spec, n, 7, statistic="sample").statistics for n in (5, 10)]
    assert sampled[1] > sampled[0]


def test_single_inverses_are_cubic_and_a_stack_costs_as_many_blocks():
    assert leading_term(lambda k: cost.block_inverses(1, k), range(65, 125, 10)) == (3, 1)
    assert leading_term(lambda k: cost.block_inverses(1, k), range(22, 64, 6)) == (3, Fraction(7, 3))
    assert degree(lambda blocks: cost.block_inverses(blocks, 9), [1, 2, 3]) == 1


def test_amortised_steps_are_means_over_a_period():
    net, layers = cost.mlp(8, (5, 30, 3)), cost.dense_layers((5, 30, 3))
    due = [{"statistics_due": t % 2 == 0, "inverse_due": t % 6 == 0} for t in range(6)]
    total = sum(sum(cost.layerwise_step("tnt", net, layers, **one).values()) for one in due)
    assert cost.amortised_step("tnt", net, layers, 2, 6) == Fraction(total, 6)


def test_an_autoencoder_has_a_linear_code():
    sizes, n = (9, 6, 3), 8
    network, x = nl.nn.autoencoder(sizes), random(n, 9)
    objective = nl.nn.Objective(network, nl.nn.SquaredLoss())
    flops, _ = run(nl.optim.SGD(lr=1e-3), objective, network.init(0, counting_like()), (x, x), 2)
    assert sum(cost.sgd_step(cost.autoencoder(n, sizes)).values()) == flops[1]
    assert sum(cost.sgd_step(cost.mlp(n, (9, 6, 3, 6, 9), "relu")).values()) != flops[1]


def test_a_wrong_layout_is_caught():
    """A negative control: the count of one layout against the formula of another."""
    objective, params, batch = perceptron(12, (3, 20, 2))
    flops, _ = run(METHODS["mbf out"][1], objective, params, batch)
    net, layers = cost.mlp(12, (3, 20, 2)), cost.dense_layers((3, 20, 2))
    right, wrong = (cost.layerwise_step("mini-block-fisher", net, layers, layout=layout) for layout in ("out", "in"))
    assert sum(right.values()) == flops[1] != sum(wrong.values())
