"""The boundary of every optimizer: states of other networks, NumPy's error state, and PyTorch's histories."""

import gc
import warnings

import numpy as np
import pytest

import nearlin as nl
from nearlin import nn
from nearlin.experiments import OPTIMIZERS as NAMES
from tests.optim.test_laws import OPTIMIZERS

LOSSES = {"squared": nn.SquaredLoss(), "sigmoid": nn.SigmoidCrossEntropy(), "softmax": nn.SoftmaxCrossEntropy()}
LEAST_SQUARES = (nl.optim.NearLinearGaussNewton, nl.optim.GramGaussNewton, nl.optim.NaturalGradient)


def problem(sizes=(3, 4, 2), loss="squared", scale=1.0, dtype=np.float64, convert=None):
    rng, network = np.random.default_rng(5), nn.MLP(sizes, "tanh")
    x, y = rng.standard_normal((10, sizes[0])), rng.random((10, sizes[-1]))
    y = y / y.sum(axis=1, keepdims=True)
    batch = tuple((convert or (lambda a: a))(a.astype(dtype)) for a in (x, y))
    params = tuple(scale * W for W in network.init(0, batch[0]))
    return nn.Objective(network, LOSSES[loss]), params, batch


def steps(opt, objective, params, batch, count=2, state=None):
    state = opt.init(params, objective) if state is None else state
    for t in range(count):
        params, state, info = opt.step(params, state, objective, batch, key=t)
    return params, state, info


def test_the_laws_are_of_every_optimizer():
    assert {type(opt).__name__ for opt in OPTIMIZERS.values()} == set(NAMES.values())


# --------------------------------------------------------------------------------------------------------------------- states


