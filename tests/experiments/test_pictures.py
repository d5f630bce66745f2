"""Every kind of picture in two sizes: no text over another or beyond the edge, no legend over data, plain ticks, true legends."""

import itertools
import math
import re

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.text import Text

from nearlin.experiments import canvas
from tests.experiments.pictures import PICTURES, SMALL

PATH = "picture.png"
OFTEN = {
    "run with validation", "run that diverges", "comparison of many", "comparison of one's seeds", "layers", "search",
    "curvature by many routes", "confusion of two", "predictions, large", "predictions of four", "claims of many parts",
    "claim without a positive number",
}  # fmt: skip


@pytest.fixture
def draw(monkeypatch):
    """The figure that a plot would write."""
    figures = []
    save = canvas.save
    monkeypatch.setattr(canvas, "write_atomically", lambda path, write: None)
    monkeypatch.setattr(canvas, "save", lambda figure, *given: (save(figure, *given), laid_out(figure), figures.append(figure)))
    return lambda plot, *given, **size: (plot(*given, PATH, **size), figures[-1])[1]


def laid_out(figure):
    figure.set_dpi(canvas.DPI)
    figure.draw_without_rendering()


def corners(text):
    """Of the box around a text, turned with it."""
    angle = text.get_rotation()
    text.set_rotation(0 if angle % 90 else angle)
    box = text.get_window_extent()
    text.set_rotation(angle)
    points = np.array([(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)])
    if angle % 90 == 0:
        return points
    anchor, turn = text.get_transform().transform(text.get_position()), math.radians(angle)
    return anchor + (points - anchor) @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])


def apart(one, other, slack=1.0):
    """Whether a line separates two quadrangles: the axis of an edge on which their shadows overlap by no more than ``slack``."""
    for shape in (one, other):
        for edge in np.diff(shape, axis=0):
            axis = np.array([-edge[1], edge[0]]) / np.hypot(*edge)
            if min((one @ axis).max(), (other @ axis).max()) - max((one @ axis).min(), (other @ axis).min()) <= slack:
                return True
    return False


def texts(figure):
    """What is written in a figure."""
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    off = [text for axes in figure.axes if not axes.axison for text in axes.findobj(Text)]
    return [text for text in found if text not in off]


def legends(figure):
    return [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]


def overlaps(figure):
    """Words on every text over another or beyond the edge, and every legend over a panel or a text that is not its own."""
    shapes = [(text, corners(text)) for text in texts(figure)]
    width, height = figure.bbox.size
    for text, shape in shapes:
        if np.min(shape) < -1 or np.max(shape[:, 0]) > width + 1 or np.max(shape[:, 1]) > height + 1:
            yield f"{text.get_text()!r} leaves the figure"
    for (one, a), (other, b) in itertools.combinations(shapes, 2):
        if not apart(a, b):
            yield f"{one.get_text()!r} lies over {other.get_text()!r}"
    for legend in legends(figure):
        box = legend.get_window_extent()
        own = set(legend.findobj(Text))
        if any(box.overlaps(axes.bbox) for axes in figure.axes if axes.axison):
            yield "a legend lies over a panel"
        frame = np.array([(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)])
        for text, shape in shapes:
            if text not in own and not apart(frame, shape):
                yield f"a legend lies over {text.get_text()!r}"


