"""The ways to precondition a damped Gauss-Newton system: of each what stands in its way, what it costs, and how it is made.

Formula     M ≈ K Kᵀ + n s I on the sample side, JᵀHJ/n + s I on the parameter side, at a strength s = λ + ω; n s is the shift
Reference   arXiv:2006.11648 (sketches, the limit kernel, and from there the mean over classes); Nyström: arXiv:2110.02820;
            pivoted columns: arXiv:2304.12465; K-FAC: arXiv:1503.05671; the diagonal: Martens, ICML 2010
Cost        `Route.build_work` and `Route.apply_work`, in the primitives of `nearlin.linalg.Rates`
Deviations  none

`ROUTES` has one of each by name. To add one, add a class and a line there.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from nearlin._array import copies, namespace
from nearlin.curvature.direct import direct_factor, direct_matrices
from nearlin.curvature.kronecker_curvature import diagonal_curvature, kronecker_curvature
from nearlin.curvature.pivoted_rows import closed, columns_work, dense, first_rank, least_bytes, pivoted_rows
from nearlin.curvature.preconditioning import Kept, near
from nearlin.linalg import TriangularBlocks, Work, columns, nystrom, sketch_factor


@dataclass(frozen=True)
class Route:
    """No preconditioner, and what every other route has.

    Parameters
    ----------
    name : str
    effort : float
        Iterations per ln(1/ε) that it is expected to take before it has been tried.
    side : str
        ``"sample"`` or ``"parameter"``.
    """

    name: str
    effort: float
    side: str = "sample"

    unchanging: ClassVar[bool] = True  # a new one would be the same
    any_batch: ClassVar[bool] = False  # it serves batches that it was not made on
    whole: ClassVar[bool] = True  # one triangular factor of the whole system, or none at all
    grows: ClassVar[bool] = False  # a larger one would be better
    pivoted: ClassVar[bool] = False  # its size is a number of columns

    def obstacle(self, J):
        """Why it cannot be taken, in words, or nothing."""
        return ""

    def keeps(self, J):
        """Whether it may serve later steps."""
        return True

    def bytes(self, J):
        """What its matrices take."""
        return 0

    def build_work(self, J, rows):
        """The `Work` of making it, with so many sketch rows."""
        return Work()

    def apply_work(self, J):
        """The `Work` of one application."""
        return Work(memory=40 * J.shape[self.side == "parameter"], calls=40)

    def make(self, setting):
        """What all attempts of a step share: matrices with the sketched rows or None, spectra, or ()."""
        return ()

    def factor(self, made, setting, strength):
        """A `Kept` for this strength."""
        return Kept(self.name, None, self._inputs(setting), strength, how="none")

    def _inputs(self, setting):
        return None if self.any_batch else copies((setting.point.x,))[0]

    def solves(self, kept):
        """Whether what is made in the place of ``kept`` is the inverse of the system itself, where no larger shift was needed."""
        return False

    def remake(self, kept):
        """What `make` made for ``kept``, to be factored at another strength; None where that is to be made anew."""
        return

    def serves(self, kept, point):
        """Whether ``kept`` is of this route, and serves the inputs of a `Point`."""
        return kept is not None and kept.route == self.name and (kept.x is None or point.has_inputs(kept.x))

    def near(self, kept, strength):
        """Whether it was made for about this strength: within a factor of 10, where the strength is inside of its factor."""
        return True


class Gram(Route):
    """Triangular factors of small Gram matrices of rows of J; here R of the Gram matrix itself."""

    unchanging = False

    def obstacle(self, J):
        return _no_rows(J)

    def _sizes(self, J):
        """How many matrices, and the rows of each: all of J Jᵀ, or its blocks."""
        return (J.outputs, J.samples) if J.block_diagonal else (1, J.shape[0])

    def bytes(self, J):
        """The Gram matrices, their products of inputs, and the factors."""
        count, size = self._sizes(J)
        return 3 * J.item * count * size**2

    def build_work(self, J, rows):
        count, size = self._sizes(J)
        return self._gram_work(J, rows) + Work(cholesky=count * size**3 / 3)

    def _gram_work(self, J, rows):
        return J.gram_work()

    def apply_work(self, J):
        """One solve with every matrix; further columns with the same are as fast as a product."""
        count, size = self._sizes(J)
        further = J.shape[0] // size - count
        return Work(triangular=2 * count * size**2, calls=10 * count) + Work(matmul=2 * size**2 * further)

    def make(self, setting):
        return setting.J.gram_blocks(), None

    def factor(self, made, setting, strength):
        (matrices, rows), shift = made, setting.point.samples * strength
        factors = tuple(sketch_factor(matrix, shift, rows) for matrix in matrices)
        width = math.prod(setting.point.outputs.shape) // factors[0][0].shape[0]
        blocks = TriangularBlocks(tuple(R for R, _ in factors), width, shift)
        return Kept(self.name, blocks, self._inputs(setting), strength, how=f"{self.name}, {factors[0][1]}")

    def solves(self, kept):
        return True

    def near(self, kept, strength):
        return near(kept.strength, strength)


class Frozen(Gram):
    """R of the first Gram matrix, in all steps; at another strength it is factored anew from RᵀR."""

    unchanging = True

    def solves(self, kept):
        return kept is None

    def remake(self, kept):
        if kept is None:
            return None
        return tuple(_squared(R, kept.source.shift) for R in kept.source.factors), None


def _squared(R, shift):
    """RᵀR - shift I."""
    xp = namespace(R)
    return xp.matrix_transpose(R) @ R - shift * xp.eye(R.shape[0], dtype=R.dtype, device=R.device)


class Approximate(Gram):
    """R of another matrix that is near the Gram matrix, or near its blocks."""

    def solves(self, kept):
        return False

    def _sizes(self, J):
        return 1, J.pooled().shape[0]


class Sketch(Approximate):
    """R of the sketched Gram matrix."""

    grows = True

    def bytes(self, J):
        """With J Sᵀ, where the sketch forms it."""
        return J.item * J.pooled().shape[0] ** 2 * (5 if J.layered else 3)

    def _gram_work(self, J, rows):
        return J.sketch_work(rows)

    def make(self, setting):
        J = setting.J.pooled()
        S = J.draw(setting.sketch, setting.key, setting.rows, setting.like)
        if hasattr(S, "left"):
            return (J.sketch_gram(S),), None
        rows = J.sketch(S)
        return (rows @ namespace(rows).matrix_transpose(rows),), rows


class Kernel(Approximate):
    """R of the limit of J Jᵀ for infinite width."""

    unchanging = True

    def obstacle(self, J):
        if J.layered:
            return "the closed-form kernel is that of the two-layer network"
        return "" if J.phi.name == "relu" else "the closed-form kernel is that of ReLU"

    def _gram_work(self, J, rows):
        return J.kernel_work()

    def make(self, setting):
        return (setting.J.kernel_gram(),), None


class ClassAveraged(Approximate):
    """R of the mean of the classes' Gram matrices, for all of them."""

    whole = False

    def obstacle(self, J):
        return "there is one output: it would be 'exact'" if J.outputs == 1 else super().obstacle(J)

    def _sizes(self, J):
        return 1, J.samples

    def _gram_work(self, J, rows):
        return J.class_work(mean=True)

    def make(self, setting):
        return (setting.J.mean_gram(),), None


