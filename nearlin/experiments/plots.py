"""Plots of runs: loss against step and time, the damping of every step, the layers changed. Importing this needs matplotlib."""

import math
from itertools import accumulate
from pathlib import Path

from matplotlib.lines import Line2D

from nearlin.experiments import canvas
from nearlin.experiments.batches import epoch
from nearlin.experiments.canvas import GREY, MARK, WIDTH, curve_style, shown_name, styled
from nearlin.experiments.records import has, route

DIVERGED, ABOVE = 10, "above 10 times the first loss"  # what lies there is cut off
FEW = 60  # points up to which each is marked
CROSS = {"color": MARK, "linestyle": "none", "marker": "x", "markersize": 8, "markeredgewidth": 2}


@styled
def plot_result(result, path, width=WIDTH):
    """One run as a PNG under ``path``, so many inches wide."""
    return _plot([("training", result)], f"{result.config.optimizer} on {_subject(result)}", path, width)


@styled
def plot_comparison(runs, path, width=WIDTH):
    """Runs of one problem, a dict from optimizer name to its `Result`s, as a PNG under ``path``."""
    seeds = {name: f"{name} ({len(results)} seeds)" if len(results) > 1 else name for name, results in runs.items()}
    labelled = [(seeds[name], result) for name, results in runs.items() for result in results]
    return _plot(labelled, f"Comparison on {_subject(labelled[0][1])}", path, width)


def _subject(result):
    facts, config = result.problem.describe(), result.config
    batch = f", batches of {config.batch_size}" if not config.whole_batch else ""
    network = f"{sum(math.prod(W.shape) for W in result.params)} parameters, {config.activation}"
    if not result.problem.recipe:
        neurons = config.width if config.hidden is None else " and ".join(map(str, config.hidden))
        network = f"d = {facts['features']}, {neurons} {config.activation} neurons"
    return f"{shown_name(Path(result.problem.name).name, 80)}\nn = {facts['train_rows']}, {network}, {config.dtype}{batch}"


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


