"""Flops and bytes of one step by part, in closed form, before anything runs; and what would fit where a step does not."""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np

from nearlin._array import NAMES, BackendError, blas_threads, integer, on_gpu, prototype, resident, unusable
from nearlin.complexity import cost
from nearlin.experiments import networks
from nearlin.experiments.building import choose
from nearlin.experiments.config import ALL, Config
from nearlin.experiments.estimated_ranks import check, most, sent
from nearlin.experiments.recipes import RECIPES
from nearlin.experiments.refusals import bytes_there, refusal
from nearlin.experiments.registry import make_optimizer
from nearlin.nn import TwoLayer
from nearlin.nn.split_two_layer import UNIT

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
PLANNING = ("plan", "preconditioner", "memory", "rates")  # hyper-parameters that an estimate takes
FACTORED = ("exact", "sketch", "class-averaged", "per-class", "pivoted")  # routes of perceptrons: λ falls, for which R is made
RENEWED = ("kfac", "diagonal")  # of classes: they are as new as the outputs
UNPLANNED = "later, R fresh", "later, more columns"  # kinds of step
KNOWN = ("near-linear-gauss-newton", "gauss-newton", *STEPS, *cost.LAYERS)
KNOWN_OF_PERCEPTRONS = ("gauss-newton", "kfac", *cost.FIRST_ORDER)


@dataclass(frozen=True)
class Step:
    """One kind of step: flops and bytes by part, two dicts; and what is sent to every rank, or None where no formula tells it."""

    flops: dict
    bytes: dict
    sent: dict | None


