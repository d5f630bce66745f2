"""Optimizers: one paper per file, each a frozen dataclass with pure ``init`` and ``step``."""

from nearlin.optim.adagrad import AdaGrad
from nearlin.optim.adam import Adam
from nearlin.optim.adamw import AdamW
from nearlin.optim.dsgd import DSGD
from nearlin.optim.gauss_newton import GaussNewton
from nearlin.optim.ginger import Ginger
from nearlin.optim.gram_gauss_newton import GramGaussNewton
from nearlin.optim.kbfgs import KBFGS, KBFGSL
from nearlin.optim.kfac import KFAC
from nearlin.optim.mini_block_fisher import MiniBlockFisher
from nearlin.optim.muon import Muon
from nearlin.optim.natural_gradient import NaturalGradient
from nearlin.optim.near_linear_gauss_newton import NearLinearGaussNewton
from nearlin.optim.qng import QNG
from nearlin.optim.rmsprop import RMSprop
from nearlin.optim.sgd import SGD
from nearlin.optim.shampoo import Shampoo
from nearlin.optim.soap import SOAP
from nearlin.optim.tnt import TNT

__all__ = [
    "SGD", "AdaGrad", "Adam", "AdamW", "RMSprop",
    "QNG", "Ginger",
    "KBFGS", "KBFGSL", "KFAC", "MiniBlockFisher", "SOAP", "Shampoo", "TNT",
    "DSGD", "Muon",
    "GaussNewton", "GramGaussNewton", "NaturalGradient", "NearLinearGaussNewton",
]  # fmt: skip
