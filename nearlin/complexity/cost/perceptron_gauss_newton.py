"""Bytes of a step of `GaussNewton` on a perceptron: the arrays that there are at its peak, by name."""

from itertools import accumulate
from math import ceil

from nearlin._array import block_length
from nearlin.complexity.cost.memory import VECTORS, at_the_peak, nystrom_phases, nystrom_rank
from nearlin.complexity.cost.pivoted import rounds_of
from nearlin.curvature import ROUTES
from nearlin.curvature.direct import ENTRIES
from nearlin.curvature.pivoted_rows import ROUND
from nearlin.linalg.dealt import largest_share
from nearlin.linalg.hadamard import next_power_of_two
from nearlin.linalg.pivoted_cholesky import ROWS
from nearlin.nn.network import FEW_OUTPUTS
from nearlin.nn.network_jacobian import BUDGET
from nearlin.sketch import KroneckerSRHT

CHUNK = 2**23  # numbers of the rows that are sketched at a time


def gauss_newton_on_perceptron(net, route, fresh=True, recalled=True, other_batch=False, rank=None, made=0, workers=1):
    """Bytes of one `GaussNewton` step on a `Perceptron` by array.

    Parameters
    ----------
    net : Perceptron
    route : str
        A key of `ROUTES`.
    fresh, recalled : bool
        Whether the preconditioner is made in this step; whether the point is the trial point of the step before.
    other_batch : bool
        Whether what is recalled is of another batch, and serves for nothing.
    rank : int, optional
        Of pivoted columns.
    made : int
        Not used: columns are made anew.
    workers : int

    Returns
    -------
    dict[str, int]
        Their sum is the peak.
    """
    return _Step(net, route, rank, workers).arrays(fresh, recalled, other_batch)


