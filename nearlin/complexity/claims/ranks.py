"""Claims on the two-layer network by neurons: what goes between ranks, and that nothing else depends on how many there are.

Ranks are threads of this process (`nearlin.together`): bytes and numbers are those that processes would have.
"""

import numpy as np

from nearlin._array import fold_in
from nearlin._ranks import together
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.problems import on_sphere
from nearlin.nn import by_neurons
from nearlin.optim import SGD, Adam, GaussNewton, GramGaussNewton, NearLinearGaussNewton

BY_NEURONS = "Ranks by neurons"
SIZES, STEPS, D, M = (2, 3, 7), 5, 8, 1200
FRESH = NearLinearGaussNewton(reuse=False, preconditioner="sketch")
METHODS = {
    "near-linear": NearLinearGaussNewton(preconditioner="sketch"),
    "Gram": GramGaussNewton(),
    "Gauss-Newton": GaussNewton(),
    "SGD": SGD(),
    "Adam": Adam(),
}


def several(full):
    """Numbers of ranks."""
    return (*SIZES, 61) if full else SIZES


def run(p, optimizer, steps, ranks=None, split=by_neurons):
    """The weights after some steps on ``ranks``, or on one rank alone, and before each step the bytes so far, then its info."""
    objective = p.objective if ranks is None else split(p.objective, ranks)
    params, told = objective.network.init(1, p.batch[0]), []
    state = optimizer.init(params, objective)
    for t in range(steps):
        before = ranks.bytes.total() if ranks else 0
        params, state, info = optimizer.step(params, state, objective, p.batch, fold_in(3, t))
        told.append((before, info))
    made = [getattr(W, "whole", lambda W=W: W)() for W in params]
    return made[0], told


def moved(full, split=by_neurons, sizes=(32, 64, 128)):
    """Bytes that a step with a fresh R hands to every rank, beside 8 n a product and forward pass and 8 n² + 8 n an R."""
    for P in several(full):
        for n in sizes:
            p = on_sphere(n, D, M, 3)
            for _, told in together(P, lambda ranks, p=p: run(p, FRESH, 3, ranks, split)):
                (_, _), (start, info), (end, _) = told
                formula = 8 * n * (info.solve.iterations + 2) + 8 * n * n + 8 * n
                yield {"ranks": f"{P} ranks", "n": n, "bytes": end - start, "formula": formula, "beyond": end - start - formula}


def distances(full, split=by_neurons, methods=METHODS, n=48):
    """Relative distance between the weights of several ranks and of one, after 5 steps."""
    p = on_sphere(n, D, M, 3)
    for name, optimizer in methods.items():
        W, _ = run(p, optimizer, STEPS)
        for P in several(full):
            for found, _ in together(P, lambda ranks, opt=optimizer: run(p, opt, STEPS, ranks, split)):
                yield {"method": name, "ranks": P, "distance": float(np.linalg.norm(found - W) / np.linalg.norm(W))}


def plans(full, split=by_neurons, n=48):
    """Share of the steps whose plan, predicted seconds included, and iterations are those of one rank."""
    p = on_sphere(n, D, M, 3)
    for name, optimizer in {"Gauss-Newton": GaussNewton(), "near-linear": NearLinearGaussNewton(preconditioner="sketch")}.items():
        words = lambda told: [(info.plan, info.solve.iterations, info.solve.preconditioner) for _, info in told]  # noqa: E731
        alone = words(run(p, optimizer, STEPS)[1])
        for P in several(full):
            for _, told in together(P, lambda ranks, opt=optimizer: run(p, opt, STEPS, ranks, split)):
                same = [a == b for a, b in zip(words(told), alone, strict=True)]
                yield {"method": name, "ranks": P, "share": sum(same) / len(same)}


def held(full, split=by_neurons, n=64):
    """Bytes of weights and masks that a rank holds, beside its share of all."""
    p = on_sphere(n, D, M, 3)
    J = p.jacobian()
    whole = J.W.nbytes + sum(mask.nbytes for mask in J.masks)

    def own(ranks):
        objective = split(p.objective, ranks)
        mine = objective.at(objective.network.init(1, p.batch[0]), p.batch).jacobian()
        return mine.W.nbytes + sum(mask.nbytes for mask in mine.masks)

    for P in several(full):
        yield {"ranks": P, "bytes": max(together(P, own)), "share": whole / P}


CLAIMS = (
    claim("ranks-bytes", 0, BY_NEURONS, "derived",
        "A step hands every rank 8 n bytes a product and a forward pass and 8 n² + 8 n a fresh R, however many ranks there are.",
        "two-layer ReLU networks of one output, float64; 16 bytes more for a norm", moved,
        Bound("beyond", low=0, high=16, by="ranks"), Bound("bytes", over="n", by="ranks", draws="max"), how="count"),
    claim("ranks-iterates", 0, BY_NEURONS, "derived",
        "Several ranks make the steps of one, up to rounding.", "two-layer ReLU networks, float64", distances,
        Bound("distance", high=1e-12, over="ranks", by="method", draws="max", log="xy"), how="convergence"),
    claim("ranks-plan", 0, BY_NEURONS, "derived",
        "What is planned, and how many iterations are made, does not depend on the number of ranks.",
        "plans by the work of the whole layer", plans, Bound("share", equal=1, over="ranks", by="method", draws="min", log="x"),
        how="count"),
    claim("ranks-memory", 0, BY_NEURONS, "derived",
        "A rank holds its share of the weights and of the masks.", "neurons in blocks of 8", held,
        Bound("bytes", high=1.06, over="ranks", per="share"), how="memory"),
)  # fmt: skip
