"""An objective whose samples are split over ranks, for methods that read sums over samples.

Every rank holds the parameters, and passes its own rows of a batch through the network. What has a row for each sample (outputs,
J v) is brought together, what is made from all samples (gradients, Jᵀu, statistics of traces) is summed up. The loss, the
residual and the damping follow on every rank alike from the outputs of all, without communication; so do the steps.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from nearlin._array import namespace, require, signs
from nearlin.linalg import pack_symmetric, unpack_symmetric
from nearlin.nn.jacobian import Factor, Jacobian, LayeredJacobian
from nearlin.nn.objective import Objective, Point
from nearlin.nn.standardised import Columns, Standardised, several_units

SPLIT = "samples are split over ranks"


class OwnRows(NamedTuple):
    """A rank's rows of an array with a row for every sample of a batch.

    Attributes
    ----------
    x : array, shape (rows, ...)
    own : slice
        Which of the batch's rows they are: ``ranks.share(n)`` of its n samples.
    """

    x: object
    own: slice


def by_samples(objective, ranks):
    """The objective with its samples split over ranks: every rank makes the same calls, and gets what a single one would.

    ``objective.at(params, (x, y))`` takes the same parameters and the same y (n, ...) on every rank; x is whole too, or the
    rank's rows of it, ``OwnRows(x, ranks.share(n))``. Sums over samples are rounded in another order than on one rank. A method
    runs on it as it is; inverses and roots of factors are made by one rank each.

    Parameters
    ----------
    objective : Objective
    ranks : Alone or World

    Returns
    -------
    Objective

    Raises
    ------
    ValueError
        Samples depend on each other: batch normalisation by batch statistics, graphs; or the network is split by neurons.
        Later, by the method: it reads rows of single samples, as those on the sample side of Gauss-Newton do.

    Notes
    -----
    A rank sends and receives, in numbers: n c for the outputs, and for each product J v; p for a gradient, and for each product
    Jᵀu; o (o + 1)/2 + D (D + 1)/2 for the Kronecker factors of a layer (o, D).
    """
    split = hasattr(objective.network, "ranks")
    require(not split, "the network is split by neurons already; expected an objective that is not split")
    reason = getattr(objective.network, "coupling", "")
    require(not reason, f"{reason}, and they are split over ranks; expected a network without, or one rank")
    return SamplesObjective(objective.network, objective.loss, objective.statistics, objective.momentum, objective.l2, ranks)


@dataclass(frozen=True)
class SamplesObjective(Objective):
    """What `by_samples` makes.

    Parameters
    ----------
    ranks : Alone or World
        The other parameters are those of `Objective`.
    """

    ranks: object = None

    def point(self, params, batch, calls=None, masks=True):
        """As `Objective.point`; passes over this rank's rows, or over all where there are more ranks than samples."""
        params, x, y, *weights = self._checked(params, batch)
        kind = SamplesPoint if y.shape[0] >= self.ranks.size else Point
        return kind(self, params, x, y, *weights, calls=calls, masks=masks)

    def own(self, n):
        """Which of the ``n`` rows of a batch this rank may give as `OwnRows`, or None where it is to give all."""
        return self.ranks.share(n) if 1 < self.ranks.size <= n else None

    def arrays(self, batch):
        """The arrays of a batch, of x those rows that are given."""
        x, *others = batch
        return (x.x if isinstance(x, OwnRows) else x), *others

    def agreed(self, flag):
        """Whether ``flag`` holds on every rank."""
        return self.ranks.all(flag, "agreed")

    def _checked(self, params, batch):
        """Parameters and batch, of x this rank's rows."""
        given = isinstance(batch, tuple | list) and len(batch) > 1 and isinstance(batch[0], OwnRows)
        if not given:
            params, x, y, *weights = super()._checked(params, batch)
            own = self.own(x.shape[0])
            return params, x if own is None else x[own, ...], y, *weights
        (x, own), y, *weights = batch
        try:
            found = f"the batch has {y.shape[0]} sample(s), and there are {self.ranks.size} ranks"
            require(y.shape[0] >= self.ranks.size, f"{found}; expected x whole, or at least one sample for each")
            expected = self.ranks.share(y.shape[0])
            found = f"x holds the rows {own.start}:{own.stop} of {y.shape[0]}, {x.shape[0]} in number"
            fits = (own.start, own.stop, x.shape[0]) == (expected.start, expected.stop, expected.stop - expected.start)
            require(fits, f"{found}; expected {expected.start}:{expected.stop}, the share of rank {self.ranks.rank}")
            self._check_params(params)
            self._check_arrays(params, x, y, weights, y.shape[0])
        except Exception:
            self.ranks.all(False, "rows")
            raise
        require(self.ranks.all(True, "rows"), "x holds what cannot be used on another rank, which says what")
        return tuple(params), x, y, *weights