@pytest.mark.parametrize("sizes", [(3, 4, 1), (3, 4, 4, 2)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_of_another_network_is_refused(name, sizes):
    """Also where its arrays would broadcast: those of one output to two."""
    opt, (objective, params, batch) = OPTIMIZERS[name], problem()
    state = steps(opt, *problem(sizes))[1]
    if isinstance(opt, nl.optim.NaturalGradient):
        assert state == opt.init(params, objective)  # nothing is carried
        return
    found, expected = (", ".join(str(spec.shape) for spec in nn.MLP(s).layers) for s in (sizes, (3, 4, 2)))
    with pytest.raises(ValueError, match=r"^state is one of") as error:
        opt.step(params, state, objective, batch, key=2)
    method = type(opt).__name__
    assert str(error.value) == f"state is one of {method} for parameters of shapes {found}; expected {expected}: make one by init"


@pytest.mark.parametrize("name", [name for name, opt in OPTIMIZERS.items() if hasattr(opt, "warm_start")])
def test_a_warm_start_is_of_its_network(name):
    opt, (objective, params, batch) = OPTIMIZERS[name], problem()
    other, others, samples = problem((3, 5, 2))
    warm = opt.warm_start(others, opt.init(others, other), other, [samples])
    if not warm.shapes:
        pytest.skip("this form keeps nothing of a warm start")
    for call in (lambda: opt.step(params, warm, objective, batch, 0), lambda: opt.warm_start(params, warm, objective, [batch])):
        with pytest.raises(ValueError, match=r"^state is one of"):
            call()


@pytest.mark.parametrize("name", [name for name, opt in OPTIMIZERS.items() if hasattr(opt, "warm_start")])
def test_a_warm_start_heeds_no_error_state(name):
    opt, (objective, params, batch) = OPTIMIZERS[name], problem(scale=1e-170)
    with np.errstate(all="raise"):
        opt.warm_start(params, opt.init(params, objective), objective, [batch, batch])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_of_the_same_shapes_goes_on(name):
    """Of a network with another activation."""
    opt, (objective, params, batch) = OPTIMIZERS[name], problem()
    state = steps(opt, objective, params, batch)[1]
    other = nn.Objective(nn.MLP((3, 4, 2), "sigmoid"), objective.loss)
    opt.step(params, state, other, batch, key=2)


def test_what_is_no_state_is_named():
    objective, params, batch = problem()
    with pytest.raises(ValueError, match=r"^state is a dict; expected what Adam's init or step has returned$"):
        nl.optim.Adam().step(params, {}, objective, batch)


# -------------------------------------------------------------------------------------------------------- NumPy's error state


def same(a, b):
    return all(np.array_equal(V, W, equal_nan=True) for V, W in zip(a, b, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numpy_set_to_raise_changes_nothing(name, loss):
    """Outputs of some thousands make cross-entropies underflow; in float32 squares of 1e30 overflow."""
    opt = OPTIMIZERS[name]
    if loss != "squared" and isinstance(opt, LEAST_SQUARES):
        pytest.skip("for least squares")
    for scale, dtype in ((3000.0, np.float64), (1e30, np.float32)):
        given = problem(loss=loss, scale=scale, dtype=dtype)
        with warnings.catch_warnings(record=True) as seen, np.errstate(all="warn"):
            warnings.simplefilter("always")
            found = attempt(opt, given)
        with np.errstate(all="raise"):
            expected = attempt(opt, given)
        assert [str(one.message) for one in seen] == []
        assert found[1:] == expected[1:]
        assert same(found[0], expected[0])


def attempt(opt, given):
    """Parameters after two steps and how they ended; or the sentence by which the method refuses."""
    try:
        params, _, info = steps(opt, *given)
    except FloatingPointError:  # an ArithmeticError too
        raise
    except (ArithmeticError, ValueError) as error:
        return (), type(error), str(error)
    return params, info.accepted, str(info.reason)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_heeds_no_error_state(loss):
    z = np.array([[1e200, -1e200], [-800.0, 800.0], [0.0, 1e-300]])
    y = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    calls = [lambda: LOSSES[loss].value(z, y), lambda: LOSSES[loss].gradient(z, y), lambda: LOSSES[loss].residual(z, y)]
    calls += [lambda: LOSSES[loss].draw(1, z), lambda: LOSSES[loss].least(y)]
    with np.errstate(all="ignore"):
        wanted = [call() for call in calls]
    with np.errstate(all="raise"):
        assert same([call() for call in calls], wanted)
    objective, params, batch = problem(loss=loss, scale=3000.0)
    with np.errstate(all="raise"):
        point = objective.at(params, batch)
        made = (point.loss, point.residual, *point.grads(), point.draw(0))
    with np.errstate(all="ignore"):
        point = objective.at(params, batch)
        assert same(made, (point.loss, point.residual, *point.grads(), point.draw(0)))


# -------------------------------------------------------------------------------------------------------- PyTorch's histories


def test_a_torch_array_that_requires_grad_is_refused_wherever_it_enters():
    torch = pytest.importorskip("torch")
    objective, params, (x, y) = problem(convert=torch.asarray)
    with_grad = lambda a: a.clone().requires_grad_()  # noqa: E731
    for name, given in {
        "x": (params, (with_grad(x), y)),
        "y": (params, (x, with_grad(y))),
        "params[0]": ((with_grad(params[0]), params[1]), (x, y)),
        "params[1]": ((params[0], torch.nn.Parameter(params[1])), (x, y)),
    }.items():
        with pytest.raises(nl.BackendError) as error:
            nl.optim.Adam().step(given[0], nl.optim.Adam().init(params, objective), objective, given[1])
        assert str(error.value) == f"{name} requires grad; expected an array without a history: pass {name}.detach()"
    with pytest.raises(nl.BackendError, match=r"^x requires grad"):
        nl.experiments.train((with_grad(x), y[:, 0]), width=8, steps=1, progress=False)


def test_steps_on_torch_keep_no_history():
    """Not one array a step more lives after 12 steps than after 2, and none has a history."""
    torch = pytest.importorskip("torch")
    given = problem(convert=torch.asarray)

    def living():
        gc.collect()
        return sum(type(one) is torch.Tensor for one in gc.get_objects())

    for opt in (nl.optim.SGD(momentum=0.9), nl.optim.Adam(), nl.optim.GaussNewton(), nl.optim.KFAC()):
        found = []
        for count in (2, 12):
            params, state, _ = steps(opt, *given, count)
            assert not any(W.requires_grad or W.grad_fn for W in params)
            found.append(living())
            del params, state
        assert found[1] < found[0] + 10, type(opt).__name__
