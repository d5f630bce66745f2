"""Optimizers: one paper per file, each a frozen dataclass with pure ``init`` and ``step``."""

from nearlin.optim.adam import Adam
from nearlin.optim.gram_gauss_newton import GramGaussNewton
from nearlin.optim.natural_gradient import NaturalGradient
from nearlin.optim.near_linear_gauss_newton import NearLinearGaussNewton
from nearlin.optim.sgd import SGD

__all__ = ["SGD", "Adam", "GramGaussNewton", "NaturalGradient", "NearLinearGaussNewton"]
