"""What `MLPClassifier` and `MLPRegressor` share: scikit-learn's parameters and attributes, and the fit."""

import warnings
from dataclasses import replace
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from nearlin import nn
from nearlin._array import flag, integer, namespace, not_negative, one_of, positive, require, within
from nearlin.sklearn.descent import Rule
from nearlin.sklearn.fitting import FEW, MIDDLE, Task, tabulate
from nearlin.sklearn.inputs import features, host, read
from nearlin.sklearn.solvers import ACTIVATIONS, NEAR_LINEAR, Perceptron, Wide, optimizer, solver_named, unknowns

PARAMETERS = """
    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int
        Widths of the hidden layers.
    activation : {"relu", "tanh", "logistic", "identity"}
        Between the layers.
    solver : str
        ``"gauss-newton"``; ``"near-linear"``, which fits a wide two-layer network by least squares; or another of
        `SOLVERS`, such as ``"kfac"``, ``"adam"``, ``"sgd"``.
    alpha : float or "auto"
        n times the penalty ω of the mean loss, sum_i w_i l_i / n + alpha / (2 n) ||W||², over all weights, not over biases,
        as in scikit-learn; n is the sum of the sample weights. ``"auto"``: of n times 1e-2, 1e-3 and 1e-4 the best on a
        tenth of the rows, held out, and then a fit on all; n times 1e-3 below 100 rows; 0 for ``"near-linear"``, which
        takes none.
    batch_size : int or "auto"
        Rows of a step. ``"auto"``: of the solver, all rows or 200.
    learning_rate_init : float or "auto"
        Step size. ``"auto"``: of the solver.
    max_iter : int
        Iterations: steps on all rows, or passes through mini-batches.
    random_state : int, RandomState or None
        Of initial weights (the ones that scikit-learn draws), held-out rows, mini-batches and sketches.
    tol : float or "auto"
        An iteration that lowers the loss by less, or raises the score of held-out rows by less, is no progress. For a
        regression it is a multiple of the variance of the targets that are fitted.
    n_iter_no_change : int or "auto"
        So many iterations in a row without progress end the fit.
    verbose : bool
        Print a line an iteration.
    warm_start : bool
        Begin where the last fit ended, if sizes and classes are the same.
    early_stopping : bool
        Hold out rows, and return the parameters with the best score there. Needs at least 100 rows.
    validation_fraction : float
        Of the rows, for ``early_stopping``.
    standardize : bool
        Fit on inputs (and targets of a regression) of mean 0 and deviation 1; the penalty and the losses refer to these.
        ``coefs_`` and ``intercepts_`` act on inputs as they are given.

    Attributes
    ----------
    coefs_, intercepts_ : list of arrays
        Of each layer, (inputs, outputs) and (outputs,).
    loss_ : float
        The loss with its penalty at the end of the fit.
    loss_curve_ : list of float
        That after every step on all rows; of mini-batches the mean during every pass.
    best_loss_ : float or None
        The least of the curve; None with early stopping.
    validation_scores_, best_validation_score_ : list of float, float, or None
        Accuracies, or R², of the held-out rows, with early stopping.
    alpha_ : float
        The alpha that was used.
    n_iter_, n_layers_, n_outputs_, n_features_in_ : int
    out_activation_ : str
"""

AUTO = ("alpha", "batch_size", "learning_rate_init", "tol", "n_iter_no_change")
KINDS = {
    "alpha": not_negative,
    "batch_size": integer(1),
    "learning_rate_init": positive,
    "max_iter": integer(1),
    "tol": not_negative,
    "n_iter_no_change": integer(1),
    "warm_start": flag,
    "early_stopping": flag,
    "validation_fraction": within("(0, 1)"),
    "standardize": flag,
}


