"""Named data sets, readers for the files people have on disk, splitting and preprocessing. Nothing here downloads anything."""

from nearlin.data.dataset import DataError, Dataset, split
from nearlin.data.load import load, load_features
from nearlin.data.named import NAMES, sphere
from nearlin.data.preprocessing import Preprocessing

__all__ = ["NAMES", "DataError", "Dataset", "Preprocessing", "load", "load_features", "sphere", "split"]
