"""The Jacobian as an operator of shape (n c, p) in factored form; nothing of size n x p exists outside `to_dense`.

Row (i, k) of layer l is Δ_l[i, k, :] ⊗ A_{l-1}[i, :]: the layer's output signal times its input, so that with
the left factors Δ̂_l (n c, out) and the right factors A_{l-1} (n, inp)

    J v    = sum_l rowsum(Δ̂_l ∘ (A_{l-1} V_lᵀ))
    Jᵀ u   = (Δ̂_l ∘ u)ᵀ A_{l-1}                                  for every l
    J Jᵀ   = sum_l (A_{l-1} A_{l-1}ᵀ ⊗ 1 1ᵀ) ∘ (Δ̂_l Δ̂_lᵀ).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from nearlin._array import namespace, slices


class Factor(NamedTuple):
    """Factors of one layer's Jacobian block: inputs A (n, inp) and signals Δ (n, c, out)."""

    inputs: object
    signals: object


class Jacobian:
    """What every Jacobian offers; a subclass gives the products, `gram`, `fold_left` and `factors`."""

    def gram_matvec(self, u):
        """J Jᵀ u for ``u`` (n c,)."""
        return self.gram_matvec_with_adjoint(u)[0]

    def gram_matvec_with_adjoint(self, u):
        """J Jᵀ u together with Jᵀ u, which it passes through."""
        v = self.rmatvec(u)
        return self.matvec(v), v

    def ggn_matvec(self, v):
        """Jᵀ J v for a params-shaped ``v``: the Gauss-Newton product Jᵀ H J v where J carries the root of H."""
        return self.rmatvec(self.matvec(v))

    def sketch(self, S):
        """J Sᵀ (n c, s) for a drawn sketch ``S`` of p coordinates, or of this Jacobian's `factor_shapes`.

        Memory: s floats per row, and one chunk of rows in the sketch's own working form.
        """
        parts = [self._sketch_rows(S, rows) for rows in slices(self.samples, self._chunk(S))]
        return namespace(parts[0]).concat(parts, axis=0)

    def _sketch_rows(self, S, rows):
        factors = self.factors(rows)
        if hasattr(S, "rows"):
            return sum(S.rows(layer, left, right) for layer, (left, right) in enumerate(factors))
        xp = namespace(factors[0][0])
        return xp.matrix_transpose(S @ xp.matrix_transpose(_explicit(factors)))

    def _chunk(self, S):
        """Samples at a time, so that a chunk stays near 64 MB."""
        width = sum(left + right for left, right in self.factor_shapes) if hasattr(S, "rows") else self.shape[1]
        return max(1, 2**23 // (width * (self.shape[0] // self.samples)))

    def sketch_gram(self, S):
        """The sketched Gram matrix J SᵀS Jᵀ (n c, n c).

        For a sketch of the left factors alone it is the Hadamard product (A Aᵀ) ∘ (Δ̂ S₁ᵀS₁ Δ̂ᵀ), summed over layers; by the
        Schur product theorem it inherits the distortion of S₁.
        """
        if not hasattr(S, "left"):
            Y = self.sketch(S)
            return Y @ namespace(Y).matrix_transpose(Y)
        total = None
        for layer in range(len(self.factor_shapes)):
            term = self._hadamard(self.fold_left(layer, S), layer)
            total = term if total is None else total + term
        return total

    def _hadamard(self, left, layer):
        """(A Aᵀ ⊗ 1 1ᵀ) ∘ (left leftᵀ), the larger product first, so that two n x n arrays are alive at most."""
        gram = left @ namespace(left).matrix_transpose(left)
        gram *= self.input_gram(layer)
        return gram

    def to_dense(self):
        """J as an explicit (n c, p) matrix: for tests and small problems."""
        return _explicit(self.factors(slice(0, self.samples)))


def _explicit(factors):
    """Rows left_l[i, :] ⊗ right_l[i, :], layers side by side."""
    xp = namespace(factors[0][0])
    blocks = [xp.reshape(left[:, :, None] * right[:, None, :], (left.shape[0], -1)) for left, right in factors]
    return xp.concat(blocks, axis=1)


@dataclass(frozen=True)
class LayeredJacobian(Jacobian):
    """The Jacobian of a layered network, from one `Factor` per trainable layer."""

    layers: tuple

    @property
    def samples(self):
        return self.layers[0].inputs.shape[0]

    @cached_property
    def factor_shapes(self):
        """(out, inp) per layer: the widths of the left and right factors."""
        return tuple((layer.signals.shape[2], layer.inputs.shape[1]) for layer in self.layers)

    @property
    def shape(self):
        n, c, _ = self.layers[0].signals.shape
        return n * c, sum(out * inp for out, inp in self.factor_shapes)

    def matvec(self, v):
        """J v (n c,) for a params-shaped tuple ``v``; 2 n p flops (scalar output)."""
        xp = namespace(*v)
        total = 0.0
        for (A, signals), V in zip(self.layers, v, strict=True):
            total = total + (signals @ (A @ xp.matrix_transpose(V))[:, :, None])[:, :, 0]
        return xp.reshape(total, (-1,))

    def rmatvec(self, u):
        """Jᵀ u, a params-shaped tuple, for ``u`` (n c,); 2 n p flops (scalar output)."""
        xp = namespace(u)
        n = self.samples
        u = xp.reshape(u, (n, 1, -1))
        return tuple(xp.matrix_transpose((u @ signals)[:, 0, :]) @ A for A, signals in self.layers)

    def gram(self, dtype=None):
        """J Jᵀ (n c, n c) as a sum of Hadamard products, formed in ``dtype`` (a name); 2 (n c)² sum(inp + out) flops."""
        if dtype is not None:
            xp = namespace(self.layers[0].inputs)
            return xp.astype(self.astype(dtype).gram(), self.layers[0].inputs.dtype, copy=False)
        return sum(self._hadamard(self._left(layer), layer) for layer in range(len(self.layers)))

    def astype(self, dtype):
        """The same Jacobian with factors in another dtype, given by name."""
        xp = namespace(self.layers[0].inputs)
        cast = lambda a: xp.astype(a, getattr(xp, dtype), copy=False)  # noqa: E731
        return LayeredJacobian(tuple(Factor(cast(A), cast(signals)) for A, signals in self.layers))

    def _left(self, layer, rows=slice(None)):
        signals = self.layers[layer].signals[rows, :, :]
        return namespace(signals).reshape(signals, (-1, signals.shape[2]))

    def _repeat(self, A):
        """One row per (sample, output)."""
        return namespace(A).repeat(A, self.shape[0] // self.samples, axis=0)

    def factors(self, rows):
        """Left and right factors of every layer for a slice of samples."""
        return tuple((self._left(l, rows), self._repeat(layer.inputs[rows, :])) for l, layer in enumerate(self.layers))

    def input_gram(self, layer):
        """A Aᵀ with every entry repeated for the c x c pairs of outputs."""
        A = self._repeat(self.layers[layer].inputs)
        return A @ namespace(A).matrix_transpose(A)

    def fold_left(self, layer, S):
        """Δ̂_l S₁ᵀ (n c, s)."""
        _, values = S.left(layer, self._left(layer))
        return values