def _plot(runs, title, path, width):
    """Every run over steps (of recipes epochs) and over time; runs of one label, which are of several seeds, look the same."""
    figure = canvas.figure(width, 4.1)
    panels = canvas.beside(figure, width, 4.1)
    styles = {label: curve_style(i) for i, label in enumerate(dict(runs))}
    per_epoch, curves = _per_epoch(runs[0][1]), [curve(result) for _, result in runs]
    over = [[[step / per_epoch for step in steps] for steps, *_ in curves], [seconds for _, seconds, *_ in curves]]
    for panel, abscissae, name in zip(panels, over, ("step" if per_epoch == 1 else "epoch", "time in steps (s)"), strict=True):
        for (label, result), abscissa, (*_, losses, accepted) in zip(runs, abscissae, curves, strict=True):
            few = len(losses) <= FEW and len(runs) == len(styles)
            marked = {"linewidth": 1.6} if few else {"linewidth": 1.1, "markevery": max(1, len(losses) // 8)}
            panel.plot(abscissa, losses, label=label, **marked, **styles[label])
            _plot_test(panel, result, abscissa, styles[label]["color"])
            if len(runs) == 1:
                _plot_validation(panel, result, abscissa)
            _cross(panel, abscissa, losses, accepted)
        panel.set_xlabel(name)
        canvas.scale(panel.xaxis, (), whole=panel is panels[0])
        if width < canvas.NARROW or panel is panels[0]:
            panel.set_ylabel(_ylabel(runs))
    ends = [[result.steps / per_epoch for _, result in runs], [result.seconds for _, result in runs]]
    ended, colours = zip(*((result.ended, styles[label]["color"]) for label, result in runs), strict=True)
    _scale_losses(
        panels, over, [losses for *_, losses, _ in curves], ends, ended, colours if len(styles) > 1 else [MARK] * len(runs)
    )
    canvas.below(figure, canvas.entries(panels) | _kinds(runs), least=2)
    return canvas.save(figure, path, title)


def _scale_losses(panels, over, losses, ends, ended, colours):
    """The axis of the losses, cut where a run that diverged says nothing about the others, and marks where curves leave it."""
    first = max(some[0] for some in losses)
    top, values = DIVERGED * first if first > 0 else math.inf, canvas.drawn(panels[0])
    shown = [value for value in values if value <= top]
    canvas.scale(panels[0].yaxis, shown, log=True)
    if len(shown) < len(values):
        low = min(value for value in shown if value > 0)
        panels[0].set_ylim(low * (low / top) ** 0.05, top)  # room for the markers of the lowest points
    for panel, abscissae, last in zip(panels, over, ends, strict=True):
        if not any(last):
            panel.set_xlim(-0.05, 1)
        for x, y, end, how, colour in zip(abscissae, losses, last, ended, colours, strict=True):
            canvas.mark_edges(panel, [*x, end], [*y, math.nan if how == "non-finite" else y[-1]], top, ABOVE, colour)


def _ylabel(runs):
    problem = runs[0][1].problem
    both = any(has(result.records, field) for _, result in runs for field in ("test_loss", "validation_loss"))
    return ("loss" if both else "training loss") + (" above the least" if problem.recipe and problem.least else "")


def _kinds(runs):
    """What solid and dotted lines are, where there are both."""
    if not any(has(result.records, "test_loss") for _, result in runs):
        return {}
    solid = {} if len(runs) == 1 else {"training": Line2D([], [], color=MARK)}
    return {**solid, "test": Line2D([], [], color=MARK, linestyle=":")}


def _per_epoch(result):
    """Steps of an epoch: recipes are plotted over epochs."""
    rows = result.problem.train[0].shape[0]
    return epoch(rows, result.config.batch_size, drop_last=True)[1] if result.problem.recipe else 1


def _known(result):
    """The records of the points of `curve` but the first and the last."""
    return [r for r in result.records if r["loss_after"] is not None and math.isfinite(r["loss_after"])]


def _told(result, field, abscissa):
    """(abscissa, loss) where a loss besides that of the training is known."""
    return [(at, r[field]) for at, r in zip(abscissa[1:], _known(result), strict=False) if r[field] is not None]


def _plot_test(panel, result, abscissa, colour):
    """The test loss of a recipe, dotted, where the training loss is known."""
    least = result.problem.test_least
    if points := _told(result, "test_loss", abscissa):
        panel.plot([at for at, _ in points], [loss - least for _, loss in points], ":", color=colour, linewidth=1.4)


def _plot_validation(panel, result, abscissa):
    """The validation loss, dashed, and the step whose weights are kept; the least possible training loss where it is not zero."""
    if points := _told(result, "validation_loss", abscissa):
        panel.plot(*zip(*points, strict=True), "--", color=canvas.COLOURS[1], linewidth=1.6, label="validation")
        kept = [at for at, r in zip(abscissa[1:], _known(result), strict=False) if r["step"] + 1 == result.best_step]
        if kept:
            panel.axvline(kept[0], color=GREY, linewidth=1.2, linestyle=":", label=f"kept: step {result.best_step}")
    if result.problem.least and not result.problem.recipe:
        panel.axhline(result.problem.least, color=GREY, linewidth=1, label="least possible training loss")


def _cross(panel, abscissa, losses, accepted):
    rejected = [i for i, taken in enumerate(accepted) if not taken]
    if rejected:
        panel.plot([abscissa[i] for i in rejected], [losses[i] for i in rejected], label="step rejected", **CROSS)


# ----------------------------------------------------------------------------------------------------- curvature and layers

CURVES = (("damping", "damping λ"), ("effective_dimension", "effective dimension"), ("inner_iterations", "inner iterations"))


@styled
def plot_curvature(result, path, width=WIDTH):
    """Damping, effective dimension and inner iterations of every step, coloured by route, as a PNG under ``path``.

    What is nowhere known, or zero throughout, has no panel.
    """
    records = [record for record in result.records if record.get("damping")]
    shown = [curve for curve in CURVES if any(record.get(curve[0]) for record in records)]
    figure = canvas.figure(width, 1.2 + 1.75 * len(shown))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (field, name) in zip(panels, shown, strict=True):
        _plot_routes(panel, records, field)
        values = [r[field] for r in records if r.get(field)]
        if not canvas.scale(panel.yaxis, values, field != "inner_iterations", field == "inner_iterations", least=5):
            panel.set_ylim(-0.08 * max(values), 1.08 * max(values))
        panel.set_ylabel(name)
    panels[-1].set_xlabel("step")
    canvas.scale(panels[-1].xaxis, (), whole=True)
    canvas.below(figure, canvas.entries(panels))
    figure.align_ylabels()
    return canvas.save(figure, path, f"Damping and linear solves of {result.config.optimizer} on {_subject(result)}")


def _plot_routes(panel, records, field):
    """A point a step in the colour of its route, open where the preconditioner was kept; rings and crosses mark rejections."""
    (size, thick), labels = ((5.5, 2) if len(records) <= FEW else (3.5, 1)), sorted({_label(record) for record in records})
    known = [record for record in records if record.get(field) is not None]
    panel.plot(*_points(known, field), color="0.75", linewidth=0.9, zorder=1)
    for i, label in enumerate(labels):
        for fresh, how in ((True, "new"), (False, "kept")):
            some = [r for r in known if _label(r) == label and bool(r["refreshed"]) == fresh]
            if some:
                style = {**curve_style(i), "markersize": size, **({} if fresh else {"markerfacecolor": "white"})}
                panel.plot(*_points(some, field), linestyle="none", **style, label=f"{label}, {how}")
    retried, rejected = [r for r in known if (r.get("attempts") or 1) > 1], [r for r in known if not r["accepted"]]
    cross = {**CROSS, "markersize": 1.5 * size, "markeredgewidth": thick}
    ring = {**CROSS, "marker": "o", "markerfacecolor": "none", "markersize": 2 * size, "markeredgewidth": 0.9}
    for some, style, label in ((retried, ring, "attempts rejected"), (rejected, cross, "step rejected")):
        if some:
            panel.plot(*_points(some, field), **style, label=label)


def _label(record):
    side = record.get("side")
    return f"{route(record)} ({side} side)" if side else "preconditioner"


def _points(records, field):
    return [record["step"] for record in records], [record[field] for record in records]


@styled
def plot_layers(result, path, width=WIDTH):
    """Which layer a run has changed in every step, and the share of each so far, as a PNG under ``path``."""
    chosen = [record.get("layer") for record in result.records]
    figure = canvas.figure(width, 4.6)
    layers, shares = figure.subplots(2, 1, sharex=True)
    for layer in range(len(result.params)):
        style, steps = curve_style(layer), [t for t, one in enumerate(chosen) if one == layer]
        layers.plot(steps, [layer] * len(steps), "|", color=style["color"], markersize=9)
        counts = accumulate((one == layer for one in chosen), initial=0)
        so_far = [count / t for t, count in enumerate(counts) if t]
        often = f"layer {layer}: {len(steps)} step{'s' * (len(steps) != 1)}"
        shares.plot(range(len(so_far)), so_far, markevery=max(1, len(so_far) // 8), linewidth=1.3, label=often, **style)
    layers.set(ylabel="layer changed", ylim=(-0.5, len(result.params) - 0.5))
    shares.set(xlabel="step", ylabel="share so far", ylim=(-0.03, 1.03))
    for axis, whole in ((layers.yaxis, True), (shares.yaxis, False), (shares.xaxis, True)):
        canvas.scale(axis, (), whole=whole)
    canvas.below(figure, canvas.entries([shares]))
    return canvas.save(figure, path, f"Layers that {result.config.optimizer} changed on {_subject(result)}")


# ----------------------------------------------------------------------------------------------------------------- searches


@styled
def plot_search(searches, problem, path, width=WIDTH):
    """The loss at the end of every run of a search, a dict from optimizer name to `tuning.Search`, as a PNG under ``path``.

    Over the step size where the damping is that of the first run, and over the damping where the step size is that of the last.
    """
    along = {name: {"lr": _by_lr(one.runs), "damping": _by_damping(one.runs)} for name, one in searches.items()}
    shown = [field for field in ("lr", "damping") if any(curves[field] for curves in along.values())]
    says = {"lr": "step size", "damping": " or ".join(dict.fromkeys(one.damping_name or "damping" for one in searches.values()))}
    figure = canvas.figure(width, 4.1)
    panels = canvas.beside(figure, width, 4.1, len(shown))
    for panel, field in zip(panels, shown, strict=True):
        for i, (name, curves) in enumerate(along.items()):
            x, y = [[point[k] for point in curves[field]] for k in (0, 1)]
            panel.plot(x, [value if math.isfinite(value) else math.nan for value in y], label=name, **curve_style(i))
        canvas.scale(panel.xaxis, [point[0] for curves in along.values() for point in curves[field]], log=True)
        panel.set_xlabel(says[field])
        if width < canvas.NARROW or panel is panels[0]:
            panel.set_ylabel("training loss above the least")
    canvas.scale(panels[0].yaxis, [y for panel in panels for y in canvas.drawn(panel)], log=True)
    for panel, field in zip(panels, shown, strict=True):
        for i, (name, curves) in enumerate(along.items()):
            canvas.mark_edges(panel, *[[point[k] for point in curves[field]] for k in (0, 1)], colour=curve_style(i)["color"])
            best = [(at, loss) for at, loss, run in curves[field] if run is searches[name].best]
            if best:
                panel.plot(
                    *zip(*best, strict=True),
                    **{**CROSS, "marker": "o", "markerfacecolor": "none", "markersize": 11, "markeredgewidth": 1.2},
                    label="best",
                )
    canvas.below(figure, canvas.entries(panels))
    return canvas.save(figure, path, f"Search on {shown_name(Path(problem).name, 80)}")


def _by_lr(runs):
    points = [(run.lr, run.excess, run) for run in runs if run.lr is not None and run.damping == runs[0].damping]
    return sorted(points, key=lambda point: point[0])


def _by_damping(runs):
    """Where none is given it is the one that the first step chose."""
    points = [(run.began if run.damping is None else run.damping, run.excess, run) for run in runs if run.lr == runs[-1].lr]
    return sorted((point for point in points if point[0]), key=lambda point: point[0])
