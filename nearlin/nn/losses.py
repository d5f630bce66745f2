"""Losses: means over samples of a per-sample loss."""

from dataclasses import dataclass

from nearlin._array import describe, namespace, normal


@dataclass(frozen=True)
class SquaredLoss:
    """Half the squared error, summed over outputs and averaged over samples.

    L = 1/(2n) sum_i ||f_i - y_i||². Its Gauss-Newton residual is r = f - y, its output Hessian the identity, and its
    predictive distribution N(f, I).
    """

    def targets(self, y, outputs):
        """``y`` as (n, c) beside ``outputs`` (n, c); (n,) is accepted where c = 1. `ValueError` on other shapes."""
        xp = namespace(y, outputs)
        if y.ndim == 1 and outputs.shape[1] == 1 and y.shape[0] == outputs.shape[0]:
            return xp.reshape(y, outputs.shape)
        if y.shape != outputs.shape:
            raise ValueError(f"y is a {describe(y)}; expected shape {tuple(outputs.shape)} to match the network's outputs")
        return y

    def value(self, outputs, y):
        """The mean loss, a 0-d array, for ``outputs`` and ``y`` of shape (n, c)."""
        xp = namespace(outputs)
        return xp.sum((outputs - y) ** 2) / (2 * outputs.shape[0])

    def gradient(self, outputs, y):
        """Per-sample derivative by the outputs, (n, c), without the 1/n of the mean."""
        return outputs - y

    def residual(self, outputs, y):
        """The residual r of the Gauss-Newton system, (n, c)."""
        return outputs - y

    def weigh(self, jacobian, outputs):
        """The Jacobian times the square root of the output Hessian: unchanged, as that is the identity."""
        return jacobian

    def draw(self, key, outputs):
        """Targets (n, c) drawn from the model's own output distribution N(f, I)."""
        return outputs + normal(key, tuple(outputs.shape), outputs)