class SamplesPoint(Point):
    """A `Point` whose forward pass, gradients, traces and products are those of a rank's own rows, brought together or summed up.

    ``x`` are the inputs of this rank, and ``inputs`` those of all; ``y``, outputs, residual and weights are of all samples.
    """

    def _brought_together(self, outputs, n):
        self.ranks = self._objective.ranks
        self.own = self.ranks.share(n)
        return self.ranks.rows(outputs, n, "outputs")

    @property
    def samples(self):
        """Number of samples n of the batch, on all ranks."""
        return self.y.shape[0]

    def input_sum(self, f):
        """As `Point.input_sum`, summed up."""
        return summed(self.ranks, (f(self.x),), "moments")[0]

    def several_units(self):
        """As `Point.several_units`: a row of the largest entries of each rank is brought together, and a sum made of them all."""
        return several_units(self.x, AllColumns(self.ranks, self.samples))

    def standardisation(self, bias):
        """As `Point.standardisation`, by sums over ranks."""
        weights = None if self.weights is None else self.weights[self.own]
        return Standardised.of(self.x, weights, bias, AllColumns(self.ranks, self.samples))

    def has_inputs(self, x):
        """Whether the inputs are ``x``, on every rank."""
        return self.ranks.all(super().has_inputs(x), "inputs")

    def draw(self, key):
        """This rank's `OwnRows` of targets drawn from the model's own output distribution: bit for bit those of a single rank."""
        return OwnRows(self._objective.loss.draw(key, self.outputs[self.own, :], self.own.start), self.own)

    def _own_gradient(self, targets):
        """The derivative of the samples' losses by the outputs of this rank."""
        outputs, loss = self.outputs[self.own, :], self._objective.loss
        if isinstance(targets, OwnRows):
            own = targets.x
        else:
            own = (self.y if targets is None else loss.targets(targets, self.outputs))[self.own, :]
        dy = loss.gradient(outputs, own)
        roots = None if self.weights is None else self.root_weights[self.own, None]
        return dy if roots is None else roots * (roots * dy)

    def data_grads(self, targets=None):
        """As `Point.data_grads`; p numbers are summed up."""
        dy = self._own_gradient(targets) / self.samples
        return summed(self.ranks, self._network.grads(self.params, self._tape, dy), "grads")

    def traces(self, targets=None):
        """A `SummedTrace` a layer."""
        return self._summed_traces(self._own_gradient(targets))

    def pullback(self, dy):
        """A `SummedTrace` a layer, for given gradients ``dy`` (n, c) by the outputs of all samples."""
        return self._summed_traces(dy[self.own, :])

    def signed_traces(self, key):
        """As `Point.signed_traces`, by signs drawn for this rank's rows."""
        shape = self.outputs[self.own, :].shape
        z = signs(key, math.prod(shape), self.outputs, first=self.own.start * shape[1])
        return self._summed_traces(self.root[self.own].apply(namespace(z).reshape(z, shape)))

    def _summed_traces(self, dy):
        return tuple(SummedTrace(trace, self) for trace in self._network.traces(self.params, self._tape, dy))

    def jvp(self, tangents):
        """J v, (n, c), by one forward-mode pass; n c numbers are brought together."""
        return self.ranks.rows(self._network.jvp(self.params, self._tape, tangents), self.samples, "jvp")

    def _operator(self, weighted, factors):
        J = self._network.jacobian(self.params, self._tape, self.x, factors)
        require(J.layered, f"{SPLIT}, and the two-layer network is solved for on their side; expected ranks by neurons")
        return RowsJacobian(J.weigh(self.root[self.own]) if weighted else J, self)


@dataclass(frozen=True)
class AllColumns(Columns):
    """Of arrays whose rows are those of ``ranks``, ``samples`` in all."""

    ranks: object
    samples: int

    def max(self, a):
        """As `Columns.max`: a row of each rank is brought together."""
        own = super().max(a)
        return super().max(self.ranks.rows(own[None, :], self.ranks.size, "moments"))

    def mean(self, a):
        """As `Columns.mean`: a row is summed up."""
        if self.ranks.size == 1:
            return super().mean(a)
        return self.ranks.sum(namespace(a).sum(a, axis=0), "moments") / self.samples


def summed(ranks, arrays, what, symmetric=()):
    """The sums over ranks of a tuple of arrays, in one message; of ``symmetric`` ones, by number, the lower triangles travel."""
    if ranks.size == 1:
        return arrays
    xp = namespace(*arrays)
    sent = [pack_symmetric(a) if i in symmetric else xp.asarray(a) for i, a in enumerate(arrays)]
    flat = ranks.sum(xp.concat([xp.reshape(a, (-1,)) for a in sent]), what)
    found, start = [], 0
    for i, (a, whole) in enumerate(zip(sent, arrays, strict=True)):
        size = math.prod(a.shape)
        part = xp.reshape(flat[start : start + size], a.shape)
        found.append(unpack_symmetric(part, whole.shape[-1]) if i in symmetric else part)
        start += size
    return tuple(found)


