"""Plots of claims: what was measured, beside what is predicted and which bounds it has to keep. Needs matplotlib."""

import math

from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

from nearlin.experiments import canvas
from nearlin.experiments.canvas import GREY, LABEL, SMALL, curve_style, styled

COLUMNS, WIDE = 3, 13.2  # panels beside each other, and the inches that so many take
PANEL, BELOW, AROUND = 175, 36, 40  # points: the height of a panel, from there to its legend, and for title and gaps
EXACT = {"linewidth": 6, "alpha": 0.35, "zorder": 1, "solid_capstyle": "butt"}
BOUND = {"linewidth": 1.3, "linestyle": "--", "zorder": 1.5}
DASH = {"linestyle": "none", "marker": "_", "markersize": 16, "markeredgewidth": 2, "alpha": 0.5, "zorder": 1.5}


@styled
def plot_claims(results, family, path, width=WIDE):
    """One family of claims as a PNG under ``path``: a panel per claim and pair of axes, each with its legend below it."""
    shown = [panel for result in results for panel in _panels(result)]
    columns = min(COLUMNS, len(shown), max(1, int(width / 4)))
    rows = [shown[i : i + columns] for i in range(0, len(shown), columns)]
    figure = canvas.figure(min(width, WIDE / COLUMNS * columns + 1.2 * (columns == 1)), len(rows))
    figure.get_layout_engine().set(h_pad=0.1, w_pad=0.08)
    room, height = canvas.points(figure) / columns - 75, 40
    for panels, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        height += max(_plot_series(panel, *one, room) for panel, one in zip(panels, row, strict=False))
        for panel in panels[len(row) :]:
            panel.set_axis_off()
    figure.set_figheight(height / 72)
    return canvas.save(figure, path, f"{family[:1].upper()}{family[1:]}")


def _panels(result):
    """(title, series) for every pair of axes of a claim."""
    groups = {}
    for series in result.outcome.series:
        groups.setdefault((series.x_label, series.y_label, series.log), []).append(series)
    known = ", as known" * (result.verdict == "fails" and not result.claim.should_hold)
    return [(f"{result.claim.id}: {result.verdict}{known}", series) for series in groups.values()]


def _plot_series(panel, title, series, room):
    """The curves of one panel; the points that it is high, with title and legend."""
    log = series[0].log
    limits = [(one.says, _limits(one, one.predicted, one.predicted, log)) for one in series]
    limits += [(one.bound, _limits(one, one.low, one.high, log)) for one in series]
    sizes = {x for one in series for x in one.x}
    values = [y for one in series for y in one.y] + [y for _, curve in limits for _, *ends in curve for y in ends]
    canvas.scale(panel.xaxis, sizes, "x" in log, _whole(sizes), sizes if _short(sizes) else ())
    canvas.scale(panel.yaxis, values, "y" in log, _whole(values), least=1.5)
    handles = _draw_limits(panel, limits)
    for i, one in enumerate(series):
        line = "-" if list(one.x) in (sorted(set(one.x)), sorted(set(one.x), reverse=True)) else "none"
        label = "measured" if one.label == one.y_label else one.label
        if any(map(math.isfinite, one.y)):
            panel.plot(
                one.x, one.y, linestyle=line, linewidth=1, markevery=max(1, len(one.x) // 30), label=label, **curve_style(i)
            )
        canvas.mark_edges(panel, one.x, one.y)
    panel.set_xlabel(canvas.wrapped(series[0].x_label, room, LABEL))
    panel.set_ylabel(canvas.wrapped(series[0].y_label, PANEL, LABEL))
    panel.set_title(canvas.wrapped(title, room + 20, LABEL))
    anchor = offset_copy(panel.transAxes, panel.figure, y=-BELOW, units="points")
    entries = canvas.entries([panel]) | handles
    lines = canvas.legend(panel, entries, room, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=anchor)
    return PANEL + BELOW + AROUND + 1.5 * (SMALL * lines + LABEL * panel.get_title().count("\n"))


def _limits(series, low, high, log):
    """(x, lower, upper) over the sizes of a series, NaN where there is none that can be drawn."""
    if not (low or high):
        return []
    shown = lambda value: float(value) if math.isfinite(value) and (value > 0 or "y" not in log) else math.nan  # noqa: E731
    missing = (math.nan,) * len(series.x)
    return [(x, shown(a), shown(b)) for x, a, b in zip(series.x, low or missing, high or missing, strict=True)]


def _draw_limits(panel, limits):
    """Draw curves of words and (x, lower, upper): exact where these are the same, else bounds. Words to handles.

    Those of the same words are drawn once where they agree, else each in the colour of its series.
    """
    handles, count = {}, len(limits) // 2
    for words in dict.fromkeys(words for words, _ in limits):
        some = {i % count: sorted(set(curve)) for i, (of, curve) in enumerate(limits) if of == words and curve}
        points = {point for curve in some.values() for point in curve}
        if not any(math.isfinite(end) for _, *ends in points for end in ends):
            continue
        agree = len(set(map(tuple, some.values()))) == 1 or len({point[1:] for point in points}) == 1
        exact = all(low == high for _, low, high in points)
        curves = [(GREY, sorted(points))] if agree else [(curve_style(i)["color"], curve) for i, curve in some.items()]
        styles = [_draw_limit(panel, curve, exact, colour) for colour, curve in curves]
        handles[words] = Line2D([], [], color=GREY, **styles[0])
    return handles


def _draw_limit(panel, curve, exact, colour):
    """A pale thick line, or dashed ones with what lies between them; a dash for each of several values at one size. The style."""
    x, low, high = zip(*curve, strict=True)
    style = EXACT if exact else BOUND
    if len(x) == 1:
        for end in filter(math.isfinite, {low[0], high[0]}):
            panel.axhline(end, color=colour, **style)
        return style
    if len(set(x)) < len(x):
        style = DASH
    elif not exact:
        panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0, zorder=0.5)
    for ends in (low,) if exact else (low, high):
        panel.plot(x, ends, color=colour, **style)
    return style


def _whole(values):
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and all(value == int(value) for value in finite)


def _short(sizes):
    """Whether the sizes themselves can be ticks."""
    return all(math.isfinite(x) and (x == int(x) or x == float(f"{x:.3g}")) for x in sizes)
