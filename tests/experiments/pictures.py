"""Every kind of picture that the commands draw, of runs, fits and claims whose numbers are made up here."""

import math
from types import SimpleNamespace

import numpy as np

from nearlin.complexity.claims.table import Series
from nearlin.experiments import claim_plots, fits, plots, tuning
from nearlin.experiments.problems import Error
from tests.experiments.test_report import record, run

LONG = "a_file_with_measurements_of_many_sensors_in_the_second_half_of_the_year_and_a_very_long_name.csv"
ROUTES = ("diagonal", "kfac", "parameter-cg", "exact", "sketch", "pivoted", "class-averaged", "nystrom")


def steps(losses, recipe=False, first=9.0, **fields):
    """A run with these losses after its steps."""
    return run([record(t, loss_after=loss) for t, loss in enumerate(losses)], recipe=recipe, initial_loss=first,
               final_loss=losses[-1] if losses else first, **fields)  # fmt: skip


def falling(count, rate=0.9, first=9.0, noise=0.0, least=0.0):
    rng = np.random.default_rng(count)
    return [least + first * rate ** (t + 1) * math.exp(noise * rng.standard_normal()) for t in range(count)]


def named(result, name):
    result.problem.name = name
    return result


def without_least(result):
    result.problem.least = 0.0
    return result


def tested(count):
    records = [record(t, loss_after=10.0 - t, test_loss=12.0 - 0.8 * t) for t in range(count)]
    return run(records, recipe=True, final_loss=10.0 - count)


def validated(count, kept):
    records = [
        record(t, loss_after=9 * 0.98**t, validation_loss=5 + 1e-4 * (t - kept) ** 2 if t % 2 else None) for t in range(count)
    ]
    return run(records, recipe=False, best_step=kept)


def slow(result, seconds):
    for one in result.records:
        one["seconds"] = seconds
    return result


