"""The objective as an oracle: what a method asks of it, and how often, is its information cost."""

import math
from copy import copy
from dataclasses import dataclass, field, replace

from nearlin._array import (
    BackendError,
    cached_property,
    check,
    checked_together,
    in_memory,
    look,
    namespace,
    not_negative,
    same,
    settle,
    signs,
    unguarded,
    unguarded_methods,
)
from nearlin.linalg import axpy, eps_of
from nearlin.nn.counted import CountedNetwork, CountedOperator
from nearlin.nn.losses import SquaredLoss
from nearlin.nn.network import chain
from nearlin.nn.output_root import WeightedRoot
from nearlin.nn.parameters import weights_of, without_biases
from nearlin.nn.standardised import Standardised, several_units

MEAN = 1000  # rounding errors by which the mean of sample weights may differ from 1


@unguarded_methods
@dataclass(frozen=True)
class Objective:
    """A network, a loss and a penalty, evaluated at parameters and a batch.

    Parameters
    ----------
    network : TwoLayer, Sequential, GraphNetwork, ...
        Anything with ``layers``, ``init``, ``check_inputs``, ``forward``, ``grads``, ``traces``, ``statistics`` and ``jacobian``.
    loss : SquaredLoss, ...
        The mean over samples of a per-sample loss.
    statistics : tuple of Statistics, optional
        Running statistics of normalisation layers; `observe` folds in those of a batch.
    momentum : float
        Weight of a new batch in the running statistics.
    l2 : float
        ω: ω/2 ||W||² is added to the mean loss, over all weights, but not over biases, scales and shifts.
    """

    network: object
    loss: object
    statistics: tuple = field(default=(), compare=False)
    momentum: float = 0.1
    l2: float = 0.0

    def __post_init__(self):
        settle(self, l2=not_negative)

    @property
    def layers(self):
        """One `LayerSpec` per parameter matrix."""
        return self.network.layers

    @property
    def chain(self):
        """The activation after each layer, where dense layers and activations alternate; else the sentence why they do not."""
        return chain(self.network)

    def at(self, params, batch, masks=True):
        """Evaluate at ``params`` (a tuple of matrices) and ``batch`` = (x, y): one forward pass, the rest when asked for.

        x is (n, d), images (n, channels, h, w), or node indices (n,) of a graph; y is (n,) or (n, c), or integer labels (n,)
        for a loss on classes. All arrays share backend and device; floats share dtype (float32 or float64). With (x, y, w) the
        loss of sample i counts w_i times: weights (n,) of mean 1, none negative, where no layer couples samples. Without
        ``masks`` the two-layer network keeps none, and its walks take 1.5 to 2 times as long.

        x may lie in a file: what ``numpy.load(path, mmap_mode="r")`` gives is read some rows at a time by the two-layer network.
        y and w are read into memory, as they are no larger than the residual.

        Raises
        ------
        BackendError, TypeError, ValueError
            Arrays that do not fit each other or the network, or hold NaN or Inf; the message names the array.
        OSError
            A file that cannot be read, or is shorter than it was.
        """
        return self.point(params, batch, masks=masks)

    def point(self, params, batch, calls=None, masks=True):
        """The `Point` of `at`, whose passes are counted in ``calls``."""
        return Point(self, *self._checked(params, batch), calls=calls, masks=masks)

    def arrays(self, batch):
        """The arrays of a batch."""
        return tuple(batch)

    def agreed(self, flag):
        """Whether ``flag`` holds wherever samples are."""
        return flag

    def check_without_penalty(self, method):
        """`ValueError` where there is a penalty, which ``method`` does not take."""
        if self.l2:
            found = f"l2 is {self.l2:g}, and {method} takes no penalty in the loss"
            raise ValueError(f"{found}; expected l2=0, or GaussNewton or a method of gradients, which take it")

    def observe(self, statistics):
        """A new objective with a batch's `Statistics` folded into the running ones, by ``momentum``.

        The first batch is taken whole; variances are the biased ones of the batches.
        """
        if not self.statistics or not statistics:
            return replace(self, statistics=tuple(statistics) or self.statistics)
        mix = lambda old, new: (1 - self.momentum) * old + self.momentum * new  # noqa: E731
        pairs = zip(self.statistics, statistics, strict=True)
        return replace(self, statistics=tuple(type(old)(*map(mix, old, new)) for old, new in pairs))

    def evaluation(self):
        """The objective with normalisation layers that use the running statistics; `ValueError` before any `observe`."""
        if not any(spec.kind == "norm" for spec in self.layers) or not self.network.coupling:
            return self
        if not self.statistics:
            raise ValueError(
                "no running statistics; expected observe(point.statistics) before the evaluation of normalised layers"
            )
        return replace(self, network=self.network.normalized_by(self.statistics))

    def _checked(self, params, batch):
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise ValueError(f"batch is a {type(batch).__name__}, not a pair; expected (x, y), or (x, y, w) with sample weights")
        self._check_params(params)
        x, y, *weights = batch
        self._check_arrays(params, x, y, weights)
        return tuple(params), x, *map(in_memory, (y, *weights))

    def _check_arrays(self, params, x, y, weights, rows=None):
        """Of ``rows`` samples, by default those of x."""
        with checked_together():
            self.network.check_inputs(x, params)
            here = getattr(self.network, "local", tuple)(params)
            self.loss.check_targets(y, here)
            rows = x.shape[0] if rows is None else rows
            if y.shape[0] != rows:
                raise ValueError(f"y has {y.shape[0]} rows, x has {rows}; expected the same number of samples")
            for w in weights:
                self._check_weights(w, rows, here)

    def _check_weights(self, w, rows, params):
        if reason := getattr(self.network, "coupling", ""):
            raise ValueError(f"{reason}, in which sample weights have no part; expected a batch (x, y)")
        check(ndim={"w": 1}, beside=("params[0]", params[0]), w=w)
        if w.shape[0] != rows:
            raise ValueError(f"w has {w.shape[0]} entries, x has {rows} rows; expected a weight for every sample")

        def judge(least, mean):
            if least < 0 or abs(mean - 1) > MEAN * eps_of(w):
                found = f"w holds {least:g}" if least < 0 else f"w has mean {mean:.8g}"
                raise ValueError(f"{found}; expected sample weights of at least 0 and mean 1, such as w / mean(w)")

        xp = namespace(w)
        look(judge, xp.min(w), xp.mean(w))

    def _check_params(self, params):
        if not isinstance(params, tuple | list):
            raise BackendError(f"params is a {type(params).__name__}; expected a tuple with one matrix per layer")
        found = [tuple(getattr(W, "shape", ())) for W in params]
        expected = [spec.shape for spec in self.layers]
        if found != expected:
            raise ValueError(f"params have shapes {found}; expected {expected}, from the network's layers")


