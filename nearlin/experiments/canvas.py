"""What all pictures share: style, colours, axes, ticks, legends and files. Importing this module needs matplotlib."""

import math
from functools import lru_cache, partial
from itertools import pairwise
from textwrap import wrap

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import Formatter, Locator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from nearlin.experiments.folders import write_atomically

WIDTH, NARROW, DPI = 10.0, 7.0, 120  # inches; below NARROW panels stand below each other; pixels an inch
TITLE, LABEL, SMALL = 11, 10, 9  # points
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe and Ito's, that all can tell apart
MARKERS = "os^DvPX"  # as many as tell 42 curves apart, in grey too
GREY, MARK = "0.45", "black"
MOST, PLAIN = 8, 6  # ticks of an axis, and characters up to which a number is written out
GAP = {"x": 7, "y": 3}  # points between the labels of two ticks

styled = matplotlib.style.context(  # the user's own settings neither change a picture nor are changed
    [
        "default",
        {
            "axes.grid": True, "axes.labelsize": LABEL, "axes.titlesize": LABEL, "figure.titlesize": TITLE, "grid.alpha": 0.35,
            "legend.fontsize": SMALL, "legend.frameon": False, "lines.markersize": 4.5, "text.parse_math": False,
            "xtick.labelsize": SMALL, "ytick.labelsize": SMALL,
        },
    ]
)  # fmt: skip


def figure(width, height):
    """An empty figure; no pyplot: the user's backend and figures are left alone."""
    return Figure(figsize=(width, height), layout="constrained")


def beside(figure, width, height, count=2):
    """Panels of one vertical axis beside each other, or in a narrow figure below, where it becomes higher."""
    if width < NARROW:
        figure.set_size_inches(width, (0.3 + 0.7 * count) * height)
    return list(figure.subplots(*((1, count) if width >= NARROW else (count, 1)), sharey=True, squeeze=False).flat)


def save(figure, path, title=""):
    """Write the figure as a PNG under ``path``."""
    if title:
        figure.suptitle(wrapped(title, points(figure) - 10, TITLE))
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DPI))
    return path


def points(figure):
    """The width of a figure in points."""
    return 72 * figure.get_figwidth()


def curve_style(i):
    """Colour and marker of the i-th curve."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


def shown_name(name, most=16):
    """A name as it stands in a picture: in one line, its middle left out where it is long."""
    name = " ".join(name.split())
    return name if len(name) <= most else f"{name[: most // 2]}…{name[most // 2 + 1 - most :]}"


# ------------------------------------------------------------------------------------------------------------------- text


@lru_cache(maxsize=4096)
def text_width(text, size):
    """Points that a line of text is wide."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0]


def wrapped(text, room, size):
    """``text`` in lines of at most ``room`` points."""
    return "\n".join(piece for line in text.splitlines() for piece in _pieces(line, room, size))


def _pieces(line, room, size):
    widest = lambda pieces: max((text_width(piece, size) for piece in pieces), default=0)  # noqa: E731
    pieces, most = [line], len(line)
    while widest(pieces) > room and most > 1:
        most = min(most - 1, int(most * room / widest(pieces)) + 1)
        pieces = wrap(line, most)
    return pieces


# ------------------------------------------------------------------------------------------------------------------- axes


def scale(axis, values, log=False, whole=False, at=(), least=1.02):
    """The scale of an axis and its ticks: logarithmic where it is asked for and a value is positive.

    A logarithmic axis spans no less than a factor of ``least``; where it would, it is made to span its square, so that noise does
    not fill it. Ticks are whole numbers, or at the values ``at``, where these have room.
    """
    positive = [value for value in values if 0 < value < math.inf]
    if log := log and bool(positive):
        getattr(axis.axes, f"set_{axis.axis_name}scale")("log", nonpositive="mask")
        low, high = min(positive), max(positive)
        if high < least * low:
            axis.axes.set(**{f"{axis.axis_name}lim": (low / least, least * high)})
    axis.set_major_locator(Ticks(log, whole, at))
    axis.set_major_formatter(Plain())
    axis.set_minor_locator(LogLocator(subs=range(2, 10)) if log and not at else NullLocator())
    axis.set_minor_formatter(NullFormatter())
    return log


