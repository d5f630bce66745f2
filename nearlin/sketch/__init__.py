"""Random embeddings: a distribution is a frozen description, a sample is one drawn operator S with E[SᵀS] = I.

``S = dist.sample(key, s, shape, like=x)`` draws on the host from a counter-based generator: the same key gives the same S
on every backend. Flat sketches (``shape`` = p) act by ``S @ A`` and ``S.rmatmul(B)``. Factor sketches (``factored``; ``shape`` =
the factor shapes of a Jacobian) act on the two factors of a row, by ``S.rows(l, left, right)`` or, on neurons alone, by
``S.left(l, block, start)``. ``oversampling`` is the recommended s / n of a distribution.
"""

from nearlin.sketch.countsketch import CountSketch
from nearlin.sketch.gaussian import Gaussian
from nearlin.sketch.kronecker import KroneckerSRHT
from nearlin.sketch.neurons import NeuronSamples, NeuronSigns
from nearlin.sketch.sparse_sign import SparseSign
from nearlin.sketch.srht import SRHT

__all__ = ["SRHT", "CountSketch", "Gaussian", "KroneckerSRHT", "NeuronSamples", "NeuronSigns", "SparseSign"]