def number(label):
    """The number that a tick says, or None."""
    match = re.fullmatch(r"(−?)(\d+(?:\.\d+)?)?(?:(?:(?<=\d)×)?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?", label)
    if not match:
        return None
    sign, mantissa, power = match.groups()
    exponent = int((power or "0").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    return (-1 if sign else 1) * float(mantissa or 1) * 10.0**exponent


SIDES = {"x": ("bottom", "top"), "y": ("left", "right")}


def untrue_ticks(figure, named=False):
    """Words on ticks that say another number than where they stand, on axes with fewer than two, and on offsets."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            if axis.get_offset_text().get_text():
                yield f"offset {axis.get_offset_text().get_text()!r}"
            sides, shown = axis.get_tick_params(), [label.get_text() for label in axis.get_ticklabels()]
            if not any(sides.get(f"label{side}", side in ("bottom", "left")) for side in SIDES[axis.axis_name]):
                continue  # another panel has them
            if named and shown and number(shown[0]) is None:
                continue
            labels = [*zip(axis.get_majorticklocs(), shown, strict=True)]
            if any(
                number(text) is None or not math.isclose(number(text), at, rel_tol=1e-8, abs_tol=1e-12) for at, text in labels
            ):
                yield f"ticks {labels}"
            low, high = sorted(axis.get_view_interval())
            if len(labels) < 2 and axes.lines and len({x for line in data_lines(axes) for x in line.get_xdata()}) > 1:
                yield f"{len(labels)} ticks from {low} to {high}"
            if any(len(text) > 9 for _, text in labels):
                yield f"long ticks {labels}"


def data_lines(axes):
    """Those that have their x on the horizontal axis: a level spans the panel."""
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) and line.get_zorder() != 1]
    return [line for line in lines if line.get_transform().contains_branch_seperately(axes.transData)[0]]


def look(artist):
    """What tells a line from others, in grey too."""
    if isinstance(artist, PathCollection):
        return "points", artist.get_sizes()[0]
    hollow = artist.get_markerfacecolor() in ("white", "none")
    return artist.get_linestyle(), artist.get_marker(), hollow, artist.get_alpha()


def inside(axes, line):
    """Whether some of a line can be seen."""
    points = line.get_transform().transform(np.column_stack([np.asarray(a, dtype=float) for a in line.get_data()]))
    points = points[np.isfinite(points).all(axis=1)]
    box = axes.bbox.expanded(1.02, 1.02)
    seen = [box.contains(*point) for point in points]
    return any(seen) or any(axes.bbox.y0 <= y <= axes.bbox.y1 for _, y in points)


def untrue_entries(figure):
    """Words on legends that name what is not drawn, that name one thing twice, or that leave out a line with a name."""
    for legend in legends(figure):
        panels = figure.axes if legend in figure.legends else [axes for axes in figure.axes if axes.get_legend() is legend]
        names = [" ".join(text.get_text().split()) for text in legend.get_texts()]
        seen = {}
        for axes in panels:
            for line in axes.get_lines():
                if len(line.get_xdata()) and inside(axes, line):
                    seen.setdefault(look(line), set()).add(" ".join(line.get_label().split()))
            for points in axes.collections:
                if isinstance(points, PathCollection):
                    seen.setdefault(look(points), set()).add(points.get_label())
        if len(set(names)) < len(names):
            yield f"twice in {names}"
        marks = {line.get_color() for axes in panels for line in axes.get_lines() if line.get_marker() in ("P", "^", "v")}
        for name, handle in zip(names, legend.legend_handles, strict=True):
            if not isinstance(handle, PathCollection) and handle.get_color() in marks - {canvas.MARK}:
                continue  # what left the panel is marked in the colour of its curve
            looks = seen if isinstance(handle, PathCollection) or handle.get_marker() != "None" else {one[0] for one in seen}
            if (look(handle) if looks is seen else look(handle)[0]) not in looks:
                yield f"{name!r} is not drawn"
        for name in set().union(*seen.values()):
            if not name.startswith("_") and name not in names:
                yield f"{name!r} is not in {names}"


def faults(figure, name):
    return [*overlaps(figure), *untrue_ticks(figure, named="confusion" in name), *untrue_entries(figure)]


@pytest.mark.parametrize("width", [None, SMALL], ids=["default", "small"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in OFTEN else pytest.mark.nightly) for n in PICTURES])
def test_a_picture_can_be_read(draw, name, width):
    figure = draw(*PICTURES[name], **({} if width is None else {"width": width}))
    assert faults(figure, name) == []


# --------------------------------------------------------------------------------------------------------------- controls


def planted(draw, name, change):
    figure = draw(*PICTURES[name])
    assert faults(figure, name) == []
    change(figure)
    laid_out(figure)
    return faults(figure, name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.text(0.5, 0.97, "over the title"), "lies over"),
        (lambda f: f.text(0.5, 0.01, "below"), "a legend lies over 'below'"),
        (lambda f: f.suptitle("a title that is much too long " * 9), "leaves the figure"),
        (lambda f: f.axes[0].legend(loc="upper right"), "a legend lies over a panel"),
        (lambda f: f.axes[0].xaxis.set_major_locator(matplotlib.ticker.FixedLocator([0, 1, 1.01])), "'1' lies over '1.01'"),
        (lambda f: f.axes[0].yaxis.set_major_formatter(lambda value, _: f"{value + 1:g}"), "ticks"),
        (lambda f: f.axes[0].yaxis.set_major_formatter(matplotlib.ticker.LogFormatterSciNotation()), "ticks"),
        (lambda f: f.axes[0].yaxis.set_major_locator(matplotlib.ticker.NullLocator()), "0 ticks"),
        (lambda f: [line.remove() for axes in f.axes for line in axes.get_lines() if line.get_marker() == "P"], "is not drawn"),
        (lambda f: f.axes[0].plot([1], [1.5], "D", label="another"), "'another' is not in"),
    ],
)
def test_what_cannot_be_read_is_seen(draw, change, says):
    assert any(says in fault for fault in planted(draw, "run that diverges", change))


def test_turned_names_that_touch_are_seen(draw):
    change = lambda figure: figure.set_size_inches(5, 5)  # noqa: E731
    assert any("name 3' lies over 'a kind o… name 4'" in fault for fault in planted(draw, "confusion of twenty", change))


# ------------------------------------------------------------------------------------------------------------ ticks, text


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 0.25, 0.5], "0 0.25 0.5"),
        ([1024, 4096], "1024 4096"),
        ([0.1 + 0.2, 0.4], "0.3 0.4"),
        ([-5.5e-17, 0.02], "0 0.02"),
        ([1e-8, 1e-4, 1], "10⁻⁸ 10⁻⁴ 1"),
        ([0.001, 1, 1000], "0.001 1 1000"),
        ([-2e-8, 0, 2e-8], "−2×10⁻⁸ 0 2×10⁻⁸"),
        ([-100000, 100000], "−100000 100000"),
        ([1000000.1, 1000000.2], "1000000.1 1000000.2"),
        ([1, 10, 1e12], "1 10 10¹²"),
        ([2.35], "2.35"),
        ([0.0], "0"),
        ([], ""),
    ],
)
def test_ticks_are_plain_numbers(values, labels):
    assert canvas.plain(values) == labels.split()


@pytest.mark.parametrize("low", [1e-12, 0.62, 6.0, 4e9])
@pytest.mark.parametrize("ratio", [1.05, 1.3, 3.25, 4.9, 9, 12, 1e3, 1e40])
@pytest.mark.parametrize("inches", [2.0, 4.0])
def test_a_logarithmic_axis_has_ticks_whatever_it_spans(low, ratio, inches):
    figure = canvas.figure(inches, inches)
    panel = figure.subplots()
    panel.set(xlim=(low, ratio * low), ylim=(low, ratio * low))
    for axis in (panel.xaxis, panel.yaxis):
        canvas.scale(axis, [low, ratio * low], log=True)
    laid_out(figure)
    for axis in (panel.xaxis, panel.yaxis):
        assert len(axis.get_majorticklocs()) >= (2 if inches == 4 or axis is panel.yaxis else 1)
        assert all(low <= tick <= ratio * low for tick in axis.get_majorticklocs())
    assert [fault for fault in overlaps(figure) if "lies over" in fault] == []


def test_a_tick_at_the_end_of_an_axis_is_there_whatever_it_rounds_to():
    panel = canvas.figure(6, 4).subplots()
    panel.set_xlim(-0.05, 1)
    canvas.scale(panel.xaxis, ())
    assert list(panel.xaxis.get_majorticklocs()) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


def test_a_range_of_noise_does_not_fill_an_axis():
    panel = canvas.figure(4, 4).subplots()
    panel.plot([1, 2], [0.5, 0.5 + 1e-12])
    canvas.scale(panel.yaxis, [0.5, 0.5 + 1e-12], log=True, least=2)
    assert panel.get_ylim() == pytest.approx((0.25, 1.0))
    canvas.scale(panel.yaxis, [0.5, 1.01], log=True, least=2)
    assert panel.get_ylim() == pytest.approx((0.25, 1.0))


def test_without_a_positive_value_the_axis_is_linear():
    panel = canvas.figure(4, 4).subplots()
    assert not canvas.scale(panel.yaxis, [0.0, -1.0, math.inf], log=True)
    assert panel.get_yscale() == "linear"


@pytest.mark.parametrize(
    "text", ["a title of several words that goes on", "one_word_without_any_place_to_break_it", "WWWW IIII\nii ii"]
)
@pytest.mark.parametrize("room", [40, 90, 1000])
def test_lines_fit_and_lose_nothing(text, room):
    lines = canvas.wrapped(text, room, 10).splitlines()
    assert all(canvas.text_width(line, 10) <= room for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_a_long_name_keeps_both_its_ends():
    assert canvas.shown_name("a kind of a very long name 7", 16) == "a kind o… name 7"
    assert canvas.shown_name("two\nlines") == "two lines"
    assert len(canvas.shown_name("x" * 99, 17)) == 17


def test_the_settings_of_the_user_change_no_picture_and_are_not_changed(draw, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "black")
    monkeypatch.setitem(matplotlib.rcParams, "axes.formatter.use_mathtext", True)
    figure = draw(*PICTURES["run that diverges"])
    assert faults(figure, "run that diverges") == []
    assert figure.axes[0].get_facecolor() == (1, 1, 1, 1)
    assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["axes.facecolor"]) == (30.0, "black")


# ---------------------------------------------------------------------------------------------------------------- colours

KINDS = {  # what is left of linear sRGB without the long, the middle or the short cones (Machado et al. 2009, severity 1)
    "all": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour, kind):
    """CIE L*a*b* of an sRGB colour as it is seen."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(KINDS[kind]) @ linear, 0, 1)
    xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]) @ seen
    x, y, z = np.cbrt(np.maximum(xyz / [0.95047, 1, 1.08883], 1e-9))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def nearest(colours, kind):
    return min(np.linalg.norm(lab(a, kind) - lab(b, kind)) for a, b in itertools.combinations(colours, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_colours_are_told_apart_by_all(kind):
    """By several just noticeable differences of 2.3."""
    assert nearest(canvas.COLOURS, kind) > 4 * 2.3


def test_red_and_green_are_not_told_apart_by_some():
    colours = ("#A04000", "#6B6A00")
    assert nearest(colours, "all") > 30
    assert nearest(colours, "deutan") < 4 * 2.3


def test_curves_are_told_apart_in_grey():
    styles = [canvas.curve_style(i) for i in range(42)]
    assert len({one["marker"] for one in styles[:7]}) == 7
    assert len({(one["marker"], one["color"]) for one in styles}) == 42


# --------------------------------------------------------------------------------------------------------- what is drawn

LEGENDS = {
    "run": "training, least possible training loss",
    "run that ends at zero": "training, zero or less",
    "run that diverges": "training, least possible training loss, not finite, above 10 times the first loss",
    "run with validation": "training, validation, kept: step 101, least possible training loss",
    "run with rejected steps": "training, least possible training loss, step rejected",
    "run with a test loss": "training, test",
    "comparison of seeds": "near-linear-gauss-newton (3 seeds), gauss-newton (3 seeds)",
    "comparison on a problem": "kfac, a, b, training, test",
    "search": "kfac, adam, sgd, gauss-newton, not finite, best, zero or less",
    "search that found nothing": "sgd, not finite",
    "layers of one step": "layer 0: 0 steps, layer 1: 1 step",
    "curvature of one step": "diagonal (parameter side), new",
    "curvature of one damping": "preconditioner, new, preconditioner, kept, attempts rejected, step rejected",
    "predictions": "training rows (80), test rows (80), predicted = true",
    "claim": "measured, degree 2",
    "claim with few points": "measured, bounds: made up",
}


@pytest.mark.parametrize("name", LEGENDS)
def test_a_legend_says_what_is_drawn(draw, name):
    (legend, *_) = legends(draw(*PICTURES[name]))
    assert ", ".join(text.get_text() for text in legend.get_texts()) == LEGENDS[name]


def test_one_curve_needs_no_legend(draw):
    assert legends(draw(*PICTURES["run at zero"])) == []


def test_what_is_far_above_the_start_is_cut_off_and_what_is_zero_is_not_joined(draw):
    figure = draw(*PICTURES["run that diverges"])
    assert figure.axes[0].get_ylim() == pytest.approx((90**-0.05, 90.0))
    marks = {line.get_marker(): list(line.get_xdata()) for line in figure.axes[0].get_lines() if len(line.get_xdata())}
    assert (marks["^"], marks["P"]) == ([2], [5])
    figure = draw(*PICTURES["run that ends at zero"])
    marks = {line.get_marker(): list(line.get_xdata()) for line in figure.axes[0].get_lines() if len(line.get_xdata())}
    assert marks["v"] == [4]


def test_the_lowest_point_lies_inside_where_the_top_is_cut_off(draw):
    panel = draw(*PICTURES["comparison with one that diverges, of many decades"]).axes[0]
    lowest = panel.transData.transform((0, 1e-17))[1]
    assert lowest - panel.bbox.y0 > 0.04 * panel.bbox.height


def test_a_run_that_diverged_at_once_is_marked_where_it_ended(draw):
    by_step, by_time = draw(*PICTURES["run that diverges at once"]).axes
    for panel, end in ((by_step, 1), (by_time, 0.25)):
        assert [list(line.get_xdata()) for line in panel.get_lines() if line.get_marker() == "P" and len(line.get_xdata())] == [
            [end]
        ]


def test_a_search_is_drawn_along_both_its_axes(draw):
    by_lr, by_damping = draw(*PICTURES["search"]).axes

    def curves(panel):
        return {line.get_label(): line.get_xydata().tolist() for line in panel.get_lines() if line.get_linestyle() == "-"}

    assert curves(by_lr)["adam"] == [[1e-3, 5.0], [3e-3, 4.0], [0.01, 4.5]]
    assert curves(by_damping)["adam"] == [[1e-8, 4.0], [1e-7, 3.9]]
    assert curves(by_damping)["kfac"] == [[0.01, 2.0], [0.03, 1.5], [0.1, 1.8]]
    assert curves(by_damping)["gauss-newton"] == [[0.01, 0.0], [0.02, 1.2], [0.03, 1.4]]
    assert [list(line.get_xdata()) for line in by_lr.get_lines() if line.get_marker() == "P" and len(line.get_xdata())] == [[1.0]]
    rings = [list(line.get_xdata()) for line in by_damping.get_lines() if line.get_label() == "best"]
    assert rings == [[0.03], [1e-7], [0.01]]
    assert by_damping.get_xlabel() == "damping or epsilon_hat"


def test_predictions_are_not_hidden_by_what_was_measured(draw):
    """They are wider than its points, or lie beside them."""
    predicted, measured = draw(*PICTURES["claim"]).axes[0].get_lines()
    assert list(predicted.get_ydata()) == list(measured.get_ydata())
    assert predicted.get_linewidth() > measured.get_markersize()


def test_names_of_classes_that_have_no_room_are_numbers(draw):
    wide, narrow = (draw(*PICTURES["confusion of twenty"], width=width).axes[0] for width in (10, SMALL))
    assert len(wide.get_xticklabels()) == 20
    assert all(number(label.get_text()) is not None for label in narrow.get_xticklabels())
    assert (len(wide.texts), len(narrow.texts)) == (np.count_nonzero(fits_counts()), 0)


def fits_counts():
    result = PICTURES["confusion of twenty"][1]
    predicted, true = result.problem.compared((), result.problem.test)
    return [[np.sum((true == i) & (predicted == j)) for j in range(20)] for i in range(20)]
