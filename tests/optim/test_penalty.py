"""ω/2 ||W||² in the objective: every method goes to the penalised optimum, written out here, or refuses in a sentence."""

import dataclasses

import numpy as np
import pytest

import nearlin as nl

L2 = 0.3
o = nl.optim
METHODS = {  # settings by which a method gets to the optimum of a small convex problem, and how many steps it may take
    "GaussNewton": [(o.GaussNewton(plan=plan), 60) for plan in ("auto", "exact", "per-class", "cg", "kfac", "parameter-cg")],
    "SGD": [(o.SGD(lr=0.3, momentum=0.5), 800)],
    "Adam": [(o.Adam(lr=nl.steps.StepDecay(0.1, 0.7, 40)), 1200)],
    "AdamW": [(o.AdamW(lr=nl.steps.StepDecay(0.1, 0.7, 40), weight_decay=0.0), 1200)],
    "AdaGrad": [(o.AdaGrad(lr=0.3), 800)],
    "RMSprop": [(o.RMSprop(lr=nl.steps.StepDecay(0.03, 0.7, 40)), 1200)],
    "Muon": [(o.Muon(lr=nl.steps.StepDecay(0.1, 0.7, 20), momentum=0.5), 800)],
    "Shampoo": [(o.Shampoo(lr=nl.steps.StepDecay(0.1, 0.8, 50), damping=1e-2), 1000)],
    "SOAP": [(o.SOAP(lr=nl.steps.StepDecay(0.1, 0.7, 40)), 1200)],
    "TNT": [(o.TNT(lr=0.2, damping=0.5), 500)],
    "KFAC": [(o.KFAC(lr=0.05, fisher=fisher), 800) for fisher in ("drawn", "type-2", "empirical")],
    "KBFGS": [(o.KBFGS(lr=0.4), 800)],
    "KBFGSL": [(o.KBFGSL(lr=0.4, memory=5), 800)],
    "MiniBlockFisher": [(o.MiniBlockFisher(lr=0.1, damping=0.5, statistic=kind), 500) for kind in ("batch", "sample")],
    "Ginger": [
        (o.Ginger(lr=0.3, damping=1.0, clip=None, momentum=0.5, curvature=kind), 500) for kind in ("fisher", "empirical_fisher")
    ],
    "QNG": [(o.QNG(lr=0.1, momentum=0.5, rank=4, decay=0.99), 500)],
    "DSGD": [(o.DSGD(p=2.0), 3000)],
}
REFUSING = {
    "NearLinearGaussNewton": o.NearLinearGaussNewton(),
    "GramGaussNewton": o.GramGaussNewton(),
    "NaturalGradient": o.NaturalGradient(),
    "DSGD": o.DSGD(),
}


def problem(l2=L2, seed=0):
    """Softmax regression on three classes: with ω > 0 strictly convex in the weights, and in the biases but for a constant."""
    draw = np.random.default_rng(seed)
    x, labels = draw.standard_normal((20, 4)), draw.integers(0, 3, 20)
    net = nl.nn.MLP((4, 3))
    return nl.nn.Objective(net, nl.nn.SoftmaxCrossEntropy(), l2=l2), net.init(1, x), (x, labels)


def gradient(W, batch, l2=L2):
    """Of the mean cross-entropy and l2/2 times the squared weights; biases, the last column, are not in it."""
    x, labels = batch
    a = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    p = np.exp(a @ W.T)
    p /= p.sum(1, keepdims=True)
    return (p - np.eye(3)[labels]).T @ a / len(x) + l2 * np.concatenate([W[:, :-1], np.zeros((3, 1))], axis=1)


CASES = [pytest.param(*case, id=f"{name}-{i}") for name, cases in METHODS.items() for i, case in enumerate(cases)]


@pytest.mark.parametrize(("opt", "steps"), CASES)
def test_every_method_goes_to_the_optimum_with_the_penalty(opt, steps):
    objective, params, batch = problem()
    state, start = opt.init(params, objective), np.linalg.norm(gradient(params[0], batch))
    for t in range(steps):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        if np.linalg.norm(gradient(params[0], batch)) < 9e-4 * start or info.reason.startswith("stalled"):
            break
    (W,) = params
    assert np.linalg.norm(gradient(W, batch)) < 1e-3 * start
    assert np.linalg.norm(gradient(W, batch, 0.0)) > 0.1 * start  # far from the optimum without it
    wrong = gradient(W, batch) + L2 * np.concatenate([np.zeros((3, 4)), W[:, -1:]], axis=1)
    assert np.linalg.norm(wrong) > 0.01 * start  # and from that with the biases in it


def test_every_method_is_among_them():
    assert set(METHODS) | set(REFUSING) == {name for name in o.__all__ if hasattr(getattr(o, name), "step")}


