"""Pictures of how well a network fits: a confusion matrix for classes, predicted against true for numbers. Needs matplotlib."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nearlin.experiments.folders import write_atomically
from nearlin.experiments.plots import shown_name

NUMBERED = 20  # classes up to which cells have numbers and ticks names
PANELS, COLUMNS = 9, 3  # targets that are drawn, and beside each other


def confusion(true, predicted, classes):
    """Counts (classes, classes) of rows by true class (row) and predicted class (column), from labels (n,)."""
    return np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)


def plot_fit(result, path):
    """`plot_confusion` or `plot_predictions`, as the task is, as a PNG under ``path``; None for other tasks and for recipes."""
    if result.problem.recipe or result.problem.task == "reconstruction":
        return None
    return (plot_predictions if result.problem.task == "regression" else plot_confusion)(result, path)


def plot_confusion(result, path):
    """The confusion matrix of the test rows, without these of the validation or training rows, as a PNG under ``path``."""
    part, batch, error = _judged(result)
    predicted, true = result.problem.compared(result.params, batch)
    names = [shown_name(name) for name in result.problem.class_names or _numbered(result.problem)]
    counts = confusion(true, predicted, len(names))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(3.4 + 0.45 * len(names), 5), 11)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(share, cmap="Blues", vmin=0, vmax=1), ax=axes, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(names) <= NUMBERED:
        _number_cells(axes, names, counts, share)
    figure.suptitle(f"{shown_name(Path(result.problem.name).name, 60)}, {part} rows: {_rate(error)}", fontsize=10)
    return _write(figure, path)


def plot_predictions(result, path):
    """Predicted against true values of every target, test rows above training rows, as a PNG under ``path``."""
    part, batch, _ = _judged(result)
    problem = result.problem
    parts = [("training", "0.6", problem.compared(result.params, problem.train))]
    if part != "training":
        parts.append((part, "C0", problem.compared(result.params, batch)))
    names = problem.target_names or (problem.target_name or "target",) * problem.outputs
    shown = min(problem.outputs, PANELS)
    columns = min(math.isqrt(shown - 1) + 1, COLUMNS)
    rows = -(-shown // columns)
    figure = Figure(figsize=(max(4.2 * columns, 6), max(4.2 * rows, 5.4) + 0.5), layout="constrained")
    for k, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if k >= shown:
            axes.set_axis_off()
            continue
        _against(axes, [(name, colour, *(np.reshape(a, (len(a), -1))[:, k] for a in pair)) for name, colour, pair in parts])
        axes.set(xlabel=f"true {shown_name(names[k], 30)}", ylabel=f"predicted {shown_name(names[k], 30)}")
        axes.set_title(_rmse(parts[-1][0], *(np.reshape(a, (len(a), -1))[:, k] for a in parts[-1][2])), fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(labels))
    left_out = f", {shown} of {problem.outputs} targets" if shown < problem.outputs else ""
    figure.suptitle(f"{shown_name(Path(problem.name).name, 60)}{left_out}", fontsize=10)
    return _write(figure, path)


def _against(axes, parts):
    """Points of (name, colour, predicted, true), the last part on top, and above all the line on which they are equal."""
    for name, colour, predicted, true in parts:
        size, alpha = (16, 0.8) if len(true) <= 1000 else (5, 0.5)
        axes.scatter(true, predicted, s=size, color=colour, alpha=alpha, linewidths=0, label=f"{name} rows ({len(true)})")
    values = np.concatenate([np.concatenate(pair) for _, _, *pair in parts])
    values = values[np.isfinite(values)]
    low, high = (float(np.min(values)), float(np.max(values))) if len(values) else (0.0, 1.0)
    margin = 0.04 * (high - low) or 1.0
    ends = (low - margin, high + margin)
    axes.plot(ends, ends, color="black", linewidth=0.8, linestyle="--", zorder=3, label="predicted = true")
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    axes.grid(True, alpha=0.3)


def _number_cells(axes, names, counts, share):
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(range(len(names)), names, **turned)
    axes.set_yticks(range(len(names)), names)
    for (i, j), count in np.ndenumerate(counts):
        if count:
            axes.text(j, i, str(count), ha="center", va="center", color="white" if share[i, j] > 0.5 else "black", fontsize=9)


def _judged(result):
    """Name, batch and error of the part that a fit is judged by."""
    problem = result.problem
    parts = (
        ("test", problem.test, result.test_error),
        ("validation", problem.validation, result.validation_error),
        ("training", problem.train, result.train_error),
    )
    return next(part for part in parts if part[1] is not None)


def _numbered(problem):
    return ("-1", "1") if problem.task == "classification" else tuple(map(str, range(problem.outputs)))


def _rmse(part, predicted, true):
    return f"RMSE {np.sqrt(np.mean((predicted - true) ** 2)):.4g} on the {part} rows"


def _rate(error):
    return f"{error.value:.2f} % wrong ({error.wrong} of {error.total})\nthe most frequent class alone {error.majority:.2f} %"


def _write(figure, path):
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
    return path