class _Step:
    def __init__(self, net, route, rank, workers):
        self.net, self.route, self.workers = net, route, workers
        self.few, self.c, self.rank = net.sizes[-1] <= FEW_OUTPUTS, net.sizes[-1], rank
        self.N = net.all * self.c
        self.square, self.one = net.item * self.N**2, net.item * net.n**2
        self.factors = net.wide(sum(D for _, D in net.shapes)) + net.wide(self.c * sum(o for o, _ in net.shapes))

    def arrays(self, fresh, recalled, other_batch):
        net, before = self.net, recalled or other_batch
        held = {
            "data": net.data,
            "parameters": net.parameters,
            "recall": net.parameters + net.batch if before else 0,
            "rows of J": self.factors if self.few else 0,
            "vectors": (2 if self.parameter else VECTORS) * net.item * self.N,
        }
        tape = net.tape(slopes=self.few or recalled or self.parameter)
        held |= {name: (1 + other_batch) * size for name, size in tape.items()}
        kept, rows, solve = self.kept, self.rows_phases(), self.solve_phases()
        if not fresh:
            return at_the_peak(held | kept, *rows, *solve)
        stays = before and self.route not in ("pivoted", "direct")
        older = {f"last {name}": size for name, size in kept.items()} if stays else {}
        made, build = self.build(before)
        return at_the_peak(held | older, *rows, *build, *(made | kept | phase for phase in solve))

    @property
    def parameter(self):
        return ROUTES[self.route].side == "parameter"

    # ---------------------------------------------------------------------------------------------------- the preconditioner

    @property
    def kept(self):
        """The preconditioner, and the inputs that it is for."""
        net, inputs = self.net, {} if self.route in ("kfac", "diagonal") else {"its inputs": self.net.wide(self.net.sizes[0])}
        if self.route == "pivoted":
            k = self.rank
            own = 0 if self.few else self.factors
            return inputs | {"F": net.item * self.N * k, "FᵀF": 8 * k * k, "R": net.item * k * k, "factors of F": own}
        if self.route == "direct":
            p, whole = sum(o * D for o, D in net.shapes), self.square
            return inputs | {
                "R": min(whole, net.item * p * p),
                "diagonal": net.parameters,
                "rows": 0 if self.few else self.factors,
            }
        sizes = {
            "exact": self.square, "frozen": self.square, "sketch": self.square, "class-averaged": self.one,
            "per-class": self.c * self.one, "nystrom": net.item * self.N * nystrom_rank(self.N),
            "kfac": sum(self.pairs), "diagonal": net.parameters,
        }  # fmt: skip
        return inputs | {"preconditioner": sizes.get(self.route, 0)}

    @property
    def pairs(self):
        """K-FAC's two factors of every layer."""
        return [self.net.item * (o * o + D * D) for o, D in self.net.shapes]

    def rows_phases(self):
        """Of few outputs: the passes' signals beside what they are stacked to, and of cross-entropies the rows times the root."""
        net, signals = self.net, self.net.wide(self.c * sum(o for o, _ in self.net.shapes))
        if not self.few:
            return []
        phases = [{"signals": signals - net.wide(self.c * sum(o for o, _ in net.shapes[1:]))}]
        if net.labels:
            layers = [net.wide(self.c * o) for o, _ in net.shapes]
            phases += [
                {"rows times roots": sofar, "at work": 3 * own}
                for sofar, own in zip([0, *accumulate(layers)], layers, strict=False)
            ]
        return phases

    def build(self, before):
        """The matrices that a preconditioner is made of, kept while the step lasts, and the phases of making them."""
        net, square, one = self.net, self.square, self.one
        rows = {} if self.few else {"rows of a chunk": self.chunk_rows}
        if self.route in ("exact", "frozen"):
            gram = {"K Kᵀ": square}
            if self.route == "frozen" and before:
                return gram, [{"RᵀR": 2 * square}]
            return gram, [self.gram_phase() | rows, gram | {"R": square if net.numpy else 2 * square}]
        if self.route in ("class-averaged", "per-class"):
            count = self.c if self.route == "per-class" else 1
            rows = {} if self.few else {"rows": self.factors}
            signals = net.wide(self.c * sum(o for o, _ in net.shapes))
            making = [] if self.few else [rows | {"signals": signals}]
            grams = {"Gram matrices": count * one}
            return grams, [*making, rows | {"Gram matrices": (count + 2) * one}, grams | {"R": count * one}]
        if self.route == "sketch":
            return self.sketch_phases()
        if self.route == "nystrom":
            return {}, nystrom_phases(net.item, self.N, net.numpy)
        if self.route == "pivoted":
            return {}, self.columns_phases()
        if self.route == "direct":
            return self.direct_phases()
        if self.route == "kfac":
            traces, largest = {"signals": net.signals}, max(net.item * max(o, D) ** 2 for o, D in net.shapes)
            traces |= {"factors": 2 * sum(self.pairs)}
            return {}, [traces | {"eigenvectors": sum(self.pairs) + 2 * largest}, *self.handed_round(traces)]
        if self.route == "diagonal":
            squares = max(net.wide(o + 2 * D) for o, D in net.shapes)
            return {}, [{"signals": net.signals, "squares": squares, "diagonal": net.parameters + max(net.matrices)}]
        return {}, []

    def handed_round(self, traces):
        """Of ranks all eigenvectors, and what they come in, beside this one's and what these are sent in."""
        if self.net.ranks == 1:
            return []
        cubes = [k**3 for o, D in self.net.shapes for k in (D, o)]
        own = largest_share([self.net.item * k * k for o, D in self.net.shapes for k in (D, o)], cubes, self.net.ranks)
        return [traces | {"eigenvectors": sum(self.pairs), "handed round": sum(self.pairs) + 2 * own}]

    def gram_phase(self):
        """A layer's Δ̂ Δ̂ᵀ, times A Aᵀ, added to those of the layers before; of many outputs chunk by chunk into the whole."""
        products = self.one if self.c > 1 else 0
        if self.few:
            return {"K Kᵀ": self.square, "a layer's": 2 * self.square + products}
        share = self.samples_at_a_time(2) / self.net.n
        return {"K Kᵀ": self.square, "a chunk's": (3 * self.square + products) * share**2}

    def samples_at_a_time(self, matrices=1):
        """Of many outputs."""
        widths, largest = sum(self.net.sizes[1:]), max(o * D for o, D in self.net.shapes)
        return min(self.net.n, max(1, BUDGET // (self.net.item * matrices * self.c * (widths + largest))))

    @property
    def chunk_rows(self):
        """Factors of the rows of one chunk, or of two."""
        samples = self.samples_at_a_time(2)
        return (1 if samples == self.net.n else 2) * self.factors * samples / self.net.n

    def sketch_phases(self):
        """K Sᵀ layer by layer and by chunks: sums, products, and what gathered rows of transforms take; then its Gram matrix."""
        net, s = self.net, ceil(KroneckerSRHT.oversampling * self.N)
        widths = sum(o + D for o, D in net.shapes)
        samples = min(net.n, max(1, CHUNK // (widths * self.c)))
        if not self.few:
            samples = min(samples, self.samples_at_a_time())
        part, whole = net.item * samples * self.c * s, net.item * self.N * s
        transforms = max(net.item * samples * self.c * sum(map(next_power_of_two, shape)) for shape in net.shapes)
        rows = {} if self.few else {"rows of a chunk": self.factors * samples / net.n}
        sketched = {"K Sᵀ": whole}
        sums, at_work = whole if samples < net.n else 0, 3 + (len(net.shapes) > 1) + (not net.numpy)
        phases = [
            rows | {"K Sᵀ": sums + part, "sums and products": at_work * part, "transforms": transforms},
            {"K Sᵀ": 2 * whole},
            sketched | {"sketched Gram": self.square},
        ]
        return sketched | {"sketched Gram": self.square}, phases

    def columns_phases(self):
        """A round: entries of a block of rows, a layer's and the sum, and the products of inputs once a sample and repeated."""
        net, k = self.net, self.rank
        most = max((taken for _, taken in rounds_of(k, 0, ROUND)), default=0)
        row = net.item * (k + 3 * most)
        block = min(self.N, max(block_length(row, 1.0, parts=8), min(ROWS, block_length(row, 1.0))))
        at_work = min(self.workers, ceil(self.N / block)) * net.item * block * most * (4 if self.c > 1 else 3)
        kept = self.kept
        return [kept | {"entries": at_work, "proposals": 8 * 4 * min(2 * k + 8, ROUND) ** 2}, kept | {"eigenvalues": 8 * k * k}]

    def direct_phases(self):
        """KᵀK from explicit rows, some at a time; or K Kᵀ with its part of biases from both products of every layer."""
        net, p = self.net, sum(o * D for o, D in self.net.shapes)
        rows = {} if self.few else {"rows": self.factors}
        if p < self.N:
            matrix, samples = net.item * p * p, min(net.n, max(1, ENTRIES // (p * self.c)))
            row, after = net.item * self.c * p, min(samples, net.n - samples)  # how many come after the first ones
            return {"KᵀK": matrix}, [
                rows | {"KᵀK": (after > 0) * matrix, "explicit rows": row * max(2 * samples, samples + 2 * after)},
                rows | {"KᵀK": (2 + (after > 0)) * matrix, "explicit rows": row * samples},
                {"KᵀK": matrix, "damped": 3 * matrix},
            ]
        made = {"K Kᵀ": 2 * self.square}
        return made, [rows | {"K Kᵀ": 5 * self.square + self.one}, rows | made | {"R": self.square}]

    # ------------------------------------------------------------------------------------------------------------- the solve

    def solve_phases(self):
        """Products and sums of CG, the trial, and what is recalled."""
        net, p = self.net, self.net.parameters
        trial = {"step": p, "trial": p}
        passes = {"a layer's": net.wide(2 * max(net.sizes[1:]))} if self.few else net.gradient_phase
        tape = {"trial's activations": sum(net.tape(slopes=False).values())}
        after = (
            trial | tape | net.forward_phase,
            trial | tape | {"copies": p + net.batch},
            trial | {"squares": max(net.matrices)},
        )
        if self.parameter:
            vectors = {"vectors of parameters": 7 * p}
            sums, layer = {"vectors of parameters": 10 * p}, 3 * max(net.matrices) if self.route == "kfac" else 0
            solves = {"vectors of parameters": 8 * p, "a layer's solve": layer}
            return (vectors | passes, sums, solves, *({"gradient": p} | phase for phase in after))
        best = {"smoothed Jᵀg": p}
        return (best | {"Jᵀg": p, "Jᵀv": p} | passes, best | {"Jᵀg": 2 * p, "Jᵀv": p}, *after)
