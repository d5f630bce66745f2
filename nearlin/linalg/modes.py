"""Tensors along one mode at a time: Gram matrices of a mode, and products of a mode with a matrix.

Formula     gram_j(T) = T₍ⱼ₎ T₍ⱼ₎ᵀ,   (T xⱼ X)₍ⱼ₎ = X T₍ⱼ₎,   where T₍ⱼ₎ (Nⱼ, N / Nⱼ) holds the fibres of mode j in its columns
            a matrix: T Tᵀ and Tᵀ T,   X₀ T X₁ᵀ;   a vector: t tᵀ,   X t
Reference   Kolda, Bader, Tensor Decompositions and Applications, SIAM Review 51 (2009), doi:10.1137/07070111X, section 2
Cost        2 N Nⱼ flops either way, as one matrix product; N entries in T. A BLAS does half of a Gram matrix.
"""

import math
from typing import NamedTuple

from nearlin._array import namespace, read_number, side_by_side


class Modes(NamedTuple):
    """The axes of one variable: Gram matrices of ``count`` tensors and what is made of them, (Nⱼ, Nⱼ) each, and the step ``made``
    at which it was."""

    grams: tuple = ()
    matrices: tuple = ()
    made: int = 0
    count: int = 0


def mode_gram(T, mode):
    """T contracted with itself over all axes but ``mode``, (N_mode, N_mode); 2 N N_mode flops."""
    xp = namespace(T)
    fibres = _fibres(T, mode)
    return fibres @ xp.matrix_transpose(fibres)


def mix_grams(grams, T, old, new):
    """``old`` H + ``new`` gram_j(T) for the Gram matrix H of every mode; ``grams`` () stands for zeros.

    2 N N_mode + 2 N_mode² flops a mode, and N.
    """
    scaled = T if new == 1 else new**0.5 * T
    mixed = tuple(mode_gram(scaled, mode) for mode in range(T.ndim))
    for made, H in zip(mixed, grams, strict=bool(grams)):
        made += H if old == 1 else old * H
    return mixed


def average_grams(grams, T, old, new):
    """`mix_grams`, and True; where they hold NaN or Inf the ``grams`` given, zeros for (), and False.

    N_0 - 1 flops more.
    """
    xp, mixed = namespace(T), mix_grams(grams, T, old, new)
    if math.isfinite(read_number(xp.linalg.trace(mixed[0]))):  # no entry is larger than the trace
        return mixed, True
    return tuple(grams) or tuple(map(xp.zeros_like, mixed)), False


def average_modes(modes, tensors, weights, names):
    """The `Modes` of all variables with the Gram matrices of ``tensors`` averaged in.

    Parameters
    ----------
    modes : sequence of Modes, or None
        None before the first statistic.
    tensors : sequence of arrays
        One per variable.
    weights : callable
        ``weights(count)``: of the old average of that many statistics, and of the new one.
    names : sequence of str
        What the variables are called.

    Returns
    -------
    modes : tuple of Modes
    lost : list of str
        A sentence for each variable whose statistic is not finite and was left out.
    """

    def average(variable, T):
        grams, finite = average_grams(variable.grams, T, *weights(variable.count))
        return variable._replace(grams=grams, count=variable.count + finite), finite

    made, finite = zip(*side_by_side(average, modes or [Modes()] * len(tensors), tensors, like=tensors[0]), strict=True)
    lost = [f"{name}: the statistic holds NaN or Inf, left out" for name, fine in zip(names, finite, strict=True) if not fine]
    return made, lost


def mode_product(T, X, mode):
    """T with the matrix X (M, N_mode) acting on axis ``mode``; 2 N M flops.

    Parameters
    ----------
    T : array of K axes
    X : array, shape (M, N_mode)
    mode : int
        0, ..., K - 1.
    """
    xp = namespace(T, X)
    rest = (*T.shape[:mode], *T.shape[mode + 1 :])
    if mode > 0 and mode == T.ndim - 1:
        return xp.reshape(xp.reshape(T, (-1, T.shape[mode])) @ xp.matrix_transpose(X), (*rest, X.shape[0]))
    image = X @ _fibres(T, mode)
    if T.ndim == 1:
        return image[:, 0]
    return xp.moveaxis(xp.reshape(image, (X.shape[0], *rest)), 0, mode)


def mode_products(T, matrices):
    """T with one matrix on each of its axes, T x₀ X₀ x₁ X₁ ...; 2 N (N₀ + N₁ + ...) flops for square matrices."""
    for mode, X in enumerate(matrices):
        T = mode_product(T, X, mode)
    return T


def _fibres(T, mode):
    """T₍ⱼ₎, the fibres of a mode as columns, in some order: a view for the first and the last mode."""
    xp, size = namespace(T), T.shape[mode]
    if mode > 0 and mode == T.ndim - 1:
        return xp.matrix_transpose(xp.reshape(T, (-1, size)))
    return xp.reshape(xp.moveaxis(T, mode, 0), (size, -1))
