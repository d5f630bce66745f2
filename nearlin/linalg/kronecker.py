"""Solves with a damped Kronecker product A ⊗ G: layers whose curvature is a product of an input and an output factor.

Formula     A (D, D) input side, G (o, o) output side, M (o, D), all curvature symmetric positive semidefinite
            factored:   P = (G + √λ/π I)⁻¹ M (A + π√λ I)⁻¹,   π = 1, or √((tr A / D) / (tr G / o))
            exact:      A = U_A diag(s_A) U_Aᵀ, G = U_G diag(s_G) U_Gᵀ,   P = U_G [(U_Gᵀ M U_A) / (S + λ)] U_Aᵀ,   S = s_G s_Aᵀ
            rescaled:   the same with S the second moments of per-sample gradients in that basis
Reference   Martens, Grosse, Optimizing Neural Networks with Kronecker-factored Approximate Curvature, ICML 2015,
            arXiv:1503.05671, section 6.3 (π);  George et al., Fast Approximate Natural Gradient Descent in a
            Kronecker-factored Eigenbasis, NeurIPS 2018, arXiv:1806.03884 (S)
Cost        factors: two block inverses, D³ + o³.  direction: 2o²D + 2oD².  eigenbasis: 9D³ + 9o³, direction 4o²D + 4oD²
Deviations  none
"""

import math
from typing import NamedTuple

from nearlin._array import check, namespace, not_negative, read, side_by_side
from nearlin.linalg.block_inverse import block_inverse
from nearlin.linalg.inverse_root import symmetric_eigh
from nearlin.linalg.precision import wide_enough


class KroneckerInverse(NamedTuple):
    """The inverse of (A + π√λ I) ⊗ (G + √λ/π I), as its two factors; call it with M (o, D) for G⁻¹ M A⁻¹.

    Attributes
    ----------
    A : array, shape (D, D)
        Damped inverse of the input side.
    G : array, shape (o, o)
        Damped inverse of the output side.
    pi : float
        How the damping was shared.
    notes : tuple of str
        What the inversions had to do beyond the plain path; empty where nothing.
    kept : int
        Factors that kept their previous inverse.
    """

    A: object
    G: object
    pi: float = 1.0
    notes: tuple = ()
    kept: int = 0

    def __call__(self, M):
        return self.G @ M @ self.A


def trace_balance(A, G):
    """π = √((tr A / D) / (tr G / o)), which makes π-damped directions independent of how A ⊗ G is split; 1 where a trace is not
    positive or not finite. D + o flops."""
    xp = namespace(A, G)
    a, g = read(xp.linalg.trace(A), xp.linalg.trace(G))
    a, g = a / A.shape[0], g / G.shape[0]
    return math.sqrt(a / g) if 0 < a < math.inf and 0 < g < math.inf else 1.0


def damped_factors(A, G, damping, pi=False, names=("input factor", "output factor"), previous=None):
    """Inverses of A + π√λ I and G + √λ/π I.

    Parameters
    ----------
    A : array, shape (D, D)
        Second moment of the inputs.
    G : array, shape (o, o)
        Second moment of the output gradients.
    damping : float
        λ, at least 0; its root goes on each factor.
    pi : bool
        Balance the two roots by the traces (`trace_balance`), else π = 1.
    names : tuple of str
        What the factors are, for messages.
    previous : KroneckerInverse, optional
        Inverses that factors keep where they hold NaN or Inf, or resist every damping.

    Returns
    -------
    KroneckerInverse

    Raises
    ------
    FactorizationError
        A factor has no inverse and there is no previous one.
    ValueError, TypeError, BackendError
        Factors that are not square, a damping below 0 or not finite, two backends or dtypes.

    Notes
    -----
    D³ + o³ flops to leading order for large factors (`block_inverse`).
    """
    check(ndim={"A": 2, "G": 2}, finite=False, A=A, G=G)
    damping = not_negative("damping", damping)
    share, root = trace_balance(A, G) if pi else 1.0, math.sqrt(damping)
    old = (None, None) if previous is None else (previous.A, previous.G)
    left, right = side_by_side(block_inverse, (A, G), (share * root, root / share), names, old, like=A)
    notes = tuple(filter(None, (left.sentence(), right.sentence())))
    return KroneckerInverse(left.inverse, right.inverse, share, notes, len(left.kept) + len(right.kept))


