"""What the data say before the first step: which rows are equal, what that costs, how many directions there are, what lacks."""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from scipy.linalg import eigh

from nearlin.data.dataset import shown

EXACT, POWER = 1024, 4  # features up to which the first direction is exact, and the power iterations beyond
PARALLEL = 1e-6  # energy outside the first direction below which rows are told apart by next to nothing
SHARE = 0.01  # of the rows, or of the loss of the best constant: what is less is not worth a warning
LISTED = 10  # classes whose numbers of rows stand in a line


def equal_rows(x):
    """Groups of equal rows, numbered from 0 as they come: an integer array (n,) for ``x`` (n, ...). Time O(n d), memory O(n)."""
    seen = {}
    digests = (blake2b(np.ravel(row) + 0, digest_size=16).digest() for row in x)  # -0.0 + 0 is 0.0
    return np.array([seen.setdefault(digest, len(seen)) for digest in digests])


def least_loss(y, groups):
    """The smallest mean loss of a function that is constant on every group.

    Parameters
    ----------
    y : numpy.ndarray
        Numbers (n,) or (n, c) for the squared loss, one half summed over outputs: the variance within groups. Or integer labels
        (n,) for the cross-entropy: the entropy within groups.
    groups : numpy.ndarray, (n,)
        Integers from 0 to the number of groups - 1, each of them there.

    Returns
    -------
    float
        0 exactly where the targets of every group agree.
    """
    rows = np.bincount(groups)
    if y.dtype.kind in "iu":
        pairs, counts = np.unique(np.column_stack([groups, y]), axis=0, return_counts=True)
        return float(-np.sum(counts * np.log(counts / rows[pairs[:, 0]])) / len(y)) + 0.0
    y = np.reshape(y, (len(y), -1)).astype(np.float64)
    _, first = np.unique(groups, return_index=True)
    y = y - y[first[groups]]  # of equal targets nothing is left, and no rounding
    means = np.stack([np.bincount(groups, column) / rows for column in y.T], axis=1)
    return float(0.5 * np.sum((y - means[groups]) ** 2) / len(y))


def outside_first_direction(x):
    """The share of ‖X‖² that lies outside the first singular direction, 1 - σ₁² / ‖X‖².

    Parameters
    ----------
    x : numpy.ndarray, (n, d)

    Returns
    -------
    share : float
        0 where all rows are zero.
    exact : bool
        Whether it is exact, d <= `EXACT`; time O(n d min(n, d)). Else an upper bound by `POWER` power iterations from the longest
        row; time O(n d).
    """
    x = np.asarray(x, dtype=np.float64)
    x = x / (np.max(np.abs(x)) or 1.0)
    exact = x.shape[1] <= EXACT
    v = _first_direction(x) if exact else _by_power(x)
    rest = x - np.outer(x @ v, v)  # not 1 - σ₁² / ‖X‖², which loses what is below rounding
    return float(np.sum(rest**2) / (np.sum(x**2) or 1.0)), exact


def _first_direction(x):
    """The first right singular vector (d,), from the smaller of X Xᵀ and Xᵀ X."""
    n, d = x.shape
    side = x @ x.T if n < d else x.T @ x
    v = eigh(side, subset_by_index=[len(side) - 1, len(side) - 1])[1][:, 0]
    return _unit(x.T @ v) if n < d else v


def _by_power(x):
    v = _unit(x[np.argmax(np.sum(x**2, axis=1))])
    for _ in range(POWER):
        v = _unit(x.T @ (x @ v))
    return v


def _unit(v):
    return v / (np.linalg.norm(v) or 1.0)


