"""Losses: means over samples of a per-sample loss, weighted ones where the samples have weights of mean 1."""

import math
from dataclasses import dataclass

from nearlin._array import (
    check,
    check_indices,
    describe,
    flag,
    is_integer,
    look,
    namespace,
    normal,
    settle,
    unguarded_methods,
    uniform,
)
from nearlin.nn.activations import activation
from nearlin.nn.output_root import DiagonalRoot, ScaledIdentity, SoftmaxRoot
from nearlin.nn.polynomials import derivative, product, supremum

_sigmoid, _softplus = activation("sigmoid").function, activation("softplus").function


def _same_shape(y, outputs):
    """``y`` as (n, c) beside ``outputs`` (n, c); (n,) is accepted where c = 1. `ValueError` on other shapes."""
    xp = namespace(y, outputs)
    if y.ndim == 1 and outputs.shape[1] == 1 and y.shape[0] == outputs.shape[0]:
        return xp.reshape(y, outputs.shape)
    if y.shape != outputs.shape:
        raise ValueError(f"y is a {describe(y)}; expected shape {tuple(outputs.shape)} to match the network's outputs")
    return y


def _check_between(y, low, high):
    def judge(least, most):
        if least < low or most > high:
            raise ValueError(f"y lies in [{least:.4g}, {most:.4g}]; expected numbers in [{low}, {high}]")

    xp = namespace(y)
    look(judge, xp.min(y), xp.max(y))


def _weighed(values, weights):
    """``values`` of the samples, (n,) or (n, c), times their weights (n,), where there are any."""
    if weights is None:
        return values
    return values * (weights if values.ndim == 1 else weights[:, None])


def _plogp(p):
    """p log p, 0 at p = 0."""
    xp = namespace(p)
    return p * xp.log(xp.where(p > 0, p, 1.0))


def _one_hot(labels, outputs):
    """Rows of the unit matrix (n, c), by labels (n,), like ``outputs`` (n, c)."""
    xp = namespace(labels, outputs)
    classes = xp.arange(outputs.shape[1], dtype=labels.dtype, device=labels.device)
    return xp.astype(labels[:, None] == classes[None, :], outputs.dtype)


@unguarded_methods
@dataclass(frozen=True)
class SquaredLoss:
    """Half the squared error, summed over outputs (or averaged over them) and averaged over samples.

    L = 1/(2n) sum_i ||f_i - y_i||², divided by c where ``average``. Its Gauss-Newton residual is r = f - y (over √c), its output
    Hessian the identity (over c), and its predictive distribution N(f, I) (N(f, c I)).
    """

    average: bool = False

    def __post_init__(self):
        settle(self, average=flag)

    def check_targets(self, y, params):
        """`BackendError`, `TypeError` or `ValueError` where y are no float targets (n,) or (n, c) next to ``params``."""
        check(ndim={"y": (1, 2)}, beside=("params[0]", params[0]), y=y)

    def targets(self, y, outputs):
        """``y`` as (n, c) beside ``outputs`` (n, c); (n,) is accepted where c = 1. `ValueError` on other shapes."""
        return _same_shape(y, outputs)

    def _scale(self, outputs):
        return 1 / outputs.shape[1] if self.average else 1.0

    def value(self, outputs, y, weights=None):
        """The mean loss, a 0-d array, for ``outputs`` and ``y`` of shape (n, c)."""
        xp = namespace(outputs)
        return xp.sum(_weighed((outputs - y) ** 2, weights)) / (2 * outputs.shape[0] * (outputs.shape[1] if self.average else 1))

    def gradient(self, outputs, y):
        """Per-sample derivative by the outputs, (n, c), without the 1/n of the mean."""
        return (outputs - y) * self._scale(outputs) if self.average else outputs - y

    def residual(self, outputs, y):
        """The residual r of the Gauss-Newton system, (n, c): L = ||r||² / 2n."""
        return (outputs - y) * math.sqrt(self._scale(outputs)) if self.average else outputs - y

    def root(self, outputs):
        """The square root of the output Hessian, a multiple of the identity."""
        return ScaledIdentity(math.sqrt(self._scale(outputs)))

    def draw(self, key, outputs, first=0):
        """Targets (n, c) drawn from the model's own output distribution N(f, I), or N(f, c I) where averaged.

        ``outputs`` are those of a batch from row ``first`` on.
        """
        n, c = outputs.shape
        return outputs + normal(key, (first + n, c), outputs)[first:, :] / math.sqrt(self._scale(outputs))

    def least(self, y):
        """The smallest mean loss that any outputs reach: 0."""
        return 0.0

    def curvature_bound(self, q, outputs):
        """The largest |D²L[u, w]| of one sample over ||u||_q, ||w||_q <= 1: 1, 1, c for q = 1, 2, ∞ (over c where averaged)."""
        return (outputs if q == math.inf else 1) / (outputs if self.average else 1)

    def slope_bound(self, q, outputs, deviation):
        """The largest dual norm of the derivative of one sample, for |f - y| <= one of the rows of ``deviation()`` (k, c)."""
        e = deviation()
        xp = namespace(e)
        sizes = xp.max(e) if q == 1 else xp.sum(e, axis=1) if q == math.inf else xp.linalg.vector_norm(e, axis=1)
        return float(xp.max(sizes)) / (outputs if self.average else 1)

    def folded_bounds(self, phi, low, high):
        """Suprema of |dL/da| and |d²L/da²| of one output f = phi(a), for targets in [``low``, ``high``]; without 1/c.

        For an activation whose derivative is a polynomial P of it: dL/da = (f - y) P(f), d²L/da² = P(f) (d/df)(f - y) P(f).
        """
        slopes = [product((-y, 1), phi.slope) for y in (low, high)]  # linear in y: the suprema are at its ends
        curvatures = [product(phi.slope, derivative(slope)) for slope in slopes]
        return tuple(max(supremum(f, phi.low, phi.h0) for f in pair) for pair in (slopes, curvatures))


