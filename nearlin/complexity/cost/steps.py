"""Flops of a step by part: the Gauss-Newton methods, natural gradient, and methods of first order."""

from math import ceil

from nearlin.complexity.cost.kernels import factorisation, triangular_solves
from nearlin.complexity.cost.pivoted import first_rank, limit_kernel, pivoted_application, pivoted_columns, pivoted_root
from nearlin.sketch import KroneckerSRHT, NeuronSigns


def _dot(k):
    """Inner product or norm."""
    return 2 * k - 1


def _norms(net):
    """Norms of the parameter arrays, one by one."""
    return 2 * net.parameters - net.matrices


def check_flops(net):
    """Finiteness of parameters and batch, at the public boundary; as much as to see whether they are those of the last step."""
    return 2 * (net.parameters + net.inputs + net.loss_rows) - (net.matrices + 2)


def loss_flops(net):
    """Flops of the loss at given outputs, 3 per output: differences, squares and their sum."""
    return 3 * net.loss_rows


def _attempt(net, known_loss):
    """Trial parameters, the decreases, and a forward pass there."""
    vectors = 2 * net.parameters + _norms(net) + 2 * _dot(net.rows) + 2 * net.rows
    return vectors + check_flops(net) + net.forward + loss_flops(net) + (0 if known_loss else loss_flops(net))