class PerClass(ClassAveraged):
    """R of the Gram matrix of every class."""

    def _sizes(self, J):
        return J.outputs, J.samples

    def _gram_work(self, J, rows):
        return J.class_work(mean=False)

    def make(self, setting):
        return tuple(setting.J.class_grams()), None


class RandomNystrom(Route):
    """A randomised eigenvalue decomposition of low rank."""

    unchanging = whole = False

    def build_work(self, J, rows):
        return 32 * J.product_work()

    def make(self, setting):
        return (columns(setting.J.gram_matvec),)

    def factor(self, made, setting, strength):
        n, size = setting.point.samples, math.prod(setting.point.outputs.shape)
        P = nystrom(made[0], size, setting.key, n * strength, like=setting.like)
        return Kept(self.name, P, self._inputs(setting), strength, how=f"nystrom of rank {P.rank}")


class Pivoted(Route):
    """A few columns of K Kᵀ. Those of the closed-form kernel stay for the run; others age in one step, and are made anew."""

    unchanging = whole = False
    pivoted = True

    def obstacle(self, J):
        return _no_rows(J) if J.layered else ""

    def keeps(self, J):
        return closed(J)

    def bytes(self, J):
        """With the fewest columns."""
        return least_bytes(J)

    def build_work(self, J, rows):
        """Of ``rows`` columns."""
        return columns_work(J, rows)

    def apply_work(self, J):
        k = first_rank(J)
        return super().apply_work(J) + Work(triangular=2 * k**2, memory=2 * J.item * J.pooled().shape[0] * k)

    def make(self, setting):
        return pivoted_rows(setting.J, setting.columns, setting.sketch, setting.key, setting.like)

    def factor(self, made, setting, strength):
        P = made.preconditioner(setting.point.samples * strength)
        return Kept(self.name, P, self._inputs(setting), strength, how=f"{self.name}, {P.rank} columns")