@unguarded_methods
@dataclass(frozen=True)
class SigmoidCrossEntropy:
    """Binary cross-entropy of independent outputs with logits z, summed over outputs and averaged over samples.

    L = 1/n sum_ik log(1 + exp z_ik) - t_ik z_ik for targets t in [0, 1]; predictive distribution Bernoulli(sigmoid z).
    """

    def check_targets(self, y, params):
        """`BackendError`, `TypeError` or `ValueError` where y are no targets (n,) or (n, c) in [0, 1] next to ``params``."""
        check(ndim={"y": (1, 2)}, beside=("params[0]", params[0]), y=y)
        _check_between(y, 0, 1)

    def targets(self, y, outputs):
        """``y`` as (n, c) beside ``outputs`` (n, c); (n,) is accepted where c = 1. `ValueError` on other shapes."""
        return _same_shape(y, outputs)

    def value(self, outputs, y, weights=None):
        """The mean loss, a 0-d array, for logits and targets of shape (n, c)."""
        return namespace(outputs).sum(_weighed(_softplus(outputs) - y * outputs, weights)) / outputs.shape[0]

    def gradient(self, outputs, y):
        """Per-sample derivative by the logits, sigmoid(z) - t (n, c), without the 1/n of the mean."""
        return _sigmoid(outputs) - y

    def residual(self, outputs, y):
        """r̃ = (p - t) / √(p (1 - p)) (n, c); not finite where p is 0 or 1 in the arithmetic at hand and t is not."""
        return (_sigmoid(outputs) - y) / self.root(outputs).root

    def root(self, outputs):
        """The square root √(p (1 - p)) of the output Hessian, which keeps its digits where that is small."""
        xp = namespace(outputs)
        e = xp.exp(-0.5 * xp.abs(outputs))
        return DiagonalRoot(e / (1.0 + e * e))

    def draw(self, key, outputs, first=0):
        """Targets (n, c) of zeros and ones drawn from Bernoulli(sigmoid z), for logits of a batch from row ``first`` on."""
        xp, (n, c) = namespace(outputs), outputs.shape
        return xp.astype(uniform(key, (n, c), outputs, first=first * c) < _sigmoid(outputs), outputs.dtype)

    def least(self, y):
        """The smallest mean loss that any outputs reach: the entropy of the targets, summed over outputs."""
        return -float(namespace(y).sum(_plogp(y) + _plogp(1 - y))) / y.shape[0]

    def curvature_bound(self, q, outputs):
        """The largest |D²L[u, w]| of one sample over ||u||_q, ||w||_q <= 1: 1/4, 1/4, c/4 for q = 1, 2, ∞."""
        return 0.25 * (outputs if q == math.inf else 1)

    def slope_bound(self, q, outputs, deviation):
        """The largest dual norm of the derivative of one sample: 1, √c, c for q = 1, 2, ∞; ``deviation`` is not asked for."""
        return {1: 1.0, 2: math.sqrt(outputs), math.inf: float(outputs)}[q]