class KroneckerEigenbasis(NamedTuple):
    """Eigenvectors and eigenvalues of the two factors.

    Attributes
    ----------
    UA, sA : array, shapes (D, D) and (D,)
        Of the input side.
    UG, sG : array, shapes (o, o) and (o,)
        Of the output side.
    eps : float
        The rounding with which they were found; 0 where it is not known.
    """

    UA: object
    sA: object
    UG: object
    sG: object
    eps: float = 0.0

    def scaling(self):
        """S = s_G s_Aᵀ (o, D): the eigenvalues of A ⊗ G."""
        return self.sG[:, None] * self.sA[None, :]

    def error(self, damping):
        """What the rounding of the eigenvalues may do to `solve` with this damping: about its relative error, to first order.

        (√D + √o) eps ||A|| ||G|| / (the least of S + damping), and at least 2 eps of the arrays' own dtype.
        """
        xp = namespace(self.sA)
        most, least = (float(f(self.sA)) * float(f(self.sG)) for f in (xp.max, xp.min))
        if least + damping == 0:
            return math.inf
        found = self.eps * (self.sA.shape[0] ** 0.5 + self.sG.shape[0] ** 0.5) * most / (least + damping)
        return max(found, 2 * float(xp.finfo(self.sA.dtype).eps))

    def second_moments(self, a, g):
        """S (o, D) = (1/n) Σᵢ (U_Gᵀ gᵢ)² ((U_Aᵀ aᵢ)²)ᵀ for inputs ``a`` (n, D) and output gradients ``g`` (n, o) per sample.

        The second moments of the per-sample gradients gᵢ aᵢᵀ in this basis; 2n (D² + o² + oD) flops to leading order.
        """
        left, right = (g @ self.UG) ** 2, (a @ self.UA) ** 2
        return namespace(a, g).matrix_transpose(left) @ right / a.shape[0]

    def solve(self, M, damping, S=None):
        """U_G [(U_Gᵀ M U_A) / (S + damping)] U_Aᵀ for ``M`` (o, D).

        Parameters
        ----------
        M : array, shape (o, D)
        damping : float
            Added to ``S``; positive where ``S`` has zeros.
        S : array, shape (o, D), optional
            Curvature in this basis; that of A ⊗ G, by default, makes the damping exact: (A ⊗ G + damping I)⁻¹ M.

        Returns
        -------
        array, shape (o, D)

        Notes
        -----
        4o²D + 4oD² + 2oD flops (3oD where ``S`` is made). A negative or non-finite damping is a `ValueError`.
        """
        damping = not_negative("damping", damping)
        transposed = namespace(M).matrix_transpose
        S = self.scaling() if S is None else S
        return self.UG @ ((transposed(self.UG) @ M @ self.UA) / (S + damping)) @ transposed(self.UA)


def eigenbasis(A, G, names=("A", "G")):
    """Eigenvectors and eigenvalues of A (D, D) and G (o, o), symmetric positive semidefinite.

    Parameters
    ----------
    A, G : array, shapes (D, D) and (o, o)
        The factors; not changed. Eigenvalues that rounding made negative become 0.
    names : tuple of str
        What the factors are, for messages.

    Returns
    -------
    KroneckerEigenbasis

    Raises
    ------
    ValueError
        NaN or Inf in a factor, or one that is not square.
    FactorizationError
        The eigenvalues do not converge.

    Notes
    -----
    9D³ + 9o³ flops (nominal), in float64 where the device has it: no damping is known here that would be large beside the
    rounding of the eigenvalues (`nearlin.linalg.precision`). The result has the dtype of the factors.
    """
    xp = check(ndim={"A": 2, "G": 2}, finite=False, A=A, G=G)
    (sA, UA), (sG, UG) = symmetric_eigh(wide_enough(A), names[0]), symmetric_eigh(wide_enough(G), names[1])
    eps = max(float(xp.finfo(s.dtype).eps) for s in (sA, sG))
    return KroneckerEigenbasis(*(xp.astype(a, A.dtype, copy=False) for a in (UA, sA, UG, sG)), eps)
