"""Prediction from a checkpoint, in the units of the data."""

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np

from nearlin._array import asarray, prototype, refuse_masked, to_numpy, unguarded
from nearlin.data import DataError, Dataset, Preprocessing, load_features
from nearlin.data.dataset import check_inputs
from nearlin.data.frames import is_frame
from nearlin.experiments import checkpoint, folders
from nearlin.experiments.archive import next_to
from nearlin.experiments.networks import network
from nearlin.experiments.problems import values_of
from nearlin.experiments.recipes import RECIPES

SUFFIXES = (".csv", ".npy", ".npz")


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted ``values``: targets (n,) or (n, c) in their own units, whose names are ``names``.

    For classes ``values`` are the network's outputs: scores (n,), of which the sign decides between two, or (n, c), of which the
    largest one does; ``labels`` (n,) are the classes predicted, and ``names`` those of all c. ``probabilities`` (n, c) are the
    softmax of the outputs where the network was fitted by cross-entropy, and None where it was fitted by least squares: then
    outputs are no probabilities.
    """

    values: np.ndarray
    labels: np.ndarray | None = None
    names: tuple | None = None
    probabilities: np.ndarray | None = None

    def columns(self):
        """The columns of the output file, by name."""
        if self.labels is not None:
            score = {"score": self.values} if self.values.ndim == 1 else {}
            return {**score, "label": self.labels, **self._named("probability", self.probabilities)}
        return {"prediction": self.values} if self.values.ndim == 1 else self._named("prediction", self.values)

    def _named(self, what, values):
        """A column of ``values`` (n, c) for every name; none where there are no values."""
        if values is None:
            return {}
        names = self.names or tuple(map(str, range(values.shape[1])))
        return {f"{what} {name}": column for name, column in zip(names, values.T, strict=True)}

    def save(self, path):
        """Write ``.csv`` (with a header line), ``.npz`` (an array per column) or ``.npy``, atomically.

        An ``.npy`` file holds the values; of classes the probabilities where there are any, or by one output scores and signs
        (n, 2).
        """
        path = checked_suffix(path)
        writers = {".csv": self._csv, ".npy": self._npy, ".npz": lambda file: np.savez(file, **self.columns())}
        folders.write_atomically(path, writers[path.suffix.lower()])

    def _csv(self, file):
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns())
        writer.writerows(zip(*(column.tolist() for column in self.columns().values()), strict=True))
        file.write(text.getvalue().encode())

    def _npy(self, file):
        values = self.values if self.probabilities is None else self.probabilities
        signed = self.labels is not None and values.ndim == 1
        np.save(file, np.column_stack([values, np.where(values >= 0, 1.0, -1.0)]) if signed else values)


@unguarded()
def predict(path, data, out=None, target=None, backend="numpy"):
    """Predict with the network of a checkpoint.

    Parameters
    ----------
    path : str or path
        A checkpoint that `train` wrote.
    data : str, path, frame, Dataset, or array (n, d)
        Inputs in the units of the training data; see `nearlin.data.load_features` for files and frames.
    out : str or path, optional
        ``.csv``, ``.npy`` or ``.npz``; see `Prediction.save`. An existing file is replaced.
    target : str, optional
        A column of the file or frame to drop, as the target is in the training file.
    backend : str
        Where the network is evaluated, in the dtype it was trained in.

    Returns
    -------
    Prediction
        Where the network takes rows of unit length, one that is zero after centring has none; its prediction is what the network
        gives for zero, and a warning says so.

    Raises
    ------
    CheckpointError, DataError, BackendError, TypeError, OSError
        A file that cannot be read or written, or inputs that do not fit the network.
    """
    if out is not None:
        out = checked_suffix(out)
        if out.is_dir():
            raise ValueError(f"{out} (--out) is a folder; expected the name of a file")
        if any(isinstance(p, str | Path) and Path(p).resolve() == out.resolve() for p in (path, data)):
            raise ValueError(f"{out} (--out) is one of the files that are read; choose another one")
        folders.writable(out.parent)
    saved = checkpoint.load(path)
    config, facts = saved["config"], saved["header"]["data"]
    if config["data"] in RECIPES:
        raise ValueError(f"{path} was trained on the problem {config['data']}; predictions are made for files and data sets")
    x = _inputs(data, target, facts)
    steps = Preprocessing.from_dict(saved["preprocessing"])
    like = prototype(backend, config["dtype"])
    params = next_to(saved["best"].params if saved.get("best") else saved["params"], like)
    z = asarray(steps.inputs(x, str(data) if isinstance(data, str | Path) else "x", keep_zero=True), like=like)
    net = network({"hidden": None, **config}, z.shape[1], facts.get("outputs", 1))
    values = values_of(net.forward(params, z)[0], steps)
    softmax = facts["task"] == "labels" and config.get("hidden")
    names = facts["class_names"] if facts["task"] == "labels" else facts.get("target_names")
    prediction = Prediction(values, _labels(values, facts), names, _softmax(values) if softmax else None)
    if out is not None:
        prediction.save(out)
    return prediction


def _inputs(data, target, facts):
    if isinstance(data, str | Path) or is_frame(data):
        return load_features(data, target, facts["feature_names"], facts["features"])
    refuse_masked("data", data)
    x = data.x if isinstance(data, Dataset) else check_inputs("data", to_numpy(data))
    if x.shape[1] != facts["features"]:
        raise DataError(f"data has {x.shape[1]} feature(s); expected {facts['features']}, as in training")
    return x


def _softmax(values):
    e = np.exp(values - np.max(values, axis=1, keepdims=True))
    return e / np.sum(e, axis=1, keepdims=True)


def _labels(values, facts):
    if facts["task"] == "labels":
        return np.array(facts["class_names"])[np.argmax(values, axis=1)]
    if facts["task"] != "classification":
        return None
    low, high = facts["class_names"] or ("-1", "1")
    return np.where(values >= 0, high, low)


def checked_suffix(path):
    """``path``, if its suffix is one that predictions can be written in."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} (--out) has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    return path
