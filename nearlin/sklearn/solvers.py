"""What each solver takes where the estimator says "auto", and the networks that the solvers fit."""

import math
from dataclasses import dataclass, field

import numpy as np

from nearlin import nn
from nearlin._array import asarray, namespace
from nearlin.experiments.registry import did_you_mean, make_optimizer

ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
NEAR_LINEAR = "near-linear"


@dataclass(frozen=True)
class Solver:
    """The defaults of a solver.

    Parameters
    ----------
    optimizer : str
        Its name in `nearlin.experiments.make_optimizer`.
    settings : dict
        Hyper-parameters that differ from the optimizer's own defaults.
    batch_size : int or None
        Rows of a step; None: all. An iteration is a step on all rows, or a pass through mini-batches.
    tol : float
        An iteration that lowers the loss by less is no progress.
    n_iter_no_change : int
        So many iterations in a row without progress end the fit.
    """

    optimizer: str
    settings: dict = field(default_factory=dict)
    batch_size: int | None = 200
    tol: float = 1e-4
    n_iter_no_change: int = 10


DIRECT = 1000  # unknowns, n c or p, up to which a Gauss-Newton system is solved directly
SOLVERS = {
    "gauss-newton": Solver("gauss-newton", {"epsilon": 0.3}, None, 1e-3, 2),
    NEAR_LINEAR: Solver("near-linear-gauss-newton", {}, None, 1e-3, 2),
    "kfac": Solver("kfac", {"fisher": "type-2", "lr": 0.1}),
    "adam": Solver("adam"),
    "adamw": Solver("adamw", {"lr": 1e-2}),
    "sgd": Solver("sgd", {"lr": 0.1}),
    "adagrad": Solver("adagrad", {"lr": 0.1}),
    "rmsprop": Solver("rmsprop", {"lr": 1e-2}),
    "muon": Solver("muon", {"lr": 1e-2}),
    "shampoo": Solver("shampoo", {"lr": 1e-2}),
    "soap": Solver("soap", {"lr": 1e-2}),
    "tnt": Solver("tnt", {"lr": 3e-3}),
    "kbfgs": Solver("kbfgs", {"lr": 3.0}),
    "kbfgs-l": Solver("kbfgs-l", {"lr": 3.0}),
    "mini-block-fisher": Solver("mini-block-fisher", {"lr": 3e-4}),
    "ginger": Solver("ginger", {"lr": 2e-3}),
    "qng": Solver("qng", {"lr": 0.15}),
}


def solver_named(name):
    """The `Solver` called ``name``; `ValueError` listing the known ones otherwise."""
    if name not in SOLVERS:
        hint = did_you_mean(str(name), SOLVERS)
        raise ValueError(f"solver is {name!r}{hint}; expected one of {', '.join(SOLVERS)}")
    return SOLVERS[name]


def unknowns(network, n):
    """Those of a Gauss-Newton system on ``n`` rows: rows times outputs, or parameters, whichever are fewer."""
    parameters = sum(math.prod(spec.shape) for spec in network.layers)
    return min(n * network.layers[-1].out, parameters)


def optimizer(solver, learning_rate, unknowns, single, rough=False):
    """The optimizer of a `Solver`.

    Parameters
    ----------
    solver : Solver
    learning_rate : float or "auto"
        Its step size, or its own default.
    unknowns : int
        Of a Gauss-Newton system, n c or p; small ones are solved to rounding, so that a row of weight 2 is two rows.
    single : bool
        Whether the arithmetic is float32.
    rough : bool
        For a fit that only chooses the penalty: there small systems are solved by plain iterations.
    """
    given = {} if learning_rate == "auto" else {"lr": learning_rate}
    small = solver.optimizer == "gauss-newton" and unknowns <= DIRECT
    exact = {"plan": "parameter-cg"} if rough else {"plan": "direct", "epsilon": 1e-4 if single else 1e-10}
    return make_optimizer(solver.optimizer, **{**solver.settings, **(exact if small else {}), **given})


