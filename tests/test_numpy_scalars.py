"""A NumPy scalar as a hyper-parameter is the Python number: float64 ones would widen float32 arrays."""

import dataclasses
import json

import numpy as np
import pytest

import nearlin as nl
from nearlin import linalg, nn, optim, sketch
from nearlin.experiments import OPTIMIZERS, Config

SCALARS = {bool: np.bool_, int: np.int64, float: np.float64, str: np.str_}
FOR_NONE = {"clip": 0.5, "trust_region": 0.1, "damping": 0.1, "p": 3.0, "sketch_size": 4.0, "inner_dtype": "float32"}
FOR_NONE |= {"gram_dtype": "float32", "residual_dtype": "float64"}
OBJECTS = ("sketch", "rates")
METHODS = list(OPTIMIZERS.values())
FIELDS = [(name, f.name) for name in METHODS for f in dataclasses.fields(getattr(optim, name)) if f.name not in OBJECTS]


def as_scalar(value):
    """The value as NumPy has it, one by one in a tuple."""
    if isinstance(value, tuple):
        return tuple(map(as_scalar, value))
    return SCALARS[type(value)](value)


def plain(method, field):
    value = getattr(method, field)
    return FOR_NONE[field] if value is None else value


def types(value):
    return {type(one) for one in (value if isinstance(value, tuple) else (value,))}


def steps(opt, network):
    """Parameters after three steps in float32."""
    objective = nn.Objective(network, nn.SquaredLoss())
    rng = np.random.default_rng(0)
    batch = rng.standard_normal((12, 3)).astype(np.float32), rng.standard_normal((12, 2)).astype(np.float32)
    params = network.init(1, like=batch[0])
    state = opt.init(params, objective)
    for t in range(3):
        params, state, _ = opt.step(params, state, objective, batch, t)
    return params


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=lambda v: v)
def test_a_field_holds_python_numbers(name, field):
    cls = getattr(optim, name)
    value = plain(cls(), field)
    opt = cls(**{field: as_scalar(value)})
    assert types(getattr(opt, field)) <= {bool, int, float, str}
    assert opt == cls(**{field: value})


@pytest.mark.parametrize("name", METHODS)
def test_the_iterates_are_those_of_the_python_numbers_in_float32(name):
    cls, network = getattr(optim, name), nn.MLP((3, 5, 2), "tanh")
    values = {field: plain(cls(), field) for method, field in FIELDS if method == name} | {"lr": 0.5}
    made = [steps(cls(**options), network) for options in (values, {k: as_scalar(v) for k, v in values.items()})]
    assert all(W.dtype == np.float32 for W in made[1])
    assert all(np.array_equal(*pair) for pair in zip(*made, strict=True))
    assert not all(np.array_equal(W, V) for W, V in zip(made[0], network.init(1, like=made[0][0]), strict=True))


INT, YES = np.int64, np.bool_(True)
MODULES = {
    "dense": (nn.Dense(3, 2, True, "uniform"), nn.Dense(INT(3), INT(2), YES, np.str_("uniform"))),
    "conv": (nn.Conv2d(2, 3, 3, 2, 1, False), nn.Conv2d(INT(2), INT(3), INT(3), INT(2), INT(1), np.bool_(False))),
    "norm": (nn.BatchNorm(3, 0.1), nn.BatchNorm(INT(3), np.float64(0.1))),
    "average": (nn.AvgPool(2, 1, 1), nn.AvgPool(INT(2), INT(1), INT(1))),
    "max": (nn.MaxPool(2), nn.MaxPool(INT(2))),
    "two-layer": (nn.TwoLayer(3, 8), nn.TwoLayer(INT(3), INT(8))),
    "mlp": (nn.MLP((3, 2)), nn.MLP((INT(3), INT(2)))),
    "sequential": (nn.Sequential((nn.Dense(3, 2),), 2.0), nn.Sequential((nn.Dense(3, 2),), np.float64(2))),
    "loss": (nn.SquaredLoss(True), nn.SquaredLoss(YES)),
    "sparse signs": (sketch.SparseSign(4), sketch.SparseSign(INT(4))),
    "products": (sketch.KroneckerSRHT(2), sketch.KroneckerSRHT(INT(2))),
    "schedule": (nl.steps.StepDecay(0.1, 0.5, 3), nl.steps.StepDecay(np.float64(0.1), np.float32(0.5), INT(3))),
}


@pytest.mark.parametrize("name", MODULES)
def test_layers_losses_sketches_and_schedules_hold_python_numbers(name):
    want, found = MODULES[name]
    assert (repr(found), found) == (repr(want), want)


def test_an_epsilon_of_a_normalisation_does_not_widen_float32():
    layer, x = nn.BatchNorm(3, np.float64(1e-3)), np.ones((4, 3), np.float32)
    assert layer.forward(layer.init(0, like=x), x)[0].dtype == np.float32


@pytest.mark.parametrize("f", dataclasses.fields(Config), ids=lambda f: f.name)
def test_an_option_of_a_run_is_written_as_a_python_number(f):
    value = {"lr_factor": 0.5, "lr_period": 3}.get(f.name, f.default)
    given = {"epsilon": 0.1, "lr": 0.1, "damping": 0.5, "steps": 2, "epochs": 3, "batch_size": 4, "time_limit": 1.5, "tol": 1e-3}
    given |= {"validation_fraction": 0.25, "hidden": 8, "width": 16, "optimizer": "adam"}
    value = given.get(
        f.name, False if f.name in ("standardize", "center", "scale", "normalize") else "float32" if value is None else value
    )
    others = {"lr_factor": 0.5, "lr_period": 3} if f.name in ("lr_factor", "lr_period") else {}
    made = [Config(**others | {f.name: one}) for one in (value, as_scalar(value))]
    assert json.dumps(made[1].to_dict()) == json.dumps(made[0].to_dict())
    assert types(getattr(made[1], f.name)) <= {bool, int, float, str}


@pytest.mark.parametrize(
    ("field", "value"), [("width", True), ("test_fraction", np.nan), ("tol", np.ones(2)), ("center", "yes"), ("seed", 1.0)]
)
def test_a_wrong_option_of_a_run_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} is [^\n]*; expected [^\n]*$"):
        Config(**{field: value})


A = np.diag(np.arange(1, 5, dtype=np.float32))
SOLVERS = {
    "damped_cholesky": lambda d: linalg.damped_cholesky(A, d),
    "block_inverse": lambda d: linalg.block_inverse(A, d).inverse,
    "inverse_root": lambda d: linalg.inverse_root(A, 2, d)[0],
    "damped_factors": lambda d: linalg.damped_factors(A, A, d).A,
    "eigenbasis": lambda d: linalg.eigenbasis(A, A).solve(A, d),
    "nystrom": lambda d: linalg.nystrom(lambda Z: A @ Z, 4, 0, d, like=A[0])(A[0]),
    "lsqr": lambda d: linalg.lsqr(linalg.DenseOperator(A), A[0], d)[0].step,
    "craig": lambda d: linalg.craig(linalg.DenseOperator(A), A[0], d)[0].step,
    "lowrank": lambda d: linalg.lowrank_solve(linalg.lowrank(4, 2, A[0]), A[0], linalg.Inverse(d, scale=np.float64(2.0))),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_damping_as_a_numpy_scalar_leaves_float32(name):
    found = SOLVERS[name](np.float64(0.1))
    assert found.dtype == np.float32
    assert np.array_equal(found, SOLVERS[name](0.1))
