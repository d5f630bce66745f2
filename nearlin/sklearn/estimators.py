"""`MLPClassifier` and `MLPRegressor`: scikit-learn's perceptrons, fitted by the optimizers of this library."""

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from nearlin import nn
from nearlin._array import asarray, namespace, require
from nearlin.sklearn.base import PARAMETERS, BasePerceptron
from nearlin.sklearn.fitting import Outputs
from nearlin.sklearn.inputs import host, take
from nearlin.sklearn.solvers import NEAR_LINEAR

has_probabilities = available_if(lambda self: self.solver != NEAR_LINEAR)


class MLPClassifier(ClassifierMixin, BasePerceptron):
    __doc__ = f"""A perceptron for classes, or for several labels at once, fitted by Gauss-Newton steps on a cross-entropy.

    The solver ``"near-linear"`` fits targets of ±1 by least squares, and has no probabilities.
{PARAMETERS}    classes_ : array
        The classes, sorted.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from nearlin.sklearn import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> MLPClassifier(random_state=0).fit(X, y).score(X, y) > 0.95
    True
    """

    _numeric = False
    _metric = staticmethod(accuracy_score)
    score = BasePerceptron.score

    def _read_targets(self, y):
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        require(kind != "multiclass-multioutput", "y has several columns of classes; expected one, or an indicator of labels")
        self._several = kind == "multilabel-indicator"
        if self._several:
            self.classes_, codes = np.arange(y.shape[1]), np.asarray(y, dtype=np.int64)
        else:
            self.classes_, codes = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        k, labels = len(self.classes_), None if self._several else codes
        if self.solver != NEAR_LINEAR and k > 2 and not self._several:
            return Outputs(codes, codes.astype(np.int64), labels, k, "softmax", nn.SoftmaxCrossEntropy())
        indicator = codes if self._several else codes[:, None] == (np.arange(k) if k > 2 else 1)
        if self.solver == NEAR_LINEAR:
            return Outputs(codes, 2.0 * indicator - 1, labels, indicator.shape[1], "identity", nn.SquaredLoss())
        return Outputs(codes, 1.0 * indicator, labels, indicator.shape[1], "logistic", nn.SigmoidCrossEntropy())

    def _decide(self, z):
        """Positions in ``classes_`` (n,), or an indicator (n, k), for what the last layer gives, z (n, outputs)."""
        xp = namespace(z)
        if z.shape[1] > 1 and not self._several:
            return xp.argmax(z, axis=1)
        positive = xp.astype(z > 0, xp.int64)
        if self._several:
            return positive
        return positive[:, 0] if len(self.classes_) > 1 else 0 * positive[:, 0]

    def predict(self, X):
        """Classes (n,), or an indicator (n, k) of several labels, for X (n, d)."""
        z = self._last_layer(X, "predict")
        chosen = self._decide(z)
        if self._several:
            return chosen
        if self.classes_.dtype.kind in "iufb":
            return take(asarray(self.classes_, like=z, dtype=self.classes_.dtype), host(chosen))
        return self.classes_[host(chosen)]

    @has_probabilities
    def predict_proba(self, X):
        """Probabilities (n, classes) in the order of ``classes_``; of several labels those of each."""
        return self._probabilities(X, "predict_proba")

    @has_probabilities
    def predict_log_proba(self, X):
        """Logarithms of `predict_proba`."""
        p = self._probabilities(X, "predict_log_proba")
        return namespace(p).log(p)

    def _probabilities(self, X, method):
        z = self._last_layer(X, method)
        xp = namespace(z)
        if self.out_activation_ == "softmax":
            grown = xp.exp(z - xp.max(z, axis=1, keepdims=True))
            return grown / xp.sum(grown, axis=1, keepdims=True)
        p = nn.activation("sigmoid").function(z)
        if self._several:
            return p
        return xp.concat([1 - p, p], axis=1) if len(self.classes_) > 1 else xp.ones_like(p)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, BasePerceptron):
    __doc__ = f"""A perceptron for one or several real targets, fitted by Gauss-Newton steps on half the squared error.

    The error is summed over targets, as scikit-learn's gradients have it.
{PARAMETERS}
    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from nearlin.sklearn import MLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> MLPRegressor(random_state=0).fit(X, y).predict(X).shape
    (442,)
    """

    _numeric = True
    _metric = staticmethod(r2_score)
    score = BasePerceptron.score

    def _read_targets(self, y):
        self._flat = y.ndim == 1 or y.shape[1] == 1
        if self._flat:
            y = column_or_1d(y, warn=True)[:, None]
        y = y.astype(np.float64, copy=False)
        return Outputs(y, y, None, y.shape[1], "identity", nn.SquaredLoss())

    def _decide(self, z):
        return z

    def predict(self, X):
        """Targets (n,), or (n, k) where they were, for X (n, d)."""
        z = self._last_layer(X, "predict")
        return z[:, 0] if self._flat else z

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
