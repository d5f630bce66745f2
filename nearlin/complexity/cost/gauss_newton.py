"""Steps of `GaussNewton` and `NearLinearGaussNewton` before they run: what is planned for them, its flops and bytes by part.

Flops are the leading terms that stand in the head of `GaussNewton`, products A Aᵀ in full. Bytes are those of the arrays that
there are at the peak; for perceptrons they stand in `nearlin.complexity.cost.perceptron_gauss_newton`.
"""

from dataclasses import fields, replace
from itertools import pairwise
from math import ceil, log
from typing import NamedTuple

import numpy as np

from nearlin._array import Unmade
from nearlin.complexity.cost import memory
from nearlin.complexity.cost.kernels import (
    factorisation,
    neuron_sketch,
    neurons_per_block,
    sketched_neurons,
    slope_flops,
    triangular_solves,
)
from nearlin.complexity.cost.networks import mlp, two_layer
from nearlin.complexity.cost.pivoted import first_rank, limit_kernel, pivoted_columns, rounds_of
from nearlin.complexity.cost.steps import near_linear_step
from nearlin.curvature import ROUTES, Experience, LimitKernel, PivotedColumns
from nearlin.curvature.pivoted_rows import ROUND, SKETCHED, most_columns, rank_of
from nearlin.linalg import rates_for
from nearlin.linalg.dealt import largest_share
from nearlin.nn import TwoLayer, activation
from nearlin.nn.by_samples import RowsJacobian
from nearlin.nn.jacobian import Factor, LayeredJacobian
from nearlin.nn.network import FEW_OUTPUTS, Tape
from nearlin.nn.network_jacobian import NetworkJacobian
from nearlin.nn.split_two_layer import SplitJacobian
from nearlin.nn.two_layer_blocks import width_of_block
from nearlin.nn.two_layer_jacobian import TwoLayerJacobian
from nearlin.optim import GaussNewton, NearLinearGaussNewton
from nearlin.sketch import KroneckerSRHT, NeuronSigns

RATIO = 100.0  # of the curvature to the first damping, as the planner has it before a step
BOUNDS = 4  # products that measure the bounds of the damping in the first step


class _Blocks:
    """Slices of ``step`` neurons, none of which is made before it is asked for: a width may be out of all reach."""

    def __init__(self, width, step):
        self.width, self.step = width, step

    def __len__(self):
        return ceil(self.width / self.step)

    def __getitem__(self, i):
        return slice(i * self.step, min((i + 1) * self.step, self.width))


def outline(network, n, dtype, on_gpu=False, split=False):
    """The Jacobian of a two-layer network or perceptron on ``n`` samples, its arrays without memory: for its sizes alone.

    Of one that is ``split`` over ranks, by neurons or by samples, the sizes are those of the whole.
    """
    hollow = lambda *shape: np.broadcast_to(np.zeros((), dtype), shape)  # noqa: E731
    if isinstance(network, TwoLayer):
        x = Unmade((n, network.inputs), np.dtype(dtype), on_gpu)
        step = width_of_block(x)
        blocks = _Blocks(network.width, step)
        masks = (x if network.activation == "relu" else None,)
        W = hollow(network.width, network.inputs)
        J = TwoLayerJacobian(x, x, W, activation(network.activation), blocks, masks, network.outputs)
        walk = len(blocks), blocks[0].stop
        return SplitJacobian(**{own.name: getattr(J, own.name) for own in fields(J)}, walk=walk) if split else J
    specs, c = network.layers, network.layers[-1].out
    if c <= FEW_OUTPUTS:
        J = LayeredJacobian(tuple(Factor(hollow(n, spec.shape[1]), hollow(n, c, spec.out)) for spec in specs))
        return RowsJacobian(J, Rows(n)) if split else J
    caches = tuple(module.spec and hollow(n, module.spec.inp) for module in network.modules)
    params = tuple(hollow(*spec.shape) for spec in specs)
    J = NetworkJacobian(network, params, hollow(n, specs[0].inp), Tape(caches, hollow(n, c)))
    return RowsJacobian(J, Rows(n)) if split else J


