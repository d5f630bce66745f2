"""Plots of runs: loss against step and against time. Importing this module needs matplotlib."""

import math
from itertools import accumulate, pairwise
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from nearlin.experiments.batches import epoch
from nearlin.experiments.folders import write_atomically
from nearlin.experiments.records import has, route


def plot_result(result, path):
    """One run as a PNG under ``path``."""
    return _plot([("training", result)], f"{result.config.optimizer} on {_subject(result)}", path)


def plot_layers(result, path):
    """Which layer a run has changed in every step, and the share of each so far, as a PNG under ``path``."""
    chosen = [record.get("layer") for record in result.records]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    layers, shares = figure.subplots(2, 1, sharex=True)
    for layer in range(len(result.params)):
        steps = [t for t, one in enumerate(chosen) if one == layer]
        layers.plot(steps, [layer] * len(steps), "|", color=f"C{layer % 10}", markersize=9)
        counts = accumulate((one == layer for one in chosen), initial=0)
        so_far = [count / t for t, count in enumerate(counts) if t]
        shares.plot(range(len(so_far)), so_far, color=f"C{layer % 10}", linewidth=1.3, label=f"layer {layer}: {len(steps)}")
    layers.set_ylabel("layer changed")
    layers.yaxis.set_major_locator(MaxNLocator(integer=True))
    layers.set_ylim(-0.5, len(result.params) - 0.5)
    shares.set(xlabel="step", ylabel="share of steps so far", ylim=(-0.03, 1.03))
    shares.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in (layers, shares):
        panel.grid(True, which="major", alpha=0.35)
    figure.legend(frameon=False, loc="outside right center")
    figure.suptitle(f"Layers that {result.config.optimizer} changed on {_subject(result)}", fontsize=11)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
    return path


CURVES = (("damping", "damping λ"), ("effective_dimension", "effective dimension"), ("inner_iterations", "inner iterations"))


def plot_curvature(result, path):
    """Damping, effective dimension and inner iterations of every step, coloured by route, as a PNG under ``path``.

    What is nowhere known, or zero throughout, has no panel.
    """
    records = [record for record in result.records if record.get("damping")]
    shown = [curve for curve in CURVES if any(record.get(curve[0]) for record in records)]
    figure = Figure(figsize=(10, 1.2 + 1.75 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (field, name) in zip(panels, shown, strict=True):
        _plot_routes(panel, records, field)
        (_count_axis if field == "inner_iterations" else _log_axis)(panel, [r[field] for r in records if r.get(field)])
        panel.set_ylabel(name)
        panel.grid(True, which="major", alpha=0.35)
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=min(4, len(labels)))
    figure.align_ylabels()
    figure.suptitle(f"Damping and linear solves of {result.config.optimizer} on {_subject(result)}", fontsize=11)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
    return path


def _plot_routes(panel, records, field):
    """A point a step in the colour of its route, open where the preconditioner was kept; rings and crosses mark rejections."""
    size, labels = (5.5 if len(records) <= 60 else 3), sorted({_label(record) for record in records})
    known = [record for record in records if record.get(field) is not None]
    panel.plot(*_points(known, field), color="0.75", linewidth=0.9, zorder=1)
    for colour, label in enumerate(labels):
        for fresh, how in ((True, "new"), (False, "kept")):
            some = [r for r in known if _label(r) == label and bool(r["refreshed"]) == fresh]
            if some:
                style = {"color": f"C{colour}", "markersize": size, "markerfacecolor": f"C{colour}" if fresh else "white"}
                panel.plot(*_points(some, field), "o", **style, label=f"{label}, {how}")
    retried, rejected = [r for r in known if (r.get("attempts") or 1) > 1], [r for r in known if not r["accepted"]]
    ring = {"markerfacecolor": "none", "markersize": 2 * size, "markeredgewidth": 0.9}
    for some, marker, style, label in (
        (retried, "o", ring, "attempts rejected"),
        (rejected, "x", {"markersize": 8, "markeredgewidth": 2}, "step rejected"),
    ):
        if some:
            panel.plot(*_points(some, field), marker, color="crimson", **style, label=label)


def _label(record):
    side = record.get("side")
    return f"{route(record)} ({side} side)" if side else "preconditioner"


def _points(records, field):
    return [record["step"] for record in records], [record[field] for record in records]


def _count_axis(panel, values):
    panel.set_ylim(-0.08 * max(values), 1.08 * max(values))
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))


def _log_axis(panel, values):
    """A logarithmic axis, of no range so narrow that noise fills it."""
    panel.set_yscale("log")
    panel.yaxis.set_minor_formatter(NullFormatter())
    if max(values) < 10 * min(values):
        middle = math.sqrt(max(values) * min(values))
        panel.set_ylim(middle / 5, middle * 5)


def plot_comparison(runs, path):
    """Runs of one problem, a dict from optimizer name to its `Result`s, as a PNG under ``path``."""
    labelled = [(name, result) for name, results in runs.items() for result in results]
    return _plot(labelled, f"Comparison on {_subject(labelled[0][1])}", path)


def _subject(result):
    facts, config = result.problem.describe(), result.config
    batch = f", batches of {config.batch_size}" if not config.whole_batch else ""
    network = f"{sum(math.prod(W.shape) for W in result.params)} parameters, {config.activation}"
    if not result.problem.recipe:
        neurons = config.width if config.hidden is None else " and ".join(map(str, config.hidden))
        network = f"d = {facts['features']}, {neurons} {config.activation} neurons"
    return f"{shown_name(Path(result.problem.name).name, 80)}\nn = {facts['train_rows']}, {network}, {config.dtype}{batch}"


def shown_name(name, most=16):
    """A name as it stands in a picture: its end left out where it is long, and no dollar taken for mathematics."""
    return (name if len(name) <= most else f"{name[: most - 1]}…").replace("$", r"\$")


def curve(result):
    """Steps, seconds, losses and acceptance of a run: the training loss after 0, 1, ... steps where it is known.

    Losses of recipes are those above the least possible one, where the targets have an entropy.
    """
    least = result.problem.least if result.problem.recipe else 0.0
    steps, seconds, losses, accepted, elapsed = [0], [0.0], [result.initial_loss - least], [True], 0.0
    for record in result.records:
        elapsed += record["seconds"]
        loss = record["loss_after"]
        if loss is not None and math.isfinite(loss):
            steps.append(record["step"] + 1)
            seconds.append(elapsed)
            losses.append(loss - least)
            accepted.append(record["accepted"])
    if steps[-1] < result.steps and math.isfinite(result.final_loss):  # a run that ended inside an epoch
        return [*steps, result.steps], [*seconds, elapsed], [*losses, result.final_loss - least], [*accepted, True]
    return steps, seconds, losses, accepted