@dataclass(frozen=True)
class Estimate:
    """What one step costs.

    Parameters
    ----------
    source : str
        Name of the data, or "given sizes".
    rows, features : int
        Rows of one step (the mini-batch, where there is one), and inputs.
    width : int or None
        Neurons of the two-layer network.
    optimizer, activation, backend, dtype : str
    iterations : int or None
        Inner iterations of a step; None where the optimizer has none.
    always_fresh : bool
        Whether every step works on other rows, so that nothing is kept from one to the next.
    workers : int
        Blocks walked at the same time.
    outputs : int
        c of the network.
    hidden : tuple of int, optional
        Widths of a perceptron, in place of ``width``.
    labels : bool
        Whether its targets are classes.
    all_rows : int, optional
        Rows of the training set, where a step takes a mini-batch of them.
    settings : tuple of (str, object)
        Hyper-parameters by which the optimizer plans, those of `PLANNING`.
    ranks : int
        How many share a step: neurons of the two-layer network, samples of a perceptron. Flops and bytes are then those of the
        rank that has most.
    """

    source: str
    rows: int
    features: int
    width: int | None
    optimizer: str
    activation: str
    backend: str
    dtype: str
    iterations: int | None
    always_fresh: bool
    workers: int
    outputs: int = 1
    hidden: tuple | None = None
    labels: bool = False
    all_rows: int | None = None
    settings: tuple = ()
    ranks: int = 1

    @cached_property
    def _planner(self):
        return make_optimizer(self.optimizer, **dict(self.settings))

    @cached_property
    def network(self):
        """The network itself, without parameters."""
        options = {"hidden": self.hidden, "width": self.width, "activation": self.activation}
        return networks.network(options, self.features, self.outputs)

    @property
    def on_gpu(self):
        """Whether the backend's arrays live on a GPU: those of CuPy do, also where it is not at hand."""
        return self.backend == "cupy" or (not unusable(self.backend) and on_gpu(prototype(self.backend)))

    @property
    def parameters(self):
        """p."""
        return sum(prod(spec.shape) for spec in self.network.layers)

    @property
    def split(self):
        """Whether a step is split over ranks: one of fewer samples than ranks is not."""
        return self.ranks > 1 and not (self.hidden and self.rows < self.ranks)

    @property
    def neurons(self):
        """Of the rank that has most."""
        return most(self.width, self.ranks, UNIT)

    @property
    def own_rows(self):
        """Samples of a step on a perceptron of the rank that has most."""
        return most(self.rows, self.ranks)

    @property
    def item(self):
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @cached_property
    def route(self):
        """The `Route` that Gauss-Newton is planned to take first, None of another optimizer."""
        if self.optimizer != "gauss-newton":
            return None
        sizes = self.network, self.rows, self.dtype
        return cost.planned_route(*sizes, not self.labels, self._planner, self.on_gpu, self.split)

    @cached_property
    def preconditioner(self):
        """The `Preconditioner` that the near-linear method is planned to take first, None of another optimizer."""
        if self.optimizer != "near-linear-gauss-newton":
            return None
        return cost.planned_preconditioner(self.network, self.rows, self.dtype, self._planner, self.on_gpu, self.split)

    @property
    def solve(self):
        """Iterations of one solve: as given, or as planned."""
        planned = self.route.iterations if self.route else ITERATIONS if self.preconditioner else None
        return self.iterations or planned

    @property
    def steps(self):
        """A `Step` by kind: one; for Gauss-Newton methods the first and later ones, for layer-wise methods by what is due."""
        return {name: Step(self._flops(**kind), self._bytes(**kind), sent(self, **kind)) for name, kind in self._kinds.items()}

    @property
    def bytes(self):
        """Bytes by array of the step that needs most, of those that are planned; cheap where the flops are not."""
        route = self.route.name if self.hidden and self.route else ""
        anew = route in (RENEWED if self.labels else FACTORED)
        planned = [kind for name, kind in self._kinds.items() if anew or name not in UNPLANNED]
        return max((self._bytes(**kind) for kind in planned), key=lambda arrays: sum(arrays.values()))

    @property
    def peak(self):
        """Bytes of the step that needs most, of those that are planned."""
        return sum(self.bytes.values())

    @property
    def most(self):
        """Bytes of the step that needs most, of all: also where a preconditioner serves no longer and is made anew."""
        return max(sum(self._bytes(**kind).values()) for kind in self._kinds.values())

    @property
    def interpreter(self):
        """Bytes that the interpreter and its libraries take beside the arrays, as they do here; None where nothing tells."""
        return resident()

    @cached_property
    def _kinds(self):
        if self.optimizer in cost.LAYERS:
            return _due(make_optimizer(self.optimizer))
        if self.optimizer not in ("near-linear-gauss-newton", "gauss-newton"):
            return {"every step": {}}
        first = {"fresh": True, "recalled": False}
        planned = self.preconditioner or self.route
        if planned.name == "pivoted":
            return self._pivoted_kinds(planned, first)
        if self.always_fresh:
            return {"every step (R fresh)": {**first, "other_batch": True}}
        fresh, reused = {"fresh": True, "recalled": True}, {"fresh": False, "recalled": True}
        return {"first step": first, "later, R fresh": fresh, "later, R reused": reused}

    def _pivoted_kinds(self, planned, first):
        """As many columns as the first step takes, and twice as many where that is allowed; sums over neurons are made anew."""
        first, more = {**first, "rank": planned.rank}, min(2 * planned.rank, planned.most)
        if self.always_fresh:
            return {"every step (columns fresh)": {**first, "other_batch": True}}
        later, kept = {**first, "recalled": True}, self.activation == "relu" and not self.hidden
        grown = {**later, "rank": more, "made": planned.rank if kept else 0}
        grown = {"later, more columns": grown} if more > planned.rank else {}
        if kept:
            return {"first step": first, **grown, "later, columns kept": {**later, "fresh": False}}
        return {"first step": first, **grown, "later, columns anew": later}

    def _flops(self, other_batch=False, **kind):
        """Flops by part; a fresh R of a later step replaces one that was looked at and served no longer."""
        if self.hidden:
            return self._flops_of_perceptron((self.features, *self.hidden, self.outputs), **kind)
        block = cost.neurons_per_block(self.rows, self.dtype, self.on_gpu)
        of = self.width if self.split else None
        net = cost.two_layer(self.rows, self.features, self.neurons, block, self.activation, self.outputs, self.dtype, of)
        if self.optimizer == "gauss-newton":
            sizes = self.rows, self.features, self.neurons
            more = {"outputs": self.outputs, "phi": self.activation, "dtype": self.dtype, "of": of}
            return cost.wide_gauss_newton_step(*sizes, self.route.name, self.solve, **more, **kind)
        if self.optimizer == "near-linear-gauss-newton":
            kind |= {"preconditioner": self.preconditioner.name, "replaced": kind["fresh"] and kind["recalled"]}
            return cost.near_linear_step(net, self.solve, **kind)
        if self.optimizer in cost.LAYERS:
            parts = cost.layerwise_step(self.optimizer, net, TwoLayer(self.features, self.width).layers, **kind)
            return {name: flops for name, flops in parts.items() if flops}
        return STEPS[self.optimizer](net)

    def _flops_of_perceptron(self, sizes, **kind):
        if self.optimizer == "gauss-newton":
            return cost.gauss_newton_step(
                sizes, self.own_rows, self.route.name, self.solve, phi=self.activation, ranks=self.ranks, **kind
            )
        net = cost.mlp(self.own_rows, sizes, self.activation, of=self.rows)
        if self.optimizer in cost.LAYERS:
            parts = cost.layerwise_step(self.optimizer, net, cost.dense_layers(sizes), ranks=self.ranks, **kind)
            return {name: flops for name, flops in parts.items() if flops}
        return STEPS[self.optimizer](net)

    def _bytes(self, **kind):
        arrays = self._arrays(**kind)
        if self.all_rows is None:
            return arrays
        row = self.item * self.features + (8 if self.labels else self.item * self.outputs)
        return {"training set": row * self.all_rows, **arrays}

    def _arrays(self, **kind):
        if self.hidden:
            sizes = (self.features, *self.hidden, self.outputs)
            net = cost.Perceptron(
                sizes, self.own_rows, self.dtype, self.activation, self.labels, self.backend == "numpy",
                self.ranks, self.rows, self.all_rows is not None,
            )  # fmt: skip
            if self.optimizer == "gauss-newton":
                return cost.gauss_newton_on_perceptron(
                    net, self.route.name, workers=self.workers, **{"rank": self.route.rank, **kind}
                )
            if self.optimizer == "kfac":
                return cost.kfac_on_perceptron(net, **kind)
            return cost.first_order_on_perceptron(net, self.optimizer, self.workers)
        sizes = (self.rows, self.features, self.neurons, self.dtype)
        options = {"packed": self.backend == "numpy", "workers": self.workers, "activation": self.activation,
                   "outputs": self.outputs, "on_gpu": self.on_gpu}  # fmt: skip
        options |= {"of": self.width} if self.split else {}
        if self.optimizer == "near-linear-gauss-newton":
            return cost.near_linear_memory(*sizes, preconditioner=self.preconditioner.name, **options, **kind)
        if self.optimizer == "gauss-newton":
            return cost.wide_gauss_newton_memory(*sizes[:3], self.route.name, dtype=self.dtype, **options, **kind)
        if self.optimizer == "kfac":
            return cost.kfac_on_two_layer(*sizes, **options, **kind)
        if self.optimizer in cost.LAYERS:
            return cost.layerwise_memory(self.optimizer, *sizes, **options, **kind)
        if self.optimizer in cost.FIRST_ORDER:
            return cost.first_order_memory(*sizes, optimizer=self.optimizer, **options)
        return cost.gram_memory(*sizes, optimizer=self.optimizer, **options)


