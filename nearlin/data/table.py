"""What every reader of a file gives."""

from typing import NamedTuple

import numpy as np


class Table(NamedTuple):
    """Inputs (n, d) in float64, targets (n,) or (n, c) as they stand in the file, and names, of those that the file has."""

    x: np.ndarray
    y: np.ndarray | None = None
    feature_names: tuple | None = None
    target_names: tuple | None = None
    class_names: tuple | None = None
