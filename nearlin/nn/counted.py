"""The objective with what is asked of it counted: passes, Jacobians and their products, whoever makes them."""

from collections import Counter
from fractions import Fraction

from nearlin._array import unguarded_methods


@unguarded_methods
class Counted:
    """An objective that counts what is asked of it, in ``calls``: forward, backward and jvp passes, jacobian and its products.

    Passes are counted whoever makes them, in units of a pass over the batch: a pass over some of the samples is a fraction.
    ``statistics_seen`` are the batch statistics of the first evaluation since the last `observe`, or ().
    """

    def __init__(self, objective):
        self._objective, self.calls, self.statistics_seen = objective, Counter(), ()

    def __getattr__(self, name):
        return getattr(self._objective, name)

    def __eq__(self, other):
        return isinstance(other, Counted) and self._objective == other._objective and self.calls is other.calls

    __hash__ = None

    def at(self, params, batch, masks=True):
        """`Objective.at`, whose passes are counted."""
        point = self._objective.point(params, batch, self.calls, masks)
        self.statistics_seen = self.statistics_seen or point.statistics
        return point

    def observe(self, statistics):
        """`Objective.observe`; what it returns counts on."""
        counted = Counted(self._objective.observe(statistics))
        counted.calls = self.calls
        return counted


class CountedNetwork:
    """A network whose passes are counted; those over all ``samples`` count 1."""

    def __init__(self, network, calls, samples):
        self._network, self._calls, self._samples = network, calls, samples

    def __getattr__(self, name):
        return getattr(self._network, name)

    def _count(self, name, rows):
        self._calls[name] += 1 if rows == self._samples else Fraction(rows, self._samples)

    def forward(self, params, x, **options):
        """The network's, counted as ``forward`` by the rows of x."""
        self._count("forward", x.shape[0])
        return self._network.forward(params, x, **options)

    def grads(self, params, tape, dy):
        """The network's, counted as ``backward`` by the rows of dy."""
        self._count("backward", dy.shape[0])
        return self._network.grads(params, tape, dy)

    def traces(self, params, tape, dy):
        """The network's, counted as ``backward`` by the rows of dy."""
        self._count("backward", dy.shape[0])
        return self._network.traces(params, tape, dy)

    def jvp(self, params, tape, tangents):
        """The network's, counted as ``jvp`` by the rows of the tape's outputs."""
        self._count("jvp", tape.outputs.shape[0])
        return self._network.jvp(params, tape, tangents)

    def astype(self, cast, tape):
        """The network cast, on the same count."""
        return CountedNetwork(self._network.astype(cast, tape), self._calls, self._samples)

    def jacobian(self, *args):
        """The network's Jacobian operator, with passes of this network: they are counted too."""
        return type(self._network).jacobian(self, *args)


MATRICES = ("gram", "mean_gram", "class_grams", "sketch", "sketch_gram")


class CountedOperator:
    """A Jacobian whose products are counted: J Jᵀ as ``gram``, a product with it as ``gram_matvec``, however asked for."""

    def __init__(self, operator, calls):
        self._operator, self._calls = operator, calls

    def __getattr__(self, name):
        value = getattr(self._operator, name)
        if name in ("astype", "pooled"):
            return lambda *args: CountedOperator(value(*args), self._calls)
        name = name.removesuffix("_with_adjoint").removesuffix("_blocks")
        if name not in (*self._operator.products, *MATRICES):
            return value

        def counted(*args, **kwargs):
            self._calls[name] += 1
            return value(*args, **kwargs)

        return counted