def _due(optimizer):
    """What a layer-wise method has due in a step, by kind of step and how often it comes."""
    every, inverses = optimizer.statistics_every, getattr(optimizer, "inverse_every", None)
    kinds = {"nothing due": {}} if every > 1 else {}
    kinds["statistics, " + ("every step" if every == 1 else f"1 in {every}")] = {"statistics_due": True}
    if inverses:
        kinds[f"inverses too, 1 in {inverses}"] = {"statistics_due": True, "inverse_due": True}
    return kinds


def estimate(
    data=None, *, rows=None, features=None, outputs=None, optimizer=None, hidden=None, width=None, activation=None,
    batch_size=None, backend="numpy", dtype=None, iterations=None, target=None, task=None, test_fraction=0.2,
    validation_fraction=None, normalize=None, l2=0.0, settings=(), seed=0, memory=None, ranks=1,
):  # fmt: skip
    """Flops and bytes of one step of what `train` chooses for the same arguments, by part; nothing is run.

    Layer-wise methods are those of their default schedules once under way, without the dampings of quasi-Newton pairs, 3 m flops
    each; their memory is that of all pairs. Flops of Gauss-Newton are leading terms, by the route that it is planned to take
    first; later steps may take another one. Bytes are within a tenth of traced peaks from a megabyte on; those of layer-wise
    methods other than K-FAC are a bound.

    Parameters
    ----------
    data : str or path, optional
        A name or file for `nearlin.data.load`; or ``rows`` and ``features`` instead.
    rows, features : int, optional
    outputs : int, optional
        With ``rows`` and ``features``: targets, or with the task "classification" classes; 1 by default.
    optimizer, hidden, width, activation, batch_size, backend, dtype, target, task, test_fraction, validation_fraction : optional
    normalize, l2, settings, seed : optional
        As in `nearlin.experiments.train`. A backend need not be usable here.
    iterations : int, optional
        Inner iterations of a Gauss-Newton method; of the near-linear one 4 by default, else as planned.
    memory : int, optional
        Bytes that there are; by default those of this machine, or the free ones of its GPU.
    ranks : int
        How many share a step, each on a machine of its own: by neurons of the two-layer network, and by samples of a perceptron.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError, TypeError
        Options that contradict each other or are out of range, data that cannot be read, a step that ranks would refuse, or one
        that does not fit into memory; the message says what would.

    Examples
    --------
    >>> cost = nl.experiments.estimate(rows=4096, features=16, width=131072, memory=2**33)
    >>> list(cost.steps), cost.peak < 2**30
    (['first step', 'later, R fresh', 'later, R reused'], True)
    """
    config = Config(target=target, task=task, test_fraction=test_fraction, validation_fraction=validation_fraction,
                    normalize=normalize, optimizer=optimizer, hidden=hidden, width=width, activation=activation,
                    batch_size=None if batch_size == ALL else batch_size, dtype=dtype, l2=l2, settings=settings,
                    seed=seed)  # fmt: skip
    if optimizer is not None:
        make_optimizer(optimizer)
    if backend not in NAMES:
        raise BackendError(unusable(backend))
    source, sizes, labels, config = _sizes(data, rows, features, outputs, config)
    result = _estimate(source, *sizes, labels, config, backend, iterations, integer(1)("ranks", ranks))
    there = bytes_there(backend) if memory is None else memory
    if there is not None and result.peak > there:
        raise ValueError(refusal(result, there))
    return result


