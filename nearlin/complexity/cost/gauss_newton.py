"""Steps of `GaussNewton` and `NearLinearGaussNewton` before they run: what is planned for them, its flops and bytes by part.

Flops are the leading terms that stand in the head of `GaussNewton`, products A Aᵀ in full. On a perceptron bytes are those of
what is held, and for what is at work multiples of the sizes it is made of, fitted to traced peaks of steps in float64.
"""

from dataclasses import replace
from functools import partial
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
from nearlin.complexity.cost.pivoted import first_rank, pivoted_columns, rounds_of
from nearlin.complexity.cost.steps import near_linear_step
from nearlin.curvature import ROUTES, Experience, PivotedColumns
from nearlin.curvature.pivoted_rows import ROUND, SKETCHED, most_columns, rank_of
from nearlin.linalg import rates_for
from nearlin.nn import TwoLayer, activation
from nearlin.nn.jacobian import Factor, LayeredJacobian
from nearlin.nn.network import FEW_OUTPUTS, Tape
from nearlin.nn.network_jacobian import BUDGET, NetworkJacobian
from nearlin.nn.two_layer_blocks import WIDE, width_of_block
from nearlin.nn.two_layer_jacobian import TwoLayerJacobian
from nearlin.optim import GaussNewton, NearLinearGaussNewton
from nearlin.sketch import KroneckerSRHT

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


def outline(network, n, dtype, on_gpu=False):
    """The Jacobian of a two-layer network or perceptron on ``n`` samples, its arrays without memory: for its sizes alone."""
    hollow = lambda *shape: np.broadcast_to(np.zeros((), dtype), shape)  # noqa: E731
    if isinstance(network, TwoLayer):
        x = Unmade((n, network.inputs), np.dtype(dtype), on_gpu)
        step = width_of_block(x)
        blocks = _Blocks(network.width, step)
        masks = (x if network.activation == "relu" else None,)
        W = hollow(network.width, network.inputs)
        return TwoLayerJacobian(x, x, W, activation(network.activation), blocks, masks, network.outputs)
    specs, c = network.layers, network.layers[-1].out
    if c <= FEW_OUTPUTS:
        return LayeredJacobian(tuple(Factor(hollow(n, spec.shape[1]), hollow(n, c, spec.out)) for spec in specs))
    caches = tuple(module.spec and hollow(n, module.spec.inp) for module in network.modules)
    params = tuple(hollow(*spec.shape) for spec in specs)
    return NetworkJacobian(network, params, hollow(n, specs[0].inp), Tape(caches, hollow(n, c)))


class Route(NamedTuple):
    """What is planned for a first step: a route by name, iterations of a solve, and seconds at the optimizer's rates."""

    name: str
    iterations: int
    seconds: float
    rank: int | None = None  # columns of the route "pivoted"
    most: int | None = None  # that there may be later


def planned_route(network, n, dtype, squared, optimizer=None, on_gpu=False):
    """The `Route` of the first step of ``optimizer`` (`GaussNewton()`), without the forward passes, which take little of it."""
    optimizer = _with_rates(optimizer or GaussNewton(), on_gpu)
    planner = optimizer.planner(outline(network, n, dtype, on_gpu), None, squared)
    plan = planner.cheapest(Experience(), RATIO) if optimizer.plan == "auto" else planner.named(optimizer.plan)
    route = ROUTES[plan.route]
    iterations = min(optimizer.maxiter, max(1, ceil(route.effort * log(1 / optimizer.epsilon))))
    columns = (planner.columns(Experience()), most_columns(planner.J, planner.memory)) if route.pivoted else ()
    return Route(plan.route, iterations, planner.seconds(route, Experience(), RATIO), *columns)


def _with_rates(optimizer, on_gpu):
    """The optimizer with the rates that it plans by."""
    return replace(optimizer, rates=rates_for(optimizer.rates, Unmade((), np.dtype(float), on_gpu)))


class Preconditioner(NamedTuple):
    """What a first near-linear step is planned to take: ``"sketch"`` or ``"pivoted"``, and of the latter how many columns."""

    name: str
    rank: int | None = None
    most: int | None = None  # columns that there may be later


