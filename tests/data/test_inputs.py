"""Small files that strangers met: each is read, or refused in one sentence. The table of docs/data_files.md says the same."""

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from nearlin.data import DataError, load
from nearlin.experiments.commands import cli

INPUTS = Path(__file__).parent / "inputs"


def by_csv(name, delimiter=","):
    """Features and targets as text by Python's reader."""
    with open(INPUTS / name, newline="") as file:
        rows = [row for row in csv.reader(file, delimiter=delimiter) if row][1:]
    return np.array([row[:-1] for row in rows], dtype=float), [row[-1] for row in rows]


def by_numpy(name):
    with np.load(INPUTS / name) as archive:
        return archive["x"], archive["y"]


def by_pickle(name):
    content = pickle.loads((INPUTS / name).read_bytes())  # a file of our own
    return content[b"data"], content[b"labels"]


READ = {  # how another reader sees the file; classes, or None for numbers
    "big32.npz": (by_numpy, None),
    "blank_then_semi.csv": (lambda name: by_csv(name, ";"), None),
    "bom.svm": (lambda name: ([[2.0], [3.0]], [1, 0]), None),
    "bytes_y.npz": (by_numpy, ("cat", "dog")),
    "cifar_protocol5_data_batch_1": (
        by_pickle,
        tuple(["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]),
    ),
    "dup_conflict.csv": (by_csv, None),
    "imbalanced.csv": (by_csv, ("no", "yes")),
    "ints.npz": (by_numpy, None),
    "one_feature.csv": (by_csv, None),
    "outlier_x.csv": (by_csv, None),
}
REFUSED = {
    "label_q.csv": "line 3, column 'y': '?', a missing value; expected a class",
    "underscore_digits.csv": "line 2, column 'a': the text '1_000'; expected a number",
}


def test_every_file_has_an_outcome():
    assert {path.name for path in INPUTS.iterdir()} == {*READ, *REFUSED}


def target(name):
    return "y" if name.endswith(".csv") else None


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name):
    seen, classes = READ[name]
    data, (x, y) = load(INPUTS / name, target(name)), seen(name)
    np.testing.assert_array_equal(data.x, np.asarray(x, dtype=float))
    assert data.class_names == classes
    if classes is None:
        np.testing.assert_array_equal(data.y, np.array(y, dtype=float))
    else:
        names = [v if isinstance(v, str) else v.decode() if isinstance(v, bytes) else classes[v] for v in y]
        assert [classes[label] for label in data.y] == names


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    with pytest.raises(DataError) as caught:
        load(INPUTS / name, target(name))
    assert str(caught.value) == f"{INPUTS / name}, {REFUSED[name]}"
    done = CliRunner().invoke(cli, ["train", str(INPUTS / name), "--target", "y"])
    assert done.exit_code == 2
    assert REFUSED[name] in done.stderr


def test_the_documents_say_what_becomes_of_every_file():
    table = (Path(__file__).parents[2] / "docs" / "data_files.md").read_text()
    for name in (*READ, *REFUSED):
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{name}` ")]
        assert ("read" in row) == (name in READ)