class Rows(NamedTuple):
    """In the place of the point of a `RowsJacobian`."""

    samples: int


class Route(NamedTuple):
    """What is planned for a first step: a route by name, iterations of a solve, and seconds at the optimizer's rates."""

    name: str
    iterations: int
    seconds: float
    rank: int | None = None  # columns of the route "pivoted"
    most: int | None = None  # that there may be later


def planned_route(network, n, dtype, squared, optimizer=None, on_gpu=False, split=False):
    """The `Route` of the first step of ``optimizer`` (`GaussNewton()`), without the forward passes, which take little of it.

    ``split``: of the several ranks of a network.
    """
    optimizer = _with_rates(optimizer or GaussNewton(), on_gpu)
    planner = optimizer.planner(outline(network, n, dtype, on_gpu, split), None, squared)
    by_name = replace(planner, squared=True).named  # whether residuals are bounded is not known before
    plan = planner.cheapest(Experience(), RATIO) if optimizer.plan == "auto" else by_name(optimizer.plan)
    route = ROUTES[plan.route]
    iterations = min(optimizer.maxiter, max(1, ceil(route.effort * log(1 / optimizer.epsilon))))
    columns = (planner.columns(Experience()), most_columns(planner.J, planner.memory)) if route.pivoted else ()
    return Route(plan.route, iterations, planner.seconds(route, Experience(), RATIO), *columns)


def _with_rates(optimizer, on_gpu):
    """The optimizer with the rates that it plans by."""
    return replace(optimizer, rates=rates_for(optimizer.rates, Unmade((), np.dtype(float), on_gpu)))


class Preconditioner(NamedTuple):
    """What a first near-linear step is planned to take: "sketch", "kernel" or "pivoted", and of the latter how many columns."""

    name: str
    rank: int | None = None
    most: int | None = None  # columns that there may be later


def planned_preconditioner(network, n, dtype, optimizer=None, on_gpu=False, split=False):
    """The `Preconditioner` of the first step of ``optimizer`` (`NearLinearGaussNewton()`) on a two-layer network, by sizes."""
    optimizer, J = _with_rates(optimizer or NearLinearGaussNewton(), on_gpu), outline(network, n, dtype, on_gpu, split)
    way, _ = optimizer.way(J, J.x, optimizer.init(None, None), 0)
    if isinstance(way, PivotedColumns):
        return Preconditioner("pivoted", way.first.rank, way.most)
    return Preconditioner("kernel" if isinstance(way, LimitKernel) else "sketch")


def gauss_newton_step(sizes, n, route, iterations, fresh=True, recalled=False, phi="relu", rank=None, made=0, ranks=1):
    """Flops of one `GaussNewton` step on a perceptron with ``sizes`` = (d, widths, c) by part; ``recalled`` after the first one.

    Parameters
    ----------
    sizes : tuple of int
    n : int
        Samples.
    route : str
        A key of `ROUTES`.
    iterations : int
        Of one solve.
    fresh : bool
        Whether the preconditioner is made in this step.
    recalled : bool
        Whether the point is the trial point of the step before.
    phi : str
        Activation.
    rank, made : int
        Of pivoted columns, by default k₀, all of them made anew: ``made`` has no part in it.
    ranks : int
        Of which n is the share of one, and which make K-FAC's eigenvectors, each some: those of the one that makes most.

    Returns
    -------
    dict[str, int]
        forward, jacobian, bounds, preconditioner, products, applications, guard; for one attempt.
    """
    net, c, p, q = mlp(n, sizes, phi), sizes[-1], _parameters(sizes), (sizes[0] + 1) * sizes[1]
    product = 4 * n * p if c <= FEW_OUTPUTS else 8 * n * p - 4 * n * q
    direct = route == "exact" and fresh
    parts = {
        "forward": 0 if recalled else net.forward,
        "jacobian": (net.jacobian if c <= FEW_OUTPUTS else 0) + (net.gradient if ROUTES[route].side == "parameter" else 0),
        "bounds": 0 if recalled else BOUNDS * product,
        "preconditioner": _build(route, net, sizes, rank, ranks) if fresh else 0,
        "products": product if direct else iterations * product,
        "applications": (1 if direct else iterations) * _application(route, n, sizes, rank),
        "guard": net.forward,
    }
    return {name: int(flops) for name, flops in parts.items() if flops}


