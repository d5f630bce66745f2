"""First-order methods: the numbers of other codes, closed forms on given gradients, weight decay, schedules, and costs."""

import dataclasses
import math
import pathlib

import numpy as np
import pytest

import nearlin as nl
from nearlin.nn import LayerSpec
from nearlin.steps import StepDecay

ORACLES = pathlib.Path(__file__).parents[1] / "oracles"
METHODS = {
    "sgd": nl.optim.SGD(),
    "sgd-average": nl.optim.SGD(form="average"),
    "adam": nl.optim.Adam(),
    "adam-of-the-mean": nl.optim.Adam(second_moment_of="mean"),
    "adamw": nl.optim.AdamW(),
    "adagrad": nl.optim.AdaGrad(),
    "rmsprop": nl.optim.RMSprop(),
    "sgd-nesterov": nl.optim.SGD(nesterov=True),
    "amsgrad": nl.optim.Adam(amsgrad=True),
    "rmsprop-centred": nl.optim.RMSprop(centered=True, momentum=0.5),
}
LAYERS = (LayerSpec("dense", 4, 3), LayerSpec("norm", 5, 1), LayerSpec("dense", 2, 4, bias=False))


@pytest.fixture(params=METHODS)
def opt(request):
    return METHODS[request.param]


class GivenGradients:
    """An objective whose batch is the gradient."""

    layers = LAYERS

    def at(self, params, batch):
        return GivenPoint(batch)


@dataclasses.dataclass
class GivenPoint:
    gradient: tuple
    loss: float = 1.0

    def grads(self):
        return self.gradient


@pytest.fixture
def params(rng):
    return tuple(rng.standard_normal(spec.shape) for spec in LAYERS)


@pytest.fixture
def gradient(rng):
    return tuple(rng.standard_normal(spec.shape) for spec in LAYERS)


def run(opt, params, batches, objective=None):
    """Parameters after every step."""
    objective = objective or GivenGradients()
    state, path = opt.init(params, objective), []
    for batch in batches:
        params, state, info = opt.step(params, state, objective, batch)
        assert info.accepted
        path.append(params)
    return path


# ----------------------------------------------------------------------------------------------- the numbers of other codes


class Regularized:
    """The objective plus tau / 2 ||θ||²."""

    def __init__(self, objective, tau):
        self.objective, self.layers, self.tau = objective, objective.layers, tau

    def at(self, params, batch):
        point = self.objective.at(params, batch)
        return GivenPoint(nl.linalg.axpy(self.tau, params, point.grads()), point.loss)


def stored(oracle, when):
    return tuple(np.concatenate([oracle[f"W{l}_{when}"], oracle[f"b{l}_{when}"][:, None]], axis=1) for l in range(4))


def replay(be, opt, oracle, regularized=True):
    """Largest error of the losses and of the parameters over the stored steps, in units of 1e-10 + 1e-8 |stored|."""
    x = oracle["X"]
    objective = nl.nn.Objective(nl.nn.autoencoder((6, 5, 3)), nl.nn.SigmoidCrossEntropy())
    objective = Regularized(objective, float(oracle["hp_tau"]) if regularized else 0.0)
    params = tuple(map(be.array, stored(oracle, "init")))
    state, worst = opt.init(params, objective), 0.0
    for i, rows in enumerate(oracle["batch_index"]):
        params, state, info = opt.step(params, state, objective, (be.array(x[rows]), be.array(x[rows])))
        pairs = [(np.asarray(info.loss), oracle[f"loss_step{i}"])]
        pairs += zip(map(be.numpy, params), stored(oracle, f"step{i}"), strict=True)
        worst = max(worst, *(np.max(np.abs(found - want) / (1e-10 + 1e-8 * np.abs(want))) for found, want in pairs))
    return worst


def theirs(oracle, **options):
    """The method and the hyper-parameters that made the stored numbers."""
    lr, momentum = float(oracle["hp_lr"]), float(oracle["hp_momentum"])
    if "hp_eps" not in oracle:
        return nl.optim.SGD(**{"lr": lr, "momentum": momentum, "form": "average", **options})
    known = {"lr": lr, "betas": (momentum, 0.9), "epsilon_hat": float(oracle["hp_eps"]), "second_moment_of": "mean"}
    return nl.optim.Adam(**{**known, **options})


@pytest.fixture(params=["kbfgsrepo_sgdm", "kbfgsrepo_adam"])
def oracle(request):
    with np.load(ORACLES / f"{request.param}.npz") as archive:
        return dict(archive)


