r"""A few columns of J Jᵀ in the place of an n x n matrix, for the two-layer network: how many, and how long they serve.

Formula     P = F Fᵀ + μ I ≈ J Jᵀ + λ I,  F (n, k) of pivoted columns of the closed-form kernel of ReLU
            first rank k₀ = √(2 m d): making F costs about one product with J Jᵀ, 4 n m d flops
            the next step takes 2 k columns by the rule of `nearlin.curvature.pivoted_rows`, and groups of near rows beside F
            (`linalg.second_level`) where there were more than 6 iterations; either is undone, for good, where the next solve
            takes longer
Reference   `nearlin.linalg.pivoted_cholesky`, `nearlin.linalg.pivoted_blocks`; the rules are measured
Cost        B(k): n k (2 d + 9) + 2 n k² + k³/3 flops;  an application 4 n k + 2 k²;  memory n k numbers, twice while F grows
Deviations  1. The kernel does not change with the weights, and one F serves a run: it may lack columns, but is never drawn anew.
            2. Several outputs have neurons of their own and one kernel: they share F.
            3. Rows that lie in a file get no groups of near rows: finding them reads all rows again and again.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import copies, is_map, namespace, same
from nearlin.curvature.pivoted_rows import columns_work, few_neurons, first_rank, most_columns, next_rank
from nearlin.curvature.planner import HORIZON
from nearlin.curvature.preconditioning import near, too_rough
from nearlin.curvature.routes import ROUTES
from nearlin.linalg import PivotedBlocks, PivotedCholesky, Rates, Work, nearby_groups, pivoted_blocks, second_level
from nearlin.nn import KernelEntries

PASSED = 128  # numbers of its groups that a row is passed by in an application: 64, forth and back


class Form(NamedTuple):
    """How many columns, and whether groups of near rows stand beside them; None before that was tried."""

    rank: int
    groups: bool | None = None


class PivotedGram(NamedTuple):
    """P = F Fᵀ + μ I, or F Fᵀ + B with groups, and what the next step decides by.

    Attributes
    ----------
    M : PivotedPreconditioner or PivotedBlocks
    damping : float
        λ.
    form : Form
    effort : float
        Iterations per factor e of the residual, in the last step.
    next : Form or None
        Another form, wanted in the next step.
    before : Form or None
        The last form, while it may come back, and
    seconds : float
        what a factor e of the residual was predicted to take with it.
    settled : bool
        The form stays: the last one came back.
    """

    M: object
    damping: float
    form: Form
    effort: float = math.inf
    next: Form | None = None
    before: Form | None = None
    seconds: float = math.inf
    settled: bool = False

    smoothed = True  # the residual goes up and down on the way

    @property
    def scale(self):
        """The mean of the kernel's diagonal."""
        return _mean_diagonal(self.M.factor)

    @property
    def described(self):
        """In words."""
        return f"pivoted, {self.M.rank} columns" + (", groups of near rows" if self.form.groups else "")

    def operator(self, rows):
        """r → P⁻¹ r for r (n c,), the same P for every output; ``rows`` is n c."""
        return self.M