class Ticks(Locator):
    """As many ticks as have room for plain labels: on a logarithmic axis of less than a decade, too."""

    def __init__(self, log=False, whole=False, at=()):
        self._log, self._whole, self._at = log, whole, sorted(at)

    def __call__(self):
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin, vmax):
        """Those between ``vmin`` and ``vmax``."""
        low, high = sorted((vmin, vmax))
        sparse, slack = [], 1e-9 * (high - low)  # five times 0.2 is 1
        for ticks in self._choices(low, high):
            inside = [tick for tick in ticks if low - slack <= tick <= high + slack and (tick == round(tick) or not self._whole)]
            inside = [min(max(tick, low), high) for tick in inside]
            if inside and self._room(inside):
                return inside
            sparse = inside or sparse
        return sparse[:1]

    def _choices(self, low, high):
        """From the densest to the sparsest."""
        if len(self._at) > 1:
            yield self._at
        linear = [
            partial(MaxNLocator(n, integer=self._whole, steps=(1, 2, 5, 10)).tick_values, low, high) for n in range(7, 0, -1)
        ]
        if not self._log or high < 5 * low:
            yield from (ticks() for ticks in linear)
        if self._log:
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            yield from ([d * 10.0**k for k in decades for d in digits] for digits in ((1, 2, 3, 5), (1, 2, 5), (1, 3)))
            yield from ([10.0**k for k in decades if k % stride == 0] for stride in range(1, len(decades) + 1))

    def _room(self, ticks):
        """Whether the labels of ``ticks`` stand apart."""
        name, (low, high) = self.axis.axis_name, sorted(self.axis.get_transform().transform(self.axis.get_view_interval()))
        axes = self.axis.axes
        length = 72 / axes.get_figure(root=True).dpi * (axes.bbox.width if name == "x" else axes.bbox.height)
        at = (self.axis.get_transform().transform(np.asarray(ticks, dtype=float)) - low) / (high - low) * length
        sizes = [text_width(label, SMALL) if name == "x" else 1.2 * SMALL for label in plain(ticks)]
        apart = all(b - a >= (p + q) / 2 + GAP[name] for (a, p), (b, q) in pairwise(zip(at, sizes, strict=True)))
        return len(ticks) <= MOST and apart


class Plain(Formatter):
    """`plain` labels."""

    def __call__(self, x, pos=None):
        return plain([x])[0]

    def format_ticks(self, values):
        """The labels of all ticks."""
        return plain(values)


def plain(values):
    """Numbers as they stand beside ticks: written out, or with a power of ten where that is long and the power is not."""
    gap = 1e-9 * min((b - a for a, b in pairwise(sorted(set(values)))), default=0.0)
    values = [float(value) if abs(value) > gap else 0.0 for value in values]
    digits = next(d for d in range(1, 18) if all(abs(float(f"{v:.{d}g}") - v) <= max(gap, 1e-9 * abs(v)) for v in values))
    out, powers = ([form(value, digits) for value in values] for form in (_written_out, _power))
    longest = [max(map(len, texts), default=0) for texts in (out, powers)]
    return out if longest[0] <= max(PLAIN + any(v < 0 for v in values), longest[1]) else powers


def _written_out(value, digits):
    return np.format_float_positional(float(f"{value:.{digits}g}"), trim="-").replace("-", "−")


def _power(value, digits):
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if value == 0 or int(exponent) in (0, 1):
        return _written_out(value, digits)
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    factor = {"1": "", "-1": "-"}.get(mantissa, f"{mantissa}×")
    return f"{factor.replace('-', '−')}10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def drawn(panel):
    """The y of all lines of the panel that have theirs on its vertical axis."""
    lines = [line for line in panel.get_lines() if line.get_transform().contains_branch_seperately(panel.transData)[1]]
    return [float(y) for line in lines for y in line.get_ydata() if math.isfinite(y)]


def mark_edges(panel, x, y, top=math.inf, above="", colour=MARK):
    """Marks where a curve leaves the panel: for what is not finite, what a logarithmic axis cannot show, or is above ``top``."""
    log, finite = panel.get_yscale() == "log", [math.isfinite(value) for value in y]
    for height, marker, label, beyond in (
        (0.96, "P", "not finite", [not one for one in finite]),
        (0.96, "^", above, _entered(one and value > top for one, value in zip(finite, y, strict=True))),
        (0.04, "v", "zero or less", _entered(log and one and value <= 0 for one, value in zip(finite, y, strict=True))),
    ):
        if at := [value for value, marked in zip(x, beyond, strict=True) if marked]:
            style = {"linestyle": "none", "marker": marker, "markersize": 7}
            panel.plot(at, [height] * len(at), color=colour, transform=panel.get_xaxis_transform(), **style)
            panel.plot([], [], color=MARK, label=label, **style)


def _entered(beyond):
    """The first of every stretch of what is ``beyond``."""
    beyond = list(beyond)
    return [here and not before for here, before in zip(beyond, [False, *beyond], strict=False)]


# ----------------------------------------------------------------------------------------------------------------- legends


def entries(panels):
    """What the panels show, labels to handles; each once."""
    return {label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}


def legend(parent, entries, room, **where):
    """A legend of the figure or panel ``parent``, in as many columns as ``room`` points are enough for; the lines it has."""
    labels = [wrapped(label, room - 4 * SMALL, SMALL) for label in entries]
    columns = next((n for n in range(len(labels), 1, -1) if _columns_width(labels, n) <= room), 1)
    parent.legend(list(entries.values()), labels, ncols=columns, **where)
    return max(sum(label.count("\n") + 1 for label in some) for some in np.array_split(labels, columns))


def below(figure, entries, least=1):
    """A legend below all panels, of at least so many entries; the figure becomes higher by it."""
    if len(entries) >= least:
        lines = legend(figure, entries, points(figure) - 10, loc="outside lower center")
        figure.set_figheight(figure.get_figheight() + 1.5 * SMALL * lines / 72)


def _columns_width(labels, columns):
    widths = [
        max(text_width(line, SMALL) for label in some for line in label.splitlines()) for some in np.array_split(labels, columns)
    ]
    return sum(widths) + (3 * columns + 2 * (columns - 1) + 1) * SMALL