def _plot(runs, title, path):
    figure = Figure(figsize=(10, 4.2), layout="constrained")  # no pyplot: the user's backend and figures are left alone
    panels = figure.subplots(1, 2, sharey=True)
    colours = {label: f"C{i % 10}" for i, label in enumerate(dict(runs))}
    lines = {label: "--" if i >= 10 else "-" for i, label in enumerate(dict(runs))}
    per_epoch = _per_epoch(runs[0][1])
    for label, result in runs:
        steps, seconds, losses, accepted = curve(result)
        marker = "o" if len(steps) <= 60 and len(runs) == len(colours) else None
        style = {
            "color": colours[label],
            "linestyle": lines[label],
            "linewidth": 1.6 if marker else 1.1,
            "marker": marker,
            "markersize": 4,
            "label": label,
        }
        for panel, abscissa in zip(panels, ([step / per_epoch for step in steps], seconds), strict=True):
            panel.plot(abscissa, losses, **style)
            _plot_test(panel, result, per_epoch, abscissa, colours[label])
            if len(runs) == 1:
                _plot_validation(panel, result, abscissa)
            _mark_rejected(panel, abscissa, losses, accepted)
    for panel, name in zip(panels, ("step" if per_epoch == 1 else "epoch", "time in steps (s)"), strict=True):
        panel.set_xlabel(name)
        panel.grid(True, which="major", alpha=0.35)
        panel.grid(True, which="minor", axis="y", alpha=0.15)
    if any(loss > 0 for _, result in runs for loss in curve(result)[2]):
        panels[0].set_yscale("log")
    top = DIVERGED * max(curve(result)[2][0] for _, result in runs)
    if top > 0 and any(loss > top for _, result in runs for loss in curve(result)[2]):
        panels[0].set_ylim(top=top)  # what a run that diverged looks like on its way up says nothing about the others
    low, high = panels[0].get_ylim()
    if panels[0].get_yscale() == "log" and high < 50 * low:
        _plain_ticks(panels[0].yaxis)
    recipe, validated = runs[0][1].problem.recipe, len(runs) == 1 and has(runs[0][1].records, "validation_loss")
    excess = " above the least" if recipe and runs[0][1].problem.least else ""
    panels[0].set_ylabel(("loss" if validated else "training loss") + excess + (" (dotted: test)" if recipe else ""))
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = panels[0].get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    if len(by_label) > 1:
        figure.legend(by_label.values(), by_label.keys(), frameon=False, loc="outside lower center", ncols=min(6, len(by_label)))
    figure.suptitle(title, fontsize=11)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
    return path


def _per_epoch(result):
    """Steps of an epoch: recipes are plotted over epochs."""
    rows = result.problem.train[0].shape[0]
    return epoch(rows, result.config.batch_size, drop_last=True)[1] if result.problem.recipe else 1


def _plot_test(panel, result, per_epoch, abscissa, colour):
    """The test loss of a recipe, dotted, where the training loss is known."""
    least = result.problem.test_least
    losses = [r["test_loss"] for r in result.records if r["loss_after"] is not None and math.isfinite(r["loss_after"])]
    if any(loss is not None for loss in losses):
        values = [math.nan if loss is None else loss - least for loss in losses]
        panel.plot(abscissa[1 : 1 + len(values)], values, ":", color=colour, linewidth=1.1)


def _plot_validation(panel, result, abscissa):
    """The validation loss, dashed, and the step whose weights are kept; the least possible training loss where it is not zero."""
    if has(result.records, "validation_loss"):
        known = [r for r in result.records if r["loss_after"] is not None and math.isfinite(r["loss_after"])]
        losses = [math.nan if r["validation_loss"] is None else r["validation_loss"] for r in known]
        panel.plot(abscissa[1 : 1 + len(losses)], losses, "--", color="C1", linewidth=1.4, label="validation")
        kept = [i for i, r in enumerate(known) if r["step"] + 1 == result.best_step]
        if kept:
            panel.axvline(
                abscissa[1 + kept[0]], color="0.4", linewidth=0.9, linestyle=":", label=f"kept: step {result.best_step}"
            )
    if result.problem.least and not result.problem.recipe:
        panel.axhline(result.problem.least, color="0.4", linewidth=0.9, label="least possible training loss")


def _mark_rejected(panel, abscissa, losses, accepted):
    rejected = [i for i, taken in enumerate(accepted) if not taken]
    if rejected:
        at, values = [abscissa[i] for i in rejected], [losses[i] for i in rejected]
        panel.plot(at, values, "x", color="crimson", markersize=8, markeredgewidth=2, label="step rejected")


DIVERGED = 10  # times the first loss: what lies above is cut off
COLUMNS = 3
FEW = 7  # sizes that become the ticks of a logarithmic axis


