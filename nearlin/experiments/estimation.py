"""Flops and bytes of one step by part, in closed form, before anything runs; and what would fit where a step does not."""

from dataclasses import dataclass, replace
from pathlib import Path

from nearlin._array import NAMES, BackendError, blas_threads, integer, unusable
from nearlin.complexity import cost
from nearlin.data import NAMES as DATA_SETS
from nearlin.data import load, split
from nearlin.experiments.building import machine_memory
from nearlin.experiments.config import ALL, Config
from nearlin.experiments.networks import WIDTH
from nearlin.experiments.recipes import RECIPES
from nearlin.experiments.registry import OPTIMIZERS, make_optimizer
from nearlin.nn import TwoLayer

ITERATIONS = 4  # of the default accuracy 1/6, on data that are not degenerate
STEPS = {
    "gram-gauss-newton": cost.gram_gauss_newton_step,
    "natural-gradient": cost.natural_gradient_step,
    "sgd": cost.sgd_step,
    "adam": cost.adam_step,
    "adamw": cost.adamw_step,
    "adagrad": cost.adagrad_step,
    "rmsprop": cost.rmsprop_step,
}
KNOWN = ("near-linear-gauss-newton", *STEPS, *cost.LAYERS)


@dataclass(frozen=True)
class Step:
    """One kind of step: flops and bytes by part, two dicts."""

    flops: dict
    bytes: dict


@dataclass(frozen=True)
class Estimate:
    """What one step costs.

    Parameters
    ----------
    source : str
        Name of the data, or "given sizes".
    rows, features, width : int
        Rows of one step (the mini-batch, where there is one), inputs, neurons.
    optimizer, activation, backend, dtype : str
    iterations : int or None
        Inner iterations of a step; None where the optimizer has none.
    always_fresh : bool
        Whether every step works on other rows, so that nothing is kept from one to the next.
    workers : int
        Blocks walked at the same time.
    outputs : int
        c: classes, where there are more than two, or targets.
    """

    source: str
    rows: int
    features: int
    width: int
    optimizer: str
    activation: str
    backend: str
    dtype: str
    iterations: int | None
    always_fresh: bool
    workers: int
    outputs: int = 1

    @property
    def parameters(self):
        """p = m d."""
        return self.width * self.features

    @property
    def steps(self):
        """A `Step` by kind: one; for the near-linear method the first and later ones, for layer-wise methods by what is due."""
        return {name: Step(self._flops(**kind), self._bytes(**kind)) for name, kind in self._kinds().items()}

    @property
    def bytes(self):
        """Bytes by part of the step that needs most; cheap where the flops are not."""
        return max((self._bytes(**kind) for kind in self._kinds().values()), key=lambda parts: sum(parts.values()))

    @property
    def peak(self):
        """Bytes of the step that needs most."""
        return sum(self.bytes.values())

    def _kinds(self):
        if self.optimizer in cost.LAYERS:
            return _due(make_optimizer(self.optimizer))
        if self.optimizer != "near-linear-gauss-newton":
            return {"every step": {}}
        first = {"fresh": True, "recalled": False}
        if self.always_fresh:
            return {"every step (R fresh)": first}
        fresh, reused = {"fresh": True, "recalled": True}, {"fresh": False, "recalled": True}
        return {"first step": first, "later, R fresh": fresh, "later, R reused": reused}

    def _flops(self, **kind):
        """Flops by part; a fresh R of a later step replaces one that was looked at and served no longer."""
        block = cost.neurons_per_block(self.rows, self.dtype)
        net = cost.two_layer(self.rows, self.features, self.width, block, self.activation, self.outputs)
        if self.optimizer == "near-linear-gauss-newton":
            return cost.near_linear_step(net, self.iterations, **kind, replaced=kind["fresh"] and kind["recalled"])
        if self.optimizer in cost.LAYERS:
            parts = cost.layerwise_step(self.optimizer, net, TwoLayer(self.features, self.width).layers, **kind)
            return {name: flops for name, flops in parts.items() if flops}
        return STEPS[self.optimizer](net)

    def _bytes(self, **kind):
        sizes = (self.rows, self.features, self.width, self.dtype)
        options = {"packed": self.backend == "numpy", "workers": self.workers, "activation": self.activation,
                   "outputs": self.outputs}  # fmt: skip
        if self.optimizer == "near-linear-gauss-newton":
            return cost.near_linear_memory(*sizes, **options, **kind)
        if self.optimizer in cost.LAYERS:
            return cost.layerwise_memory(self.optimizer, *sizes, **options, **kind)
        if self.optimizer in cost.FIRST_ORDER:
            return cost.first_order_memory(*sizes, optimizer=self.optimizer, **options)
        return cost.gram_memory(*sizes, **options)


def _due(optimizer):
    """What a layer-wise method has due in a step, by kind of step and how often it comes."""
    every, inverses = optimizer.statistics_every, getattr(optimizer, "inverse_every", None)
    kinds = {"nothing due": {}} if every > 1 else {}
    kinds["statistics, " + ("every step" if every == 1 else f"1 in {every}")] = {"statistics_due": True}
    if inverses:
        kinds[f"inverses too, 1 in {inverses}"] = {"statistics_due": True, "inverse_due": True}
    return kinds


