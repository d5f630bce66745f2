"""The inverse of the parameter side's matrix itself, by one Cholesky factor on its smaller side: the route of small systems.

Formula     M = KᵀK/n + Λ,  Λ = λ I + ω D, D ones for weights, zeros for biases, 1/s² for weights of inputs of scale s
            n c > p     M = RᵀR
            n c <= p    M⁻¹ = Λ⁻¹ - Λ⁻¹ Kᵀ (n I + K Λ⁻¹ Kᵀ)⁻¹ K Λ⁻¹,  B the columns of biases of K,
                        (λ + ω) (n I + K Λ⁻¹ Kᵀ) = K Kᵀ + ω/λ B Bᵀ + n (λ + ω) I = RᵀR
            of a layer with s, K₁ = (Δ, A) by rows, the middle term is ΔΔᵀ ∘ A ((λ + ω) Λ₁⁻¹ - I) Aᵀ
Reference   Woodbury, Memorandum 42, Statistical Research Group, Princeton (1950)
Cost        n c > p: n c p² and p³/3 flops, 2 p² a solve; n c <= p: two Gram matrices and (n c)³/3, a product and 2 (n c)² a solve
Deviations  1. By Woodbury's formula Λ⁻¹ takes digits where λ is small: CG around it, whose preconditioner it is, gives them back.
"""

import math
from dataclasses import dataclass

from nearlin._array import namespace, slices, solve_triangular
from nearlin.linalg import sketch_factor
from nearlin.nn import ravel, unravel, without_biases

ENTRIES = 2**22  # of the explicit rows of K that are made at a time


@dataclass(frozen=True, eq=False)
class DirectFactor:
    """R of M where ``J`` is None, else the other R beside λ + ω = ``strength``, K = ``J`` and the diagonal of Λ (p,)."""

    R: object
    strength: float = 1.0
    J: object = None
    diagonal: object = None

    def solve(self, v, strength):
        """M⁻¹ v for a params-shaped tuple."""
        if self.J is None:
            return unravel(self._by_factor(ravel(v)), v)
        scaled = ravel(v) / self.diagonal
        across = self.J.rmatvec(self._by_factor(self.J.matvec(unravel(scaled, v))))
        return unravel(scaled - self.strength * ravel(across) / self.diagonal, v)

    def _by_factor(self, b):
        return solve_triangular(self.R, solve_triangular(self.R, b, trans=True))

    def effective_dimension(self, key):
        """NaN: nothing estimates it."""
        return math.nan


def direct_matrices(J, layers):
    """What every factor of a step is made from, for K = ``J`` with dense ``layers``: KᵀK (p, p), or K Kᵀ and B Bᵀ (n c, n c).

    A first layer with an input scale is not in B, but a pair of its own: ΔΔᵀ (n c, n c) and A (n, inp + 1).
    """
    N, p = J.shape
    if p < N:
        parts = slices(J.samples, max(1, ENTRIES // (p * J.outputs)))
        return (sum(_outer(namespace(K).matrix_transpose(K)) for K in (_explicit(J.factors(rows)) for rows in parts)),)
    gram, of_biases, first, shape = None, None, None, (J.samples, J.outputs, J.samples, J.outputs)
    for block, spec in zip(J.factors(slice(0, J.samples)), layers, strict=True):
        signals, inputs = _outer(block.left), _outer(block.inputs)
        xp = namespace(signals)
        gram = _plus(gram, xp.reshape(xp.reshape(signals, shape) * inputs[:, None, :, None], (N, N)))
        if spec.input_scale:
            first = signals, block.inputs
        elif spec.bias:
            of_biases = _plus(of_biases, signals)
    return gram, of_biases, first


def direct_factor(matrices, J, layers, params, damping, l2):
    """The `DirectFactor` at λ = ``damping`` and ω = ``l2``, and how it was factored, as `nearlin.linalg.sketch_factor` says."""
    ones = tuple(namespace(W).ones_like(W) for W in params)
    diagonal = damping + l2 * ravel(without_biases(ones, layers))
    xp = namespace(diagonal)
    if len(matrices) == 1:
        eye = xp.eye(diagonal.shape[0], dtype=diagonal.dtype, device=diagonal.device)
        R, how = sketch_factor(matrices[0] / J.samples + diagonal * eye, 0.0)
        return DirectFactor(R), how
    gram, of_biases, first = matrices
    gram = gram if of_biases is None or not l2 else gram + l2 / damping * of_biases
    gram = gram if first is None or not l2 else gram + _in_units(*first, (damping + l2) / diagonal[: layers[0].shape[1]] - 1, J)
    R, how = sketch_factor(gram, J.samples * (damping + l2))
    return DirectFactor(R, damping + l2, J, diagonal), how


def _explicit(blocks):
    """The rows (b c, p) of K, layers side by side."""
    rows = [block.explicit() for block in blocks]
    xp = namespace(rows[0])
    return xp.concat([xp.reshape(part, (-1, part.shape[2])) for part in rows], axis=1)


def _in_units(signals, inputs, weights, J):
    """ΔΔᵀ ∘ A diag(``weights``) Aᵀ."""
    xp, n, c = namespace(signals), J.samples, J.outputs
    inputs = (inputs * weights) @ xp.matrix_transpose(inputs)
    return xp.reshape(xp.reshape(signals, (n, c, n, c)) * inputs[:, None, :, None], signals.shape)


def _outer(a):
    """a aᵀ, where the backend sees that it is symmetric."""
    return a @ namespace(a).matrix_transpose(a)


def _plus(total, part):
    return part if total is None else total + part