@dataclass(frozen=True)
class Perceptron:
    """Dense layers with biases of the given sizes, the activation between them: what every solver but one fits.

    Parameters
    ----------
    sizes : tuple of int
        Inputs, hidden widths, outputs.
    activation : str
        A key of `ACTIVATIONS`.
    """

    sizes: tuple
    activation: str

    @property
    def network(self):
        """The network of `nearlin.nn`."""
        return nn.MLP(self.sizes, ACTIVATIONS[self.activation])

    def draw(self, random, like):
        """Matrices and intercepts, uniform on ±√(6 / (inputs + outputs)) of their layer, 2 in the place of 6 for the logistic.

        Glorot and Bengio, AISTATS 2010. They are drawn as scikit-learn draws them: the same ``random`` starts at the same ones.
        """
        coefs, intercepts = [], []
        for inputs, outputs in zip(self.sizes, self.sizes[1:], strict=False):
            bound = math.sqrt((2 if self.activation == "logistic" else 6) / (inputs + outputs))
            coefs.append(asarray(random.uniform(-bound, bound, (inputs, outputs)), like=like))
            intercepts.append(asarray(random.uniform(-bound, bound, outputs), like=like))
        return coefs, intercepts

    def inputs(self, z):
        """What the network takes for inputs z (n, d)."""
        return z

    def params(self, coefs, intercepts):
        """Matrices (inputs, outputs) and intercepts as the network's parameters [W b]."""
        xp = namespace(coefs[0])
        join = lambda W, b: xp.concat([xp.matrix_transpose(W), b[:, None]], axis=1)  # noqa: E731
        return tuple(map(join, coefs, intercepts))

    def parts(self, params):
        """Matrices (inputs, outputs) and intercepts of the network's parameters."""
        xp = namespace(*params)
        return [xp.matrix_transpose(W[:, :-1]) for W in params], [W[:, -1] for W in params]


@dataclass(frozen=True)
class Wide(Perceptron):
    """The wide two-layer network of the near-linear step, whose output signs are not trained; its biases see a constant input."""

    def __post_init__(self):
        if len(self.sizes) != 3:
            raise ValueError(
                f"hidden_layer_sizes is {self.sizes[1:-1]}; expected one size, as {NEAR_LINEAR} fits a two-layer network"
            )

    @property
    def network(self):
        """The network of `nearlin.nn`."""
        inputs, width, outputs = self.sizes
        return nn.TwoLayer(inputs=inputs + 1, width=width, activation=ACTIVATIONS[self.activation], outputs=outputs)

    def draw(self, random, like):
        """Matrices and intercepts: Gaussian ones of variance 1 / (inputs + 1), two neurons of opposite signs alike; the signs.

        So the network begins at 0, and not at a random function that its fit would keep between the rows.
        """
        (W,) = self.network.init_at_zero(random.randint(np.iinfo(np.int32).max), like)
        return self.parts((W / math.sqrt(self.sizes[0] + 1),))

    def inputs(self, z):
        """z (n, d) with a constant appended."""
        xp = namespace(z)
        return xp.concat([z, xp.ones_like(z[:, :1])], axis=1)

    def params(self, coefs, intercepts):
        """The first matrix and intercept as the network's parameters."""
        return super().params(coefs[:1], intercepts[:1])

    def parts(self, params):
        """As of a `Perceptron`, with the matrix of the frozen signs."""
        (first,), (bias,) = super().parts(params)
        signs = self._signs(first)
        return [first, signs], [bias, namespace(first).zeros_like(signs[0, :])]

    def _signs(self, like):
        """(width, outputs): ±√(outputs / width) where a neuron belongs to an output, alternating along all neurons."""
        _, width, outputs = self.sizes
        r, ends = np.arange(width), np.arange(1, outputs + 1) * width // outputs
        owner = np.searchsorted(ends, r, side="right")
        signs = np.where(r % 2, -1.0, 1.0)[:, None] * (owner[:, None] == np.arange(outputs))
        return asarray(signs * math.sqrt(outputs / width), like=like)