def _columns(n, sizes):
    """k₀ of the route "pivoted", and the flops of an entry of K Kᵀ; see `nearlin.curvature.pivoted_rows`."""
    c, p, q = sizes[-1], _parameters(sizes), (sizes[0] + 1) * sizes[1]
    entry = sum(2 * o + 2 * D / c for o, D in _matrices(sizes))
    product = (4 * p if c <= FEW_OUTPUTS else 8 * p - 4 * q) / c
    return rank_of(product, entry), entry


def _matrices(sizes):
    """(o, D) of every layer."""
    return [(out, inp + 1) for inp, out in pairwise(sizes)]


def _parameters(sizes):
    return sum(o * D for o, D in _matrices(sizes))


def _squares(sizes):
    """Entries of K-FAC's factors."""
    return sum(o * o + D * D for o, D in _matrices(sizes))


def _build(route, net, sizes, rank, ranks):
    """Flops of a preconditioner."""
    n, N, c, layers = net.samples, net.rows, sizes[-1], _matrices(sizes)
    rows = c * net.signals if c > FEW_OUTPUTS else 0
    if route == "kfac":
        cubes = [k**3 for o, D in layers for k in (D, o)]
        return 9 * largest_share(cubes, cubes, ranks) + 2 * n * _squares(sizes) + net.signals
    if route == "diagonal":
        return net.signals + 2 * n * net.parameters
    if route == "exact":
        return rows + net.gram + factorisation(N)
    if route == "sketch":
        return rows + net.kronecker(ceil(KroneckerSRHT.oversampling * N)) + factorisation(N)
    if route == "pivoted":
        k, entry = _columns(n, sizes)
        k = rank or k
        return rows + N * k * entry + 2 * N * k * k + k**3 / 3
    if route == "class-averaged":
        return rows + sum(2 * n * n * (D + c * o) for o, D in layers) + factorisation(n)
    return 0


def _application(route, n, sizes, rank):
    """Flops of a preconditioner applied once."""
    c = sizes[-1]
    if route == "kfac":
        return sum(4 * o * D * (o + D) for o, D in _matrices(sizes))
    if route in ("exact", "sketch"):
        return triangular_solves(n * c)
    if route == "pivoted":
        k = rank or _columns(n, sizes)[0]
        return 4 * n * c * k + 2 * k * k
    return c * triangular_solves(n) if route == "class-averaged" else 0


def wide_gauss_newton_step(n, d, m, route, iterations, *, outputs=1, phi="relu", dtype="float64", of=None, **kind):
    """Flops of a `GaussNewton` step on the two-layer network by part: `near_linear_step` with the preconditioner of ``route``.

    Without its certificate, for which the residual is not computed anew. Pivoted columns are factored at every λ, and tell the
    effective dimension by 4 k³/3 flops. ``m`` may be a rank's share of ``of`` neurons.
    """
    net = two_layer(n, d, m, None, phi, outputs, dtype, of)
    if route == "pivoted":
        kind |= {"preconditioner": route, "rank": kind.get("rank") or first_rank(m * d, n), "moved": not kind["fresh"]}
    parts = near_linear_step(net, max(iterations, 1), **kind) | {"certificate": 0, "scale": 0}
    made = {"exact": net.gram, "kernel": limit_kernel(n, d), "cg": 0}
    if route in made and kind["fresh"]:
        parts["sketch"] = made[route]
    if route == "exact" and kind["fresh"]:
        parts["factorisation"] *= outputs
    if route == "cg":
        parts |= {"factorisation": 0, "triangular solves": 0}
    if route == "pivoted":
        parts["columns"] = _wide_columns(n, d, m, kind["rank"], outputs, phi, dtype, of) if kind["fresh"] else 0
        parts["factorisation"] += 4 * kind["rank"] ** 3 // 3
    return {"preconditioner" if name in ("sketch", "columns") else name: flops for name, flops in parts.items() if flops}


