"""Where layer-wise methods break: dead layers, single samples and pixels, constant inputs, NaN; and that their state is plain."""

import dataclasses

import numpy as np
import pytest

import nearlin as nl
from nearlin.experiments import archive
from tests.optim.replay import cnn

METHODS = {
    "shampoo": nl.optim.Shampoo(lr=1e-2, damping=1e-3, inverse_every=2),
    "shampoo-newton": nl.optim.Shampoo(lr=1e-2, damping=1e-3, inverse_every=2, root="newton"),
    "tnt": nl.optim.TNT(lr=1e-3, inverse_every=2),
    "soap": nl.optim.SOAP(lr=1e-2, inverse_every=2),
    "kbfgs": nl.optim.KBFGS(),
    "kbfgsl": nl.optim.KBFGSL(memory=2),
}


@pytest.fixture(params=METHODS)
def opt(request):
    return METHODS[request.param]


def run(opt, objective, params, batch, steps=4, state=None):
    """Parameters, state and infos; every step is taken and every parameter stays finite."""
    state, infos = opt.init(params, objective) if state is None else state, []
    for t in range(steps):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        assert info.accepted, info.reason
        infos.append(info)
    return params, state, infos


def dense(modules, **options):
    return nl.nn.Objective(nl.nn.Sequential(modules, **options), nl.nn.SquaredLoss())


RELU = nl.nn.Elementwise(nl.nn.activation("relu"))


PRECONDITIONERS = {  # methods with statistics that are averaged, and the sizes of their dampings here
    **{name: opt for name, opt in METHODS.items() if name != "soap"},
    "kfac": nl.optim.KFAC(lr=1e-2, inverse_every=2),
    "kfac-exact": nl.optim.KFAC(lr=1e-2, inverse_every=2, inverse="exact"),
    "mbf": nl.optim.MiniBlockFisher(lr=1e-3, statistics_every=1, inverse_every=2),
    "mbf-per-neuron": nl.optim.MiniBlockFisher(lr=1e-3, statistics_every=1, inverse_every=2, average=False),
    "mbf-sample": nl.optim.MiniBlockFisher(lr=1e-2, damping=0.1, statistic="sample", statistics_every=1, inverse_every=2),
}


@pytest.fixture(params=PRECONDITIONERS)
def averaging(request):
    return PRECONDITIONERS[request.param]


MADE_EVERY_THIRD = [
    nl.optim.KFAC(inverse_every=3, early=False),
    nl.optim.KFAC(inverse_every=3, early=False, inverse="exact"),
    nl.optim.MiniBlockFisher(inverse_every=3, early=False),
    nl.optim.Shampoo(inverse_every=3, early=False),
    nl.optim.SOAP(inverse_every=3),
    nl.optim.TNT(inverse_every=3, early=False),
]


@pytest.mark.parametrize("opt", MADE_EVERY_THIRD, ids=lambda opt: f"{type(opt).__name__}-{getattr(opt, 'inverse', '')}")
def test_the_step_that_a_kept_inverse_is_said_to_be_of_is_the_one_it_was_made_at(rng, opt):
    objective = dense((nl.nn.Dense(4, 3), RELU, nl.nn.Dense(3, 2)))
    batch, state, seen = (rng.standard_normal((9, 4)), rng.standard_normal((9, 2))), None, []
    params = objective.network.init(0, batch[0])
    for t in range(8):
        params, state, info = opt.step(params, state or opt.init(params, objective), objective, batch, key=t)
        parts = state.layers if hasattr(state, "layers") else state.modes
        seen.append({part.made for part in parts})
        assert info.refreshed == (t % 3 == 0)
    assert seen == [{t // 3 * 3} for t in range(8)]


def arrays(tree):
    """The arrays in a state."""
    if isinstance(tree, tuple):
        return [a for part in tree for a in arrays(part)]
    return [tree] if hasattr(tree, "shape") else []


def test_a_dead_layer_stays_where_it_is(be, opt, rng):
    """No unit of the first layer is active: its gradient vanishes, and so do its step and its statistics of gradients."""
    objective = dense((nl.nn.Dense(3, 4), RELU, nl.nn.Dense(4, 2)))
    first, second = objective.network.init(0, be.like)
    dead = 0 * first - 1
    x, y = be.array(np.abs(rng.standard_normal((6, 3)))), be.array(rng.standard_normal((6, 2)))
    params, state, _ = run(opt, objective, (dead, second), (x, y))
    np.testing.assert_array_equal(be.numpy(params[0]), -np.ones((4, 4)))
    assert np.abs(be.numpy(params[1]) - be.numpy(second)).max() > 1e-6
    assert all(np.isfinite(be.numpy(a)).all() for a in arrays(state))


def test_one_sample_one_input_one_output(be, opt):
    objective = dense((nl.nn.Dense(1, 1), RELU, nl.nn.Dense(1, 1, bias=False)))
    params = objective.network.init(3, be.like)
    params, state, infos = run(opt, objective, params, (be.array([[0.7]]), be.array([[0.2]])))
    assert np.isfinite(infos[-1].loss)
    assert all(np.isfinite(be.numpy(a)).all() for a in (*params, *arrays(state)))


def test_a_constant_pixel_gets_no_step(be, opt, rng):
    """An input that is always 0: its column of the gradient vanishes, its rows and columns of input statistics too."""
    x = rng.standard_normal((8, 4))
    x[:, 2] = 0.0
    objective = dense((nl.nn.Dense(4, 3), RELU, nl.nn.Dense(3, 2)))
    start = objective.network.init(1, be.like)
    params, _, infos = run(opt, objective, start, (be.array(x), be.array(rng.standard_normal((8, 2)))))
    np.testing.assert_allclose(be.numpy(params[0])[:, 2], be.numpy(start[0])[:, 2], atol=be.tol(1e-13))
    assert infos[-1].loss < infos[0].loss


def test_kernels_of_one_pixel(be, opt, rng):
    flat = nl.nn.Flatten()
    objective = dense(
        (nl.nn.Conv2d(2, 3, 1), RELU, nl.nn.Conv2d(3, 1, 1, stride=2, bias=False), flat, nl.nn.Dense(4, 1)), shape=(2, 4, 4)
    )
    x, y = be.array(rng.standard_normal((5, 2, 4, 4))), be.array(rng.standard_normal((5, 1)))
    _, state, infos = run(opt, objective, objective.network.init(4, be.like), (x, y), 4)
    assert infos[-1].loss < infos[0].loss
    assert all(np.isfinite(be.numpy(a)).all() for a in arrays(state))


def test_an_image_network_with_normalisation(be, opt, rng):
    objective = cnn()
    x, y = be.array(rng.standard_normal((8, 2, 6, 6))), be.array(rng.integers(0, 3, 8), "int64")
    _, _, infos = run(opt, objective, objective.network.init(2, be.like), (x, y), 4)
    assert infos[-1].loss < infos[0].loss


def test_a_network_on_a_graph(be, opt, rng):
    S = np.exp(-np.abs(np.arange(7)[:, None] - np.arange(7)))
    net = nl.nn.GraphNetwork(be.array(S / S.sum(1, keepdims=True)), be.array(rng.standard_normal((7, 5))), (4, 3))
    objective = nl.nn.Objective(net, nl.nn.SoftmaxCrossEntropy())
    batch = (be.array([0, 2, 3, 6], "int64"), be.array([0, 1, 2, 1], "int64"))
    _, _, infos = run(opt, objective, net.init(0, be.like), batch, 4)
    assert infos[-1].loss < infos[0].loss


def small(rng):
    objective = dense((nl.nn.Dense(3, 4), RELU, nl.nn.Dense(4, 2)))
    x, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    return objective, objective.network.init(0, x), (x, y)


def test_a_state_survives_a_checkpoint(opt, rng, tmp_path):
    """Arrays and plain values alone, no activations: the run continues to the bit."""
    objective, params, batch = small(rng)
    state = opt.init(params, objective)
    if hasattr(opt, "warm_start"):
        state = opt.warm_start(params, state, objective, [batch, batch], 5)
    params, state, _ = run(opt, objective, params, batch, 3, state)
    archive.write(tmp_path / "run.npz", {"params": params, "state": state})
    loaded = archive.read(tmp_path / "run.npz")
    assert all(batch[0].shape[0] not in a.shape for a in arrays(state))
    whole, _, _ = run(opt, objective, params, batch, 2, state)
    resumed, _, _ = run(opt, objective, loaded["params"], batch, 2, loaded["state"])
    assert all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_a_warm_start_changes_nothing_given(opt, rng):
    if not hasattr(opt, "warm_start"):
        pytest.skip("the method has no warm start")
    objective, params, batch = small(rng)
    before = [a.copy() for a in (*params, *batch)]
    state = opt.init(params, objective)
    warm = opt.warm_start(params, state, objective, [batch], 1)
    held = [a.copy() for a in arrays(warm)]
    run(opt, objective, params, batch, 3, warm)
    assert state == opt.init(params, objective)
    assert all(np.array_equal(a, b) for a, b in zip(before, (*params, *batch), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(held, arrays(warm), strict=True))


def test_a_step_that_is_not_finite_leaves_everything(opt, rng):
    objective, params, (x, y) = small(rng)
    params, state, _ = run(opt, objective, params, (x, y), 2)
    with np.errstate(over="ignore", invalid="ignore"):
        new, after, info = opt.step(params, state, objective, (x, 1e200 * y), key=0)
    assert new is params
    assert after is state
    assert (info.accepted, info.reason) == (False, "rejected: the step is not finite")


def first_layer(state):
    """What is kept for the first layer's weights."""
    return (state.layers if hasattr(state, "layers") else state.modes)[0]


def poisoned(state):
    """The state with NaN in the statistics of the first layer's weights."""
    name = "layers" if hasattr(state, "layers") else "modes"
    first, *others = getattr(state, name)
    sick = {"A": first.A * np.nan} if hasattr(first, "A") else {"grams": (first.grams[0] * np.nan, *first.grams[1:])}
    return state._replace(**{name: (first._replace(**sick), *others)})


def inverses(state):
    """The inverses of the first layer's weights."""
    first = first_layer(state)
    if hasattr(first, "Ha"):
        return (first.Ha,)
    (name,) = {"matrices", "bases"} & set(first._fields)
    return getattr(first, name)


def test_statistics_with_nan_never_refresh_an_inverse(opt, rng):
    objective, params, batch = small(rng)
    params, state, _ = run(opt, objective, params, batch, 2)
    sick = poisoned(state)
    _, after, (info,) = run(opt, objective, params, batch, 1, sick)
    for X, Y in zip(inverses(after), inverses(state), strict=True):
        np.testing.assert_array_equal(X, Y)
    assert info.kept.startswith("layer 0")
    assert after.kept >= 1


def test_a_statistic_that_overflows_is_left_out(opt, rng):
    """float32: gradients and inputs are finite, their squares are not; the next batch is used again."""
    objective, params, (x, y) = small(rng)
    params, x, y = tuple(W.astype(np.float32) for W in params), x.astype(np.float32), y.astype(np.float32)
    opt = dataclasses.replace(opt, lr=1e-30, **({"momentum": 0.0} if hasattr(opt, "momentum") else {}))
    _, state, _ = run(opt, objective, params, (x, y), 2)
    with np.errstate(over="ignore", invalid="ignore"):
        _, after, info = opt.step(params, state, objective, (np.float32(1e19) * x, y), key=2)
    assert "left out" in info.kept or not info.accepted
    assert all(np.isfinite(a).all() for a in arrays(after))
    run(opt, objective, params, (x, y), 2, after)


# ---------------------------------------------------------------------------------------- statistics that are lost to overflow


def overflowing(rng):
    """float32: a batch whose inputs are so large that statistics of the first layer are not finite, while the loss is; and one
    that is as usual. The weights of the first layer are so small that its outputs are of order one."""
    objective, (first, second), (x, y) = small(rng)
    params = (np.float32(1e-25) * first.astype(np.float32), second.astype(np.float32))
    x, y = x.astype(np.float32), y.astype(np.float32)
    return objective, params, (np.float32(1e25) * x, y), (x, y)


def statistics(state):
    """The averaged statistics of the first layer's weights."""
    layer = first_layer(state)
    if hasattr(layer, "grams"):
        return layer.grams
    return tuple(getattr(layer, name) for name in ("A", "G", "F") if hasattr(layer, name))


def test_a_warm_start_with_a_statistic_that_is_not_finite_names_the_batch(averaging, rng):
    objective, params, broken, good = overflowing(rng)
    start = averaging.init(params, objective)
    averaging.warm_start(params, start, objective, [good, good], 1)
    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(ArithmeticError, match=r"batch 2 of the warm start: layer 0.*; expected"),
    ):
        averaging.warm_start(params, start, objective, [good, broken, good], 1)


def test_the_first_statistic_does_not_enter_the_mean_if_it_is_lost(averaging, rng):
    """The next one counts as the first: not as one of two of which the other was 0."""
    objective, params, broken, good = overflowing(rng)
    opt = dataclasses.replace(averaging, lr=1e-42, momentum=0.0)
    start = opt.init(params, objective)
    with np.errstate(over="ignore", invalid="ignore"):
        params, state, info = opt.step(params, start, objective, broken, key=3)
    assert info.accepted
    assert "layer 0" in info.kept
    assert "left out" in info.kept
    _, after, _ = opt.step(params, state, objective, good, key=3)
    _, want, _ = opt.step(params, start._replace(t=1), objective, good, key=3)
    for H, S in zip(statistics(after), statistics(want), strict=True):
        np.testing.assert_allclose(H, S, rtol=1e-6)
        assert np.abs(S).max() > 0


# ------------------------------------------------------------------------------------------------ a pixel beside the bias


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("damping", [None, 1e-5])
def test_a_constant_pixel_moves_with_the_bias(averaging, rng, dtype, damping):
    """An input that is always c is collinear with the bias: its weights move by c times what the bias does, wherever one matrix
    preconditions both. The statistics are singular, which the damping has to mend, even a small one."""
    x = rng.standard_normal((8, 4))
    x[:, 2] = 0.7
    x, y = x.astype(dtype), rng.standard_normal((8, 2)).astype(dtype)
    objective = dense((nl.nn.Dense(4, 3), RELU, nl.nn.Dense(3, 2)))
    start, opt = objective.network.init(1, x), averaging
    if damping is not None:
        opt = dataclasses.replace(opt, damping=damping, lr=opt.lr * min(1.0, damping / opt.damping))
    params, state, infos = run(opt, objective, start, (x, y), 6)
    assert infos[-1].loss < infos[0].loss
    assert all(np.isfinite(a).all() for a in arrays(state))
    said = "; ".join(info.kept for info in infos).split("; ")
    fine = "output factor skipped", "Newton indefinite"  # float32: a pair, or what is below 0 in a Gram matrix, may be rounding
    assert not [words for words in said if words and not any(one in words for one in fine)]
    if not isinstance(opt, nl.optim.Shampoo | nl.optim.TNT):
        moved = params[0].astype(np.float64) - start[0]
        np.testing.assert_allclose(
            moved[:, 2], 0.7 * moved[:, 4], atol=(1e-9 if dtype == "float64" else 3e-2) * np.abs(moved).max()
        )
        assert np.abs(moved[:, 4]).max() > 0.01 * np.abs(moved).max()