@unguarded_methods
class Point:
    """The objective at one set of parameters and one batch; evaluated when asked, cached, and counted by `Counted`."""

    def __init__(self, objective, params, x, y, weights=None, calls=None, masks=True):
        self._objective, self._calls = objective, calls
        self.params, self.x, self.weights, self.layers = params, x, weights, objective.layers
        self._network = objective.network if calls is None else CountedNetwork(objective.network, calls, x.shape[0])
        outputs, self._tape = self._network.forward(params, x, **({} if masks else {"masks": False}))
        self.outputs = self._brought_together(outputs, y.shape[0])
        self.y = objective.loss.targets(y, self.outputs)

    def _brought_together(self, outputs, n):
        """The outputs (n, c) of all samples."""
        return outputs

    @cached_property
    @unguarded()
    def loss(self):
        """Mean loss over the batch, with the penalty ω/2 ||W||², a 0-d array."""
        if not self.l2:
            return self.data_loss
        squares = [namespace(W).sum(W * W) for W in weights_of(self.params, self.layers)]
        return self.data_loss + 0.5 * self.l2 * sum(squares)

    @cached_property
    @unguarded()
    def data_loss(self):
        """Mean loss over the batch without the penalty, a 0-d array."""
        return self._objective.loss.value(self.outputs, self.y, self.weights)

    @cached_property
    def root_weights(self):
        """Roots √w (n,) of the sample weights, or None where there are none."""
        return None if self.weights is None else namespace(self.weights).sqrt(self.weights)

    def weighed(self, a):
        """``a`` (n, c) with its rows times √w: as it is without sample weights."""
        return a if self.weights is None else self.root_weights[:, None] * a

    @property
    def l2(self):
        """ω of the penalty."""
        return self._objective.l2

    @cached_property
    @unguarded()
    def residual(self):
        """The Gauss-Newton residual r̃, flat (n c,): f - y for the squared loss, else C⁻¹ of the derivative by the outputs.

        Rows are times √w, where samples have weights.
        """
        return namespace(self.outputs).reshape(self.weighed(self._objective.loss.residual(self.outputs, self.y)), (-1,))

    @cached_property
    @unguarded()
    def root(self):
        """The square roots C of the samples' output Hessians (an `OutputRoot`)."""
        root = self._objective.loss.root(self.outputs)
        return root if self.weights is None else WeightedRoot(root, self.root_weights)

    def standardised(self, by):
        """The same point in the variables of a `Standardised`, for a network that begins with a dense layer; no pass."""
        if not by.mean:
            return self
        point, (first, *others) = copy(self), self.layers
        vars(point).pop("penalty_grads", None)
        point.layers = replace(first, input_scale=by.deviation), *others
        point.params, point.x = by.forth(self.params), by.inputs(self.x)
        point._tape = self._tape._replace(caches=(point.x, *self._tape.caches[1:]))
        return point

    def check_least_squares(self, method):
        """`ValueError` unless the loss is the squared one, summed over outputs, without a penalty: what ``method`` asks for."""
        loss = self._objective.loss
        self._objective.check_without_penalty(method)
        self.check_unweighted(method)
        if not isinstance(loss, SquaredLoss):
            found = f"loss is a {type(loss).__name__}; expected SquaredLoss"
            raise ValueError(f"{found}: this method is for least squares, GaussNewton takes every loss")
        if loss.average and self.outputs.shape[1] > 1:
            raise ValueError("this method takes the squared loss summed over outputs; expected average=False")

    def check_unweighted(self, method):
        """`ValueError` where the batch has sample weights, which ``method`` does not take."""
        if self.weights is not None:
            found = f"the batch has sample weights, and {method} takes none"
            raise ValueError(f"{found}; expected (x, y), or GaussNewton, KFAC(fisher='type-2') or a method of gradients alone")

    @property
    def samples(self):
        """Number of samples n."""
        return self.x.shape[0]

    def release(self):
        """Let the two-layer network's masks go: walks make phi' anew."""
        self._tape.jacobian.release()

    @property
    def statistics(self):
        """Batch `Statistics` (mean and variance) per normalisation layer."""
        return self._objective.network.statistics(self._tape)

    def input_sum(self, f):
        """``f(x)``, a sum over samples of what is made of their inputs."""
        return f(self.x)

    def several_units(self):
        """Whether the features of the inputs seem to have several units: see `nearlin.nn.several_units`."""
        return several_units(self.x)

    def standardisation(self, bias):
        """The `Standardised` of the inputs, for a first layer with a ``bias`` or not."""
        return Standardised.of(self.x, self.weights, bias)

    def has_inputs(self, x):
        """Whether the inputs are ``x``."""
        return same((x,), (self.x,))

    def draw(self, key):
        """Targets (n, c) drawn from the model's own output distribution."""
        return self._objective.loss.draw(key, self.outputs)

    def _output_gradient(self, targets):
        targets = self.y if targets is None else self._objective.loss.targets(targets, self.outputs)
        return self.weighed(self.weighed(self._objective.loss.gradient(self.outputs, targets)))

    def grads(self, targets=None):
        """Gradient of `loss`, shaped like the parameters; at other ``targets``, where given, that of the mean loss alone."""
        return self.penalised(self.data_grads()) if targets is None else self.data_grads(targets)

    def data_grads(self, targets=None):
        """Gradient of the mean loss without the penalty: for statistics of the data."""
        return self._network.grads(self.params, self._tape, self._output_gradient(targets) / self.samples)

    def penalised(self, grads):
        """``grads`` of the mean loss with the gradient of the penalty added."""
        return axpy(1.0, self.penalty_grads, grads) if self.l2 else grads

    @cached_property
    @unguarded()
    def penalty_grads(self):
        """Gradient of the penalty, ω W and zeros for biases and normalisations, or None where there is none."""
        return tuple(self.l2 * W for W in without_biases(self.params, self.layers)) if self.l2 else None

    def traces(self, targets=None):
        """Per layer a trace: inputs and per-sample output gradients, without the 1/n of the mean."""
        return self.pullback(self._output_gradient(targets))

    def pullback(self, dy):
        """Per layer a trace, for given gradients ``dy`` (n, c) by the outputs."""
        return self._network.traces(self.params, self._tape, dy)

    def signed_traces(self, key):
        """Per layer a trace, at the gradients C z by the outputs, for signs z (n, c) drawn by ``key``."""
        z = signs(key, math.prod(self.outputs.shape), self.outputs)
        return self.pullback(self.root.apply(namespace(z).reshape(z, self.outputs.shape)))

    def jvp(self, tangents):
        """J v, (n, c), by one forward-mode pass."""
        return self._network.jvp(self.params, self._tape, tangents)

    def jacobian(self, weighted=False, factors=None):
        """The Jacobian operator J (n c, p) of the outputs; ``weighted``: Cᵀ J with the roots C of the output Hessians.

        ``factors`` True keeps it in factors, False makes products by passes through the network; by default networks of dense
        layers and few outputs come in factors.
        """
        J = self._operator(weighted, factors)
        if self._calls is None:
            return J
        self._calls["jacobian"] += 1
        return CountedOperator(J, self._calls)

    def _operator(self, weighted, factors):
        J = self._network.jacobian(self.params, self._tape, self.x, factors)
        return J.weigh(self.root) if weighted else J