@pytest.mark.parametrize("name", REFUSING)
def test_a_method_without_it_says_so(name):
    x, y = nl.data.sphere(n=8, d=4, seed=0)
    net = nl.nn.MLP((4, 3, 1), "tanh")
    objective, opt = nl.nn.Objective(net, nl.nn.SquaredLoss(), l2=0.1), REFUSING[name]
    params = net.init(0, x)
    with pytest.raises(
        ValueError, match=rf"l2 is 0\.1, and {name}.* takes no penalty in the loss; expected l2=0, or GaussNewton"
    ):
        opt.step(params, opt.init(params, objective), objective, (x, y), 0)


# ---------------------------------------------------------------------------------------------------------------- the objective


def normalised(l2):
    """A convolution, a normalisation, a layer without bias and one with it."""
    tanh = nl.nn.Elementwise(nl.nn.activation("tanh"))
    modules = (nl.nn.Conv2d(1, 2, 2), nl.nn.BatchNorm(2), tanh, nl.nn.Flatten(), nl.nn.Dense(8, 3, bias=False), nl.nn.Dense(3, 2))
    net, draw = nl.nn.Sequential(modules, shape=(1, 3, 3)), np.random.default_rng(0)
    x, params = draw.standard_normal((5, 1, 3, 3)), tuple(draw.standard_normal(s.shape) for s in net.layers)
    return nl.nn.Objective(net, nl.nn.SquaredLoss(), l2=l2), params, (x, draw.standard_normal((5, 2)))


def test_the_penalty_is_half_the_squares_of_weights_alone():
    objective, params, batch = normalised(0.7)
    point = objective.at(params, batch)
    kernels, _, plain, last = params
    penalty = 0.35 * sum(np.sum(W**2) for W in (kernels[:, :4], plain, last[:, :3]))
    plain_loss = float(dataclasses.replace(objective, l2=0.0).at(params, batch).loss)
    assert float(point.data_loss) == plain_loss
    assert float(point.loss) == pytest.approx(plain_loss + penalty, rel=1e-14)
    evaluated = objective.observe(point.statistics).evaluation().at(params, batch)
    assert float(evaluated.loss - evaluated.data_loss) == pytest.approx(penalty, rel=1e-12)


def test_the_gradient_is_that_of_the_loss_and_of_other_targets_has_no_penalty():
    objective, params, batch = normalised(0.7)
    point, h = objective.at(params, batch), 1e-6
    for k, G in enumerate(point.grads()):
        for entry in np.ndindex(G.shape):
            shifted = [[W.copy() for W in params] for _ in range(2)]
            shifted[0][k][entry] += h
            shifted[1][k][entry] -= h
            up, down = (float(objective.at(tuple(v), batch).loss) for v in shifted)
            assert G[entry] == pytest.approx((up - down) / (2 * h), abs=1e-7)
    without = dataclasses.replace(objective, l2=0.0).at(params, batch).grads()
    for G, H, F in zip(point.grads(batch[1]), point.data_grads(), without, strict=True):
        np.testing.assert_array_equal(G, F)
        np.testing.assert_array_equal(H, F)


@pytest.mark.parametrize("value", [-1.0, np.inf, "a"])
def test_a_penalty_that_is_none_is_named(value):
    with pytest.raises(ValueError, match=r"l2 is .*; expected a finite number, at least 0"):
        nl.nn.Objective(nl.nn.MLP((2, 1)), nl.nn.SquaredLoss(), l2=value)


@pytest.mark.parametrize(
    "opt",
    [o.KFAC(fisher="empirical"), o.KBFGS(), o.MiniBlockFisher(), o.MiniBlockFisher(statistic="sample"), o.TNT()]
    + [o.Ginger(curvature=kind) for kind in ("fisher", "empirical_fisher")],
    ids=lambda opt: type(opt).__name__,
)
def test_statistics_of_the_data_do_not_see_it(opt):
    """After one step the curvature that is kept is that without a penalty; the velocity is not."""
    objective, params, batch = problem()
    kept = []
    for one in (objective, dataclasses.replace(objective, l2=0.0)):
        _, state, _ = opt.step(params, opt.init(params, one), one, batch, key=0)
        kept.append(state)

    def curvature(state):
        if isinstance(opt, o.Ginger):
            return [state.blocks[0].curvature.sigma]
        layer = state.layers[0]
        return list(layer.grams) if isinstance(opt, o.TNT) else [getattr(layer, "F", None), getattr(layer, "A", None)]

    for a, b in zip(*map(curvature, kept), strict=True):
        np.testing.assert_array_equal(a, b)
    first = [state.blocks[0].m if isinstance(opt, o.Ginger) else state.velocity[0] for state in kept]
    assert np.max(np.abs(first[0] - first[1])) > 1e-3