RUNS = {
    "run": steps(falling(10)),
    "run of one step": steps([4.0]),
    "run of no step": steps([]),
    "run with a constant loss": without_least(steps([0.5] * 9, first=0.5)),
    "run that ends at zero": without_least(steps([2.0, 1e-3, 1e-9, 0.0])),
    "run at zero": without_least(steps([0.0] * 4, first=0.0)),
    "run below the least": steps([3.0, 1.2, 1 - 1e-9, 1 - 2e-9], recipe=True),
    "run of a short range": without_least(steps([0.70, 0.69, 0.66, 0.65, 0.64, 0.62], first=0.71)),
    "run of a shorter range": without_least(steps([0.7105, 0.7101, 0.7099], first=0.711)),
    "run with validation": validated(300, 101),
    "run of many steps": steps(falling(3000, 0.999, noise=0.3), seconds=750.0),
    "run that diverges at once": steps([math.nan], ended="non-finite"),
    "run that diverges": steps([30.0, 5e4, 1e9, 1e200, math.inf], ended="non-finite"),
    "run with rejected steps": run(
        [record(t, loss_after=9.0 - t // 2, accepted=t % 2 == 1) for t in range(8)], recipe=False, final_loss=6.0
    ),
    "run with a long name": named(steps(falling(5)), LONG),
    "run with a test loss": tested(8),
    "run of large losses": slow(steps([3e11, 2e10, 1.7e10], first=4e12), 1234.5),
    "run of small losses": slow(without_least(steps([3e-11, 2e-17, 1.7e-18], first=4e-12)), 1e-6),
}
NAMES = "near-linear-gauss-newton gauss-newton gram-gauss-newton sgd adam kfac tnt kbfgs shampoo soap muon dsgd".split()  # noqa: SIM905
COMPARISONS = {
    "comparison": {name: [steps(falling(12, 0.5 + 0.1 * i))] for i, name in enumerate(NAMES[:4])},
    "comparison of many": {name: [steps(falling(100, 0.9 + 0.008 * i, noise=0.1))] for i, name in enumerate(NAMES)},
    "comparison of seeds": {
        n: [steps(falling(400 + s, 0.97 + 0.01 * i, noise=0.2)) for s in range(3)] for i, n in enumerate(NAMES[:2])
    },
    "comparison of one's seeds": {"sgd": [steps(falling(30 + s, 0.9)) for s in range(2)]},
    "comparison with one that diverges": {
        "sgd": [steps(falling(5))],
        "adam": [steps([40.0, 4e3, 4e6, 1e30, math.nan], ended="non-finite")],
        "kfac": [steps([math.nan], ended="non-finite")],
    },
    "comparison with one that diverges, of many decades": {
        "near-linear-gauss-newton": [without_least(steps([1e-3, 1e-9, 1e-17]))],
        "adam": [steps([40.0, 4e3, 4e6])],
    },
    "comparison on a problem": {"kfac": [tested(8)], "a": [tested(7)], "b": [tested(3)]},
    "comparison with a long name": {"sgd": [named(steps(falling(5)), LONG)]},
}


def changed(layers, count):
    rng = np.random.default_rng(layers)
    chosen = rng.integers(0, layers, size=count)
    return run([record(t, layer=int(layer)) for t, layer in enumerate(chosen)], params=(np.ones((2, 2)),) * layers)


LAYERS = {"layers": changed(3, 40), "layers, many": changed(20, 500), "layers of one step": changed(2, 1)}


def curvature(count, routes=2, damping=lambda t: 10.0 ** (-t % 5), side="parameter", dimension=lambda t: 3.0 * t + 2):
    made = []
    for t in range(count):
        plan = {"plan": f"{ROUTES[t % routes]}: by name", "side": side, "effective_dimension": dimension(t)} if side else {}
        marks = {"refreshed": t % 3 == 0, "attempts": 1 + 2 * (t % 7 == 3), "accepted": t % 9 != 5}
        made.append(record(t, damping=damping(t), inner_iterations=t % 6, **plan, **marks))
    return run(made)


CURVATURES = {
    "curvature": curvature(20),
    "curvature of one step": curvature(1),
    "curvature of one damping": curvature(12, damping=lambda t: 3e-4, side=None),
    "curvature, many steps": curvature(500, damping=lambda t: 10.0 ** (-t / 60), dimension=lambda t: 10.0 ** (1 + t / 100)),
    "curvature by many routes": curvature(40, routes=8, damping=lambda t: 0.02 * (1 + 0.01 * t)),
}


def searched(*runs, damping="damping"):
    """A search of runs (lr, damping, loss at the end)."""
    ends = {True: "steps", False: "non-finite"}
    made = [tuning.Run(lr, at, loss, None, 9, ends[math.isfinite(loss)], None if lr else 0.02) for lr, at, loss in runs]
    return tuning.Search(tuple(made), damping)


SEARCHES = {
    "search": {
        "kfac": searched(
            (0.1, 0.01, 3.0), (0.03, 0.01, 4.0), (0.3, 0.01, 2.0), (1.0, 0.01, math.inf), (0.3, 0.03, 1.5), (0.3, 0.1, 1.8)
        ),
        "adam": searched((1e-3, 1e-8, 5.0), (3e-3, 1e-8, 4.0), (0.01, 1e-8, 4.5), (3e-3, 1e-7, 3.9), damping="epsilon_hat"),
        "sgd": searched((0.1, None, 6.0), (0.3, None, 5.0), damping=None),
        "gauss-newton": searched((None, None, 1.2), (None, 0.03, 1.4), (None, 0.01, 0.0)),
    },
    "search over the damping": {"gauss-newton": searched((None, None, 1.2), (None, 0.03, 1.4))},
    "search of one run": {"sgd": searched((0.1, None, 6.0), damping=None)},
    "search that found nothing": {"sgd": searched((0.1, None, math.inf), (0.03, None, math.nan), damping=None)},
}


def fit(task, true, predicted, names=None, name="made up", test=True):
    """A run whose network predicts ``predicted`` on test and training rows."""
    part = (np.zeros((len(true), 2)), true)
    outputs = 1 if true.ndim == 1 else true.shape[1]
    wrong = int(np.sum(true != predicted)) if task == "labels" else None
    error = Error("error rate" if task == "labels" else "rmse", 12.345, wrong, len(true), 50.0)
    problem = SimpleNamespace(
        name=name, recipe=False, task=task, test=part if test else None, validation=None, train=part, outputs=outputs,
        compared=lambda params, batch: (predicted, true), class_names=names if task == "labels" else None,
        target_names=names if task == "regression" else None, target_name=None,
    )  # fmt: skip
    return SimpleNamespace(problem=problem, params=(), test_error=error, train_error=error, validation_error=None)


def classes(count, rows, name="made up", names="class {}", **fields):
    rng = np.random.default_rng(count)
    true = rng.integers(0, count, size=rows)
    return fit("labels", true, np.where(rng.random(rows) < 0.8, true, rng.integers(0, count, size=rows)),
               tuple(names.format(k) for k in range(count)), name, **fields)  # fmt: skip


def numbers(rows, targets=1, at=0.0, by=1.0, names="target {}", name="made up", noise=0.2, **fields):
    rng = np.random.default_rng(rows)
    true = at + by * rng.standard_normal((rows, targets))
    predicted = true + noise * by * rng.standard_normal(true.shape)
    return fit("regression", true, predicted, tuple(names.format(k) for k in range(targets)), name, **fields)


FITS = {
    "confusion of two": classes(2, 60),
    "confusion of ten digits": classes(10, 400, names="{}"),
    "confusion with long names": classes(5, 60, LONG, names="a kind of a very long name {}"),
    "confusion of twenty": classes(20, 1000, names="a kind of a very long name {}"),
    "confusion of 25": classes(25, 1000),
    "confusion of 300": classes(300, 9000),
    "confusion of many rows": classes(8, 10**6),
    "predictions": numbers(80),
    "predictions, three rows": numbers(3, noise=0.0, test=False),
    "predictions, large": numbers(3000, at=1e6, by=0.5, name=LONG),
    "predictions, tiny": numbers(30, by=1e-9),
    "predictions, all the same": numbers(30, at=3.0, by=0.0),
    "predictions of four": numbers(80, 4, at=1234.5, by=100, names="a target of a long name and a long unit {}"),
    "predictions of twelve": numbers(80, 12),
    "predictions, not finite": fit("regression", np.arange(9.0), np.where(np.arange(9) % 2, np.nan, np.arange(9.0)), ("x",)),
}


def claimed(*series, name="cost-of-it", verdict="holds", known=False):
    claim = SimpleNamespace(id=name, should_hold=not known)
    return SimpleNamespace(claim=claim, verdict=verdict, outcome=SimpleNamespace(series=series))


def powers(p, sizes=(8, 16, 32, 64), label="flops", **fields):
    known = {"x_label": "n", "y_label": "flops", "predicted": tuple(n**p for n in sizes), "says": f"degree {p}"}
    return Series(label, sizes, tuple(float(n**p) for n in sizes), **(known | fields))


def level(y, low=None, high=None, x=(32, 64, 128, 256, 512), **fields):
    spread = lambda value: None if value is None else (value,) * len(x)  # noqa: E731
    known = {"y_label": "steps to 1e-8", "log": "x", "bound": "bounds: made up"}
    return Series("steps to 1e-8", x, y, low=spread(low), high=spread(high), **(known | fields))


CLAIMS = {
    "claim": [claimed(powers(2))],
    "claims of many parts": [
        claimed(*(powers(p, label=f"part of the step {p}") for p in (0, 1, 1.02, 2, 2.5, 3)), name="parts-in-samples"),
        claimed(*(powers(1, label=f"two-layer network, retried {k}", says="expected degree") for k in range(12))),
        claimed(level((4, 4, 5, 5, 6), 4, 6), name="outer-steps"),
        claimed(level((9, 7, 8, 9, 11), None, 27), name="outer-steps-bound", verdict="fails"),
        claimed(level((.2, .25, .21, .22, .3), 0.1), name="a-claim-with-a-long-name-that-says-it", verdict="fails", known=True),
    ],
    "claim with few points": [
        claimed(level((3.0,), 1, x=(32,))), claimed(powers(1, (8, 9))), claimed(level((3, 4, 5), 1, 9, x=(8, 8, 16))),
    ],
    "claim without a positive number": [
        claimed(powers(1, y_label="y", predicted=(-1.0,) * 4)),
        claimed(Series("cost", (8, 16), (0.0, -1.0), (math.inf, math.nan))),
        claimed(Series("cost", (8, 16, 32, 64), (1.0, math.nan, 1e-3, 0.0), low=(0.0,) * 4, high=(2.0,) * 4, bound="0 to 2")),
        claimed(Series("cost", (8, 16), (math.nan, math.inf), log="")),
    ],
    "claim over odd sizes": [
        claimed(powers(1, (98304, 245760, 247000, 760000, 19660800, 61440000))),
        claimed(powers(1, (0.123456, 0.33333, 0.71234), x_label="4 d_eff/(n c)", y_label="κ of the first Gram matrix, kept")),
        claimed(Series("η = 0.5", tuple(range(40)), tuple(0.5**k for k in range(40)), tuple(0.5**k for k in range(40)), log="y")),
        claimed(Series("flips", (1024, 4096), (0.61, 0.62), high=(0.65, 0.65), bound="bound: at most 0.65", log="xy")),
    ],
}  # fmt: skip
PICTURES = {
    **{name: (plots.plot_result, result) for name, result in RUNS.items()},
    **{name: (plots.plot_comparison, runs) for name, runs in COMPARISONS.items()},
    **{name: (plots.plot_search, searches, LONG) for name, searches in SEARCHES.items()},
    **{name: (plots.plot_layers, result) for name, result in LAYERS.items()},
    **{name: (plots.plot_curvature, result) for name, result in CURVATURES.items()},
    **{name: (fits.plot_fit, result) for name, result in FITS.items()},
    **{name: (claim_plots.plot_claims, results, "cost, counted") for name, results in CLAIMS.items()},
}
SMALL = 4.8  # inches
