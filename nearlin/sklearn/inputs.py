"""What an estimator is given: NumPy-likes and frames by scikit-learn's gate, arrays of other backends by this library's own.

Rows follow X: targets and weights are moved next to it. Rows of weight 0 are left out before anything is computed.
"""

from numbers import Real
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import validate_data

from nearlin._array import asarray, check, describe, device, is_array, is_numpy, namespace, to_numpy

KINDS = (np.float64, np.float32)


class Rows(NamedTuple):
    """Checked rows: X (n, d) on its backend, targets (n,) or (n, k) and positive weights (n,), or None, as NumPy arrays."""

    X: object
    y: np.ndarray
    weights: np.ndarray | None

    @property
    def total(self):
        """The sum of the weights: n in the sense of the penalty."""
        return self.X.shape[0] if self.weights is None else float(np.sum(self.weights))


def foreign(X):
    """Whether X is an array of another backend than NumPy."""
    return is_array(X) and not is_numpy(X)


def host(a):
    """An array of any backend as a NumPy array; lists, frames and None as they are."""
    return to_numpy(a) if foreign(a) else a


def read(estimator, X, y, sample_weight, numeric, reset):
    """The `Rows` to fit on; ``numeric`` targets are turned into floats, and ``reset`` forgets the features of an earlier fit."""
    y, sample_weight = host(y), host(sample_weight)
    if not foreign(X):
        X, y = validate_data(estimator, X, y, dtype=KINDS, multi_output=True, y_numeric=numeric, reset=reset)
    else:
        y = _beside(estimator, X, y, numeric, reset)
    weights = None if sample_weight is None else _weights(sample_weight, X)
    if weights is None or np.all(weights > 0):
        return Rows(X, y, weights)
    kept = np.flatnonzero(weights)
    return Rows(take(X, kept), y[kept], weights[kept])


def _beside(estimator, X, y, numeric, reset):
    check(ndim={"X": 2}, X=X)
    _count_features(estimator, X, reset)
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    y = check_array(y, ensure_2d=False, dtype=np.float64 if numeric else None, input_name="y")
    check_consistent_length(np.empty(X.shape[0]), y)
    return y


def _count_features(estimator, X, reset):
    if reset:
        estimator.n_features_in_ = X.shape[1]
        if hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
    elif X.shape[1] != estimator.n_features_in_:
        name, expected = type(estimator).__name__, estimator.n_features_in_
        raise ValueError(f"X has {X.shape[1]} features, but {name} is expecting {expected} features as input")


def _weights(sample_weight, X):
    if isinstance(sample_weight, Real):
        sample_weight = np.full(X.shape[0], sample_weight)
    weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weights.shape != (X.shape[0],):
        raise ValueError(f"sample_weight has shape {weights.shape}; expected ({X.shape[0]},), a weight for every row")
    if np.any(weights < 0):
        raise ValueError(f"sample_weight holds {weights.min():g}; expected weights of at least zero")
    if not np.any(weights):
        raise ValueError("all weights in sample_weight are zero; expected at least one non-zero weight")
    return weights


def features(estimator, X, method):
    """X (n, d) for a prediction by ``method``, on the backend and device that the estimator was fitted on."""
    like = estimator.coefs_[0]
    if foreign(X) or foreign(like):
        if not is_array(X) or namespace(X) is not namespace(like) or device(X) != device(like):
            raise ValueError(
                f"inputs to {type(estimator).__name__}.{method}() must use the same namespace and the same device as those "
                f"passed to fit(); found a {describe(X)}, expected arrays like a {describe(like)}"
            )
        check(ndim={"X": 2}, X=X)
        _count_features(estimator, X, reset=False)
    else:
        X = validate_data(estimator, X, dtype=KINDS, reset=False)
    xp = namespace(like)
    return xp.astype(X, like.dtype, copy=False)


def take(a, rows):
    """Some rows of an array, given by a NumPy array of their numbers."""
    if is_numpy(a):
        return a[rows]
    return namespace(a).take(a, asarray(rows, like=a, dtype="int64"), axis=0)