def _estimate(source, rows, features, outputs, labels, config, backend, iterations, ranks):
    known, batch = KNOWN_OF_PERCEPTRONS if config.hidden else KNOWN, config.batch_size
    if config.optimizer not in known:
        what = "a perceptron" if config.hidden else "the two-layer network"
        raise ValueError(
            f"the closed forms know steps of {', '.join(known)} on {what}; nearlin.complexity.count() counts one of "
            f"{config.optimizer}"
        )
    if iterations is not None and config.optimizer not in KNOWN[:2]:
        raise ValueError(f"{config.optimizer} has no inner iterations; leave --iterations out")
    if batch is not None and batch > rows:
        raise ValueError(f"batch_size is {batch} and there are {rows} rows; expected at most that many")
    networks.network(config.to_dict(), features, outputs)  # refuses outputs without neurons
    if unknown := [name for name, _ in config.settings if name not in PLANNING]:
        raise ValueError(f"an estimate takes {', '.join(PLANNING)} of an optimizer's settings, found {unknown[0]}")
    make_optimizer(config.optimizer, **dict(config.settings))
    made = Estimate(
        source, batch or rows, features, config.width, config.optimizer, config.activation, backend, config.dtype,
        iterations, batch is not None, blas_threads() if backend == "numpy" else 1,
        outputs, config.hidden, labels, batch and rows, config.settings, ranks,
    )  # fmt: skip
    check(made)
    return made


def _sizes(data, rows, features, outputs, config):
    """Name; training rows, features and outputs; whether labels are trained on; and the `Config`: of the data, or as given."""
    if data is None:
        if rows is None or features is None:
            raise ValueError("name the DATA, or give both --rows and --features")
        sizes = tuple(integer(1)(*pair) for pair in (("rows", rows), ("features", features), ("outputs", outputs or 1)))
        classes = config.task == "classification"
        many = classes or sizes[2] > 1
        config = networks.settled(config, many, many, classes)
        labels = classes and config.hidden is not None
        outputs = 1 if classes and not labels and sizes[2] == 2 else sizes[2]
        return "given sizes", (*sizes[:2], outputs), labels, config
    if rows is not None or features is not None or outputs is not None:
        found = f"--rows, --features and --outputs are read from the data {Path(data).name}"
        raise ValueError(f"{found}; give one or the other")
    if isinstance(data, str) and data in RECIPES:
        raise ValueError(f"estimates are for networks on a data set, a file, or given sizes; {data} is another network")
    chosen = choose(data, config)
    rows, dataset = len(chosen.parts[0]), chosen.dataset
    return dataset.name, (rows, dataset.x.shape[1] + chosen.constant, chosen.outputs), chosen.labels, chosen.config