class BasePerceptron(BaseEstimator):
    """What both estimators do."""

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="gauss-newton",
        alpha="auto",
        batch_size="auto",
        learning_rate_init="auto",
        max_iter=200,
        random_state=None,
        tol="auto",
        n_iter_no_change="auto",
        verbose=False,
        warm_start=False,
        early_stopping=False,
        validation_fraction=0.1,
        standardize=True,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.random_state = random_state
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.verbose = verbose
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.standardize = standardize

    def fit(self, X, y, sample_weight=None):
        """Fit the network.

        Parameters
        ----------
        X : array-like or array of another backend, shape (n, d)
            Floats of another backend (CuPy, PyTorch, ...) are used there; frames and NumPy-likes become float64, or stay float32.
        y : array-like, shape (n,) or (n, k)
        sample_weight : array-like, shape (n,), optional
            A row of weight 2 counts as two.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Parameters, data or weights that cannot be used, with the reason; a loss that is not finite.
        """
        self._check_parameters()
        last = vars(self).copy() if self.warm_start else {}
        rows = read(self, X, y, sample_weight, self._numeric, reset=True)
        outputs, random = self._read_targets(rows.y), check_random_state(self.random_state)
        self.n_outputs_, self.out_activation_ = outputs.number, outputs.activation
        layers = self._layers((rows.X.shape[1], *self._hidden, outputs.number))
        table, scaling = tabulate(rows, outputs, layers, self.standardize)
        start = layers.params(*self._start(layers, scaling, layers.draw(random, rows.X), last))
        task = self._task(layers, outputs, table, random)
        fitted, score = self._hold_out(table, outputs, task, random)
        l2, start, task = self._penalty(task, fitted, rows.total, start, random)
        self.alpha_ = l2 * rows.total
        found = task.fit(fitted, l2, start, score)
        self._keep(found, task.value(fitted, found.params, l2), layers, scaling)
        return self

    def _check_parameters(self):
        """`ValueError` naming the parameter where one cannot be used."""
        solver_named(self.solver)
        one_of(*ACTIVATIONS)("activation", self.activation)
        for name, kind in KINDS.items():
            value = getattr(self, name)
            if not (name in AUTO and isinstance(value, str) and value == "auto"):
                kind(name, value)
        for size in self._hidden:
            integer(1)("hidden_layer_sizes", size)
        takes = self.solver != NEAR_LINEAR or self.alpha in ("auto", 0)
        require(takes, f"alpha is {self.alpha!r}; expected 0 or 'auto', as {NEAR_LINEAR} takes no penalty")

    @property
    def _hidden(self):
        sizes = self.hidden_layer_sizes
        return (sizes,) if isinstance(sizes, Integral) else tuple(sizes)

    def _layers(self, sizes):
        return (Wide if self.solver == NEAR_LINEAR else Perceptron)(sizes, self.activation)

    def _start(self, layers, scaling, drawn, last):
        """Matrices and intercepts on scaled inputs: drawn, or with a warm start those of the last fit."""
        if "coefs_" not in last:
            return drawn
        found, expected = ([tuple(W.shape) for W in coefs] for coefs in (last["coefs_"], drawn[0]))
        same = "classes_" not in last or np.array_equal(last["classes_"], self.classes_)
        require(found == expected and same, "warm_start goes on from the last fit; expected its features, sizes and classes")
        return scaling.unfold(last["coefs_"], last["intercepts_"])

    def _task(self, layers, outputs, table, random):
        solver = solver_named(self.solver)
        given = lambda name: getattr(solver, name) if getattr(self, name) == "auto" else getattr(self, name)  # noqa: E731
        unit = float(np.mean(np.var(host(table.y), axis=0))) if self._numeric else 1.0
        rule = Rule(self.max_iter, given("tol") * unit, given("n_iter_no_change"))
        options = solver, self.learning_rate_init, unknowns(layers.network, table.n), "32" in str(table.x.dtype)
        methods = optimizer(*options), optimizer(*options, rough=True)
        key = int(random.randint(np.iinfo(np.int32).max))
        return Task(layers, outputs.loss, *methods, given("batch_size"), rule, key, bool(self.verbose))

    def _penalty(self, task, table, total, start, random):
        """ω, given or chosen on the rows to fit, where to begin with it, and how: a fit that has begun ends sooner."""
        if self.solver == NEAR_LINEAR:
            return 0.0, start, task
        if self.alpha != "auto":
            return self.alpha / total, start, task
        if table.n < FEW:
            return MIDDLE, start, task
        l2, start = task.choose(table.single() if self.standardize else table, start, random)
        return l2, start, replace(task, rule=task.rule.halved())

    def _hold_out(self, table, outputs, task, random):
        """The rows to fit and, with early stopping, ``score(params)`` on the others, else None."""
        if not self.early_stopping:
            return table, None
        if table.n < FEW:
            warnings.warn(f"early_stopping holds rows out, and {table.n} are too few; all are fitted", stacklevel=3)
            return table, None
        fitted, held_out = table.split(self.validation_fraction, random)
        y, weights = host(held_out.y) if self._numeric else outputs.codes[held_out.rows], host(held_out.weights)

        def score(params):
            decided = self._decide(task.objective().at(params, held_out.batch).outputs)
            return float(self._metric(y, host(decided), sample_weight=weights))

        return fitted, score

    def _keep(self, found, loss, layers, scaling):
        """The attributes of a fit."""
        self.coefs_, self.intercepts_ = scaling.fold(*layers.parts(found.params))
        self.n_layers_ = len(layers.sizes)
        self.loss_, self.loss_curve_, self.n_iter_ = loss, found.losses, len(found.losses)
        self.validation_scores_ = found.scores
        self.best_validation_score_ = max(found.scores) if found.scores else None
        self.best_loss_ = None if found.scores else min(found.losses)
        if not all(bool(namespace(W).all(namespace(W).isfinite(W))) for W in (*self.coefs_, *self.intercepts_)):
            raise ValueError("the fit ended at weights that are not finite; scale the inputs, or take smaller steps")
        if not found.converged:
            warnings.warn(f"{self.n_iter_} iterations have not converged; raise max_iter", ConvergenceWarning, stacklevel=3)

    def _last_layer(self, X, method):
        """What the last layer gives for X, before its activation: (n, outputs)."""
        check_is_fitted(self)
        h, phi = features(self, X, method), nn.activation(ACTIVATIONS[self.activation]).function
        for i, (W, b) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            h = (h if i == 0 else phi(h)) @ W + b
        return h

    def score(self, X, y, sample_weight=None):
        """The mean accuracy, or R², of the predictions for X (n, d) beside y, a float."""
        return float(self._metric(host(y), host(self.predict(X)), sample_weight=host(sample_weight)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags
