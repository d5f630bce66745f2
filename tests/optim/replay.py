"""Replays of runs of other codes: their small networks, their parameters in our layout, their batches and their drawn labels."""

import pathlib

import numpy as np

import nearlin as nl

ORACLES = pathlib.Path(__file__).parents[1] / "oracles"


class Replay:
    """An objective whose points return given labels from ``draw``, one after another, whatever the key.

    ``tau``: the gradient of tau/2 ||θ||² is added to theirs, of biases too, and the loss stays as it is.
    """

    def __init__(self, objective, labels=(), tau=0.0):
        self._objective, self._labels, self._tau = objective, iter(labels), tau

    def __getattr__(self, name):
        return getattr(self._objective, name)

    def at(self, params, batch):
        point = self._objective.at(params, batch)
        point.draw = lambda key: next(self._labels)
        if self._tau:
            point.penalised = lambda grads: nl.linalg.axpy(self._tau, params, grads)
        return point


def oracle(name):
    """The arrays of one file, by name."""
    with np.load(ORACLES / f"{name}.npz") as archive:
        return dict(archive)


def mlp():
    """6-5-3-5-6 with binary cross-entropy, summed over outputs."""
    return nl.nn.Objective(nl.nn.autoencoder((6, 5, 3)), nl.nn.SigmoidCrossEntropy())


def cnn():
    """Two convolutions, normalisation after the first, and two dense layers on 2 x 6 x 6 images of three classes."""
    relu = nl.nn.Elementwise(nl.nn.activation("relu"))
    modules = (
        nl.nn.Conv2d(2, 3, 3, pad=1), nl.nn.BatchNorm(3), relu, nl.nn.MaxPool(2), nl.nn.Conv2d(3, 4, 3, pad=1, bias=False), relu,
        nl.nn.Flatten(), nl.nn.Dense(36, 5), relu, nl.nn.Dense(5, 3),
    )  # fmt: skip
    return nl.nn.Objective(nl.nn.Sequential(modules, shape=(2, 6, 6)), nl.nn.SoftmaxCrossEntropy())


def parameters(be, layers, data, when, prefix=""):
    """The matrices [W b] of ``data`` under ``{prefix}W0_{when}``, ``{prefix}b0_{when}``, ..."""
    made = []
    for i, spec in enumerate(layers):
        W = data[f"{prefix}W{i}_{when}"].reshape(spec.out, -1)
        b = [data[f"{prefix}b{i}_{when}"].reshape(spec.out, 1)] if spec.bias else []
        made.append(be.array(np.concatenate([W, *b], axis=1)))
    return tuple(made)


def batch(be, data, rows):
    """The rows (x, y) of the data set; y is x where there are no targets, and integer labels stay integers."""
    x, y = data["X"][rows], data.get("T", data["X"])[rows]
    return be.array(x), labels(be, y)


def labels(be, y):
    """Targets next to the backend's arrays, integers as they are."""
    return be.array(y, dtype=None if y.dtype.kind == "f" else "int64")


def warm_batches(be, data):
    """The batches of the warm start: consecutive rows."""
    size = int(data["hp_batch"])
    return [batch(be, data, slice(i, i + size)) for i in range(0, len(data["X"]), size)]
