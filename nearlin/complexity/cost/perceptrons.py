"""Bytes of a step on a perceptron: the arrays that there are at its peak, by name; see `nearlin.complexity.cost.memory`."""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np

from nearlin.complexity.cost.memory import FIRST_ORDER, at_the_peak, two_layer_sizes, update_phase
from nearlin.linalg.block_inverse import STACKED
from nearlin.linalg.dealt import largest_share

PACKED = 3.5  # arrays like the sums of a layer while ranks add theirs: packed, as they are sent, and unpacked
SLOPE = {"relu": 0, "identity": 1, "tanh": 1, "sigmoid": 1, "softplus": 1}  # phi'(z), kept once it has been made
MAKING = {
    "relu": 1 / 8,
    "identity": 0,
    "tanh": 2,
    "sigmoid": 3,
    "softplus": 3,
}  # arrays beside phi'(z) while it is made, or a mask


@dataclass(frozen=True)
class Perceptron:
    """A perceptron with ``sizes`` = (d, widths, c) on n samples: what its passes hold, in bytes.

    ``labels``: the targets are classes, (n,), under the softmax cross-entropy, and numbers (n, c) else. Of several ``ranks`` the
    n are one's share of all ``samples``: y and the outputs are whole on each, and so is x, but where it is ``drawn`` for a batch.
    """

    sizes: tuple
    n: int
    dtype: str
    activation: str = "relu"
    labels: bool = False
    numpy: bool = True
    ranks: int = 1
    samples: int | None = None
    drawn: bool = False

    @property
    def item(self):
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @cached_property
    def shapes(self):
        """(o, D) of every layer."""
        return [(out, inp + 1) for inp, out in pairwise(self.sizes)]

    @cached_property
    def matrices(self):
        """Bytes of every layer's matrix."""
        return [self.item * o * D for o, D in self.shapes]

    @property
    def parameters(self):
        """All matrices."""
        return sum(self.matrices)

    def wide(self, width):
        """An array of so many numbers a sample."""
        return self.item * self.n * width

    @property
    def hidden(self):
        """Arrays like the hidden layers' outputs."""
        return self.wide(sum(self.sizes[1:-1]))

    @property
    def outputs(self):
        """(n, c)."""
        return self.wide(self.sizes[-1])

    @property
    def split(self):
        """Whether samples are split over ranks: fewer than ranks are not, whose inverses are dealt out all the same."""
        return self.n < self.all

    @property
    def all(self):
        """Samples of all ranks."""
        return self.samples or self.n

    @property
    def of_all(self):
        """(n, c) of all samples."""
        return self.item * self.all * self.sizes[-1]

    @property
    def batch(self):
        """x of these samples, and y of all."""
        return self.wide(self.sizes[0]) + (8 * self.all if self.labels else self.of_all)

    @property
    def data(self):
        """x and y."""
        return self.batch + (0 if self.drawn else self.item * (self.all - self.n) * self.sizes[0])

    @property
    def signals(self):
        """Gradients by all layers' outputs."""
        return self.hidden + self.outputs

    def tape(self, slopes=True):
        """Of a forward pass: what activations are made of, their results, the outputs, one-hot targets; and phi', where kept."""
        return {
            "activations": 2 * self.hidden + self.outputs + (self.split + self.labels) * self.of_all,
            "slopes": slopes * SLOPE[self.activation] * self.hidden,
        }

    @property
    def forward_phase(self):
        """A layer's outputs before its biases are added."""
        return {"products": self.wide(max(self.sizes[1:]))}

    def backward_phases(self):
        """From layer to layer: the signals so far, and the products and their slopes at the next one."""
        later = list(accumulate(self.sizes[:0:-1]))
        places = zip(later, self.sizes[-2:0:-1], strict=False)
        making = 2 + MAKING[self.activation]
        return [{"signals": self.wide(sofar), "slopes' products": self.wide(making * width)} for sofar, width in places]

    @property
    def gradient_phase(self):
        """Signals, inputs with a column of ones, and the gradients so far; behind the outputs' gradient and its n-th."""
        made = max(self.wide(D) + sofar for (_, D), sofar in zip(self.shapes, accumulate(self.matrices), strict=True))
        return {"signals": self.signals + self.outputs, "inputs and gradients": made}

    @property
    def loss_phase(self):
        """What a loss is summed up from."""
        return {"losses": (4 if self.labels else 2) * self.of_all}

    @property
    def gradient_sum(self):
        """The gradient of a rank's samples, as it is sent, and that of all."""
        return {"gradient": self.parameters, "sum over ranks": 2 * self.parameters} if self.split else {}