def estimate(
    data=None, *, rows=None, features=None, optimizer=None, width=None, activation=None,
    batch_size=None, backend="numpy", dtype=None, iterations=None, target=None, task=None, test_fraction=0.2, seed=0,
    memory=None,
):  # fmt: skip
    """Flops and bytes of one step on a two-layer network, by part; nothing is run.

    Layer-wise methods are those of their default schedules once under way, without the dampings of quasi-Newton pairs, 3 m flops
    each; their memory is that of all pairs.

    Parameters
    ----------
    data : str or path, optional
        A name or file for `nearlin.data.load`; or ``rows`` and ``features`` instead.
    rows, features : int, optional
    optimizer, width, activation, batch_size, backend, dtype, target, task, test_fraction, seed
        As in `nearlin.experiments.train`. A backend need not be usable here.
    iterations : int, optional
        Inner iterations of the near-linear method; 4 by default.
    memory : int, optional
        Bytes that there are; by default, on CPU backends, those of this machine.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError, TypeError
        Options that contradict each other or are out of range, data that cannot be read, or a step that does not fit into
        memory; the message says what would.

    Examples
    --------
    >>> cost = nl.experiments.estimate(rows=4096, features=16, width=131072, memory=2**33)
    >>> list(cost.steps), cost.peak < 2**30
    (['first step', 'later, R fresh', 'later, R reused'], True)
    """
    optimizer, activation, dtype = optimizer or "near-linear-gauss-newton", activation or "relu", dtype or "float64"
    asked, width = width is not None, WIDTH if width is None else width
    Config(target=target, task=task, test_fraction=test_fraction, optimizer=optimizer, width=width, activation=activation,
           batch_size=batch_size, dtype=dtype, seed=seed)  # fmt: skip
    make_optimizer(optimizer)
    if optimizer not in KNOWN:
        raise ValueError(
            f"the closed forms know steps of {', '.join(KNOWN)}; nearlin.complexity.count() counts one of {optimizer}"
        )
    if backend not in NAMES:
        raise BackendError(unusable(backend))
    near_linear = optimizer == "near-linear-gauss-newton"
    if iterations is not None and not near_linear:
        raise ValueError(f"{optimizer} has no inner iterations; leave --iterations out")
    source, rows, features, outputs = _sizes(data, rows, features, target, task, test_fraction, seed, asked)
    TwoLayer(features, width, activation, outputs)  # refuses outputs without neurons
    batch_size = None if batch_size == ALL else batch_size
    if batch_size is not None and batch_size > rows:
        raise ValueError(f"batch_size is {batch_size} and there are {rows} rows; expected at most that many")
    result = Estimate(
        source, batch_size or rows, features, width, optimizer, activation, backend, dtype,
        (iterations or ITERATIONS) if near_linear else None, batch_size is not None, blas_threads() if backend == "numpy" else 1,
        outputs,
    )  # fmt: skip
    there = memory if memory is not None else None if backend == "cupy" else machine_memory()
    if there is not None and result.peak > there:
        raise ValueError(_refusal(result, there))
    return result


def _sizes(data, rows, features, target, task, test_fraction, seed, asked):
    """Name, training rows, features and outputs, read from the data or as given; sizes that are given are of one output.

    ``asked``: whether a width was given, without which data of one's own may get another network.
    """
    if data is None:
        if rows is None or features is None:
            raise ValueError("name the DATA, or give both --rows and --features")
        return "given sizes", integer(1)("rows", rows), integer(1)("features", features), 1
    if rows is not None or features is not None:
        raise ValueError(f"--rows and --features are read from the data {Path(data).name}; give one or the other")
    if isinstance(data, str) and data in RECIPES:
        raise ValueError(f"estimates are for two-layer networks on a data set, a file, or given sizes; {data} is another network")
    dataset = load(data, target, task)
    train, _ = split(dataset, test_fraction, seed)
    classes, own = len(dataset.class_names or ()), str(data) not in DATA_SETS
    if own and not asked and (classes or dataset.targets > 1):
        raise ValueError(
            f"train fits a perceptron to {dataset.name}, and estimates are for two-layer networks; expected --width N, for one"
        )
    rows, constant = len(train), 1 if own else 0
    return dataset.name, rows, train.x.shape[1] + constant, classes if classes > 2 else dataset.targets


# --------------------------------------------------------------------------------------------------- what does not fit


def _refusal(estimate, there):
    """Why the step does not fit, and the changes with which it would."""
    part, largest = max(estimate.bytes.items(), key=lambda item: item[1])
    needs = f"a step of {estimate.optimizer} needs {in_words(estimate.peak)} ({part}: {in_words(largest)})"
    fitting = [f"{words} ({in_words(other.peak)})" for words, other in _alternatives(estimate, there) if other.peak <= there]
    advice = f"what would fit: {'; '.join(fitting)}" if fitting else "no smaller variant fits: expected less data"
    return f"{needs} and this machine has {in_words(there)}; {advice}"


def _alternatives(estimate, there):
    """Variants of a step that need less memory, by the option that makes them."""
    if estimate.dtype == "float64":
        yield "--dtype float32", replace(estimate, dtype="float32")
    if estimate.backend != "numpy" and estimate.activation == "relu":
        yield "--backend numpy, which keeps masks in bits", replace(estimate, backend="numpy", workers=blas_threads())
    for name in OPTIMIZERS:
        if name != estimate.optimizer and name in ("near-linear-gauss-newton", "sgd"):
            iterations = ITERATIONS if name == "near-linear-gauss-newton" else None
            yield f"--optimizer {name}", replace(estimate, optimizer=name, iterations=iterations)
    yield from _smaller(estimate, "rows", "--batch-size", there)
    yield from _smaller(estimate, "width", "--width", there)


def _smaller(estimate, name, option, there):
    """The largest power of two of one size that fits, if there is one."""
    value = 1 << (getattr(estimate, name).bit_length() - 1)
    while value >= 1:
        other = replace(estimate, **{name: value}, always_fresh=estimate.always_fresh or name == "rows")
        if other.peak <= there and value < getattr(estimate, name):
            yield f"{option} {value}", other
            return
        value //= 2


def in_words(count):
    """Bytes in words: ``1.50 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