@dataclass(frozen=True)
class Diagnosis:
    """Numbers about the training rows as the network sees them, and sentences about what stands in the way.

    Parameters
    ----------
    rows, given, distinct : int
        Rows; how many of them differ as they were given, and as the network sees them, in the dtype of the run.
    floor, constant : float
        The smallest mean loss of any function of the inputs, and of the best constant.
    squared : bool
        Whether these are squared losses, and not cross-entropies.
    outside : float
        Energy outside the first direction, before a constant is appended; at most so much where not ``exact``.
    exact : bool
    features, targets, parameters : int
        Inputs, numbers to fit (rows times outputs of the network), and what fits them.
    longest : tuple of int and float
        The row of the source that is longest before rows are normalised, and its share of the energy there.
    normalized : bool
        Whether rows are.
    counts : dict of str to tuple of int, optional
        For every part of the data the rows of each class.
    class_names : tuple of str, optional
    """

    rows: int
    given: int
    distinct: int
    floor: float
    constant: float
    squared: bool
    outside: float
    exact: bool
    features: int
    targets: int
    parameters: int
    longest: tuple
    normalized: bool = False
    counts: dict | None = None
    class_names: tuple | None = None

    def line(self):
        """All numbers but those of classes in one line."""
        rows = f"all {self.rows} rows" if self.distinct == self.rows else f"{self.distinct} of {self.rows} rows"
        floor = f", least loss {self.floor:.3g}" if self.floor else ""
        at_most = "" if self.exact else "at most "
        energy = f"; {at_most}{self.outside:.2g} of the energy outside the first direction" if self.features > 1 else ""
        return f"{rows} distinct{floor}{energy}; {self.parameters} parameters for {self.targets} outputs"

    def classes(self):
        """How many rows of each class the parts of the data have, or None for numbers."""
        if self.counts is None:
            return None
        names, columns = self.class_names, list(zip(*self.counts.values(), strict=True))
        shares = [f"{name} {'/'.join(map(str, column))}" for name, column in zip(names, columns, strict=True)]
        if len(shares) > LISTED:
            shares = [f"{'/'.join(map(str, map(end, zip(*columns, strict=True))))} {word}" for word, end in ENDS]
        return f"{', '.join(shares)} ({'/'.join(self.counts)} rows)"

    def warnings(self):
        """Sentences about all that stands in the way: `limits` and `gaps`."""
        return [*self.limits(), *self.gaps()]

    def limits(self):
        """Sentences about what keeps the training loss up, the most certain first."""
        found = [self._conflict(), self._merged(), self._parallel(), self._few()]
        return [sentence for sentence in found if sentence]

    def gaps(self):
        """Sentences about classes that lack in the training or the test rows."""
        found = [self._gap(part) for part in self.counts or ()]
        return [sentence for sentence in found if sentence]

    def _conflict(self):
        if not self.floor > SHARE * self.constant:
            return None
        ratio = f", so that {np.sqrt(self.floor / self.constant):.3g} of its residual stay" if self.squared else ""
        return (
            f"rows that are equal for the network have different targets: no training loss is below {self.floor:.3g}, where the "
            f"best constant has {self.constant:.3g}{ratio}"
        )

    def _merged(self):
        if self.given - self.distinct <= SHARE * self.rows:
            return None
        remedy = "; --no-normalize keeps the lengths of rows" if self.normalized else ""
        return f"of {self.given} distinct rows preprocessing and dtype leave {self.distinct}{remedy}"

    def _parallel(self):
        if self.features == 1 or self.outside >= PARALLEL:
            return None
        row, share = self.longest
        when = " before rows are normalised" if self.normalized else ""
        cause = f"; row {row} (counted from 0) alone holds {100 * share:.4g} %{when}" if share > 0.5 else ""
        return f"the rows are parallel but for {self.outside:.1e} of their energy{cause}"

    def _few(self):
        if not self.squared or self.parameters >= self.targets:
            return None
        return f"{self.parameters} parameters cannot fit {self.targets} targets exactly; a larger --width or --hidden has more"

    def _gap(self, part):
        lacking = [name for name, rows in zip(self.class_names, self.counts[part], strict=True) if not rows]
        if not lacking or part == "validation":
            return None
        what = "which cannot be learned" if part == "training" else "of which the test error says nothing"
        return f"no {part} row is of class {shown(lacking)}, {what}"


ENDS = (("in the smallest", min), ("in the largest class", max))


def diagnose(x, y, given, parameters, outputs=1, before=None, rows=None, **more):
    """A `Diagnosis` of training rows.

    Parameters
    ----------
    x : numpy.ndarray, (n, ...)
        Rows as the network sees them, in its dtype, without an appended constant.
    y : numpy.ndarray
        Targets as the loss sees them: see `least_loss`.
    given : numpy.ndarray, (n, d)
        The rows as they were given.
    parameters, outputs : int
        Of the network.
    before : numpy.ndarray, (n, d), optional
        The rows before they were normalised; ``x`` by default.
    rows : numpy.ndarray, (n,), optional
        Their numbers in the source.
    more
        ``normalized``, ``counts`` and ``class_names`` of the `Diagnosis`.
    """
    groups = equal_rows(x)
    outside, exact = outside_first_direction(x)
    return Diagnosis(
        rows=len(x),
        given=int(np.max(equal_rows(given))) + 1,
        distinct=int(np.max(groups)) + 1,
        floor=least_loss(y, groups),
        constant=least_loss(y, np.zeros(len(y), dtype=int)),
        squared=y.dtype.kind not in "iu",
        outside=outside,
        exact=exact,
        features=x.shape[1],
        targets=len(x) * outputs,
        parameters=parameters,
        longest=_longest(x if before is None else before, rows),
        **more,
    )


def _longest(x, rows):
    """The row with the largest share of ‖X‖², and that share."""
    x = np.asarray(x, dtype=np.float64) / (np.max(np.abs(x)) or 1.0)
    energy = np.sum(x**2, axis=1)
    row = int(np.argmax(energy))
    return int(row if rows is None else rows[row]), float(energy[row] / (np.sum(energy) or 1.0))