def first_order_on_perceptron(net, optimizer, workers=1):
    """Bytes of one step of a method of first order, a key of `FIRST_ORDER`, on a `Perceptron`."""
    kept = FIRST_ORDER[optimizer].kept * net.parameters
    held = {"data": net.data, "parameters": net.parameters, "state": kept} | net.tape()
    return at_the_peak(
        held,
        net.forward_phase,
        *net.backward_phases(),
        net.gradient_phase,
        net.loss_phase,
        net.gradient_sum,
        update_phase(optimizer, net.shapes, net.item, net.numpy, workers),
    )


def kfac_on_perceptron(net, statistics_due=True, inverse_due=True):
    """Bytes of one step of `KFAC` with its default options on a `Perceptron`."""
    squares = [net.item * (o * o + D * D) for o, D in net.shapes]
    p, factors = net.parameters, sum(squares)
    held = {"data": net.data, "parameters": p, "velocity": p} | net.tape()
    kept, traces = {"factors and inverses": 2 * factors}, {"new velocity": p, "signals": net.signals + 2 * net.outputs}
    new = {"new factors": factors} if statistics_due else {}
    inverses = {"new inverses": factors} if inverse_due else {}
    return at_the_peak(
        held | kept,
        net.forward_phase,
        *net.backward_phases(),
        net.gradient_phase,
        net.gradient_sum,
        *_statistics_phases(net, squares, traces, statistics_due),
        *_inverse_phases(net, squares, traces | new, inverse_due),
        traces | new | inverses | {"directions": p, "trial": p},
    )


def kfac_on_two_layer(
    n, d, m, dtype="float64", packed=True, workers=1, activation="relu", outputs=1, on_gpu=False, statistics_due=True,
    inverse_due=True,
):  # fmt: skip
    """Bytes of one step of `KFAC` with its default options on the two-layer network, one layer (m, d) without a bias."""
    size = two_layer_sizes(n, d, m, dtype, packed, workers, activation, outputs, on_gpu)
    net = Perceptron((d - 1, m), n, dtype, numpy=packed)  # of one such matrix
    squares, signals, block = [size.item * (m * m + d * d)], net.wide(m), size.one_block
    at_work = max(3 * block, size.made(block)) + (block if block < signals else 0)  # and slopes of the block before
    held = {"data": size.data, "parameters": size.weights, "velocity": size.weights, "masks": size.masks}
    kept, traces = {"factors and inverses": 2 * sum(squares)}, {"new velocity": size.weights, "signals": signals}
    new = {"new factors": sum(squares)} if statistics_due else {}
    inverses = {"new inverses": sum(squares)} if inverse_due else {}
    return at_the_peak(
        held | kept,
        {"gradient": size.weights, "walk": size.slopes},
        {"new velocity": size.weights, "signals": max(2 * signals, signals - block + at_work)},
        *_statistics_phases(net, squares, traces, statistics_due),
        *_inverse_phases(net, squares, traces | new, inverse_due),
        traces | new | inverses | {"directions": size.weights, "trial": size.weights},
    )


def _statistics_phases(net, squares, traces, due):
    """Layer by layer sums, beside the inputs that they are of, and their averages; of ranks also what is sent, packed."""
    for sofar, own, (_, D) in zip([0, *accumulate(squares)], squares if due else (), net.shapes, strict=False):
        sums = max(own + net.wide(D), (2 if net.numpy else 3) * own)
        yield traces | {"new factors": sofar, "sums": max(sums, PACKED * own) if net.split else sums}


def _inverse_phases(net, squares, before, due):
    """Factor by factor: of large ones what LAPACK works in and two results, of stacks of small ones what their calls take."""
    large = 3 if net.numpy else 4
    for sofar, shape in zip([0, *accumulate(squares)], net.shapes if due else (), strict=False):
        G, A = (net.item * k * k * (large if k > STACKED else 7) for k in shape)
        yield before | {"new inverses": sofar, "factorisation": max(A, net.item * shape[1] ** 2 + G)}
    if net.ranks > 1 and due:
        own = largest_share(squares, [o**3 + D**3 for o, D in net.shapes], net.ranks)
        yield before | {"new inverses": sum(squares), "handed round": sum(squares) + 2 * own}
