"""A problem: training and test batches next to a backend, a network, an objective, and how to read its outputs.

Files and data sets become a wide two-layer network with the squared loss; recipes, in `recipes.py`, are networks by name on data
by name.
"""

import hashlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nearlin import nn
from nearlin._array import asarray, backend_name, check, device, namespace, prototype, slices, to_numpy
from nearlin.data import NAMES, DataError, Dataset, Preprocessing, load, split
from nearlin.data.dataset import split_rows
from nearlin.experiments.batches import epoch
from nearlin.experiments.config import DEFAULTS, STEPS
from nearlin.experiments.recipes import RECIPES
from nearlin.experiments.registry import did_you_mean


class Error(NamedTuple):
    """How far predictions are off: ``rmse`` in the units of the data, ``mse`` a pixel, or ``error rate`` in per cent."""

    kind: str
    value: float
    wrong: int | None
    total: int

    def __str__(self):
        if self.kind == "rmse":
            return f"RMSE {self.value:.4g} on {self.total} rows"
        if self.kind == "mse":
            return f"mean squared error {self.value:.4g} a pixel on {self.total} rows"
        return f"{self.value:.2f} % wrong ({self.wrong} of {self.total})"


@dataclass(frozen=True, eq=False)
class Problem:
    """What `build` makes.

    Parameters
    ----------
    name : str
        Of the data.
    task : {"regression", "classification", "labels", "reconstruction"}
        Two classes are read from the sign of one output, ``labels`` from the largest output.
    train : tuple of arrays
        The batch (x, y) that is trained on, preprocessed, on the backend: (n, ...) and (n,) or (n, c).
    test : tuple of arrays or None
    network : TwoLayer, Sequential or GraphNetwork
    objective : Objective
    preprocessing : Preprocessing
    fingerprint : str
        Of the data before preprocessing, so that a resumed run can tell that its data changed.
    class_names, feature_names, target_name
        As in `Dataset`.
    spread : float
        Largest over smallest standard deviation of the features that vary, after scaling where the data were scaled.
    least, test_least : float
        The smallest mean loss that any outputs reach on the training and test set: the entropy of their targets.
    recipe : bool
        Whether the problem is one of the recipes: its mini-batches are all of one size, and it is evaluated in chunks.
    augment : bool
        Whether training images are cropped and flipped at random.
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
    least: float = 0.0
    test_least: float = 0.0
    recipe: bool = False
    augment: bool = False

    @property
    def squared(self):
        """Whether the loss is that of least squares."""
        return isinstance(self.objective.loss, nn.SquaredLoss)

    @property
    def like(self):
        """An array of floats of the problem's backend, device and dtype."""
        arrays = (*self.train, getattr(self.network, "H", None))
        return next(a for a in arrays if a is not None and "float" in str(a.dtype))

    def init(self, seed):
        """Initial parameters."""
        return self.network.init(key=seed, like=self.like)

    def chunks(self, batch):
        """The batch, in parts that are evaluated one at a time where a recipe's data are large."""
        rows = batch[0].shape[0]
        step = max(1, CHUNK // math.prod(batch[0].shape[1:])) if self.recipe and batch[0].ndim > 1 else rows
        return [tuple(a[part, ...] for a in batch) for part in slices(rows, step)]

    def loss(self, params, batch):
        """The mean loss of a batch, a float."""
        rows = batch[0].shape[0]
        return sum(float(self.objective.at(params, part).loss) * part[0].shape[0] / rows for part in self.chunks(batch))

    def error(self, params, batch):
        """The `Error` of the network at ``params`` on a batch, or None where there is no batch."""
        if batch is None:
            return None
        outputs = np.concatenate([to_numpy(self.objective.at(params, part).outputs) for part in self.chunks(batch)])
        outputs, y = outputs.astype(np.float64), to_numpy(batch[1])
        if self.task == "labels":
            return _error_rate(np.argmax(outputs, axis=1) != y)
        if self.task == "reconstruction":
            logits = isinstance(self.objective.loss, nn.SigmoidCrossEntropy)
            seen = 0.5 * (1 + np.tanh(0.5 * outputs)) if logits else outputs
            return Error("mse", float(np.mean((seen - y) ** 2)), None, len(y))
        outputs, y = outputs[:, 0], np.reshape(y, (-1,)).astype(np.float64)
        if self.task == "classification":
            return _error_rate((outputs >= 0) != (y >= 0))
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
            "features": math.prod(x.shape[1:]),
            "class_names": self.class_names,
            "feature_names": self.feature_names,
            "target_name": self.target_name,
            "preprocessing": self.preprocessing.describe(),
            "spread": self.spread,
            "fingerprint": self.fingerprint,
        }


CHUNK = 2**20  # inputs of a recipe that are evaluated at once


def _error_rate(wrong):
    return Error("error rate", 100 * float(np.mean(wrong)), int(np.sum(wrong)), len(wrong))


