"""Data frames, of pandas or of any library with named columns that become arrays of NumPy: read as the same table in a file."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nearlin.data.dataset import DataError, check_inputs
from nearlin.data.delimited import as_features, as_table

_NAME = "frame"  # what messages and run folders call it
_INTERFACE = ("columns", "dtypes", "__getitem__", "__len__")


@dataclass(frozen=True, eq=False)
class FrameColumn:
    """A column of a frame, as `Column` is one of a text table: cells are made where it holds more than finite numbers."""

    name: str
    values: np.ndarray

    @cached_property
    def cells(self):
        """Texts (n,)."""
        return tuple(str(value).strip() for value in self.values)

    @cached_property
    def numbers(self):
        """The values as float64 where they are finite numbers already, else None."""
        if self.values.dtype.kind not in "iuf" or not np.all(np.isfinite(self.values)):
            return None
        return check_inputs(f"{_NAME}, column {self.name!r}", self.values[:, None])[:, 0]

    def where(self, row):
        """How messages call a cell."""
        return f"row {row} (counted from 0), column {self.name!r}"


def is_frame(data):
    """Whether ``data`` is a frame: it has named columns of a type each, and a length."""
    return all(hasattr(data, name) for name in _INTERFACE)


def read_frame(frame, target=None, task=None):
    """A `Table`, as `read_delimited` makes one of a file with a header line; the index of a frame is no column."""
    return as_table(_NAME, _columns(frame), True, target, task)


def read_frame_features(frame, target=None, feature_names=None):
    """A `Table` without targets, as `read_delimited_features` makes one."""
    return as_features(_NAME, _columns(frame), True, target, feature_names)


def _columns(frame):
    """The columns by name; names that are no texts become such."""
    columns, labels = {}, list(frame.columns)
    if len(frame) == 0 or not labels:
        raise DataError(f"{_NAME} has {len(frame)} rows and {len(labels)} columns; expected at least one of each")
    for label in labels:
        name = str(label)
        if name in columns or labels.count(label) > 1:
            raise DataError(f"{_NAME} has two columns called {name!r}; expected distinct names")
        columns[name] = FrameColumn(name, _values(name, frame[label].to_numpy()))
    return columns


def _values(name, values):
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "biufOUT":
        found = f"{values.dtype} of shape {values.shape}"
        raise DataError(f"{_NAME}: the column {name!r} holds {found}; expected numbers, truth values or text")
    return values
