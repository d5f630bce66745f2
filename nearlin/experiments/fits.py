"""Pictures of how well a network fits: a confusion matrix for classes, predicted against true for numbers. Needs matplotlib."""

import math
from pathlib import Path

import numpy as np

from nearlin.experiments import canvas
from nearlin.experiments.canvas import COLOURS, LABEL, MARK, SMALL, WIDTH, shown_name, styled

NUMBERED, CELL = 20, 15  # classes up to which ticks have names, and points that the cell of one then takes
PANELS, COLUMNS = 9, 3  # targets that are drawn, and beside each other


def confusion(true, predicted, classes):
    """Counts (classes, classes) of rows by true class (row) and predicted class (column), from labels (n,)."""
    return np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)


def plot_fit(result, path, width=WIDTH):
    """`plot_confusion` or `plot_predictions`, as the task is, as a PNG under ``path``; None for other tasks and for recipes."""
    if result.problem.recipe or result.problem.task == "reconstruction":
        return None
    return (plot_predictions if result.problem.task == "regression" else plot_confusion)(result, path, width)


@styled
def plot_confusion(result, path, width=WIDTH):
    """The confusion matrix of the test rows, without these of the validation or training rows, as a PNG under ``path``."""
    part, batch, error = _judged(result)
    predicted, true = result.problem.compared(result.params, batch)
    names = [shown_name(name) for name in result.problem.class_names or _numbered(result.problem)]
    counts = confusion(true, predicted, len(names))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(3.4 + 0.45 * len(names), 5), 11, width)
    figure = canvas.figure(min(side + 0.6, width), side)
    axes = figure.subplots()
    axes.grid(False)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    canvas.scale(figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8).ax.yaxis, ())
    axes.set(xlabel="predicted class", ylabel="true class")
    cell = 0.6 * canvas.points(figure) / len(names)
    if len(names) <= NUMBERED and cell >= CELL:
        _name_cells(axes, names)
    else:
        for axis in (axes.xaxis, axes.yaxis):
            canvas.scale(axis, (), whole=True)
    if canvas.text_width(str(np.max(counts)), SMALL) < cell - 2:
        _number_cells(axes, counts, share)
    return canvas.save(figure, path, f"{shown_name(Path(result.problem.name).name, 50)}, {part} rows: {_rate(error)}")


@styled
def plot_predictions(result, path, width=WIDTH):
    """Predicted against true values of every target, test rows above training rows, as a PNG under ``path``."""
    part, batch, _ = _judged(result)
    problem = result.problem
    parts = [("training", "0.6", problem.compared(result.params, problem.train))]
    if part != "training":
        parts.append((part, COLOURS[0], problem.compared(result.params, batch)))
    names = problem.target_names or (problem.target_name or "target",) * problem.outputs
    shown = min(problem.outputs, PANELS)
    columns = min(math.isqrt(shown - 1) + 1, COLUMNS, max(1, int(width / 2.3)))
    rows = -(-shown // columns)
    side = min(4.2 if columns > 1 else 5.4, width / columns)
    figure = canvas.figure(max(side * columns, min(6, width)), side * rows + 0.7)
    for k, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if k >= shown:
            axes.set_axis_off()
            continue
        _against(axes, [(name, colour, *(np.reshape(a, (len(a), -1))[:, k] for a in pair)) for name, colour, pair in parts])
        says = [canvas.wrapped(f"{what} {shown_name(names[k], 30)}", 72 * side - 70, LABEL) for what in ("true", "predicted")]
        axes.set(xlabel=says[0], ylabel=says[1])
        judged = _rmse(parts[-1][0], *(np.reshape(a, (len(a), -1))[:, k] for a in parts[-1][2]))
        axes.set_title(canvas.wrapped(judged, 72 * side - 50, SMALL), fontsize=SMALL)
    canvas.below(figure, canvas.entries(figure.axes[:1]))
    left_out = f", {shown} of {problem.outputs} targets" if shown < problem.outputs else ""
    return canvas.save(figure, path, f"{shown_name(Path(problem.name).name, 50)}{left_out}")


def _against(axes, parts):
    """Points of (name, colour, predicted, true), the last part on top, and above all the line on which they are equal."""
    for (name, colour, predicted, true), marker in zip(parts, "os"[-len(parts) :], strict=True):
        size, alpha = (20, 0.8) if len(true) <= 1000 else (9, 0.5)
        style = {"color": colour, "alpha": alpha, "linewidths": 0, "marker": marker, "label": f"{name} rows ({len(true)})"}
        axes.scatter(true, predicted, s=size, **style)
    values = np.concatenate([np.concatenate(pair) for _, _, *pair in parts])
    values = values[np.isfinite(values)]
    low, high = (float(np.min(values)), float(np.max(values))) if len(values) else (0.0, 1.0)
    margin = 0.04 * (high - low) or 1.0
    ends = (low - margin, high + margin)
    axes.plot(ends, ends, color=MARK, linewidth=0.8, linestyle="--", zorder=3, label="predicted = true")
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        canvas.scale(axis, ())


def _name_cells(axes, names):
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(range(len(names)), names, **turned)
    axes.set_yticks(range(len(names)), names)


def _number_cells(axes, counts, share):
    for (i, j), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=SMALL)


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
    if lost := np.count_nonzero(~np.isfinite(predicted)):
        return f"{lost} of {len(predicted)} predictions on the {part} rows are not finite"
    return f"RMSE {np.sqrt(np.mean((predicted - true) ** 2)):.4g} on the {part} rows"


def _rate(error):
    return f"{error.value:.2f} % wrong ({error.wrong} of {error.total})\nthe most frequent class alone {error.majority:.2f} %"
