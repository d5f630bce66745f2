"""Symmetric matrices in half the numbers, to be sent.

Formula     k even, h = k/2:  S = [[S₁, Cᵀ], [C, S₂]];  (h + 1, h): the lower triangle of S₁ below the upper one of S₂;  then C
            k odd, h = (k+1)/2:  (h, h): the lower triangle of S₁, above it the upper one of S₂, which has one row less;  then C
Reference   Gustavson, Waśniewski, Dongarra, Langou, Rectangular Full Packed Format for Cholesky's Algorithm, ACM TOMS 37 (2010)
Cost        k (k + 1)/2 numbers; passes over them, no flops
Deviations  none
"""

from nearlin._array import namespace


def pack_symmetric(S):
    """The lower triangles of symmetric matrices ``S`` (..., k, k) as an array (..., k (k + 1)/2)."""
    xp, k = namespace(S), S.shape[-1]
    h = (k + 1) // 2
    lower, upper = xp.tril(S[..., :h, :h]), xp.triu(S[..., h:, h:])
    above = xp.zeros((*S.shape[:-2], h + 1 - k % 2, h), dtype=S.dtype, device=S.device)
    above[..., 1 - k % 2 :, :] += lower
    above[..., : k - h, k % 2 :] += upper
    return xp.reshape(xp.concat([above, S[..., h:, :h]], axis=-2), (*S.shape[:-2], k * (k + 1) // 2))


def unpack_symmetric(packed, k):
    """The matrices (..., k, k) of which `pack_symmetric` made ``packed``."""
    xp, h = namespace(packed), (k + 1) // 2
    rows = xp.reshape(packed, (*packed.shape[:-1], -1, h))
    above, C = rows[..., : h + 1 - k % 2, :], rows[..., h + 1 - k % 2 :, :]
    lower, upper = xp.tril(above[..., 1 - k % 2 :, :]), xp.triu(above[..., : k - h, k % 2 :])
    S = xp.empty((*packed.shape[:-1], k, k), dtype=packed.dtype, device=packed.device)
    S[..., :h, :h] = lower + xp.matrix_transpose(xp.tril(lower, k=-1))
    S[..., h:, h:] = upper + xp.matrix_transpose(xp.triu(upper, k=1))
    S[..., h:, :h] = C
    S[..., :h, h:] = xp.matrix_transpose(C)
    return S