def build(data, config):
    """A `Problem`, and the `Config` with all that it left open filled in: backend, dtype, activation, batches and steps.

    Parameters
    ----------
    data : str, path, Dataset, or (x, y)
        A recipe, a name or file for `nearlin.data.load`, a data set, or a pair of arrays. Names, files and data sets are split,
        preprocessed on the host and moved to the backend and dtype of ``config``. Arrays are split and used as they are, on their
        own backend, device and dtype, without preprocessing; their targets are two classes if they are all -1 or +1.
    config : Config

    Raises
    ------
    DataError, BackendError, TypeError, ValueError
        Data that cannot be used, with the reason.
    """
    if isinstance(data, str) and data in RECIPES:
        return _from_recipe(data, config)
    if config.data_dir is not None:
        raise ValueError(f"data_dir is for the problems that read a folder; {data!r} does not")
    config = replace(
        config,
        optimizer=config.optimizer or default_optimizer(data),
        dtype=config.dtype or "float64",
        activation=config.activation or "relu",
    )
    problem, config = _from_arrays(data, config) if isinstance(data, tuple | list) else _from_data(data, config)
    return problem, _with_steps(config, problem.train[0].shape[0], STEPS)


def default_optimizer(data):
    """What a run takes that names no optimizer: recipes have no least squares."""
    return "adam" if isinstance(data, str) and data in RECIPES else "near-linear-gauss-newton"


def _with_steps(config, rows, steps=None, epochs=None, drop_last=False):
    """Steps, from epochs where those are given, and else those that a problem suggests."""
    _, per_epoch = epoch(rows, config.batch_size, drop_last)
    if config.steps is not None and config.epochs is not None:
        raise ValueError("steps and epochs are both given; expected one of them")
    if config.steps is None:
        chosen = config.epochs or (None if config.time_limit else epochs)
        default = UNLIMITED if config.time_limit else steps
        config = replace(config, steps=chosen * per_epoch if chosen else default, epochs=None)
    return config


UNLIMITED = 10**9
TWO_LAYER = ("target", "task", "test_fraction", "center", "scale", "normalize", "standardize", "width")


def _from_recipe(name, config):
    recipe = RECIPES[name]
    for option in TWO_LAYER:
        if getattr(config, option) != getattr(DEFAULTS, option):
            raise ValueError(f"{option} is for two-layer networks on data sets and files; {name} has its own data and network")
    if config.data_dir is not None and not recipe.reads:
        raise ValueError(f"data_dir is for the problems that read a folder; {name} does not")
    if config.activation is not None and not recipe.any_activation:
        raise ValueError(f"activation is {config.activation!r}; the network of {name} has its own")
    config = replace(
        config,
        optimizer=config.optimizer or default_optimizer(name),
        dtype=config.dtype or recipe.dtype,
        activation=config.activation or recipe.activation,
        batch_size=config.batch_size or recipe.batch_size,
    )
    like = prototype(config.backend, config.dtype)
    parts = recipe.load(config)
    bring = lambda a: asarray(a, like=like, dtype="int64" if a.dtype.kind in "iu" else None)  # noqa: E731
    train, test = (tuple(map(bring, part)) for part in (parts.train, parts.test))
    network = recipe.network(config, parts, bring)
    loss = recipe.loss
    problem = Problem(
        name, recipe.task, train, test, network, nn.Objective(network, loss), Preprocessing(),
        _fingerprint(name, *parts.train, *parts.test), recipe=True, augment=recipe.augment,
        least=loss.least(train[1]), test_least=loss.least(test[1]),
    )  # fmt: skip
    return problem, _with_steps(config, train[0].shape[0], epochs=recipe.epochs, drop_last=True)


def _from_data(data, config):
    if isinstance(data, str) and not Path(data).suffix and data not in NAMES and not Path(data).exists():
        names = (*RECIPES, *NAMES)
        raise DataError(
            f"unknown problem or data set {data!r}{did_you_mean(data, names)}; expected one of {', '.join(names)}, or a file "
            "(.csv, .tsv, .npy, .npz, .svm, IDX or CIFAR)"
        )
    dataset = data if isinstance(data, Dataset) else load(data, config.target, config.task)
    if len(dataset) < 2:
        raise DataError(f"{dataset.name} has 1 row; expected at least 2 to train on")
    like = prototype(config.backend, config.dtype)
    numbers, standardize = _one_number(dataset, config)
    train, test = split(numbers, config.test_fraction, config.seed)
    if len(train) < 2:
        raise DataError(f"{dataset.name} leaves 1 training row of {len(dataset)}; expected at least 2")
    steps = Preprocessing.fit(train, config.center, config.normalize, standardize, config.scale)

    def batch(part):
        x = steps.inputs(part.x, part.name, part.rows)
        return asarray(x, like=like), asarray(steps.targets(part.y), like=like)

    problem = _problem(config, dataset.name, dataset.task, batch(train), None if test is None else batch(test), steps)
    problem = replace(
        problem,
        fingerprint=_fingerprint("preprocessed", numbers.x, numbers.y),
        class_names=dataset.class_names,
        feature_names=dataset.feature_names,
        target_name=dataset.target_name,
        spread=1.0 if steps.scale is not None else _spread(train.x),
    )
    return problem, config


def _one_number(dataset, config):
    """The data set as the two-layer network fits it, one number a row: two classes are -1 and 1; and whether to standardise."""
    if dataset.targets > 1 or len(dataset.class_names or ()) > 2:
        raise DataError(f"{dataset.name}: {dataset.describe_target()}; the two-layer network expects one target or two classes")
    standardize = dataset.task == "regression" if config.standardize is None else config.standardize
    if dataset.task == "regression":
        return dataset, standardize
    return replace(dataset, task="regression", y=2.0 * dataset.y - 1.0, class_names=None), standardize


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
