"""A problem: training and test batches next to a backend, a network, an objective, and how to read its outputs."""

import hashlib
import os
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from nearlin import nn
from nearlin._array import asarray, backend_name, check, device, namespace, prototype, to_numpy
from nearlin.data import DataError, Dataset, Preprocessing, load, split
from nearlin.data.dataset import split_rows


class Error(NamedTuple):
    """How far predictions are off: ``rmse`` in the units of the data, or ``error rate`` in per cent with its counts."""

    kind: str
    value: float
    wrong: int | None
    total: int

    def __str__(self):
        if self.kind == "rmse":
            return f"RMSE {self.value:.4g} on {self.total} rows"
        return f"{self.value:.2f} % wrong ({self.wrong} of {self.total})"


@dataclass(frozen=True, eq=False)
class Problem:
    """What `build` makes.

    Parameters
    ----------
    name : str
        Of the data.
    task : {"regression", "classification"}
    train : tuple of arrays, (n, d) and (n,)
        The batch (x, y) that is trained on, preprocessed, on the backend.
    test : tuple of arrays or None
    network : TwoLayer
    objective : Objective
    preprocessing : Preprocessing
    fingerprint : str
        Of the data before preprocessing, so that a resumed run can tell that its data changed.
    class_names, feature_names, target_name
        As in `Dataset`.
    spread : float
        Largest over smallest standard deviation of the features that vary, after scaling where the data were scaled.
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
    spread: float = 1.0

    def error(self, params, batch):
        """The `Error` of the network at ``params`` on a batch, or None where there is no batch."""
        if batch is None:
            return None
        outputs = to_numpy(self.objective.at(params, batch).outputs)[:, 0].astype(np.float64)
        y = np.reshape(to_numpy(batch[1]), (-1,)).astype(np.float64)
        if self.task == "classification":
            wrong = int(np.sum((outputs >= 0) != (y >= 0)))
            return Error("error rate", 100 * wrong / len(y), wrong, len(y))
        rmse = float(np.sqrt(np.mean((self.preprocessing.untargets(outputs) - self.preprocessing.untargets(y)) ** 2)))
        return Error("rmse", rmse, None, len(y))

    def describe(self):
        """Facts about the data, for the head of a run."""
        x = self.train[0]
        return {
            "name": self.name,
            "task": self.task,
            "train_rows": x.shape[0],
            "test_rows": 0 if self.test is None else self.test[0].shape[0],
            "features": x.shape[1],
            "class_names": self.class_names,
            "feature_names": self.feature_names,
            "target_name": self.target_name,
            "preprocessing": self.preprocessing.describe(),
            "spread": self.spread,
            "fingerprint": self.fingerprint,
        }


def build(data, config):
    """A `Problem`, and the `Config` with the backend and dtype that are really used.

    Parameters
    ----------
    data : str, path, Dataset, or (x, y)
        A name or file for `nearlin.data.load`, a data set, or a pair of arrays. The first three are split, preprocessed on
        the host and moved to the backend and dtype of ``config``. Arrays are split and used as they are, on their own
        backend, device and dtype, without preprocessing; their targets are two classes if they are all -1 or +1.
    config : Config

    Raises
    ------
    DataError, BackendError, TypeError, ValueError
        Data that cannot be used, with the reason.
    """
    if isinstance(data, tuple | list):
        return _from_arrays(data, config)
    dataset = data if isinstance(data, Dataset) else load(data, config.target, config.task)
    like = prototype(config.backend, config.dtype)
    train, test = split(dataset, config.test_fraction, config.seed)
    if len(train) < 2:
        raise DataError(f"{dataset.name} leaves 1 training row of {len(dataset)}; expected at least 2")
    steps = Preprocessing.fit(train, config.center, config.normalize, config.standardize, config.scale)

    def batch(part):
        x = steps.inputs(part.x, part.name, part.rows)
        return asarray(x, like=like), asarray(steps.targets(part.y), like=like)

    problem = _problem(config, dataset.name, dataset.task, batch(train), None if test is None else batch(test), steps)
    problem = replace(
        problem,
        fingerprint=_fingerprint("preprocessed", dataset.x, dataset.y),
        class_names=dataset.class_names,
        feature_names=dataset.feature_names,
        target_name=dataset.target_name,
        spread=1.0 if steps.scale is not None else _spread(train.x),
    )
    return problem, config


def _spread(x):
    std = np.std(x, axis=0)
    std = std[std > 1e-12 * np.max(np.abs(x))]
    return float(np.max(std) / np.min(std)) if len(std) else 1.0


def _from_arrays(data, config):
    if len(data) != 2:
        raise ValueError(f"data is a {type(data).__name__} of {len(data)}; expected (x, y), a Dataset, a name or a path")
    x, y = data
    check(ndim={"x": 2, "y": (1, 2)}, x=x, y=y)
    if x.shape[0] != y.shape[0]:
        raise DataError(f"x has {x.shape[0]} rows and y has {y.shape[0]}; expected one target per row")
    if y.ndim == 2 and y.shape[1] != 1:
        raise DataError(f"y has shape {tuple(y.shape)}; expected (n,) or (n, 1): the two-layer network has one output")
    xp = namespace(x)
    config = replace(config, backend=backend_name(x), dtype=str(x.dtype).split(".")[-1])
    rows, held_out = split_rows(x.shape[0], config.test_fraction, config.seed)
    test = None if held_out is None else _take(x, y, held_out)
    task = config.task or ("classification" if bool(xp.all(xp.abs(y) == 1)) else "regression")
    problem = _problem(config, "arrays", task, (x, y) if held_out is None else _take(x, y, rows), test, Preprocessing())
    return replace(problem, fingerprint=_fingerprint("as they are", to_numpy(x), to_numpy(y))), config


def _take(x, y, rows):
    xp = namespace(x)
    rows = asarray(rows, like=x, dtype="int64")
    return xp.take(x, rows, axis=0), xp.take(y, rows, axis=0)


def _problem(config, name, task, train, test, preprocessing):
    _refuse_too_wide(config, train[0])
    network = nn.TwoLayer(inputs=train[0].shape[1], width=config.width, activation=config.activation)
    return Problem(name, task, train, test, network, nn.Objective(network, nn.SquaredLoss()), preprocessing, "")


def _refuse_too_wide(config, x):
    """The weights, in the copies that a step needs, must fit into memory: finding out by trying can take the machine down."""
    needed = COPIES * config.width * x.shape[1] * (4 if config.dtype == "float32" else 8)
    there = machine_memory()
    if "cpu" in str(device(x)).lower() and there and needed > there:
        weights = f"{COPIES} copies of {config.width} x {x.shape[1]} weights take {needed / 2**30:.3g} GiB"
        raise ValueError(
            f"width is {config.width}: {weights} and this machine has {there / 2**30:.3g} GiB; expected a smaller width"
        )


COPIES = 3  # weights, step, and trial weights


def machine_memory():
    """Bytes of physical memory, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _fingerprint(use, *arrays):
    digest = hashlib.sha256(use.encode())
    for a in arrays:
        digest.update(repr((a.shape, str(a.dtype))).encode())
        digest.update(np.ascontiguousarray(a).tobytes())
    return digest.hexdigest()[:16]