def near_linear_step(
    net, iterations, fresh=True, recalled=False, sketch_rows=None, sketch="neurons", replaced=False, preconditioner="sketch",
    rank=None, made=0, rounds=None, moved=False, smoothed=None,
):  # fmt: skip
    """Flops of one `NearLinearGaussNewton` step, by part.

    Parameters
    ----------
    net : NetworkCost
    iterations : int
        K, the iterations of PCG in this step, at least 1.
    fresh : bool
        Whether R is built in this step, or that of an earlier one serves.
    recalled : bool
        Whether the point is the trial point of the step before (every step of a run on the full batch but the first).
    sketch_rows : int, optional
        s; by default what the distribution recommends.
    sketch : str
        ``"neurons"`` (`NeuronSigns`) or ``"kronecker"`` (`KroneckerSRHT`).
    replaced : bool
        Whether the fresh R replaces one that was kept, which is looked at first.
    preconditioner : str
        ``"sketch"``, or, of a two-layer ReLU network, ``"kernel"``, or ``"pivoted"``: columns of the kernel, of which a later
        step may make more.
    rank : int, optional
        k of these columns; by default k₀ = √(2 m d).
    made : int
        Of them, those that an earlier step has made.
    rounds : sequence of (int, int), optional
        Of making them: see `pivoted_columns`.
    moved : bool
        Whether λ is another one than in the step before, for which columns that are kept are factored anew.
    smoothed : int, optional
        Of the iterations with columns, those after which CG asks for the best combination: all by default, or all but the last,
        where CG itself ends there.

    Returns
    -------
    dict[str, int]
        checks, forward, jacobian, sketch (or kernel), factorisation, products, triangular solves, vectors, certificate, guard;
        with pivoted columns ``columns`` in the place of the sketch and ``applications`` in that of triangular solves. For one
        attempt and one inner solve, in the working dtype.
    """
    k, r, K, size = net.rows, net.parameters, iterations, net.block_rows
    same_inputs = 2 * net.inputs - 1
    if preconditioner == "pivoted":
        made = _pivoted(net, K, fresh, recalled, rank, made, rounds, moved)
    else:
        name, of = ("kernel", limit_kernel(size, net.inputs // net.samples)) if preconditioner == "kernel" else ("sketch", None)
        made = {
            name: (of or _sketch(net, sketch, sketch_rows)) + size - 1 if fresh else 0,
            "factorisation": factorisation(size) if fresh else 0,
            "triangular solves": K * net.blocks * triangular_solves(size),
        }
    return {
        "checks": check_flops(net) + (replaced or not fresh) * same_inputs,
        "forward": 0 if recalled else net.forward,
        "jacobian": net.jacobian,
        **made,
        "products": K * net.gram_matvec,
        "vectors": _cg(k, r, K) + _smoothing(k, r, K if smoothed is None else smoothed, preconditioner) + 3 * _dot(k) + 2 * k,
        "certificate": net.matvec + 3 * k + _dot(k),
        "guard": _attempt(net, known_loss=recalled),
    }


def _pivoted(net, K, fresh, recalled, rank, made, rounds, moved):
    """What pivoted columns take; the mean of the kernel's diagonal is asked for by the guard, and for a default first λ."""
    n, d = net.block_rows, net.inputs // net.samples
    k = first_rank(net.parameters, n) if rank is None else rank
    return {
        "columns": pivoted_columns(n, d, k, rounds, made) if fresh else 0,
        "factorisation": (fresh + moved) * pivoted_root(k),
        "applications": K * pivoted_application(n, k, net.blocks),
        "scale": (4 if fresh and not recalled else 3) * n,
    }


def _sketch(net, name, rows):
    if name not in ("neurons", "kronecker"):
        raise ValueError(f"sketch is {name!r}; expected 'neurons' or 'kronecker'")
    oversampling = (NeuronSigns if name == "neurons" else KroneckerSRHT).oversampling
    return getattr(net, name)(ceil(oversampling * net.block_rows) if rows is None else rows)


def _cg(n, p, K):
    """Vector operations of K iterations of PCG on J Jᵀ + λ I that also accumulate Jᵀg."""
    each = 6 * n + 2 * _dot(n) + p  # λ v, x, r; curvature and norm; α Jᵀv
    between = 2 * n + _dot(n) + p  # p ← z + β p; <r, z>; the sum of the α Jᵀv
    return 2 * _dot(n) + K * each + (K - 1) * between


def _smoothing(n, p, count, preconditioner):
    """The best combination of so many iterates, and its Jᵀg: `nearlin.linalg.Smoothing`, with few columns alone."""
    if preconditioner != "pivoted":
        return 0
    first = n + p if count else 0
    return _dot(n) + count * (3 * n + 3 * _dot(n)) + first + 3 * max(0, count - 1) * (n + p)


def gram_gauss_newton_step(net):
    """Flops of one `GramGaussNewton` step by part, for one attempt: checks, forward, ..., guard; see `near_linear_step`."""
    k, blocks, size = net.rows, net.blocks, net.block_rows
    return {
        "checks": check_flops(net),
        "forward": net.forward + loss_flops(net) + k + 3 * _dot(k),
        "jacobian": net.jacobian,
        "gram": net.gram + blocks * (size * size + size - 1),
        "factorisation": blocks * factorisation(size),
        "triangular solves": blocks * triangular_solves(size),
        "update": net.rmatvec,
        "certificate": net.matvec + 4 * k + _dot(k),
        "guard": _attempt(net, known_loss=True),
    }


def natural_gradient_step(net):
    """Flops of one `NaturalGradient` step with its default damping, by part; see `near_linear_step`."""
    k, blocks, size = net.rows, net.blocks, net.block_rows
    return {
        "checks": check_flops(net),
        "forward": net.forward + loss_flops(net) + k,
        "jacobian": net.jacobian,
        "gram": net.gram + blocks * (size - 1),
        "factorisation": blocks * factorisation(size),
        "triangular solves": blocks * triangular_solves(size),
        "update": net.rmatvec + 2 * net.parameters + _norms(net),
        "certificate": net.matvec + 3 * k + 3 * _dot(k),
    }


def sgd_step(net, first=False):
    """Flops of one `SGD` step by part; the ``first`` has no velocity yet."""
    velocity = 0 if first else 2 * net.parameters
    return first_order_step(net, velocity + 2 * net.parameters)


def adam_step(net, first=False):
    """Flops of one `Adam` step by part: 13 p for the update; the ``first`` has no moments yet."""
    return first_order_step(net, (9 if first else 13) * net.parameters + _norms(net))


def adamw_step(net, first=False):
    """Flops of one `AdamW` step by part: 14 p for the update and the decay; the ``first`` has no moments yet."""
    return first_order_step(net, (10 if first else 14) * net.parameters + _norms(net))


def adagrad_step(net, first=False):
    """Flops of one `AdaGrad` step by part; the ``first`` has no sum of squares yet."""
    return first_order_step(net, (6 if first else 7) * net.parameters + _norms(net))


def rmsprop_step(net, first=False):
    """Flops of one `RMSprop` step by part; the ``first`` has no average yet."""
    return first_order_step(net, (7 if first else 9) * net.parameters + _norms(net))


def first_order_step(net, update):
    """Flops by part of a step whose update takes ``update`` flops; its norms are added."""
    return {
        "checks": check_flops(net),
        "forward": net.forward + loss_flops(net),
        "gradient": net.gradient + 2 * net.rows,
        "update": update + _norms(net),
    }