def planned_preconditioner(network, n, dtype, optimizer=None, on_gpu=False):
    """The `Preconditioner` of the first step of ``optimizer`` (`NearLinearGaussNewton()`) on a two-layer network, by sizes."""
    optimizer, J = _with_rates(optimizer or NearLinearGaussNewton(), on_gpu), outline(network, n, dtype, on_gpu)
    way, _ = optimizer.way(J, J.x, optimizer.init(None, None), 0)
    return Preconditioner("pivoted", way.first.rank, way.most) if isinstance(way, PivotedColumns) else Preconditioner("sketch")


def gauss_newton_step(sizes, n, route, iterations, fresh=True, recalled=False, phi="relu"):
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
        "preconditioner": _build(route, net, sizes) if fresh else 0,
        "products": product if direct else iterations * product,
        "applications": (1 if direct else iterations) * _application(route, n, sizes),
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


def _build(route, net, sizes):
    """Flops of a preconditioner."""
    n, N, c, layers = net.samples, net.rows, sizes[-1], _matrices(sizes)
    rows = c * net.signals if c > FEW_OUTPUTS else 0
    if route == "kfac":
        return sum(9 * (D**3 + o**3) + 2 * n * (D * D + o * o) for o, D in layers) + net.signals
    if route == "diagonal":
        return net.signals + 2 * n * net.parameters
    if route == "exact":
        return rows + net.gram + factorisation(N)
    if route == "sketch":
        return rows + net.kronecker(ceil(KroneckerSRHT.oversampling * N)) + factorisation(N)
    if route == "pivoted":
        k, entry = _columns(n, sizes)
        return rows + N * k * entry + 2 * N * k * k + k**3 / 3
    if route == "class-averaged":
        return rows + sum(2 * n * n * (D + c * o) for o, D in layers) + factorisation(n)
    return 0


def _application(route, n, sizes):
    """Flops of a preconditioner applied once."""
    c = sizes[-1]
    if route == "kfac":
        return sum(4 * o * D * (o + D) for o, D in _matrices(sizes))
    if route in ("exact", "sketch"):
        return triangular_solves(n * c)
    if route == "pivoted":
        k = _columns(n, sizes)[0]
        return 4 * n * c * k + 2 * k * k
    return c * triangular_solves(n) if route == "class-averaged" else 0


def gauss_newton_memory(sizes, n, route, dtype="float64", labels=False, fresh=True, recalled=True):
    """Bytes of one `GaussNewton` step on a perceptron, by part; within 25 % of traced peaks, arguments as above.

    ``labels``: the targets are classes, (n,), under the softmax cross-entropy, and numbers (n, c) else.
    """
    item, (d, *widths, c) = np.dtype(dtype).itemsize, sizes
    N, p, hidden, signals = n * c, _parameters(sizes), n * sum(widths), n * c * (sum(widths) + c)
    data, few = item * n * d + (8 * n if labels else item * N), c <= FEW_OUTPUTS
    rows = n * (d + sum(widths)) + signals if few else 0
    kept, build = _preconditioner(route, n, sizes, item)
    weighing = 1.3 * signals if few and labels else 0
    work = 1.2 * n * d + 2 * hidden + 5.3 * N + (4.5 if not few or fresh else 4) * p + weighing
    parts = {
        "data": data,
        "parameters": item * p,
        "recall": data + item * p if recalled else 0,
        "forward": item * (3 * hidden + 2 * N),
        "rows of J": item * rows,
        "preconditioner": item * kept * (1 + (fresh and recalled and route != "kfac")),
        "work": item * (work + (build if fresh else 0)),
    }
    return {name: int(size) for name, size in parts.items() if size}


def _preconditioner(route, n, sizes, item):
    """Floats that are kept, and those that making them takes beside them."""
    N, squares = n * sizes[-1], _squares(sizes)
    if route == "kfac":
        return squares, 0.4 * squares
    share = _share(n, sizes, item)
    rows = 0 if sizes[-1] <= FEW_OUTPUTS else 1.5 * share * N * sum(sizes[1:])
    if route == "exact":
        return N * N, max(2.3 * _share(n, sizes, 2 * item) ** 2, 1) * N * N + rows
    if route == "sketch":
        return N * N, (3 + 16 * share) * N * N + rows
    if route == "pivoted":
        k = _columns(n, sizes)[0]
        return 0, N * (2 * k + (sum(sizes[1:]) if sizes[-1] > FEW_OUTPUTS else 0)) + n * sum(sizes[:-1])
    return (n * n, 0.8 * n * n + rows) if route == "class-averaged" else (0, 0)


