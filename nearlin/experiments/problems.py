"""A problem: training and test batches next to a backend, a network, an objective, and how to read its outputs.

`nearlin.experiments.building` makes it: from recipes, data sets by name, files, and arrays.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nearlin import nn
from nearlin._array import slices, to_numpy
from nearlin.data import Preprocessing
from nearlin.data.diagnosis import Diagnosis
from nearlin.experiments.batches import Batches


class Error(NamedTuple):
    """How far predictions are off: ``rmse`` in the units of the data, ``mse`` a pixel, or ``error rate`` in per cent.

    ``majority`` is the error rate where every row is taken for the most frequent class of the training rows.
    """

    kind: str
    value: float
    wrong: int | None
    total: int
    majority: float | None = None

    def __str__(self):
        if self.kind == "rmse":
            return f"RMSE {self.value:.4g} on {self.total} rows"
        if self.kind == "mse":
            return f"mean squared error {self.value:.4g} a pixel on {self.total} rows"
        majority = "" if self.majority is None else f"; the most frequent class alone {self.majority:.2f} %"
        return f"{self.value:.2f} % wrong ({self.wrong} of {self.total}{majority})"


@dataclass(frozen=True, eq=False)
class Problem:
    """What `build` makes.

    Parameters
    ----------
    name : str
        Of the data.
    task : {"regression", "classification", "labels", "reconstruction"}
        ``labels`` are read from the largest output; ``classification`` is two classes by the sign of the only one.
    train : tuple of arrays
        The batch (x, y) that is trained on, preprocessed, on the backend: (n, ...) and (n,) or (n, c).
    test, validation : tuple of arrays or None
    network : TwoLayer, Sequential or GraphNetwork
    objective : Objective
    preprocessing : Preprocessing
    fingerprint : str
        Of the data before preprocessing, so that a resumed run can tell that its data changed.
    class_names, feature_names, target_name, target_names
        As in `Dataset`.
    target : str or None
        What the targets were taken for, in a sentence.
    spread : float
        Largest over smallest standard deviation of the features that vary, after scaling where the data were scaled.
    least, test_least : float
        The smallest mean loss that any outputs reach on the training and test set: the entropy of their targets in recipes, else
        what equal rows with different targets leave; see `nearlin.data.diagnosis.least_loss`.
    recipe : bool
        Whether the problem is one of the recipes: its mini-batches are all of one size, and it is evaluated in chunks.
    augment : bool
        Whether training images are cropped and flipped at random.
    stops : bool
        Whether a run ends by validation, or where the training loss stays; see `nearlin.experiments.stopping`.
    diagnosis : Diagnosis or None
        What the training rows say; None for recipes and mapped files.
    """

    name: str
    task: str
    train: tuple
    test: tuple | None
    network: object
    objective: object
    preprocessing: Preprocessing
    fingerprint: str
    class_names: tuple | None = None
    feature_names: tuple | None = None
    target_name: str | None = None
    target_names: tuple | None = None
    target: str | None = None
    spread: float = 1.0
    least: float = 0.0
    test_least: float = 0.0
    recipe: bool = False
    augment: bool = False
    validation: tuple | None = None
    stops: bool = False
    diagnosis: Diagnosis | None = None

    @property
    def squared(self):
        """Whether the loss is that of least squares."""
        return isinstance(self.objective.loss, nn.SquaredLoss)

    @property
    def wide(self):
        """Whether the network is the two-layer network of the theory."""
        return isinstance(self.network, nn.TwoLayer)

    @property
    def outputs(self):
        """The number of outputs of the network."""
        return self.network.outputs if self.wide else self.objective.layers[-1].shape[0]

    @property
    def like(self):
        """An array of floats of the problem's backend, device and dtype."""
        arrays = (*self.train, getattr(self.network, "H", None))
        return next(a for a in arrays if a is not None and "float" in str(a.dtype))

    def init(self, seed):
        """Initial parameters: the two-layer network on data of one's own, which have a constant appended, begins at 0."""
        at_zero = self.wide and self.preprocessing.constant
        return (self.network.init_at_zero if at_zero else self.network.init)(key=seed, like=self.like)

    def batches(self, batch_size, seed):
        """The `Batches` of a run; recipes leave out the incomplete one of an epoch."""
        own = getattr(self.objective, "own", None)  # the rows of a rank
        return Batches(self.train, batch_size, seed, drop_last=self.recipe, augmented=self.augment, own=own)

    def chunks(self, batch):
        """The batch, in parts that are evaluated one at a time where data are large."""
        rows = batch[0].shape[0]
        step = max(1, CHUNK // math.prod(batch[0].shape[1:])) if not self.wide and batch[0].ndim > 1 else rows
        return [tuple(a[part, ...] for a in batch) for part in slices(rows, step)]

    def loss(self, params, batch, penalty=False):
        """The mean loss of a batch, a float; with ``penalty`` that of the objective."""
        rows, value = batch[0].shape[0], "loss" if penalty else "data_loss"
        return sum(
            float(getattr(self.objective.at(params, part), value)) * part[0].shape[0] / rows for part in self.chunks(batch)
        )

    def validate(self, params):
        """Loss and wrong rows (None for numbers) on the rows held out for validation; (None, None) where there are none."""
        if self.validation is None:
            return None, None
        return self.loss(params, self.validation), self.error(params, self.validation).wrong

    def compared(self, params, batch):
        """What the network at ``params`` says of a batch, and what is true.

        Labels (n,) from 0; for numbers predictions and targets (n,) or (n, c) in the units of the data; for images pixels.
        """
        outputs = np.concatenate([to_numpy(self.objective.at(params, part).outputs) for part in self.chunks(batch)])
        outputs, y = outputs.astype(np.float64), to_numpy(batch[1])
        if self.task == "labels":
            return np.argmax(outputs, axis=1), self._labels(y)
        if self.task == "reconstruction":
            logits = isinstance(self.objective.loss, nn.SigmoidCrossEntropy)
            seen = 0.5 * (1 + np.tanh(0.5 * outputs)) if logits else outputs
            return seen, y
        outputs = outputs[:, 0] if outputs.shape[1] == 1 else outputs
        if self.task == "classification":
            return (outputs >= 0).astype(int), self._labels(y)
        y = np.reshape(y, outputs.shape).astype(np.float64)
        return self.preprocessing.untargets(outputs), self.preprocessing.untargets(y)

    def error(self, params, batch):
        """The `Error` of the network at ``params`` on a batch, or None where there is no batch."""
        if batch is None:
            return None
        seen, true = self.compared(params, batch)
        if self.task in ("labels", "classification"):
            wrong, majority = seen != true, float(np.mean(true != self._majority))
            return Error("error rate", 100 * float(np.mean(wrong)), int(np.sum(wrong)), len(wrong), 100 * majority)
        mse = float(np.mean((seen - true) ** 2))
        return Error("mse", mse, None, len(true)) if self.task == "reconstruction" else Error("rmse", mse**0.5, None, len(true))

    @functools.cached_property
    def _majority(self):
        """The most frequent class of the training rows."""
        return np.argmax(np.bincount(self._labels(to_numpy(self.train[1]))))

    def _labels(self, y):
        """Labels (n,) from 0 of the targets of classes: labels already, signs, or the largest of several numbers."""
        if self.task == "classification":
            return (np.reshape(y, len(y)) >= 0).astype(int)
        return y if y.ndim == 1 else np.argmax(y, axis=1)

    def describe(self):
        """Facts about the data, for the head of a run."""
        x = self.train[0]
        return {
            "name": self.name,
            "task": self.task,
            "train_rows": x.shape[0],
            "test_rows": 0 if self.test is None else self.test[0].shape[0],
            "validation_rows": 0 if self.validation is None else self.validation[0].shape[0],
            "features": math.prod(x.shape[1:]) - self.preprocessing.constant,
            "outputs": self.outputs,
            "class_names": self.class_names,
            "feature_names": self.feature_names,
            "target_name": self.target_name,
            "target_names": self.target_names,
            "target": self.target,
            "preprocessing": self.preprocessing.describe(),
            "spread": self.spread,
            "fingerprint": self.fingerprint,
            "diagnosis": self.diagnosis and dataclasses.asdict(self.diagnosis),
        }


CHUNK = 2**20  # inputs that are evaluated at once


def values_of(outputs, preprocessing):
    """Outputs of a network on the host in the units of the data: (n,) where there is one."""
    values = preprocessing.untargets(to_numpy(outputs))
    return values[:, 0] if values.shape[1] == 1 else values