@unguarded_methods
@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """Cross-entropy of one of c classes with logits z, averaged over samples.

    L = 1/n sum_i log sum_k exp z_ik - sum_k t_ik z_ik for probabilities t (n, c), or integer labels (n,).
    """

    def check_targets(self, y, params):
        """`BackendError`, `TypeError` or `ValueError` where y are neither labels (n,) nor probabilities (n, c)."""
        if is_integer(y):
            check_indices("y", y, params[0])
        else:
            check(ndim={"y": 2}, beside=("params[0]", params[0]), y=y)
            _check_between(y, 0, 1)

    def targets(self, y, outputs):
        """Probabilities (n, c), one-hot for integer labels (n,); `ValueError` for a label out of range or a wrong shape."""
        xp = namespace(y, outputs)
        if not is_integer(y):
            y = _same_shape(y, outputs)
            off = float(xp.max(xp.abs(xp.sum(y, axis=1) - 1)))
            if off > 1e-3:
                raise ValueError(f"rows of y sum to 1 within {off:.3g}; expected probabilities, which sum to 1")
            return y
        check_indices("y", y, outputs, outputs.shape[1])
        return _one_hot(y, outputs)

    def _shifted(self, outputs):
        """Logits less the largest of their row (n, c): nothing overflows, and a small loss is no difference of large ones."""
        return outputs - namespace(outputs).max(outputs, axis=1, keepdims=True)

    def _probabilities(self, outputs):
        """softmax(z), (n, c)."""
        xp = namespace(outputs)
        grown = xp.exp(self._shifted(outputs))
        return grown / xp.sum(grown, axis=1, keepdims=True)

    def value(self, outputs, y, weights=None):
        """The mean loss, a 0-d array, for logits and probabilities of shape (n, c)."""
        xp = namespace(outputs)
        z = self._shifted(outputs)
        losses = xp.log(xp.sum(xp.exp(z), axis=1)) - xp.sum(y * z, axis=1)
        return xp.sum(_weighed(losses, weights)) / outputs.shape[0]

    def gradient(self, outputs, y):
        """Per-sample derivative by the logits, softmax(z) - t (n, c), without the 1/n of the mean."""
        return self._probabilities(outputs) - y

    def residual(self, outputs, y):
        """r̃ = √p - t/√p (n, c); grows without bound, and is not finite in the end, as p of a target's class goes to 0."""
        xp, q = namespace(outputs), self.root(outputs).root
        return q - xp.where(y > 0, y / xp.where(y > 0, q, 1.0), 0.0)

    def root(self, outputs):
        """The square root diag(√p) - p √pᵀ of the output Hessian."""
        return SoftmaxRoot(namespace(outputs).sqrt(self._probabilities(outputs)))

    def draw(self, key, outputs, first=0):
        """One-hot targets (n, c) drawn from the probabilities softmax(z), for logits of a batch from row ``first`` on."""
        xp = namespace(outputs)
        n, c = outputs.shape
        below = xp.cumulative_sum(self._probabilities(outputs), axis=1)[:, : c - 1]
        labels = xp.sum(xp.astype(below <= uniform(key, (n, 1), outputs, first=first), xp.int64), axis=1)
        return _one_hot(labels, outputs)

    def least(self, y):
        """The smallest mean loss that any outputs reach: the entropy of the targets, 0 for labels."""
        return 0.0 if is_integer(y) else -float(namespace(y).sum(_plogp(y))) / y.shape[0]

    def curvature_bound(self, q, outputs):
        """The largest |D²L[u, w]| of one sample over ||u||_q, ||w||_q <= 1: 1/4, 1/2, 1 for q = 1, 2, ∞."""
        return {1: 0.25, 2: 0.5, math.inf: 1.0}[q]

    def slope_bound(self, q, outputs, deviation):
        """The largest dual norm of the derivative of one sample: 1, √2, 2 for q = 1, 2, ∞; ``deviation`` is not asked for."""
        return {1: 1.0, 2: math.sqrt(2), math.inf: 2.0}[q]


LOSSES = {"squared": SquaredLoss, "sigmoid-cross-entropy": SigmoidCrossEntropy, "softmax-cross-entropy": SoftmaxCrossEntropy}
