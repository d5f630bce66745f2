"""The network of a run whose options name none, and what follows from it: method, preprocessing, batches.

Data of one's own (files, `Dataset`) with one target that is a number are fitted by the wide two-layer network, which is linear in
all that it learns first; classes and several targets by a perceptron. Data sets by name keep the setting of arXiv:2006.11648:
the two-layer network on rows of unit length. The near-linear method takes no penalty in the loss: with one it is `GaussNewton`.
"""

from dataclasses import replace

import numpy as np

from nearlin import nn
from nearlin._array import prototype, slow_float64, unusable
from nearlin.experiments.registry import MINI_BATCH

WIDTH, HIDDEN = 8192, (256,)
OF_NAMED = {"digits-parity": {"width": 32768, "dtype": "float32", "tol": 1e-4}}  # defaults of data sets by name
BATCH = 200  # rows of a mini-batch
RATES = {"kfac": 0.03}  # step sizes for data of one's own, where a method's default is its authors' for another problem
VALIDATION, ENOUGH = 0.1, 100  # the share held out for validation, of so many training rows or more


def settled(config, own, many, classes, name=None):
    """``config`` with the network, and what follows from it, filled in.

    Parameters
    ----------
    config : Config
    own : bool
        Whether the data are the user's own, and not a data set by name.
    many, classes : bool
        Whether the targets are classes or several numbers, and whether they are classes.
    name : str, optional
        Of a data set by name.

    Raises
    ------
    ValueError
        Both networks are asked for.
    """
    if config.hidden is not None and config.width is not None:
        raise ValueError(
            f"hidden is {config.hidden} and width is {config.width}; expected hidden for a perceptron or width for the two-layer "
            "network"
        )
    perceptron = config.hidden is not None or (own and many and config.width is None)
    usual = own or perceptron  # features in units of their deviations; else rows of unit length
    defaults = {
        "hidden": HIDDEN if perceptron else None,
        "width": None if perceptron else WIDTH,
        "optimizer": "gauss-newton" if perceptron or config.l2 else "near-linear-gauss-newton",
        "activation": "relu",
        "dtype": "float32" if (perceptron and classes) or _slow_float64(config.backend) else "float64",
        "center": True,
        "scale": usual,
        "normalize": not usual,
    }
    defaults |= {} if usual else OF_NAMED.get(name, {})
    config = replace(config, **{name: value for name, value in defaults.items() if getattr(config, name) is None})
    return replace(config, lr=step_size(config)) if usual else config


def _slow_float64(backend):
    """Whether a backend that can be used here has its arrays on a GPU that is slow in float64."""
    return not unusable(backend) and slow_float64(prototype(backend, "float32"))


def step_size(config):
    """The step size on data of one's own, None for the method's default."""
    given = config.lr is not None or "lr" in dict(config.settings)
    return config.lr if given else RATES.get(config.optimizer)


def stops(config, own):
    """Whether a run ends by validation or where its loss stays, and not after a fixed number of steps."""
    return own or config.hidden is not None or bool(config.validation_fraction)


def held_out(config, own, rows):
    """The share of ``rows`` training rows that is held out for validation."""
    if config.validation_fraction is not None:
        return config.validation_fraction
    return VALIDATION if stops(config, own) and rows >= ENOUGH else 0.0


def batch_size(config, own, rows):
    """Rows of a step, None for all: methods that are made for mini-batches take these on data of one's own."""
    small = config.batch_size is None and stops(config, own) and config.optimizer in MINI_BATCH
    return min(BATCH, rows) if small else config.batch_size


def network(config, inputs, outputs):
    """The network that the options in the dict ``config`` determine."""
    if config["hidden"]:
        return nn.MLP((inputs, *config["hidden"], outputs), config["activation"])
    several = {"outputs": outputs} if outputs > 1 else {}
    return nn.TwoLayer(inputs=inputs, width=config["width"], activation=config["activation"], **several)


def as_numbers(labels, classes):
    """Classes as the squared loss fits them: -1 and 1 (n,) for two, and for more (n, c), 1 in the column of the class."""
    if classes == 2:
        return 2.0 * labels - 1.0
    return np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