def _share(n, sizes, item):
    """The share of the samples whose rows are made at a time, within `BUDGET`."""
    if sizes[-1] <= FEW_OUTPUTS:
        return 1.0
    largest = max(o * D for o, D in _matrices(sizes))
    return min(1.0, BUDGET / (item * sizes[-1] * (sum(sizes[1:]) + largest)) / n)


def wide_gauss_newton_step(n, d, m, route, iterations, *, outputs=1, phi="relu", dtype="float64", **kind):
    """Flops of a `GaussNewton` step on the two-layer network by part: `near_linear_step` with the preconditioner of ``route``.

    Without its certificate, for which the residual is not computed anew. Pivoted columns are factored at every λ, and tell the
    effective dimension by 4 k³/3 flops.
    """
    net = two_layer(n, d, m, None, phi, outputs, dtype)
    if route == "pivoted":
        kind |= {"preconditioner": route, "rank": kind.get("rank") or first_rank(m * d, n), "moved": not kind["fresh"]}
    parts = near_linear_step(net, max(iterations, 1), **kind) | {"certificate": 0, "scale": 0}
    made = {"exact": net.gram, "kernel": 2 * n * n * d + 9 * n * n, "cg": 0}
    if route in made and kind["fresh"]:
        parts["sketch"] = made[route]
    if route == "exact" and kind["fresh"]:
        parts["factorisation"] *= outputs
    if route == "cg":
        parts |= {"factorisation": 0, "triangular solves": 0}
    if route == "pivoted":
        parts["columns"] = _wide_columns(n, d, m, kind["rank"], outputs, phi, dtype) if kind["fresh"] else 0
        parts["factorisation"] += 4 * kind["rank"] ** 3 // 3
    return {"preconditioner" if name in ("sketch", "columns") else name: flops for name, flops in parts.items() if flops}


def _wide_columns(n, d, m, k, outputs, phi, dtype):
    """Flops of k columns, all of them anew: of the closed-form kernel, or of sums over neurons and what these take."""
    rounds = tuple(rounds_of(k, least=ROUND))
    if phi == "relu":
        return pivoted_columns(n, d, k, rounds, dtype=dtype)
    sums = neuron_sketch(n, m, SKETCHED * k, neurons_per_block(n, dtype), outputs) + slope_flops(n, d, m, phi)
    return sums + pivoted_columns(n, d + sketched_neurons(m, SKETCHED * k), k, rounds, dtype=dtype, entry=1)


def wide_gauss_newton_memory(n, d, m, route, *, fresh=True, recalled=True, rank=None, made=0, **options):
    """Bytes of one `GaussNewton` step on the two-layer network by part: of J Jᵀ, where the route makes it, of ``rank`` pivoted
    columns beside those ``made`` before, of nothing for "cg", or of a sketch.
    """
    held = partial(memory.near_linear_memory, n, d, m, recalled=recalled, **options)
    if route == "cg":
        return held(fresh=False) | {"preconditioner": 0}
    if route == "pivoted":
        k, item = first_rank(m * d, n) if rank is None else rank, np.dtype(options.get("dtype", "float64")).itemsize
        parts = held(fresh=fresh, preconditioner=route, rank=k, made=made)
        if options.get("activation", "relu") == "relu":
            return parts
        sums, blocks = item * n * sketched_neurons(m, SKETCHED * k), 2 * item * n * min(m, WIDE)
        return parts | {"preconditioner": parts["preconditioner"] + sums, "work": max(parts["work"], blocks)}
    if route != "exact" or not fresh:
        return held(fresh=fresh)
    return max(memory.gram_memory(n, d, m, **options), held(fresh=fresh), key=lambda parts: sum(parts.values()))