def plot_claims(results, family, path):
    """One family of claims, measured beside predicted, as a PNG under ``path``: a panel per claim and pair of axes."""
    shown = [panel for result in results for panel in _panels(result)]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    width, height = 4.4 * columns, 3.7 * rows + 0.5
    figure = Figure(figsize=(width, height))
    edges = {"left": 0.85 / width, "right": 1 - 0.2 / width, "bottom": 0.55 / height, "top": 1 - 0.85 / height}
    panels = list(figure.subplots(rows, columns, squeeze=False, gridspec_kw={**edges, "wspace": 0.3, "hspace": 0.32}).flat)
    for panel, (title, series) in zip(panels, shown, strict=False):
        _plot_series(panel, title, series)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    dashed = any(one.predicted is not None for _, series in shown for one in series)
    what = "measured (points) and predicted or bound (dashed)" if dashed else "measured"
    figure.suptitle(f"{family}: {what}", fontsize=11, y=1 - 0.25 / height)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
    return path


def _panels(result):
    """(title, series) for every pair of axes of a claim."""
    groups = {}
    for series in result.outcome.series:
        groups.setdefault((series.x_label, series.y_label, series.log), []).append(series)
    return [(f"{result.claim.id}: {result.verdict}", series) for series in groups.values()]


def _plot_series(panel, title, series):
    for i, one in enumerate(series):
        ordered = list(one.x) in (sorted(set(one.x)), sorted(set(one.x), reverse=True))
        style = {"color": f"C{i % 10}", "markersize": 4, "linewidth": 1.1}
        panel.plot(one.x, one.y, "o-" if ordered else "o", label=one.label, **style)
        if one.predicted is not None:
            style |= {"linewidth": 1.6, "markersize": 9, "alpha": 0.7, "zorder": 3}
            panel.plot(one.x, one.predicted, "--" if ordered else "_", **style)
    _scale(panel.xaxis, "x", series, [value for one in series for value in one.x])
    _scale(panel.yaxis, "y", series, [value for one in series for value in (*one.y, *(one.predicted or ()))])
    _tick_sizes(panel, {value for one in series for value in one.x})
    panel.set_xlabel(series[0].x_label)
    panel.set_ylabel(series[0].y_label)
    panel.set_title(title, fontsize=9)
    panel.grid(True, which="major", alpha=0.3)
    panel.legend(fontsize=7, framealpha=0.7)


def _scale(axis, letter, series, values):
    """A logarithmic axis where the claim asks for one; plain numbers on short ones, no range so narrow that noise fills it."""
    if letter not in series[0].log:
        if letter == "x" and all(value == int(value) for value in values):
            axis.set_major_locator(MaxNLocator(integer=True))
        return
    positive = [value for value in values if 0 < value < math.inf]
    if not positive:
        return
    low, high = min(positive), max(positive)
    axis.axes.set(**{f"{letter}scale": "log"})
    axis.set_minor_formatter(NullFormatter())
    if high < 1.5 * low:
        axis.axes.set(**{f"{letter}lim": (low / 2, 2 * high)})
    if high < 50 * low:
        _plain_ticks(axis)


def _plain_ticks(axis):
    """Ticks of a short logarithmic axis, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter(_plain)
    axis.set_minor_formatter(NullFormatter())


def _tick_sizes(panel, sizes):
    """Ticks at the sizes themselves, where the axis is logarithmic and they are few and apart."""
    sizes = sorted(sizes)
    apart = all(b > 1.15 * a for a, b in pairwise(sizes))
    if panel.get_xscale() == "log" and len(sizes) <= FEW and apart:
        panel.set_xticks(sizes)
        panel.set_xticks([], minor=True)
        panel.xaxis.set_major_formatter(_plain)
        panel.tick_params(axis="x", labelsize=8)


def _plain(value, _position=None):
    """A tick label."""
    return f"{value:.0f}" if 1000 <= value < 1e6 and value == int(value) else f"{value:.3g}"