def test_the_numbers_of_renyiryry_kbfgs_neurips2020_public(be, oracle):
    bound = 1.0 if be.eps < 1e-10 else be.eps / 1e-10
    assert replay(be, theirs(oracle), oracle) < bound


def test_the_other_forms_miss_those_numbers(numpy_backend, oracle):
    """A negative control: the usual form, and the gradient without its L2 term."""
    usual = {"second_moment_of": "gradient"} if "hp_eps" in oracle else {"form": "sum"}
    assert replay(numpy_backend, theirs(oracle, **usual), oracle) > 1e4
    assert replay(numpy_backend, theirs(oracle), oracle, regularized=False) > 10


TORCH = {
    "sgd": ("SGD", {"lr": 0.05, "momentum": 0.9}, nl.optim.SGD(lr=0.05)),
    "adam": ("Adam", {"lr": 0.01}, nl.optim.Adam(lr=0.01)),
    "adamw": ("AdamW", {"lr": 0.01, "weight_decay": 0.3}, nl.optim.AdamW(lr=0.01, weight_decay=0.3)),
    "adam with decay": ("AdamW", {"lr": 0.01, "weight_decay": 0.3}, nl.optim.Adam(lr=0.01, weight_decay=0.3)),
    "adagrad": ("Adagrad", {"lr": 0.05}, nl.optim.AdaGrad(lr=0.05)),
    "rmsprop": ("RMSprop", {"lr": 0.01}, nl.optim.RMSprop(lr=0.01)),
}


@pytest.mark.parametrize("scheduled", [False, True], ids=["constant", "step-decay"])
@pytest.mark.parametrize("name", TORCH)
def test_ten_steps_equal_those_of_pytorch(rng, name, scheduled):
    torch = pytest.importorskip("torch")
    method, options, ours = TORCH[name]
    x, y = (torch.asarray(rng.standard_normal(shape)) for shape in ((20, 5), (20, 2)))
    net = nl.nn.MLP((5, 7, 2), "tanh")
    start = net.init(0, x)
    W, V = (w.clone().requires_grad_(True) for w in start)
    optimizer = getattr(torch.optim, method)([W, V], **options)
    decreasing = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5 if scheduled else 1.0)
    for _ in range(10):
        optimizer.zero_grad()
        outputs = torch.tanh(x @ W[:, :5].T + W[:, 5]) @ V[:, :7].T + V[:, 7]
        (0.5 * ((outputs - y) ** 2).sum(axis=1).mean()).backward()
        optimizer.step()
        decreasing.step()
    if scheduled:
        ours = dataclasses.replace(ours, lr=StepDecay(options["lr"], 0.5, 3))
    *_, found = run(ours, start, [(x, y)] * 10, nl.nn.Objective(net, nl.nn.SquaredLoss()))
    for a, b in zip(found, (W, V), strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), atol=1e-12, rtol=0)


# ------------------------------------------------------------------------------------------ closed forms on a constant gradient

TINY = 1e-30  # an epsilon_hat without effect


def lengths(name, steps):
    """Steps along the sign of a constant gradient, for lr = 1."""
    t = np.arange(1, steps + 1)
    return {"adagrad": t**-0.5, "rmsprop": (1 - 0.99**t) ** -0.5}.get(name, np.ones(steps))


@pytest.mark.parametrize("name", ["adagrad", "rmsprop", "adam", "adam-of-the-mean"])
def test_steps_along_a_constant_gradient(be, params, gradient, name):
    """Bias correction makes every step of Adam lr; AdaGrad's fall like 1/√t, RMSprop's from 10 lr to lr."""
    opt = dataclasses.replace(METHODS[name], lr=0.1, epsilon_hat=TINY)
    path = run(opt, tuple(map(be.array, params)), [tuple(map(be.array, gradient))] * 5)
    for t, total in enumerate(np.cumsum(lengths(name, 5))):
        for W, g, found in zip(params, gradient, path[t], strict=True):
            np.testing.assert_allclose(be.numpy(found), W - 0.1 * total * np.sign(g), atol=be.tol(1e-13))


def test_momentum_of_rmsprop_adds_up_scaled_gradients(be, params, rng):
    batches = [tuple(rng.standard_normal(spec.shape) for spec in LAYERS) for _ in range(5)]
    opt = nl.optim.RMSprop(lr=0.1, decay=0.9, epsilon_hat=1e-3, momentum=0.7)
    path = run(opt, tuple(map(be.array, params)), [tuple(map(be.array, grads)) for grads in batches])
    for i, W in enumerate(params):
        V, v = 0.0, 0.0
        for grads, found in zip(batches, path, strict=True):
            V = 0.9 * V + 0.1 * grads[i] ** 2
            v = 0.7 * v + grads[i] / (np.sqrt(V) + 1e-3)
            W = W - 0.1 * v
            np.testing.assert_allclose(be.numpy(found[i]), W, atol=be.tol(1e-12))