@dataclass(frozen=True)
class PivotedColumns:
    """How a step makes `PivotedGram`, and keeps it.

    Parameters
    ----------
    J : Jacobian
        In the dtype of the inner products.
    key : int
        Of the draws.
    rates : Rates
    memory : float
        Bytes that F may take.
    maxiter : int
        Iterations of a solve at most.
    """

    J: object
    key: int
    rates: Rates = Rates()
    memory: float = 4e9
    maxiter: int = 200

    renews = False  # deviation 1

    @property
    def obstacle(self):
        """Why there are no such columns, in words, or nothing."""
        return ROUTES["kernel"].obstacle(self.J)

    @property
    def few_neurons(self):
        """A sentence where the network has too few neurons for its samples, or nothing."""
        return few_neurons(self.J)

    @property
    def most(self):
        """Columns that n and the memory allow."""
        return most_columns(self.J, self.memory)

    @property
    def first(self):
        """The `Form` of the first step: k₀ columns."""
        return Form(min(self.most, first_rank(self.J)))

    # ------------------------------------------------------------------------------------------------------------------- making

    def known(self, P):
        """P, where it was made for these inputs; else None."""
        return P if isinstance(P, PivotedGram) and same((P.M.factor.source.x,), (self.J.inputs,)) else None

    def at(self, P, damping):
        """P at another λ, k³/3 flops; None where another form is wanted."""
        if P.next is not None:
            return None
        if P.damping == damping or (P.form.groups and near(P.damping, damping)):
            return P
        M = pivoted_blocks(P.M.factor, damping, self._groups(P.M.factor)) if P.form.groups else P.M.with_damping(damping)
        return P._replace(M=M, damping=damping)

    def make(self, P):
        """F of the form that is wanted, with the columns of P, if there is one."""
        if P is None:
            return PivotedCholesky(KernelEntries(*copies((self.J.inputs,))), self.key).grow(self.first.rank)
        rank = (P.next or P.form).rank
        return P.M.factor.grow(rank) if rank > P.M.rank else P.M.factor.first(rank)

    def factor(self, factor, damping, P):
        """A `PivotedGram` from F; it goes on from P, if there is one."""
        M, wanted = factor.preconditioner(damping), P and (P.next or P.form).groups
        if wanted:
            M = second_level(M, self._groups(factor))
        form = Form(factor.rank, wanted and isinstance(M, PivotedBlocks))
        return PivotedGram(M, damping, form) if P is None else P._replace(M=M, damping=damping, form=form, next=None)

    def scale(self, factor):
        """The mean of the kernel's diagonal."""
        return _mean_diagonal(factor)

    def _groups(self, factor):
        return nearby_groups(factor.source.x, self.key)

    def held(self, P):
        """Bytes that F takes."""
        return self.J.item * self.J.samples * P.M.rank

    # ------------------------------------------------------------------------------------------------------------------ keeping

    def limit(self, P, fresh, epsilon):
        """Iterations at most: a new F would be the same."""
        return self.maxiter

    def keep(self, P, fresh, iterations, epsilon):
        """P for the next step, which may be told to take another form, and the size of the next sketch."""
        digits = math.log(1 / epsilon)
        P = P._replace(effort=iterations / digits)
        seconds = P.effort * self._each(P.form)
        if P.before is not None and seconds > P.seconds:
            return P._replace(next=P.before, before=None, settled=True), 1
        form = None if P.settled else self._better(P, iterations, epsilon)
        return (P if form is None else P._replace(next=form, before=P.form, seconds=seconds)), 1

    def _better(self, P, iterations, epsilon):
        """The `Form` that is worth a trial, or None."""
        if not is_map(self.J.inputs) and P.form.groups is None and too_rough(iterations, epsilon, 1):
            return P.form._replace(groups=True)
        if P.M.factor.exhausted:
            return None
        rank = min(next_rank(P.form.rank, iterations, self._build, self._time(self.J.product_work())), self.most)
        return P.form._replace(rank=rank) if rank > P.form.rank else None

    def seconds(self, P, epsilon):
        """Predicted time of a step's linear algebra."""
        effort, form = (ROUTES["pivoted"].effort, self.first) if P is None else (P.effort, P.form)
        return self._build(form.rank) / HORIZON + effort * math.log(1 / epsilon) * self._each(form)

    def _build(self, k):
        """Predicted time of making k columns."""
        return self._time(columns_work(self.J, k))

    def _each(self, form):
        """Predicted time of an iteration."""
        n, k = self.J.samples, form.rank
        memory = self.J.item * self.J.outputs * n * (2 * k + (PASSED if form.groups else 0))
        return self._time(self.J.product_work() + Work(memory=memory, triangular=2 * k**2, calls=20))

    def _time(self, work):
        return self.rates.seconds(work, self.J.dtype)


def _mean_diagonal(factor):
    diagonal = factor.source.diagonal
    return float(namespace(diagonal).mean(diagonal))
