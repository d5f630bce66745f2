r"""Square roots of the output Hessian of a sample's loss: H = C Cᵀ (c, c), one for every sample.

Formula     squared           C = s I, s = 1, or 1/√c where the loss is averaged over outputs
            sigmoid           C = diag(√(p (1 - p)))
            softmax           C = diag(√p) - p √pᵀ,   C C ᵀ = diag(p) - p pᵀ,   C √p = 0
            The residual r̃ of the Gauss-Newton system has C r̃ = dl/dz. Of samples with weights w, C is √w times these, and so
            is r̃.
Reference   Schraudolph, Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent, Neural Computation 14 (2002)
Cost        1, 1, 5 flops an entry and product, and 5 more for the softmax's Hᵀ; memory n c
Deviations  1. The softmax's Cᵀ and H see v less its entry at the likeliest class: they annihilate constants, and p ∘ (v - p·v)
               then keeps its digits where one p is nearly 1.

Arrays are (n, c), or (n, c, k) for k vectors a sample.
"""

from dataclasses import dataclass

from nearlin._array import namespace


def _along(a, v):
    """``a`` (n, c), shaped to act on ``v`` (n, c) or (n, c, ...)."""
    return namespace(a).reshape(a, (*a.shape, *(1,) * (v.ndim - 2)))


@dataclass(frozen=True)
class ScaledIdentity:
    """C = ``scale`` I."""

    scale: float = 1.0

    def apply(self, v):
        """C v."""
        return v if self.scale == 1 else self.scale * v

    adjoint = apply

    def hessian(self, v):
        """H v."""
        return v if self.scale == 1 else self.scale**2 * v

    def astype(self, dtype):
        """The same root."""
        return self

    def __getitem__(self, rows):
        """The roots of some samples."""
        return self


@dataclass(frozen=True, eq=False)
class WeightedRoot:
    """C = √w ``root`` for samples of weights w; ``scale`` (n,) holds √w."""

    root: object
    scale: object

    def _scaled(self, v):
        return namespace(v).reshape(self.scale, (-1, *(1,) * (v.ndim - 1))) * v

    def apply(self, v):
        """C v."""
        return self._scaled(self.root.apply(v))

    def adjoint(self, v):
        """Cᵀ v."""
        return self._scaled(self.root.adjoint(v))

    def hessian(self, v):
        """H v."""
        return self._scaled(self._scaled(self.root.hessian(v)))

    def astype(self, dtype):
        """The same root in another dtype of the array API."""
        return WeightedRoot(self.root.astype(dtype), namespace(self.scale).astype(self.scale, dtype, copy=False))

    def __getitem__(self, rows):
        """The roots of some samples."""
        return WeightedRoot(self.root[rows], self.scale[rows])


@dataclass(frozen=True, eq=False)
class DiagonalRoot:
    """C = diag(``root``), root (n, c)."""

    root: object

    def apply(self, v):
        """C v."""
        return _along(self.root, v) * v

    adjoint = apply

    def hessian(self, v):
        """H v."""
        return _along(self.root * self.root, v) * v

    def astype(self, dtype):
        """The same root in another dtype of the array API."""
        return DiagonalRoot(namespace(self.root).astype(self.root, dtype, copy=False))

    def __getitem__(self, rows):
        """The roots of some samples."""
        return DiagonalRoot(self.root[rows, :])


@dataclass(frozen=True, eq=False)
class SoftmaxRoot:
    """C = diag(q) - q² qᵀ for the roots q (n, c) of the classes' probabilities."""

    root: object

    def _dot(self, a, v):
        return namespace(v).sum(_along(a, v) * v, axis=1, keepdims=True)

    def _shifted(self, v):
        """v less its entry at the likeliest class (the mean of them where several are equal)."""
        xp = namespace(v)
        likeliest = xp.astype(self.root == xp.max(self.root, axis=1, keepdims=True), v.dtype)
        return v - self._dot(likeliest / xp.sum(likeliest, axis=1, keepdims=True), v)

    def apply(self, v):
        """C v = q ∘ v - q² (q · v)."""
        q = _along(self.root, v)
        return q * (v - q * self._dot(self.root, v))

    def adjoint(self, v):
        """Cᵀ v = q ∘ (v - q² · v)."""
        v = self._shifted(v)
        return _along(self.root, v) * (v - self._dot(self.root * self.root, v))

    def hessian(self, v):
        """H v = q² ∘ (v - q² · v)."""
        return _along(self.root, v) * self.adjoint(v)

    def astype(self, dtype):
        """The same root in another dtype of the array API."""
        return SoftmaxRoot(namespace(self.root).astype(self.root, dtype, copy=False))

    def __getitem__(self, rows):
        """The roots of some samples."""
        return SoftmaxRoot(self.root[rows, :])