def test_a_variance_that_rounding_has_made_negative_counts_as_zero(params, gradient):
    opt, objective = nl.optim.RMSprop(lr=1e-12, decay=0.5, centered=True), GivenGradients()
    state, seen = opt.init(params, objective), 0
    for _ in range(80):
        before = params
        params, state, info = opt.step(params, state, objective, gradient)
        assert info.accepted
        for W, V, g, square, mean in zip(before, params, gradient, state.square, state.mean, strict=True):
            negative = square < mean * mean
            np.testing.assert_allclose((W - V)[negative], 1e-4 * g[negative], rtol=1e-10)
            seen += np.sum(negative)
    assert seen > 0


def test_the_average_is_the_sum_with_a_smaller_step(params, rng):
    batches = [tuple(rng.standard_normal(spec.shape) for spec in LAYERS) for _ in range(4)]
    average = run(nl.optim.SGD(lr=0.5, momentum=0.8, form="average"), params, batches)
    same = run(nl.optim.SGD(lr=0.5 * (1 - 0.8), momentum=0.8), params, batches)
    other = run(nl.optim.SGD(lr=0.5, momentum=0.8), params, batches)
    for a, b, c in zip(average[-1], same[-1], other[-1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)
        assert np.max(np.abs(a - c)) > 0.1


def test_the_second_moment_of_the_mean_agrees_while_the_gradient_stays(params, rng):
    first, second = (tuple(rng.standard_normal(spec.shape) for spec in LAYERS) for _ in range(2))
    usual, theirs = (nl.optim.Adam(second_moment_of=s) for s in ("gradient", "mean"))
    for W, V in zip(run(usual, params, [first])[-1], run(theirs, params, [first])[-1], strict=True):
        np.testing.assert_allclose(W, V, atol=1e-15)
    for W, V in zip(run(usual, params, [first, second])[-1], run(theirs, params, [first, second])[-1], strict=True):
        assert np.max(np.abs(W - V)) > 1e-5


def test_slices_give_the_same_bits(monkeypatch, opt, rng):
    """Whatever their length, however many workers, and whatever the layout of the gradient in memory."""
    start, batches = (tuple(rng.standard_normal((40, 30), dtype=np.float32) for _ in range(n)) for n in (2, 6))
    batches = [(batches[2 * i], batches[2 * i + 1].T.copy().T) for i in range(3)]
    whole = run(opt, start, batches)
    monkeypatch.setattr("nearlin.steps.slicing.SLICE", 7)
    for W, V in zip(whole[-1], run(opt, start, batches)[-1], strict=True):
        assert W.dtype == V.dtype
        assert np.array_equal(W, V)


@pytest.mark.parametrize(("form", "lr"), [("sum", 0.05), ("average", 0.25)])
def test_nesterovs_steps_are_those_of_sutskever_looking_ahead(form, lr):
    """v' ← μ v' - lr g(W' + μ v'), W' ← W' + v': ours are W' + μ v', on a quadratic. Averages take 1 - μ times lr."""
    A, opt = np.asarray([[3.0, 1.0], [1.0, 2.0]]), nl.optim.SGD(lr=lr, momentum=0.8, form=form, nesterov=True)
    W = ahead = np.asarray([[1.0, -2.0]])
    v, state, objective = 0.0, opt.init((W,), Quadratic(A)), Quadratic(A)
    for _ in range(6):
        v = 0.8 * v - 0.05 * (W + 0.8 * v) @ A
        W = W + v
        (ahead,), state, _ = opt.step((ahead,), state, objective, None)
        np.testing.assert_allclose(ahead, W + 0.8 * v, rtol=1e-13)


@dataclasses.dataclass
class Quadratic:
    A: np.ndarray
    layers = (LayerSpec("dense", 1, 2, bias=False),)

    def at(self, params, batch):
        return GivenPoint((params[0] @ self.A,))


# ------------------------------------------------------------------------------------------------ weight decay and schedules


@pytest.mark.parametrize("exempt", [False, True])
def test_without_a_gradient_parameters_shrink_by_one_minus_lr_times_weight_decay(be, opt, params, exempt):
    """At step sizes .5, .5, .25; a decay inside the gradient would be rescaled by the adaptive methods."""
    opt = dataclasses.replace(opt, lr=StepDecay(0.5, 0.5, 2), weight_decay=0.2, exempt_bias=exempt)
    zero = tuple(be.array(np.zeros(W.shape)) for W in params)
    *_, found = run(opt, tuple(map(be.array, params)), [zero] * 3)
    for spec, W, new in zip(LAYERS, params, found, strict=True):
        keep = np.full(W.shape, 0.9 * 0.9 * 0.95)
        if exempt:
            keep[:, slice(None) if spec.kind == "norm" else slice(spec.inp, None)] = 1.0
        np.testing.assert_allclose(be.numpy(new), keep * W, rtol=be.tol(1e-14))


def test_the_decay_comes_before_the_step(opt, params, gradient):
    """W⁺ = (1 - lr weight_decay) W + d with the step d of no decay."""
    plain = dataclasses.replace(opt, lr=0.1, weight_decay=0.0)
    decayed = run(dataclasses.replace(plain, weight_decay=2.0), params, [gradient])[-1]
    for W, without, found in zip(params, run(plain, params, [gradient])[-1], decayed, strict=True):
        np.testing.assert_allclose(found, 0.8 * W + (without - W), atol=1e-14)


def test_a_constant_schedule_is_a_number_to_the_bit(opt, params, gradient):
    fixed = dataclasses.replace(opt, lr=0.05)
    varied = dataclasses.replace(opt, lr=lambda t: 0.05)
    a, b = (run(o, params, [gradient] * 3)[-1] for o in (fixed, varied))
    assert all(np.array_equal(V, W) for V, W in zip(a, b, strict=True))


def test_a_schedule_sees_the_steps_taken_before(opt, params, gradient):
    seen = []
    run(dataclasses.replace(opt, lr=lambda t: seen.append(t) or 0.1), params, [gradient] * 4)
    assert seen == [0, 1, 2, 3]


def test_float32_stays_float32(opt, params, gradient):
    opt = dataclasses.replace(opt, lr=lambda t: np.float64(0.1), weight_decay=0.1, exempt_bias=True)
    low, g = (tuple(W.astype(np.float32) for W in tree) for tree in (params, gradient))
    assert all(W.dtype == np.float32 for W in run(opt, low, [g] * 2)[-1])


# ------------------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_leaves_parameters_and_state(opt, params, gradient, bad):
    objective, broken = GivenGradients(), tuple(np.where(g > 1, bad, g) for g in gradient)
    _, state, _ = opt.step(params, opt.init(params, objective), objective, gradient)
    with np.errstate(invalid="ignore", over="ignore"):
        new, after, info = opt.step(params, state, objective, broken)
    assert new is params
    assert after is state
    assert (info.accepted, info.reason) == (False, "rejected: the step is not finite")


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "rmsprop"])
def test_a_gradient_whose_square_overflows_is_not_taken_in(params, gradient, name):
    objective, opt, huge = GivenGradients(), METHODS[name], tuple(1e200 * g for g in gradient)
    with np.errstate(over="ignore"):
        new, state, info = opt.step(params, opt.init(params, objective), objective, huge)
    assert (new is params, state, info.accepted) == (True, opt.init(params, objective), False)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("SGD", {"form": "mean"}, "form is 'mean'; expected 'sum' or 'average'"),
        ("SGD", {"momentum": 1.0}, r"momentum is 1.0; expected a number in \[0, 1\)"),
        ("Adam", {"second_moment_of": "loss"}, "second_moment_of is 'loss'; expected 'gradient' or 'mean'"),
        ("Adam", {"epsilon_hat": 0.0}, "epsilon_hat is 0.0; expected a positive number"),
        ("AdamW", {"betas": (0.9, 1.0)}, r"betas are \(0.9, 1.0\); expected two numbers in \[0, 1\)"),
        ("AdamW", {"epsilon_hat": math.nan}, "epsilon_hat is nan; expected a positive number"),
        ("AdaGrad", {"epsilon_hat": -1.0}, "epsilon_hat is -1.0; expected a positive number"),
        ("RMSprop", {"decay": 1.0}, r"decay is 1.0; expected a number in \[0, 1\)"),
        ("RMSprop", {"epsilon_hat": math.inf}, "epsilon_hat is inf; expected a positive number"),
        *((m, {"lr": 0}, "lr is 0; expected a positive number") for m in ("SGD", "Adam", "AdamW", "AdaGrad", "RMSprop")),
        *((m, {"weight_decay": -1}, "weight_decay is -1; expected") for m in ("SGD", "Adam", "AdamW", "AdaGrad", "RMSprop")),
    ],
)
def test_a_hyper_parameter_outside_its_range_is_named(method, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(nl.optim, method)(**options)