def _wide_columns(n, d, m, k, outputs, phi, dtype, of):
    """Flops of k columns, all of them anew: of the closed-form kernel, or of sums over neurons and what these take."""
    rounds = tuple(rounds_of(k, least=ROUND))
    if phi == "relu":
        return pivoted_columns(n, d, k, rounds, dtype=dtype)
    sums = neuron_sketch(n, m, SKETCHED * k, neurons_per_block(n, dtype), outputs, of) + slope_flops(n, d, m, phi)
    return sums + pivoted_columns(n, d + sketched_neurons(m, SKETCHED * k, of), k, rounds, dtype=dtype, entry=1)


def wide_gauss_newton_memory(
    n, d, m, route, *, dtype="float64", fresh=True, recalled=True, rank=None, made=0, packed=True, workers=1, activation="relu",
    outputs=1, on_gpu=False, other_batch=False, of=None,
):  # fmt: skip
    """Bytes of one `GaussNewton` step on the two-layer network by array; see `near_linear_memory`."""
    size = memory.two_layer_sizes(n, d, m, dtype, packed, workers, activation, outputs, on_gpu, of)
    k = first_rank(m * d, n) if rank is None and route == "pivoted" else rank
    held = memory.held_by_a_solve(size, recalled, other_batch) | {"inputs of the preconditioner": size.inputs}
    kept = _wide_kept(size, n, d, m, route, k, of)
    if not fresh:
        return memory.at_the_peak(held | kept, *memory.solve_phases(size, smoothed=True))
    older = {}
    if (recalled or other_batch) and (route != "pivoted" or size.relu):  # sums over neurons age with the weights
        older = {f"last {name}": size for name, size in _wide_kept(size, n, d, m, route, made or k, of).items()}
    made_of, build = _wide_build(size, n, d, m, route, k, made, on_gpu, of)
    phases = memory.solve_phases(size, iterates=route not in ("exact", "frozen"), smoothed=True)
    solve = [made_of | kept | phase for phase in phases]
    return memory.at_the_peak(held | older, *build, *solve)


def _wide_kept(size, n, d, m, route, k, of):
    """The preconditioner."""
    if route == "pivoted":
        entries = {} if size.relu else {"sums over neurons": size.item * n * sketched_neurons(m, SKETCHED * k, of)}
        return memory.kernel_columns(size, n, d, k) | entries
    if route == "nystrom":
        return {"U": size.item * n * size.outputs * memory.nystrom_rank(n * size.outputs)}
    return {"R": {"exact": size.outputs, "frozen": size.outputs, "per-class": size.outputs, "cg": 0}.get(route, 1) * size.square}


def _wide_build(size, n, d, m, route, k, made, on_gpu, of):
    """The matrices that a preconditioner is made of, kept while the step lasts, and the phases of making both."""
    if route == "pivoted":
        kept, sums = _wide_kept(size, n, d, m, route, k, of), ()
        if not size.relu:
            sums = memory.sketch_phases(size, n, m, sketched_neurons(m, SKETCHED * k, of))[:1]
        phases = memory.columns_phases(size, n, k, made, ROUND, on_gpu, entry=5 if size.relu else 3)
        return {}, [*sums, *(kept | phase for phase in (*phases, {"eigenvalues": 8 * k * k}))]
    if route in ("exact", "frozen", "per-class", "class-averaged"):
        one = size._replace(outputs=1) if route == "class-averaged" else size
        phases = memory.gram_phases(one, n, m, one.outputs, of)
        grams = {"J Jᵀ": one.outputs * size.square}
        return grams, [*phases, grams | {"R": (one.outputs if size.numpy else one.outputs + 1) * size.square}]
    if route == "kernel":
        return {"kernel": size.square}, memory.kernel_phases(size, n, on_gpu)
    if route == "sketch":
        rows = sketched_neurons(m, ceil(NeuronSigns.oversampling * n), of)
        return {"sketched Gram": size.square}, memory.sketch_phases(size, n, m, rows)
    return {}, memory.nystrom_phases(size.item, n * size.outputs, size.numpy) if route == "nystrom" else []
