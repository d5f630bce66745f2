"""Plots of runs: loss against step and against time. Importing this module needs matplotlib."""

import math

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nearlin.experiments.checkpoint import write_atomically


def plot_result(result, path):
    """One run as a PNG under ``path``."""
    label = result.config.optimizer
    return _plot([(label, result)], f"{label} on {_subject(result)}", path)


def plot_comparison(results, path):
    """Runs of one problem, a dict from optimizer name to `Result`, as a PNG under ``path``."""
    return _plot(list(results.items()), f"Comparison on {_subject(next(iter(results.values())))}", path)


def _subject(result):
    (n, d), config = result.problem.train[0].shape, result.config
    batch = f", batches of {config.batch_size}" if config.batch_size else ""
    return f"{result.problem.name}\nn = {n}, d = {d}, {config.width} {config.activation} neurons, {config.dtype}{batch}"


def curve(result):
    """Steps, seconds, losses and acceptance of a run: the training loss after 0, 1, ... steps where it is known."""
    steps, seconds, losses, accepted, elapsed = [0], [0.0], [result.initial_loss], [True], 0.0
    for record in result.records:
        elapsed += record["seconds"]
        loss = record["loss_after"]
        if loss is not None and math.isfinite(loss):
            steps.append(record["step"] + 1)
            seconds.append(elapsed)
            losses.append(loss)
            accepted.append(record["accepted"])
    if steps[-1] < result.steps and math.isfinite(result.final_loss):  # a run that ended inside an epoch
        return [*steps, result.steps], [*seconds, elapsed], [*losses, result.final_loss], [*accepted, True]
    return steps, seconds, losses, accepted


def _plot(runs, title, path):
    figure = Figure(figsize=(10, 4.2), layout="constrained")  # no pyplot: the user's backend and figures are left alone
    panels = figure.subplots(1, 2, sharey=True)
    for i, (label, result) in enumerate(runs):
        steps, seconds, losses, accepted = curve(result)
        style = {"color": f"C{i}", "linewidth": 1.6, "marker": "o" if len(steps) <= 60 else None, "markersize": 4, "label": label}
        for panel, abscissa in zip(panels, (steps, seconds), strict=True):
            panel.plot(abscissa, losses, **style)
            _mark_rejected(panel, abscissa, losses, accepted)
    for panel, name in zip(panels, ("step", "time in steps (s)"), strict=True):
        panel.set_xlabel(name)
        panel.grid(True, which="major", alpha=0.35)
        panel.grid(True, which="minor", axis="y", alpha=0.15)
    if any(loss > 0 for _, result in runs for loss in curve(result)[2]):
        panels[0].set_yscale("log")
    panels[0].set_ylabel("training loss")
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = panels[0].get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    if len(by_label) > 1:
        figure.legend(by_label.values(), by_label.keys(), frameon=False, loc="outside lower center", ncols=len(by_label))
    figure.suptitle(title, fontsize=11)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
    return path


def _mark_rejected(panel, abscissa, losses, accepted):
    rejected = [i for i, taken in enumerate(accepted) if not taken]
    if rejected:
        at, values = [abscissa[i] for i in rejected], [losses[i] for i in rejected]
        panel.plot(at, values, "x", color="crimson", markersize=8, markeredgewidth=2, label="step rejected")