def over_samples(f, trace, *rows, symmetric=()):
    """``f(trace, *rows)``: sums over the rows of a trace, an array or a tuple of arrays.

    Parameters
    ----------
    f : callable
    trace : Trace, ConvTrace, NormTrace or SummedTrace
        Where samples are split, ``f`` sees the trace of this rank, and the sums are those of all.
    rows : arrays or None
        With a row for every sample; ``f`` is given those of the trace.
    symmetric : tuple of int
        Which of the arrays are symmetric matrices (..., k, k).
    """
    return trace.sums(f, rows, symmetric) if isinstance(trace, SummedTrace) else f(trace, *rows)


class SummedTrace:
    """The trace of this rank's rows, of which sums over the rows of all ranks are to be had, and nothing else."""

    def __init__(self, trace, point):
        self._trace, self._point = trace, point

    def __getattr__(self, name):
        if name in ("inputs", "signals", "homogeneous", "accumulate"):
            raise AttributeError(f"the {name} of a trace lie on other ranks too; expected sums over them (over_samples)")
        return getattr(self._trace, name)

    @property
    def rows(self):
        """Number of rows, those of all ranks."""
        own = self._point.own
        return self._trace.rows // (own.stop - own.start) * self._point.samples

    def by_group(self):
        """The traces of a convolution's groups."""
        return tuple(SummedTrace(group, self._point) for group in self._trace.by_group())

    def sums(self, f, rows=(), symmetric=()):
        """As `over_samples`."""
        made = f(self._trace, *(a if a is None else a[self._point.own, ...] for a in rows))
        arrays = made if isinstance(made, tuple) else (made,)
        found = summed(self._point.ranks, arrays, "statistics", symmetric)
        return found if isinstance(made, tuple) else found[0]

    def grad(self):
        """The gradient of the layer's matrix."""
        return summed(self._point.ranks, (self._trace.grad(),), "grads")[0]


class RowsJacobian(Jacobian):
    """Cᵀ J by the rows of all ranks: its products, and their amounts of work on one rank.

    Parameters
    ----------
    J : Jacobian
        Of this rank's rows.
    point : SamplesPoint
    """

    coupling = SPLIT
    closed: ClassVar[dict] = {"sample": SPLIT}

    def __init__(self, J, point):
        self._own, self._point, self._whole, self.products = J, point, _of_all(J, point), J.products

    samples = property(lambda self: self._whole.samples)
    shape = property(lambda self: self._whole.shape)
    dtype = property(lambda self: self._whole.dtype)
    rows = property(lambda self: self._whole.rows)
    factor_shapes = property(lambda self: self._whole.factor_shapes)

    def matvec(self, v):
        """J v (n c,): n c numbers are brought together."""
        return self._point.ranks.rows(self._own.matvec(v), self.shape[0], "matvec", unit=self.outputs)

    def rmatvec(self, u):
        """Jᵀ u for ``u`` (n c,): p numbers are summed up."""
        own, c = self._point.own, self.outputs
        return summed(self._point.ranks, self._own.rmatvec(u[own.start * c : own.stop * c]), "rmatvec")

    def ggn_matvec(self, v):
        """Jᵀ J v: p numbers are summed up."""
        return summed(self._point.ranks, self._own.ggn_matvec(v), "ggn_matvec")

    def factors(self, rows):
        """`ValueError`: rows of single samples are not to be had."""
        raise ValueError(f"{SPLIT}, and this method reads rows of J; expected one that reads sums over samples")

    def gram(self, dtype=None):
        """`ValueError`, as `factors`."""
        return self.factors(slice(None))

    def sketch_gram(self, S):
        """`ValueError`, as `factors`."""
        return self.factors(slice(None))

    def product_work(self):
        """The `Work` of one product with JᵀJ on one rank that had all samples, so that every rank plans what one would."""
        return self._whole.product_work()

    def signals_work(self):
        """As `product_work`, of one backward pass to the signals."""
        return self._whole.signals_work()


def _of_all(J, point):
    """``J`` with the sizes of all samples, of which nothing but shapes and work is asked."""
    stretched = lambda a: namespace(a).broadcast_to(a[:1, ...], (point.samples, *a.shape[1:]))  # noqa: E731
    if isinstance(J, LayeredJacobian):
        return LayeredJacobian(tuple(Factor(*map(stretched, layer)) for layer in J.layers))
    whole = replace(J, tape=J.tape._replace(outputs=stretched(J.tape.outputs)))
    vars(whole)["rows"] = tuple(rows // J.samples * point.samples for rows in J.rows)
    return whole
