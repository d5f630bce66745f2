"""What several ranks make of a step before it runs: what is refused, the share of the rank that has most, and what is sent.

Neurons of the two-layer network are split, and samples of a perceptron, as in a run.
"""

from nearlin import nn
from nearlin._ranks import Supposed
from nearlin.complexity import cost
from nearlin.curvature.pivoted_rows import SKETCHED
from nearlin.experiments.registry import check_by_neurons
from nearlin.nn.split_two_layer import check_groups

STATISTICS = {"kfac": ("factors", "eigenvectors"), "diagonal": ("diagonal", "")}  # of routes on the side of the parameters


def check(estimate):
    """`ValueError` for what a run on these ranks refuses before its first step, with the same reason."""
    if estimate.ranks == 1:
        return
    ranks = Supposed(estimate.ranks)
    objective = nn.Objective(estimate.network, nn.SquaredLoss())
    if estimate.hidden:
        nn.by_samples(objective, ranks)
        return
    check_by_neurons(estimate.optimizer)
    nn.by_neurons(objective, ranks)
    rows = sketch_rows(estimate)
    if rows:
        check_groups(ranks, estimate.width, rows, cost.group_of(estimate.width, rows))


def sketch_rows(estimate):
    """Rows of the sketch of neurons that a first step draws, or None."""
    planned = estimate.preconditioner or estimate.route
    if planned is not None and planned.name == "sketch":
        return cost.sketch_rows(estimate.rows)
    if planned is not None and planned.name == "pivoted" and estimate.activation != "relu":
        return SKETCHED * planned.rank
    return None


def most(n, ranks, unit=1):
    """How many of n things the rank has that has most of them; all, where there are fewer than ranks."""
    return Supposed(ranks).fewest_and_most(n, unit)[1] if n >= ranks else n


def sent(estimate, fresh=True, recalled=False, statistics_due=False, inverse_due=False, **kind):
    """Bytes by name that a step hands to every rank, or None where no formula tells them; see `cost.sent_by_neurons`."""
    item, passes = estimate.item, 1 if recalled else 2
    if estimate.ranks == 1:
        return {}
    if estimate.hidden:
        told = _by_samples(estimate, item, passes, fresh, recalled, statistics_due, inverse_due)
        return told if estimate.split else {name: size for name, size in told.items() if name == "factors"}
    sizes, planned = (estimate.rows, estimate.outputs, item), estimate.preconditioner or estimate.route
    if planned is not None:
        return _solved(estimate, sizes, planned, passes, fresh, recalled)
    if estimate.optimizer in cost.FIRST_ORDER:
        return cost.sent_by_neurons(*sizes, forwards=1)
    forwards = 2 if estimate.optimizer == "gram-gauss-newton" else 1
    return cost.sent_by_neurons(*sizes, forwards=forwards, products=1, gram=estimate.outputs)


def _solved(estimate, sizes, planned, passes, fresh, recalled):
    """Of the methods that plan. What no formula tells: columns of sums over neurons, and Nyström's products."""
    route = planned.name
    if (route == "pivoted" and estimate.activation != "relu") or (route == "nystrom" and fresh):
        return None
    certified = estimate.preconditioner is not None
    direct = route in ("exact", "frozen") and fresh
    gram = {"exact": estimate.outputs, "frozen": (not recalled) * estimate.outputs, "per-class": estimate.outputs,
            "class-averaged": 1}.get(route, 0)  # fmt: skip
    rows = sketch_rows(estimate)
    return cost.sent_by_neurons(
        *sizes,
        forwards=passes,
        products=1 if direct else max(estimate.solve, 1) + certified,
        gram=fresh * gram,
        sketched=fresh * (route == "sketch"),
        straddled=bool(rows) and cost.group_of(estimate.width, rows) > 1,
    )


def _by_samples(estimate, item, passes, fresh, recalled, statistics_due, inverse_due):
    sizes = estimate.rows, [spec.shape for spec in estimate.network.layers], item
    if estimate.route is not None:
        statistics, inverses = STATISTICS.get(estimate.route.name, ("", "")) if fresh else ("", "")
        products = estimate.solve + (0 if recalled else cost.BOUNDS)
        return cost.sent_by_samples(*sizes, passes, products, statistics, inverses)
    statistics, inverses = "factors" if statistics_due else "", "inverses" if inverse_due else ""
    return cost.sent_by_samples(*sizes, 1, statistics=statistics, inverses=inverses)