class ByLayers(Route):
    """The diagonal of the curvature, at signs drawn once: made of averages, it serves batches that it was not made on."""

    unchanging, any_batch = False, True

    def obstacle(self, J):
        return "" if J.layered else "the two-layer network's neurons are too many for factors of layers"

    def build_work(self, J, rows):
        return J.signals_work() + Work(matmul=sum(2 * rows * o * D for rows, o, D in _matrices(J)))

    def make(self, setting):
        return diagonal_curvature(setting.point, setting.layers, setting.key)

    def factor(self, made, setting, strength):
        return Kept(self.name, made, self._inputs(setting), strength, how=self.name)


class KroneckerFactors(ByLayers):
    """Eigenbases of K-FAC's factors."""

    def build_work(self, J, rows):
        sums = sum(rows * (D * D + o * o) for rows, o, D in _matrices(J))
        return J.signals_work() + Work(matmul=sums, eigh=sum(9 * (D**3 + o**3) for _, o, D in _matrices(J)))

    def apply_work(self, J):
        return super().apply_work(J) + Work(matmul=sum(4 * o * D * (o + D) for _, o, D in _matrices(J)))

    def make(self, setting):
        return kronecker_curvature(setting.point, setting.layers, setting.key)


class Direct(Route):
    """The inverse itself, made anew in every step and at every strength."""

    unchanging = whole = False

    def keeps(self, J):
        return False

    def obstacle(self, J):
        if not J.layered:
            return "the two-layer network has the route 'exact'"
        return _no_rows(J) or ("" if dense(J) else "there are layers that are not dense")

    def bytes(self, J):
        """The matrix, its part of biases, and the factor."""
        return 3 * J.item * min(J.shape) ** 2

    def build_work(self, J, rows):
        """On the smaller side."""
        N, p = J.shape
        if p < N:
            return Work(matmul=N * p**2, cholesky=p**3 / 3)
        return J.gram_work() + Work(cholesky=N**3 / 3)

    def apply_work(self, J):
        """On the side of the samples with a product."""
        N, p = J.shape
        solves = Work(triangular=2 * min(N, p) ** 2, calls=10)
        return solves if p < N else solves + J.product_work()

    def make(self, setting):
        return direct_matrices(setting.J, setting.layers)

    def factor(self, made, setting, strength):
        l2 = setting.point.l2
        source, how = direct_factor(made, setting.J, setting.layers, setting.point.params, strength - l2, l2)
        return Kept(self.name, source, self._inputs(setting), strength, how=f"{self.name}, {how}")

    def near(self, kept, strength):
        return kept.strength == strength


def _no_rows(J):
    return f"{J.coupling}: there are no rows of single samples" if J.coupling else ""


def _matrices(J):
    """(rows, o, D) of the layers with two Kronecker factors."""
    return [(rows, *shape) for rows, shape in zip(J.rows, J.factor_shapes, strict=True) if not isinstance(shape, int)]


SAMPLE = (
    Gram("exact", 0),
    Sketch("sketch", 1.4),
    Kernel("kernel", 1),
    ClassAveraged("class-averaged", 3),
    PerClass("per-class", 4),
    Frozen("frozen", 1.5),
    RandomNystrom("nystrom", 2),
    Pivoted("pivoted", 2.2),
    Route("cg", 10),
)
PARAMETER = (
    KroneckerFactors("kfac", 2, "parameter"),
    ByLayers("diagonal", 25, "parameter"),
    Route("parameter-cg", 40, "parameter"),
)
ROUTES = {route.name: route for route in (*SAMPLE, *PARAMETER, Direct("direct", 0, "parameter"))}
