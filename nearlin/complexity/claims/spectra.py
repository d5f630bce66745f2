"""How good a preconditioner is, by dense eigenvalue problems, and what theory says of Gaussian sketches.

κ_pre = κ(R⁻ᵀ G R⁻¹) is the measure, with G = J Jᵀ and RᵀR the Gram matrix of the sketched Jacobian, or another matrix. For a
Gaussian sketch of s rows it tends to ((1+γ)/(1-γ))², γ = √(n/s), whatever J is; the eigenvalues of R⁻ᵀ G R⁻¹ then fill the
interval [(1+γ)⁻², (1-γ)⁻²], which decides the speed of every inner iteration.
"""

import math

import numpy as np
import scipy.linalg

from nearlin.complexity.claims import data
from nearlin.nn import TwoLayer
from nearlin.sketch import KroneckerSRHT

KRONECKER = KroneckerSRHT()
RESOLVED = 1e12  # κ(G) up to which the preconditioned spectrum can be computed in float64
TRACY_WIDOM = -1.2065  # mean of the law of the largest eigenvalue
COLLINEAR = "offset"  # the family on which sketches of factors need more oversampling


def gaussian_condition(ratio):
    """((1+γ)/(1-γ))², γ² = n/s, the limit of κ_pre for s/n = ``ratio`` > 1."""
    gamma = ratio**-0.5
    return ((1 + gamma) / (1 - gamma)) ** 2


def finite_condition(n, ratio):
    """κ_pre of a Gaussian sketch of n rows by s = ``ratio`` n: the means of both extreme eigenvalues, by Tracy-Widom's law.

    Centred and scaled as by Johnstone, Ann. Statist. 29 (2001), and Ma, Bernoulli 18 (2012); n = 128, 256, 512 at s = 4n give
    8.5, 8.7, 8.8 beside the limit 9.
    """
    a, b = math.sqrt(ratio * n - 1), math.sqrt(n)
    largest = (a + b) ** 2 + TRACY_WIDOM * (a + b) * (1 / a + 1 / b) ** (1 / 3)
    a, b = math.sqrt(ratio * n - 0.5), math.sqrt(n - 0.5)
    return largest / ((a - b) ** 2 - TRACY_WIDOM * (a - b) * (1 / b - 1 / a) ** (1 / 3))


def effective_dimension(spectrum, damping):
    """tr(G (G + λ I)⁻¹) from the eigenvalues of G."""
    spectrum = np.maximum(spectrum, 0.0)
    return float(np.sum(spectrum / (spectrum + damping)))


def jacobian(x, width, key=1):
    """The Jacobian of a two-layer ReLU network of ``width`` neurons at its start."""
    network = TwoLayer(x.shape[1], width)
    return network.forward(network.init(key, x), x)[1].jacobian


def on_family(family, n, m, key=3):
    """That Jacobian on a family of data, κ(G), and the row that names them."""
    J = jacobian(data.FAMILIES[family](n, key=key), m)
    kappa = float(np.linalg.cond(J.gram()))
    return J, kappa, {"data": f"{family}, κ(G) = {kappa:.0e}", "n": n, "m": m}


def kronecker(family):
    """The Kronecker-signed transform with the oversampling that the data need."""
    return KroneckerSRHT(oversample=8 if family == COLLINEAR else 4)


def sketched_gram(J, distribution, ratio, key):
    """G̃ = J SᵀS Jᵀ for ``ratio`` times as many sketch rows as J has rows."""
    (first, *_) = J.factors(slice(0, 1))
    return J.sketch_gram(J.draw(distribution, key, math.ceil(ratio * J.shape[0]), first.inputs))


def condition(gram, matrix, damping=0.0):
    """κ of ``gram`` + λ I preconditioned by ``matrix`` + λ I; infinite where one is not positive definite."""
    shift = damping * np.eye(len(gram))
    try:
        values = scipy.linalg.eigh(gram + shift, matrix + shift, eigvals_only=True)
    except scipy.linalg.LinAlgError:
        return math.inf
    return float(values[-1] / values[0]) if values[0] > 0 else math.inf


def conditions(J, distribution, ratio, draws, damping=0.0):
    """κ_pre of G + λ I for several draws of a sketch."""
    G = J.gram()
    return [condition(G, sketched_gram(J, distribution, ratio, key), damping) for key in range(draws)]


def scale(J, distribution, ratio, draws):
    """tr(G̃) over tr(G), the mean over draws: 1 for every sketch with E[SᵀS] = I, and what κ cannot see."""
    return float(np.mean([np.trace(sketched_gram(J, distribution, ratio, key)) for key in range(draws)]) / np.trace(J.gram()))


def median_condition(J, distribution, ratio, draws, damping=0.0):
    """The median of `conditions`."""
    return float(np.median(conditions(J, distribution, ratio, draws, damping)))


def blocks(grams, c):
    """The matrix (n c, n c) of one Gram matrix of samples for all c outputs, or of one for each: all else is zero."""
    n = grams[0].shape[0]
    whole = np.zeros((n, c, n, c))
    for k in range(c):
        whole[:, k, :, k] = grams[k % len(grams)]
    return whole.reshape(n * c, n * c)
